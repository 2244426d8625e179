"""R2-D2: ridge regression on meta-learned embeddings, in closed form.

Bertinetto, Henriques, Torr & Vedaldi, "Meta-learning with Differentiable
Closed-form Solvers", ICLR 2019, arXiv 1805.08136. The weights are
W = Z' (Z Z' + lambda I)^-1 Y for the support's embeddings Z and its one-hot
labels Y, by the Woodbury identity: as many equations as there are rows; lambda,
and a scale and a shift of the outputs, are meta-learned. With normals only, W
pulls the normals' output to 1, and that of the anomalies stays 0.
"""

import jax.numpy as jnp

from metaad_jax.base import MakeModel, MetaLearner
from metaad_jax.learners import embedding as embedding_lib
from metaad_jax.learners import objectives
from metaad_jax.models import linear_algebra


def r2d2(
  model: MakeModel,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  outputs: int = 1,
  embedding: int = 32,
) -> MetaLearner:
  """R2-D2; arguments as for `protonet.protonet`."""

  def ridge(z, members, prior):
    z = z * members.sum(1, keepdims=True)
    gram = z @ z.T + prior * jnp.eye(len(z), dtype=z.dtype)
    return z.T @ (linear_algebra.inverse(gram) @ members)

  return embedding_lib.linear(model(embedding), ridge, loss, outputs)
