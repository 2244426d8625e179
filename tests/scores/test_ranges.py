import numpy as np
import pytest

from metaad_jax.base import DataError
from metaad_jax.scores import ranges


def _definition(labels, scores, window):
  """VUS-PR point by point, as TSB-AD's code goes through it."""
  n, truth = len(labels), np.asarray(labels, float)
  spans = ranges.segments(labels)
  volume = 0.0
  for width in range(window + 1):
    soft = truth.copy()
    for a, b in spans:
      for d in range(1, width // 2 + 1):
        for t in (a - d, b - 1 + d):
          if 0 <= t < n:
            soft[t] += np.sqrt(1 - d / width)
    soft = np.minimum(soft, 1)
    wide = np.zeros(n, bool)
    for a, b in spans:
      wide[max(0, a - width // 2) : b + width // 2] = True
    area = before = 0.0
    for rank in np.linspace(0, n - 1, ranges.THRESHOLDS).astype(int):
      predicted = scores >= np.sort(scores)[::-1][rank]
      hit = (soft * predicted)[wide].sum()
      border = (soft * predicted)[wide & (truth == 0)].sum()
      found = [predicted[a:b].any() for a, b in ranges.segments(wide)]
      recall = min(hit / (truth.sum() + border / 2), 1) * np.mean(found)
      area += (recall - before) * hit / predicted.sum()
      before = recall
    volume += area
  return volume / (window + 1)


@pytest.mark.parametrize('spans', [[(60, 75)], [(0, 4), (9, 10), (200, 230)]])
@pytest.mark.parametrize('ties', [False, True])
def test_vus_pr_is_the_sum_over_thresholds_and_tolerances(spans, ties):
  labels = np.zeros(240, int)
  for a, b in spans:
    labels[a:b] = 1
  scores = np.random.default_rng(0).normal(size=240) + 1.5 * labels
  scores = np.round(scores) if ties else scores
  assert ranges.vus_pr(labels, scores, 13) == pytest.approx(
    _definition(labels, scores, 13), abs=1e-12
  )


def test_vus_pr_of_a_perfect_and_of_a_turned_round_score():
  labels = np.zeros(1000, int)
  labels[500:520] = 1
  assert ranges.vus_pr(labels, labels.astype(float), 0) == pytest.approx(1)
  assert ranges.vus_pr(labels, -labels.astype(float), 0) < 0.05
  with pytest.raises(DataError):
    ranges.vus_pr(np.zeros(5), np.zeros(5), 2)


def test_tolerance_is_the_period_of_a_wave():
  t = np.arange(3000)
  assert abs(ranges.tolerance(np.sin(2 * np.pi * t / 80)) - 80) <= 1
  assert ranges.tolerance(t * 1.0) == 125


def test_delays_run_from_a_start_to_the_first_alarm():
  labels = np.array([0, 1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 1])
  alarms = np.array([1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0], bool)
  assert np.array_equal(
    ranges.delays(labels, alarms), [2, np.nan, np.nan], True
  )
  assert np.array_equal(
    ranges.delays(labels, alarms, 1), [2, 2, np.nan], equal_nan=True
  )


def test_a_level_leaves_so_many_events_among_normal_points():
  scores = np.array([9, 5, 8, 1, 0, 7, 2, 3, 10])
  normal = np.array([1, 1, 1, 1, 1, 1, 1, 1, 0], bool)
  assert ranges.level(scores, normal, 0, 1) == 9
  # 9 takes 5 with it, 8 is two away; then 7.
  assert ranges.level(scores, normal, 1, 1) == 8
  assert ranges.level(scores, normal, 1, 2) == 7
  assert ranges.level(scores, normal, 3, 1) == 3
