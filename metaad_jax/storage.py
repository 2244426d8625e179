"""Files: written whole or not at all, and models as arrays and JSON.

A model file is an `.npz` archive with an `.npy` member for every array and
`model.json`: the schema version, the SHA-256 of the content, and the writer's
meta data. The same content gives the same bytes. Nothing is ever pickled.
"""

import csv
import hashlib
import io
import json
import lzma
import math
import os
import pathlib
import re
import struct
import tokenize
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
# What zip, lzma, NumPy, json, csv and pandas raise for a damaged file.
BROKEN = (
  OSError, ValueError, EOFError, KeyError, IndexError, TypeError, MemoryError,
  NotImplementedError, OverflowError, RecursionError, RuntimeError, SyntaxError,
  csv.Error, struct.error, tokenize.TokenError, lzma.LZMAError,
  zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def reason(error: BaseException) -> str:
  """What an exception says, in one line of at most 200 characters."""
  return ' '.join(str(error).split())[:200] or type(error).__name__


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
  """Writes a file whole or not at all, and its folder where it is missing."""
  path = pathlib.Path(path)
  part = path.with_name(f'.{path.name}.{os.getpid()}.part')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      with open(part, 'wb') as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
      os.replace(part, path)
    finally:
      part.unlink(missing_ok=True)
  except OSError as error:
    raise DataError(
      f'cannot write {path} ({error.strerror or error}): choose a folder that '
      'can be written to'
    ) from error


def portable(text: str) -> str:
  """Cuts absolute paths, which no other machine has, to their last part.

  Args:
    text: a command line, such as `--data_dir=/data/mine --output=results`.
  """
  return re.sub(
    r"(?<![^\s='\",])/(?:[^/\s'\",]+/)*([^/\s'\",]+)/?", r'\1', text
  )


def save(path: str, arrays: dict[str, np.ndarray], meta: dict) -> None:
  """Writes a model file; it appears under its name only when complete.

  Args:
    path: ends in .npz.
    arrays: numbers or booleans of any shape, by name.
    meta: anything that JSON can hold.
  """
  arrays = {name: np.asarray(a, order='C') for name, a in arrays.items()}
  for name, array in arrays.items():
    if array.dtype.kind not in 'biuf':
      raise DataError(f'array {name!r} holds {array.dtype}, not numbers')
  sha256 = _digest(arrays, meta)
  content = {'schema': SCHEMA, 'sha256': sha256, 'meta': meta}
  packed = io.BytesIO()
  with zipfile.ZipFile(packed, 'w', zipfile.ZIP_DEFLATED) as archive:
    for name, array in sorted(arrays.items()):
      member = io.BytesIO()
      np.lib.format.write_array(member, array, allow_pickle=False)
      archive.writestr(_entry(f'{name}.npy'), member.getvalue())
    archive.writestr(_entry(_JSON), json.dumps(content, indent=1))
  write_bytes(path, packed.getvalue())


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
  """Reads the arrays and the meta data of a file that `save` wrote.

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
  except BROKEN as error:
    raise DataError(
      f'{path} is no model file, or damaged ({reason(error)}): copy or export '
      'it anew'
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
  if dtype.kind not in 'biuf' or fortran or not name.endswith('.npy'):
    raise ValueError(f'{name} holds {dtype}, not numbers in order')
  if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(
    body
  ):
    raise ValueError(f'{name} says {shape} and holds {len(body)} bytes')
  return np.frombuffer(body, dtype).reshape(shape).copy()
