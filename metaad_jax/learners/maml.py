"""Model-agnostic meta-learning, exact to second order, and first-order.

Finn, Abbeel & Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep
Networks", ICML 2017, arXiv 1703.03400. With supports of normals only this is
OC-MAML (Frikha et al., AAAI 2021, arXiv 2007.04146): the inner loop descends on
the one class that is there, the outer loss weighs both classes of the query
alike, and the outer gradient, taken *through* the one-class descent, shapes an
initialisation from which a step on normals draws the boundary around them.
"""

import functools

import optax

from metaad_jax.base import MakeModel, MetaLearner
from metaad_jax.learners import fine_tuning, objectives

_SGD = optax.sgd(0.1)


def maml(
  model: MakeModel,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  outputs: int = 1,
  ranking: float = 0.0,
  steps: int = 5,
  adapt_steps: int = 0,
  inner_optimizer: optax.GradientTransformation = _SGD,
  mode: str = 'auto',
) -> MetaLearner:
  """MAML.

  Args:
    model: (outputs) -> model.
    loss: of the support in the inner loop and of the query in the outer one.
    outputs: 1, the logit of "anomaly", or one for each class.
    ranking: weight of a pairwise ranking loss that is added for the query.
    steps: inner steps in meta-training; 0 = none, which only a model that
      reads its support can do without (see `in_context`).
    adapt_steps: inner steps of `adapt`; 0 = as in meta-training.
    inner_optimizer: any optax transformation.
    mode: of `inner_loop.descend`.

  Returns:
    The learner.
  """
  network = model(outputs)

  def tune(meta_params, support, features, steps):
    return fine_tuning.tune(
      network, loss, meta_params, support, features, inner_optimizer, steps,
      mode,
    )  # fmt: skip

  return fine_tuning.by_descent(
    network, network.init, tune, loss, steps, adapt_steps, ranking
  )


fomaml = functools.partial(maml, mode='first_order')
