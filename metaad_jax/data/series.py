"""Windows of a time series."""

import numpy as np

from metaad_jax import specs
from metaad_jax.base import DataError, Entity
from metaad_jax.data import rows


def cut(x: np.ndarray, window: int, stride: int = 0) -> np.ndarray:
  """Windows of a series, a view: [T, ...] -> [N, window, ...].

  `stride` are the rows between the starts of two windows; 0 = `window`, so that
  they do not overlap. A window of 1 is a row, and has no axis. N is 0 where the
  rows are too few.
  """
  specs.allow(
    window >= 1 and stride >= 0, 'series', 'window >= 1 and stride >= 0',
    window=window, stride=stride,
  )  # fmt: skip
  if window == 1:
    return x[:: stride or 1]
  if len(x) < window:
    return np.zeros((0, window, *x.shape[1:]), x.dtype)
  windows = np.lib.stride_tricks.sliding_window_view(x, window, 0)
  return np.moveaxis(windows[:: stride or window], -1, 1)


def entity(
  name: str,
  train: np.ndarray,
  test: np.ndarray,
  kinds: np.ndarray,
  window: int,
  stride: int,
  **fields,
) -> Entity:
  """Windows of a series to draw supports from, and of one to score.

  Of the series [T, C] and [U, C]; `kinds` [U] are strings, '' = a normal row. A
  window is anomalous where any of its rows is, and of the kind of the first of
  them. `fields` are others of the entity.
  """
  normal, query = (cut(x, window, stride) for x in (train, test))
  if not len(normal) or not len(query):
    raise DataError(
      f'{name}: window={window} is longer than a series ({len(train)} rows for '
      f'supports, {len(test)} to score): choose a shorter window'
    )
  inside = cut(kinds, window, stride).reshape(len(query), -1)
  first = (inside != '').argmax(1)
  kinds = inside[np.arange(len(inside)), first]
  return rows.entity(name, normal, query, kinds, **fields)
