"""Relation network: a learned comparison of a row with the whole support.

Sung et al., "Learning to Compare: Relation Network for Few-Shot Learning",
CVPR 2018, arXiv 1711.06025. A head judges how a row relates to the support:
its embedding, its offset from the normals' mean, and Mahalanobis distances with
the support's own covariance, shrunk by meta-learned amounts, in the embedding
and over the columns. Normals alone leave the anomalies' entries at zero.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metaad_jax.base import (
  MakeModel,
  MetaLearner,
  Params,
  Rows,
  Task,
  one_width,
)
from metaad_jax.learners import objectives
from metaad_jax.models import linear_algebra


class Compared(NamedTuple):
  """A support, as the score needs it.

  Attributes:
    params: the meta-parameters.
    context: what the model made of the support.
    features: [F] 1 = a real column.
    support: its rows, padded columns 0.
    z: [N, D] their embeddings.
  """

  params: Params
  context: Any
  features: jax.Array
  support: Rows
  z: jax.Array


def relation(
  model: MakeModel,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  embedding: int = 32,
) -> MetaLearner:
  """A relation network; `model` makes the embedding and the head alike.

  Args:
    model: (outputs) -> model of one width.
    loss: of the query.
    embedding: dimension of the embedding, D.

  Returns:
    The learner.

  Raises:
    DataError: if the model takes rows of any width: columns are compared.
  """
  network, head = one_width('relation', model(embedding)), model(1)

  def init(key, task):
    keys = jax.random.split(key)
    dtype = task.support.x.dtype
    related = _task(jnp.zeros((1, 2 * embedding + 8), dtype))
    return {
      'network': network.init(keys[0], task),
      'head': head.init(keys[1], related),
      'log_prior': jnp.full(2, -2.0, dtype),
    }

  def adapt(key, meta_params, support, features):
    del key
    params = meta_params['network']
    reading = network.read(support, features)
    z = network.support(params, reading).x
    context = network.summarise(params, reading)
    real = support._replace(x=support.x * features)
    return Compared(meta_params, context, features, real, z)

  def score(adapted, x):
    params, _, features, support, z_support = adapted
    z = network.apply(params['network'], adapted.context, x)
    abnormal = support.mask * support.y
    weights = support.mask - abnormal, abnormal
    priors = jnp.exp(params['log_prior'])
    near = linear_algebra.log_distances
    learned = near(z, z_support, *weights, priors[0])
    plain = near(x * features, support.x, *weights, priors[1])
    offset = z - objectives.mean(z_support, weights[0])
    counts = jnp.log1p(jnp.stack(weights).sum(1))
    counts = jnp.broadcast_to(counts, (len(z), 2))
    task = _task(jnp.concatenate([z, offset, learned, plain, counts], -1))
    reading = head.read(task.support, task.features)
    context = head.summarise(params['head'], reading)
    return head.apply(params['head'], context, task.query.x)[:, 0]

  return objectives.from_query_loss(init, adapt, score, loss)


def _task(x):
  """The head's task: rows of comparisons [N, 2 D + 8], each by itself."""
  rows = Rows(x, jnp.zeros(len(x)), jnp.ones(len(x)))
  return Task(rows, rows, jnp.ones(x.shape[1]))
