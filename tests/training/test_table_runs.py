"""Runs on tables of any width: what they hold, kept and found again."""

import dataclasses

from adapted import scorer
import fast
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaad_jax import learners, storage
from metaad_jax.base import DataError, Entity, MetaLearner, Source
from metaad_jax.data import episodes, registry
from metaad_jax.evaluation import sides
from metaad_jax.learners import objectives
from metaad_jax.training import exports, runs

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
  exports.export(folder, path)
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


# --- tasks -------------------------------------------------------------------


def test_tasks_hold_one_table_padded_with_zeros_and_its_missing_values():
  pools = episodes.pool(EVERYONE)
  sample = episodes.from_pools(pools, runs.resolve(CONFIG).episode)
  keys = jax.random.split(jax.random.key(0), 60)
  batch = jax.tree.map(np.asarray, fast.jit(jax.vmap(sample))(keys))
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
    (lambda a, m: m.update(layout=None), 'layout'),
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
  exports.export(narrow, path)
  run, same = runs.restore(narrow), runs.restore(path)
  jax.tree.map(np.testing.assert_array_equal, run.params, same.params)
  jax.tree.map(np.testing.assert_array_equal, run.prior, same.prior)
  assert 'ends in .npz' in refusal(exports.export, path, str(tmp_path / 'm'))
  refusal(exports.export, narrow, path, True)  # distances are for tables


def test_distances_are_put_beside_an_exported_run(folder, tmp_path):
  path = str(tmp_path / 'm.npz')
  exports.export(folder, path, distances=True)
  run, same = runs.restore(folder), runs.restore(path)
  assert same.setup.model == f'{run.setup.model},distances=True'
  jax.tree.map(np.testing.assert_array_equal, run.params, same.params)
  assert same.calibration is None  # it is another score
  with_all = run._replace(setup=run.setup.with_fold('none'))
  assert 'trained on all' in refusal(
    sides.tested, with_all, run.config.source, None, 'test'
  )
  assert 'not calibrated' in refusal(
    exports.export, folder, path, calibrated_by=folder
  )


# --- audits ------------------------------------------------------------------


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
