"""What can be said of a row of any table, from a few rows and without learning.

Tables differ in their columns, so nothing here depends on which columns there
are or how many: every cell is described by where it lies among the support's
values of its column, every row by its distances to the support's rows. All of
it is unchanged, to rounding, when a column is multiplied by a positive number
(not when one is added to it: what is zero, and which sign a value has, tells
something in most tables). Rows of the support are described without
themselves, so that a new row can be compared with how the support's rows look
among one another.

NaN is a missing value, and so is infinity; in a distance it counts as the mean
of its column. In a column that is constant in the support there are no
deviations to count in: a row differs there or not, and by a share of the value.
A column whose deviation is below 1e-5 of its mean is marked as constant, and
distances count it in ten-thousandths of the mean, so that it hardly matters: of
a float32 number 1e-7 is rounding, and a hundred steps at most would be left to
tell rows apart by. Whoever has 1e6 +- 1 subtracts the million.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metaad_jax.base import Rows
from metaad_jax.models import linear_algebra

_BIG = 1e4
_LARGEST = 1e33  # of a value: sums over a thousand rows must not overflow
_SAME = 1e-5  # values nearer than this many deviations count as equal


class Columns(NamedTuple):
  """What a support's normals say of every column; [F] each.

  Attributes:
    mean: of the values that are there.
    scale: their standard deviation; next to nothing where it is zero.
    size: mean of their absolute values.
    one_sign: 1 = none is on the other side of zero.
    shape: [F, 5] skewness and kurtosis (compressed), how often two values are
      equal, whether all are, and the share of missing values.
    real: 1 = a real column.
  """

  mean: jax.Array
  scale: jax.Array
  size: jax.Array
  one_sign: jax.Array
  shape: jax.Array
  real: jax.Array


class View(NamedTuple):
  """Rows in the units of the columns; [R, F] each.

  Attributes:
    z: deviations from the mean in standard deviations, within +-10,000; 0
      where the value is missing.
    level: arcsinh(20 x / size): logarithmic, but for values near zero.
    zero: 1 = the value is 0.
    missing: 1 = NaN.
  """

  z: jax.Array
  level: jax.Array
  zero: jax.Array
  missing: jax.Array


class Support(NamedTuple):
  """A support that rows are described against.

  Attributes:
    columns: see `Columns`.
    view: of its K rows.
    normal: [K] 1 = a normal.
    anomaly: [K] 1 = a labelled anomaly.
    centre: [F] mean of the normals' compressed deviations.
    rows: [K, F] the normals' compressed deviations from it; 0 for others.
    inner: [K, K] inverse of rows rows^T + ridge I.
    ridge: scalar.
    precision: [F] diagonal of (rows^T rows + ridge I)^-1.
  """

  columns: Columns
  view: View
  normal: jax.Array
  anomaly: jax.Array
  centre: jax.Array
  rows: jax.Array
  inner: jax.Array
  ridge: jax.Array
  precision: jax.Array


def compress(x: jax.Array) -> jax.Array:
  """sign(x) log(1 + |x|)."""
  return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def fit(support: Rows, features: jax.Array) -> Support:
  """Reads a support.

  Args:
    support: x [K, F], NaN = missing; y and mask [K].
    features: [F] 1 = a real column.

  Returns:
    What `describe` needs.
  """
  normal = support.mask * (1 - support.y)
  columns = _columns(support.x, normal, features)
  rows = view(columns, support.x)
  count = jnp.maximum(normal.sum(), 1)
  compressed = compress(rows.z)
  centre = normal @ compressed / count
  spread = (compressed - centre) * normal[:, None] * features
  ridge = 0.3 * count + 1
  inner = linear_algebra.inverse(
    spread @ spread.T + ridge * jnp.eye(len(spread), dtype=spread.dtype)
  )
  precision = (1 - (spread * (inner @ spread)).sum(0)) / ridge
  return Support(
    columns,
    rows,
    normal,
    support.mask * support.y,
    centre,
    spread,
    inner,
    ridge,
    jnp.maximum(precision, 1e-9),
  )


def _columns(x, normal, features):
  seen = jnp.isfinite(x)
  there = normal[:, None] * seen
  count = jnp.maximum(there.sum(0), 1)
  x = jnp.where(there > 0, jnp.clip(x, -_LARGEST, _LARGEST), 0)
  # Divided by the size first: squares of large values would overflow.
  size = jnp.maximum(jnp.abs(x).sum(0) / count, 1e-30)
  x = x / size
  mean = x.sum(0) / count
  centred = jnp.where(there > 0, x - mean, 0)
  deviation = jnp.sqrt((centred**2).sum(0) / count)
  constant = deviation <= _SAME * jnp.abs(mean)
  scale = jnp.where(constant, 1e-4 * jnp.abs(mean) + 1e-6, deviation)
  z = jnp.clip(centred / scale, -30, 30)
  skewness, kurtosis = (z**3).sum(0) / count, (z**4).sum(0) / count
  equal = jnp.abs(z[:, None] - z) < _SAME
  ties = ((there[:, None] * there) * equal).sum((0, 1)) / count**2
  gone = 1 - there.sum(0) / jnp.maximum(normal.sum(), 1)
  shape = [
    compress(skewness), jnp.log1p(kurtosis), ties, constant * features, gone
  ]  # fmt: skip
  one_sign = (x.min(0) >= 0) | (x.max(0) <= 0)
  return Columns(
    mean * size,
    scale * size,
    size,
    one_sign * features,
    jnp.stack(shape, -1),
    features,
  )


def view(columns: Columns, x: jax.Array) -> View:
  """Rows [R, F] in the units of the columns."""
  seen = jnp.isfinite(x)
  x = jnp.where(seen, jnp.clip(x, -_LARGEST, _LARGEST), 0)
  real = seen * columns.real
  z = jnp.clip((x - columns.mean) / columns.scale, -_BIG, _BIG)
  level = jnp.arcsinh(20 * jnp.clip(x / columns.size, -1e6, 1e6))
  return View(z * real, level * real, (x == 0) * real, (~seen) * columns.real)


def _cell(row, known, weights, columns):
  """Where the cells of one row lie among the known values: [F, 24], ranks [F].

  Args:
    row: `View` of one row, [F] each.
    known: `View` of the support.
    weights: [K] 1 = a row to compare with.
    columns: of the support.
  """
  there = weights[:, None] * (1 - known.missing)
  count = jnp.maximum(there.sum(0), 1)
  mean = lambda v: (there * v).sum(0) / count
  centre = mean(known.z)
  deviation = jnp.sqrt(mean((known.z - centre) ** 2))
  constant = deviation < 10 * _SAME
  unit = jnp.where(constant, 1, deviation)
  z = (row.z - centre) / unit
  differs = jnp.sign(z) * (jnp.abs(z) > 1e-3)
  z = jnp.where(constant, 100 * differs, jnp.clip(z, -_BIG, _BIG))
  gap = (row.z - known.z) / unit
  same = jnp.abs(gap) * unit < _SAME
  least = lambda good, v: jnp.where((there > 0) & good, v, jnp.inf).min(0)
  below, above = least((gap >= 0) | same, gap), least((gap <= 0) | same, -gap)
  inside = jnp.isfinite(below) & jnp.isfinite(above)
  bounded = lambda v: jnp.clip(jnp.where(jnp.isfinite(v), v, _BIG), 0, _BIG)
  near, far = (
    bounded(jnp.minimum(below, above)),
    bounded(jnp.maximum(below, above)),
  )
  equal = mean(same)
  rank = mean(jnp.where(same, 0, jnp.sign(gap)))
  density = lambda width: jnp.log(
    mean(jnp.exp(-jnp.minimum(jnp.abs(gap) / width, 30))) + 1e-4
  )
  level = mean(known.level)
  roughness = jnp.sqrt(mean((known.level - level) ** 2))
  step = (row.level - level) / jnp.maximum(roughness, 1e-3)
  step = jnp.clip(step, -100, 100)
  zeros = mean(known.zero)
  turned = (row.level * jnp.sign(level) < -1e-6) * columns.one_sign
  found = [
    compress(z),
    jnp.log1p(jnp.abs(z)),
    jnp.minimum(jnp.abs(z), 5),
    jnp.log(near + 1e-3),
    jnp.log1p(near),
    jnp.log1p(far),
    ~inside,
    equal,
    jnp.abs(rank),
    density(0.1),
    density(0.5),
    constant,
    constant * jnp.abs(differs),
    compress(step),
    jnp.log1p(jnp.abs(step)),
    row.zero,
    zeros,
    row.zero - zeros,
    0.2 * row.level,
    0.2 * level,
    0.3 * jnp.log(roughness + 1e-3),
    columns.one_sign,
    turned,
  ]
  told = jnp.stack([f.astype(z.dtype) for f in found], -1)
  told = told * (1 - row.missing)[:, None]
  return jnp.concatenate([told, row.missing[:, None]], -1), rank


def _labelled(row, rank, support, ranks, weights):
  """On which side of the labelled anomalies a row is: [F, 11] and [3].

  Args:
    row: `View` of one row.
    rank: [F] its ranks among the normals, -1 to 1.
    support: see `Support`.
    ranks: [K, F] the support's ranks.
    weights: [K] 1 = an anomaly to compare with.
  """
  real = support.columns.real
  count = weights.sum()
  total, some = jnp.maximum(count, 1), count > 0
  limit = lambda z: jnp.clip(z, -30, 30)
  known, z = limit(support.view.z), limit(row.z)
  distance = jnp.abs(row.z - support.view.z)
  nearest = jnp.where(weights[:, None] > 0, distance, 1e3).min(0)
  equal = weights @ (distance < _SAME) / total
  centre = weights @ known / total
  variance = jnp.maximum(weights @ known**2 / total - centre**2, 0)
  variance = (variance * total + 2) / (total + 2)
  likelihood = (z * centre - centre**2 / 2) / variance
  their_rank = weights @ ranks / total
  agreement = rank * their_rank
  cells = [
    jnp.log(nearest + 1e-3),
    equal,
    jnp.ones_like(z),
    compress(likelihood),
    compress(centre),
    jnp.log1p(jnp.abs(centre) / jnp.sqrt(variance)),
    their_rank,
    agreement,
    weights @ jnp.sign(known) / total,
    compress(z * jnp.sign(centre)),
    jnp.clip(z / jnp.where(jnp.abs(centre) > 0.1, centre, 0.1), -3, 3),
  ]
  width = jnp.sqrt(jnp.maximum(real.sum(), 1))
  strongest = jnp.clip(agreement, 0, 1) * jnp.abs(their_rank)
  whole = [
    (compress(likelihood) * real).sum() / width,
    (agreement * real).sum() / width,
    (strongest * real).max(),
  ]
  return jnp.stack(cells, -1) * some, jnp.stack(whole) * some


def _distances(row, support, weights, labelled):
  """How far one row is from the support's rows: [8], [2], and residuals [F].

  Args:
    row: `View` of one row.
    support: see `Support`.
    weights: [K] 1 = a normal to compare with.
    labelled: [K] 1 = an anomaly to compare with.
  """
  real, known = support.columns.real, support.view.z
  width = jnp.maximum(real.sum(), 1)
  logs = (jnp.abs(compress(row.z) - compress(known)) * real).sum(-1) / width
  limit = lambda z: jnp.clip(z, -6, 6)
  squares = ((limit(row.z) - limit(known)) ** 2 * real).sum(-1) / width
  unequal = ((jnp.abs(row.z - known) > 1e-3) * real).sum(-1) / width
  total = jnp.maximum(weights.sum(), 1)
  told = []
  for distance in (jnp.sqrt(squares + 1e-6), logs):
    masked = jnp.where(weights > 0, distance, 1e3)
    nearest = masked.min()
    pull = (masked - nearest) / (0.3 * nearest + 1e-3)
    pull = weights * jnp.exp(-jnp.minimum(pull, 30))
    pull = pull / jnp.maximum(pull.sum(), 1e-9)
    told += [nearest, weights @ distance / total, pull @ distance]
  told = [jnp.log(d + 1e-3) for d in told]
  told += [
    jnp.where(weights > 0, unequal, 1).min(),
    weights @ unequal / total,
  ]
  some = labelled.sum() > 0
  nearest = jnp.log(jnp.where(labelled > 0, logs, 1e3).min() + 1e-3)
  residual = jnp.clip(row.z - pull @ known, -_BIG, _BIG)
  return jnp.stack(told), jnp.stack([nearest, 1.0]) * some, residual


def _joint(support, rows):
  """Mahalanobis parts of [R, F] compressed deviations: A^-1 x and x A^-1 x."""
  along = rows @ support.rows.T
  solved = (rows - along @ support.inner @ support.rows) / support.ridge
  return solved, (solved * rows).sum(-1)


class Description(NamedTuple):
  """Rows, described.

  Attributes:
    cells: [R, F, 39].
    rows: [R, 9] distances to the normals.
    labels: [R, 6] where the row lies with respect to labelled anomalies.
  """

  cells: jax.Array
  rows: jax.Array
  labels: jax.Array


def describe_support(support: Support, chosen: jax.Array) -> Description:
  """Describes rows of the support, each without itself.

  Args:
    support: see `Support`.
    chosen: [R] indices of its rows.

  Returns:
    Their description.
  """
  take = lambda tree: jax.tree.map(lambda leaf: leaf[chosen], tree)
  others = 1 - jax.nn.one_hot(chosen, len(support.normal))
  solved, squared = _joint(support, _centred(support, take(support.view)))
  left = jnp.where(take(support.normal) > 0, jnp.maximum(1 - squared, 1e-2), 1)
  return _describe(
    support,
    take(support.view),
    others * support.normal,
    others * support.anomaly,
    (solved / left[:, None], squared / left),
  )


def describe(support: Support, x: jax.Array) -> Description:
  """Describes new rows [R, F] against a support."""
  rows = view(support.columns, x)
  return _describe(
    support,
    rows,
    support.normal,
    support.anomaly,
    _joint(support, _centred(support, rows)),
  )


def _centred(support, rows):
  return (compress(rows.z) - support.centre) * support.columns.real


def _describe(support, rows, normal, anomaly, joint):
  """`normal` and `anomaly`: [K] for all rows, or [R, K] one for each."""
  axis = 0 if normal.ndim == 2 else None
  solved, squared = joint
  count = jnp.maximum(support.normal.sum(), 1)
  width = jnp.maximum(support.columns.real.sum(), 1)
  cell = lambda r, w: _cell(r, support.view, w, support.columns)
  cells, ranks = jax.vmap(cell, (0, axis))(rows, normal)
  theirs = _ranks(support)
  sides, whole = jax.vmap(
    lambda r, rank, w: _labelled(r, rank, support, theirs, w), (0, 0, axis)
  )(rows, ranks, anomaly)
  far, near_anomaly, residual = jax.vmap(
    lambda r, w, a: _distances(r, support, w, a), (0, axis, axis)
  )(rows, normal, anomaly)
  conditional = jnp.clip(
    solved * jnp.sqrt(count / support.precision), -_BIG, _BIG
  )
  more = [
    compress(residual),
    jnp.log1p(jnp.abs(residual)),
    compress(conditional),
    jnp.log1p(jnp.abs(conditional)),
  ]
  mahalanobis = jnp.log(jnp.maximum(squared, 0) * count / width + 1e-3)
  centred = _centred(support, rows)
  towards = support.anomaly @ _centred(support, support.view)
  towards = towards / jnp.maximum(support.anomaly.sum(), 1)
  direction = _joint(support, towards[None])[0][0]
  norm = jnp.sqrt(jnp.maximum(towards @ direction, 1e-6))
  discriminant = compress(centred @ direction / norm * jnp.sqrt(count))
  some = support.anomaly.sum() > 0
  return Description(
    jnp.concatenate([cells, sides, jnp.stack(more, -1)], -1),
    jnp.concatenate([far, mahalanobis[:, None]], -1),
    jnp.concatenate([near_anomaly, whole, (discriminant * some)[:, None]], -1),
  )


def _ranks(support):
  """[K, F] mean sign of each value's distance to the normals' values."""
  known = support.view
  there = support.normal[:, None] * (1 - known.missing)
  gap = known.z[:, None] - known.z
  sign = jnp.where(jnp.abs(gap) < _SAME, 0, jnp.sign(gap))
  return (sign * there).sum(1) / jnp.maximum(there.sum(0), 1)
