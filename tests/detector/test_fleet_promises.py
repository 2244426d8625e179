"""What a small fleet may promise: the run's p-values, raised where they lie."""

import numpy as np
import pytest

from metaad_jax.fleet import stretched
from metaad_jax.scores import conformal
from metaad_jax.scores.conformal import LEVELS, Case, Evidence


def cases(count, shots, higher=0.0, seed=0):
  """Normals of entities whose new rows score `higher` than their supports."""
  rng = np.random.default_rng(seed)
  return [
    Case(str(i), shots, 0, False, rng.normal(size=shots),
         rng.normal(higher, 1, 40), np.zeros(0))
    for i in range(count)
  ]  # fmt: skip


@pytest.fixture(scope='module')
def run():
  return conformal.fit(cases(60, 1) + cases(60, 5, seed=1))


def alarms(calibration, made, own=0):
  return np.mean([
    conformal.p_values(
      calibration, Evidence(c.shots, 0, False, c.support, c.normal[:own]),
      c.normal[own:],
    ) <= 0.05
    for c in made
  ])  # fmt: skip


def test_levels_by_hand():
  even = np.tile(LEVELS, (6, 1))
  np.testing.assert_array_equal(stretched.levels(even), np.arange(512))
  np.testing.assert_array_equal(stretched.levels(even / 3), np.arange(512))
  place = stretched.levels(np.minimum(1, 4 * even))
  kept = place < 512
  assert (4 * LEVELS[place[kept]] <= LEVELS[kept] * (1 + 1e-6))[1:].all()
  assert (LEVELS[place[kept]] > LEVELS[kept] / 4.2)[1:].all()
  never = stretched.levels(np.ones((6, 512)))
  assert never[0] == 0 and (never[1:] == 512).all()


@pytest.mark.parametrize('own', [0, 5])
def test_too_many_alarms_of_a_small_fleet_become_as_many_as_promised(run, own):
  made = stretched.fit(run, {k: cases(8, k, 2.0, k) for k in (1, 5)})
  for shots in (1, 5):
    new = cases(200, shots, 2.0, 9)
    assert alarms(run, new, own) > 0.1
    assert alarms(made, new, own) <= 0.06
  arrays = conformal.to_arrays(made)
  assert conformal.from_arrays(arrays).entities == 8


def test_what_holds_is_hardly_raised(run):
  made = stretched.fit(run, {k: cases(15, k, seed=7) for k in (1, 5)})
  for shots in (1, 5):
    new = cases(200, shots, seed=8)
    assert 0.015 < alarms(made, new) <= 0.055
