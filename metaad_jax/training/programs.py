"""Fewer traces and fewer programs: each is time before the first step."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core
import jax.numpy as jnp
import numpy as np


def traced(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
  """A function of arguments of those shapes and dtypes, traced once, here.

  `jax.jit` traces anew for each mesh of devices; this does not. Arguments of
  other shapes are refused: sizes of the first are constants of the trace.
  """
  closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
  run, whole = core.jaxpr_as_fun(closed), jax.tree.structure(shapes)
  wanted = [leaf.shape for leaf in closed.in_avals]

  def call(*given):
    leaves = jax.tree.leaves(given)
    if (found := [jnp.shape(leaf) for leaf in leaves]) != wanted:
      raise TypeError(f'traced for {wanted}, not {found}')
    return jax.tree.unflatten(whole, run(*leaves))

  return call


def first(tree: Any) -> Any:
  """The first of each array's rows, without a program."""
  return jax.device_put(jax.tree.map(lambda leaf: np.asarray(leaf)[0], tree))


@jax.jit
def copied(tree: Any) -> Any:
  """Copies of arrays, which may be donated, by one program."""
  return jax.tree.map(jnp.copy, tree)
