"""Reptile: move towards the parameters that descent on the task ends at.

Nichol, Achiam & Schulman, "On First-Order Meta-Learning Algorithms", 2018,
arXiv 1803.02999. As in the paper, meta-training makes no difference between
support and query: all labelled rows of the task are what is descended on.

Supports of normals only: descent on one class alone would end at "everything is
normal" whatever the task, and Reptile, which has no outer loss, would walk
there. What can be asked of it is an initialisation close to every task's
two-class solution; `adapt` then takes its few steps on the normals, which
lowers the score of what resembles them. Nothing in meta-training prepares it
for that, and a learner with an outer loss should be expected to do better.
"""

import jax
import jax.numpy as jnp
import optax

from metaad_jax.base import MetaLearner, Rows
from metaad_jax.learners import inner_loop, objectives

_SGD = optax.sgd(0.1)


def reptile(
  model,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  steps: int = 5,
  adapt_steps: int = 0,
  inner_optimizer: optax.GradientTransformation = _SGD,
) -> MetaLearner:
  """Reptile; its meta-gradient is `meta_params - adapted`.

  Args:
    model: (outputs) -> network; one output is asked for.
    loss: what the inner loop descends on.
    steps: inner steps in meta-training.
    adapt_steps: inner steps of `adapt`; 0 = as in meta-training.
    inner_optimizer: any optax transformation.

  Returns:
    The learner.
  """
  network = model(1)

  def row_loss(params, rows, features):
    return loss(network.apply(params, rows.x, features), rows.y, rows.mask)

  def descend(params, rows, features, steps):
    rows_loss = lambda p: row_loss(p, rows, features)
    return inner_loop.descend(rows_loss, params, inner_optimizer, steps)

  def init(key, task):
    return network.init(key, task.support.x, task.features)

  def adapt(key, meta_params, support, features):
    del key
    params = descend(meta_params, support, features, adapt_steps or steps)
    return params, features

  def score(adapted, x):
    params, features = adapted
    return network.apply(params, x, features)[:, 0]

  def meta_grad(key, meta_params, task):
    del key
    pairs = zip(task.support, task.query, strict=True)
    rows = Rows(*(jnp.concatenate(pair) for pair in pairs))
    params = descend(meta_params, rows, task.features, steps)
    value = row_loss(params, task.query, task.features)
    return jax.tree.map(jnp.subtract, meta_params, params), {'loss': value}

  return MetaLearner(init, adapt, score, meta_grad)
