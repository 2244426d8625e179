"""One file for one model: arrays and JSON in an .npz, checked, no pickle.

The archive holds an `.npy` member for every array and `model.json`: the schema
version, the SHA-256 of the content, and what the writer wants to say of it.
The same content gives the same bytes.
"""

import hashlib
import io
import json
import lzma
import os
import struct
import zipfile
import zlib

import numpy as np

from metaad_jax.base import DataError

SCHEMA = 1
_JSON = 'model.json'
_LARGEST = 1 << 28  # bytes, unpacked, all members together
_MEMBERS = 10_000
_HEADERS = {
  (1, 0): np.lib.format.read_array_header_1_0,
  (2, 0): np.lib.format.read_array_header_2_0,
}
# What zip, zlib, NumPy and json raise for a damaged file.
_BROKEN = (
  OSError,
  ValueError,
  EOFError,
  KeyError,
  IndexError,
  TypeError,
  MemoryError,
  NotImplementedError,
  OverflowError,
  RecursionError,
  RuntimeError,
  SyntaxError,
  struct.error,
  lzma.LZMAError,
  zipfile.BadZipFile,
  zlib.error,
)


def save(path: str, arrays: dict[str, np.ndarray], meta: dict) -> None:
  """Writes a model file; it appears under its name only when complete.

  Args:
    path: ends in .npz; its folder is made if need be.
    arrays: numbers or booleans of any shape, by name.
    meta: anything that JSON can hold.

  Raises:
    DataError: if the file cannot be written.
  """
  arrays = {
    name: np.asarray(array, order='C') for name, array in arrays.items()
  }
  for name, array in arrays.items():
    if array.dtype.kind not in 'biuf':
      raise DataError(f'array {name!r} holds {array.dtype}, not numbers')
  content = {
    'schema': SCHEMA,
    'sha256': _digest(arrays, meta),
    'meta': meta,
  }
  part = f'{path}.part'
  try:
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    with zipfile.ZipFile(part, 'w', zipfile.ZIP_DEFLATED) as archive:
      for name, array in sorted(arrays.items()):
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, array, allow_pickle=False)
        archive.writestr(_entry(f'{name}.npy'), buffer.getvalue())
      archive.writestr(_entry(_JSON), json.dumps(content, indent=1))
    os.replace(part, path)
  except OSError as error:
    raise DataError(
      f'cannot write {path}: {error.strerror or error}: choose a folder that '
      'can be written to'
    ) from error


def _entry(name):
  entry = zipfile.ZipInfo(name)  # dated 1980: no clock in the bytes
  entry.compress_type = zipfile.ZIP_DEFLATED
  return entry


def _digest(arrays, meta):
  """SHA-256 over names, types, shapes and values, and over the meta data."""
  sha256 = hashlib.sha256()
  for name in sorted(arrays):
    array = arrays[name]
    head = [name, array.dtype.str, list(array.shape)]
    sha256.update(json.dumps(head).encode())
    sha256.update(array.tobytes())
  sha256.update(json.dumps(meta, sort_keys=True).encode())
  return sha256.hexdigest()


def load(path: str) -> tuple[dict[str, np.ndarray], dict]:
  """Reads a model file.

  Args:
    path: of a file that `save` wrote.

  Returns:
    The arrays, and the meta data.

  Raises:
    DataError: if the file is missing, truncated, altered, of a newer schema,
      absurdly large, or holds anything but numbers and JSON.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      return _read(path, archive)
  except FileNotFoundError as error:
    raise DataError(f'{path} is not there: name a model file') from error
  except DataError:
    raise
  except _BROKEN as error:
    reason = ' '.join(str(error).split())[:200] or type(error).__name__
    raise DataError(
      f'{path} is no model file, or damaged ({reason}): copy or export it anew'
    ) from error


def _read(path, archive):
  entries = archive.infolist()
  names = [entry.filename for entry in entries]
  size = sum(entry.file_size for entry in entries)
  if size > _LARGEST or len(entries) > _MEMBERS:
    raise DataError(
      f'{path} would unpack to {size} bytes in {len(entries)} parts, more than '
      f'any model: it is not opened'
    )
  if len(set(names)) < len(names):
    raise ValueError('a member comes twice')
  content = json.loads(archive.read(_JSON))
  schema = content['schema']
  if schema != SCHEMA:
    raise DataError(
      f'{path} has schema {schema!r}, this version reads {SCHEMA}: update '
      'metaad_jax, or export the file anew'
    )
  arrays = {
    name.removesuffix('.npy'): _array(name, archive.read(name))
    for name in names
    if name != _JSON
  }
  meta = content['meta']
  if not isinstance(meta, dict):
    raise ValueError('the meta data are no object')
  if _digest(arrays, meta) != content['sha256']:
    raise ValueError('the checksum is wrong')
  return arrays, meta


def _array(name, data):
  """The array of one member; never trusts a header with memory, or pickle."""
  file = io.BytesIO(data)
  version = np.lib.format.read_magic(file)
  shape, fortran, dtype = _HEADERS[version](file)
  body = data[file.tell() :]
  count = 1
  for length in shape:
    count *= length
  if dtype.kind not in 'biuf' or fortran or not name.endswith('.npy'):
    raise ValueError(f'{name} holds {dtype}, not numbers in order')
  if min(shape, default=0) < 0 or count * dtype.itemsize != len(body):
    raise ValueError(f'{name} says {shape} and holds {len(body)} bytes')
  return np.frombuffer(body, dtype).reshape(shape).copy()
