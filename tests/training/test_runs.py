"""A run's folder: kept, found again, damaged, and another run's."""

import dataclasses
import json
import logging
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

from adapted import scorer
import jax
import numpy as np
import pytest

from metaad_jax.base import DataError
from metaad_jax.data import episodes, registry, splitting
from metaad_jax.learners import inner_loop
from metaad_jax.training import records, runs

FLEET = 'vibration:machines=12,test_machines=4,windows=12,queries=12,length=64'
CONFIG = runs.Config(
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
  return {
    str(p.relative_to(folder)): p.read_bytes()
    for p in sorted(pathlib.Path(folder).rglob('*'))
    if p.is_file()
  }


def same_bits(one, other):
  for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True):
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


# --- what may be asked for ---------------------------------------------------


@pytest.mark.parametrize(
  'change',
  [
    {'shots': ()}, {'shots': (0,)}, {'anomalies': (-1,)}, {'anomalies': ()},
    {'contamination': (0.7,)}, {'contamination': ()}, {'queries': 0},
    {'steps': 0}, {'tasks': 0}, {'validation_tasks': 0}, {'validate_every': 0},
    {'folds': 1}, {'clip': 0.0}, {'clip': float('nan')}, {'schedule': 'wave'},
    {'seed': -1}, {'seed': 2**64}, {'source': 'mars'}, {'source': 'cwru:x=1'},
    {'source': 'vibration:length=a'}, {'features': 'smell'},
    {'features': 'logspec:bins=x'}, {'features': 'statistics+'},
    {'learner': 'magic'}, {'learner': 'maml:steps=0'},
    {'learner': 'maml:steps=2.5'}, {'learner': 'maml:mode=fast'},
    {'learner': 'maml:inner=5'}, {'learner': 'maml:inner=nowhere'},
    {'learner': 'maml:rate=-1'}, {'learner': 'maml:rate=x'},
    {'learner': 'protonet:embedding=0'}, {'model': 'resnet'},
    {'model': 'mlp:width=0'}, {'outer': 'adam:rate=x'}, {'outer': 'adam:x=1'},
    {'outer': 'adam:rate=-0.1'}, {'outer': 'lbfgs'}, {'outer': 'chain'},
    {'outer': ''}, {'outer': '__name__'},
  ],
  ids=str,
)  # fmt: skip
def test_impossible_values_are_refused_before_anything_is_read(change):
  refusal(runs.resolve, dataclasses.replace(CONFIG, **change))


@pytest.mark.parametrize(
  'name', ['sgd', 'adam', 'adamw', 'rmsprop', 'lion', 'yogi']
)
def test_known_optimizers_pass(name):
  runs.resolve(dataclasses.replace(CONFIG, outer=f'{name}:rate=0.01'))
  inner_loop.optimizer(name, 0.0)


@pytest.mark.parametrize(
  ('change', 'told'),
  [
    ({'fold': '9'}, "no fold '9'"),
    ({'features': 'logspec:bins=4000'}, 'bins'),
    ({'model': 'conv1d'}, '--features=raw'),
    ({'source': 'cwru'}, 'data_dir'),
    ({'source': FLEET.replace('machines=12', 'machines=1', 1)}, 'too few'),
  ],
)
def test_a_run_that_cannot_start_leaves_nothing_behind(change, told, tmp_path):
  config = dataclasses.replace(CONFIG, **change)
  path = tmp_path / 'run'
  assert told in refusal(runs.train, config, run_dir=str(path), quiet=True)
  checkpoints = path / 'checkpoints'
  assert not checkpoints.exists() or not any(checkpoints.iterdir())
  if 'model' not in change:
    assert not path.exists()


def test_a_file_in_the_place_of_the_folder(tmp_path, data):
  (tmp_path / 'run').write_text('')
  path = str(tmp_path / 'run')
  assert path in refusal(
    runs.train, CONFIG, run_dir=path, data=data, quiet=True
  )


# --- kept and found again ----------------------------------------------------


def test_restore_returns_the_best_parameters_and_the_config(folder, data):
  run = runs.restore(str(folder))
  again = runs.train(CONFIG, run_dir=str(folder), data=data, quiet=True)
  assert run.config == CONFIG and run.layout == data.layout
  assert run.step == int(again.best_step) > 0
  same_bits(run.params, again.best)
  prior = episodes.column_statistics(data.entities['train'])
  same_bits(run.prior, prior)


def test_training_again_changes_no_file(folder, data):
  before = snapshot(folder)
  runs.train(CONFIG, run_dir=str(folder), data=data, quiet=True)
  assert snapshot(folder) == before


def test_another_run_is_not_overwritten(folder, data):
  before = snapshot(folder)
  other = dataclasses.replace(CONFIG, seed=1, tasks=3)
  told = refusal(runs.train, other, run_dir=str(folder), data=data, quiet=True)
  assert 'seed, tasks' in told and 'another --run_dir' in told
  assert snapshot(folder) == before


def test_no_run_and_no_checkpoint(copy, tmp_path):
  assert 'no run directory' in refusal(runs.restore, str(tmp_path / 'nowhere'))
  shutil.rmtree(copy / 'checkpoints')
  assert 'no checkpoint yet' in refusal(runs.restore, str(copy))


def edit(path, change):
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))


@pytest.mark.parametrize(
  'change',
  [
    lambda c: c.clear(),
    lambda c: c.pop('config'),
    lambda c: c.pop('layout'),
    lambda c: c.update(schema=99),
    lambda c: c.update(config=[]),
    lambda c: c.update(config=None),
    lambda c: c['config'].update(steps='many'),
    lambda c: c['config'].update(learner='magic'),
    lambda c: c['config'].update(learner=7),
    lambda c: c['config'].update(source=None),
    lambda c: c['config'].update(outer=[]),
    lambda c: c['config'].update(colour='red'),
    lambda c: c['layout'].update(shape=['a', 'b']),
    lambda c: c['layout'].update(shape=64),
    lambda c: c['layout'].update(shape=[64]),
    lambda c: c['layout'].update(rate='fast'),
    lambda c: c['layout'].update(channels=None),
  ],
)
def test_a_damaged_config_is_refused(change, copy):
  edit(copy / 'config.json', change)
  assert str(copy) in refusal(runs.restore, str(copy))


@pytest.mark.parametrize('content', [b'', b'{"schema": 1', b'[]', b'\xff\xfe'])
def test_a_broken_config_is_refused_by_restore_and_train(content, copy, data):
  (copy / 'config.json').write_bytes(content)
  assert str(copy) in refusal(runs.restore, str(copy))
  options = {'run_dir': str(copy), 'data': data, 'quiet': True}
  assert str(copy) in refusal(runs.train, CONFIG, **options)
  (copy / 'config.json').write_text('{"schema": 1, "config": 3}')
  assert str(copy) in refusal(runs.train, CONFIG, **options)


def largest(folder):
  files = [p for p in folder.rglob('*') if p.is_file() and 'd' in p.parts]
  return max(files, key=lambda p: p.stat().st_size)


def damage(path, how):
  content = bytearray(path.read_bytes())
  if how == 'cut':
    path.write_bytes(content[: len(content) // 2])
  elif how == 'flip':
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
  else:
    path.unlink()


@pytest.mark.parametrize('how', ['cut', 'flip', 'remove'])
def test_a_damaged_checkpoint_is_passed_over_with_one_warning(
  how, copy, data, folder, caplog
):
  newest = copy / 'checkpoints' / '6'
  damage(largest(newest), how)
  before = snapshot(copy)
  assert runs.restore(str(copy)).step <= 3
  told = [r.getMessage() for r in caplog.records if 'cannot' in r.getMessage()]
  assert len(told) == 1 and '\n' not in told[0]
  assert str(newest) in told[0] and 'going on from step 3' in told[0]
  assert snapshot(copy) == before  # reading mends nothing
  runs.train(CONFIG, run_dir=str(copy), data=data, quiet=True)
  one, other = (runs.restore(str(path)) for path in (copy, folder))
  assert one.step == other.step
  same_bits(one.params, other.params)


def test_no_whole_checkpoint_is_an_error_and_deletes_nothing(copy, data):
  for step in '36':
    damage(largest(copy / 'checkpoints' / step), 'flip')
  before = snapshot(copy / 'checkpoints')
  assert str(copy / 'checkpoints' / '6') in refusal(runs.restore, str(copy))
  refusal(runs.train, CONFIG, run_dir=str(copy), data=data, quiet=True)
  assert snapshot(copy / 'checkpoints') == before


def test_a_checkpoint_without_digests_still_serves(copy, folder):
  """A run may be killed between a checkpoint and its digests."""
  (copy / 'checkpoints' / '6' / 'sha256.json').unlink()
  same_bits(runs.restore(str(copy)).params, runs.restore(str(folder)).params)


def test_curves_survive_a_line_cut_short(copy):
  whole = records.curves(str(copy))
  assert whole['step'] == whole['validation_step'] == [3, 6]
  assert len(whole['loss']) == len(whole['validation_auroc']) == 2
  with open(copy / 'metrics.jsonl', 'ab') as log:
    log.write(b'[]\n3\n{"step": 9, "loss": 0.\xff')
  assert records.curves(str(copy)) == whole
  (copy / 'metrics.jsonl').unlink()
  assert records.curves(str(copy))['step'] == []


# --- adapting ----------------------------------------------------------------


def windows(count, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(count, 64, 1)).astype(np.float32)


def test_adapt_scores_rows_one_by_one(folder):
  run = runs.restore(str(folder))
  support, query = windows(5), windows(300, 1)
  score = scorer(run, support, np.zeros(5))
  scores = score(query)
  assert scores.shape == (300,) and np.isfinite(scores).all()
  np.testing.assert_allclose(score(query[7:8]), scores[7:8], rtol=1e-4)
  np.testing.assert_allclose(score(query[::-1]), scores[::-1], rtol=1e-4)
  shuffled = scorer(run, support[::-1], np.zeros(5))
  np.testing.assert_allclose(shuffled(query), scores, rtol=1e-3, atol=1e-4)
  labelled = scorer(run, support, np.array([0, 0, 0, 0, 1]))
  assert (labelled(query) != scores).any()


def test_windows_of_silence_get_finite_scores(folder):
  run = runs.restore(str(folder))
  for support in (windows(3), np.zeros((3, 64, 1), np.float32)):
    score = scorer(run, support, np.zeros(3))
    for rows in (
      windows(2),
      np.zeros((2, 64, 1), np.float32),
      1e6 * windows(2),
    ):
      assert np.isfinite(score(rows)).all()


def test_adapting_again_compiles_nothing_again(folder, caplog):
  run = runs.restore(str(folder))
  counts = []
  for seed in (0, 1):
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
      scorer(run, windows(6, seed), np.zeros(6))(windows(4, 2 + seed))
    counts.append(sum('Compiling' in r.getMessage() for r in caplog.records))
  assert counts[0] > 0 and counts[1] == 0


# --- folds -------------------------------------------------------------------


def test_a_fleet_with_sides_has_one_fold():
  assert runs.fold_names(CONFIG, None) == ['0']


def test_no_source_calls_a_fold_by_a_number():
  root = os.environ.get('METAAD_DATA_DIR')
  if not root:
    pytest.skip('METAAD_DATA_DIR is not set')
  for name in ('smd', 'skab', 'cwru'):
    if (pathlib.Path(root) / name).is_dir():
      everyone = registry.load(name, root)
      names = splitting.fold_names(everyone, 5)
      assert not any(fold.isdecimal() for fold in names)
      for fold in names:
        splitting.split(everyone, fold=fold)


# --- killed ------------------------------------------------------------------


LONG = dataclasses.replace(CONFIG, steps=400, validate_every=20)


def start(config, path):
  """The process of experiments.train, and nothing of what it prints."""
  flags = [
    f'--{f.name}=' + (','.join(map(str, v)) if isinstance(v, tuple) else str(v))
    for f in dataclasses.fields(config)
    if (v := getattr(config, f.name)) != f.default
  ]
  return subprocess.Popen(
    [
      sys.executable, '-m', 'experiments.train', *flags,
      f'--run_dir={path}', '--devices=1',  # as this process has
    ],
    cwd=pathlib.Path(__file__).parents[2],
    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
  )  # fmt: skip


def steps_of(path):
  try:
    text = (path / 'metrics.jsonl').read_text()
    return json.loads(text.splitlines()[-1])['step']
  except (OSError, IndexError, ValueError):
    return 0


def await_step(process, path, step, seconds=300):
  """Waits until a step is logged, or the process has ended."""
  deadline = time.monotonic() + seconds
  while process.poll() is None and time.monotonic() < deadline:
    if steps_of(path) >= step:
      return
    time.sleep(0.005)


def same_runs(path, whole):
  """The same bits in the newest checkpoint, and the same log but for speed."""
  one, other = (runs.restore(str(p)) for p in (path, whole))
  assert one.step == other.step
  same_bits(one.params, other.params)
  for name in ('checkpoints',):
    assert sorted(os.listdir(path / name)) == sorted(os.listdir(whole / name))

  def lines(folder):
    for text in (folder / 'metrics.jsonl').read_text().splitlines():
      line = json.loads(text)
      del line['tasks_per_second']
      yield line

  assert list(lines(path)) == list(lines(whole))


def kill(tmp_path, data, times, seed):
  """Kills at random moments: before, within and after steps and saves."""
  path, whole = tmp_path / 'run', tmp_path / 'whole'
  draw = np.random.default_rng(seed)
  expected = runs.train(LONG, run_dir=str(whole), data=data, quiet=True)
  killed = 0
  for i in range(times):
    process = start(LONG, path)
    # To some step at random, evenly spread, and some milliseconds further.
    await_step(process, path, int((i + draw.random()) * LONG.steps / times))
    time.sleep(draw.exponential(0.02))
    process.kill()
    process.stderr.close()
    killed += process.wait() == -signal.SIGKILL
  resumed = runs.train(LONG, run_dir=str(path), data=data, quiet=True)
  same_bits(resumed, expected)
  same_runs(path, whole)
  return killed


def test_a_killed_process_goes_on_where_it_was(tmp_path, data):
  assert kill(tmp_path, data, times=2, seed=0) == 2


@pytest.mark.nightly
def test_twenty_kills_change_no_bit(tmp_path, data):
  assert kill(tmp_path, data, times=20, seed=1) == 20


def test_a_terminated_process_saves_says_so_and_goes_on(tmp_path, data):
  config = dataclasses.replace(LONG, steps=20_000, validate_every=10_000)
  path = tmp_path / 'run'
  process = start(config, path)
  await_step(process, path, 100)
  process.terminate()
  err = process.communicate(timeout=120)[1].decode()
  assert process.returncode == 143, err
  told = err.split('\r')[-1].strip().splitlines()[-1]
  assert told.startswith('error: terminated') and 'goes on' in told
  step = steps_of(path)
  assert 100 <= step < 10_000  # long before a checkpoint is due
  assert os.listdir(path / 'checkpoints') == [str(step)]


# --- a disk that is full, a folder that cannot be written to -----------------


@pytest.mark.parametrize('found', ['none', 'one'])
def test_a_full_disk_is_one_line_and_the_last_checkpoint_serves(
  found, tmp_path, data
):
  """A limit on the size of a file, which is refused as a full disk is."""
  path = tmp_path / 'run'
  short = dataclasses.replace(CONFIG, schedule='constant', steps=3)
  if found == 'one':
    runs.train(short, run_dir=str(path), data=data, quiet=True)
    config = json.loads((path / 'config.json').read_text())
    config['config']['steps'] = 6
    (path / 'config.json').write_text(json.dumps(config))
  more = dataclasses.replace(short, steps=6)
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  os.makedirs(path, exist_ok=True)
  options = {'run_dir': str(path), 'data': data, 'quiet': True}
  if found == 'none':  # config.json is larger than a checkpoint's smallest file
    runs.train(dataclasses.replace(more, steps=1), **options)
    shutil.rmtree(path / 'checkpoints')
    (path / 'metrics.jsonl').unlink()
    config = json.loads((path / 'config.json').read_text())
    config['config']['steps'] = 6
    (path / 'config.json').write_text(json.dumps(config))
  resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
  try:
    told = refusal(runs.train, more, **options)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert 'cannot save the checkpoint' in told
  assert ('step 3 is the last good one' in told) == (found == 'one')
  left = sorted(os.listdir(path / 'checkpoints'))
  assert left == (['3'] if found == 'one' else [])
  whole = runs.train(more, data=data, quiet=True)
  same_bits(runs.train(more, **options), whole)


def test_checkpoints_that_cannot_be_kept(tmp_path, data):
  path = tmp_path / 'run'
  path.mkdir()
  (path / 'checkpoints').write_text('in the way')
  told = refusal(runs.train, CONFIG, run_dir=str(path), data=data, quiet=True)
  assert str(path / 'checkpoints') in told


def test_a_folder_that_is_read_only_is_one_line(data):
  if not os.path.isdir('/proc/self'):
    pytest.skip('no /proc, the one folder that even root cannot write to')
  told = refusal(runs.train, CONFIG, run_dir='/proc/run', data=data, quiet=True)
  assert '/proc/run' in told
