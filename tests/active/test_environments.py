"""Gymnasium's and Stable-Baselines3's checkers; many are single ones."""

import fast
import jax
import numpy as np
from numpy.testing import assert_allclose
import pytest

from metaad_jax.active import fault_watch

gymnasium = pytest.importorskip('gymnasium')
NAMES = ['metaad/AnomalyHunt-v0', 'metaad/FaultWatch-v0']
STEP = fast.jit(fault_watch.step)
RESET = fast.jit(fault_watch.reset)
MANY = fast.jit(jax.vmap(fault_watch.step, (0, 0, None, None)))


@pytest.mark.parametrize('name', NAMES)
def test_gymnasiums_checker_passes(name):
  from gymnasium.utils.env_checker import check_env

  check_env(gymnasium.make(name).unwrapped)


@pytest.mark.parametrize('name', NAMES)
def test_stable_baselines_checker_passes(name):
  checker = pytest.importorskip('stable_baselines3.common.env_checker')
  checker.check_env(gymnasium.make(name).unwrapped)


def test_many_at_once_begin_anew():
  env = gymnasium.make_vec(NAMES[0], num_envs=3)
  first, _ = env.reset(seed=0)
  ended = np.zeros(3, bool)
  for _ in range(41):
    seen, reward, over, cut, _ = env.step(env.action_space.sample())
    assert not reward[ended].any() and not over[ended].any()
    assert env.observation_space.contains(seen) and not cut.any()
    ended = over
  assert_allclose(first, env.reset(seed=0)[0])
  env.close()


def watch(**changes):
  _, state = RESET(jax.random.key(0), fault_watch.Params())
  return state._replace(**{k: np.int32(v) for k, v in changes.items()})


@pytest.mark.parametrize(
  'time, action, reward, done',
  [
    (4, 0, 0, False),
    (4, 1, -0.5, False),
    (5, 0, -0.1, False),
    (5, 1, 1, True),
    (fault_watch.STEPS - 1, 0, -0.1, True),
  ],
)
def test_delay_against_false_alarms(time, action, reward, done):
  state = watch(onset=5, time=time)
  params = fault_watch.Params()
  _, state, got, over, _ = STEP(jax.random.key(1), state, action, params)
  assert_allclose(got, reward)
  assert bool(over) == done
  assert int(state.alarms) == (reward == -0.5)


def test_a_fault_shows_and_grows():
  params = fault_watch.Params()
  keys = jax.random.split(jax.random.key(2), 64)
  _, states = fast.jit(jax.vmap(fault_watch.reset, (0, None)))(keys, params)

  def size(time, onset):
    some = states._replace(
      time=np.full(64, time, np.int32), onset=np.full(64, onset, np.int32)
    )
    return float(np.abs(MANY(keys, some, 0, params)[1].now).mean())

  assert size(30, 80) < size(30, 28) < size(30, 5)
