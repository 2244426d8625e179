import os

import nearest_run
import numpy as np
import pandas as pd
import pytest

from metaad_jax import FleetDetector, MetaAnomalyDetector

NAMES = list('abcde')
COUNTS = (1, 2, 3, 5, 9, 20, 30, 70, 4, 110, 7, 8)  # known rows


@pytest.fixture(scope='module')
def run():
  return nearest_run.shared()


def frame(seed=0, counts=COUNTS, rows=14):
  """Known rows and new ones, interleaved; those of 6 deviations last."""
  rng = np.random.default_rng(seed)
  known, new = [], []
  for i, count in enumerate(counts):
    normal, bad = nearest_run.table(rng, count + rows, 5, 6.0)
    parts = normal[:count], np.r_[normal[count:], bad[:4]]
    for x, out in zip(parts, (known, new), strict=True):
      out.append(pd.DataFrame(x, columns=NAMES).assign(m=i))
      if i == 4:  # has no such column
        out[-1]['c'] = np.nan
  both = [pd.concat(p).sample(frac=1, random_state=seed) for p in (known, new)]
  return both[0].reset_index(drop=True), both[1].reset_index(drop=True)


@pytest.fixture(scope='module')
def fleet(run):
  return FleetDetector(run).fit(frame()[0], entity='m')


def test_every_entity_is_judged_as_by_its_own_detector(run, fleet):
  known, new = frame()
  told = fleet.judge(new)
  for i in range(len(COUNTS)):
    own = MetaAnomalyDetector(run).fit(known[known.m == i][NAMES])
    mine = told[new.m == i]
    judged = own.judge(new[new.m == i][NAMES])
    # Where a row is nearly a copy of a known one, to a thousandth.
    np.testing.assert_allclose(mine['score'], judged.scores, atol=1e-3)
    np.testing.assert_allclose(mine['p_value'], judged.p_values, rtol=0.04)


def test_order_and_company_of_rows_do_not_matter(run, fleet):
  _, new = frame()
  order = np.random.default_rng(1).permutation(len(new))
  scores = fleet.score_samples(new)
  np.testing.assert_allclose(fleet.score_samples(new.iloc[order]),
                             scores[order], atol=2e-6)  # fmt: skip
  some = (new.m == 3).to_numpy()
  np.testing.assert_allclose(fleet.score_samples(new[some]), scores[some],
                             atol=2e-6)  # fmt: skip


def test_rows_of_unknown_entities_are_marked_and_judged_by_the_others(fleet):
  _, new = frame()
  strange = new.assign(m=new.m + 6)
  with pytest.warns(UserWarning, match='6 entities are not known'):
    told = fleet.judge(strange)
  assert (told['known'] == (strange.m < len(COUNTS))).all()
  far = strange.assign(**{name: 1e7 for name in NAMES}, m='nobody')
  with pytest.warns(UserWarning):
    assert fleet.judge(far)['outlier'].all()


def test_nothing_is_compiled_as_entities_come_and_go(run, fleet):
  known, new = frame(3)
  fleet.judge(new)
  with nearest_run.CountedCompiles() as compiles:
    other = FleetDetector(run).fit(known[known.m < 9].assign(m=known.m + 100),
                                   entity='m')  # fmt: skip
    other.score_samples(new[new.m < 5].assign(m=new.m + 100))
  assert compiles.number == 0


def test_saved_and_loaded_it_judges_alike(fleet, tmp_path):
  _, new = frame()
  path = tmp_path / 'pumps.fleet'
  fleet.save(path)
  again = FleetDetector.load(path)
  pd.testing.assert_frame_equal(again.judge(new), fleet.judge(new))
  assert again.entities_ == [*map(str, sorted(map(str, range(12))))]
  rows = sum(count * 5 * 8 for count in COUNTS)
  assert os.path.getsize(path) < rows + (len(COUNTS) + 1) * 1024 + 40_000
