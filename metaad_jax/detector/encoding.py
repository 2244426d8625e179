"""From what users have to numbers: arrays and frames, read and checked once.

A frame's columns are matched by name; text becomes codes, times become seconds,
missing cells NaN.
"""

from collections.abc import Mapping, Sequence
import functools
import numbers
import re
from typing import Any, NamedTuple, Self
import warnings

import numpy as np
import pandas as pd

from metaad_jax import features
from metaad_jax.base import DataError
from metaad_jax.data import cells, episodes, formats, roles, user_files
from metaad_jax.data.user_files import Samples
from metaad_jax.detector import sanity
from metaad_jax.training import runs


class Columns(NamedTuple):
  """The columns of the rows of `fit`.

  `levels` are the texts that the codes 0, 1, ... of a column stand for;
  `report` has all columns of a frame, also those that are no features; `empty`
  names those in which nothing was, so that anything may come; `decimal` is the
  sign before the fraction of numbers that were text, '' = there were none.
  """

  shape: tuple[int, ...]  # of a row: (d,), or (length, channels) of a window
  names: tuple[str, ...] = ()  # of a frame's columns
  levels: Mapping[str, Sequence[str]] = {}
  report: tuple[roles.Column, ...] = ()
  empty: tuple[str, ...] = ()
  decimal: str = ''

  @property
  def words(self) -> np.ndarray:
    """Numbers of the columns of codes."""
    return np.flatnonzero([name in self.levels for name in self.names])

  @property
  def header(self) -> tuple[str, ...]:
    """The names of all columns of a frame."""
    return tuple(column.name for column in self.report) or self.names

  def takes(self, data: Mapping[str, Any], name: str) -> bool:
    """Whether a column of a frame holds numbers, as it did in `fit`."""
    kind = getattr(getattr(data[name], 'dtype', None), 'kind', 'O')
    known = name not in self.levels and name not in self.empty
    return known and isinstance(data[name], pd.Series) and kind in 'fiub'

  def like(self, names: Sequence[str]) -> Samples:
    """Some columns as they were in `fit`: their kinds, and all their levels."""
    rows = max([1, *(len(self.levels.get(name, ())) for name in names)])
    frame = {}
    for name in names:
      if name in self.levels:
        levels = self.levels[name]
        values = [*levels, *[None] * (rows - len(levels))]
        frame[name] = pd.Series(pd.Categorical(values, levels))
      else:
        frame[name] = pd.Series(
          np.full(rows, np.nan if name in self.empty else 0.0)
        )
    header, report = self.header or tuple(names), self.report
    report = tuple(column for column in report if column.name in frame)
    return Samples(
      pd.DataFrame(frame), None, None, header, columns=report,
      decimal=self.decimal,
    )  # fmt: skip


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


def is_frame(rows: Any) -> bool:
  """Whether it has named columns: of pandas, polars, arrow, a dict, records."""
  if isinstance(rows, list):
    return bool(rows) and isinstance(rows[0], Mapping)
  if isinstance(rows, Mapping):
    return not hasattr(rows, 'toarray')  # a sparse matrix
  return any(hasattr(rows, n) for n in ('collect', 'column_names', 'columns'))


def read(
  rows: Any, y: Any, known: Columns | None, chosen: Sequence[str] = ()
) -> Samples:
  """Reads a frame as `user_files` does; what was found out is warned of.

  Args:
    rows: see `is_frame`.
    y: see `labels`; of the rows of `fit`.
    known: the columns of `fit`; None = these are its rows.
    chosen: names of columns that are features, whatever they look like; '*' =
      all are.

  Raises:
    DataError: for columns that are missing, surplus or of one name, or cells
      that are neither numbers, times nor text.
  """
  try:
    content = formats.frame(rows)
    data: Any = content.data
    names, plain = list(data), {}
    count = len(next(iter(data.values()), ()))
    if not count:
      raise DataError(
        f'it has 0 rows and {len(names)} columns: give at least one (0 '
        'sample(s), 0 feature(s) make no table)'
      )
    if known is None:
      roles.Given(features=tuple(chosen)).check(names)
      more: dict[str, Any] = {'features': chosen}
    else:
      check_names(names, known)
      wanted = known.names or names
      plain = {name: data[name] for name in wanted if known.takes(data, name)}
      rest = [name for name in wanted if name not in plain]
      if not rest:
        return Samples(pd.DataFrame(plain), None, None, ())
      more = {'like': known.like(rest)}
      content = content._replace(data={name: data[name] for name in rest})
    samples = user_files.from_frame(content, labels(y, count), **more)
    rows = pd.concat([samples.rows, pd.DataFrame(plain)], axis=1)
  except DataError as error:
    text = str(error)
    text = text if text.startswith('y ') else f'X: {_said(text)}'
    raise DataError(text) from error
  for note in samples.notes:
    warnings.warn(f'X: {_said(note)}', stacklevel=5)
  return samples._replace(rows=rows)


def warn_of_roles(rows: Any) -> None:
  """Warns, by name, of a frame's columns that are hardly channels."""
  report = user_files.from_frame(rows, np.zeros(len(rows))).columns
  for name, _, _, role, why in report:
    if role != 'feature':
      warnings.warn(
        f'column {name!r} {why}: it is used as a feature; leave it out of X if '
        'it is none',
        stacklevel=5,
      )


def _said(line):
  """A line of the reader, with what to write in Python for its flags."""
  for flag, words in (
    (r'--features=([^;]*)', r"features=['\1']"),
    (r'--label=[^;]*', 'give them as y'),
    (r'--ignore=.*', 'leave it out'),
    (r'--(?=features:)', ''),
  ):
    line = re.sub(flag, words, line)
  return line


def check_names(names: Sequence[str], known: Columns) -> None:
  """A DataError if columns of `fit` are missing, or there are others."""
  wanted = known.names or names
  for name in wanted:
    if name not in names:
      raise DataError(f'it lacks column {name!r}')
  for name in names:
    if name not in wanted and name not in known.header:
      raise DataError(f'it has a column {name!r} that was not there in fit')


def encode(
  samples: Samples, known: Columns | None, grow: bool = False
) -> Encoded:
  """Encodes a table that was read.

  The columns of `fit` give the order and the levels; None = these are the rows
  of `fit`. A text without a level gets the code after the last, or becomes a
  level if they may `grow`.
  """
  rows, levels, texts, encoded = samples.rows, {}, {}, []
  grow = grow or known is None
  made = known or Columns(
    rows.shape[1:], tuple(rows), {}, samples.columns,
    tuple(rows.columns[rows.isna().all()]), samples.decimal,
  )  # fmt: skip
  for name in made.names or rows:
    column = rows[name]
    if cells.kind_of(column) == 'number':
      encoded.append(cells.codes(column))
      continue
    levels[name] = list(made.levels.get(name, ()))
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
  made = made._replace(levels={**made.levels, **levels}) if grow else made
  return Encoded(np.column_stack(encoded), made, texts)


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
