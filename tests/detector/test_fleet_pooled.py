"""All rows of a fleet as a second score of entities of few rows."""

import nearest_run
import numpy as np
import pandas as pd
import pytest

from metaad_jax import FleetDetector
from metaad_jax.base import DataError
from metaad_jax.fleet import pooled

NONE = np.zeros(0, int)


def fleet_of(entities, rows, seed=0):
  """Columns of locations of their own; the first two go together."""
  rng = np.random.default_rng(seed)
  root = np.linalg.cholesky([[1, 0.99, 0], [0.99, 1, 0], [0, 0, 1]])
  return [
    5 * rng.normal(size=3) + rng.normal(size=(rows, 3)) @ root.T
    for _ in range(entities)
  ]


def test_rows_are_judged_by_what_goes_together_in_the_fleet():
  x = fleet_of(12, 40)
  pool = pooled.fit(x[1:], NONE, 3)
  own, start, which = x[0][:1], np.array([0, 1]), np.zeros(3, int)
  rows = x[0][0] + np.array([[2.0, 2, 0], [2, -2, 0], [np.nan, 2, 0]])
  usual, torn, lacking = pool.told(own, start, rows, which)
  assert torn > usual + 1 and lacking < torn
  moved = pooled.fit([rows * 1000 + 7 for rows in x[1:]], NONE, 3)
  again = moved.told(own * 1000 + 7, start, rows * 1000 + 7, which)
  np.testing.assert_allclose(again, (usual, torn, lacking), atol=0.02)
  assert pooled.fit(x[:2], NONE, 3) is None


def trials(shift, network):
  """Normals at 0 for both scores, faults at `network` and at `shift`."""
  rng = np.random.default_rng(0)
  for i in range(8):
    normal = rng.normal(size=(30, 2))
    yield pooled.Trial(i, normal, rng.normal(size=(9, 2)) + (network, shift))


def test_the_second_score_counts_where_it_finds_more():
  better, worse = list(trials(2, 1)), list(trials(-1, 2))
  first, second, offset = pooled.line(better)
  normal = np.concatenate([trial.normal for trial in better])
  both = normal @ (first, second) + offset
  assert np.median(both) == pytest.approx(np.median(normal[:, 0]))
  assert second > 0.3
  assert (pooled.line(worse, bare=True) == (1, 0, 0)).all()
  assert (pooled.line(better[:1]) == (1, 0, 0)).all()  # one says nothing
  assert pooled.line(list(trials(4, 0)), bare=True)[0] == 0


def test_an_entity_goes_by_those_of_as_few_rows():
  blend = pooled.Blend(np.array([1, 3]), 10, np.array([[0, 1, 2], [3, 4, 5]]))
  found = blend.line(np.array([0, 1, 2, 3, 10, 11]))
  wanted = [[1, 0, 0], [0, 1, 2], [0, 1, 2], [3, 4, 5], [3, 4, 5], [1, 0, 0]]
  np.testing.assert_array_equal(found, wanted)
  assert blend.choice == {1: 'pooled', 3: 'both', 11: 'network'}


def test_what_a_fleet_chooses_is_in_its_file_and_in_each_detector(tmp_path):
  names = list('abc')
  frames = [pd.DataFrame(x, columns=names).assign(m=f'p{i:02}')
            for i, x in enumerate(fleet_of(8, 24))]  # fmt: skip
  few = {'p00': 7, 'p01': 5}
  known = pd.concat([f.head(few.get(f.m[0], 20)) for f in frames])
  new = pd.concat([f.tail(4) for f in frames])
  torn = new.assign(a=new.a + 1.5, b=new.b - 1.5)
  fleet = FleetDetector(nearest_run.shared()).fit(known, entity='m')
  assert fleet.choice_ == {5: 'both', 16: 'network'}
  alone = FleetDetector(nearest_run.shared(), siblings=False)
  alone.fit(known, entity='m')
  assert alone.choice_ == {}
  gap = lambda by: by.score_samples(new)[4:8] - by.score_samples(torn)[4:8]
  assert gap(fleet).min() > 0
  told = fleet.judge(torn)
  fleet.save(tmp_path / 'a.fleet')
  again = FleetDetector.load(tmp_path / 'a.fleet')
  assert again.choice_ == fleet.choice_
  pd.testing.assert_frame_equal(again.judge(torn), told)
  for name in few:
    one, mine = fleet.detector(name), torn[torn.m == name][names]
    judged, of = one.judge(mine), told[told.m == name]
    np.testing.assert_allclose(of['score'], judged.scores, atol=1e-3)
    np.testing.assert_allclose(of['p_value'], judged.p_values, rtol=0.04)
  with pytest.raises(DataError, match='save the fleet'):
    fleet.detector('p00').save(tmp_path / 'one.npz')
  assert len(fleet.explain(torn, [0, 5])) == 2
