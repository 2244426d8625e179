"""A 1-D convolutional network on raw windows."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from metaad_jax import base
from metaad_jax.models import per_task_ops


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
      layer = per_task_ops.Conv(self.channels, (self.taps,), self.stride)
      x = nn.relu(layer(x))
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
