"""Meta-curvature: learn the initialisation and a transform of the gradients.

Park & Oliva, "Meta-Curvature", NeurIPS 2019, arXiv 1902.03356: the step is
-rate * M g, where M is a Kronecker product, one meta-learned matrix for every
axis of a parameter. They start at the identity, where it is MAML.
"""

import jax
import jax.numpy as jnp
import optax

from metaad_jax.base import MakeModel, MetaLearner
from metaad_jax.learners import fine_tuning, objectives

_SGD = optax.sgd(0.1)


def meta_curvature(
  model: MakeModel,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  outputs: int = 1,
  steps: int = 5,
  adapt_steps: int = 0,
  inner_optimizer: optax.GradientTransformation = _SGD,
  mode: str = 'auto',
) -> MetaLearner:
  """Meta-curvature of every axis (MC2); arguments as for `maml.maml`."""
  network = model(outputs)

  def init(key, task):
    params = network.init(key, task)
    eyes = lambda leaf: [jnp.eye(size, dtype=leaf.dtype) for size in leaf.shape]
    return {'network': params, 'curvature': jax.tree.map(eyes, params)}

  def bend(gradient, matrices):
    for axis, matrix in enumerate(matrices):
      bent = jnp.tensordot(matrix, gradient, (1, axis))
      gradient = jnp.moveaxis(bent, 0, axis)
    return gradient

  def tune(meta_params, support, features, steps):
    curvature = meta_params['curvature']
    curved = optax.chain(
      optax.stateless(lambda grads, _: jax.tree.map(bend, grads, curvature)),
      inner_optimizer,
    )
    return fine_tuning.tune(
      network, loss, meta_params['network'], support, features, curved, steps,
      mode,
    )  # fmt: skip

  return fine_tuning.by_descent(network, init, tune, loss, steps, adapt_steps)
