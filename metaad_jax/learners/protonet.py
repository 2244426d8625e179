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

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metaad_jax.base import MakeModel, MetaLearner, Model, Params, Rows
from metaad_jax.learners import embedding as embedding_lib
from metaad_jax.learners import objectives


class Prototypes(NamedTuple):
  """A support, as the score needs it.

  Attributes:
    params: the meta-parameters.
    context: what the model made of the support.
    centres: [C, D] mean embedding of each class, of normals and of labelled
      anomalies for one output; 0 without any.
    counts: [C] rows of each.
  """

  params: Params
  context: Any
  centres: jax.Array
  counts: jax.Array


def starting(network: Model):
  """The `init` of a network with a sharpness and a radius, both 1."""
  return embedding_lib.starting(network, log_radius=0.0, log_sharpness=0.0)


def read(
  network: Model,
  params: Params,
  support: Rows,
  features: jax.Array,
  outputs: int = 1,
) -> tuple[Prototypes, jax.Array, jax.Array]:
  """`Prototypes`, the embeddings [N, D], and whose they are [N, C]."""
  context, z, members = embedding_lib.embed(
    network, params, support, features, outputs
  )
  centres = jax.vmap(objectives.mean, (None, 1))(z, members)
  return Prototypes(params, context, centres, members.sum(0)), z, members


def verdict(
  prototypes: Prototypes, distances: jax.Array, outputs: int = 1
) -> jax.Array:
  """Squared distances [N, C] -> logits [N, C]; of "anomaly" [N] for one."""
  params = prototypes.params
  sharpness = jnp.exp(params['log_sharpness'])
  logits = -sharpness * distances
  if outputs > 1:
    return logits
  far = -sharpness * jnp.exp(params['log_radius'])
  return objectives.anomaly_logit(logits, prototypes.counts, far)


def scorer(network: Model, outputs: int = 1):
  """The `score` of a network whose prototypes are compared by distance."""

  def score(adapted, x):
    z = network.apply(adapted.params['network'], adapted.context, x)
    distances = ((z[:, None] - adapted.centres) ** 2).mean(-1)
    return verdict(adapted, distances, outputs)

  return score


def protonet(
  model: MakeModel,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  outputs: int = 1,
  embedding: int = 32,
) -> MetaLearner:
  """Prototypical Networks.

  Args:
    model: (outputs) -> model; `embedding` outputs are asked for.
    loss: of the query.
    outputs: 1, the logit of "anomaly", or one for each class.
    embedding: dimension of the embedding, D.

  Returns:
    The learner.
  """
  network = model(embedding)

  def adapt(key, meta_params, support, features):
    del key
    return read(network, meta_params, support, features, outputs)[0]

  return objectives.from_query_loss(
    starting(network), adapt, scorer(network, outputs), loss
  )
