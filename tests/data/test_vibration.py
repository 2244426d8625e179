"""The simulated machines: lines, ringing and slip where the formulas put them,
and a fleet that is neither trivial nor hopeless."""

import functools

import fast
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
import scipy.signal
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from metaad_jax import features
from metaad_jax.base import DataError
from metaad_jax.data import audits, registry
from metaad_jax.data import rotating_machines as machines
from metaad_jax.data.datasets import vibration

RATE = 12000.0
LONG = 12000  # one second: the bins are 1 Hz apart
SKF_6205 = dict(balls=9.0, ball_ratio=0.3126 / 1.537, contact_angle=0.0)
FAULT = {name: i for i, name in enumerate(machines.FAULTS)}
render = jax.jit(machines.render, static_argnames=('length', 'rate'))
long_window = functools.partial(render, length=LONG)


@pytest.fixture(scope='module')
def still():
  """A machine that makes no sound and does not wander; an SKF 6205 in it."""
  machine = fast.jit(machines.draw_machine)(jax.random.key(3))
  return changed(
    silenced(machine, 'shaft', 'mesh', 'tones', 'floor', 'growth', 'shock'),
    shaft_hz=30.0, mode_hz=3000.0, damping=0.05, slip=0.005, modulation=0.5,
    impacts_per_spin=2.0, **SKF_6205,
  )  # fmt: skip


def changed(machine, **values):
  """The machine with numbers, or arrays, for some of its entries."""
  fill = lambda name, value: jnp.full_like(machine[name], value)
  return machine | {name: fill(name, value) for name, value in values.items()}


def silenced(machine, *names):
  """Without these amplitudes, and without what wanders or shifts."""
  moving = [n for n in machine if n.endswith(('_wander', '_shift'))]
  return changed(machine, **dict.fromkeys([*names, *moving], 0.0))


def amplitudes(wave):
  """[bins] of the sines in a window of whole periods."""
  return 2 * np.abs(np.fft.rfft(wave)) / len(wave)


def spectrum_of(seed, machine, fault='outer', severity=0.0):
  key = jax.random.key(seed)
  return amplitudes(long_window(key, machine, FAULT[fault], severity))


def envelope_spectrum(wave):
  envelope = np.abs(scipy.signal.hilbert(np.asarray(wave, float)))
  return amplitudes(envelope - envelope.mean())


def test_bearing_frequencies_of_skf_6205():
  orders = machines.fault_frequencies(1.0, **SKF_6205)
  np.testing.assert_allclose(orders, [3.5848, 5.4152, 2.357, 0.3983], atol=5e-4)


@pytest.mark.parametrize('fault', ['outer', 'inner', 'ball'])
def test_envelope_peaks_at_the_fault_frequency(still, fault):
  wave = long_window(jax.random.key(0), still, FAULT[fault], 1.0)
  outer, inner, spin, cage = machines.fault_frequencies(30.0, **SKF_6205)
  expected, beat = {
    'outer': (outer, None), 'inner': (inner, 30.0), 'ball': (2 * spin, cage)
  }[fault]  # fmt: skip
  spectrum = envelope_spectrum(wave)
  assert abs(np.argmax(spectrum) - expected) <= 1
  near = lambda hz: spectrum[round(float(hz)) - 1 : round(float(hz)) + 2].max()
  if beat is not None:
    assert near(beat) > 5 * np.median(spectrum)
    for side in (expected - beat, expected + beat):
      assert near(side) > 0.15 * near(expected)
  else:
    for side in (expected - 30, expected + 30):
      assert near(side) < 0.1 * near(expected)


def test_response_is_the_decaying_sines(still):
  machine = changed(still, mode_hz=jnp.array([1500.0, 2700.0, 3400.0, 5000.0]))
  _, response = machines._structure(machine, 1024, RATE)
  time = np.arange(1024)[:, None] / RATE
  omega = 2 * np.pi * np.asarray(machine['mode_hz'], float)
  rings = np.exp(-0.05 * omega * time) * np.sin(
    omega * np.sqrt(1 - 0.05**2) * time
  )
  np.testing.assert_allclose(
    np.fft.irfft(response, n=1024), rings @ still['mode_gain'], atol=1e-4
  )


def test_bearing_signal_is_proportional_to_severity(still):
  waves = [
    np.asarray(long_window(jax.random.key(2), still, FAULT['inner'], s))
    for s in (0.0, 0.5, 1.0)
  ]
  assert not waves[0].any()
  assert waves[2].any()
  np.testing.assert_allclose(waves[2], 2 * waves[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('slip', [0.005, 0.02])
def test_slip_jitters_the_intervals_and_keeps_the_mean_rate(still, slip):
  length, order = 2**19, 3.58482108
  with jax.enable_x64(True):
    machine = {k: v.astype(float) for k, v in still.items()}
    train = np.asarray(
      machines._impacts(
        changed(machine, slip=slip),
        jnp.asarray(FAULT['outer']),
        jnp.array([0.001]),
        jnp.array([0.3, 0.6]),
        jax.random.uniform(jax.random.key(4), (length,)),
      )
    )
  assert set(np.unique(train)) == {0.0, 1.0}
  intervals = np.diff(np.flatnonzero(train))
  expected = length * 0.001 * order
  # A random walk: the count's deviation is the slip times its square root.
  assert abs(train.sum() - expected) < 4 * slip * np.sqrt(expected) + 1
  deviation = np.sqrt(slip**2 + (0.001 * order) ** 2 / 6)  # whole samples
  assert intervals.std() / intervals.mean() == pytest.approx(deviation, rel=0.1)


def test_shaft_harmonics_have_their_amplitudes(still):
  shaft = jnp.arange(1.0, 1 + len(machines.ORDERS))
  spectrum = spectrum_of(5, changed(still, shaft=shaft))
  np.testing.assert_allclose(
    spectrum[(30 * machines.ORDERS).astype(int)], shaft, rtol=1e-3
  )
  np.testing.assert_allclose(np.sum(spectrum**2), np.sum(shaft**2), rtol=1e-3)


@pytest.mark.parametrize(
  'fault, grown, still_there',
  [
    ('imbalance', [1], [0.5, 1.5, 2, 2.5, 3, 4, 10]),
    ('misalignment', [2, 3], [0.5, 1.5, 2.5, 4, 10]),
    ('looseness', [0.5, 1, 1.5, 2, 2.5, 3, 4.5, 10], []),
    ('outer', [], [0.5, 1, 2, 3]),
  ],
)
def test_shaft_faults_grow_their_harmonics(still, fault, grown, still_there):
  machine = changed(still, shaft=1.0, growth=2.0, impact=0.0)
  spectrum = spectrum_of(6, machine, fault, 1.0)
  for order in grown:
    assert spectrum[int(30 * order)] > 1.3, order
  for order in still_there:
    assert spectrum[int(30 * order)] == pytest.approx(1.0, rel=1e-3), order
  if fault == 'imbalance':
    assert spectrum[30] == pytest.approx(3.0, rel=1e-3)


def test_gear_mesh_and_its_sidebands(still):
  a, b = 0.4, 0.3
  mesh, sidebands = jnp.array([1.5, 0.0, 0.7]), jnp.array([a, b])
  machine = changed(still, teeth=23.0, mesh=mesh, sidebands=sidebands)
  spectrum = spectrum_of(7, machine)
  # cos(m)(1 + a cos(s)) + b sin(m) sin(s), multiplied out.
  for order, amplitude in ((1, 1.5), (3, 0.7)):
    mesh = order * 23 * 30
    np.testing.assert_allclose(
      spectrum[[mesh, mesh - 30, mesh + 30]],
      amplitude * np.array([1, (a + b) / 2, (a - b) / 2]),
      rtol=5e-3,
    )
  assert spectrum[2 * 23 * 30] < 1e-3


def test_lines_beyond_the_nyquist_frequency_are_filtered_out(still):
  machine = changed(
    still, teeth=79.0, mesh=1.0, tone_hz=7000.0, tones=1.0, sidebands=0.0,
    shaft_hz=60.0,
  )  # fmt: skip
  spectrum = spectrum_of(8, machine)
  assert spectrum[4740] == pytest.approx(1.0, rel=1e-2)
  assert spectrum[12000 - 2 * 4740] < 1e-2  # where 2 x 4740 Hz would alias
  assert spectrum[5000] < 1e-2  # and 7000 Hz


@pytest.mark.parametrize('part', range(3))
def test_noise_floor_has_its_rms(still, part):
  floor = jnp.zeros(3).at[part].set(2.0)
  power = spectrum_of(9, changed(still, floor=floor)) ** 2
  assert np.sqrt(power.sum() / 2) == pytest.approx(2.0, rel=0.08)
  halves = power[: LONG // 4].sum() / power.sum()
  if part == 0:
    assert halves == pytest.approx(0.5, abs=0.04)
  if part == 1:
    assert halves > 0.7


def test_shocks_come_at_their_rate_and_strength(still):
  machine = changed(still, shock_rate=2.0, shock=3.0)
  _, response = machines._structure(machine, LONG, RATE)
  shocks = []
  for seed in range(40):
    wave = long_window(jax.random.key(seed), machine, FAULT['ball'], 0.0)
    struck = np.fft.irfft(np.fft.rfft(wave) / response, n=LONG)
    shocks.append(struck[np.abs(struck) > 0.02])
  counts = np.array([len(some) for some in shocks])
  assert counts.max() <= machines.SHOCKS
  assert abs(counts.mean() - 2) < 4 * np.sqrt(4 * 0.25 / 40)
  rms = np.sqrt(np.mean(np.concatenate(shocks) ** 2))
  assert rms == pytest.approx(3.0, rel=0.3)


def test_polynomial_cosine_and_horner_series():
  turns = jnp.linspace(-9.0, 9.0, 20001)
  exact = np.cos(2 * np.pi * np.asarray(turns, float))
  np.testing.assert_allclose(machines._cosine(turns), exact, atol=1e-6)
  amplitude, phase = jnp.array([1.0, 0.5, 2.0]), jnp.array([0.3, -1.0, 2.0])
  angles = 2 * np.pi * np.outer(np.asarray(turns, float), [1, 2, 3]) + phase
  cosine, sine = machines._series(turns, amplitude, phase)
  np.testing.assert_allclose(cosine, np.cos(angles) @ amplitude, atol=1e-4)
  np.testing.assert_allclose(sine, np.sin(angles) @ amplitude, atol=1e-4)


OPTIONS = dict(length=128, zscore=True, snr_db=-6, faults='inner|looseness')
SMALL = dict(windows=6, queries=7, **OPTIONS)


@pytest.fixture(scope='module')
def fleet():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(vibration, 'CHUNK', 2**13)  # 4 machines at a time
    yield vibration.load(None, machines=5, test_machines=2, seed=1, **SMALL)


def test_a_bigger_fleet_contains_the_smaller(fleet):
  smaller = vibration.load('', machines=2, test_machines=1, seed=1, **SMALL)
  for mine, theirs in zip(smaller, fleet, strict=False):
    assert mine.name == theirs.name
    assert mine.kinds == theirs.kinds
    np.testing.assert_array_equal(mine.normal, theirs.normal)
    np.testing.assert_array_equal(mine.query, theirs.query)
  assert [e.side for e in smaller] == ['train', 'train', 'test']
  assert [e.side for e in fleet] == ['train'] * 5 + ['test'] * 2
  other = vibration.load('', machines=1, test_machines=0, seed=2, **SMALL)
  assert not np.allclose(other[0].normal, fleet[0].normal)


def test_a_machine_depends_on_its_number_alone(fleet):
  registry.validate(vibration.SOURCE, fleet)
  audits.shared_rows(fleet)
  style = vibration.Options(**OPTIONS)
  numbers = np.array([5, 3, 0, 6])
  parts = vibration._chunk(1, numbers, 10, 3, style)
  for number, normal, anomaly, fault in zip(numbers, *parts, strict=True):
    entity = fleet[number]
    np.testing.assert_array_equal(normal[:6], entity.normal)
    np.testing.assert_array_equal(normal[6:], entity.query[:4])
    np.testing.assert_array_equal(anomaly, entity.query[4:])
    assert entity.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    kinds = [machines.FAULTS[i] for i in fault]
    assert list(entity.kinds) == [''] * 4 + kinds


def test_standardized_windows_and_their_noise():
  x = 3 + 5 * jnp.sin(jnp.arange(20000.0))
  key = jax.random.key(0)
  z = vibration._condition(key, x, True, None)
  np.testing.assert_allclose([z.mean(), z.std()], [0, 1], atol=1e-4)
  for snr_db, power in ((0, 1.0), (-6, 3.98107), (20, 0.01)):
    noise = vibration._condition(key, x, True, snr_db) - z
    assert np.var(noise) == pytest.approx(power, rel=0.05)
    assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.03
    assert abs(np.corrcoef(noise, z)[0, 1]) < 0.03
    physical = vibration._condition(key, x, False, snr_db) - x
    np.testing.assert_allclose(physical, noise * x.std(), atol=1e-4)


def test_options_reach_the_windows(fleet):
  x = np.concatenate([entity.query for entity in fleet])
  assert np.mean(x**2) == pytest.approx(1 + 10**0.6, rel=0.08)
  kinds = [set(entity.kinds) - {''} for entity in fleet]
  assert set().union(*kinds) == {'inner', 'looseness'}


@pytest.fixture(scope='module')
def many():
  draw = fast.jit(jax.vmap(machines.draw_machine))
  drawn = draw(jax.random.split(jax.random.key(0), 400))
  return {name: np.asarray(values) for name, values in drawn.items()}


def test_machines_are_drawn_from_the_table(many):
  """In units of what is loud, each number is uniform, or its logarithm is."""
  level = many['level'][:, None]
  order, harmonic = machines.ORDERS, np.arange(1, 4)
  fall = order ** -many['shaft_fall'][:, None] * np.where(order % 1, 0.03, 1)
  strength = np.linalg.norm(many['floor'], axis=1)[:, None]
  units = dict.fromkeys(('floor', 'growth', 'tones'), level) | {
    'shaft': level * many['shaft_level'][:, None] * fall,
    'mesh': level * many['mesh_level'][:, None] / harmonic,
    'impact': strength, 'shock': strength,
  }  # fmt: skip
  whole = 'balls impacts_per_spin teeth contact_angle mode_gain faults'.split()
  for name, draw in machines._TABLE.items():
    values = many[name].reshape(len(level), -1) / units.get(name, 1)
    low, high = map(np.asarray, draw.get('log') or draw['uniform'])
    if name in whole:
      continue
    if 'log' in draw:
      values, low, high = map(np.log, (values, low, high))
    places = (values - low) / (high - low)
    test = stats.kstest(places.ravel(), 'uniform')
    assert test.pvalue > 1e-4, name
  np.testing.assert_allclose(many['mode_gain'].sum(1), 1, rtol=1e-5)
  assert set(many['impacts_per_spin']) == {1, 2}
  assert set(many['balls']) == {*range(7, 17)}


def test_the_floor_tilts_by_a_power_of_the_frequency(still):
  machine = changed(still, floor=jnp.array([1.0, 0, 0]))
  flat, tilted = (
    np.fft.rfft(long_window(jax.random.key(1), m, 0, 0.0))[1:]
    for m in (machine, changed(machine, tilt_wander=1.0))
  )
  exponents = np.log(np.abs(tilted / flat)) / np.log(
    0.1 + 10 * np.fft.rfftfreq(LONG)[1:]
  )
  away = np.abs(np.fft.rfftfreq(LONG)[1:] - 0.09) > 0.05  # where 1 is raised
  np.testing.assert_allclose(exponents[away], exponents[-1], rtol=0.01)


def test_a_fault_of_no_severity_is_none():
  drawn = lambda fault: vibration.generate(
    jax.random.key(0), 1, 2, length=128, severity=0.0, faults=fault
  )
  windows = [
    fast.jit(drawn, static_argnums=0)(fault)[1]
    for fault in ('outer', 'looseness')
  ]
  np.testing.assert_array_equal(*windows)


def test_every_fault_occurs_and_a_machine_has_one_or_two(many):
  faults = many['faults']
  assert set(faults.ravel().tolist()) == set(range(len(machines.FAULTS)))
  alike = np.mean(faults[:, 0] == faults[:, 1])
  assert 0 < alike < 0.4  # of two draws of six a sixth are the same


@pytest.mark.slow
def test_default_difficulty_leaves_room_for_meta_learning():
  """One with the default features; rows [entities, 40, F]."""
  entities = vibration.load(
    None, machines=160, test_machines=0, windows=10, queries=30
  )
  names = '+'.join(vibration.SOURCE.features)
  feature = features.make(names, (1024, 1), rate=RATE)
  windows = [np.concatenate([e.normal, e.query]) for e in entities]
  extract = jax.jit(jax.vmap(feature.apply))
  rows = np.asarray(extract(np.concatenate(windows)), float)
  rows = rows.reshape(len(entities), 40, -1)
  support = rows[:, :10]
  centre = support.mean(1, keepdims=True)
  spread = support.std(1, keepdims=True)
  spread = np.sqrt(spread**2 + 0.05 * np.mean(spread**2, 2, keepdims=True))
  query = np.clip((rows[:, 10:] - centre) / spread, -10, 10)
  support = (support - centre) / spread
  labels = np.stack([entity.labels for entity in entities])
  train, test = slice(None, 110), slice(110, None)

  nearest = np.linalg.norm(query[:, :, None] - support[:, None], axis=-1).min(2)
  pairs = zip(support, query, strict=True)
  gaussian = np.stack([LedoitWolf().fit(s).mahalanobis(q) for s, q in pairs])
  pooled = LogisticRegression(C=0.01, max_iter=100).fit(
    query[train].reshape(-1, query.shape[-1]), labels[train].reshape(-1)
  )
  learned = np.stack([pooled.decision_function(q) for q in query])

  mean = lambda scores: np.mean(
    list(map(roc_auc_score, labels[test], scores[test]))
  )
  for scores in (nearest, gaussian):
    assert 0.6 < mean(scores) < 0.87
    assert mean(learned) > mean(scores) + 0.02


@pytest.mark.parametrize(
  'options',
  ['length=63', 'rate=0.0', 'rate=-1.0', 'rate=1e999', 'noise=-0.1',
   'severity=1e999', 'snr_db=1e999', 'snr_db=none', 'faults=outer|rust',
   'faults=', 'machines=0,test_machines=0', 'windows=0', 'queries=1'],
)  # fmt: skip
def test_bad_options(options):
  name, *_ = options.partition('=')
  with pytest.raises(DataError, match=name.rstrip('s')) as caught:
    registry.load(f'vibration:{options}')
  assert '\n' not in str(caught.value)


def test_two_regimes_are_normal_and_one_is_left_with_none():
  """Windows fall into two clusters of speed, in the shares of the duty."""
  machine = fast.jit(machines.draw_machine)(jax.random.key(3))
  machine = changed(
    silenced(machine, 'mesh', 'tones', 'floor', 'shock', 'growth'),
    shaft_hz=30.0, shaft=jnp.zeros(len(machines.ORDERS)).at[1].set(1.0),
    duty=0.4, speed_shift=np.log(1.5),
  )  # fmt: skip
  peaks = np.array([spectrum_of(seed, machine).argmax() for seed in range(120)])
  assert set(peaks) == {30, 45}
  assert abs(np.mean(peaks == 45) - 0.4) < 0.15
  alone = fast.jit(machines.draw_machine)(jax.random.key(3), regimes=0.0)
  assert not any(np.any(v) for k, v in alone.items() if k.endswith('_shift'))
