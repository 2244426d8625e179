"""Networks: the convolution against Flax's, and columns that are padding."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from metaad_jax import models
from metaad_jax.base import DataError
from metaad_jax.models import convolution, mlp

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
  ('length', 'taps', 'stride', 'channels'),
  [(16, 3, 1, 2), (17, 7, 2, 1), (16, 4, 3, 2), (9, 2, 5, 3), (5, 7, 2, 1)],
)
def test_conv_is_flax_conv_with_all_its_derivatives(
  length, taps, stride, channels
):
  with jax.enable_x64(True):
    x = jnp.asarray(RNG.normal(size=(3, length, channels)))
    own = convolution.Conv(4, (taps,), stride)
    flax = nn.Conv(
      4, (taps,), (stride,), padding='SAME', param_dtype=jnp.float64
    )
    params = {
      'params': {
        'kernel': jnp.asarray(RNG.normal(size=(taps, channels, 4))),
        'bias': jnp.asarray(RNG.normal(size=4)),
      }
    }
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    made = jax.eval_shape(own.init, jax.random.key(0), x)
    theirs = jax.eval_shape(flax.init, jax.random.key(0), x)
    assert shapes(made) == shapes(theirs) == shapes(params)
    way = jax.tree.map(lambda leaf: jnp.cos(leaf + 1), (params, x))

    @jax.jit
    def derivatives(params, x):
      def all_of(network):
        def loss(params, x):
          return jnp.sin(network.apply(params, x)).sum()

        grads = jax.grad(loss, (0, 1))
        return (
          network.apply(params, x),
          grads(params, x),
          jax.jvp(grads, (params, x), way)[1],
        )

      return all_of(own), all_of(flax)

    found, expected = derivatives(params, x)
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('text', ['mlp:width=5,depth=2', 'mlp:depth=0'])
def test_mlp_ignores_padded_columns(text):
  network = models.make(text)(3)
  x = jnp.asarray(RNG.normal(size=(4, 6)), jnp.float32)
  features = jnp.array([1.0, 0, 1, 1, 0, 1])
  params = network.init(jax.random.key(0), x, features)
  score = jax.jit(
    lambda x: (
      network.apply(params, x, features),
      jax.jacobian(lambda x: network.apply(params, x, features))(x),
    )
  )
  found, slope = score(x)
  assert found.shape == (4, 3)
  for junk in (7.0, jnp.nan, jnp.inf):
    np.testing.assert_array_equal(score(x.at[:, 1].set(junk))[0], found)
  moved = np.abs(slope).sum((0, 1, 2))
  assert (moved[features == 1] > 0).all() and not moved[features == 0].any()


@pytest.mark.parametrize('text', ['mlp:width=4', 'conv1d:channels=3,layers=2'])
def test_windows_of_several_channels_and_padded_ones(text):
  network = models.make(text)(1)
  x = jnp.asarray(RNG.normal(size=(2, 12, 3)), jnp.float32)
  features = jnp.array([1.0, 0, 1])
  params = network.init(jax.random.key(0), x, features)
  score = jax.jit(lambda x: network.apply(params, x, features))
  found = score(x)
  assert found.shape == (2, 1)
  np.testing.assert_array_equal(score(x.at[..., 1].set(jnp.nan)), found)
  assert (score(x.at[:, 5, 2].add(1.0)) != found).all()


def test_conv1d_hears_impulses_and_levels_and_survives_silence():
  network = models.make('conv1d:channels=8,layers=1')(1)
  x = jnp.zeros((3, 64, 1)).at[1, 20].set(5.0).at[2].set(1.0)
  params = network.init(jax.random.key(0), x, jnp.ones(1))
  scores, grads = jax.jit(
    jax.value_and_grad(
      lambda p: network.apply(p, x, jnp.ones(1))[:, 0].sum(), has_aux=False
    )
  )(params)
  assert np.isfinite(scores)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
  silent, impulse, level = network.apply(params, x, jnp.ones(1))[:, 0]
  assert abs(silent - impulse) > 1e-3 and abs(silent - level) > 1e-3


def test_conv1d_without_spread_sees_the_mean_alone():
  """One tap of one channel: the same mean is the same output."""
  x = jnp.zeros((2, 8, 1)).at[0, 3].set(8.0).at[1].set(1.0)
  for spread in (True, False):
    network = models.make(f'conv1d:layers=1,taps=1,stride=1,spread={spread}')(1)
    params = network.init(jax.random.key(0), x, jnp.ones(1))
    impulse, level = network.apply(params, x, jnp.ones(1))[:, 0]
    assert (abs(impulse - level) > 1e-3) == spread


def test_mlp_by_hand():
  network = mlp.MLP((2,), 1)
  params = {
    'params': {
      'Dense_0': {
        'kernel': jnp.array([[1.0, -1.0], [2.0, 0.0]]),
        'bias': jnp.array([0.0, 1.0]),
      },
      'Dense_1': {'kernel': jnp.array([[3.0], [10.0]]), 'bias': jnp.ones(1)},
    }
  }
  found = network.apply(params, jnp.array([[2.0, 1.0]]), jnp.ones(2))
  assert found == 3 * (2 + 2) + 10 * 0 + 1


def test_the_papers_initialisation_is_cut_at_two_deviations():
  network = models.make('mlp:width=400,depth=2,stddev=0.01')(1)
  x = jnp.zeros((1, 400))
  params = network.init(jax.random.key(0), x, jnp.ones(400))
  hidden = params['params']['Dense_1']['kernel']
  cut = stats.truncnorm(-2, 2, scale=0.01)
  np.testing.assert_allclose(hidden.std(), cut.std(), rtol=0.02)
  assert 0.0199 < abs(hidden).max() <= 0.02


@pytest.mark.parametrize(
  'text',
  ['mlp:width=0', 'mlp:depth=-1', 'conv1d:taps=0', 'conv1d:stride=0']
  + ['resnet', 'mlp:hidden=3', 'conv1d:channels=x'],
)
def test_impossible_models_are_refused(text):
  with pytest.raises(DataError):
    models.make(text)


def test_conv1d_on_rows_says_what_to_do():
  with pytest.raises(DataError, match='--features=raw'):
    models.make('conv1d')(1).init(
      jax.random.key(0), jnp.zeros((2, 5)), jnp.ones(5)
    )
