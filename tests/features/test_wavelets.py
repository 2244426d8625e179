import jax
import jax.numpy as jnp
import numpy as np
import pytest
import pywt

from metaad_jax import base, features
from metaad_jax.features import wavelets

DISCRETE = pywt.wavelist(kind='discrete')
FAMILIES = sorted({name.rstrip('0123456789.') for name in DISCRETE})


def noise(*shape, seed=0, dtype=np.float64):
  return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def size(x, wavelet, mode):
  """The largest sample of the signal with its borders continued."""
  return np.abs(pywt.pad(x, pywt.Wavelet(wavelet).dec_len, mode)).max()


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('mode', wavelets.MODES)
def test_dwt_equals_pywavelets_for_every_wavelet(family, mode):
  # numpy arrays take the same path as jax arrays, without compilation
  for wavelet in DISCRETE:
    if wavelet.rstrip('0123456789.') != family:
      continue
    for length in (2, 3, 7, 16, 33, 128):
      x = noise(length)
      want = pywt.dwt(x, wavelet, mode)
      scale = size(x, wavelet, mode)
      single = wavelets.dwt(x.astype(np.float32), wavelet, mode)
      double = wavelets.dwt(x, wavelet, mode)
      for i in (0, 1):
        assert single[i].dtype == np.float32
        note = f'{wavelet}, {length} samples'
        np.testing.assert_allclose(
          single[i], want[i], rtol=0, atol=1e-5 * scale, err_msg=note
        )
        np.testing.assert_allclose(
          double[i], want[i], rtol=0, atol=1e-12 * scale, err_msg=note
        )


@pytest.mark.parametrize('wavelet', ['haar', 'bior3.1', 'db4'])
def test_jitted_dwt_equals_pywavelets(wavelet):
  short, long = noise(7, dtype=np.float32), noise(2, 50, dtype=np.float32)

  @jax.jit
  def transform(short, long):
    return [
      [wavelets.dwt(x, wavelet, mode) for x in (short, long)]
      for mode in wavelets.MODES
    ]

  for mode, found in zip(wavelets.MODES, transform(short, long), strict=True):
    for x, pair in zip((short, long), found, strict=True):
      scale = max(size(row, wavelet, mode) for row in np.atleast_2d(x))
      for a, b in zip(pair, pywt.dwt(x, wavelet, mode, axis=-1), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, atol=1e-5 * scale, err_msg=mode)


@pytest.mark.parametrize('wavelet', ['haar', 'db4', 'sym5', 'coif2', 'rbio2.4'])
@pytest.mark.parametrize('mode', wavelets.MODES)
@pytest.mark.parametrize('length', [128, 131])
def test_wavedec_equals_pywavelets(wavelet, mode, length):
  x = noise(length, dtype=np.float32)
  for level in (0, 2, None):
    found = wavelets.wavedec(x, wavelet, mode, level)
    want = pywt.wavedec(x.astype(np.float64), wavelet, mode, level)
    assert len(found) == len(want)
    scale = max(np.abs(band).max() for band in want)
    for a, b in zip(found, want, strict=True):
      np.testing.assert_allclose(a, b, atol=1e-5 * scale)


@pytest.mark.parametrize('wavelet', ['haar', 'db4', 'sym5', 'bior2.2'])
@pytest.mark.parametrize('mode', wavelets.MODES)
@pytest.mark.parametrize('length', [128, 131])
def test_wavelet_packet_equals_pywavelets(wavelet, mode, length):
  x = noise(length, dtype=np.float32)
  for level in (0, 1, 3):
    found = wavelets.wavelet_packet(x, wavelet, mode, level)
    tree = pywt.WaveletPacket(x.astype(np.float64), wavelet, mode)
    want = (
      [x]
      if level == 0
      else [node.data for node in tree.get_level(level, order='freq')]
    )
    np.testing.assert_allclose(
      found, want, atol=1e-5 * np.abs(np.array(want)).max()
    )


@pytest.mark.parametrize('axis', [0, 1, -2])
def test_transforms_run_along_the_stated_axis(axis):
  x = noise(40, 30, 2)
  np.testing.assert_allclose(
    wavelets.dwt(x, 'db3', axis=axis)[1],
    pywt.dwt(x, 'db3', axis=axis)[1],
    atol=1e-12,
  )
  for a, b in zip(
    wavelets.wavedec(x, 'db2', axis=axis),
    pywt.wavedec(x, 'db2', axis=axis),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, atol=1e-12)
  packet = wavelets.wavelet_packet(x, 'db2', level=2, axis=axis)
  leaf = np.take(packet, 3, axis=axis % 3)
  flat = np.moveaxis(x, axis, -1)
  want = pywt.WaveletPacket(flat[1, 1], 'db2').get_level(2, 'freq')[3].data
  np.testing.assert_allclose(np.moveaxis(leaf, axis % 3, -1)[1, 1], want)


@pytest.mark.parametrize('wavelet', ['haar', 'sym4'])
def test_energies_add_up_to_the_variance(wavelet):
  x = jnp.asarray(5 + noise(256, 1), jnp.float32)
  for name in ('wavelet', 'wavelet_packet'):
    made = features.make(
      f'{name}:wavelet={wavelet},level=3,mode=periodization',
      x.shape,
      rate=1.0,
    )
    np.testing.assert_allclose(
      np.exp(jax.jit(made.apply)(x)).sum(), np.var(x), rtol=1e-5
    )


def test_features_are_the_log_energies_of_the_bands():
  x = noise(200, dtype=np.float32)
  d = x.astype(np.float64) - x.mean(dtype=np.float64)
  bands = pywt.wavedec(d, 'sym4', 'reflect', level=3)
  leaves = pywt.WaveletPacket(d, 'sym4', 'reflect').get_level(3, 'freq')
  for name, parts in (
    ('wavelet', bands),
    ('wavelet_packet', [leaf.data for leaf in leaves]),
  ):
    spec = f'{name}:wavelet=sym4,level=3,mode=reflect'
    made = features.make(spec, (200, 1), rate=1.0)
    found = jax.jit(made.apply)(x[:, None])
    want = [np.log(np.sum(part**2) / 200) for part in parts]
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


def test_level_zero_goes_as_deep_as_possible():
  for length in (14, 112, 1024):
    made = features.make('wavelet', (length, 1), rate=1.0)
    assert len(made.names) == pywt.dwt_max_level(length, 'db4') + 1


@pytest.mark.parametrize(
  'call, message',
  [
    (lambda x: wavelets.dwt(x, 'morl'), "unknown wavelet 'morl'"),
    (lambda x: wavelets.dwt(x, 'db4', 'wrap'), "mode 'wrap'.*periodic"),
    (lambda x: wavelets.wavedec(x, 'db4', level=4), 'level=4.*0 to 3'),
    (lambda x: wavelets.wavedec(x, 'db4', level=-1), 'level=-1'),
    (lambda x: wavelets.wavelet_packet(x, 'db20', level=1), '0 to 0'),
  ],
)
def test_bad_options(call, message):
  with pytest.raises(base.DataError, match=message):
    call(np.zeros(64))
