"""A budget of memory: kept, the same gradients, told where impossible."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from metaad_jax import devices, memory, models
from metaad_jax import learners as learners_lib
from metaad_jax.base import DataError, Rows, Task
from metaad_jax.scores import metrics
from metaad_jax.training import loop, planner, setup
from metaad_jax.training import validation as validation_lib

TASKS = 2


def draw(key):
  x = jax.random.normal(key, (12, 32, 1))
  y = (np.arange(12) % 2).astype(x.dtype)
  part = lambda rows: Rows(x[rows], y[rows], np.ones_like(y[rows]))
  return Task(part(slice(0, 4)), part(slice(4, 12)), np.ones(1, x.dtype))


def learner(options=''):
  model = models.make('conv1d:channels=4,layers=2')
  return learners_lib.make(f'maml:steps=8{options}', model)


@pytest.fixture(scope='module')
def stepped():
  """budget -> (plan, temporary bytes, plans, parameters after two steps)."""
  own, sgd = learner(), optax.sgd(0.1)
  cpu = jax.devices()[:1]
  double = lambda a: a.astype('f8') if a.dtype == 'f4' else a.copy()

  def step(budget):
    with jax.enable_x64(True):
      example = draw(jax.random.key(0))
      state = loop.initial_state(own, example, sgd, 0)
      state = jax.tree.map(double, state)
      settings = loop.Settings(2, TASKS, devices=cpu, memory=budget)
      make = planner.make_scan({'mode=mixed': learner(',mode=mixed')})
      scan, mesh = make(own, sgd, example, state.params, settings, 2)
      given = devices.replicate((state, jax.tree_util.Partial(draw)), mesh)
      scan.compile(*given)
      found = jax.tree.map(np.asarray, scan(*given)[0].params)
      return scan.chosen, scan.temporary, scan.plans, found

  return step


@pytest.fixture(scope='module')
def plain(stepped):
  return stepped(1 << 40)


@pytest.mark.slow
def test_smaller_budgets_take_less_and_give_the_same(stepped, plain):
  plan, most, plans, params = plain
  assert plan == plans[0] and plan.way == '' and len(plans) >= 3
  seen, before = [plan], most
  while True:
    try:
      plan, needed, _, found = stepped(before - 1)
    except DataError as error:
      told = str(error)
      break
    assert needed < before
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
      found,
      params,
    )
    seen.append(plan)
    before = needed
  assert len(seen) >= 3 and seen[-1].way == 'mode=mixed'
  assert [p.at_once for p in seen][-1] == 1 and '\n' not in told
  # What the message says is enough, is.
  assert f'takes {memory.told(before)}' in told
  assert stepped(memory.budget(memory.told(before)))[1] == before


def test_training_within_a_budget_that_is_wide_is_the_same_to_the_bit():
  own, adam = learner(), optax.adam(0.01)
  tasks = jax.vmap(draw)(jax.random.split(jax.random.key(1), 4))
  settings = loop.Settings(4, 2, report_every=2, validate_every=2)

  def train(**changes):
    return loop.train(
      own, jax.tree_util.Partial(draw), tasks, metrics.masked_auroc, adam,
      settings._replace(memory=changes.pop('memory', None)), quiet=True,
      **changes,
    )  # fmt: skip

  wide = train(memory=1 << 40, compiler=planner.make_scan({}))
  jax.tree.map(np.testing.assert_array_equal, wide.params, train().params)
  assert int(wide.step) == 4 and np.isfinite(float(wide.best_score))


def test_validation_keeps_to_its_room_and_gives_the_same():
  own, tasks = learner(), jax.vmap(draw)(jax.random.split(jax.random.key(1), 8))
  example = jax.tree.map(lambda leaf: leaf[0], tasks)
  params = own.init(jax.random.key(0), example)
  mesh = devices.mesh(8, jax.devices()[:1])
  loss = lambda score, y, mask: ((score - y) ** 2).mean()
  needed, values = [], []
  for room in (None, 1):
    check = validation_lib.make(own, loss, 0, mesh, room)
    compiled = check.lower(params, tasks).compile()
    needed.append(compiled.memory_analysis().temp_size_in_bytes)
    values.append(float(compiled(params, tasks)))
  assert needed[1] < needed[0] / 3
  assert values[1] == pytest.approx(values[0], rel=1e-5)


@pytest.mark.parametrize(
  ('learner', 'model', 'ways'),
  [
    ('maml', 'mlp', ['mode=mixed']), ('maml:mode=reverse', 'mlp', []),
    ('fomaml', 'mlp', []), ('protonet', 'mlp', []),
    ('protonet', 'residual', ['remat=True of the model']),
    ('maml', 'residual:remat=False', ['mode=mixed']),
    ('maml', 'residual', ['mode=mixed', 'mode=mixed, remat=True of the model']),
  ],
)  # fmt: skip
def test_what_was_left_open_may_be_computed_anew(learner, model, ways):
  config = setup.Config(learner=learner, model=model, memory='1GiB')
  assert list(setup.resolve(config).ways) == ways
  assert not setup.resolve(dataclasses.replace(config, memory='')).ways


def test_budgets_are_read_and_told():
  assert memory.budget('') is None
  for text, size in (('2GiB', 2 << 30), ('1.5MiB', 3 << 19), ('3KiB', 3072)):
    assert memory.budget(text) == size and memory.told(size) == text
  assert memory.told((1 << 20) + 1) == '1.1MiB'  # enough
  for text in ('2', '2GB', '-1GiB', '0MiB', 'GiB', 'nanMiB', '1e3MiB', '²GiB'):
    with pytest.raises(DataError, match='such as 2GiB') as refused:
      memory.budget(text)
    assert '\n' not in str(refused.value)
