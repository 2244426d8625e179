"""Files: written whole or not at all, and models as arrays and JSON.

A model file is an `.npz` archive with an `.npy` member for every array and
`model.json`: the schema version, the SHA-256 of the content, and the writer's
meta data. The same content gives the same bytes. Nothing is ever pickled.
"""

from collections.abc import Iterator
import contextlib
import csv
import hashlib
import io
import json
import lzma
import math
import os
import pathlib
import platform
import re
import struct
import tokenize
import zipfile
import zlib

import numpy as np

from metaad_jax.base import DataError

SCHEMA = 1
_JSON = 'model.json'
_LARGEST = 1 << 27  # bytes, packed or not, all members together
_TEXT = 1 << 22  # bytes of model.json
_MEMBERS = 10_000
_TAIL = (1 << 16) + 22  # bytes that the end of a zip archive may take
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


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
  """Keeps a folder to this process, by a file `.lock` that stays in it.

  The folder is made if need be; if nothing else came into it, it goes again.

  Raises:
    DataError: if another process has it, or it cannot be written to.
  """
  import fcntl  # there is none on Windows, where nobody trains

  path = pathlib.Path(folder, '.lock')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, 'a+')
  except OSError as error:
    raise DataError(
      f'cannot write to {folder} ({error.strerror}): choose another folder'
    ) from error
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      file.seek(0)
      raise DataError(
        f'{folder} is in use by {file.read() or "another process"}: wait until '
        'it has ended, or choose another folder'
      ) from error
    except OSError:  # a file system without locks
      pass
    with contextlib.suppress(OSError):  # whose it is, where there is room
      file.truncate(0)
      os.write(
        file.fileno(), f'process {os.getpid()} on {platform.node()}'.encode()
      )
    try:
      yield
    finally:
      with contextlib.suppress(OSError):
        if os.listdir(folder) == [path.name]:
          path.unlink()
          path.parent.rmdir()


def portable(text: str) -> str:
  """Cuts absolute paths, which no other machine has, to their last part.

  Args:
    text: a command line, such as `--data_dir=/data/mine --output=results`.
  """
  return re.sub(
    r"(?<![^\s='\",])/(?:[^/\s'\",]+/)*([^/\s'\",]+)/?", r'\1', text
  )


def save(
  path: str | os.PathLike[str], arrays: dict[str, np.ndarray], meta: dict
) -> None:
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
    sha256.update(np.ascontiguousarray(array).data)
  sha256.update(json.dumps(meta, sort_keys=True).encode())
  return sha256.hexdigest()


def load(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict]:
  """Reads the arrays and the meta data of a file that `save` wrote.

  Raises:
    DataError: if the file is missing, truncated, altered, of a newer schema,
      absurdly large, or holds anything but numbers and JSON.
  """
  try:
    with open(path, 'rb') as file:
      _check_directory(path, file)
      with zipfile.ZipFile(file) as archive:
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


def _check_directory(path, file):
  """Of so many members that listing them would take all memory."""
  size = file.seek(0, os.SEEK_END)
  file.seek(max(0, size - _TAIL))
  tail = file.read(_TAIL)
  count, length = struct.unpack_from('<HI', tail, tail.rindex(b'PK\5\6') + 10)
  if size > _LARGEST or count > _MEMBERS or length > _MEMBERS * _TAIL:
    raise DataError(f'{path} is larger than any model: it is not opened')


def _read(path, archive):
  entries = {entry.filename: entry for entry in archive.infolist()}
  size = sum(entry.file_size for entry in entries.values())
  if size > _LARGEST or entries[_JSON].file_size > _TEXT:
    raise DataError(
      f'{path} would unpack to {size} bytes, more than any model: it is not '
      'opened'
    )
  if len(entries) < len(archive.infolist()):
    raise ValueError('a member comes twice')
  if {e.compress_type for e in entries.values()} - {
    zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
  }:  # fmt: skip
    raise ValueError('it is packed in another way')
  content = json.loads(
    archive.read(_JSON), parse_float=_finite, parse_constant=_finite
  )
  schema = content['schema']
  if schema != SCHEMA:
    raise DataError(
      f'{path} has schema {schema!r}, this version reads {SCHEMA}: update '
      'metaad_jax, or export the file anew'
    )
  arrays = {
    name.removesuffix('.npy'): _array(name, _content(archive, entry))
    for name, entry in entries.items()
    if name != _JSON
  }
  meta = content['meta']
  if not isinstance(meta, dict):
    raise ValueError('the meta data are no object')
  if _digest(arrays, meta) != content['sha256']:
    raise ValueError('the checksum is wrong')
  return arrays, meta


def _finite(text):
  number = float(text)
  if not math.isfinite(number):
    raise ValueError(f'{text} is no finite number')
  return number


def _content(archive, entry):
  """A member, unpacked piece by piece: `read` takes twice the memory."""
  content, place = bytearray(entry.file_size), 0
  with archive.open(entry) as file:
    while piece := file.read(1 << 20):
      content[place : place + len(piece)] = piece
      place += len(piece)
  if place != entry.file_size:
    raise ValueError(f'{entry.filename} has another size')
  return content


def _array(name, data):
  """The array of one member; never trusts a header with memory, or pickle."""
  file = io.BytesIO(memoryview(data)[: 1 << 16])
  version = np.lib.format.read_magic(file)
  shape, fortran, dtype = _HEADERS[version](file)
  body = memoryview(data)[file.tell() :]
  if dtype.kind not in 'biuf' or fortran or not name.endswith('.npy'):
    raise ValueError(f'{name} holds {dtype}, not numbers in order')
  if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(
    body
  ):
    raise ValueError(f'{name} says {shape} and holds {len(body)} bytes')
  return np.frombuffer(body, dtype).reshape(shape)
