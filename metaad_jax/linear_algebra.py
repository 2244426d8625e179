"""Small dense linear algebra that stays inside XLA.

On a CPU, `jnp.linalg` calls LAPACK once per matrix of a batch: slow for many
small matrices, and under load the calls were seen to starve XLA's own thread
pool. A sweep is plain arithmetic, which `vmap` batches.
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
