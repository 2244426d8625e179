"""Compiling fast, for tests that run a program once."""

import functools

import jax

jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)


def learner(made):
  """The same learner, whose functions are compiled: each as one program."""
  init, adapt, score, meta_grad = map(jit, made[:4])
  return made._replace(init=init, adapt=adapt, score=score, meta_grad=meta_grad)
