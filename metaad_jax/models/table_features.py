"""Rows of any table described by a few support rows, without learning.

Nothing here depends on which columns a table has or how many: a cell is
described by where it lies among the support's values of its column (`CELLS`), a
row by its distances to the support's normals (`DISTANCES`) and to its labelled
anomalies (`LABELS`). Multiplying a column by a positive number changes nothing,
to rounding; adding a number does, since in most tables zero and the sign of a
value mean something. Rows of the support are described without themselves, in
the units of the whole support, so that a new row can be compared with how the
support's rows look among one another.

NaN and infinity are missing values; in a distance they count as the mean of
their column. A column that is constant in the support has no deviations: a row
differs there or not, and by a share of the value. A column counts as constant
below a deviation of 1e-5 of its mean, a hundred steps of float32; distances
measure it in ten-thousandths of the mean, so that it hardly matters. Of 1e6
+- 1, subtract the million first.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metaad_jax.base import Rows
from metaad_jax.models import linear_algebra

_BIG = 1e4
_LARGEST = 1e33  # of a value: sums over a thousand rows must not overflow
_SAME = 1e-5  # values nearer than this many deviations count as equal

_AMONG_NORMALS = (
  # in deviations from the normals' mean, and in distances to their values
  'deviation', 'deviation_size', 'deviation_size_to_5', 'nearest_value_log',
  'nearest_value', 'nearest_value_beyond', 'outside', 'equal_share',
  'rank_size', 'density_narrow', 'density_wide', 'constant', 'differs',
  # on the logarithmic level, which knows zero and signs
  'step', 'step_size', 'zero', 'zero_share', 'zero_excess', 'level',
  'level_mean', 'roughness', 'one_sign', 'other_sign',
)  # fmt: skip
_AMONG_ANOMALIES = (
  'nearest_anomaly', 'equal_share_anomalies', 'any_anomaly',
  'likelihood', 'anomaly_mean', 'anomaly_mean_in_deviations', 'anomaly_rank',
  'rank_agreement', 'anomaly_sign', 'deviation_to_anomalies',
  'way_to_anomalies',
)  # fmt: skip
CELLS = (
  *_AMONG_NORMALS, 'missing', *_AMONG_ANOMALIES,
  'residual', 'residual_size', 'conditional', 'conditional_size',
)  # fmt: skip
DISTANCES = (
  'root_mean_square_nearest', 'root_mean_square_mean', 'root_mean_square_soft',
  'logarithmic_nearest', 'logarithmic_mean', 'logarithmic_soft',
  'unequal_nearest', 'unequal_mean', 'mahalanobis',
)  # fmt: skip
LABELS = (
  'nearest_anomaly', 'any_anomaly', 'likelihood', 'rank_agreement',
  'strongest_agreement', 'discriminant',
)  # fmt: skip


class Columns(NamedTuple):
  """What a support's normals say of every column; [F] each."""

  mean: jax.Array  # of the values that are there
  scale: jax.Array  # their standard deviation; next to nothing where it is 0
  size: jax.Array  # mean of their absolute values
  one_sign: jax.Array  # 1 = no two are on different sides of zero
  # [F, 5] skewness and kurtosis (compressed), how often two values are equal,
  # whether all are, and the share of missing values
  shape: jax.Array
  real: jax.Array  # 1 = a real column


class View(NamedTuple):
  """Rows in the units of the columns; [R, F] each."""

  z: jax.Array  # deviations from the mean, within +-10,000; 0 = missing
  level: jax.Array  # arcsinh(20 x / size): logarithmic, but for values near 0
  zero: jax.Array  # 1 = the value is 0
  missing: jax.Array  # 1 = NaN or infinite


class Support(NamedTuple):
  """A support of K rows that rows are described against."""

  columns: Columns
  view: View
  normal: jax.Array  # [K] 1 = a normal
  anomaly: jax.Array  # [K] 1 = a labelled anomaly
  centre: jax.Array  # [F] mean of the normals' compressed deviations
  rows: jax.Array  # [K, F] the normals less the centre; 0 for others
  inner: jax.Array  # [K, K] inverse of rows rows^T + ridge I
  ridge: jax.Array  # scalar
  precision: jax.Array  # [F] diagonal of (rows^T rows + ridge I)^-1
  ranks: jax.Array  # [K, F] among the normals, -1 to 1


class Description(NamedTuple):
  """R rows, described."""

  cells: jax.Array  # [R, F, 39], see `CELLS`
  rows: jax.Array  # [R, 9] distances to the normals, see `DISTANCES`
  labels: jax.Array  # [R, 6] among labelled anomalies, see `LABELS`
  # [R] which of the chosen rows of the support each one is; None = new rows
  itself: jax.Array | None = None


def compress(x: jax.Array) -> jax.Array:
  """sign(x) log(1 + |x|)."""
  return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def fit(support: Rows, features: jax.Array) -> Support:
  """Reads a support: x [K, F], NaN = missing; features [F] 1 = real."""
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
  precision = jnp.maximum(precision, 1e-9)
  anomaly = support.mask * support.y
  return Support(
    columns, rows, normal, anomaly, centre, spread, inner, ridge, precision,
    _ranks(rows, normal),
  )  # fmt: skip


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
  moments = [compress(skewness), jnp.log1p(kurtosis)]
  shape = jnp.stack([*moments, ties, constant * features, gone], -1)
  one_sign = ((x.min(0) >= 0) | (x.max(0) <= 0)) * features
  return Columns(mean * size, scale * size, size, one_sign, shape, features)


def view(columns: Columns, x: jax.Array) -> View:
  """Rows [R, F] in the units of the columns."""
  seen = jnp.isfinite(x)
  x = jnp.where(seen, jnp.clip(x, -_LARGEST, _LARGEST), 0)
  real = seen * columns.real
  z = jnp.clip((x - columns.mean) / columns.scale, -_BIG, _BIG)
  level = jnp.arcsinh(20 * jnp.clip(x / columns.size, -1e6, 1e6))
  return View(z * real, level * real, (x == 0) * real, (~seen) * columns.real)


def _cell(row, known, weights, columns):
  """`_AMONG_NORMALS` and 'missing' of one row, 24 of [F]; and its ranks [F].

  The row and the support, `known`, are `View`s; weights [K] 1 = compared with.
  Ranks are -1 to 1.
  """
  there = weights[:, None] * (1 - known.missing)
  count = jnp.maximum(there.sum(0), 1)
  mean = lambda v: (there * v).sum(0) / count
  near, rank = _deviations(row.z, known.z, there, mean)
  features = [*near, *_levels(row, known, mean, columns)]
  seen = 1 - row.missing
  return [*(f.astype(row.z.dtype) * seen for f in features), row.missing], rank


def _deviations(z, known, there, mean):
  """The features in deviations, 13 of [F], and the ranks [F]."""
  centre = mean(known)
  deviation = jnp.sqrt(mean((known - centre) ** 2))
  constant = deviation < 10 * _SAME
  unit = jnp.where(constant, 1, deviation)
  gap = (z - known) / unit
  z = (z - centre) / unit
  differs = jnp.sign(z) * (jnp.abs(z) > 1e-3)
  z = jnp.where(constant, 100 * differs, jnp.clip(z, -_BIG, _BIG))
  same = jnp.abs(gap) * unit < _SAME
  least = lambda good, v: jnp.where((there > 0) & good, v, jnp.inf).min(0)
  below, above = least((gap >= 0) | same, gap), least((gap <= 0) | same, -gap)
  inside = jnp.isfinite(below) & jnp.isfinite(above)
  bounded = lambda v: jnp.clip(jnp.where(jnp.isfinite(v), v, _BIG), 0, _BIG)
  near = bounded(jnp.minimum(below, above))
  far = bounded(jnp.maximum(below, above))
  rank = mean(jnp.where(same, 0, jnp.sign(gap)))
  density = lambda width: jnp.log(mean(jnp.exp(-jnp.abs(gap) / width)) + 1e-4)
  features = [
    compress(z),
    jnp.log1p(jnp.abs(z)),
    jnp.minimum(jnp.abs(z), 5),
    jnp.log(near + 1e-3),
    jnp.log1p(near),
    jnp.log1p(far),
    ~inside,
    mean(same),
    jnp.abs(rank),
    density(0.1),
    density(0.5),
    constant,
    constant * jnp.abs(differs),
  ]
  return features, rank


def _levels(row, known, mean, columns):
  """The features on the logarithmic level, 10 of [F]."""
  level, zeros = mean(known.level), mean(known.zero)
  roughness = jnp.sqrt(mean((known.level - level) ** 2))
  step = (row.level - level) / jnp.maximum(roughness, 1e-3)
  step = jnp.clip(step, -100, 100)
  return [
    compress(step),
    jnp.log1p(jnp.abs(step)),
    row.zero,
    zeros,
    row.zero - zeros,
    0.2 * row.level,
    0.2 * level,
    0.3 * jnp.log(roughness + 1e-3),
    columns.one_sign,
    (row.level * jnp.sign(level) < -1e-6) * columns.one_sign,
  ]


def _labelled(row, rank, support, weights):
  """`_AMONG_ANOMALIES`, 11 of [F]; `LABELS[2:5]` [3] of one row, a `View`.

  Its ranks among the normals are [F]; weights [K] 1 = an anomaly to compare
  with.
  """
  real = support.columns.real
  count = weights.sum()
  total, some = jnp.maximum(count, 1), count > 0
  limit = lambda z: jnp.clip(z, -30, 30)
  known, z = limit(support.view.z), limit(row.z)
  distance = jnp.abs(row.z - support.view.z)
  nearest = jnp.where(weights[:, None] > 0, distance, 1e3).min(0)
  equal = (weights[:, None] * (distance < _SAME)).sum(0) / total
  centre = weights @ known / total
  variance = jnp.maximum(weights @ known**2 / total - centre**2, 0)
  variance = (variance * total + 2) / (total + 2)
  likelihood = (z * centre - centre**2 / 2) / variance
  their_rank = weights @ support.ranks / total
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
  return [cell * some for cell in cells], jnp.stack(whole) * some


def _distances(row, support, weights, labelled):
  """Of one row, a `View`: `DISTANCES` but the last, [8]; and `LABELS[:2]`.

  Also [F], the row less its nearest normals. `weights` and `labelled`, [K]: 1 =
  a normal, or an anomaly, to compare with.
  """
  known = support.view.z  # 0 in a column that is none, as in `row`
  width = jnp.maximum(support.columns.real.sum(), 1)
  logs = jnp.abs(compress(row.z) - compress(known)).sum(-1) / width
  limit = lambda z: jnp.clip(z, -6, 6)
  squares = ((limit(row.z) - limit(known)) ** 2).sum(-1) / width
  unequal = (jnp.abs(row.z - known) > 1e-3).sum(-1) / width
  total = jnp.maximum(weights.sum(), 1)
  features = []
  for distance in (jnp.sqrt(squares + 1e-6), logs):
    masked = jnp.where(weights > 0, distance, 1e3)
    nearest = masked.min()
    pull = (masked - nearest) / (0.3 * nearest + 1e-3)
    pull = weights * jnp.exp(-jnp.minimum(pull, 30))
    pull = pull / jnp.maximum(pull.sum(), 1e-9)
    features += [nearest, weights @ distance / total, pull @ distance]
  features = [jnp.log(d + 1e-3) for d in features]
  least = jnp.where(weights > 0, unequal, 1).min()
  features += [least, weights @ unequal / total]
  some = labelled.sum() > 0
  nearest = jnp.log(jnp.where(labelled > 0, logs, 1e3).min() + 1e-3)
  residual = jnp.clip(row.z - pull @ known, -_BIG, _BIG)
  return jnp.stack(features), jnp.stack([nearest, 1.0]) * some, residual


def _joint(support, rows):
  """Mahalanobis parts of [R, F] compressed deviations: A^-1 x and x A^-1 x."""
  along = rows @ support.rows.T
  solved = (rows - along @ support.inner @ support.rows) / support.ridge
  return solved, (solved * rows).sum(-1)


def describe_support(support: Support, chosen: jax.Array) -> Description:
  """Describes rows of the support, `chosen` [R], each without itself."""
  take = lambda tree: jax.tree.map(lambda leaf: leaf[chosen], tree)
  others = 1 - jax.nn.one_hot(chosen, len(support.normal))
  rows = take(support.view)
  solved, squared = _joint(support, _centred(support, rows))
  left = jnp.where(take(support.normal) > 0, jnp.maximum(1 - squared, 1e-2), 1)
  joint = solved / left[:, None], squared / left
  normal, anomaly = others * support.normal, others * support.anomaly
  description = _describe(support, rows, normal, anomaly, joint)
  return description._replace(itself=jnp.arange(len(chosen)))


def describe(support: Support, x: jax.Array) -> Description:
  """Describes new rows [R, F] against a support."""
  rows = view(support.columns, x)
  joint = _joint(support, _centred(support, rows))
  return _describe(support, rows, support.normal, support.anomaly, joint)


def blank(description: Description, *names: str) -> Description:
  """Sets features to 0 by their names, those of cells and of rows alike.

  Example:
    blank(describe(support, x), 'rank_size', 'mahalanobis')

  Raises:
    ValueError: for a name that is in none of `CELLS`, `DISTANCES`, `LABELS`.
  """
  if unknown := {*names}.difference(CELLS, DISTANCES, LABELS):
    raise ValueError(f'no features of these names: {", ".join(unknown)}')
  keep = lambda among: jnp.array([name not in names for name in among], float)
  return description._replace(
    cells=description.cells * keep(CELLS),
    rows=description.rows * keep(DISTANCES),
    labels=description.labels * keep(LABELS),
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
  sides, whole = jax.vmap(
    lambda r, rank, w: _labelled(r, rank, support, w), (0, 0, axis)
  )(rows, ranks, anomaly)
  far, near_anomaly, residual = jax.vmap(
    lambda r, w, a: _distances(r, support, w, a), (0, axis, axis)
  )(rows, normal, anomaly)
  conditional = solved * jnp.sqrt(count / support.precision)
  both = (residual, jnp.clip(conditional, -_BIG, _BIG))
  columns = [
    f(x) for x in both for f in (compress, lambda x: jnp.log1p(abs(x)))
  ]
  mahalanobis = jnp.log(jnp.maximum(squared, 0) * count / width + 1e-3)
  discriminant = jax.vmap(lambda x, w: _discriminant(support, x, w), (0, axis))(
    _centred(support, rows), anomaly
  )
  discriminant = compress(discriminant * jnp.sqrt(count))
  # Side by side and then turned round: to interleave them takes longer.
  told = jnp.stack([*cells, *sides, *columns], 1)
  return Description(
    told.swapaxes(1, 2),
    jnp.concatenate([far, mahalanobis[:, None]], -1),
    jnp.concatenate([near_anomaly, whole, discriminant[:, None]], -1),
  )


def _discriminant(support, x, anomaly):
  """How far x [F] lies towards the mean of the anomalies, [K] 1 = compared."""
  towards = anomaly @ _centred(support, support.view)
  towards = towards / jnp.maximum(anomaly.sum(), 1)
  direction = _joint(support, towards[None])[0][0]
  return x @ direction / jnp.sqrt(jnp.maximum(towards @ direction, 1e-6))


def _ranks(known, normal):
  """[K, F] mean sign of each value's distance to the normals' values."""
  there = normal[:, None] * (1 - known.missing)
  gap = known.z[:, None] - known.z
  sign = jnp.where(jnp.abs(gap) < _SAME, 0, jnp.sign(gap))
  return (sign * there).sum(1) / jnp.maximum(there.sum(0), 1)
