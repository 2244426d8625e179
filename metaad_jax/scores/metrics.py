"""How well scores rank anomalies above normal rows.

Host metrics take NumPy arrays and go through scikit-learn's ROC curve;
the masked ones run inside a jitted training step.
"""

import jax
import jax.numpy as jnp
import numpy as np

from metaad_jax import base

NAMES = ('auroc', 'ap', 'recall_at_far_1', 'recall_at_far_5')


def auroc(labels: np.ndarray, scores: np.ndarray) -> float:
  """Returns the area under the ROC curve; a tied pair counts one half.

  Of labels [N] (1 = anomaly, 0 = normal) and finite scores [N], higher = more
  anomalous; a DataError where they are not that, or one class is empty.
  """
  return _auroc(*_curve(labels, scores)[:2])


def all_metrics(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
  """Returns every metric of `NAMES` from one pass over the ROC curve.

  `ap`, the average precision, is the sum of (R_n - R_{n-1}) P_n.
  `recall_at_far_1` and `_5` are the recalls at the lowest score that, taken as
  a threshold, at most 1% or 5% of the normal rows reach; 0 where every score is
  reached by more. Rows that tie are flagged together or not at all. With fewer
  than 1 / rate normal rows it is the recall without any false alarm. Arguments
  and errors are those of `auroc`.
  """
  false_alarms, recalls, ratio = _curve(labels, scores)
  precision = recalls[1:] / (recalls[1:] + ratio * false_alarms[1:])
  # The slack is for rounding: 1 - 0.9 is less than 10 false alarms of 100.
  recall_at = lambda rate: float(recalls[false_alarms <= rate + 1e-9].max())
  return {
    'auroc': _auroc(false_alarms, recalls),
    'ap': float(np.diff(recalls) @ precision),
    'recall_at_far_1': recall_at(0.01),
    'recall_at_far_5': recall_at(0.05),
  }


def masked_auroc(
  scores: jax.Array, labels: jax.Array, mask: jax.Array
) -> jax.Array:
  """Returns the AUROC of the real rows as a scalar; jittable, O(N^2).

  Of scores, labels and mask [N], 1 = a real row; other rows may hold anything.
  Ties count one half. A NaN score of a real row loses every comparison it is
  in, whichever its class. Where a class is empty the result is 0.5.
  """
  real = mask > 0
  anomaly = (labels > 0.5) & real
  normal = ~(labels > 0.5) & real
  above = scores[:, None] > scores[None, :]
  tied = scores[:, None] == scores[None, :]
  pairs = anomaly[:, None] & normal[None, :]
  wins = jnp.where(pairs, above + 0.5 * tied, 0.0).astype(scores.dtype)
  anomalies, normals = anomaly.sum(), normal.sum()
  per_anomaly = wins.sum(1) / jnp.maximum(normals, 1)
  area = per_anomaly.sum() / jnp.maximum(anomalies, 1)
  return jnp.where((anomalies > 0) & (normals > 0), area, 0.5)


def masked_accuracy(
  scores: jax.Array, labels: jax.Array, mask: jax.Array
) -> jax.Array:
  """Returns the share of the real rows whose class is right; jittable.

  Args:
    scores: [N, classes], the highest is the class; or [N], class 1 above 0.
    labels: [N] the class, a whole number of any dtype.
    mask: [N] 1 = a real row.
  """
  guess = scores.argmax(-1) if scores.ndim > 1 else scores > 0
  right = mask * (guess == labels)
  return right.sum() / jnp.maximum(mask.sum(), 1)


def _curve(
  labels: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
  """Returns false-alarm rates, recalls, and the normals per anomaly."""
  labels, scores = np.asarray(labels), np.asarray(scores)
  if labels.ndim != 1 or labels.shape != scores.shape:
    raise base.DataError(
      f'labels {labels.shape} and scores {scores.shape} differ: '
      'give one label and one score per row'
    )
  bad = np.flatnonzero(~np.isfinite(scores))
  if bad.size:
    raise base.DataError(
      f'{bad.size} of {scores.size} scores are not finite, the first in row '
      f'{bad[0]}: mend the detector, or leave those rows out'
    )
  anomalies, normals = np.sum(labels == 1), np.sum(labels == 0)
  if anomalies + normals < labels.size:
    raise base.DataError(
      'labels hold values other than 0 (normal) and 1 (anomaly): recode them'
    )
  if not anomalies or not normals:
    raise base.DataError(
      f'{anomalies} anomalies and {normals} normal rows: ranking needs at '
      'least one of each'
    )
  from sklearn import metrics as sklearn_metrics  # late: the detector starts

  false_alarms, recalls, _ = sklearn_metrics.roc_curve(
    labels, scores, drop_intermediate=False
  )
  return false_alarms, recalls, float(normals / anomalies)


def _auroc(false_alarms: np.ndarray, recalls: np.ndarray) -> float:
  return float(np.diff(false_alarms) @ (recalls[1:] + recalls[:-1]) / 2)
