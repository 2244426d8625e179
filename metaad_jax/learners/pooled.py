"""Baseline: one network trained on all meta-training rows, then fine-tuned.

No episodes, no adaptation in training: the rows of every task are rows of one
big classification problem. Fine-tuning on the support follows at test time.
Chen et al., "A Closer Look at Few-shot Classification", ICLR 2019, arXiv
1904.04232, and many since found that this embarrasses meta-learning.
"""

import jax
import jax.numpy as jnp
import optax

from metaad_jax.base import MetaLearner, Rows
from metaad_jax.learners import inner_loop, objectives

_SGD = optax.sgd(0.01)


def pooled(
  model,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  adapt_steps: int = 5,
  inner_optimizer: optax.GradientTransformation = _SGD,
) -> MetaLearner:
  """Pooled training, then `adapt_steps` of fine-tuning (0 = none).

  Args:
    model: (outputs) -> network; one output is asked for.
    loss: of all rows, and of the support in fine-tuning.
    adapt_steps: steps of fine-tuning.
    inner_optimizer: any optax transformation, for the fine-tuning.

  Returns:
    The learner.
  """
  network = model(1)

  def row_loss(params, rows, features):
    return loss(network.apply(params, rows.x, features), rows.y, rows.mask)

  def init(key, task):
    return network.init(key, task.support.x, task.features)

  def adapt(key, meta_params, support, features):
    del key
    support_loss = lambda p: row_loss(p, support, features)
    params = inner_loop.descend(
      support_loss, meta_params, inner_optimizer, adapt_steps
    )
    return params, features

  def score(adapted, x):
    params, features = adapted
    return network.apply(params, x, features)[:, 0]

  def meta_grad(key, meta_params, task):
    del key
    pairs = zip(task.support, task.query, strict=True)
    rows = Rows(*(jnp.concatenate(pair) for pair in pairs))
    value, grads = jax.value_and_grad(row_loss)(
      meta_params, rows, task.features
    )
    return grads, {'loss': value}

  return MetaLearner(init, adapt, score, meta_grad)
