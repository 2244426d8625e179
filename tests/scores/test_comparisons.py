"""Intervals and tests against SciPy, enumeration and cases done by hand."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from metaad_jax import base
from metaad_jax.scores import comparisons


def row(entity, method, value, draw=0, kind='learner', **setting):
  return {
    'source': 'rig', 'entity': entity, 'method': method, 'kind': kind,
    'shots': 5, 'anomalies': 0, 'contamination': 0.0, 'draw': draw,
    'auroc': value, **setting,
  }  # fmt: skip


def against(entity, value, method='knn', **more):
  return row(entity, method, value, kind='baseline', **more)


# --- intervals ---------------------------------------------------------------


@pytest.mark.parametrize('n', [10, 30])
@pytest.mark.parametrize('level', [0.8, 0.95])
def test_bootstrap_is_scipys(n, level):
  values = np.random.default_rng(n).beta(8, 2, n)
  mean, low, high = comparisons.bootstrap(
    values, level=level, resamples=999, seed=3
  )
  reference = stats.bootstrap(
    (np.sort(values),),
    lambda x, axis: np.mean(x, axis=axis).round(12),
    n_resamples=999,
    confidence_level=level,
    method='BCa',
    rng=np.random.default_rng(3),
  ).confidence_interval
  assert mean == pytest.approx(values.mean(), abs=1e-12)
  assert (low, high) == pytest.approx(tuple(reference), abs=1e-11)


@pytest.mark.parametrize('n, level', [(2, 0.95), (5, 0.8), (9, 0.95)])
def test_the_interval_of_few_values_is_students(n, level):
  values = np.random.default_rng(n).beta(8, 2, n)
  mean, low, high = comparisons.bootstrap(values, level=level)
  reference = stats.ttest_1samp(values, 0).confidence_interval(level)
  assert mean == pytest.approx(values.mean())
  assert (low, high) == pytest.approx(tuple(reference))


def test_equal_resamples_tie_in_spite_of_rounding():
  # 0.1 + 0.2 + 0.3 has two float sums; a shift must not tip the ties.
  values = np.array([0.1, 0.2, 0.3] * 4)
  mean, low, high = comparisons.bootstrap(values)
  shifted = comparisons.bootstrap(values + 0.4)
  assert shifted == pytest.approx((mean + 0.4, low + 0.4, high + 0.4))
  assert comparisons.bootstrap(values[::-1]) == pytest.approx((mean, low, high))
  assert comparisons.bootstrap(values, seed=1) != (mean, low, high)


def test_bootstrap_of_equal_values_and_of_one():
  for n in (7, 12):
    equal = comparisons.bootstrap(np.full(n, 0.7))
    assert equal == pytest.approx((0.7,) * 3)
  mean, low, high = comparisons.bootstrap(np.array([0.3]))
  assert mean == 0.3 and np.isnan(low) and np.isnan(high)


@pytest.mark.parametrize('values', [[], [0.1, np.nan], [np.inf]])
def test_bootstrap_refuses(values):
  with pytest.raises(base.DataError, match='finite'):
    comparisons.bootstrap(np.array(values))


# --- tests -------------------------------------------------------------------


@pytest.mark.parametrize('decimals', [0, 8])
def test_paired_equals_scipys_permutation_test(decimals):
  rng = np.random.default_rng(0)
  for _ in range(8):
    differences = (rng.normal(size=7) * 2).round(decimals)
    differences[differences == 0] = 1
    expected = stats.wilcoxon(
      differences, method=stats.PermutationMethod(n_resamples=np.inf)
    ).pvalue
    p = comparisons.paired(differences, np.zeros(7))
    assert p == pytest.approx(expected, abs=1e-12)


def test_ties_are_exact_up_to_fifty_and_approximated_beyond():
  rng = np.random.default_rng(0)
  differences = rng.normal(0.3, size=50)
  exact = comparisons._tied_wilcoxon(differences)
  assert exact == pytest.approx(comparisons.paired(differences, np.zeros(50)))
  differences = rng.integers(-3, 6, 80)
  expected = stats.wilcoxon(
    differences[differences != 0], method='asymptotic', correction=False
  ).pvalue
  p = comparisons.paired(differences, np.zeros(80))
  assert p == pytest.approx(expected, rel=1e-9)


def test_paired_by_hand():
  zeros = np.zeros(6)
  assert comparisons.paired(np.arange(1.0, 7.0), zeros) == pytest.approx(2 / 64)
  assert comparisons.paired(zeros, zeros) == 1.0
  # A rounding error is no difference.
  assert comparisons.paired(np.full(9, 0.1 + 0.2), np.full(9, 0.3)) == 1.0
  # Zeros are dropped: of four pairs three count.
  assert comparisons.paired(np.array([0, 1, 2, 3]), np.zeros(4)) == 2 / 8


@pytest.mark.parametrize(
  'a, b', [([], []), ([1.0], [1.0, 2.0]), ([1.0, np.nan], [1.0, 2.0])]
)
def test_paired_refuses(a, b):
  with pytest.raises(base.DataError, match='paired test'):
    comparisons.paired(np.array(a), np.array(b))


def test_holm_by_hand():
  adjusted = comparisons.holm([0.01, 0.04, 0.03, 0.005])
  np.testing.assert_allclose(adjusted, [0.03, 0.06, 0.06, 0.02])
  np.testing.assert_allclose(comparisons.holm([0.7, 0.6]), 1.0)
  assert comparisons.holm([]).shape == (0,)


# --- summary and contests ----------------------------------------------------


def test_draws_are_averaged_before_entities():
  rows = [row('a', 'maml', 0.9, draw) for draw in range(9)]
  rows += [row('b', 'maml', 0.5), row('b', 'maml', 0.7, 1)]
  rows += [row(e, 'maml', 0.6) for e in 'cdefghijkl']
  (line,) = comparisons.summary(pd.DataFrame(rows), 'auroc').to_dict('records')
  expected = comparisons.bootstrap(np.array([0.9, *[0.6] * 11]))
  interval = line['mean'], line['low'], line['high']
  assert interval == pytest.approx(expected, abs=1e-11)
  del line['mean'], line['low'], line['high']
  assert line == {
    'source': 'rig', 'shots': 5, 'anomalies': 0, 'contamination': 0.0,
    'method': 'maml', 'kind': 'learner', 'metric': 'auroc', 'entities': 12,
    'median': pytest.approx(0.6),
  }  # fmt: skip


def many_rows():
  """Two cells of 12 and 16 entities, two learners, two baselines, two draws."""
  rng = np.random.default_rng(0)
  kinds = ['learner'] * 2 + ['baseline'] * 2
  return pd.DataFrame(
    [
      row(f'e{i}', name, round(rng.random(), 2), draw, kind, shots=shots)
      for shots in (1, 5)
      for name, kind in zip(['maml', 'anil', 'knn', 'lof'], kinds, strict=True)
      for i in range(11 + shots)
      for draw in range(2)
    ]
  )


def entity_means(table, method, shots):
  rows = table[(table['method'] == method) & (table['shots'] == shots)]
  return rows.groupby('entity')['auroc'].mean()


def test_every_contest_is_paired_and_holm_stays_in_its_cell():
  table = many_rows()
  found = comparisons.contests(table, 'auroc', resamples=499)
  assert len(found) == 2 * 2 * 2
  for line in found.to_dict('records'):
    ours, theirs = (
      entity_means(table, line[side], line['shots'])
      for side in ('learner', 'baseline')
    )
    gap = (ours - theirs).to_numpy()
    expected = comparisons.bootstrap(gap, resamples=499)
    interval = line['difference'], line['low'], line['high']
    assert interval == pytest.approx(expected, abs=1e-11)
    assert line['p'] == comparisons.paired(ours, theirs)
    assert line['median'] == pytest.approx(np.median(gap))
    assert line['wins'] == (gap > 1e-9).sum()
    assert line['losses'] == (gap < -1e-9).sum()
    other = {'knn': 'lof', 'lof': 'knn'}[line['baseline']]
    rival = entity_means(table, other, line['shots'])
    assert line['best'] == (theirs.mean() > rival.mean())
  for _, family in found.groupby('shots'):
    np.testing.assert_allclose(family['p_holm'], comparisons.holm(family['p']))


def test_only_shared_entities_are_compared():
  rows = [row(e, 'maml', v) for e, v in (('a', 0.9), ('b', 0.8), ('c', 0.1))]
  rows += [against(e, 0.5) for e in ('b', 'a')]
  rows += [against('z', 0.5, 'lof')]
  rows += [against('c', np.nan)]  # an undefined metric is no value
  (line,) = comparisons.contests(pd.DataFrame(rows), 'auroc').to_dict('records')
  assert (line['baseline'], line['entities']) == ('knn', 2)
  assert line['difference'] == pytest.approx(0.35)
  assert (line['wins'], line['losses']) == (2, 0)


def test_intervals_stay_where_the_metric_lives():
  rows = [row(e, 'maml', v) for e, v in (('a', 0.99), ('b', 0.6))]
  rows += [against(e, v) for e, v in (('a', 0), ('b', 1))]
  table = pd.DataFrame(rows)
  for line in comparisons.summary(table, 'auroc').to_dict('records'):
    assert (line['low'], line['high']) == (0, 1)
  (line,) = comparisons.contests(table, 'auroc').to_dict('records')
  assert (line['low'], line['high']) == (-1, 1)


def test_without_rivals_there_is_no_contest():
  table = many_rows()
  alone = table[table['kind'] == 'learner']
  for empty in (alone, table[:0]):
    found = comparisons.contests(empty, 'auroc')
    assert len(found) == 0 and {'p_holm', 'best'} <= {*found.columns}
  assert len(comparisons.summary(table[:0], 'auroc')) == 0
  assert comparisons.ranks(table[:0], 'auroc') == []
  with pytest.raises(base.DataError, match='no column ap'):
    comparisons.summary(table, 'ap')


# --- ranks -------------------------------------------------------------------


def ranked(values, names='abcdefgh'):
  """The ranking of [entities, methods] values; a few entities are repeated."""
  rows = [
    row(f'e{i}', names[j], value)
    for i, some in enumerate(values)
    for j, value in enumerate(some)
  ]
  (ranking,) = comparisons.ranks(pd.DataFrame(rows), 'auroc')
  return ranking


def test_ranks_by_hand():
  found = ranked(
    [[0.1, 0.9, 0.5], [0.2, 0.8, 0.8], [0.3, 0.4, 0.2]] + [[0.1, 0.3, 0.2]] * 2
  )
  assert found.methods == ('b', 'c', 'a')
  # b: 1, 1.5, 1, 1, 1; c: 2, 1.5, 3, 2, 2; a: 3, 3, 2, 3, 3
  assert found.ranks == pytest.approx((1.1, 2.1, 2.8))
  assert found.entities == 5
  # Five entities tell nothing apart: p is never below 1/16.
  assert found.cliques == ((0, 2),)


def test_cliques_are_the_longest_runs_without_a_difference():
  rng = np.random.default_rng(1)
  overlapping = 0
  for _ in range(10):
    steps = 0.015 * np.arange(5)
    values = rng.random((25, 1)) + steps + 0.02 * rng.normal(size=(25, 5))
    found = ranked(values)
    assert found.p == pytest.approx(stats.friedmanchisquare(*values.T).pvalue)
    place = ['abcde'.index(name) for name in found.methods]
    pairs = list(itertools.combinations(range(5), 2))
    ordered = values[:, place].T
    p_values = comparisons.holm(
      [comparisons.paired(ordered[i], ordered[j]) for i, j in pairs]
    )
    differ = {pair for pair, p in zip(pairs, p_values, strict=True) if p < 0.05}
    alike = {
      (i, j)
      for i, j in pairs
      if not differ & set(itertools.combinations(range(i, j + 1), 2))
    }
    longest = {
      (i, j)
      for i, j in alike
      if not any((a, b) != (i, j) and a <= i and j <= b for a, b in alike)
    }
    assert set(found.cliques) == longest
    bounds = zip(found.cliques, found.cliques[1:], strict=False)
    overlapping += any(a[1] >= b[0] for a, b in bounds)
  assert overlapping


def test_two_methods_and_equal_ones():
  rng = np.random.default_rng(3)
  values = rng.random((12, 1)) + [0.0, 0.05] + 0.05 * rng.normal(size=(12, 2))
  found = ranked(values)
  assert found.p == 1.0  # Friedman needs three
  assert bool(found.cliques) == (comparisons.paired(*values.T) >= 0.05)
  equal = ranked([[0.5, 0.5, 0.5]] * 9)
  assert (equal.ranks, equal.p) == ((2, 2, 2), 1.0)
  assert equal.cliques == ((0, 2),)


def test_methods_are_ranked_on_the_cells_that_most_of_them_serve():
  entities = [f'e{i}' for i in range(5)]
  rows = [
    row(e, n, 0.5, shots=k) for e in entities for n in 'ab' for k in (1, 5)
  ]
  rows += [row(e, 'c', 0.9, shots=5) for e in entities]
  rows += [row('e0', 'd', 0.9, shots=5)]
  rows += [row(e, 'a', 0.5, anomalies=1) for e in entities]  # nobody to rank
  (found,) = comparisons.ranks(pd.DataFrame(rows), 'auroc')
  assert (found.shots, found.anomalies) == ((5,), 0)
  assert found.left_out == ('d',) and found.methods == ('c', 'a', 'b')
  few = pd.DataFrame(rows)
  assert comparisons.ranks(few[few['entity'] != 'e0'], 'auroc') == []
