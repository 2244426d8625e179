"""Nearest neighbours beside the network, where it does not read all normals.

A support holds some dozens of rows. Where more are known, the distance to the
nearest of them all says more than any network that reads a part, so the two are
blended: the distance counts the more, the more normals the network does not
read. Columns are z-scores and levels, as `models.table_features` has them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metaad_jax.detector import sanity

_MOST = 10_000  # rows; of more, so many at random
_SPARED = 20  # rows beyond the support before a distance counts
_WEIGHT = 0.75  # of the distance at most
_CHUNK = 32  # rows that are compared at once, whatever the batch
_CLIPPED = 5.0  # deviations: farther out the network and `sanity` tell more
_NORMAL_SPREAD = 2.56  # deviations from the lowest tenth to the highest
_LEAST = 0.1  # spread of logarithms of distances, where all are one
_STEEP = 20.0  # of the level, arcsinh(20 x / mean|x|)


class Neighbours(NamedTuple):
  """Rows to compare with, float32."""

  size: np.ndarray  # [F] mean of |x|
  mean: np.ndarray  # [2, F] of the rows and of their levels
  deviation: np.ndarray  # [2, F]
  least: np.ndarray  # [F] a constant column differs from here on; inf = varies
  rows: np.ndarray  # [N, 2F] as `placed` has them
  norms: np.ndarray  # [N] their squared lengths; inf = left out
  line: np.ndarray  # [3] see `line`


def share(own: int) -> float:
  """How much distances count, given so many normals beyond the support."""
  return _WEIGHT * max(0.0, 1 - _SPARED / max(own, 1))


def order(x: np.ndarray) -> np.ndarray:
  """[N] positions of the rows [n, F] that are compared with, shuffled."""
  return np.argsort(sanity.order_keys(x))[:_MOST]


def _levels(size, x, xp):
  return xp.arcsinh(_STEEP * xp.clip(x / size, -1e6, 1e6))


def make(x: np.ndarray) -> Neighbours:
  """Of rows [N, F] as the learner sees them; NaN = missing."""
  x = x.astype(np.float64)
  there = ~np.isnan(x)
  count = np.maximum(there.sum(0), 1)
  over = lambda values: np.where(there, values, 0).sum(0) / count
  size = np.maximum(over(np.abs(x)), 1e-30)
  both = x, _levels(size, x, np)
  mean = np.array([over(values) for values in both])
  deviation = np.sqrt(
    [
      over((values - middle) ** 2)
      for values, middle in zip(both, mean, strict=True)
    ]
  )
  least = 1e-6 * np.abs(mean[0]) + 1e-12
  constant = deviation[0] <= least
  deviation = np.where(constant, 1, np.maximum(deviation, 1e-12))
  least = np.where(constant, least, np.inf)
  blank = np.zeros((0, 2 * x.shape[1])), np.zeros(0), np.zeros(3)
  made = Neighbours(
    *(a.astype(np.float32) for a in (size, mean, deviation, least, *blank))
  )
  z = placed(made, x.astype(np.float32)).astype(np.float32)
  return made._replace(rows=z, norms=(z**2).sum(1))


def placed(near: Neighbours, x: Any, xp: Any = np) -> Any:
  """[n, 2F] z-scores and levels of rows [n, F], within +-5.

  0 where a value is missing, +-5 off a constant column.
  """
  off = xp.abs(x - near.mean[0]) > near.least
  off = _CLIPPED * xp.sign(x - near.mean[0]) * off
  varies = xp.isinf(near.least)
  parts = []
  for place, values in enumerate((x, _levels(near.size, x, xp))):
    z = (values - near.mean[place]) / near.deviation[place]
    z = xp.where(varies, z, off)
    parts.append(xp.clip(xp.where(xp.isnan(z), 0, z), -_CLIPPED, _CLIPPED))
  return xp.concatenate(parts, 1)


def _distances(near, z, xp, own=None):
  """[n] log distance to the nearest, by columns, of `placed` rows."""
  squares = near.norms - 2 * (z @ near.rows.T)
  if own is not None:
    known = np.flatnonzero(own >= 0)
    squares[known, own[known]] = np.inf  # not with itself
  gaps = z - near.rows[squares.argmin(-1)]  # exactly, however near it is
  return xp.log(xp.sqrt((gaps**2).mean(1)) + 1e-2)


def distances(
  near: Neighbours, x: np.ndarray, own: np.ndarray | None = None
) -> np.ndarray:
  """[n] float64 log distance of rows [n, F] to the nearest.

  `own` [n] are places of the rows among those compared with, and -1: none is
  compared with itself.
  """
  places = np.full(len(x), -1) if own is None else own
  found = []
  for start in range(0, len(x), _CHUNK):
    rows = x[start : start + _CHUNK]
    part = np.zeros((_CHUNK, near.rows.shape[1]), np.float32)
    part[: len(rows)] = placed(near, rows)
    at = places[start : start + _CHUNK]
    found.append(_distances(near, part, np, at)[: len(rows)])
  return np.concatenate([np.zeros(0), *found])


def line(weight: float, scores: np.ndarray, told: np.ndarray) -> np.ndarray:
  """[3] factors of scores and of distances, and an offset.

  So that what is blended of normals has the median and the spread of `scores`
  [n], which thresholds were made for; `told` [n] are their distances.
  """
  quantiles = lambda values: np.quantile(values, (0.1, 0.5, 0.9))
  spread = lambda values: max(np.subtract(*quantiles(values)[[2, 0]]), 1e-6)
  # Of rows that come again and again most distances are one, and few are far.
  usual = max(spread(told), _NORMAL_SPREAD * told.std(), _LEAST)
  parts = np.array([(1 - weight) / spread(scores), weight / usual])
  blend = lambda: parts[0] * scores + parts[1] * told
  parts *= spread(scores) / spread(blend())
  offset = quantiles(scores)[1] - quantiles(blend())[1]
  return np.array([*parts, offset], np.float32)


def without(near: Neighbours, places: np.ndarray) -> Neighbours:
  """The same but for some of the rows."""
  norms = near.norms.copy()
  norms[places[places >= 0]] = np.inf
  return near._replace(norms=norms)


def blended(
  near: Neighbours, scores: Any, x: Any, own: np.ndarray | None = None
) -> np.ndarray:
  """[n] float64 scores of the network and distances of rows [n, F] in one."""
  first, second, offset = near.line.astype(np.float64)
  return first * scores + second * distances(near, x, own) + offset


def traced(near: Neighbours, scores: jax.Array, x: jax.Array) -> jax.Array:
  """`blended` within a program, of rows that are not among those compared."""
  first, second, offset = near.line
  told = _distances(near, placed(near, x, jnp), jnp)
  return first * scores + second * told + offset
