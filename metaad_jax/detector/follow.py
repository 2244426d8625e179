"""Rows judged as they arrive on a stream of lines, of .csv or of JSON."""

from collections.abc import Callable, Iterable, Iterator
import csv
import json
import os
import re
import select
import sys
from typing import Any

import numpy as np

from metaad_jax import storage
from metaad_jax.base import DataError
from metaad_jax.data import cells as cells_lib
from metaad_jax.data import roles, text_files, user_files
from metaad_jax.detector import judge, reasons

_WAIT = 0.1  # seconds between looks at `stopped`
_LONGEST = 1 << 20  # bytes of a line
_BLOCK = 1 << 16
NO_SENSE = ValueError, csv.Error, RecursionError  # what lines may raise
PLAIN = re.compile(r'[-+]?\d+(\.\d*)?([eE][-+]?\d+)?')


def stream(descriptor: int, stopped: Callable[[], bool]) -> Iterator[bytes]:
  """Lines of an open pipe, terminal or file, as soon as they are complete.

  They come without their ends; ten times a second it is asked whether to stop.
  """
  rest = b''
  while not stopped():
    if not select.select([descriptor], [], [], _WAIT)[0]:
      continue
    block = os.read(descriptor, _BLOCK)
    *lines, rest = (rest + block).split(b'\n')
    if len(rest) > _LONGEST or (rest and not block):
      lines, rest = [*lines, rest], b''
    for line in lines:
      yield line
      if stopped():
        return
    if not block:
      return


def tell(text: str, stopped: Callable[[], bool]) -> bool:
  """Prints a line at once; does not wait for a reader once it is to stop.

  Returns:
    Whether it was printed.
  """
  try:
    descriptor, rest = sys.stdout.fileno(), f'{text}\n'.encode()
  except OSError:  # no file, such as a notebook's
    print(text, flush=True)
    return True
  sys.stdout.flush()
  while rest:
    if select.select([], [descriptor], [], _WAIT)[1]:
      rest = rest[os.write(descriptor, rest[: select.PIPE_BUF]) :]
    elif stopped():
      return False
  return True


Judged = Callable[[Any, dict[str, str], str], dict[str, Any] | None]


def follow(
  by: Any, lines: Iterable[bytes], tell: Callable[[str], None],
  limit: int = sys.maxsize, judged: Judged | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
  """Judges lines; those that make no sense are told, counted and skipped.

  A line may name the columns, in any order, for those that come after it;
  before it they stand as in the support's file, with or without the columns
  that are ignored.

  Args:
    by: see `judge.adapt`.
    lines: see `stream`.
    tell: gets one line for each that is skipped.
    limit: end after so many rows.
    judged: what is said of a row by the judge, its cells by name, and their
      decimal sign; None = nothing is. If not given, rows of a table are judged.

  Yields:
    {'row', 'keys', 'score', 'p_value', 'decision', 'reasons'} for each row;
    keys, if there are any, are ids and times, reasons those of abnormal rows;
    in the end {'summary': ...} with counts.

  Raises:
    DataError: if the first line lacks the name of a column of the support.
  """
  reader = Lines(by)
  judged = judged or _row
  count, alarms, malformed = 0, 0, 0
  for place, line in enumerate(lines, 1):
    try:
      found = reader.cells(line)
      if found is None:
        continue
      row = judged(by, *found)
    except NO_SENSE as error:
      if isinstance(error, Lacking) and not reader.names and not count:
        raise
      malformed += 1
      reason = storage.reason(error)
      tell(f'line {place} skipped ({malformed} so far): {reason}')
      continue
    if row is None:
      continue
    alarms += row.get('decision') == 'abnormal'
    yield {'row': count, **row}
    count += 1
    if count >= limit:
      break
  yield {'summary': {'rows': count, 'abnormal': alarms, 'malformed': malformed}}


class Lines:
  """Lines parted to cells; one that names columns is for those after it.

  Args:
    by: what they are for; see `judge.Judge`.
    names: of the columns, where a line has named them before.
  """

  def __init__(self, by: Any, names: tuple[str, ...] = ()):
    self._by, self.names = by, names
    dialect = by.support.dialect
    self._decimal = dialect.decimal if dialect else '.'

  def cells(self, line: bytes) -> tuple[dict[str, str], str] | None:
    """Cells by name, and their decimal sign; None of an empty line, or names.

    Raises:
      `NO_SENSE`; `Lacking` if a column is not among the names.
    """
    text = _decoded(line)
    if text.lstrip().startswith('{'):
      return _fields(self._by, text), '.'
    by = self._by
    orders = (self.names,) if self.names else (by.support.header, by.columns)
    cells = _cells(by, orders, text)
    if not any(cells):
      return None
    if found := _names(by, cells):
      self.names = found
      return None
    return _named(orders, cells), self._decimal


def _decoded(line):
  """Text of a line, of the encodings that files may have."""
  try:
    return line.decode('utf-8-sig').strip('\r')
  except UnicodeDecodeError:
    return line.decode('cp1252').strip('\r')


class Lacking(DataError):
  """A line of names without a column of the support."""


def _cells(by, orders, text):
  """Parts a line as the support's file is parted, or else as it looks."""
  if not text.strip():
    return []
  dialect = by.support.dialect or text_files.sniff([text])
  cells = text_files.split(text, dialect)
  if len(cells) in map(len, orders):
    return cells
  return text_files.split(text, text_files.sniff([text]))


def _names(by, cells):
  """The names of the columns, if that is it; `Lacking` if not of all."""
  if any(map(cells_lib.is_number, cells)):
    return ()
  known = {*by.columns, *by.support.header}
  same = roles.same_names(cells, known)
  names = tuple(same.get(cell, cell) for cell in cells)
  if known.isdisjoint(names):
    return ()
  for name in by.columns:
    if name not in names:
      raise Lacking(
        f'the rows to follow lack column {name!r} of {by.path}: give it, or '
        f'--ignore={name}'
      )
  return names


def _named(orders, cells):
  names = next((o for o in orders if len(o) == len(cells)), orders[-1])
  if len(cells) != len(names):
    raise DataError(f'{len(cells)} values where {len(names)} were expected')
  return dict(zip(names, cells, strict=True))


def _fields(by, line):
  """The cells of an object, by name; what is missing in known rows may be."""
  cells = {
    name: '' if value is None else str(value)
    for name, value in _flat(json.loads(line))
  }
  gaps = by.support.rows.isna().any()
  for name in by.columns:
    if name not in cells and not gaps[name]:
      raise DataError(f'it lacks {name!r}, which the known rows have')
    cells.setdefault(name, '')
  return cells


def _flat(fields, start=''):
  for name, value in fields.items():
    if isinstance(value, dict):
      yield from _flat(value, f'{start}{name}.')
    else:
      yield start + name, value


def _encoded(by, cells, decimal):
  """A row of text; where all cells are plain numbers, without pandas."""
  plain = all(PLAIN.fullmatch(cells[name]) for name in by.columns)
  if plain and decimal == '.' and (by.support.rows.dtypes == np.float64).all():
    numbers = [float(cells[name]) for name in by.columns]
    if np.isfinite(numbers).all():
      return by.encode_numbers(numbers)
  frame = user_files.row(cells, by.support.rows, decimal)
  return by.encode(frame, 'the row')


def _row(by, cells, decimal):
  if all(map(cells_lib.is_missing, (cells[name] for name in by.columns))):
    raise DataError('none of the columns that are looked at has a value')
  encoded = _encoded(by, cells, decimal)
  keys = [c.name for c in by.support.columns if c.role in ('id', 'time')]
  judged = by.detector.judge(encoded)
  row: dict[str, Any] = {}
  if told := {name: cells[name] for name in keys if name in cells}:
    row['keys'] = told
  row['score'] = float(judged.scores[0])
  if by.threshold is None:
    return row
  row['p_value'] = float(judged.p_values[0])
  row['decision'] = judge.decision(judged.outliers[0])
  row['reasons'] = []
  if judged.outliers[0]:
    (why,) = by.explain(encoded, judged)
    row |= {'reasons': judge.reasons(why), 'text': reasons.text(why)}
  return row
