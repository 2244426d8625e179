"""An encoder of rows of any table: deep sets over columns and support rows.

Every cell comes described by `table_features`. Blocks mix a cell with its
column (how the support's own rows look there), with its row (mean, maximum and
attention over the columns) and with the row's distances; nothing depends on
the order or the number of columns or rows. Zaheer et al., "Deep Sets", 2017;
Kossen et al., "Self-Attention Between Datapoints", 2021.
"""

from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from metaad_jax import base
from metaad_jax.models import log_distances
from metaad_jax.models import table_features as tf

_ROWS = 64  # of the support that are looked at one by one
_ANOMALIES = 16  # of these, at most

ROWS = (
  *tf.DISTANCES, *(f'{name}_unusual' for name in tf.DISTANCES), *tf.LABELS,
  'nearest_normal_less_anomaly', 'normals', 'anomalies', 'columns',
)  # fmt: skip


class Summary(NamedTuple):
  """A support as the encoder sees it: all that scoring a row needs."""

  real: jax.Array  # [F] 1 = a real column
  counts: jax.Array  # [3] logarithms: how many normals, anomalies and columns
  # mean and spread of the normals' distances among themselves, [9] each
  rows: tuple[jax.Array, jax.Array]
  # [F, width] of each block
  columns: tuple[jax.Array, ...]
  vectors: jax.Array  # [R, width] of the rows that were looked at
  normal: jax.Array  # [R] 1 = a normal among them
  anomaly: jax.Array  # [R] 1 = a labelled anomaly among them


def _mean(values, weights):
  weights = weights.reshape((-1,) + (1,) * (values.ndim - 1))
  return (weights * values).sum(0) / jnp.maximum(weights.sum(), 1)


def _pool(cells, real, gate):
  """Mean, maximum and attention over the columns: [R, (2 + heads) width]."""
  most = jnp.where(real[:, None] > 0, cells, -1e9).max(1)
  # The columns come last: three times as fast as a sum for each head.
  gate = jnp.where(real > 0, gate.swapaxes(1, 2), -1e9)
  share = real / jnp.maximum(real.sum(), 1)
  share = jnp.broadcast_to(share, (len(cells), 1, len(real)))
  weights = jnp.concatenate([share, jax.nn.softmax(gate, -1)], 1)
  sums = jnp.einsum('rhf,rfw->rhw', weights, cells)
  heads = sums[:, 1:].reshape(len(cells), -1)
  return jnp.concatenate([sums[:, 0], most, heads], -1)


class _Column(nn.Module):
  """What a column is like, [F, width], from the support's cells in it."""

  width: int

  @nn.compact
  def __call__(self, cells, normal, anomaly, shape, real, counts):
    most = jnp.where(normal[:, None, None] > 0, cells, -1e9).max(0)
    parts = [
      _mean(cells, normal),
      jnp.where(normal.sum() > 0, most, 0),
      _mean(cells, anomaly),
      shape,
      jnp.broadcast_to(counts, (len(real), len(counts))),
    ]
    x = nn.relu(nn.Dense(self.width)(jnp.concatenate(parts, -1)))
    x = nn.Dense(self.width)(x)
    mean = (x * real[:, None]).sum(0) / jnp.maximum(real.sum(), 1)
    mixed = nn.Dense(self.width)(x) + nn.Dense(self.width, use_bias=False)(mean)
    return x + nn.Dense(self.width)(nn.relu(mixed))


class _Block(nn.Module):
  """Mixes every cell with its column, its row, and the row's distances."""

  width: int
  heads: int

  @nn.compact
  def __call__(self, cells, whole, column, real):
    plain = lambda x: nn.Dense(self.width, use_bias=False)(x)
    gate = nn.Dense(self.heads)(jnp.tanh(cells + column))
    row = plain(_pool(cells, real, gate)) + plain(whole)
    mixed = nn.Dense(self.width)(cells) + plain(column) + row[:, None]
    return cells + nn.Dense(self.width)(nn.relu(nn.LayerNorm()(mixed)))


class Tables(nn.Module):
  """Two steps: `summarise` a support once, `score` rows against it."""

  width: int
  blocks: int
  heads: int
  outputs: int

  def setup(self):
    dense = lambda size=self.width: nn.Dense(size)
    self.cell = nn.Sequential([dense(), nn.relu, dense()])
    self.column = [_Column(self.width) for _ in range(self.blocks)]
    self.block = [_Block(self.width, self.heads) for _ in range(self.blocks)]
    self.gate = dense(self.heads)
    self.row = dense()
    self.head = nn.Sequential(
      [dense(), nn.relu, dense(), nn.relu, dense(self.outputs)]
    )

  def __call__(self, support: tf.Support, x: jax.Array) -> jax.Array:
    """[K, F] support and [R, F] rows -> [R, outputs]."""
    summary, _ = self.summarise(support)
    return self.score(summary, tf.describe(support, x))

  def summarise(self, support: tf.Support) -> tuple[Summary, Any]:
    """Reads a support.

    Returns its summary, and its own rows described, each without itself.
    """
    chosen = _choose(support)
    normal, anomaly = support.normal[chosen], support.anomaly[chosen]
    described = tf.describe_support(support, chosen)
    real = support.columns.real
    sizes = [support.normal.sum(), support.anomaly.sum()]
    counts = jnp.stack(
      [*map(jnp.log1p, sizes), jnp.log(jnp.maximum(real.sum(), 1))]
    )
    centre = _mean(described.rows, normal)
    spread = jnp.sqrt(_mean((described.rows - centre) ** 2, normal) + 1e-2)
    whole = self._whole((centre, spread), counts, described)
    cells, columns = self.cell(described.cells), []
    for column, block in zip(self.column, self.block, strict=True):
      columns.append(
        column(cells, normal, anomaly, support.columns.shape, real, counts)
      )
      cells = block(cells, whole, columns[-1], real)
    vectors = self._vectors(cells, whole, columns[-1], real)
    summary = Summary(
      real, counts, (centre, spread), tuple(columns), vectors, normal, anomaly
    )
    return summary, described

  def score(self, summary: Summary, described: tf.Description) -> jax.Array:
    """[R, outputs]; rows of the support are compared with the others alone."""
    whole = self._whole(summary.rows, summary.counts, described)
    cells = self.cell(described.cells)
    for block, column in zip(self.block, summary.columns, strict=True):
      cells = block(cells, whole, column, summary.real)
    z = self._vectors(cells, whole, summary.columns[-1], summary.real)
    normal, anomaly, axis = summary.normal, summary.anomaly, None
    if described.itself is not None:
      others = 1 - jax.nn.one_hot(described.itself, len(normal))
      normal, anomaly, axis = others * normal, others * anomaly, 0
    compare = jax.vmap(_compare, (0, None, axis, axis))
    parts = compare(z, summary.vectors, normal, anomaly)
    return self.head(jnp.concatenate([parts, whole], -1))

  def _whole(self, usual, counts, described):
    """Distances of rows, and how unusual they are for this support: `ROWS`."""
    centre, spread = usual
    distances, labels = described.rows, described.labels
    some = labels[:, 1:2]
    parts = [
      distances,
      0.5 * (distances - centre) / spread,
      labels,
      distances[:, :1] * some - labels[:, :1],
      jnp.broadcast_to(counts, (len(distances), len(counts))),
    ]
    return jnp.concatenate(parts, -1)

  def _vectors(self, cells, whole, column, real):
    pooled = _pool(cells, real, self.gate(jnp.tanh(cells + column)))
    return self.row(nn.relu(jnp.concatenate([pooled, whole], -1)))


def _compare(z, vectors, normal, anomaly):
  """One row's vector beside those of the support, [R, width]: [5 width + 3]."""
  some = anomaly.sum() > 0
  centre = _mean(vectors, normal)
  spread = jnp.sqrt(_mean((vectors - centre) ** 2, normal) + 0.05)
  rival = _mean(vectors, anomaly)
  distance = ((z - vectors) ** 2).mean(-1)
  nearest = lambda w: jnp.log(
    jnp.where(w > 0, distance, 1e3).min(keepdims=True) + 1e-2
  )
  near, nearer = nearest(normal), some * nearest(anomaly)
  gap = some * near - nearer
  unusual = 0.3 * (z - centre) / spread
  parts = [z, unusual, z - rival, (z - rival) ** 2, near, nearer, gap]
  return jnp.concatenate(parts)


def _choose(support):
  """Indices of the rows to look at: all, or as many as fit.

  A few anomalies come first, then normals, then the other anomalies.
  """
  if len(support.normal) <= _ROWS:
    return jnp.arange(len(support.normal))
  early = jnp.cumsum(support.anomaly) <= _ANOMALIES
  order = support.anomaly * jnp.where(early, 3, 1) + 2 * support.normal
  return jax.lax.top_k(order, _ROWS)[1]


def tables(
  *, width: int = 32, blocks: int = 2, heads: int = 4, distances: bool = False
):
  """See `Tables`; `distances`: with those of `log_distances` beside it."""
  if min(width, blocks, heads) < 1:
    raise base.DataError('tables: every option must be at least 1')
  made = lambda outputs: as_model(Tables(width, blocks, heads, outputs))
  if distances:
    return lambda outputs: log_distances.beside(made(outputs))
  return made


def as_model(network: Tables) -> base.Model:
  """The model of `Tables`: its context is the reading and its summary."""

  def read(support, features):
    normal = support._replace(y=jnp.floor(support.y))  # if nobody checked, too
    return tf.fit(normal, features)

  def init(key, task):
    support = read(task.support, task.features)
    return network.init(key, support, task.support.x)

  def summarise(params, reading):
    summary, _ = network.apply(params, reading, method='summarise')
    return reading, summary

  def support(params, reading):
    summary, rows = network.apply(params, reading, method='summarise')
    outputs: Any = network.apply(params, summary, rows, method='score')
    return base.Rows(outputs, summary.anomaly, summary.normal + summary.anomaly)

  def apply(params, context, x):
    reading, summary = context
    rows = tf.describe(reading, x)
    return network.apply(params, summary, rows, method='score')

  return base.Model(init, read, summarise, support, apply, any_width=True)
