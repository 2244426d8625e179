"""scikit-learn's scorers: the right sign, or refused with the reason."""

import nearest_run
import numpy as np
import pytest
from sklearn.ensemble import IsolationForest
from sklearn.metrics import f1_score, make_scorer, roc_auc_score
from sklearn.model_selection import (
  GridSearchCV,
  StratifiedKFold,
  cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from metaad_jax import scorers
from metaad_jax.base import DataError
from metaad_jax.detector.estimator import MetaAnomalyDetector

NAMES = 'roc_auc', 'average_precision', 'f1', 'balanced_accuracy'


@pytest.fixture(scope='module')
def given():
  """A pipeline, rows told apart without error, and their labels of 0 and 1."""
  normal, bad = nearest_run.table(np.random.default_rng(1), 60, 5, 30.0)
  detector = MetaAnomalyDetector(nearest_run.shared())
  x = np.concatenate([normal, bad[:30]])
  return (
    make_pipeline(StandardScaler(), detector),
    x,
    np.repeat([0, 1], [60, 30]),
  )


@pytest.mark.parametrize('name', NAMES)
def test_by_name(given, name):
  detector, x, y = given
  cv = StratifiedKFold(3)
  run = lambda y, scoring: cross_val_score(
    detector, x, y, scoring=scoring, cv=cv, error_score='raise'
  )
  with pytest.raises(DataError, match='metaad_jax.scorers'):
    run(y, name)
  signs = np.where(y, -1, 1)
  assert run(signs, name).mean() > 0.9  # of finding the inliers
  ours = run(y, scorers.Scorer(name))
  np.testing.assert_array_equal(ours, run(signs, scorers.Scorer(name)))
  assert ours.mean() > 0.9


def test_ours_are_those_of_scikit_learn(given):
  detector, x, y = given
  order = np.random.default_rng(0).permutation(len(x))[:60]
  x, y = x[order] + np.random.default_rng(0).normal(size=(60, 5)), y[order]
  fitted = detector.fit(x[y == 0][:10])
  assert scorers.roc_auc(fitted, x, y) == fitted.score(x, y)
  f1 = f1_score(y, fitted.predict(x) == -1)
  assert scorers.Scorer('f1')(fitted, x, y) == f1
  forest = IsolationForest(n_estimators=10, random_state=0).fit(x)
  assert scorers.roc_auc(forest, x, y) == roc_auc_score(
    y, -forest.decision_function(x)
  )


def test_a_search_and_a_scorer_of_ones_own(given):
  detector, x, y = given
  grid = {'metaanomalydetector__false_alarm_rate': [0.05, 0.2]}
  cv = StratifiedKFold(2)
  for scoring in (None, scorers.average_precision):
    found = GridSearchCV(detector, grid, scoring=scoring, cv=cv).fit(x, y)
    assert found.best_score_ > 0.9
  with pytest.raises(DataError, match='metaad_jax.scorers'):
    GridSearchCV(
      detector, grid, scoring=['roc_auc', 'f1'], refit='f1', cv=cv,
      error_score='raise',
    ).fit(x, y)  # fmt: skip
  turned = lambda y, scores: roc_auc_score(y, -scores)
  own = make_scorer(turned, response_method='decision_function')
  assert own(detector.fit(x, y), x, y) > 0.9
