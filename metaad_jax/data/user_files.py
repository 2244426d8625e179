"""Rows from a user's own files, typed once.

.csv, .tsv and .txt (also in .gz, .zip, .xz or .bz2), .parquet, .npy, .npz and
.wav. What is found out about a file is said in its notes and in a report of the
columns; what stays doubtful is refused. See `cells` for what a cell means.
"""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any, NamedTuple
import warnings

import numpy as np
import pandas as pd
import scipy.io.wavfile

from metaad_jax import storage
from metaad_jax.base import DataError
from metaad_jax.data import cells, series, text_files
from metaad_jax.data import roles as roles_lib

_TEXT = ('.csv', '.tsv', '.txt')
_TABLES = ('.csv', '.tsv', '.parquet', '.npy', '.npz')
SUFFIXES = (*_TEXT, '.parquet', '.npy', '.npz', '.wav')


class Samples(NamedTuple):
  """What a file holds.

  Attributes:
    rows: a DataFrame of float64 columns (NaN = missing) and of categories of
      text; or windows [n, length, channels] float64.
    labels: [n] int64, 0 = normal, 1 = anomaly, -1 = unlabelled; or None.
    rate: sampling rate in Hz of a .wav, else None.
    header: names of all columns in their order, also of those that are not in
      `rows`; () for windows.
    label: name of the column of labels, or ''.
    keys: the columns that were set aside as ids or times.
    columns: the report, one entry per column.
    notes: what the user should know of how the file was read, a line each.
    dialect: of a text file, else None.
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


def read(
  path: str,
  *,
  label: str = '',
  anomaly_label: str = '',
  ignore: Sequence[str] = (),
  features: Sequence[str] = (),
  like: pd.DataFrame | None = None,
  window: int = 0,
) -> Samples:
  """Reads a file; its suffix says how.

  Args:
    path: of the file.
    label: name of the column of labels; '' = one that is called label, y,
      anomaly, Class or alike and holds labels; 'none' = there is none.
    anomaly_label: the word that marks an anomaly, where the labels are words
      whose meaning is not known; every other word is normal then.
    ignore: names of columns to leave out.
    features: names of columns that are features though they look like ids or
      times, which are set aside; '*' = all.
    like: known rows: their columns are features here, of the same kind.
    window: cut a recording, a .wav or the rows of a table, into windows of so
      many samples; a rest is left out. 0 = do not; needed for .wav.

  Raises:
    DataError: if the file is missing, broken or empty, or a cell or label makes
      no sense.
  """
  suffix = _suffix(path)
  if window < 0 or (suffix == '.wav' and not window):
    raise DataError(f'{path}: say how many samples a window has: --window=2048')
  try:
    content = _content(path, suffix, like)
  except FileNotFoundError as error:
    raise DataError(f'{path} is not there') from error
  except DataError as error:
    raise DataError(f'{path}, {error}') from error
  except storage.BROKEN as error:
    raise DataError(
      f'{path} cannot be read as {suffix}: {storage.reason(error)}; objects '
      'and pickles are refused'
    ) from error
  options = _Options(label, anomaly_label, ignore, features, like, window)
  try:
    return _samples(content, options)
  except DataError as error:
    raise DataError(f'{path}: {error}') from error


class _Options(NamedTuple):
  """Of `read`."""

  label: str
  anomaly_label: str
  ignore: Sequence[str]
  features: Sequence[str]
  like: pd.DataFrame | None
  window: int


class _Content(NamedTuple):
  """A file: its columns or windows, and what `Samples` says of it."""

  data: dict[str, cells.Typed] | np.ndarray
  labels: np.ndarray | None = None
  rate: float | None = None
  notes: tuple[str, ...] = ()
  dialect: text_files.Dialect | None = None


def _content(path, suffix, like) -> _Content:
  if suffix not in _TEXT:
    read = {'.wav': _wav, '.parquet': _parquet}.get(suffix, _arrays)
    return read(path)
  notes: list[str] = []
  text = text_files.parse(text_files.decoded(text_files.unpacked(path), notes))
  table = _table(text, like)
  return _Content(table, notes=(*notes, *text.notes), dialect=text.dialect)


def holds_table(path: pathlib.Path) -> bool:
  """Whether the suffix is that of a table or of arrays."""
  suffixes = [s.lower() for s in path.suffixes]
  if suffixes and suffixes[-1] in text_files.PACKED:
    return suffixes[-2:-1] in (['.csv'], ['.tsv'])
  return suffixes[-1:] != [] and suffixes[-1] in _TABLES


def _suffix(path):
  parts = pathlib.Path(path)
  suffix = parts.suffix.lower()
  if suffix in text_files.PACKED:
    suffix = pathlib.Path(parts.stem).suffix.lower() or '.csv'
    if suffix in _TEXT:
      return suffix
  elif suffix in SUFFIXES:
    return suffix
  raise DataError(
    f'{path}: cannot read {parts.suffix!r}; give {", ".join(SUFFIXES[:-1])} or '
    f'{SUFFIXES[-1]} (text also as {", ".join(text_files.PACKED)})'
  )


def _table(text: text_files.Text, like) -> dict[str, cells.Typed]:
  """The columns of a text, typed."""
  decimal, places = text.dialect.decimal, text.places
  table = {}
  for name, *column in zip(text.names, *text.rows, strict=True):
    known = None if like is None else like.get(name)
    table[name] = cells.typed(
      name, column, like=known, decimal=decimal, places=places
    )
  return table


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


# --- other files -------------------------------------------------------------


def _parquet(path):
  open(path, 'rb').close()
  try:
    frame = pd.read_parquet(path)
  except ImportError as error:
    raise DataError('to read .parquet, pip install pyarrow') from error
  except Exception as error:  # pyarrow has its own
    raise ValueError(error) from error
  if not len(frame.columns):
    raise DataError('it holds no columns')
  return _Content(
    {str(n): cells.from_values(str(n), frame[n]) for n in frame.columns}
  )


def _wav(path):
  with warnings.catch_warnings():  # chunks that are no sound
    warnings.simplefilter('ignore', scipy.io.wavfile.WavFileWarning)
    try:
      rate, signal = scipy.io.wavfile.read(path)
    except OSError:
      raise
    except Exception as error:  # struct.error, ZeroDivisionError, and others
      raise ValueError(f'{type(error).__name__}: {error}') from error
  signal = np.asarray(signal)
  if signal.ndim == 1:
    signal = signal[:, None]
  if signal.ndim != 2 or not signal.size or rate <= 0:
    raise DataError('it holds no sound')
  kind, full = signal.dtype.kind, 1.0
  if kind in 'iu':  # as floating-point files have it: from -1 to 1
    full = 2.0 ** (8 * signal.dtype.itemsize - 1)
  shift = full if kind == 'u' else 0.0
  values = (signal.astype(np.float64) - shift) / full
  return _Content(_numbered('channel', values), rate=float(rate))


def _numbered(what, x):
  return {
    f'{what} {i}': cells.Typed(pd.Series(column), 'number', '')
    for i, column in enumerate(x.T)
  }


def _arrays(path):
  """Rows or windows, and labels or None, of .npy or .npz."""
  content = np.load(path, allow_pickle=False)
  labels = None
  if not isinstance(content, np.ndarray):
    with content:
      names = {name.lower(): name for name in content.files}
      rows = [names[k] for k in ('x', 'data', 'rows') if k in names]
      if not rows and len(content.files) != 1:
        raise DataError("put the rows under the key 'x'")
      label = next((names[k] for k in roles_lib.LABELS if k in names), None)
      labels = None if label is None else content[label]
      content = content[rows[0] if rows else content.files[0]]
  if content.dtype.kind not in 'fiub':
    raise DataError(f'it holds {content.dtype}, not numbers')
  if not content.size or content.ndim < 2:
    raise DataError('it holds no rows of several columns')
  if content.ndim > 3:
    raise DataError(
      f'it holds {content.ndim} dimensions: give rows [n, d] or windows [n, '
      'length, channels]'
    )
  x = content.astype(np.float64)
  return _Content(x if x.ndim == 3 else _numbered('column', x), labels)


def _joinable(values, kind):
  """An id or a time as it reads in the file, up to the form of a date."""
  values = pd.Series(values)
  if kind == 'time':
    return pd.to_datetime(values, unit='s')
  if pd.api.types.is_float_dtype(values) and (values.dropna() % 1 == 0).all():
    return values.astype('Int64')
  return values


def _samples(file, options):
  """Puts labels, ids and what is to be ignored aside, and cuts windows."""
  content, labels, rate, notes, dialect = file
  anomaly_label, window = options.anomaly_label, options.window
  if isinstance(content, np.ndarray):
    if window:
      raise DataError('it holds windows already: leave out --window')
    labels = roles_lib.labels(labels, len(content), anomaly_label)
    return Samples(content, labels, None, ())
  named = ''
  others: tuple[str, ...] = ()
  features = [
    *options.features,
    *(() if options.like is None else options.like),
  ]
  if labels is None:
    named, others = roles_lib.find_label(content, options.label, features)
    labels = content[named].values if named else None
    roles_lib.check_name(named, labels, anomaly_label)
  report = roles_lib.report(
    content,
    label=named,
    ignore=[*options.ignore, *(n for n in others if n not in features)],
    features=features,
    set_aside=not window and '*' not in features,
  )
  rows = pd.DataFrame(
    {c.name: content[c.name].values for c in report if c.role == 'feature'}
  )
  keys = pd.DataFrame(
    {
      c.name: _joinable(content[c.name].values, c.kind)
      for c in report
      if c.role in ('id', 'time')
    }
  )
  if not rows.columns.size:
    raise DataError(f'it holds no column to score: {", ".join(content)}')
  if not len(rows):
    raise DataError('it holds no rows')
  labels = roles_lib.labels(labels, len(rows), anomaly_label)
  notes += roles_lib.notes(report)
  sure = options.label or named.strip().lower() in roles_lib.LABELS
  if named and not sure:
    notes += (
      f'column {named!r} is taken for the labels; if it holds none, '
      '--label=none',
    )
  if others:
    notes += (f'{", ".join(others)}: looks like labels: left out',)
  samples = Samples(
    rows, labels, rate, tuple(content), named, keys, report, notes, dialect
  )
  return _windows(samples, window) if window else samples


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
  return samples._replace(rows=np.ascontiguousarray(signal), labels=labels)
