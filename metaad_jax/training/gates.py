"""Trains the blend of `models/gated.py` on what a finished network says.

The network reads thousands of supports of the training side once; the blend,
which is small, is fitted to that in seconds.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from metaad_jax import models, specs
from metaad_jax.base import DataError, Entity, Params, Task
from metaad_jax.data import episodes
from metaad_jax.learners import objectives
from metaad_jax.models import gated
from metaad_jax.training import records, runs, setup

EPISODE = episodes.Episode(
  shots=(0, 5, 10, 20, 20, 20, 40), unverified=(50, 100, 200, 200),
  anomalies=(0, 0, 0, 1, 5), query_normals=30, query_anomalies=20,
  contamination=(0.0, 0.01, 0.02, 0.05, 0.1, 0.17, 0.25, 0.32),
)  # fmt: skip
_DIRTY = 0.13, 4.0  # supports with a larger share of bad rows weigh so much
_BATCH, _RATE, _DECAY = 64, 3e-3, 1e-3


class Told(NamedTuple):
  """What a network says of one episode, or of many."""

  logits: jax.Array  # [Q, 3] of the query's rows
  plain: jax.Array  # [Q]
  about: jax.Array  # [8]
  doubts: jax.Array  # [S, 2]
  y: jax.Array  # [Q]
  mask: jax.Array  # [Q]
  hidden: jax.Array  # [S] 1 = a bad row among the unverified
  open: jax.Array  # [S] 1 = an unverified row


def ungated(run: runs.Run) -> runs.Run:
  """A run of the model `kinds` as one of `gated`, its blend as it starts.

  Raises:
    DataError: for a run of another model.
  """
  name, options = specs.parse(run.setup.model)
  if name != 'kinds':
    raise DataError(f'a run of the model kinds is gated, not {name!r}')
  options = {'rows': 48} | options
  text = ','.join(f'{key}={value}' for key, value in options.items())
  config = dataclasses.replace(run.config, model=f'gated:{text}')
  made = setup.resolve(config).at(run.layout)
  fresh = made.learner.init(jax.random.key(0), made.example())
  params = records.grown(records.flatten(run.params), fresh)
  return run._replace(setup=made, params=params, calibration=None)


def tell(run: runs.Run, task: Task) -> Told:
  """What the network of a gated run says of an episode."""
  network = models.make(run.setup.model.replace('gated', 'kinds', 1))(1)
  support, query = task.support, task.query
  assert task.hidden is not None
  seen = gated.read(network, run.params, support, task.features)
  logits, plain = gated.describe(network, run.params, seen.readings, query.x)
  open_rows = support.mask * (support.y == 0.5)
  return Told(
    logits, plain, seen.about, seen.doubts, query.y, query.mask, task.hidden,
    open_rows,
  )  # fmt: skip


def collect(
  run: runs.Run, entities: list[Entity], number: int, seed: int = 0
) -> Told:
  """That of `number` episodes of the entities, with a leading axis."""
  sample = episodes.from_pools(
    episodes.pool(entities, limit=1024), EPISODE
  )  # fmt: skip
  one = jax.jit(lambda key: tell(run, sample(key)))
  keys = jax.random.split(jax.random.key(seed), number)
  bar = tqdm.tqdm(keys, desc='episodes', disable=None)
  told = [jax.tree.map(np.asarray, one(key)) for key in bar]
  return jax.tree.map(lambda *leaves: np.stack(leaves), *told)


def loss(gate: Params, told: Told) -> jax.Array:
  """Of one episode: of the query's order and odds, and of whom it suspects."""
  outputs = gated.gate(gate, told.logits, told.about) + told.plain
  rows = outputs[:, None], told.y, told.mask
  suspects = gated.gate(gate, told.doubts, method='suspect')[:, None]
  share = told.hidden.sum() / jnp.maximum(told.open.sum(), 1)
  weight = jnp.where(share > _DIRTY[0], _DIRTY[1], 1.0)
  ranked = objectives.ranking(*rows) + 0.1 * objectives.balanced_bce(*rows)
  return weight * ranked + 0.5 * objectives.bce(
    suspects, told.hidden, told.open
  )


def fit(gate: Params, told: Told, steps: int, seed: int = 0) -> Params:
  """A gate fitted to many episodes, from where it starts."""
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adam(optax.cosine_decay_schedule(_RATE, steps)),
  )

  def total(gate, batch):
    losses = jax.vmap(loss, (None, 0))(gate, batch)
    kernels = [a for a in jax.tree.leaves(gate) if a.ndim == 2]
    return losses.mean() + _DECAY * sum((a**2).sum() for a in kernels)

  @jax.jit
  def step(gate, state, batch):
    grads = jax.grad(total)(gate, batch)
    updates, state = optimizer.update(grads, state, gate)
    return optax.apply_updates(gate, updates), state

  state: Any = optimizer.init(gate)
  draw = np.random.default_rng(seed)
  for _ in range(steps):
    chosen = draw.integers(0, len(told.about), _BATCH)
    batch = jax.tree.map(lambda leaf, at=chosen: leaf[at], told)
    gate, state = step(gate, state, batch)
  return gate
