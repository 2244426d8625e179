"""A dense layer whose derivatives are fast with few rows and per-task weights.

The gradient of a kernel is x' dy. XLA's CPU backend hands that product, with
its left side turned around, to a slower library; with few rows it takes twice
as long as after turning x first. The turn has to be kept apart by a barrier, or
the compiler puts it back. So that derivatives of every order, forward and
reverse, are made of such products, the three of a dense layer are primitives,
each of which is linear in both operands and transposes into the other two.
"""

import math

from flax import linen as nn
import jax
from jax.extend import core
from jax.interpreters import ad, batching, mlir
import jax.numpy as jnp


def _product(a, b, left, right):
  """Sums over axis `left` of a and `right` of b, both counted from the end."""
  along = tuple(range(a.ndim - 2))
  axes = ((a.ndim + left,), (b.ndim + right,))
  return jax.lax.dot_general(a, b, (axes, (along, along)))


def _forward(x, kernel):
  return _product(x, kernel, -1, -2)


def _input(g, kernel):
  return _product(g, kernel, -1, -1)


def _kernel(x, g):
  return _product(x, g, -2, -2)


def _kernel_on_cpu(x, g):
  if min(x.shape[-1], g.shape[-1]) == 1:
    return _kernel(x, g)
  return _product(jax.lax.optimization_barrier(x.mT), g, -1, -2)


def _primitive(name, function, on_cpu, rows_first):
  """A product of [*B, m, n] arrays that are alike in B.

  Args:
    name: of the primitive.
    function: of both arrays.
    on_cpu: the same, for CPUs.
    rows_first: whether it treats every row of the first array alike, so that
      tasks that share the second one are more rows.
  """
  primitive = core.Primitive(name)
  primitive.def_impl(lambda a, b: jax.jit(primitive.bind)(a, b))
  primitive.def_abstract_eval(
    lambda a, b: jax.core.ShapedArray(
      jax.eval_shape(function, a, b).shape, a.dtype
    )
  )
  mlir.register_lowering(primitive, mlir.lower_fun(function, False))
  mlir.register_lowering(
    primitive, mlir.lower_fun(on_cpu, False), platform='cpu'
  )

  def batch(args, dims):
    (a, b), (first, second) = args, dims
    if rows_first and second is None:
      a = jnp.moveaxis(a, first, -3)
      rows = a.reshape(*a.shape[:-3], math.prod(a.shape[-3:-1]), a.shape[-1])
      out = primitive.bind(rows, b)
      return out.reshape(*a.shape[:-1], out.shape[-1]), out.ndim - 2
    size = a.shape[first] if second is None else b.shape[second]
    a, b = (
      jnp.broadcast_to(array, (size, *array.shape))
      if place is None
      else jnp.moveaxis(array, place, 0)
      for array, place in ((a, first), (b, second))
    )
    return primitive.bind(a, b), 0

  batching.primitive_batchers[primitive] = batch
  return primitive


_forward_p = _primitive('dense_forward', _forward, _forward, True)
_input_p = _primitive('dense_input', _input, _input, True)
_kernel_p = _primitive('dense_kernel', _kernel, _kernel_on_cpu, False)

ad.defbilinear(
  _forward_p,
  lambda u, x, kernel: _input_p.bind(u, kernel),
  lambda u, x, kernel: _kernel_p.bind(x, u),
)
ad.defbilinear(
  _input_p,
  lambda u, g, kernel: _forward_p.bind(u, kernel),
  lambda u, g, kernel: _kernel_p.bind(u, g),
)
ad.defbilinear(
  _kernel_p,
  lambda u, x, g: _input_p.bind(g, u),
  lambda u, x, g: _forward_p.bind(x, u),
)


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """x @ kernel: [N, inputs], [inputs, outputs] -> [N, outputs]."""
  dtype = jnp.result_type(x, kernel)
  return _forward_p.bind(x.astype(dtype), kernel.astype(dtype))


class Dense(nn.Module):
  """`nn.Dense` of rows: the same numbers and parameters.

  [N, inputs] -> [N, outputs].
  """

  outputs: int
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (x.shape[-1], self.outputs)
    kernel = self.param('kernel', self.kernel_init, shape)
    bias = self.param('bias', nn.initializers.zeros, shape[1:])
    return product(x, kernel) + bias
