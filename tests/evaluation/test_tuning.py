"""The best candidate is found, where it is best, and never on the test side."""

import dataclasses

import jax
import numpy as np
import pytest

from metaad_jax.base import DataError, Entity
from metaad_jax.data import audits, registry
from metaad_jax.evaluation import baselines, tuning
from metaad_jax.evaluation import evaluate as evaluation
from metaad_jax.evaluation import old_results as results
from metaad_jax.evaluation.evaluate import Grid
from metaad_jax.training import runs

CLEAN = 5, 0, 0.0


def toy(monkeypatch, needs_anomalies=False, scalings=('plain', 'clipped')):
  """Its score is the first column, or the second, to a power times a sign."""

  def score(seed, x, y, query, *, scaling='plain', sign=1, power=1):
    del seed, x, y
    scaled = query[:, 0] if scaling == 'plain' else query[:, 1]
    return sign * scaled**power

  made = baselines.Baseline(
    needs_anomalies,
    score,
    scalings,
    ({}, {'sign': -1}, {'power': 2}),
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
    'source': 's', 'learner': 'knn', 'shots': 5, 'anomalies': 0,
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


@pytest.mark.parametrize('name', baselines.REGISTRY)
def test_every_candidate_and_scaling_changes_the_scores(name):
  """None is tried for nothing; each is finite on constant columns."""
  rng = np.random.default_rng(0)
  support, query = rng.standard_t(2, (25, 6)), rng.standard_t(2, (30, 6))
  support[:20, 5] = 0
  labels = np.repeat([0, 1], [20, 5])
  baseline = baselines.REGISTRY[name]
  score = lambda **options: baseline.score(0, support, labels, query, **options)
  usual = score()
  tried = [{'scaling': s} for s in baseline.scalings[1:]]
  for options in [*tried, *baseline.candidates[1:]]:
    scores = score(**options)
    assert np.isfinite(scores).all()
    assert np.abs(scores - usual).max() > 1e-6, options


# --- in an evaluation --------------------------------------------------------

GRID = Grid((2, 4), (0, 1), (0.0,), draws=1, queries=6)
CONFIG = runs.Config(
  source='rows', learner='protonet', model='mlp:width=4,depth=1', shots=(2,),
  anomalies=(0,), queries=4, steps=2, tasks=2, validation_tasks=2,
  validate_every=2,
)  # fmt: skip
NAMES = ['distance_to_mean', 'knn', 'logistic_regression']


def entity(name, seed):
  rng = np.random.default_rng(seed)
  labels = np.repeat([0, 1], [8, 8]).astype(np.int32)
  query = rng.normal(size=(16, 3)) + labels[:, None]
  return Entity(
    name,
    rng.normal(size=(12, 3)).astype(np.float32),
    query.astype(np.float32),
    labels,
    group=name,
  )


@pytest.fixture(scope='module')
def run_dir(tmp_path_factory):
  """A run on a source `rows` of 20 entities; `everyone` is put into it."""
  with pytest.MonkeyPatch.context() as patch:
    everyone = register(patch)
    folder = str(tmp_path_factory.mktemp('run') / 'proto')
    runs.train(CONFIG, run_dir=folder, quiet=True)
    assert len(everyone) == 20
  return folder


def register(patch, name='rows', count=20, first=0, side=''):
  everyone = [
    dataclasses.replace(entity(f'{name}{i}', first + i), side=side)
    for i in range(count)
  ]
  source = dataclasses.replace(
    registry.REGISTRY['vibration'], name=name, channels=(), rate=None,
    load=lambda data_dir: everyone, features=('identity',),
  )  # fmt: skip
  patch.setitem(registry.REGISTRY, name, source)
  return everyone


def evaluate(run_dir, **options):
  return results.validate(
    evaluation.evaluate(
      [run_dir],
      GRID,
      **{'baseline_names': NAMES, 'workers': 1, 'quiet': True} | options,
    )
  )


def test_no_test_entity_is_looked_at(run_dir, monkeypatch):
  everyone = register(monkeypatch)
  found = evaluate(run_dir, tune_baselines=5)
  (where,) = found['tuned_on']
  tested = {row['entity'] for row in found['rows']}
  assert where['from'] == 'rows' and tested
  assert not tested & set(where['entities'])
  assert {c['tasks'] for c in found['tuning']} <= set(range(1, 6))
  assert len(found['tuning']) == 4 * 2 + 2  # 2 of 4 cells have labels
  for i, one in enumerate(everyone):
    if one.name in tested:  # others than these are the same to the choice
      everyone[i] = dataclasses.replace(one, query=one.query[::-1] * 3 + 1)
  again = evaluate(run_dir, tune_baselines=5)
  assert again['tuning'] == found['tuning']
  assert again['rows'] != found['rows']


def test_one_choice_for_all_shots_and_labels(run_dir, monkeypatch):
  register(monkeypatch)
  given = []
  genuine = tuning.choose
  monkeypatch.setattr(
    tuning,
    'choose',
    lambda names, tasks, labels, cells, **how: (
      given.extend(zip(tasks, cells, strict=True))
      or genuine(names, tasks, labels, cells, **how)
    ),
  )
  found = evaluate(run_dir, tune_baselines=3, tune_together=True)
  assert len(given) == 2 * 3
  for (_, y, _), (shots, anomalies, _) in given:
    assert shots == 0 and anomalies == y.sum()
  assert len({len(y) - y.sum() for (_, y, _), _ in given}) == 2  # both shots
  assert len(found['tuning']) == 4 * 2 + 2
  for name in NAMES:
    told = [c for c in found['tuning'] if c['learner'] == name]
    assert len({(c['options'], c['auroc']) for c in told}) == 1


def test_what_is_chosen_is_what_is_used(run_dir, monkeypatch):
  register(monkeypatch)
  plain = evaluate(run_dir)
  assert not plain['tuning'] and not plain['tuned_on']
  always = tuning.Choice({'scaling': 'compressed'}, 0.5, 0.5, 1)
  cells = [(k, a, 0.0) for k in GRID.shots for a in GRID.anomalies]
  monkeypatch.setattr(
    tuning,
    'choose',
    lambda *args, **kwargs: {cell: {'knn': always} for cell in cells},
  )
  seen = []
  genuine = baselines.score_jobs
  monkeypatch.setattr(
    baselines,
    'score_jobs',
    lambda jobs, *args, **kwargs: (
      seen.extend(job for some in jobs for job in some)
      or genuine(jobs, *args, **kwargs)
    ),
  )
  tuned = evaluate(run_dir, tune_baselines=5)
  assert {str(o) for n, o in seen if n == 'knn'} == {str(always.options)}
  assert {str(o) for n, o in seen if n != 'knn'} == {'{}'}
  pick = lambda found, name: [
    {**row, 'learner': ''} for row in found['rows'] if row['learner'] == name
  ]
  for name in ('distance_to_mean', 'logistic_regression', 'protonet'):
    assert pick(plain, name) == pick(tuned, name)


def test_labels_do_not_change_a_baseline_that_ignores_them(
  run_dir, monkeypatch
):
  register(monkeypatch)
  found = evaluate(run_dir)
  areas = {}
  for row in found['rows']:
    key = row['learner'], row['entity'], row['shots']
    areas.setdefault(key, set()).add(row['auroc'])
  for (name, *_), values in areas.items():
    assert name == 'protonet' or len(values) == 1


def test_another_source_uses_its_own_training_side_or_the_runs(
  run_dir, monkeypatch
):
  register(monkeypatch)
  free = register(monkeypatch, 'free', 6, 100)
  found = evaluate(run_dir, source='free', tune_baselines=3)
  assert found['tuned_on'][0]['from'] == 'rows'
  for i in range(3):
    free[i] = dataclasses.replace(free[i], side='train')
  found = evaluate(run_dir, source='free', tune_baselines=3)
  assert found['tuned_on'] == [
    {'source': 'free', 'from': 'free', 'entities': ['free0', 'free1', 'free2']}
  ]
  assert {row['entity'] for row in found['rows']} == {
    'free3', 'free4', 'free5'
  }  # fmt: skip


def test_nothing_is_left_to_tune_on(run_dir, monkeypatch):
  everyone = register(monkeypatch)
  for split in ('all', 'validation'):
    with pytest.raises(DataError, match='leave out --tune_baselines') as error:
      evaluate(run_dir, split=split, tune_baselines=3)
    assert '\n' not in str(error.value)
  assert evaluate(run_dir, split='validation')['rows']
  for i, one in enumerate(everyone):
    everyone[i] = dataclasses.replace(one, query=one.query + 1)
  with pytest.raises(DataError, match='is not the one that the run was'):
    evaluate(run_dir, tune_baselines=3)


def test_apart_names_the_entities_whatever_they_are_called():
  one, two = entity('one', 0), entity('two', 1)
  audits.apart([one], [two], '')
  copy = dataclasses.replace(one, name='copy', normal=one.normal[::-1])
  with pytest.raises(DataError, match='copy: mend it'):
    audits.apart([one], [two, copy], 'mend it')


# --- learners that start from a run ------------------------------------------


def test_fine_tuned_starts_from_the_run_and_stands_beside_it(
  run_dir, monkeypatch
):
  register(monkeypatch)
  run = runs.restore(run_dir)
  same = runs.fine_tuned(run, 'protonet')
  jax.tree.map(np.testing.assert_array_equal, run.params, same.params)
  with pytest.raises(DataError, match='read rows differently'):
    runs.fine_tuned(run, 'tables')
  with pytest.raises(DataError, match='that was to start from: params/'):
    runs.fine_tuned(run, 'protonet:embedding=7')


def test_descent_starts_from_the_parameters_of_the_run(tmp_path, monkeypatch):
  """The run's own descent gives its own scores, more of it others."""
  register(monkeypatch)
  folder = str(tmp_path / 'maml')
  runs.train(
    dataclasses.replace(CONFIG, learner='maml:steps=1,rate=0.1'),
    run_dir=folder,
    quiet=True,
  )
  specs = ['maml:adapt_steps=1,rate=0.1', 'maml:adapt_steps=9,rate=0.5']
  found = evaluate(folder, baseline_names=[], fine_tune=specs)
  table = {}
  for row in found['rows']:
    key = row['entity'], row['shots'], row['anomalies']
    table.setdefault(row['learner'], {})[key] = row['auroc']
  plain, same, further = (table[name] for name in ('maml', *specs))
  assert plain == same and plain != further


def test_training_starts_from_another_run(run_dir, tmp_path, monkeypatch):
  register(monkeypatch)
  config = dataclasses.replace(CONFIG, start=run_dir, outer='sgd:rate=0.0')
  folder = str(tmp_path / 'on')
  runs.train(config, run_dir=folder, quiet=True)
  first, second = runs.restore(run_dir), runs.restore(folder)
  jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
  assert first.seen == second.seen
  with pytest.raises(DataError, match='were used in training'):
    runs.train(dataclasses.replace(config, fold='1'), quiet=True)


def test_a_run_of_another_source_is_scored_on_the_same_entities(
  run_dir, tmp_path, monkeypatch
):
  register(monkeypatch)
  register(monkeypatch, 'free', 20, 100)
  folder = str(tmp_path / 'guest')
  runs.train(
    dataclasses.replace(CONFIG, source='free', learner='relation'),
    run_dir=folder,
    quiet=True,
  )
  found = evaluation.evaluate(
    [folder, run_dir], GRID, source='rows', baseline_names=['knn'],
    workers=1, quiet=True,
  )  # fmt: skip
  tested = {}
  for row in results.validate(found)['rows']:
    key = row['entity'], row['shots'], row['anomalies']
    tested.setdefault(row['learner'], []).append(key)
  assert sorted(tested['relation']) == sorted(tested['protonet'])
  assert sorted(tested['knn']) == sorted(tested['protonet'])
  assert len(set(tested['knn'])) == len(tested['knn'])
