"""Small dense linear algebra that stays inside XLA.

On a CPU, `jnp.linalg` calls LAPACK once per matrix of a batch: slow for many
small ones, and under load the calls can starve XLA's own thread pool. A sweep
is plain arithmetic, which `vmap` batches.
"""

import jax
import jax.numpy as jnp


def inverse(matrix: jax.Array) -> jax.Array:
  """Inverts a symmetric positive definite [D, D] matrix; differentiable.

  Goodnight, "A Tutorial on the SWEEP Operator", The American Statistician 33,
  1979. Positive pivots make it stable without exchanging rows.
  """
  size = matrix.shape[0]

  def sweep(a, unit):
    column = a @ unit
    pivot = unit @ column
    rest = column * (1 - unit)
    cross = jnp.outer(rest, unit)
    swept = a - jnp.outer(column, unit) - jnp.outer(unit, rest)
    swept += (cross + cross.T - jnp.outer(rest, rest)) / pivot
    return swept - jnp.outer(unit, unit) / pivot, None

  swept, _ = jax.lax.scan(sweep, matrix, jnp.eye(size, dtype=matrix.dtype))
  return -swept


def log_distances(
  x: jax.Array,
  rows: jax.Array,
  normal: jax.Array,
  abnormal: jax.Array,
  prior: jax.Array,
) -> jax.Array:
  """Log squared Mahalanobis distances under a few normals' own covariance.

  The covariance is (scatter of the normals + p I) / (count + p), where p is
  the prior times D; the inverse is by the Woodbury identity, so that its cost
  grows with the few rows and not with the columns.

  Of x [n, D] to rows [m, D], 1 in `normal` [m] or `abnormal` [m] if they are
  that: [n, 3] to the normals' mean, the nearest normal and the nearest anomaly,
  each distance divided by D; 0 where there is none.
  """
  count, columns = normal.sum(), rows.shape[1]
  centre = normal @ rows / jnp.maximum(count, 1)
  x, rows = x - centre, rows - centre
  spread = rows * normal[:, None]
  ridge = prior * columns
  inner = inverse(spread @ spread.T + ridge * jnp.eye(len(rows)))
  x_along, rows_along = x @ spread.T, rows @ spread.T
  to_mean = (x**2).sum(-1) - (x_along @ inner * x_along).sum(-1)
  theirs = (rows**2).sum(-1) - (rows_along @ inner * rows_along).sum(-1)
  cross = x @ rows.T - x_along @ inner @ rows_along.T
  between = to_mean[:, None] + theirs - 2 * cross
  nearest = lambda w: jnp.where(w > 0, between, jnp.inf).min(1)
  squared = jnp.stack([to_mean, nearest(normal), nearest(abnormal)], -1)
  known = jnp.stack([count, count, abnormal.sum()]) > 0
  squared = jnp.where(known, jnp.maximum(squared, 0), 0)
  scale = (count + ridge) / (ridge * columns)
  return jnp.where(known, jnp.log(scale * squared + 1e-4), 0)
