"""Columns of times: which one it is, and its seconds."""

from collections.abc import Sequence
import re
from typing import Any

import numpy as np
import pandas as pd

from metaad_jax.base import DataError
from metaad_jax.data import cells, times, user_files

# Names of columns of numbers that are seconds since some start, or parts.
_UNITS = {
  's': 1.0, 'sec': 1.0, 'secs': 1.0, 'second': 1.0, 'seconds': 1.0, 't': 1.0,
  'time': 1.0, 'elapsed': 1.0, 'timestamp': 1.0, 'ts': 1.0, 'ms': 1e-3,
  'millis': 1e-3, 'milliseconds': 1e-3, 'us': 1e-6, 'min': 60.0,
  'minute': 60.0, 'minutes': 60.0, 'hour': 3600.0, 'hours': 3600.0,
}  # fmt: skip
GOES_WITH = 'goes with '  # said of a column of times of day, and the days
_EPOCHS = ((1e9, 1.0), (1e12, 1e-3), (1e15, 1e-6), (1e18, 1e-9))


def written(stamp: Any) -> Any:
  """A time stamp or the number of a row as JSON holds it."""
  if isinstance(stamp, np.generic):
    return stamp.item()
  return stamp if isinstance(stamp, int | float) else str(stamp)


def find(
  samples: user_files.Samples,
  names: Sequence[str] = (),
  form: str = '',
  time: str = '',
) -> tuple[str, Any, np.ndarray | None, str, str]:
  """Name, stamps [n], seconds [n] of the column of times; a note; the form.

  None of the columns of `names`; without one ('', numbers of rows, None, '',
  ''). `form` is that of dates in a file that was read before, such as
  '%d/%m/%Y', or ''; `time` the column that is wanted, if there are several.
  """
  aside = {c.name: c for c in samples.columns}
  keys = [n for n in samples.keys if n not in names]
  dated = sorted(
    keys, key=lambda n: (n != time, n in aside and aside[n].role != 'time')
  )
  for name in dated:
    found = seconds(name, samples.keys[name], form)
    if found is not None:
      return name, samples.keys[name].array, *found
  return '', np.arange(len(samples.rows)), None, '', ''


def timed(samples: user_files.Samples, wanted: Sequence[str] = ()) -> Any:
  """The same with the column of times aside, if it was taken for a feature.

  Times of day, and numbers that rise under a name such as seconds; none of the
  columns that are `wanted`, and only where no other column holds times.
  """
  roles = {c.name: c for c in samples.columns}
  samples = _joined(samples, roles)
  if any(c.role == 'time' or (c.role == 'id' and _unit(c.name))
         for c in samples.columns):  # fmt: skip
    return samples
  for name in samples.rows:
    x = samples.rows[name]
    if name in wanted or cells.kind_of(x) == 'category':
      continue
    clock = name in roles and roles[name].kind == 'time'
    rises = len(x) > 1 and bool((np.diff(x.to_numpy()) > 0).all())
    if clock or (rises and _unit(name)):
      keys = samples.keys.assign(**{
        name: pd.to_timedelta(_unwrapped(x.to_numpy()), unit='s')
        if clock else x
      })  # fmt: skip
      return samples._replace(
        rows=samples.rows.drop(columns=name), keys=keys,
        columns=tuple(
          c._replace(role='time', why='') if c.name == name else c
          for c in samples.columns
        ),
        notes=tuple(
          n for n in samples.notes if not n.startswith(f'column {name!r}')
        ),
      )  # fmt: skip
  return samples


def _joined(samples, roles):
  """A column of days that repeat takes in that of the times of day."""
  days = [
    c.name for c in samples.columns
    if c.role == 'time' and c.name in samples.keys
    and samples.keys[c.name].duplicated().any()
  ]  # fmt: skip
  if not days:
    return samples
  clocks = {
    n: x for n in [*samples.rows, *samples.keys] if n in roles
    for x in [_clock(samples, n, roles[n])] if x is not None
  }  # fmt: skip
  days = [name for name in days if name not in clocks]
  if len(days) != 1 or len(clocks) != 1:
    return samples
  (day,), ((clock, times_of_day),) = days, clocks.items()
  found = seconds(day, samples.keys[day])
  if found is None or (found[0] % 86400).any():
    return samples
  return samples._replace(
    rows=samples.rows.drop(columns=clock, errors='ignore'),
    keys=samples.keys.drop(columns=clock, errors='ignore').assign(
      **{day: pd.to_datetime(found[0] + times_of_day, unit='s')}
    ),
    columns=tuple(
      c._replace(role='time', why=GOES_WITH + repr(day)) if c.name == clock
      else c for c in samples.columns
    ),
    notes=tuple(
      n for n in samples.notes if not n.startswith(f'column {clock!r}')
    ),
  )  # fmt: skip


def _clock(samples, name, column):
  """[n] seconds of a column of times of day; None if it is none."""
  if name in samples.rows:
    clock = column.kind == 'time' and 'times of day' in column.why
    return samples.rows[name].to_numpy() if clock else None
  try:
    typed = cells.from_values(name, samples.keys[name])
  except DataError:
    return None
  clock = typed.kind == 'time' and 'times of day' in typed.note
  return typed.values.to_numpy() if clock else None


def _unit(name):
  words = re.findall(r'[^\W\d_]+', name.lower())
  return next((_UNITS[w] for w in reversed(words) if w in _UNITS), None)


def seconds(
  name: str, raw: Any, form: str = ''
) -> tuple[np.ndarray, str, str] | None:
  """[n] seconds of a column, a note, the form; None if it holds no times."""
  if form and form != 'ISO8601' and len(raw) and isinstance(raw.iloc[0], str):
    try:
      dates = pd.to_datetime(raw, format=form, utc=True)
      return times.seconds(dates), '', form
    except (ValueError, OverflowError):
      pass
  try:
    typed = cells.from_values(name, raw)
  except DataError:
    return None
  if typed.kind not in ('time', 'number') or not len(typed.values):
    return None
  x = typed.values.to_numpy(np.float64)
  if typed.kind == 'time':
    form, _, other = typed.note.partition('read as ')[2].partition(times.OR)
    doubt = f'dates of {name!r} are read as {form}{times.OR}{other}: write '
    doubt += 'them as 2024-01-31 to be sure'
    return _unwrapped(x), doubt * bool(other), form
  if 'durations' in typed.note:
    return x, '', ''
  low, high = np.nanmin(x), np.nanmax(x)
  for start, unit in _EPOCHS:
    if start < low and high < 2.1 * start:
      return x * unit, '', ''
  unit = _unit(name)
  if unit is None:
    return None
  kind = {1.0: 'seconds', 1e-3: 'milliseconds', 1e-6: 'microseconds'}.get(
    unit, 'minutes' if unit == 60 else 'hours'
  )
  return x * unit, f'column {name!r} is taken for {kind}', ''


def _unwrapped(x):
  """Seconds; times of day go on after midnight."""
  day = np.nanmin(x, initial=0) >= 0 and np.nanmax(x, initial=0) <= 86400
  return x + 86400 * np.cumsum(np.r_[0, np.diff(x) < -43200]) if day else x
