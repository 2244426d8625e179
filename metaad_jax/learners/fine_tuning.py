"""Descent on labelled rows, and scoring with the parameters it ends at.

What the learners share that score with the outputs of a model.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from metaad_jax.base import MetaLearner, Model, Params, Rows, Task
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
  whole: Callable[[Any], Params] = lambda params: params,
) -> Params:
  """Descends on labelled rows, each scored in the light of the others.

  Args:
    model: the network.
    loss: of the rows.
    params: where to start.
    rows: x [N, ...], y [N], mask [N].
    features: [F] 1 = a real column.
    optimizer: any optax transformation.
    steps: number of steps, static; 0 = none.
    mode: of `inner_loop.descend`.
    whole: what is descended on -> all parameters of the model, where `params`
      are not all of them.

  Returns:
    All parameters after the last step.
  """
  if not steps:
    return whole(params)
  reading = model.read(rows, features)

  def rows_loss(params):
    return loss(*model.support(whole(params), reading))

  ending = inner_loop.descend(rows_loss, params, optimizer, steps, mode=mode)
  return whole(ending)


def see(
  model: Model, params: Params, support: Rows, features: jax.Array
) -> Adapted:
  """The model with these parameters, once it has read the support."""
  reading = model.read(support, features)
  return Adapted(params, model.summarise(params, reading))


def scorer(model: Model) -> Callable[[Adapted, jax.Array], jax.Array]:
  """(adapted, x [N, ...]) -> [N], or [N, outputs] if there are several."""

  def score(adapted: Adapted, x: jax.Array) -> jax.Array:
    outputs = model.apply(*adapted, x)
    return outputs[:, 0] if outputs.shape[1] == 1 else outputs

  return score


def scored(model: Model, adapted: Adapted, rows: Rows) -> Rows:
  """The rows with their outputs [N, outputs] in place of x, for a loss."""
  return rows._replace(x=model.apply(*adapted, rows.x))


def by_descent(
  model: Model,
  init: Callable[[jax.Array, Task], Params],
  tune: Callable[[Params, Rows, jax.Array, int], Params],
  loss: objectives.Objective,
  steps: int,
  adapt_steps: int = 0,
  ranking: float = 0.0,
) -> MetaLearner:
  """A learner whose meta-gradient is that of the query's loss after a descent.

  Args:
    model: the network.
    init: see `MetaLearner`.
    tune: (meta_params, support, features, steps) -> parameters of the model,
      differentiable.
    loss: of the query.
    steps: of the descent in meta-training.
    adapt_steps: of that in `adapt`; 0 = as in meta-training.
    ranking: weight of a pairwise ranking loss that is added for the query.

  Returns:
    The learner.
  """

  def adapt_in(steps):
    def adapt(key, meta_params, support, features):
      del key
      params = tune(meta_params, support, features, steps)
      return see(model, params, support, features)

    return adapt

  def query_loss(key, meta_params, task):
    adapted = adapt_in(steps)(key, meta_params, task.support, task.features)
    rows = scored(model, adapted, task.query)
    ranked = ranking * objectives.ranking(*rows) if ranking else 0.0
    return loss(*rows) + ranked

  return MetaLearner(
    init,
    adapt_in(adapt_steps or steps),
    scorer(model),
    objectives.gradient_of(query_loss),
  )
