import json

import numpy as np
import pytest

from metaad_jax.base import DataError
from metaad_jax.fleet import alarms


def gamma(t):
  return 0.07720838 * np.log(max(t, 2)) / (t * np.exp(np.sqrt(np.log(t))))


def by_the_paper(p, rate, candidate=None):
  """The recursions as they are printed, from t = 1; SAFFRON's if candidate."""
  found: list[int] = []
  for t in range(1, len(p) + 1):
    level = 0.0
    shares = [rate / 2, rate / 2, *[rate] * len(found)]
    for tau, share in zip([0, *found], shares, strict=False):
      between = p[tau : t - 1]
      skipped = 0 if candidate is None else int((between <= candidate).sum())
      level += share * gamma(t - tau - skipped)
    if candidate is not None:
      level = min(candidate, (1 - candidate) * level)
    if p[t - 1] <= level:
      found.append(t)
  return np.isin(np.arange(1, len(p) + 1), found)


def test_online_procedures_are_those_of_the_papers():
  rng = np.random.default_rng(0)
  p = np.where(rng.random(200) < 0.3, rng.random(200) * 1e-3, rng.random(200))
  for mine, wanted in (
    (alarms.lord(p, 0.1), by_the_paper(p, 0.1)),
    (alarms.saffron(p, 0.1), by_the_paper(p, 0.1, 0.5)),
  ):
    assert wanted.sum() > 5
    np.testing.assert_array_equal(mine, wanted)


@pytest.mark.parametrize('procedure', [alarms.lord, alarms.saffron])
def test_few_of_the_alarms_are_false(procedure):
  shares = []
  for seed in range(60):
    rng = np.random.default_rng(seed)
    bad = rng.random(300) < 0.1
    p = np.where(bad, rng.random(300) * 1e-4, rng.random(300))
    found = procedure(p, 0.1)
    shares.append((found & ~bad).sum() / max(1, found.sum()))
  assert np.mean(shares) < 0.12


def test_alarms_of_one_instant_are_one_event():
  times = np.array([0.0, 5.0, 5.0, 100.0, 103.0, 5.0])
  p = np.array([0.9, 0.01, 0.001, 0.02, 0.04, 0.5])
  found = alarms.events(times, list('abcaab'), p, p < 0.05, gap=10)
  assert [event.entities for event in found] == [('c', 'b'), ('a',)]
  assert [(e.start, e.end) for e in found] == [(5, 5), (100, 103)]
  assert found[0].p_value == 0.001
  assert alarms.events(times, list('abcaab'), p, p < 0) == []


def test_a_budget_is_kept_in_every_stretch_of_its_length():
  rng = np.random.default_rng(0)
  for _ in range(20):
    times = np.sort(rng.random(400) * 10 * 3600)
    p = rng.random(400)
    found = alarms.events(times, ['a'] * 400, p, p < 0.4)
    told = alarms.within_budget(found, '5 per hour')
    starts = np.array([event.start for event in told])
    for start in starts:
      assert ((starts >= start) & (starts < start + 3600)).sum() <= 5
    assert len(told) >= 45
  with pytest.raises(DataError, match='20 per day'):
    alarms.within_budget(found, '20 a day')


def test_an_entity_unlike_the_fleet_is_the_oddest():
  rng = np.random.default_rng(0)
  x = [rng.normal(size=(12, 4)) + rng.normal(size=4) for _ in range(40)]
  x[7] = x[7] + [0, 0, 9, 0]
  x[9] = x[9].mean(0) + (x[9] - x[9].mean(0)) * [1, 30, 1, 1]
  told = alarms.odd_entities(x, [str(i) for i in range(40)])
  first = told.head(2).set_index('entity')
  assert set(first.index) == {'7', '9'}
  assert first.loc['7', ['column', 'what']].tolist() == [2, 'location']
  assert first.loc['9', ['column', 'what']].tolist() == [1, 'spread']
  assert told['p_value'].min() == 1 / 40


@pytest.mark.parametrize('budget', ['', '3 per hour'])
def test_alarms_as_they_come_are_the_events_of_all_of_them(budget):
  rng = np.random.default_rng(0)
  times = np.sort(rng.random(200) * 10 * 3600)
  p, names = rng.random(200), rng.choice(list('abc'), 200)
  whole = alarms.events(times, names, p, p < 0.3, gap=100)
  told = alarms.within_budget(whole, budget) if budget else whole
  watch, found = alarms.Watch(100, budget), []
  for part in np.array_split(np.arange(200), 7):
    found.append(watch.push(times[part], p[part] < 0.3))
    watch = alarms.Watch(100, budget, json.loads(json.dumps(watch.state)))
  numbers, seen = map(np.concatenate, zip(*found, strict=True))
  for number, event in enumerate(whole):
    np.testing.assert_array_equal(
      np.flatnonzero(numbers == number), np.sort(event.rows)
    )
    assert (seen[numbers == number] == (event in told)).all()
  assert (numbers == -1).sum() == (p >= 0.3).sum()
