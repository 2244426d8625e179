"""The environments in Gymnasium's form: one hunt, or many on the device.

`import metaad_jax.active` registers them; gymnasium is the extra `active`.
"""

from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
import jax
import jax.numpy as jnp
import numpy as np

from metaad_jax.active import fault_watch, hunt


def _spaces(pure, params):
  """The spaces of observation and action."""
  _, state = jax.eval_shape(pure.reset, jax.random.key(0), params)
  shape = jax.eval_shape(pure.observe, state, params).shape
  box = gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float32)
  return box, gymnasium.spaces.Discrete(pure.actions(params))


class Single(gymnasium.Env):
  """One episode at a time.

  Args:
    pure: a module with `reset`, `step`, `observe` and `actions`.
    params: of the environment.
  """

  metadata: dict[str, Any] = {'render_modes': []}

  def __init__(self, pure: Any, params: Any):
    self.observation_space, self.action_space = _spaces(pure, params)
    self._params, self._state = params, None
    self._reset, self._step = jax.jit(pure.reset), jax.jit(pure.step)

  def _key(self):
    return jax.random.key(self.np_random.integers(2**31))

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    seen, self._state = self._reset(self._key(), self._params)
    return np.asarray(seen), {}

  def step(self, action):
    seen, self._state, reward, done, info = self._step(
      self._key(), self._state, jnp.asarray(action), self._params
    )
    told = {name: np.asarray(value) for name, value in info.items()}
    return np.asarray(seen), float(reward), bool(done), False, told


class Many(VectorEnv):
  """`num_envs` episodes at once, in one compiled program.

  An episode that is over begins anew with the next step, whose action is not
  used (`AutoresetMode.NEXT_STEP`). Arguments as of `Single`.
  """

  def __init__(self, pure: Any, params: Any, num_envs: int = 1):
    box, actions = _spaces(pure, params)
    self.num_envs, self._params = num_envs, params
    self.metadata = {'autoreset_mode': AutoresetMode.NEXT_STEP}
    self.single_observation_space, self.single_action_space = box, actions
    self.observation_space = batch_space(box, num_envs)
    self.action_space = batch_space(actions, num_envs)
    self._reset = jax.jit(jax.vmap(pure.reset, (0, None)))

    def one(key, state, action, over, params):
      fresh = (*pure.reset(key, params), jnp.float32(0), False)
      *went, info = pure.step(key, state, action, params)
      return jax.tree.map(
        lambda a, b: jnp.where(over, a, b), fresh, (*went,)
      ), {name: jnp.where(over, 0, value) for name, value in info.items()}

    self._step = jax.jit(jax.vmap(one, (0, 0, 0, 0, None)))

  def _keys(self):
    key = jax.random.key(self.np_random.integers(2**31))
    return jax.random.split(key, self.num_envs)

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    seen, self._state = self._reset(self._keys(), self._params)
    self._over = jnp.zeros(self.num_envs, bool)
    return np.asarray(seen), {}

  def step(self, actions):
    result, info = self._step(
      self._keys(), self._state, jnp.asarray(actions), self._over, self._params
    )
    seen, self._state, reward, self._over = result
    told = {name: np.asarray(value) for name, value in info.items()}
    over, never = np.asarray(self._over), np.zeros(self.num_envs, bool)
    return np.asarray(seen), np.asarray(reward, float), over, never, told


def anomaly_hunt(num_envs=None, params=None, budget=20, cost=0.1, **spec):
  """`metaad/AnomalyHunt-v0`; `params` (`hunt.Params`) in place of made-up
  tables, `budget` and `cost`."""
  params = params or hunt.Params(example_tables(), budget, cost)
  return _made(hunt, params, num_envs, spec)


def watch(num_envs=None, params=None, **spec):
  """`metaad/FaultWatch-v0`; `params` are `fault_watch.Params`."""
  return _made(fault_watch, params or fault_watch.Params(), num_envs, spec)


def _made(pure, params, num_envs, spec):
  if spec:
    raise TypeError(f'unknown options: {", ".join(spec)}')
  return Single(pure, params) if num_envs is None else Many(
    pure, params, num_envs
  )  # fmt: skip


def example_tables(count: int = 8, size: int = 128, seed: int = 0) -> Any:
  """Made-up tables: clusters, and anomalies in small groups of their own.

  The two first scores are the distance from the centre, and that to the
  fifth neighbour.
  """
  random, tables = np.random.default_rng(seed), []
  for _ in range(count):
    width, few = random.integers(2, 9), size // 8
    centres = random.normal(0, 4, (5, width))
    which = random.integers(0, 3, size)
    which[:few] = random.integers(3, 5, few)
    x = centres[which] + random.normal(0, 1, (size, width))
    away = np.linalg.norm(x - np.median(x, 0), axis=1)
    apart = np.linalg.norm(x[:, None] - x, axis=-1)
    scores = np.column_stack([away, np.sort(apart, 1)[:, 5]])
    tables.append(hunt.prepare(x, scores, np.arange(size) < few, size))
  return hunt.stack(tables)
