"""A configuration resolved: what is refused, what is chosen, and once."""

import dataclasses

import fast
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaad_jax import specs
from metaad_jax.base import DataError
from metaad_jax.data import registry
from metaad_jax.evaluation import evaluate, tasks
from metaad_jax.learners import inner_loop, standardized
from metaad_jax.training import runs
from metaad_jax.training.setup import Config, Layout, resolve

FLEET = 'vibration:machines=12,test_machines=4,windows=12,queries=12,length=64'
CONFIG = Config(
  source=FLEET, features='statistics', learner='protonet:embedding=3',
  model='mlp:width=6,depth=1', shots=(2, 4), anomalies=(0, 1), queries=4,
  steps=6, tasks=2, validation_tasks=4, validate_every=3,
)  # fmt: skip


@pytest.mark.parametrize(
  'change',
  [
    {'shots': ()}, {'shots': (0,)}, {'anomalies': (-1,)}, {'anomalies': ()},
    {'contamination': (0.7,)}, {'contamination': ()}, {'queries': 0},
    {'steps': 0}, {'tasks': 0}, {'validation_tasks': 0}, {'validate_every': 0},
    {'folds': 1}, {'clip': 0.0}, {'clip': float('nan')}, {'schedule': 'wave'},
    {'seed': -1}, {'seed': 2**64}, {'average': 1.0}, {'average': -0.1},
    {'keep': 'all'}, {'precision': 'half'}, {'memory': '2GB'},
    {'source': 'mars'}, {'source': 'cwru:x=1'},
    {'source': 'vibration:length=a'}, {'features': 'smell'},
    {'features': 'logspec:bins=x'}, {'features': 'statistics+'},
    {'learner': 'magic'}, {'learner': 'maml:steps=0'}, {'model': 'resnet'},
    {'model': 'mlp:width=0'}, {'model': 'tables', 'context': True},
    {'source': 'cwru', 'stream': True}, {'source': 'oddbench', 'model': 'mlp'},
    {'source': 'oddbench', 'model': '', 'features': 'raw'},
    {'outer': 'adam:rate=x'}, {'outer': 'adam:x=1'},
    {'outer': 'adam:rate=-0.1'}, {'outer': 'lbfgs'}, {'outer': 'chain'},
    {'outer': ''}, {'outer': '__name__'}, {'outer': 'adam:weight_decay=0.5'},
  ],
  ids=str,
)  # fmt: skip
def test_impossible_values_are_refused_before_anything_is_read(change):
  with pytest.raises(DataError) as refused:
    resolve(dataclasses.replace(CONFIG, **change))
  assert '\n' not in str(refused.value)


@pytest.mark.parametrize('name', ['sgd', 'adamw', 'rmsprop', 'lion', 'yogi'])
def test_known_optimizers_pass(name):
  resolve(dataclasses.replace(CONFIG, outer=f'{name}:rate=0.01'))
  inner_loop.optimizer(name, 0.0)


@pytest.mark.parametrize(
  ('change', 'model', 'any_width'),
  [
    ({}, 'mlp', False),
    ({'features': 'raw'}, 'conv1d', False),
    ({'source': 'oddbench', 'features': ''}, 'tables', True),
    ({'learner': 'tables'}, 'tables', True),
    ({'learner': 'tables_reptile'}, 'tables', True),
    ({'model': 'residual:blocks=1'}, 'residual:blocks=1', False),
  ],
)
def test_the_model_where_none_is_chosen(change, model, any_width):
  setup = resolve(dataclasses.replace(CONFIG, **{'model': ''} | change))
  assert (setup.model, setup.any_width) == (model, any_width)


def test_what_has_no_meta_parameters_takes_one_step():
  config = resolve(dataclasses.replace(CONFIG, learner='scratch')).config
  assert (config.steps, config.tasks, config.validation_tasks) == (1, 1, 1)


def test_rows_are_what_the_layout_and_the_features_say():
  layout = Layout((64, 1), 100.0, ('vibration',))
  setup = resolve(CONFIG).at(layout)
  names = len(setup.feature.names)
  assert setup.columns == (names,) and names > 3
  assert setup.example().support.x.shape == (1, names)
  assert setup.feature_of(layout) is setup.feature  # compiled once
  raw = setup.feature_of(layout, 'raw')
  assert raw.apply(jnp.zeros((64, 1))).shape == (64, 1)

  tables = dataclasses.replace(CONFIG, learner='tables', model='')
  setup = resolve(tables)
  assert setup.at(layout).columns != ()  # features of windows, any number
  assert setup.at(Layout()).columns == ()
  row = jnp.ones(3)
  assert setup.at(Layout()).feature.apply(row) is row
  with pytest.raises(DataError, match='one width'):
    resolve(CONFIG).at(Layout())


def test_the_learner_scales_by_the_prior_and_knows_the_context():
  layout = Layout((3,), None, ())
  config = dataclasses.replace(CONFIG, features='identity')
  prior = standardized.Prior(*(jnp.full(3, v) for v in (1.0, 2.0, 3.0)))
  for context, columns in ((False, 3), (True, 6)):
    setup = resolve(dataclasses.replace(config, context=context))
    setup = setup.at(layout, prior)
    params = fast.jit(setup.learner.init)(jax.random.key(0), setup.example())
    np.testing.assert_array_equal(params['prior'], prior)
    kernel = jax.tree.leaves(params['learner']['network']['params']['Dense_0'])
    assert (columns, 6) in [leaf.shape for leaf in kernel]


def updates(config, gradient, steps=1):
  """What the outer optimizer makes of a constant gradient, step by step."""
  optimizer = resolve(config).optimizer
  params = {'w': jnp.array([2.0, -4.0])}
  state, found = optimizer.init(params), []
  for _ in range(steps):
    update, state = optimizer.update({'w': jnp.array(gradient)}, state, params)
    found.append(np.asarray(update['w']))
  return np.array(found)


def test_the_outer_optimizer_by_hand():
  sgd = dataclasses.replace(CONFIG, outer='sgd:rate=0.1', clip=5.0)
  np.testing.assert_allclose(updates(sgd, [3.0, -4.0]), [[-0.3, 0.4]])
  clipped = updates(sgd, [30.0, -40.0])  # norm 50, clipped to 5
  np.testing.assert_allclose(clipped, [[-0.3, 0.4]], rtol=1e-6)
  cosine = dataclasses.replace(sgd, schedule='cosine', steps=4)
  shares = (1 + np.cos(np.pi * np.arange(4) / 4)) / 2
  np.testing.assert_allclose(
    updates(cosine, [3.0, 0.0], 4)[:, 0], -0.3 * shares, rtol=1e-5
  )
  decay = dataclasses.replace(CONFIG, outer='adamw:rate=0.1,weight_decay=0.5')
  np.testing.assert_allclose(
    updates(decay, [0.0, 0.0]), [[-0.1, 0.2]], rtol=1e-6
  )


def counting(texts, module, name):
  call = getattr(module, name)
  return lambda text: texts.append(text) or call(text)


@pytest.fixture
def count(monkeypatch):
  """How often specs were parsed and sources looked up since the last call."""
  calls = {'parse': [], 'get': []}
  for module, name in ((specs, 'parse'), (registry, 'get')):
    monkeypatch.setattr(module, name, counting(calls[name], module, name))

  def since():
    seen = {name: sorted(texts) for name, texts in calls.items()}
    for texts in calls.values():
      texts.clear()
    return seen

  return since


def test_every_spec_of_a_run_is_read_once(count, tmp_path):
  """Of the source, the features, the learner, the model, the optimizer."""
  config = dataclasses.replace(CONFIG, steps=1, validate_every=1)
  once = {
    'parse': sorted(
      [config.source, config.features, config.learner, config.model]
      + [config.outer]
    ),
    'get': [config.source],
  }
  runs.train(config, run_dir=str(tmp_path), quiet=True)
  assert count() == once
  run = runs.restore(str(tmp_path))
  assert count() == once
  run.setup.feature_of(run.layout)
  assert run.setup.columns and resolve(run.setup) is run.setup
  assert count() == {'parse': [], 'get': []}
  grid = tasks.Grid((2,), (0,), draws=1, queries=4)
  plan = evaluate.Plan(grid, baselines=['distance_to_mean'], quiet=True)
  evaluate.evaluate([str(tmp_path)], plan)
  assert count() == once
