"""The best candidate is chosen, for the cells where it is best."""

import numpy as np
import pytest

from metaad_jax.evaluation import baselines, tuning

CLEAN = 5, 0, 0.0


def toy(monkeypatch, needs_anomalies=False, scalings=('plain', 'clipped')):
  """Scores by the first column; `clipped` puts the second in its place."""

  def detect(seed, *rows, sign=1, power=1):
    del seed
    return sign * rows[-1][:, 0] ** power

  swapped = lambda _, x, zero: x[:, [1, 0, 2]]
  monkeypatch.setitem(baselines.SCALINGS, 'clipped', swapped)
  made = baselines.Baseline(
    detect, needs_anomalies, scalings, ({'sign': -1}, {'power': 2})
  )
  monkeypatch.setitem(baselines.REGISTRY, 'toy', made)


def task(column, sign, anomalies=0, seed=0):
  """Anomalies are the rows where sign * column is large."""
  rng = np.random.default_rng(seed)
  query = rng.normal(size=(40, 3))
  labels = (sign * query[:, column] > 0.5).astype(int)
  support = rng.normal(size=(5 + anomalies, 3))
  return (support, np.repeat([0, 1], [5, anomalies]), query), labels


def choose(pairs, cells, names=('toy',)):
  tasks, labels = zip(*pairs, strict=True)
  return tuning.choose(
    names, tasks, labels, cells, seed=0, workers=1, quiet=True
  )


@pytest.mark.parametrize(
  'column, sign, wanted',
  [
    (0, 1, {}),
    (0, -1, {'sign': -1}),
    (1, 1, {'scaling': 'clipped'}),
  ],
)
def test_the_candidate_that_is_best_is_chosen(
  column, sign, wanted, monkeypatch
):
  toy(monkeypatch, scalings=('plain', 'clipped')[: column + 1])
  pairs = [task(column, sign, seed=i) for i in range(4)]
  choice = choose(pairs, [CLEAN] * 4)[CLEAN]['toy']
  assert choice.options == wanted
  assert choice.auroc == 1 and choice.tasks == 4
  assert (choice.default == 1) == (not wanted)


def test_candidates_are_tried_with_the_best_scaling(monkeypatch):
  """Anomalies have a large second column, few of them a negative one."""
  toy(monkeypatch)
  (x, y, query), _ = task(0, 1)
  query[:, 1] = np.linspace(-1, 3, 40)
  labels = (np.abs(query[:, 1]) > 0.8).astype(int)
  choice = choose([((x, y, query), labels)], [CLEAN])[CLEAN]['toy']
  assert choice.options == {'scaling': 'clipped', 'power': 2}
  assert choice.auroc == 1 > choice.default


def test_a_tie_goes_to_the_default(monkeypatch):
  toy(monkeypatch)
  (x, y, query), labels = task(0, 1)
  constant = np.zeros_like(query)
  choice = choose([((x, y, constant), labels)], [CLEAN])[CLEAN]['toy']
  assert choice == tuning.Choice({}, 0.5, 0.5, 1)


def test_every_cell_chooses_for_itself(monkeypatch):
  toy(monkeypatch, scalings=('plain',))
  other = 20, 0, 0.2
  pairs = [task(0, 1 - 2 * (i % 2), seed=i) for i in range(6)]
  found = choose(pairs, [CLEAN, other] * 3)
  assert found[CLEAN]['toy'].options == {}
  assert found[other]['toy'].options == {'sign': -1}
  assert found[other]['toy'].tasks == 3


def test_labels_that_are_ignored_do_not_multiply_the_work(monkeypatch):
  toy(monkeypatch)
  pairs = [task(0, -1, a) for a in (0, 2)] * 2
  cells = [CLEAN, (5, 2, 0.0)] * 2
  found = choose(pairs, cells, ('toy', 'svm'))
  assert set(found[CLEAN]) == {'toy'}
  assert set(found[cells[1]]) == {'toy', 'svm'}
  assert found[CLEAN]['toy'] == found[cells[1]]['toy']
  toy(monkeypatch, needs_anomalies=True)
  assert set(choose(pairs, cells)[cells[1]]) == {'toy'}
  assert not choose(pairs, cells)[CLEAN]


def test_a_column_that_drowns_all_others_is_scaled_down():
  """With the library's own detectors, where the answer is known."""
  pairs = []
  for seed in range(8):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(220, 4))
    rows[:, 0] = 10 * rng.standard_t(1, 220)  # says nothing, and drowns all
    labels = np.arange(200) % 2
    rows[20:, 1:] += 3 * labels[:, None]
    pairs.append(((rows[:20], np.zeros(20), rows[20:]), labels))
  cell = 20, 0, 0.0
  choice = choose(pairs, [cell] * 8, ['distance_to_mean'])[cell]
  found = choice['distance_to_mean']
  assert found.options['scaling'] != 'plain'
  assert found.auroc > found.default + 0.1


def test_what_is_told_counts_cells_and_names_the_entities():
  choice = {
    'source': 's', 'method': 'knn', 'shots': 5, 'anomalies': 0,
    'contamination': 0.0, 'options': 'neighbours=2', 'auroc': 0.75,
    'default': 0.7, 'tasks': 9,
  }  # fmt: skip
  found = {
    'tuned_on': [{'source': 's', 'from': 'other', 'entities': ['a', 'b']}],
    'tuning': [
      choice,
      choice | {'shots': 20, 'auroc': 0.85},
      choice | {'shots': 1, 'options': 'defaults', 'auroc': 0.7},
    ],
  }
  ((heading, lines),) = tuning.told(found)
  assert '9 tasks' in heading and '2 entities of other' in heading
  assert lines == ['knn: neighbours=2 (2), defaults (1); 0.700 -> 0.767']
  assert tuning.told({}) == []


@pytest.mark.parametrize(
  'name', [n for n, b in baselines.REGISTRY.items() if b.detect]
)
def test_every_candidate_and_scaling_changes_the_scores(name):
  """None is tried for nothing; each is finite on constant columns."""
  rng = np.random.default_rng(0)
  support, query = rng.standard_t(2, (25, 6)), rng.standard_t(2, (30, 6))
  support[:20, 5] = 0
  query[:25] = support + 0.1  # also near rows that trimming leaves out
  triple = support, np.repeat([0, 1], [20, 5]), query
  score = lambda **options: baselines.score(name, 0, triple, **options)
  usual = score()
  baseline = baselines.REGISTRY[name]
  tried = [{'scaling': s} for s in baseline.scalings[1:]]
  for options in [*tried, *baseline.candidates]:
    scores = score(**options)
    assert np.isfinite(scores).all()
    assert np.abs(scores - usual).max() > 1e-6, options
