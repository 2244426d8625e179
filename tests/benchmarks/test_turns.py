"""Workers take turns; what disturbs a turn is seen; what dies is told."""

import os
import sys

import pytest

from benchmarks import turns

# Says what it is, then takes `seconds` for every call it is asked for.
FAKE = """
import json, sys
name, seconds = sys.argv[1], float(sys.argv[2])
print(json.dumps({'name': name, 'steps_per_call': 2}), flush=True)
for count, line in enumerate(sys.stdin):
  if name == 'mortal' and count == 2:
    sys.exit('out of luck')
  calls = int(line.split()[1])
  said = {'seconds': [seconds * (1 + count)] * calls, 'peak_rss_mib': count}
  print(json.dumps(said), flush=True)
"""


def worker(name, seconds=0.5):
  return turns.Worker([sys.executable, '-c', FAKE, name, str(seconds)], {})


@pytest.fixture
def start():
  started = []

  def one(*arguments):
    started.append(worker(*arguments))
    return started[-1]

  yield one
  for each in started:
    each.close()


def quiet(order):
  """Measures nothing; remembers whose turn it was."""

  def measure(worker, turn):
    order.append(worker.info['name'])
    return turn(), 0.0

  return measure


def refuse(name, why):
  raise AssertionError(f'{name}: {why}')


def test_workers_take_turns_and_seconds_are_of_a_step(start):
  order, told = [], []
  found = turns.take_turns(
    {'a': start('a', 0.5), 'b': start('b', 0.25)}, 3, 1.0, refuse,
    lambda: told.append(1), quiet(order),
  )  # fmt: skip
  assert ''.join(order) == 'ababab' and len(told) == 6
  # Two steps a call; the n-th answer of a worker takes n times as long, and
  # the first is not counted. Two calls of `a` fill a second, four of `b`.
  assert found['a'].rounds == [[0.5] * 2, [0.75] * 2, [1.0] * 2]
  assert found['b'].rounds == [[0.25] * 4, [0.375] * 4, [0.5] * 4]
  assert found['a'].said['peak_rss_mib'] == 3
  assert turns.ratio(found['a'], found['b']) == (2, 2, 2)


def test_ratio_is_taken_turn_by_turn():
  slow, fast = turns.Timed([[2], [9], [8]]), turns.Timed([[1], [3], [2]])
  assert turns.ratio(slow, fast) == (3, 2, 4)


def test_slow_workers_get_few_rounds(start):
  order = []
  turns.take_turns(
    {'a': start('a', 0.1), 'slow': start('slow', 3.0)}, 5, 0.1, refuse,
    measure=quiet(order),
  )  # fmt: skip
  assert order.count('a') == 5 and order.count('slow') == 3


def test_a_disturbed_turn_is_taken_again_but_not_for_ever(start, monkeypatch):
  slept = []
  monkeypatch.setattr(turns.time, 'sleep', slept.append)
  others = iter([0.5, 0.5, 0.0] + [0.5] * 100)
  found = turns.take_turns(
    {'a': start('a', 0.01)}, 2, 0.02, refuse,
    measure=lambda worker, turn: (turn(), next(others)),
  )  # fmt: skip
  # The first turn was undisturbed at the third try, the second never.
  assert found['a'].disturbed == 1 and len(found['a'].rounds) == 2
  assert 2 <= len(slept) <= 2 + 3


def test_a_worker_that_dies_is_left_out_and_the_others_go_on(start):
  left = []
  found = turns.take_turns(
    {'mortal': start('mortal'), 'a': start('a')}, 4, 0.5,
    lambda name, why: left.append((name, str(why))), measure=quiet([]),
  )  # fmt: skip
  assert list(found) == ['a'] and len(found['a'].rounds) == 4
  assert left == [('mortal', 'out of luck')]


def test_a_worker_that_cannot_start_says_why():
  with pytest.raises(turns.WorkerError, match='no such thing'):
    turns.Worker([sys.executable, '-c', 'raise OSError("no such thing")'], {})


@pytest.mark.skipif(turns.busy() is None, reason='no /proc/stat here')
def test_the_processor_time_of_a_worker_is_its_own():
  code = (
    'import sys, time; print("{}", flush=True)\n'
    'for line in sys.stdin:\n'
    '  end = time.process_time() + float(line)\n'
    '  while time.process_time() < end: pass\n'
    '  print("{}", flush=True)'
  )
  busy = turns.Worker([sys.executable, '-c', code], {})
  try:
    before = busy.seconds(), turns.busy()
    busy.ask('0.3')
    used = busy.seconds() - before[0]
    assert 0.25 < used < 0.6
    assert turns.busy() - before[1] > 0.2
    # Asked by nobody: all that is used now is foreign to it.
    answer, others = turns.foreign(busy, lambda: busy.ask('0.2'))
    assert answer == {} and 0 <= others <= os.cpu_count()
  finally:
    busy.close()
