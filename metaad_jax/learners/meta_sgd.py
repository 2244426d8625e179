"""Meta-SGD: learn the initialisation and a step size for every parameter.

Li, Zhou, Chen & Li, "Meta-SGD: Learning to Learn Quickly for Few-Shot
Learning", 2017, arXiv 1707.09835: the step is -a * g, where a has the shape of
the parameters, is meta-learned with them, and may become negative. With a
constant a it is MAML.
"""

import jax
import jax.numpy as jnp
import optax

from metaad_jax.base import MakeModel, MetaLearner
from metaad_jax.learners import fine_tuning, objectives


def meta_sgd(
  model: MakeModel,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  outputs: int = 1,
  steps: int = 1,
  adapt_steps: int = 0,
  rate: float = 0.1,
  mode: str = 'auto',
) -> MetaLearner:
  """Meta-SGD.

  Args:
    model, loss, outputs, adapt_steps, mode: as for `maml.maml`.
    steps: inner steps in meta-training; the paper takes one.
    rate: that all step sizes start at.

  Returns:
    The learner.
  """
  network = model(outputs)

  def init(key, task):
    params = network.init(key, task)
    rates = jax.tree.map(lambda leaf: jnp.full_like(leaf, rate), params)
    return {'network': params, 'rates': rates}

  def tune(meta_params, support, features, steps):
    rates = meta_params['rates']
    step = optax.stateless(
      lambda grads, _: jax.tree.map(lambda a, g: -a * g, rates, grads)
    )
    return fine_tuning.tune(
      network, loss, meta_params['network'], support, features, step, steps,
      mode,
    )  # fmt: skip

  return fine_tuning.by_descent(network, init, tune, loss, steps, adapt_steps)
