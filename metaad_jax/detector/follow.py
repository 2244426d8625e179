"""Rows scored as they arrive, from a stream or a growing file of .csv lines."""

from collections.abc import Callable, Iterator
import csv
import os
import select
import sys
from typing import Any

import numpy as np

from metaad_jax.base import DataError
from metaad_jax.data import rows as rows_lib
from metaad_jax.data import user_frames
from metaad_jax.detector import estimator, explanations, judge

_WAIT = 0.1  # seconds between looks at a file, or at `stopped`
_LONGEST = 1 << 20  # bytes of a line
_BLOCK = 1 << 16
BEGIN = None  # stands before the first line of a file, also of a new one


class _Lacking(Exception):
  """A header without a column of the support: no line of it can be read."""


def _whole(held: bytes, ended: bool) -> tuple[list[bytes], bytes]:
  """The lines that are complete, and the rest."""
  *lines, rest = held.split(b'\n')
  if len(rest) > _LONGEST or (ended and rest):
    lines, rest = [*lines, rest], b''
  return lines, rest


def stream(
  descriptor: int, stopped: Callable[[], bool]
) -> Iterator[bytes | None]:
  """Lines of an open pipe, terminal or file, as soon as they are complete.

  Args:
    descriptor: a file descriptor, open for reading.
    stopped: whether to end; asked ten times a second.

  Yields:
    `BEGIN`, then lines without their ends.
  """
  yield BEGIN
  held = b''
  while not stopped():
    if not select.select([descriptor], [], [], _WAIT)[0]:
      continue
    block = os.read(descriptor, _BLOCK)
    lines, held = _whole(held + block, not block)
    for line in lines:
      yield line
      if stopped():
        return
    if not block:
      return


def growing(path: str, stopped: Callable[[], bool]) -> Iterator[bytes | None]:
  """Lines of a file that others append to, cut, or put another in place of.

  A file that is not there is waited for. One that was renamed or deleted is
  read on until another has its name, and then to its end.

  Args:
    path: of the file.
    stopped: whether to end; asked ten times a second.

  Yields:
    `BEGIN` whenever a file is read from its start, then its lines.
  """
  file: Any = None
  held = b''
  try:
    while not stopped():
      if file is None:
        try:
          file = open(path, 'rb', buffering=0)
        except FileNotFoundError:
          _rest(stopped)
          continue
        held = b''
        yield BEGIN
      replaced = not _same(file, path)
      if os.fstat(file.fileno()).st_size < file.tell():  # cut
        file.seek(0)
        held = b''
        yield BEGIN
      block = file.read(_BLOCK)
      lines, held = _whole(held + block, False)
      for line in lines:
        yield line
        if stopped():
          return
      if block:
        continue
      if replaced:
        if held:
          yield held
        file.close()
        file = None
        continue
      _rest(stopped)
  finally:
    if file is not None:
      file.close()


def _rest(stopped):
  if not stopped():
    select.select([], [], [], _WAIT)


def _same(file, path):
  """Whether no other file has the name of the open one."""
  try:
    there = os.stat(path)
  except FileNotFoundError:
    return True
  here = os.fstat(file.fileno())
  return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def follow(
  by: judge.Judge,
  lines: Iterator[bytes | None],
  tell: Callable[[str], None],
  limit: int = sys.maxsize,
) -> Iterator[dict[str, Any]]:
  """Judges lines; those that make no sense are told, counted and skipped.

  The first line of a file may name the columns, in any order; without it they
  stand as in the support's file, with or without the columns that are ignored.

  Args:
    by: see `judging.adapt`.
    lines: see `stream` and `growing`.
    tell: gets one line for each that is skipped.
    limit: end after so many rows.

  Yields:
    {'row', 'score', 'p_value', 'decision', 'reasons'} for each row, reasons for
    abnormal ones only; in the end {'summary': ...} with counts.

  Raises:
    DataError: if a file's names lack a column of the support.
  """
  names: tuple[str, ...] = ()
  fresh, count, alarms, bad, place = True, 0, 0, 0, 0
  for line in lines:
    if line is BEGIN:
      names, fresh, place = (), True, 0
      continue
    place += 1
    try:
      text = line.decode('utf-8-sig' if place == 1 else 'utf-8')
      cells = [cell.strip() for cell in user_frames.split(text.strip('\r'))]
      if not any(cells):
        continue  # an empty line
      if fresh and _is_header(by, cells):
        names = tuple(cells)
        missing = [name for name in by.columns if name not in names]
        if missing:
          raise _Lacking(missing[0])
        fresh = False
        continue
      fresh = False
      row = _row(by, _by_name(by, names, cells))
    except _Lacking as error:
      raise DataError(
        f'the rows to follow lack column {error.args[0]!r} of {by.path}: give '
        f'it, or --ignore={error.args[0]}'
      ) from error
    except (ValueError, csv.Error) as error:  # DataError, UnicodeDecodeError
      bad += 1
      reason = ' '.join(str(error).split())[:200]
      tell(f'line {place} skipped ({bad} so far): {reason}')
      continue
    alarms += row.get('decision') == 'abnormal'
    yield {'row': count, **row}
    count += 1
    if count >= limit:
      break
  yield {'summary': {'rows': count, 'abnormal': alarms, 'malformed': bad}}


def _is_header(by, cells):
  known = {*by.columns, *by.header}
  return not any(map(rows_lib.is_number, cells)) and any(
    cell in known for cell in cells
  )


def _by_name(by, names, cells):
  if not names:
    orders = (by.header, by.columns)
    names = next((o for o in orders if len(o) == len(cells)), ())
    if not names:
      raise DataError(
        f'{len(cells)} values where {len(by.columns)} were expected'
      )
  if len(cells) != len(names):
    raise DataError(f'{len(cells)} values where {len(names)} were expected')
  return dict(zip(names, cells, strict=True))


def _row(by, cells):
  frame = judge.frame_of(by, cells)
  rows = judge.shaped(frame, estimator.load_run(by.run_dir), 'the row')
  if by.detector is None:
    score = float(np.asarray(by.score(rows))[0])
    return {'score': score}
  found = by.detector.judge(rows)
  row: dict[str, Any] = {
    'score': float(found.scores[0]),
    'p_value': float(found.p_values[0]),
    'decision': judge.decision(found.outliers[0]),
    'reasons': [],
  }
  if found.outliers[0]:
    (why,) = by.detector.explain(rows)
    row['reasons'] = judge.reasons(why)
    row['text'] = explanations.text(why)
  return row
