"""Rows judged as they arrive on a stream of .csv lines."""

from collections.abc import Callable, Iterable, Iterator
import csv
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
_PLAIN = re.compile(r'[-+]?\d+(\.\d*)?([eE][-+]?\d+)?')


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


def tell(text: str, stopped: Callable[[], bool]) -> None:
  """Prints a line at once; does not wait for a reader once it is to stop."""
  try:
    descriptor, rest = sys.stdout.fileno(), f'{text}\n'.encode()
  except OSError:  # no file, such as a notebook's
    print(text, flush=True)
    return
  sys.stdout.flush()
  while rest:
    if select.select([], [descriptor], [], _WAIT)[1]:
      rest = rest[os.write(descriptor, rest[: select.PIPE_BUF]) :]
    elif stopped():
      return


def follow(
  by: judge.Judge,
  lines: Iterable[bytes],
  tell: Callable[[str], None],
  limit: int = sys.maxsize,
) -> Iterator[dict[str, Any]]:
  """Judges lines; those that make no sense are told, counted and skipped.

  A line may name the columns, in any order, for those that come after it;
  before it they stand as in the support's file, with or without the columns
  that are ignored.

  Args:
    by: see `judge.adapt`.
    lines: see `stream`.
    tell: gets one line for each that is skipped.
    limit: end after so many rows.

  Yields:
    {'row', 'score', 'p_value', 'decision', 'reasons'} for each row, reasons for
    abnormal ones only; in the end {'summary': ...} with counts.

  Raises:
    DataError: if the first line lacks the name of a column of the support.
  """
  names: tuple[str, ...] = ()
  count, alarms, malformed = 0, 0, 0
  for place, line in enumerate(lines, 1):
    try:
      orders = (names,) if names else (by.support.header, by.columns)
      cells = _cells(by, orders, line.decode('utf-8-sig').strip('\r'))
      if not any(cells):
        continue  # an empty line
      if not names and not any(map(cells_lib.is_number, cells)):
        same = roles.same_names(cells, by.support.header)
        cells = [same.get(cell, cell) for cell in cells]
      if _is_header(by, cells):
        names = tuple(cells)
        continue
      row = _row(by, orders, cells)
    except (ValueError, csv.Error) as error:  # DataError, UnicodeDecodeError
      if isinstance(error, _Lacking) and not names and not count:
        raise
      malformed += 1
      reason = storage.reason(error)
      tell(f'line {place} skipped ({malformed} so far): {reason}')
      continue
    alarms += row.get('decision') == 'abnormal'
    yield {'row': count, **row}
    count += 1
    if count >= limit:
      break
  yield {'summary': {'rows': count, 'abnormal': alarms, 'malformed': malformed}}


class _Lacking(DataError):
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


def _is_header(by, cells):
  """Whether these are the names of the columns; `_Lacking` if not of all."""
  known = {*by.columns, *by.support.header}
  if any(map(cells_lib.is_number, cells)) or known.isdisjoint(cells):
    return False
  for name in by.columns:
    if name not in cells:
      raise _Lacking(
        f'the rows to follow lack column {name!r} of {by.path}: give it, or '
        f'--ignore={name}'
      )
  return True


def _encoded(by, cells):
  """A row of text; where all cells are plain numbers, without pandas."""
  decimal = by.support.dialect.decimal if by.support.dialect else '.'
  plain = all(_PLAIN.fullmatch(cells[name]) for name in by.columns)
  if plain and decimal == '.' and (by.support.rows.dtypes == np.float64).all():
    numbers = [float(cells[name]) for name in by.columns]
    if np.isfinite(numbers).all():
      return by.encode_numbers(numbers)
  frame = user_files.row(cells, by.support.rows, decimal)
  return by.encode(frame, 'the row')


def _row(by, orders, cells):
  names = next((o for o in orders if len(o) == len(cells)), orders[-1])
  if len(cells) != len(names):
    raise DataError(f'{len(cells)} values where {len(names)} were expected')
  encoded = _encoded(by, dict(zip(names, cells, strict=True)))
  judged = by.detector.judge(encoded)
  row: dict[str, Any] = {'score': float(judged.scores[0])}
  if by.threshold is None:
    return row
  row['p_value'] = float(judged.p_values[0])
  row['decision'] = judge.decision(judged.outliers[0])
  row['reasons'] = []
  if judged.outliers[0]:
    (why,) = by.explain(encoded, judged)
    row |= {'reasons': judge.reasons(why), 'text': reasons.text(why)}
  return row
