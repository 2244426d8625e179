"""Rotating machines, each unlike the next, simulated on the device.

A machine is drawn once: shaft speed, bearing geometry, structural resonances,
gear mesh, tones of its surroundings, noise floor, and how far all of these
wander from one window to the next. A window is what an accelerometer on its
housing records: harmonics of the shaft, gear mesh with sidebands, tones,
coloured noise, and the ringing that a damaged bearing's impacts excite.

Within a window the speed is constant. The structure's response is applied as a
circular convolution: the ringing that reaches into a window from impacts before
it is that of its own last impacts.

McFadden & Smith 1984, Model for the vibration produced by a single point defect
in a rolling element bearing, J. of Sound and Vibration 96. Randall & Antoni
2011, Rolling element bearing diagnostics - a tutorial, Mechanical Systems and
Signal Processing 25.
"""

import collections
from collections.abc import Callable
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

FAULTS = ('outer', 'inner', 'ball', 'imbalance', 'misalignment', 'looseness')
ORDERS = np.arange(1, 21) / 2  # of the shaft's speed; looseness has the halves
MESH_HARMONICS = 3
MODES = 4
TONES = 3
SHOCKS = 4  # at most, in a window

BEARING = 3  # so many FAULTS are the bearing's, the others are the shaft's
# What each fault adds at each order, as a share of the machine's `growth`.
PATTERNS = np.stack(
  [
    *np.zeros((BEARING, len(ORDERS))),
    ORDERS == 1,
    np.select([ORDERS == 1, ORDERS == 2, ORDERS == 3], [0.3, 1.0, 0.5]),
    np.where(ORDERS % 1, 0.7, 1.0) / np.sqrt(ORDERS),
  ]
).astype(np.float32)


class FaultFrequencies(NamedTuple):
  """Characteristic frequencies of a rolling-element bearing, in Hz."""

  bpfo: jax.Array  # balls passing a point of the (fixed) outer race
  bpfi: jax.Array  # balls passing a point of the (turning) inner race
  bsf: jax.Array  # turns of a ball; its defect meets a race twice a turn
  ftf: jax.Array  # turns of the cage


class Bearing(NamedTuple):
  """A rolling-element bearing and what an impact in it does; all scalars."""

  balls: jax.Array  # number of rolling elements
  ball_diameter: jax.Array  # in the unit of pitch_diameter
  pitch_diameter: jax.Array  # of the circle of the balls' centres
  contact_angle: jax.Array  # in radians
  impacts_per_spin: jax.Array  # 1 or 2: impacts per turn of a damaged ball
  slip: jax.Array  # standard deviation of the time between impacts / its mean
  modulation: jax.Array  # depth, with the shaft (inner) or the cage (ball)
  impact: jax.Array  # amplitude in m/s^2 of an impact's ringing at severity 1


class Wander(NamedTuple):
  """How much one machine's windows differ: standard deviations of logarithms.

  The load is what mesh, structure-borne noise and a bearing's impacts are
  proportional to.
  """

  speed: jax.Array  # [] of the shaft
  load: jax.Array  # []
  gain: jax.Array  # [] of the whole signal
  floor: jax.Array  # [] of each part of the noise floor
  tilt: jax.Array  # [] of the power of frequency on the floor; no logarithm
  pitch: jax.Array  # [] of each tone's frequency
  tones: jax.Array  # [] of each tone's amplitude
  lines: jax.Array  # [] of each shaft harmonic's amplitude


class Regime(NamedTuple):
  """How a machine's second way of running differs: logarithms of ratios.

  Loaded and idle, fast and slow: many machines switch between the two, and
  both are normal. A fault adds the same in either.
  """

  duty: jax.Array  # [] share of the windows in which it runs that way
  speed: jax.Array  # [] of the shaft's speed
  load: jax.Array  # [] of the load
  shaft: jax.Array  # [ORDERS] of the amplitudes of the shaft's harmonics
  tones: jax.Array  # [TONES] of those of the tones
  floor: jax.Array  # [3] of those of the noise floor


class Machine(NamedTuple):
  """A rotating machine; float32, amplitudes in m/s^2, phases in radians."""

  shaft_hz: jax.Array  # [] mean speed
  shaft: jax.Array  # [ORDERS] amplitudes of the shaft's harmonics
  shaft_phase: jax.Array  # [ORDERS]
  growth: jax.Array  # [] amplitude that a fault of the shaft adds at severity 1
  bearing: Bearing  # the damaged or sound bearing
  mode_hz: jax.Array  # [MODES] frequencies of the resonances
  damping: jax.Array  # [MODES] damping ratios
  mode_gain: jax.Array  # [MODES] amplitudes of the ringing
  teeth: jax.Array  # [] the gear mesh is at teeth times the speed
  mesh: jax.Array  # [MESH_HARMONICS] amplitudes
  mesh_phase: jax.Array  # [MESH_HARMONICS]
  sidebands: jax.Array  # [2] depth of the mesh's amplitude and phase modulation
  tone_hz: jax.Array  # [TONES] frequencies of the tones around it
  tones: jax.Array  # [TONES] amplitudes
  floor: jax.Array  # [3] RMS of the white, coloured and structure-borne noise
  corner_hz: jax.Array  # [] from here on the coloured noise's amplitude falls
  colour: jax.Array  # [] with this power of the frequency
  shock_rate: jax.Array  # [] mean number per second of shocks from outside
  shock: jax.Array  # [] RMS amplitude of their ringing
  wander: Wander  # how much its windows differ
  regime: Regime  # its second way of running
  faults: jax.Array  # [2] int32 indices into FAULTS of its anomalies


def fault_frequencies(
  shaft_hz: ArrayLike,
  balls: ArrayLike,
  ball_diameter: ArrayLike,
  pitch_diameter: ArrayLike,
  contact_angle: ArrayLike,
) -> FaultFrequencies:
  """The frequencies at which a bearing's defects strike (equations 1 to 4).

  The inner race turns at `shaft_hz`, the outer race stands still; the other
  arguments, [...], are those of `Bearing`.
  """
  shaft, count = jnp.asarray(shaft_hz), jnp.asarray(balls)
  ball, pitch = jnp.asarray(ball_diameter), jnp.asarray(pitch_diameter)
  ratio = ball / pitch * jnp.cos(contact_angle)
  return FaultFrequencies(
    bpfo=count / 2 * shaft * (1 - ratio),
    bpfi=count / 2 * shaft * (1 + ratio),
    bsf=pitch / (2 * ball) * shaft * (1 - ratio**2),
    ftf=shaft / 2 * (1 - ratio),
  )


def draw_machine(
  key: jax.Array,
  *,
  rate: float = 12000.0,
  noise: float = 1.0,
  regimes: float = 1.0,
  faults: tuple[str, ...] = FAULTS,
) -> Machine:
  """Draws one machine.

  Args:
    key: consumed.
    rate: in Hz; resonances and tones are kept below half of it.
    noise, regimes: factors, see `datasets.vibration.Options`.
    faults: the machine's one or two kinds of fault are drawn from these.
  """
  uniform, log_uniform = _drawers(key)
  level = log_uniform(0.3, 5.0)
  floor = level * log_uniform(
    np.array([0.05, 0.1, 0.05]), np.array([0.5, 1.0, 1.0]), (3,)
  )
  strength = jnp.linalg.norm(floor)
  shaft = (
    level
    * log_uniform(0.1, 1.0)
    * np.where(ORDERS % 1, 0.03, 1.0)
    * ORDERS ** -uniform(0.3, 1.5)
    * log_uniform(1 / 3, 3.0, ORDERS.shape)
  )
  shares = log_uniform(1 / 3, 3.0, (MODES,))
  top = 0.45 * rate
  return Machine(  # in the order of the draws
    shaft_hz=log_uniform(8.0, 60.0),
    shaft=shaft,
    shaft_phase=uniform(0.0, 2 * np.pi, ORDERS.shape),
    growth=level * log_uniform(1.2, 5.0),
    bearing=_bearing(uniform, log_uniform, strength),
    mode_hz=uniform(min(1000.0, top / 5), min(5500.0, top), (MODES,)),
    damping=log_uniform(0.01, 0.1, (MODES,)),
    mode_gain=shares / jnp.sum(shares),
    teeth=jnp.floor(uniform(12.0, 80.0)),
    mesh=level
    * log_uniform(0.02, 1.0)
    * np.arange(1, MESH_HARMONICS + 1) ** -1.0
    * log_uniform(1 / 3, 3.0, (MESH_HARMONICS,)),
    mesh_phase=uniform(0.0, 2 * np.pi, (MESH_HARMONICS,)),
    sidebands=uniform(0.0, 0.6, (2,)),
    tone_hz=log_uniform(min(50.0, top / 10), min(5000.0, top), (TONES,)),
    tones=level * log_uniform(0.02, 0.7, (TONES,)),
    floor=noise * floor,
    corner_hz=log_uniform(100.0, 2000.0),
    colour=uniform(0.5, 3.0),
    shock_rate=log_uniform(1.0, 30.0),
    shock=strength * log_uniform(5.0, 40.0),
    wander=_wander(uniform, log_uniform),
    regime=_regime(uniform, regimes),
    faults=jnp.array([FAULTS.index(fault) for fault in faults])[
      uniform(0.0, len(faults), (2,)).astype(int)
    ],
  )


def _drawers(key: jax.Array) -> tuple[Callable, Callable]:
  """Functions (low, high, shape) that draw uniform and log-uniform numbers."""
  draws = jax.random.uniform(key, (192,))
  used = 0

  def uniform(low, high, shape=()):
    nonlocal used
    first, used = used, used + math.prod(shape)
    return low + (high - low) * draws[first:used].reshape(shape)

  def log_uniform(low, high, shape=()):
    return jnp.exp(uniform(np.log(low), np.log(high), shape))

  return uniform, log_uniform


def _bearing(uniform, log_uniform, strength):
  return Bearing(
    balls=jnp.floor(uniform(7.0, 17.0)),
    ball_diameter=uniform(0.14, 0.3),
    pitch_diameter=jnp.ones(()),
    contact_angle=jnp.maximum(uniform(-0.6, 0.6), 0.0),
    impacts_per_spin=jnp.floor(uniform(1.0, 3.0)),
    slip=uniform(0.005, 0.02),
    modulation=uniform(0.5, 1.0),
    impact=strength * log_uniform(18.0, 72.0),
  )


def _wander(uniform, log_uniform):
  return Wander(
    speed=log_uniform(0.002, 0.03),
    load=uniform(0.05, 0.3),
    gain=uniform(0.3, 0.9),
    floor=uniform(0.05, 0.3),
    tilt=uniform(0.05, 0.4),
    pitch=log_uniform(0.002, 0.2),
    tones=uniform(0.2, 1.0),
    lines=uniform(0.05, 0.25),
  )


def _regime(uniform, factor):
  return Regime(
    duty=uniform(0.3, 0.7),
    speed=factor * uniform(-0.6, 0.6),
    load=factor * uniform(-2.0, 2.0),
    shaft=factor * uniform(-2.0, 2.0, ORDERS.shape),
    tones=factor * uniform(-3.0, 3.0, (TONES,)),
    floor=factor * uniform(-2.4, 2.4, (3,)),
  )


def render(
  key: jax.Array,
  machine: Machine,
  fault: ArrayLike,
  severity: ArrayLike,
  *,
  length: int = 1024,
  rate: float = 12000.0,
) -> jax.Array:
  """Returns one window of a machine's acceleration, in m/s^2, [length].

  Args:
    key: consumed.
    machine: from `draw_machine`.
    fault: [] index into FAULTS.
    severity: [] at least 0; 0 = normal.
    length: samples.
    rate: sampling rate in Hz.
  """
  fault, wander, regime = jnp.asarray(fault), machine.wander, machine.regime
  draws = _window_draws(key, length)
  other = draws.starts[-1] < regime.duty
  faster = jnp.exp(wander.speed * draws.speed + other * regime.speed)
  turns = machine.shaft_hz / rate * faster
  load = jnp.exp(wander.load * draws.load + other * regime.load)
  growth = severity * machine.growth * jnp.asarray(PATTERNS)[fault]
  wave = _sines(machine, draws, other, turns, load, growth, length, rate)

  shapes, response = _structure(machine, length, rate)
  louder = jnp.exp(wander.floor * draws.floor + other * regime.floor)
  levels = machine.floor * louder
  levels *= jnp.concatenate([jnp.ones(2), load])
  density = jnp.sqrt(length / 2 * (levels**2 @ shapes**2))
  density *= (0.1 + 10 * jnp.fft.rfftfreq(length)) ** (wander.tilt * draws.tilt)
  starts = draws.starts[1:3]
  impacts = _impacts(machine.bearing, fault, turns, starts, draws.jitter)
  impacts *= severity * load * machine.bearing.impact * (fault < BEARING)
  expected = machine.shock_rate * length / rate
  shocks = draws.shocks * (machine.shock * (draws.chances < expected / SHOCKS))
  for k in range(SHOCKS):
    at = jnp.floor(draws.moments[k] * length)
    impacts += shocks[k] * (jnp.arange(length) == at)
  spectrum = response * jnp.fft.rfft(impacts)
  spectrum += jax.lax.complex(density * draws.real, density * draws.imaginary)
  wave += jnp.fft.irfft(spectrum, n=length)
  return wave * jnp.exp(wander.gain * draws.gain)


# What is drawn for one window; normal but for the last four.
_Window = collections.namedtuple(
  '_Window',
  'speed load gain tilt floor pitch tones lines shocks real imaginary starts '
  'moments chances jitter',
)


def _window_draws(key, length):
  bins = length // 2 + 1
  key, uniform_key = jax.random.split(key)
  uniform = jnp.split(
    jax.random.uniform(uniform_key, (4 + TONES + 2 * SHOCKS + length,)),
    np.cumsum([4 + TONES, SHOCKS, SHOCKS]),
  )
  widths = [1, 1, 1, 1, 3, TONES, TONES, len(ORDERS), SHOCKS, bins, bins]
  draws = jax.random.normal(key, (sum(widths),))
  normal = jnp.split(draws, np.cumsum(widths)[:-1])
  return _Window(*normal, *uniform)


def _sines(machine, draws, other, turns, load, growth, length, rate):
  """Harmonics of the shaft, gear mesh and tones, [length].

  An anti-aliasing filter stops the sines beyond half the sampling rate.
  """
  wander, regime, time = machine.wander, machine.regime, jnp.arange(length)
  shaft = machine.shaft * jnp.exp(other * regime.shaft) + growth
  shaft *= jnp.exp(wander.lines * draws.lines)
  shaft *= ORDERS * turns < 0.5
  half_turn = turns / 2 * time + draws.starts[0]
  wave = _series(half_turn, shaft, machine.shaft_phase)[0]

  mesh_turns = machine.teeth * turns
  mesh = machine.mesh * load
  mesh *= jnp.arange(1, MESH_HARMONICS + 1) * mesh_turns < 0.5
  meshing = 2 * machine.teeth * half_turn
  cosine, sine = _series(meshing, mesh, machine.mesh_phase)
  wave += cosine * (1 + machine.sidebands[0] * _cosine(2 * half_turn))
  wave += sine * machine.sidebands[1] * _cosine(2 * half_turn - 0.25)

  tone_turns = machine.tone_hz / rate * jnp.exp(wander.pitch * draws.pitch)
  tone = machine.tones * jnp.exp(
    wander.tones * draws.tones + other * regime.tones
  )
  tone *= tone_turns < 0.5
  for k in range(TONES):
    wave += tone[k] * _cosine(tone_turns[k] * time + draws.starts[3 + k])
  return wave


# cos(2 pi t) as a polynomial of t^2 for |t| <= 1/2, to within float32's
# rounding; on a CPU it is tens of times as fast as jnp.cos.
_COSINE = (
  np.polynomial.chebyshev.Chebyshev.interpolate(
    lambda square: np.cos(2 * np.pi * np.sqrt(square)), 8, [0, 0.25]
  )
  .convert(kind=np.polynomial.Polynomial)
  .coef[::-1]
)


def _cosine(turns):
  """cos(2 pi turns)."""
  square = (turns - jnp.round(turns)) ** 2
  return jnp.polyval(jnp.asarray(_COSINE, turns.dtype), square, unroll=8)


def _series(turns, amplitude, phase):
  """Sums over k of amplitude[k] cos(2 pi (k + 1) turns + phase[k]) and of the
  sines, by Horner's rule."""
  cosine, sine = _cosine(turns), _cosine(turns - 0.25)
  real = imaginary = jnp.zeros_like(turns)
  for k in reversed(range(amplitude.shape[0])):
    real += amplitude[k] * jnp.cos(phase[k])
    imaginary += amplitude[k] * jnp.sin(phase[k])
    real, imaginary = (
      real * cosine - imaginary * sine,
      real * sine + imaginary * cosine,
    )
  return real, imaginary


def _structure(machine, length, rate):
  """The noise floor's shapes [3, bins] and the response [bins].

  The shapes have unit mean square. The response is the Fourier transform of
  the modes' decaying sines, repeated with the period of the window.
  """
  frequency = jnp.fft.rfftfreq(length)
  delay = jnp.exp(-2j * np.pi * frequency)
  decay = -machine.damping * machine.mode_hz
  swing = machine.mode_hz * jnp.sqrt(1 - machine.damping**2)
  pole = jnp.exp(2 * np.pi / rate * (decay + 1j * swing))[:, None]
  response = machine.mode_gain @ (
    pole.imag * delay / ((1 - pole * delay) * (1 - pole.conj() * delay))
  )
  coloured = (1 + frequency * rate / machine.corner_hz) ** -machine.colour
  white = jnp.ones_like(frequency)
  shapes = jnp.stack([white, coloured, jnp.abs(response)])
  power = jnp.mean(shapes**2, axis=1, keepdims=True)
  return shapes / jnp.sqrt(power), response


def _impacts(bearing, fault, turns, starts, jitter):
  """The impulses [length] with which a damaged bearing strikes.

  The count of impacts is a random walk about its mean rate, so that the
  intervals are independent and the slip accumulates.

  Args:
    bearing: its geometry and slip.
    fault: [] int, index into FAULTS; the result counts if it is the bearing's.
    turns: [1] of the shaft, per sample.
    starts: [2] in 0..1, the phases of the train and of its modulation.
    jitter: [length] independent and uniform in 0..1.
  """
  which = jnp.minimum(fault, BEARING - 1)
  orders = fault_frequencies(1.0, *bearing[:4])
  balls = bearing.impacts_per_spin * orders.bsf
  strikes = jnp.stack([orders.bpfo, orders.bpfi, balls])[which]
  beat = jnp.stack([0.0, 1.0, orders.ftf])[which]
  mean = strikes * turns
  spread = jnp.minimum(bearing.slip * jnp.sqrt(3 * mean), mean)
  steps = mean + spread * (2 * jitter - 1)
  count = starts[0] + jnp.cumsum(steps)
  struck = jnp.floor(count) - jnp.floor(count - steps)
  sway = _cosine(starts[1] + beat * turns * jnp.arange(jitter.size))
  return struck * (1 + bearing.modulation * (beat > 0) * sway)
