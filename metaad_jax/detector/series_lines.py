"""A series judged line by line, as .csv arrives on a stream."""

from collections.abc import Callable, Iterable, Iterator
import datetime
import sys
from typing import Any

import numpy as np
import pandas as pd

from metaad_jax.base import DataError
from metaad_jax.data import cells as cells_lib
from metaad_jax.data import moments
from metaad_jax.detector import follow as lines_lib
from metaad_jax.detector import judge
from metaad_jax.detector.series import Event
from metaad_jax.detector.series_files import SeriesJudge
from metaad_jax.detector.series_follow import SeriesStream


def follow(
  by: SeriesJudge, stream: SeriesStream, lines: Iterable[bytes],
  tell: Callable[[str], None], limit: int = sys.maxsize,
) -> Iterator[dict[str, Any]]:  # fmt: skip
  """Judges lines as `follow.follow` does.

  Lines whose time is not after that of the last point were seen before.

  Args:
    by: the judge.
    stream: of its detector.
    lines, tell, limit: see `follow.follow`; notes are told, too.

  Yields:
    {'row', 'keys', 'score', 'p_value', 'decision', 'reason', 'event'} for each
    point; in the end {'summary': ..., 'event': ...} with counts, and the event
    that is not over. `event` is there once one is over.
  """
  moment = _moment(by)
  counts = {'events': 0, 'seen': 0}

  def judged(by, cells, decimal):
    time, seconds = moment(cells)
    last = stream.last
    if seconds is not None and last is not None and seconds <= last:
      counts['seen'] += 1
      if counts['seen'] == 1:
        tell(f'{time} is not after the last point: such lines are skipped')
      return None
    values = [_number(cells[name], name, decimal) for name in by.columns]
    point = stream.push(values, seconds, time)
    if point.note:
      tell(f'row {point.number}: {point.note}')
    counts['events'] += point.event is not None
    return _said(point, {} if time is None else {by.time: time})

  for row in lines_lib.follow(by, lines, tell, limit, judged):
    if 'summary' in row and (open_ := stream.finish()):
      counts['events'] += 1
      row['event'] = event(open_)
    if 'summary' in row:
      row['summary'] |= counts
    yield row


def _said(point, keys):
  known = not np.isnan(point.score)
  row: dict[str, Any] = {
    'row': point.number,
    **({'keys': keys} if keys else {}),
  }
  row['score'] = round(point.score, 6) if known else None
  row['p_value'] = float(f'{point.p_value:.4g}') if known else None
  row['decision'] = judge.decision(point.alarm) if known else 'unknown'
  if point.reason:
    row['reason'] = point.reason
  if point.event is not None:
    row['event'] = event(point.event)
  return row


def event(ended: Event) -> dict[str, Any]:
  """An event as JSON holds it."""
  told = ended._asdict()
  for name in ('start', 'end', 'peak'):
    told[name] = moments.written(told[name])
  return told


def _number(cell, name, decimal):
  """A cell as a number; NaN = missing."""
  cell = cell.strip()
  if lines_lib.PLAIN.fullmatch(cell):
    return float(cell)
  if cells_lib.is_missing(cell):
    return np.nan
  read = cells_lib.numbers([cell], np.zeros(1, bool), decimal)
  if read is None:
    raise DataError(f'{cell[:40]!r} in column {name!r} is no number')
  return float(read[0][0])


def _moment(by) -> Callable[[dict[str, str]], tuple[str | None, float | None]]:
  """What a line says of its time: as it stands there, and in seconds."""
  columns = {c.name: c for c in by.support.columns}
  goes = f'{moments.GOES_WITH}{by.time!r}'
  clock = next((c.name for c in columns.values() if c.why == goes), '')
  begin = by.detector.starts_[0]
  of_day = begin is None or 0 <= begin <= 86400
  alone = of_day and by.time in columns and columns[by.time].kind == 'time'

  def read(cells):
    if not by.time or by.time not in cells:
      return None, None
    text = cells[by.time].strip()
    if alone:  # times of day: points follow each other
      return text, None
    moment = _seconds(text, by.time, by.form)
    if clock:
      text = f'{text} {cells[clock].strip()}'
      moment += _seconds(cells[clock], clock, '')
    return text, moment

  return read


def _seconds(cell, name, form):
  if form == 'ISO8601':
    try:
      stamp = datetime.datetime.fromisoformat(cell)
      zone = stamp.tzinfo or datetime.UTC
      return stamp.replace(tzinfo=zone).timestamp()
    except ValueError:
      pass
  found = moments.seconds(name, pd.Series([cell]), form)
  if found is None or np.isnan(found[0][0]):
    raise DataError(f'{cell[:40]!r} in column {name!r} is no time')
  return float(found[0][0])
