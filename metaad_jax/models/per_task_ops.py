"""Convolutions and dense layers that stay fast when every task has weights.

After one inner step every task has its own weights. Under `vmap` XLA turns
their convolution into a grouped one, which its CPU backend runs 16 to 60 times
slower than matrix products, and it hands the gradient of a dense kernel, x' dy,
to a slow library. Both layers here are bilinear primitives whose transposes are
each other, so derivatives of any order, forward and reverse, run the same few
products. `devices.TUNING` chooses how each backend computes them.
"""

import functools
import itertools
import math
from typing import NamedTuple

from flax import linen as nn
import jax
from jax.extend import core
from jax.interpreters import ad, batching, mlir
import jax.numpy as jnp

from metaad_jax import devices

_CPU = 'cpu'


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
  """The convolution of `nn.Conv` with padding 'SAME' and no bias.

  [N, *S, C], [*T, C, O] -> [N, *ceil(S / stride), O]; one to three axes S.
  """
  window = same(x.shape[1:-1], kernel.shape[:-2], stride)
  dtype = jnp.result_type(x, kernel)
  operands = x.astype(dtype)[None], kernel.astype(dtype)[None]
  return _conv_p.bind(*operands, window=window, precision=_precision())[0]


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """x @ kernel: [N, inputs], [inputs, outputs] -> [N, outputs]."""
  dtype = jnp.result_type(x, kernel)
  operands = x.astype(dtype), kernel.astype(dtype)
  return _dense_p.bind(*operands, precision=_precision())


def _precision():
  """In force here: primitives are lowered later, where another one may be."""
  return jax.config.values['jax_default_matmul_precision']


class Conv(nn.Module):
  """`nn.Conv` with padding 'SAME': the same numbers and parameters.

  [N, *S, C] -> [N, *ceil(S / stride), channels]; the kernel is initialised as
  in He et al., "Delving Deep into Rectifiers", 2015.
  """

  channels: int
  taps: tuple[int, ...]
  stride: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (*self.taps, x.shape[-1], self.channels)
    kernel = self.param('kernel', nn.initializers.he_normal(), shape)
    bias = self.param('bias', nn.initializers.zeros, (self.channels,))
    return convolve(x, kernel, self.stride) + bias


class Dense(nn.Module):
  """`nn.Dense` of rows [N, inputs]: the same numbers and parameters."""

  outputs: int
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (x.shape[-1], self.outputs)
    kernel = self.param('kernel', self.kernel_init, shape)
    bias = self.param('bias', nn.initializers.zeros, shape[1:])
    return product(x, kernel) + bias


def _primitive(name, shape, on_cpu, elsewhere, batch):
  """A primitive (a, b, **params) -> result, `on_cpu` and `elsewhere`.

  `shape` is the same of shapes; `batch` is (primitive, a, b, axis of a, axis of
  b, params) -> (result, axis).
  """
  primitive = core.Primitive(name)

  @primitive.def_impl
  def run(a, b, **params):
    return jax.jit(functools.partial(primitive.bind, **params))(a, b)

  @primitive.def_abstract_eval
  def abstract(a, b, precision, **params):
    return jax.core.ShapedArray(shape(a.shape, b.shape, **params), a.dtype)

  def at(function):
    def run(a, b, precision, **params):
      with jax.default_matmul_precision(precision):
        return function(a, b, **params)

    return run

  for function, platform in ((elsewhere, None), (on_cpu, _CPU)):
    lowering = mlir.lower_fun(at(function), multiple_results=False)
    mlir.register_lowering(primitive, lowering, platform=platform)
  batching.primitive_batchers[primitive] = lambda args, dims, **params: batch(
    primitive, *args, *dims, params
  )
  return primitive


def _both_mapped(a, b, first, second):
  """Both arrays with the mapped axis, [size, ...], in front."""
  size = b.shape[second] if first is None else a.shape[first]
  front = batching.bdim_at_front
  return front(a, first, size), front(b, second, size)


def _transposes(forward, to_input, to_kernel):
  """Each is linear in both operands; its transposes are the other two."""
  ad.defbilinear(
    forward,
    lambda u, x, kernel, **params: to_input.bind(u, kernel, **params),
    lambda u, x, kernel, **params: to_kernel.bind(x, u, **params),
  )
  ad.defbilinear(
    to_input,
    lambda u, g, kernel, **params: forward.bind(u, kernel, **params),
    lambda u, g, kernel, **params: to_kernel.bind(u, g, **params),
  )
  ad.defbilinear(
    to_kernel,
    lambda u, x, g, **params: to_input.bind(g, u, **params),
    lambda u, x, g, **params: forward.bind(x, u, **params),
  )


# --- dense -------------------------------------------------------------------


def _contract(a, b, left, right):
  """Sums over axis `left` of a and `right` of b, both counted from the end."""
  along = tuple(range(a.ndim - 2))
  axes = ((a.ndim + left,), (b.ndim + right,))
  return jax.lax.dot_general(a, b, (axes, (along, along)))


_dense_kernel = functools.partial(_contract, left=-2, right=-2)


def _dense_kernel_on_cpu(x, g):
  """Transposes x first; the barrier keeps the compiler from undoing it.

  With few rows this takes half the time of a product that contracts the rows.
  """
  if min(x.shape[-1], g.shape[-1]) == 1:
    return _dense_kernel(x, g)
  return _contract(jax.lax.optimization_barrier(x.mT), g, -1, -2)


def _dense_primitive(name, function, on_cpu, rows_first=True):
  """A product of [*B, m, n] arrays that agree in B.

  `rows_first`: it treats every row of the first array alike, so that tasks that
  share the second array are just more rows.
  """

  def shape(a, b):
    arrays = [jax.ShapeDtypeStruct(s, jnp.float32) for s in (a, b)]
    return jax.eval_shape(function, *arrays).shape

  def batch(primitive, a, b, first, second, params):
    if not rows_first or second is not None:
      return primitive.bind(*_both_mapped(a, b, first, second), **params), 0
    a = jnp.moveaxis(a, first, -3)
    rows = a.reshape(*a.shape[:-3], math.prod(a.shape[-3:-1]), a.shape[-1])
    out = primitive.bind(rows, b, **params)
    return out.reshape(*a.shape[:-1], out.shape[-1]), out.ndim - 2

  return _primitive(name, shape, on_cpu, function, batch)


_dense = functools.partial(_contract, left=-1, right=-2)
_dense_p = _dense_primitive('dense', _dense, _dense)
_dense_input = functools.partial(_contract, left=-1, right=-1)
_dense_input_p = _dense_primitive('dense_input', _dense_input, _dense_input)
_dense_kernel_p = _dense_primitive(
  'dense_kernel', _dense_kernel, _dense_kernel_on_cpu, rows_first=False
)

_transposes(_dense_p, _dense_input_p, _dense_kernel_p)


# --- convolution -------------------------------------------------------------


class Window(NamedTuple):
  """Where the taps of a convolution lie; tuples have an entry per axis."""

  sizes: tuple[int, ...]  # of the input
  taps: tuple[int, ...]
  stride: int
  pads: tuple[tuple[int, int], ...]  # zeros before and after

  @property
  def outs(self) -> tuple[int, ...]:
    """The sizes of the output."""
    axes = zip(self.sizes, self.taps, self.pads, strict=True)
    return tuple((s + sum(pad) - t) // self.stride + 1 for s, t, pad in axes)


def same(sizes, taps, stride=1) -> Window:
  """Padding 'SAME': ceil(size / stride) outputs."""
  pads = []
  for size, tap in zip(sizes, taps, strict=True):
    spare = max((-(-size // stride) - 1) * stride + tap - size, 0)
    pads.append((spare // 2, spare - spare // 2))
  return Window(tuple(sizes), tuple(taps), stride, tuple(pads))


def gather(x, window):
  """[N, *S, C] -> [N, *P, T C]: the inputs under every tap.

  Samples of one stride of the last axis first become neighbouring channels,
  which is free, so that contiguous memory is copied.
  """
  outs, stride, channels = window.outs, window.stride, x.shape[-1]
  *others, (low, high) = window.pads
  more = -(x.shape[-2] + low + high) % stride
  x = jnp.pad(x, ((0, 0), *others, (low, high + more), (0, 0)))
  x = x.reshape(*x.shape[:-2], -1, stride * channels)
  *first_taps, last_taps = window.taps
  parts = []
  for place in itertools.product(*map(range, first_taps)):
    starts = zip(place, outs, strict=False)
    rows = [slice(p, p + (o - 1) * stride + 1, stride) for p, o in starts]
    for first in range(0, last_taps, stride):
      group = min(stride, last_taps - first) * channels
      last = slice(first // stride, first // stride + outs[-1])
      parts.append(x[:, *rows, last, :group])
  return jnp.concatenate(parts, -1)


def _xla(x, kernel, strides, pads, dilation=None):
  space = 'DHW'[2 - kernel.ndim :]
  return jax.lax.conv_general_dilated(
    x, kernel, strides, pads, lhs_dilation=dilation,
    dimension_numbers=(f'N{space}C', f'{space}IO', f'N{space}C'),
  )  # fmt: skip


def _turned(kernel):
  """[*T, C, O] -> [*T, O, C], the taps in reverse."""
  return jnp.flip(kernel, tuple(range(kernel.ndim - 2))).swapaxes(-1, -2)


def _gathered(x, kernel, window):
  columns = gather(x, window)
  outputs = kernel.shape[-1]
  flat = columns.reshape(-1, columns.shape[-1]) @ kernel.reshape(-1, outputs)
  return flat.reshape(*columns.shape[:-1], outputs)


def _gathered_kernel(x, g, window):
  columns = gather(x, window)
  flat = columns.reshape(-1, columns.shape[-1])
  g = g.reshape(len(flat), -1)
  if flat.shape[1] <= g.shape[1]:
    kernel = _dense_kernel(flat, g)
  else:
    # The narrow operand first is nearly twice as fast on a CPU; the barrier
    # keeps the compiler from swapping them back.
    kernel = jax.lax.optimization_barrier(_dense_kernel(g, flat)).T
  return kernel.reshape(*window.taps, x.shape[-1], g.shape[-1])


def _spread_input(g, kernel, window):
  """[N, *P, O] -> [N, *S, C]: every output handed back to its taps."""
  sizes, taps, stride, pads = window
  around = [
    (tap - 1 - low, size + low - (out - 1) * stride - 1)
    for size, out, tap, (low, _) in zip(
      sizes, window.outs, taps, pads, strict=True
    )
  ]
  ones = (1,) * len(sizes)
  return _xla(g, _turned(kernel), ones, around, (stride,) * len(sizes))


def _gathered_input(g, kernel, window):
  """The same in products alone: XLA has slow grouped convolutions elsewhere."""
  if window.stride == 1:
    return _gathered(g, _turned(kernel), _back(window))
  outputs = kernel.shape[-1]
  columns = g.reshape(-1, outputs) @ kernel.reshape(-1, outputs).T
  columns = columns.reshape(*g.shape[:-1], -1)
  shape = (len(g), *window.sizes, kernel.shape[-2])
  like = jax.ShapeDtypeStruct(shape, columns.dtype)
  return jax.linear_transpose(lambda x: gather(x, window), like)(columns)[0]


def _back(window):
  """The window of the outputs under every input, where the stride is 1."""
  axes = zip(window.taps, window.pads, strict=True)
  around = tuple((t - 1 - low, t - 1 - high) for t, (low, high) in axes)
  return Window(window.outs, window.taps, 1, around)


def _conv_on_cpu(x, kernel, window):
  if x.shape[-1] >= devices.TUNING[_CPU].gather_channels:
    strides = (window.stride,) * len(window.taps)
    return _xla(x, kernel, strides, window.pads)
  one = lambda x: _gathered(x, kernel, window)
  rows = _rows(x.shape, window)
  if rows == len(x):
    return one(x)
  y = jax.lax.map(one, _blocks(x, rows))
  return y.reshape(len(x), *y.shape[2:])


def _input_on_cpu(g, kernel, window):
  if window.stride > 1:
    return _spread_input(g, kernel, window)
  return _conv_on_cpu(g, _turned(kernel), _back(window))


def _kernel_on_cpu(x, g, window):
  one = lambda x, g: _gathered_kernel(x, g, window)
  rows = _rows(x.shape, window)
  if rows == len(x):
    return one(x, g)
  zero = jnp.zeros((*window.taps, x.shape[-1], g.shape[-1]), x.dtype)
  add = lambda total, b: (total + one(*b), None)
  return jax.lax.scan(add, zero, (_blocks(x, rows), _blocks(g, rows)))[0]


def _blocks(a, rows):
  return a.reshape(len(a) // rows, rows, *a.shape[1:])


def _rows(shape, window):
  """How many rows fit into a block: a divisor of their number."""
  size = math.prod(shape[1:]) * math.prod(window.taps)
  most = devices.TUNING[_CPU].block_elements // size
  return devices.divisor(shape[0], most)


def _conv_primitive(name, shape, on_cpu, elsewhere):
  """A bilinear primitive over operands [B, ...], one pair per task."""

  def task_by_task(a, b, window):
    one = lambda a, b: on_cpu(a, b, window)
    if len(a) == 1:
      return one(a[0], b[0])[None]
    return jax.lax.map(lambda task: one(*task), (a, b))

  def all_at_once(a, b, window):
    return jax.vmap(lambda a, b: elsewhere(a, b, window))(a, b)

  def batch(primitive, a, b, first, second, params):
    a, b = _both_mapped(a, b, first, second)
    join = lambda array: array.reshape(-1, *array.shape[2:])
    out = primitive.bind(join(a), join(b), **params)
    return out.reshape(len(a), -1, *out.shape[1:]), 0

  return _primitive(name, shape, task_by_task, all_at_once, batch)


_conv_p = _conv_primitive(
  'convolution_per_task',
  lambda x, kernel, window: (*x[:2], *window.outs, kernel[-1]),
  _conv_on_cpu,
  _gathered,
)
_conv_input_p = _conv_primitive(
  'convolution_per_task_input',
  lambda g, kernel, window: (*g[:2], *window.sizes, kernel[-2]),
  _input_on_cpu,
  _gathered_input,
)
_conv_kernel_p = _conv_primitive(
  'convolution_per_task_kernel',
  lambda x, g, window: (x[0], *window.taps, x[-1], g[-1]),
  _kernel_on_cpu,
  _gathered_kernel,
)
_transposes(_conv_p, _conv_input_p, _conv_kernel_p)
