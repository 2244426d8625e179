"""A deep residual network on feature vectors.

He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from metaad_jax import base, devices


class Residual(nn.Module):
  """[N, F] -> [N, outputs]; padded columns ignored.

  A block adds a hidden layer of x to x. The weights of all blocks are stacked
  and scanned over: compiled once, and what `remat` says is computed anew is.
  """

  width: int
  blocks: int
  remat: bool
  outputs: int

  @nn.compact
  def __call__(self, x: jax.Array, features: jax.Array) -> jax.Array:
    x = jnp.where(features > 0, x, 0).reshape(x.shape[0], -1)
    x = nn.Dense(self.width)(x)
    shape = (self.blocks, self.width, self.width)
    weights = {
      'kernel': self.param(
        'kernel', nn.initializers.he_normal(batch_axis=0), shape
      ),
      'bias': self.param('bias', nn.initializers.zeros, shape[:2]),
      'out': self.param('out', nn.initializers.normal(0.1 / self.width), shape),
    }
    step = jax.checkpoint(_block, prevent_cse=False) if self.remat else _block
    unroll = not self.remat and self.blocks <= devices.tuning().unroll_layers
    x, _ = jax.lax.scan(step, x, weights, unroll=unroll)
    return nn.Dense(self.outputs)(x)


def _block(x, weights):
  hidden = nn.relu(nn.relu(x) @ weights['kernel'] + weights['bias'])
  return x + hidden @ weights['out'], None


def residual(*, width: int = 64, blocks: int = 4, remat: bool = False):
  """`blocks` residual blocks; `remat` computes them anew on the way back."""
  if width < 1 or blocks < 1:
    raise base.DataError(
      f'residual: width={width}, blocks={blocks} make no network: use 1 or more'
    )
  return lambda outputs: Residual(width, blocks, remat, outputs)
