"""How rare a score is, on distributions that are known."""

import numpy as np
import pytest

from metaad_jax.detector import series, series_tails


@pytest.mark.parametrize('n', [12, 40, 100])
@pytest.mark.parametrize('level', [1e-2, 1e-3])
def test_a_threshold_is_exceeded_as_often_as_promised(n, level):
  random = np.random.default_rng(0)
  thresholds = [
    series_tails.threshold(np.sort(random.exponential(size=n)), level)
    for _ in range(4000)
  ]
  # How often the next of these exponential scores is above.
  assert 0.8 * level < np.exp(-np.array(thresholds)).mean() < 1.2 * level


@pytest.mark.parametrize('level', [1e-5, 1e-3, 0.02, 0.1, 0.5])
def test_the_threshold_has_the_p_value_of_its_level(level):
  known = np.sort(np.random.default_rng(1).normal(size=99))
  at = series_tails.threshold(known, level)
  p = series_tails.p_values(known, np.array([at - 1e-6, at + 1e-6]))
  assert p[1] <= level <= p[0]


def test_p_values_are_ranks_among_the_known_ones():
  known = np.arange(9.0)
  p = series_tails.p_values(known, np.array([-1.0, 0.0, 0.5, 8.0]))
  np.testing.assert_allclose(p, [1.0, 0.9, 0.85, 0.1])


def test_runs_of_high_periods_are_one_event():
  stretches = [
    np.array([19, 1, 18, 17, 2, 16, 15, 14.0]),
    np.array([13, 0, 12.0]),
  ]
  # The eight highest: 19; 18, 17; 16, 15, 14; 13; 12.
  known = np.sort(np.concatenate(stretches))
  # Their 5 / 8 counts for 5.5 periods, half of what is known; .4 for 8 more.
  assert series_tails.alone(stretches, known) == (5.5 * 5 / 8 + 3.2) / 13.5


def test_one_known_stretch_says_little():
  p = series_tails.p_values(np.zeros(1), np.array([0.0, 0.1, 100.0]))
  assert p[0] == 0.5 and p[1] > 0.2 and 0 < p[2] < 0.01


def test_an_alarm_that_joins_two_faults_is_two_events():
  local = np.full(100, -0.5)
  local[20:30], local[70:72], local[50] = 2.0, 1.5, 0.3  # and an echo
  rows = np.arange(200, 300)
  one, two = series_tails.apart(rows, local, np.arange(300), 20)
  assert (one[0], one[-1], two[0], two[-1]) == (220, 229, 270, 271)
  (whole,) = series_tails.apart(rows, np.full(100, -0.1), np.arange(300), 20)
  np.testing.assert_array_equal(whole, rows)


def test_the_odds_ship_with_the_weights():
  assert series._shipped().keys() >= {'weights', 'folds', 'odds'}
  p = np.linspace(0, 1, 11)
  there = series_tails.calibrated(p, 3.0)
  np.testing.assert_allclose(series_tails.calibrated(there, 1 / 3), p)
  assert there[5] == 1 / 4  # odds of 1 : 1 are 1 : 3
