"""Almost no inner loop: the body is meta-learned, the head alone adapts.

Raghu, Raghu, Bengio & Vinyals, "Rapid Learning or Feature Reuse? Towards
Understanding the Effectiveness of MAML", ICLR 2020, arXiv 1909.09157. The head
are the parameters whose shape depends on the number of outputs, whatever the
model; where they are all there is, ANIL is MAML. The gradients of the body are
never computed in the inner loop.
"""

import jax
import optax

from metaad_jax.base import DataError, MakeModel, MetaLearner, Task
from metaad_jax.learners import fine_tuning, objectives

_SGD = optax.sgd(0.1)


def anil(
  model: MakeModel,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  outputs: int = 1,
  part: str = 'head',
  steps: int = 5,
  adapt_steps: int = 0,
  inner_optimizer: optax.GradientTransformation = _SGD,
  mode: str = 'auto',
) -> MetaLearner:
  """MAML in which a part of the network adapts.

  Args:
    model, loss, outputs, steps, adapt_steps, inner_optimizer, mode: as for
      `maml.maml`.
    part: 'head', 'body' (see `boil`), or 'all', which is MAML.

  Returns:
    The learner.

  Raises:
    DataError: if there is no such part.
  """
  if part not in ('head', 'body', 'all'):
    raise DataError(f'anil: part={part!r}: choose head, body or all')
  network = model(outputs)

  def tune(meta_params, support, features, steps):
    leaves, tree = jax.tree.flatten(meta_params)
    head = _head(model, outputs, Task(support, support, features))
    moves = [part == 'all' or (part == 'head') == own for own in head]
    if not any(moves):
      raise DataError(f'the model has no {part} to adapt: choose another one')
    moving = [leaf for leaf, own in zip(leaves, moves, strict=True) if own]

    def whole(moving):
      own, pairs = iter(moving), zip(leaves, moves, strict=True)
      joined = [next(own) if m else leaf for leaf, m in pairs]
      return jax.tree.unflatten(tree, joined)

    return fine_tuning.tune(
      network, loss, moving, support, features, inner_optimizer, steps, mode,
      whole,
    )  # fmt: skip

  return fine_tuning.by_descent(
    network, network.init, tune, loss, steps, adapt_steps
  )


def _head(model, outputs, task):
  """For each leaf of the parameters: whether its shape depends on outputs."""
  key = jax.random.key(0)
  shapes = [
    [leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(init, key, task))]
    for init in (model(outputs).init, model(outputs + 1).init)
  ]
  return [one != more for one, more in zip(*shapes, strict=True)]
