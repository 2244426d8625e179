"""Files in, decisions and reasons out; and rows judged as they arrive."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

from binaries import call, fail, files, succeed
import nearest_run
import numpy as np
import polars
import pytest
import scipy.io.wavfile

from experiments import adapt
from metaad_jax.base import DataError
from metaad_jax.data import user_frames
from metaad_jax.detector import estimator, follow
from metaad_jax.detector import judge as judging

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def run_dir(tmp_path_factory):
  return nearest_run.write(tmp_path_factory.mktemp('run') / 'nearest.npz')


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


def numbers(seed=0):
  """(20 normals, 30 rows of which every third is abnormal, labels)."""
  rng = np.random.default_rng(seed)
  normal, bad = nearest_run.table(rng, 60, 4, 12.0)
  labels = np.arange(30) % 3 == 0
  return normal[:20], np.where(labels[:, None], bad[:30], normal[30:]), labels


def write_csv(path, x, head=('a', 'b', 'c', 'd'), extra=None, mark=','):
  """Rows below their names; `extra` = {name: cells} comes first."""
  extra = extra or {}
  lines = [[*extra, *head]]
  for i, row in enumerate(x):
    lines.append([*[cells[i] for cells in extra.values()], *map(str, row)])
  text = '\n'.join(mark.join(map(str, line)) for line in lines)
  pathlib.Path(path).write_text(text + '\n')


def scores_of(folder='adapted'):
  content = json.loads(pathlib.Path(folder, 'scores.json').read_text())
  return content, np.array([row['score'] for row in content['rows']])


# --- files -------------------------------------------------------------------


def test_tables_with_all_that_is_normal_life(run_dir, tmp_path):
  known, new, labels = numbers()
  write_csv('s.csv', known, extra={
    'id': [f'k{i}' for i in range(20)],
    'valve': ['open', 'shut'] * 10,
    'site': ['x'] * 20,
  })  # fmt: skip
  cells = new.astype(str).tolist()
  cells[5][2] = ''
  write_csv('q.csv', np.array(cells, object)[:, ::-1], 'dcba', extra={
    'label': labels.astype(int),
    'valve': ['shut', 'open'] * 15,
    'id': [f'n{i}' for i in range(30)],
    'extra': range(30),
  })  # fmt: skip
  code, out, err = call(
    adapt, f'--run_dir={run_dir}', '--support=s.csv', '--query=q.csv',
    '--ignore=id',
  )  # fmt: skip
  assert code == 0, err
  assert err == "note: s.csv lacks 'extra'; q.csv lacks 'site': left out\n"
  assert '30 rows scored from 20 normals' in out and 'AUROC' in out
  names = {'scores.csv', 'scores.json', 'scores.png', 'report.html'}
  assert files(tmp_path / 'adapted') == names
  content, scores = scores_of()
  assert content['support']['columns'] == ['valve', *'abcd']
  # The same as the detector says of the same rows, whatever their order.
  frame = lambda x, words: user_frames.Frame(
    {'valve': np.array(words, object)}
    | {name: x[:, i] for i, name in enumerate('abcd')}
  )
  new[5, 2] = np.nan
  direct = estimator.MetaAnomalyDetector(run_dir).fit(
    frame(known, ['open', 'shut'] * 10)
  )
  found = direct.judge(frame(new, ['shut', 'open'] * 15))
  np.testing.assert_allclose(scores, found.scores, rtol=1e-6)
  verdicts = [row['decision'] == 'abnormal' for row in content['rows']]
  assert (found.outliers == verdicts).all()
  assert found.outliers[labels].mean() > 0.8
  assert found.outliers[~labels].mean() < 0.3
  with open('adapted/scores.csv', newline='') as file:
    lines = list(csv.DictReader(file))
  p = [float(line['p_value']) for line in lines]
  np.testing.assert_allclose(p, found.p_values, rtol=1e-3)
  for line, row in zip(lines, content['rows'], strict=True):
    assert line['decision'] == row['decision']
    assert (line['reasons'] != '') == bool(row.get('reasons'))
    if row['decision'] == 'abnormal':
      assert row['reasons'][0]['column'] in row['reasons'][0]['text']


def test_the_planted_column_is_the_first_reason(run_dir):
  known, new, _ = numbers()
  write_csv('s.csv', known)
  new[:] = known[0]
  new[4, 2] += 50 * np.std(known[:, 2])
  write_csv('q.csv', new)
  succeed(adapt, f'--run_dir={run_dir}', '--support=s.csv', '--query=q.csv')
  row = scores_of()[0]['rows'][4]
  assert row['decision'] == 'abnormal'
  assert row['reasons'][0]['column'] == 'c'
  page = pathlib.Path('adapted/report.html').read_text()
  assert row['text'].split(';')[0].partition(': ')[2] in page
  assert page.count('http') == 0  # needs nothing from elsewhere
  assert 'src="data:image/png;base64,' in page and 'threshold' in page


def test_words_cannot_become_markup(run_dir):
  known, new, _ = numbers()
  bad = '<script>alert(1)</script>'
  write_csv('s.csv', known, (bad, 'b', 'c', 'd'))
  new[0] += 1e4
  write_csv('q.csv', new, (bad, 'b', 'c', 'd'))
  succeed(adapt, f'--run_dir={run_dir}', '--support=s.csv', '--query=q.csv')
  page = pathlib.Path('adapted/report.html').read_text()
  assert '<script' not in page and '&lt;script&gt;' in page


@pytest.mark.parametrize('suffix', ['csv', 'tsv', 'npy', 'npz', 'parquet'])
def test_every_format_gives_the_same_scores(suffix, run_dir):
  known, new, _ = numbers()
  for name, x in (('s', known), ('q', new)):
    if suffix == 'npy':
      np.save(f'{name}.npy', x)
    elif suffix == 'npz':
      np.savez(f'{name}.npz', x=x)
    elif suffix == 'parquet':
      polars.DataFrame(x, schema=list('abcd')).write_parquet(f'{name}.parquet')
    elif suffix == 'tsv':
      write_csv(f'{name}.csv', x, mark='\t')
    else:
      write_csv(f'{name}.csv', x)
  end = 'csv' if suffix == 'tsv' else suffix
  succeed(
    adapt, f'--run_dir={run_dir}', f'--support=s.{end}', f'--query=q.{end}'
  )
  direct = estimator.MetaAnomalyDetector(run_dir).fit(known)
  np.testing.assert_allclose(scores_of()[1], -direct.score_samples(new))


def test_parquet_without_a_reader_says_what_to_install(monkeypatch):
  pathlib.Path('x.parquet').write_bytes(b'PAR1')
  monkeypatch.setattr(user_frames, '_READERS', ('no_such_module',))
  with pytest.raises(DataError, match='pip install pyarrow'):
    user_frames.read('x.parquet')


def test_parquet_keeps_words_dates_and_gaps():
  import datetime

  day = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
  polars.DataFrame({
    'n': [1.5, None, 3.0], 'w': ['a', None, 'b'], 'on': [True, False, None],
    't': [day, None, day],
  }).write_parquet('x.parquet')  # fmt: skip
  rows = user_frames.read('x.parquet').rows
  np.testing.assert_array_equal(rows['n'], [1.5, np.nan, 3.0])
  assert rows['w'].tolist() == ['a', None, 'b']
  np.testing.assert_array_equal(rows['on'], [1, 0, np.nan])
  assert rows['t'][0] == day.timestamp() and np.isnan(rows['t'][1])


@pytest.mark.parametrize('kind', [np.int16, np.float32, np.uint8])
def test_sound_is_cut_into_windows(kind, run_dir):
  rng = np.random.default_rng(0)
  hum = lambda n: 0.3 * np.sin(np.arange(n) * 0.3) + 0.02 * rng.normal(size=n)
  known, new = hum(20 * 256), hum(10 * 256 + 77)
  new[5 * 256 : 6 * 256] += 0.4 * np.sin(np.arange(256) * 2.0)
  for name, signal_ in (('s', known), ('q', new)):
    if kind == np.int16:
      signal_ = signal_ * 32768
    elif kind == np.uint8:
      signal_ = signal_ * 128 + 128
    scipy.io.wavfile.write(f'{name}.wav', 8000, signal_.astype(kind))
  succeed(
    adapt, f'--run_dir={run_dir}', '--support=s.wav', '--query=q.wav',
    '--window=256',
  )  # fmt: skip
  content, scores = scores_of()
  assert len(scores) == 10 and np.argmax(scores) == 5
  assert content['rows'][5]['decision'] == 'abnormal'
  assert 'samples' in fail(
    adapt, 1, f'--run_dir={run_dir}', '--support=s.wav', '--query=q.wav'
  )


def test_the_scale_of_a_recording_does_not_depend_on_its_format():
  x = np.linspace(-0.9, 0.9, 50)
  scipy.io.wavfile.write('i.wav', 100, (x * 2**15).astype(np.int16))
  scipy.io.wavfile.write('l.wav', 100, (x * 2**31).astype(np.int32))
  scipy.io.wavfile.write('f.wav', 100, x.astype(np.float32))
  scipy.io.wavfile.write('u.wav', 100, (x * 128 + 128).astype(np.uint8))
  for name, error in (('i', 1e-4), ('l', 1e-6), ('f', 1e-6), ('u', 0.01)):
    held = user_frames.read(f'{name}.wav', window=50).rows[0, :, 0]
    np.testing.assert_allclose(held, x, atol=error)


def test_labels_are_taken_in_and_may_be_missing(run_dir):
  known, new, _ = numbers()
  known[7] += 30
  marks = ['0'] * 20
  marks[7], marks[3] = '1', ''
  write_csv('s.csv', known, extra={'broken': marks})
  write_csv('q.csv', new)
  out = succeed(
    adapt, f'--run_dir={run_dir}', '--support=s.csv', '--query=q.csv',
    '--label=broken',
  )  # fmt: skip
  assert '18 normals and 1 anomalies' in out
  assert scores_of()[0]['support']['unlabelled'] == 1


def test_identifiers_are_pointed_out(run_dir):
  known, new, _ = numbers()
  write_csv('s.csv', known, extra={'when': [f'{i}h' for i in range(20)]})
  write_csv('q.csv', new, extra={'when': [f'{i}d' for i in range(30)]})
  rows = ['--support=s.csv', '--query=q.csv']
  _, _, err = call(adapt, f'--run_dir={run_dir}', *rows)
  assert '--ignore=when' in err
  _, _, err = call(adapt, f'--run_dir={run_dir}', *rows, '--ignore=when')
  assert err == ''


BAD = [
  ('a,b\n1,2\n', 'a,b\n1,x\n', 'line 2'),
  ('a,b\n1,2\n3,z\n', 'a,b\n1,2\n', "'z'"),
  ('a,b\n1,2\n', 'c,d\n1,2\n', 'name them alike'),
  ('a,b\n1,2\n', '1,2\n', 'name them alike'),
  ('1,2\n', '1,2,3\n', '3'),
  ('a,a\n1,2\n', 'a,a\n1,2\n', 'two columns'),
  ('a,b\n', 'a,b\n1,2\n', 'no rows'),
  ('', 'a\n1\n', 'empty'),
  ('a,b\n1,2\n', 'a,b\n1\n', 'line 2'),
  ('a,label\n1,3\n', 'a\n1\n', '--label=none'),
  ('a,label\n1,bad\n', 'a\n1\n', '--label=none'),
  ('a,label\n1,1\n', 'a\n1\n', 'no normal row'),
  ('a,b\n1,inf\n', 'a,b\n1,2\n', 's.csv'),
  ('a,b\n1,2\n', 'a,b\n1,inf\n', 'q.csv'),
  ('id\n1\n', 'id\n1\n', 'no column'),
]


@pytest.mark.parametrize(('support', 'query', 'told'), BAD)
def test_bad_tables_are_told_in_one_line(
  support, query, told, run_dir, tmp_path
):
  pathlib.Path('s.csv').write_text(support)
  pathlib.Path('q.csv').write_text(query)
  ignored = ['--ignore=id'] if 'id' in support else []
  assert told in fail(
    adapt, 1, f'--run_dir={run_dir}', '--support=s.csv', '--query=q.csv',
    *ignored,
  )  # fmt: skip
  assert not (tmp_path / 'adapted').exists()


def test_half_written_results_are_taken_away(monkeypatch, tmp_path):
  write = judging.storage.write_bytes

  def full(path, content):
    if path.endswith('.png'):
      raise DataError('no space left')
    write(path, content)

  monkeypatch.setattr(judging.storage, 'write_bytes', full)
  with pytest.raises(DataError):
    judging.save('new', {'a.csv': b'1', 'b.png': b'2'})
  assert not (tmp_path / 'new').exists()
  os.mkdir('old')
  with pytest.raises(DataError):
    judging.save('old', {'a.csv': b'1', 'b.png': b'2'})
  assert (tmp_path / 'old').exists()


# --- as they arrive ----------------------------------------------------------


@pytest.fixture(scope='module')
def judge(run_dir, tmp_path_factory):
  path = str(tmp_path_factory.mktemp('known') / 's.csv')
  known, _, _ = numbers()
  write_csv(path, known, extra={'id': range(20)})
  support = user_frames.read(path, ignore=('id',))
  return judging.adapt(run_dir, path, support, rate=0.05)


def followed(judge, lines):
  """(rows, summary, what was skipped)."""
  skipped = []
  *rows, last = follow.follow(judge, iter(lines), skipped.append)
  return rows, last['summary'], skipped


def text(row):
  return ','.join(map(str, row)).encode()


def test_rows_one_by_one_are_judged_as_in_a_file(judge):
  _, new, _ = numbers()
  found = judge.detector.judge(user_frames.Frame(
    {name: new[:, i] for i, name in enumerate('abcd')}
  ))  # fmt: skip
  lines = [follow.BEGIN, b'id,a,b,c,d', *[b'7,' + text(r) for r in new]]
  rows, summary, skipped = followed(judge, lines)
  assert not skipped and [row['row'] for row in rows] == list(range(30))
  np.testing.assert_allclose([r['score'] for r in rows], found.scores)
  np.testing.assert_allclose([r['p_value'] for r in rows], found.p_values)
  bad = [row['decision'] == 'abnormal' for row in rows]
  assert (found.outliers == bad).all()
  assert all(bool(r['reasons']) == b for r, b in zip(rows, bad, strict=True))
  assert summary == {'rows': 30, 'abnormal': sum(bad), 'malformed': 0}
  # Names in another order; no names, with and without the ignored column.
  for ways in (
    [b'd,c,b,a,id', *[text(r[::-1]) + b',x' for r in new]],
    [b'7,' + text(r) for r in new],
    [text(r) for r in new],
  ):
    again, _, skipped = followed(judge, [follow.BEGIN, *ways])
    assert not skipped
    assert [r['score'] for r in again] == [r['score'] for r in rows]


def test_lines_that_make_no_sense_are_counted_told_and_skipped(judge):
  good = text(numbers()[0][0])
  bad = [b'1,2', b'1,2,3,x', b'\xff\xfe,1,2,3', b'"1,2,3', b'1,2,3,inf',
         b'a,b,c,d', b'{"a": 1}', b'1,2,3,4,5,6']  # fmt: skip
  lines = [follow.BEGIN, good]
  for line in bad:
    lines += [line, good, b'', b'  ']
  rows, summary, skipped = followed(judge, lines)
  assert len(rows) == 1 + len(bad)
  assert len({row['score'] for row in rows}) == 1
  assert summary['malformed'] == len(skipped) == len(bad)
  assert 'line 2 ' in skipped[0] and '(8 so far)' in skipped[-1]


def test_a_header_without_a_column_ends_it(judge):
  with pytest.raises(DataError, match="'d'"):
    followed(judge, [follow.BEGIN, b'a,b,c', b'1,2,3'])


def test_a_row_compiles_nothing_and_takes_milliseconds(judge):
  new = numbers()[0]
  lines = [follow.BEGIN, *[text(row) for row in new]]
  followed(judge, lines)
  from test_estimator import CountedCompiles

  with CountedCompiles() as counted:
    started = time.perf_counter()
    followed(judge, lines * 10)
    seconds = (time.perf_counter() - started) / (10 * len(new))
  assert counted.number == 0
  assert seconds < 0.1  # a millisecond or two on a quiet machine


class Growing:
  """`following.growing` in a thread, what it yields in a list."""

  def __init__(self, path):
    self.found, self._stop = [], False
    self._thread = threading.Thread(target=self._run, args=(path,))
    self._thread.start()

  def _run(self, path):
    for line in follow.growing(str(path), lambda: self._stop):
      self.found.append(line)

  def wait(self, *lines):
    """Waits until the lines were seen since the last call."""
    deadline = time.monotonic() + 20
    while len(self.found) < len(lines) and time.monotonic() < deadline:
      time.sleep(0.01)
    assert self.found[: len(lines)] == list(lines), self.found
    del self.found[: len(lines)]

  def stop(self):
    self._stop = True
    self._thread.join(20)
    assert not self._thread.is_alive() and not self.found


def append(path, content):
  with open(path, 'ab') as file:
    file.write(content)


def test_a_file_grows_is_cut_and_replaced(tmp_path):
  path = tmp_path / 'log.csv'
  reader = Growing(path)
  try:
    append(path, b'a,b\n1,2\n3,')
    reader.wait(None, b'a,b', b'1,2')
    append(path, b'4\n')
    reader.wait(b'3,4')
    path.write_bytes(b'x\n')  # cut: from the start again
    reader.wait(None, b'x')
    os.replace(path, tmp_path / 'log.1')  # rotated, the old one written on
    append(tmp_path / 'log.1', b'last\n')
    reader.wait(b'last')
    append(path, b'new\n')
    reader.wait(None, b'new')
    path.unlink()
    time.sleep(0.3)
    append(path, b'newer\n')
    reader.wait(None, b'newer')
  finally:
    reader.stop()


def test_a_pipe_is_read_to_its_end(tmp_path):
  inward, outward = os.pipe()
  lines = follow.stream(inward, lambda: False)
  assert next(lines) is follow.BEGIN
  os.write(outward, b'1\n2')
  assert next(lines) == b'1'
  os.write(outward, b'3\n4')
  os.close(outward)
  assert list(lines) == [b'23', b'4']
  os.close(inward)


FOLLOW = """
import sys
sys.path.insert(0, {tests!r})
import nearest_run
nearest_run.register()
from experiments import adapt, cli
cli.run(adapt.main, adapt.FLAGS)
"""


@pytest.mark.parametrize(
  ('ending', 'code'),
  [('eof', 0), (signal.SIGINT, 130), (signal.SIGTERM, 143)],
)
def test_following_as_a_process(ending, code, run_dir, tmp_path):
  known, new, _ = numbers()
  write_csv('s.csv', known)
  process = subprocess.Popen(
    [sys.executable, '-c', FOLLOW.format(tests=str(ROOT / 'tests')),
     f'--run_dir={run_dir}', '--support=s.csv', '--query=-'],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
  )  # fmt: skip
  try:
    process.stdin.write(b'oh\n' + text(new[1]) + b'\n')
    process.stdin.flush()
    first = json.loads(process.stdout.readline())  # before the end
    assert first['row'] == 0 and first['decision'] in ('normal', 'abnormal')
    if ending != 'eof':
      process.send_signal(ending)
      rest, err = process.communicate(timeout=60)
    else:
      rest, err = process.communicate(text(new[2]), timeout=60)
  finally:
    process.kill()
  assert process.returncode == code, err
  *rows, last = map(json.loads, rest.decode().splitlines())
  assert len(rows) == (ending == 'eof')
  assert last['summary']['malformed'] == 1
  assert last['summary']['rows'] == 1 + len(rows)
  assert err.decode().count('\n') == 1 and 'line 1 skipped' in err.decode()


def test_wrong_ways_to_follow(run_dir):
  known, _, _ = numbers()
  write_csv('s.csv', known)
  rows = [f'--run_dir={run_dir}', '--support=s.csv']
  assert 'window' in fail(adapt, 2, *rows, '--query=-', '--window=4')
  assert 'rate' in fail(
    adapt, 2, *rows, '--query=s.csv', '--false_alarm_rate=1'
  )
  assert "'nix'" in fail(adapt, 1, *rows, '--query=s.csv', '--ignore=nix')
