"""What files and frames hold, before anybody asks what a column means."""

from collections.abc import Callable, Mapping
import datetime
import json
import pathlib
from typing import Any, NamedTuple
import warnings

import numpy as np
import pandas as pd

from metaad_jax.base import DataError
from metaad_jax.data import text_files

TEXT = ('.csv', '.tsv', '.txt', '.dat', '.tab')
LINES = ('.jsonl', '.ndjson', '.json')
ARRAYS = ('.npy', '.npz')
ALL = (*TEXT, *LINES, '.xlsx', '.parquet', *ARRAYS, '.wav')
_LABELS = ('label', 'labels', 'y', 'anomaly')  # keys of an .npz


class Content(NamedTuple):
  """Columns of a file or frame by name, or windows [n, length, channels].

  `row_names` are the index of a frame, which is no column. The columns of a
  text are lists of cells, and `text` says how to read them.
  """

  data: Mapping[str, Any] | np.ndarray
  labels: np.ndarray | None = None
  rate: float | None = None
  row_names: Mapping[str, Any] = {}
  notes: tuple[str, ...] = ()
  text: text_files.Text | None = None


def suffix(path: str) -> str:
  """The suffix that says how to read a file, or a DataError."""
  name = pathlib.Path(path)
  found = name.suffix.lower()
  if found in text_files.PACKED:
    found = pathlib.Path(name.stem).suffix.lower() or '.csv'
    if found in TEXT + LINES:
      return found
  elif found in ALL:
    return found
  raise DataError(
    f'{path}: cannot read {name.suffix!r}; give {", ".join(ALL[:-1])} or '
    f'{ALL[-1]} (text also as {", ".join(text_files.PACKED)})'
  )


def load(path: str, decimal: str = '') -> Content:
  """Reads a file by its suffix.

  Args:
    path: of the file.
    decimal: see `text_files.parse`.

  Raises:
    DataError, or one of `storage.BROKEN`, of what makes no sense.
  """
  kind = suffix(path)
  if kind in LINES:
    return _json(text_files.decoded(text_files.unpacked(path), []))
  if kind in TEXT:
    notes: list[str] = []
    content = text_files.decoded(text_files.unpacked(path), notes)
    return text(text_files.parse(content, notes, decimal))
  readers: Mapping[str, Callable] = {
    '.wav': _wav, '.parquet': _parquet, '.xlsx': _sheet
  }  # fmt: skip
  return readers.get(kind, _arrays)(path)


def text(parsed: text_files.Text) -> Content:
  """The cells of a text by column."""
  columns = map(list, zip(*parsed.rows, strict=True))
  data = dict(zip(parsed.names, columns, strict=True))
  return Content(data, notes=tuple(parsed.notes), text=parsed)


def _json(text):
  """A list of objects, or an object a line."""
  try:
    records = json.loads(text)
  except json.JSONDecodeError:
    records = [json.loads(line) for line in text.split('\n') if line.strip()]
  if isinstance(records, dict):
    parts = list(records.values())
    rows = {tuple(part) for part in parts if isinstance(part, dict)}
    if {*records} >= {'columns', 'data'}:  # as pandas splits a frame
      records = pd.DataFrame(records['data'], columns=records['columns'])
    elif len(rows) == 1 < len(parts):
      records = pd.DataFrame(records).reset_index(drop=True)
    elif not all(isinstance(part, list) for part in parts):
      records = [records]
  if isinstance(records, list):
    if not records or not all(isinstance(r, dict) for r in records):
      raise DataError('it holds no objects such as {"temp": 20.5}')
    records = pd.json_normalize(records)
  return frame(pd.DataFrame(records))


def _parquet(path):
  open(path, 'rb').close()
  try:
    table = pd.read_parquet(path)
  except ImportError as error:
    raise DataError(
      'to read .parquet, pip install "metaad_jax[formats]"'
    ) from error
  except Exception as error:  # pyarrow has its own
    raise ValueError(error) from error
  return frame(table)


def _sheet(path):
  """The first sheet of a workbook that holds anything."""
  try:
    import openpyxl
  except ImportError as error:
    raise DataError(
      'to read .xlsx, pip install "metaad_jax[formats]"'
    ) from error
  with open(path, 'rb') as file:
    try:
      book = openpyxl.load_workbook(file, data_only=True)
    except Exception as error:  # openpyxl has its own
      raise ValueError(error) from error
    sheets = [s for s in book.worksheets if _filled(s)]
    if not sheets:
      raise DataError('it holds no rows')
    rows = [[_cell(v) for v in row] for row in sheets[0].values]
    notes = []
    if len(sheets) > 1:
      notes = [f'{len(sheets)} sheets: {sheets[0].title!r} is read']
    formulas = openpyxl.load_workbook(file)[sheets[0].title]
    for row, written in zip(rows, formulas.values, strict=True):
      for cell, formula in zip(row, written, strict=True):
        if not cell and str(formula).startswith('='):
          raise DataError(
            f'{formula[:40]!r} holds no value: save it in a spreadsheet program'
          )
  numbered = [(i, row) for i, row in enumerate(rows, 1) if any(row)]
  places, rows = map(list, zip(*numbered, strict=True))
  return text(text_files.table(rows, places, text_files.SHEET, notes))


def _filled(sheet):
  return any(value is not None for row in sheet.values for value in row)


def _cell(value):
  """A cell of a sheet as text."""
  if value is None:
    return ''
  if isinstance(value, datetime.datetime):
    return value.isoformat(' ')
  if isinstance(value, datetime.timedelta):
    return str(pd.Timedelta(value))
  whole = isinstance(value, float) and value.is_integer()
  return str(int(value) if whole else value).strip()


def _wav(path):
  import scipy.io.wavfile  # late, as are those of other formats

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
  return Content(_numbered('channel', values), rate=float(rate))


def _numbered(what, x):
  return {f'{what} {i}': pd.Series(column) for i, column in enumerate(x.T)}


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
      label = next((names[k] for k in _LABELS if k in names), None)
      labels = None if label is None else content[label]
      content = content[rows[0] if rows else content.files[0]]
  return array(content)._replace(labels=labels)


def array(x: np.ndarray) -> Content:
  """Rows [n, d] or windows [n, length, channels]; what is masked is missing."""
  if x.dtype.names:
    return Content({name: x[name] for name in x.dtype.names})
  if x.dtype.kind not in 'fiubO' + 'UM' * (x.ndim == 2):
    raise DataError(f'it holds {x.dtype}, not numbers')
  if not x.size or x.ndim < 2:
    raise DataError('it holds no rows of several columns')
  if x.ndim > 3:
    raise DataError(
      f'it holds {x.ndim} dimensions: give rows [n, d] or windows [n, '
      'length, channels]'
    )
  if x.dtype.kind in 'fiub':
    x = np.ma.filled(np.ma.asarray(x).astype(np.float64), np.nan)
  return Content(x if x.ndim == 3 else _numbered('column', x))


def frame(table: Any) -> Content:
  """Columns of a frame of pandas or polars, an arrow table, a dict, an array.

  An index that says more than the number of a row is kept apart.
  """
  if isinstance(table, Content):
    return table
  if hasattr(table, 'collect') and not hasattr(table, '__len__'):
    table = table.collect()  # polars, lazy
  if isinstance(table, pd.Series):
    table = table.to_frame(table.name or 'column 0')
  if isinstance(table, Mapping):
    table = pd.DataFrame(table)
  names = getattr(table, 'column_names', getattr(table, 'columns', None))
  if names is None:
    if isinstance(table, list) and table and isinstance(table[0], dict):
      return frame(pd.DataFrame(table))
    return array(table if isinstance(table, np.ndarray) else np.array(table))
  texts = [
    ' '.join(map(str, name)) if isinstance(name, tuple) else str(name)
    for name in names
  ]
  if not texts:
    raise DataError('it holds no columns')
  if len(set(texts)) < len(texts):
    twice = next(name for name in texts if texts.count(name) > 1)
    raise DataError(f'two columns are called {twice!r}: rename one')
  names_of_rows: dict[str, Any] = {}
  if isinstance(table, pd.DataFrame):
    rows = table.index
    if not isinstance(rows, pd.RangeIndex) or rows.name:
      names_of_rows = {
        str(name or 'index'): pd.Series(rows.get_level_values(i))
        for i, name in enumerate(rows.names)
      }
    table = table.reset_index(drop=True)
  columns = dict(zip(texts, (table[name] for name in names), strict=True))
  return Content(columns, row_names=names_of_rows)
