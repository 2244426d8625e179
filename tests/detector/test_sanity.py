"""Scores that make sense: copies, values far out, rounding, orders, batches."""

import warnings

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import nearest_run
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pandas
import pytest

from metaad_jax.base import DataError
from metaad_jax.detector import encoding, sanity
from metaad_jax.detector.estimator import MetaAnomalyDetector

FAR = np.array([3.0, 10, 100, 1e3, 1e4, 1e6, 1e9])

properties = settings(
  max_examples=15,
  deadline=None,
  derandomize=True,
  database=None,
  suppress_health_check=list(HealthCheck),
)


def mixed(rng, n):
  """Columns of eight kinds, [n, 8]."""
  return np.column_stack([
    rng.normal(0, 1, n), rng.normal(1e6, 5, n), rng.lognormal(0, 1.5, n),
    rng.poisson(3, n), rng.random(n) < 0.5, np.zeros(n), np.full(n, 5.0),
    1e-9 * rng.random(n),
  ]).astype(float)  # fmt: skip


def fitted(run, x, **options):
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', UserWarning)
    detector = MetaAnomalyDetector(run, **options).fit(x)
    _ = detector.threshold_
  return detector


def judged(detector, column, row, known):
  """Abnormality of a row with one column moved out, by FAR ranges, each way."""
  least, most = known[:, column].min(), known[:, column].max()
  span = most - least or abs(most) or 1.0
  out = np.repeat(row[None], 2 * len(FAR), 0)
  out[:, column] = np.r_[most + FAR * span, least - FAR * span]
  return out, -detector.score_samples(out).reshape(2, -1)


@properties
@given(st.integers(2, 20), st.integers(0, 99), st.floats(0.02, 0.6))
def test_a_copy_of_a_verified_row_is_no_outlier(count, seed, rate):
  """Within a thousandth of the deviations, held out or not."""
  rng = np.random.default_rng(seed)
  x = mixed(rng, count + 30)
  known = x[: count + 20 * (seed % 2)]
  detector = fitted(nearest_run.shared(), known, false_alarm_rate=rate)
  noise = 1e-3 * known.std(0) * rng.uniform(-1, 1, known.shape)
  for copies in (known, known + noise):
    assert (detector.predict(copies) == 1).all()
    assert detector.p_values(copies).min() >= 0.5


@pytest.mark.parametrize('run', [None, 'shipped'])
@pytest.mark.parametrize('count', [1, 2, 20])
def test_the_farther_out_the_more_abnormal(run, count):
  x = mixed(np.random.default_rng(0), count + 1)
  known, row = x[:count], x[count]
  detector = fitted(run or nearest_run.shared(), known)
  own = -detector.score_samples(row[None])[0]
  for column in range(8):
    rows, scores = judged(detector, column, row, known)
    assert (np.diff(scores) >= -0.02).all(), column
    assert (scores[:, -2:] > own).all(), column
    assert (detector.predict(rows).reshape(2, -1)[:, -2:] == -1).all(), column


def test_rounding_is_no_signal():
  """A tenth and two tenths, the same from float32, and less three tenths."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(60, 3))
  single = float(np.float32(0.1) + np.float32(0.2))
  cases = (
    ([0.3], 0.1 + 0.2), ([0.1 + 0.2], 0.3), ([0.3], single),
    ([1e6], 1e6 + 1e-9), ([0.0], 0.1 + 0.2 - 0.3),
    ([0.3, 0.1 + 0.2], 0.2 + 0.1),
    ([0.0, 0.1 + 0.2 - 0.3], 2 * (0.1 + 0.2 - 0.3)),
  )  # fmt: skip
  for known, new in cases:
    add = lambda rows, values: np.column_stack(
      [rows, np.resize(values, len(rows))]
    )
    detector = fitted(nearest_run.shared(), add(x[:20], known))
    scores = detector.score_samples(add(x[20:], known[:1]))
    assert_allclose(detector.score_samples(add(x[20:], new)), scores)
    differs = detector.score_samples(add(x[20:], 1.5 * known[0] + 0.1))
    assert differs.mean() < scores.mean() - 0.1


@properties
@given(st.integers(0, 99))
def test_no_order_matters(seed):
  """Of rows, columns, levels; nor the words, nor the rest of the batch."""
  rng = np.random.default_rng(seed)
  frame = pandas.DataFrame(rng.normal(size=(60, 2)), columns=['a', 'b'])
  frame['m'] = rng.choice(['x', 'y', 'z'], 60)
  frame['k'] = rng.choice(list('cdefgh'), 60)
  known, new = frame[:40], frame[40:]
  plain = fitted(nearest_run.shared(), known)
  expected, turned = plain.score_samples(new), list('kbma')
  words = dict(zip('cdefgh', rng.permutation(list('pqrstu')), strict=True))
  named = lambda rows: rows.assign(k=rows.k.map(words))
  levels = pandas.CategoricalDtype(rng.permutation(['x', 'y', 'z']))
  for rows, others in (
    (known.iloc[rng.permutation(40)], new),
    (known[turned], new[turned]),
    (named(known), named(new)),
    (known.astype({'m': levels}), new),
  ):
    detector = fitted(nearest_run.shared(), rows)
    assert_allclose(detector.score_samples(others), expected, rtol=1e-5)
    assert_allclose(detector.threshold_, plain.threshold_, rtol=1e-5)
    assert_allclose(detector.p_values(others), plain.p_values(new), rtol=1e-2)
  order = rng.permutation(20)
  assert_allclose(
    plain.score_samples(new.iloc[order[:7]]), expected[order[:7]], rtol=1e-5
  )


def test_what_is_held_is_continuous():
  """From a known row through ordinary ones to absurd ones, one score given."""
  x = np.random.default_rng(0).normal(size=(20, 3))
  guard = sanity.guard(x, np.zeros(20), np.zeros(0, int))
  way = np.geomspace(1e-3, 1e8, 4000)[:, None] * x.std(0) * [1, -1, 1]
  for score in (-3.0, 0.0, 1.0, 5.0):
    held = guard(x[3] + way, np.full(4000, score), lambda: [-1.0, 0.5, 3.0])
    assert np.abs(np.diff(held)).max() < 0.1
    assert held[0] <= 0.5 and held[-1] > 3.0
    assert (np.diff(held) >= 0).all()


def test_promises_hold_where_most_rows_are_copies():
  alarms = []
  for seed in range(40):
    rng = np.random.default_rng(seed)
    x = nearest_run.table(rng, 120, 3)[0]
    x = np.round((x - x.mean(0)) / x.std(0) / 1.5)
    detector = fitted(nearest_run.shared(), x[:60], false_alarm_rate=0.1)
    alarms.append(np.mean(detector.predict(x[60:]) == -1))
  assert np.mean(alarms) < 0.1 + 3 * np.std(alarms) / np.sqrt(len(alarms))


def test_copies_of_known_rows_count_once():
  x = mixed(np.random.default_rng(3), 70)
  known, more, new = x[:12], x[12:60], x[60:]
  run = nearest_run.shared()
  once = fitted(run, known)
  for rows in (np.tile(known, (4, 1)), np.r_[known, known[[3] * 30]]):
    again = fitted(run, rows)
    assert again.support_.sum() == len(known)
    assert_array_equal(again.p_values(new), once.p_values(new))
    later = fitted(run, known).partial_fit(rows)
    assert_array_equal(later.p_values(new), once.p_values(new))
  many = fitted(run, np.r_[known, more])
  twice = fitted(run, np.tile(np.r_[known, more], (2, 1)))
  assert_array_equal(twice.p_values(new), many.p_values(new))
  few = np.tile(x[:4, 4:7], (4, 1))  # nothing measured: they may be so
  assert fitted(run, few).support_.all()


def test_what_resembles_a_known_anomaly_is_not_held_to_be_normal():
  x = np.random.default_rng(0).normal(size=(20, 3))
  y = np.zeros(20, int)
  y[0] = 1
  x[1] = x[0]
  guard = sanity.guard(x, y, np.zeros(0, int))
  assert_array_equal(guard.copies(x) > 0, np.arange(20) > 1)


def test_a_value_in_a_column_that_was_always_missing_is_seen():
  x = np.c_[np.arange(4.0), np.full(4, np.nan)]
  guard = sanity.guard(x, np.zeros(4), np.zeros(0, int))
  none = np.zeros(0, int)
  reading = sanity.reading(x, guard, none, np.zeros((0, 1)))
  new = np.array([[1e9, 7.0], [1e9, 0.0], [1e9, np.nan]])
  seen = [[3003.0, 1.0], [3003.0, 1.0], [3003.0, np.nan]]
  assert_array_equal(reading(new), seen)
  assert (guard.far(np.array([[1.0, 7.0]])) == 0).all()


def test_what_cannot_be_reached_is_said_with_what_can():
  rng = np.random.default_rng(5)
  x = nearest_run.table(rng, 1200, 4)[0]
  run = nearest_run.shared()
  with pytest.raises(DataError, match='about [0-9]+ normal rows more') as told:
    MetaAnomalyDetector(run, false_alarm_rate=0.004).fit(x[:20])
  more = int(str(told.value).split('about ')[1].split()[0])
  rare = fitted(run, x[: 20 + more], false_alarm_rate=0.004)
  assert np.isfinite(rare.threshold_)
  with pytest.raises(DataError):
    fitted(run, x[: 20 + more // 2], false_alarm_rate=0.004)
  detector = fitted(run, x[:20])
  absurd = np.r_[x[20:1019], x[:1] + 1e9]
  with pytest.warns(UserWarning, match='of 1000 rows none') as warned:
    assert not detector.discoveries(absurd).any()
  most = int(str(warned[0].message).split('batches of ')[1].split(',')[0])
  assert detector.discoveries(absurd[-most:])[-1]


def test_one_row_is_too_little_for_five_percent():
  x = np.random.default_rng(1).normal(size=(30, 3))
  with pytest.warns(UserWarning, match='at least [0-9]+ of them') as warned:
    _ = MetaAnomalyDetector().fit(x[:1, :1]).threshold_
  assert len(warned) == 1
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    _ = MetaAnomalyDetector().fit(x[:20]).threshold_


def test_what_float32_cannot_hold_is_shifted_and_scaled():
  """A time of day in 1970's seconds, 1e25, nothing, and ordinary columns."""
  x = np.array([[1.0, 3.0, np.nan], [2.0, np.nan, np.nan], [4.0, 5.0, np.nan]])
  first, none = x[:, 0], np.zeros(0, int)
  large = np.column_stack([x, 1.7e9 + first, 1e25 * first, -1e-20 * first])
  read = lambda x: sanity.reading(
    x, sanity.guard(x, np.zeros(len(x)), none), none, np.zeros((0, 1))
  )
  reading = read(large)
  assert_array_equal(reading.centre, [0, 0, 0, 1.7e9 + 2, 0, 0])
  assert_array_equal(reading.unit[:4], 1)
  seen = encoding.apply(None, reading, large)
  assert seen.dtype == np.float32
  assert_array_equal(seen[:, :3], x.astype('f4'))
  assert_array_equal(seen[:, 3], [-1, 0, 2])
  for column, sign in ((4, 1), (5, -1)):
    assert np.log2(reading.unit[column]) % 1 == 0  # a power of two is exact
    ratio = sign * seen[:, column] / np.abs(seen[:, column]).max()
    assert_allclose(ratio, first / 4, rtol=1e-6)
    assert 0.5 <= np.abs(seen[:, column]).max() <= 1
  one = read(np.array([[5.0, 7.0]]))
  assert_array_equal(one(np.array([[0.0, 7.5]])), [[0.0, 7.5]])
  noise = np.array([[0.3, 1e6], [0.1 + 0.2, 1e6 - 1e-9], [0.3, 1e6]])
  assert (np.ptp(read(noise)(noise), axis=0) == 0).all()


WILD = (
  0.0, -0.0, 5e-324, -1e-308, 1e-300, 1.0, 1.5, 1e15, -1e154, 1e200, 1e308,
  -1.7e308, np.nan,
)  # fmt: skip


@settings(properties, max_examples=150)
@given(st.integers(0, 10**6))
def test_whatever_the_numbers_the_scores_are_finite(seed):
  """And nothing overflows on the way, or is undefined."""
  rng = np.random.default_rng(seed)
  x = rng.choice(WILD, (12, 3))
  new = np.concatenate([x, rng.choice(WILD, (20, 3))])
  y, words = np.append(0, rng.choice([0, 0, 1, -1], 11)), np.zeros(0, int)
  with np.errstate(over='raise', invalid='raise', divide='raise'):
    guard = sanity.guard(x, y, words)
    seen = sanity.reading(x, guard, words, np.zeros((0, 1)))(new)
    scores = guard(new, rng.normal(size=32), lambda: np.array([0.0, 1, 2]))
  assert_array_equal(np.isfinite(seen), ~np.isnan(new))
  assert np.isfinite(scores).all()
