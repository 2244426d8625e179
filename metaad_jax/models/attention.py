"""Attention over the columns of a row and over the rows of a column.

For supports whose rows nobody checked: a bad one among them is looked at in the
light of the others, in every column, where plain distances count it as a
neighbour. A row is a token for each cell and one for the row; cells come as in
`table_features`, beside them z-scores, levels, and what the column is like. The
rows of a support attend to each other and never to themselves, new rows to
those of the support, which are computed once. Kossen et al., "Self-Attention
Between Datapoints", 2021; Somepalli et al., "SAINT", 2021.
"""

import math
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from metaad_jax import base
from metaad_jax.models import log_distances, readings, suspicion
from metaad_jax.models import table_features as tf

_LIMIT = 50.0  # of all that the network is told
_KINDS = 3  # a row nobody labelled, a known anomaly, a new row
_SKIP = (0.3, 0.0, 0.0, 0.3, 0.0, 0.6, 0.0)  # of the distances, to start with


class Reading(NamedTuple):
  """A support of S rows, and what is said of it without parameters."""

  table: tf.Support
  scale: suspicion.Scale
  rows: jax.Array  # [S, 2 F] z-scores and levels
  there: jax.Array  # [S] 1 = a row
  normal: jax.Array  # [S] 1 = not known to be an anomaly
  joint: suspicion.Joint
  usual: tuple[jax.Array, jax.Array]  # [15] distances: mean and spread
  counts: jax.Array  # [3] logarithms: normals, anomalies, columns
  checked: jax.Array  # 1 = all normals were
  told: 'Told | None'  # of its own rows, each without itself; not for new ones


class Told(NamedTuple):
  """What the network is told of R rows."""

  cells: jax.Array  # [R, F, 46]
  rows: jax.Array  # [R, 39]
  logs: jax.Array  # [R, S, 2] distances to the support's rows, centred
  skip: jax.Array  # [R, 7] distances less what is usual


class Summary(NamedTuple):
  """A support as new rows attend to it."""

  keys: jax.Array  # [blocks, S, F + 1, heads, width / heads]
  values: jax.Array
  logits: jax.Array  # [S, outputs] of its own rows


def _distances(rows, own, normal, known, joint, width):
  """Six logarithms [R, 6] of rows [R, 2 F], and all distances [R, S, 2].

  `own` [R, S] 1 = that very row, which is not compared with itself.
  """
  squares = suspicion.squares(rows, known, width)
  far = jnp.sqrt(squares + 1e-8)
  gaps = jnp.abs(rows[:, None] - known).sum(-1) / width
  among = normal * (1 - own)
  count = among.sum(1)
  near = jnp.where(among > 0, far, 1e3)
  near = -jax.lax.top_k(-near, min(5, len(known)))[0]
  place = jnp.arange(near.shape[1])

  def mean(k):
    some = (place < k) & (place < jnp.maximum(count, 1)[:, None])
    return (near * some).sum(1) / jnp.clip(jnp.minimum(count, k), 1)

  total = jnp.maximum(normal.sum(), 1)
  centre = normal @ known / total
  spread = (normal @ (known - centre) ** 2 / total).sum() / width
  gamma = 1 / jnp.maximum(spread, 1e-3)
  density = jax.nn.logsumexp(
    jnp.where(among > 0, -gamma * squares, -1e9), axis=1
  )
  density = jnp.log(jnp.maximum(count, 1)) - density
  parts = [
    jnp.log(near[:, 0] + 1e-2),
    jnp.log(mean(3) + 1e-2),
    jnp.log(mean(5) + 1e-2),
    jnp.log(jnp.where(among > 0, gaps, 1e3).min(1) + 1e-3),
    jnp.clip(density, -30, 60) / 5,
    suspicion.mahalanobis(joint, rows, own @ normal),
  ]
  alone = count < 0.5
  found = jnp.where(alone[:, None], 0, jnp.stack(parts, 1))
  return found, jnp.stack([jnp.log(far + 1e-2), jnp.log(gaps + 1e-3)], -1)


def read(support: base.Rows, real: jax.Array) -> Reading:
  """y: 0 = verified normal, .5 = nobody checked it, 1 = known anomaly."""
  anomaly = support.mask * (support.y > 0.75)
  normal = support.mask - anomaly
  table = tf.fit(support._replace(y=anomaly), real)
  scale = suspicion.scale(support.x, normal, real)
  rows = suspicion.coordinates(scale, support.x) * support.mask[:, None]
  width = 2 * jnp.maximum(real.sum(), 1)
  joint = suspicion.joint(rows, normal, width)
  described = tf.describe_support(table, jnp.arange(len(normal)))
  own = jnp.eye(len(normal))
  found, logs = _distances(rows, own, normal, rows, joint, width)
  whole = jnp.concatenate([described.rows, found], 1)
  total = jnp.maximum(normal.sum(), 1)
  centre = normal @ whole / total
  spread = jnp.sqrt(normal @ (whole - centre) ** 2 / total + 0.03)
  counts = jnp.stack([normal.sum(), anomaly.sum(), jnp.maximum(real.sum(), 1)])
  counts = jnp.where(jnp.arange(3) < 2, jnp.log1p(counts), jnp.log(counts))
  checked = 1.0 - (normal * (support.y > 0.25)).max()
  made = Reading(
    table, scale, rows, support.mask, normal, joint, (centre, spread), counts,
    checked, None,
  )  # fmt: skip
  return made._replace(told=_told(made, described, rows, whole, logs))


def describe(by: Reading, x: jax.Array) -> Told:
  """New rows [R, F]."""
  rows = suspicion.coordinates(by.scale, x)
  width = 2 * jnp.maximum(by.scale.real.sum(), 1)
  own = jnp.zeros((len(x), len(by.normal)))
  found, logs = _distances(rows, own, by.normal, by.rows, by.joint, width)
  described = tf.describe(by.table, x)
  whole = jnp.concatenate([described.rows, found], 1)
  return _told(by, described, rows, whole, logs)


def _told(by, described, rows, whole, logs):
  centre, spread = by.usual
  number, columns = len(rows), by.table.columns
  unusual = jnp.clip(0.5 * (whole - centre) / spread, -15, 15)
  counts = jnp.broadcast_to(by.counts, (number, 3))
  shape = jnp.broadcast_to(columns.shape, (number, *columns.shape.shape))
  both = jnp.stack(jnp.split(rows / 2, 2, 1), -1)
  cells = jnp.concatenate([described.cells, shape, both], -1)
  cells = cells * columns.real[:, None]
  weight = by.there[:, None] / jnp.maximum(by.there.sum(), 1)
  logs = logs - (logs * weight).sum(1, keepdims=True)
  told = jnp.concatenate([whole, unusual, described.labels, counts], 1)
  last = len(tf.DISTANCES)
  gaps = whole - centre
  skip = jnp.concatenate([gaps[:, last:], gaps[:, last - 1 : last]], 1)
  limit = lambda a: jnp.clip(jnp.nan_to_num(a), -_LIMIT, _LIMIT)
  return Told(*map(limit, (cells, told, logs, skip)))


class _Block(nn.Module):
  """Attention over columns, attention over the support's rows, a layer."""

  width: int
  heads: int

  @nn.compact
  def __call__(self, h, known, seen, logs, real):
    """h [R, F + 1, width]; known = keys and values, or None: of h itself."""
    shape = (*h.shape[:2], self.heads, self.width // self.heads)
    size = 1 / math.sqrt(shape[-1])
    dense = lambda name, x: nn.Dense(self.width, name=name)(x)
    split = lambda name, x: dense(name, x).reshape(shape)
    norm = lambda name, x: nn.LayerNorm(1e-5, name=name)(x)

    x = norm('norm_columns', h)
    q, k, v = (split(f'column_{name}', x) for name in 'qkv')
    a = jnp.einsum('rihd,rjhd->rhij', q, k) * size
    a = jax.nn.softmax(jnp.where(real > 0, a, -1e9))
    mixed = jnp.einsum('rhij,rjhd->rihd', a, v).reshape(h.shape)
    h = h + dense('column_out', mixed)

    x = norm('norm_rows', h)
    q = split('row_q', x)
    mine = split('row_k', x), split('row_v', x)
    k, v = mine if known is None else known
    bias = self.param('bias', _bias, (2, self.heads))
    nobody = self.param('nobody', nn.initializers.normal(0.1), shape[2:])
    void = self.param('void', nn.initializers.zeros, shape[2:])
    a = jnp.einsum('ichd,jchd->chij', q, k) * size
    a = a + jnp.einsum('ijt,th->hij', logs, bias)
    a = jnp.where(seen > 0, a, -1e9)
    rest = jnp.einsum('ichd,hd->chi', q, nobody)[..., None] * size
    a = jax.nn.softmax(jnp.concatenate([a, rest], -1))
    mixed = jnp.einsum('chij,jchd->ichd', a[..., :-1], v)
    mixed = mixed + jnp.einsum('chi,hd->ichd', a[..., -1], void)
    h = h + dense('row_out', mixed.reshape(h.shape))

    x = nn.Dense(2 * self.width, name='wide')(norm('norm_layer', h))
    return h + dense('narrow', nn.gelu(x)), mine


def _bias(_, shape):
  """Half of the heads start with near rows."""
  head = jnp.arange(shape[1])
  near = jnp.stack([head % 2 == 0, head % 4 == 1])
  return -near.astype(float)


class Network(nn.Module):
  """`summarise` a support once, `score` rows against it."""

  width: int
  blocks: int
  heads: int
  outputs: int

  def setup(self):
    dense = lambda size=self.width: nn.Dense(size)
    self.cell = nn.Sequential([dense(), nn.gelu, dense()])
    self.row = nn.Sequential([dense(), nn.gelu, dense()])
    wide, small = nn.initializers.normal(0.5), nn.initializers.normal(0.3)
    self.kind = self.param('kind', wide, (_KINDS, self.width))
    self.cell_kind = self.param('cell_kind', wide, (_KINDS, self.width))
    self.checked = self.param('checked', small, (self.width,))
    scanned = nn.scan(
      _Block, variable_axes={'params': 0}, split_rngs={'params': True},
      length=self.blocks, in_axes=(0, *[nn.broadcast] * 3),
    )  # fmt: skip
    self.block = scanned(self.width, self.heads)
    self.norm = nn.LayerNorm(1e-5)
    self.head = nn.Sequential([dense(), nn.gelu, dense(self.outputs)])
    self.skip = self.param('skip', lambda _: jnp.array(_SKIP))

  def __call__(self, reading: Reading, x: jax.Array) -> jax.Array:
    """[R, outputs] of rows [R, F]."""
    return self.score(self.summarise(reading), reading, x)

  def summarise(self, reading: Reading) -> Summary:
    """The support's own rows, each in the light of the others."""
    anomaly = reading.there - reading.normal
    kind = jax.nn.one_hot(anomaly.astype(int), _KINDS)
    seen = reading.there * (1 - jnp.eye(len(anomaly)))
    logits, made = self._pass(reading, reading.told, kind, seen, None)
    keys, values = made
    return Summary(keys, values, logits)

  def score(
    self, summary: Summary, reading: Reading, x: jax.Array
  ) -> jax.Array:
    """[R, outputs] of new rows."""
    kind = jax.nn.one_hot(jnp.full(len(x), 2), _KINDS)
    seen = jnp.broadcast_to(reading.there, (len(x), len(reading.there)))
    known = summary.keys, summary.values
    told = describe(reading, x)
    return self._pass(reading, told, kind, seen, known)[0]

  def _pass(self, reading, told, kind, seen, known):
    real = reading.scale.real
    cells = self.cell(told.cells) + (kind @ self.cell_kind)[:, None]
    row = self.row(told.rows) + kind @ self.kind
    row = row + reading.checked * self.checked
    h = jnp.concatenate([row[:, None], cells], 1)
    with_row = jnp.concatenate([jnp.ones(1), real])
    h, made = self.block(h, known, seen, told.logs, with_row)
    h = self.norm(h)
    cells, there = h[:, 1:], real[:, None]
    mean = (cells * there).sum(1) / jnp.maximum(real.sum(), 1)
    most = jnp.where(there > 0, cells, -30).max(1)
    out = self.head(jnp.concatenate([h[:, 0], mean, most], -1))
    return out + (told.skip @ self.skip)[:, None], made


def attention(
  *, width: int = 64, blocks: int = 4, heads: int = 4, distances: bool = False
):
  """See `Network`; `distances`: those of `log_distances` beside it.

  That is for use, and there a support of both kinds of rows is read thrice, see
  `readings`.
  """
  if min(width, blocks, heads) < 1 or width % heads:
    raise base.DataError(
      'attention: every option must be at least 1, and width a multiple of '
      'heads'
    )
  made = lambda outputs: _as_model(Network(width, blocks, heads, outputs))
  if distances:
    beside = log_distances.beside
    return lambda outputs: readings.thrice(beside(made(outputs)))
  return made


def _as_model(network):
  def init(key, task):
    reading = read(task.support, task.features)
    return network.init(key, reading, task.support.x)

  def summarise(params, reading) -> Any:
    summary = network.apply(params, reading, method='summarise')
    return reading._replace(told=None), summary

  def support(params, reading):
    logits = summarise(params, reading)[1].logits
    return base.Rows(logits, reading.there - reading.normal, reading.there)

  def apply(params, context, x):
    reading, summary = context
    return network.apply(params, summary, reading, x, method='score')

  return base.Model(
    init, read, summarise, support, apply, any_width=True,
    suspects=lambda context: context[1].logits[:, 0][None], unverified=True,
  )  # fmt: skip
