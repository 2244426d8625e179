"""The detector in PyOD's convention: 1 = outlier, higher = more abnormal."""

from typing import Any, Self

import numpy as np
from pyod.models.base import BaseDetector

from metaad_jax.base import DataError
from metaad_jax.detector.estimator import MetaAnomalyDetector


class PyODAdapter(BaseDetector):
  """`MetaAnomalyDetector` as a detector of PyOD, with all methods of those.

  Arguments and attributes are those of `MetaAnomalyDetector`, which is
  `detector_`. With a `contamination` above 0 the rows of `fit` may hold
  anomalies: without labels they count as unlabelled. It does not set the
  threshold.

  Example:
    >>> PyODAdapter().fit(rows).predict(new_rows)
  """

  def __init__(
    self,
    run_dir: str = 'shipped',
    *,
    contamination: float = 0.1,
    false_alarm_rate: float = 0.05,
  ):
    # Not BaseDetector's, which refuses a contamination of 0.
    self.run_dir = run_dir
    self.contamination = contamination
    self.false_alarm_rate = false_alarm_rate

  def fit(self, X: Any, y: Any = None, unlabelled: Any = None) -> Self:
    """Adapts to an entity; see `MetaAnomalyDetector.fit`."""
    if not 0 <= self.contamination <= 0.5:
      raise DataError(
        f'contamination={self.contamination!r} is impossible: it lies between '
        '0 and 0.5'
      )
    if y is None and unlabelled is None and self.contamination > 0:
      X, unlabelled = None, X
    rate = self.false_alarm_rate
    inner = MetaAnomalyDetector(self.run_dir, false_alarm_rate=rate)
    inner.fit(X, y, unlabelled)
    self.detector_ = inner
    self._set_n_classes(None)
    self.decision_scores_ = inner.decision_scores_
    self._process_decision_scores()  # what predict_proba needs
    self.threshold_, self.labels_ = inner.threshold_, inner.labels_
    return self

  def decision_function(self, X: Any) -> np.ndarray:
    """[n] float64, higher = more abnormal."""
    return -self.detector_.score_samples(X)
