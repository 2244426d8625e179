"""Baseline: the same network, trained from scratch on the support alone.

With normals only a classifier has nothing to separate them from, so background
rows are drawn around the support as a second class: density estimation by
classification (Steinwart, Hush & Scovel, JMLR 2005).
"""

import jax
import jax.numpy as jnp
import optax

from metaad_jax.base import MakeModel, MetaLearner, Rows, Task, one_width
from metaad_jax.learners import fine_tuning, objectives

_ADAM = optax.adam(3e-3, eps_root=1e-8)


def scratch(
  model: MakeModel,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  adapt_steps: int = 100,
  spread: float = 3.0,
  inner_optimizer: optax.GradientTransformation = _ADAM,
) -> MetaLearner:
  """A learner whose meta-parameters are empty.

  Args:
    model: (outputs) -> model of one width; one output is asked for.
    loss: of the support and the background rows.
    adapt_steps: training steps on them.
    spread: standard deviation of the background rows, in support deviations.
    inner_optimizer: any optax transformation.

  Returns:
    The learner; its meta-gradient is empty, so meta-training changes nothing.

  Raises:
    DataError: if the model takes rows of any width: they are not scaled.
  """
  network = one_width('scratch', model(1))

  def init(key, task):
    del key, task
    return {}

  def with_background(key, support):
    weight = support.mask.reshape((-1,) + (1,) * (support.x.ndim - 1))
    centre = (weight * support.x).sum(0) / jnp.maximum(support.mask.sum(), 1)
    background = centre + spread * jax.random.normal(key, support.x.shape)
    return Rows(
      jnp.concatenate([support.x, background]),
      jnp.concatenate([support.y, jnp.ones_like(support.y)]),
      jnp.concatenate([support.mask, support.mask]),
    )

  def adapt(key, meta_params, support, features):
    del meta_params
    start, noise = jax.random.split(key)
    params = fine_tuning.tune(
      network,
      loss,
      network.init(start, Task(support, support, features)),
      with_background(noise, support),
      features,
      inner_optimizer,
      adapt_steps,
    )
    return fine_tuning.see(network, params, support, features)

  score = fine_tuning.scorer(network)
  return objectives.from_query_loss(init, adapt, score, loss)
