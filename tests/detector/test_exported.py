"""An exported detector says what the detector says, and needs less."""

import subprocess
import sys

import nearest_run
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pandas as pd
import pytest

from metaad_jax import storage
from metaad_jax.base import DataError
from metaad_jax.detector import exported
from metaad_jax.detector.estimator import MetaAnomalyDetector

ALONE = """
import sys
for name in ('flax', 'optax', 'orbax', 'sklearn', 'matplotlib', 'pyod'):
  sys.modules[name] = None  # an import of it fails
for name in ('learners', 'models', 'training', 'detector.fitted'):
  sys.modules['metaad_jax.' + name] = None
import numpy as np
from metaad_jax.detector import exported
told = exported.load(sys.argv[1])
x = np.load(sys.argv[2], allow_pickle=False)
np.save(sys.argv[3], np.stack([told.score_samples(x), told.predict(x)]))
"""


@pytest.fixture(scope='module')
def fitted(tmp_path_factory):
  folder = tmp_path_factory.mktemp('exported')
  run = nearest_run.shared()
  normal, bad = nearest_run.table(np.random.default_rng(8), 60, 5, 6.0)
  # One column that float32 cannot tell apart, one that it cannot hold.
  scale, shift = np.array([1, 1, 1, 1, 1e25]), np.array([0, 1e9, 0, 0, 0])
  normal, bad = normal * scale + shift, bad * scale + shift
  detector = MetaAnomalyDetector(run).fit(normal[:20])
  path = str(folder / 'detector.npz')
  detector.export(path)
  new = np.concatenate([normal[20:], bad])
  new[3, 2] = np.nan
  return detector, path, new


def test_it_agrees_with_the_detector(fitted):
  detector, path, new = fitted
  told = exported.load(path)
  for x in (new, new[:1], new[:30]):
    assert_allclose(told.score_samples(x), detector.score_samples(x), atol=1e-5)
  assert_array_equal(told.predict(new), detector.predict(new))
  gap = told.p_values(new) - detector.p_values(new)
  assert gap.min() > -1e-9 and gap.max() < 0.05
  assert set(told.predict(new)) == {-1, 1}
  assert told.names[0] == 'column 0' and told.shape == (5,)


def test_it_runs_without_flax_and_without_the_training_code(fitted, tmp_path):
  detector, path, new = fitted
  np.save(tmp_path / 'x.npy', new)
  paths = path, str(tmp_path / 'x.npy'), str(tmp_path / 'y.npy')
  subprocess.run([sys.executable, '-c', ALONE, *paths], check=True)
  scores, labels = np.load(paths[-1], allow_pickle=False)
  assert_allclose(scores, detector.score_samples(new), atol=1e-5)
  assert_array_equal(labels, detector.predict(new))


def test_windows(tmp_path):
  run = nearest_run.shared()
  rng = np.random.default_rng(1)
  windows = rng.normal(size=(30, 64, 2))
  detector = MetaAnomalyDetector(run, rate=100.0, false_alarm_rate=0.2)
  detector.fit(windows[:20]).export(str(tmp_path / 'windows.npz'))
  told = exported.load(str(tmp_path / 'windows.npz'))
  assert_allclose(
    told.score_samples(windows), detector.score_samples(windows), atol=1e-4
  )
  with pytest.raises(DataError, match='NaN'):
    told.predict(np.full((1, 64, 2), np.nan))


@pytest.mark.parametrize(
  'x', [np.zeros((3, 4)), np.zeros(5), [['a'] * 5], np.full((1, 5), np.inf)]
)
def test_rows_that_make_no_sense(fitted, x):
  with pytest.raises(DataError):
    exported.load(fitted[1]).predict(x)


def test_columns_of_a_frame_are_found_by_name(tmp_path):
  frame = pd.DataFrame(
    np.random.default_rng(0).normal(size=(12, 3)), columns=list('abc')
  )
  detector = MetaAnomalyDetector(nearest_run.shared()).fit(frame[:8])
  detector.export(str(tmp_path / 'e.npz'))
  told = exported.load(str(tmp_path / 'e.npz'))
  want = detector.score_samples(frame)
  for same in (frame, frame[['c', 'a', 'b']], frame.assign(d=1.0)):
    assert_allclose(told.score_samples(same), want, atol=1e-5)
  with pytest.raises(DataError, match="'b'"):
    told.predict(frame[['a', 'c']])
  unnamed = MetaAnomalyDetector(nearest_run.shared()).fit(frame[:8].to_numpy())
  with pytest.warns(UserWarning, match='in their order'):
    assert_allclose(unnamed.score_samples(frame), want)


def test_a_file_that_is_none_is_refused(fitted, tmp_path):
  path = str(tmp_path / 'bad.npz')
  arrays, meta = storage.load(fitted[1])
  arrays['function/8'] = arrays['function/8'][:100]
  storage.save(path, arrays, meta)
  with pytest.raises(DataError, match='export it anew'):
    exported.load(path)
  storage.save(path, {}, {})
  with pytest.raises(DataError, match='no exported detector'):
    exported.load(path)
