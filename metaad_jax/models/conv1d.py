"""A 1-D convolutional network on raw windows.

Under `vmap` over tasks with per-task weights XLA turns `nn.Conv` into a grouped
convolution, which the CPU backend runs 16 to 60 times slower than a matrix
product; `Conv` therefore gathers its taps and multiplies.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from metaad_jax import base


class Conv(nn.Module):
  """The same numbers and parameters as `nn.Conv` in one dimension.

  [N, L, C] -> [N, ceil(L / stride), channels], padding 'SAME'.
  """

  channels: int
  taps: int
  stride: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    rows, length, inputs = x.shape
    kernel = self.param(
      'kernel',
      nn.initializers.he_normal(),
      (self.taps, inputs, self.channels),
    )
    bias = self.param('bias', nn.initializers.zeros, (self.channels,))
    out = -(-length // self.stride)
    pad = max((out - 1) * self.stride + self.taps - length, 0)
    x = jnp.pad(x, ((0, 0), (pad // 2, pad - pad // 2), (0, 0)))
    span = self.stride * (out - 1) + 1
    columns = jnp.concatenate(
      [x[:, t : t + span : self.stride] for t in range(self.taps)], -1
    )
    product = columns.reshape(rows * out, -1) @ kernel.reshape(
      -1, self.channels
    )
    return product.reshape(rows, out, self.channels) + bias


class Conv1D(nn.Module):
  """[N, L, C] -> [N, outputs]: strided convolutions, pooled over time.

  Mean and spread of every channel over time are kept: an impulsive fault shows
  in the spread, a shifted level in the mean. `spread` off keeps the mean alone,
  as the networks do that the benchmarks compare with.
  """

  channels: int
  layers: int
  taps: int
  stride: int
  outputs: int
  spread: bool = True

  @nn.compact
  def __call__(self, x: jax.Array, features: jax.Array) -> jax.Array:
    if x.ndim != 3:
      raise base.DataError(
        f'conv1d needs windows [L, C], not rows {x.shape[1:]}: use '
        '--features=raw, or --model=mlp'
      )
    x = jnp.where(features > 0, x, 0)
    for _ in range(self.layers):
      x = nn.relu(Conv(self.channels, self.taps, self.stride)(x))
    pooled = mean = x.mean(1)
    if self.spread:
      spread = jnp.sqrt(((x - mean[:, None]) ** 2).mean(1) + 1e-6)
      pooled = jnp.concatenate([mean, spread], -1)
    return nn.Dense(self.outputs)(pooled)


def conv1d(
  *,
  channels: int = 32,
  layers: int = 3,
  taps: int = 7,
  stride: int = 2,
  spread: bool = True,
):
  """See `Conv1D`."""
  if min(channels, layers, taps, stride) < 1:
    raise base.DataError('conv1d: every option must be at least 1')
  return lambda outputs: Conv1D(channels, layers, taps, stride, outputs, spread)
