"""Windows of a time series."""

import numpy as np

from metaad_jax.base import DataError, Entity
from metaad_jax.data import rows


def cut(x: np.ndarray, window: int, stride: int = 0) -> np.ndarray:
  """Windows of a series, a view.

  Args:
    x: [T] or [T, C].
    window: rows per window, W; 1 = rows.
    stride: rows between the starts of two windows; 0 = `window`, so that
      windows do not overlap.

  Returns:
    [N, W] or [N, W, C], without the axis W where it is 1; N is 0 if the rows
    are too few.
  """
  if window < 1 or stride < 0:
    raise DataError(
      f'window={window}, stride={stride}: choose window >= 1 and stride >= 1 '
      '(0 = window)'
    )
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

  A window is anomalous where any of its rows is, and of the kind of the first
  of them.

  Args:
    name: of the entity.
    train: [T, C].
    test: [U, C].
    kinds: [U] strings, '' = a normal row.
    window: see `cut`.
    stride: see `cut`.
    **fields: others of the entity.
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
