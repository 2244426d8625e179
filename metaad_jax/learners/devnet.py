"""Baseline: the deviation network, trained on the support alone.

Pang, Shen and van den Hengel, "Deep Anomaly Detection with Deviation Networks",
KDD 2019, arXiv 1911.08623: a score that is 0 on normal rows and at least the
margin on anomalies, in standard deviations of the authors' reference scores;
these are standard normal, so that a score is its own deviation.
"""

import jax.numpy as jnp
import optax

from metaad_jax.base import MakeModel, MetaLearner, Task, one_width
from metaad_jax.learners import fine_tuning, objectives

_ADAM = optax.adam(1e-2)
_MARGIN = 5.0


def deviation(outputs, y, mask):
  """|score| on normals, max(0, 5 - score) on anomalies; classes weigh alike.

  Args:
    outputs: [N, 1] scores.
    y: [N] 1 = anomaly, 0 = normal.
    mask: [N] 1 = a real row.
  """
  scores = outputs[:, 0]
  normals = objectives.mean(jnp.abs(scores), mask * (1 - y))
  short = objectives.mean(jnp.maximum(_MARGIN - scores, 0), mask * y)
  return (normals + short) / 2


def devnet(
  model: MakeModel,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  adapt_steps: int = 200,
  decay: float = 1e-2,
  inner_optimizer: optax.GradientTransformation = _ADAM,
) -> MetaLearner:
  """A learner whose meta-parameters are empty.

  Args:
    model: (outputs) -> model of one width; one output is asked for.
    loss: of the query; nothing is trained with it.
    adapt_steps: training steps on the support.
    decay: of all weights, added to their gradients.
    inner_optimizer: any optax transformation.

  Returns:
    The learner.

  Raises:
    DataError: if the model takes rows of any width: they are not scaled.
  """
  network = one_width('devnet', model(1))
  optimizer = optax.chain(optax.add_decayed_weights(decay), inner_optimizer)

  def adapt(key, meta_params, support, features):
    del meta_params
    params = network.init(key, Task(support, support, features))
    params = fine_tuning.tune(
      network, deviation, params, support, features, optimizer, adapt_steps
    )
    return fine_tuning.see(network, params, support, features)

  score = fine_tuning.scorer(network)
  return objectives.from_query_loss(lambda key, task: {}, adapt, score, loss)
