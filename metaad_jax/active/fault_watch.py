"""Machines of the simulated fleet that develop faults: alarm, or wait?

Every episode is a machine that nobody has seen (`data.rotating_machines`). It
runs well until a random moment, from where a fault grows; each step records one
window of its vibration. An alarm before the fault costs an inspection and the
watch goes on; after it, it ends the episode, and every step that it came late
has cost as well. Pure functions in gymnax's form, as in `hunt`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metaad_jax.data import rotating_machines

STEPS = 40
BANDS = 8
_LENGTH, _RATE = 512, 12000.0
_REFERENCE = 16  # windows of the sound machine, seen beforehand
_MEMORY = 0.7  # of the running mean
OBSERVATION = 2 * BANDS + 2


class Params(NamedTuple):
  """Of the environment.

  Attributes:
    found: reward of an alarm on a faulty machine.
    false_alarm: cost of one on a sound machine.
    delay: cost of each step with an undiscovered fault.
    speed: severity that a fault gains in a step; 1 = grave.
    sound: share of the machines that stay sound.
  """

  found: Any = 1.0
  false_alarm: Any = 0.5
  delay: Any = 0.1
  speed: Any = 0.1
  sound: Any = 0.3


class State(NamedTuple):
  """A watch."""

  machine: rotating_machines.Machine
  onset: jax.Array  # [] int32 first step with a fault; STEPS or more = never
  usual: jax.Array  # [2, BANDS] mean and deviation when sound
  now: jax.Array  # [BANDS] deviations of the last window
  mean: jax.Array  # [BANDS] their running mean
  alarms: jax.Array  # [] int32 false ones so far
  time: jax.Array  # [] int32


def actions(params: Params) -> int:
  """0 = wait, 1 = alarm."""
  del params
  return 2


def _bands(key, machine, severity):
  """[BANDS] logarithms of the power in bands of equal width."""
  x = rotating_machines.render(
    key, machine, machine['faults'][0], severity, length=_LENGTH, rate=_RATE
  )
  power = jnp.abs(jnp.fft.rfft(x * np.hanning(_LENGTH)))[1:] ** 2
  return jnp.log(power.reshape(BANDS, -1).mean(1) + 1e-9)


def reset(key: jax.Array, params: Params) -> tuple[jax.Array, State]:
  """A new machine: (observation, state)."""
  keys = jax.random.split(key, 4)
  machine = rotating_machines.draw_machine(keys[0], rate=_RATE)
  windows = jax.vmap(lambda key: _bands(key, machine, 0.0))
  seen = windows(jax.random.split(keys[1], _REFERENCE))
  onset = jax.random.randint(keys[2], (), STEPS // 8, STEPS)
  sound = jax.random.bernoulli(keys[3], params.sound)
  zero = jnp.zeros(BANDS)
  state = State(
    machine, jnp.where(sound, 2 * STEPS, onset),
    jnp.stack([seen.mean(0), seen.std(0) + 0.1]), zero, zero, jnp.int32(0),
    jnp.int32(0),
  )  # fmt: skip
  return observe(state, params), state


def step(
  key: jax.Array, state: State, action: jax.Array, params: Params
) -> tuple[jax.Array, State, jax.Array, jax.Array, dict[str, jax.Array]]:
  """Waits (0) or raises the alarm (1), then records the next window.

  Returns (observation, state, reward, done, info); `info['faulty']` says what
  the machine was when the action was taken.
  """
  faulty, alarm = state.time >= state.onset, action == 1
  reward = jnp.where(
    faulty,
    jnp.where(alarm, params.found, -params.delay),
    jnp.where(alarm, -params.false_alarm, 0.0),
  )
  time = state.time + 1
  severity = params.speed * jnp.maximum(time - state.onset + 1, 0)
  bands = _bands(key, state.machine, severity)
  now = jnp.clip((bands - state.usual[0]) / state.usual[1], -10, 10)
  state = state._replace(
    now=now,
    mean=_MEMORY * state.mean + (1 - _MEMORY) * now,
    alarms=state.alarms + (alarm & ~faulty),
    time=time,
  )
  done = (alarm & faulty) | (time >= STEPS)
  return observe(state, params), state, reward, done, {'faulty': faulty}


def observe(state: State, params: Params) -> jax.Array:
  """[18] deviations of the last window, their running mean, both from what the
  sound machine was like; share of the time; false alarms so far, by ten."""
  del params
  whole = jnp.stack([state.time / STEPS, state.alarms / 10])
  return jnp.concatenate([state.now, state.mean, whole], dtype=jnp.float32)
