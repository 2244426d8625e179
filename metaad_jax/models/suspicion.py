"""Who is bad among the rows that nobody checked: rows described in rounds.

A support has verified normals, known anomalies and unverified rows. In each
round every row, of the support or new, is described by its distances to the
verified and to the trusted rows (`FEATURES`); a network makes a suspicion of
it, the support's unverified rows are trusted by it, and the next round measures
columns, neighbours and covariance anew: expectation maximisation whose first
step is learned. Nothing depends on the order of rows or columns; the cost of a
row grows with the rows it is compared with, `_REFERENCES` at most of a kind.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metaad_jax.base import Rows
from metaad_jax.models import linear_algebra

_FAR = 5.0  # deviations; all that is farther counts as this
_DOUBT = 0.1  # suspicion of an unverified row before the first round
_REFERENCES = 512  # rows of a kind that others are compared with
_WIDTHS = (0.5, 1.0, 2.0)  # of kernels, in typical distances of neighbours
_SAME = 1e-5  # of the mean: a smaller deviation is rounding
_PRIMAL = 128  # columns; a wider covariance is inverted by its rows
_DISTANCES = (
  'nearest_verified', 'nearest', 'mean_verified', 'mean',
  'mahalanobis_verified', 'mahalanobis',
  *(f'sparse{h}_verified' for h in _WIDTHS), *(f'sparse{h}' for h in _WIDTHS),
  'size', 'largest', 'square',
)  # fmt: skip
FEATURES = (
  *_DISTANCES, *(f'{name}_unusual' for name in _DISTANCES),
  *(f'neighbours_suspicion{h}' for h in _WIDTHS),
  'nearest_anomaly', *(f'anomalies{h}' for h in _WIDTHS),
  'rank', 'rank_unverified',
  'verified', 'unverified', 'anomalies', 'columns', 'bad', 'neighbourhood',
  'is_verified', 'is_unverified', 'is_anomaly', 'missing',
)  # fmt: skip


class Kinds(NamedTuple):
  """Of rows; [S] 0 or 1 each. Padding is of no kind, and so are new rows."""

  verified: jax.Array
  unverified: jax.Array
  anomaly: jax.Array


class Scale(NamedTuple):
  """Of columns: mean size; mean, deviation and rounding of values, levels."""

  size: jax.Array  # [F]
  values: tuple[jax.Array, jax.Array, jax.Array]  # [F] each, in sizes
  levels: tuple[jax.Array, jax.Array, jax.Array]  # [F] each
  real: jax.Array  # [F] 1 = a real column


class Joint(NamedTuple):
  """A shrunk covariance: x -> (x - mean)' (scatter + ridge)^-1 (x - mean)."""

  mean: jax.Array  # [D]
  along: jax.Array | None  # [D, k] rows, or None: `inner` is the inverse
  inner: jax.Array  # [k, k] or [D, D]
  ridge: jax.Array
  unit: jax.Array  # turns the product into a squared Mahalanobis distance


class Round(NamedTuple):
  """A support as it was seen in one round."""

  scale: Scale
  rows: jax.Array  # [R, 2 F] those that others are compared with, scaled
  kinds: Kinds  # of these
  trust: jax.Array  # [R] weight as a normal
  bad: jax.Array  # [R] suspicion of the unverified ones
  joints: tuple[Joint, Joint]  # of the verified and of the trusted rows
  width: jax.Array  # typical distance to the nearest trusted row
  usual: tuple[jax.Array, jax.Array]  # centre and spread of the distances
  sums: jax.Array  # [R] log distances of the rows themselves
  counts: jax.Array  # [6], see `FEATURES`


def kinds(support: Rows) -> Kinds:
  """y: 0 = verified normal, 1 = known anomaly, 0.5 = unverified."""
  verified = support.mask * (support.y < 0.25)
  anomaly = support.mask * (support.y > 0.75)
  return Kinds(verified, support.mask - verified - anomaly, anomaly)


def _moments(x, weights, seen):
  there = weights[:, None] * seen
  count = jnp.maximum(there.sum(0), 1e-3)
  mean = (there * x).sum(0) / count
  deviation = jnp.sqrt((there * (x - mean) ** 2).sum(0) / count)
  return mean, deviation, _SAME * jnp.abs(mean) + 1e-7


def scale(x: jax.Array, weights: jax.Array, real: jax.Array) -> Scale:
  """Columns of x [S, F] by rows of some weight [S]; real [F] 1 = a column."""
  seen = jnp.isfinite(x)
  x = jnp.where(seen, jnp.clip(x, -1e30, 1e30), 0)
  there = weights[:, None] * seen
  size = (there * jnp.abs(x)).sum(0) / jnp.maximum(there.sum(0), 1e-3)
  size = jnp.maximum(size, 1e-30)
  values = _moments(jnp.clip(x / size, -1e6, 1e6), weights, seen)
  return Scale(size, values, _moments(_level(x, size), weights, seen), real)


def _level(x, size):
  return jnp.arcsinh(20 * jnp.clip(x / size, -1e6, 1e6))


def coordinates(by: Scale, x: jax.Array) -> jax.Array:
  """[R, F] -> [R, 2 F] z-scores of values and levels, within +-5.

  A missing value is the mean; where no value differed, +-5 says that one does.
  """
  seen = jnp.isfinite(x) * by.real
  x = jnp.where(jnp.isfinite(x), jnp.clip(x, -1e30, 1e30), 0)

  def z(x, mean, deviation, least):
    gap = x - mean
    moved = _FAR * jnp.sign(gap) * (jnp.abs(gap) > least)
    constant = deviation <= least
    scaled = gap / jnp.where(constant, 1, deviation)
    return jnp.clip(jnp.where(constant, moved, scaled), -_FAR, _FAR) * seen

  parts = (
    z(jnp.clip(x / by.size, -1e6, 1e6), *by.values),
    z(_level(x, by.size), *by.levels),
  )
  return jnp.concatenate(parts, 1)


def squares(x: jax.Array, rows: jax.Array, width: jax.Array) -> jax.Array:
  """[R, S] mean squared differences."""
  cross = x @ rows.T
  norms = (x**2).sum(1)[:, None] + (rows**2).sum(1)
  return jnp.maximum(norms - 2 * cross, 0) / width


def joint(rows: jax.Array, weights: jax.Array, width: jax.Array) -> Joint:
  """Ledoit and Wolf's shrinkage (2004), weighted."""
  count = jnp.maximum(weights.sum(), 1e-3)
  mean = weights @ rows / count
  centred = (rows - mean) * jnp.sqrt(weights)[:, None]
  dual = rows.shape[1] > _PRIMAL
  if dual:  # as many rows as can be inverted
    few = jax.lax.top_k(weights, min(_PRIMAL, len(rows)))[1]
    centred, weights = centred[few], weights[few]
    count = jnp.maximum(weights.sum(), 1e-3)
  scatter = centred @ centred.T if dual else centred.T @ centred
  average = jnp.trace(scatter) / count / width
  energy = (scatter**2).sum() / count**2
  fourth = ((centred**2).sum(1) ** 2 / jnp.maximum(weights, 1e-9)).sum()
  noise = (fourth / count - energy) / count
  excess = jnp.maximum(energy - width * average**2, 1e-9)
  shrinkage = jnp.clip(noise / excess, 0.02, 0.999)
  ridge = count * shrinkage * average / (1 - shrinkage) + 1e-3 * count
  inner = linear_algebra.inverse(scatter + ridge * jnp.eye(len(scatter)))
  unit = count / (1 - shrinkage) / width
  return Joint(mean, centred.T if dual else None, inner, ridge, unit)


def mahalanobis(joint: Joint, x: jax.Array, own: jax.Array) -> jax.Array:
  """[R] logarithm; `own` [R] is the weight of a row within the covariance."""
  x = x - joint.mean
  if joint.along is None:
    squared = ((x @ joint.inner) * x).sum(1)
  else:
    along = x @ joint.along
    squared = (x**2).sum(1) - ((along @ joint.inner) * along).sum(1)
    squared = squared / joint.ridge
  squared = jnp.maximum(squared, 0)
  squared = squared / jnp.maximum(1 - own * squared, 1e-2)
  return 0.5 * jnp.log(squared * joint.unit + 1e-3)


def _spread_out(priority, chosen, most):
  """`most` indices, those chosen first, at even ranks of their priority."""
  order = jnp.argsort(jnp.where(chosen > 0, priority, jnp.inf))
  count = jnp.maximum(chosen.sum(), most)
  ranks = jnp.arange(most) * (count - 1) / max(1, most - 1)
  return order[ranks.astype(int)], (jnp.arange(most) < chosen.sum())


def references(support: Rows, real: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Indices [R] of rows that others are compared with, and which are real.

  All, or where there are too many, of each kind some from near the centre to
  far from it.
  """
  number = len(support.mask)
  if number <= 2 * _REFERENCES:
    return jnp.arange(number), support.mask
  of = kinds(support)
  normal = of.verified + of.unverified
  by = scale(support.x, normal, real)
  far = (coordinates(by, support.x) ** 2).sum(1)
  parts = [_spread_out(far, kind, _REFERENCES) for kind in of]
  index, good = zip(*parts, strict=True)
  return jnp.concatenate(index), jnp.concatenate(good).astype(far.dtype)


def read(
  support: Rows,
  suspicion: jax.Array,
  chosen: tuple[jax.Array, jax.Array],
  real: jax.Array,
) -> tuple[Round, jax.Array]:
  """One round: a support of S rows, each suspected with a probability.

  Args:
    support: x [S, F], y and mask [S]; see `kinds`.
    suspicion: [S] probability of an anomaly; counts for unverified rows alone.
    chosen: see `references`.
    real: [F] 1 = a real column.

  Returns:
    The round, and `FEATURES` of the S rows, each without itself.
  """
  of = kinds(support)
  bad = of.unverified * suspicion
  trust = of.verified + of.unverified - bad
  by = scale(support.x, trust, real)
  rows, width = coordinates(by, support.x), 2 * jnp.maximum(real.sum(), 1)
  joints = joint(rows, of.verified, width), joint(rows, trust, width)
  index, good = chosen
  take = lambda a: a[index] * good
  there = Kinds(*map(take, of))
  near = rows[index]
  counts = [
    *(jnp.log1p(kind.sum()) for kind in of),
    jnp.log(jnp.maximum(real.sum(), 1)),
    bad.sum() / jnp.maximum(of.unverified.sum(), 1),
  ]
  zeros = jnp.zeros(len(_DISTANCES))
  one = jnp.ones(())
  draft = Round(
    by, near, there, take(trust), take(bad), joints, one, (zeros, zeros + 1),
    jnp.zeros(len(index)), jnp.stack([*counts, one]),
  )  # fmt: skip
  itself = jnp.arange(len(rows))[:, None] == index
  squared = squares(rows, near, width)
  nearest = _nearest(squared, draft.trust * ~itself)
  usual = (trust * nearest).sum() / jnp.maximum(trust.sum(), 1e-3)
  draft = draft._replace(width=jnp.exp(usual))
  draft = draft._replace(counts=draft.counts.at[-1].set(usual))
  distances = _distances(draft, rows, squared, ~itself, of, trust)
  total = jnp.maximum(trust.sum(), 1e-3)
  centre = trust @ distances / total
  spread = jnp.sqrt(trust @ (distances - centre) ** 2 / total + 0.03)
  sums = (distances[:, 1] + distances[:, 5])[index]
  made = draft._replace(usual=(centre, spread), sums=sums)
  missing = 1 - (jnp.isfinite(support.x) * real).sum(1) / (width / 2)
  return made, _features(made, distances, squared, ~itself, of, missing)


def describe(by: Round, x: jax.Array) -> jax.Array:
  """`FEATURES` of new rows [R, F]: [R, n]."""
  real = by.scale.real
  rows, width = coordinates(by.scale, x), 2 * jnp.maximum(real.sum(), 1)
  squared = squares(rows, by.rows, width)
  nobody = jnp.zeros(len(x))
  of = Kinds(nobody, nobody, nobody)
  others = jnp.ones_like(squared)
  distances = _distances(by, rows, squared, others, of, nobody)
  missing = 1 - (jnp.isfinite(x) * real).sum(1) / (width / 2)
  return _features(by, distances, squared, others, of, missing)


def log_distances(by: Round, x: jax.Array) -> jax.Array:
  """[R, S] logarithms of the distances of new rows to the compared ones."""
  rows = coordinates(by.scale, x)
  width = 2 * jnp.maximum(by.scale.real.sum(), 1)
  return 0.5 * jnp.log(squares(rows, by.rows, width) + 1e-4)


def _nearest(squared, weights):
  """[R] log distance to the nearest row of some weight; 0 if there is none."""
  near = jnp.where(weights > 0.5, squared, 1e6).min(1)
  return jnp.where(near < 1e6, 0.5 * jnp.log(near + 1e-4), 0)


def _kernels(by, squared, others):
  scaled = squared / (2 * by.width**2 + 1e-6)
  return [jnp.exp(-jnp.minimum(scaled / h**2, 30)) * others for h in _WIDTHS]


def _distances(by, rows, squared, others, of, own):
  """[R, 15] `_DISTANCES`; `own` [R]: trust in rows of the support itself."""
  verified, trust = by.kinds.verified, by.trust
  distance = jnp.sqrt(squared + 1e-6)
  some = (others @ verified) > 0.5
  mean = lambda w: (others * distance) @ w / jnp.maximum(others @ w, 1e-3)
  kernels = _kernels(by, squared, others)
  total = lambda w: jnp.maximum(others @ w, 1e-3)
  sparse = lambda w: [-0.2 * jnp.log(k @ w / total(w) + 1e-7) for k in kernels]
  joint_verified, joint = (
    mahalanobis(by.joints[0], rows, of.verified),
    mahalanobis(by.joints[1], rows, own),
  )
  of_verified = [
    _nearest(squared, verified * others),
    jnp.log(mean(verified) + 1e-2),
    joint_verified,
    *sparse(verified),
  ]
  near, far, joint_known, *thin = [some * f for f in of_verified]
  width = jnp.maximum(by.scale.real.sum(), 1) * 2
  size = jnp.abs(rows)
  features = [
    near, _nearest(squared, trust * others), far, jnp.log(mean(trust) + 1e-2),
    joint_known, joint, *thin, *sparse(trust),
    size.sum(1) / width, size.max(1) / 2, jnp.log1p((rows**2).sum(1) / width),
  ]  # fmt: skip
  return jnp.stack(features, 1)


def _features(by, distances, squared, others, of, missing):
  centre, spread = by.usual
  unusual = jnp.clip(0.5 * (distances - centre) / spread, -15, 15)
  kernels = _kernels(by, squared, others)
  unverified, anomaly = by.kinds.unverified, by.kinds.anomaly
  suspicion = [(k @ by.bad + 1e-3) / (k @ unverified + 1e-2) for k in kernels]
  rivals = [jnp.log(k @ anomaly + 1e-3) + 7 for k in kernels]
  some = anomaly.sum() > 0
  sums = distances[:, 1] + distances[:, 5]
  above = (sums[:, None] > by.sums) * others
  rank = lambda w: above @ w / jnp.maximum(others @ w, 1)
  features = [
    *suspicion,
    _nearest(squared, anomaly * others), *(some * r for r in rivals),
    rank(by.trust), rank(unverified),
    *jnp.broadcast_to(by.counts[:, None], (6, len(distances))),
    *of, missing,
  ]  # fmt: skip
  found = jnp.concatenate([distances, unusual, jnp.stack(features, 1)], 1)
  return jnp.nan_to_num(jnp.clip(found, -30, 30))


def first(support: Rows) -> jax.Array:
  """[S] suspicion before the first round."""
  return jnp.full(len(support.y), _DOUBT)
