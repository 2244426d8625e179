"""Baseline: one network trained on all meta-training rows, then fine-tuned.

No episodes, no adaptation in training: the rows of every task are rows of one
big classification problem. Fine-tuning on the support follows at test time.
Chen et al., "A Closer Look at Few-shot Classification", ICLR 2019, arXiv
1904.04232, and many since found that this embarrasses meta-learning.
"""

import optax

from metaad_jax.base import MakeModel, MetaLearner
from metaad_jax.learners import fine_tuning, objectives

_SGD = optax.sgd(0.01)


def pooled(
  model: MakeModel,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  adapt_steps: int = 5,
  inner_optimizer: optax.GradientTransformation = _SGD,
) -> MetaLearner:
  """Pooled training, then `adapt_steps` of fine-tuning (0 = none).

  Args:
    model: (outputs) -> model; one output is asked for.
    loss: of all rows, and of the support in fine-tuning.
    adapt_steps: steps of fine-tuning.
    inner_optimizer: any optax transformation, for the fine-tuning.

  Returns:
    The learner.
  """
  network = model(1)

  def adapt(key, meta_params, support, features):
    del key
    params = fine_tuning.tune(
      network, loss, meta_params, support, features, inner_optimizer,
      adapt_steps,
    )  # fmt: skip
    return fine_tuning.see(network, params, support, features)

  def rows_loss(key, meta_params, task):
    del key
    reading = network.read(task.rows(), task.features)
    return loss(*network.support(meta_params, reading))

  return MetaLearner(
    network.init,
    adapt,
    fine_tuning.scorer(network),
    objectives.gradient_of(rows_loss),
  )
