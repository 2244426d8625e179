"""The advice follows from paired tests over the entities of each cell."""

from made_up import LEVELS, make
from scipy import stats

from metaad_jax.evaluation.results import Results
from metaad_jax.reports import recommendation

KINDS = {name: kind for name, (kind, _) in LEVELS.items()}


def pick(results):
  found = recommendation.choices(results)
  return found, recommendation.advice(found, KINDS)


def levels(**values):
  return {name: (KINDS[name], value) for name, value in values.items()}


def test_the_best_is_tested_against_each_other_method_of_either_kind():
  results = make(levels(maml=0.8, protonet=0.79, knn=0.5), cells=((5, 0),))
  (choice,) = recommendation.choices(results)
  means = results.table.groupby(['method', 'entity']).auroc.mean().unstack(0)
  p = [
    stats.wilcoxon(means['maml'], means[other]).pvalue
    for other in ('protonet', 'knn')
  ]
  assert list(choice.gaps) == ['maml', 'protonet', 'knn']
  assert choice.contest.p_holm == max(p[0], 2 * min(p))
  assert choice.alike == ['maml', 'protonet']
  gap = (means['maml'] - means['knn']).mean()
  assert abs(choice.gaps['knn'] - gap) < 1e-9
  row = recommendation.evidence([choice])[0].groups[''][0]
  assert [cell.text for cell in row[2:5]] == ['7', 'maml', 'protonet']
  assert row[7].text == 'protonet'


def test_four_rivals_are_four_tests():
  """Of seven entities p is 1/64 at best, and four times that is above 5%."""
  low = levels(maml=0.9, protonet=0.5, knn=0.5, pooled=0.5, trees=0.5)
  (choice,) = recommendation.choices(make(low, cells=((5, 1),)))
  assert choice.contest.p == 1 / 64 and choice.contest.p_holm == 1 / 16
  assert set(choice.alike) == set(low)


def test_a_baseline_may_be_the_best_and_cells_with_labels_get_a_sentence():
  results = make(levels(maml=0.6, knn=0.8, trees=0.95))
  found, advice = pick(results)
  assert [c.alike for c in found] == [['knn'], ['trees']]
  alone, labelled = advice.split('. ')
  assert alone.startswith('From normals alone, use knn')
  assert labelled.startswith('With labelled anomalies, use trees')


def test_where_nothing_tells_them_apart_an_untrained_baseline_is_named():
  few = levels(maml=0.9, pooled=0.8, knn=0.7)  # four entities never reach 5%
  _, advice = pick(make(few, cells=((5, 0),), entities=4))
  assert 'use maml' in advice
  assert 'in 1 of 1 cells; nothing here tells it from pooled, knn' in advice
  assert advice.endswith('with no training beforehand, use knn.')


def test_methods_that_lack_an_entity_are_left_out():
  results = make(levels(maml=0.9, protonet=0.7, knn=0.6), cells=((5, 0),))
  lacking = (results.table.method == 'maml') & (results.table.entity == 'e0')
  found, advice = pick(Results(results.table[~lacking], results.meta))
  assert found[0].left_out == ['maml']
  assert 'use protonet' in advice


def test_contaminated_supports_get_sentences_of_their_own():
  clean = make(levels(maml=0.9, knn=0.6), cells=((5, 0),))
  dirty = make(levels(maml=0.6, knn=0.9), cells=((5, 0, 0.2),))
  table = clean.table.merge(dirty.table, how='outer')
  _, advice = pick(Results(table, clean.meta))
  assert 'From clean normals alone, use maml' in advice
  assert 'From contaminated normals alone, use knn' in advice


def test_among_equals_the_smallest_mean_gap_wins():
  """`knn` is the best in one cell and hopeless in the other; `maml` is even."""
  one = make(levels(maml=0.8, knn=0.81), cells=((5, 0),), entities=4)
  two = make(levels(maml=0.8, knn=0.3), cells=((20, 0),), entities=4)
  table = one.table.merge(two.table, how='outer')
  found, advice = pick(Results(table, one.meta))
  assert all(len(choice.alike) == 2 for choice in found)
  assert advice.startswith('From normals alone, use maml')


def test_one_method_alone_gives_no_advice():
  assert pick(make(levels(maml=0.9)))[0] == []
  assert recommendation.advice([], {}).startswith('No advice')
