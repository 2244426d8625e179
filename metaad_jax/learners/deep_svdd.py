"""Baseline: Deep SVDD, a network trained on the support's normals alone.

Ruff et al., "Deep One-Class Classification", ICML 2018: the network maps the
normal rows near a centre, and the squared distance from it is the score.
"""

import jax.numpy as jnp
import optax

from metaad_jax.base import MakeModel, MetaLearner
from metaad_jax.learners import deep_sad as deep_sad_lib
from metaad_jax.learners import objectives

_ADAM = optax.adam(1e-3)


def deep_svdd(
  model: MakeModel,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  adapt_steps: int = 200,
  embedding: int = 32,
  inner_optimizer: optax.GradientTransformation = _ADAM,
) -> MetaLearner:
  """Deep SAD without its labelled anomalies; see `deep_sad`."""
  learner = deep_sad_lib.deep_sad(
    model,
    loss=loss,
    adapt_steps=adapt_steps,
    embedding=embedding,
    inner_optimizer=inner_optimizer,
  )

  def adapt(key, meta_params, support, features):
    normals = support.mask * (1 - support.y)
    support = support._replace(y=jnp.zeros_like(support.y), mask=normals)
    return learner.adapt(key, meta_params, support, features)

  return objectives.from_query_loss(learner.init, adapt, learner.score, loss)
