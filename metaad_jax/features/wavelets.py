"""Discrete wavelet transforms, equal to PyWavelets, and their band energies.

Any discrete wavelet of PyWavelets, whose filters are read from it, and four of
its border modes. Each level is a polyphase sum over contiguous slices, which
XLA turns into a few vector loops, however many windows are vmapped. A NumPy
array is transformed by NumPy, without compilation, and gives NumPy arrays.
"""

from collections.abc import Sequence
import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pywt

from metaad_jax import base, specs
from metaad_jax.features import feature

Array = jax.Array | np.ndarray

# How a signal continues past its ends: PyWavelets' names, and NumPy's.
MODES = {
  'zero': 'constant',
  'symmetric': 'symmetric',
  'reflect': 'reflect',
  'periodization': 'wrap',
}


def dwt(x: Array, wavelet: str, mode: str = 'symmetric') -> tuple[Array, Array]:
  """One level of the discrete wavelet transform of floats [..., L].

  `wavelet` is of `pywt.wavelist(kind='discrete')`, with filters of F taps;
  `mode`, one of `MODES`, is how the signal continues past its ends. Returns
  approximation and detail, [..., floor((L + F - 1) / 2)], or ceil(L / 2) with
  'periodization'.

  S. Mallat, A theory for multiresolution signal decomposition: the wavelet
  representation, IEEE Trans. PAMI 11(7), 1989.
  """
  bank = _filters(wavelet)
  return _split(_extend(x, bank.shape[1], mode), bank)


def wavedec(
  x: Array, wavelet: str, mode: str = 'symmetric', level: int | None = None
) -> list[Array]:
  """Multilevel discrete wavelet transform; arguments as of `dwt`.

  Returns the approximation at the last level, the detail there, ..., the detail
  at level 1, that is, from low to high frequencies. `level` = None goes as deep
  as one coefficient is free of the borders; a deeper one raises DataError.
  """
  details = []
  for _ in range(_check_level(x.shape[-1], wavelet, level)):
    x, detail = dwt(x, wavelet, mode)
    details.append(detail)
  return [x, *reversed(details)]


def wavelet_packet(
  x: Array, wavelet: str, mode: str = 'symmetric', level: int | None = None
) -> Array:
  """Leaves of the full wavelet packet tree; arguments as of `wavedec`.

  Returns [..., 2**level leaves by frequency, coefficients].

  R. R. Coifman, M. V. Wickerhauser, Entropy-based algorithms for best basis
  selection, IEEE Trans. Information Theory 38(2), 1992.
  """
  level = _check_level(x.shape[-1], wavelet, level)
  x = x[..., None, :]
  for _ in range(level):
    pair = _numpy(x).stack(dwt(x, wavelet, mode), axis=-2)
    x = pair.reshape(*x.shape[:-2], -1, pair.shape[-1])
  # Every high-pass branch mirrors the spectrum, hence the Gray code.
  place = np.arange(2**level)
  return x[..., place ^ (place >> 1), :]


def wavelet_energies(
  length: int,
  channels: Sequence[str],
  rate: float,
  *,
  wavelet: str = 'db4',
  level: int = 0,
  mode: str = 'symmetric',
) -> feature.Feature:
  """Log energy of every band of `wavedec`: [L, C] -> [C * (level + 1)].

  The energy of a band is the sum of its squared coefficients over L, the mean
  having been removed: for an orthogonal wavelet with 'periodization', and L a
  multiple of 2**level, the energies add up to the variance.
  `level` 0 goes as deep as possible; `wavelet` and `mode` are those of `dwt`.
  """
  level = _check_options('wavelet', length, wavelet, mode, level)
  zeros = jax.ShapeDtypeStruct((length,), jnp.float32)
  bands = jax.eval_shape(lambda x: wavedec(x, wavelet, mode, level), zeros)
  member = np.repeat(np.eye(level + 1), [b.shape[0] for b in bands], axis=0)

  # One product over all bands: XLA would fuse a sum per band into the filter
  # loops, which then lose their vector form (13 times slower on a CPU).
  def function(x: jax.Array) -> jax.Array:
    bands = wavedec(feature.centre(x), wavelet, mode, level)
    weights = jnp.asarray(member / length, x.dtype)
    squares = jnp.concatenate(bands) ** 2
    return jnp.matmul(squares, weights, precision='highest')

  edges = rate / 2 * np.array([0.0, *0.5 ** np.arange(level, -1, -1)])
  names = feature.band_names(edges[:-1], edges[1:], rate)
  return feature.log_powers(function, 'wavelet energy', names, channels)


def packet_energies(
  length: int,
  channels: Sequence[str],
  rate: float,
  *,
  wavelet: str = 'db4',
  level: int = 4,
  mode: str = 'symmetric',
) -> feature.Feature:
  """The same of the leaves of `wavelet_packet`: [L, C] -> [C * 2**level]."""
  level = _check_options('wavelet_packet', length, wavelet, mode, level)

  def function(x: jax.Array) -> jax.Array:
    leaves = wavelet_packet(feature.centre(x), wavelet, mode, level)
    return jnp.sum(leaves**2, axis=-1) / length

  edges = rate / 2 * np.arange(2**level + 1) / 2**level
  names = feature.band_names(edges[:-1], edges[1:], rate)
  return feature.log_powers(function, 'packet energy', names, channels)


@functools.cache
def _filters(wavelet: str) -> np.ndarray:
  """[2, F] float64: low-pass and high-pass, F even."""
  if wavelet not in pywt.wavelist(kind='discrete'):
    raise base.DataError(
      f'unknown wavelet {wavelet!r}: choose one of '
      "pywt.wavelist(kind='discrete'), such as 'db4'"
    )
  return np.array(pywt.Wavelet(wavelet).filter_bank[:2])


def _check_level(length: int, wavelet: str, level: int | None) -> int:
  """`level`, None = the deepest with a coefficient free of the borders."""
  deepest = pywt.dwt_max_level(length, _filters(wavelet).shape[1])
  level = deepest if level is None else level
  if not 0 <= level <= deepest:
    raise base.DataError(
      f'level={level} of {wavelet!r} is not possible with {length} samples: '
      f'choose 0 to {deepest}, a shorter wavelet or longer windows'
    )
  return level


def _check_options(what, length, wavelet, mode, level):
  """The level of a feature, 0 = the deepest, once its options are checked."""
  taps = _filters(wavelet).shape[1]
  feature.need(f'{what}:wavelet={wavelet}', length, 2 * (taps - 1))
  specs.look_up('wavelet mode', MODES, mode)
  return _check_level(length, wavelet, level or None)


def _extend(x: Array, taps: int, mode: str) -> Array:
  """Continues [..., L] so that `_split` gives what PyWavelets gives."""
  pad_mode = specs.look_up('wavelet mode', MODES, mode)
  length, pad = x.shape[-1], _numpy(x).pad
  others = [(0, 0)] * (x.ndim - 1)
  left, outputs = taps - 2, (length + taps - 1) // 2
  if mode == 'periodization':
    left, outputs = taps // 2 - 1, (length + 1) // 2
    if length % 2:  # an odd length repeats its last sample first
      x = pad(x, [*others, (0, 1)], mode='edge')
  right = 2 * (outputs - 1) + taps - left - x.shape[-1]
  if right < 0:
    x, right = x[..., :right], 0
  return pad(x, [*others, (left, right)], mode=pad_mode)


def _split(x: Array, bank: np.ndarray) -> tuple[Array, Array]:
  """Correlates [..., 2 (K - 1) + F] with the reversed filters, in steps of 2.

  The bank is [2, F]; gives two times [..., K].
  """
  pairs = x.reshape(*x.shape[:-1], -1, 2)
  phases = pairs[..., 0], pairs[..., 1]
  taps = bank.shape[1]
  outputs = pairs.shape[-2] - taps // 2 + 1
  delayed = [phases[i % 2][..., i // 2 : i // 2 + outputs] for i in range(taps)]

  def correlate(filter: np.ndarray) -> Array:
    weights = filter[::-1].astype(x.dtype)
    pairs = zip(weights, delayed, strict=True)
    return functools.reduce(operator.add, (w * part for w, part in pairs if w))

  return correlate(bank[0]), correlate(bank[1])


def _numpy(x: Array) -> Any:
  return np if isinstance(x, np.ndarray) else jnp
