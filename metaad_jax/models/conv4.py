"""The network of few-shot image classification: four convolutions.

Its batch normalisation looks at all the rows at once, padded ones too: it is
for episodes without any (see `data.classes`).

Vinyals et al., "Matching Networks for One Shot Learning", NeurIPS 2016,
arXiv 1606.04080; in MAML's form, arXiv 1703.03400.
"""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from metaad_jax import base, devices
from metaad_jax.models import per_task_ops

_EPSILON = 1e-5
_SHARE = 4  # of a block of gathered taps that outputs before pooling may take


class Block(nn.Module):
  """Convolution 3x3, batch normalisation, ReLU, max-pooling 2x2.

  [N, H, W, C] -> [N, H // 2, W // 2, channels]. The rows at hand are the batch
  of the normalisation, support and query alike (transductive, as is usual with
  MAML); there are no running statistics.
  """

  channels: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    zeros, ones = nn.initializers.zeros, nn.initializers.ones
    shape = (3, 3, x.shape[-1], self.channels)
    kernel = self.param('kernel', nn.initializers.he_normal(), shape)
    bias = self.param('bias', zeros, (self.channels,))
    scale = self.param('scale', ones, (self.channels,))
    offset = self.param('offset', zeros, (self.channels,))
    if 9 * x.shape[-1] <= devices.tuning().moments:
      return _narrow(x, kernel, bias, scale, offset)
    x = per_task_ops.convolve(x, kernel) + bias
    mean = x.mean((0, 1, 2))
    variance = ((x - mean) ** 2).mean((0, 1, 2))
    factor = scale * jax.lax.rsqrt(variance + _EPSILON)
    return nn.relu(max_pool((x - mean) * factor + offset))


def _narrow(x, kernel, bias, scale, offset):
  """The block where few inputs meet in a place.

  Mean and variance of the outputs follow from those of the inputs, so that the
  normalisation can go into the kernel, and the outputs, many times larger than
  the inputs, are pooled while they are in the cache.
  """
  columns = per_task_ops.gather(x, per_task_ops.same(x.shape[1:-1], (3, 3)))
  flat = columns.reshape(-1, columns.shape[-1])
  weights = kernel.reshape(-1, kernel.shape[-1])
  centre = flat.mean(0)
  spread = flat - centre
  covariance = spread.T @ spread / len(flat)
  variance = (weights * (covariance @ weights)).sum(0)
  factor = scale * jax.lax.rsqrt(variance + _EPSILON)
  mean = centre @ weights + bias
  weights, offset = weights * factor, offset + (bias - mean) * factor

  def pooled(columns, weights, offset):
    flat = columns.reshape(-1, columns.shape[-1]) @ weights + offset
    y = flat.reshape(*columns.shape[:-1], -1)
    return nn.relu(max_pool(y))

  size = columns[0, ..., 0].size * weights.shape[-1]
  block = devices.tuning().block_elements // _SHARE
  rows = devices.divisor(len(columns), block // size)
  if rows == len(columns):
    return pooled(columns, weights, offset)
  pooled = jax.checkpoint(pooled)
  blocks = columns.reshape(-1, rows, *columns.shape[1:])
  y = jax.lax.map(lambda b: pooled(b, weights, offset), blocks)
  return y.reshape(-1, *y.shape[2:])


def max_pool(x: jax.Array) -> jax.Array:
  """Maxima of pairs along every spatial axis: `nn.max_pool` of window 2.

  A tie is shared evenly. Pairwise maxima are fast and right; `x.max` over the
  window is not: behind a batch normalisation and a ReLU, XLA's CPU backend
  (jaxlib 0.10) compiles its gradient wrongly, by 20 % to 70 % and differently
  from one compilation to the next. The fault is in its fusion of the comparison
  with the maximum: it is gone at `xla_backend_optimization_level=0` and with
  `xla_cpu_use_fusion_emitters=false`.

  [N, *S, C] -> [N, *(S // 2), C]; an odd last place of an axis is left out.
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


class Conv4(nn.Module):
  """[N, H, W] or [N, H, W, C] -> [N, outputs]."""

  channels: int
  layers: int
  outputs: int
  together = True  # see `base.Model`

  @nn.compact
  def __call__(self, x: jax.Array, features: jax.Array) -> jax.Array:
    if x.ndim not in (3, 4):
      raise base.DataError(
        f'conv4 needs images [H, W] or [H, W, C], not rows {x.shape[1:]}: use '
        'the mlp, or a source of images'
      )
    x = jnp.where(features > 0, x, 0)
    x = x if x.ndim == 4 else x[..., None]
    for _ in range(self.layers):
      x = Block(self.channels)(x)
    return nn.Dense(self.outputs)(x.reshape(len(x), -1))


def conv4(*, channels: int = 64, layers: int = 4):
  """See `Conv4`."""
  if min(channels, layers) < 1:
    raise base.DataError('conv4: channels and layers must be at least 1')
  return functools.partial(Conv4, channels, layers)
