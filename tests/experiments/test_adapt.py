"""Files in, decisions and reasons out; and rows judged as they arrive."""

import html
import json
import os
import pathlib
import signal
import subprocess
import sys

from binaries import call, fail, files, succeed
import nearest_run
import numpy as np
from numpy.testing import assert_allclose
import pandas
import pytest
import scipy.io.wavfile

from experiments import adapt
from metaad_jax import storage
from metaad_jax.base import DataError
from metaad_jax.data import user_files
from metaad_jax.detector import estimator, follow, reasons
from metaad_jax.detector import judge as judging
from metaad_jax.scores import metrics
from metaad_jax.training import runs

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def run_dir():
  return nearest_run.shared()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


def numbers(seed=0):
  """(20 normals, 30 rows of which every third is abnormal, labels)."""
  rng = np.random.default_rng(seed)
  normal, bad = nearest_run.table(rng, 60, 4, 12.0)
  labels = np.arange(30) % 3 == 0
  return normal[:20], np.where(labels[:, None], bad[:30], normal[30:]), labels


def write_csv(path, x, head='abcd', extra=None):
  """Rows below their names; `extra` = {name: cells} comes first."""
  columns = dict(zip(head, np.transpose(x), strict=True))
  pandas.DataFrame((extra or {}) | columns).to_csv(path, index=False)


def scores_of():
  content = json.loads(pathlib.Path('adapted/scores.json').read_text())
  return content, np.array([row['score'] for row in content['rows']])


def files_judged(run_dir, *options, support='s.csv', query='q.csv'):
  """What is printed; a run of the binary on two files."""
  paths = f'--support={support}', f'--query={query}'
  return succeed(adapt, f'--run_dir={run_dir}', *paths, *options)


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
    'label': ['' if i == 7 else int(bad) for i, bad in enumerate(labels)],
    'valve': ['shut', 'open'] * 15,
    'id': [f'n{i}' for i in range(30)],
    'extra': range(30),
  })  # fmt: skip
  arguments = '--support=s.csv', '--query=q.csv', '--ignore=id'
  code, out, err = call(adapt, f'--run_dir={run_dir}', *arguments)
  assert code == 0, err
  assert "q.csv: column 'extra' counts the rows" in err
  assert "q.csv lacks 'site': left out\n" in err
  assert '30 rows scored from 20 normals' in out
  names = {'scores.csv', 'scores.json', 'scores.png', 'report.html'}
  assert files(tmp_path / 'adapted') == names
  content, scores = scores_of()
  assert content['support']['columns'] == ['valve', *'abcd']
  # The same as the detector says of the same rows, whatever their order.
  frame = lambda x, words: pandas.DataFrame(x, columns=list('abcd')).assign(
    valve=words
  )
  new[5, 2] = np.nan
  known_rows = frame(known, ['open', 'shut'] * 10)[['valve', *'abcd']]
  direct = estimator.MetaAnomalyDetector(run_dir).fit(known_rows)
  found = direct.judge(frame(new, ['shut', 'open'] * 15))
  assert_allclose(scores, found.scores, rtol=1e-6)
  stated = np.arange(30) != 7
  auroc = metrics.auroc(labels[stated], found.scores[stated])
  assert f'against the labels in q.csv: AUROC {auroc:.3f}, ' in out
  assert f'of {labels.sum()} anomalies' in out and 'of 19 normals' in out
  lines = pandas.read_csv('adapted/scores.csv').fillna({'reasons': ''})
  rows = pandas.DataFrame(content['rows'])
  for table in (lines, rows):
    assert_allclose(table.p_value, found.p_values, rtol=1e-3)
    assert ((table.decision == 'abnormal') == found.outliers).all()
  assert (np.diff(scores[np.argsort(lines['rank'])]) <= 0).all()
  why = rows.reasons.map(lambda r: isinstance(r, list) and len(r) > 0)
  assert ((lines.reasons != '') == why).all() and why[found.outliers].all()
  top = int(np.argmax(scores))
  (told,) = direct.explain(frame(new, ['shut', 'open'] * 15)[top : top + 1])
  first = reasons.reasons(told)[0]
  assert rows.reasons[top][0]['column'] == first.column
  assert first.text in html.unescape(
    pathlib.Path('adapted/report.html').read_text()
  )


def test_arrays_give_the_same_scores(run_dir):
  known, new, _ = numbers()
  np.save('s.npy', known)
  np.savez('q.npz', x=new)
  files_judged(run_dir, support='s.npy', query='q.npz')
  direct = estimator.MetaAnomalyDetector(run_dir).fit(known)
  assert_allclose(scores_of()[1], -direct.score_samples(new))


def test_sound_is_cut_into_windows(run_dir):
  rng = np.random.default_rng(0)
  hum = lambda n: 0.3 * np.sin(np.arange(n) * 0.3) + 0.02 * rng.normal(size=n)
  known, new = hum(20 * 256), hum(10 * 256 + 77)
  new[5 * 256 : 6 * 256] += 0.4 * np.sin(np.arange(256) * 2.0)
  for name, sound in (('s', known), ('q', new)):
    scipy.io.wavfile.write(f'{name}.wav', 8000, sound.astype(np.float32))
  files_judged(run_dir, '--window=256', support='s.wav', query='q.wav')
  content, scores = scores_of()
  assert len(scores) == 10 and np.argmax(scores) == 5
  assert content['rows'][5]['decision'] == 'abnormal'
  assert 'samples' in fail(
    adapt, 1, f'--run_dir={run_dir}', '--support=s.wav', '--query=q.wav'
  )


def test_labels_are_taken_in_and_may_be_missing(run_dir):
  known, new, _ = numbers()
  known[7] += 30
  marks = ['0'] * 20
  marks[7], marks[3] = '1', ''
  write_csv('s.csv', known, extra={'broken': marks})
  write_csv('q.csv', new)
  out = files_judged(run_dir, '--label=broken')
  assert '18 normals and 1 anomalies' in out
  assert scores_of()[0]['support']['unlabelled'] == 1


def test_a_run_without_calibration_ranks_and_gives_reasons(run_dir):
  known, new, labels = numbers()
  run = runs.restore(run_dir)._replace(calibration=None)
  storage.save('bare.npz', *runs.pack(run))
  write_csv('s.csv', known)
  write_csv('q.csv', new)
  out = files_judged('bare.npz')
  assert 'not calibrated' in out
  content, scores = scores_of()
  assert scores[labels].min() > np.median(scores[~labels])
  assert content['threshold'] is None
  assert not {'p_value', 'decision'} & set().union(*content['rows'])
  assert content['rows'][int(np.argmax(scores))]['reasons']


@pytest.mark.parametrize(
  ('support', 'query', 'message'),
  [
    ('a,b\n1,2\n', 'c,d\n1,2\n', 'name them alike'),
    ('a,b\n1,2\n', '1.5,2\n3,4\n', 'name them alike'),
    ('1.5,2\n3,4\n', '1.5,2,3\n3,4,5\n', 'name them alike'),
    ('a,label\n1,1\n', 'a\n1\n', 'no normal row'),
    ('a,b\n1,inf\n', 'a,b\n1,2\n', 's.csv'),
    ('a,b\n1,2\n', 'a,b\n1,inf\n', 'q.csv'),
  ],
)
def test_bad_tables_are_refused(support, query, message, run_dir, tmp_path):
  pathlib.Path('s.csv').write_text(support)
  pathlib.Path('q.csv').write_text(query)
  assert message in fail(
    adapt, 1, f'--run_dir={run_dir}', '--support=s.csv', '--query=q.csv',
    printed=('s.csv: ', 'q.csv: '),
  )  # fmt: skip
  assert not (tmp_path / 'adapted').exists()


def test_a_model_file_judges_as_the_files_it_was_made_from(run_dir, tmp_path):
  known, new, _ = numbers()
  known[7] += 30
  marks = ['0'] * 20
  marks[7], marks[3] = '1', ''
  words = ['open', 'shut'] * 10
  write_csv('s.csv', known, extra={'=cmd': words, 'broken': marks})
  write_csv('q.csv', new, extra={
    'when': [f'2026-01-{1 + i:02d}' for i in range(30)],
    '=cmd': [words[1], *words[:19], *words[:10]],
  })  # fmt: skip
  files_judged(run_dir, '--label=broken')
  first = pathlib.Path('adapted/scores.csv').read_text()
  reading = judging.Reading(label='broken')
  support = user_files.read('s.csv', label='broken')
  by = judging.adapt(run_dir, 's.csv', support, rate=0.05, reading=reading)
  judging.save(by, 'pump.npz')
  os.remove('s.csv')
  again = judging.load('pump.npz')
  assert again.support.header == support.header and again.reading == reading
  query = user_files.read('q.csv', like=again.support.rows)
  written = judging.files(judging.judge(again, 'q.csv', query))
  assert written['scores.csv'].decode() == first
  table = pandas.read_csv('adapted/scores.csv')
  assert list(table.when) == [f'2026-01-{1 + i:02d}' for i in range(30)]
  assert not table.reasons.fillna('').str.startswith(('=', '+', '-', '@')).any()


def test_half_written_results_are_taken_away(tmp_path):
  os.mkdir('old')
  os.mkdir('old/b.png')  # in the way of a file
  with pytest.raises(DataError):
    judging.save_files('old', {'a.csv': b'1', 'b.png': b'2'})
  assert (tmp_path / 'old').exists()
  with pytest.raises(DataError):
    judging.save_files('new', {'a.csv': b'1', 'a.csv/b.png': b'2'})
  assert not (tmp_path / 'new').exists()


# --- as they arrive ----------------------------------------------------------

CODECS = 'utf-8', 'cp1252'
WHEN = [f'2026-03-{day:02}' for day in range(1, 31)]


@pytest.fixture(scope='module')
def judge(run_dir, tmp_path_factory):
  path = str(tmp_path_factory.mktemp('known') / 's.csv')
  known, _, _ = numbers()
  write_csv(path, known, extra={'id': range(20)})
  support = user_files.read(path, ignore=('id',))
  return judging.adapt(run_dir, path, support, rate=0.05)


def followed(judge, lines):
  """(rows, summary, what was skipped)."""
  skipped = []
  *rows, last = follow.follow(judge, lines, skipped.append)
  return rows, last['summary'], skipped


def text(row):
  return ','.join(map(str, row)).encode()


def test_rows_one_by_one_are_judged_as_in_a_file(judge):
  _, new, _ = numbers()
  found = judge.detector.judge(pandas.DataFrame(new, columns=list('abcd')))
  lines = [b'id,a,b,c,d', *[b'7,' + text(r) for r in new]]
  rows, summary, skipped = followed(judge, lines)
  assert not skipped and [row['row'] for row in rows] == list(range(30))
  assert_allclose([r['score'] for r in rows], found.scores)
  assert_allclose([r['p_value'] for r in rows], found.p_values)
  bad = [row['decision'] == 'abnormal' for row in rows]
  assert (found.outliers == bad).all()
  assert all(bool(r['reasons']) == b for r, b in zip(rows, bad, strict=True))
  assert summary == {'rows': 30, 'abnormal': sum(bad), 'malformed': 0}
  gaps, _, _ = followed(judge, [b'1,2,,4', b'1,2,NA,4', b'1,2,inf,4'])
  gap = pandas.DataFrame([[1, 2, np.nan, 4]], columns=list('abcd'))
  expected = judge.detector.judge(gap).scores[0]
  assert [row['score'] for row in gaps] == [expected] * 2
  # Names in another order, twice; no names, with and without the ignored one.
  turned = [text(r[::-1]) + b',x' for r in new]
  for ways in (
    [b'\xef\xbb\xbfd,c,b,a,id\r', *turned[:9], b'd,c,b,a,id', *turned[9:]],
    [b'7,' + text(r) for r in new],
    [text(r) for r in new],
  ):
    again, _, skipped = followed(judge, ways)
    assert not skipped
    assert [r['score'] for r in again] == [r['score'] for r in rows]


def test_objects_are_judged_as_lines_are(run_dir):
  known, new, _ = numbers()
  names = ['m.a', 'm.b.c', 'm.b.d', 'e']
  frame = pandas.DataFrame(known, columns=names).assign(at=WHEN[:20])
  by = judging.adapt(run_dir, 's', user_files.from_frame(frame), rate=0.05)
  nested = [
    {'at': WHEN[0], 'm': {'a': a, 'b': {'c': b, 'd': c}}, 'e': d, 'tags': []}
    for a, b, c, d in new.tolist()
  ]
  lines = [json.dumps(record).encode() for record in nested]
  rows, _, skipped = followed(by, lines)
  expected = by.detector.judge(pandas.DataFrame(new, columns=names)).scores
  assert not skipped and rows[0]['keys'] == {'at': WHEN[0]}
  assert_allclose([row['score'] for row in rows], expected)
  bad = [b'{"m": {"a": 1}, "e": 3}', b'{"a": [1', b'{"a":' * 9999, b'{}']
  bad += [b'{"m": {"a": null, "b": {"c": null, "d": null}}, "e": null}']
  rows, summary, skipped = followed(by, bad)
  assert summary['malformed'] == 5 and "'m.b.c'" in skipped[0]


def test_lines_are_decoded_as_files_are(run_dir):
  known, new, _ = numbers()
  words = ['gelöst', 'fest'] * 10
  frame = pandas.DataFrame(known, columns=list('abcd')).assign(e=words)
  by = judging.adapt(run_dir, 's', user_files.from_frame(frame), rate=0.05)
  lines = [(text(new[0]).decode() + ',gelöst').encode(c) for c in CODECS]
  rows, _, skipped = followed(by, lines)
  assert not skipped and rows[0]['score'] == rows[1]['score']


def test_lines_that_make_no_sense_are_counted_told_and_skipped(judge):
  good = text(numbers()[0][0])
  bad = [b'1,2', b'1,2,3,x', b'\xff\xfe,1,2,3', b'"1,2,3', b'1,2,3,inf',
         b'a,b,c', b'{"a": 1}', b'1,2,3,4,5,6']  # fmt: skip
  lines = [good]
  for line in bad:
    lines += [line, good, b'', b'  ']
  rows, summary, skipped = followed(judge, lines)
  assert len(rows) == 1 + len(bad)
  assert len({row['score'] for row in rows}) == 1
  assert summary['malformed'] == len(skipped) == len(bad)
  assert 'line 2 ' in skipped[0] and '(8 so far)' in skipped[-1]
  with pytest.raises(DataError, match="'d'"):  # in the first line it ends it
    followed(judge, [b'a,b,c', b'1,2,3'])


def test_a_row_compiles_nothing(judge):
  lines = [text(row) for row in numbers()[1]]
  followed(judge, lines)
  with nearest_run.CountedCompiles() as counted:
    followed(judge, lines)
  assert counted.number == 0


def test_a_pipe_is_read_to_its_end():
  inward, outward = os.pipe()
  lines = follow.stream(inward, lambda: False)
  os.write(outward, b'1\n2')
  assert next(lines) == b'1'
  os.write(outward, b'3\n4')
  os.close(outward)
  assert list(lines) == [b'23', b'4']
  os.close(inward)


def test_standard_input_is_judged_to_its_end(run_dir, monkeypatch):
  known, new, _ = numbers()
  write_csv('s.csv', known)
  pathlib.Path('lines').write_bytes(b'oh\n' + b'\n'.join(map(text, new)))
  arguments = '--support=s.csv', '--query=-', '--max_rows=7'
  with open('lines') as file:
    monkeypatch.setattr(sys, 'stdin', file)
    code, out, err = call(adapt, f'--run_dir={run_dir}', *arguments)
  *rows, last = map(json.loads, out.splitlines())
  assert code == 0 and len(rows) == last['summary']['rows'] == 7
  assert err.startswith('s.csv: 20 rows') and err.count('\n') == 2
  assert '\nline 1 skipped' in err


FOLLOW = """
import sys
sys.path.insert(0, {tests!r})
import nearest_run
nearest_run.register()
from experiments import adapt, cli
cli.run(adapt.main, adapt.FLAGS)
"""


def test_a_file_that_others_append_to_is_followed_until_a_signal(
  run_dir, tmp_path
):
  known, new, _ = numbers()
  write_csv('s.csv', known)
  log = tmp_path / 'log.csv'
  process = subprocess.Popen(
    [sys.executable, '-c', FOLLOW.format(tests=str(ROOT / 'tests')),
     f'--run_dir={run_dir}', '--support=s.csv', f'--query={log}', '--follow'],
    stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
  )  # fmt: skip
  try:
    log.write_bytes(text(new[1]) + b'\n')
    first = json.loads(process.stdout.readline())
    with open(log, 'ab') as file:
      file.write(text(new[2]) + b'\n')
    second = json.loads(process.stdout.readline())
    assert (first['row'], second['row']) == (0, 1)
    process.send_signal(signal.SIGTERM)
    rest, err = process.communicate(timeout=60)
  finally:
    process.kill()
  assert process.returncode == 143, err
  assert json.loads(rest)['summary']['rows'] == 2


@pytest.mark.parametrize(
  ('code', 'message', 'options'),
  [
    (2, 'window', ['--query=-', '--window=4']),
    (2, 'rate', ['--query=s.csv', '--false_alarm_rate=1']),
    (1, "'nix'", ['--query=s.csv', '--ignore=nix']),
  ],
)
def test_wrong_flags_are_refused(run_dir, code, message, options):
  write_csv('s.csv', numbers()[0])
  run = [f'--run_dir={run_dir}', '--support=s.csv']
  assert message in fail(adapt, code, *run, *options, printed='s.csv: ')
