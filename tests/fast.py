"""Compiling fast, for tests that run a program once."""

import functools

import jax

jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)
