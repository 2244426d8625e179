"""Combinator: centre and scale every column by the support's own normals."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metaad_jax.base import MetaLearner, Rows


class Prior(NamedTuple):
  """What meta-training knows of the columns before any support is seen.

  Attributes:
    centre: [F] mean of normal rows over all entities.
    between: [F] their standard deviation over all entities together.
    within: [F] their standard deviation within an entity.
  """

  centre: jax.Array
  between: jax.Array
  within: jax.Array


class Scaling(NamedTuple):
  """Centre and scale, [F] each."""

  centre: jax.Array
  scale: jax.Array


class Adapted(NamedTuple):
  """What the wrapped learner keeps of a support, and how to scale for it."""

  prior: Prior
  scaling: Scaling
  learner: Any


_STRENGTH = 5.0  # the prior variance counts as this many rows
_LIMIT = 20.0


def fit(support: Rows, prior: Prior) -> Scaling:
  """Centre and scale from the support's normals, shrunk towards the prior.

  The centre is the normals' mean; the variance is the weighted mean of theirs
  (about that centre) and the prior's, which counts as five rows: the variance
  of five rows by themselves is too rough to divide by. A support without
  normals falls back on the prior's centre.

  Args:
    support: x is [N, F] or [N, L, C]; windows are scaled per channel.
    prior: over F (or C) columns.

  Returns:
    The scaling.
  """
  x = support.x
  weight = support.mask * (1 - support.y)
  count = weight.sum()
  weight = weight.reshape((-1,) + (1,) * (x.ndim - 1))
  axes = tuple(range(x.ndim - 1))
  total = jnp.maximum(count * x[0, ..., 0].size, 1)
  mean = (weight * x).sum(axes) / total
  centre = jnp.where(count > 0, mean, prior.centre)
  variance = (weight * (x - centre) ** 2).sum(axes) / total
  variance = (count * variance + _STRENGTH * prior.within**2) / (
    count + _STRENGTH
  )
  return Scaling(centre, jnp.sqrt(variance) + 1e-6)


def transform(scaling: Scaling, x: jax.Array) -> jax.Array:
  """(x - centre) / scale, limited to +-20 so that no row can blow up."""
  return jnp.clip((x - scaling.centre) / scaling.scale, -_LIMIT, _LIMIT)


def _overall(prior):
  return Scaling(prior.centre, prior.between + 1e-6)


def standardized(
  learner: MetaLearner, prior: Prior, *, context: bool = False, own: bool = True
) -> MetaLearner:
  """Fits the scaling inside `adapt`, applies it inside `score`.

  The prior travels with the meta-parameters, and gets no gradient.

  Args:
    learner: gets standardised rows.
    prior: see `Prior`.
    context: append every column scaled by the prior, too: what is abnormal on
      any machine shows there.
    own: False = scale by the prior alone: where the task is to tell classes.
  """
  scaling_of = lambda x, prior: fit(x, prior) if own else _overall(prior)

  def prepare(prior, scaling, rows):
    x = transform(scaling, rows.x)
    if context:
      x = jnp.concatenate([x, transform(_overall(prior), rows.x)], -1)
    return rows._replace(x=x)

  columns = lambda features: jnp.tile(features, 2 if context else 1)

  def scaled(prior, task):
    scaling = scaling_of(task.support, prior)
    return task._replace(
      support=prepare(prior, scaling, task.support),
      query=prepare(prior, scaling, task.query),
      features=columns(task.features),
    )

  def init(key, task):
    return {'prior': prior, 'learner': learner.init(key, scaled(prior, task))}

  def adapt(key, meta_params, support, features):
    prior = jax.lax.stop_gradient(meta_params['prior'])
    scaling = scaling_of(support, prior)
    rows = prepare(prior, scaling, support)
    inner = meta_params['learner']
    inner = learner.adapt(key, inner, rows, columns(features))
    return Adapted(prior, scaling, inner)

  def score(adapted, x):
    rows = prepare(adapted.prior, adapted.scaling, Rows(x, x, x))
    return learner.score(adapted.learner, rows.x)

  def meta_grad(key, meta_params, task):
    prior, inner = meta_params['prior'], meta_params['learner']
    grads, metrics = learner.meta_grad(key, inner, scaled(prior, task))
    zeros = jax.tree.map(jnp.zeros_like, prior)
    return {'prior': zeros, 'learner': grads}, metrics

  def at(progress):
    assert learner.at is not None
    return standardized(learner.at(progress), prior, context=context, own=own)

  return MetaLearner(init, adapt, score, meta_grad, learner.at and at)
