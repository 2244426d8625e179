"""The console command on series, from files to files."""

import json
import pathlib
import sys

from calls import call, succeed
import numpy as np
import pandas
import pytest

from metaad_jax.command import endings

TIMES = pandas.date_range('2024-01-01', periods=2400, freq='min')


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  random, phase = np.random.default_rng(0), np.arange(2400) * 2 * np.pi / 40
  x = np.stack([np.sin(phase), np.cos(phase)], 1)
  x += 0.05 * random.normal(size=x.shape)
  x[2000:2060, 1] += 2
  frame = pandas.DataFrame(x, columns=['flow', 'heat'])
  frame.insert(0, 'when', TIMES)
  frame['broken'] = ((frame.index >= 2000) & (frame.index < 2060)).astype(int)
  frame.to_csv('series.csv', index=False)
  frame[:1500].to_csv('healthy.csv', index=False)
  frame[1500:][['heat', 'when', 'flow']].to_csv('new.csv', index=False)


LABEL = '--label=broken'


def test_one_file_two_files_and_a_model_file_say_the_same():
  until = f'--healthy_until={TIMES[1500]}'
  out = succeed(
    'detect', 'series.csv', until, LABEL, '--per_day=1', '--exit_code',
    code=endings.ALARMS,
  )  # fmt: skip
  assert '1 of 1' in out
  succeed(
    'detect', 'healthy.csv', 'new.csv', '--series', LABEL, '--per_day=1',
    '--output=two',
  )  # fmt: skip
  succeed('fit', 'series.csv', until, LABEL, '--per_day=1', '--output=m.npz')
  succeed('score', 'm.npz', 'new.csv', '--output=three')
  read = lambda name: [
    pandas.read_csv(f'{folder}/{name}') for folder in ('found', 'two', 'three')
  ]
  one, two, three = read('scores.csv')
  assert list(one.when) == list(TIMES[1500:].astype(str))
  assert one.row[0] == 1500 and two.row[0] == 0
  for other in (two, three):
    pandas.testing.assert_frame_equal(
      one.drop(columns='row'), other.drop(columns='row'), rtol=1e-3
    )
  events = read('events.csv')[0]
  worst = events.iloc[events.score.argmax()]
  assert str(TIMES[1940]) <= worst.start <= worst.peak <= worst.end
  assert worst.peak <= str(TIMES[2100]) and 'heat' in worst.reason
  assert 1940 <= worst.start_row <= worst.peak_row <= worst.end_row < 2120
  told = json.loads(pathlib.Path('found/events.json').read_text())
  assert told['first_row'] == 1500 and len(told['events']) == len(events)
  page = pathlib.Path('found/report.html').read_text()
  assert '<svg' in page and 'http' not in page.replace('http-equiv', '')
  told = succeed('explain', 'm.npz', 'new.csv')
  assert 'heat' in told.splitlines()[-1]


def test_rows_that_are_missing_are_said_to_be():
  frame = pandas.read_csv('series.csv')
  frame.loc[1700:1750, 'flow'] = None
  frame.to_csv('gaps.csv', index=False)
  _, _, err = call('detect', 'gaps.csv', '--healthy_until=1500', LABEL)
  assert 'flow' in err and 'missing' in err
  scores = pandas.read_csv('found/scores.csv').set_index('row')
  assert (scores.decision[1700:1750] == 'unknown').all()
  assert scores.score.isna().sum() == (scores.decision == 'unknown').sum() == 51


def test_a_dry_run_says_how_and_writes_nothing():
  out = succeed(
    'detect', 'series.csv', '--healthy_until=1 day', LABEL, '--dry_run'
  )
  assert 'flow, heat' in out and '2024-01-02' in out and 'when' in out
  assert not pathlib.Path('found').exists()
  frame = pandas.read_csv('series.csv')
  frame['meter'] = np.cumsum(np.arange(len(frame)) % 3 + 1)
  frame.to_csv('meter.csv', index=False)
  _, _, err = call('detect', 'meter.csv', '--healthy_until=9', '--dry_run')
  assert "'meter'" in err and "'when'" not in err  # left out, and said so


def test_points_are_followed_and_a_restart_goes_on(monkeypatch):
  succeed('fit', 'healthy.csv', '--series', LABEL, '--output=m.npz')
  text = pathlib.Path('new.csv').read_text().splitlines(keepends=True)
  text = [text[0], *text[401:631]]

  def followed(lines, *more):
    pathlib.Path('in.csv').write_text(''.join(lines))
    with open('in.csv') as file:
      monkeypatch.setattr(sys, 'stdin', file)
      out = succeed('follow', 'm.npz', '-', *more)
    return [json.loads(line) for line in out.splitlines()]

  *whole, last = followed([*text, 'nonsense\n'])
  assert len(whole) == 230 and last['summary']['malformed'] == 1
  assert whole[0]['keys'] == {'when': str(TIMES[1900])}
  abnormal = {r['row'] for r in whole if r['decision'] == 'abnormal'}
  assert abnormal >= set(range(110, 150))
  events = [r['event'] for r in [*whole, last] if 'event' in r]
  worst = max(events, key=lambda e: e['score'])
  assert 95 <= worst['rows'][0] <= worst['rows'][2] <= 200
  assert 'heat' in worst['reason']
  state = '--state=s.npz'
  *first, _ = followed(text, state, '--max_rows=130')
  *second, last = followed(text, state)  # the lines that were seen are skipped
  assert last['summary']['seen'] == 130
  assert first + second == whole


def test_the_sample_is_judged():
  assert 'Open Data Commons' in succeed('sample', 'heart', '--series')
  out = succeed('detect', 'heart/series.csv', '--healthy_until=25s')
  assert '11 of 11' in out


@pytest.mark.parametrize(
  ('code', 'message', 'arguments'),
  [
    (2, '--healthy_until', ['detect', 'series.csv']),
    (2, '--healthy_until', ['detect', 'series.csv', '--series']),
    (2, '--per_day', ['detect', 'healthy.csv', 'new.csv', '--per_day=1']),
    (2, '--window', ['fit', 'healthy.csv', '--series', '--window=3']),
    (1, 'noon', ['fit', 'series.csv', '--healthy_until=noon']),
    (1, '2400', ['fit', 'series.csv', '--healthy_until=2500']),
    (1, 'at least', ['fit', 'series.csv', '--healthy_until=3']),
    (1, 'finer', ['fit', 'healthy.csv', '--series', '--resample=1s']),
  ],
)
def test_what_cannot_be_done_is_one_line(code, message, arguments):
  got, _, err = call(*arguments)
  assert got == code and message in err
  assert err.splitlines()[-1].startswith('error: ') and 'Traceback' not in err
  assert not pathlib.Path('found').exists()
