"""Advice that follows from the rows, and says where nothing follows."""

import numpy as np
import pytest

from metaad_jax.reports import recommendation
from metaad_jax.scores import metrics
from metaad_jax.scores import old_comparisons as comparisons

META = {
  'created': '2026-01-02',
  'seed': 0,
  'versions': {},
  'hardware': 'one core',
  'seconds': 1.0,
  'flags': {},
  'code': 'abc',
}


def made(levels, entities=12, noise=0.01, cells=((0, 5), (0, 20)), seed=0):
  """Results of methods at given levels: {(name, kind): level or {A: level}}."""
  rng = np.random.default_rng(seed)
  own = rng.random(entities) / 4
  rows = []
  for anomalies, shots in cells:
    for (name, kind), level in levels.items():
      if isinstance(level, dict):
        level = level.get(anomalies)
      if level is None:
        continue
      for entity in range(entities):
        value = own[entity] + level + noise * rng.normal()
        rows.append(
          {
            'source': 'rig',
            'entity': f'e{entity}',
            'learner': name,
            'kind': kind,
            'shots': shots,
            'anomalies': anomalies,
            'contamination': 0.0,
            'draw': 0,
            **dict.fromkeys(metrics.NAMES, float(np.clip(value, 0, 1))),
            'queries': 9,
            'query_anomalies': 3,
          }
        )
  return {
    'schema': 1,
    'meta': META,
    'rows': rows,
    'summary': comparisons.summarise(rows),
    'tests': comparisons.compare(rows),
    'curves': {},
    'histograms': [],
    'example': None,
    'notes': [],
  }


MAML, KNN, LOF = ('maml', 'learner'), ('knn', 'baseline'), ('lof', 'baseline')
TREES = ('trees', 'baseline')


def test_the_better_method_is_recommended_in_every_cell():
  found = recommendation.choices(made({MAML: 0.6, KNN: 0.4, LOF: 0.3}))
  assert [(c.contest.anomalies, c.contest.shots) for c in found] == [
    (0, 5),
    (0, 20),
  ]
  for choice in found:
    assert choice.contest.best == 'maml' and choice.alike == ('maml',)
    assert 'significantly better than the runner-up knn' in choice.sentence
  advice = recommendation.advice(found)
  assert advice.startswith('From normals alone, use maml')
  assert 'in 2 of 2 cells' in advice and '(next: knn, in 0)' in advice


def test_a_baseline_is_recommended_where_it_is_better():
  cells = ((0, 5), (5, 5))
  levels = {MAML: 0.5, KNN: 0.4, TREES: {5: 0.7}}
  found = recommendation.choices(made(levels, cells=cells))
  advice = recommendation.advice(found)
  assert 'From normals alone, use maml' in advice
  assert 'With labelled anomalies, use trees' in advice


def test_few_entities_tell_nothing_apart_however_far_the_means():
  found = recommendation.choices(
    made({MAML: 0.6, KNN: 0.3, LOF: 0.2}, entities=5)
  )
  for choice in found:
    assert choice.alike == ('maml', 'knn', 'lof')
    assert 'not told apart from the runner-up knn' in choice.sentence
    assert 'Nor from lof.' in choice.sentence
  advice = recommendation.advice(found)
  assert 'nothing here tells it from knn, lof' in advice
  assert advice.endswith('; with no training beforehand, use knn.')


def test_a_baseline_of_the_fleet_is_not_said_to_need_no_training():
  levels = {MAML: 0.6, ('pooled', 'baseline'): 0.3}
  found = recommendation.choices(made(levels, entities=5))
  advice = recommendation.advice(found)
  assert advice.endswith('tells it from pooled.')


def test_who_is_level_where_the_runner_up_is_beaten_is_a_sentence():
  results = made({MAML: 0.6, KNN: 0.55, LOF: 0.5}, cells=((0, 5),))
  for row in results['rows']:  # better or worse by turns, with a lower mean
    if row['learner'] == 'lof':
      number = int(row['entity'][1:])
      row['auroc'] += 0.145 if number % 2 else -0.1
  (choice,) = recommendation.choices(results)
  assert choice.contest.rivals[1]['learner'] == 'knn'
  assert choice.alike == ('maml', 'lof')
  assert 'significantly better than the runner-up knn' in choice.sentence
  assert choice.sentence.endswith(' Not told apart from lof.')


def test_clean_and_contaminated_supports_are_advised_on_apart():
  clean = made({MAML: 0.6, KNN: 0.4}, cells=((0, 5), (5, 5)))
  dirty = made({MAML: 0.4, KNN: 0.6}, cells=((0, 5), (5, 5)))
  for row in dirty['rows']:
    row['contamination'] = 0.2
  both = {**clean, 'rows': [*dirty['rows'], *clean['rows']]}
  advice = recommendation.advice(recommendation.choices(both))
  parts = [
    ('From clean normals alone', 'maml'),
    ('With labelled anomalies beside clean normals', 'maml'),
    ('From contaminated normals alone', 'knn'),
    ('With labelled anomalies beside contaminated normals', 'knn'),
  ]
  places = [advice.index(f'{when}, use {name}:') for when, name in parts]
  assert places == sorted(places)
  assert advice.count('in 1 of 1 cells') == 4


def test_the_evidence_is_the_paired_tests():
  results = made({MAML: 0.5, KNN: 0.495, LOF: 0.49}, noise=0.02)
  values = {
    name: np.array(
      [
        row['auroc']
        for row in results['rows']
        if row['learner'] == name and row['shots'] == 5
      ]
    )
    for name in ('maml', 'knn', 'lof')
  }
  contest = recommendation.choices(results)[0].contest
  order = sorted(values, key=lambda name: -values[name].mean())
  assert [line['learner'] for line in contest.rivals] == order
  p = [comparisons.paired(values[order[0]], values[n]) for n in order[1:]]
  assert [line['p'] for line in contest.rivals] == [None, *p]
  assert [line['p_holm'] for line in contest.rivals[1:]] == pytest.approx(
    list(comparisons.holm(np.array(p)))
  )
  for line in contest.rivals[1:]:
    gap = values[order[0]] - values[line['learner']]
    assert (line['difference'], line['low'], line['high']) == pytest.approx(
      comparisons.bootstrap(gap), abs=1e-9
    )


def test_a_method_that_missed_an_entity_does_not_compete():
  results = made({MAML: 0.5, KNN: 0.4, LOF: 0.6}, cells=((0, 5),))
  gone = [r for r in results['rows'] if r['learner'] == 'lof'][0]
  results['rows'].remove(gone)
  (choice,) = recommendation.choices(results)
  assert choice.contest.best == 'maml'
  assert choice.contest.left_out == ('lof',)
  assert 'Not on every entity: lof.' in choice.sentence


def test_a_method_is_not_favoured_for_serving_few_cells():
  levels = {MAML: 0.5, TREES: {5: 0.5}}
  cells = ((0, 5), (5, 5), (5, 20))
  results = made(levels, cells=cells)
  results['rows'] = [
    row
    for row in results['rows']
    if (row['learner'], row['shots']) != ('trees', 20)
  ]
  results['rows'] += [
    {**row, 'learner': 'knn', 'auroc': row['auroc'] - 0.1}
    for row in results['rows']
    if row['learner'] == 'maml'
  ]
  found = recommendation.choices(results)
  assert 'With labelled anomalies, use maml' in recommendation.advice(found)


def test_the_text_ends_with_the_advice_and_names_the_cost():
  results = made({MAML: 0.6, KNN: 0.4})
  text = recommendation.text(results)
  found = recommendation.choices(results)
  flat = ' '.join(text.split())
  assert flat.endswith(recommendation.advice(found))
  assert 'A=0 K=20, 12 entities: maml' in flat
  assert 'The cost was not measured' in flat
  size = {'shots': 20, 'anomalies': 0, 'columns': 30, 'queries': 200}
  results['costs'] = [
    {'learner': 'maml', 'kind': 'learner', 'seconds': 0.0123, **size},
    {'learner': 'knn', 'kind': 'baseline', 'seconds': 2.5, **size},
  ]
  flat = ' '.join(recommendation.text(results).split())
  assert '(12 ms), significantly better' in flat and '(2.5 s)' in flat
  assert '20 normal and 0 anomalous rows of 30 columns and scoring' in flat
  results['costs'][0]['columns'] = 99
  assert 'rows of 30 columns (maml: 99) and' in recommendation.price(results)
  assert all(len(line) <= 60 for line in recommendation.text(
    results, width=60
  ).splitlines())  # fmt: skip


def test_no_rows_no_advice():
  results = made({MAML: 0.6})
  assert recommendation.choices(results) == []  # nothing to compare with
  assert 'No advice' in recommendation.text(results)


def test_a_name_cannot_break_the_terminal():
  text = recommendation.text(made({('a\x1b[2J\n', 'learner'): 0.5, KNN: 0.4}))
  assert '\x1b' not in text
