"""The benchmark measures what it says, tiny."""

import json
import re
import sys

import nearest_run
import numpy as np
import pytest

from benchmarks import detector_timing, page, peers, turns
from experiments import benchmark, cli, explanations
from metaad_jax.base import Entity

KEYS = {
  'workload', 'learner', 'inner_steps', 'tasks', 'devices', 'library',
  'milliseconds', 'q1', 'q3', 'least', 'compile_seconds', 'tasks_per_second',
  'temp_mib', 'peak_rss_mib', 'gradient_error', 'gflop', 'minimal_gflop',
  'share_of_peak', 'ratio', 'ratio_low', 'ratio_high',
}  # fmt: skip


def call(program, *arguments):
  with pytest.raises(SystemExit) as stopped:
    cli.run(program.main, program.FLAGS, ['program', *map(str, arguments)])
  return stopped.value.code or 0


@pytest.fixture(scope='module')
def run_dir(tmp_path_factory):
  return nearest_run.write(tmp_path_factory.mktemp('run') / 'nearest.npz')


# --- detector ----------------------------------------------------------------


def test_detector(run_dir, tmp_path, capsys):
  options = ('--repeats=2', '--cold=0', '--rows=40', '--columns=3')
  code = call(
    benchmark, '--workloads=detector', f'--run_dir={run_dir}',
    f'--output={tmp_path}', *options,
  )  # fmt: skip
  assert code == 0, capsys.readouterr()
  content = json.loads((tmp_path / 'benchmark.json').read_text())
  assert content['schema'] == 1
  rows = content['rows']
  methods = {'metaad_jax', 'IsolationForest', 'LOF', 'ECOD'}
  for what, count in (('fit', 20), ('score', 1), ('score', 40)):
    found = [r for r in rows if (r['what'], r['rows']) == (what, count)]
    assert methods <= {r['library'] for r in found}
  for row in rows:
    assert set(row) > KEYS
    assert 0 < row['least'] <= row['q1'] <= row['milliseconds'] <= row['q3']
    assert row['ratio_low'] <= row['ratio'] <= row['ratio_high']
    assert row['library'] != 'metaad_jax' or row['ratio'] == 1
  assert (tmp_path / 'benchmark.png').read_bytes().startswith(b'\x89PNG')
  assert 'IsolationForest' in capsys.readouterr().out


def test_methods_take_turns():
  calls = []
  name = lambda n: lambda: calls.append(n)
  taken = detector_timing.turns({'a': name('a'), 'b': name('b')}, 2)
  assert ''.join(calls) == 'ab' * 3
  assert [len(seconds) for seconds in taken.values()] == [2, 2]


def test_a_fresh_process_of_each_method_ends_well():
  """The programs at least compile; only one is run, for the time it takes."""
  for code in detector_timing.FIRST.values():
    whole = detector_timing.DATA + code + detector_timing.LAST
    compile(whole, 'first', 'exec')
  first = detector_timing.FIRST['IsolationForest']
  assert detector_timing.process(first, '', 4)().returncode == 0


# --- meta-training, with workers that only say that they work ----------------

FAKE = """
import json, os, sys
module, job = sys.argv[1], json.loads(sys.argv[2])
scale = {'benchmarks.training_worker': 1, 'benchmarks.gemm': 1}.get(module, 3)
if job['gradient']:
  import numpy as np
  wrong = 1e-6 * (module == os.environ.get('WRONG'))
  np.save(job['gradient'], np.arange(4.0) + wrong)
  print('{}', flush=True)
  sys.exit()
if module == os.environ.get('BROKEN'):
  sys.exit('no compiler here')
devices = job['devices'] or 1
seconds = 1e-3 * scale * job['inner_steps'] * job['tasks'] / devices
print(json.dumps({
  'first_seconds': 2.0, 'start_rss_mib': 50, 'gflop': 0.01, 'temp_mib': scale,
  'platform': 'cpu', 'device': 'fake', 'devices': devices,
}), flush=True)
for line in sys.stdin:
  word, argument = line.split(maxsplit=1)
  if word == 'profile':
    os.makedirs(argument.strip())
    print('{}', flush=True)
    continue
  said = {'seconds': [seconds] * int(argument), 'peak_rss_mib': 100 * scale}
  print(json.dumps(said), flush=True)
"""


@pytest.fixture
def fake(monkeypatch):
  """Every worker is a fake; every peer but learn2learn is there."""
  monkeypatch.setattr(
    benchmark,
    '_worker',
    lambda module, job: turns.Worker(
      [sys.executable, '-c', FAKE, module, json.dumps(job._asdict())], {}
    ),
  )
  missing = lambda peer: 'not there' * ('learn2learn' in peer.needs)
  monkeypatch.setattr(peers.Peer, 'missing', missing)
  return monkeypatch


def run(tmp_path, *options):
  fast = ('--rounds=2', '--seconds=0.001', f'--output={tmp_path}')
  code = call(benchmark, *options, *fast)
  path = tmp_path / 'benchmark.json'
  return code, json.loads(path.read_text()) if path.exists() else None


def test_rows_of_training_and_peers(fake, tmp_path, capsys):
  code, content = run(
    tmp_path, '--workloads=W1,W2', '--inner_steps=1,5', '--devices=1,2',
    '--peers', '--libraries=torch.func,learn2learn,plain-jax', '--profile',
  )  # fmt: skip
  out, err = capsys.readouterr()
  assert code == 0, err
  assert content['schema'] == 1 and content['device'] == 'fake'
  rows = content['rows']
  assert all(set(row) > KEYS for row in rows)
  kept = lambda name: [r for r in rows if r['workload'] == name]
  # 25 tasks do not divide by two devices, 32 do.
  assert len(kept('W1')) == 2 * 3 and len(kept('W2')) == 2 * 4
  for row in rows:
    own, two = row['library'] == 'metaad_jax', row['devices'] == 2
    expected = row['inner_steps'] * row['tasks'] * (1 if own else 3)
    assert row['milliseconds'] == pytest.approx(expected / row['devices'])
    assert row['ratio'] == pytest.approx(0.5 if two else 1 if own else 3)
    assert row['gradient_error'] == 0 and row['compile_seconds'] < 2
    assert row['peak_rss_mib'] == (100 if own else 300)
    seconds = row['milliseconds'] / 1000
    assert row['tasks_per_second'] == pytest.approx(row['tasks'] / seconds)
    share = row['minimal_gflop'] / seconds / content['gemm_gflops']
    assert row['share_of_peak'] == pytest.approx(share)
  left = '\n'.join(content['left_out'])
  assert 'learn2learn: left out: not there' in left
  assert left.count('25 tasks do not divide by 2 devices') == 1
  assert err.count('learn2learn') == 1
  # The page is what is printed, and says the same.
  page = (tmp_path / 'benchmark.md').read_text()
  assert page.strip() in out and 'learn2learn: left out' in page
  table = [line for line in page.splitlines() if line.startswith('| torch.f')]
  assert len(table) == 4 and all('3.00 (3.00-3.00)' in line for line in table)
  for line in page.splitlines():
    assert not line.startswith('|') or line.endswith('|')
  pictures = {path.name for path in tmp_path.glob('*.png')}
  assert pictures == {
    'benchmark.png', 'growth-inner_steps.png', 'growth-devices.png'
  }  # fmt: skip
  assert len(list((tmp_path / 'profile').iterdir())) == 2 + 4


def test_growth_and_several_learners(fake, tmp_path):
  code, content = run(
    tmp_path, '--workloads=W2', '--inner_steps=1', '--meta_batch=1,4',
    '--learners=fomaml,maml:mode=remat,adapt_steps=3+reptile',
    '--width=0.5,1',
  )  # fmt: skip
  assert code == 0
  rows = content['rows']
  assert len(rows) == 2 * 2 * 3
  assert {row['learner'] for row in rows} == {
    'fomaml', 'maml:mode=remat,adapt_steps=3', 'reptile'
  }  # fmt: skip
  # One of each algorithm: there is no other gradient to compare with.
  assert {row['gradient_error'] for row in rows} == {None}
  assert {row['tasks'] for row in rows} == {1, 4}
  least = {
    (row['learner'].partition(':')[0], row['width']): row['minimal_gflop']
    for row in rows
  }
  assert least['fomaml', 1] < least['maml', 1]
  assert least['maml', 0.5] < least['maml', 1]
  pictures = {path.name for path in tmp_path.glob('growth*.png')}
  assert pictures == {'growth-tasks.png', 'growth-width.png'}


def test_another_gradient_stops_all(fake, tmp_path, capsys):
  fake.setenv('WRONG', 'benchmarks.peers.higher')
  code, content = run(
    tmp_path, '--workloads=W1', '--inner_steps=1', '--peers',
    '--libraries=higher',
  )  # fmt: skip
  assert (code, content) == (1, None)
  told = capsys.readouterr().err
  assert re.search(r'error: W1.* gradient of higher differs .*e-07', told)


def test_a_peer_that_does_not_start_is_named_and_left_out(
  fake, tmp_path, capsys
):
  fake.setenv('BROKEN', 'benchmarks.peers.torch_compile')
  code, content = run(
    tmp_path, '--workloads=W1', '--inner_steps=1', '--peers',
    '--libraries=torch.compile,torch-loop', '--at_once=0,5',
  )  # fmt: skip
  assert code == 0
  found = [(row['library'], row['at_once']) for row in content['rows']]
  own = [('metaad_jax', None), ('metaad_jax', 5)]
  assert found == [*own, ('torch-loop', None)]
  (line,) = content['left_out']
  assert line.startswith('torch.compile') and line.endswith('no compiler here')
  assert line in capsys.readouterr().err


def test_a_peer_is_missing_without_its_packages(monkeypatch, tmp_path):
  there = peers.Peer('benchmarks.peers.plain_jax', ('jax',))
  gone = peers.Peer('x', ('jax', 'no_such_package'), 'NO_SDIST')
  assert there.missing() == ''
  assert 'no_such_package is not installed' in gone.missing()
  monkeypatch.setenv('NO_SDIST', str(tmp_path))
  assert gone.missing() == ''


def test_learners_are_split_where_options_are_not():
  assert benchmark.split_learners('maml') == ['maml']
  text = 'maml:mode=mixed,steps=2,fomaml+reptile:steps=1,rate=0.1'
  assert benchmark.split_learners(text) == [
    'maml:mode=mixed,steps=2', 'fomaml', 'reptile:steps=1,rate=0.1'
  ]  # fmt: skip


def test_numbers_have_three_digits_and_no_exponents():
  shown = [page.format_number(v) for v in (0, 0.0123456, 1, 12345.6)]
  assert shown == ['0', '0.0123', '1.00', '12,346']


def test_a_real_worker_beside_a_real_peer(tmp_path, capsys):
  """W1 as it is, of few tasks: what is timed has one gradient, in float64."""
  code, content = run(
    tmp_path, '--workloads=W1', '--inner_steps=2', '--meta_batch=2', '--peers',
    '--libraries=plain-jax',
  )  # fmt: skip
  assert code == 0, capsys.readouterr()
  own, peer = content['rows']
  assert peer['library'] == 'plain-jax'
  assert 0 < peer['gradient_error'] < 1e-12
  for row in (own, peer):
    assert row['minimal_gflop'] <= row['gflop'] < 2 * row['minimal_gflop']
    assert row['temp_mib'] > 0 and row['compile_seconds'] > 0
    assert row['peak_rss_mib'] >= row['start_rss_mib'] > 30
    assert 0 < row['share_of_peak'] < 1


# --- command lines -----------------------------------------------------------


@pytest.mark.parametrize(
  ('argument', 'told'),
  [
    ('--workloads=nothing', 'detector'),
    ('--workloads=W1 --learners=protonet', "'protonet'"),
    ('--workloads=W1 --learners=maml:mode=fast', 'mode'),
    ('--workloads=W1 --learners=', 'empty'),
    ('--workloads=W1 --learners=maml:steps=2', '--inner_steps'),
    ('--workloads=W1 --inner_steps=0', 'inner_steps'),
    ('--workloads=W1 --inner_steps=few', 'inner_steps'),
    ('--workloads=W1 --meta_batch=-1', 'meta_batch'),
    ('--workloads=W1 --width=0', 'width'),
    ('--workloads=W1 --width=nan', 'width'),
    ('--workloads=W1 --devices=-1', 'devices'),
    ('--workloads=W1 --at_once=-1', 'at_once'),
    ('--workloads=W1 --libraries=keras', "'keras'"),
    ('--workloads=W1 --rounds=0', 'rounds'),
    ('--workloads=W1 --seconds=0', 'seconds'),
    ('--workloads=detector --repeats=0', 'repeats'),
  ],
)
def test_a_wrong_flag_is_told_in_one_line(argument, told, capsys, tmp_path):
  code = call(benchmark, *argument.split(), f'--output={tmp_path / "out"}')
  err = capsys.readouterr().err
  assert code == 2 and err.count('\n') == 1 and told in err
  assert not (tmp_path / 'out').exists()


def test_planted_columns_are_found(run_dir):
  explanations.FLAGS(['program', f'--run_dir={run_dir}'])
  rng = np.random.default_rng(4)
  normal, _ = nearest_run.table(rng, 60, 5)
  normal[:, 2] = 1  # cannot be planted in: it has no range
  entity = Entity('a', normal[:30], normal[30:], np.zeros(30, np.int32))
  found = explanations.planted_columns(entity, rng, 6)
  assert all(row['found'] and row['place'] == 0 for row in found)
  assert max(row['error'] for row in found) < 1e-6
  assert '6 (100.0%)' in explanations.summary(found)


def test_planted_bands_are_found(run_dir):
  """Tones 20 to 200 times as strong as the noise in a band of 4 lines."""
  explanations.FLAGS(['program', f'--run_dir={run_dir}'])
  rng = np.random.default_rng(5)
  windows = rng.normal(size=(40, 256, 2)).astype(np.float32)
  entity = Entity('a', windows[:20], windows[20:], np.zeros(20, np.int32))
  found = explanations.planted_bands('noise', 100.0, entity, rng, 6)
  assert [row['place'] for row in found] == [0] * 6
  assert all(row['columns'] == 64 for row in found)
  assert max(row['error'] for row in found) < 1e-6
