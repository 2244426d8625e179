"""Rows that nobody checked, beside verified ones or alone."""

import pickle

import fast
import jax
import numpy as np
from numpy.testing import assert_allclose
import pytest

from metaad_jax import MetaAnomalyDetector, storage
from metaad_jax.detector import unverified
from metaad_jax.training import runs, setup


@pytest.fixture(scope='module')
def run_dir(tmp_path_factory):
  model = 'gated:width=4,blocks=1,heads=1,rounds=1,rows=6'
  return _file(model, tmp_path_factory.mktemp('gated'))


def _file(model, folder):
  """A model file of a small network that has learned nothing."""
  config = setup.Config(source='oddbench', learner='tables', model=model)
  made = setup.resolve(config)
  params = fast.jit(made.learner.init)(jax.random.key(0), made.example())
  path = str(folder / 'run.npz')
  storage.save(path, *runs.pack(runs.Run(made.name, made, params, 0)))
  return path


def test_suspects_follow_their_rows(run_dir, tmp_path):
  rng = np.random.default_rng(0)
  known, rest = rng.normal(size=(5, 3)), rng.normal(size=(20, 3))
  rest[3] += 30.0
  fit = lambda rows: MetaAnomalyDetector(run_dir).fit(known, unlabelled=rows)
  detector, order = fit(rest), rng.permutation(20)
  told = detector.suspects_
  assert np.isnan(told[:5]).all() and ((told[5:] > 0) & (told[5:] < 1)).all()
  assert len(set(told[5:].round(6))) > 10  # it is no constant
  assert_allclose(fit(rest[order]).suspects_[5:], told[5:][order], rtol=1e-3)
  path = str(tmp_path / 'saved.npz')
  detector.save(path)
  copies = (
    MetaAnomalyDetector.load(path), pickle.loads(pickle.dumps(detector))
  )  # fmt: skip
  for copy in copies:
    assert_allclose(copy.suspects_, told)
    assert_allclose(copy.score_samples(rest), detector.score_samples(rest))
  alone = MetaAnomalyDetector(run_dir).fit(None, unlabelled=rest)
  assert np.isfinite(alone.suspects_).all()
  assert not np.isnan(alone.decision_scores_).any()


def test_a_file_asks_whether_all_rows_were_verified(tmp_path, monkeypatch):
  path = _file('attention:width=4,blocks=1,heads=1', tmp_path)
  rng = np.random.default_rng(0)
  rows = rng.normal(size=(15, 3))
  monkeypatch.setattr(unverified, '_ATTENDED', 12)
  rows[3] += 30.0
  detector = MetaAnomalyDetector(path).fit(None, unlabelled=rows)
  assert detector.support_.sum() == 12  # as many as it reads
  told = detector.suspects_
  assert np.isfinite(told[detector.support_]).all()
  assert np.isnan(told[~detector.support_]).all()
  evidence = detector._fitted.evidence
  assert evidence.shots == 12 and evidence.unlabelled
  detector.save(str(tmp_path / 'saved.npz'))
  copy = MetaAnomalyDetector.load(str(tmp_path / 'saved.npz'))
  usual = detector.score_samples(rows)
  assert_allclose(copy.score_samples(rows), usual)
  assert_allclose(detector.score_samples(rows[:1]), usual[:1], rtol=1e-4)
  verified = MetaAnomalyDetector(path).fit(rows)._fitted
  assert verified.evidence.shots == 15 and not verified.evidence.unlabelled
  with pytest.warns(UserWarning, match='whether all rows were verified'):
    MetaAnomalyDetector(path).fit(rows[:5], unlabelled=rows[5:])
  spec = 'attention:width=4,blocks=1,heads=1,distances=True'
  path = _file(spec, tmp_path)
  with pytest.warns(UserWarning, match='not calibrated on verified and unver'):
    found = MetaAnomalyDetector(path).fit(rows[:5], unlabelled=rows[5:])
  assert np.isnan(found.suspects_[:5]).all()
  assert np.isfinite(found.suspects_[5:]).all()


def test_labels_as_a_run_is_given_them(run_dir):
  y = np.array([0, -1, 1])
  run = runs.restore(run_dir)
  assert unverified.given(run, y).tolist() == [0, 0.5, 1]
  assert unverified.given(runs.restore('shipped'), y).tolist() == [0, 0.5, 1]
  assert unverified.run_for('shipped', y) == 'unverified'
  assert unverified.run_for('shipped', y[:2]) == 'unverified'
  for other in (y[[0, 2]], y[1:], y[[1, 1]]):  # nothing verified, or all
    assert unverified.run_for('shipped', other) == 'shipped'
  assert unverified.run_for(run_dir, y) == run_dir


def test_verified_rows_come_first_and_files_can_be_read_again(run_dir):
  run, plain = runs.restore(run_dir), runs.restore('shipped')
  labels = np.repeat([-1, 0, 1], [2000, 80, 100])
  for size in (4, 3000):
    rooms = unverified.rooms(run, labels, size)
    support = unverified.draw(np.arange(2180), labels, rooms)
    counts = [int(support[labels == kind].sum()) for kind in (0, 1, -1)]
    assert counts[:2] == [50, 64] and counts[2] > 0
    assert sum(counts) <= 512 and sum(counts) ** 2 * size <= 1 << 26
  few = unverified.draw(
    np.arange(2180), labels, unverified.rooms(plain, labels, 4)
  )
  assert few[labels == 0].sum() == 50 and not few[labels == -1].any()


def test_a_run_that_takes_them_for_normal_says_so():
  rng = np.random.default_rng(0)
  plain = runs.restore('shipped')
  with pytest.warns(UserWarning, match='for normal'):
    unverified.warn(plain, np.array([0, -1]))
  detector = MetaAnomalyDetector().fit(rng.normal(size=(5, 2)))
  assert not hasattr(detector, 'suspects_')
