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

import itertools
import pathlib
import tomllib

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


Machine = dict[str, jax.Array]  # by the names of rotating_machines.toml
_TABLE = tomllib.loads(pathlib.Path(__file__).with_suffix('.toml').read_text())
_DRAWS = 192  # from which the machine takes the first


def draw_machine(
  key: jax.Array,
  *,
  rate: float = 12000.0,
  noise: float = 1.0,
  regimes: float = 1.0,
  faults: tuple[str, ...] = FAULTS,
) -> Machine:
  """Draws one machine, see rotating_machines.toml; the key is consumed.

  Resonances and tones are kept below half of the `rate`, in Hz. `noise` and
  `regimes` are factors, see `datasets.vibration.Options`; the machine's one or
  two kinds of fault are drawn from `faults`.
  """
  top = 0.45 * rate
  most = {'mode_hz': (top / 5, top), 'tone_hz': (top / 10, top)}
  draws = jax.random.uniform(key, (_DRAWS,))
  m, used = {}, 0
  for name, draw in _TABLE.items():
    low, high = map(np.array, draw.get('log') or draw['uniform'])
    if name in most:
      low, high = np.minimum((low, high), most[name])
    count = draw.get('count', 0)
    own = draws[used : used + count] if count else draws[used]
    used += count or 1
    if 'log' in draw:
      low, high = np.log(low), np.log(high)
    m[name] = low + (high - low) * own
    if 'log' in draw:
      m[name] = jnp.exp(m[name])

  level, floor = m['level'], m['level'] * m['floor']
  strength = jnp.linalg.norm(floor)
  odd = np.where(ORDERS % 1, 0.03, 1.0)
  shaft = level * m['shaft_level'] * odd * ORDERS ** -m['shaft_fall']
  mesh = level * m['mesh_level'] * np.arange(1, MESH_HARMONICS + 1) ** -1.0
  kinds = jnp.array([FAULTS.index(fault) for fault in faults])
  for name in _TABLE:
    if name.endswith('_shift'):
      m[name] *= regimes
  return m | {
    'floor': noise * floor,
    'shaft': shaft * m['shaft'],
    'mode_gain': m['mode_gain'] / jnp.sum(m['mode_gain']),
    'growth': level * m['growth'],
    'balls': jnp.floor(m['balls']),
    'contact_angle': jnp.maximum(m['contact_angle'], 0.0),
    'impacts_per_spin': jnp.floor(m['impacts_per_spin']),
    'impact': strength * m['impact'],
    'teeth': jnp.floor(m['teeth']),
    'mesh': mesh * m['mesh'],
    'tones': level * m['tones'],
    'shock': strength * m['shock'],
    'faults': kinds[(len(faults) * m['faults']).astype(int)],
  }


def fault_frequencies(
  shaft_hz: ArrayLike,
  balls: ArrayLike,
  ball_ratio: ArrayLike,
  contact_angle: ArrayLike,
) -> tuple[jax.Array, ...]:
  """The frequencies at which a bearing's defects strike (equations 1 to 4).

  The inner race turns at `shaft_hz`, the outer race stands still. Returns, in
  Hz, how often balls pass a point of the outer race (BPFO) and of the inner
  race (BPFI), the turns of a ball (BSF; its defect meets a race twice a turn)
  and those of the cage (FTF).
  """
  shaft, count = jnp.asarray(shaft_hz), jnp.asarray(balls)
  ball = jnp.asarray(ball_ratio)
  ratio = ball * jnp.cos(contact_angle)
  return (
    count / 2 * shaft * (1 - ratio),
    count / 2 * shaft * (1 + ratio),
    1 / (2 * ball) * shaft * (1 - ratio**2),
    shaft / 2 * (1 - ratio),
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
  fault, m = jnp.asarray(fault), machine
  draws = _window_draws(key, length)
  other = draws['starts'][-1] < m['duty']
  shifted = lambda part: jnp.exp(
    m[f'{part}_wander'] * draws[part] + other * m[f'{part}_shift']
  )
  turns = m['shaft_hz'] / rate * shifted('speed')
  load = shifted('load')
  growth = severity * m['growth'] * jnp.asarray(PATTERNS)[fault]
  wave = _sines(m, draws, other, turns, load, growth, length, rate)

  shapes, response = _structure(m, length, rate)
  levels = m['floor'] * shifted('floor')
  levels *= jnp.concatenate([jnp.ones(2), load])
  density = jnp.sqrt(length / 2 * (levels**2 @ shapes**2))
  tilt = m['tilt_wander'] * draws['tilt']
  density *= (0.1 + 10 * jnp.fft.rfftfreq(length)) ** tilt
  starts = draws['starts'][1:3]
  impacts = _impacts(m, fault, turns, starts, draws['jitter'])
  impacts *= severity * load * m['impact'] * (fault < BEARING)
  expected = m['shock_rate'] * length / rate
  struck = draws['chances'] < expected / SHOCKS
  shocks = draws['shocks'] * (m['shock'] * struck)
  for k in range(SHOCKS):
    at = jnp.floor(draws['moments'][k] * length)
    impacts += shocks[k] * (jnp.arange(length) == at)
  spectrum = response * jnp.fft.rfft(impacts)
  noise = [density * draws[part] for part in ('real', 'imaginary')]
  spectrum += jax.lax.complex(*noise)
  wave += jnp.fft.irfft(spectrum, n=length)
  return wave * jnp.exp(m['gain_wander'] * draws['gain'])


def _window_draws(key, length):
  """What is drawn for one window: normal numbers, then uniform ones."""
  bins = length // 2 + 1
  normal = {
    'speed': 1, 'load': 1, 'gain': 1, 'tilt': 1, 'floor': 3, 'pitch': TONES,
    'tones': TONES, 'lines': len(ORDERS), 'shocks': SHOCKS, 'real': bins,
    'imaginary': bins,
  }  # fmt: skip
  uniform = {
    'starts': 4 + TONES, 'moments': SHOCKS, 'chances': SHOCKS, 'jitter': length
  }  # fmt: skip
  key, uniform_key = jax.random.split(key)
  draws: dict[str, jax.Array] = {}
  for k, draw, widths in (
    (key, jax.random.normal, normal), (uniform_key, jax.random.uniform, uniform)
  ):  # fmt: skip
    *ends, total = itertools.accumulate(widths.values())
    draws |= zip(widths, jnp.split(draw(k, (total,)), ends), strict=True)
  return draws


def _sines(m, draws, other, turns, load, growth, length, rate):
  """Harmonics of the shaft, gear mesh and tones, [length].

  An anti-aliasing filter stops the sines beyond half the sampling rate.
  """
  time, starts = jnp.arange(length), draws['starts']
  shaft = m['shaft'] * jnp.exp(other * m['shaft_shift']) + growth
  shaft *= jnp.exp(m['lines_wander'] * draws['lines'])
  shaft *= ORDERS * turns < 0.5
  half_turn = turns / 2 * time + starts[0]
  wave = _series(half_turn, shaft, m['shaft_phase'])[0]

  mesh_turns = m['teeth'] * turns
  mesh = m['mesh'] * load
  mesh *= jnp.arange(1, MESH_HARMONICS + 1) * mesh_turns < 0.5
  meshing = 2 * m['teeth'] * half_turn
  cosine, sine = _series(meshing, mesh, m['mesh_phase'])
  wave += cosine * (1 + m['sidebands'][0] * _cosine(2 * half_turn))
  wave += sine * m['sidebands'][1] * _cosine(2 * half_turn - 0.25)

  pitch = jnp.exp(m['pitch_wander'] * draws['pitch'])
  tone_turns = m['tone_hz'] / rate * pitch
  tone = m['tones'] * jnp.exp(
    m['tones_wander'] * draws['tones'] + other * m['tones_shift']
  )
  tone *= tone_turns < 0.5
  for k in range(TONES):
    wave += tone[k] * _cosine(tone_turns[k] * time + starts[3 + k])
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


def _structure(m, length, rate):
  """The noise floor's shapes [3, bins] and the response [bins].

  The shapes have unit mean square. The response is the Fourier transform of
  the modes' decaying sines, repeated with the period of the window.
  """
  frequency = jnp.fft.rfftfreq(length)
  delay = jnp.exp(-2j * np.pi * frequency)
  decay = -m['damping'] * m['mode_hz']
  swing = m['mode_hz'] * jnp.sqrt(1 - m['damping'] ** 2)
  pole = jnp.exp(2 * np.pi / rate * (decay + 1j * swing))[:, None]
  response = m['mode_gain'] @ (
    pole.imag * delay / ((1 - pole * delay) * (1 - pole.conj() * delay))
  )
  coloured = (1 + frequency * rate / m['corner_hz']) ** -m['colour']
  white = jnp.ones_like(frequency)
  shapes = jnp.stack([white, coloured, jnp.abs(response)])
  power = jnp.mean(shapes**2, axis=1, keepdims=True)
  return shapes / jnp.sqrt(power), response


def _impacts(m, fault, turns, starts, jitter):
  """The impulses [length] with which a damaged bearing strikes.

  The count of impacts is a random walk about its mean rate, so that the
  intervals are independent and the slip accumulates.

  Args:
    m: the machine.
    fault: [] int, index into FAULTS; the result counts if it is the bearing's.
    turns: [1] of the shaft, per sample.
    starts: [2] in 0..1, the phases of the train and of its modulation.
    jitter: [length] independent and uniform in 0..1.
  """
  which = jnp.minimum(fault, BEARING - 1)
  geometry = m['balls'], m['ball_ratio'], m['contact_angle']
  outer, inner, spin, cage = fault_frequencies(1.0, *geometry)
  strikes = jnp.stack([outer, inner, m['impacts_per_spin'] * spin])[which]
  beat = jnp.stack([0.0, 1.0, cage])[which]
  mean = strikes * turns
  spread = jnp.minimum(m['slip'] * jnp.sqrt(3 * mean), mean)
  steps = mean + spread * (2 * jitter - 1)
  count = starts[0] + jnp.cumsum(steps)
  struck = jnp.floor(count) - jnp.floor(count - steps)
  sway = _cosine(starts[1] + beat * turns * jnp.arange(jitter.size))
  return struck * (1 + m['modulation'] * (beat > 0) * sway)
