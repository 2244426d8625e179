"""Points as they arrive: the scores of a batch, and a state that goes on."""

import numpy as np
import pandas as pd
import pytest

from metaad_jax import storage
from metaad_jax.base import DataError
from metaad_jax.detector.series import SeriesAnomalyDetector
from metaad_jax.features import subsequences

_PERIOD = 40


def _beat(n, seed, channels=2):
  random, t = np.random.default_rng(seed), np.arange(n)
  phase = 2 * np.pi * t / _PERIOD
  x = np.stack([np.sin(phase + c) for c in range(channels)], 1)
  return x + 0.05 * random.normal(size=x.shape)


@pytest.fixture(scope='module')
def detector():
  return SeriesAnomalyDetector(step=60).fit(_beat(1500, 0))


def _series():
  x = _beat(400, 1)
  x[200:230, 1] += 1.5
  return x


def test_a_point_has_the_score_of_the_last_of_a_batch(detector):
  x = _series()
  x[100:104, 0] = np.nan
  x[103, 1] = np.nan
  x[300:320] = np.nan
  stream = detector.follow()
  points = [stream.push(row) for row in x]
  said = [p.number for p in points if np.isfinite(p.score)]
  shortest = detector._scales[0].length
  gone = {*range(shortest - 1), *range(100, 104), *range(300, 320)}
  gone |= set(range(320, 320 + shortest - 1))
  assert said == [i for i in range(400) if i not in gone]
  for n in (shortest - 1, 50, 99, 104, 150, 210, 299, 350, 399):
    want = -detector.score_samples(x[: n + 1])[-1]
    assert points[n].score == pytest.approx(want, abs=2e-3), n
  events = [p.event for p in points if p.event]
  (event,) = [e for e in events if e.rows[0] < 240 and e.rows[1] >= 200]
  assert 195 <= event.start <= event.peak <= event.end < 275
  assert 'channel 1' in event.reason and event.score == points[event.peak].score
  # A batch finds the same events, up to a window earlier.
  ended = [*events, *filter(None, [stream.finish()])]
  batch = detector.events(x)
  assert len(batch) == len(ended)
  for one, other in zip(batch, ended, strict=True):
    assert one.rows[0] <= other.rows[1] and other.rows[0] <= one.rows[1]
    assert 0 <= other.rows[0] - one.rows[0] <= 2 * _PERIOD


def test_a_state_goes_on_as_if_nothing_had_been(detector, tmp_path):
  x, path = _series(), str(tmp_path / 's.npz')
  x[90:93] = np.nan
  whole = detector.follow()
  want = [whole.push(row) for row in x[:260]]
  for stop in (5, 92, 150, 215):
    first = detector.follow()
    for row in x[:stop]:
      first.push(row)
    first.save(path)
    second = detector.follow(path)
    got = [second.push(row) for row in x[stop : stop + 45]]
    for a, b in zip(got, want[stop : stop + 45], strict=True):
      assert str(a) == str(b)
  other = SeriesAnomalyDetector(step=60).fit(_beat(1500, 9))
  with pytest.raises(DataError, match='another detector'):
    other.follow(path)
  other.resample = '1min'
  with pytest.raises(DataError, match='resample'):
    other.follow()


def test_scores_of_arriving_points_are_those_of_the_stream(detector):
  x, stream = detector._standardized(_series()[:240]), detector.follow()
  got = [stream.push(row).score for row in _series()[:240]]
  want = subsequences.arriving(detector._windows, x, detector.weights_, 0, 0)
  np.testing.assert_allclose(got, want, atol=2e-3)
  assert stream.threshold >= detector.threshold_


def test_times_say_what_is_missing(detector):
  x = _beat(300, 2)
  times = pd.date_range('2024-01-01', periods=300, freq='min')
  keep = np.r_[0:100, 103:180, 200:300]
  timed, plain = detector.follow(), detector.follow()
  holed = np.full_like(x, np.nan)
  holed[keep] = x[keep]
  want = [plain.push(row).score for row in holed]
  got = [timed.push(x[i], times[i]).score for i in keep]
  np.testing.assert_array_equal(got, np.array(want)[keep])
  for wrong in (times[299], times[0], 'noon', pd.NaT):
    with pytest.raises(DataError):
      timed.push(x[0], wrong)
  with pytest.raises(DataError, match='2 numbers'):
    timed.push([1.0])
  assert timed.push(x[0], times[299] + pd.Timedelta('1min')).number == 277


def test_memory_is_constant_and_a_change_is_told_once(detector):
  stream = detector.follow()
  size = lambda: sum(map(len, stream._tracks)) + len(stream._buffer)
  notes = [stream.push(row).note for row in _beat(600, 3)]
  assert not any(notes)
  known = size()
  notes = [stream.push(row).note for row in 2 * _beat(1000, 4)]
  assert size() <= known + 3 and sum(map(bool, notes)) == 1


def test_states_from_strangers_are_refused(detector, tmp_path):
  stream, path = detector.follow(), str(tmp_path / 's.npz')
  for row in _series()[:215]:
    stream.push(row)
  stream.save(path)
  arrays, meta = storage.load(path)
  for name, array in arrays.items():
    for wrong in (array[None], array.astype(int), array * np.nan, array[:, :1]
                  if array.ndim == 2 else array[:1]):  # fmt: skip
      if wrong.shape != array.shape or name not in ('pending', 'block'):
        storage.save(path, {**arrays, name: wrong}, meta)
        with pytest.raises(DataError):
          detector.follow(path)
  for key in meta:
    for wrong in (None, -1, [], 'x' * 10**5, {}):
      if (key, wrong) not in (('last', None), ('event', None), ('last', -1)):
        storage.save(path, arrays, {**meta, key: wrong})
        with pytest.raises(DataError):
          detector.follow(path)
