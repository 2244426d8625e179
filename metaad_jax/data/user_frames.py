"""Named columns from a user's own file: .csv, .parquet, .npy, .npz or .wav."""

import csv
import importlib
import io
import pathlib
from typing import Any, NamedTuple
import warnings

import numpy as np
import scipy.io.wavfile

from metaad_jax.base import DataError
from metaad_jax.data import rows, user_rows

SUFFIXES = ('.csv', '.parquet', '.npy', '.npz', '.wav')
_MISSING = ('', 'nan', 'na', 'n/a', 'null')
_READERS = ('pyarrow.parquet', 'polars', 'pandas')


class Frame:
  """A table by its columns: as much of a data frame as the detector needs.

  Attributes:
    columns: their names, all different.
    data: name -> [n] numbers, or objects: str, None = missing.
  """

  def __init__(self, data: dict[str, np.ndarray]):
    self.data = data
    self.columns = tuple(data)

  def __getitem__(self, name: str) -> np.ndarray:
    return self.data[name]

  def __len__(self) -> int:
    return len(next(iter(self.data.values()))) if self.data else 0

  def select(self, names) -> 'Frame':
    """The columns of these names, in this order."""
    return Frame({name: self.data[name] for name in names})

  def words(self) -> frozenset[str]:
    """The columns that hold words."""
    return frozenset(n for n, v in self.data.items() if v.dtype.kind == 'O')


class Samples(NamedTuple):
  """What a file holds.

  Attributes:
    rows: a `Frame`, or windows [n, length, channels] float64.
    labels: [n] int64, 0 = normal, 1 = anomaly, -1 = unlabelled; or None.
    rate: sampling rate in Hz of a .wav, else None.
    header: names of all columns of the file in their order, labels and ignored
      ones too; () for windows.
    label: name of the column of labels, or ''.
  """

  rows: Any
  labels: np.ndarray | None
  rate: float | None
  header: tuple[str, ...]
  label: str = ''


def read(
  path: str,
  *,
  label: str = '',
  ignore: tuple[str, ...] = (),
  like: Frame | None = None,
  window: int = 0,
) -> Samples:
  """Reads a file.

  A first line of .csv in which no cell is a number holds the names of the
  columns; without it, and in .npy and .npz, they are called 'column 0' and so
  on. Empty cells, NaN, NA, N/A and null are missing. A column whose cells are
  words holds categories. Fields may be parted by commas, semicolons or tabs.

  Args:
    path: of the file; its suffix says how to read it.
    label: name of the column of labels (0, 1; -1 or missing = unlabelled); one
      called label, labels, y or anomaly if not given; 'none' = there is none.
    ignore: names of columns to leave out.
    like: the known rows: their columns hold words here where they do there, and
      else numbers.
    window: cut a recording, a .wav or the rows of a table, into windows of so
      many samples; a rest is left out. 0 = do not; needed for .wav.

  Returns:
    The rows and labels.

  Raises:
    DataError: if the file is missing, broken or empty, or a cell or label makes
      no sense.
  """
  suffix = pathlib.Path(path).suffix.lower()
  if suffix not in SUFFIXES:
    raise DataError(
      f'{path}: cannot read {suffix!r}; give {", ".join(SUFFIXES[:-1])} or .wav'
    )
  if window < 0 or (suffix == '.wav' and not window):
    raise DataError(f'{path}: say how many samples a window has: --window=2048')
  content: Any
  try:
    if suffix == '.wav':
      signal, rate = _wav(path)
      names = tuple(f'channel {i}' for i in range(signal.shape[1]))
      return Samples(_cut(path, signal, window), None, rate, names)
    if suffix in ('.npy', '.npz'):
      content, labels = _arrays(path)
    elif suffix == '.csv':
      content, labels = _csv(path, like), None
    else:
      content, labels = _parquet(path), None
  except FileNotFoundError as error:
    raise DataError(f'{path} is not there') from error
  except DataError:
    raise
  except user_rows.BROKEN as error:
    reason = ' '.join(str(error).split())[:200]
    raise DataError(
      f'{path} cannot be read as {suffix}: {reason}; objects and pickles are '
      'refused'
    ) from error
  return _samples(path, content, labels, label, ignore, window)


def _samples(path, content, labels, label, ignore, window):
  if isinstance(content, np.ndarray) and content.ndim == 3:
    if window:
      raise DataError(f'{path} holds windows already: leave out --window')
    return Samples(content, _labels(path, labels, len(content)), None, ())
  data = content
  if isinstance(content, np.ndarray):
    data = {f'column {i}': column for i, column in enumerate(content.T)}
  header = tuple(data)
  found = _label_name(path, header, label) if labels is None else ''
  if found:
    labels = data[found]
  kept = {n: v for n, v in data.items() if n != found and n not in ignore}
  if not kept:
    raise DataError(f'{path} holds no column to score: {", ".join(header)}')
  frame, count = Frame(kept), len(next(iter(kept.values())))
  if not count:
    raise DataError(f'{path} holds no rows')
  labels = _labels(path, labels, count)
  if not window:
    return Samples(frame, labels, None, header, found)
  if frame.words():
    raise DataError(
      f'{path}: column {sorted(frame.words())[0]!r} holds words, and windows '
      'are cut from numbers: --ignore it'
    )
  signal = np.column_stack([np.asarray(v, np.float64) for v in kept.values()])
  if labels is not None:
    labels = _cut(path, labels[:, None], window)[..., 0]
    known = (labels >= 0).all(1)
    labels = np.where((labels == 1).any(1), 1, np.where(known, 0, -1))
  return Samples(_cut(path, signal, window), labels, None, header, found)


def _cut(path, signal, window):
  count = len(signal) // window
  if not count:
    raise DataError(
      f'{path} holds {len(signal)} samples, fewer than --window={window}'
    )
  return signal[: count * window].reshape(count, window, signal.shape[1])


def _label_name(path, header, label):
  if label == 'none':
    return ''
  if label:
    return label if label in header else ''
  lower = [name.strip().lower() for name in header]
  return next(
    (header[lower.index(n)] for n in user_rows.LABELS if n in lower), ''
  )


def _labels(path, values, count):
  if values is None:
    return None
  wrong = DataError(
    f'{path}: labels must be one for each of the {count} rows, 0 = normal, 1 = '
    'anomaly, -1 or missing = unlabelled; if that column holds no labels, say '
    '--label=none'
  )
  values = np.asarray(values)
  if values.shape != (count,) or values.dtype.kind not in 'biuf':
    raise wrong
  labels = np.nan_to_num(values.astype(np.float64), nan=-1.0)
  if not np.isin(labels, (-1, 0, 1)).all():
    raise wrong
  return labels.astype(np.int64)


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
    raise DataError(f'{path} holds no sound')
  kind, full = signal.dtype.kind, 1.0
  if kind in 'iu':  # as floating-point files have it: from -1 to 1
    full = 2.0 ** (8 * signal.dtype.itemsize - 1)
  shift = full if kind == 'u' else 0.0
  return (signal.astype(np.float64) - shift) / full, float(rate)


def _arrays(path):
  x, y, _ = user_rows.arrays(path)
  if x.dtype.kind not in 'fiub':
    raise DataError(f'{path} holds {x.dtype}, not numbers')
  if not x.size or x.ndim < 2:
    raise DataError(f'{path} holds no rows of several columns')
  if x.ndim > 3:
    raise DataError(
      f'{path} holds {x.ndim} dimensions: give rows [n, d] or windows [n, '
      'length, channels]'
    )
  return x.astype(np.float64), y


def _parquet(path):
  open(path, 'rb').close()
  for module in _READERS:
    try:
      reader = importlib.import_module(module)
    except ImportError:
      continue
    break
  else:
    raise DataError(f'{path}: to read .parquet, pip install pyarrow')
  try:
    if module == 'pyarrow.parquet':
      table = reader.read_table(path)
      columns = dict(zip(table.column_names, table.columns, strict=True))
      lists = {name: column.to_pylist() for name, column in columns.items()}
    else:
      table = reader.read_parquet(path)
      lists = {str(name): table[name].to_list() for name in table.columns}
  except Exception as error:  # each library has its own
    raise ValueError(error) from error
  if not lists:
    raise DataError(f'{path} holds no columns')
  return {name: _typed(path, name, values) for name, values in lists.items()}


def _typed(path, name, values):
  """[n] float64, or objects of str and None."""
  gone = [value is None or value != value for value in values]
  stated = [v for v, lost in zip(values, gone, strict=True) if not lost]
  if all(hasattr(v, 'timestamp') for v in stated) and stated:
    return np.array([v.timestamp() if v == v and v else np.nan for v in values])
  if all(hasattr(v, '__float__') for v in stated):
    return np.array([np.nan if v is None else float(v) for v in values])
  held = np.empty(len(values), object)
  for i, (value, lost) in enumerate(zip(values, gone, strict=True)):
    if isinstance(value, list | dict | tuple | bytes):
      raise DataError(
        f'{path}: column {name!r} holds a {type(value).__name__}: give numbers '
        'or text'
      )
    held[i] = None if lost else str(value)
  return held


def split(line: str) -> list[str]:
  """The cells of one line of text; raises csv.Error where it makes no sense."""
  return next(csv.reader([line], delimiter=_delimiter(line), strict=True), [])


def _delimiter(line):
  if ',' in line:
    return ','
  return next((mark for mark in ';\t' if mark in line), ',')


def is_missing(cell: str) -> bool:
  """Whether a cell of text holds nothing."""
  return cell.strip().lower() in _MISSING


def _csv(path, like):
  with open(path, newline='', encoding='utf-8-sig') as file:
    text = file.read()
  first = next((line for line in io.StringIO(text) if line.strip()), '')
  reader = csv.reader(io.StringIO(text), delimiter=_delimiter(first))
  lines = [(reader.line_num, line) for line in reader if line]
  if not lines:
    raise DataError(f'{path} is empty')
  head = [cell.strip() for cell in lines[0][1]]
  if any(map(rows.is_number, head)):
    head = []
  else:
    lines = lines[1:]
  if not lines:
    raise DataError(f'{path} holds no rows below the names of its columns')
  names = [name or f'column {i}' for i, name in enumerate(head)]
  width = len(names) or len(lines[0][1])
  names = names or [f'column {i}' for i in range(width)]
  if len(set(names)) < len(names):
    twice = next(name for name in names if names.count(name) > 1)
    raise DataError(f'{path} has two columns called {twice!r}: rename one')
  for number, line in lines:
    if len(line) != width:
      raise DataError(
        f'{path}, line {number}: {len(line)} values where {width} were expected'
      )
  columns = zip(*[line for _, line in lines], strict=True)
  places = [number for number, _ in lines]
  return {
    name: _column(path, name, cells, places, like)
    for name, cells in zip(names, columns, strict=True)
  }


def _column(path, name, cells, places, like):
  """Numbers if all cells are; words if none is, or they are known as such."""
  cells = [cell.strip() for cell in cells]
  gone = [is_missing(cell) for cell in cells]
  numbers = [rows.is_number(c) for c in cells]
  stated = [n for n, lost in zip(numbers, gone, strict=True) if not lost]
  known = like is not None and name in like.columns
  worded = bool(stated) and not any(stated)
  if known and like is not None:
    worded = name in like.words()
  if worded:
    held = np.empty(len(cells), object)
    held[:] = [None if lost else c for c, lost in zip(cells, gone, strict=True)]
    return held
  if not all(stated):
    wrong = next(i for i, n in enumerate(numbers) if not n and not gone[i])
    raise DataError(
      f'{path}, line {places[wrong]}: column {name!r} holds {cells[wrong]!r}, '
      'other cells of it are numbers: mend it, or leave it empty'
    )
  return np.array(
    [np.nan if lost else float(c) for c, lost in zip(cells, gone, strict=True)]
  )
