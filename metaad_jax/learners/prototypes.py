"""What learners share that compare a row with prototypes: see `protonet`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metaad_jax.base import Model, Params, Rows
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
