"""The detector in PyOD's convention: 1 = outlier, higher = more abnormal."""

from typing import Any, Self

import numpy as np
from pyod.models.base import BaseDetector

from metaad_jax.base import DataError
from metaad_jax.detector.estimator import MetaAnomalyDetector


class PyODAdapter(BaseDetector):
  """`MetaAnomalyDetector` as a detector of PyOD, with all methods of those.

  Args:
    run_dir: see `MetaAnomalyDetector`.
    contamination: above 0, the rows of `fit` may hold anomalies: without
      labels they count as unlabelled. It does not set the threshold.
    false_alarm_rate: see `MetaAnomalyDetector`.

  Attributes:
    detector_: the `MetaAnomalyDetector` inside.
    decision_scores_, threshold_, labels_: see there.

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

  def fit(self, X: Any, y: Any = None) -> Self:
    """Adapts to an entity; see `MetaAnomalyDetector.fit`.

    Raises:
      DataError: for rows, labels or arguments that make no sense, in one line.
    """
    if not 0 <= self.contamination <= 0.5:
      raise DataError(
        f'contamination={self.contamination!r} is impossible: it lies between '
        '0 and 0.5'
      )
    self.detector_ = MetaAnomalyDetector(
      self.run_dir, false_alarm_rate=self.false_alarm_rate
    )
    if y is None and self.contamination > 0:
      y = np.full(len(X), -1)
    self.detector_.fit(X, y)
    self._set_n_classes(None)
    self.decision_scores_ = self.detector_.decision_scores_
    self._process_decision_scores()  # what predict_proba needs
    self.threshold_ = self.detector_.threshold_
    self.labels_ = self.detector_.labels_
    return self

  def decision_function(self, X: Any) -> np.ndarray:
    """[n] float64, higher = more abnormal."""
    return -self.detector_.score_samples(X)
