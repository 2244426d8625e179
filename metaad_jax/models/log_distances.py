"""Plain distances to a support's normals, beside what a network says of a row.

What little a classical detector sees better than a network that was trained on
hundreds of tables: a quarter of the log distances to the nearest normal and of
Mahalanobis, and that of the mean distance to all of them, which a few bad rows
among them hardly move. Where nobody checked these rows (y = .5), the nearest,
which may be bad, is left out, and the others count more. Columns are z-scores
and levels, as in `suspicion`. From three normals on distances count more and
more, from ten on in full; not where anomalies are labelled: there the network
alone is better. A network that is told itself who was checked has half of that
where all were, and none where nobody was. The factors were chosen on validation
tables (`docs/results/training.md`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metaad_jax import base
from metaad_jax.models import suspicion

# Of the nearest, Mahalanobis, the mean.
_VERIFIED, _UNVERIFIED = (0.25, 0.25, 1.0), (0.0, 1.0, 2.0)
_TOLD = tuple(factor / 2 for factor in _VERIFIED), (0.0, 0.0, 0.0)
_FIRST, _LAST = 3, 10  # normals: from none of it to all
_FLOOR = 1e-3  # added to a distance: a copy of a normal is much like it


class Known(NamedTuple):
  """A support's normals to compare with."""

  scale: suspicion.Scale
  rows: jax.Array  # [K, 2 F]
  normal: jax.Array  # [K] 1 = a normal
  joint: suspicion.Joint
  factors: jax.Array  # [3] of the distances


def fit(support: base.Rows, real: jax.Array, told: bool = False) -> Known:
  """Reads a support: x [K, F], NaN = missing; real [F] 1 = a column.

  `told`: they come beside a network that knows who was checked.
  """
  normal = support.mask * (support.y < 1)
  scale = suspicion.scale(support.x, normal, real)
  rows = suspicion.coordinates(scale, support.x)
  joint = suspicion.joint(rows, normal, _width(scale))
  share = jnp.clip((normal.sum() - _FIRST) / (_LAST - _FIRST), 0, 1)
  share = share * ((support.mask * support.y).max() < 1)
  unchecked = normal @ (support.y == 0.5) / jnp.maximum(normal.sum(), 1)
  verified, unverified = jnp.array(_TOLD if told else (_VERIFIED, _UNVERIFIED))
  factors = verified + unchecked * (unverified - verified)
  return Known(scale, rows, normal, joint, share * factors)


def score(known: Known, x: jax.Array) -> jax.Array:
  """[R] of new rows [R, F]."""
  rows, width = suspicion.coordinates(known.scale, x), _width(known.scale)
  squares = suspicion.squares(rows, known.rows, width)
  place = jnp.where(known.normal > 0, squares, jnp.inf).argmin(-1)
  gaps = rows - known.rows[place]  # exactly, however near it is
  nearest = jnp.sqrt((gaps**2).sum(-1) / width)
  mean = jnp.sqrt(squares) @ known.normal / jnp.maximum(known.normal.sum(), 1)
  joint = suspicion.mahalanobis(known.joint, rows, jnp.zeros(len(rows)))
  parts = jnp.log(nearest + _FLOOR), joint, jnp.log(mean + _FLOOR)
  total = known.factors @ jnp.stack(parts)
  return jnp.where(known.factors[2] > 0, total, 0)


def beside(model: base.Model) -> base.Model:
  """A model with one output, and distances added to it.

  One that is not told who was checked takes all for verified. The support's
  own rows, which a learner may train on, have what the network says alone.
  """

  def read(support, features):
    told = model.unverified
    passing = support if told else support._replace(y=jnp.floor(support.y))
    return model.read(passing, features), fit(support, features, told)

  def summarise(params, reading):
    return model.summarise(params, reading[0]), reading[1]

  def support(params, reading):
    return model.support(params, reading[0])

  def apply(params, context, x):
    return model.apply(params, context[0], x) + score(context[1], x)[:, None]

  tell = model.suspects
  return model._replace(
    read=read, summarise=summarise, support=support, apply=apply,
    unverified=True, suspects=tell and (lambda context: tell(context[0])),
  )  # fmt: skip


def _width(scale):
  return 2 * jnp.maximum(scale.real.sum(), 1)
