"""Intervals and tests against SciPy, enumeration and cases done by hand."""

import itertools
import time

import numpy as np
import pytest
from scipy import stats

from metaad_jax import base
from metaad_jax.scores import metrics
from metaad_jax.scores import old_comparisons as comparisons


def row(entity, learner, value, draw=0, kind='learner', **setting):
  return {
    'source': 'rig',
    'entity': entity,
    'learner': learner,
    'kind': kind,
    'shots': 5,
    'anomalies': 0,
    'contamination': 0.0,
    'draw': draw,
    **dict.fromkeys(metrics.NAMES, value),
    **setting,
  }


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
  assert low < mean < high


@pytest.mark.parametrize('n', [2, 5, 9])
@pytest.mark.parametrize('level', [0.8, 0.95])
def test_the_interval_of_few_values_is_students(n, level):
  values = np.random.default_rng(n).beta(8, 2, n)
  mean, low, high = comparisons.bootstrap(values, level=level)
  reference = stats.ttest_1samp(values, 0).confidence_interval(level)
  assert mean == pytest.approx(values.mean())
  assert (low, high) == pytest.approx(tuple(reference))


@pytest.mark.parametrize('n', [3, 5, 9])
def test_intervals_of_few_entities_cover(n):
  rng = np.random.default_rng(n)
  draws = {'normal': rng.normal(0.8, 0.1, (1500, n))}
  draws['skewed'] = rng.beta(8, 2, (1500, n))  # mean 0.8, long to the left
  for name, samples in draws.items():
    found = np.array([comparisons.bootstrap(values) for values in samples])
    covered = np.mean((found[:, 1] <= 0.8) & (0.8 <= found[:, 2]))
    # 1,500 draws of 95%: a standard deviation of 0.0056.
    least = 0.93 if name == 'normal' else 0.915
    assert least <= covered <= 0.97, name


def test_intervals_stay_where_the_metric_lives():
  rows = [row(e, 'maml', v) for e, v in (('a', 0.99), ('b', 0.6))]
  rows += [row(e, 'knn', v, kind='baseline') for e, v in (('a', 0), ('b', 1))]
  for line in comparisons.summarise(rows, names=('auroc',)):
    assert (line['low'], line['high']) == (0, 1)
  line = comparisons.compare(rows)[0]
  assert (line['low'], line['high']) == (-1, 1)
  assert line['difference'] == pytest.approx(0.295)


def test_equal_resamples_tie_in_spite_of_rounding():
  # 0.1 + 0.2 + 0.3 has two float sums; a shift must not tip the ties.
  values = np.array([0.1, 0.2, 0.3] * 4)
  mean, low, high = comparisons.bootstrap(values)
  shifted = comparisons.bootstrap(values + 0.4)
  assert shifted == pytest.approx((mean + 0.4, low + 0.4, high + 0.4))


def test_bootstrap_follows_scale_and_forgets_order():
  rng = np.random.default_rng(0)
  values = rng.random(12)
  found = np.array(comparisons.bootstrap(values))
  np.testing.assert_allclose(
    comparisons.bootstrap(3 * values + 1), 3 * found + 1, atol=1e-10
  )
  mean, low, high = found
  np.testing.assert_allclose(
    comparisons.bootstrap(rng.permutation(values)), found, atol=1e-12
  )
  wide = comparisons.bootstrap(values, level=0.99)
  assert wide[1] < low and wide[2] > high


def test_bootstrap_is_the_seeds():
  values = np.random.default_rng(0).random(12)
  assert comparisons.bootstrap(values) == comparisons.bootstrap(values)
  assert comparisons.bootstrap(values, seed=1) != comparisons.bootstrap(values)


def test_bootstrap_of_equal_values_and_of_one():
  assert comparisons.bootstrap(np.full(7, 0.7)) == pytest.approx((0.7,) * 3)
  mean, low, high = comparisons.bootstrap(np.array([0.3]))
  assert mean == 0.3 and np.isnan(low) and np.isnan(high)


@pytest.mark.parametrize('values', [[], [0.1, np.nan], [np.inf]])
def test_bootstrap_refuses(values):
  with pytest.raises(base.DataError, match='finite'):
    comparisons.bootstrap(np.array(values))


def test_intervals_cover():
  rng = np.random.default_rng(0)
  truth, entities = 0.8, 30
  rows = [
    row(f'e{entity}', f'm{method}', value)
    for method in range(400)
    for entity, value in enumerate(rng.beta(8, 2, entities))
  ]
  found = comparisons.summarise(rows, names=('auroc',), resamples=999)
  inside = [line['low'] <= truth <= line['high'] for line in found]
  assert len(inside) == 400 and 0.90 <= np.mean(inside) <= 0.98


@pytest.mark.parametrize('ranks', [[1, 2, 3, 4, 5, 6], [1, 1, 2, 2, 2, 6]])
def test_paired_keeps_its_level(ranks):
  # All sign patterns are equally likely under the null hypothesis.
  p_values = np.array(
    [
      comparisons.paired(np.array(signs) * ranks, np.zeros(6))
      for signs in itertools.product([-1, 1], repeat=6)
    ]
  )
  assert p_values.min() == pytest.approx(2 / 64)
  for level in np.unique(p_values):
    assert np.mean(p_values <= level) <= level + 1e-12


@pytest.mark.parametrize('n', [4, 7, 8])
@pytest.mark.parametrize('decimals', [0, 8])
def test_paired_equals_scipys_permutation_test(n, decimals):
  rng = np.random.default_rng(n)
  for _ in range(5):
    differences = (rng.normal(size=n) * 2).round(decimals)
    differences[differences == 0] = 1
    want = stats.wilcoxon(
      differences, method=stats.PermutationMethod(n_resamples=np.inf)
    ).pvalue
    got = comparisons.paired(differences, np.zeros(n))
    assert got == pytest.approx(want, abs=1e-12)


def test_tied_exact_test_agrees_with_the_untied_at_fifty():
  # Ties broken by nothing: the exact distributions coincide without ties.
  differences = np.random.default_rng(0).normal(0.3, size=50)
  exact = comparisons._tied_wilcoxon(differences)
  assert exact == pytest.approx(comparisons.paired(differences, np.zeros(50)))


def test_paired_of_many_ties_is_the_normal_approximation():
  differences = np.random.default_rng(0).integers(-3, 6, 80)
  want = stats.wilcoxon(
    differences[differences != 0], method='asymptotic', correction=False
  ).pvalue
  got = comparisons.paired(differences, np.zeros(80))
  assert got == pytest.approx(want, rel=1e-9)


def test_paired_by_hand():
  zeros = np.zeros(6)
  assert comparisons.paired(np.arange(1.0, 7.0), zeros) == pytest.approx(2 / 64)
  assert comparisons.paired(np.array([0.3]), np.array([0.1])) == 1.0
  assert comparisons.paired(zeros, zeros) == 1.0
  # A rounding error is no difference.
  assert comparisons.paired(np.full(9, 0.1 + 0.2), np.full(9, 0.3)) == 1.0
  # Zeros are dropped: of four pairs three count.
  assert comparisons.paired(np.array([0, 1, 2, 3]), np.zeros(4)) == 2 / 8


def test_paired_is_symmetric():
  a, b = np.random.default_rng(0).random((2, 15)).round(1)
  assert comparisons.paired(a, b) == comparisons.paired(b, a)


@pytest.mark.parametrize(
  'a, b', [([], []), ([1.0], [1.0, 2.0]), ([1.0, np.nan], [1.0, 2.0])]
)
def test_paired_refuses(a, b):
  with pytest.raises(base.DataError, match='paired test'):
    comparisons.paired(np.array(a), np.array(b))


def test_holm_by_hand():
  adjusted = comparisons.holm(np.array([0.01, 0.04, 0.03, 0.005]))
  np.testing.assert_allclose(adjusted, [0.03, 0.06, 0.06, 0.02])
  np.testing.assert_allclose(comparisons.holm(np.array([0.7, 0.6])), 1.0)
  assert comparisons.holm(np.array([0.2])) == 0.2
  assert comparisons.holm(np.array([])).shape == (0,)


def test_holm_properties():
  rng = np.random.default_rng(0)
  p_values = rng.random(20) ** 3
  adjusted, order = comparisons.holm(p_values), rng.permutation(20)
  np.testing.assert_array_equal(
    comparisons.holm(p_values[order]), adjusted[order]
  )
  assert np.all(adjusted >= p_values)
  assert np.all(adjusted <= np.minimum(1, 20 * p_values))
  # Step down: the k smallest are rejected while p_(k) <= alpha / (m - k + 1).
  ranked = np.sort(p_values)
  for alpha in (0.01, 0.05, 0.2):
    passed = ranked <= alpha / np.arange(20, 0, -1)
    steps = 20 if passed.all() else np.argmin(passed)
    assert np.sum(adjusted <= alpha) == steps


def test_draws_are_averaged_before_entities():
  rows = [row('a', 'maml', 0.9, draw) for draw in range(9)]
  rows += [row('b', 'maml', 0.5), row('b', 'maml', 0.7, 1)]
  found = {line['metric']: line for line in comparisons.summarise(rows)}
  assert tuple(found) == metrics.NAMES
  line = found['auroc']
  assert line['entities'] == 2
  assert line['mean'] == pytest.approx((0.9 + 0.6) / 2)
  rows += [row(e, 'maml', 0.6) for e in 'cdefgh']
  line = comparisons.summarise(rows, names=('auroc',))[0]
  expected = comparisons.bootstrap(np.array([0.9, *[0.6] * 7]))
  assert (line['mean'], line['low'], line['high']) == pytest.approx(expected)
  assert {k: line[k] for k in ('source', 'learner', 'kind', 'shots')} == {
    'source': 'rig', 'learner': 'maml', 'kind': 'learner', 'shots': 5
  }  # fmt: skip


def many_rows(entities=7, draws=2):
  rng = np.random.default_rng(0)
  return [
    row(
      f'e{entity}',
      name,
      round(rng.random(), 2),
      draw,
      kind,
      shots=shots,
      ap=rng.random(),
    )
    for shots in (1, 5)
    for name, kind in (
      ('maml', 'learner'),
      ('anil', 'learner'),
      ('knn', 'baseline'),
      ('lof', 'baseline'),
    )
    for entity in range(entities + shots)
    for draw in range(draws)
  ]


def entity_means(rows, learner, shots, metric='auroc'):
  chosen = [r for r in rows if (r['learner'], r['shots']) == (learner, shots)]
  names = dict.fromkeys(r['entity'] for r in chosen)
  return np.array(
    [np.mean([r[metric] for r in chosen if r['entity'] == e]) for e in names]
  )


def test_every_summary_is_its_own_bootstrap():
  rows = many_rows()
  found = comparisons.summarise(rows, names=('auroc', 'ap'), resamples=499)
  assert len(found) == 2 * 4 * 2
  for line in found:
    values = entity_means(rows, line['learner'], line['shots'], line['metric'])
    expected = comparisons.bootstrap(values, resamples=499)
    got = line['mean'], line['low'], line['high']
    assert got == pytest.approx(expected, abs=1e-11)
    assert line['entities'] == len(values)


def test_every_comparison_is_paired_and_holm_stays_in_its_cell():
  rows = many_rows()
  found = comparisons.compare(rows, resamples=499)
  assert len(found) == 2 * 2 * 2 * 2
  for line in found:
    a = entity_means(rows, line['learner'], line['shots'], line['metric'])
    b = entity_means(rows, line['baseline'], line['shots'], line['metric'])
    expected = comparisons.bootstrap(a - b, resamples=499)
    got = line['difference'], line['low'], line['high']
    assert got == pytest.approx(expected, abs=1e-11)
    assert line['p'] == comparisons.paired(a, b)
  for shots, metric in itertools.product((1, 5), ('auroc', 'ap')):
    family = [
      line
      for line in found
      if (line['shots'], line['metric']) == (shots, metric)
    ]
    np.testing.assert_allclose(
      [line['p_holm'] for line in family],
      comparisons.holm(np.array([line['p'] for line in family])),
    )


def test_the_best_baseline_is_that_of_the_cell_and_the_metric():
  rows = many_rows()
  for line in comparisons.compare(rows, resamples=99):
    level = lambda name, line=line: entity_means(
      rows, name, line['shots'], line['metric']
    ).mean()
    assert line['best'] == (line['baseline'] == max(('knn', 'lof'), key=level))


def ranked(table, names='abcdefgh'):
  """The ranking of [entities, methods] values."""
  return comparisons.ranking(
    [
      row(f'e{i}', names[j], value)
      for i, values in enumerate(table)
      for j, value in enumerate(values)
    ]
  )


def test_ranks_by_hand():
  found = ranked([[0.1, 0.9, 0.5], [0.2, 0.8, 0.8], [0.3, 0.4, 0.2]])
  assert found.names == ('b', 'c', 'a')
  # b: 1, 1.5, 1; c: 2, 1.5, 3; a: 3, 3, 2
  assert found.ranks == pytest.approx((3.5 / 3, 6.5 / 3, 8 / 3))
  assert found.entities == 3
  # Three entities tell nothing apart: p is never below 1/4.
  assert found.cliques == ((0, 2),)


def test_cliques_hold_who_cannot_be_told_apart():
  rng = np.random.default_rng(0)
  level = rng.random((40, 1)) / 2
  # a = b, far above c = d; e between them but noisy
  table = level + [0.4, 0.4, 0.2, 0.2] + 0.02 * rng.normal(size=(40, 4))
  found = ranked(table)
  assert set(found.names[:2]) == {'a', 'b'}
  assert found.cliques == ((0, 1), (2, 3))
  assert found.p < 1e-6
  expected = stats.friedmanchisquare(*table.T).pvalue
  assert found.p == pytest.approx(expected)


def test_cliques_are_the_longest_runs_without_a_difference():
  rng = np.random.default_rng(1)
  overlapping = 0
  for _ in range(10):
    steps = 0.015 * np.arange(5)
    table = rng.random((25, 1)) + steps + 0.02 * rng.normal(size=(25, 5))
    found = ranked(table)
    place = ['abcde'.index(name) for name in found.names]
    pairs = list(itertools.combinations(range(5), 2))
    p_values = comparisons.holm(
      np.array(
        [
          comparisons.paired(table[:, place[i]], table[:, place[j]])
          for i, j in pairs
        ]
      )
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
    overlapping += any(
      a[1] >= b[0]
      for a, b in zip(found.cliques, found.cliques[1:], strict=False)
    )
  assert overlapping


def test_a_third_method_does_not_decide_about_two():
  # Holm's correction over one pair: the clique is the signed rank test's.
  rng = np.random.default_rng(3)
  table = rng.random((12, 1)) + [0.0, 0.05] + 0.05 * rng.normal(size=(12, 2))
  p = comparisons.paired(*table.T)
  found = ranked(table)
  assert found.p == 1.0  # Friedman needs three
  assert bool(found.cliques) == (p >= 0.05)


def test_equal_methods_are_one_clique_and_rank_alike():
  found = ranked([[0.5, 0.5, 0.5]] * 9)
  assert found.ranks == (2, 2, 2)
  assert (found.p, found.cliques) == (1.0, ((0, 2),))


def test_methods_that_miss_an_entity_are_left_out_of_the_ranking():
  rows = [row(e, n, 0.5) for e in 'xyz' for n in 'ab']
  rows += [row('x', 'c', 0.9)]
  found = comparisons.ranking(rows)
  assert found.left_out == ('c',) and set(found.names) == {'a', 'b'}
  with pytest.raises(base.DataError, match='every entity'):
    comparisons.ranking([row('x', 'a', 0.5), row('y', 'b', 0.5)])
  with pytest.raises(base.DataError, match='no rows'):
    comparisons.ranking([])


def test_five_hundred_tables_are_summarised_in_seconds():
  rng = np.random.default_rng(0)
  names = [(f'm{i}', 'learner' if i < 4 else 'baseline') for i in range(10)]
  rows = [
    row(f'e{entity}', name, value, kind=kind, shots=shots)
    for shots in (5, 20)
    for name, kind in names
    for entity, value in enumerate(rng.random(500))
  ]
  start = time.perf_counter()
  comparisons.summarise(rows)
  comparisons.compare(rows)
  assert time.perf_counter() - start < 10


def test_the_order_of_rows_does_not_matter():
  rows = many_rows()
  mixed = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
  for function, value in (
    (comparisons.summarise, 'mean'),
    (comparisons.compare, 'difference'),
  ):
    plain, shuffled = (
      {
        tuple(v for v in line.values() if isinstance(v, str | int)): line
        for line in function(given, resamples=199)
      }
      for given in (rows, mixed)
    )
    assert plain.keys() == shuffled.keys()
    for key, line in plain.items():
      for name in (value, 'low', 'high'):
        assert line[name] == pytest.approx(shuffled[key][name], abs=1e-11)


def test_only_shared_entities_are_compared():
  rows = [row(e, 'maml', v) for e, v in (('a', 0.9), ('b', 0.8), ('c', 0.1))]
  rows += [row(e, 'knn', 0.5, kind='baseline') for e in ('b', 'a')]
  rows += [row('z', 'lof', 0.5, kind='baseline')]
  (line,) = comparisons.compare(rows, ('auroc',))
  assert (line['baseline'], line['entities']) == ('knn', 2)
  assert line['difference'] == pytest.approx(0.35)
  assert comparisons.compare(rows[:3]) == []


def test_a_learner_that_always_wins_is_significant():
  rng = np.random.default_rng(0)
  rows = []
  for entity in range(12):
    level = rng.random() / 2
    rows.append(row(f'e{entity}', 'maml', level + 0.2 + rng.random() / 10))
    rows.append(row(f'e{entity}', 'knn', level, kind='baseline'))
    rows.append(row(f'e{entity}', 'twin', rows[-2]['auroc'], kind='baseline'))
  win, tie = comparisons.compare(rows, ('auroc',))
  assert win['p'] == pytest.approx(2**-11) and win['p_holm'] < 0.05
  assert 0.2 <= win['low'] <= win['high'] <= 0.3
  assert (tie['difference'], tie['low'], tie['high'], tie['p']) == (0, 0, 0, 1)


@pytest.mark.parametrize(
  'change, match',
  [
    ({'auroc': float('nan')}, 'row 1: auroc is nan'),
    ({'auroc': None}, 'row 1: auroc is nan'),
    ({'auroc': 'good'}, 'other than a number'),
    ({'entity': KeyError}, "row 1 has no 'entity'"),
    ({'kind': 'both'}, "kind 'both'"),
  ],
)
def test_bad_rows_are_named(change, match):
  bad = row('b', 'maml', 0.5)
  for key, value in change.items():
    if value is KeyError:
      del bad[key]
    else:
      bad[key] = value
  rows = [row('a', 'maml', 0.5), bad]
  with pytest.raises(base.DataError, match=match) as caught:
    comparisons.compare(rows)
  assert '\n' not in str(caught.value)
  if 'kind' not in change:
    with pytest.raises(base.DataError, match=match):
      comparisons.summarise(rows)


def test_no_rows_no_lines():
  assert comparisons.summarise([]) == comparisons.compare([]) == []
