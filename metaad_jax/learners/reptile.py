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

from metaad_jax.base import MakeModel, MetaLearner
from metaad_jax.learners import fine_tuning, objectives

_SGD = optax.sgd(0.1)


def reptile(
  model: MakeModel,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  outputs: int = 1,
  steps: int = 5,
  adapt_steps: int = 0,
  inner_optimizer: optax.GradientTransformation = _SGD,
) -> MetaLearner:
  """Reptile; its meta-gradient is `meta_params - adapted`.

  Args:
    model: (outputs) -> model.
    loss: what the inner loop descends on.
    outputs: 1, the logit of "anomaly", or one for each class.
    steps: inner steps in meta-training.
    adapt_steps: inner steps of `adapt`; 0 = as in meta-training.
    inner_optimizer: any optax transformation.

  Returns:
    The learner.
  """
  network = model(outputs)

  def tune(params, rows, features, steps):
    return fine_tuning.tune(
      network, loss, params, rows, features, inner_optimizer, steps
    )

  def adapt(key, meta_params, support, features):
    del key
    params = tune(meta_params, support, features, adapt_steps or steps)
    return fine_tuning.see(network, params, support, features)

  def meta_grad(key, meta_params, task):
    del key
    params = tune(meta_params, task.rows(), task.features, steps)
    adapted = fine_tuning.see(network, params, task.support, task.features)
    value = loss(*fine_tuning.scored(network, adapted, task.query))
    return jax.tree.map(jnp.subtract, meta_params, params), {'loss': value}

  return MetaLearner(
    network.init, adapt, fine_tuning.scorer(network), meta_grad
  )
