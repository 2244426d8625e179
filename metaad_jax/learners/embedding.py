"""What learners share that compare rows in a meta-learned space."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metaad_jax.base import MetaLearner, Model, Params, Rows, Task
from metaad_jax.learners import objectives


class Embedded(NamedTuple):
  """A support in that space.

  Attributes:
    context: what the model made of the support.
    z: [N, D] embeddings.
    members: [N, C] 1 = a real row of that class; the classes are normals and
      labelled anomalies where a learner has one output.
  """

  context: Any
  z: jax.Array
  members: jax.Array


def embed(
  network: Model,
  params: Params,
  support: Rows,
  features: jax.Array,
  outputs: int = 1,
) -> Embedded:
  """The support's embeddings; `params` are those of `starting`."""
  reading = network.read(support, features)
  z, y, mask = network.support(params['network'], reading)
  context = network.summarise(params['network'], reading)
  return Embedded(context, z, objectives.members(y, mask, outputs))


def starting(
  network: Model, **scalars: float
) -> Callable[[jax.Array, Task], Params]:
  """The `init` of a network, and of meta-learned numbers by name."""

  def init(key, task):
    dtype = task.support.x.dtype
    numbers = {k: jnp.asarray(v, dtype) for k, v in scalars.items()}
    return {'network': network.init(key, task), **numbers}

  return init


class Head(NamedTuple):
  """Weights [D, C] on what the model makes of a row."""

  params: Params
  context: Any
  weights: jax.Array


def linear(
  network: Model,
  fit: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
  loss: objectives.Objective,
  outputs: int,
) -> MetaLearner:
  """A learner whose linear head is fitted to each support.

  Its outputs are scaled, and shifted where there is one, by meta-learned
  numbers. With normals only the anomalies' output is what `fit` makes of no
  row, 0: the shift is where normals end.

  Args:
    network: makes embeddings.
    fit: (z [N, D], members [N, C], a meta-learned number above 0 that starts
      at 1) -> weights [D, C]; differentiable.
    loss: of the query.
    outputs: 1, the logit of "anomaly", or one for each class.

  Returns:
    The learner.
  """
  init = starting(network, log_prior=0.0, log_scale=1.0, shift=0.0)

  def adapt(key, meta_params, support, features):
    del key
    context, z, members = embed(
      network, meta_params, support, features, outputs
    )
    weights = fit(z, members, jnp.exp(meta_params['log_prior']))
    return Head(meta_params, context, weights)

  def score(adapted, x):
    params, context, weights = adapted
    z = network.apply(params['network'], context, x)
    logits = jnp.exp(params['log_scale']) * (z @ weights)
    if outputs > 1:
      return logits
    return logits[:, 1] - logits[:, 0] + params['shift']

  return objectives.from_query_loss(init, adapt, score, loss)
