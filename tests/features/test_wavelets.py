"""Wavelet transforms equal PyWavelets; energies are those of its bands."""

import fast
import jax.numpy as jnp
import numpy as np
import pytest
import pywt

from metaad_jax import base, features
from metaad_jax.features import wavelets

DISCRETE = pywt.wavelist(kind='discrete')


def noise(*shape, seed=0, dtype=np.float64):
  return np.random.default_rng(seed).normal(size=shape).astype(dtype)


@pytest.mark.parametrize('mode', wavelets.MODES)
def test_dwt_equals_pywavelets_for_every_wavelet(mode):
  # NumPy arrays take the same path as JAX's, without compilation.
  for wavelet in DISCRETE:
    for length in (2, 7, 16, 33, 128):
      x = noise(length)
      want = np.array(pywt.dwt(x, wavelet, mode))
      for dtype, rounding in ((np.float32, 3e-5), (np.float64, 3e-12)):
        bands = wavelets.dwt(x.astype(dtype), wavelet, mode)
        assert bands[0].dtype == bands[1].dtype == dtype
        atol = rounding * max(1, np.abs(x).max())
        np.testing.assert_allclose(bands, want, 0, atol, err_msg=wavelet)


def test_jitted_transforms_equal_pywavelets():
  x = noise(2, 51, dtype=np.float32)
  transform = lambda x: [
    wavelets.dwt(x, 'bior3.1', mode) for mode in wavelets.MODES
  ]
  for mode, bands in zip(wavelets.MODES, fast.jit(transform)(x), strict=True):
    want = pywt.dwt(x, 'bior3.1', mode, axis=-1)
    for a, b in zip(bands, want, strict=True):
      assert a.dtype == jnp.float32
      np.testing.assert_allclose(a, b, atol=1e-5, err_msg=mode)


@pytest.mark.parametrize('wavelet', ['haar', 'db4', 'rbio2.4'])
@pytest.mark.parametrize('mode', wavelets.MODES)
def test_levels_and_packets_equal_pywavelets(wavelet, mode):
  for length in (128, 131):
    x = noise(length)
    for level in (0, 2, None):
      bands = wavelets.wavedec(x, wavelet, mode, level)
      want = pywt.wavedec(x, wavelet, mode, level)
      for a, b in zip(bands, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)
    assert wavelets.wavelet_packet(x, wavelet, mode, 0).shape == (1, length)
    tree = pywt.WaveletPacket(x, wavelet, mode)
    for level in (1, 3):
      leaves = [leaf.data for leaf in tree.get_level(level, order='freq')]
      found = wavelets.wavelet_packet(x, wavelet, mode, level)
      np.testing.assert_allclose(found, leaves, atol=1e-10)


def test_transforms_run_along_the_last_axis():
  x = noise(3, 2, 40)
  want = pywt.wavedec(x, 'db2', axis=-1)
  for a, b in zip(wavelets.wavedec(x, 'db2'), want, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-12)
  leaf = wavelets.wavelet_packet(x, 'db2', level=2)[2, 1, 3]
  want = pywt.WaveletPacket(x[2, 1], 'db2').get_level(2, 'freq')[3].data
  np.testing.assert_allclose(leaf, want, atol=1e-12)


@pytest.mark.parametrize('name', ['wavelet', 'wavelet_packet'])
def test_energies_add_up_to_the_variance(name):
  x = jnp.asarray(5 + noise(256, 1), jnp.float32)
  spec = f'{name}:wavelet=sym4,level=3,mode=periodization'
  made = features.make(spec, x.shape, rate=1.0)
  energies = np.exp(fast.jit(made.apply)(x))
  np.testing.assert_allclose(energies.sum(), np.var(x), rtol=1e-5)


def test_features_are_the_log_energies_of_the_bands():
  x = noise(200, dtype=np.float32)
  d = x.astype(np.float64) - x.mean(dtype=np.float64)
  leaves = pywt.WaveletPacket(d, 'sym4', 'reflect').get_level(3, 'freq')
  bands = {
    'wavelet': pywt.wavedec(d, 'sym4', 'reflect', level=3),
    'wavelet_packet': [leaf.data for leaf in leaves],
  }
  for name, parts in bands.items():
    spec = f'{name}:wavelet=sym4,level=3,mode=reflect'
    made = features.make(spec, (200, 1), rate=1.0)
    energies = fast.jit(made.apply)(x[:, None])
    want = [np.log(np.sum(part**2) / 200) for part in parts]
    np.testing.assert_allclose(energies, want, rtol=1e-5, atol=1e-5)


def test_level_zero_goes_as_deep_as_possible():
  for length in (14, 112, 1024):
    made = features.make('wavelet', (length, 1), rate=1.0)
    assert len(made.names) == pywt.dwt_max_level(length, 'db4') + 1


@pytest.mark.parametrize(
  'call, message',
  [
    (lambda x: wavelets.dwt(x, 'morl'), "unknown wavelet 'morl'"),
    (lambda x: wavelets.dwt(x, 'db4', 'wrap'), "mode 'wrap'.*symmetric"),
    (lambda x: wavelets.wavedec(x, 'db4', level=4), 'level=4.*0 to 3'),
    (lambda x: wavelets.wavedec(x, 'db4', level=-1), 'level=-1'),
    (lambda x: wavelets.wavelet_packet(x, 'db20', level=1), '0 to 0'),
  ],
)
def test_bad_options(call, message):
  with pytest.raises(base.DataError, match=message):
    call(np.zeros(64))
