"""Bets against exchangeability, on streams whose law is known."""

import numpy as np
import pytest

from metaad_jax.detector import series_changes

_LIMIT = -np.log(series_changes.RATE)


@pytest.mark.parametrize('n', [3, 30])
def test_one_of_a_hundred_exchangeable_streams_is_said_to_have_changed(n):
  random = np.random.default_rng(n)
  said = [
    (series_changes.course(x[:n], x[n:]) > _LIMIT).any()
    for x in random.normal(size=(1000, n + 200))
  ]
  assert sum(said) <= 20  # 10 at most are expected, plus three deviations


def test_a_change_of_level_is_announced_from_few_periods():
  random = np.random.default_rng(0)
  at = []
  for x in random.normal(size=(100, 120)):
    x[20 + 40 :] += 3  # 20 known ones, 40 like them
    over = series_changes.course(x[:20], x[20:]) > _LIMIT
    at.append(np.argmax(over) if over.any() else 999)
  assert 40 <= np.median(at) < 60 and np.quantile(at, 0.9) < 80


def test_ranks_are_those_among_all_before():
  known = series_changes.begin(np.array([3.0, 1.0, 2.0]))
  p = [series_changes.rank(known, s, n) for n, s in enumerate([2.5, 9, 0], 1)]
  assert p == [2 / 4, 1 / 5, 6 / 6]
  assert known == [0, 1, 2, 2.5, 3, 9]


def test_all_wealth_is_a_mean_over_when_the_bets_begin():
  # By hand, of one period: half the stake bets on p = 1/2, half is kept.
  won = np.mean(series_changes.POWERS * 0.5 ** (series_changes.POWERS - 1))
  (wealth,) = series_changes.course(np.zeros(1), np.ones(1))
  assert np.exp(wealth) == pytest.approx(0.5 * won + 0.5)
  # A fair rank wins nothing on the mean, whatever came before.
  n = 4
  ranks = np.arange(1, n + 1) / n
  assert np.exp(series_changes.bet(ranks)).mean(1).max() <= 1.0


def test_what_is_remembered_is_bounded_and_even():
  random = np.random.default_rng(1)
  known = series_changes.begin(random.normal(size=5000))
  for number, score in enumerate(10 + random.normal(size=3000), 1):
    series_changes.rank(known, score, number)
  assert len(known) == series_changes.MOST and known == sorted(known)
  assert 0.5 < np.mean(np.array(known) > 5) < 0.7
