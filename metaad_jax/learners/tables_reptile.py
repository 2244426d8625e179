"""Tables of any width, and Reptile: an initialisation that labels fine-tune.

Nichol, Achiam & Schulman, "On First-Order Meta-Learning Algorithms", 2018,
arXiv 1803.02999, on the network of `tables`. All labelled rows of a task, of
support and query alike, are descended on, each scored in the light of the
others; meta-training moves towards where that ends.
"""

import jax
import jax.numpy as jnp
import optax

from metaad_jax.base import MetaLearner, Rows
from metaad_jax.learners import objectives, tables

_SGD = optax.sgd(0.01)


def tables_reptile(
  model,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  steps: int = 3,
  adapt_steps: int = 0,
  inner_optimizer: optax.GradientTransformation = _SGD,
) -> MetaLearner:
  """Reptile on `tables`; its meta-gradient is `meta_params - adapted`.

  Args:
    model: (outputs) -> network, such as `models.tables`.
    loss: what the inner loop descends on.
    steps: inner steps in meta-training.
    adapt_steps: inner steps of `adapt`; 0 = as in meta-training.
    inner_optimizer: any optax transformation.

  Returns:
    The learner.
  """
  make = lambda number: tables.tables(
    model, loss=loss, steps=number, inner_optimizer=inner_optimizer
  )
  plain, inner, outer = make(0), make(steps), make(adapt_steps or steps)

  def meta_grad(key, meta_params, task):
    pairs = zip(task.support, task.query, strict=True)
    rows = Rows(*(jnp.concatenate(pair) for pair in pairs))
    params = inner.adapt(key, meta_params, rows, task.features)[0]
    adapted = plain.adapt(key, params, task.support, task.features)
    outputs = plain.score(adapted, task.query.x)[:, None]
    value = loss(outputs, task.query.y, task.query.mask)
    return jax.tree.map(jnp.subtract, meta_params, params), {'loss': value}

  return outer._replace(meta_grad=meta_grad)
