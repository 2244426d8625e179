"""Tables of any width: trained on, kept, adapted to, and evaluated."""

import dataclasses
import json
import logging

from adapted import scorer
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaad_jax import learners, storage
from metaad_jax.base import DataError, Entity, MetaLearner, Source
from metaad_jax.data import audits, episodes, registry, splitting
from metaad_jax.evaluation import evaluate
from metaad_jax.evaluation import old_results as results
from metaad_jax.evaluation.evaluate import Grid
from metaad_jax.learners import objectives
from metaad_jax.training import runs

WIDTHS = (1, 3, 5, 9, 2, 17, 4, 6, 30, 8, 11, 7)


def mean_z(model, *, loss=objectives.balanced_bce):
  """A learner of any width: mean |z| over the columns, one learned scale."""
  del model

  def init(key, task):
    del key, task
    return {'scale': jnp.ones(()), 'bias': jnp.zeros(())}

  def adapt(key, params, support, features):
    del key
    held = ~jnp.isnan(support.x) * (support.mask * (1 - support.y))[:, None]
    x = jnp.where(held > 0, support.x, 0)
    count = jnp.maximum(held.sum(0), 1)
    mean = x.sum(0) / count
    variance = (held * (x - mean) ** 2).sum(0) / count
    return params, features, mean, jnp.sqrt(variance + 1e-3)

  def score(adapted, x):
    params, features, mean, deviation = adapted
    z = jnp.nan_to_num(jnp.abs(x - mean) / deviation)
    z = jnp.minimum(z, 100) * features
    return params['scale'] * z.sum(-1) / features.sum() + params['bias']

  def meta_grad(key, params, task):
    def query_loss(params):
      adapted = adapt(key, params, task.support, task.features)
      outputs = score(adapted, task.query.x)[:, None]
      return loss(outputs, task.query.y, task.query.mask)

    value, grads = jax.value_and_grad(query_loss)(params)
    return grads, {'loss': value}

  return MetaLearner(init, adapt, score, meta_grad)


def table(name, width, normals=20, goods=12, bads=10, seed=0, **fields):
  """Anomalies are off by 3 in every column; every tenth value is missing."""
  rng = np.random.default_rng([seed, width])
  rows = rng.normal(5, 2, (normals + goods + bads, width))
  rows[normals + goods :] += 6
  rows[rng.random(rows.shape) < 0.1] = np.nan
  rows = rows.astype(np.float32)
  return Entity(
    name,
    rows[:normals],
    rows[normals:],
    np.repeat([0, 1], [goods, bads]).astype(np.int32),
    columns=tuple(f'c{i}' for i in range(width)),
    **fields,
  )


EVERYONE = [table(f't{width}', width) for width in WIDTHS]
CONFIG = runs.Config(
  source='patients', learner='tables', model='tables:width=2', shots=(5, 10),
  anomalies=(0, 2), queries=6, steps=4, tasks=3, validation_tasks=4,
  validate_every=2,
)  # fmt: skip
GRID = Grid((5, 10), (0, 2), draws=2, queries=8)


def register(name, everyone, tables=True):
  """A source that has these entities."""
  registry.REGISTRY[name] = Source(
    name, '', lambda data_dir: everyone, ('identity',), 'none', 'none', 'none',
    tables=tables,
  )  # fmt: skip


@pytest.fixture(scope='module', autouse=True)
def registered():
  """A source of tables, one of rows, and a learner of any width."""
  patch = pytest.MonkeyPatch()
  patch.setitem(learners.REGISTRY, 'tables', mean_z)
  rows = [
    dataclasses.replace(
      table(f'r{i}', 5, seed=i), columns=(), query=np.nan_to_num(t.query),
      normal=np.nan_to_num(t.normal),
    )
    for i in range(8)
    for t in [table(f'r{i}', 5, seed=i)]
  ]  # fmt: skip
  before = dict(registry.REGISTRY)
  register('patients', EVERYONE)
  register('strangers', [table(f's{w}', w, seed=9) for w in (2, 40)])
  register('pumps', rows, tables=False)
  yield
  patch.undo()
  registry.REGISTRY.clear()
  registry.REGISTRY.update(before)


@pytest.fixture(scope='module')
def folder(registered, tmp_path_factory):
  path = str(tmp_path_factory.mktemp('runs') / 'wide')
  runs.train(CONFIG, run_dir=path, quiet=True)
  return path


@pytest.fixture(scope='module')
def file(folder, tmp_path_factory):
  path = str(tmp_path_factory.mktemp('files') / 'model.npz')
  runs.export(folder, path)
  return path


@pytest.fixture(scope='module')
def narrow(registered, tmp_path_factory):
  """A run of a learner that needs one width."""
  path = str(tmp_path_factory.mktemp('runs') / 'narrow')
  config = dataclasses.replace(
    CONFIG, source='pumps', learner='protonet:embedding=2',
    model='mlp:width=3,depth=1', steps=1, tasks=1, validation_tasks=1,
  )  # fmt: skip
  runs.train(config, run_dir=path, quiet=True)
  return path


def refusal(call, *args, **options):
  with pytest.raises(DataError) as refused:
    call(*args, **options)
  assert '\n' not in str(refused.value)
  return str(refused.value)


def compilations(caplog, call):
  caplog.clear()
  with jax.log_compiles(), caplog.at_level(logging.WARNING):
    call()
  return sum('Compiling' in r.getMessage() for r in caplog.records)


# --- tasks -------------------------------------------------------------------


def test_tasks_hold_one_table_padded_with_zeros_and_its_missing_values():
  pools = episodes.pool(EVERYONE)
  sample = episodes.from_pools(pools, runs.resolve(CONFIG).episode)
  keys = jax.random.split(jax.random.key(0), 60)
  batch = jax.tree.map(np.asarray, jax.jit(jax.vmap(sample))(keys))
  rows = {
    row.tobytes(): e.normal.shape[1]
    for e in EVERYONE
    for row in np.concatenate([e.normal, e.query])
  }
  seen, missing = set(), 0
  for t in range(60):
    width = int(batch.features[t].sum())
    assert (batch.features[t] == (np.arange(30) < width)).all()
    for part in (batch.support, batch.query):
      real = part.x[t][part.mask[t] > 0]
      assert (real[:, width:] == 0).all()
      assert all(rows[r.tobytes()] == width for r in real[:, :width].copy())
      missing += np.isnan(real).sum()
    seen.add(width)
  assert len(seen) > 6 and missing


# --- what may be asked for ---------------------------------------------------


@pytest.mark.parametrize(
  ('change', 'told'),
  [
    ({'model': 'mlp'}, '--model=tables'),
    ({'learner': 'relation'}, 'any width'),
    ({'learner': 'scratch'}, 'any width'),
    ({'features': 'statistics'}, 'as they are'),
    ({'context': True}, 'context'),
  ],
)
def test_what_tables_cannot_do(change, told, tmp_path):
  config = dataclasses.replace(CONFIG, **change)
  path = tmp_path / 'run'
  assert told in refusal(runs.train, config, run_dir=str(path))
  assert not path.exists()


# --- kept, and found again ---------------------------------------------------


def test_a_run_on_tables_is_restored_at_any_width(folder):
  run = runs.restore(folder)
  assert run.layout.shape == () and run.prior is None
  assert run.step > 0 and run.params['scale'] != 1
  for width in (1, 2, 31):
    t = table('new', width, seed=3)
    scores = scorer(run, t.normal[:8], np.zeros(8))(t.query)
    assert scores[t.labels == 1].mean() > scores[t.labels == 0].mean()


def test_a_model_file_is_the_run(folder, file, monkeypatch):
  run, same = runs.restore(folder), runs.restore(file)
  assert run.config == same.config and run.layout == same.layout
  assert run.step == same.step and run.name == same.name
  jax.tree.map(np.testing.assert_array_equal, run.params, same.params)
  monkeypatch.setattr(runs, '_SHIPPED', file)
  assert runs.restore('shipped').config == run.config
  monkeypatch.setattr(runs, '_SHIPPED', file + '.npz')
  assert 'not there' in refusal(runs.restore, 'shipped')


@pytest.mark.parametrize(
  ('change', 'told'),
  [
    (lambda a, m: a.pop('params/bias'), 'params/bias'),
    (lambda a, m: a.update({'params/x': np.zeros(1, 'f4')}), 'params/x'),
    (lambda a, m: a.update({'params/bias': np.zeros(3, 'f4')}), 'params/bias'),
    (lambda a, m: a.update({'params/bias': np.zeros(())}), 'params/bias'),
    (lambda a, m: m.pop('config'), 'config'),
    (lambda a, m: m['config'].update(learner='magic'), 'magic'),
    (lambda a, m: m['config'].update(model='mlp'), 'one width'),
    (lambda a, m: m['config'].update(colour='red'), 'colour'),
    (lambda a, m: m.update(layout=None), 'another version'),
    (lambda a, m: m.update(step='last'), 'last'),
  ],
)
def test_a_model_file_that_does_not_fit(change, told, file, tmp_path):
  arrays, meta = storage.load(file)
  meta['config']['source'] = 'pumps'
  change(arrays, meta)
  path = str(tmp_path / 'changed.npz')
  storage.save(path, arrays, meta)
  message = refusal(runs.restore, path)
  assert path in message and told in message


def test_any_run_can_be_exported(narrow, tmp_path):
  path = str(tmp_path / 'm.npz')
  runs.export(narrow, path)
  run, same = runs.restore(narrow), runs.restore(path)
  jax.tree.map(np.testing.assert_array_equal, run.params, same.params)
  jax.tree.map(np.testing.assert_array_equal, run.prior, same.prior)
  assert 'ends in .npz' in refusal(runs.export, path, str(tmp_path / 'm'))


# --- adapting ----------------------------------------------------------------


def test_other_widths_and_lengths_compile_nothing_new(file, caplog):
  run = runs.restore(file)

  def use(width, support, queries):
    rng = np.random.default_rng(width)
    rows = rng.normal(size=(support + queries, width)).astype(np.float32)
    score = scorer(run, rows[:support], np.zeros(support))
    assert len(score(rows[support:])) == queries

  assert compilations(caplog, lambda: use(8, 8, 3)) > 0
  assert compilations(caplog, lambda: use(8, 8, 70)) > 0  # a long query
  assert compilations(caplog, lambda: use(8, 8, 2000)) > 0  # a longer one
  for width, support, queries in ((5, 5, 1), (7, 6, 64), (6, 8, 3000)):
    assert compilations(caplog, lambda: use(width, support, queries)) == 0  # noqa: B023
  assert compilations(caplog, lambda: use(9, 8, 3)) > 0


def test_a_learner_of_any_width_on_windows(tmp_path):
  config = dataclasses.replace(
    CONFIG, features='statistics', steps=1, validation_tasks=1,
    source='vibration:machines=12,test_machines=4,windows=12,queries=12,length=64',
  )  # fmt: skip
  runs.train(config, run_dir=str(tmp_path / 'run'), quiet=True)
  run = runs.restore(str(tmp_path / 'run'))
  assert run.layout.shape == (64, 1) and run.prior is None
  windows = np.random.default_rng(0).normal(size=(80, 64, 1))
  scores = scorer(run, windows[:6], np.zeros(6))(windows[6:])
  assert scores.shape == (74,) and np.isfinite(scores).all()
  found = evaluate.evaluate(
    [str(tmp_path / 'run')], GRID, source='strangers', split='all',
    baseline_names=[], quiet=True,
  )  # fmt: skip
  assert {row['entity'] for row in found['rows']} == {'s2', 's40'}


# --- evaluating --------------------------------------------------------------


def test_scores_of_mixed_widths_are_those_of_a_loop_over_adapt(file, caplog):
  run = runs.restore(file)
  cells, _ = evaluate.draw_cells(EVERYONE, GRID)
  found = evaluate.score_cells(
    run.learner, run.params, cells, EVERYONE, any_width=True, quiet=True
  )
  for cell, scores in list(zip(cells, found, strict=True))[::5]:
    own = EVERYONE[cell.entity]
    score = scorer(run, *evaluate.support_rows(cell, own))
    np.testing.assert_allclose(scores, score(own.query[cell.query]), rtol=1e-4)


def test_a_small_table_is_not_padded_to_the_widest():
  cells, _ = evaluate.draw_cells(EVERYONE, GRID)
  groups = evaluate._alike(cells, EVERYONE, True)
  everything = sorted(i for members in groups.values() for i in members)
  assert everything == list(range(len(cells)))
  for (support, query, width), members in groups.items():
    for i in members:
      real = EVERYONE[cells[i].entity].normal.shape[1]
      rows = cells[i].shots + cells[i].anomalies
      assert real <= width <= max(8, 4 * real - 1)
      assert rows <= support <= max(8, 4 * rows - 1)
      assert len(cells[i].query) <= query
  assert len(groups) == 2 * 2  # widths 8, 32; supports 8, 32


def test_baselines_see_real_columns_scaled_by_the_normals_alone():
  t = table('t', 4, seed=5)
  t.normal[:, 1], t.query[:, 1] = 7, np.arange(22)  # constant in the support
  t.normal[:, 2] = np.nan  # never seen in it
  cells, _ = evaluate.draw_cells([t, table('wide', 30)], GRID)
  cells = [cell for cell in cells if cell.entity == 0]
  for cell, (support, y, query) in zip(
    cells, evaluate.scale_tables(cells, [t]), strict=True
  ):
    raw, labels = evaluate.support_rows(cell, t)
    asked = t.query[cell.query]
    np.testing.assert_array_equal(y, labels)
    assert support.shape == raw.shape and query.shape == asked.shape
    assert np.isfinite(support).all() and np.isfinite(query).all()
    normal = raw[labels == 0, 0].astype(float)
    middle = np.nanmedian(normal)
    fill = lambda v: np.where(np.isnan(v), middle, v)  # noqa: B023
    mean, deviation = fill(normal).mean(), fill(normal).std()
    expected = (fill(asked[:, 0]) - mean) / deviation
    np.testing.assert_allclose(query[:, 0], expected, rtol=1e-4, atol=1e-5)
    assert (support[labels == 0, 1:3] == 0).all()
    assert np.ptp(query[:, 1]) > 0  # what never varied still counts


@pytest.fixture(scope='module')
def found(file):
  return evaluate.evaluate(
    [file], GRID, split='all', workers=1, quiet=True,
    baseline_names=['distance_to_mean', 'logistic_regression', 'knn'],
  )  # fmt: skip


def test_tables_of_mixed_widths_are_evaluated(found):
  rows = results.validate(json.loads(json.dumps(found)))['rows']
  names = {row['learner'] for row in rows}
  assert names == {'tables', 'distance_to_mean', 'logistic_regression', 'knn'}
  assert {row['entity'] for row in rows} == {e.name for e in EVERYONE}
  own = [row['auroc'] for row in rows if row['learner'] == 'tables']
  assert len(own) == len(EVERYONE) * 2 * 2 * 2 and np.mean(own) > 0.8
  assert found['example']['features']['names'][0] == 'c0'


def test_test_is_the_side_that_the_run_has_not_seen(folder, file):
  sides = splitting.split(EVERYONE, fold='0', folds=CONFIG.folds, seed=0)
  for path in (folder, file):
    found = evaluate.evaluate(
      [path], Grid((5,), (0,), draws=1), baseline_names=[], quiet=True
    )
    tested = {row['entity'] for row in found['rows']}
    assert tested == {e.name for e in sides['test']}


def test_a_stranger_and_a_run_of_one_width(file, narrow):
  evaluate = lambda paths, **options: evaluate.evaluate(
    paths, Grid((5,), (0,), draws=1), quiet=True, workers=1, **options
  )
  found = evaluate([file], source='strangers', baseline_names=['random'])
  assert {row['entity'] for row in found['rows']} == {'s2', 's40'}
  told = refusal(evaluate, [narrow], source='strangers', baseline_names=[])
  assert narrow in told and 'one width' in told
  both = evaluate([file, narrow], source='pumps', baseline_names=['random'])
  names = {row['learner'] for row in both['rows']}
  assert names == {'tables', 'protonet', 'random'}


# --- audits ------------------------------------------------------------------


def test_who_was_trained_on_stops_a_test_and_is_noted_among_all(file):
  run = runs.restore(file)
  sides = splitting.split(EVERYONE, fold='0', folds=CONFIG.folds, seed=0)
  own = sides['train'] + sides['validation']
  assert run.seen == {audits.digest(e) for e in own}
  alias = dataclasses.replace(own[0], name='alias')
  known = [alias, table('fresh', 3, seed=8)]
  register('again', known)
  evaluate = lambda split: evaluate.evaluate(
    [file], Grid((5,), (0,), draws=1), source='again', split=split,
    baseline_names=[], quiet=True,
  )  # fmt: skip
  told = refusal(evaluate, 'test')
  assert '1 of 2' in told and 'alias' in told and 'fresh' not in told
  assert any('on 1 of the 2' in note for note in evaluate('all')['notes'])


def test_evaluation_is_audited(file, tmp_path):
  evaluate = lambda path, everyone, anomalies=1: (
    register('audited', everyone),
    evaluate.evaluate(
      [path], Grid((5,), (0, anomalies), draws=1), source='audited',
      baseline_names=[], quiet=True,
    ),
  )  # fmt: skip
  clean = table('clean', 4, seed=8)
  evaluate(file, [clean], 9)
  assert 'clean has most with 10' in refusal(evaluate, file, [clean], 10)
  leaky = table('leaky', 4, seed=7)
  leaky.query[:12] = leaky.normal[:12]
  assert refusal(evaluate, file, [clean, leaky]).startswith('leaky: 12 of')
  arrays, meta = storage.load(file)
  arrays['params/scale'][...] = 0
  dead = str(tmp_path / 'dead.npz')
  storage.save(dead, arrays, meta)
  assert refusal(evaluate, dead, [clean]).startswith('tables: all 1 tasks')


@pytest.mark.parametrize(
  ('change', 'everyone', 'told'),
  [
    ({}, [*EVERYONE, *(table(f'twin{w}', w) for w in WIDTHS)], 'same rows'),
    ({'anomalies': (0, 10)}, EVERYONE, 'no entity of train has so many'),
    (
      {},
      [dataclasses.replace(e, query=np.where(
        e.labels[:, None] == 1, e.query, e.normal[:1])) for e in EVERYONE],
      'copies',
    ),
  ],
  ids=['twins', 'anomalies', 'copies'],
)  # fmt: skip
def test_training_is_audited(change, everyone, told, tmp_path):
  register('audited', everyone)
  config = dataclasses.replace(CONFIG, source='audited', **change)
  path = tmp_path / 'run'
  assert told in refusal(runs.train, config, run_dir=str(path), quiet=True)
  assert not path.exists()
