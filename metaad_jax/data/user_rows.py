"""Rows from a user's own file: .npy, .npz or .csv."""

import csv
import pathlib
import tokenize
import zipfile
import zlib

import numpy as np

from metaad_jax.base import DataError
from metaad_jax.data import rows

LABELS = ('label', 'labels', 'y', 'anomaly')
# What the readers of NumPy, zip and csv raise for a damaged file.
BROKEN = (
  OSError,
  ValueError,
  EOFError,
  KeyError,
  IndexError,
  TypeError,
  MemoryError,
  RuntimeError,
  SyntaxError,
  csv.Error,
  tokenize.TokenError,
  zipfile.BadZipFile,
  zlib.error,
)


def read(
  path: str, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray | None]:
  """Reads rows of a known shape, and their labels if the file has any.

  `.npy` holds [n, ...]; `.npz` the same as `x`, with labels [n] as `y` if there
  are any; a line of `.csv` is a row, a first line of names is skipped, and a
  column called label, y or anomaly holds the labels. The samples of a window of
  one channel may be given as [n, L].

  Args:
    path: of the file.
    shape: of one row: (L, C) or (F,).

  Returns:
    [n, *shape] float32, and [n] float32 of 0 and 1, or None.

  Raises:
    DataError: if the file is missing, broken, empty, of another width, or holds
      values that are not finite numbers.
  """
  x, y, _ = _open(path, _csv)
  if x.dtype.kind not in 'fiub':
    raise DataError(f'{path} holds {x.dtype}, not numbers')
  if x.ndim == 0 or not len(x):
    raise DataError(f'{path} holds no rows')
  wanted = ' x '.join(map(str, shape))
  held = ' x '.join(map(str, x.shape[1:])) or 'one number'
  if x[0].size != np.prod(shape) or (x.ndim > 2 and x.shape[1:] != shape):
    raise DataError(
      f'{path}: a row is {held}, the run was trained on rows of '
      f'{wanted}: cut the signal into such windows'
    )
  with np.errstate(over='ignore', invalid='ignore'):
    x = x.reshape(len(x), *shape).astype(np.float32)
  if not np.isfinite(x).all():
    row = np.argwhere(~np.isfinite(x))[0]
    raise DataError(
      f'{path}: row {row[0]}, value {row[1:].tolist()} is not finite: mend or '
      'leave out that row'
    )
  return x, _checked(path, x, y)


def table(
  path: str,
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
  """Reads rows of any shape, and their labels if the file has any.

  The files are those of `read`, and more is allowed in them: missing values
  (NaN; an empty cell or NA in .csv), and columns of words in .csv, which become
  codes, the numbers of the words in the sorted list. A first line of .csv in
  which no cell is a number holds the names of the columns.

  Args:
    path: of the file.

  Returns:
    [n, ...] float32; [n] float32 of 0 and 1, or None; the names of the columns,
    () where the file has none.

  Raises:
    DataError: if the file is missing, broken or empty, or holds infinities or
      a column that mixes numbers and words.
  """
  x, y, names = _open(path, _coded_csv)
  if x.dtype.kind not in 'fiub':
    raise DataError(f'{path} holds {x.dtype}, not numbers')
  if x.ndim < 2 or not x.size:
    raise DataError(f'{path} holds no rows of several columns')
  with np.errstate(over='ignore', invalid='ignore'):
    x = x.astype(np.float32)
  if np.isinf(x).any():
    row = np.argwhere(np.isinf(x))[0]
    raise DataError(
      f'{path}: row {row[0]}, value {row[1:].tolist()} is infinite: mend it, '
      'or leave it empty'
    )
  return x, _checked(path, x, y), names


def _open(path, read_csv):
  """Rows, labels or None, names; by suffix, errors in one line."""
  suffix = pathlib.Path(path).suffix.lower()
  if suffix not in ('.npy', '.npz', '.csv'):
    raise DataError(f'{path}: cannot read {suffix!r}; give .npy, .npz or .csv')
  try:
    return read_csv(path) if suffix == '.csv' else arrays(path)
  except FileNotFoundError as error:
    raise DataError(f'{path} is not there') from error
  except DataError:
    raise
  except BROKEN as error:
    reason = ' '.join(str(error).split())
    raise DataError(
      f'{path} cannot be read as {suffix}: {reason}; objects and pickles are '
      'refused'
    ) from error


def _checked(path, x, y):
  """Labels as float32, one for each row, or None."""
  if y is None:
    return None
  y = np.asarray(y)
  if y.shape != (len(x),) or not np.isin(y, (0, 1)).all():
    raise DataError(
      f'{path}: labels must be one for each of the {len(x)} rows, '
      '0 = normal, 1 = anomaly'
    )
  return y.astype(np.float32)


def arrays(path: str) -> tuple[np.ndarray, np.ndarray | None, tuple]:
  """Rows, labels or None, and no names, of .npy or .npz."""
  content = np.load(path, allow_pickle=False)
  if isinstance(content, np.ndarray):
    return content, None, ()
  with content:
    names = {name.lower(): name for name in content.files}
    rows = [names[k] for k in ('x', 'data', 'rows') if k in names]
    if not rows and len(content.files) != 1:
      raise DataError(f"{path}: put the rows under the key 'x'")
    label = next((names[k] for k in LABELS if k in names), None)
    x = content[rows[0] if rows else content.files[0]]
    return x, None if label is None else content[label], ()


def _lines(path):
  with open(path, newline='', encoding='utf-8-sig') as file:
    lines = [line for line in csv.reader(file) if line]
  if not lines:
    raise DataError(f'{path} is empty')
  return lines


def _check_widths(path, lines, width, first):
  for number, line in enumerate(lines, first):
    if len(line) != width:
      raise DataError(
        f'{path}, line {number}: {len(line)} values where {width} were expected'
      )


def _label(names):
  lower = [name.strip().lower() for name in names]
  return next((lower.index(name) for name in LABELS if name in lower), None)


def _csv(path):
  lines = _lines(path)
  head = []
  if not all(map(rows.is_number, lines[0])):
    head, lines = lines[0], lines[1:]
  width = len(head or lines[0])
  _check_widths(path, lines, width, 1 + bool(head))
  for number, line in enumerate(lines, 1 + bool(head)):
    for value in line:
      if not rows.is_number(value):
        raise DataError(f'{path}, line {number}: {value!r} is not a number')
  table = np.array(lines, np.float64).reshape(len(lines), width)
  label = _label(head)
  if label is None:
    return table, None, ()
  return np.delete(table, label, 1), table[:, label], ()


def _coded_csv(path):
  lines = _lines(path)
  head = []
  if not any(map(rows.is_number, lines[0])):
    head, lines = lines[0], lines[1:]
  width = len(head or lines[0])
  _check_widths(path, lines, width, 1 + bool(head))
  cells = np.array(lines, str).reshape(len(lines), width)
  table = rows.coded(cells)
  names = [name.strip() or f'column {i}' for i, name in enumerate(head)]
  label = _label(names)
  if label is None:
    return table, None, tuple(names)
  del names[label]
  return np.delete(table, label, 1), table[:, label], tuple(names)
