"""Implicit MAML: the meta-gradient at the end of the inner loop, not along it.

Rajeswaran, Finn, Kakade & Levine, "Meta-Learning with Implicit Gradients",
NeurIPS 2019, arXiv 1909.04630. The inner loop minimises the support's loss plus
half lambda times the squared distance from the meta-parameters. By the implicit
function theorem the meta-gradient is (I + H / lambda)^-1 times the query's
gradient, which conjugate gradients find without keeping any step: exact where
the inner loop has converged, whichever way it went.
"""

import jax
from jax.scipy.sparse.linalg import cg
import optax

from metaad_jax.base import DataError, MakeModel, MetaLearner
from metaad_jax.learners import fine_tuning, inner_loop, objectives

_SGD = optax.sgd(0.1)


def imaml(
  model: MakeModel,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  outputs: int = 1,
  strength: float = 2.0,
  steps: int = 10,
  adapt_steps: int = 0,
  solver_steps: int = 5,
  inner_optimizer: optax.GradientTransformation = _SGD,
) -> MetaLearner:
  """Implicit MAML.

  Args:
    model, loss, outputs, adapt_steps: as for `maml.maml`.
    strength: lambda, of the pull back to the meta-parameters.
    steps: inner steps in meta-training.
    solver_steps: of conjugate gradients.
    inner_optimizer: any optax transformation.

  Returns:
    The learner.
  """
  if strength <= 0:
    raise DataError(f'imaml: strength={strength} must be above 0')
  network = model(outputs)

  def support_loss(support, features):
    reading = network.read(support, features)
    return lambda params: loss(*network.support(params, reading))

  def tune(meta_params, support, features, steps):
    own = support_loss(support, features)

    def pulled(params):
      away = optax.tree.sub(params, meta_params)
      return own(params) + strength / 2 * optax.tree.norm(away, squared=True)

    return inner_loop.descend(pulled, meta_params, inner_optimizer, steps)

  def meta_grad(key, meta_params, task):
    del key
    support, query, features = task[:3]
    params = tune(meta_params, support, features, steps)

    def query_loss(params):
      adapted = fine_tuning.see(network, params, support, features)
      return loss(*fine_tuning.scored(network, adapted, query))

    value, grads = jax.value_and_grad(query_loss)(params)
    gradient = jax.grad(support_loss(support, features))
    curved = lambda v: jax.jvp(gradient, (params,), (v,))[1]
    system = lambda v: optax.tree.add_scale(v, 1 / strength, curved(v))
    return cg(system, grads, maxiter=solver_steps)[0], {'loss': value}

  learner = fine_tuning.by_descent(
    network, network.init, tune, loss, steps, adapt_steps
  )
  return learner._replace(meta_grad=meta_grad)
