"""The detector against scikit-learn's checks, PyOD, frames, and nonsense."""

import pathlib
import pickle
import re
import subprocess
import sys
import types
import warnings

import jax
import nearest_run
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pandas
import polars
from pyod.models.base import BaseDetector
from pyod.utils import data as pyod_data
from pyod.utils import utility as pyod_utility
import pytest
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.utils.estimator_checks import check_estimator

from metaad_jax import storage
from metaad_jax.base import DataError
from metaad_jax.detector import fitted as fitted_lib
from metaad_jax.detector import reasons
from metaad_jax.detector.estimator import MetaAnomalyDetector
from metaad_jax.detector.pyod import PyODAdapter
from metaad_jax.training import runs


@pytest.fixture(scope='module')
def run_dir():
  return nearest_run.shared()


@pytest.fixture(scope='module')
def bare(run_dir, tmp_path_factory):
  """The same run, never calibrated."""
  path = str(tmp_path_factory.mktemp('run') / 'bare.npz')
  run = runs.restore(run_dir)._replace(calibration=None)
  storage.save(path, *runs.pack(run))
  return path


@pytest.fixture(scope='module')
def rows():
  """(normals [200, 6], anomalies [200, 6]) of a table nobody calibrated on."""
  return nearest_run.table(np.random.default_rng(77), 200, 6, 6.0)


@pytest.fixture(scope='module')
def fitted(run_dir, rows):
  return MetaAnomalyDetector(run_dir).fit(rows[0][:20])


def examples():
  """The names that the examples of docs/detector.md define, by block."""
  page = pathlib.Path(__file__).parents[2] / 'docs' / 'detector.md'
  return re.findall(r'```python\n(.*?)```', page.read_text(), re.DOTALL)


def test_scikit_learn_accepts_it(run_dir, monkeypatch):
  """The subclass of the docs, which ignores y as those of scikit-learn do."""
  page = types.ModuleType('page')
  monkeypatch.setitem(sys.modules, 'page', page)  # so that it can be pickled
  page.MetaAnomalyDetector = MetaAnomalyDetector
  code = next(block for block in examples() if 'class Ignoring' in block)
  exec(code, page.__dict__)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    results = check_estimator(page.Ignoring(run_dir), on_fail=None)
  failed = {r['check_name'] for r in results if r['status'] == 'failed'}
  assert not failed and len(results) > 40


def test_outliers_are_found_at_about_the_promised_rate(run_dir):
  alarms, recalls = [], []
  for seed in range(30):
    rng = np.random.default_rng(500 + seed)
    normal, bad = nearest_run.table(rng, 60, int(rng.integers(3, 9)), 6.0)
    detector = MetaAnomalyDetector(run_dir, false_alarm_rate=0.1)
    detector.fit(normal[:20])
    alarms.append(np.mean(detector.predict(normal[20:]) == -1))
    recalls.append(np.mean(detector.predict(bad) == -1))
  # Thirty tables here, and as many that the run was calibrated on.
  error = np.std(alarms) * np.sqrt(2 / len(alarms))
  assert abs(np.mean(alarms) - 0.1) < 0.02 + 3 * error
  assert np.mean(recalls) > 0.8


def test_the_methods_agree(fitted, rows):
  x = np.concatenate([rows[0][20:80], rows[1][:60]])
  scores, decision = fitted.score_samples(x), fitted.decision_function(x)
  assert_allclose(decision, scores - fitted.offset_)
  outlier = fitted.predict(x) == -1
  assert_array_equal(outlier, fitted.p_values(x) <= 0.05)
  assert_array_equal(outlier, fitted.predict_proba(x)[:, 1] > 0.5)
  assert_allclose(fitted.predict_proba(x).sum(1), 1)
  assert 0 < outlier.mean() < 1
  judged = fitted.judge(fitted.encode(x))
  expected = -scores, fitted.p_values(x), outlier
  for part, known in zip(judged, expected, strict=True):
    assert_array_equal(part, known)
  assert_array_equal(
    fitted.labels_, fitted.decision_scores_ > fitted.threshold_
  )
  labels = np.repeat([0, 1], 60)
  assert fitted.score(x, labels) > 0.95
  reported = fitted.discoveries(x, 0.2)
  assert np.mean(labels[reported] == 0) < 0.3 and reported.sum() > 30


def test_scores_do_not_depend_on_the_batch(fitted, rows):
  x = np.tile(np.concatenate(rows), (4, 1))[:1500]
  whole = fitted.score_samples(x)
  for start, stop in ((0, 1), (7, 15), (3, 12), (0, 65), (60, 400), (0, 1024)):
    part = fitted.score_samples(x[start:stop])
    assert_allclose(part, whole[start:stop], rtol=1e-5)


def test_labels_and_more_normals_are_taken_in(run_dir, rows):
  normal, bad = rows
  few = MetaAnomalyDetector(run_dir).fit(normal[:5])
  before = few.score_samples(bad[2:3])[0]
  few.partial_fit(bad[:2], [True, True])
  assert_array_equal(few.support_, True)
  few.partial_fit(normal[5:45], np.zeros(40))
  # The sixth normal joins the support, the seventh is held out, and so on
  # until the 20 that were calibrated are there.
  joined = few.support_[7:]
  assert_array_equal(joined[:4], [True, False, True, False])
  assert joined.sum() == 15
  evidence = few._fitted.evidence
  assert (evidence.shots, evidence.anomalies, len(evidence.own)) == (20, 2, 25)
  assert_array_equal(evidence.own, few.decision_scores_[7:][~joined])
  assert few.score_samples(bad[2:3])[0] != before
  whole = MetaAnomalyDetector(run_dir).fit(normal[:150])
  assert whole.support_.sum() == 20
  own, known = whole.decision_scores_[~whole.support_], whole._fitted
  held_out = known.features(normal[:150][~whole.support_])
  # As new rows they would find themselves among those known.
  assert (own > known.score_features(held_out)).all()
  scores = -whole.score_samples(normal[150:])
  within = (1 + (own >= scores[:, None]).sum(1)) / 131
  assert np.abs(whole.p_values(normal[150:]) - within).max() < 0.15


def test_unlabelled_rows_do_not_certify(run_dir, rows):
  normal, rest = rows[0][:15], np.concatenate([rows[0][15:30], rows[1][:4]])
  detector = MetaAnomalyDetector(run_dir).fit(normal, unlabelled=rest)
  evidence = detector._fitted.evidence
  assert evidence.unlabelled and not len(evidence.own)
  assert evidence.shots == 20  # of the normals all, and of the others five
  assert detector.support_[:15].all() and detector.support_[15:].sum() == 5
  plain = MetaAnomalyDetector(run_dir).fit(rows[0][:20])
  doubtful = MetaAnomalyDetector(run_dir).fit(None, unlabelled=rows[0][:20])
  # No anomalies: they are taken for normal.
  assert_array_equal(doubtful.decision_scores_, plain.decision_scores_)
  doubtful.partial_fit(None, unlabelled=rest)
  assert len(doubtful.decision_scores_) == 39
  assert_array_equal(
    MetaAnomalyDetector(run_dir).fit_predict(rest, verified=normal),
    np.where(detector.labels_[15:] == 1, -1, 1),  # each by the others
  )
  for x, y in ((None, None), (None, [0])):
    with pytest.raises(DataError, match='unlabelled'):
      MetaAnomalyDetector(run_dir).fit(x, y)


def test_two_ways_to_write_labels(run_dir, rows):
  """0/1 or False/True with anomaly = 1; 1/-1 as scikit-learn's detectors."""
  x = np.concatenate([rows[0][:15], rows[1][:5]])
  bad = np.arange(20) >= 15
  fit = lambda y: MetaAnomalyDetector(run_dir).fit(x, y)
  expected = fit(bad).score_samples(rows[1])
  for y in (
    bad.astype(int), np.where(bad, -1, 1), list(bad), pandas.Series(bad * 1.0),
    np.where(bad, -1.0, 1.0)[:, None], polars.Series(bad),
  ):  # fmt: skip
    detector = fit(y)
    assert_array_equal(detector.score_samples(rows[1]), expected)
    assert detector.score(x, y) > 0.9


def test_a_support_holds_at_most_64_anomalies(run_dir, rows):
  x = np.concatenate([rows[0][:5], rows[1][:70]])
  y = np.repeat([0, 1], [5, 70])
  detector = MetaAnomalyDetector(run_dir).fit(x, y)
  assert detector.support_[:5].all() and detector.support_[5:].sum() == 64
  detector.partial_fit(rows[1][70:72], [True, True])
  assert not detector.support_[-2:].any()


def test_pyod_convention(run_dir, rows, capsys):
  """Every public method of the installed BaseDetector."""
  normal, bad = rows
  x = np.concatenate([normal[:18], bad[:2]])
  detector = PyODAdapter(run_dir).fit(x)
  assert isinstance(detector, BaseDetector)
  assert pyod_utility.check_detector(detector) is None
  assert detector.detector_._fitted.evidence.unlabelled
  new = np.concatenate([normal[20:60], bad[20:60]])
  scores = detector.decision_function(new)
  assert_array_equal(scores, -detector.detector_.score_samples(new))
  labels = detector.predict(new)
  assert_array_equal(labels, detector.detector_.predict(new) == -1)
  for name in ('decision_scores_', 'threshold_', 'labels_'):
    assert_array_equal(
      getattr(detector, name), getattr(detector.detector_, name)
    )
  for method in ('linear', 'unify'):
    shares, sure = detector.predict_proba(new, method, return_confidence=True)
    assert_allclose(shares.sum(1), 1)
    assert shares[40:, 1].mean() > shares[:40, 1].mean()
    assert_array_equal(sure, detector.predict_confidence(new))
  assert ((sure >= 0) & (sure <= 1)).all()
  assert_array_equal(
    detector.predict(new, return_confidence=True), (labels, sure)
  )
  kept, stats = detector.predict_with_rejection(
    new, T=2, c_r=0.1, return_stats=True
  )
  assert set(kept) <= {-2, 0, 1} and len(stats) == 3
  assert_array_equal(kept[kept >= 0], labels[kept >= 0])
  assert_allclose(stats, detector.compute_rejection_stats(T=2, c_r=0.1))
  pyod_data.evaluate_print('ours', np.repeat([0, 1], 40), scores)
  assert 'ROC:' in capsys.readouterr().out
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', FutureWarning)  # of PyOD
    assert_array_equal(clone(detector).fit_predict(x), detector.labels_)
    truth = np.repeat([0, 1], [18, 2])
    found = detector.fit_predict_score(x, truth, 'roc_auc_score')
  assert found == roc_auc_score(truth, detector.decision_scores_)
  changed = detector.set_params(contamination=0.3, false_alarm_rate=0.2)
  assert changed.get_params()['contamination'] == 0.3
  assert_array_equal(changed.predict(new), labels)  # until it is fitted again
  assert changed.fit(x).predict(new).sum() >= labels.sum()


def test_pyod_with_labels(run_dir, rows):
  normal, bad = rows
  x = np.concatenate([normal[:18], bad[:2]])
  labelled = PyODAdapter(run_dir).fit(x, np.r_[np.zeros(18), np.ones(2)])
  clean = clone(PyODAdapter(run_dir, contamination=0)).fit(x)
  for other, anomalies in ((labelled, 2), (clean, 0)):
    evidence = other.detector_._fitted.evidence
    assert not evidence.unlabelled and evidence.anomalies == anomalies
  both = PyODAdapter(run_dir).fit(normal[:9], unlabelled=x)
  assert both.detector_._fitted.evidence.unlabelled
  with pytest.raises(DataError, match='contamination'):
    PyODAdapter(run_dir, contamination=2).fit(x)


def test_the_page_for_scikit_learn_runs(run_dir, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(runs, '_SHIPPED', run_dir)
  monkeypatch.setattr(runs, '_UNVERIFIED', run_dir)
  fitted_lib._load_run.cache_clear()
  names: dict = {}
  for block in examples():
    exec(compile(block, 'docs/detector.md', 'exec'), names)
  fitted_lib._load_run.cache_clear()
  assert (names['labels'] == -1).mean() > 0.9
  assert names['search'].best_score_ > 0.9


def test_what_is_masked_is_missing(run_dir, rows):
  x = rows[0][:20]
  detector = MetaAnomalyDetector(run_dir).fit(x)
  masked = np.ma.masked_less(rows[0][20:30], rows[0][20:30].min(0) + 1e-9)
  holes = masked.filled(np.nan)
  assert np.isnan(holes).any()
  assert_array_equal(
    detector.score_samples(masked), detector.score_samples(holes)
  )


def test_saved_and_loaded(run_dir, rows, tmp_path):
  path = str(tmp_path / 'detector.npz')
  frame = pandas.DataFrame(rows[0][:30]).add_prefix('c')
  frame['kind'] = ['a', 'b'] * 15
  detector = MetaAnomalyDetector(run_dir, false_alarm_rate=0.1).fit(frame)
  detector.partial_fit(frame[:-1], np.r_[np.zeros(28), 1], frame[-1:])
  detector.save(path)
  p, names = detector.p_values(frame), list(detector.feature_names_in_)
  pickled = pickle.loads(pickle.dumps(detector))
  for again in (MetaAnomalyDetector.load(path), pickled):
    assert_array_equal(p, again.p_values(frame))
    assert again.threshold_ == detector.threshold_
    assert again.false_alarm_rate == 0.1
    assert list(again.feature_names_in_) == names
  clone(MetaAnomalyDetector.load(path)).fit(rows[0][:10])  # it is a run too
  with pytest.raises(DataError, match='holds no detector'):
    MetaAnomalyDetector.load(run_dir)
  with pytest.raises(DataError, match='.npz'):
    detector.save(str(tmp_path / 'detector.txt'))


def test_the_threshold_is_that_of_fit_whenever_it_is_asked_for(run_dir, rows):
  """It is found on first use; what is set later does not change it."""
  early, late = (MetaAnomalyDetector(run_dir).fit(rows[0][:20]) for _ in '12')
  known = early.threshold_
  late.set_params(false_alarm_rate=0.5)
  assert late.threshold_ == known == -late.offset_
  assert late.fit(rows[0][:20]).threshold_ < known
  with pytest.raises(AttributeError):
    _ = MetaAnomalyDetector(run_dir).threshold_
  rare = MetaAnomalyDetector(run_dir, false_alarm_rate=0.015)
  with pytest.raises(DataError, match='cannot be promised'):
    rare.fit(rows[0][:20])
  assert np.isfinite(rare.fit(rows[0][:150]).threshold_)  # 130 of its own


def test_a_run_without_calibration_ranks(bare, fitted, rows):
  normal, bad = rows
  detector = MetaAnomalyDetector.from_run(bare).fit(normal[:20])
  assert_array_equal(detector.score_samples(bad), fitted.score_samples(bad))
  assert_array_equal(
    detector.decision_function(bad), detector.score_samples(bad)
  )
  assert_array_equal(detector.decision_scores_, fitted.decision_scores_)
  judged = detector.judge(bad)
  assert np.isnan(judged.p_values).all() and not judged.outliers.any()
  told, other = (each.explain(bad[:1])[0] for each in (detector, fitted))
  assert_array_equal(told.attributions, other.attributions)
  assert told.change is None and 'not calibrated' in reasons.text(told)
  for method in ('predict', 'p_values', 'predict_proba', 'discoveries'):
    with pytest.raises(DataError, match='experiments.calibrate'):
      getattr(detector, method)(bad)
  many = MetaAnomalyDetector(bare).fit(normal[:80])
  assert many.support_.sum() == 50


def test_the_shipped_file_is_what_its_learner_has():
  """It is read by its names alone, which saves tracing the network."""
  named = runs.restore('shipped')
  traced = runs.restore(
    str(pathlib.Path(fitted_lib.__file__).parents[1] / 'shipped/tables.npz')
  )
  jax.tree.map(assert_array_equal, named.params, traced.params)
  assert jax.tree.structure(named.params) == jax.tree.structure(traced.params)


def test_importing_the_detector_leaves_the_collector_as_it_was():
  code = """
import gc, sys, metaad_jax
metaad_jax.MetaAnomalyDetector
late = {"matplotlib", "orbax", "scipy.signal", "pyod"}
assert gc.isenabled() and not late & set(sys.modules)
"""
  subprocess.run([sys.executable, '-c', code], check=True)


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
  with nearest_run.CountedCompiles() as counted:
    for n in (10, 13, 16, 18, 20, 31, 7):
      detector.fit(normal[:n, : 5 + n % 3]).predict(bad[: 3 * n, : 5 + n % 3])
  assert counted.number == 0
  with nearest_run.CountedCompiles() as counted:
    jax.jit(lambda x: x * 3.25 + 1)(np.ones(7)).block_until_ready()
  assert counted.number == 1  # it does count


BAD_ROWS = [
  (np.zeros((0, 3)), 'minimum of 1'),
  (np.zeros((3, 0)), 'feature'),
  (np.zeros(3), '1D array'),
  (np.zeros((2, 2, 2, 2)), '4 dimensions'),
  (np.array([[1.0, np.inf]]), 'infinity'),
  (np.array([['a', 'b']]), 'string'),
  ([[1, 2], [3]], 'inhomogeneous'),
  (np.zeros((2, 2), complex), 'omplex'),
  (pandas.DataFrame([[1, 2]], columns=['a', 'a']), 'two columns'),
  (pandas.DataFrame({'a': []}), '0 rows'),
  (pandas.DataFrame({'a': [b'x']}), 'holds a bytes'),
  (pandas.DataFrame({'a': [10**400]}, dtype=object), "column 'a'"),
]


@pytest.mark.parametrize('x, message', BAD_ROWS)
def test_rows_that_make_no_sense(run_dir, x, message):
  with pytest.raises(ValueError, match=message):
    MetaAnomalyDetector(run_dir).fit(x)


@pytest.mark.parametrize(
  'y',
  [
    [0, 2], [0], 'ab', [[0, 1], [1, 0]], [None, 1], [0.5, 0], [1, 1], [-1, -1],
    [0, -1], ['0', '1'], np.array(['0', '1'], object), [np.nan, 1],
    np.ma.array([0, 1], mask=[0, 1]), [True, True],
  ],
)  # fmt: skip
def test_labels_that_make_no_sense(run_dir, y):
  with pytest.raises(DataError, match='^y '):
    MetaAnomalyDetector(run_dir).fit(np.eye(2), y)


@pytest.mark.parametrize('rate', [0, 1, np.nan, 'five', None])
def test_rates_that_make_no_sense(run_dir, rate):
  with pytest.raises(DataError, match='false_alarm_rate'):
    MetaAnomalyDetector(run_dir, false_alarm_rate=rate).fit(np.eye(2))
