"""Series as users have them, put on even steps of time.

Arrays and frames with a time index or a column of times. What is found out is
said in notes; what is missing for long is left to `pieces`, which cuts there.
"""

from collections.abc import Callable, Sequence
import functools
import re
from typing import Any, NamedTuple
import warnings

import numpy as np
import pandas as pd

from metaad_jax.base import DataError
from metaad_jax.data import cells, moments, times, user_files

LONGEST_GAP = 8  # samples in a row that are filled in by interpolation
_LARGEST = 1e100  # of a value: beyond it squares are infinite
_DURATION = re.compile(r'(\d+(\.\d+)?\s*[a-z]+\s*)+', re.IGNORECASE)
_OFFSET = r':\d\d(?:\.\d*)? ?([+-])(\d\d):?(\d\d)?$'  # of a clock from UTC
_WILD = 100  # quartile ranges from the median: see `doubts`
_LOOSE, _SOME = 0.25, 0.01  # of a step; share of steps that may deviate more


class Timeline(NamedTuple):
  """A series on even steps.

  Attributes:
    values: [m, C] float64; NaN = missing. Of a long gap only so many rows stand
      here that it is seen.
    at: [n] the row of `values` of each row that was given.
    stamps: [n] times of the rows as they were given, or their numbers: an
      array of NumPy or pandas.
    seconds: [n] float64 since 1970, or since some start; None without times.
    step: seconds from one row of `values` to the next, or None.
    names: of the channels; () if they have none.
    time: name of the column of times, or ''.
    labels: [n] as in `user_files.Samples`, or None.
    notes: what the user should know, a line each.
    form: of its dates, such as '%d/%m/%Y', or ''.
  """

  values: np.ndarray
  at: np.ndarray
  stamps: Any
  seconds: np.ndarray | None = None
  step: float | None = None
  names: tuple[str, ...] = ()
  time: str = ''
  labels: np.ndarray | None = None
  notes: tuple[str, ...] = ()
  form: str = ''


def read(
  series: Any, names: Sequence[str] = (), resample: str = ''
) -> Timeline:
  """A series [n] or [n, channels]: an array, a list, or a frame.

  Args:
    series: of NumPy, pandas, polars or pyarrow, or nested lists. Of a frame
      times, ids and labels are set aside by `user_files`, which is noted.
    names: of the channels that are wanted, in their order; () = all.
    resample: width of the bins of time that are averaged, such as '10s';
      '' = samples are taken as they come.

  Raises:
    DataError: for what is no series, in one line.
  """
  if isinstance(series, Timeline):
    return series
  if hasattr(series, 'collect') and not hasattr(series, '__len__'):
    series = series.collect()  # polars, lazy
  if isinstance(series, pd.Series):
    samples = user_files.from_frame(series.to_frame('x'), features=('x',))
    return of_samples(samples, (), resample)._replace(names=())
  if hasattr(series, 'columns') or isinstance(series, dict):
    samples = user_files.from_frame(series, features=tuple(names))
    line = of_samples(samples, names, resample)
    aside = f'column {line.time!r} '  # is no feature, as it should
    return line._replace(
      notes=tuple(
        note for note in line.notes
        if not (note.startswith(aside) and 'no feature' in note)
      )
    )  # fmt: skip
  values = _array(series)
  if resample:
    raise DataError(f'resample={resample!r} needs time stamps: give a frame')
  count = np.arange(len(values))
  return Timeline(values, count, count)


def _array(series):
  """[n, C] float64."""
  try:
    if hasattr(series, 'to_numpy'):
      series = series.to_numpy()
    if np.ma.is_masked(series):
      series = np.ma.filled(np.ma.asarray(series).astype(np.float64), np.nan)
    x = np.asarray(series)
    if x.dtype.kind not in 'biufO':
      raise TypeError(f'it holds {x.dtype}')
    x = x.astype(np.float64)
  except (TypeError, ValueError) as error:
    raise DataError(f'the series cannot be read as numbers: {error}') from error
  if x.ndim not in (1, 2) or not x.size:
    raise DataError(f'a series is [n] or [n, channels], not {list(x.shape)}')
  return _sound(x.reshape(len(x), -1))


def _sound(x, names=()):
  """The values, if they are all ones that can be computed with."""
  absurd = np.abs(x) > _LARGEST
  if absurd.any():
    row, channel = np.argwhere(absurd)[0]
    name = names[channel] if names else channel
    raise DataError(
      f'row {row} of channel {name} holds {x[row, channel]:g}: write NaN where '
      'nothing was measured'
    )
  return x


def of_samples(
  samples: user_files.Samples, names: Sequence[str] = (), resample: str = '',
  form: str = '', time: str = '',
) -> Timeline:  # fmt: skip
  """What a file or a frame holds, as a series; arguments and errors of `read`.

  Its columns of words are left out, which is noted. `form` is that of dates in
  the file that was fitted to, `time` the column of times, if there are several.
  """
  if not isinstance(samples.rows, pd.DataFrame):
    raise DataError('it holds windows: a series is [n] or [n, channels]')
  samples = moments.timed(samples, names)
  rows, notes = samples.rows, [*samples.notes]
  time, stamps, seconds, note, form = moments.find(samples, names, form, time)
  notes += [note] * bool(note)
  words = [n for n in rows if cells.kind_of(rows[n]) == 'category']
  notes += [f'column {n!r} holds words: left out' for n in words]
  free = [n for n in rows if n not in words and n != time]
  if names:
    for name in names:
      if name not in free:
        raise DataError(f'channel {name!r} of fit is missing: give it')
    extra = [n for n in free if n not in names]
    notes += [f'channel {n!r} was not there in fit: left out' for n in extra]
    free = list(names)
  if not free:
    raise DataError('it holds no column of numbers')
  x = _sound(rows[free].to_numpy(np.float64), free)
  made = Timeline(
    x, np.arange(len(x)), stamps, seconds, None, tuple(free), time,
    samples.labels, tuple(notes), form,
  )  # fmt: skip
  return _evened(made, resample)


def _evened(line, resample):
  """The timeline with its rows on even steps of time."""
  if line.seconds is None:
    if resample:
      raise DataError(
        f'resample={resample!r} needs time stamps, and there is no column of '
        'times'
      )
    return line
  seconds, stamps = line.seconds, line.stamps
  where = f' in {line.time!r}' if line.time not in ('', 'index') else ''
  if np.isnan(seconds).any():
    row = int(np.flatnonzero(np.isnan(seconds))[0])
    raise DataError(f'row {row} has no time stamp{where}: leave it out')
  if len(seconds) < 2:
    return line
  if (np.diff(seconds) < 0).all():
    back = slice(None, None, -1)
    note = f'the newest row{where} comes first: rows are taken from the last on'
    turned = _evened(
      line._replace(values=line.values[back], seconds=seconds[back]), resample
    )
    return turned._replace(
      at=turned.at[back], seconds=seconds, notes=(*turned.notes, note)
    )
  steps = np.diff(seconds)
  again = ~(steps > 0) if not resample else steps < 0
  if again.any():
    row = int(np.flatnonzero(again)[0]) + 1
    does = 'repeats' if steps[row - 1] == 0 else 'goes back'
    mend = 'sort the rows and drop copies'
    if does == 'repeats':
      mend += ", or resample, as in resample='1min'"
    elif -3600 <= steps[row - 1] and len(again.nonzero()[0]) < 3:
      mend += '; if summer time ends there, write times in UTC'
    raise DataError(
      f'the time stamp {stamps[row]}{where} of row {row} {does}: {mend}'
    )
  return _binned(line, resample) if resample else _placed(line, where)


def _placed(line, where):
  """Rows at the nearest even step; irregular ones as they come."""
  steps = np.diff(line.seconds)
  step = float(np.median(steps))
  many = steps / step
  whole = np.maximum(np.round(many), 1)
  odd, notes = np.mean(np.abs(many - whole) > _LOOSE) > _SOME, line.notes
  if odd:
    whole = np.where(many > LONGEST_GAP + 1, many, 1)
    notes += (
      f'time stamps{where} are irregular, {steps.min():.4g} to '
      f'{steps.max():.4g} s apart: samples are taken as they come; if time '
      f"matters, resample, as in resample='{max(1, round(step))}s'",
    )
  elif (whole > 1).any():
    notes += (
      f'{int(whole.sum() - len(whole))} time stamps{where} are not there: '
      f'samples are missing, {int(whole.max() - 1)} in a row at most',
    )
  at = _capped(whole)
  values = np.full((at[-1] + 1, line.values.shape[1]), np.nan)
  values[at] = line.values
  return line._replace(values=values, at=at, step=step, notes=notes)


def _capped(steps):
  """[n] rows: steps between them, of long gaps as many as show the gap."""
  steps = np.minimum(steps, LONGEST_GAP + 2).astype(np.int64)
  return np.cumsum(np.r_[0, steps])


def width_of(resample: str) -> float:
  """Seconds of '10s', '5min', '1h', 'D'."""
  try:
    offset = pd.tseries.frequencies.to_offset(resample.strip())
    width = pd.Timedelta(offset).total_seconds()
    if width > 0:
      return width
  except (ValueError, TypeError):
    pass
  raise DataError(f"resample={resample!r}: say it as '10s', '5min' or '1h'")


def _binned(line, resample):
  """Means over bins of time; an empty bin is missing."""
  width = width_of(resample)
  step = float(np.median(np.diff(line.seconds)))
  if width < 0.5 * step:
    raise DataError(
      f'resample={resample!r} is finer than the time stamps, {step:g} s apart: '
      'choose a coarser one'
    )
  bins = np.floor(line.seconds / width).astype(np.int64)
  at = _capped(np.diff(bins))
  known = np.isfinite(line.values)
  sums, counts = np.zeros((2, at[-1] + 1, line.values.shape[1]))
  np.add.at(sums, at, np.where(known, line.values, 0))
  np.add.at(counts, at, known)
  values = np.full(sums.shape, np.nan)
  np.divide(sums, counts, out=values, where=counts > 0)
  return line._replace(values=values, at=at, step=width)


# --- missing values ----------------------------------------------------------


def without_anomalies(line: Timeline) -> Timeline:
  """The series without the rows that are labelled as anomalies."""
  if line.labels is None or not (line.labels == 1).any():
    return line
  bad = line.labels == 1
  values = line.values.copy()
  values[line.at[bad]] = np.nan
  note = (
    f'{bad.sum()} rows of the healthy part are labelled anomalous: left out'
  )
  return line._replace(values=values, notes=(*line.notes, note))


def split(line: Timeline, row: int) -> tuple[Timeline, Timeline]:
  """The series before a row, and from it on."""
  begin, end = line.at[row], line.at[row - 1] + 1
  part = lambda x, which: None if x is None else x[which]
  made = [
    line._replace(
      values=line.values[some], at=line.at[which] - line.at[which][0],
      stamps=line.stamps[which], seconds=part(line.seconds, which),
      labels=part(line.labels, which),
    )
    for some, which in (
      (slice(end), slice(row)), (slice(begin, None), slice(row, None))
    )
  ]  # fmt: skip
  return made[0], made[1]


def row_of(until: str, line: Timeline) -> int:
  """The first row that does not lie before a time.

  Args:
    until: a number of rows; a duration from the start, such as '3 days'; or a
      time stamp.
    line: the series.

  Raises:
    DataError: if it makes no sense, or no row or all of them lie before it.
  """
  if line.seconds is not None and line.seconds[-1] < line.seconds[0]:
    raise DataError(
      'the newest row comes first: sort the rows by time, to say until when '
      'they are healthy'
    )
  if re.fullmatch(r'\d+', until.strip()):
    row = int(until)
  elif line.seconds is None:
    raise DataError(
      f'{until!r} is a time, and no column holds time stamps: give a number of '
      'rows, or name the column of times'
    )
  else:
    moment, clock = _moment(until, line)
    row = int(np.append(clock >= moment, True).argmax())
  if not 0 < row < len(line.at):
    ends = f', from {line.stamps[0]} to {line.stamps[-1]}' * bool(line.time)
    raise DataError(
      f'{"no" if row < 1 else "every"} row lies before {until!r}: the series '
      f'has {len(line.at)} rows{ends}'
    )
  return row


def _moment(until, line):
  """Seconds of a time, and [n] of the rows on the clock that it is read on."""
  assert line.seconds is not None
  if _DURATION.fullmatch(until.strip()):
    try:
      length = pd.Timedelta(until).total_seconds()
      return line.seconds[0] + length, line.seconds
    except ValueError:
      pass
  given = times.forms(line.form) if '%' in line.form else []
  ways: list[Callable] = [
    functools.partial(pd.to_datetime, format=form)
    for form in (*given, 'ISO8601')
  ]
  if not line.form and isinstance(line.stamps[0], str):  # of several forms
    ways.append(times.either)
  for read_as in ways:
    try:
      date = read_as(until.strip())
    except (ValueError, OverflowError):
      continue
    ahead = 0.0 if date.tzinfo else _offsets(until, line)
    return date.timestamp(), line.seconds + ahead
  raise DataError(
    f'{until!r} is no time: write it as in the file or as 2024-01-31 12:00, as '
    "a duration such as '3 days', or as a number of rows"
  )


def _offsets(until, line):
  """Seconds by which clocks of rows are ahead of UTC: 0, [n] or 1 of all."""
  if hasattr(line.stamps, 'tz') and line.stamps.tz is not None:
    clock = pd.Series(pd.DatetimeIndex(line.stamps).tz_localize(None))
    ahead = times.seconds(clock) - line.seconds
  else:
    found = pd.Series(line.stamps).astype(str).str.extract(_OFFSET)
    if found[0].isna().all():
      return 0.0
    sign = np.where(found[0] == '-', -60, 60)
    hours, minutes = (found[i].fillna('0').astype(int) for i in (1, 2))
    ahead = sign * (60 * hours + minutes).to_numpy()
  if len(np.unique(ahead)) > 1:
    warnings.warn(
      f'clocks of rows are {ahead.min() / 3600:+g} to {ahead.max() / 3600:+g} '
      f'hours from UTC: {until!r} is read on them, the first time if it comes '
      'twice; write its offset to mean another',
      stacklevel=4,
    )
  return ahead


def doubts(
  x: np.ndarray, still: np.ndarray, names: Sequence[str] = ()
) -> list[str]:
  """What is to be said of the channels of a healthy part [n, C].

  Of those that are taken for constant (`still` [C]) though they are not, and of
  single values that are so far out that all else is flat beside them.
  """
  name = lambda c: names[c] if names else c
  said = [
    f'channel {name(c)} varies by less than a billionth of its mean and is '
    'taken for constant: subtract its mean'
    for c in np.flatnonzero(still & (np.ptp(x, 0) > 0))
  ]
  flat = np.ptp(x, 0) == 0
  if flat.any() and not flat.all():
    some = [str(name(c)) for c in np.flatnonzero(flat)]
    said.append(
      f'{", ".join(some[:5])}{", ..." * (len(some) > 5)} never moved in the '
      'healthy part: the first time is an event, however usual it is'
    )
  low, middle, high = np.percentile(x, [25, 50, 75], axis=0)
  away = np.abs(x - middle)
  for c in np.flatnonzero(~still & (away.max(0) > _WILD * (high - low))):
    row = int(away[:, c].argmax())
    if (
      high[c] > low[c]
      and away[row, c] > 3 * np.sort(away[:, c])[-1 - len(x) // 50]
    ):
      said.append(
        f'sample {row} of channel {name(c)} of the healthy part is '
        f'{x[row, c]:.4g}, {away[row, c] / (high[c] - low[c]):.0f} times as '
        'far from the median as the quartiles are apart: all else is flat '
        'beside it; leave it out if it is an error'
      )
  return said


class Piece(NamedTuple):
  """A part without long gaps: rows start to stop of `values`, filled in."""

  start: int
  values: np.ndarray  # [stop - start, C] without NaN


def pieces(line: Timeline) -> tuple[list[Piece], str]:
  """The parts of a series between long gaps, and a note on those.

  Up to `LONGEST_GAP` samples in a row are interpolated. A row counts as missing
  where any channel is.

  Raises:
    DataError: if a channel holds no value.
  """
  x = line.values
  missing = np.isnan(x)
  if not missing.any():
    return [Piece(0, x)], ''
  if missing.all(0).any():
    channel = int(np.argmax(missing.all(0)))
    name = line.names[channel] if line.names else channel
    raise DataError(f'channel {name} holds no value at all: leave it out')
  gone = np.zeros(len(x), bool)
  longest = 0
  for channel in missing.T:
    starts, stops = runs(channel)
    for start, stop in zip(starts, stops, strict=True):
      if stop - start > LONGEST_GAP:
        gone[start:stop] = True
        longest = max(longest, stop - start)
  x = pd.DataFrame(x).interpolate(limit_direction='both').to_numpy()
  found = [Piece(a, x[a:b]) for a, b in zip(*runs(~gone), strict=True)]
  if not gone.any():
    return found, ''
  of = ''
  if line.names and len(line.names) > 1:
    lost = [
      n for n, column in zip(line.names, missing.T, strict=True)
      if (column & gone).any()
    ]  # fmt: skip
    of = f' of {", ".join(lost[:3])}{", ..." if len(lost) > 3 else ""}'
  count = len(runs(gone)[0])
  return found, (
    f'{count} stretch{"es" if count > 1 else ""} of more than {LONGEST_GAP} '
    f'missing values{of}: nothing is said there'
  )


def runs(flags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Where the runs of ones in flags [n] start and stop."""
  change = np.diff(np.r_[0, flags.astype(np.int8), 0])
  return np.flatnonzero(change > 0), np.flatnonzero(change < 0)
