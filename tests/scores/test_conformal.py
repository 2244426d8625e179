"""Validity by simulation, what p-values obey, and the arithmetic by hand."""

import functools

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest

from metaad_jax.base import DataError
from metaad_jax.scores import conformal, shrinkage
from metaad_jax.scores.conformal import LEVELS, OWN, Case, Evidence

NONE = np.zeros(0)
PLAIN = Evidence(1, 0, False, NONE, NONE)


def entity(rng, name, shots=10, normals=60, anomalies=10, unlabelled=False):
  """Scores of an entity: its own location and scale, heavy tails."""
  location, scale = 2 * rng.normal(), np.exp(0.5 * rng.normal())
  draw = lambda n, up=0: location + scale * (rng.standard_t(4, size=n) + up)
  return Case(
    name, shots, 0, unlabelled, draw(shots), draw(normals), draw(anomalies, 4)
  )


@functools.cache
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


def normals_only(*scores):
  """Cases without support scores or anomalies, one for each entity."""
  return [
    Case(str(i), 1, 0, False, NONE, np.asarray(s, float), NONE)
    for i, s in enumerate(scores)
  ]


def up(p):
  """The smallest level that is not below p."""
  return LEVELS[LEVELS >= p * (1 - 1e-9)].min()


def stepped(p):
  """[512] a grid by which every finite score has the p-value `up(p)`."""
  return np.where(LEVELS >= p * (1 - 1e-9), -np.inf, np.inf)


def by_hand(cells, mixed=None, shots=(10,), anomalies=(0,), moments=None):
  """A calibration whose cells have given p-values."""
  shape = (len(shots), len(anomalies), 2)
  grid = np.array([stepped(p) for p in np.ravel(cells)]).reshape(*shape, -1)
  moments = np.tile([0.0, 1, 1, 1], (*shape, 1)) if moments is None else moments
  if mixed is None:
    mixed = np.tile(-LEVELS, (len(shots), len(OWN), 1))
  return conformal.Calibration(
    np.array(shots), np.array(anomalies), np.float32(0), moments, grid, mixed,
    np.int32(9),
  )  # fmt: skip


# --- validity ----------------------------------------------------------------


@pytest.mark.parametrize('own', [0, 3, 20, 150])
def test_false_alarms_of_new_entities_are_as_promised(own):
  """Over calibrations and entities; tolerance = four standard errors."""
  found, rates = [], np.array([0.05, 0.1, 0.3])
  for seed in range(4):
    calibrated = fitted(seed, entities=50, normals=110)
    rng = np.random.default_rng(1000 + seed)
    for _ in range(100):
      case = entity(rng, 'new', normals=own + 50)
      known = evidence(case, case.normal[:own])
      p = conformal.p_values(calibrated, known, case.normal[own:])
      found.append(np.mean(p[:, None] <= rates, 0))
  error = np.std(found, 0) / np.sqrt(len(found))
  assert (np.mean(found, 0) <= rates + 4 * error).all()
  # Only the rounding of the levels is lost.
  assert (np.mean(found, 0) >= 0.97 * rates - 4 * error).all()


@pytest.mark.parametrize('spread', [0.0, 1.5])
def test_a_rate_of_one_in_a_hundred_is_met_by_few_entities(spread):
  """87 entities: with 1/2 for the new one it would be .45 of the nominal."""
  found = []
  for seed in range(20):
    rng = np.random.default_rng(seed)
    made = lambda n, rng=rng: [
      spread * rng.normal() + np.exp(0.3 * rng.normal()) * rng.standard_t(4, n)
      for _ in range(87)
    ]
    calibrated = conformal.fit(normals_only(*made(200)))
    p = conformal.p_values(calibrated, PLAIN, np.concatenate(made(300)))
    found.append([np.mean(p <= rate) / rate for rate in (0.01, 0.05, 0.1)])
  error = np.std(found, 0) / np.sqrt(len(found))
  assert (np.abs(np.mean(found, 0) - 1) <= 0.03 + 3 * error).all()


def test_the_bound_without_any_assumption_holds_where_it_is_sharp():
  """Entities that do not overlap at all: only the order of entities counts.

  One more entity is the highest with probability 1 / (n + 1), and then all its
  rows are alarms: the rate may exceed the nominal one by 1 / 2(n + 1) only.
  """
  n, alarms = 9, []
  for seed in range(100):
    rng = np.random.default_rng(seed)
    height = rng.permutation(n + 1) * 10.0
    cases = normals_only(*[h + rng.random(20) for h in height[1:]])
    p = conformal.p_values(
      conformal.fit(cases), PLAIN, height[0] + rng.random(20)
    )
    alarms.append(np.mean(p <= 0.1))
  error = np.std(alarms) / np.sqrt(len(alarms))
  assert np.mean(alarms) <= 0.1 + 0.5 / (n + 1) + 4 * error


@settings(max_examples=40, deadline=None)
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
  assert_array_equal(scores > bar, p <= rate)


# --- by hand -----------------------------------------------------------------


def test_a_scale_shrinks_with_its_own_strength():
  """Mean 2 and variance 1 of two scores; the others: 0 and 2, as 2 and 6."""
  found = conformal.standardize(
    np.array([1.0, 5.0]), np.array([1.0, 3.0]), np.array([0.0, 2.0, 2.0, 6.0])
  )
  scale = np.sqrt((2 * 1 + 6 * 4) / (2 + 6))
  assert_allclose(found, [0, (5 - 1) / scale])


def test_many_cases_at_once_are_each_by_itself():
  rng, moments = np.random.default_rng(0), np.array([0.3, 1.7, 2.0, 0.5])
  supports = [rng.normal(size=k) for k in (0, 1, 4)]
  scores = [rng.normal(size=n) for n in (5, 0, 3)]
  told = np.array([shrinkage.told(support) for support in supports]).T
  rows = shrinkage.Rows.of(scores)
  found = rows.standardized(*shrinkage.shrunk(*told, moments))
  alone = [
    conformal.standardize(*case, moments)
    for case in zip(scores, supports, strict=True)
  ]
  assert_array_equal(found, np.concatenate(alone))
  assert_array_equal(
    rows.shares(found > 0), [np.mean(alone[0] > 0), np.mean(alone[2] > 0)]
  )


def test_the_support_counts_as_much_as_it_tells():
  """Entities far apart and long supports: the others' mean says nothing."""
  rng, cases = np.random.default_rng(0), []
  for i in range(30):
    at = 20 * rng.normal()
    scores = [
      at + up + rng.normal(size=n) for n, up in ((20, 0), (60, 0), (10, 3))
    ]
    cases.append(Case(str(i), 20, 0, False, *scores))
  assert conformal.fit(cases).moments[0, 0, 0, 2] == 0.5


def test_p_values_are_shares_of_the_pool_where_each_entity_weighs_the_same():
  """Three rows of one entity weigh as much as one of the other.

  The new entity adds the mean, over the mass from a half to twice the sum, of
  what rows there have at or above them in their own: for 2.5 and the sum 4/3,
  over 2/3 to 2, it is (2/3 1 + 1/3 2/3 + 1/3 1) / (4/3) = 11/12.
  """
  calibrated = conformal.fit(normals_only([1, 2, 3], [2.5]))
  p = conformal.p_values(calibrated, PLAIN, np.array([0.5, 2.2, 2.7, 3.5]))
  exact = np.array([2 + 8 / 9, 4 / 3 + 11 / 12, 1 / 3 + 7 / 9, 0.5]) / 3
  assert (p >= exact - 1e-9).all()
  assert (p <= 1.019 * exact).all()


def test_an_entity_with_several_supports_counts_once():
  rng = np.random.default_rng(0)
  base = [entity(rng, str(i)) for i in range(20)]
  first, second = conformal.fit(base), conformal.fit(base + [base[0]] * 5)
  assert_array_equal(first.grid, second.grid)
  assert second.entities == 20


def test_between_calibrated_cells_p_values_are_interpolated():
  """In the logarithm of one more shot, and of one more anomaly."""
  cells = [[[0.1, 0.9], [0.2, 0.9]], [[0.3, 0.9], [0.5, 0.9]]]
  calibrated = by_hand(cells, shots=(5, 20), anomalies=(0, 2))
  p = lambda *about: conformal.p_values(
    calibrated, Evidence(*about, NONE, NONE), np.zeros(1)
  )
  far, many = np.log(11 / 6) / np.log(21 / 6), np.log(2) / np.log(3)
  level = np.vectorize(up)(np.array(cells)[..., 0])
  for i, share in ((5, 0), (20, 1), (10, far), (1, 0), (999, 1)):
    for j, part in ((0, 0), (1, many), (2, 1), (7, 1)):
      exact = [1 - share, share] @ level @ [1 - part, part]
      assert_allclose(p(i, j, False), exact)
  assert_allclose(p(10, 1, True), up(0.9))
  # So are the ranks among mixtures.
  mixed = np.array([[stepped(p)] * len(OWN) for p in (0.4, 0.8)])
  calibrated = by_hand([[[0.9] * 2]] * 2, mixed, shots=(5, 20))
  own = PLAIN._replace(shots=10, own=np.zeros(5))
  (rank,) = conformal.p_values(calibrated, own, np.ones(1))
  assert_allclose(rank, (1 - far) * up(0.4) + far * up(0.8))
  # So are the moments: the score 1 is 1 / (1 + 3 far) in units of the scale.
  moments = np.tile([0.0, 1, 1, 1], (2, 1, 2, 1))
  moments[1, ..., 1] = 4
  scaled = by_hand([[[0.1] * 2]] * 2, shots=(5, 20), moments=moments)
  for bar, least in ((0.99, up(0.1)), (1.01, 1)):
    grid = np.where(LEVELS == 1, -np.inf, bar / (1 + 3 * far))
    grid[LEVELS < up(0.1)] = np.inf
    stretched = scaled._replace(grid=np.tile(grid, (2, 1, 2, 1)))
    p = conformal.p_values(stretched, PLAIN._replace(shots=10), np.ones(1))
    assert_allclose(p, least)


def test_own_normals_are_averaged_in_by_their_number():
  """Five, of which two score at least as high (one ties): (20 p + 2) / 25."""
  five = PLAIN._replace(shots=10, own=np.arange(5.0))
  p = conformal.p_values(by_hand([[[0.2] * 2]]), five, np.array([3.0]))
  assert 0.24 <= p[0] <= 0.24 * 1.019


def test_the_p_value_within_the_entity_takes_over_beyond_a_hundred():
  """101 own normals: 100 / 101 of the rank, and 1 / 101 of (1 + n) / 102."""
  mixed = np.array([[stepped(p) for p in (0.9, 0.8, 0.7, 0.6, 0.5, 0.2)]])
  calibrated = by_hand([[[0.95] * 2]], mixed)

  def p(own, score):
    known = PLAIN._replace(shots=10, own=np.asarray(own, float))
    return conformal.p_values(calibrated, known, np.array([score]))[0]

  share = 100 / 101
  for score, above in ((1e3, 0), (98.0, 3), (-1.0, 101)):
    exact = share * 0.2 + (1 - share) * (1 + above) / 102
    assert p(np.arange(101), score) == pytest.approx(exact)
  assert p(np.arange(100), 1e3) == pytest.approx(up(0.2))
  part = np.log(8 / 6) / np.log(11 / 6)  # 7 lies between 5 and 10
  exact = (1 - part) * up(0.8) + part * up(0.7)
  assert p(np.arange(7), 1e3) == pytest.approx(exact)
  part = np.log(2) / np.log(3)  # 1, between none and 2
  exact = (1 - part) * up(0.95) + part * up(0.9)
  assert p([0], 1e3) == pytest.approx(exact)


def test_the_rank_of_the_mixture_is_among_others_and_new_rows_only():
  """Two entities of three normals, apart; two of them are own, one is new.

  Of the upper entity's rows p is 1/4 among the other entity alone (it would be
  2/3 with itself), of the lower one's it is 1: one mixture comes of each.
  """
  calibrated = conformal.fit(normals_only([10, 11, 12], [0, 1, 2]))
  finite = calibrated.mixed[0, 0][np.isfinite(calibrated.mixed[0, 0])]
  low, high = np.unique(finite)
  levels = lambda p: [-(20 * p + own) / 22 for own in (0, 1, 2)]
  assert np.abs(high - levels(up(1 / 4))).min() < 1e-6
  assert low < levels(2 / 3)[0]


def test_scores_are_squashed_where_that_finds_more():
  """Exponentially stretched, they are taken back, and p-values stay."""
  rng = np.random.default_rng(1)
  cases = [entity(rng, str(i)) for i in range(20)]
  stretch = lambda s: np.sign(s) * np.expm1(np.abs(s))
  stretched = [Case(*c[:4], *map(stretch, c[4:])) for c in cases]
  plain, squashed = conformal.fit(cases), conformal.fit(stretched)
  assert (plain.squash, squashed.squash) == (0, 1)
  new = entity(rng, 'new')
  for own in (NONE, new.anomaly):
    known = evidence(new, own)
    again = known._replace(support=stretch(new.support), own=stretch(own))
    p = conformal.p_values(squashed, again, stretch(new.normal))
    assert_array_equal(p, conformal.p_values(plain, known, new.normal))


def test_what_cannot_be_promised_is_refused():
  calibrated = fitted(0, entities=10)
  case = entity(np.random.default_rng(1), 'new')
  least = conformal.smallest_rate(calibrated)
  assert 0.5 / 11 <= least <= 1.02 * 0.5 / 11
  conformal.threshold(calibrated, evidence(case), least)
  with pytest.raises(DataError, match='ask for at least'):
    conformal.threshold(calibrated, evidence(case), 0.9 * least)


def test_unlabelled_supports_have_their_own_calibration():
  rng = np.random.default_rng(3)
  clean = [entity(rng, str(i)) for i in range(30)]
  dirty = [entity(rng, str(i), unlabelled=True) for i in range(30)]
  both, only = conformal.fit(clean + dirty), conformal.fit(clean)
  assert_array_equal(both.grid[:, :, 0], only.grid[:, :, 0])
  assert_array_equal(only.grid[:, :, 0], only.grid[:, :, 1])
  assert (both.grid[:, :, 0] != both.grid[:, :, 1]).any()


def test_the_ladder_is_the_p_values(one):
  case = entity(np.random.default_rng(2), 'new', 5)
  scores, p = conformal.ladder(one, evidence(case), 512)
  assert (np.diff(scores) > 0).all() and (np.diff(p) <= 0).all()
  exact = conformal.p_values(one, evidence(case), scores)
  assert_array_equal(p, exact)
  for rate in (0.02, 0.5):  # it reaches over all thresholds
    bar = conformal.threshold(one, evidence(case), rate)
    assert scores[0] < bar < scores[-1]


def test_benjamini_hochberg_by_hand():
  p = np.array([0.04, 0.01, 0.9, 0.02])
  reported = conformal.benjamini_hochberg(p, 0.05)
  assert_array_equal(reported, [False, True, False, True])
  assert not conformal.benjamini_hochberg(np.array([0.9]), 0.1).any()
  assert conformal.benjamini_hochberg(np.zeros(0), 0.1).shape == (0,)


def test_arrays_and_back():
  calibrated = fitted(0, entities=5)
  arrays = conformal.to_arrays(calibrated)
  again = conformal.from_arrays(arrays | {'params/w': np.zeros(3)})
  for first, second in zip(calibrated, again, strict=True):
    assert_array_equal(first, second)
  assert conformal.from_arrays({'params/w': np.zeros(3)}) is None
  for name in arrays:
    rest = {k: v for k, v in arrays.items() if k != name}
    with pytest.raises(DataError, match='calibrat'):
      conformal.from_arrays(rest)
  for name in ('grid', 'moments', 'mixed'):
    cut = arrays[f'calibration/{name}'][..., :3]
    with pytest.raises(DataError, match='shapes'):
      conformal.from_arrays(arrays | {f'calibration/{name}': cut})


def test_bad_cases_are_refused():
  rng = np.random.default_rng(0)
  cases = [entity(rng, str(i)) for i in range(3)]
  broken = cases[0]._replace(normal=np.array([np.nan]))
  with pytest.raises(DataError, match="entity '0'"):
    conformal.fit([broken, *cases[1:]])
  for few in (cases[:1], [*cases, cases[0]._replace(shots=5)]):
    with pytest.raises(DataError, match='fewer than two entities'):
      conformal.fit(few)
  with pytest.raises(DataError, match='no entity'):
    conformal.fit([])
  calibrated = conformal.fit(cases)
  with pytest.raises(DataError, match='not finite'):
    conformal.p_values(calibrated, evidence(cases[0]), np.array([np.inf]))
