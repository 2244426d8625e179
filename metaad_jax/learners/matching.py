"""Matching Networks: attention over the support's labels.

Vinyals, Blundell, Lillicrap, Kavukcuoglu & Wierstra, "Matching Networks for One
Shot Learning", NeurIPS 2016, arXiv 1606.04080, without full context embeddings:
the probability of a class is the softmax of the cosine similarities over the
support, summed over its rows (here averaged, so that it does not grow with how
many there are; the same where classes are balanced). With normals only an open
class of a meta-learned similarity stands against them, as in `protonet`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metaad_jax.base import MakeModel, MetaLearner, Params
from metaad_jax.learners import embedding as embedding_lib
from metaad_jax.learners import objectives

_EPSILON = 1e-4  # of a squared length: an embedding may be 0


class Attended(NamedTuple):
  """A support: embeddings [N, D] of length 1, and whose they are [N, C]."""

  params: Params
  context: Any
  z: jax.Array
  members: jax.Array


def matching(
  model: MakeModel,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  outputs: int = 1,
  embedding: int = 32,
) -> MetaLearner:
  """Matching Networks; arguments as for `protonet.protonet`."""
  network = model(embedding)

  init = embedding_lib.starting(network, log_sharpness=1.0, open=0.0)

  def adapt(key, meta_params, support, features):
    del key
    context, z, members = embedding_lib.embed(
      network, meta_params, support, features, outputs
    )
    return Attended(meta_params, context, _unit(z), members)

  def score(adapted, x):
    params, context, z, members = adapted
    sharpness = jnp.exp(params['log_sharpness'])
    query = _unit(network.apply(params['network'], context, x))
    count = jnp.maximum(members.sum(0), 1)
    similar = (sharpness * query @ z.T)[..., None]
    logits = jax.nn.logsumexp(similar, 1, b=members / count)
    if outputs > 1:
      return logits
    far = sharpness * params['open']
    return objectives.anomaly_logit(logits, members.sum(0), far)

  return objectives.from_query_loss(init, adapt, score, loss)


def _unit(z):
  return z * jax.lax.rsqrt((z**2).sum(-1, keepdims=True) + _EPSILON)
