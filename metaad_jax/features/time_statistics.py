"""Statistics of the samples of one window."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from metaad_jax.features import feature

_TINY = 1e-24  # added to squares; rsqrt keeps a finite float32 gradient

LABELS = (
  'mean', 'log RMS', 'log standard deviation', 'skewness', 'excess kurtosis',
  'crest factor', 'shape factor', 'log peak-to-peak', 'zero-crossing rate',
  'log mobility',
)  # fmt: skip


def describe(x: jax.Array) -> jax.Array:
  """The statistics of `LABELS` of one channel: [L] -> [10], L >= 2.

  With d the samples less their mean and s their standard deviation (divisor
  L): skewness is mean(d^3) / s^3, excess kurtosis mean(d^4) / s^4 - 3, crest
  factor max|d| / s, shape factor s / mean|d|, zero-crossing rate the fraction
  of neighbours in d on two sides of zero, and mobility the root mean square of
  the differences of neighbours over s (B. Hjorth, EEG analysis based on time
  domain properties, Electroencephalography and Clinical Neurophysiology 29(3),
  1970). A constant window has s = 0; its ratios are 0, its excess kurtosis -3,
  and the logs of zero end at log 1e-12.
  """
  d = feature.centre(x)
  variance = jnp.mean(d**2)
  z = d * jax.lax.rsqrt(variance + _TINY)
  spread = jnp.mean(jnp.abs(z))
  steps = jnp.mean(jnp.diff(d) ** 2)
  above = d > 0
  return jnp.stack(
    [
      x.mean(),
      _log_root(jnp.mean(x**2)),
      _log_root(variance),
      jnp.mean(z**3),
      jnp.mean(z**4) - 3,
      jnp.max(jnp.abs(z)),
      jnp.mean(z**2) / (spread + 1e-12),
      jnp.log(x.max() - x.min() + 1e-12),
      jnp.mean(above[1:] != above[:-1], dtype=x.dtype),
      _log_root(steps) - _log_root(variance),
    ]
  )


def statistics(
  length: int, channels: Sequence[str], rate: float
) -> feature.Feature:
  """The ten statistics of `describe`, of every channel: [L, C] -> [C * 10]."""
  del rate
  feature.need('statistics', length, 2)
  return feature.per_channel(describe, LABELS, channels)


def _log_root(square: jax.Array) -> jax.Array:
  return 0.5 * jnp.log(square + _TINY)
