"""CAVIA: a few context parameters adapt, the network is shared by all tasks.

Zintgraf, Shiarlis, Kurin, Hofmann & Whiteson, "Fast Context Adaptation via
Meta-Learning", ICML 2019, arXiv 1810.03642. The context is appended to every
row as further columns (to windows as constant channels), starts at 0 for each
task, and is all that the inner loop moves. In the first layer it is a bias: if
its weights are the identity, CAVIA is MAML on that bias alone.
"""

import jax.numpy as jnp
import optax

from metaad_jax.base import (
  MakeModel,
  MetaLearner,
  Model,
  Task,
  one_width,
)
from metaad_jax.learners import fine_tuning, objectives

_SGD = optax.sgd(1.0)


def cavia(
  model: MakeModel,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  outputs: int = 1,
  contexts: int = 5,
  steps: int = 2,
  adapt_steps: int = 0,
  inner_optimizer: optax.GradientTransformation = _SGD,
  mode: str = 'auto',
) -> MetaLearner:
  """CAVIA; arguments as for `maml.maml`, and the number of `contexts`.

  A DataError if the model takes rows of any width.
  """
  network = in_context(one_width('cavia', model(outputs)), contexts)

  init = lambda key, task: network.init(key, task)[0]

  def tune(meta_params, support, features, steps):
    start = jnp.zeros(contexts, support.x.dtype)
    return fine_tuning.tune(
      network, loss, start, support, features, inner_optimizer, steps, mode,
      lambda context: (meta_params, context),
    )  # fmt: skip

  return fine_tuning.by_descent(network, init, tune, loss, steps, adapt_steps)


def in_context(network: Model, contexts: int) -> Model:
  """The model whose parameters are (the network's, the context [contexts])."""

  def widen(x, context):
    wide = jnp.broadcast_to(context, (*x.shape[:-1], contexts))
    return jnp.concatenate([x, wide.astype(x.dtype)], -1)

  def wide(context, rows, features):
    rows = rows._replace(x=widen(rows.x, context))
    return rows, widen(features, jnp.ones(contexts))

  def init(key, task):
    start = jnp.zeros(contexts)
    rows, features = wide(start, task.support, task.features)
    return network.init(key, Task(rows, rows, features)), start

  def read(params, reading):
    return network.read(*wide(params[1], *reading))

  return Model(
    init,
    read=lambda support, features: (support, features),
    summarise=lambda p, reading: network.summarise(p[0], read(p, reading)),
    support=lambda p, reading: network.support(p[0], read(p, reading)),
    apply=lambda p, context, x: network.apply(p[0], context, widen(x, p[1])),
  )
