"""The network of few-shot image classification: four convolutions.

Vinyals et al., "Matching Networks for One Shot Learning", NeurIPS 2016,
arXiv 1606.04080; in MAML's form, arXiv 1703.03400.
"""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from metaad_jax import base
from metaad_jax.models import convolution

_EPSILON = 1e-5
_NARROW = 16  # inputs to a place up to which their moments are cheap
_BLOCK = 1 << 18  # elements of the output before pooling, on the CPU


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
    if 9 * x.shape[-1] <= _NARROW:
      return _narrow(x, kernel, bias, scale, offset)
    x = convolution.convolve(x, kernel) + bias
    mean = x.mean((0, 1, 2))
    variance = ((x - mean) ** 2).mean((0, 1, 2))
    factor = scale * jax.lax.rsqrt(variance + _EPSILON)
    return nn.relu(convolution.max_pool((x - mean) * factor + offset))


def _narrow(x, kernel, bias, scale, offset):
  """The block where few inputs meet in a place.

  Mean and variance of the outputs follow from those of the inputs, so that the
  normalisation can go into the kernel, and the outputs, many times larger than
  the inputs, are pooled while they are in the cache.
  """
  columns = convolution.gather(x, (3, 3), 1, ((1, 1), (1, 1)))
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
    return nn.relu(convolution.max_pool(y))

  rows = len(columns)
  if jax.default_backend() == 'cpu':
    size = columns[0, ..., 0].size * weights.shape[-1]
    rows = convolution.divisor(rows, _BLOCK // size)
  if rows == len(columns):
    return pooled(columns, weights, offset)
  pooled = jax.checkpoint(pooled)
  blocks = columns.reshape(-1, rows, *columns.shape[1:])
  y = jax.lax.map(lambda b: pooled(b, weights, offset), blocks)
  return y.reshape(-1, *y.shape[2:])


class Conv4(nn.Module):
  """[N, H, W, C] -> [N, outputs]."""

  channels: int
  outputs: int

  @nn.compact
  def __call__(self, x: jax.Array, features: jax.Array) -> jax.Array:
    if x.ndim != 4:
      raise base.DataError(
        f'conv4 needs images [H, W, C], not rows {x.shape[1:]}: use the mlp, '
        'or a source of images'
      )
    x = jnp.where(features > 0, x, 0)
    for _ in range(4):
      x = Block(self.channels)(x)
    return nn.Dense(self.outputs)(x.reshape(len(x), -1))


def conv4(*, channels: int = 64):
  """See `Conv4`."""
  if channels < 1:
    raise base.DataError('conv4: channels must be at least 1')
  return functools.partial(Conv4, channels)
