"""What entities of few rows borrow from the others of a fleet."""

import nearest_run
import numpy as np
import pandas as pd
import pytest
from scipy import special

from metaad_jax import FleetDetector
from metaad_jax.base import DataError
from metaad_jax.detector import unverified
from metaad_jax.fleet import kin, siblings
from metaad_jax.fleet.store import Entity

NONE = np.zeros(0, int)
NAMES = ['a', 'b', 'c']


def one_column(**changes):
  of = dict(location=10.0, between=4.0, within=2.0, strength=6.0)
  told = {k: np.array([v]) for k, v in (of | changes).items()}
  rows = np.array([[1.0], [-1.0]] * 16)
  return siblings.Siblings(**told, rows=rows, whole=np.zeros(1, bool),
                           words=NONE, unit=np.zeros(1))  # fmt: skip


def test_location_and_variance_of_two_rows_by_hand():
  # Rows 4 and 8: the variance is (6 x 2 + 8) / (6 + 1), half of it the error's.
  location, error, variance = one_column().posterior(
    np.array([[4.0], [8.0]]), np.array([0, 2])
  )
  np.testing.assert_allclose(variance, [[20 / 7]])
  weight = 4 / (4 + 10 / 7)
  np.testing.assert_allclose(location, [[10 + weight * (6 - 10)]])
  np.testing.assert_allclose(error, [[weight * 10 / 7]])


def test_with_many_rows_the_own_count_alone():
  x = np.random.default_rng(0).normal(3, 5, (5000, 1))
  location, error, variance = one_column().posterior(x, np.array([0, 5000]))
  np.testing.assert_allclose(location, x.mean(), atol=0.01)
  np.testing.assert_allclose(variance, x.var(), rtol=0.01)
  assert error < 0.01
  assert one_column().room == 12  # twice the strength
  for count, lent in ((1, 11), (11, 1), (12, 0), (40, 0)):
    made, which = one_column().lend(x[:count], np.array([0, count]))
    assert made.shape == (lent, 1) and which.tolist() == [0] * lent


@pytest.mark.parametrize(
  'between, what', [(0.0, 10.0), (1e12, 4.0)], ids=['alike', 'unlike']
)
def test_entities_that_are_alike_lend_their_location(between, what):
  of = one_column(between=between)
  location, _, _ = of.posterior(np.array([[4.0]]), np.array([0, 1]))
  np.testing.assert_allclose(location, [[what]])


def test_estimates_are_those_that_the_fleet_was_drawn_with():
  rng = np.random.default_rng(0)
  variance = 4 * 8 / rng.chisquare(8, 1000)  # of 8 rows
  centre = 5 + 3 * rng.normal(size=1000)
  scale = np.sqrt(variance)[:, None]
  x = centre[:, None] + scale * rng.normal(size=(1000, 6))
  found = siblings.fit(list(x[..., None]), NONE)
  np.testing.assert_allclose(found.location, 5, atol=0.3)
  np.testing.assert_allclose(found.between, 9, rtol=0.15)
  np.testing.assert_allclose(found.strength, 8, rtol=0.3)
  np.testing.assert_allclose(found.within, 4, rtol=0.1)


def test_what_is_alike_in_logarithms_is_lent_in_logarithms():
  rng = np.random.default_rng(0)
  x = np.exp(2 * rng.normal(size=(200, 1, 2)) + rng.normal(size=(200, 6, 2)))
  x[..., 1] = np.log(x[..., 1])
  found = siblings.fit(list(x), NONE)
  assert (found.unit > 0).tolist() == [True, False]
  made, _ = found.lend(np.array([[5.0, 5.0]]), np.array([0, 1]))
  lent = made[:, 0]
  assert (lent > 0).all() and lent.max() > 2 * np.median(lent)


def test_trigamma_is_inverted():
  x = np.array([0.01, 0.5, 3.0, 400.0])
  found = siblings._inverse_trigamma(special.polygamma(1, x))
  np.testing.assert_allclose(found, x, rtol=1e-6)


def test_codes_whole_numbers_and_missing_columns_stay_what_they_are():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(30, 8, 4))
  x[..., 1] = np.rint(5 * x[..., 1])
  x[..., 2] = rng.permutation([0.0, 0, 0, 0, 0, 1, 1, 2])  # mostly 0
  found = siblings.fit(list(x), np.array([2]))
  own = np.array([[1.0, 3.0, 7.0, np.nan]])
  made, _ = found.lend(own, np.array([0, 1]))
  assert len(made) > 3 and np.isfinite(made[:, :3]).all()
  np.testing.assert_array_equal(made[:, 1], np.rint(made[:, 1]))
  assert {7.0} < set(made[:, 2]) <= {1.0, 2.0, 7.0}
  assert np.isnan(made[:, 3]).all()


def entity(x):
  return Entity(x, np.zeros(len(x), np.int8), np.ones(len(x), bool))


def test_of_a_group_its_own_lend_and_of_few_nobody_does():
  rng = np.random.default_rng(0)
  x = [rng.normal(100 * (i % 2), 1, (20, 1)) for i in range(20)]
  sites = {i: 'ab'[i % 2] for i in range(20)} | {21: 'b'}
  one = entity(np.array([[50.0]]))
  lent = lambda kin, name: kin.filled([name], [one])[0].x[1:].mean()
  grouped = kin.Kin.fit(range(20), x, sites, NONE)
  assert lent(grouped, 21) == pytest.approx(100, abs=2)  # pulled to its site
  assert lent(kin.Kin.fit(range(20), x, {}, NONE), 21) < 60
  alone = kin.Kin.fit([0], x[:1], {}, NONE)
  assert alone.filled([0], [one]) == [one]


@pytest.fixture(scope='module')
def fleets():
  rng, known, new = np.random.default_rng(0), [], []
  for i in range(30):
    x = 3 * rng.normal(size=3) + rng.normal(size=(46, 3))
    for part, out in ((x[: 2 if i < 3 else 34], known), (x[34:], new)):
      made = pd.DataFrame(part, columns=NAMES)
      out.append(made.assign(m=f'p{i:02}', site='ab'[i % 2]))
  known, new = pd.concat(known), pd.concat(new)
  run = nearest_run.shared()
  fit = lambda **k: FleetDetector(run, **k).fit(known, entity='m', group='site')
  return fit(), fit(siblings=False), known, new


def test_they_lend_to_entities_of_few_rows_alone(fleets):
  lending, alone, _, new = fleets
  assert lending.calibration_ == 'fleet' and alone.room_ == {}
  room = unverified.room(lending._run)  # all are of one scale
  assert lending.room_ == {group: min(32, room) for group in ('', 'a', 'b')}
  few = (new.m < 'p03').to_numpy()
  differ = lending.score_samples(new) != alone.score_samples(new)
  # Nearly copies of known rows are held to what normals score, so calibrated.
  assert differ[few].all() and differ[~few].mean() < 0.05


def test_one_entitys_detector_and_a_file_judge_alike(fleets, tmp_path):
  lending, _, _, new = fleets
  told = lending.judge(new)
  mine = new.m == 'p01'
  judged = lending.detector('p01').judge(new[mine][NAMES])
  some = told[mine.to_numpy()]
  np.testing.assert_allclose(some['score'], judged.scores, atol=1e-3)
  np.testing.assert_allclose(some['p_value'], judged.p_values, rtol=0.04)
  lending.save(tmp_path / 'a.fleet')
  again = FleetDetector.load(tmp_path / 'a.fleet')
  pd.testing.assert_frame_equal(again.judge(new), told)
  assert again.room_ == lending.room_


def test_new_entities_borrow_from_their_site(fleets, tmp_path):
  lending, _, known, new = fleets
  lending.save(tmp_path / 'a.fleet')
  first = known[known.m == 'p05'].head(2).assign(m='new')
  rows = new[new.m == 'p05'].assign(m='new')
  scores = {}
  for site in 'ab':
    fleet = FleetDetector.load(tmp_path / 'a.fleet')
    fleet.partial_fit(first.assign(site=site))
    fleet.save(tmp_path / f'{site}.fleet')
    again = FleetDetector.load(tmp_path / f'{site}.fleet')
    scores[site] = again.score_samples(rows)
    np.testing.assert_array_equal(scores[site], fleet.score_samples(rows))
  assert (scores['a'] != scores['b']).any()


def test_an_entity_of_two_groups_is_refused(fleets):
  _, _, known, _ = fleets
  wrong = known.assign(site=np.arange(len(known)) % 2)
  with pytest.raises(DataError, match='two groups'):
    FleetDetector(nearest_run.shared()).fit(wrong, entity='m', group='site')
