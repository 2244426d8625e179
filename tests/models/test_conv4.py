"""The network of images is Flax's layers in a row, right when compiled, too."""

import derivatives
import fast
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaad_jax import devices
from metaad_jax.base import DataError
from metaad_jax.models import conv4

RNG = np.random.default_rng(0)


def draw(*shape):
  return jnp.asarray(RNG.normal(size=shape))


def test_pooling_behind_a_normalisation_is_compiled_rightly():
  """As without optimisation, which is right: see `conv4.max_pool`."""
  with jax.enable_x64(True):
    x, scale, weight = draw(5, 7, 7, 64), 1 + 0.1 * draw(64), draw(5, 3, 3, 64)

    def function(x, scale):
      mean = x.mean((0, 1, 2))
      variance = ((x - mean) ** 2).mean((0, 1, 2))
      y = (x - mean) * scale * jax.lax.rsqrt(variance + 1e-5) + 0.1
      return conv4.max_pool(nn.relu(y)) * weight

    run = derivatives.all_of(function, (jnp.cos(x), jnp.sin(scale)))
    actual, expected = (jit(run)(x, scale) for jit in (jax.jit, fast.jit))
    derivatives.close(actual, expected)


def test_max_pool_is_flax_max_pool_and_leaves_an_odd_end_out():
  for shape in ((2, 7, 3), (2, 6, 5, 3)):
    x = draw(*shape)
    two = (2,) * (x.ndim - 2)
    np.testing.assert_array_equal(conv4.max_pool(x), nn.max_pool(x, two, two))


@pytest.mark.parametrize('channels', [1, 3])
def test_a_block_is_flax_layers_in_a_row(channels, monkeypatch):
  blocks = devices.TUNING['cpu']._replace(block_elements=1200)
  monkeypatch.setitem(devices.TUNING, 'cpu', blocks)  # several blocks of rows
  with jax.enable_x64(True):
    x = draw(6, 7, 8, channels)
    names = ('kernel', 'bias', 'scale', 'offset')
    params = draw(3, 3, channels, 4), draw(4), 1 + 0.1 * draw(4), draw(4)

    def ours(*arguments):
      *layers, x = arguments
      layers = dict(zip(names, layers, strict=True))
      return conv4.Block(4).apply({'params': layers}, x)

    def flax(kernel, bias, scale, offset, x):
      conv = nn.Conv(4, (3, 3), param_dtype=jnp.float64)
      y = conv.apply({'params': {'kernel': kernel, 'bias': bias}}, x)
      norm = nn.BatchNorm(
        use_running_average=False, epsilon=1e-5, param_dtype=jnp.float64
      )
      y, _ = norm.apply(
        {'params': {'scale': scale, 'bias': offset}}, y, mutable='batch_stats'
      )
      return nn.max_pool(nn.relu(y), (2, 2), (2, 2))

    way = [jnp.cos(a) for a in (*params, x)]
    actual, expected = (
      fast.jit(derivatives.all_of(function, way))(*params, x)
      for function in (ours, flax)
    )
    derivatives.close(actual, expected, 1e-8)


def test_conv4_needs_images():
  network = conv4.conv4(channels=2, layers=2)(5)
  with pytest.raises(DataError, match='conv4 needs images'):
    network.init(jax.random.key(0), jnp.ones((3, 16)), jnp.ones(16))
  with pytest.raises(DataError, match='channels and layers'):
    conv4.conv4(channels=0)
