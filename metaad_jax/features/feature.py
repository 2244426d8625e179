"""What a feature is, the parts that all share, and the two trivial ones."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metaad_jax import base


class Feature(NamedTuple):
  """A pure, jittable, differentiable function of one window."""

  # [L, C] -> [F], in the dtype of the window; finite, with finite gradients, on
  # every finite window
  apply: Callable[[jax.Array], jax.Array]
  # F readable names, such as 'log-power 1.5-1.6 kHz, ch 0'
  names: tuple[str, ...]


def per_channel(
  function: Callable[[jax.Array], jax.Array],
  labels: Sequence[str],
  channels: Sequence[str],
) -> Feature:
  """Applies a function, [L] -> [K outputs with labels], to every channel.

  The feature is [L, C] -> [C * K]: all of channel 0, all of channel 1, ...
  """
  names = tuple(f'{label}, {c}' for c in channels for label in labels)
  return Feature(lambda x: jax.vmap(function, 1)(x).reshape(-1), names)


def need(what: str, length: int, least: int) -> None:
  """Raises DataError if the window has fewer samples than `least`."""
  if length < least:
    raise base.DataError(
      f'{what} needs windows of at least {least} samples, these have {length}: '
      'cut longer windows or choose another feature'
    )


def centre(x: jax.Array) -> jax.Array:
  """Subtracts the mean of [L]; a constant window becomes exactly zero."""
  x = x - jax.lax.stop_gradient(x[:1])
  return x - x.mean()


def log_power(power: jax.Array) -> jax.Array:
  """Log of non-negative [K], floored 100 dB below its mean.

  The floor moves with the signal, so that a gain of g adds 2 log g to every
  output; only below 1e-30 does an absolute floor end this.
  """
  return jnp.log(power + (1e-10 * power.mean() + 1e-30))


def log_powers(
  function: Callable[[jax.Array], jax.Array],
  what: str,
  names: Sequence[str],
  channels: Sequence[str],
) -> Feature:
  """The logarithms of powers, [L] -> [bands], of every channel."""
  labels = [f'{what} {name}' for name in names]
  return per_channel(lambda x: log_power(function(x)), labels, channels)


def band_names(low: np.ndarray, high: np.ndarray, rate: float) -> list[str]:
  """Names of the bands low[i] to high[i], in Hz, or lines where low == high.

  Frequencies are in cycles/sample where the rate is 1.
  """
  top = float(np.max(high))
  scale, unit = (1e-3, 'kHz') if top >= 1000 else (1.0, 'Hz')
  if rate == 1:
    scale, unit = 1.0, 'cycles/sample'
  low, high = scale * low, scale * high
  gaps = np.diff(np.unique(np.concatenate([low, high])))
  gaps = gaps[gaps > 1e-9 * scale * top]
  digits = max(0, 1 - int(np.floor(np.log10(gaps.min())))) if gaps.size else 6
  write = lambda value: np.format_float_positional(value, digits, trim='-')
  return [
    f'{write(a)} {unit}' if a == b else f'{write(a)}-{write(b)} {unit}'
    for a, b in zip(low, high, strict=True)
  ]


def identity(length: int, channels: Sequence[str], rate: float) -> Feature:
  """The samples themselves, flattened; a row [F] is a window of length 1."""
  del rate
  names = tuple(channels)
  if length > 1:
    names = tuple(f'sample {i}, {c}' for i in range(length) for c in channels)
  return Feature(lambda x: x.reshape(-1), names)


def raw(length: int, channels: Sequence[str], rate: float) -> Feature:
  """The window [L, C] as it is, for models that learn their own features."""
  return Feature(lambda x: x, identity(length, channels, rate).names)
