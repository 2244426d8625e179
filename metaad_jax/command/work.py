"""What `metaad` and `experiments.adapt` do: files in, findings out."""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import json
import os
import subprocess
import sys
from typing import Any

import pandas as pd

from metaad_jax import signals
from metaad_jax.base import DataError
from metaad_jax.command import endings
from metaad_jax.data import roles, user_files
from metaad_jax.data.user_files import Samples
from metaad_jax.detector import doubts, judge
from metaad_jax.detector import follow as following
from metaad_jax.detector.judge import Judge, Judged, Reading
from metaad_jax.reports import judged as judged_lib


def read(
  path: str,
  reading: Reading,
  known: Samples | None = None,
  full: bool = False,
) -> Samples:
  """Reads a file, and prints the report of its columns.

  Args:
    path: of the file.
    reading: how.
    known: what the file to adapt to holds; what was noted there is not noted
      again.
    full: all columns, in a table.
  """
  table = known is not None and isinstance(known.rows, pd.DataFrame)
  like = known if table else None
  samples = user_files.read(path, **reading._asdict(), like=like)
  return report(path, samples, known, full)


def report(
  path: str, samples: Samples, known: Samples | None, full: bool
) -> Samples:
  """Prints how the columns were read, and hands the samples on; see `read`."""
  print(judged_lib.columns_text(path, samples, full), flush=True)
  for note in samples.notes:
    if known is None or note not in known.notes:
      _warn(f'{path}: {note}')
  return samples


def check_names(reading: Reading, *samples: Samples) -> None:
  """Refuses names of columns that no file has."""
  header = {name: None for s in samples for name in s.header}
  parted = lambda names: tuple(filter(None, names.split(',')))
  named = {
    'ignore': reading.ignore, 'features': reading.features,
    'label': () if reading.label in ('', 'none') else (reading.label,),
    'time': parted(reading.time), 'id': parted(reading.id),
  }  # fmt: skip
  for flag, names in named.items():
    for name in names:
      if header and name not in header and name != '*':
        raise DataError(
          f'--{flag}: there is no column {name!r}'
          f'{roles.nearest(name, list(header))}'
        )


def adapt(
  run_dir: str,
  path: str,
  reading: Reading,
  rate: float,
  query_path: str | None = None,
  dry_run: bool = False,
) -> tuple[Judge | None, Samples | None]:
  """Adapts to a file, by the columns that the file to judge has as well.

  The report of the columns is printed first; with `dry_run` that is all.

  Returns:
    The judge (None in a dry run), and what the other file holds.
  """
  support = read(path, reading, full=dry_run)
  query, columns = None, None
  if query_path is not None:
    query = read(query_path, reading, support, dry_run)
  check_names(reading, *[s for s in (support, query) if s is not None])
  if query is not None and query_path is not None:
    columns, lacking = judge.common(support, query, (path, query_path))
    if lacking:
      _warn(lacking)
  if dry_run:
    return None, query
  by = judge.adapt(
    run_dir, path, support, rate=rate, columns=columns, reading=reading
  )
  for doubt in doubts.of_known(by):
    _warn(f'{path}: {doubt}')
  return by, query


def query_of(by: Judge, path: str, changes: dict[str, Any]) -> Samples:
  """What a file holds, read as the file that was adapted to.

  Args:
    by: the judge.
    path: of the file.
    changes: of how it is read; see `Reading`.
  """
  reading = by.reading._replace(**{k: v for k, v in changes.items() if v})
  query = read(path, reading, by.support)
  _, lacking = judge.common(by.support, query, (by.path, path))
  if missing := set(by.columns) - set(getattr(query.rows, 'columns', ())):
    raise DataError(
      f'{path} lacks column {min(missing)!r} that the detector looks at: give '
      'it (cells may be empty), or fit without'
    )
  if lacking:
    _warn(lacking)
  return query


def write(judged: Judged, folder: str) -> None:
  """Writes what was found, and prints a summary."""
  files = judge.files(judged)
  try:
    files['scores.png'] = judged_lib.scores_png(judged)
  except ImportError:
    _warn("no scores.png without matplotlib: pip install 'metaad_jax[report]'")
  files['report.html'] = judged_lib.page(judged)
  for doubt in doubts.of_found(judged):
    _warn(f'{judged.path}: {doubt}')
  alarms, told = int(judged.outliers.sum()), len(judged.explanations)
  if alarms > told:
    _warn(
      f'{told} of the {alarms} abnormal rows have reasons, the most abnormal '
      'ones; for others: metaad explain --rows=...'
    )
  written = judge.save_files(folder, files)
  print(f'{judge.summary(judged)}\n{", ".join(written)} written')


def _warn(line):
  print(f'note: {endings.pasteable(line)}', file=sys.stderr)


# --- rows as they arrive -----------------------------------------------------


def follow(by: Judge, path: str, limit: int = 0) -> tuple[int, int]:
  """Judges rows of a file, or of standard input (-), as they come.

  Args:
    by: the judge.
    path: of the file.
    limit: end after so many rows; 0 = never.

  Returns:
    128 + the number of the signal that ended it, or 0; how many rows were
    abnormal.
  """
  if not isinstance(by.support.rows, pd.DataFrame):
    raise DataError(f'{by.path} holds windows: only rows can be followed')
  judged = lambda lines, tell: following.follow(
    by, lines, tell, limit or sys.maxsize
  )
  return streamed(path, judged)


def streamed(
  path: str,
  judged: Callable[
    [Iterable[bytes], Callable[[str], None]], Iterator[dict[str, Any]]
  ],
) -> tuple[int, int]:
  """Prints what is said of lines as they come; see `follow`."""
  alarms = 0
  tell = lambda line: print(line, file=sys.stderr, flush=True)
  with signals.collected() as heard, _opened(path) as descriptor:
    stopped = lambda: bool(heard.came)
    lines = following.stream(descriptor, stopped)
    try:
      for row in judged(lines, tell):
        following.tell(json.dumps(row, allow_nan=False), stopped)
        alarms = row.get('summary', {}).get('abnormal', alarms)
    except BrokenPipeError:
      endings.nobody_reads()
      return endings.NOBODY_READS, alarms
    return 128 + heard.came[0] if heard.came else 0, alarms


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
  """A descriptor of standard input, or of a file that others append to."""
  if path == '-':
    if sys.stdin is None:
      raise DataError('standard input is closed: name a file, or pipe rows in')
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


def size(path: str) -> str:
  """A line on a file that was written."""
  return f'{path}: {os.path.getsize(path):,} bytes'
