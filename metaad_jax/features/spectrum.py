"""Log power spectrum and log envelope spectrum of one window."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from metaad_jax import base
from metaad_jax.features import feature


def periodogram(x: jax.Array, rate: float, window: np.ndarray) -> jax.Array:
  """One-sided power spectral density, the mean removed.

  [n] signal in any unit u, [n] taper -> [n // 2 + 1] density in u^2 / Hz at the
  multiples of rate / n; the rate is in Hz.
  """
  sides = np.full(len(window) // 2 + 1, 2.0)
  sides[0] = 1.0
  if len(window) % 2 == 0:
    sides[-1] = 1.0
  weights = sides / (rate * np.sum(window**2))
  lines = jnp.fft.rfft(feature.centre(x) * jnp.asarray(window, x.dtype))
  return (lines.real**2 + lines.imag**2) * jnp.asarray(weights, x.dtype)


def power_density(x: jax.Array, rate: float, segments: int = 1) -> jax.Array:
  """Power spectral density by Welch's method with a Hann window, see above.

  k = `segments` half-overlapping segments of n = 2 floor(L / (k + 1)) samples
  of x [L] are averaged; 1 = the whole window.

  P. D. Welch, The use of fast Fourier transform for the estimation of power
  spectra, IEEE Trans. Audio and Electroacoustics 15(2), 1967.
  """
  n = _segment(x.shape[0], segments)
  hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
  if segments == 1:
    return periodogram(x, rate, hann)
  halves = x[: n // 2 * (segments + 1)].reshape(segments + 1, n // 2)
  parts = jnp.concatenate([halves[:-1], halves[1:]], axis=1)
  return jax.vmap(lambda part: periodogram(part, rate, hann))(parts).mean(0)


def envelope(
  x: jax.Array, rate: float, low: float = 0.0, high: float = np.inf
) -> jax.Array:
  """Magnitude of the analytic signal of x [L], its mean removed: [L].

  Only the band from low to high, in Hz, is demodulated.
  """
  length = x.shape[0]
  x = feature.centre(x)
  spectrum = jnp.fft.rfft(x)
  keep = _within(length, rate, low, high)
  if not keep[1:].all():
    spectrum = spectrum * jnp.asarray(keep, x.dtype)
    x = jnp.fft.irfft(spectrum, length)
  quadrature = jnp.fft.irfft(-1j * spectrum, length)
  return jnp.sqrt(x**2 + quadrature**2 + 1e-30)


def log_spectrum(
  length: int,
  channels: Sequence[str],
  rate: float,
  *,
  bins: int = 0,
  low: float = 0.0,
  high: float = 0.0,
  welch: int = 1,
) -> feature.Feature:
  """Log power spectral density of every channel: [L, C] -> [C * bins].

  Args:
    bins: number of linear bands to average into; 0 = every line.
    low: lowest frequency, in Hz.
    high: highest frequency, in Hz; 0 = Nyquist.
    welch: number of half-overlapping segments; 1 = the whole window.
  """
  if welch < 1:
    raise base.DataError(f'logspec: welch={welch} must be 1 or more')
  feature.need(f'logspec:welch={welch}', length, 2 * (welch + 1))
  low, high = _check_band('logspec', rate, low, high)
  n = _segment(length, welch)
  average, names = _bands('logspec', _within(n, rate, low, high), n, rate, bins)
  function = lambda x: average(power_density(x, rate, welch))
  return feature.log_powers(function, 'log-power', names, channels)


def log_envelope_spectrum(
  length: int,
  channels: Sequence[str],
  rate: float,
  *,
  bins: int = 0,
  high: float = 0.0,
  band_low: float = 0.0,
  band_high: float = 0.0,
) -> feature.Feature:
  """Log power spectral density of every channel's envelope: [L, C] -> [C * K].

  Shocks that repeat, such as those of a bearing fault, ring at a resonance;
  demodulating the band around it shows their rate.

  R. B. Randall, J. Antoni, Rolling element bearing diagnostics: a tutorial,
  Mechanical Systems and Signal Processing 25(2), 2011.

  Args:
    bins: number of linear bands to average into; 0 = every line above zero.
    high: highest frequency of the envelope, in Hz; 0 = Nyquist.
    band_low: lower end, in Hz, of the band that is demodulated.
    band_high: its upper end, in Hz; 0 = Nyquist.
  """
  feature.need('envelope', length, 4)
  band = _check_band('envelope band', rate, band_low, band_high)
  if not _within(length, rate, *band)[1:].any():
    raise base.DataError(
      f'envelope: no line of the spectrum, {rate / length:g} Hz apart, lies in '
      f'{band[0]:g} to {band[1]:g} Hz: widen the band or use longer windows'
    )
  lines = _within(length, rate, *_check_band('envelope', rate, 0.0, high))
  lines[0] = False
  average, names = _bands('envelope', lines, length, rate, bins)
  boxcar = np.ones(length)
  function = lambda x: average(
    periodogram(envelope(x, rate, *band), rate, boxcar)
  )
  return feature.log_powers(function, 'envelope', names, channels)


def _segment(length: int, segments: int) -> int:
  return length if segments == 1 else 2 * (length // (segments + 1))


def _within(n: int, rate: float, low: float, high: float) -> np.ndarray:
  """[n // 2 + 1] bool: which lines of an rfft of n samples lie in the band."""
  lines = np.arange(n // 2 + 1) * (rate / n)
  return (lines >= low * (1 - 1e-9)) & (lines <= high * (1 + 1e-9))


def _check_band(
  what: str, rate: float, low: float, high: float
) -> tuple[float, float]:
  """Returns the band, with high = 0 replaced by Nyquist."""
  high = high or rate / 2
  if not 0 <= low < high <= rate / 2 * (1 + 1e-9):
    raise base.DataError(
      f'{what}: {low:g} to {high:g} Hz is not possible at {rate:g} samples per '
      f'second: choose 0 <= low < high <= {rate / 2:g}'
    )
  return low, high


def _bands(
  what: str, lines: np.ndarray, n: int, rate: float, bins: int
) -> tuple[Callable[[jax.Array], jax.Array], list[str]]:
  """How to average lines of an rfft of n samples into bands, 0 = one a line.

  `lines`, [n // 2 + 1] bool, has no gaps. Returns the function [n // 2 + 1] ->
  [bins] and the names of the bands.
  """
  kept = np.flatnonzero(lines)
  if not (kept.size and 0 <= bins <= kept.size):
    raise base.DataError(
      f'{what}: bins={bins} cannot be had from {kept.size} lines, '
      f'{rate / n:g} Hz apart: use fewer bins, a wider range or longer windows'
    )
  first, last = int(kept[0]), int(kept[-1]) + 1
  if bins == 0:
    centres = kept * (rate / n)
    names = feature.band_names(centres, centres, rate)
    return lambda density: density[first:last], names
  edges = np.arange(bins + 1) * kept.size // bins
  band = np.searchsorted(edges, np.arange(kept.size), side='right') - 1
  average = (band[:, None] == np.arange(bins)) / np.diff(edges)
  ends = np.minimum((first + edges) * (rate / n), rate / 2)

  def reduce(density: jax.Array) -> jax.Array:
    weights = jnp.asarray(average, density.dtype)
    return jnp.matmul(density[first:last], weights, precision='highest')

  return reduce, feature.band_names(ends[:-1], ends[1:], rate)
