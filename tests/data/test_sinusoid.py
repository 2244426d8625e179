"""The regression problem of the MAML paper: its facts; it can be learnt."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from metaad_jax.base import DataError
from metaad_jax.data import registry
from metaad_jax.data.datasets import sinusoid
from metaad_jax.training import loop, runs


def test_amplitudes_phases_and_inputs_are_uniform_as_in_the_paper():
  tasks = jax.jit(jax.vmap(lambda key: sinusoid.sample(key, 5, 3)))(
    jax.random.split(jax.random.key(0), 4000)
  )
  x = np.concatenate([tasks.support.x, tasks.query.x], 1)[..., 0]
  y = np.concatenate([tasks.support.y, tasks.query.y], 1)
  x, y = x.astype(float), y.astype(float)
  assert (tasks.support.mask == 1).all() and (tasks.query.mask == 1).all()
  # A sin(x - p) = A cos(p) sin(x) - A sin(p) cos(x): two least squares each.
  basis = np.stack([np.sin(x), -np.cos(x)], -1)
  weights = np.linalg.pinv(basis) @ y[..., None]
  np.testing.assert_allclose((basis @ weights)[..., 0], y, atol=1e-4)
  amplitude = np.hypot(*weights[..., 0].T)
  phase = np.arctan2(weights[:, 1, 0], weights[:, 0, 0])
  for values, low, high in (
    (amplitude, 0.1, 5.0),
    (phase, 0.0, np.pi),
    (x[:, 0], -5.0, 5.0),
  ):
    assert low - 1e-3 <= values.min() and values.max() <= high + 1e-3
    test = stats.kstest(values, 'uniform', (low, high - low))
    assert test.pvalue > 1e-3
  assert abs(np.corrcoef(amplitude, phase)[0, 1]) < 0.06
  assert abs(np.corrcoef(x[:, 0], x[:, 1])[0, 1]) < 0.06


def test_a_task_is_a_function_of_its_key():
  one, same, other = (
    sinusoid.sample(jax.random.key(k), 4, 6) for k in (1, 1, 2)
  )
  jax.tree.map(np.testing.assert_array_equal, one, same)
  assert not np.isin(one.support.x, other.support.x).any()
  assert not np.isin(one.support.x, one.query.x).any()


def test_there_are_no_entities():
  with pytest.raises(DataError, match='regression problem'):
    registry.load('sinusoid')


def test_a_short_run_adapts_better_than_its_initialisation():
  config = runs.Config(
    source='sinusoid', learner='maml:steps=1,rate=0.01', shots=(10,),
    queries=10, tasks=25, steps=500, outer='adam:rate=0.003', clip=1e6,
    validate_every=500, validation_tasks=8,
  )  # fmt: skip
  state = runs.train(config, quiet=True)
  learner = runs.make_learner(config, None)
  keys = jax.random.split(jax.random.key(9), 300)
  batch = jax.jit(jax.vmap(lambda k: sinusoid.sample(k, 10, 50)))(keys)

  @jax.jit
  def error(params):
    scores = loop.scores_of(learner, jax.random.key(0), params, batch)
    return ((scores - batch.query.y) ** 2).mean()

  example = jax.tree.map(lambda leaf: leaf[0], batch)
  before = error(learner.init(jax.random.key(0), example))
  after = error(state.best)
  constant = ((batch.query.y - batch.support.y.mean(1)[:, None]) ** 2).mean()
  assert after < 0.85 * before and after < 0.85 * constant
  assert jnp.isfinite(after)
