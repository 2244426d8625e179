r"""Adapts a detector to a new entity from a few samples, and judges others.

  python -m experiments.adapt --support=normal.csv --query=new.csv
  tail -F log.csv | python -m experiments.adapt --support=normal.csv --query=-

--support holds 5 to 20 rows that are known: all normal, or with a column (.npz:
an array y) of labels, 1 = anomaly, 0 = normal, empty = nobody has checked.
--query holds the rows to judge. Both are .csv, .parquet, .npy, .npz or .wav;
columns may hold words and missing values, and are matched by name. A .wav, or
with --window the rows of a table, is cut into windows.

Writes scores.csv (row, ids and times, score, rank, p_value, decision, reasons;
higher = more abnormal), scores.json, scores.png and report.html to --output.
With --follow, or --query=-, rows of .csv are judged as they arrive, one line of
JSON each on standard output and a summary in the end; malformed lines are
counted, told on standard error and skipped.
"""

import contextlib
import sys
from typing import Any

from absl import flags

from experiments import cli
from metaad_jax.command import work
from metaad_jax.detector import estimator, judge
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
_TIME = flags.DEFINE_string(
  'time', '', 'column of times: no feature, but in the output',
  flag_values=FLAGS,
)  # fmt: skip
_ID = flags.DEFINE_string(
  'id', '', 'column of names of the rows: no feature, but in the output',
  flag_values=FLAGS,
)  # fmt: skip
_WINDOW = flags.DEFINE_integer(
  'window', 0, 'samples of a window; 0 = rows are not cut', flag_values=FLAGS
)
_DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'say how the columns are read, and stop', flag_values=FLAGS
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
  query_path, rate = str(_QUERY.value), float(_RATE.value)
  names = judge.Reading._fields
  values: dict[str, Any] = {name: FLAGS[name].value for name in names}
  reading = judge.Reading(**values)
  estimator.load_run(run_dir)  # what is wrong with it comes first
  followed = _FOLLOW.value or query_path == '-'
  if followed and _WINDOW.value:
    raise cli.UsageError('--window: rows are followed one by one')
  screen = sys.stderr if followed else sys.stdout  # JSON has the other
  with contextlib.redirect_stdout(screen):
    by, query = work.adapt(
      run_dir, path, reading, rate, None if followed else query_path,
      _DRY_RUN.value,
    )  # fmt: skip
  if by is None:
    return None
  if query is None:
    return work.follow(by, query_path, _MAX_ROWS.value)[0]
  work.write(judge.judge(by, query_path, query), str(_OUTPUT.value))
  return None


if __name__ == '__main__':
  cli.run(main, FLAGS)
