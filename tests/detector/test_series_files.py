"""Series detectors: nonsense into them and into their files."""

import copy
import pathlib

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
import pytest
from test_fuzz import NASTY, NUMBERS, places, put

from metaad_jax import storage
from metaad_jax.base import DataError
from metaad_jax.detector import series_files
from metaad_jax.detector.series import SeriesAnomalyDetector


def _wave(n, channels=1):
  t = np.arange(n)[:, None] + np.arange(channels)
  return np.sin(t / 3) + 0.05 * np.random.default_rng(n).normal(size=t.shape)


@settings(
  max_examples=25, deadline=None, derandomize=True, database=None,
  suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(data=st.data())
def test_nonsense_is_refused_in_one_line_or_judged(data):
  def series(least):
    shape = st.tuples(st.integers(least, 60), st.sampled_from([1, 1, 2]))
    x = data.draw(hnp.arrays(np.float64, shape, elements=NUMBERS))
    return _wave(*x.shape) + np.where(np.abs(x) <= 10, 0, x)  # mostly a wave

  try:
    detector = SeriesAnomalyDetector(period=9).fit(series(3))
    found = detector.judge(series(1))
  except DataError as error:
    assert len(str(error)) > 10 and '\n' not in str(error)
    return
  known = np.isfinite(found.scores)
  assert (found.p_values > 0).all() and (found.p_values <= 1).all()
  assert (found.p_values[~known] == 1).all() and not found.outliers[
    ~known
  ].any()


@pytest.mark.parametrize('value', [0.0, 7.0, -1e90, 1e-300])
def test_a_constant_part_is_healthy_and_nothing_else_is(value):
  detector = SeriesAnomalyDetector().fit(np.full(200, value))
  assert not detector.events(np.full(100, value))
  moved = np.full(100, value)
  moved[50:60] += 1 + abs(value)
  assert any(e.rows[0] < 60 and e.rows[1] >= 50 for e in detector.events(moved))


def test_model_files_from_strangers(tmp_path, monkeypatch):
  write = lambda path, content: pathlib.Path(path).write_bytes(content)
  monkeypatch.setattr(storage, 'write_bytes', write)  # no fsync
  path, x = str(tmp_path / 'm.npz'), _wave(60, 2)
  made = SeriesAnomalyDetector(period=9).fit([_wave(90, 2), _wave(80, 2)])
  made.save(path)
  assert series_files.load(path).columns  # without a file's names, too
  want = made.score_samples(x)
  arrays, meta = storage.load(path)
  wrong = [
    arrays | {'stretch/0': a} for a in (
      np.zeros((0, 2)), np.zeros(90), np.zeros((90, 3)), np.zeros((9, 2)),
      np.full((90, 2), np.nan), np.full((90, 2), 1e200),
      np.zeros((90, 2), int),
    )
  ]  # fmt: skip
  wrong += [{}, {'stretch/1': arrays['stretch/1']}, arrays | {'x': np.eye(2)}]
  for content in wrong:
    storage.save(path, content, meta)
    with pytest.raises(DataError) as told:
      SeriesAnomalyDetector.load(path)
    assert '\n' not in str(told.value) and len(str(told.value)) < 500
  refused = 0
  for place in places(meta):
    for new in NASTY:
      changed = copy.deepcopy(meta)
      put(changed, place, new)
      storage.save(path, arrays, changed)
      try:
        again = series_files.load(path).detector
      except DataError as error:
        assert '\n' not in str(error) and len(str(error)) < 500
        refused += 1
        continue
      if place[0] != 'options':
        np.testing.assert_array_equal(again.score_samples(x), want)
  assert refused > 120
