"""Rows of many entities judged as they arrive; where that stopped is kept."""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import itertools
import json
import os
import select
import sqlite3
import time
from typing import Any, NamedTuple
import warnings

import numpy as np
import pandas as pd

from metaad_jax import storage
from metaad_jax.base import DataError
from metaad_jax.data import cells as cells_lib
from metaad_jax.data import formats, text_files
from metaad_jax.data.user_files import Samples
from metaad_jax.detector import follow as lines_lib
from metaad_jax.detector import judge, reasons
from metaad_jax.fleet.alarms import Watch
from metaad_jax.fleet.detector import FleetDetector

_APPLICATION = 0x6D657473  # 'mets', in the header of the file
_TABLES = (
  'CREATE TABLE about (id INTEGER PRIMARY KEY, told TEXT)',
  'CREATE TABLE entity (name TEXT PRIMARY KEY, rows INTEGER, abnormal INTEGER)',
)
_EXPLAINED = 5  # abnormal rows of a batch
_BLOCK = 1 << 17  # bytes that are read at once
_WAIT = 0.1  # seconds, where there is nothing new
_KNOWN_BY = 64  # bytes of the end of a line


class State:
  """What has been judged so far, in an SQLite file.

  Of `resident` entities, the last that had rows, the counts are in memory.

  Args:
    path: of the file, made if it is not there; '' = one that nobody keeps.
    resident: entities.

  Raises:
    DataError: if the file is none of these, or damaged.
  """

  def __init__(self, path: str = '', resident: int = 10_000):
    self._path, self._resident = path, resident
    self._counts: collections.OrderedDict[str, list[int]] = (
      collections.OrderedDict()
    )
    self._changed: set[str] = set()
    with self._told():
      self._file = sqlite3.connect(path, timeout=30)
      kind = self._file.execute('PRAGMA application_id').fetchone()[0]
      tables = self._file.execute('SELECT count(*) FROM sqlite_master')
      if not tables.fetchone()[0]:
        with self._file:
          for table in _TABLES:
            self._file.execute(table)
          self._file.execute("INSERT INTO about VALUES (0, '{}')")
          self._file.execute(f'PRAGMA application_id = {_APPLICATION}')
      elif kind != _APPLICATION:
        raise ValueError('it is another file')
      self._file.execute('PRAGMA journal_mode = WAL')
      self._file.execute('PRAGMA synchronous = NORMAL')
      told = self._file.execute('SELECT told FROM about').fetchone()[0]
      self.about: dict[str, Any] = json.loads(told)

  @contextlib.contextmanager
  def _told(self):
    try:
      yield
    except (sqlite3.Error, *storage.BROKEN) as error:
      raise DataError(
        f'{self._path} holds no state of a fleet that was followed, or cannot '
        f'be written ({storage.reason(error)}): name another file'
      ) from error

  def counts(self, names: Iterable[str]) -> dict[str, list[int]]:
    """[rows, abnormal ones] of entities, to be changed in place."""
    found = {}
    with self._told():
      for name in names:
        if name not in self._counts:
          query = 'SELECT rows, abnormal FROM entity WHERE name = ?'
          row = self._file.execute(query, (name,)).fetchone()
          self._counts[name] = list(row or (0, 0))
        self._counts.move_to_end(name)
        self._changed.add(name)
        found[name] = self._counts[name]
    return found

  def commit(self) -> None:
    """Writes what has changed, in one transaction."""
    rows = [(name, *self._counts[name]) for name in self._changed]
    with self._told(), self._file:
      self._file.executemany('REPLACE INTO entity VALUES (?, ?, ?)', rows)
      self._file.execute('UPDATE about SET told = ?', (json.dumps(self.about),))
    self._changed.clear()
    while len(self._counts) > self._resident:
      self._counts.popitem(last=False)

  def close(self) -> None:
    self._file.close()


class _By(NamedTuple):
  """A fleet as `lines_lib.Lines` takes it."""

  path: str
  columns: tuple[str, ...]  # that a line must have
  support: Samples


class Follower:
  """Judges lines of many entities, interleaved, as they arrive.

  Args:
    fleet: the detector; it does not change.
    state: from which it goes on; `state.commit` keeps what was judged.
    gap, budget: see `alarms.Watch`; of a fleet with a column of times.

  Example:
    >>> follower = Follower(FleetDetector.load('pumps.fleet'), State('at.db'))
    >>> for row in follower.push(lines, print): ...
  """

  def __init__(
    self, fleet: FleetDetector, state: State, *, gap: float = 0.0,
    budget: str = '', rate: float | None = None,
  ):  # fmt: skip
    self.fleet, self.state = fleet, state
    about = state.about
    layout = fleet.layout_
    roles = ('feature', 'id', 'time')
    report = layout.columns.report
    self._names = tuple(c.name for c in report if c.role in roles)
    own = [layout.entity, layout.time] if layout.time else [layout.entity]
    self._names += tuple(name for name in own if name not in self._names)
    like = layout.like()
    gaps = dict.fromkeys(like.rows, np.nan) | dict.fromkeys(own, 0.0)
    like = like._replace(rows=pd.DataFrame(gaps, index=[0]))
    by = _By('the fleet', (*layout.columns.names, *own), like)
    self._lines = lines_lib.Lines(by, tuple(about.get('names', ())))
    if (gap or budget) and not layout.time:
      raise DataError('the fleet has no times: metaad fit --time=COLUMN')
    self._watch = None
    if layout.time:
      self._watch = Watch(gap, budget, about.get('watch'))

  def push(
    self, lines: Sequence[bytes], tell: Callable[[str], None]
  ) -> Iterator[dict[str, Any]]:
    """What is said of the rows in some lines.

    Args:
      lines: that have arrived.
      tell: gets one line for each that makes no sense.

    Yields:
      `row`, its number in all that was followed; `entity`, and `number`, that
      among the rows of the entity; `keys`, ids and times; `score`, `p_value`,
      `decision`, `known`, and, if there are times, `event` and `told` of
      abnormal rows; `reasons` of five of these.

    Raises:
      DataError: if the first line lacks the name of a column of the fleet.
    """
    about = self.state.about
    rows = []
    for line in lines:
      try:
        found = self._lines.cells(line)
        if found:
          self._check(found[0])
          rows.append(found)
      except lines_lib.NO_SENSE as error:
        first = not (self._lines.names or about.get('rows') or rows)
        if isinstance(error, lines_lib.Lacking) and first:
          raise
        self._skip(error, tell)
    about['names'] = self._lines.names
    for decimal, group in itertools.groupby(rows, lambda row: row[1]):
      yield from self._judged([cells for cells, _ in group], decimal, tell)

  def summary(self) -> dict[str, int]:
    """Counts of all that was followed."""
    names = 'rows', 'abnormal', 'malformed'
    return {name: self.state.about.get(name, 0) for name in names}

  def _check(self, cells):
    features = self.fleet.layout_.columns.names
    if all(cells_lib.is_missing(cells.get(name, '')) for name in features):
      raise DataError('none of the columns that are looked at has a value')

  def _skip(self, error, tell):
    count = self.state.about.get('malformed', 0) + 1
    self.state.about['malformed'] = count
    tell(f'a line is skipped ({count} so far): {storage.reason(error)}')

  def _judged(self, rows, decimal, tell):
    cells = [[row.get(name, '') for name in self._names] for row in rows]
    dialect = text_files.Dialect(decimal=decimal)
    text = text_files.Text(self._names, cells, [1] * len(cells), dialect, [])
    try:
      with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        long = self.fleet.read(formats.text(text))
    except DataError as error:
      if len(rows) > 1:
        for row in rows:
          yield from self._judged([row], decimal, tell)
      else:
        self._skip(error, tell)
      return
    judged = self.fleet.judge(long)
    yield from self._told(long, judged)

  def _told(self, long, judged):
    about, p = self.state.about, judged['p_value'].to_numpy()
    bad = judged['outlier'].to_numpy()
    events = told = np.zeros(0, int)
    if self._watch:
      events, told = self._watch.push(long.times, bad)
      bad, about['watch'] = events >= 0, self._watch.state
    worst = np.flatnonzero(bad)
    worst = worst[np.argsort(p[worst], kind='stable')][:_EXPLAINED]
    why = self.fleet.explain(long, worst.tolist())
    names = long.names[long.which]
    counts = self.state.counts(dict.fromkeys(names))
    keys = long.keys.drop(columns=self.fleet.layout_.entity).astype(str)
    for i, stamps in enumerate(keys.to_dict('records')):
      count = counts[names[i]]
      row = {'row': about.get('rows', 0), 'entity': names[i],
             'number': count[0], 'keys': stamps, 'score': judged['score'][i],
             'known': bool(judged['known'][i])}  # fmt: skip
      if not np.isnan(p[i]):
        row |= {'p_value': p[i], 'decision': judge.decision(bad[i])}
      if bad[i] and self._watch:
        row |= {'event': int(events[i]), 'told': bool(told[i])}
      if i in why:
        row |= {'reasons': judge.reasons(why[i]), 'text': reasons.text(why[i])}
      count[0] += 1
      count[1] += int(bad[i])
      about['rows'] = about.get('rows', 0) + 1
      about['abnormal'] = about.get('abnormal', 0) + int(bad[i])
      yield row


class Place(NamedTuple):
  """Where in a file reading has stopped, and the last line, to know it by."""

  offset: int = 0
  last: str = ''  # in hexadecimal


def batches(
  path: str, place: Place, stopped: Callable[[], bool]
) -> Iterator[list[tuple[bytes, Place]]]:
  """Lines of a file that grows, each with the place behind it.

  A file that is replaced or cut is read on from its new start, the old one to
  its end.

  Args:
    path: of the file.
    place: to start from, if that line is there; else it is read from the start.
    stopped: whether to stop.
  """
  file = open(path, 'rb')
  try:
    last = bytes.fromhex(place.last)
    file.seek(max(0, place.offset - len(last)))
    offset, rest = (
      (place.offset, b'') if file.read(len(last)) == last else (0, b'')
    )
    while not stopped():
      file.seek(offset + len(rest))
      block = file.read(_BLOCK)
      if not block:
        ended = _replaced(file, path, offset + len(rest))
        if ended and rest:
          yield [(rest, Place())]
        if ended == 'moved':
          file.close()
          file = open(path, 'rb')
        if ended:
          offset, rest = 0, b''
        else:
          time.sleep(_WAIT)
        continue
      *lines, rest = (rest + block).split(b'\n')
      some = []
      for line in lines:
        offset += len(line) + 1
        some.append((line, Place(offset, (line[-_KNOWN_BY:] + b'\n').hex())))
      if some:
        yield some
  finally:
    file.close()


def _replaced(file, path, offset):
  """'moved' or 'cut' of a file that is not what it was, or ''."""
  here = os.fstat(file.fileno())
  if here.st_size < offset:
    return 'cut'
  try:
    there = os.stat(path)
  except FileNotFoundError:
    return ''  # for a moment
  return '' if os.path.samestat(here, there) else 'moved'


def piped(
  descriptor: int, stopped: Callable[[], bool]
) -> Iterator[list[tuple[bytes, Place]]]:
  """As `batches`, of an open pipe; there are no places in it."""
  rest = b''
  while not stopped():
    if not select.select([descriptor], [], [], _WAIT)[0]:
      continue
    block = os.read(descriptor, _BLOCK)
    *lines, rest = (rest + block).split(b'\n')
    if not block and rest:
      lines, rest = [rest], b''
    if lines:
      yield [(line, Place()) for line in lines]
    if not block:
      return
