"""Meta-SVDD: the smallest ball around the normals of a meta-learned space.

Dahia & Pamplona Segundo, "Meta Learning for Few-Shot One-class Classification",
2020, arXiv 2009.05353; Tax & Duin, "Support Vector Data Description", Machine
Learning 54, 2004. The centre is a mixture of the support's normals; its weights
solve a quadratic program over a simplex, by projected gradient descent that is
differentiated through. Without a step the weights are equal: the paper's
one-class prototypical network, which is `protonet`. As there the radius is
meta-learned (that of the ball is 0 for a single row), and labelled anomalies
have a prototype.
"""

import jax.numpy as jnp
import optax

from metaad_jax.base import MakeModel, MetaLearner
from metaad_jax.learners import inner_loop, objectives, prototypes

_NEVER = -1e6  # where a weight is to be 0


def meta_svdd(
  model: MakeModel,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  embedding: int = 32,
  solver_steps: int = 100,
) -> MetaLearner:
  """Meta-SVDD with a hard margin.

  Args:
    model, loss, embedding: as for `protonet.protonet`.
    solver_steps: of projected gradient descent; 0 = `protonet`.

  Returns:
    The learner.
  """
  network = model(embedding)
  score = prototypes.scorer(network)

  def adapt(key, meta_params, support, features):
    del key
    made, z, members = prototypes.read(network, meta_params, support, features)
    normal, mean = members[:, 0], made.centres[0]
    away = (z - mean) * normal[:, None]
    squares = (away**2).sum(1)

    def dual(weights):
      return ((weights @ away) ** 2).sum() - weights @ squares

    def project(weights):
      weights = jnp.where(normal > 0, weights, _NEVER)
      return optax.projections.projection_simplex(weights)

    rate = 1 / (2 * squares.sum() + 1e-6)
    equal = normal / jnp.maximum(normal.sum(), 1)
    weights = inner_loop.descend(
      dual, equal, optax.sgd(rate), solver_steps, mode='remat', project=project
    )
    centres = made.centres.at[0].set(mean + weights @ away)
    return made._replace(centres=centres)

  return objectives.from_query_loss(
    prototypes.starting(network), adapt, score, loss
  )
