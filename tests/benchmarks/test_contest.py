"""Cells and rows of a benchmark, with workers that only say they work."""

import json
import pathlib
import re

import nearest_run
import numpy as np
import pytest

from benchmarks import contest, detector_timing, peers, turns
from experiments import benchmark, cli

KEYS = {
  'workload', 'learner', 'inner_steps', 'tasks', 'width', 'devices', 'library',
  'at_once', 'milliseconds', 'q1', 'q3', 'least', 'ratio', 'ratio_low',
  'ratio_high', 'repeats', 'rounds', 'disturbed', 'compile_seconds',
  'first_seconds', 'tasks_per_second', 'temp_mib', 'start_rss_mib',
  'peak_rss_mib', 'peak_device_mib', 'gradient_error', 'gflop', 'xla_gflop',
  'minimal_gflop', 'gflops', 'share_of_peak', 'product_mib', 'precision',
  'commit', 'memory', 'plan',
}  # fmt: skip


class Fake:
  """A worker that takes a millisecond a task, other libraries three."""

  def __init__(self, module, job, broken='', wrong=''):
    if module == broken and not job.gradient:
      raise turns.WorkerError('no compiler here')
    ours = module in ('benchmarks.training_worker', 'benchmarks.gemm')
    self.scale, devices = 1 if ours else 3, job.devices or 1
    self.step = 1e-3 * self.scale * job.inner_steps * job.tasks / devices
    self.info = {
      'first_seconds': 2.0, 'start_rss_mib': 50, 'gflop': 0.01,
      'temp_mib': self.scale, 'platform': 'cpu', 'device': 'fake',
      'devices': devices,
    }  # fmt: skip
    self.asked = []
    if job.gradient:
      assert job.dtype == 'float64'
      np.save(job.gradient, np.arange(4.0) + 1e-6 * (module == wrong))

  def run(self, calls):
    return {'seconds': [self.step] * calls, 'peak_rss_mib': 100 * self.scale}

  def ask(self, line):
    self.asked.append(line)

  def seconds(self):
    return 0.0

  def close(self):
    pass


@pytest.fixture
def fake(monkeypatch):
  """Every worker is a fake; every peer but learn2learn is there."""
  workers = []

  def start(module, job, checkout='', **options):
    workers.append(Fake(module, job, **options))
    workers[-1].checkout = checkout
    workers[-1].step *= 2 if checkout else 1
    return workers[-1]

  monkeypatch.setattr(contest, 'start_worker', start)
  missing = lambda peer: 'not there' * ('learn2learn' in peer.needs)
  monkeypatch.setattr(peers.Peer, 'missing', missing)
  monkeypatch.setattr(turns, 'busy', lambda: None)

  def spoil(**options):
    monkeypatch.setattr(
      contest, 'start_worker', lambda module, job: start(module, job, **options)
    )

  return workers, spoil


def call(*arguments):
  with pytest.raises(SystemExit) as stopped:
    cli.run(benchmark.main, benchmark.FLAGS, ['program', *map(str, arguments)])
  return stopped.value.code or 0


def run(folder, *options):
  code = call(*options, '--rounds=2', '--seconds=0.001', f'--output={folder}')
  path = folder / 'benchmark.json'
  return code, json.loads(path.read_text()) if path.exists() else None


def test_rows_of_training_and_peers(fake, tmp_path, capsys):
  code, content = run(
    tmp_path, '--workloads=W1,W2', '--inner_steps=1,5', '--devices=1,2',
    '--peers', '--libraries=torch.func,learn2learn,plain-jax', '--profile',
  )  # fmt: skip
  out, err = capsys.readouterr()
  assert code == 0, err
  assert content['schema'] == 1 and content['device'] == 'fake'
  # Five products of 0.01 GFLOP, a millisecond each.
  assert content['gemm_gflops'] == pytest.approx(10)
  rows = content['rows']
  kept = lambda name: [r for r in rows if r['workload'] == name]
  # 25 tasks do not divide by two devices, 32 do.
  assert len(kept('W1')) == 2 * 3 and len(kept('W2')) == 2 * 4
  for row in rows:
    assert set(row) == KEYS
    ours, two = row['library'] == 'metaad_jax', row['devices'] == 2
    expected = row['inner_steps'] * row['tasks'] * (1 if ours else 3)
    assert row['milliseconds'] == pytest.approx(expected / row['devices'])
    assert row['ratio'] == pytest.approx(0.5 if two else 1 if ours else 3)
    assert row['gradient_error'] == 0
    seconds = row['milliseconds'] / 1000
    assert row['compile_seconds'] == pytest.approx(2 - seconds)
    assert row['peak_rss_mib'] == (100 if ours else 300)
    assert row['tasks_per_second'] == pytest.approx(row['tasks'] / seconds)
    assert row['gflops'] == pytest.approx(row['minimal_gflop'] / seconds)
    assert row['share_of_peak'] == pytest.approx(row['gflops'] / 10)
  left = '\n'.join(content['left_out'])
  assert left.count('25 tasks do not divide by 2 devices') == 1
  assert 'learn2learn: left out: not there' in left
  text = (tmp_path / 'benchmark.md').read_text()
  assert text.strip() in out and 'learn2learn: left out' in text
  table = [line for line in text.splitlines() if line.startswith('| torch.f')]
  assert len(table) == 4 and all('3.00 (3.00-3.00)' in line for line in table)
  pictures = {path.name for path in tmp_path.glob('*.png')}
  assert pictures == {
    'benchmark.png', 'growth-inner_steps.png', 'growth-devices.png'
  }  # fmt: skip
  profiled = [line for worker in fake[0] for line in worker.asked]
  assert len(set(profiled)) == 2 + 4


def test_growth_and_several_learners(fake, tmp_path):
  code, content = run(
    tmp_path, '--workloads=W2', '--inner_steps=1', '--meta_batch=1,4',
    '--learners=fomaml,maml:mode=remat,adapt_steps=3+reptile',
    '--width=0.5,1',
  )  # fmt: skip
  rows = content['rows']
  assert code == 0 and len(rows) == 2 * 2 * 3
  # One of each algorithm: there is no other gradient to compare with.
  assert {row['gradient_error'] for row in rows} == {None}
  remat = 'maml:mode=remat,adapt_steps=3'
  least = {(row['learner'], row['width']): row['minimal_gflop'] for row in rows}
  assert {learner for learner, _ in least} == {'fomaml', remat, 'reptile'}
  assert least['fomaml', 1] < least[remat, 1] > least[remat, 0.5]
  pictures = {path.name for path in tmp_path.glob('growth*.png')}
  assert pictures == {'growth-tasks.png', 'growth-width.png'}


def test_other_libraries_join_where_they_have_the_algorithm(fake, tmp_path):
  _, content = run(
    tmp_path, '--workloads=W2', '--inner_steps=1', '--peers',
    '--learners=maml+anil+protonet', '--libraries=torchopt,plain-jax',
  )  # fmt: skip
  shown = [(r['library'], r['learner'], r['ratio']) for r in content['rows']]
  ours = 'metaad_jax'
  assert [(library, name) for library, name, _ in shown] == [
    (ours, 'maml'), ('torchopt', 'maml'), ('plain-jax', 'maml'),
    (ours, 'anil'), ('torchopt', 'anil'), (ours, 'protonet'),
  ]  # fmt: skip
  assert all(r == pytest.approx(1 if n == ours else 3) for n, _, r in shown)


def test_another_commit_takes_turns_with_this_one(fake, tmp_path, capsys):
  options = '--workloads=W1', '--inner_steps=1', '--precision=tf32'
  code, content = run(tmp_path, *options, '--compare=HEAD')
  if code == 2 and 'not a git repository' in capsys.readouterr().err:
    pytest.skip('no checkout')
  assert code == 0
  ours, other = content['rows']
  assert (ours['commit'], other['commit']) == (None, 'HEAD')
  assert other['ratio'] == pytest.approx(2) and ours['precision'] == 'tf32'
  folders = {worker.checkout for worker in fake[0]} - {''}
  (folder,) = folders
  assert not pathlib.Path(folder).exists()
  assert run(tmp_path, *options, '--compare=nowhere')[0] == 2


def test_another_gradient_stops_all(fake, tmp_path, capsys):
  fake[1](wrong='benchmarks.peers.higher')
  options = '--workloads=W1', '--inner_steps=1', '--peers'
  assert run(tmp_path, *options, '--libraries=higher') == (1, None)
  message = capsys.readouterr().err
  assert re.search(r'error: W1.* gradient of higher differs .*e-07', message)


def test_a_peer_that_does_not_start_is_named_and_left_out(fake, tmp_path):
  fake[1](broken='benchmarks.peers.torch_compile')
  _, content = run(
    tmp_path, '--workloads=W1', '--inner_steps=1', '--peers',
    '--libraries=torch.compile,torch-loop', '--at_once=0,5',
  )  # fmt: skip
  ours = 'metaad_jax'
  shown = [(row['library'], row['at_once']) for row in content['rows']]
  assert shown == [(ours, None), (ours, 5), ('torch-loop', None)]
  (line,) = content['left_out']
  assert line.startswith('torch.compile') and line.endswith('no compiler here')


def test_a_peer_is_missing_without_its_packages(monkeypatch, tmp_path):
  there = peers.Peer('benchmarks.peers.plain_jax', ('jax',))
  gone = peers.Peer('x', ('jax', 'no_such_package'), 'NO_SDIST')
  assert there.missing() == ''
  assert 'no_such_package is not installed' in gone.missing()
  monkeypatch.setenv('NO_SDIST', str(tmp_path))
  assert gone.missing() == ''


def test_learners_are_split_where_options_are_not():
  text = 'maml:mode=mixed,steps=2,fomaml+reptile:steps=1,rate=0.1'
  assert contest.split_learners(text) == [
    'maml:mode=mixed,steps=2', 'fomaml', 'reptile:steps=1,rate=0.1'
  ]  # fmt: skip


@pytest.mark.parametrize(
  'argument',
  [
    'workloads=nothing', 'learners=relation', 'learners=maml:mode=fast',
    'learners=maml:steps=2', 'inner_steps=0', 'inner_steps=few', 'width=nan',
    'devices=-1', 'libraries=keras', 'rounds=0', 'seconds=0', 'repeats=0',
  ],
)  # fmt: skip
def test_a_wrong_flag_is_refused_before_anything_runs(
  argument, fake, capsys, tmp_path
):
  out = tmp_path / 'out'
  code = call('--workloads=W1', f'--{argument}', f'--output={out}')
  err = capsys.readouterr().err
  assert code == 2 and err.count('\n') == 1
  assert argument.partition('=')[0] in err or 'mode' in err
  assert not out.exists() and not fake[0]


def test_the_detector_beside_others(tmp_path, capsys):
  run_dir = nearest_run.shared()
  code = call(
    '--workloads=detector', f'--run_dir={run_dir}', f'--output={tmp_path}',
    '--repeats=2', '--cold=0', '--rows=40', '--columns=3',
  )  # fmt: skip
  assert code == 0, capsys.readouterr()
  rows = json.loads((tmp_path / 'benchmark.json').read_text())['rows']
  methods = {'metaad_jax', 'IsolationForest', 'LOF', 'ECOD'}
  for what, count in (('fit', 20), ('score', 1), ('score', 40)):
    same = [r for r in rows if (r['what'], r['rows']) == (what, count)]
    assert methods <= {row['library'] for row in same}
  for row in rows:
    assert set(row) == KEYS | {'what', 'rows', 'columns'}
    assert 0 < row['least'] <= row['q1'] <= row['milliseconds'] <= row['q3']
    assert row['ratio_low'] <= row['ratio'] <= row['ratio_high']
    assert row['library'] != 'metaad_jax' or row['ratio'] == 1


def test_methods_take_turns():
  calls = []
  name = lambda n: lambda: calls.append(n)
  taken = detector_timing.turns({'a': name('a'), 'b': name('b')}, 2)
  assert ''.join(calls) == 'ab' * 3
  assert [len(seconds) for seconds in taken.values()] == [2, 2]


@pytest.mark.slow
def test_real_workers_beside_a_real_peer(tmp_path, capsys):
  """W1 as it is, of few tasks: what is timed has one gradient, in float64."""
  code, content = run(
    tmp_path, '--workloads=W1', '--inner_steps=2', '--meta_batch=2', '--peers',
    '--libraries=plain-jax',
  )  # fmt: skip
  assert code == 0, capsys.readouterr()
  ours, peer = content['rows']
  assert peer['library'] == 'plain-jax' and 0 < peer['gradient_error'] < 1e-12
  for row in (ours, peer):
    assert row['minimal_gflop'] <= row['gflop'] < 2 * row['minimal_gflop']
    assert row['temp_mib'] > 0 and row['compile_seconds'] > 0
    assert row['peak_rss_mib'] >= row['start_rss_mib'] > 30
    assert 0 < row['share_of_peak'] < 1
  for name, code in detector_timing.FIRST.items():
    if name != 'metaad_jax':
      assert detector_timing.process(code, '', 4)().returncode == 0
