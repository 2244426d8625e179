"""A fleet that is followed says what `judge` says, once killed as well."""

import json
import os
import signal
import subprocess
import sys
import time

import calls
import nearest_run
import numpy as np
import pandas as pd
import pytest

from metaad_jax import FleetDetector
from metaad_jax.base import DataError
from metaad_jax.fleet import follow


def frame(n, seed):
  rng = np.random.default_rng(seed)
  made = pd.DataFrame(rng.normal(size=(n, 3)).round(6), columns=list('abc'))
  made.insert(0, 'm', rng.integers(0, 6, n))
  made['t'] = pd.date_range('2024-01-01', periods=n, freq='min')
  made.loc[::7, 'a'] = 1e4
  made.loc[made.m == 5, 'm'] = 50 if seed else 5  # nobody knows entity 50
  return made


KNOWN, NEW = frame(200, 0).query('a < 100'), frame(700, 1)


@pytest.fixture(scope='module')
def fleet():
  run = nearest_run.shared()
  return FleetDetector(run).fit(KNOWN, entity='m', time='t')


def lines(frame, header=True):
  return frame.to_csv(index=False, header=header).encode().splitlines()


def test_lines_are_judged_as_rows_whatever_their_order_and_form(fleet):
  some = NEW[:60]
  wanted = fleet.judge(some)
  csv = lines(some[['c', 't', 'b', 'm', 'a']])
  records = some.astype({'t': str}).to_dict('records')
  told = []
  for form in (csv, [json.dumps(record).encode() for record in records]):
    follower = follow.Follower(fleet, follow.State(resident=2))
    rows = [
      row
      for part in (form[:1], form[1:9], form[9:])
      for row in follower.push(part, told.append)
    ]
    np.testing.assert_allclose([r['score'] for r in rows], wanted.score, 1e-5)
    assert [r['row'] for r in rows] == list(range(60))
    bad = np.array([r['decision'] == 'abnormal' for r in rows])
    np.testing.assert_array_equal(bad, wanted.outlier)
    assert [r['known'] for r in rows] == (some.m < 5).tolist()
    ranks = some.groupby('m').cumcount()
    assert [r['number'] for r in rows] == ranks.tolist()
    assert rows[3]['keys']['t'].startswith(str(some.t[3]))
  assert not told


def test_lines_that_make_no_sense_are_told_and_the_others_judged(fleet):
  follower, told = follow.Follower(fleet, follow.State()), []
  bad = [
    b'1,2',
    b'3,x,1,1,2024-01-01',
    b',1,1,1,2024-01-01',
    b'3,,,,2024-01-01',
  ]
  rows = list(follower.push([*lines(NEW[:9]), *bad], told.append))
  assert len(rows) == 9 and len(told) == 4
  assert follower.summary()['malformed'] == 4
  with pytest.raises(DataError, match="'b'"):
    list(follow.Follower(fleet, follow.State()).push([b'm,t,a,c'], print))


def test_counts_of_entities_that_rest_come_back(tmp_path):
  state = follow.State(str(tmp_path / 'at.db'), resident=2)
  for name in 'abcdefabc':
    state.counts([name])[name][0] += 1
    state.commit()
    assert len(state._counts) <= 2
  assert state.counts('af') == {'a': [2, 0], 'f': [1, 0]}
  state.close()
  again = follow.State(str(tmp_path / 'at.db'))
  assert again.counts('cxd') == {'c': [2, 0], 'x': [0, 0], 'd': [1, 0]}
  (tmp_path / 'other').write_text('a,b\n1,2\n' * 99)
  with pytest.raises(DataError, match='other'):
    follow.State(str(tmp_path / 'other'))


def test_a_file_that_is_moved_or_cut_is_read_on_from_its_new_start(tmp_path):
  path = tmp_path / 'log'
  path.write_bytes(b'one\ntwo\nth')
  left = iter([0] * 9)
  source = follow.batches(str(path), follow.Place(), lambda: next(left, 1))
  assert [line for line, _ in next(source)] == [b'one', b'two']
  (tmp_path / 'log').rename(tmp_path / 'log.1')
  path.write_bytes(b'four\n')
  assert [line for line, _ in next(source)] == [b'th']
  ((line, place),) = next(source)
  assert line == b'four'
  path.write_bytes(b'5\n')
  ((line, _),) = next(source)
  assert line == b'5'
  # The line before the place is not the one that was: from the start.
  path.write_bytes(b'six\nmore\n')
  source = follow.batches(str(path), place, lambda: False)
  assert len(next(source)) == 2


_FOLLOW = """
import sys
import nearest_run
nearest_run.register()
from metaad_jax.command import program
program.main(['follow', *sys.argv[1:]])
"""


def started(*arguments):
  env = os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)}
  return subprocess.Popen(
    [sys.executable, '-c', _FOLLOW, *arguments], stdout=subprocess.PIPE, env=env
  )


def test_killed_it_goes_on_and_says_nothing_else_again(fleet, tmp_path):
  path, log, state = (str(tmp_path / n) for n in ('a.fleet', 'log', 'at.db'))
  fleet.save(path)
  every = lines(NEW)
  write = lambda part, mode: open(log, mode).write(
    b''.join(line + b'\n' for line in part).decode()
  )
  write(every[:101], 'w')
  first = started(path, log, f'--state={state}', '--gap=60')
  said = [first.stdout.readline() for _ in range(100)]
  time.sleep(0.5)  # it commits
  write(every[101:], 'a')
  said += [first.stdout.readline() for _ in range(30)]  # a pipe holds no 600
  first.send_signal(signal.SIGKILL)
  said += [line for line in first.stdout.readlines() if line.endswith(b'\n')]
  assert first.wait() == -signal.SIGKILL and len(said) < 700
  second = started(path, log, f'--state={state}', '--gap=60')
  again = []
  while not again or again[-1]['row'] < 699:
    again.append(json.loads(second.stdout.readline()))
  second.send_signal(signal.SIGTERM)
  summary = json.loads(second.stdout.readlines()[-1])['summary']
  assert second.wait() == 128 + signal.SIGTERM
  assert again[0]['row'] == 100
  rows = {}
  for row in [*map(json.loads, said), *again]:
    before = rows.setdefault(row['row'], row)
    for key in ('entity', 'number', 'keys', 'decision'):
      assert before[key] == row[key]
    assert before.get('event') == row.get('event')
  wanted = fleet.judge(NEW)
  got = [rows[i]['score'] for i in range(700)]
  np.testing.assert_allclose(got, wanted.score, atol=1e-5)
  assert summary['rows'] == 700 and summary['abnormal'] == wanted.outlier.sum()


def test_the_command_keeps_the_budget_of_the_whole_fleet(fleet, tmp_path):
  path, log = str(tmp_path / 'a.fleet'), str(tmp_path / 'log.csv')
  fleet.save(path)
  NEW.to_csv(log, index=False)
  arguments = 'follow', path, log, '--max_rows=700', '--exit_code'
  out = calls.succeed(*arguments, '--budget=3 per hour', code=3)
  rows = [json.loads(line) for line in out.splitlines()][:-1]
  assert len(rows) == 700
  told = sorted({row['event'] for row in rows if row.get('told')})
  times = [
    pd.Timestamp(next(r for r in rows if r.get('event') == e)['keys']['t'])
    for e in told
  ]
  hour = pd.Timedelta('1h')
  assert all(b - a >= hour for a, b in zip(times, times[3:], strict=False))
  assert 30 <= len(told) <= 36 < sum(r['decision'] == 'abnormal' for r in rows)
