"""Columns of times: which one it is, and its seconds."""

from collections.abc import Sequence
import re
from typing import Any

import numpy as np
import pandas as pd

from metaad_jax.base import DataError
from metaad_jax.data import cells, user_files

# Names of columns of numbers that are seconds since some start, or parts.
_UNITS = {
  's': 1.0, 'sec': 1.0, 'secs': 1.0, 'second': 1.0, 'seconds': 1.0, 't': 1.0,
  'time': 1.0, 'elapsed': 1.0, 'timestamp': 1.0, 'ts': 1.0, 'ms': 1e-3,
  'millis': 1e-3, 'milliseconds': 1e-3, 'us': 1e-6, 'min': 60.0,
  'minute': 60.0, 'minutes': 60.0, 'hour': 3600.0, 'hours': 3600.0,
}  # fmt: skip
_EPOCHS = ((1e9, 1.0), (1e12, 1e-3), (1e15, 1e-6), (1e18, 1e-9))


def written(stamp: Any) -> Any:
  """A time stamp or the number of a row as JSON holds it."""
  if isinstance(stamp, np.generic):
    return stamp.item()
  return stamp if isinstance(stamp, int | float) else str(stamp)


def find(
  samples: user_files.Samples, names: Sequence[str] = ()
) -> tuple[str, Any, np.ndarray | None, str]:
  """Name, stamps [n], seconds [n] of the column of times, and a note.

  None of the columns of `names`; without one ('', numbers of rows, None, '').
  """
  aside = {c.name: c for c in samples.columns}
  keys = [n for n in samples.keys if n not in names]
  dated = sorted(keys, key=lambda n: n in aside and aside[n].role != 'time')
  for name in dated:
    found = seconds(name, samples.keys[name])
    if found is not None:
      return name, samples.keys[name].array, *found
  return '', np.arange(len(samples.rows)), None, ''


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
    if c.role == 'time' and samples.keys[c.name].duplicated().any()
  ]  # fmt: skip
  clocks = [
    n for n in samples.rows
    if n in roles and roles[n].kind == 'time' and 'times of day' in roles[n].why
  ]  # fmt: skip
  if len(days) != 1 or len(clocks) != 1:
    return samples
  (day,), (clock,) = days, clocks
  found = seconds(day, samples.keys[day])
  if found is None or (found[0] % 86400).any():
    return samples
  moment = pd.to_datetime(
    found[0] + samples.rows[clock].to_numpy(), unit='s'
  )  # fmt: skip
  return samples._replace(
    rows=samples.rows.drop(columns=clock),
    keys=samples.keys.assign(**{day: moment}),
    columns=tuple(
      c._replace(role='time', why=f'goes with {day!r}') if c.name == clock
      else c for c in samples.columns
    ),
    notes=tuple(
      n for n in samples.notes if not n.startswith(f'column {clock!r}')
    ),
  )  # fmt: skip


def _unit(name):
  words = re.findall(r'[^\W\d_]+', name.lower())
  return next((_UNITS[w] for w in reversed(words) if w in _UNITS), None)


def seconds(name: str, raw: Any) -> tuple[np.ndarray, str] | None:
  """[n] seconds of a column and a note; None if it holds no times."""
  try:
    typed = cells.from_values(name, raw)
  except DataError:
    return None
  if typed.kind not in ('time', 'number') or not len(typed.values):
    return None
  x = typed.values.to_numpy(np.float64)
  if typed.kind == 'time':
    return _unwrapped(x), ''
  if 'durations' in typed.note:
    return x, ''
  low, high = np.nanmin(x), np.nanmax(x)
  for start, unit in _EPOCHS:
    if start < low and high < 2.1 * start:
      return x * unit, ''
  unit = _unit(name)
  if unit is None:
    return None
  kind = {1.0: 'seconds', 1e-3: 'milliseconds', 1e-6: 'microseconds'}.get(
    unit, 'minutes' if unit == 60 else 'hours'
  )
  return x * unit, f'column {name!r} is taken for {kind}'


def _unwrapped(x):
  """Seconds; times of day go on after midnight."""
  day = np.nanmin(x, initial=0) >= 0 and np.nanmax(x, initial=0) <= 86400
  return x + 86400 * np.cumsum(np.r_[0, np.diff(x) < -43200]) if day else x
