"""Healthy series without end, simulated on the device."""

import functools

import jax
from jax import random
import jax.numpy as jnp
from jax.scipy.special import ndtr


def _filtered(x, response):
  """[n] by a filter, in a circle, of a response to turns per sample."""
  lines = response(jnp.fft.rfftfreq(len(x)))
  return jnp.fft.irfft(jnp.fft.rfft(x) * lines, len(x))


def _smooth(x, width):
  """Averaged by a Gaussian with a deviation of `width` samples."""
  gauss = lambda turns: jnp.exp(-2 * (jnp.pi * turns * width) ** 2)
  return _filtered(x, gauss)


def _turns(z, period, jitter):
  """[n] phase in turns, whose speed varies by `jitter`."""
  return jnp.cumsum((1 + jitter * z) / period)


def _switched(z, length):
  """[n] 0 or 1, and the other after `length` samples on the mean."""
  return jnp.cumsum(1.0 * (ndtr(z) < 1 / length)) % 2


def _arma(z, u, period):
  """Of order (2, 1), a noise that swings."""
  r = 0.9 + 0.095 * u[0]

  def response(turns):
    back = jnp.exp(-2j * jnp.pi * turns)
    swing = 1 - 2 * r * jnp.cos(2 * jnp.pi / period) * back + (r * back) ** 2
    return (1 + u[1] * back) / swing

  return _filtered(z[0], response)


def _oscillators(z, u, period):
  k = jnp.arange(1, 5)[:, None]
  angle = k * _turns(z[0], period, 0.02) + u[:4, None]
  size = (u[4:8, None] - 0.5) / k
  return (size * jnp.sin(2 * jnp.pi * angle)).sum(0)


def _beats(z, u, period):
  speed = 1 + 0.3 * u[0] * _smooth(z[0], period) * period**0.5
  at = jnp.cumsum(jnp.maximum(speed, 0.2) / period) % 1
  wave = lambda centre, width: jnp.exp(-0.5 * ((at - centre) / width) ** 2)
  return wave(0.3, 0.04) - 0.3 * wave(0.38, 0.03) + 0.3 * wave(0.7, 0.08)


def _relaxation(z, u, period):
  return (_turns(z[0], period, 0.01) % 1) ** (0.5 + 2.5 * u[0])


def _loads(z, u, period):
  return _smooth(_switched(z[0], period), 0.5 + 3.5 * u[0])


def _regimes(z, u, period):
  """Two oscillators that take turns."""
  one, other = _oscillators(z, u, period), _oscillators(z, u[::-1], period / 2)
  return jnp.where(_switched(z[1], 4 * period) > 0, other, one)


def _wandering(z, u, period):
  x = jnp.cumsum(z[0])
  x -= jnp.linspace(0, x[-1], len(x))  # ends as it begins
  return x - _smooth(x, period)


# Each makes [n] of normal noise [2, n], even numbers [8] and a period.
PROCESSES = {
  'arma': _arma, 'oscillators': _oscillators, 'beats': _beats,
  'relaxation': _relaxation, 'loads': _loads, 'regimes': _regimes,
  'wandering': _wandering,
}  # fmt: skip


@functools.partial(jax.jit, static_argnames=('n', 'channels'))
def process(
  key: jax.Array, n: int, kind: jax.Array | int | None = None, channels: int = 1
) -> jax.Array:
  """[n, channels] float32: sources of one kind, mixed, and noise.

  A period of 12 to 200 samples; noise of .005 to .4 deviations.

  Args:
    key: as of `jax.random`; vmap over it for many.
    n, channels: of the series.
    kind: number of one of `PROCESSES`; None = any.
  """
  noise, even, mixed = random.split(key, 3)
  sources = max(1, channels // 2)
  z = random.normal(noise, (2 * sources + channels, n))
  u = random.uniform(even, (sources + 1, 8))
  if kind is None:
    kind = (u[-1, 0] * len(PROCESSES)).astype(int)
  period, size = 12 * (200 / 12) ** u[-1, 1], 0.005 * 80 ** u[-1, 2]
  make = lambda z, u: jax.lax.switch(kind, [*PROCESSES.values()], z, u, period)
  x = jax.vmap(make)(z[: 2 * sources].reshape(sources, 2, n), u[:-1])
  x = x.T @ random.normal(mixed, (sources, channels))
  return x / (x.std(0) + 1e-9) + size * z[2 * sources :].T
