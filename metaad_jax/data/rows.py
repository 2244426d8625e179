"""Rows without order: which of them are the same, and how to deal them out."""

import numpy as np

from metaad_jax.base import DataError
from metaad_jax.data import series


def _keys(x):
  return [row.tobytes() for row in np.ascontiguousarray(x + np.float32(0))]


def distinct(x: np.ndarray) -> np.ndarray:
  """Indices of the first of each set of equal rows, in order.

  Args:
    x: [N, F] float32; NaN equals NaN.

  Returns:
    [M] int.
  """
  first: dict[bytes, int] = {}
  for i, key in enumerate(_keys(x)):
    first.setdefault(key, i)
  return np.fromiter(first.values(), int, len(first))


def unseen(x: np.ndarray, known: np.ndarray) -> np.ndarray:
  """Which rows equal, bit for bit, no row of another table.

  Args:
    x: [N, F] float32.
    known: [M, F] float32.

  Returns:
    [N] bool.
  """
  taken = set(_keys(known))
  return np.array([key not in taken for key in _keys(x)], bool)


def deal(
  x: np.ndarray, labels: np.ndarray, *, max_rows: int, max_queries: int
) -> tuple[np.ndarray, np.ndarray]:
  """Deals a table out: first half of the normals for supports, rest to score.

  Equal rows are taken once, and a row that stands there both as normal and as
  an anomaly not at all, so that no row can be on both sides.

  Args:
    x: [N, F] float32.
    labels: [N], 1 = anomaly.
    max_rows: the normals are thinned evenly to so many.
    max_queries: so is the query, see `series.choose`.

  Returns:
    Indices of the normals, and of the query, both in order.
  """
  anomalous = labels == 1
  doubtful = ~unseen(x, x[anomalous]) & ~unseen(x, x[~anomalous])
  kept = np.flatnonzero(~doubtful)
  kept = kept[distinct(x[kept])]
  normal = kept[~anomalous[kept]]
  pool = normal[: (len(normal) + 1) // 2]
  rest = np.setdiff1d(kept, pool)
  chosen = series.choose(anomalous[rest], max_queries)
  return series.thin(pool, max_rows), rest[chosen]


def check_limits(source: str, max_rows: int, max_queries: int) -> None:
  """Raises DataError if a limit leaves no row."""
  if max_rows < 1 or max_queries < 2:
    raise DataError(
      f'{source}: max_rows={max_rows}, max_queries={max_queries}: choose '
      'max_rows >= 1 and max_queries >= 2'
    )
