"""The old names of `user_files`, until the detector has moved over."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from metaad_jax.data import cells, user_files
from metaad_jax.data.cells import is_missing as is_missing
from metaad_jax.data.text_files import Dialect
from metaad_jax.data.text_files import split as _split


class Frame:
  """A table by its columns: as much of a data frame as the detector needs."""

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
  """See `user_files.Samples`."""

  rows: Any
  labels: np.ndarray | None
  rate: float | None
  header: tuple[str, ...]
  label: str = ''
  notes: tuple[str, ...] = ()


def read(
  path, *, label='', ignore=(), like=None, window=0, features=()
) -> Samples:
  """See `user_files.read`."""
  known = (
    None
    if like is None
    else pd.DataFrame(
      {
        n: cells.categories(v, np.array([c is None for c in v]))
        if v.dtype.kind == 'O'
        else v
        for n, v in like.data.items()
      }
    )
  )
  found = user_files.read(
    path,
    label=label,
    ignore=ignore,
    like=known,
    window=window,
    features=features,
  )
  rows = found.rows
  if isinstance(rows, pd.DataFrame):
    rows = Frame({name: _array(rows[name]) for name in rows.columns})
  return Samples(
    rows, found.labels, found.rate, found.header, found.label, found.notes
  )


def _array(column):
  if cells.kind_of(column) == 'category':
    return column.astype(object).where(column.notna(), None).to_numpy(object)
  return column.to_numpy(np.float64)


def split(line: str) -> list[str]:
  """The cells of one line."""
  mark = ',' if ',' in line else next((m for m in ';\t' if m in line), ',')
  return _split(line, Dialect(mark))
