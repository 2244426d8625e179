"""Active anomaly detection: which row should be looked at next?

An analyst has a table, a detector and time for a few rows. Each look tells
whether the row is an anomaly, and what the detector says of all the others
changes with it. `reset` and `step` are pure, in gymnax's form without its
automatic reset: `jit(vmap(step, (0, 0, 0, None)))` runs thousands of hunts.

What is known of a table before the first look is found once (`prepare`); after
a look one row of distances is all that is computed. The distances and counts
are those of Meta-AAD (Zha et al., "Meta-AAD: Active Anomaly Detection with Deep
Reinforcement Learning", 2020, arXiv 2009.07415); votes, the discriminant and
what the hunt has seen so far come on top.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import norm, rankdata
from sklearn.neighbors import NearestNeighbors

from metaad_jax.base import DataError
from metaad_jax.data import episodes

COMPONENTS = 24  # of a table, between which distances are taken
_NEIGHBOURS = 5
_SAMPLE = 1000  # rows that say what distance is usual

# The first scores come first: each as the normal quantile of its rank, then
# each standardized. A pair is (normals, anomalies) of the rows looked at.
LABELS = (
  'anomaly_beside', 'mean_normal', 'mean_anomaly', 'nearest_normal',
  'nearest_anomaly', 'votes_normal', 'votes_anomaly', 'discriminant',
  'seen_normal', 'seen_anomaly', 'hit_rate', 'open',
)  # fmt: skip


class Table(NamedTuple):
  """What is known of N rows before the first look; float32, padded.

  Attributes:
    x: [N, COMPONENTS] principal components of the standardized rows.
    variance: [COMPONENTS] of each.
    first: [N, 2 S] S first scores: quantiles of ranks, then standardized.
    beside: [N, 5] int32, the nearest other rows.
    usual: [N, 2] mean and deviation of a row's distances to all rows.
    width: [] the usual distance to the fifth neighbour.
    labels: [N] 1 = anomaly; what a look tells.
    real: [N] bool; False = padding.
  """

  x: jax.Array
  variance: jax.Array
  first: jax.Array
  beside: jax.Array
  usual: jax.Array
  width: jax.Array
  labels: jax.Array
  real: jax.Array


class Params(NamedTuple):
  """Of the environment.

  Attributes:
    tables: `Table` with a leading axis; each hunt draws one.
    budget: looks of a hunt.
    cost: of a look; an anomaly that is found pays 1.
  """

  tables: Table
  budget: Any = 20
  cost: Any = 0.1


class State(NamedTuple):
  """A hunt; pairs are (normals, anomalies) among the rows looked at."""

  table: jax.Array  # [] int32
  shown: jax.Array  # [N] bool
  beside: jax.Array  # [N] bool: one of its nearest rows is a known anomaly
  total: jax.Array  # [2, N] sums of distances to them
  least: jax.Array  # [2, N]
  votes: jax.Array  # [2, N] sums of Gaussian kernels
  sums: jax.Array  # [2, COMPONENTS] of their components
  counts: jax.Array  # [2]
  looks: jax.Array  # [] int32, wasted ones among them


def prepare(x: np.ndarray, scores: np.ndarray, labels=None, size=None) -> Table:
  """What a hunt needs to know of a table, once and for all.

  Args:
    x: [n, d] rows; NaN = missing.
    scores: [n, S] first scores of S detectors, higher = more abnormal.
    labels: [n] 1 = anomaly; None = nobody knows yet.
    size: rows to pad to; None = `episodes.padded_size(n)`.

  Raises:
    DataError: for fewer than 2 rows, or scores that are not finite.
  """
  x, scores = np.asarray(x, np.float64), np.asarray(scores, np.float64)
  count, size = len(x), size or episodes.padded_size(len(x))
  if count < 2 or scores.shape[:1] != (count,) or not np.isfinite(scores).all():
    raise DataError(
      f'a hunt needs two rows or more and a finite score for each: {count} '
      f'rows, scores of shape {scores.shape}'
    )
  z = _components(x)
  beside = min(_NEIGHBOURS, count - 1)
  distance, near = NearestNeighbors(n_neighbors=beside).fit(z).kneighbors()
  near = np.pad(near, [(0, 0), (0, _NEIGHBOURS - beside)], constant_values=-1)
  some = z[np.random.default_rng(0).permutation(count)[:_SAMPLE]]
  usual = np.empty((count, 2))
  for start in range(0, count, 256):
    part = z[start : start + 256, None] - some
    away = np.sqrt((part**2).sum(-1))
    usual[start : start + 256] = np.stack([away.mean(1), away.std(1)], -1)
  ranks = norm.ppf((rankdata(scores, axis=0) - 0.5) / count)
  spread = (scores - scores.mean(0)) / (scores.std(0) + 1e-9)
  first = np.concatenate([ranks, np.clip(spread, -5, 10)], 1)
  labels = np.zeros(count) if labels is None else np.asarray(labels)

  def rows(array, kind: Any = np.float32) -> Any:
    more = [(0, size - count)] + [(0, 0)] * (np.ndim(array) - 1)
    return np.pad(np.asarray(array, kind), more)

  width: Any = np.float32(np.median(distance[:, -1]))
  made: Any = Table(
    rows(z), z.var(0).astype(np.float32), rows(first), rows(near, np.int32),
    rows(usual), width, rows(labels),
    rows(np.ones(count), bool),
  )  # fmt: skip
  return made


def _components(x):
  """[n, COMPONENTS] principal components; missing = the mean of the column."""
  known = np.isfinite(x)
  count = np.maximum(known.sum(0), 1)
  x = np.where(known, x, np.where(known, x, 0).sum(0) / count)
  scale = np.maximum(np.abs(x).max(0, initial=0), 1e-300)
  x = x / scale  # squares stay finite
  spread = x.std(0)
  constant = spread < 1e-9
  z = np.where(constant, 0, (x - x.mean(0)) / np.where(constant, 1, spread))
  z = np.clip(z, -10, 10)
  _, _, axes = np.linalg.svd(z - z.mean(0), full_matrices=False)
  z = (z - z.mean(0)) @ axes[:COMPONENTS].T
  return np.pad(z, [(0, 0), (0, COMPONENTS - z.shape[1])])


def stack(tables: Sequence[Table]) -> Table:
  """Tables of one padded size, with a leading axis."""
  return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *tables)


def start(table: jax.Array, tables: Table) -> State:
  """The state before the first look at that table."""
  size = tables.x.shape[1]
  pair = jnp.zeros((2, size))
  none, far = jnp.zeros(size, bool), jnp.full((2, size), jnp.inf)
  sums = jnp.zeros((2, COMPONENTS))
  return State(
    table, none, none, pair, far, pair, sums, jnp.zeros(2), jnp.int32(0)
  )


def reset(key: jax.Array, params: Params) -> tuple[jax.Array, State]:
  """A new hunt: (observation, state); see `observe`."""
  table = jax.random.randint(key, (), 0, len(params.tables.x))
  state = start(table, params.tables)
  return observe(state, params), state


def step(
  key: jax.Array, state: State, action: jax.Array, params: Params
) -> tuple[jax.Array, State, jax.Array, jax.Array, dict[str, jax.Array]]:
  """Looks at row `action`; (observation, state, reward, done, info).

  A row that was looked at before, or is padding, costs a look and tells
  nothing. `info['found']` counts the anomalies. `key` is not used.
  """
  del key
  table = jax.tree.map(lambda leaf: leaf[state.table], params.tables)
  fresh = table.real[action] & ~state.shown[action]
  state = label(state, table, action, table.labels[action], fresh)
  state = state._replace(looks=state.looks + 1)
  reward = fresh * table.labels[action] - params.cost
  left = (table.real & ~state.shown).any()
  done = (state.looks >= params.budget) | ~left
  info = {'found': state.counts[1]}
  return observe(state, params), state, reward, done, info


def label(
  state: State, table: Table, row: jax.Array, y: jax.Array, fresh: Any = True
) -> State:
  """The state once the row's label is known: 1 = anomaly, 0 = normal."""
  which = jnp.stack([1 - y, y]) * fresh
  distance = jnp.sqrt(((table.x - table.x[row]) ** 2).sum(-1))
  kernel = jnp.exp(-0.5 * (distance / (table.width + 1e-6)) ** 2)
  chosen = which[:, None] > 0
  near = chosen[1] & (table.beside == row).any(-1)
  return state._replace(
    shown=state.shown.at[row].set(state.shown[row] | fresh),
    beside=state.beside | near,
    total=state.total + chosen * distance,
    least=jnp.where(chosen, jnp.minimum(state.least, distance), state.least),
    votes=state.votes + chosen * kernel,
    sums=state.sums + chosen * table.x[row],
    counts=state.counts + which,
  )


def observe(state: State, params: Params) -> jax.Array:
  """[N, 2 S + len(LABELS)] what the detector says of each row, float32.

  The first scores, then `LABELS`; distances in deviations from what is usual
  for the row. The last column is 1 where a row can be looked at.
  """
  table = jax.tree.map(lambda leaf: leaf[state.table], params.tables)
  some = state.counts[:, None] > 0
  count = jnp.maximum(state.counts[:, None], 1)
  mean, deviation = table.usual.T
  scaled = lambda d: jnp.clip((d - mean) / (deviation + 1e-6), -5, 5)
  away = jnp.where(some, scaled(state.total / count), 0)
  near = jnp.where(some, scaled(jnp.where(some, state.least, 0)), 0)
  centre = jnp.where(some, state.sums / count, 0)
  gap, variance = centre[1] - centre[0], table.variance + 0.05
  length = jnp.sqrt((gap**2 / variance).sum() + 1e-6)
  line = jnp.clip(table.x @ (gap / variance) / length, -10, 10)
  seen = state.counts.sum()
  whole = jnp.stack(
    [*jnp.log1p(state.counts), state.counts[1] / jnp.maximum(seen, 1)]
  )
  parts = [
    table.first, state.beside[:, None], away.T, near.T,
    jnp.log1p(state.votes).T, (line * (seen > 0))[:, None],
    jnp.broadcast_to(whole, (len(mean), 3)),
    (table.real & ~state.shown)[:, None],
  ]  # fmt: skip
  told = jnp.concatenate(parts, -1, dtype=jnp.float32)
  return jnp.where(table.real[:, None], told, 0)


def actions(params: Params) -> int:
  """How many: one for each row, padding included."""
  return params.tables.x.shape[1]
