"""Features: what all promise, spectra and statistics against SciPy."""

import itertools
import pathlib
import re

import fast
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import scipy.stats

from metaad_jax import base, features
from metaad_jax.features import feature, spectrum, time_statistics

LENGTH, CHANNELS, RATE = 64, 2, 1000.0
SPECS = [
  'envelope',
  'identity',
  'logspec',
  'statistics',
  'wavelet:wavelet=db2,level=2',
  'wavelet_packet:wavelet=haar,level=2,mode=periodization',
  'logspec:bins=7,low=100,high=400,welch=3',
  'envelope:bins=6,high=200,band_low=100,band_high=300',
]
# outputs that a gain of g raises by 2 log g, by log g, or not at all
LOG_POWER = ('log-power', 'envelope', 'wavelet energy', 'packet energy')
LOG_SIZE = ('log RMS', 'log standard deviation', 'log peak-to-peak')
SIZE = ('mean', 'sample')


def make(spec, shape=(LENGTH, CHANNELS), rate=RATE, **options):
  return features.make(spec, shape, rate=rate, **options)


def noise(*shape, seed=0, dtype=np.float32):
  return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def probe_windows():
  """Edge cases, then x, x with channel 1 changed, and 8 x."""
  impulse, first = np.zeros((2, LENGTH, CHANNELS))
  impulse[LENGTH // 3, 0] = first[0] = 1.0
  ramp = np.linspace(-1, 1, LENGTH)
  square = np.sign(np.sin(0.7 * np.arange(LENGTH)))
  x = noise(LENGTH, CHANNELS)
  other = x.copy()
  other[:, 1] += noise(LENGTH, seed=1)
  constant = [np.full((LENGTH, CHANNELS), value) for value in (0, 0.1, -1e4)]
  edges = [*constant, impulse, first, np.stack([ramp, square], axis=1)]
  scaled = [1e4 * x, 1e-4 * x, 1e4 + 1e-3 * x]
  return np.stack([*edges, *scaled, x, other, 8 * x]).astype(np.float32)


def probe(made):
  """Outputs and gradients of a sum of outputs at the probe windows."""
  weights = jnp.asarray(noise(len(made.names), seed=1))

  def value(x):
    out = made.apply(x)
    return out @ weights, out

  run = fast.jit(jax.vmap(jax.grad(value, has_aux=True)))
  gradients, outputs = run(probe_windows())
  return made, np.asarray(outputs), np.asarray(gradients)


# ---- what every feature has to do


@pytest.fixture(scope='module', params=SPECS)
def probed(request):
  return probe(make(request.param))


def test_every_feature_is_tried():
  tried = {spec.partition(':')[0] for spec in SPECS} | {'raw'}
  assert tried == set(features.REGISTRY)


def test_names_and_dtype_fit_the_finite_outputs(probed):
  made, outputs, gradients = probed
  assert outputs.dtype == np.float32
  assert outputs.shape[1:] == (len(made.names),)
  assert len(set(made.names)) == len(made.names)
  assert np.isfinite(outputs).all() and np.isfinite(gradients).all()
  # Mapped over windows, a feature is what it is of one.
  alone = fast.jit(made.apply)(probe_windows()[-3])
  np.testing.assert_allclose(alone, outputs[-3], rtol=2e-5, atol=2e-5)


def test_channels_are_separate_and_in_order(probed):
  made, outputs, _ = probed
  same = outputs[-3] == outputs[-2]
  of_channel_0 = np.array([name.endswith('ch 0') for name in made.names])
  assert same[of_channel_0].all()
  # counts of zero crossings may agree by chance, nothing else does
  counts = np.array(['zero-crossing' in name for name in made.names])
  assert not same[~of_channel_0 & ~counts].any()


def test_gain_moves_the_outputs_as_their_names_say(probed):
  made, outputs, _ = probed
  for name, a, b in zip(made.names, outputs[-3], outputs[-1], strict=True):
    if name.startswith(LOG_POWER):
      want = a + 2 * np.log(8)
    elif name.startswith(LOG_SIZE):
      want = a + np.log(8)
    else:
      want = 8 * a if name.startswith(SIZE) else a
    np.testing.assert_allclose(b, want, rtol=1e-5, atol=1e-5, err_msg=name)


def test_gradients_equal_central_differences_in_float64(probed):
  made, _, _ = probed
  with jax.enable_x64(True):
    x, step = (
      noise(LENGTH, CHANNELS, seed=seed, dtype=np.float64) for seed in (0, 1)
    )
    weights = jnp.asarray(noise(len(made.names), seed=2, dtype=np.float64))
    smooth = jnp.array(['zero-crossing' not in name for name in made.names])

    def value(x):
      outputs = made.apply(x)
      assert outputs.dtype == jnp.float64
      return jnp.where(smooth, outputs, 0) @ weights

    h = 1e-6
    run = fast.jit(jax.vmap(jax.value_and_grad(value)))
    values, gradients = run(np.stack([x + h * step, x - h * step, x]))
    slope = (values[0] - values[1]) / (2 * h)
    np.testing.assert_allclose(np.vdot(gradients[2], step), slope, rtol=1e-5)


# ---- names and specs


def test_join_concatenates_in_order_and_tells_namesakes_apart():
  x = noise(LENGTH, CHANNELS)
  joined = make('logspec:bins=4+identity')
  parts = [make('logspec:bins=4'), make('identity')]
  assert joined.names == sum((part.names for part in parts), ())
  want = np.concatenate([part.apply(x) for part in parts])
  np.testing.assert_allclose(joined.apply(x), want, rtol=1e-5, atol=1e-6)
  names = make('logspec:bins=2+logspec:bins=2,welch=3', (64, 1)).names
  assert len(set(names)) == 4
  assert names[0].endswith('[logspec:bins=2]')
  assert names[2].endswith('[logspec:bins=2,welch=3]')


def test_identity_flattens_and_raw_keeps_the_window():
  row = make('identity', (3,), None, channels=('load', 'heat', 'flow'))
  assert row.names == ('load', 'heat', 'flow')
  np.testing.assert_array_equal(row.apply(jnp.arange(3.0)), [0, 1, 2])
  window = jnp.arange(4.0).reshape(2, 2)
  identity, raw = make('identity', (2, 2)), make('raw', (2, 2))
  np.testing.assert_array_equal(identity.apply(window), [0, 1, 2, 3])
  np.testing.assert_array_equal(raw.apply(window), window)
  names = [f'sample {i}, ch {c}' for i in (0, 1) for c in (0, 1)]
  assert list(identity.names) == list(raw.names) == names


@pytest.mark.parametrize(
  'spec, length, rate, names',
  [
    ('logspec:bins=2', 8, 8000.0, ['log-power 0-2 kHz', 'log-power 2-4']),
    ('logspec', 4, 100.0, ['power 0 Hz', 'power 25 Hz', 'power 50 Hz']),
    ('logspec:bins=1', 8, None, ['log-power 0-0.5 cycles/sample, ch 0']),
    ('envelope', 4, 100.0, ['envelope 25 Hz', 'envelope 50 Hz']),
    ('wavelet:wavelet=haar,level=2', 8, 8000.0, ['0-1 kHz', '1-2', '2-4 kHz']),
    ('wavelet_packet:wavelet=haar,level=1', 8, 100.0, ['0-25 Hz', '25-50 Hz']),
  ],
)
def test_names_give_the_bands(spec, length, rate, names):
  for text, part in zip(
    make(spec, (length, 1), rate).names, names, strict=True
  ):
    assert part in text


@pytest.mark.parametrize(
  'spec, rate, tones',
  [
    ('logspec:bins=20', 8000.0, (100.0, 1500.0, 3900.0)),
    ('logspec:bins=16,low=1000,high=3000', 8000.0, (1100.0, 2900.0)),
    ('logspec:bins=10,welch=4', 8000.0, (600.0, 3800.0)),
    ('wavelet:wavelet=db6', 8000.0, (700.0, 1500.0, 3000.0)),
    ('wavelet_packet:level=3', 8000.0, (250.0, 1250.0, 3750.0)),
  ],
)
def test_a_tone_is_loudest_in_the_band_that_names_it(spec, rate, tones):
  made = make(spec, (400, 1), rate)
  t = np.arange(400) / rate
  x = np.sin(2 * np.pi * np.outer(tones, t))[..., None]
  outputs = fast.jit(jax.vmap(made.apply))(x.astype(np.float32))
  for tone, output in zip(tones, outputs, strict=True):
    loudest = made.names[int(np.argmax(output))]
    low, high = map(float, re.findall(r'([\d.]+)-([\d.]+) kHz', loudest)[0])
    assert low <= tone / 1000 <= high, (tone, loudest)


@pytest.mark.parametrize(
  'spec, shape, rate, message',
  [
    ('spectrum', (64, 1), 1.0, r"unknown feature 'spectrum'.*logspec"),
    ('logspec:bands=3', (64, 1), 1.0, r"no option 'bands'.*bins"),
    ('logspec:bins=99', (64, 1), 1.0, r'bins=99.*33 lines'),
    ('logspec:bins=-1', (64, 1), 1.0, r'bins=-1'),
    ('logspec:welch=0', (64, 1), 1.0, r'welch=0 must be'),
    ('logspec:welch=40', (64, 1), 1.0, r'welch=40.*at least 82'),
    ('logspec:high=4000', (64, 1), None, r'0 to 4000 Hz.*<= 0.5'),
    ('logspec:low=600,high=500', (64, 1), 2e3, r'600 to 500'),
    ('envelope', (3, 1), 1.0, r'at least 4 samples, these have 3'),
    ('envelope:band_low=2,band_high=3', (64, 1), 100.0, r'no line'),
    ('statistics', (1, 1), 1.0, r'at least 2 samples'),
    ('wavelet', (13, 1), 1.0, r'at least 14 samples'),
    ('wavelet:level=9', (64, 1), 1.0, r'level=9.*0 to 3'),
    ('wavelet_packet:level=-1', (64, 1), 1.0, r'level=-1'),
    ('wavelet:wavelet=mexh', (64, 1), 1.0, r"unknown wavelet 'mexh'"),
    ('wavelet_packet:mode=mirror', (64, 1), 1.0, r"mode 'mirror'.*symmetric"),
    ('logspec', (5,), 1.0, r"windows \(L, C\), not rows.*'identity'"),
    ('raw+statistics', (64, 1), 1.0, r"'raw'.*stands alone"),
    ('statistics+statistics', (64, 1), 1.0, r'twice'),
    ('identity', (0, 1), None, r'shape \(0, 1\)'),
    ('logspec', (64, 1), 0.0, r'rate 0.0 Hz must be positive'),
  ],
)
def test_bad_requests_say_what_to_do(spec, shape, rate, message):
  with pytest.raises(base.DataError, match=message):
    make(spec, shape, rate)


@pytest.mark.parametrize('channels', [('a',), ('a', 'a')])
def test_channel_names_must_fit(channels):
  with pytest.raises(base.DataError, match='give 2 different names'):
    make('statistics', channels=channels)


# ---- spectra


power_density = fast.jit(spectrum.power_density, static_argnums=(1, 2))


@pytest.mark.parametrize('length', [64, 63])
@pytest.mark.parametrize('segments', [1, 2, 3])
def test_power_density_equals_scipy(length, segments):
  n = length if segments == 1 else 2 * (length // (segments + 1))
  x = 3 + noise(length, dtype=np.float64)
  used = length if segments == 1 else n // 2 * (segments + 1)
  _, want = scipy.signal.welch(x[:used], RATE, 'hann', n, n // 2)
  with jax.enable_x64(True):
    density = power_density(jnp.asarray(x), RATE, segments)
  np.testing.assert_allclose(density, want, rtol=1e-9)
  single = power_density(x.astype(np.float32), RATE, segments)
  np.testing.assert_allclose(single, want, rtol=1e-5, atol=1e-5 * want.mean())


def test_logspec_is_the_log_of_averaged_lines():
  x = noise(200)
  density = scipy.signal.periodogram(x, RATE, 'hann')[1]
  kept = density[20:61]  # 100 to 300 Hz, 5 Hz apart
  edges = [0, 10, 20, 30, 41]
  want = [np.log(kept[a:b].mean()) for a, b in itertools.pairwise(edges)]
  for bins, value in ((4, want), (0, np.log(kept))):
    made = make(f'logspec:bins={bins},low=100,high=300', (200, 1))
    powers = fast.jit(made.apply)(x[:, None])
    np.testing.assert_allclose(powers, value, rtol=1e-4)


def test_log_power_floor_is_100_db_below_the_mean():
  floor = feature.log_power(jnp.array([1.0, 0.0, 0.0, 0.0]))[1]
  np.testing.assert_allclose(floor, np.log(0.25e-10), rtol=1e-6)


@pytest.mark.parametrize('length', [64, 63])
@pytest.mark.parametrize('band', [(0.0, 500.0), (100.0, 300.0)])
def test_envelope_equals_scipy(length, band):
  x = noise(length, dtype=np.float64)
  lines = np.fft.rfft(x - x.mean())
  frequency = np.fft.rfftfreq(length, 1 / RATE)
  lines[(frequency < band[0]) | (frequency > band[1])] = 0
  want = np.abs(scipy.signal.hilbert(np.fft.irfft(lines, length)))
  with jax.enable_x64(True):
    envelope = fast.jit(lambda x: spectrum.envelope(x, RATE, *band))(x)
  np.testing.assert_allclose(envelope, want, rtol=1e-9)
  made = make(f'envelope:band_low={band[0]},band_high={band[1]}', (length, 1))
  found = np.exp(fast.jit(made.apply)(x.astype(np.float32)[:, None]))
  density = scipy.signal.periodogram(want, RATE)[1][1:]
  np.testing.assert_allclose(
    found, density, rtol=1e-5, atol=1e-5 * density.mean()
  )


def test_demodulation_finds_the_rate_of_shocks():
  t = np.arange(1000) / RATE
  # ringing at 300 Hz, struck 20 times a second, under a strong 50 Hz hum
  x = np.exp(-60 * (t % 0.05)) * np.sin(2 * np.pi * 300 * (t % 0.05))
  x += 3 * np.sin(2 * np.pi * 50 * t)
  made = make('envelope:high=100,band_low=200,band_high=400', (1000, 1))
  loudest = made.names[int(np.argmax(fast.jit(made.apply)(x[:, None])))]
  assert loudest == 'envelope 20 Hz, ch 0'


@pytest.mark.parametrize('value', [0.1, -0.3, 12345.678])
def test_centre_makes_a_constant_window_exactly_zero(value):
  x = np.full(1001, value, np.float32)
  assert not np.any(feature.centre(x))
  x[500] += 1.0  # and keeps small signals on large offsets
  d = x.astype(np.float64)
  d -= d.mean()
  np.testing.assert_allclose(feature.centre(x), d, rtol=1e-5, atol=1e-7)


# ---- statistics


describe = fast.jit(time_statistics.describe)


def described(x):
  values = describe(jnp.asarray(x, jnp.float32))
  return dict(zip(time_statistics.LABELS, np.asarray(values), strict=True))


def test_statistics_equal_hand_computed_ones():
  found = described([1.0, 5.0, 1.0, 1.0])  # d = -1, 3, -1, -1; s^2 = 3
  s = np.sqrt(3)
  want = {
    'mean': 2.0, 'log RMS': 0.5 * np.log(7.0),
    'log standard deviation': 0.5 * np.log(3.0), 'skewness': 6 / s**3,
    'excess kurtosis': 21 / 9 - 3, 'crest factor': 3 / s,
    'shape factor': s / 1.5, 'log peak-to-peak': np.log(4.0),
    'zero-crossing rate': 2 / 3, 'log mobility': 0.5 * np.log(32 / 3 / 3),
  }  # fmt: skip
  assert list(found) == list(want)
  np.testing.assert_allclose([*found.values()], [*want.values()], rtol=1e-6)


def test_skewness_and_kurtosis_equal_scipy():
  for scale in (1e-6, 1e6):
    x = scale * np.random.default_rng(0).gamma(2.0, size=500)
    found = described(x)
    skew, kurtosis = found['skewness'], found['excess kurtosis']
    np.testing.assert_allclose(skew, scipy.stats.skew(x), rtol=1e-5)
    np.testing.assert_allclose(kurtosis, scipy.stats.kurtosis(x), rtol=1e-5)


def test_statistics_of_a_constant_window():
  found = described(np.full(10, 5.0))
  ratios = ('skewness', 'crest factor', 'shape factor', 'zero-crossing rate')
  assert all(found[key] == 0 for key in ratios)
  assert found['excess kurtosis'] == -3
  assert found['log standard deviation'] == pytest.approx(np.log(1e-12))
  assert found['log peak-to-peak'] == pytest.approx(np.log(1e-12))


# ---- the page

PAGE = pathlib.Path(__file__).parents[2] / 'docs' / 'features.md'


def test_the_example_of_the_page_runs(monkeypatch):
  (block,) = re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL)
  monkeypatch.setattr(features, 'REGISTRY', dict(features.REGISTRY))
  exec(compile(block, str(PAGE), 'exec'), {})
  probed = made, outputs, _ = probe(make('autocorrelation:lags=2'))
  x = probe_windows()[-3]
  d = x[:, 1] - x[:, 1].mean()
  want = np.sum(d[2:] * d[:-2]) / np.sum(d * d)
  at = made.names.index('autocorrelation at 0.002 s, ch 1')
  np.testing.assert_allclose(outputs[-3][at], want, rtol=1e-4)
  test_names_and_dtype_fit_the_finite_outputs(probed)
  test_channels_are_separate_and_in_order(probed)
  test_gain_moves_the_outputs_as_their_names_say(probed)
  test_gradients_equal_central_differences_in_float64(probed)


def test_the_page_lists_every_feature_and_option():
  for name, factory in features.REGISTRY.items():
    for word in (name, *(factory.__kwdefaults__ or {})):
      assert f'`{word}`' in PAGE.read_text(), (name, word)
