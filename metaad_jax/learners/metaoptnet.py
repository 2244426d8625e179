"""MetaOptNet: a support vector machine on meta-learned embeddings.

Lee, Maji, Ravichandran & Soatto, "Meta-Learning with Differentiable Convex
Optimization", CVPR 2019, arXiv 1904.03758, with the multi-class machine of
Crammer and Singer (JMLR 2001) as there. In its dual every row of the support
has a distribution s over the classes, and W = C Z' (Y - s): what projected
gradient descent on these simplices finds is differentiated through. (The
paper's ridge head is `r2d2`.)

With normals only the machine keeps them apart from the origin, as a one-class
machine does; a meta-learned shift says where they end.
"""

import jax
import optax

from metaad_jax.base import MakeModel, MetaLearner
from metaad_jax.learners import embedding as embedding_lib
from metaad_jax.learners import inner_loop, objectives


def metaoptnet(
  model: MakeModel,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  outputs: int = 1,
  embedding: int = 32,
  solver_steps: int = 100,
) -> MetaLearner:
  """MetaOptNet-SVM; C starts at 1 and is meta-learned.

  Args:
    model, loss, outputs, embedding: as for `protonet.protonet`.
    solver_steps: of projected gradient descent.

  Returns:
    The learner.
  """

  def machine(z, members, prior):
    real, cost = members.sum(1, keepdims=True), 1 / prior
    weights = lambda s: cost * (z.T @ (members - real * s))

    def dual(s):
      margins = (real * s * (1 - members)).sum()
      return (weights(s) ** 2).sum() / 2 - cost * margins

    bound = cost**2 * (real * z**2).sum() + 1e-6  # of the dual's curvature
    s = inner_loop.descend(
      dual, members, optax.sgd(1 / bound), solver_steps, mode='remat',
      project=jax.vmap(optax.projections.projection_simplex),
    )  # fmt: skip
    return weights(s)

  return embedding_lib.linear(model(embedding), machine, loss, outputs)
