"""What goes wrong in series: tasks without end.

`inject` puts faults of the kinds that the literature knows into a healthy
series, of a size and a length of their own.
"""

from typing import NamedTuple

import numpy as np


class Fault(NamedTuple):
  """Where and what: rows `start` to `stop`, a kind, a size in deviations."""

  start: int
  stop: int
  kind: str
  size: float


def _moved(x, at):
  """The series x [n] at rows `at` that need not be whole."""
  return np.interp(np.clip(at, 0, len(x) - 1), np.arange(len(x)), x)


def _elsewhere(x, n, random):
  start = int(random.integers(0, max(1, len(x) - n)))
  return x[start : start + n].copy()


def _spike(x, a, b, size, period, random):
  n = b - a
  width, height = int(random.choice([1, 2, 5])), 2 * size * _sign(random)
  return x[a:b] + height * (np.abs(np.arange(n) - n // 2) * 2 < width)


def _extra(x, a, b, size, period, random):
  n = min(b - a, max(4, int(0.6 * period)))
  beat = _elsewhere(x, n, random)
  at = int(random.integers(0, b - a - n + 1))
  part = x[a:b].copy()
  part[at : at + n] += np.hanning(n) * (beat - beat.mean()) * min(2, size)
  return part


def _missing(x, a, b, size, period, random):
  part = x[a:b].copy()
  n = min(b - a, period)
  at = (b - a - n) // 2
  part[at : at + n] = np.linspace(part[at], part[at + n - 1], n)
  return part


def _swapped(x, a, b, size, period, random):
  part = _elsewhere(x, b - a, random)
  return part + (x[a] - part[0]) * random.integers(0, 2)


def _warped(x, a, b, size, period, random):
  u = np.linspace(0, 1, b - a)
  bent = u + _sign(random) * min(0.3, 0.1 * size) * np.sin(2 * np.pi * u)
  return _moved(x, a + (b - a - 1) * np.clip(bent, 0, 1))


def _amplitude(x, a, b, size, period, random):
  factor = (1 + 0.7 * size) ** _sign(random)
  mean = x[a:b].mean()
  return mean + (x[a:b] - mean) * factor


def _frequency(x, a, b, size, period, random):
  factor = 1 + _sign(random) * min(0.7, 0.25 * size)
  return _moved(x, a + np.arange(b - a) * factor)


def _sign(random):
  return random.choice([-1, 1])


# Each takes x [n] in deviations, rows a to b, the size, a period, and a
# generator, and returns x[a:b] with the fault.
KINDS = {
  'spike': _spike,
  'level shift': lambda x, a, b, s, p, r: x[a:b] + s * _sign(r),
  'drift': lambda x, a, b, s, p, r: (
    x[a:b] + 1.5 * s * _sign(r) * np.linspace(0, 1, b - a)
  ),
  'frequency': _frequency,
  'amplitude': _amplitude,
  'missing beat': _missing,
  'extra beat': _extra,
  'time warp': _warped,
  'reversed': lambda x, a, b, s, p, r: x[a:b][::-1].copy(),
  'swapped': _swapped,
  'noise': lambda x, a, b, s, p, r: x[a:b] + 0.4 * s * r.normal(size=b - a),
  'flat line': lambda x, a, b, s, p, r: np.full(b - a, x[a]),
  'decoupled': lambda x, a, b, s, p, r: _elsewhere(x, b - a, r),
}


def inject(
  x: np.ndarray, start: int, stop: int, kind: str, size: float, period: int,
  random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
  """A series with a fault, and where it is.

  Args:
    x: [n, C] healthy; sizes are in standard deviations of a channel around the
      fault.
    start, stop: rows that it may change.
    kind: of `KINDS`; 'decoupled' replaces some channels by their own past, and
      of one channel is 'swapped' in effect.
    size: of it; kinds that cannot be larger or smaller ignore it.
    period: samples of a period.
    random: chooses its sign, and the channels: some, or all.

  Returns:
    [n, C], and [n] bool, the rows from the first to the last that changed.
  """
  made = x.copy()
  some = random.random(x.shape[1]) < random.choice([0.15, 0.4, 1.0])
  some[random.integers(0, x.shape[1])] = True
  near = slice(max(0, start - 4 * period), stop + 4 * period)
  for c in np.flatnonzero(some):
    scale = x[near, c].std() + 1e-9
    args = x[:, c] / scale, start, stop, size, period, random
    part = scale * KINDS[kind](*args)
    moved = np.abs(part - x[start:stop, c]) > 1e-6 * scale
    made[start:stop, c] = np.where(moved, part, x[start:stop, c])
  changed = np.flatnonzero((made != x).any(1))
  labels = np.zeros(len(x), bool)
  if len(changed):
    labels[changed[0] : changed[-1] + 1] = True
  return made, labels


def spoiled(
  x: np.ndarray, period: int, random: np.random.Generator, most: int = 3
) -> tuple[np.ndarray, np.ndarray, list[Fault]]:
  """A series [n, C] with 1 to `most` faults, labels [n], and the faults.

  Kinds at random, sizes of .5 to 6 deviations and lengths of .3 to 6 periods,
  both even in logarithm; two periods apart at least.
  """
  labels, faults = np.zeros(len(x), bool), []
  for _ in range(int(random.integers(1, most + 1))):
    kind = str(random.choice(list(KINDS)))
    size = float(np.exp(random.uniform(np.log(0.5), np.log(6))))
    length = period * np.exp(random.uniform(np.log(0.3), np.log(6)))
    length = int(np.clip(length, 6, max(6, len(x) // 6)))
    start = int(random.integers(0, len(x) - length))
    near = slice(max(0, start - 2 * period), start + length + 2 * period)
    if labels[near].any():
      continue
    x, changed = inject(x, start, start + length, kind, size, period, random)
    if changed.any():
      labels |= changed
      rows = np.flatnonzero(changed)
      faults.append(Fault(int(rows[0]), int(rows[-1]) + 1, kind, size))
  return x, labels, faults
