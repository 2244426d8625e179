import numpy as np
import pandas as pd
import pytest

from metaad_jax import storage
from metaad_jax.base import DataError
from metaad_jax.detector.series import SeriesAnomalyDetector
from metaad_jax.features import subsequences

_PERIOD = 40


def _beat(n, seed, channels=1):
  random, t = np.random.default_rng(seed), np.arange(n)
  phase = 2 * np.pi * t / _PERIOD
  x = np.stack(
    [np.sin(phase + c) + 0.5 * np.sin(3 * phase) for c in range(channels)], 1
  )
  return x + 0.05 * random.normal(size=x.shape)


@pytest.fixture(scope='module')
def detector():
  return SeriesAnomalyDetector().fit(_beat(2000, 0))


def _faults():
  x = _beat(2000, 1)
  missing, flat, level, spike, fast = (x.copy() for _ in range(5))
  missing[1010:1050] = _beat(2000, 2)[990:1030]  # half a period out of step
  flat[1000:1050] = flat[999]
  level[1000:1080] += 1.5
  spike[1000] += 4
  fast[1000:1040, 0] += 0.8 * np.sin(np.arange(40) * 2)
  return dict(missing=missing, flat=flat, level=level, spike=spike, fast=fast)


@pytest.mark.parametrize('kind', ['missing', 'flat', 'level', 'spike', 'fast'])
def test_the_highest_score_lies_in_the_fault(detector, kind):
  scores = -detector.score_samples(_faults()[kind])
  assert 990 <= np.argmax(scores) <= 1085
  event = max(detector.events(_faults()[kind]), key=lambda e: e.score)
  assert 900 <= event.start <= event.peak <= event.end <= 1150
  assert event.p_value < 0.02


def test_healthy_series_has_about_as_many_false_events_as_promised():
  healthy = _beat(8000, 3)
  detector = SeriesAnomalyDetector(false_alarms='4 per 10000 points')
  events = detector.fit(healthy).events(_beat(20000, 4))
  assert len(events) < 16  # 8 promised
  assert detector.changed(_beat(10000, 5)) is None


def test_a_change_for_good_is_announced_after_it_came(detector):
  drifting = _beat(6000, 6)
  drifting[3000:] *= 1.6
  assert 3000 - _PERIOD <= detector.changed(drifting) < 4700


def test_a_long_series_is_scored_in_parts_without_a_seam(detector, monkeypatch):
  x = _faults()['level']
  known = detector._windows, (x - x.mean()) / x.std(), detector.weights_
  for more in (), (500, 0):
    whole = subsequences.score(*known, *more)
    with monkeypatch.context() as patch:
      patch.setattr(subsequences, '_BLOCK', 333)
      parts = subsequences.score(*known, *more)
    np.testing.assert_allclose(parts[0], whole[0], atol=1e-4)
    np.testing.assert_allclose(parts[2], whole[2], atol=1e-4)
    assert (parts[1] == whole[1]).mean() > 0.99


def test_what_was_confirmed_as_healthy_raises_no_alarms():
  first, more, new = _beat(2000, 0), 1.6 * _beat(1200, 8), 1.6 * _beat(1200, 9)
  detector = SeriesAnomalyDetector().fit(first)
  assert (detector.predict(new) == -1).mean() > 0.9
  detector.partial_fit(more)
  assert (detector.predict(new) == -1).mean() < 0.1
  both = SeriesAnomalyDetector().fit([first, more])
  np.testing.assert_array_equal(
    detector.score_samples(new), both.score_samples(new)
  )


def test_scores_do_not_depend_on_scale_and_place(detector):
  x = _faults()['flat']
  other = SeriesAnomalyDetector().fit(1e6 + 1000 * _beat(2000, 0))
  np.testing.assert_allclose(
    other.score_samples(1e6 + 1000 * x), detector.score_samples(x), atol=2e-2
  )


def test_time_stamps_and_rates(detector):
  times = pd.date_range('2024-01-01', periods=2000, freq='min')
  healthy = pd.Series(_beat(2000, 0)[:, 0], times)
  timed = SeriesAnomalyDetector(false_alarms='1 per day').fit(healthy)
  per_points = SeriesAnomalyDetector(false_alarms='1 per 1440 points')
  plain = per_points.fit(_beat(2000, 0))
  assert timed.threshold_ == pytest.approx(plain.threshold_)
  judged = pd.Series(_faults()['level'][:, 0], times)
  event = max(timed.events(judged), key=lambda e: e.score)
  assert times[900] <= event.start <= event.peak <= event.end <= times[1150]
  with pytest.raises(DataError, match='step='):
    SeriesAnomalyDetector(false_alarms='1 per day').fit(_beat(2000, 0))


def test_what_is_doubtful_in_the_healthy_part_is_said():
  bad = _beat(2000, 0)
  bad[720:760] -= 6
  with pytest.warns(UserWarning, match=r'samples (6[89]|7[0-5])\d to'):
    SeriesAnomalyDetector().fit(bad)
  with pytest.warns(UserWarning, match='constant'):
    SeriesAnomalyDetector().fit(1 + 1e-12 * _beat(2000, 0))


def test_rarer_alarms_need_higher_scores():
  few, many = (
    SeriesAnomalyDetector(false_alarms=f'{n} per 10000 points').fit(
      _beat(999, 0)
    )
    for n in (1, 20)
  )
  assert few.threshold_ > many.threshold_


def test_channels_that_come_apart_are_seen_together():
  healthy, x = _beat(2000, 0, 2), _beat(2000, 1, 2)
  x[1000:1100, 1] = _beat(2000, 2, 2)[1013:1113, 1]  # each alone is healthy
  detector = SeriesAnomalyDetector().fit(healthy)
  assert 980 <= np.argmax(-detector.score_samples(x)) <= 1120
  event = max(detector.events(x), key=lambda e: e.score)
  assert 'together' in event.reason or 'channel' in event.reason


def test_gaps_stretches_and_saved_files(detector, tmp_path):
  x = _faults()['spike']
  x[100:103] = np.nan
  assert np.isfinite(detector.score_samples(x)).all()
  x[200:260] = np.nan
  with pytest.warns(UserWarning, match='missing'):
    detector.score_samples(x)
  halves = [_beat(2000, 0)[:900], _beat(2000, 0)[1000:]]
  two = SeriesAnomalyDetector().fit(halves)
  two.save(str(tmp_path / 'two.npz'))
  again = SeriesAnomalyDetector.load(str(tmp_path / 'two.npz'))
  np.testing.assert_array_equal(
    again.score_samples(_beat(500, 1)), two.score_samples(_beat(500, 1))
  )
  assert again.threshold_ == two.threshold_


@pytest.mark.parametrize(
  'series', [np.zeros(5), np.full(100, np.inf), [['a']], np.zeros((9, 9, 9))]
)
def test_what_is_no_series_is_refused(series):
  with pytest.raises(DataError):
    SeriesAnomalyDetector().fit(series)


def test_period_and_windows():
  assert abs(subsequences.period(_beat(1000, 0)) - _PERIOD) <= 1
  ramp = np.arange(100.0)[:, None]
  w = subsequences.windows(ramp, np.array([10]), 64)[0, 0]
  np.testing.assert_allclose(w, 10.5 + 2 * np.arange(32))


def test_a_rate_far_beyond_the_healthy_part_is_no_constant_alarm():
  rare = SeriesAnomalyDetector(false_alarms='1 per 1e15 points').fit(
    _beat(2000, 0)
  )
  assert rare.threshold_ > rare._healthy[-1]
  assert (rare.predict(_beat(2000, 1)) == 1).all()
  level = rare._p_values(np.array([rare.threshold_]))
  assert level == pytest.approx(1e-15 * rare.period_ / rare._alone, rel=1e-6)


def test_channels_of_frames_go_by_name(tmp_path):
  times = pd.date_range('2024-01-01', periods=2000, freq='min')
  frame = lambda seed: pd.DataFrame(_beat(2000, seed, 2), times, ['a', 'b'])
  detector = SeriesAnomalyDetector(false_alarms='1 per day').fit(frame(0))
  scores = detector.score_samples(frame(1))
  np.testing.assert_array_equal(
    detector.score_samples(frame(1)[['b', 'a']]), scores
  )
  with pytest.raises(DataError, match="'a'"):
    detector.score_samples(frame(1).rename(columns={'a': 'c'}))
  with pytest.warns(UserWarning, match='apart'):
    detector.score_samples(frame(1)[::2])
  detector.save(str(tmp_path / 'a.npz'))
  again = SeriesAnomalyDetector.load(str(tmp_path / 'a.npz'))
  assert again.get_params() == detector.get_params()
  np.testing.assert_array_equal(
    again.score_samples(frame(1)[['b', 'a']]), scores
  )
  with pytest.warns(UserWarning, match='row'):
    SeriesAnomalyDetector().fit(frame(0).assign(row=np.arange(2000)))


def test_a_file_of_an_earlier_version_is_refused(detector, tmp_path):
  path = str(tmp_path / 'a.npz')
  detector.save(path)
  arrays, meta = storage.load(path)
  for weights in (arrays.pop('weights')[:-2], None):  # without a forecast
    older = arrays if weights is None else arrays | {'weights': weights}
    storage.save(path, older, meta)
    with pytest.raises(DataError, match='earlier version'):
      SeriesAnomalyDetector.load(path)


def test_an_event_that_only_a_forecast_sees_is_told_by_it():
  healthy, x = _beat(2000, 0, 2), _beat(2000, 1, 2)
  x[1000, 1] += 0.8
  detector = SeriesAnomalyDetector().fit(healthy)
  event = max(detector.events(x), key=lambda e: e.score)
  assert event.view == 'forecast' and event.channel == 'channel 1'
  why = detector.explain(x, event)
  assert why.rows[1] - 1 == event.rows[2] and len(why.window) == why.length + 1
  assert why.channels[0][0] == 'channel 1' and why.excess > 1
  at = 1000 - why.rows[0]  # what was foretold is what would be healthy
  want = _beat(2000, 1, 2)[1000, 1]
  assert why.healthy[at, 1] == pytest.approx(want, abs=0.3)
