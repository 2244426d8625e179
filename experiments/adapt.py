r"""Adapts a detector to a new entity from a few samples, and judges others.

  python -m experiments.adapt --support=normal.csv --query=new.csv
  tail -F log.csv | python -m experiments.adapt --support=normal.csv --query=-

--support holds 5 to 20 rows that are known: all normal, or with a column (.npz:
an array y) of labels, 1 = anomaly, -1 or empty = unlabelled. --query holds the
rows to judge. Both are .csv, .parquet, .npy, .npz or .wav; columns may hold
words and missing values, and are matched by name. A .wav, or with --window the
rows of a table, is cut into windows.

Writes scores.csv (row, score, rank, p_value, decision, reasons; higher = more
abnormal), scores.json, scores.png and report.html to --output. With --follow,
or --query=-, rows of .csv are judged as they arrive, one line of JSON each on
standard output and a summary in the end; malformed lines are counted, told on
standard error and skipped.
"""

from collections.abc import Iterator
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading

from absl import flags
import pandas as pd

from experiments import cli
from metaad_jax.base import DataError
from metaad_jax.data import roles, user_files
from metaad_jax.detector import estimator, follow, judge
from metaad_jax.reports import pages
from metaad_jax.training import runs

FLAGS = flags.FlagValues()
_RUN_DIR = flags.DEFINE_string(
  'run_dir', runs.SHIPPED,
  "folder of a trained run, a model file, or 'shipped': the package's own",
  flag_values=FLAGS,
)  # fmt: skip
_SUPPORT = flags.DEFINE_string(
  'support', None, 'file of known rows', flag_values=FLAGS
)
_QUERY = flags.DEFINE_string(
  'query', None, 'file of rows to judge; - = standard input', flag_values=FLAGS
)
_OUTPUT = flags.DEFINE_string(
  'output', 'adapted', 'folder for what is found', flag_values=FLAGS
)
_RATE = flags.DEFINE_float(
  'false_alarm_rate', 0.05,
  'share of normal rows that may be called abnormal', flag_values=FLAGS,
)  # fmt: skip
_LABEL = flags.DEFINE_string(
  'label', '',
  'column of labels; label, labels, y or anomaly if not given; none = none',
  flag_values=FLAGS,
)  # fmt: skip
_ANOMALY_LABEL = flags.DEFINE_string(
  'anomaly_label', '', 'the word that marks an anomaly in the column of labels',
  flag_values=FLAGS,
)  # fmt: skip
_FEATURES = flags.DEFINE_list(
  'features', [], 'columns to look at though they look like ids or times',
  flag_values=FLAGS,
)  # fmt: skip
_IGNORE = flags.DEFINE_list(
  'ignore', [], 'columns to leave out, such as id,time', flag_values=FLAGS
)
_WINDOW = flags.DEFINE_integer(
  'window', 0, 'samples of a window; 0 = rows are not cut', flag_values=FLAGS
)
_FOLLOW = flags.DEFINE_bool(
  'follow', False, 'wait for more rows in the file --query', flag_values=FLAGS
)
_MAX_ROWS = flags.DEFINE_integer(
  'max_rows', 0, '--follow: end after so many rows; 0 = never',
  flag_values=FLAGS,
)  # fmt: skip


def main() -> int | None:
  """Reads, adapts, judges, writes."""
  for flag in (_RUN_DIR, _SUPPORT, _QUERY):
    if not flag.value:
      raise cli.UsageError(f'--{flag.name} is missing')
  if not 0 < _RATE.value < 1:
    raise cli.UsageError(
      f'--false_alarm_rate={_RATE.value}: choose one between 0 and 1'
    )
  if _WINDOW.value < 0 or _MAX_ROWS.value < 0:
    raise cli.UsageError('--window and --max_rows: choose 0 or more')
  run_dir, path = str(_RUN_DIR.value), str(_SUPPORT.value)
  estimator.load_run(run_dir)  # what is wrong with it comes first
  if _FOLLOW.value or _QUERY.value == '-':
    if _WINDOW.value:
      raise cli.UsageError('--window: rows are followed one by one')
    return _follow(run_dir, path, str(_QUERY.value))
  query_path = str(_QUERY.value)
  support = _read(path)
  frame = isinstance(support.rows, pd.DataFrame)
  query = _read(query_path, support if frame else None)
  _check_names({*support.header, *query.header})
  columns, missing = judge.common(support, query, (path, query_path))
  _warn(missing)
  by = judge.adapt(run_dir, path, support, rate=_RATE.value, columns=columns)
  judged = judge.judge(by, query_path, query)
  image = pages.scores_png(judged)
  written = judge.save(
    str(_OUTPUT.value),
    {
      **judge.files(judged),
      'scores.png': image,
      'report.html': pages.judged(judged, image),
    },
  )
  print(f'{judge.summary(judged)}\n{", ".join(written)} written')
  return None


def _read(path, like=None):
  samples = user_files.read(
    path, label=_LABEL.value, anomaly_label=_ANOMALY_LABEL.value,
    ignore=_IGNORE.value, features=_FEATURES.value, like=like,
    window=_WINDOW.value,
  )  # fmt: skip
  for note in samples.notes:
    _warn(f'{path}: {note}')
  return samples


def _check_names(header):
  """Refuses names of columns that no file has."""
  label = [] if _LABEL.value in ('', 'none') else [_LABEL.value]
  for flag, names in (
    (_IGNORE, _IGNORE.value), (_FEATURES, _FEATURES.value), (_LABEL, label)
  ):  # fmt: skip
    for name in names:
      if header and name not in header:
        raise DataError(
          f'--{flag.name}: there is no column {name!r}'
          f'{roles.nearest(name, list(header))}'
        )


def _warn(line):
  if line:
    print(f'note: {line}', file=sys.stderr)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
  """Signals that came in, instead of what they would do."""
  came: list[int] = []
  if threading.current_thread() is not threading.main_thread():
    yield came
    return
  names = (signal.SIGINT, signal.SIGTERM)
  before = [
    signal.signal(name, lambda number, frame: came.append(number))
    for name in names
  ]
  try:
    yield came
  finally:
    for name, handler in zip(names, before, strict=True):
      signal.signal(name, handler)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
  """A descriptor of standard input, or of a file that others append to."""
  if path == '-':
    yield sys.stdin.fileno()
    return
  command = ['tail', '-n', '+1', '-F', '--', path]
  with subprocess.Popen(
    command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
  ) as tail:
    assert tail.stdout is not None
    try:
      yield tail.stdout.fileno()
    finally:
      tail.terminate()


def _follow(run_dir, path, query_path) -> int:
  """Judges rows as they come; 128 + number of the signal that ended it."""
  support = _read(path)
  if not isinstance(support.rows, pd.DataFrame):
    raise DataError(f'{path} holds windows: only rows can be followed')
  _check_names(support.header)
  by = judge.adapt(run_dir, path, support, rate=_RATE.value)
  limit = _MAX_ROWS.value or sys.maxsize
  with _signals() as came, _opened(query_path) as descriptor:
    lines = follow.stream(descriptor, lambda: bool(came))
    try:
      for row in follow.follow(by, lines, _skipped, limit):
        print(json.dumps(row, allow_nan=False), flush=True)
    except BrokenPipeError:  # nobody reads any more
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
      return 128 + signal.SIGPIPE
    return 128 + came[0] if came else 0


def _skipped(line):
  print(line, file=sys.stderr, flush=True)


if __name__ == '__main__':
  cli.run(main, FLAGS)
