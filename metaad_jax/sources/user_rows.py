"""Rows from a user's own file: .npy, .npz or .csv."""

import csv
import pathlib
import tokenize
import zipfile
import zlib

import numpy as np

from metaad_jax.base import DataError

_LABELS = ('label', 'labels', 'y', 'anomaly')
# What the readers of NumPy, zip and csv raise for a damaged file.
_BROKEN = (
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
  suffix = pathlib.Path(path).suffix.lower()
  if suffix not in ('.npy', '.npz', '.csv'):
    raise DataError(f'{path}: cannot read {suffix!r}; give .npy, .npz or .csv')
  try:
    x, y = _csv(path) if suffix == '.csv' else _arrays(path)
  except FileNotFoundError as error:
    raise DataError(f'{path} is not there') from error
  except DataError:
    raise
  except _BROKEN as error:
    reason = ' '.join(str(error).split())
    raise DataError(
      f'{path} cannot be read as {suffix}: {reason}; objects and pickles are '
      'refused'
    ) from error
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
  if y is not None:
    y = np.asarray(y)
    if y.shape != (len(x),) or not np.isin(y, (0, 1)).all():
      raise DataError(
        f'{path}: labels must be one for each of the {len(x)} rows, '
        '0 = normal, 1 = anomaly'
      )
    y = y.astype(np.float32)
  return x, y


def _arrays(path):
  content = np.load(path, allow_pickle=False)
  if isinstance(content, np.ndarray):
    return content, None
  with content:
    names = {name.lower(): name for name in content.files}
    rows = [names[k] for k in ('x', 'data', 'rows') if k in names]
    if not rows and len(content.files) != 1:
      raise DataError(f"{path}: put the rows under the key 'x'")
    label = next((names[k] for k in _LABELS if k in names), None)
    x = content[rows[0] if rows else content.files[0]]
    return x, None if label is None else content[label]


def _csv(path):
  with open(path, newline='', encoding='utf-8-sig') as file:
    lines = [line for line in csv.reader(file) if line]
  if not lines:
    raise DataError(f'{path} is empty')
  head: list[str] = []
  try:
    [float(value) for value in lines[0]]
  except ValueError:
    head, lines = [name.strip().lower() for name in lines[0]], lines[1:]
  width = len(head or lines[0])
  for number, line in enumerate(lines, 1 + bool(head)):
    if len(line) != width:
      raise DataError(
        f'{path}, line {number}: {len(line)} values where {width} were expected'
      )
    for value in line:
      try:
        float(value)
      except ValueError as error:
        raise DataError(
          f'{path}, line {number}: {value!r} is not a number'
        ) from error
  table = np.array(lines, np.float64).reshape(len(lines), width)
  label = next((head.index(name) for name in _LABELS if name in head), None)
  if label is None:
    return table, None
  return np.delete(table, label, 1), table[:, label]
