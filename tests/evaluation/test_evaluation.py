"""The same rows for everybody, none of them known beforehand."""

import collections
import dataclasses
import itertools

from adapted import scorer
import jax.numpy as jnp
import numpy as np
import pytest

from metaad_jax import learners
from metaad_jax.base import DataError, Entity
from metaad_jax.data import episodes, registry
from metaad_jax.evaluation import baselines, evaluate
from metaad_jax.evaluation import old_results as results
from metaad_jax.evaluation.evaluate import Grid
from metaad_jax.learners import standardized
from metaad_jax.training import runs

FLEET = 'vibration:machines=12,test_machines=4,windows=12,queries=12,length=64'
TINY = {
  'source': FLEET, 'features': 'statistics', 'model': 'mlp:width=6,depth=1',
  'shots': (2, 4), 'anomalies': (0, 1), 'queries': 4, 'steps': 4, 'tasks': 2,
  'validation_tasks': 4, 'validate_every': 4,
}  # fmt: skip
GRID = Grid((1, 4), (0, 2), (0.0, 0.25), draws=2, queries=4)


def entity(name, normals=9, goods=6, bads=8):
  rows = np.random.default_rng(len(name)).normal(
    size=(normals + goods + bads, 2)
  )
  return Entity(
    name,
    rows[:normals].astype(np.float32),
    rows[normals:].astype(np.float32),
    np.repeat([0, 1], [goods, bads]).astype(np.int32),
  )


# --- the tasks ---------------------------------------------------------------


def by_draw(cells):
  found = collections.defaultdict(list)
  for cell in cells:
    found[cell.entity, cell.draw].append(cell)
  return found


def test_one_query_per_entity_and_draw_and_nested_supports():
  everyone = [entity('a'), entity('bb', 20, 50, 50)]
  grid = Grid((1, 4, 8), (0, 2), (0.0, 0.25), draws=3, queries=5)
  cells, notes = evaluate.draw_cells(everyone, grid)
  assert not notes and len(cells) == 2 * 3 * 3 * 2 * 2
  queries = set()
  for (number, _), group in by_draw(cells).items():
    labels = everyone[number].labels
    queries.add((number, group[0].query.tobytes()))
    good, bad = (group[0].query[labels[group[0].query] == k] for k in (0, 1))
    assert len(good) == 5 and len(bad) == min(5, labels.sum() - 4)
    for cell in group:
      np.testing.assert_array_equal(cell.query, group[0].query)
      dirty = int(np.ceil(cell.contamination * cell.shots))
      assert len(cell.normal) == cell.shots - dirty
      assert len(cell.contaminants) == dirty
      assert len(cell.anomalous) == cell.anomalies
      taken = np.concatenate([cell.contaminants, cell.anomalous])
      assert (labels[taken] == 1).all()
      assert not set(taken) & set(cell.query)
      assert len(set(taken)) == len(taken)
      assert len(set(cell.normal)) == len(cell.normal)
    for few, many in itertools.permutations(group, 2):
      if few.contamination == many.contamination:
        if few.shots <= many.shots:
          assert set(few.normal) <= set(many.normal)
          assert set(few.contaminants) <= set(many.contaminants)
        if few.anomalies <= many.anomalies:
          assert set(few.anomalous) <= set(many.anomalous)
  assert len(queries) == 6


def test_a_draw_depends_on_seed_and_name_alone():
  a, b = entity('a'), entity('b')
  draws = lambda everyone, **changes: {
    (everyone[c.entity].name, *c[1:5]): tuple(map(tuple, c[5:]))
    for c in evaluate.draw_cells(everyone, GRID._replace(**changes))[0]
  }
  both, alone, other = draws([a, b]), draws([b]), draws([b], seed=1)
  assert all(both[key] == alone[key] for key in alone)
  assert any(other[key] != alone[key] for key in alone)
  assert both[('a', 0, 4, 0, 0.0)] != both[('b', 0, 4, 0, 0.0)]
  more = draws([b], draws=3)
  assert all(more[key] == alone[key] for key in alone)


def test_entities_too_small_are_left_out_with_a_note():
  everyone = [
    entity('clean', bads=0),
    entity('sick', goods=0),
    entity('short', normals=3),
    entity('calm', bads=2),
  ]
  cells, notes = evaluate.draw_cells(everyone, Grid((2, 5), (0, 2), draws=2))
  kept = {(everyone[c.entity].name, c.shots, c.anomalies) for c in cells}
  assert kept == {
    ('short', 2, 0), ('short', 2, 2), ('calm', 2, 0), ('calm', 5, 0)
  }  # fmt: skip
  assert len(notes) == len(set(notes)) == 6
  for name in ('clean', 'sick', 'short', 'calm'):
    assert any(note.startswith(f'{name}:') for note in notes)
  assert all((everyone[c.entity].labels[c.query] == 1).any() for c in cells)


def test_shares_of_whole_rows_stay_whole():
  big = entity('big', 200, 10, 60)
  for share, shots in ((0.07, 100), (0.14, 50), (0.28, 25), (0.3, 10)):
    cells, _ = evaluate.draw_cells([big], Grid((shots,), (0,), (share,)))
    assert {len(c.contaminants) for c in cells} == {round(share * shots)}


@pytest.mark.parametrize(
  'change',
  [
    {'shots': ()}, {'shots': (0,)}, {'anomalies': (-1,)}, {'anomalies': ()},
    {'contamination': (0.6,)}, {'contamination': (float('nan'),)},
    {'draws': 0}, {'queries': 1}, {'seed': -1},
  ],
)  # fmt: skip
def test_grids_that_make_no_sense(change):
  with pytest.raises(DataError, match=next(iter(change))):
    evaluate.check_grid(Grid()._replace(**change))


def test_as_task_pads_and_labels():
  everyone = [entity('a')]
  cells, _ = evaluate.draw_cells(everyone, GRID)
  sizes = evaluate._sizes(cells)
  batch = evaluate.as_task(cells, everyone, sizes)
  for t, cell in enumerate(cells):
    real = batch.support.mask[t] > 0
    rows = np.concatenate(
      [
        everyone[0].normal[cell.normal],
        everyone[0].query[cell.contaminants],
        everyone[0].query[cell.anomalous],
      ]
    )
    np.testing.assert_array_equal(batch.support.x[t, real], rows)
    assert batch.support.y[t, real].sum() == cell.anomalies
    assert real.sum() == cell.shots + cell.anomalies
    assert not batch.support.y[t, : cell.shots].any()
    asked = batch.query.mask[t] > 0
    np.testing.assert_array_equal(
      batch.query.y[t, asked], everyone[0].labels[cell.query]
    )


def test_baselines_see_exactly_the_scaled_rows():
  everyone = [entity('a'), entity('bb')]
  prior = standardized.Prior(jnp.zeros(2), jnp.ones(2), jnp.array([0.5, 3.0]))
  cells, _ = evaluate.draw_cells(everyone, GRID)
  tasks = evaluate.standardize_cells(prior, cells, everyone)
  for cell, (support, y, query) in zip(cells, tasks, strict=True):
    rows, labels = evaluate.support_rows(cell, everyone[cell.entity])
    normal = rows[labels == 0].astype(float)
    n = len(normal)
    variance = (n * normal.var(0) + 5 * np.array([0.5, 3.0]) ** 2) / (n + 5)
    scale = lambda x: (x - normal.mean(0)) / (np.sqrt(variance) + 1e-6)  # noqa: B023
    np.testing.assert_allclose(support, scale(rows), rtol=1e-4, atol=1e-5)
    asked = everyone[cell.entity].query[cell.query]
    np.testing.assert_allclose(query, scale(asked), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(y, labels)


def test_no_learner_takes_the_name_of_a_baseline():
  assert not set(learners.REGISTRY) & set(baselines.REGISTRY)


# --- whole evaluations -------------------------------------------------------


@pytest.fixture
def rows_source(monkeypatch):
  """Registers a source of rows without sides, and returns its entities."""
  everyone = [entity(f'e{i}', 9 + i) for i in range(6)]

  def load(data_dir):
    del data_dir
    return everyone

  source = dataclasses.replace(
    registry.REGISTRY['vibration'], name='rows', load=load, channels=(),
    features=('identity',), rate=None,
  )  # fmt: skip
  monkeypatch.setitem(registry.REGISTRY, 'rows', source)
  return everyone


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """Three runs: two learners on fold 0 of a fleet, and one of them again."""
  root = tmp_path_factory.mktemp('runs')
  made = {}
  for name, learner in (
    ('x/proto', 'protonet:embedding=3'),
    ('y/proto', 'protonet:embedding=2'),
    ('maml', 'maml:steps=1'),
  ):
    made[name] = str(root / name)
    config = runs.Config(learner=learner, **TINY)
    runs.train(config, run_dir=made[name], quiet=True)
  return made


@pytest.fixture(scope='module')
def found(folders):
  return evaluate.evaluate(
    [folders['x/proto'], folders['maml']], GRID, workers=1, quiet=True,
    baseline_names=['distance_to_mean', 'logistic_regression'],
  )  # fmt: skip


def test_everybody_is_scored_on_the_same_cells(found):
  cells = collections.defaultdict(set)
  for row in results.validate(found)['rows']:
    key = (
      row['entity'], row['draw'], row['shots'], row['anomalies'],
      row['contamination'], row['queries'], row['query_anomalies'],
    )  # fmt: skip
    assert key not in cells[row['learner']]
    cells[row['learner']].add(key)
  everything = cells['protonet']
  assert len(everything) == 4 * 2 * 2 * 2 * 2
  assert cells['maml'] == cells['distance_to_mean'] == everything
  labelled = {key for key in everything if key[3]}
  assert cells['logistic_regression'] == labelled
  assert {key[0] for key in everything} == {
    f'machine-{i}' for i in range(12, 16)
  }


def test_scores_are_those_of_a_loop_over_adapt(folders):
  run = runs.restore(folders['maml'])
  raw = [e for e in registry.load(FLEET) if e.side == 'test'][:2]
  cells, _ = evaluate.draw_cells(raw, GRID)
  apply = run.setup.feature.apply
  done = episodes.featurize(raw, apply)
  batched = evaluate.score_cells(
    run.learner, run.params, cells, done, quiet=True
  )
  for cell, scores in list(zip(cells, batched, strict=True))[::7]:
    rows, labels = evaluate.support_rows(cell, raw[cell.entity])
    score = scorer(run, rows, labels)
    expected = score(raw[cell.entity].query[cell.query])
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


def test_runs_of_one_learner_in_folders_of_one_name_stay_apart(folders):
  paths = [folders['x/proto'], folders['y/proto']]
  found = evaluate.evaluate(
    paths, Grid((2,), (0,), draws=1), baseline_names=[], quiet=True
  )
  names = {row['learner'] for row in found['rows']}
  assert (
    names == {f'protonet ({path})' for path in paths} == set(found['curves'])
  )
  assert len(found['rows']) == 2 * 4


def test_split_all_and_a_fleet_never_seen(folders, rows_source):
  grid = Grid((2,), (0,), draws=1)
  evaluate = lambda **options: evaluate.evaluate(
    [folders['maml']], grid, baseline_names=[], quiet=True, **options
  )
  entities = lambda found: {row['entity'] for row in found['rows']}
  assert len(entities(evaluate(split='all'))) == 16
  other = FLEET.replace('length', 'seed=5,length')
  foreign = evaluate(source=other)
  assert len(entities(foreign)) == 4
  assert {row['source'] for row in foreign['rows']} == {other}
  with pytest.raises(DataError, match='needs windows'):
    evaluate(source='rows')


def test_what_cannot_be_evaluated_is_said_in_one_line(folders):
  evaluate = lambda paths, grid: evaluate.evaluate(
    paths, grid, baseline_names=[], quiet=True
  )
  maml = folders['maml']
  with pytest.raises(DataError, match='ask for fewer'):
    evaluate([maml], Grid((500,), (0,)))
  with pytest.raises(DataError, match='twice'):
    evaluate([maml, maml + '/'], Grid())
  with pytest.raises(DataError, match='no run'):
    evaluate([], Grid())


def test_folds_are_put_together(tmp_path, rows_source):
  """Each fold's run is evaluated on the entities it has not seen."""
  everyone = rows_source
  config = runs.Config(
    **TINY | {'source': 'rows', 'features': ''}, learner='protonet', folds=2
  )
  folds = runs.fold_names(config, None)
  assert folds == ['0', '1']
  for fold in folds:
    changed = dataclasses.replace(config, fold=fold)
    runs.train(changed, run_dir=str(tmp_path / fold), quiet=True)
  found = evaluate.evaluate(
    [str(tmp_path / fold) for fold in folds], Grid((2,), (0,), draws=1),
    baseline_names=['random'], workers=1, quiet=True,
  )  # fmt: skip
  for name in ('protonet', 'random'):
    tested = [r['entity'] for r in found['rows'] if r['learner'] == name]
    assert sorted(tested) == sorted(e.name for e in everyone)
  counts = {line['entities'] for line in found['summary']}
  assert counts == {6}
  results.validate(found)
