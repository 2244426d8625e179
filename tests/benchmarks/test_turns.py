"""Workers take turns; disturbed turns are repeated; workers that die go."""

import os
import sys

import pytest

from benchmarks import turns


class Fake:
  """Takes `seconds` for a call, n times as long when asked for the n-th time.

  A call is two steps. `lives`: how often it answers before it dies.
  """

  def __init__(self, seconds, lives=100):
    self.second, self.lives, self.asked = seconds, lives, 0
    self.info = {'steps_per_call': 2}

  def run(self, calls):
    self.asked += 1
    if self.asked > self.lives:
      raise turns.WorkerError('out of luck')
    return {'seconds': [self.second * self.asked] * calls, 'peak': self.asked}


def take(workers, rounds, seconds, left=None, order=None, **options):
  """Takes turns and measures nothing; remembers whose turn it was."""
  order = [] if order is None else order

  def measure(worker, turn):
    order.append(worker)
    return turn(), 0.0

  leave_out = lambda name, why: left.append((name, str(why)))
  options = {'measure': measure, **options}
  return turns.take_turns(workers, rounds, seconds, leave_out, **options)


def test_workers_take_turns_and_seconds_are_of_a_step():
  a, b = Fake(0.5), Fake(0.25)
  order, progress = [], []
  timed = take(
    {'a': a, 'b': b}, 3, 1.0, order=order, progress=lambda: progress.append(1)
  )
  assert order == [a, b] * 3 and len(progress) == 6
  # The first answer is not counted. Two calls of `a` fill a second, four of b.
  assert timed['a'].rounds == [[0.5] * 2, [0.75] * 2, [1.0] * 2]
  assert timed['b'].rounds == [[0.25] * 4, [0.375] * 4, [0.5] * 4]
  assert timed['a'].said['peak'] == 4
  assert turns.ratio(timed['a'], timed['b']) == (2, 2, 2)


def test_ratio_is_taken_turn_by_turn():
  slow, fast = turns.Timed([[2], [9], [8]]), turns.Timed([[1], [3], [2]])
  assert turns.ratio(slow, fast) == (3, 2, 4)


def test_slow_workers_get_few_rounds():
  fast, slow, order = Fake(0.1), Fake(3.0), []
  take({'fast': fast, 'slow': slow}, 5, 0.1, order=order)
  assert order.count(fast) == 5 and order.count(slow) == 3


def test_a_disturbed_turn_is_taken_again_but_not_for_ever(monkeypatch):
  slept = []
  monkeypatch.setattr(turns.time, 'sleep', slept.append)
  others = iter([0.5, 0.5, 0.0] + [0.5] * 100)
  timed = take(
    {'a': Fake(0.01)}, 2, 0.02,
    measure=lambda worker, turn: (turn(), next(others)),
  )  # fmt: skip
  # The first turn was undisturbed at the third try, the second never.
  assert timed['a'].disturbed == 1 and len(timed['a'].rounds) == 2
  assert 2 <= len(slept) <= 2 + 3


def test_a_worker_that_dies_is_left_out_and_the_others_go_on():
  left = []
  workers = {'mortal': Fake(0.5, 2), 'born dead': Fake(0.5, 0), 'a': Fake(0.5)}
  timed = take(workers, 4, 0.5, left)
  assert list(timed) == ['a'] and len(timed['a'].rounds) == 4
  assert left == [('born dead', 'out of luck'), ('mortal', 'out of luck')]


def test_a_worker_that_cannot_start_or_dies_says_why():
  with pytest.raises(turns.WorkerError, match='no such thing'):
    turns.Worker([sys.executable, '-c', 'raise OSError("no such thing")'], {})
  code = 'import sys; print("{}", flush=True); input(); sys.exit("too old")'
  worker = turns.Worker([sys.executable, '-c', code], {})
  with pytest.raises(turns.WorkerError, match='too old'):
    worker.run(1)
  worker.close()


@pytest.mark.skipif(turns.busy() is None, reason='no /proc/stat here')
def test_the_processor_time_of_a_worker_is_not_that_of_others():
  code = (
    'import sys, time; print("{}", flush=True)\n'
    'for line in sys.stdin:\n'
    '  end = time.process_time() + float(line)\n'
    '  while time.process_time() < end: pass\n'
    '  print("{}", flush=True)'
  )
  worker = turns.Worker([sys.executable, '-c', code], {})
  try:
    before = worker.seconds()
    answer, others = turns.foreign(worker, lambda: worker.ask('0.2'))
    assert answer == {} and 0 <= others <= os.cpu_count()
    assert 0.15 < worker.seconds() - before < 0.5
  finally:
    worker.close()
