"""The suites: their parts, what is kept of them, the page."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks import (
  contest,
  limits,
  page,
  precision,
  score_worker,
  serving,
  suite,
  suite_page,
  suite_worker,
  workloads,
)
from experiments import benchmark, cli

LIMITS = {
  'platform': 'cpu', 'device': 'fake', 'clocks': '', 'copy_gbs': 10.0,
  'gemm_gflops': {'highest': 100.0, 'tf32': 300.0}, 'call_us': 5.0,
}  # fmt: skip


def row(library, milliseconds):
  known = dict.fromkeys((
    'commit', 'at_once', 'temp_mib', 'peak_device_mib', 'xla_gflop',
    'gradient_error', 'ratio', 'peak_rss_mib', 'start_rss_mib',
  ))  # fmt: skip
  return known | {
    'workload': 'W1', 'library': library, 'learner': 'maml', 'inner_steps': 5,
    'tasks': 25, 'width': 1, 'devices': 1, 'milliseconds': milliseconds,
    'q1': 1.0, 'q3': 2.0, 'least': 1.0, 'tasks_per_second': 10.0,
    'compile_seconds': 1.0, 'gflop': 0.04, 'minimal_gflop': 0.04,
    'gflops': 40 / milliseconds, 'share_of_peak': 0.4, 'product_mib': 1.0,
  }  # fmt: skip


@pytest.fixture
def fake(monkeypatch):
  """Nothing is measured; what was begun is in the list."""
  begun = []

  def asked(what, platform):
    begun.append(what)
    return 'cpu' if what == 'platform' else LIMITS if what == 'limits' else []

  def measured(cells, **_):
    begun.append('contest')
    return {'left_out': ['torch: none'], 'rows': [row(contest.OURS, 1.0)]}

  monkeypatch.setattr(suite, '_asked', asked)
  monkeypatch.setattr(contest, 'measure', measured)
  monkeypatch.setattr(precision, 'of_gradient', lambda *_: [])
  monkeypatch.setattr(precision, 'of_scores', lambda *_: [])
  monkeypatch.setattr(suite.records, 'code_version', lambda: 'one')
  return begun


def call(*arguments):
  with pytest.raises(SystemExit) as stopped:
    cli.run(benchmark.main, benchmark.FLAGS, ['program', *map(str, arguments)])
  return stopped.value.code or 0


def test_a_suite_goes_on_where_it_was_left(fake, tmp_path, monkeypatch, capsys):
  command = '--suite=cpu', f'--output={tmp_path}'
  clock = iter(range(0, 10**6, 100))
  monkeypatch.setattr(suite.time, 'monotonic', lambda: next(clock))
  assert call(*command, '--minutes=9') == 1
  assert 'give the same command again' in capsys.readouterr().err
  first = len(fake)
  assert first < len(suite.parts('cpu', 'cpu', 1, 1))
  assert call(*command) == 0
  kept = {path.stem for path in (tmp_path / 'parts').iterdir()}
  assert kept == {*suite.parts('cpu', 'cpu', 1, 1)}
  fake.clear()
  assert call(*command) == 0 and fake == ['platform']
  monkeypatch.setattr(suite.records, 'code_version', lambda: 'two')
  assert call(*command) == 0 and len(fake) > 9  # other code: all anew
  text = (tmp_path / 'suite.md').read_text()
  assert 'torch: none' in text and 'code two' in text
  assert (tmp_path / 'roofline.png').stat().st_size > 1000


def test_a_part_that_fails_is_named_and_tried_again(
  fake, tmp_path, monkeypatch, capsys
):
  def fail(*_):
    raise RuntimeError('no card\nhere')

  monkeypatch.setattr(precision, 'of_scores', fail)
  command = '--suite=precision', f'--output={tmp_path}'
  assert call(*command) == 1
  assert 'precision-scores' in capsys.readouterr().err
  assert 'failed: no card here' in (tmp_path / 'suite.md').read_text()
  monkeypatch.setattr(precision, 'of_scores', lambda *_: [])
  assert call(*command) == 0


def test_an_accelerators_suite_needs_one(fake, tmp_path, capsys):
  assert call('--suite=accelerator', f'--output={tmp_path}') == 1
  assert '--suite=cpu' in capsys.readouterr().err


def test_every_case_is_a_cell_of_the_contest():
  for cases in suite.CASES.values():
    assert len({case.name for case in cases}) == len(cases)
    for case in cases:
      assert case.workload in workloads.WORKLOADS and case.libraries
      grid = contest.Grid(
        [case.workload], ['maml'], [case.inner_steps], [case.tasks],
        [case.width], [0], [0], case.libraries,
      )  # fmt: skip
      (cell,) = contest.cells(grid)
      assert [v.library for v in cell] == [contest.OURS, *case.libraries]


def test_the_share_of_copies():
  """A mebibyte in a millisecond is a ninth and a half of 10 GB/s."""
  found = {'limits': LIMITS, 'W1-5-0-1': {'rows': [row(contest.OURS, 1.0)]}}
  (cell,) = suite_page.cells(found)
  assert cell['share_of_copy'] == pytest.approx(2**20 / 1e-3 / 10e9)


def test_limits_are_positive_and_named(monkeypatch):
  monkeypatch.setattr(limits, '_SIZE', {'cpu': 16})
  monkeypatch.setattr(limits, '_least', lambda call, *_: call().sum() * 0 + 0.5)
  found = limits.measure()
  assert found['gemm_gflops'] == {'highest': pytest.approx(2 * 16**3 / 0.5e9)}
  assert found['copy_gbs'] == pytest.approx(2 * 4 * 2**26 / 0.5e9)
  assert found['platform'] == 'cpu' and isinstance(limits.clocks(), str)


def test_moved_scores_are_told_in_deviations():
  usual = np.tile(np.arange(100.0), (20, 1))
  usual[:, 50:] += 100  # anomalies: all above
  spread = usual[:, :50].std(1, keepdims=True)
  assert precision._moved(usual, usual + spread, spread) == pytest.approx({
    'median': 1, 'most': 1, 'spearman': 1, 'auroc': 1, 'auroc_change': 0,
    'auroc_most': 0,
  })  # fmt: skip
  worse = precision._moved(usual, -usual, spread)
  assert worse['auroc_change'] == -1 and worse['spearman'] == pytest.approx(-1)


@pytest.mark.slow
def test_real_parts(tmp_path, monkeypatch):
  """Gradients at every precision, scores, training, lowering: small ones."""
  (ours, plain) = precision.of_gradient('W1', 1, 'cpu')
  assert ours['highest'] < 1e-5 < ours['tf32'] < ours['bf16'] < 1
  assert plain['highest'] < 1e-5
  monkeypatch.setattr(score_worker, 'TABLES', 2)
  scores = score_worker.scores(serving.Job('W1'))['scores']
  assert all(
    s.shape == (100,) and np.isfinite(s).all() for s in scores.values()
  )
  small = dataclasses.replace(
    suite_worker._TRAINED['maml'], features='statistics',
    source='vibration:machines=12,test_machines=4,windows=12,queries=12,'
    'length=64', shots=(4,), queries=4, model='mlp:width=8,depth=1',
  )  # fmt: skip
  monkeypatch.setattr(suite_worker, '_TRAINED', {'maml': small})
  (told,) = suite_worker.training(4)
  assert told['tasks_per_second'] > 0 and told['seconds'] > 0
  # Of one step: the next is the same again.
  steps = dict.fromkeys(suite_worker._STEPS, 1)
  monkeypatch.setattr(suite_worker, '_STEPS', steps)
  lowered = suite_worker.lowered()
  assert len(lowered) == 15
  assert all(r['convolution'] == 0 for r in lowered if r['backend'] != 'cpu')
  json.dumps([ours, told, lowered])
  assert page.format_number(told['tasks_per_second'])
