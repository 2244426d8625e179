"""Signals are collected until the work is safe; ignored ones stay ignored."""

import os
import signal
import subprocess
import sys

import pytest

from metaad_jax import signals

_PROGRAM = """
import signal, sys
from metaad_jax import signals
with signals.collected() as heard:
  first, second = (getattr(signal, name) for name in sys.argv[1:3])
  if sys.argv[3:]:
    signal.raise_signal(first)
    with heard.held():
      signal.raise_signal(second)
      print('saved', flush=True)
  else:
    signal.raise_signal(first)
    signal.raise_signal(second)
  print('alive', flush=True)
"""


@pytest.mark.parametrize(
  ('names', 'code', 'said'),
  [
    (['SIGTERM', 'SIGTERM'], 0, 'alive'),
    (['SIGINT', 'SIGTERM'], 0, 'alive'),
    (['SIGINT', 'SIGINT'], -signal.SIGINT, ''),  # who means it, ends it
    (['SIGINT', 'SIGINT', 'held'], 0, 'saved alive'),
    (['SIGHUP', 'SIGTERM', 'held'], 0, 'saved alive'),
  ],
)
def test_a_second_signal(names, code, said):
  ended = subprocess.run(
    [sys.executable, '-c', _PROGRAM, *names], capture_output=True, text=True
  )
  assert (ended.returncode, ended.stdout.split()) == (code, said.split())


def test_they_are_collected_and_then_as_before():
  before = [signal.getsignal(number) for number in signals.ENDING]
  with signals.collected() as heard:
    for number in signals.ENDING:
      os.kill(os.getpid(), number)
  assert heard.came == list(signals.ENDING)
  assert [signal.getsignal(n) for n in signals.ENDING] == before


def test_what_nohup_ignores_stays_ignored():
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    with signals.collected() as heard:
      os.kill(os.getpid(), signal.SIGHUP)
    assert not heard.came
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
  finally:
    signal.signal(signal.SIGHUP, before)
