"""How well the scores of time stamps find anomalous stretches of a series.

No point adjustment anywhere: one hit does not make a whole stretch found.
"""

import numpy as np
from scipy import signal

from metaad_jax.base import DataError

THRESHOLDS = 250


def segments(labels: np.ndarray) -> np.ndarray:
  """[k, 2] first and one past the last time stamp of each stretch of ones."""
  edges = np.diff(
    np.concatenate([[0], np.asarray(labels) > 0, [0]]).astype(int)
  )
  return np.stack([np.flatnonzero(edges > 0), np.flatnonzero(edges < 0)], 1)


def tolerance(x: np.ndarray) -> int:
  """The window W of `vus_pr`, from the autocorrelation of a series [T].

  The lag of its highest peak, 3 to 300 beyond lag 3, in the first 20,000
  points; 125 where there is none (TSB-AD's rule).
  """
  x = np.asarray(x, np.float64)[:20000]
  x = x - x.mean()
  correlation = signal.correlate(x, x, 'full', 'fft')[len(x) - 1 :][3:401]
  peaks, _ = signal.find_peaks(correlation)
  if not len(peaks):
    return 125
  best = peaks[np.argmax(correlation[peaks])]
  return int(best + 3) if 3 <= best <= 300 else 125


def delays(labels: np.ndarray, alarms: np.ndarray, play: int = 0) -> np.ndarray:
  """[k] samples from the start of each anomalous stretch to the first alarm.

  NaN where none comes in it, or less than `play` samples after it. An alarm
  that began before it counts as one at its start.

  Args:
    labels: [T] 1 = anomalous.
    alarms: [T] bool.
    play: for alarms that come when a window has been seen.
  """
  at, spans = np.flatnonzero(alarms), segments(labels)
  first = np.append(at, np.inf)[np.searchsorted(at, spans[:, 0])]
  return np.where(first < spans[:, 1] + play, first - spans[:, 0], np.nan)


def level(
  scores: np.ndarray, normal: np.ndarray, events: int, apart: int
) -> float:
  """A threshold that at most so many events among normal points are above.

  The highest score among them that is more than `apart` from those of the
  `events` highest peaks; alarms that are no farther apart are one event.
  """
  rest = np.where(normal, scores, -np.inf)
  for _ in range(events):
    peak = int(rest.argmax())
    rest[max(0, peak - apart) : peak + apart + 1] = -np.inf
  return float(rest.max())


def vus_pr(labels: np.ndarray, scores: np.ndarray, window: int) -> float:
  """Volume under the surface of precision, recall and tolerance.

  Paparrizos et al., Volume Under the Surface, VLDB 2022, as TSB-AD computes it
  (NeurIPS 2024): the borders of a stretch are soft over w / 2 points, for every
  w from 0 to `window`, at 250 thresholds that are evenly spaced in rank.

  Args:
    labels: [T] 1 = anomalous.
    scores: [T] finite, higher = more abnormal.
    window: W, see `tolerance`.

  Raises:
    DataError: if nothing, or everything, is anomalous, or shapes differ.
  """
  labels, scores = np.asarray(labels) > 0, np.asarray(scores, np.float64)
  if labels.shape != scores.shape or labels.ndim != 1:
    raise DataError(f'labels {labels.shape} and scores {scores.shape} differ')
  if labels.all() or not labels.any() or not np.isfinite(scores).all():
    raise DataError('vus_pr needs normal and anomalous points, finite scores')
  spans, n = segments(labels), len(labels)
  ordered = np.sort(scores)
  levels = ordered[::-1][np.linspace(0, n - 1, THRESHOLDS).astype(int)]
  reached = lambda some: len(some) - np.searchsorted(some, levels)
  predicted, inside = reached(ordered), reached(np.sort(scores[labels]))
  total = 0.0
  for width in range(window + 1):
    border, weight = _border(labels, spans, width)
    order = np.argsort(scores[border])
    gains = np.concatenate([np.cumsum(weight[order][::-1])[::-1], [0.0]])
    gained = gains[np.searchsorted(scores[border][order], levels)]
    recall = np.minimum((inside + gained) / (labels.sum() + gained / 2), 1)
    peaks = [scores[a:b].max() for a, b in _widened(spans, n, width // 2)]
    recall *= reached(np.sort(peaks)) / len(peaks)
    total += np.diff(recall, prepend=0) @ ((inside + gained) / predicted)
  return float(total / (window + 1))


def _border(labels, spans, width):
  """Indices of the soft points around stretches, and their weights in (0, 1].

  One at d <= width / 2 from a stretch weighs sqrt(1 - d / width); what several
  stretches give adds up, to 1 at most.
  """
  steps = np.arange(1, width // 2 + 1)
  at = np.concatenate([spans[:, :1] - steps, spans[:, 1:] - 1 + steps]).ravel()
  weight = np.tile(np.sqrt(1 - steps / max(width, 1)), 2 * len(spans))
  real = (at >= 0) & (at < len(labels))
  real[real] = ~labels[at[real]]
  border, which = np.unique(at[real], return_inverse=True)
  return border, np.minimum(np.bincount(which, weight[real], len(border)), 1)


def _widened(spans, n, by):
  """Stretches with `by` more points on either side, merged where they touch."""
  merged: list[list[int]] = []
  for a, b in np.clip(spans + [-by, by], 0, n):
    if merged and a <= merged[-1][1]:
      merged[-1][1] = b
    else:
      merged.append([a, b])
  return merged
