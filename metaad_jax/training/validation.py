"""Adapting to many tasks at once and scoring their queries."""

from collections.abc import Callable

import jax

from metaad_jax import devices, memory
from metaad_jax.base import MetaLearner, Params, Task

# (scores [N], y [N], mask [N]) -> scalar, higher = better.
Quality = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def scores_of(
  learner: MetaLearner, key: jax.Array, params: Params, batch: Task
) -> jax.Array:
  """Adapts to every task of a batch and scores its queries: [T, N]."""
  keys = jax.random.split(key, batch.features.shape[0])
  one = lambda key, task: _adapted_score(learner, key, params, task)
  return jax.vmap(one)(keys, batch)


def _adapted_score(learner, key, params, task):
  adapted = learner.adapt(key, params, task.support, task.features)
  return learner.score(adapted, task.query.x)


def make(
  learner: MetaLearner,
  quality: Quality,
  seed: int,
  mesh: jax.sharding.Mesh,
  room: int | None = None,
) -> Callable[[Params, Task], jax.Array]:
  """Compiles (params, validation tasks) -> mean quality, a scalar.

  Args:
    learner: see `MetaLearner`.
    quality: of one task.
    seed: of everything random.
    mesh: the devices that share the tasks.
    room: bytes that the tasks at once on a device may take, as `memory.alive`
      counts them; None = all of a device's tasks at once.
  """
  alone = jax.sharding.Mesh(mesh.devices[:1], mesh.axis_names)

  def validate(params, validation):
    size = len(validation.features)
    shared = mesh if size % mesh.size == 0 else alone
    key = jax.random.fold_in(jax.random.key(seed), 2**31 - 1)
    keys = jax.random.split(key, size)

    def one(key, task):
      score = _adapted_score(learner, key, params, task)
      return quality(score, task.query.y, task.query.mask)

    mine = devices.share((keys, validation), shared)
    if room is None:
      return devices.mean(jax.vmap(one)(*mine).mean(), shared)
    first = jax.tree.map(lambda leaf: leaf[0], mine)
    at_once = max(1, room // memory.alive(one, *first))
    found = devices.mean_over_tasks(one, mine, at_once)
    return devices.mean(found, shared)

  return devices.jit(validate, mesh)
