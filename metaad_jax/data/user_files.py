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
from metaad_jax.data import cells, text_files
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


class _Roles(NamedTuple):
  """What the user says of the columns; see `read`."""

  label: str
  anomaly_label: str
  ignore: Sequence[str]
  features: Sequence[str]


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

  Returns:
    The rows, labels, and what was found out about the file.

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
  try:
    roles = _Roles(label, anomaly_label, ignore, features)
    samples = _samples(content, roles, like, window)
  except DataError as error:
    raise DataError(f'{path}: {error}') from error
  return samples


class _Content(NamedTuple):
  """A file: its columns or windows, and what `Samples` says of it."""

  data: dict[str, cells.Typed] | np.ndarray
  labels: np.ndarray | None = None
  rate: float | None = None
  notes: tuple[str, ...] = ()
  dialect: text_files.Dialect | None = None


def _content(path, suffix, like) -> _Content:
  if suffix == '.wav':
    return _wav(path)
  if suffix in ('.npy', '.npz'):
    return _arrays(path)
  if suffix == '.parquet':
    return _parquet(path)
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
  listed = zip(*text.rows, strict=True)
  return {
    name: cells.typed(
      name,
      column,
      like=None if like is None or name not in like else like[name],
      decimal=text.dialect.decimal,
      places=text.places,
    )
    for name, column in zip(text.names, listed, strict=True)
  }


def row(
  values: Mapping[str, str], like: pd.DataFrame, decimal: str = '.'
) -> pd.DataFrame:
  """One row of text as a frame of the columns of known rows.

  Args:
    values: cells by name; may hold more than is needed.
    like: the known rows.
    decimal: see `text_files.Dialect`.

  Raises:
    DataError: if a cell is no number where the known rows have numbers.
  """
  return pd.DataFrame(
    {
      name: cells.typed(
        name, [values[name]], like=like[name], decimal=decimal
      ).values
      for name in like.columns
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
  table = {
    f'channel {i}': cells.Typed(pd.Series(channel), 'number', '')
    for i, channel in enumerate(values.T)
  }
  return _Content(table, rate=float(rate))


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
  if x.ndim == 3:
    return _Content(x, labels)
  table = {
    f'column {i}': cells.Typed(pd.Series(column), 'number', '')
    for i, column in enumerate(x.T)
  }
  return _Content(table, labels)


def _samples(file, roles, like, window):
  """Puts labels, ids and what is to be ignored aside, and cuts windows."""
  content, labels, rate, notes, dialect = file
  if isinstance(content, np.ndarray):
    if window:
      raise DataError('it holds windows already: leave out --window')
    labels = roles_lib.labels(labels, len(content), roles.anomaly_label)
    return Samples(content, labels, None, ())
  header = tuple(content)
  named = ''
  others: tuple[str, ...] = ()
  features = roles.features if like is None else (*roles.features, *like)
  if labels is None:
    named, others = roles_lib.find_label(content, roles.label, features)
    labels = content[named].values if named else None
    roles_lib.check_name(named, labels, roles.anomaly_label)
  report = roles_lib.report(
    content,
    label=named,
    ignore=[*roles.ignore, *(n for n in others if n not in features)],
    features=features,
    set_aside=not window and '*' not in features,
  )
  parts = {
    role: {c.name: content[c.name].values for c in report if c.role in role}
    for role in (('feature',), ('id', 'time'))
  }
  rows, keys = (pd.DataFrame(part) for part in parts.values())
  if not rows.columns.size:
    raise DataError(f'it holds no column to score: {", ".join(header)}')
  if not len(rows):
    raise DataError('it holds no rows')
  labels = roles_lib.labels(labels, len(rows), roles.anomaly_label)
  notes += roles_lib.notes(report)
  if (
    named and not roles.label and named.strip().lower() not in roles_lib.LABELS
  ):
    notes += (
      f'column {named!r} is taken for the labels; if it holds none, '
      '--label=none',
    )
  if others:
    notes += (f'{", ".join(others)}: looks like labels: left out',)
  samples = Samples(
    rows, labels, rate, header, named, keys, report, notes, dialect
  )
  return _windows(samples, window) if window else samples


def _windows(samples, window):
  frame, labels = samples.rows, samples.labels
  for name in frame.columns:
    if cells.kind_of(frame[name]) == 'category':
      raise DataError(
        f'column {name!r} holds words, and windows are cut from numbers: '
        '--ignore it'
      )
  if labels is not None:
    parts = _cut(labels[:, None], window)[..., 0]
    known = (parts >= 0).all(1)
    labels = np.where((parts == 1).any(1), 1, np.where(known, 0, -1))
  signal = _cut(frame.to_numpy(np.float64), window)
  return samples._replace(rows=signal, labels=labels)


def _cut(signal, window):
  count = len(signal) // window
  if not count:
    raise DataError(
      f'it holds {len(signal)} samples, fewer than --window={window}'
    )
  return signal[: count * window].reshape(count, window, signal.shape[1])
