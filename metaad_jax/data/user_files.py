"""Rows from a user's own files and frames, typed once.

.csv, .tsv, .txt and JSON lines (also in .gz, .zip, .xz or .bz2), .xlsx,
.parquet, .npy, .npz and .wav; frames of pandas and polars, arrow tables and
arrays. What is found out about a file is said in its notes and in a report of
the columns; what stays doubtful is refused. See `cells` for what a cell means.
"""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from metaad_jax import storage
from metaad_jax.base import DataError
from metaad_jax.data import cells, formats, series, text_files
from metaad_jax.data import roles as roles_lib


class Samples(NamedTuple):
  """What a file or a frame holds.

  Attributes:
    rows: a DataFrame of float64 columns (NaN = missing) and of categories of
      text; or windows [n, length, channels] float64.
    labels: [n] int64, 0 = normal, 1 = anomaly, -1 = unlabelled; or None.
    rate: sampling rate in Hz of a .wav, else None.
    header: names of all columns in their order, also of those that are not in
      `rows`; () for windows.
    label: name of the column of labels, or ''.
    keys: [n] ids and times as they stand in the file, to join on: columns that
      are no features for that reason, and the index of a frame.
    columns: the report, one entry per column.
    notes: what the user should know of how the file was read, a line each.
    dialect: of a text file, else None.
    decimal: the sign before the fraction of numbers that are text.
  """

  rows: Any
  labels: np.ndarray | None
  rate: float | None
  header: tuple[str, ...]
  label: str = ''
  keys: pd.DataFrame = pd.DataFrame()
  columns: tuple[roles_lib.Column, ...] = ()
  notes: tuple[str, ...] = ()
  dialect: text_files.Dialect | None = None
  decimal: str = ''


class _Options(NamedTuple):
  """Of `read` and `from_frame`."""

  label: str = ''
  anomaly_label: str = ''
  ignore: Sequence[str] = ()
  features: Sequence[str] = ()
  time: str = ''
  id: str = ''
  like: Samples | pd.DataFrame | None = None
  window: int = 0

  def known(self) -> pd.DataFrame | None:
    """The known rows."""
    rows = self.like.rows if isinstance(self.like, Samples) else self.like
    return rows if isinstance(rows, pd.DataFrame) else None


def read(path: str, **options: Any) -> Samples:
  """Reads a file; its suffix says how.

  Args:
    path: of the file.
    **options: `label`, name of the column of labels: '' = one that is called
      label, y, anomaly, Class or alike and holds labels, 'none' = there is
      none. `anomaly_label`, the word that marks an anomaly, where the labels
      are words whose meaning is not known; every other word is normal then.
      `ignore`, names of columns to leave out. `features`, names of columns that
      are features though they look like ids, times or labels, which are set
      aside; '*' = all. `time` and `id`, names (parted by commas) of columns
      that are no features, and travel with the rows. `like`, what was read of
      the known rows: what a column is there, it is here. `window`, cut a
      recording, a .wav or the rows of a table, into windows of so many samples;
      a rest is left out; 0 = do not; needed for .wav.

  Raises:
    DataError: if the file is missing, broken or empty, or a cell or label makes
      no sense, or there is no column of a name.
  """
  chosen = _Options(**options)
  suffix = formats.suffix(path)
  if chosen.window < 0 or (suffix == '.wav' and not chosen.window):
    raise DataError(f'{path}: say how many samples a window has: --window=2048')
  try:
    content = formats.load(path, getattr(chosen.like, 'decimal', ''))
  except FileNotFoundError as error:
    raise DataError(f'{path} is not there') from error
  except DataError as error:
    raise DataError(f'{path}, {error}') from error
  except storage.BROKEN as error:
    raise DataError(
      f'{path} cannot be read as {suffix}: {storage.reason(error)}; objects '
      'and pickles are refused'
    ) from error
  try:
    return _samples(content, chosen)
  except DataError as error:
    raise DataError(f'{path}: {error}') from error


def from_frame(
  table: Any, labels: np.ndarray | None = None, **options: Any
) -> Samples:
  """Types a frame as `read` does a file.

  Args:
    table: of pandas or polars (also lazy), an arrow table, a dict of columns, a
      list of records, or an array [n, d] or [n, length, channels]; what is
      masked is missing.
    labels: [n] 0 = normal, 1 = anomaly, where they are known apart: a column
      that looks like labels is ignored then.
    **options: see `read`.

  Raises:
    DataError: see `read`.

  Example:
    >>> frame = pd.DataFrame({'id': range(9), 'heat': [20.0, 21.5, 19.0] * 3})
    >>> samples = from_frame(frame)
    >>> list(samples.rows), list(samples.keys)
    (['heat'], ['id'])
  """
  content = formats.frame(table)
  if labels is not None:
    content = content._replace(labels=labels)
  return _samples(content, _Options(**options))


def holds_table(path: pathlib.Path) -> bool:
  """Whether the suffix is that of a table or of arrays."""
  try:
    suffix = formats.suffix(str(path))
  except DataError:
    return False
  return suffix not in ('.txt', '.dat', '.json', '.wav')


def row(
  values: Mapping[str, str], like: pd.DataFrame, decimal: str = '.'
) -> pd.DataFrame:
  """One row of text, cells by name, as a frame of the columns of known rows."""
  return pd.DataFrame(
    {
      n: cells.typed(n, [values[n]], like=like[n], decimal=decimal).values
      for n in like.columns
    }
  )


def _decimal(content, raw, like):
  """The sign before fractions in text, and notes on it; see `_typed`."""
  if content.text:
    return content.text.dialect.decimal, content.notes
  text = {}
  for name, column in content.data.items():
    values = cells.to_series(name, column)
    worded = values.dtype == object or isinstance(values.dtype, pd.StringDtype)
    if name not in raw and worded:
      if pd.api.types.infer_dtype(values, skipna=True) == 'string':
        text[name] = values.dropna().str.strip().tolist()
  known = getattr(like, 'decimal', '')
  sign, doubtful = cells.decimal_sign(text.values(), ',', known)
  notes = [] if known else cells.decimal_notes(sign, doubtful, [*text])
  return sign, (*content.notes, *notes)


def _typed(content, raw, known, decimal) -> dict[str, cells.Typed]:
  """The columns, typed; those of `raw` kinds are left as they are."""
  table = {}
  for name, column in content.data.items():
    like = None if known is None else known.get(name)
    if name in raw:
      values = pd.Series(column, dtype=object)
      table[name] = cells.Typed(values, raw[name], '')
    elif content.text:
      table[name] = cells.typed(
        name, column, like=like, decimal=decimal, places=content.text.places
      )
    else:
      table[name] = cells.from_values(name, column, like=like, decimal=decimal)
  return table


def _samples(content, options):
  """Puts labels, ids and what is to be ignored aside, and cuts windows."""
  labels, window = content.labels, options.window
  if isinstance(content.data, np.ndarray):
    if window:
      raise DataError('it holds windows already: leave out --window')
    labels = roles_lib.labels(labels, len(content.data), options.anomaly_label)
    return Samples(content.data, labels, None, ())
  known = options.known()  # None of windows, and if there is none
  given = roles_lib.Given(
    options.label, options.ignore, options.features,
    *(tuple(filter(None, x.split(','))) for x in (options.time, options.id)),
  )  # fmt: skip
  reported = () if known is options.like else options.like.columns
  if reported:
    given = given.as_in(reported)
  elif known is not None:
    given = given._replace(features=(*given.features, *known))
  if isinstance(options.like, Samples):
    content = _renamed(content, options.like.header)
    given.check([*content.data, *options.like.header])
  raw = {c.name: c.kind for c in reported if c.role in ('id', 'time')}
  raw = {n: k for n, k in raw.items() if n not in given.features}
  raw |= dict.fromkeys(given.ignore, 'ignored')
  decimal, notes = _decimal(content, raw, options.like)
  table = _typed(content, raw, known, decimal)
  report = roles_lib.report(table, given, labels is None)
  if labels is None:
    label = next((c.name for c in report if c.role == 'label'), '')
    labels = table[label].values if label else None
    roles_lib.check_name(label, labels, options.anomaly_label)
  count = len(next(iter(table.values())).values) if table else 0
  labels = roles_lib.labels(labels, count, options.anomaly_label)
  of = lambda *kinds: [c.name for c in report if c.role in kinds]
  if labels is not None and not reported:
    free = [name for name in of('feature') if name not in given.features]
    echoes = roles_lib.echoes(table, free, labels)
    report = tuple(
      c._replace(role='ignored', why='says the same as the labels')
      if c.name in echoes else c
      for c in report
    )  # fmt: skip
  rows = pd.DataFrame({name: table[name].values for name in of('feature')})
  keys = {name: pd.Series(content.data[name]) for name in of('id', 'time')}
  if not rows.columns.size:
    raise DataError(
      f'it holds no column to score: {", ".join(table)}; to score one of them '
      f'all the same, --features={"".join(list(table)[-1:])}'
    )
  if not len(rows):
    raise DataError('it holds no rows')
  keys = pd.DataFrame({**content.row_names, **keys})
  notes += roles_lib.notes(report, rows, known, reported)
  if known is None:
    notes += roles_lib.long_format(rows, keys)
  samples = Samples(
    rows, labels, content.rate, tuple(table), next(iter(of('label')), ''),
    keys, report, notes, content.text and content.text.dialect, decimal,
  )  # fmt: skip
  return _windows(samples, window) if window else samples


def _renamed(content, known):
  """Columns by the names of the known rows, where these are spelt otherwise."""
  names = roles_lib.same_names(content.data, known)
  if not names:
    return content
  data = {names.get(name, name): x for name, x in content.data.items()}
  told = ', '.join(
    f'{new!r} is taken for {old!r}' for new, old in names.items()
  )
  return content._replace(data=data, notes=(*content.notes, f'column {told}'))


def _windows(samples, window):
  frame, labels = samples.rows, samples.labels
  words = frame.columns[frame.dtypes == 'category']
  if len(words):
    raise DataError(
      f'column {words[0]!r} holds words, and windows are cut from numbers: '
      '--ignore it'
    )
  if len(frame) < window:
    raise DataError(
      f'it holds {len(frame)} samples, fewer than --window={window}'
    )
  signal = series.cut(frame.to_numpy(np.float64), window)
  if window == 1:
    signal = signal[:, None]
  if labels is not None:
    parts = series.cut(labels, window).reshape(-1, window)
    known = (parts >= 0).all(1)
    labels = np.where((parts == 1).any(1), 1, np.where(known, 0, -1))
  keys = samples.keys.iloc[: len(signal) * window : window]
  rest = len(frame) - len(signal) * window
  notes = samples.notes
  if rest:
    notes += (f'the last {rest} of {len(frame)} rows fill no window: left out',)
  return samples._replace(
    notes=notes,
    rows=np.ascontiguousarray(signal),
    labels=labels,
    keys=keys.reset_index(drop=True),
  )
