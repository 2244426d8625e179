"""A deep residual network on feature vectors.

He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from metaad_jax import base


class Block(nn.Module):
  """[N, width] -> [N, width]: x and a hidden layer of it, added."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (x.shape[-1], x.shape[-1])
    he, zeros = nn.initializers.he_normal(), nn.initializers.zeros
    kernel = self.param('kernel', he, shape)
    bias = self.param('bias', zeros, shape[1:])
    out = self.param('out', nn.initializers.normal(0.1 / x.shape[-1]), shape)
    return x + nn.relu(nn.relu(x) @ kernel + bias) @ out


class Residual(nn.Module):
  """[N, F] -> [N, outputs]; padded columns ignored."""

  width: int
  blocks: int
  remat: bool
  outputs: int

  @nn.compact
  def __call__(self, x: jax.Array, features: jax.Array) -> jax.Array:
    x = jnp.where(features > 0, x, 0).reshape(x.shape[0], -1)
    x = nn.Dense(self.width)(x)
    block = nn.remat(Block) if self.remat else Block
    for i in range(self.blocks):
      x = block(name=f'Block_{i}')(x)
    return nn.Dense(self.outputs)(x)


def residual(*, width: int = 64, blocks: int = 4, remat: bool = False):
  """`blocks` residual blocks; `remat` computes them anew on the way back."""
  if width < 1 or blocks < 1:
    raise base.DataError(
      f'residual: width={width}, blocks={blocks} make no network: use 1 or more'
    )
  return lambda outputs: Residual(width, blocks, remat, outputs)
