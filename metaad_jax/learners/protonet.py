"""Prototypical Networks, with an open class for what resembles nothing known.

Snell, Swersky & Zemel, "Prototypical Networks for Few-shot Learning", NeurIPS
2017, arXiv 1703.05175. A class is the mean of its support rows' embeddings, and
a row belongs to the class whose prototype is near in squared distance.

Supports of normals only: there is one prototype, and a softmax over one class
says nothing. An anomaly is then a row *far* from the normal prototype, farther
than a radius that is meta-learned: an open class whose squared distance to
every row is that constant. With labelled anomalies their prototype competes
too, and a row is abnormal if it is nearer to that prototype, or beyond the
radius: anomalies of a kind never labelled are still found.
"""

import jax
import jax.numpy as jnp

from metaad_jax.base import MetaLearner
from metaad_jax.learners import objectives


def protonet(
  model,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  embedding: int = 32,
) -> MetaLearner:
  """Prototypical Networks; the score is the logit of "anomaly".

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
    zero = jnp.zeros((), task.support.x.dtype)
    return {'network': params, 'log_radius': zero, 'log_sharpness': zero}

  def prototype(z, weights):
    return weights @ z / jnp.maximum(weights.sum(), 1)

  def adapt(key, meta_params, support, features):
    del key
    z = network.apply(meta_params['network'], support.x, features)
    abnormal = support.mask * support.y
    return {
      'params': meta_params,
      'features': features,
      'normal': prototype(z, support.mask - abnormal),
      'anomaly': prototype(z, abnormal),
      'labelled': abnormal.sum() > 0,
    }

  def score(adapted, x):
    params = adapted['params']
    z = network.apply(params['network'], x, adapted['features'])
    distance = lambda centre: ((z - centre) ** 2).mean(-1)
    sharpness = jnp.exp(params['log_sharpness'])
    away = -sharpness * jnp.exp(params['log_radius'])
    rival = jnp.logaddexp(away, -sharpness * distance(adapted['anomaly']))
    rival = jnp.where(adapted['labelled'], rival, away)
    return rival + sharpness * distance(adapted['normal'])

  def meta_grad(key, meta_params, task):
    def query_loss(meta_params):
      adapted = adapt(key, meta_params, task.support, task.features)
      outputs = score(adapted, task.query.x)[:, None]
      return loss(outputs, task.query.y, task.query.mask)

    value, grads = jax.value_and_grad(query_loss)(meta_params)
    return grads, {'loss': value}

  return MetaLearner(init, adapt, score, meta_grad)
