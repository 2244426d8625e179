"""Networks: what they ignore, what they respond to, where they start."""

import fast
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from metaad_jax import models
from metaad_jax.base import DataError, Rows, Task
from metaad_jax.models import mlp

RNG = np.random.default_rng(0)


def start(text, x, features, outputs=1):
  """The parameters of a new model, and (params, x) -> outputs."""
  model = models.make(text)(outputs)
  rows = Rows(x, jnp.zeros(len(x)), jnp.ones(len(x)))
  params = model.init(jax.random.key(0), Task(rows, rows, features))

  def apply(params, x):
    context = model.summarise(params, model.read(rows, features))
    return model.apply(params, context, x)

  return params, apply


@pytest.mark.parametrize(
  'text', ['mlp:width=5,depth=2', 'mlp:depth=0', 'residual:width=5,blocks=2']
)
def test_padded_columns_are_ignored(text):
  x = jnp.asarray(RNG.normal(size=(4, 6)), jnp.float32)
  features = jnp.array([1.0, 0, 1, 1, 0, 1])
  params, apply = start(text, x, features, 3)
  run = lambda x: apply(params, x)
  score = fast.jit(lambda x: (run(x), jax.jacobian(run)(x)))
  scores, slope = score(x)
  assert scores.shape == (4, 3)
  for junk in (7.0, jnp.nan, jnp.inf):
    np.testing.assert_array_equal(score(x.at[:, 1].set(junk))[0], scores)
  moved = np.abs(slope).sum((0, 1, 2))
  assert (moved[features == 1] > 0).all() and not moved[features == 0].any()


@pytest.mark.parametrize('text', ['mlp:width=4', 'conv1d:channels=3,layers=2'])
def test_windows_of_several_channels_and_padded_ones(text):
  x = jnp.asarray(RNG.normal(size=(2, 12, 3)), jnp.float32)
  params, apply = start(text, x, jnp.array([1.0, 0, 1]))
  score = fast.jit(lambda x: apply(params, x))
  scores = score(x)
  assert scores.shape == (2, 1)
  np.testing.assert_array_equal(score(x.at[..., 1].set(jnp.nan)), scores)
  assert (score(x.at[:, 5, 2].add(1.0)) != scores).all()


def test_the_support_is_scored_row_by_row():
  """A network of rows gives the support the outputs it gives any rows."""
  x = jnp.asarray(RNG.normal(size=(3, 2)), jnp.float32)
  rows = Rows(x, jnp.array([0.0, 1, 0]), jnp.array([1.0, 1, 0]))
  params, apply = start('mlp:width=3,depth=1', x, jnp.ones(2))
  model = models.make('mlp:width=3,depth=1')(1)
  support = model.support(params, model.read(rows, jnp.ones(2)))
  np.testing.assert_allclose(support.x, apply(params, x), rtol=1e-6)
  assert support.y is rows.y and support.mask is rows.mask


def test_conv1d_survives_silence():
  x = jnp.zeros((1, 64, 1))
  params, apply = start('conv1d:channels=8,layers=1', x, jnp.ones(1))
  grads = fast.jit(jax.grad(lambda p: apply(p, x).sum()))(params)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize('spread', [True, False])
def test_conv1d_by_hand(spread):
  """One tap of weight 2: samples 1, 3, 1, 3 have mean 4 and spread 2."""
  x = jnp.array([1.0, 3, 1, 3])[None, :, None]
  text = f'conv1d:channels=1,layers=1,taps=1,stride=1,spread={spread}'
  _, apply = start(text, x, jnp.ones(1))
  params = {'Conv_0': dense([[[2.0]]], [0.0])}
  params['Dense_0'] = dense([[1.0], [10.0]][: 1 + spread], [0.5])
  output = apply({'params': params}, x)
  np.testing.assert_allclose(output, 4.5 + 20 * spread, rtol=1e-6)


def dense(kernel, bias):
  return {'kernel': jnp.array(kernel), 'bias': jnp.array(bias)}


def test_mlp_by_hand():
  first = dense([[1.0, -1.0], [2.0, 0.0]], [0.0, 1.0])
  params = {'Dense_0': first, 'Dense_1': dense([[3.0], [10.0]], [1.0])}
  apply = mlp.MLP((2,), 1).apply
  output = apply({'params': params}, jnp.array([[2.0, 1.0]]), jnp.ones(2))
  assert output == 3 * (2 + 2) + 10 * 0 + 1


@pytest.mark.parametrize('remat', [False, True])
def test_residual_by_hand(remat):
  """Two blocks of width 1 after x -> 2 x: each adds max(x, 0) w out to x."""
  x = jnp.ones((1, 1))
  _, apply = start(f'residual:width=1,blocks=2,remat={remat}', x, jnp.ones(1))
  params = {
    'Dense_0': dense([[2.0]], [0.0]), 'Dense_1': dense([[10.0]], [0.0]),
    'kernel': jnp.array([[[3.0]], [[1.0]]]), 'bias': jnp.array([[1.0], [0.0]]),
    'out': jnp.array([[[1.0]], [[-0.5]]]),
  }  # fmt: skip
  output = lambda p: apply({'params': p}, x)
  # 2 -> 2 + (3 * 2 + 1) = 9 -> 9 - 9 / 2
  assert output(params) == 10 * 4.5
  slope = jax.grad(lambda p: output(p).sum())(params)
  assert slope['out'].ravel().tolist() == [10 * 7 / 2, 10 * 9]


def test_the_papers_initialisation_is_cut_at_two_deviations():
  text = 'mlp:width=400,depth=2,stddev=0.01'
  params, _ = start(text, jnp.zeros((1, 400)), jnp.ones(400))
  hidden = params['params']['Dense_1']['kernel']
  cut = stats.truncnorm(-2, 2, scale=0.01)
  np.testing.assert_allclose(hidden.std(), cut.std(), rtol=0.02)
  assert 0.0199 < abs(hidden).max() <= 0.02


@pytest.mark.parametrize(
  'text',
  ['mlp:width=0', 'mlp:depth=-1', 'conv1d:taps=0', 'conv1d:stride=0']
  + ['residual:blocks=0', 'tables:heads=0', 'resnet', 'mlp:hidden=3'],
)
def test_impossible_models_are_refused(text):
  with pytest.raises(DataError):
    models.make(text)


def test_conv1d_on_rows_says_what_to_do():
  with pytest.raises(DataError, match='--features=raw'):
    start('conv1d', jnp.zeros((2, 5)), jnp.ones(5))
