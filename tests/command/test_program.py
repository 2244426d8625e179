"""The console command, from files to files."""

import io
import json
import pathlib
import resource
import shlex
import subprocess
import sys

from calls import call, succeed
import nearest_run
import numpy as np
import pandas
import pytest

from metaad_jax.command import endings, program


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  rng = np.random.default_rng(0)
  normal, bad = nearest_run.table(rng, 60, 4, 12.0)
  new = np.r_[normal[30:50], bad[:10]]
  write = lambda path, x: pandas.DataFrame(x, columns=list('abcd')).assign(
    when=pandas.date_range('2026-01-01', periods=len(x))
  ).to_csv(path, index=False)  # fmt: skip
  write('normal.csv', normal[:20])
  write('new.csv', new)
  write('quiet.csv', normal[:5])


RUN = f'--run_dir={nearest_run.shared()}'


def test_two_steps_find_what_one_finds(monkeypatch):
  report = succeed('fit', 'normal.csv', RUN, '--dry_run')
  assert 'when' in report and not pathlib.Path('detector.npz').exists()
  assert 'abnormal' in succeed('detect', 'normal.csv', 'new.csv', RUN)
  succeed('fit', 'normal.csv', RUN, '--output=pump.npz')
  score = 'score', 'pump.npz', '--output=again', '--exit_code'
  succeed(*score, 'new.csv', code=endings.ALARMS)
  one, two = (pandas.read_csv(f'{f}/scores.csv') for f in ('found', 'again'))
  pandas.testing.assert_frame_equal(one, two)
  assert list(one.when[:2]) == ['2026-01-01', '2026-01-02']
  assert (one.decision[20:] == 'abnormal').all() and one.reasons[29]
  succeed(*score, 'quiet.csv')  # rows that it was adapted to: no alarm
  told = succeed('explain', 'pump.npz', 'new.csv', '--rows=3,29').splitlines()
  assert told[-2].startswith('row 3: ') and told[-1].startswith('row 29: ')
  with open('new.csv') as lines:
    monkeypatch.setattr(sys, 'stdin', lines)
    rows = succeed('follow', 'pump.npz', '-', '--max_rows=4').splitlines()
  scores = [json.loads(row)['score'] for row in rows[:4]]
  np.testing.assert_allclose(scores, one.score[:4], rtol=1e-4)


def test_the_sample_has_a_source_and_its_labels():
  assert 'CC BY' in succeed('sample', 'plant')
  new = pandas.read_csv('plant/new.csv', parse_dates=['date'])
  normal = pandas.read_csv('plant/normal.csv', parse_dates=['date'])
  assert new.label.sum() == 14 and new.date.is_monotonic_increasing
  assert len(normal) == 20 and not set(normal.date) & set(new.date)


@pytest.mark.parametrize(
  ('code', 'message', 'arguments'),
  [
    (2, 'COMMAND', []),
    (2, 'normal', ['fit']),
    (2, 'between 0 and 1', ['fit', 'normal.csv', '--false_alarm_rate=1']),
    (2, 'whatever', ['score', 'a.npz', 'b.csv', '--whatever']),
    (1, 'a.npz', ['score', 'a.npz', 'new.csv']),
    (1, 'none.csv', ['fit', 'none.csv', RUN]),
    (1, "'when'", ['fit', 'normal.csv', RUN, '--ignore=wen']),
  ],
)
def test_what_cannot_be_done_is_one_line(code, message, arguments):
  got, _, err = call(*arguments)
  assert got == code and message in err
  assert err.splitlines()[-1].startswith('error: ') and 'Traceback' not in err


def test_nobody_reads_and_nothing_is_said():
  root = pathlib.Path(program.__file__).parents[2]
  line = f'{sys.executable} -m metaad_jax.command.program --help | true'
  done = subprocess.run(
    ['bash', '-c', f'{line}; exit ${{PIPESTATUS[0]}}'], cwd=root,
    capture_output=True, check=False,
  )  # fmt: skip
  assert done.returncode in (0, endings.NOBODY_READS) and not done.stderr


def test_without_standard_input_or_letters_beyond_ascii(monkeypatch):
  succeed('fit', 'normal.csv', RUN)
  monkeypatch.setattr(sys, 'stdin', None)  # as in `metaad ... <&-`
  code, _, err = call('follow', 'detector.npz', '-')
  assert code == 1 and err.startswith('error: standard input is closed')
  screen = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
  monkeypatch.setattr(sys, 'stdout', screen)
  with pytest.raises(SystemExit) as stopped:
    score = 'score', 'detector.npz', 'new.csv'
    program.main([*score, '--output=größe'])
  assert not stopped.value.code and pathlib.Path('größe/scores.csv').exists()
  assert b'gr\\xf6' in screen.buffer.getvalue()


@pytest.mark.parametrize('room', [0, 3000])  # bytes of a file
def test_a_disk_that_takes_no_more_is_an_error_and_leaves_nothing(room):
  succeed('fit', 'normal.csv', RUN)
  score = 'score', 'detector.npz', 'new.csv'
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
  try:
    code, _, err = call(*score)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  lines = [x for x in err.splitlines() if not x.startswith('note: ')]
  assert code == 1 and len(lines) == 1 and 'found/' in lines[0]
  assert not pathlib.Path('found').exists()
  pathlib.Path('found').write_text('in the place of the folder')
  code, _, err = call(*score)
  assert code == 1 and 'found' in err.splitlines()[-1]


@pytest.mark.parametrize('name', ['Flow (gal)', "it's", 'a,b', 'Druck', '$x'])
def test_flags_in_messages_go_through_a_shell(name):
  line = endings.pasteable(
    f'if it is a feature, --features={name}; if not, --ignore={name}'
  )
  for part in line.split('; '):
    (flag,) = [word for word in shlex.split(part) if word.startswith('--')]
    assert program._listed(flag.partition('=')[2]) == (name,)
