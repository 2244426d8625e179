"""Windows of a time series, and thinning in the order of time."""

from typing import Any

import numpy as np

from metaad_jax.base import DataError


def starts(
  begin: int, end: int, window: int, stride: int, what: str
) -> np.ndarray:
  """First rows of the windows that lie within rows [begin, end).

  Args:
    begin: first row.
    end: one after the last row.
    window: rows per window.
    stride: rows between the starts of two windows; 0 = `window`, so that
      windows do not overlap.
    what: the series, for the message.

  Returns:
    [N] int; N is 0 if the rows are too few.

  Raises:
    DataError: if window < 1 or stride < 0.
  """
  if window < 1 or stride < 0:
    raise DataError(
      f'{what}: window={window}, stride={stride}: choose window >= 1 and '
      'stride >= 1 (0 = window)'
    )
  return np.arange(begin, end - window + 1, stride or window)


def thin(index: np.ndarray, limit: int) -> np.ndarray:
  """Keeps at most `limit` of them, evenly spaced, in order."""
  if len(index) <= limit:
    return index
  return index[np.linspace(0, len(index) - 1, limit).astype(int)]


def choose(anomalous: np.ndarray, limit: int) -> np.ndarray:
  """Thins a query evenly, its normals and its anomalies in proportion.

  Anomalies keep a tenth of the places while there are enough of them.

  Args:
    anomalous: [N] bool.
    limit: how many to keep at most.

  Returns:
    Indices, in order.
  """
  bad, good = np.flatnonzero(anomalous), np.flatnonzero(~anomalous)
  if len(anomalous) <= limit:
    return np.arange(len(anomalous))
  share = max(round(limit * len(bad) / len(anomalous)), limit // 10)
  kept = thin(bad, max(1, share))
  return np.sort(np.concatenate([kept, thin(good, limit - len(kept))]))


def gather(series: np.ndarray, first: np.ndarray, window: int) -> np.ndarray:
  """Windows of a series.

  Args:
    series: [T, C].
    first: [N] first rows.
    window: W.

  Returns:
    float32 [N, W, C]; rows [N, C] where W is 1.
  """
  if window == 1:
    return series[first].astype(np.float32)
  return series[first[:, None] + np.arange(window)].astype(np.float32)


def windows(
  what: str,
  train: np.ndarray,
  test: np.ndarray,
  kinds: np.ndarray,
  *,
  window: int,
  stride: int,
  max_rows: int,
  max_queries: int,
) -> dict[str, Any]:
  """Windows of a series to draw supports from, and of one to score.

  Args:
    what: the two series, for the message.
    train: [T, C].
    test: [U, C].
    kinds: [U] strings, '' = a normal row.
    window: rows per window; 1 = rows.
    stride: rows between the starts of windows; 0 = `window`.
    max_rows: the normal windows are thinned to so many.
    max_queries: the windows to score are, see `choose`.

  Returns:
    `normal`, `query`, `labels` and `kinds` of an `Entity`. A window is
    anomalous where any of its rows is, and of the kind of the first of them.
  """
  pool = starts(0, len(train), window, stride, what)
  scored = starts(0, len(test), window, stride, what)
  if not len(pool) or not len(scored):
    raise DataError(
      f'{what}: window={window} is longer than a series '
      f'({len(train)} and {len(test)} rows): choose a shorter window'
    )
  inside = kinds[scored[:, None] + np.arange(window)] != ''
  chosen = choose(inside.any(1), max_queries)
  scored, inside = scored[chosen], inside[chosen]
  return {
    'normal': gather(train, thin(pool, max_rows), window),
    'query': gather(test, scored, window),
    'labels': inside.any(1).astype(np.int32),
    'kinds': tuple(kinds[scored + inside.argmax(1)]),
  }
