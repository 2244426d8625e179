"""Convolution as a bilinear primitive: fast with per-task weights, any order.

Under `vmap` over tasks with per-task weights XLA turns a convolution into a
grouped one, which its CPU backend runs 16 to 60 times slower than matrix
products; the derivatives of a convolution written as gather and product keep
every gathered copy in memory. Here two primitives are transposes of each other
(and of themselves), so derivatives of any order, forward and reverse, are made
of the two; each runs in blocks of rows that stay in the processor's cache.
"""

import functools
import itertools
import math

from flax import linen as nn
import jax
from jax.extend import core
from jax.interpreters import ad, batching, mlir
import jax.numpy as jnp
import numpy as np

_WIDE = 16
_FEW = 8  # channels below which gathering pays
_FAST = 1e7  # products from which on a fast algorithm pays
_BLOCK = 1 << 20  # elements of gathered taps at a time, on the CPU


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
  """The convolution of `nn.Conv` with padding 'SAME' and no bias.

  Args:
    x: [N, *S, C], one, two or three spatial axes.
    kernel: [*T, C, O], as many axes of taps.
    stride: along every spatial axis.

  Returns:
    [N, *ceil(S / stride), O].
  """
  pads = same(x.shape[1:-1], kernel.shape[:-2], stride)
  return _forward_p.bind(x[None], kernel[None], stride=stride, pads=pads)[0]


def same(sizes, taps, stride):
  """The zeros before and after each axis that padding 'SAME' adds."""
  pads = []
  for size, tap in zip(sizes, taps, strict=True):
    spare = max((-(-size // stride) - 1) * stride + tap - size, 0)
    pads.append((spare // 2, spare - spare // 2))
  return tuple(pads)


def max_pool(x: jax.Array) -> jax.Array:
  """Maxima of pairs along every spatial axis: `nn.max_pool` of window 2.

  Made of pairwise maxima, which is fast and right. `x.max` over the window is
  not to be used: behind a batch normalisation and a ReLU, XLA's CPU backend
  (jaxlib 0.10) compiles its gradient wrongly, by 20 % to 70 % and differently
  from one compilation to the next. It is right when run step by step, at
  `xla_backend_optimization_level=0`, without fusion and with
  `xla_cpu_use_fusion_emitters=false`: the fault is in the fusion of the
  comparison with the maximum, neither in pooling nor in JAX's derivative of it.
  A tie is shared evenly.

  Args:
    x: [N, *S, C]; an odd last place of an axis is left out.

  Returns:
    [N, *(S // 2), C].
  """
  for axis in range(1, x.ndim - 1):
    pairs = x.shape[axis] // 2
    x = jax.lax.slice_in_dim(x, 0, 2 * pairs, axis=axis)
    x = x.reshape(*x.shape[:axis], pairs, 2, *x.shape[axis + 1 :])
    even, odd = (
      jax.lax.index_in_dim(x, i, axis + 1, keepdims=False) for i in (0, 1)
    )
    x = jnp.maximum(even, odd)
  return x


def _outs(sizes, taps, stride, pads):
  return tuple(
    (s + low + high - t) // stride + 1
    for s, (low, high), t in zip(sizes, pads, taps, strict=True)
  )


def gather(x, taps, stride, pads):
  """[N, *S, C] -> [N, *P, T C]: the inputs under every tap.

  Along the last spatial axis, steps of a stride are made neighbouring channels
  first, which costs nothing, so that what is copied lies together.
  """
  outs = _outs(x.shape[1:-1], taps, stride, pads)
  channels = x.shape[-1]
  *others, (low, high) = pads
  more = -(x.shape[-2] + low + high) % stride
  x = jnp.pad(x, ((0, 0), *others, (low, high + more), (0, 0)))
  x = x.reshape(*x.shape[:-2], -1, stride * channels)
  parts = []
  for place in itertools.product(*map(range, taps[:-1])):
    window = zip(place, outs, strict=False)
    rows = [slice(p, p + (o - 1) * stride + 1, stride) for p, o in window]
    for first in range(0, taps[-1], stride):
      group = min(stride, taps[-1] - first) * channels
      last = slice(first // stride, first // stride + outs[-1])
      parts.append(x[:, *rows, last, :group])
  return jnp.concatenate(parts, -1)


def _numbers(axes):
  space = 'DHW'[-axes:]
  return f'N{space}C', f'{space}IO', f'N{space}C'


# Toom-Cook (Winograd) convolution of 2 outputs at a time: y = A (G k * B x),
# by number of taps; Lavin and Gray, "Fast Algorithms for Convolutional Neural
# Networks", CVPR 2016. Only points 0, 1, -1 and infinity: as accurate as sums.
_B = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_A = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])


def _fast(y, taps, inputs, stride):
  """Whether fewer products pay for the sums around them; y [N, *P, O]."""
  products = math.prod(y) * math.prod(taps) * inputs
  wide = min(inputs, y[-1]) >= _WIDE and products >= _FAST
  return stride == 1 and set(taps) == {3} and wide


def _mix(matrix, parts, place):
  """The rows of a small matrix times equal arrays, along a new axis."""
  ndim = parts[0].ndim + 1
  column = lambda k: matrix[:, k].reshape([-1] + [1] * (ndim - place - 1))
  terms = (
    jnp.asarray(column(k), part.dtype) * jnp.expand_dims(part, place)
    for k, part in enumerate(parts)
    if matrix[:, k].any()
  )
  return functools.reduce(jnp.add, terms)


def _even(a, sizes):
  """Pads the spatial axes of [N, *S, C] with zeros at their end, to `sizes`."""
  more = [(0, size - s) for size, s in zip(sizes, a.shape[1:-1], strict=True)]
  return jnp.pad(a, ((0, 0), *more, (0, 0)))


def _pairs(a, axis):
  """Every first and every second place along an axis."""
  a = a.reshape(*a.shape[:axis], -1, 2, *a.shape[axis + 1 :])
  return [jax.lax.index_in_dim(a, i, axis + 1, keepdims=False) for i in (0, 1)]


def _input_tiles(x, pads):
  """[N, *S, C] -> [4^axes, N tiles, C]: B x, tiles of 4 that overlap by 2."""
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  x = _even(x, [s + s % 2 for s in x.shape[1:-1]])
  axes, channels = x.ndim - 2, x.shape[-1]
  for done in range(axes):
    axis = 2 * done + 1
    even, odd = _pairs(x, axis)
    early = lambda a: jax.lax.slice_in_dim(a, 0, -1, axis=axis)  # noqa: B023
    late = lambda a: jax.lax.slice_in_dim(a, 1, None, axis=axis)  # noqa: B023
    parts = [early(even), early(odd), late(even), late(odd)]
    x = _mix(_B, parts, done)
  return x.reshape(4**axes, -1, channels)


def _output_tiles(g):
  """[N, *P, O] -> [4^axes, N tiles, O]: A' g, tiles of 2."""
  g = _even(g, [s + s % 2 for s in g.shape[1:-1]])
  axes, outputs = g.ndim - 2, g.shape[-1]
  for done in range(axes):
    parts = _pairs(g, 2 * done + 1)
    g = _mix(_A.T, parts, done)
  return g.reshape(4**axes, -1, outputs)


def _along(matrix, kernel, axes):
  """A small matrix along each of the first axes."""
  for axis in range(axes):
    mixed = jnp.tensordot(jnp.asarray(matrix, kernel.dtype), kernel, (1, axis))
    kernel = jnp.moveaxis(mixed, 0, axis)
  return kernel


def _fast_forward(x, kernel, pads):
  taps, outputs = kernel.shape[:-2], kernel.shape[-1]
  axes, outs = len(taps), _outs(x.shape[1:-1], taps, 1, pads)
  weights = _along(_G, kernel, axes).reshape(4**axes, *kernel.shape[-2:])
  y = jnp.matmul(_input_tiles(x, pads), weights)
  y = y.reshape(*(4,) * axes, len(x), *(-(-o // 2) for o in outs), outputs)
  for _ in range(axes):
    # The first axis mixes into pairs behind the tiles that it belongs to.
    y = _mix(_A, list(y), axes + 1)
    y = y.reshape(*y.shape[:axes], -1, *y.shape[axes + 2 :])
  return y[(slice(None), *(slice(o) for o in outs))]


def _fast_kernel(x, g, taps, pads):
  product = jax.lax.dot_general(
    _input_tiles(x, pads), _output_tiles(g), (((1,), (1,)), ((0,), (0,)))
  )
  product = product.reshape(*(4,) * len(taps), *product.shape[1:])
  return _along(_G.T, product, len(taps))


def _plain_forward(x, kernel, stride, pads):
  taps, outputs = kernel.shape[:-2], kernel.shape[-1]
  columns = gather(x, taps, stride, pads)
  flat = columns.reshape(-1, columns.shape[-1]) @ kernel.reshape(-1, outputs)
  return flat.reshape(*columns.shape[:-1], outputs)


def _plain_kernel(x, g, taps, stride, pads):
  columns = gather(x, taps, stride, pads)
  flat = columns.reshape(-1, columns.shape[-1])
  g = g.reshape(len(flat), -1)
  product = lambda a, b: jax.lax.dot_general(a, b, (((0,), (0,)), ((), ())))
  if flat.shape[1] <= g.shape[1]:
    turned = product(flat, g)
  else:
    # The narrow one first is nearly twice as fast on the CPU as the other way,
    # to which the compiler would turn it back.
    turned = jax.lax.optimization_barrier(product(g, flat)).T
  return turned.reshape(*taps, x.shape[-1], g.shape[-1])


def _plain_input(g, kernel, sizes, stride, pads):
  """[N, *P, O] -> [N, *S, C]: every output handed back to its taps."""
  axes = len(sizes)
  taps = kernel.shape[:axes]
  around = []
  for size, out, tap, (low, _) in zip(
    sizes, g.shape[1:-1], taps, pads, strict=True
  ):
    before = tap - 1 - low
    around.append((before, size + tap - 1 - before - (out - 1) * stride - 1))
  return jax.lax.conv_general_dilated(
    g,
    jnp.flip(kernel, tuple(range(axes))).swapaxes(-1, -2),
    (1,) * axes,
    around,
    lhs_dilation=(stride,) * axes,
    dimension_numbers=_numbers(axes),
  )


def _rows(shape, taps):
  """How many rows fit into a block: a divisor of their number."""
  size = math.prod(shape[1:]) * math.prod(taps)
  return divisor(shape[0], _BLOCK // size)


def divisor(number: int, most: int) -> int:
  """The largest divisor of `number` that is at most `most`, or 1."""
  few = range(min(number, most), 1, -1)
  return next((c for c in few if number % c == 0), 1)


def _blocks(a, rows):
  return a.reshape(len(a) // rows, rows, *a.shape[1:])


def _forward(x, kernel, *, stride, pads):
  taps, (inputs, outputs) = kernel.shape[:-2], kernel.shape[-2:]
  out = (len(x), *_outs(x.shape[1:-1], taps, stride, pads), outputs)
  if _fast(out, taps, inputs, stride):
    one = lambda b: _fast_forward(b, kernel, pads)
  elif inputs < _FEW:
    one = lambda b: _plain_forward(b, kernel, stride, pads)
  else:
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      (stride,) * len(taps),
      pads,
      dimension_numbers=_numbers(len(taps)),
    )
  rows = _rows(x.shape, taps)
  if rows == len(x):
    return one(x)
  y = jax.lax.map(one, _blocks(x, rows))
  return y.reshape(len(x), *y.shape[2:])


def _input(g, kernel, *, sizes, stride, pads):
  if stride > 1:
    return _plain_input(g, kernel, sizes, stride, pads)
  axes = len(sizes)
  around = tuple(
    (t - 1 - low, t - 1 - high)
    for t, (low, high) in zip(kernel.shape[:axes], pads, strict=True)
  )
  turned = jnp.flip(kernel, tuple(range(axes))).swapaxes(-1, -2)
  return _forward(g, turned, stride=1, pads=around)


def _kernel(x, g, *, taps, stride, pads):
  fast = _fast(g.shape, taps, x.shape[-1], stride)
  if fast:
    one = lambda x, g: _fast_kernel(x, g, taps, pads)
  else:
    one = lambda x, g: _plain_kernel(x, g, taps, stride, pads)
  rows = _rows(x.shape, taps)
  if rows == len(x):
    return one(x, g)
  zero = jnp.zeros((*taps, x.shape[-1], g.shape[-1]), x.dtype)
  add = lambda total, b: (total + one(*b), None)
  return jax.lax.scan(add, zero, (_blocks(x, rows), _blocks(g, rows)))[0]


def _task_by_task(function):
  def run(a, b, **params):
    one = functools.partial(function, **params)
    if len(a) == 1:
      return one(a[0], b[0])[None]
    return jax.lax.map(lambda task: one(*task), (a, b))

  return run


def _all_at_once(function):
  def run(a, b, **params):
    return jax.vmap(functools.partial(function, **params))(a, b)

  return run


def _primitive(name, shape, on_cpu, elsewhere):
  """A bilinear primitive over operands [B, ...], one pair per task."""
  primitive = core.Primitive(name)
  primitive.def_impl(
    lambda *args, **params: jax.jit(
      functools.partial(primitive.bind, **params)
    )(*args)
  )
  primitive.def_abstract_eval(
    lambda a, b, **params: jax.core.ShapedArray(
      shape(a.shape, b.shape, **params), a.dtype
    )
  )
  mlir.register_lowering(
    primitive, mlir.lower_fun(_all_at_once(elsewhere), False)
  )
  mlir.register_lowering(
    primitive, mlir.lower_fun(_task_by_task(on_cpu), False), platform='cpu'
  )

  def batch(args, dims, **params):
    size = next(
      a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None
    )
    merged = []
    for a, d in zip(args, dims, strict=True):
      a = (
        jnp.broadcast_to(a, (size, *a.shape))
        if d is None
        else jnp.moveaxis(a, d, 0)
      )
      merged.append(a.reshape(-1, *a.shape[2:]))
    out = primitive.bind(*merged, **params)
    return out.reshape(size, -1, *out.shape[1:]), 0

  batching.primitive_batchers[primitive] = batch
  return primitive


_forward_p = _primitive(
  'convolution_per_task',
  lambda x, k, stride, pads: (
    *x[:2], *_outs(x[2:-1], k[1:-2], stride, pads), k[-1]
  ),
  _forward,
  _plain_forward,
)  # fmt: skip
_input_p = _primitive(
  'convolution_per_task_input',
  lambda g, k, sizes, stride, pads: (*g[:2], *sizes, k[-2]),
  _input,
  _plain_input,
)
_kernel_p = _primitive(
  'convolution_per_task_kernel',
  lambda x, g, taps, stride, pads: (x[0], *taps, x[-1], g[-1]),
  _kernel,
  _plain_kernel,
)


def _sizes(x):
  return x.aval.shape[2:-1]


def _taps(kernel):
  return kernel.aval.shape[1:-2]


# Each is linear in both operands; its transposes are the other two.
ad.defbilinear(
  _forward_p,
  lambda u, x, kernel, **p: _input_p.bind(u, kernel, sizes=_sizes(x), **p),
  lambda u, x, kernel, **p: _kernel_p.bind(x, u, taps=_taps(kernel), **p),
)
ad.defbilinear(
  _input_p,
  lambda u, g, kernel, sizes, **p: _forward_p.bind(u, kernel, **p),
  lambda u, g, kernel, sizes, **p: _kernel_p.bind(
    u, g, taps=_taps(kernel), **p
  ),
)
ad.defbilinear(
  _kernel_p,
  lambda u, x, g, taps, **p: _input_p.bind(g, u, sizes=_sizes(x), **p),
  lambda u, x, g, taps, **p: _forward_p.bind(x, u, **p),
)


class Conv(nn.Module):
  """`nn.Conv` with padding 'SAME': the same numbers and parameters.

  [N, *S, C] -> [N, *ceil(S / stride), channels]; the kernel starts as He et
  al., "Delving Deep into Rectifiers", 2015, has it.
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
