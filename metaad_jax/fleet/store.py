"""The state of a fleet in one file: an SQLite database of arrays and JSON.

SQLite reads one entity without the rest, through a map of the file, changes a
few in place, and after a kill at any moment opens as of the last commit.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import contextlib
import json
import os
import pathlib
import sqlite3
from typing import Any, NamedTuple
import zlib

import numpy as np

from metaad_jax import storage
from metaad_jax.base import DataError

_SCHEMA = 1
_APPLICATION = 0x6D657461  # 'meta', in the header of the file
_MAP = 1 << 30  # bytes of the file that are mapped, not copied
_TABLES = {
  'entity': 'name TEXT UNIQUE, width INTEGER, rows INTEGER, x BLOB, '
  'y BLOB, support BLOB, known BLOB, own BLOB, crc INTEGER',
  'part': 'name TEXT UNIQUE, content BLOB, crc INTEGER',
}
_FIELDS = 'name, width, rows, x, y, support, known, own, crc'
_AT_ONCE = 500  # names in a query


class Entity(NamedTuple):
  """What is kept of an entity; the support's rows come first.

  Attributes:
    x: [n, F] float64 rows; NaN = missing.
    y: [n] int8, 0 = normal, 1 = anomaly, -1 = unlabelled.
    support: [n] bool, which of them it is adapted to.
    known: [k] float64 scores of the support's normals, each without itself;
      None = not scored yet, and neither are the others.
    own: [m] float64 scores of normals that are not in the support.
  """

  x: np.ndarray
  y: np.ndarray
  support: np.ndarray
  known: np.ndarray | None = None
  own: np.ndarray | None = None


def _row(name, entity):
  x, y, support, known, own = entity
  parts = [
    None if part is None else np.ascontiguousarray(part, dtype).tobytes()
    for part, dtype in zip(
      (x, y, support, known, own), ('f8', 'i1', '?', 'f8', 'f8'), strict=True
    )
  ]
  return name, x.shape[1], len(x), *parts, _sum(name, parts)


def _sum(name, parts):
  found = zlib.crc32(name.encode())
  for part in parts:
    found = zlib.crc32(b'-' if part is None else part, found)
  return found


def _entity(row):
  """(name, `Entity`) of a row, or a ValueError."""
  name, width, count, *parts, crc = row
  if crc != _sum(name, parts):
    raise ValueError(f'entity {name!r}: the checksum is wrong')
  x, y, support, known, own = (
    None if part is None else np.frombuffer(part, dtype)
    for part, dtype in zip(parts, ('f8', 'i1', 'i1', 'f8', 'f8'), strict=True)
  )
  if x is None or y is None or support is None:
    raise ValueError(f'entity {name!r}: it holds no rows')
  x = x.reshape(count, width)
  if not len(x) == len(y) == len(support) or not set(y.tolist()) <= {-1, 0, 1}:
    raise ValueError(f'entity {name!r}: impossible shapes')
  return name, Entity(x, y, support > 0, known, own)


def is_one(path: str) -> bool:
  """Whether a file looks like the state of a fleet."""
  try:
    with open(path, 'rb') as file:
      head = file.read(72)
  except OSError:
    return False
  kind = int.from_bytes(head[68:72], 'big')
  return head[:16] == b'SQLite format 3\0' and kind == _APPLICATION


class Store:
  """Entities of a file that is open, and changes that are not in it yet.

  Args:
    path: of the file; None = everything is in memory.

  Raises:
    DataError: if it is missing, damaged, or no state of a fleet.
  """

  def __init__(self, path: str | None = None):
    self.path = path
    self.parts: dict[str, bytes] = {}  # to be written
    self._changed: dict[str, Entity] = {}
    self._file: sqlite3.Connection | None = None
    self._names: set[str] = set()
    if path is not None:
      self._file = _open(path)
      with _told(path):
        rows = self._file.execute('SELECT name FROM entity')
        self._names = {name for (name,) in rows}

  def __len__(self) -> int:
    return len(self.names)

  @property
  def names(self) -> set[str]:
    """Of all entities."""
    return self._names | self._changed.keys()

  def has(self, name: str) -> bool:
    """Whether there is such a part."""
    if self._file is None or name in self.parts:
      return name in self.parts
    with _told(self.path):
      query = 'SELECT count(*) FROM part WHERE name = ?'
      return self._file.execute(query, (name,)).fetchone()[0] > 0

  def part(self, name: str) -> bytes:
    """What `parts` was given under a name; a DataError if there is none."""
    if name in self.parts:
      return self.parts[name]
    if self._file is not None:
      query = 'SELECT content, crc FROM part WHERE name = ?'
      with _told(self.path):
        for content, crc in self._file.execute(query, (name,)):
          if crc != _sum(name, [content]):
            raise ValueError(f'{name}: the checksum is wrong')
          return content
    raise DataError(f'{self.path} lacks {name!r}: it is no state of a fleet')

  def change(self, entities: Mapping[str, Entity]) -> None:
    """Adds or replaces entities; `save` writes them."""
    self._changed |= entities

  def unscored(self) -> list[str]:
    """Changed entities whose own rows have no scores yet."""
    return [n for n, entity in self._changed.items() if entity.known is None]

  def read(self, names: Sequence[str]) -> dict[str, Entity]:
    """Those entities of these names that there are."""
    found = {n: self._changed[n] for n in names if n in self._changed}
    wanted = [n for n in names if n not in found and n in self._names]
    if self._file is None:
      return found
    with _told(self.path):
      for start in range(0, len(wanted), _AT_ONCE):
        some = wanted[start : start + _AT_ONCE]
        marks = ', '.join('?' * len(some))
        query = f'SELECT {_FIELDS} FROM entity WHERE name IN ({marks})'
        found |= dict(map(_entity, self._file.execute(query, some)))
    return found

  def __iter__(self) -> Iterator[tuple[str, Entity]]:
    """All entities by name, without holding them all."""
    names = sorted(self.names)
    for start in range(0, len(names), _AT_ONCE):
      found = self.read(names[start : start + _AT_ONCE])
      for name in names[start : start + _AT_ONCE]:
        yield name, found[name]

  def save(self, path: str) -> None:
    """Writes what has changed, or all of it into another file.

    Raises:
      DataError: if it cannot be written.
    """
    same = self.path is not None and os.path.exists(path)
    if same and os.path.samefile(path, self.path or ''):
      assert self._file is not None
      with _told(path):
        _write(self._file, self._changed.items(), self.parts)
    else:
      self._write_anew(path)
    self._names |= self._changed.keys()
    self._changed, self.parts = {}, {}

  def _write_anew(self, path):
    target = pathlib.Path(path)
    part = target.with_name(f'.{target.name}.{os.getpid()}.part')
    with _told(path):
      try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(part)) as made:
          if self._file is not None:
            self._file.backup(made)
          else:
            _create(made)
          _write(made, self._changed.items(), self.parts)
        with open(part, 'rb+') as file:
          os.fsync(file.fileno())
        os.replace(part, target)
      finally:
        part.unlink(missing_ok=True)
    if self._file is not None:
      self._file.close()
    self.path, self._file = path, _open(path)

  def compact(self) -> None:
    """Gives back what replaced entities have left free in the file."""
    if self._file is not None:
      with _told(self.path):
        self._file.execute('VACUUM')

  def close(self) -> None:
    if self._file is not None:
      self._file.close()
      self._file = None


def _create(file):
  for name, columns in _TABLES.items():
    file.execute(f'CREATE TABLE {name} ({columns})')
  file.execute(f'PRAGMA user_version = {_SCHEMA}')
  file.execute(f'PRAGMA application_id = {_APPLICATION}')
  file.commit()


def _write(
  file: sqlite3.Connection,
  entities: Iterable[tuple[str, Entity]],
  parts: Mapping[str, bytes],
) -> None:
  """One transaction: all of it, or nothing."""
  with file:
    file.executemany(
      f'INSERT OR REPLACE INTO entity ({_FIELDS}) VALUES ({"?, " * 8}?)',
      (_row(name, entity) for name, entity in entities),
    )
    file.executemany(
      'INSERT OR REPLACE INTO part (name, content, crc) VALUES (?, ?, ?)',
      ((n, content, _sum(n, [content])) for n, content in parts.items()),
    )


def _open(path) -> sqlite3.Connection:
  """A file that holds these tables and nothing else."""
  if not os.path.isfile(path):
    raise DataError(f'{path} is not there: name what a fleet was saved to')
  with _told(path):
    uri = f'{pathlib.Path(path).absolute().as_uri()}?mode=rw'
    try:
      file = sqlite3.connect(uri, uri=True, timeout=30)
      file.execute('PRAGMA user_version').fetchone()
    except sqlite3.OperationalError:  # a file that may only be read
      uri = uri.replace('mode=rw', 'mode=ro')
      file = sqlite3.connect(uri, uri=True, timeout=30)
    file.execute('PRAGMA trusted_schema = OFF')
    file.execute('PRAGMA cell_size_check = ON')
    file.execute(f'PRAGMA mmap_size = {_MAP}')
    file.execute('PRAGMA synchronous = FULL')
    kind = file.execute('PRAGMA application_id').fetchone()[0]
    held = dict(
      file.execute("SELECT name, sql FROM sqlite_master WHERE sql > ''")
    )
    wanted = {
      name: f'CREATE TABLE {name} ({columns})'
      for name, columns in _TABLES.items()
    }
    if kind != _APPLICATION or held != wanted:
      raise ValueError('it holds other tables')
    schema = file.execute('PRAGMA user_version').fetchone()[0]
    if schema != _SCHEMA:
      raise ValueError(f'its schema is {schema}, this version reads {_SCHEMA}')
  return file


@contextlib.contextmanager
def _told(path) -> Iterator[None]:
  try:
    yield
  except DataError:
    raise
  except OSError as error:
    raise DataError(
      f'cannot write {path} ({error.strerror or error}): choose a folder that '
      'can be written to'
    ) from error
  except (sqlite3.Error, *storage.BROKEN) as error:
    raise DataError(
      f'{path} is no state of a fleet, or damaged, or not to be written to '
      f'({storage.reason(error)}): save it anew'
    ) from error


def as_json(value: Any) -> bytes:
  return json.dumps(value, allow_nan=False).encode()


def from_json(content: bytes, check: Callable[[Any], Any]) -> Any:
  """A DataError where `check` fails on what JSON says."""
  try:
    return check(json.loads(content))
  except storage.BROKEN as error:
    raise DataError(
      f'the state of the fleet is damaged ({storage.reason(error)}): save it '
      'anew'
    ) from error
