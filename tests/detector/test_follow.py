"""Rows that arrive: what is told to a reader who may have stopped reading."""

import os
import threading

import nearest_run
import numpy as np
from numpy.testing import assert_allclose
import pandas
import pytest

from metaad_jax.data import user_files
from metaad_jax.detector import follow, judge


def test_a_reader_that_stops_reading_does_not_keep_the_process(monkeypatch):
  reading, writing = os.pipe()
  looks = []
  with open(writing, 'w') as out:
    monkeypatch.setattr('sys.stdout', out)
    follow.tell('x' * 300_000, lambda: looks.append(1) or len(looks) > 2)
    assert len(looks) == 3
  assert set(os.read(reading, 300_000)) == {ord('x')}
  os.close(reading)


def test_a_line_longer_than_a_pipe_arrives_whole(monkeypatch):
  reading, writing = os.pipe()
  got = []
  reader = threading.Thread(target=lambda: got.append(open(reading).read()))
  reader.start()
  with open(writing, 'w') as out:
    monkeypatch.setattr('sys.stdout', out)
    follow.tell('ä' * 200_000, lambda: False)
  reader.join()
  assert got == ['ä' * 200_000 + '\n']


@pytest.mark.parametrize('name', ['temp', 'temp, C', 'temp; C'])
@pytest.mark.parametrize('word', ['pump, left', 'pump; left'])
@pytest.mark.parametrize(
  'sep, decimal', [(',', '.'), (';', '.'), (';', ','), ('\t', ','), ('|', '.')]
)
def test_lines_followed_are_the_rows_of_the_file(
  name, word, sep, decimal, tmp_path
):
  rng = np.random.default_rng(0)
  path = str(tmp_path / 'a.csv')
  columns = {
    name: rng.normal(20, 2, 30).round(3),
    'press': rng.normal(1500, 1, 30).round(1),
    'where': [word, 'fan'] * 15,
  }
  frame, how = pandas.DataFrame(columns), {'sep': sep, 'decimal': decimal}
  frame[:20].to_csv(path, index=False, **how)
  known = user_files.read(path)
  by = judge.adapt(nearest_run.shared(), path, known, rate=0.05)
  text = frame[20:].to_csv(index=False, **how)
  (tmp_path / 'a.csv').write_text(text)
  judged = judge.judge(by, path, user_files.read(path, like=known))
  told: list[str] = []
  lines = [line.encode() for line in text.splitlines()]
  *rows, last = follow.follow(by, iter(lines), told.append)
  assert last['summary']['rows'] == 10 and not told
  assert_allclose([row['score'] for row in rows], judged.scores, rtol=1e-5)
