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

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metaad_jax.base import MakeModel, MetaLearner, Model, Params, Rows
from metaad_jax.learners import objectives


class Prototypes(NamedTuple):
  """A support, as the score needs it.

  Attributes:
    params: the meta-parameters.
    context: what the model made of the support.
    normal: [D] mean embedding of the normals.
    anomaly: [D] that of the labelled anomalies; 0 without any.
    labelled: whether there are any.
  """

  params: Params
  context: Any
  normal: jax.Array
  anomaly: jax.Array
  labelled: jax.Array


def read(network: Model, params: Params, support: Rows, features: jax.Array):
  """`Prototypes`, the normals [N, D] about theirs (others 0), their number."""
  reading = network.read(support, features)
  z, y, mask = network.support(params['network'], reading)
  context = network.summarise(params['network'], reading)
  normals, anomalies = mask * (1 - y), mask * y
  normal = objectives.mean(z, normals)
  prototypes = Prototypes(
    params, context, normal, objectives.mean(z, anomalies), anomalies.sum() > 0
  )
  return prototypes, (z - normal) * normals[:, None], normals.sum()


def logit(
  prototypes: Prototypes, distance: Callable[[jax.Array], jax.Array]
) -> jax.Array:
  """The logit of "anomaly" from squared distances to the prototypes."""
  params = prototypes.params
  sharpness = jnp.exp(params['log_sharpness'])
  away = -sharpness * jnp.exp(params['log_radius'])
  rival = jnp.logaddexp(away, -sharpness * distance(prototypes.anomaly))
  rival = jnp.where(prototypes.labelled, rival, away)
  return rival + sharpness * distance(prototypes.normal)


def protonet(
  model: MakeModel,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  embedding: int = 32,
) -> MetaLearner:
  """Prototypical Networks; the score is the logit of "anomaly".

  Args:
    model: (outputs) -> model; `embedding` outputs are asked for.
    loss: of the query.
    embedding: dimension of the embedding, D.

  Returns:
    The learner.
  """
  network = model(embedding)

  def init(key, task):
    zero = jnp.zeros((), task.support.x.dtype)
    params = network.init(key, task)
    return {'network': params, 'log_radius': zero, 'log_sharpness': zero}

  def adapt(key, meta_params, support, features):
    del key
    return read(network, meta_params, support, features)[0]

  def score(adapted, x):
    z = network.apply(adapted.params['network'], adapted.context, x)
    return logit(adapted, lambda centre: ((z - centre) ** 2).mean(-1))

  return objectives.from_query_loss(init, adapt, score, loss)
