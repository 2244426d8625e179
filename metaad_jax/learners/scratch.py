"""Baseline: the same network, trained from scratch on the support alone.

With normals only a classifier has nothing to separate them from, so background
rows are drawn around the support as a second class: density estimation by
classification (Steinwart, Hush & Scovel, JMLR 2005).
"""

import jax
import jax.numpy as jnp
import optax

from metaad_jax.base import MetaLearner, Rows
from metaad_jax.learners import inner_loop, objectives

_ADAM = optax.adam(3e-3, eps_root=1e-8)


def scratch(
  model,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  adapt_steps: int = 100,
  spread: float = 3.0,
  inner_optimizer: optax.GradientTransformation = _ADAM,
) -> MetaLearner:
  """A learner whose meta-parameters are empty.

  Args:
    model: (outputs) -> network; one output is asked for.
    loss: of the support and the background rows.
    adapt_steps: training steps on them.
    spread: standard deviation of the background rows, in support deviations.
    inner_optimizer: any optax transformation.

  Returns:
    The learner; its meta-gradient is empty, so meta-training changes nothing.
  """
  network = model(1)

  def init(key, task):
    del key, task
    return {}

  def adapt(key, meta_params, support, features):
    del meta_params
    start, noise = jax.random.split(key)
    weight = support.mask.reshape((-1,) + (1,) * (support.x.ndim - 1))
    centre = (weight * support.x).sum(0) / jnp.maximum(support.mask.sum(), 1)
    background = centre + spread * jax.random.normal(noise, support.x.shape)
    rows = Rows(
      jnp.concatenate([support.x, background]),
      jnp.concatenate([support.y, jnp.ones_like(support.y)]),
      jnp.concatenate([support.mask, support.mask]),
    )
    rows_loss = lambda p: loss(
      network.apply(p, rows.x, features), rows.y, rows.mask
    )
    params = network.init(start, support.x, features)
    params = inner_loop.descend(rows_loss, params, inner_optimizer, adapt_steps)
    return params, features

  def score(adapted, x):
    params, features = adapted
    return network.apply(params, x, features)[:, 0]

  def meta_grad(key, meta_params, task):
    adapted = adapt(key, meta_params, task.support, task.features)
    outputs = score(adapted, task.query.x)[:, None]
    return {}, {'loss': loss(outputs, task.query.y, task.query.mask)}

  return MetaLearner(init, adapt, score, meta_grad)
