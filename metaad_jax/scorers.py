"""Scorers for `cross_val_score` and `GridSearchCV`, of which 1 is an anomaly.

Scikit-learn's own, asked for by name, take the response of an outlier detector
as it is: higher where a row is more normal, 1 where it is. Against labels of 0
and 1, with 1 an anomaly, they are turned round. These take labels of both kinds
(see `MetaAnomalyDetector.fit`), and any outlier detector or pipeline.

Example:
  >>> cross_val_score(detector, X, y, scoring=scorers.roc_auc)
"""

import dataclasses
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import get_scorer
from sklearn.utils.validation import _num_samples

from metaad_jax.detector import encoding


class _Anomalies(ClassifierMixin, BaseEstimator):
  """An outlier detector as a classifier of anomalies."""

  classes_ = np.array([0, 1])

  def __init__(self, detector):
    self.detector = detector

  def decision_function(self, X):
    return -self.detector.decision_function(X)

  def predict(self, X):
    return (self.detector.predict(X) == -1).astype(int)

  def predict_proba(self, X):
    return self.detector.predict_proba(X)


@dataclasses.dataclass(frozen=True)
class Scorer:
  """The scorer of scikit-learn of that name, with anomalies as positives.

  Example:
    >>> GridSearchCV(detector, grid, scoring=scorers.Scorer('f1'))
  """

  name: str

  def __call__(self, estimator: Any, X: Any, y: Any) -> float:
    """The score of a fitted detector on rows X [n, ...] with labels y [n]."""
    labels = encoding.labels(y, _num_samples(X))
    return get_scorer(self.name)(_Anomalies(estimator), X, labels)


roc_auc = Scorer('roc_auc')
average_precision = Scorer('average_precision')
