"""The detector against scikit-learn's checks, PyOD, frames, and nonsense."""

import inspect
import json
import pathlib
import pickle
import re
import subprocess
import sys
import warnings

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import nearest_run
import numpy as np
from pyod.models.ecod import ECOD
from pyod.utils import data as pyod_data
from pyod.utils import utility as pyod_utility
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from metaad_jax import storage
from metaad_jax.base import DataError
from metaad_jax.detector import estimator as detector_module
from metaad_jax.detector import explanations
from metaad_jax.detector.estimator import MetaAnomalyDetector, PyODAdapter
from metaad_jax.scores import conformal
from metaad_jax.training import runs


@pytest.fixture(scope='module')
def run_dir(tmp_path_factory):
  return nearest_run.write(tmp_path_factory.mktemp('run') / 'nearest.npz')


@pytest.fixture(scope='module')
def rows():
  """(normals [200, 6], anomalies [200, 6]) of a table nobody calibrated on."""
  return nearest_run.table(np.random.default_rng(77), 200, 6, 6.0)


@pytest.fixture(scope='module')
def fitted(run_dir, rows):
  return MetaAnomalyDetector(run_dir).fit(rows[0][:20])


# Each of these fits labels other than 0, 1 and -1, which are refused: a label
# has a meaning here. Everything else in them is checked by `Unlabelled`.
FOREIGN_LABELS = (
  'check_classifier_data_not_an_array',
  'check_dict_unchanged',
  'check_dont_overwrite_parameters',
  'check_dtype_object',
  'check_estimators_dtypes',
  'check_estimators_fit_returns_self',
  'check_estimators_overwrite_params',
  'check_f_contiguous_array_estimator',
  'check_fit2d_1feature',
  'check_fit2d_1sample',
  'check_fit2d_predict1d',
  'check_fit_score_takes_y',
  'check_methods_sample_order_invariance',
  'check_methods_subset_invariance',
  'check_n_features_in_after_fitting',
  'check_positive_only_tag_during_fit',
  'check_readonly_memmap_input',
)


class Unlabelled(MetaAnomalyDetector):
  """Ignores what scikit-learn's checks give as y."""

  def fit(self, X, y=None):
    return super().fit(X)

  def partial_fit(self, X, y=None):
    return super().partial_fit(X)

  def score(self, X, y=None):
    return float(self.score_samples(X).mean())


@pytest.mark.parametrize(
  'kind, refused',
  [(MetaAnomalyDetector, FOREIGN_LABELS), (Unlabelled, ())],
)
def test_scikit_learn_accepts_it(run_dir, kind, refused):
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    results = check_estimator(kind(run_dir), on_fail=None)
  failed = {r['check_name'] for r in results if r['status'] == 'failed'}
  assert failed == set(refused)
  for result in results:
    if result['status'] == 'failed':
      assert 'y ' in str(result['exception']) or isinstance(
        result['exception'], AssertionError
      )
  assert len(results) > 40


def test_outliers_are_found_at_about_the_promised_rate(run_dir, rows):
  alarms, recalls = [], []
  for seed in range(30):
    rng = np.random.default_rng(500 + seed)
    normal, bad = nearest_run.table(rng, 60, int(rng.integers(3, 12)), 6.0)
    detector = MetaAnomalyDetector(run_dir, false_alarm_rate=0.1)
    detector.fit(normal[:20])
    alarms.append(np.mean(detector.predict(normal[20:]) == -1))
    recalls.append(np.mean(detector.predict(bad) == -1))
  error = np.std(alarms) / np.sqrt(len(alarms))
  assert abs(np.mean(alarms) - 0.1) < 0.02 + 3 * error
  assert np.mean(recalls) > 0.8


def test_the_methods_agree(fitted, rows):
  x = np.concatenate([rows[0][20:80], rows[1][:60]])
  score, decision = fitted.score_samples(x), fitted.decision_function(x)
  np.testing.assert_allclose(decision, score - fitted.offset_)
  outlier = fitted.predict(x) == -1
  np.testing.assert_array_equal(outlier, fitted.p_values(x) <= 0.05)
  np.testing.assert_array_equal(outlier, fitted.predict_proba(x)[:, 1] > 0.5)
  np.testing.assert_allclose(fitted.predict_proba(x).sum(1), 1)
  assert 0 < outlier.mean() < 1
  np.testing.assert_array_equal(
    fitted.labels_, fitted.decision_scores_ > fitted.threshold_
  )
  labels = np.repeat([0, 1], 60)
  assert fitted.score(x, labels) > 0.95
  told = fitted.discoveries(x, 0.2)
  assert np.mean(labels[told] == 0) < 0.3 and told.sum() > 30


def test_labels_and_more_normals_are_taken_in(run_dir, rows):
  normal, bad = rows
  few = MetaAnomalyDetector(run_dir).fit(normal[:5])
  before = few.score_samples(bad[2:3])[0]
  few.partial_fit(bad[:2], [1, 1])
  assert few.support_.sum() == 7
  few.partial_fit(normal[5:45], np.zeros(40))
  # 20 shots are the most that were calibrated; the others calibrate.
  assert (few.support_ & (few._y == 0)).sum() == 20
  assert len(few._judged().evidence.own) == 25
  assert few._judged().evidence.anomalies == 2
  assert few.score_samples(bad[2:3])[0] != before
  whole = MetaAnomalyDetector(run_dir).fit(normal[:150])
  assert whole.support_.sum() == 20 and len(whole._judged().evidence.own) == 130
  own = whole.decision_scores_[~whole.support_]
  p = whole.p_values(normal[150:])
  within = [
    (1 + (own >= -score).sum()) / 131
    for score in whole.score_samples(normal[150:])
  ]
  assert np.abs(p - within).max() < 0.15


def test_unlabelled_rows_do_not_certify(run_dir, rows):
  normal, bad = rows
  x = np.concatenate([normal[:30], bad[:4]])
  y = np.where(np.arange(34) % 2, -1, 0)
  y[30:] = -1
  detector = MetaAnomalyDetector(run_dir).fit(x, y)
  assert detector._judged().evidence.unlabelled
  assert (detector.support_ & (y == 0)).sum() == 15
  assert not len(detector._judged().evidence.own)


def test_clone_pipeline_and_grid_search(run_dir, rows):
  normal, bad = rows
  x = np.concatenate([normal[:40], bad[:40]])
  y = np.repeat([0, 1], 40)
  detector = clone(MetaAnomalyDetector(run_dir, false_alarm_rate=0.2))
  assert detector.false_alarm_rate == 0.2
  pipeline = make_pipeline(StandardScaler(), detector)
  search = GridSearchCV(
    pipeline,
    {'metaanomalydetector__false_alarm_rate': [0.1, 0.3]},
    cv=StratifiedKFold(3),
  ).fit(x, y)
  assert search.best_score_ > 0.9
  assert set(search.predict(x)) == {-1, 1}


def test_pyod_convention(run_dir, rows, capsys):
  normal, bad = rows
  x = np.concatenate([normal[:18], bad[:2]])
  detector = PyODAdapter(run_dir).fit(x)
  assert detector.detector_._judged().evidence.unlabelled
  new = np.concatenate([normal[20:60], bad[20:60]])
  y = np.repeat([0, 1], 40)
  scores = detector.decision_function(new)
  assert scores[40:].mean() > scores[:40].mean()
  np.testing.assert_array_equal(
    detector.predict(new), scores > detector.threshold_
  )
  labels, confidence = detector.predict(new, return_confidence=True)
  assert labels.shape == confidence.shape and confidence.min() >= 0.5
  assert len(detector.decision_scores_) == len(detector.labels_) == 20
  pyod_data.evaluate_print('ours', y, scores)
  assert 'ROC:' in capsys.readouterr().out
  assert pyod_utility.check_detector(detector) is None
  found = pyod_utility.precision_n_scores(y, scores)
  assert found == np.mean(y[np.argsort(scores)[-40:]])
  known = detector.decision_scores_.reshape(-1, 1)
  scaled = pyod_utility.standardizer(known, scores.reshape(-1, 1))
  assert abs(scaled[0].mean()) < 1e-6 and np.ptp(scaled[1]) > 0
  inverted = pyod_utility.invert_order(scores)
  assert np.argmin(inverted) == np.argmax(scores)
  odd, plain = pyod_data.get_outliers_inliers(x, detector.labels_)
  assert len(odd) == detector.labels_.sum() and len(odd) + len(plain) == 20
  supervised = PyODAdapter(run_dir).fit(x, np.r_[np.zeros(18), np.ones(2)])
  assert supervised.detector_._judged().evidence.anomalies == 2
  again = clone(PyODAdapter(run_dir, false_alarm_rate=0.2))
  assert again.false_alarm_rate == 0.2
  with pytest.raises(DataError, match='contamination'):
    PyODAdapter(run_dir, contamination=2).fit(x)


def test_combined_with_another_detector(run_dir, rows):
  combination = pytest.importorskip('pyod.models.combination')
  normal, bad = rows
  new = np.concatenate([normal[20:60], bad[:40]])
  mine, other = PyODAdapter(run_dir).fit(normal[:20]), ECOD().fit(normal[:20])
  scores = [
    pyod_utility.standardizer(each.decision_function(new).reshape(-1, 1))[:, 0]
    for each in (mine, other)
  ]
  both = combination.average(np.column_stack(scores))
  np.testing.assert_allclose(both, np.mean(scores, 0))


def test_the_page_for_scikit_learn_runs(run_dir, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(runs, '_SHIPPED', run_dir)
  detector_module._load_run.cache_clear()
  page = pathlib.Path(__file__).parents[2] / 'docs' / 'detector.md'
  told: dict = {}
  for block in re.findall(r'```python\n(.*?)```', page.read_text(), re.DOTALL):
    exec(compile(block, 'docs/detector.md', 'exec'), told)
  detector_module._load_run.cache_clear()
  assert (told['labels'] == -1).mean() > 0.9
  assert told['search'].best_score_ > 0.9


def frames():
  return [pytest.importorskip('pandas'), pytest.importorskip('polars')]


def test_frames_with_categories(run_dir):
  rng = np.random.default_rng(0)
  held = {
    'heat': list(rng.normal(20, 1, 30)),
    'mode': ['slow', 'fast', None] * 10,
    'on': [True] * 30,
  }
  strange = held | {'mode': ['melted'] * 30}
  found = []
  for library in frames():
    frame, other = library.DataFrame(held), library.DataFrame(strange)
    detector = MetaAnomalyDetector(run_dir).fit(frame)
    assert list(detector.feature_names_in_) == ['heat', 'mode', 'on']
    found.append(detector.score_samples(frame))
    assert (
      detector.score_samples(other).mean()
      < detector.score_samples(frame).mean()
    )
    turned = frame[['on', 'heat', 'mode']]
    np.testing.assert_array_equal(detector.score_samples(turned), found[-1])
    told = explanations.text(detector.explain(other[:1])[0])
    assert 'mode' in told.split(';')[0]
    with pytest.raises(DataError, match="lacks column 'mode'"):
      detector.predict(frame[['on', 'heat']])
    words = library.DataFrame(held | {'heat': ['hot'] * 30})
    with pytest.raises(DataError, match="'heat' held numbers in fit"):
      detector.predict(words)
  np.testing.assert_array_equal(found[0], found[1])


def test_dates_in_frames_keep_their_seconds(run_dir):
  pandas, _ = frames()
  start = pandas.Timestamp('2026-01-01')
  near = [start + pandas.Timedelta(seconds=i) for i in range(20)]
  late = [start + pandas.Timedelta(days=1)] * 2
  frame = lambda t: pandas.DataFrame({'t': t, 'x': np.zeros(len(t))})
  detector = MetaAnomalyDetector(run_dir).fit(frame(near))
  scores = -detector.score_samples(frame(late + near[:1]))
  assert scores[0] > scores[2] + 1


def test_saved_and_loaded(run_dir, rows, tmp_path):
  pandas, _ = frames()
  normal, bad = rows
  path = str(tmp_path / 'detector.npz')
  frame = pandas.DataFrame(normal[:30]).add_prefix('c')
  frame['kind'] = ['a', 'b'] * 15
  detector = MetaAnomalyDetector(run_dir, false_alarm_rate=0.1).fit(frame)
  detector.partial_fit(frame)
  detector.save(path)
  again = MetaAnomalyDetector.load(path)
  np.testing.assert_array_equal(detector.p_values(frame), again.p_values(frame))
  assert again.threshold_ == detector.threshold_
  assert again.false_alarm_rate == 0.1
  clone(again).fit(normal[:10])  # the file is a run too
  with pytest.raises(DataError, match='holds no detector'):
    MetaAnomalyDetector.load(run_dir)
  arrays, meta = storage.load(path)
  del arrays['detector/y']
  storage.save(path, arrays, meta)
  with pytest.raises(DataError, match='damaged'):
    MetaAnomalyDetector.load(path)
  with pytest.raises(DataError, match='.npz'):
    detector.save(str(tmp_path / 'detector.txt'))
  json.dumps(meta)
  copied = pickle.loads(pickle.dumps(detector))
  np.testing.assert_array_equal(copied.predict(frame), detector.predict(frame))


def test_the_threshold_is_that_of_fit_whenever_it_is_asked_for(run_dir, rows):
  """It is found on first use; what is set later does not change it."""
  early, late = (MetaAnomalyDetector(run_dir).fit(rows[0][:20]) for _ in '12')
  known = early.threshold_
  late.set_params(false_alarm_rate=0.5)
  assert late.threshold_ == known == -late.offset_
  assert late.fit(rows[0][:20]).threshold_ < known
  with pytest.raises(AttributeError):
    _ = MetaAnomalyDetector(run_dir).threshold_
  with pytest.raises(DataError, match='cannot be promised'):
    MetaAnomalyDetector(run_dir, false_alarm_rate=1e-9).fit(rows[0][:20])


def test_the_shipped_file_is_what_its_learner_has():
  """It is read by its names alone, which saves tracing the network."""
  named = runs.restore('shipped')
  traced = runs.restore(
    str(pathlib.Path(runs.__file__).parent / 'shipped' / 'tables.npz')
  )
  jax.tree.map(np.testing.assert_array_equal, named.params, traced.params)
  assert jax.tree.structure(named.params) == jax.tree.structure(traced.params)


def test_importing_the_detector_leaves_the_collector_as_it_was():
  code = (
    'import gc, sys, metaad_jax\n'
    'metaad_jax.MetaAnomalyDetector\n'
    'late = {"matplotlib", "orbax", "scipy.signal", "sklearn.metrics"}\n'
    'print(gc.isenabled(), sorted(late & set(sys.modules)))'
  )
  told = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert told.stdout.split('\n')[0] == 'True []'


def test_a_run_without_calibration_says_so(run_dir, rows, tmp_path):
  run = runs.restore(run_dir)._replace(calibration=None)
  path = str(tmp_path / 'bare.npz')
  storage.save(path, *runs.pack(run))
  with pytest.raises(DataError, match='experiments.calibrate'):
    MetaAnomalyDetector.from_run(path).fit(rows[0][:5])
  runs.calibrate(path, runs.restore(run_dir).calibration, {'sources': []})
  detector = MetaAnomalyDetector.from_run(path).fit(rows[0][:20])
  held = runs.restore(path).calibration
  assert isinstance(held, conformal.Calibration)
  assert np.isfinite(detector.threshold_)


def test_windows(run_dir):
  rng = np.random.default_rng(0)
  time = np.arange(256) / 1000
  wave = lambda n, f: (
    np.sin(2 * np.pi * f * time + 7 * rng.random((n, 1)))
    + 0.1 * rng.normal(size=(n, 256))
  )[..., None]
  detector = MetaAnomalyDetector(run_dir, rate=1000.0).fit(wave(20, 50))
  assert (detector.predict(wave(5, 200)) == -1).all()
  burst = wave(1, 50)
  burst[0, 128:160] += 3 * rng.normal(size=(32, 1))
  told = detector.explain(burst)[0]
  assert 0.12 < told.seconds[np.argmax(told.times)] < 0.16
  assert told.seconds[-1] == 0.256
  with pytest.raises(ValueError, match='expecting 256'):
    detector.predict(wave(2, 50)[:, :100])
  with pytest.raises(DataError, match='shape'):
    detector.predict(wave(2, 50)[:, :, [0, 0]])
  broken = wave(2, 50)
  broken[1, 3] = np.nan
  with pytest.raises(DataError, match='row 1 holds NaN'):
    detector.predict(broken)


def test_nothing_is_compiled_as_the_number_of_rows_varies(run_dir, rows):
  normal, bad = rows
  detector = MetaAnomalyDetector(run_dir)
  for n in (9, 30, 5, 33):  # supports fill half of their size, or more
    detector.fit(normal[:n, :5]).predict(bad[:, :5])
    detector.predict(bad[:9, :5])
  with jax.log_compiles(), warnings.catch_warnings(record=True):
    with CountedCompiles() as counted:
      for n in (10, 13, 16, 18, 20, 31, 7):
        detector.fit(normal[:n, : 5 + n % 3]).predict(bad[: 3 * n, : 5 + n % 3])
  assert counted.number == 0


class CountedCompiles:
  """Counts what XLA compiles."""

  def __enter__(self):
    self.number = 0
    self._listening = True

    def listen(name, duration, **kwargs):
      del duration, kwargs
      if self._listening and 'backend_compile' in name:
        self.number += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    return self

  def __exit__(self, *error):
    self._listening = False


def test_the_count_sees_a_compilation():
  with CountedCompiles() as counted:
    jax.jit(lambda x: x * 3.25 + 1)(np.ones(7)).block_until_ready()
  assert counted.number == 1


BAD_ROWS = [
  (np.zeros((0, 3)), 'minimum of 1'),
  (np.zeros((3, 0)), 'feature'),
  (np.zeros(3), '1D array'),
  (np.zeros((2, 2, 2, 2)), '4 dimensions'),
  (np.array([[1.0, np.inf]]), 'infinity'),
  (np.array([['a', 'b']]), 'string'),
  ([[1, 2], [3]], 'inhomogeneous'),
  (np.zeros((2, 2), complex), 'omplex'),
]


@pytest.mark.parametrize('x, message', BAD_ROWS)
def test_rows_that_make_no_sense(run_dir, x, message):
  with pytest.raises(ValueError, match=message):
    MetaAnomalyDetector(run_dir).fit(x)


@pytest.mark.parametrize(
  'y', [[0, 2], [0], 'ab', [[0, 1], [1, 0]], [None, 1], [0.5, 0], [1, 1]]
)
def test_labels_that_make_no_sense(run_dir, y):
  with pytest.raises(DataError, match='y '):
    MetaAnomalyDetector(run_dir).fit(np.eye(2), y)


@pytest.mark.parametrize('rate', [0, 1, -1, np.nan, 'five', None])
def test_rates_that_make_no_sense(run_dir, rate):
  with pytest.raises(DataError, match='false_alarm_rate'):
    MetaAnomalyDetector(run_dir, false_alarm_rate=rate).fit(np.eye(2))


EXTREME = st.one_of(
  st.floats(-10, 10),
  st.sampled_from(
    [0.0, -0.0, np.nan, 1e300, -1e300, 1e-300, 1e18, 5e-324, 1e7, np.inf]
  ),
)


@settings(
  max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(data=st.data())
def test_any_table_gives_a_finite_score_or_a_clear_error(run_dir, data):
  width = data.draw(st.integers(1, 9))
  shape = lambda most: st.tuples(st.integers(1, most), st.just(width))
  known = data.draw(hnp.arrays(np.float64, shape(12), elements=EXTREME))
  new = data.draw(hnp.arrays(np.float64, shape(5), elements=EXTREME))
  y = data.draw(hnp.arrays(np.int64, len(known), elements=st.integers(-1, 1)))
  try:
    detector = MetaAnomalyDetector(run_dir).fit(known, y)
    scores, p = detector.score_samples(new), detector.p_values(new)
  except ValueError as error:
    assert len(str(error)) > 10
    assert np.isinf(known).any() or np.isinf(new).any() or (y == 1).all()
    return
  assert np.isfinite(scores).all() and ((p > 0) & (p <= 1)).all()
  assert np.isfinite(detector.decision_scores_).all()


def test_the_parameters_are_those_of_the_constructor():
  names = list(inspect.signature(MetaAnomalyDetector).parameters)
  assert sorted(MetaAnomalyDetector().get_params()) == sorted(names)
