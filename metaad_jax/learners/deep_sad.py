"""Baseline: Deep SAD, a network trained on the support alone.

Ruff et al., "Deep Semi-Supervised Anomaly Detection", ICLR 2020, arXiv
1906.02694: normal rows are mapped near a centre, labelled anomalies away from
it. The authors pre-train an autoencoder, for which a support has too few rows.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from metaad_jax.base import MakeModel, MetaLearner, Params, Task, one_width
from metaad_jax.learners import inner_loop, objectives

_ADAM = optax.adam(1e-3)
_LEAST = 0.1  # distance of the centre from 0, in every output
_DECAY = 1e-3


class Sphere(NamedTuple):
  """A trained network, and the centre that normal rows are mapped to, [D]."""

  params: Params
  context: Any
  centre: Any


def deep_sad(
  model: MakeModel,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  adapt_steps: int = 200,
  eta: float = 1.0,
  embedding: int = 32,
  inner_optimizer: optax.GradientTransformation = _ADAM,
) -> MetaLearner:
  """A learner whose meta-parameters are empty; the score is d^2.

  Minimises the mean of d^2 for normal rows and of eta / d^2 for anomalies, d
  being the distance from the mean of the normals' untrained outputs.

  Args:
    model: (outputs) -> model of one width; `embedding` outputs are asked for.
    loss: of the query; nothing is trained with it.
    adapt_steps: training steps on the support.
    eta: weight of the labelled anomalies.
    embedding: dimension of the outputs, D.
    inner_optimizer: any optax transformation.

  Raises:
    DataError: if the model takes rows of any width: they are not scaled.
  """
  network = one_width('deep_sad', model(embedding))
  optimizer = optax.chain(optax.add_decayed_weights(_DECAY), inner_optimizer)

  def adapt(key, meta_params, support, features):
    del meta_params
    params = network.init(key, Task(support, support, features))
    reading = network.read(support, features)
    z, y, mask = network.support(params, reading)
    centre = objectives.mean(z, mask * (1 - y))
    away = jnp.where(centre < 0, -_LEAST, _LEAST)
    centre = jnp.where(jnp.abs(centre) < _LEAST, away, centre)

    def support_loss(params):
      gap = network.support(params, reading).x - centre
      squares = (gap**2).sum(1) + 1e-6
      return objectives.mean(jnp.where(y > 0, eta / squares, squares), mask)

    params = inner_loop.descend(support_loss, params, optimizer, adapt_steps)
    return Sphere(params, network.summarise(params, reading), centre)

  def score(adapted, x):
    z = network.apply(adapted.params, adapted.context, x)
    return ((z - adapted.centre) ** 2).sum(1)

  return objectives.from_query_loss(lambda key, task: {}, adapt, score, loss)
