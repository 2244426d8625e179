"""Descent on labelled rows, and scoring with the parameters it ends at.

What the learners share that score with the one output of a model.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from metaad_jax.base import Model, Params, Rows
from metaad_jax.learners import inner_loop, objectives


class Adapted(NamedTuple):
  """A model that has seen a support.

  Attributes:
    params: of the model, after the descent.
    context: what `Model.summarise` made of the support.
  """

  params: Params
  context: Any


def tune(
  model: Model,
  loss: objectives.Objective,
  params: Params,
  rows: Rows,
  features: jax.Array,
  optimizer: optax.GradientTransformation,
  steps: int,
  mode: str = 'auto',
) -> Params:
  """Descends on labelled rows, each scored in the light of the others.

  Args:
    model: with one output.
    loss: of the rows.
    params: where to start.
    rows: x [N, ...], y [N], mask [N].
    features: [F] 1 = a real column.
    optimizer: any optax transformation.
    steps: number of steps, static; 0 = none.
    mode: of `inner_loop.descend`.

  Returns:
    The parameters after the last step.
  """
  if not steps:
    return params
  reading = model.read(rows, features)

  def rows_loss(params):
    return loss(*model.support(params, reading))

  return inner_loop.descend(rows_loss, params, optimizer, steps, mode=mode)


def see(
  model: Model, params: Params, support: Rows, features: jax.Array
) -> Adapted:
  """The model with these parameters, once it has read the support."""
  reading = model.read(support, features)
  return Adapted(params, model.summarise(params, reading))


def scorer(model: Model) -> Callable[[Adapted, jax.Array], jax.Array]:
  """(adapted, x [N, ...]) -> [N], the first output of each row."""
  return lambda adapted, x: model.apply(*adapted, x)[:, 0]


def scored(model: Model, adapted: Adapted, rows: Rows) -> Rows:
  """The rows with their outputs [N, outputs] in place of x, for a loss."""
  return rows._replace(x=model.apply(*adapted, rows.x))
