"""Prototypes with a covariance: distance in what the entity's normals allow.

Bateni et al., "Improved Few-Shot Visual Classification" (Simple CNAPS), CVPR
2020, arXiv 1912.03432: the distance to a class is Mahalanobis', the support's
covariance being shrunk towards a meta-learned one.

With normals only there is one class; an anomaly lies beyond a meta-learned
radius, as in `protonet`. Labels add a prototype, compared in the same metric.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metaad_jax.base import MakeModel, MetaLearner, Params
from metaad_jax.learners import objectives
from metaad_jax.models import linear_algebra


class Metric(NamedTuple):
  """A support, as the score needs it.

  Attributes:
    params: the meta-parameters.
    context: what the model made of the support.
    mean: [D] of the normals' embeddings.
    precision: [D, D] inverse of their shrunk covariance.
    anomaly: [D] mean embedding of the labelled anomalies; 0 without any.
    labelled: whether there are any.
  """

  params: Params
  context: Any
  mean: jax.Array
  precision: jax.Array
  anomaly: jax.Array
  labelled: jax.Array


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
    params = network.init(key, task)
    start = {'log_prior': 1.0, 'log_radius': 0.0, 'log_sharpness': 0.0}
    scalar = lambda v: jnp.asarray(v, task.support.x.dtype)
    return {'network': params, **jax.tree.map(scalar, start)}

  def adapt(key, meta_params, support, features):
    del key
    params = meta_params['network']
    reading = network.read(support, features)
    z, y, mask = network.support(params, reading)
    normal, abnormal = mask * (1 - y), mask * y
    mean = objectives.mean(z, normal)
    centred = (z - mean) * normal[:, None]
    prior = jnp.exp(meta_params['log_prior'])
    covariance = (centred.T @ centred + prior * jnp.eye(z.shape[1])) / (
      normal.sum() + prior
    )
    return Metric(
      meta_params,
      network.summarise(params, reading),
      mean,
      linear_algebra.inverse(covariance),
      objectives.mean(z, abnormal),
      abnormal.sum() > 0,
    )

  def score(adapted, x):
    params = adapted.params
    z = network.apply(params['network'], adapted.context, x)

    def distance(centre):
      away = z - centre
      return (away @ adapted.precision * away).mean(-1)

    sharpness = jnp.exp(params['log_sharpness'])
    beyond = -sharpness * jnp.exp(params['log_radius'])
    rival = jnp.logaddexp(beyond, -sharpness * distance(adapted.anomaly))
    rival = jnp.where(adapted.labelled, rival, beyond)
    return rival + sharpness * distance(adapted.mean)

  return objectives.from_query_loss(init, adapt, score, loss)
