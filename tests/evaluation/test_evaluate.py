"""Whole evaluations: the same rows for all methods, none of them known."""

import dataclasses

import numpy as np
import pytest
from toys import entity, pairwise_auroc, register, table, write_run

from metaad_jax.base import DataError
from metaad_jax.data import registry, splitting
from metaad_jax.evaluation import baselines, evaluate, jobs, tasks, tuning
from metaad_jax.evaluation.tasks import Grid
from metaad_jax.training import runs

GRID = Grid((2, 4), (0, 1), (0.0, 0.25), draws=2, queries=5)
SMALL = Grid((2,), (0,), draws=1, queries=5)
NAMES = ('distance_to_mean', 'knn', 'logistic_regression')
WIDTHS = (1, 3, 5, 9, 2, 17, 4, 6, 30, 8)


@pytest.fixture
def rows(monkeypatch):
  """The entities of a source `rows`; tests may replace them."""
  return register(monkeypatch, 'rows', [entity(f'e{i}') for i in range(15)])


@pytest.fixture
def run(rows, tmp_path):
  return write_run(tmp_path / 'run.npz', 'rows')


@pytest.fixture
def tables(monkeypatch, tmp_path):
  """A run on a source of tables of many widths."""
  entities = [table(f't{width}', width) for width in WIDTHS]
  register(monkeypatch, 'tables', entities, tables=True)
  return write_run(tmp_path / 'wide.npz', 'tables')


def run_all(paths, grid=SMALL, names=(), **options):
  plan = evaluate.Plan(grid, baselines=names, workers=1, quiet=True, **options)
  return evaluate.evaluate(paths, plan)


def entities_of(results, method=None):
  table = results.table
  return set(table['entity'][(table['method'] == method) | (method is None)])


def refusal(*args, **options):
  with pytest.raises(DataError) as refused:
    run_all(*args, **options)
  assert '\n' not in str(refused.value)
  return str(refused.value)


# --- scores ------------------------------------------------------------------


def test_every_row_of_the_table_can_be_computed_by_hand(run, rows):
  results = run_all([run], GRID, NAMES)
  sides = splitting.split(rows, fold='0', folds=5, seed=0)
  cells, _ = tasks.draw_cells(sides['test'], GRID)
  prior = runs.restore(run).prior
  assert len(results.table) == len(cells) * 3 + len(cells) // 2
  table = results.table.set_index(
    ['entity', 'draw', 'shots', 'anomalies', 'contamination', 'method']
  ).sort_index()
  for cell in cells:
    one = sides['test'][cell.entity]
    x, y, query = tasks.rows_of(cell, one)
    normal, n = x[y == 0], cell.shots
    spread = (n * normal.var(0) + 5 * prior.within**2) / (n + 5)
    z = (query - normal.mean(0)) / np.sqrt(spread)
    labels = one.labels[cell.query]
    lines = table.loc[one.name, cell.draw, *cell.setting]
    served = {'z', *NAMES} - ({NAMES[2]} if not cell.anomalies else set())
    assert {*lines.index} == served
    expected = pairwise_auroc(labels, np.linalg.norm(z, axis=1))
    assert lines.loc['distance_to_mean', 'auroc'] == pytest.approx(expected)
    # The learner scales the standardised rows once more.
    deviation = np.sqrt(normal.var(0) / spread + 1e-2)
    expected = pairwise_auroc(labels, np.abs(z / deviation).mean(1))
    assert lines.loc['z', 'auroc'] == pytest.approx(expected)
    assert (lines['queries'] == len(labels)).all()
    assert (lines['query_anomalies'] == labels.sum()).all()
  kinds = results.table.groupby('method')['kind'].first()
  assert dict(kinds) == dict.fromkeys(NAMES, 'baseline') | {'z': 'learner'}
  assert results.meta['flags']['shots'] == [2, 4]


def test_tables_of_mixed_widths_and_a_source_of_strangers(
  tables, monkeypatch, run
):
  results = run_all([tables], GRID, NAMES, split='all')
  assert entities_of(results, 'z') == {f't{width}' for width in WIDTHS}
  means = results.table.groupby('method')['auroc'].mean()
  assert means['z'] > 0.8 and means['knn'] > 0.8
  strangers = [table(f's{width}', width) for width in (2, 40)]
  register(monkeypatch, 'strangers', strangers, tables=True)
  results = run_all([tables], source='strangers', names=['random'])
  assert entities_of(results) == {'s2', 's40'}
  assert 'one width' in refusal([run], source='strangers')
  results = run_all([tables, run], source='rows', names=['random'])
  assert entities_of(results, 'z (wide.npz)') == entities_of(results, 'random')


def test_networks_are_scored_beside_the_others(run):
  results = run_all([run], SMALL._replace(anomalies=(0, 2)), ['devnet', 'knn'])
  cells = results.table.groupby('method')['anomalies'].agg(set)
  assert dict(cells) == {'devnet': {2}, 'knn': {0, 2}, 'z': {0, 2}}


# --- which entities ----------------------------------------------------------


def test_sides_of_a_split(run, rows):
  sides = splitting.split(rows, fold='0', folds=5, seed=0)
  names = {side: {e.name for e in members} for side, members in sides.items()}
  names['all'] = {e.name for e in rows}
  for split in ('test', 'validation', 'all'):
    results = run_all([run], split=split)
    assert entities_of(results) == names[split]
    noted = 'trained or validated' in ' '.join(results.meta['notes'])
    assert noted == (split != 'test')


def test_folds_are_put_together(rows, tmp_path):
  paths = [
    write_run(tmp_path / f'{fold}.npz', 'rows', fold=fold, folds=2)
    for fold in '01'
  ]
  results = run_all(paths, names=['random'])
  for method in ('z', 'random'):
    tested = results.table['entity'][results.table['method'] == method]
    assert sorted(tested) == sorted(e.name for e in rows)


def test_two_recipes_of_one_name_are_never_one_method(rows, tmp_path):
  paths = [
    write_run(tmp_path / f'{fold}.npz', 'rows', fold=fold, folds=2, **more)
    for fold, more in (('0', {}), ('1', {'learner': 'z:sign=-1', 'seed': 1}))
  ]
  methods = {*run_all(paths, names=['random']).table['method']}
  assert methods == {'z (0.npz)', 'z (1.npz)', 'random'}


def test_a_method_has_one_name_on_two_sources(run, monkeypatch, tmp_path):
  register(monkeypatch, 'free', [entity(f'f{i}') for i in range(15)])
  other = write_run(tmp_path / 'other.npz', 'free', fold='0')
  table = run_all([run, other], names=['random']).table
  assert {*table['source']} == {'rows', 'free'}
  assert {*table['method']} == {'z', 'random'}


def test_a_run_of_another_source_is_scored_on_the_same_entities(
  run, monkeypatch, tmp_path
):
  register(monkeypatch, 'free', [entity(f'f{i}') for i in range(15)])
  guest = write_run(tmp_path / 'guest.npz', 'free', learner='z:sign=-1')
  results = run_all([guest, run], source='rows', names=['knn'])
  guests = entities_of(results, 'z (guest.npz)')
  assert guests == entities_of(results, 'z (run.npz)')
  assert guests == entities_of(results, 'knn')
  assert not results.table.duplicated(['entity', 'method']).any()
  results = run_all([run], source='rows+free')
  assert {*results.table['source']} == {'rows', 'free'}
  assert len(entities_of(results)) == 3 + 15


def test_a_learner_that_starts_from_a_run_stands_beside_it(run):
  table = run_all([run], fine_tune=['z:sign=-1', 'z:sign=1']).table
  values = {
    method: lines.set_index('entity')['auroc']
    for method, lines in table.groupby('method')
  }
  assert (values['z'] == values['z:sign=1']).all()
  np.testing.assert_allclose(values['z'] + values['z:sign=-1'], 1)


# --- what stops an evaluation ------------------------------------------------


def test_impossible_requests_are_refused_in_one_line(run, monkeypatch):
  assert 'ask for fewer' in refusal([run], Grid((500,), (0,)))
  assert 'twice' in refusal([run, f'{run}/'])
  assert 'no run' in refusal([])
  register(monkeypatch, 'broad', [entity(f'b{i}', 4) for i in range(3)])
  assert 'shape' in refusal([run], source='broad')
  assert 'no validation side' in refusal(
    [run], source='broad', split='validation'
  )


def test_evaluations_are_audited(run, rows, tmp_path, monkeypatch):
  tested = entities_of(run_all([run]))
  known = next(e for e in rows if e.name not in tested)
  alias = dataclasses.replace(known, name='alias')
  register(monkeypatch, 'again', [alias, entity('fresh')])
  message = refusal([run], source='again')
  assert '1 of 2' in message and 'alias' in message and 'fresh' not in message
  assert 'no entity' in refusal([run], Grid((2,), (0, 8), draws=1))
  dead = write_run(tmp_path / 'dead.npz', 'rows', scale=0.0)
  assert refusal([dead]).startswith('z: all')
  for one in rows:
    one.query[:8] = one.normal[:8]
  fresh = write_run(tmp_path / 'fresh.npz', 'rows')
  assert 'copies' in refusal([fresh])


# --- options chosen on validation tasks --------------------------------------


def test_no_test_entity_is_looked_at_in_tuning(run, rows):
  found = run_all([run], GRID, NAMES, tune=5)
  (where,) = found.meta['tuned_on']
  tested = entities_of(found)
  assert where['from'] == 'rows' and not tested & set(where['entities'])
  tuned = found.meta['tuning']
  assert {choice['tasks'] for choice in tuned} <= set(range(1, 6))
  assert len(tuned) == 8 * 2 + 4  # half of the 8 cells have labels
  for i, one in enumerate(rows):
    if one.name in tested:
      rows[i] = dataclasses.replace(one, query=one.query[::-1] * 3 + 1)
  again = run_all([run], GRID, NAMES, tune=5)
  assert again.meta['tuning'] == tuned
  assert not again.table.equals(found.table)


def test_one_choice_for_all_shots_and_labels(run, monkeypatch):
  given = []
  genuine = tuning.choose

  def choose(names, triples, labels, cells, **how):
    given.extend(zip(triples, cells, strict=True))
    return genuine(names, triples, labels, cells, **how)

  monkeypatch.setattr(tuning, 'choose', choose)
  grid = GRID._replace(contamination=(0.0,))
  found = run_all([run], grid, NAMES, tune=3, tune_together=True)
  assert len(given) == 2 * 3
  for (_, y, *_), (shots, anomalies, _) in given:
    assert shots == 0 and anomalies == y.sum()
  assert len({len(y) - y.sum() for (_, y, *_), _ in given}) == 2  # both shots
  assert len(found.meta['tuning']) == 4 * 2 + 2
  for name in NAMES:
    chosen = [c for c in found.meta['tuning'] if c['method'] == name]
    assert len({(c['options'], c['auroc']) for c in chosen}) == 1


def test_what_is_chosen_is_what_is_used(run, monkeypatch):
  plain = run_all([run], GRID, NAMES)
  assert 'tuning' not in plain.meta
  always = tuning.Choice({'scaling': 'compressed'}, 0.5, 0.5, 1)
  chosen = {cell: {'knn': always} for cell in GRID.cells() if cell[0] == 4}
  monkeypatch.setattr(tuning, 'choose', lambda *args, **how: chosen)
  used = []
  genuine = jobs.score_jobs

  def score_jobs(todo, triples, **how):
    shots = lambda job: (triples[job.task][1] == 0).sum()
    used.extend((job, shots(job)) for job in todo)
    return genuine(todo, triples, **how)

  monkeypatch.setattr(jobs, 'score_jobs', score_jobs)
  tuned = run_all([run], GRID, NAMES, tune=5)
  for job, shots in used:
    tuned_there = job.name == 'knn' and shots == 4
    assert job.options == (always.options if tuned_there else {})
  same = plain.table['method'] != 'knn'
  assert plain.table[same].equals(tuned.table[same])


def test_an_evaluation_that_was_cut_off_goes_on(run, monkeypatch, tmp_path):
  names, kept = ['knn', 'mahalanobis'], str(tmp_path / 'kept.sqlite')
  whole = run_all([run], GRID, names, tune=3)
  genuine, calls = baselines.score_one, []

  def score_one(members, *told):
    calls.append(len(members))
    if len(calls) == 40:
      raise KeyboardInterrupt
    return genuine(members, *told)

  monkeypatch.setattr(baselines, 'score_one', score_one)
  with pytest.raises(KeyboardInterrupt):
    run_all([run], GRID, names, tune=3, kept=kept)
  again = run_all([run], GRID, names, tune=3, kept=kept)
  assert again.table.equals(whole.table)
  assert again.meta['tuning'] == whole.meta['tuning']
  every = sum(calls) - calls[39]
  calls[:] = [0] * 40
  run_all([run], GRID._replace(seed=1), names, kept=kept)  # other draws
  assert 0 < sum(calls)
  calls[:] = [0] * 40
  run_all([run], GRID, names, tune=3)
  assert sum(calls) == every  # nothing was run twice
  (tmp_path / 'kept.sqlite').write_bytes(b'no database' * 100)
  with pytest.raises(DataError, match='remove it'):
    run_all([run], GRID, names, kept=kept)


def test_another_source_uses_its_own_training_side_or_the_runs(
  run, monkeypatch
):
  free = register(monkeypatch, 'free', [entity(f'f{i}') for i in range(6)])
  tune = lambda: run_all([run], names=['knn'], source='free', tune=3).meta[
    'tuned_on'
  ][0]
  assert tune()['from'] == 'rows'
  for i in range(3):
    free[i] = dataclasses.replace(free[i], side='train')
  assert tune() == {
    'source': 'free', 'from': 'free', 'entities': ['f0', 'f1', 'f2']
  }  # fmt: skip


def test_nothing_is_left_to_tune_on(run, rows):
  for split in ('all', 'validation'):
    message = refusal([run], names=['knn'], split=split, tune=3)
    assert 'leave out --tune_baselines' in message
  for i, one in enumerate(rows):
    rows[i] = dataclasses.replace(one, query=one.query + 1)
  message = refusal([run], names=['knn'], tune=3)
  assert 'is not the one that the run was' in message


def test_windows_are_scaled_by_the_support_alone_for_the_baselines(
  monkeypatch, tmp_path
):
  """Baselines of a run on raw windows get the usual features of its source."""
  windows = []
  for i in range(10):
    flat = entity(f'w{i}', 16)
    normal, query = (x.reshape(-1, 8, 2) for x in (flat.normal, flat.query))
    windows.append(dataclasses.replace(flat, normal=normal, query=query))
  register(monkeypatch, 'windows', windows)
  source = registry.REGISTRY['windows']
  usual = dataclasses.replace(source, features=('statistics',), rate=1.0)
  monkeypatch.setitem(registry.REGISTRY, 'windows', usual)
  run = write_run(
    tmp_path / 'raw.npz', 'windows', features='raw', model='conv1d'
  )
  seen = []
  genuine = tasks.standardize_cells

  def standardize(prior, cells, entities):
    seen.append((prior, entities[0].normal.shape))
    return genuine(prior, cells, entities)

  monkeypatch.setattr(tasks, 'standardize_cells', standardize)
  run_all([run], names=['knn'])
  ((prior, shape),) = seen
  assert prior is None and len(shape) == 2 and shape[1] != 16
