"""A run's folder: kept, found again, damaged, and another run's."""

import dataclasses
import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import fast
import jax
import numpy as np
import pytest
import tiny

from metaad_jax import storage
from metaad_jax.base import DataError
from metaad_jax.data import audits, episodes, synthetic_tables
from metaad_jax.training import checkpoints, records, runs
from metaad_jax.training.setup import Config, Layout, resolve

FLEET = 'vibration:machines=12,test_machines=4,windows=12,queries=12,length=64'
CONFIG = Config(
  source=FLEET, features='statistics', learner='protonet:embedding=3',
  model='mlp:width=6,depth=1', shots=(2, 4), anomalies=(0, 1), queries=4,
  steps=6, tasks=2, validation_tasks=4, validate_every=3,
)  # fmt: skip


@pytest.fixture(scope='module')
def data():
  return runs.load_data(CONFIG, None)


@pytest.fixture(scope='module')
def folder(tmp_path_factory, data):
  path = tmp_path_factory.mktemp('runs') / 'proto'
  runs.train(CONFIG, run_dir=str(path), data=data, quiet=True)
  return path


@pytest.fixture
def copy(folder, tmp_path):
  return pathlib.Path(shutil.copytree(folder, tmp_path / 'copy'))


def refusal(call, *args, **options):
  with pytest.raises(DataError) as refused:
    call(*args, **options)
  assert '\n' not in str(refused.value)
  return str(refused.value)


def snapshot(folder):
  return {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def same_bits(one, other):
  for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True):
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def same_runs(path, whole):
  one, other = (runs.restore(str(p)) for p in (path, whole))
  assert one.step == other.step
  same_bits(one.params, other.params)


# --- what it is trained on ---------------------------------------------------


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'fold': '9'}, "no fold '9'"),
    ({'features': 'logspec:bins=4000'}, 'bins'),
    ({'model': 'conv1d'}, '--features=raw'),
    ({'source': 'cwru'}, 'data_dir'),
    ({'source': FLEET.replace('machines=12', 'machines=1', 1)}, 'too few'),
  ],
)
def test_a_run_that_cannot_start_leaves_no_checkpoint(
  change, message, tmp_path
):
  config = dataclasses.replace(CONFIG, **change)
  path = tmp_path / 'run'
  assert message in refusal(runs.train, config, run_dir=str(path), quiet=True)
  assert not any((path / 'checkpoints').glob('*'))


def test_tasks_are_of_their_own_side(data):
  """Training and validation draw from their own entities, and no other."""
  setup = resolve(CONFIG).at(data.layout)
  sides = runs.samplers(setup, data)
  for side, sample in zip(('train', 'validation'), sides, strict=True):
    members = data.entities[side]
    rows = np.concatenate([m for e in members for m in (e.normal, e.query)])
    draw = fast.jit(lambda keys, sample: jax.vmap(sample)(keys))
    tasks = draw(jax.random.split(jax.random.key(0), 20), sample)
    for part in (tasks.support, tasks.query):
      x = np.asarray(part.x)[np.asarray(part.mask) > 0]
      assert (x[:, None] == rows).all(-1).any(1).all()


def test_tables_are_augmented_in_training_alone(data, monkeypatch):
  config = dataclasses.replace(CONFIG, learner='tables', model='')
  made = []
  original = synthetic_tables.sampler
  monkeypatch.setattr(
    synthetic_tables, 'sampler', lambda *a: made.append(a) or original(*a)
  )
  train, validation = runs.samplers(resolve(config).at(data.layout), data)
  jax.eval_shape(validation, jax.random.key(0))
  assert not made
  jax.eval_shape(train, jax.random.key(0))
  assert len(made) == 1


def test_a_run_knows_what_it_has_seen_and_not_the_test_side(folder, data):
  run = runs.restore(str(folder))
  digests = lambda side: {audits.digest(e) for e in data.raw[side]}
  assert run.seen == digests('train') | digests('validation')
  assert not run.seen & digests('test')


def test_a_run_starts_from_another(folder, data, tmp_path):
  """A step of rate 0 leaves the parameters, prior and all, as they were."""
  config = dataclasses.replace(
    CONFIG, start=str(folder), outer='sgd:rate=0.0', steps=1, seed=5
  )
  runs.train(config, run_dir=str(tmp_path / 'next'), data=data, quiet=True)
  one, other = (runs.restore(str(p)) for p in (folder, tmp_path / 'next'))
  same_bits(one.params, other.params)
  assert other.seen >= one.seen
  turned = data.raw | {'train': data.raw['test'], 'test': data.raw['train']}
  turned = data._replace(raw=turned)
  message = refusal(runs.train, config, data=turned, quiet=True)
  assert data.raw['train'][0].name in message  # tested on what it has seen


def test_another_learner_starts_from_a_run(folder):
  run = runs.restore(str(folder))
  assert 'start from' in refusal(runs.fine_tuned, run, 'maml')  # other shapes
  same = runs.fine_tuned(run, 'protonet:embedding=3')
  assert same.name == 'protonet:embedding=3' != run.name
  same_bits(same.params, run.params)


def test_options_take_the_place_of_those_of_the_run():
  config = dataclasses.replace(CONFIG, learner='maml:steps=1,adapt_steps=2')
  given = dataclasses.replace(CONFIG, learner='maml:adapt_steps=7')
  task = tiny.task()
  made = [resolve(config), resolve(config, adapt_steps=7), resolve(given)]
  params = fast.jit(made[0].algorithm.init)(jax.random.key(0), task)
  adapted = fast.jit(
    lambda params: [
      setup.algorithm.adapt(None, params, *task[::2]).params for setup in made
    ]
  )
  plain, more, same = map(tiny.flat, adapted(params))
  np.testing.assert_array_equal(more, same)
  assert (plain != more).any()


# --- kept and found again ----------------------------------------------------


def test_restore_returns_the_best_parameters_and_the_config(folder, data):
  before = snapshot(folder)
  run = runs.restore(str(folder))
  again = runs.train(CONFIG, run_dir=str(folder), data=data, quiet=True)
  assert snapshot(folder) == before  # there was nothing left to do
  assert run.config == CONFIG and run.layout == data.layout
  assert run.step == int(again.best_step) > 0
  same_bits(run.params, again.best)
  same_bits(run.prior, episodes.column_statistics(data.entities['train']))


def test_another_run_is_not_overwritten(folder, data):
  before = snapshot(folder)
  other = dataclasses.replace(CONFIG, seed=1, tasks=3)
  message = refusal(runs.train, other, run_dir=str(folder), data=data)
  assert 'seed, tasks' in message and 'another --run_dir' in message
  assert snapshot(folder) == before


def test_more_steps_go_on_where_fewer_ended(folder, data, tmp_path):
  path, half = str(tmp_path / 'run'), dataclasses.replace(CONFIG, steps=3)
  runs.train(half, run_dir=path, data=data, quiet=True)
  runs.train(CONFIG, run_dir=path, data=data, quiet=True)
  same_runs(path, folder)
  assert runs.restore(path).config == CONFIG
  assert 'steps' in refusal(runs.train, half, run_dir=path, data=data)
  falling = dataclasses.replace(CONFIG, schedule='cosine')
  assert 'constant' in refusal(runs.train, falling, run_dir=path, data=data)


def test_of_two_trainings_in_one_folder_the_second_is_refused(folder, data):
  before = snapshot(folder)
  with storage.locked(str(folder)):
    held = snapshot(folder)
    message = refusal(runs.train, CONFIG, run_dir=str(folder), data=data)
    assert snapshot(folder) == held
  assert f'process {os.getpid()}' in message and 'wait' in message
  runs.train(CONFIG, run_dir=str(folder), data=data, quiet=True)
  assert snapshot(folder).keys() == before.keys()


def test_no_run_and_no_checkpoint(copy, tmp_path):
  assert 'no run directory' in refusal(runs.restore, str(tmp_path / 'nowhere'))
  shutil.rmtree(copy / 'checkpoints')
  assert 'no checkpoint yet' in refusal(runs.restore, str(copy))


def test_an_old_folder_of_any_width_is_read():
  """Once, [null] was the shape of rows of any width."""
  config = {'learner': 'tables', 'shots': [3]}
  layout = {'shape': [None], 'rate': None, 'channels': []}
  read, shape = records.settings({'config': config, 'layout': layout})
  assert read.shots == (3,) and shape == Layout()
  assert resolve(read).at(shape).any_width


@pytest.mark.parametrize(
  'change',
  [
    lambda c: c.clear(),
    lambda c: c.pop('config'),
    lambda c: c.pop('layout'),
    lambda c: c.update(schema=99),
    lambda c: c.update(config=None),
    lambda c: c['config'].update(steps='many'),
    lambda c: c['config'].update(learner='magic'),
    lambda c: c['config'].update(learner=7),
    lambda c: c['config'].update(colour='red'),
    lambda c: c['layout'].update(shape=['a', 'b']),
    lambda c: c['layout'].update(shape=64),
    lambda c: c['layout'].update(shape=[64]),
    lambda c: c['layout'].update(rate='fast'),
    lambda c: c['layout'].update(channels=None),
  ],
)
def test_a_damaged_config_is_refused(change, copy):
  content = json.loads((copy / 'config.json').read_text())
  change(content)
  (copy / 'config.json').write_text(json.dumps(content))
  assert str(copy) in refusal(runs.restore, str(copy))


@pytest.mark.parametrize(
  'content', [b'', b'{"schema": 1, "config": 3}', b'[]', b'\xff\xfe']
)
def test_a_broken_config_is_refused_by_restore_and_train(content, copy, data):
  (copy / 'config.json').write_bytes(content)
  assert str(copy) in refusal(runs.restore, str(copy))
  assert str(copy) in refusal(
    runs.train, CONFIG, run_dir=str(copy), data=data, quiet=True
  )


def damage(checkpoint, how):
  files = [p for p in checkpoint.rglob('*') if p.is_file() and 'd' in p.parts]
  path = max(files, key=lambda p: p.stat().st_size)
  content = bytearray(path.read_bytes())
  if how == 'remove':
    return path.unlink()
  if how == 'cut':
    content = content[: len(content) // 2]
  else:
    content[len(content) // 2] ^= 1
  path.write_bytes(content)


@pytest.mark.parametrize('how', ['cut', 'flip', 'remove'])
def test_a_damaged_checkpoint_is_passed_over_with_one_warning(
  how, copy, data, folder, caplog
):
  newest = copy / 'checkpoints' / '6'
  damage(newest, how)
  before = snapshot(copy)
  assert runs.restore(str(copy)).step <= 3
  messages = [r.getMessage() for r in caplog.records]
  (warning,) = [text for text in messages if 'cannot' in text]
  assert str(newest) in warning and 'going on from step 3' in warning
  assert snapshot(copy) == before  # reading mends nothing
  runs.train(CONFIG, run_dir=str(copy), data=data, quiet=True)
  same_runs(copy, folder)


def test_no_whole_checkpoint_is_an_error_and_deletes_nothing(copy, data):
  for step in '36':
    damage(copy / 'checkpoints' / step, 'flip')
  before = snapshot(copy / 'checkpoints')
  assert str(copy / 'checkpoints' / '6') in refusal(runs.restore, str(copy))
  refusal(runs.train, CONFIG, run_dir=str(copy), data=data, quiet=True)
  assert snapshot(copy / 'checkpoints') == before


def test_a_checkpoint_without_digests_still_serves(copy, folder):
  """A run may be killed between a checkpoint and its digests."""
  (copy / 'checkpoints' / '6' / 'sha256.json').unlink()
  same_runs(copy, folder)


@pytest.mark.parametrize('kept', [0, 1])
def test_a_full_disk_is_one_line_and_the_last_checkpoint_serves(
  kept, tmp_path, data, folder, monkeypatch
):
  """Half of a checkpoint is written when the disk is full."""
  options = {'run_dir': str(tmp_path / 'run'), 'data': data, 'quiet': True}
  saved = []
  digests = checkpoints._digests

  def full(checkpoint):
    saved.append(checkpoint)
    if len(saved) > kept:
      raise OSError(errno.ENOSPC, 'No space left on device')
    return digests(checkpoint)

  with monkeypatch.context() as patched:
    patched.setattr(checkpoints, '_digests', full)
    message = refusal(runs.train, CONFIG, **options)
  assert 'cannot save the checkpoint' in message and 'No space' in message
  assert ('step 3 is the last good one' in message) == bool(kept)
  assert os.listdir(tmp_path / 'run' / 'checkpoints') == ['3'] * kept
  runs.train(CONFIG, **options)
  same_runs(tmp_path / 'run', folder)


@pytest.mark.parametrize('place', ['run', 'run/checkpoints'])
def test_a_file_in_the_place_of_a_folder(place, tmp_path, data):
  (tmp_path / place).parent.mkdir(exist_ok=True)
  (tmp_path / place).write_text('in the way')
  assert str(tmp_path / 'run') in refusal(
    runs.train, CONFIG, run_dir=str(tmp_path / 'run'), data=data, quiet=True
  )


# --- killed ------------------------------------------------------------------


LONG = dataclasses.replace(CONFIG, steps=400, validate_every=20)


def start(config, path):
  """The process of experiments.train."""
  flags = [
    f'--{f.name}=' + (','.join(map(str, v)) if isinstance(v, tuple) else str(v))
    for f in dataclasses.fields(config)
    if (v := getattr(config, f.name)) != f.default
  ]
  flags += [f'--run_dir={path}', '--devices=1']  # as this process has
  return subprocess.Popen(
    [sys.executable, '-m', 'experiments.train', *flags],
    cwd=pathlib.Path(__file__).parents[2],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )


def lines(path):
  """The metrics of a run but for its speed."""
  try:
    text = (path / 'metrics.jsonl').read_text()
    parsed = [json.loads(line) for line in text.splitlines()]
  except (OSError, ValueError):
    return []
  return [line | {'tasks_per_second': 0} for line in parsed]


def await_step(process, path, step, seconds=300):
  """Waits until a step is logged, or the process has ended."""
  deadline = time.monotonic() + seconds
  while process.poll() is None and time.monotonic() < deadline:
    if (lines(path) or [{'step': 0}])[-1]['step'] >= step:
      return
    time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize(
  'times', [2, pytest.param(20, marks=pytest.mark.nightly)]
)
def test_a_killed_process_goes_on_where_it_was(times, tmp_path, data):
  """Killed at random: before, within and after steps and saves."""
  path, whole = tmp_path / 'run', tmp_path / 'whole'
  draw = np.random.default_rng(times)
  expected = runs.train(LONG, run_dir=str(whole), data=data, quiet=True)
  killed = 0
  for i in range(times):
    process = start(LONG, path)
    # To some step at random, evenly spread, and some milliseconds further.
    await_step(process, path, int((i + draw.random()) * LONG.steps / times))
    time.sleep(draw.exponential(0.02))
    process.kill()
    killed += process.wait() == -signal.SIGKILL
  resumed = runs.train(LONG, run_dir=str(path), data=data, quiet=True)
  assert killed >= times // 2
  same_bits(resumed, expected)
  assert lines(path) == lines(whole)
  same_runs(path, whole)
