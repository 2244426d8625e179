"""All derivatives up to the second, and whether two ways agree in them."""

import jax
import jax.numpy as jnp
import numpy as np


def all_of(function, way):
  """The value, the gradients, and these again forwards and backwards."""

  def loss(*args):
    return jnp.sin(function(*args)).sum()

  def run(*args):
    every = tuple(range(len(args)))
    grads = jax.grad(loss, every)
    along = lambda *args: sum(
      jnp.vdot(g, w) for g, w in zip(grads(*args), way, strict=True)
    )
    return (
      function(*args),
      grads(*args),
      jax.jvp(grads, args, tuple(way))[1],
      jax.grad(along, every)(*args),
    )

  return run


def close(actual, expected, rtol=1e-9):
  for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
    np.testing.assert_allclose(
      a, b, rtol=rtol, atol=max(rtol * np.abs(b).max(), 1e-12)
    )
