"""A multilayer perceptron on feature vectors."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from metaad_jax import base
from metaad_jax.models.per_task_ops import Dense


class MLP(nn.Module):
  """[N, F] -> [N, outputs]; ReLU layers, padded columns ignored."""

  widths: tuple[int, ...]
  outputs: int
  stddev: float = 0.0  # 0 = He initialisation

  @nn.compact
  def __call__(self, x: jax.Array, features: jax.Array) -> jax.Array:
    if self.stddev:
      kernel = nn.initializers.truncated_normal(self.stddev)
      last = kernel
    else:
      kernel = nn.initializers.he_normal()
      last = nn.initializers.lecun_normal()
    x = jnp.where(features > 0, x, 0).reshape(x.shape[0], -1)
    for width in self.widths:
      x = nn.relu(Dense(width, kernel_init=kernel)(x))
    return Dense(self.outputs, kernel_init=last)(x)


def mlp(*, width: int = 64, depth: int = 2, stddev: float = 0.0):
  """`depth` hidden layers of `width`; see `MLP`."""
  if width < 1 or depth < 0:
    raise base.DataError(
      f'mlp: width={width}, depth={depth} make no network: use width >= 1'
    )
  return lambda outputs: MLP((width,) * depth, outputs, stddev)
