"""A network that asks whether a support was checked, where half of it was.

It reads such a support three times, every time as if all had been checked: the
checked rows alone; all rows; and all but those unchecked ones that the first
two suspect most. How many are bad can hardly be told from the rows, so that
what the readings say is averaged with fixed weights, most for the checked rows,
chosen on validation tables. Any other support is read once.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metaad_jax import base
from metaad_jax.models import suspicion

_WEIGHTS = (0.6, 0.2, 0.2)
_KEPT = 0.6  # of the unchecked rows, in the third reading


class Summary(NamedTuple):
  """A support of S rows, as often as it was read."""

  contexts: Any  # [3, ...], or the first alone and zeros
  weights: jax.Array  # [3]; 0 = not read
  suspects: jax.Array  # [1, S] log-odds that the support's rows are bad


def thrice(model: base.Model) -> base.Model:
  """A model with one output that suspects rows of a support, see above."""

  def summarise(params, reading):
    return read(model, params, *reading)

  def support(params, reading):
    return model.support(params, model.read(*reading))

  def apply(params, context, x):
    def one(part):
      made, weight = part
      score = lambda: weight * model.apply(params, made, x)
      return jax.lax.cond(weight > 0, score, lambda: jnp.zeros((len(x), 1)))

    return jax.lax.map(one, context[:2]).sum(0)

  return model._replace(
    read=lambda support, features: (support, features), summarise=summarise,
    support=support, apply=apply, suspects=lambda context: context.suspects,
  )  # fmt: skip


def read(
  model: base.Model, params: base.Params, support: base.Rows, real: jax.Array
) -> Summary:
  """Reads a support [S, F], three times if it has rows of both kinds."""
  tell = model.suspects
  assert tell is not None
  of = suspicion.kinds(support)
  open_rows = of.unverified
  both = (of.verified.max() > 0) & (open_rows.max() > 0)
  labels = jnp.where(both & (open_rows > 0), 0, support.y)

  def made(mask):
    rows = base.Rows(support.x, labels, mask)
    return model.summarise(params, model.read(rows, real))

  empty = jax.eval_shape(made, support.mask)
  nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), empty)
  zeros = jnp.zeros(len(labels))

  def step(before, turn):
    outside, own = before
    doubt = _unusual(outside, open_rows) + _unusual(own, open_rows)
    left = jnp.where(turn == 0, open_rows, open_rows * ~_few(doubt, open_rows))
    left = jnp.where(both & (turn != 1), left, 0)
    run = both | (turn == 0)
    context = jax.lax.cond(run, made, lambda _: nothing, support.mask - left)
    score = lambda made: model.apply(params, made, support.x)[:, 0]
    first = both & (turn == 0)
    outside = jax.lax.cond(first, score, lambda _: outside, context)
    own = jnp.where(turn == both, tell(context)[-1], own)
    return (outside, own), context

  turns = jnp.arange(3)
  (outside, own), contexts = jax.lax.scan(step, (zeros, zeros), turns)
  suspects = jnp.where(both & (open_rows > 0), (outside + own) / 2, own)
  weights = jnp.where(both, jnp.array(_WEIGHTS), turns == 0)
  return Summary(contexts, weights, suspects[None])


def _unusual(logits, there):
  """[S] less the mean of some, in their deviations."""
  total = jnp.maximum(there.sum(), 1)
  mean = there @ logits / total
  return (logits - mean) / jnp.sqrt(there @ (logits - mean) ** 2 / total + 0.03)


def _few(doubt, there):
  """[S] bool: the least suspected ones."""
  last = jnp.floor(_KEPT * there.sum()).astype(int)
  return doubt < jnp.sort(jnp.where(there > 0, doubt, jnp.inf))[last]
