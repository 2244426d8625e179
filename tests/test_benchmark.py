"""The benchmark measures what it says, tiny."""

import json

import nearest_run
import numpy as np
import pytest

from experiments import benchmark, cli, explanations
from metaad_jax.base import Entity


def call(program, *arguments):
  with pytest.raises(SystemExit) as stopped:
    cli.run(program.main, program.FLAGS, ['program', *map(str, arguments)])
  return stopped.value.code or 0


@pytest.fixture(scope='module')
def run_dir(tmp_path_factory):
  return nearest_run.write(tmp_path_factory.mktemp('run') / 'nearest.npz')


def test_detector(run_dir, tmp_path, capsys):
  options = ('--repeats=2', '--cold=0', '--rows=40', '--columns=3')
  code = call(
    benchmark, '--workload=detector', f'--run_dir={run_dir}',
    f'--output={tmp_path}', *options,
  )  # fmt: skip
  assert code == 0, capsys.readouterr()
  content = json.loads((tmp_path / 'benchmark.json').read_text())
  assert content['schema'] == 1
  rows = content['rows']
  methods = {'metaad_jax', 'IsolationForest', 'LOF', 'ECOD'}
  for what, count in (('fit', 20), ('score', 1), ('score', 40)):
    found = [r for r in rows if (r['what'], r['rows']) == (what, count)]
    assert methods <= {r['method'] for r in found}
  for row in rows:
    assert 0 < row['min_ms'] <= row['q1_ms'] <= row['median_ms'] <= row['q3_ms']
  assert (tmp_path / 'benchmark.png').read_bytes().startswith(b'\x89PNG')
  assert 'IsolationForest' in capsys.readouterr().out


def test_methods_take_turns():
  calls = []
  name = lambda n: lambda: calls.append(n)
  taken = benchmark._turns({'a': name('a'), 'b': name('b')}, 2)
  assert ''.join(calls) == 'ab' * 3
  assert [len(seconds) for seconds in taken.values()] == [2, 2]


def test_a_fresh_process_of_each_method_ends_well():
  """The programs at least compile; only one is run, for the time it takes."""
  for code in benchmark._FIRST.values():
    compile(benchmark._DATA + code + benchmark._LAST, 'first', 'exec')
  benchmark.FLAGS(['program', '--columns=4'])
  told = benchmark._process(benchmark._FIRST['IsolationForest'])()
  assert told.returncode == 0


def test_an_unknown_workload_is_refused(capsys):
  assert call(benchmark, '--workload=nothing') == 2
  assert 'detector' in capsys.readouterr().err


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
