"""Prototypes with a covariance: distance in what the entity's normals allow.

Bateni et al., "Improved Few-Shot Visual Classification" (Simple CNAPS), CVPR
2020, arXiv 1912.03432: the distance to a class is Mahalanobis', the support's
covariance being shrunk towards a meta-learned one.

With normals only there is one class; an anomaly lies beyond a meta-learned
radius, as in `protonet`. Labels add a prototype, compared in the same metric.
"""

import jax
import jax.numpy as jnp

from metaad_jax.base import MetaLearner
from metaad_jax.learners import objectives
from metaad_jax.models import linear_algebra


def mahalanobis(
  model,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  embedding: int = 32,
) -> MetaLearner:
  """Deep Mahalanobis prototypes; the score is the logit of "anomaly".

  Args:
    model: (outputs) -> network; `embedding` outputs are asked for.
    loss: of the query.
    embedding: dimension of the embedding.

  Returns:
    The learner.
  """
  network = model(embedding)

  def init(key, task):
    params = network.init(key, task.support.x, task.features)
    zeros = {'log_prior': 1.0, 'log_radius': 0.0, 'log_sharpness': 0.0}
    scalar = lambda v: jnp.asarray(v, task.support.x.dtype)
    return {'network': params, **jax.tree.map(scalar, zeros)}

  def adapt(key, meta_params, support, features):
    del key
    z = network.apply(meta_params['network'], support.x, features)
    abnormal = support.mask * support.y
    normal = support.mask - abnormal
    mean = normal @ z / jnp.maximum(normal.sum(), 1)
    centred = (z - mean) * normal[:, None]
    prior = jnp.exp(meta_params['log_prior'])
    covariance = (centred.T @ centred + prior * jnp.eye(z.shape[1])) / (
      normal.sum() + prior
    )
    anomaly = abnormal @ z / jnp.maximum(abnormal.sum(), 1)
    precision = linear_algebra.inverse(covariance)
    return meta_params, features, mean, precision, anomaly, abnormal.sum() > 0

  def score(adapted, x):
    params, features, mean, precision, anomaly, labelled = adapted
    z = network.apply(params['network'], x, features)

    def distance(centre):
      away = z - centre
      return (away @ precision * away).mean(-1)

    sharpness = jnp.exp(params['log_sharpness'])
    beyond = -sharpness * jnp.exp(params['log_radius'])
    rival = jnp.logaddexp(beyond, -sharpness * distance(anomaly))
    rival = jnp.where(labelled, rival, beyond)
    return rival + sharpness * distance(mean)

  def meta_grad(key, meta_params, task):
    def query_loss(meta_params):
      adapted = adapt(key, meta_params, task.support, task.features)
      outputs = score(adapted, task.query.x)[:, None]
      return loss(outputs, task.query.y, task.query.mask)

    value, grads = jax.value_and_grad(query_loss)(meta_params)
    return grads, {'loss': value}

  return MetaLearner(init, adapt, score, meta_grad)
