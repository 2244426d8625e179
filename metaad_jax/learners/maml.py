"""Model-agnostic meta-learning, exact to second order, and first-order.

Finn, Abbeel & Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep
Networks", ICML 2017, arXiv 1703.03400. With supports of normals only this is
OC-MAML (Frikha et al., AAAI 2021, arXiv 2007.04146): the inner loop descends on
the one class that is there, the outer loss weighs both classes of the query
alike, and the outer gradient, taken *through* the one-class descent, shapes an
initialisation from which a step on normals draws the boundary around them.
"""

import functools

import jax
import optax

from metaad_jax.base import MetaLearner
from metaad_jax.learners import inner_loop, objectives

_SGD = optax.sgd(0.1)


def maml(
  model,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  steps: int = 5,
  adapt_steps: int = 0,
  inner_optimizer: optax.GradientTransformation = _SGD,
  mode: str = 'auto',
) -> MetaLearner:
  """MAML.

  Args:
    model: (outputs) -> network; one output is asked for.
    loss: of the support in the inner loop and of the query in the outer one.
    steps: inner steps in meta-training.
    adapt_steps: inner steps of `adapt`; 0 = as in meta-training.
    inner_optimizer: any optax transformation.
    mode: of `inner_loop.descend`.

  Returns:
    The learner.
  """
  network = model(1)

  def row_loss(params, rows, features):
    return loss(network.apply(params, rows.x, features), rows.y, rows.mask)

  def descend(params, support, features, steps):
    support_loss = lambda p: row_loss(p, support, features)
    return inner_loop.descend(
      support_loss, params, inner_optimizer, steps, mode=mode
    )

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

    def query_loss(meta_params):
      params = descend(meta_params, task.support, task.features, steps)
      return row_loss(params, task.query, task.features)

    value, grads = jax.value_and_grad(query_loss)(meta_params)
    return grads, {'loss': value}

  return MetaLearner(init, adapt, score, meta_grad)


fomaml = functools.partial(maml, mode='first_order')
