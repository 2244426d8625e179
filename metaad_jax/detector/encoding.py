"""From what users have to numbers: arrays and frames, read and checked once.

A frame's columns are matched by name; text becomes codes, times become seconds,
missing cells NaN.
"""

from collections.abc import Mapping, Sequence
import contextlib
import functools
import numbers
from typing import Any, NamedTuple, Self
import warnings

import numpy as np
import pandas as pd

from metaad_jax import features
from metaad_jax.base import DataError
from metaad_jax.data import cells, episodes, roles
from metaad_jax.detector import sanity
from metaad_jax.training import runs


class Columns(NamedTuple):
  """The columns of the rows of `fit`.

  `levels` are the texts that the codes 0, 1, ... of a column stand for.
  """

  shape: tuple[int, ...]  # of a row: (d,), or (length, channels) of a window
  names: tuple[str, ...] = ()  # of a frame's columns
  levels: Mapping[str, Sequence[str]] = {}

  @property
  def words(self) -> np.ndarray:
    """Numbers of the columns of codes."""
    return np.flatnonzero([name in self.levels for name in self.names])


class Encoded(NamedTuple):
  """Rows as numbers, and the texts [n] of columns of text; None = missing."""

  x: np.ndarray  # [n, *shape] float64; NaN = missing
  columns: Columns
  texts: Mapping[str, np.ndarray] = {}

  def take(self, which: Any) -> Self:
    """Some of the rows, by their numbers."""
    texts = {name: text[which] for name, text in self.texts.items()}
    return self._replace(x=self.x[which], texts=texts)

  def words(self, row: int) -> dict[str, str]:
    """The texts of one row, by column; missing ones left out."""
    words = {name: text[row] for name, text in self.texts.items()}
    return {name: text for name, text in words.items() if text is not None}


def frame(rows: Any, known: Columns | None, grow: bool = False) -> Encoded:
  """Encodes a frame of pandas or polars, or of `columns` and `[name]`.

  The columns of `fit` give the order and the levels; None = these are the rows
  of `fit`. A text without a level gets the code after the last, or becomes a
  level if they may `grow`.

  Raises:
    DataError: for columns that are missing, surplus or of one name, or cells
      that are neither numbers, times nor text.
  """
  columns = {str(name): rows[name] for name in _names(rows, known)}
  if known is not None and known.names:
    columns = {name: columns[name] for name in known.names}
  encoded, levels, texts = [], {}, {}
  grow = grow or known is None
  for name, cells_of in columns.items():
    before = None if known is None else known.levels.get(name, ())
    column = _typed(name, cells_of, before)
    if cells.kind_of(column) == 'number':
      encoded.append(cells.codes(column))
      continue
    levels[name] = list(before or ())
    if grow:
      old = {cells.key(level) for level in levels[name]}
      levels[name] += [
        t for t in column.cat.categories if cells.key(t) not in old
      ]
    texts[name] = column.astype(object).where(column.notna(), None).to_numpy()
    codes = {cells.key(level): code for code, level in enumerate(levels[name])}
    new = [codes.get(cells.key(t), len(codes)) for t in column.cat.categories]
    places = column.cat.codes.to_numpy()  # -1 = missing
    encoded.append(np.array([*new, np.nan], np.float64)[places])
  made = known or Columns((len(columns),), tuple(columns))
  made = made._replace(levels=levels) if grow else made
  return Encoded(np.column_stack(encoded), made, texts)


def warn_of_roles(rows: Any) -> None:
  """Warns, by name, of a frame's columns that are hardly features.

  Ids, times, counters and labels tell where a row stands, and not how the
  entity is; the caller chose the columns, so they stay.
  """
  table = {}
  for name in rows.columns:
    with contextlib.suppress(DataError):
      table[str(name)] = cells.from_values(str(name), rows[name])
  for name, _, _, role, why in roles.report(table, roles.Given()):
    if role != 'feature':
      warnings.warn(
        f'column {name!r} {why}: it is used as a feature; leave it out of X if '
        'it is none',
        stacklevel=5,
      )


def _names(rows, known):
  """The names of a frame's columns, checked against those of `fit`."""
  names = [str(name) for name in rows.columns]
  if len(set(names)) < len(names):
    raise DataError('X has two columns of one name: rename one')
  wanted = names if known is None else known.names or names
  for name in wanted:
    if name not in names:
      raise DataError(f'X lacks column {name!r}')
  for name in names:
    if name not in wanted:
      raise DataError(f'X has a column {name!r} that was not there in fit')
  if not len(rows) or not names:
    raise DataError(
      f'X has {len(rows)} rows and {len(names)} columns: give at least one '
      '(0 sample(s), 0 feature(s) make no table)'
    )
  return list(rows.columns)


def _typed(name, column, levels):
  """A column of numbers or categories, as in `fit` if there are levels."""
  if isinstance(column, pd.Series):  # of `user_files`: typed already
    if column.dtype == np.float64 and not levels:
      return column
    if cells.kind_of(column) == 'category' and levels != ():
      return column
  like = None
  if levels is not None:
    like = pd.Series(pd.Categorical(levels[:1], levels) if levels else [0.0])
  try:
    return cells.from_values(name, column, like=like).values
  except DataError as error:
    raise DataError(f'X: {error}') from error


def check(x: np.ndarray, shape: tuple[int, ...] | None, missing: bool) -> None:
  """A DataError for encoded rows [n, ...] of another shape, infinity, or NaN.

  Any shape will do if it is None; `missing` says whether a table may hold NaN.
  """
  if x.ndim not in (2, 3):
    raise DataError(
      f'X has {x.ndim} dimensions: give rows [n, d] or windows [n, length, '
      'channels]'
    )
  if shape is not None and x.shape[1:] != tuple(shape):
    raise DataError(
      f'X: a row has shape {list(x.shape[1:])}, the run or the fitted rows '
      f'have {list(shape)}'
    )
  missing = missing and x.ndim == 2
  bad = np.isinf(x) if missing else ~np.isfinite(x)
  if bad.any():
    place = tuple(np.argwhere(bad)[0])
    what = 'NaN' if np.isnan(x[place]) else 'infinity'
    raise DataError(
      f'X: row {place[0]} holds {what}: mend it, or '
      + ('write NaN for a missing value' if missing else 'leave out that row')
    )


_LABELS = (
  '0 and 1 (or False and True) mean normal and anomaly, 1 and -1 inlier and '
  'outlier as in scikit-learn; rows that nobody checked go into unlabelled='
)


def labels(y: Any, n: int) -> np.ndarray:
  """[n] int64 labels, 0 = normal and 1 = anomaly.

  Args:
    y: [n] or [n, 1], an array, list or column: of 0 and 1 or of bool, where 1
      is an anomaly; or of 1 and -1 as in scikit-learn's detectors, where -1 is
      an outlier. None = all normal.
    n: number of rows.

  Raises:
    DataError: for anything else: -1 and 0 together, 1 alone (which may mean
      either), text, missing labels.
  """
  if y is None:
    return np.zeros(n, np.int64)
  values = np.asarray(y.to_numpy() if hasattr(y, 'to_numpy') else y)
  values = values[:, 0] if values.shape == (n, 1) else values
  real = lambda value: isinstance(value, numbers.Real | np.bool_)
  known: set[Any] = set()
  if values.shape == (n,) and not np.ma.is_masked(y):
    known = set(values.tolist())
  if not known or not all(map(real, known)) or not known <= {-1, 0, 1}:
    raise DataError(
      f'y must hold one label for each of the {n} rows: {_LABELS}'
    )
  if known >= {-1, 0}:
    raise DataError(
      f'y holds both -1 and 0, which do not go together: {_LABELS}'
    )
  if known == {1} and not isinstance(next(iter(known)), bool):
    raise DataError(
      f'y holds 1 alone, which means inlier or anomaly: {_LABELS}; write True '
      'for anomalies, and leave y out where all rows are normal'
    )
  return (values == (-1 if -1 in known else 1)).astype(np.int64)


_made = functools.lru_cache(maxsize=64)(features.make)


def feature(
  run: runs.Run, columns: Columns, spec: str | None, rate: float | None
) -> features.Feature | None:
  """What a window is turned into for a run; None = rows of a table stay.

  For a run that takes tables of any width `spec` names the features, and `rate`
  is the sampling rate in Hz.
  """
  if len(columns.shape) == 1:
    return None
  if run.layout.shape:
    return run.setup.feature
  spec = spec or features.of_windows(columns.shape[0])
  return _made(spec, columns.shape, rate=rate)


def apply(
  feature: features.Feature | None, reading: sanity.Reading, rows: np.ndarray
) -> np.ndarray:
  """Rows [n, ...] float64 as they came -> [n, ...] float32 for the learner."""
  rows = reading(rows)
  if feature is None or not len(rows):
    return rows
  return np.clip(episodes.transform_rows(feature.apply, rows), -1e18, 1e18)
