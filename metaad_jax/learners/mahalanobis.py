"""Prototypes with a covariance: distance in what the entity's normals allow.

Bateni et al., "Improved Few-Shot Visual Classification" (Simple CNAPS), CVPR
2020, arXiv 1912.03432: the distance to a class is Mahalanobis', the support's
covariance being shrunk towards a meta-learned one.

With normals only there is one class; an anomaly lies beyond a meta-learned
radius, as in `protonet`. Labels add a prototype, compared in the same metric.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metaad_jax.base import MakeModel, MetaLearner
from metaad_jax.learners import objectives, prototypes
from metaad_jax.models import linear_algebra


class Metric(NamedTuple):
  """Prototypes, and the inverse [D, D] of the normals' shrunk covariance."""

  classes: prototypes.Prototypes
  precision: jax.Array


def mahalanobis(
  model: MakeModel,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  embedding: int = 32,
) -> MetaLearner:
  """Deep Mahalanobis prototypes; the score is the logit of "anomaly".

  Args:
    model: (outputs) -> model; `embedding` outputs are asked for.
    loss: of the query.
    embedding: dimension of the embedding, D.

  Returns:
    The learner.
  """
  network = model(embedding)

  def init(key, task):
    start = prototypes.starting(network)(key, task)
    return start | {'log_prior': 1 + start['log_radius']}

  def adapt(key, meta_params, support, features):
    del key
    made, z, members = prototypes.read(network, meta_params, support, features)
    centred = (z - made.centres[0]) * members[:, :1]
    prior, count = jnp.exp(meta_params['log_prior']), made.counts[0]
    eye = jnp.eye(centred.shape[1])
    covariance = (centred.T @ centred + prior * eye) / (count + prior)
    return Metric(made, linear_algebra.inverse(covariance))

  def score(adapted, x):
    made, precision = adapted
    z = network.apply(made.params['network'], made.context, x)
    gap = z[:, None] - made.centres
    distances = (gap @ precision * gap).mean(-1)
    return prototypes.verdict(made, distances)

  return objectives.from_query_loss(init, adapt, score, loss)
