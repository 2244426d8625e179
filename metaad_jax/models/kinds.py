"""An encoder of rows of any table, for supports of three kinds of rows.

Verified normals, known anomalies and rows that nobody checked (see
`suspicion.kinds`). Rounds of `suspicion` say whom to trust; then cells are
described against the trusted rows and mixed as in `tables`, and rows attend to
rows: Kossen et al., "Self-Attention Between Datapoints", 2021. How a row
relates to all others is in the rounds; one by one, `rows` are looked at. Inputs
and names are those of `tables` and more behind them, so that its parameters can
be started from.
"""

from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from metaad_jax import base
from metaad_jax.models import suspicion, tables
from metaad_jax.models import table_features as tf

_HIDDEN = 16  # what a round hands on of a row
_LEAST = 0.3  # trust below which a row is no normal to the cells
_SHARE = 0.4  # of the rows looked at: for each kind, if it has so many


class Summary(NamedTuple):
  """A support as the encoder sees it: all that scoring a row needs."""

  rounds: tuple[suspicion.Round, ...]
  suspects: jax.Array  # [rounds, S] log-odds that the support's rows are bad
  place: jax.Array  # [R] of the rows looked at, among those of a round
  reading: tf.Support  # these rows, weighted by trust
  usual: tuple[jax.Array, jax.Array]  # mean and spread of their distances
  columns: tuple[jax.Array, ...]  # [F, width] of each block
  vectors: jax.Array  # [R, width]
  layers: tuple[jax.Array, ...]  # [R, width] what each layer attends to
  there: jax.Array  # [R] 1 = a real row


class _Round(nn.Module):
  """What a row is after a round: hidden [R, 16] and log-odds [R]."""

  width: int

  @nn.compact
  def __call__(self, features, hidden):
    x = jnp.concatenate([0.3 * features, hidden], -1)
    x = nn.relu(nn.Dense(self.width)(x))
    x = nn.relu(nn.Dense(self.width)(x))
    odds = nn.Dense(1)(x)[..., 0] - 2.0
    return nn.Dense(_HIDDEN)(x), odds


class _Attention(nn.Module):
  """Rows attend to those of the support; near ones first in half the heads."""

  width: int
  heads: int

  @nn.compact
  def __call__(self, z, vectors, logs, seen):
    size = self.width // self.heads
    split = lambda x: x.reshape(len(x), self.heads, size)
    dense = lambda x: split(nn.Dense(self.heads * size)(x))
    normed, others = nn.LayerNorm()(z), nn.LayerNorm()(vectors)
    query, key, value = dense(normed), dense(others), dense(others)
    nothing = self.param('nothing', nn.initializers.zeros, (self.heads, size))
    slope = self.param(
      'slope', lambda _: -2.0 * (jnp.arange(self.heads) % 2 == 0)
    )
    logits = jnp.einsum('rhd,shd->hrs', query, key) / jnp.sqrt(size)
    logits = logits + slope[:, None, None] * logs
    none = jnp.einsum('rhd,hd->hr', query, nothing)[..., None]
    logits = jnp.where(seen > 0, logits, -1e9)
    weights = jax.nn.softmax(jnp.concatenate([logits, none], -1))[..., :-1]
    found = jnp.einsum('hrs,shd->rhd', weights, value).reshape(len(z), -1)
    z = z + nn.Dense(self.width)(found)
    return z + nn.Dense(self.width)(
      nn.relu(nn.Dense(self.width)(nn.LayerNorm()(z)))
    )


class Network(nn.Module):
  """Two steps: `summarise` a support once, `score` rows against it."""

  width: int
  blocks: int
  heads: int
  rounds: int
  rows: int
  outputs: int

  def setup(self):
    dense = lambda size=self.width: nn.Dense(size)
    self.round = [_Round(self.width) for _ in range(self.rounds)]
    self.cell = nn.Sequential([dense(), nn.relu, dense()])
    self.column = [tables._Column(self.width) for _ in range(self.blocks)]
    self.block = [
      tables._Block(self.width, self.heads) for _ in range(self.blocks)
    ]
    self.gate = dense(self.heads)
    self.row = dense()
    self.kind = nn.Dense(self.width, use_bias=False)
    self.layer = [_Attention(self.width, self.heads) for _ in range(2)]
    self.head = nn.Sequential(
      [dense(), nn.relu, dense(), nn.relu, dense(self.outputs)]
    )
    known = {'nearest': 0.25, 'mahalanobis': 0.25}
    start = jnp.array([known.get(n, 0.0) for n in suspicion.FEATURES[:15]])
    self.skip = self.param('skip', lambda _: start)

  def __call__(self, support: base.Rows, features: jax.Array, x: jax.Array):
    """[S, F] support and [R, F] rows -> [R, outputs]."""
    return self.score(self.summarise(support, features)[0], x)

  def summarise(self, support, real) -> tuple[Summary, jax.Array]:
    """Reads a support.

    Returns its summary, and the outputs of the rows that are looked at, each in
    the light of the others.
    """
    chosen = suspicion.references(support, real)
    hidden = jnp.zeros((len(support.y), _HIDDEN))
    probability, rounds, odds = suspicion.first(support), [], []
    distances = hidden
    for network in self.round:
      probability = jax.lax.stop_gradient(probability)
      made, found = suspicion.read(support, probability, chosen, real)
      hidden, log_odds = network(found, hidden)
      probability = nn.sigmoid(log_odds)
      rounds.append(made)
      odds.append(log_odds)
      distances = found[:, :15]
    of, index = rounds[-1].kinds, chosen[0]
    doubt = jax.lax.stop_gradient(probability)[index]
    place = _choose(of, doubt, min(self.rows, len(index)))
    at = index[place]
    of = jax.tree.map(lambda kind: kind[place], of)
    trust = of.verified + of.unverified * (1 - doubt[place])
    trust = jnp.where(trust > _LEAST, trust, 0)
    reading = tf.fit(
      base.Rows(support.x[at], of.anomaly, trust + of.anomaly), real
    )
    every = jnp.arange(len(place))
    described = tf.describe_support(reading, every)
    total = jnp.maximum(trust.sum(), 1e-3)
    centre = trust @ described.rows / total
    gaps = (described.rows - centre) ** 2
    usual = centre, jnp.sqrt(trust @ gaps / total + 1e-2)
    counts = _counts(rounds[-1])
    hidden, log_odds = hidden[at], odds[-1][at]
    whole = _whole(described, usual, counts, hidden, log_odds)
    cells, columns = self.cell(described.cells), []
    shape = reading.columns.shape
    for column, block in zip(self.column, self.block, strict=True):
      columns.append(column(cells, trust, of.anomaly, shape, real, counts))
      cells = block(cells, whole, columns[-1], real)
    z = self._vectors(cells, whole, columns[-1], real)
    kinds = jnp.stack([*of, trust, log_odds / 5], -1)
    there = of.verified + of.unverified + of.anomaly
    logs = suspicion.log_distances(rounds[-1], support.x[at])[:, place]
    seen = there * (1 - jnp.eye(len(place)))
    layers, last = [z + self.kind(kinds)], z
    for layer in self.layer:
      last = layer(last, layers[-1], logs, seen)
      layers.append(layer(layers[-1], layers[-1], logs, seen))
    summary = Summary(
      tuple(rounds), jnp.stack(odds), place, reading, usual, tuple(columns),
      z, tuple(layers[:-1]), there,
    )  # fmt: skip
    outputs = self._output(summary, z, last, whole, distances[at], every)
    return summary, outputs

  def score(self, summary: Summary, x: jax.Array) -> jax.Array:
    """[R, outputs] of new rows."""
    hidden = jnp.zeros((len(x), _HIDDEN))
    log_odds, found = hidden[:, 0], hidden
    for network, made in zip(self.round, summary.rounds, strict=True):
      found = suspicion.describe(made, x)
      hidden, log_odds = network(found, hidden)
    seen = summary.rounds[-1]
    described = tf.describe(summary.reading, x)
    whole = _whole(described, summary.usual, _counts(seen), hidden, log_odds)
    real, cells = seen.scale.real, self.cell(described.cells)
    for block, column in zip(self.block, summary.columns, strict=True):
      cells = block(cells, whole, column, real)
    z = self._vectors(cells, whole, summary.columns[-1], real)
    logs = suspicion.log_distances(seen, x)[:, summary.place]
    last = z
    for layer, vectors in zip(self.layer, summary.layers, strict=True):
      last = layer(last, vectors, logs, summary.there)
    return self._output(summary, z, last, whole, found[:, :15], None)

  def _output(self, summary, z, last, whole, distances, itself):
    """[R, outputs] of rows' vectors; `itself` [R] = places in the support."""
    normal, anomaly, axis = (
      summary.reading.normal,
      summary.reading.anomaly,
      None,
    )
    if itself is not None:
      others = 1 - jax.nn.one_hot(itself, len(normal))
      normal, anomaly, axis = others * normal, others * anomaly, 0
    compare = jax.vmap(tables._compare, (0, None, axis, axis))
    parts = compare(z, summary.vectors, normal, anomaly)
    out = self.head(jnp.concatenate([parts, whole, last], -1))
    return out + (distances @ self.skip)[:, None]

  def _vectors(self, cells, whole, column, real):
    pooled = tables._pool(cells, real, self.gate(jnp.tanh(cells + column)))
    return self.row(nn.relu(jnp.concatenate([pooled, whole], -1)))


def _counts(by):
  """Those of `tables` first, then how many rows of each kind."""
  normals, columns = jnp.log1p(by.trust.sum()), by.counts[3]
  verified, unverified, anomalies, _, bad, _ = by.counts
  return jnp.stack([normals, anomalies, columns, verified, unverified, bad])


def _whole(described, usual, counts, hidden, log_odds):
  """What is known of rows as wholes: [R, n]."""
  centre, spread = usual
  distances, labels = described.rows, described.labels
  parts = [
    distances,
    0.5 * (distances - centre) / spread,
    labels,
    distances[:, :1] * labels[:, 1:2] - labels[:, :1],
    jnp.broadcast_to(counts, (len(distances), len(counts))),
    hidden,
    log_odds[:, None],
  ]
  return jnp.concatenate(parts, -1)


def _choose(of, doubt, most):
  """Places of rows to look at: of each kind some, from trusted to doubted."""
  order = jnp.zeros(len(doubt))
  for kind in of:
    rank = jnp.argsort(jnp.argsort(jnp.where(kind > 0, doubt, jnp.inf)))
    spread = (rank * 0.6180339887 + 0.5) % 1  # any part of these is even
    turn = jnp.argsort(jnp.argsort(jnp.where(kind > 0, spread, jnp.inf)))
    order += kind * (jnp.where(turn < _SHARE * most, 3, 2) - turn / 1e5)
  return jax.lax.top_k(order, most)[1]


def kinds(
  *,
  width: int = 32,
  blocks: int = 2,
  heads: int = 4,
  rounds: int = 3,
  rows: int = 48,
):
  """See `Network`."""
  if min(width, blocks, heads, rounds, rows) < 1 or width % heads:
    raise base.DataError(
      'kinds: every option must be at least 1, and width a multiple of heads'
    )
  return lambda outputs: as_model(
    Network(width, blocks, heads, rounds, rows, outputs)
  )


def as_model(network: Network) -> base.Model:
  """The model of `Network`: its context is the summary."""

  def init(key, task):
    return network.init(key, task.support, task.features, task.support.x)

  def read(params, reading) -> Any:
    return network.apply(params, *reading, method='summarise')

  def support(params, reading):
    summary, outputs = read(params, reading)
    rows = summary.reading
    there = (rows.normal > 0) + rows.anomaly
    return base.Rows(outputs, rows.anomaly, there)

  def apply(params, context, x):
    return network.apply(params, context, x, method='score')

  return base.Model(
    init,
    lambda support, features: (support, features),
    lambda params, reading: read(params, reading)[0],
    support,
    apply,
    any_width=True,
    suspects=lambda context: context.suspects,
    unverified=True,
  )
