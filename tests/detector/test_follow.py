"""Rows that arrive: what is told to a reader who may have stopped reading."""

import os
import threading

from metaad_jax.detector import follow


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
