"""Relation network: a learned comparison of a row with the whole support.

Sung et al., "Learning to Compare: Relation Network for Few-Shot Learning",
CVPR 2018, arXiv 1711.06025. A head judges how a row relates to the support:
its embedding, its offset from the normals' mean, and Mahalanobis distances with
the support's own covariance, shrunk by meta-learned amounts, in the embedding
and over the columns. Normals alone leave the anomalies' entries at zero.
"""

import jax
import jax.numpy as jnp

from metaad_jax.base import MetaLearner
from metaad_jax.learners import objectives
from metaad_jax.models import linear_algebra


def relation(
  model,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  embedding: int = 32,
) -> MetaLearner:
  """A relation network; `model` makes the embedding and the head alike."""
  network, head = model(embedding), model(1)

  def init(key, task):
    keys = jax.random.split(key)
    width = 2 * embedding + 8
    dtype = task.support.x.dtype
    return {
      'network': network.init(keys[0], task.support.x, task.features),
      'head': head.init(keys[1], jnp.zeros((1, width), dtype), jnp.ones(width)),
      'log_prior': jnp.full(2, -2.0, dtype),
    }

  def adapt(key, meta_params, support, features):
    del key
    z = network.apply(meta_params['network'], support.x, features)
    return meta_params, features, support._replace(x=support.x * features), z

  def score(adapted, x):
    params, features, support, z_support = adapted
    z = network.apply(params['network'], x, features)
    abnormal = support.mask * support.y
    weights = support.mask - abnormal, abnormal
    priors = jnp.exp(params['log_prior'])
    near = linear_algebra.log_distances
    learned = near(z, z_support, *weights, priors[0])
    plain = near(x * features, support.x, *weights, priors[1])
    offset = z - weights[0] @ z_support / jnp.maximum(weights[0].sum(), 1)
    counts = jnp.log1p(jnp.stack(weights).sum(1))
    known = jnp.broadcast_to(counts, (len(z), 2))
    parts = [z, offset, learned, plain, known]
    related = jnp.concatenate(parts, -1)
    return head.apply(params['head'], related, jnp.ones(related.shape[1]))[:, 0]

  def meta_grad(key, meta_params, task):
    def query_loss(meta_params):
      adapted = adapt(key, meta_params, task.support, task.features)
      outputs = score(adapted, task.query.x)[:, None]
      return loss(outputs, task.query.y, task.query.mask)

    value, grads = jax.value_and_grad(query_loss)(meta_params)
    return grads, {'loss': value}

  return MetaLearner(init, adapt, score, meta_grad)
