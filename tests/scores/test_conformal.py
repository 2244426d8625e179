"""Validity by simulation with known distributions, and what p-values obey."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from metaad_jax.base import DataError
from metaad_jax.scores import conformal
from metaad_jax.scores.conformal import Case, Evidence

NONE = np.zeros(0)


def entity(rng, name, shots=10, normals=60, anomalies=10, unlabelled=False):
  """Scores of an entity: its own location and scale, heavy tails."""
  location, scale = 2 * rng.normal(), np.exp(0.5 * rng.normal())
  draw = lambda n, up=0: location + scale * (rng.standard_t(4, size=n) + up)
  return Case(
    name, shots, 0, unlabelled, draw(shots), draw(normals), draw(anomalies, 4)
  )


def fitted(seed, entities=40, shots=(10,), **options):
  rng = np.random.default_rng(seed)
  return conformal.fit(
    [entity(rng, str(i), k, **options) for i in range(entities) for k in shots]
  )


@pytest.fixture(scope='module')
def one():
  return fitted(0, entities=80, shots=(5, 20), normals=130)


def evidence(case, own=NONE):
  return Evidence(case.shots, 0, case.unlabelled, case.support, own)


@pytest.mark.parametrize('own', [0, 3, 20, 150])
def test_false_alarms_of_new_entities_are_as_promised(own):
  """Over calibrations and entities; tolerance = four standard errors."""
  found = []
  for seed in range(8):
    calibrated = fitted(seed, entities=50, normals=110)
    rng = np.random.default_rng(1000 + seed)
    for _ in range(60):
      case = entity(rng, 'new', normals=own + 50)
      known = evidence(case, case.normal[:own])
      p = conformal.p_values(calibrated, known, case.normal[own:])
      found.append([np.mean(p <= rate) for rate in (0.05, 0.1, 0.3)])
  found = np.array(found)
  error = found.std(0) / np.sqrt(len(found))
  rates = np.array([0.05, 0.1, 0.3])
  assert (found.mean(0) <= rates + 4 * error).all()
  # Only the rounding of the levels is lost.
  assert (found.mean(0) >= 0.97 * rates - 4 * error).all()


@pytest.mark.parametrize('spread', [0.0, 0.5, 1.5])
def test_a_rate_of_one_in_a_hundred_is_met_by_few_entities(spread):
  """87 entities: with 1/2 for the new one it would be .45 of the nominal."""
  found = []
  for seed in range(60):
    rng = np.random.default_rng(seed)
    made = lambda n, rng=rng: [
      spread * rng.normal() + np.exp(0.3 * rng.normal()) * rng.standard_t(4, n)
      for _ in range(87)
    ]
    calibrated = conformal.fit(
      [
        Case(str(i), 1, 0, False, NONE, v, NONE)
        for i, v in enumerate(made(200))
      ]
    )
    p = conformal.p_values(
      calibrated, Evidence(1, 0, False, NONE, NONE), np.concatenate(made(300))
    )
    found.append([np.mean(p <= rate) / rate for rate in (0.01, 0.05, 0.1)])
  found = np.array(found)
  error = found.std(0) / np.sqrt(len(found))
  assert (np.abs(found.mean(0) - 1) <= 0.03 + 3 * error).all(), found.mean(0)


def test_the_bound_without_any_assumption_holds_where_it_is_sharp():
  """Entities that do not overlap at all: only the order of entities counts.

  One more entity is the highest with probability 1 / (n + 1), and then all its
  rows are alarms: the rate may exceed the nominal one by 1 / 2(n + 1) only.
  """
  n, alarms = 9, []
  for seed in range(300):
    rng = np.random.default_rng(seed)
    height = rng.permutation(n + 1) * 10.0
    cases = [
      Case(str(i), 1, 0, False, NONE, h + rng.random(20), NONE)
      for i, h in enumerate(height[1:])
    ]
    calibrated = conformal.fit(cases)
    p = conformal.p_values(
      calibrated, Evidence(1, 0, False, NONE, NONE), height[0] + rng.random(20)
    )
    alarms.append(np.mean(p <= 0.1))
  error = np.std(alarms) / np.sqrt(len(alarms))
  assert np.mean(alarms) <= 0.1 + 0.5 / (n + 1) + 4 * error


def test_p_values_are_shares_of_the_pool_where_each_entity_weighs_the_same():
  """By hand: three rows of one entity weigh as much as one of the other.

  The new entity adds the mean, over the mass from a half to twice the sum, of
  what rows there have at or above them in their own: for 2.5 and the sum 4/3,
  over 2/3 to 2, it is (2/3 1 + 1/3 2/3 + 1/3 1) / (4/3) = 11/12.
  """
  cases = [
    Case('a', 1, 0, False, NONE, np.array([1.0, 2.0, 3.0]), NONE),
    Case('b', 1, 0, False, NONE, np.array([2.5]), NONE),
  ]
  calibrated = conformal.fit(cases)
  p = conformal.p_values(
    calibrated,
    Evidence(1, 0, False, NONE, NONE),
    np.array([0.5, 2.2, 2.7, 3.5]),
  )
  exact = np.array([2 + 8 / 9, 4 / 3 + 11 / 12, 1 / 3 + 7 / 9, 0.5]) / 3
  assert (p >= exact - 1e-9).all()
  assert (p <= 1.019 * exact).all()


def test_an_entity_with_several_supports_counts_once():
  rng = np.random.default_rng(0)
  base = [entity(rng, str(i)) for i in range(20)]
  again = base + [base[0]] * 5
  first, second = conformal.fit(base), conformal.fit(again)
  np.testing.assert_array_equal(first.grid, second.grid)
  assert second.entities == 20


def test_numbers_of_shots_in_between_are_interpolated():
  """Entities of one kind, supports of 10 where 5 and 20 are calibrated.

  Scores fall with the number of shots, as distances to the nearest normal do.
  """

  def case(rng, shots):
    found = entity(rng, str(rng.integers(1 << 40)), shots)
    lower = [part - 2 * np.log(shots) for part in found[4:]]
    return Case(*found[:4], *lower)

  rng = np.random.default_rng(0)
  calibrated = conformal.fit(
    [case(rng, k) for _ in range(300) for k in (5, 20)]
  )
  found = []
  for _ in range(400):
    new = case(rng, 10)
    p = conformal.p_values(calibrated, evidence(new), new.normal)
    found.append(np.mean(p <= 0.1))
  assert abs(np.mean(found) - 0.1) < 0.02


def test_own_normals_take_over():
  """A thousand of them: the p-value is that within the entity."""
  calibrated = fitted(0, normals=130)
  rng = np.random.default_rng(5)
  case = entity(rng, 'new', normals=20_000)
  own, scores = case.normal[:20_000], np.quantile(case.normal, [0.5, 0.9, 0.99])
  p = conformal.p_values(calibrated, evidence(case, own), scores)
  np.testing.assert_allclose(p, [0.5, 0.1, 0.01], rtol=0.03)


def test_there_is_no_jump_as_own_normals_arrive(one):
  """One more typical normal moves a p-value by no more than its weight."""
  rng = np.random.default_rng(7)
  case = entity(rng, 'new', shots=20)
  # Own normals at fixed quantiles: what moves is the method, not the sample.
  sample = lambda m: np.quantile(case.normal, (np.arange(m) + 0.5) / m)
  score = np.quantile(case.normal, [0.6, 0.9, 0.97])
  p = np.array(
    [
      conformal.p_values(one, evidence(case, sample(m) if m else NONE), score)
      for m in range(0, 260)
    ]
  )
  jump = np.abs(np.diff(p, axis=0))
  assert (jump <= 3 / (20 + np.arange(259))[:, None] + 0.02).all()


def test_spread_over_entities_shrinks_as_own_normals_arrive(one):
  rng = np.random.default_rng(8)
  found = {0: [], 100: []}
  for _ in range(150):
    case = entity(rng, 'new', shots=5, normals=400)
    for own, rates in found.items():
      known = evidence(case, case.normal[:own])
      p = conformal.p_values(one, known, case.normal[own:])
      rates.append(np.mean(p <= 0.1))
  assert np.std(found[100]) < 0.6 * np.std(found[0])


@settings(max_examples=60, deadline=None)
@given(
  seed=st.integers(0, 999),
  shots=st.integers(1, 60),
  own=st.sampled_from([0, 1, 4, 30, 120]),
  rate=st.sampled_from([0.02, 0.05, 0.2, 0.5]),
)
def test_p_values_fall_with_the_score_and_agree_with_the_threshold(
  one, seed, shots, own, rate
):
  rng = np.random.default_rng(seed)
  case = entity(rng, 'new', shots, normals=own + 5)
  known = evidence(case, case.normal[:own])
  scores = np.sort(rng.normal(size=300) * 6)
  p = conformal.p_values(one, known, scores)
  assert (np.diff(p) <= 0).all()
  assert (p > 0).all() and (p <= 1).all()
  bar = conformal.threshold(one, known, rate)
  np.testing.assert_array_equal(scores > bar, p <= rate)


def test_what_cannot_be_promised_is_refused():
  calibrated = fitted(0, entities=10)
  case = entity(np.random.default_rng(1), 'new')
  least = conformal.smallest_rate(calibrated)
  assert 0.5 / 11 <= least <= 1.02 * 0.5 / 11
  conformal.threshold(calibrated, evidence(case), least)
  with pytest.raises(DataError, match='ask for at least'):
    conformal.threshold(calibrated, evidence(case), 0.9 * least)


def test_unlabelled_supports_have_their_own_calibration():
  """Contaminated supports have larger scores; the clean rule misses them."""
  rng = np.random.default_rng(3)
  clean = [entity(rng, str(i)) for i in range(30)]
  dirty = [entity(rng, str(i), unlabelled=True) for i in range(30)]
  dirty = [
    case._replace(support=np.r_[case.support[:-2], case.anomaly[:2]])
    for case in dirty
  ]
  both = conformal.fit(clean + dirty)
  only = conformal.fit(clean)
  np.testing.assert_array_equal(both.grid[:, :, 0], only.grid[:, :, 0])
  np.testing.assert_array_equal(only.grid[:, :, 0], only.grid[:, :, 1])
  assert (both.grid[:, :, 0] != both.grid[:, :, 1]).any()


def test_false_discoveries_stay_below_the_rate():
  """A fifth of each batch is abnormal; the expected share is bounded."""
  shares = []
  for seed in range(150):
    rng = np.random.default_rng(seed)
    p = np.concatenate([rng.random(80), rng.random(20) * 0.002])
    told = conformal.benjamini_hochberg(p, 0.2)
    shares.append(told[:80].sum() / max(told.sum(), 1))
  error = np.std(shares) / np.sqrt(len(shares))
  assert np.mean(shares) <= 0.2 * 0.8 + 4 * error
  assert np.mean(shares) >= 0.2 * 0.8 - 4 * error


def test_benjamini_hochberg_by_hand():
  p = np.array([0.04, 0.01, 0.9, 0.02])
  told = conformal.benjamini_hochberg(p, 0.05)
  np.testing.assert_array_equal(told, [False, True, False, True])
  assert not conformal.benjamini_hochberg(np.array([0.9]), 0.1).any()
  assert conformal.benjamini_hochberg(np.zeros(0), 0.1).shape == (0,)


def test_arrays_and_back():
  calibrated = fitted(0, entities=5)
  arrays = conformal.to_arrays(calibrated)
  again = conformal.from_arrays(arrays | {'params/w': np.zeros(3)})
  for first, second in zip(calibrated, again, strict=True):
    np.testing.assert_array_equal(first, second)
  assert conformal.from_arrays({'params/w': np.zeros(3)}) is None
  for name in arrays:
    rest = {k: v for k, v in arrays.items() if k != name}
    with pytest.raises(DataError, match='calibrat'):
      conformal.from_arrays(rest)
  arrays['calibration/grid'] = arrays['calibration/grid'][..., :5]
  with pytest.raises(DataError, match='shapes'):
    conformal.from_arrays(arrays)


def test_bad_cases_are_refused():
  rng = np.random.default_rng(0)
  cases = [entity(rng, str(i)) for i in range(3)]
  broken = cases[0]._replace(normal=np.array([np.nan]))
  with pytest.raises(DataError, match="entity '0'"):
    conformal.fit([broken, *cases[1:]])
  with pytest.raises(DataError, match='fewer than two entities'):
    conformal.fit(cases[:1])
  with pytest.raises(DataError, match='not finite'):
    conformal.p_values(
      conformal.fit(cases), evidence(cases[0]), np.array([np.inf])
    )
