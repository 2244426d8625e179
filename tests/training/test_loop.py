"""The loop: resumed runs, skipped updates, one compilation, no leaks."""

import json
import logging
import pathlib
import signal

import jax
import jax.numpy as jnp
from kills import Killed, kill_at
import numpy as np
import optax
import pytest

from metaad_jax import devices
from metaad_jax.base import (
  DataError,
  MetaLearner,
  Rows,
  Task,
  Terminated,
)
from metaad_jax.scores import metrics
from metaad_jax.training import loop
from metaad_jax.training import validation as validation_lib
from metaad_jax.training.checkpoints import Checkpoints

SETTINGS = loop.Settings(
  25, 3, seed=7, report_every=5, validate_every=10, checkpoint_every=15
)


def prototype(bad_step=None):
  """Distance to the mean normal under learnt column weights; loss: logistic.

  With `bad_step` the gradient is NaN once its key is that step's.
  """

  def init(key, task):
    return {
      'w': jax.random.uniform(key, task.features.shape),
      'b': jnp.ones(()),
    }

  def adapt(key, params, support, features):
    del key, features
    weight = support.mask * (1 - support.y)
    return params, weight @ support.x / jnp.maximum(weight.sum(), 1)

  def score(adapted, x):
    params, mean = adapted
    return (x - mean) ** 2 @ params['w'] - params['b']

  def meta_grad(key, params, task):
    del key

    def loss(params):
      adapted = adapt(None, params, task.support, task.features)
      scores = score(adapted, task.query.x)
      bce = optax.sigmoid_binary_cross_entropy(scores, task.query.y)
      return (bce * task.query.mask).sum() / task.query.mask.sum()

    value, grads = jax.value_and_grad(loss)(params)
    if bad_step is not None:
      broken = bad_step(task)
      grads = jax.tree.map(lambda g: jnp.where(broken, jnp.nan, g), grads)
    return grads, {'loss': value}

  return MetaLearner(init, adapt, score, meta_grad)


def draw_task(centres, key):
  """A task of one of the entities: their rows lie around their centres."""
  who, noise = jax.random.split(key)
  x = jax.random.normal(noise, (11, 3))
  x += centres[jax.random.randint(who, (), 0, len(centres))]
  y = (jnp.arange(8) >= 4).astype(jnp.float32)
  x = x.at[7:, 0].add(2.0)
  return Task(
    Rows(x[:3], jnp.zeros(3), jnp.ones(3)),
    Rows(x[3:], y, jnp.ones(8)),
    jnp.ones(3),
  )


@pytest.fixture(scope='module')
def sample():
  centres = np.random.default_rng(0).normal(size=(6, 3))
  return jax.tree_util.Partial(draw_task, jnp.asarray(centres, jnp.float32))


@pytest.fixture(scope='module')
def validation(sample):
  keys = jax.random.split(jax.random.key(5), 8)
  return jax.jit(jax.vmap(lambda k: sample(k)))(keys)


def train(
  sample, validation, run_dir=None, learner=None,
  quality=metrics.masked_auroc, **changes,
):  # fmt: skip
  optimizer = changes.pop('optimizer', optax.adam(0.05))
  run_dir = None if run_dir is None else str(run_dir)
  return loop.train(
    learner or prototype(), sample, validation, quality,
    optimizer, SETTINGS._replace(**changes), run_dir=run_dir, quiet=True,
  )  # fmt: skip


def log_of(run_dir, timed=False):
  text = (pathlib.Path(run_dir) / 'metrics.jsonl').read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  if not timed:
    for line in lines:
      assert line.pop('tasks_per_second') > 0
  return lines


def same_bits(one, other):
  for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True):
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture(scope='module')
def whole(sample, validation, tmp_path_factory):
  folder = tmp_path_factory.mktemp('whole')
  return folder, train(sample, validation, folder)


@pytest.mark.parametrize('count', [0, 1])
def test_a_resumed_run_ends_with_the_same_bits_and_log(
  count, whole, sample, validation, tmp_path, monkeypatch
):
  folder, whole = whole
  with monkeypatch.context() as patched, pytest.raises(Killed):
    kill_at(patched, count)
    train(sample, validation, tmp_path / 'killed')
  killed = tmp_path / 'killed' / 'metrics.jsonl'
  assert len(killed.read_text().splitlines()) == (3, 5)[count]
  with open(killed, 'ab') as log:
    log.write(b'{"step": 26, "lo\xff')  # cut short
  same_bits(train(sample, validation, tmp_path / 'killed'), whole)
  assert log_of(tmp_path / 'killed') == log_of(folder)
  # A third start has nothing to do, and changes nothing.
  before = log_of(tmp_path / 'killed', timed=True)
  same_bits(train(sample, validation, tmp_path / 'killed'), whole)
  assert log_of(tmp_path / 'killed', timed=True) == before


def test_steps_are_reported_validated_and_kept_when_due(whole):
  tmp_path, state = whole
  lines = log_of(tmp_path)
  assert [line['step'] for line in lines] == [5, 10, 15, 20, 25]
  assert [k for k in lines if 'validation' in k] == [
    lines[i] for i in (1, 3, 4)
  ]
  scores = [line['validation'] for line in (lines[1], lines[3], lines[4])]
  first = (10, 20, 25)[int(np.argmax(scores))]
  assert int(state.best_step) == first
  np.testing.assert_allclose(state.best_score, max(scores), rtol=1e-6)
  kept = Checkpoints(str(tmp_path / 'checkpoints'))
  step, restored = kept.restore(state)
  kept.close()
  assert step == 25
  same_bits(restored, state)
  folders = {p.name for p in (tmp_path / 'checkpoints').iterdir()}
  assert folders == {'15', '25'}


def test_the_best_parameters_are_those_that_score_best(sample, validation):
  """Later steps diverge: a rate of -5 drives the weights below zero."""
  worse = optax.sgd(lambda step: jnp.where(step < 10, 0.1, -5.0))
  state = train(sample, validation, optimizer=worse)
  early = train(sample, validation, optimizer=worse, steps=10)
  assert int(state.best_step) == 10
  same_bits(state.best, early.params)
  assert (state.params['w'] != state.best['w']).any()


def test_the_running_mean_by_hand(sample, validation):
  """Weights of the past: 1 / 10, 2 / 11, 3 / 12, ..., and `average` at most."""
  options = {
    'report_every': 1, 'validate_every': 1, 'keep': 'last',
    'quality': lambda scores, y, mask: scores.mean(),
  }  # fmt: skip
  example = jax.tree.map(lambda leaf: leaf[0], validation)
  start = loop.initial_state(prototype(), example, optax.adam(0.05), 7)
  ends = [
    train(sample, validation, steps=n, **options).params['w'] for n in (1, 2, 3)
  ]
  for average, shares in (
    (0.9, (1 / 10, 2 / 11, 3 / 12)),
    (0.15, (0.1, 0.15, 0.15)),
  ):
    mean = start.params['w']
    for past, end in zip(shares, ends, strict=True):
      mean = past * mean + (1 - past) * end
    state = train(sample, validation, steps=3, average=average, **options)
    np.testing.assert_allclose(state.average['w'], mean, rtol=1e-5)
    np.testing.assert_array_equal(state.best['w'], state.average['w'])
    np.testing.assert_array_equal(state.params['w'], ends[-1])
  # The mean is what is validated.
  scores = validation_lib.scores_of(
    prototype(), jax.random.key(0), state.average, validation
  )
  np.testing.assert_allclose(state.best_score, scores.mean(), rtol=1e-5)


def test_the_last_is_kept_where_it_was_asked_for(sample, validation):
  worse = optax.sgd(lambda step: jnp.where(step < 10, 0.1, -5.0))
  state = train(sample, validation, optimizer=worse, keep='last')
  assert int(state.best_step) == 25
  same_bits(state.best, state.params)


def test_a_terminated_run_saves_says_so_and_goes_on(
  whole, sample, validation, tmp_path, monkeypatch
):
  """SIGHUP within a step where no checkpoint is due; SIGTERM while saving."""

  def after(call, number):
    return lambda *a: signal.raise_signal(number) or call(*a)

  with monkeypatch.context() as patched:
    patched.setattr(loop, '_shown', after(loop._shown, signal.SIGHUP))
    patched.setattr(
      Checkpoints, 'save', after(Checkpoints.save, signal.SIGTERM)
    )
    with pytest.raises(Terminated, match='step 5 of 25 is saved') as ended:
      train(sample, validation, tmp_path)
  assert ended.value.number == signal.SIGHUP
  assert [p.name for p in (tmp_path / 'checkpoints').iterdir()] == ['5']
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
  same_bits(train(sample, validation, tmp_path), whole[1])
  assert log_of(tmp_path) == log_of(whole[0])


@pytest.mark.parametrize('part', ['', 'metrics.jsonl', 'checkpoints'])
def test_a_folder_that_vanishes_ends_the_run(
  part, sample, validation, tmp_path, monkeypatch
):
  """Its files are open: they could be written to for ever."""
  shown, run = loop._shown, tmp_path / 'run'

  def vanish(*args):
    if (run / part).exists():
      (run / part).rename(tmp_path / 'elsewhere')
    return shown(*args)

  monkeypatch.setattr(loop, '_shown', vanish)
  with pytest.raises(DataError, match='run') as refused:
    train(sample, validation, run)
  assert '\n' not in str(refused.value) and not (run / part).exists()


def test_the_seed_decides_and_the_length_of_a_call_does_not(
  whole, sample, validation
):
  _, one = whole
  same_bits(train(sample, validation), one)
  other = train(sample, validation, report_every=25, validate_every=25)
  for a, b in zip(
    *map(jax.tree.leaves, (one.params, other.params)), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-6)
  assert (
    train(sample, validation, seed=8).params['w'] != one.params['w']
  ).any()


def test_steps_are_the_optax_steps_of_mean_gradients(sample, validation):
  """Two meta-steps by hand: keys -> new tasks each -> loop over them -> SGD."""
  learner, rate = prototype(), 0.3
  state = train(
    sample, validation, steps=2, optimizer=optax.sgd(rate), report_every=1
  )
  example = jax.tree.map(lambda leaf: leaf[0], validation)
  params = loop.initial_state(learner, example, optax.sgd(rate), 7).params
  one = jax.jit(lambda k, p: learner.meta_grad(k, p, sample(k))[0])
  for step in (1, 2):
    draw, _ = jax.random.split(jax.random.fold_in(jax.random.key(7), step))
    grads = [one(key, params) for key in jax.random.split(draw, 3)]
    mean = jax.tree.map(lambda *g: sum(g) / 3, *grads)
    params = jax.tree.map(lambda p, g: p - rate * g, params, mean)
  for name in ('w', 'b'):
    np.testing.assert_allclose(
      state.params[name], params[name], rtol=1e-5, atol=1e-6
    )


def test_updates_that_are_not_finite_are_skipped_and_counted(
  sample, validation, tmp_path
):
  rare = prototype(lambda task: task.query.x[0, 0] > 1.5)
  state = train(sample, validation, tmp_path, learner=rare, tasks=1, steps=50)
  skipped = int(state.optimizer.total_notfinite)
  assert 0 < skipped < 50
  assert log_of(tmp_path)[-1]['skipped'] == skipped
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
  assert int(state.step) == 50


def test_without_branches_training_is_the_same(sample, validation, monkeypatch):
  """As on a GPU: skipped updates and steps past the last are thrown away."""
  rare = prototype(lambda task: task.query.x[0, 0] > 1.5)
  run = lambda: train(sample, validation, learner=rare, tasks=1, steps=32)
  one = run()
  cpu = devices.TUNING['cpu']._replace(branches=False)
  monkeypatch.setitem(devices.TUNING, 'cpu', cpu)
  other = run()
  assert 0 < int(one.optimizer.total_notfinite) < 32
  assert jax.tree.structure(one) == jax.tree.structure(other)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize(('steps', 'limit'), [(50, 12), (20, 100)])
def test_training_stops_when_no_update_is_finite(
  steps, limit, sample, validation, tmp_path
):
  never = prototype(lambda task: True)
  with pytest.raises(DataError, match='diverged') as stopped:
    train(
      sample, validation, tmp_path, learner=never, steps=steps, skip_limit=limit
    )
  assert '\n' not in str(stopped.value)
  assert log_of(tmp_path)[-1]['step'] == (15 if steps == 50 else 20)


def test_the_log_is_strict_json(sample, validation, tmp_path):
  learner = prototype()

  def infinite(key, params, task):
    grads, found = learner.meta_grad(key, params, task)
    return grads, {**found, 'worst': jnp.inf, 'none': jnp.nan}

  train(
    sample, validation, tmp_path, steps=5,
    learner=learner._replace(meta_grad=infinite),
  )  # fmt: skip
  text = (tmp_path / 'metrics.jsonl').read_text()
  assert 'Infinity' not in text and 'NaN' not in text
  assert log_of(tmp_path)[0]['worst'] is None


def test_a_run_compiles_its_scan_once(sample, validation, tmp_path, caplog):
  with jax.log_compiles(), caplog.at_level(logging.WARNING):
    train(sample, validation, tmp_path, steps=22)  # the last call is shorter
  told = [record.getMessage() for record in caplog.records]
  compiled = lambda name: sum(
    f'Compiling jit({name})' in text or f'Compiling {name} ' in text
    for text in told
  )
  assert compiled('chunk') == 1 and compiled('validate') == 1


def test_a_call_moves_nothing_between_host_and_device(sample, validation):
  learner, optimizer = prototype(), optax.adam(0.1)
  example = jax.tree.map(lambda leaf: leaf[0], validation)
  state = loop.initial_state(learner, example, optimizer, 0)
  scan, mesh = loop.make_scan(
    learner, optimizer, example, state.params, loop.Settings(12, 2), 4
  )
  state, sample = devices.replicate((state, sample), mesh)
  state, _ = scan(state, sample)
  with jax.transfer_guard('disallow'):
    state, found = scan(state, sample)
  assert int(state.step) == 8 and np.isfinite(found['loss']).all()
  assert scan._cache_size() == 1


def test_steps_past_the_last_do_nothing(sample, validation):
  learner, optimizer = prototype(), optax.adam(0.1)
  example = jax.tree.map(lambda leaf: leaf[0], validation)
  start = lambda: loop.initial_state(learner, example, optimizer, 0)
  make = lambda length: loop.make_scan(
    learner, optimizer, example, start().params, loop.Settings(3, 2), length
  )[0]
  exact, _ = make(3)(start(), sample)
  beyond, found = make(5)(start(), sample)
  same_bits(beyond, exact)
  assert np.isnan(found['loss'][3:]).all()
  assert np.isfinite(found['loss'][:3]).all()


@pytest.mark.parametrize('shuffle', [False, True])
def test_shuffled_labels_give_chance_and_true_ones_do_not(shuffle, sample):
  """On tasks of entities not trained on."""

  def draw(centres, key):
    task = draw_task(centres, key)
    if shuffle:
      y = jax.random.permutation(key, task.query.y)
      task = task._replace(query=task.query._replace(y=y))
    return task

  def batch(seed):
    centres = jax.random.normal(jax.random.key(seed), (50, 3))
    keys = jax.random.split(jax.random.key(seed), 300)
    return jax.jit(jax.vmap(lambda key: draw(centres, key)))(keys)

  state = train(
    jax.tree_util.Partial(draw, *sample.args), batch(1), steps=60, tasks=8,
    report_every=60, validate_every=60,
  )  # fmt: skip
  test = batch(2)
  scores = validation_lib.scores_of(
    prototype(), jax.random.key(0), state.best, test
  )
  area = jax.vmap(metrics.masked_auroc)(scores, *test.query[1:]).mean()
  assert abs(area - 0.5) < 0.05 if shuffle else area > 0.8
