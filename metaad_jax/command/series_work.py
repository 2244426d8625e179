"""What `metaad` does with series: files in, alarms and events out."""

from collections.abc import Sequence
import os
import sys
import time
from typing import Any, NamedTuple

import numpy as np

from metaad_jax import storage
from metaad_jax.base import DataError
from metaad_jax.command import endings, work
from metaad_jax.data import moments, timelines, user_files
from metaad_jax.data.timelines import Timeline
from metaad_jax.data.user_files import Samples
from metaad_jax.detector import judge as rows
from metaad_jax.detector import series_explanations, series_files, series_lines
from metaad_jax.detector.judge import Reading
from metaad_jax.detector.series_files import JudgedSeries, SeriesJudge
from metaad_jax.reports import series as page


class Options(NamedTuple):
  """Of the command line, for series."""

  series: bool = False
  healthy_until: str = ''
  per_day: float | None = None
  step: float | None = None
  resample: str = ''

  @property
  def asked(self) -> bool:
    """Whether the files are series; refuses flags that say nothing then."""
    asked = self.series or bool(self.healthy_until)
    given = [
      f'--{name}' for name in ('per_day', 'step', 'resample')
      if getattr(self, name)
    ]  # fmt: skip
    if given and not asked:
      raise endings.UsageError(
        f'{given[0]} is for series: add --healthy_until=TIME, or --series '
        'where the whole file is healthy'
      )
    return asked

  def false_alarms(self, timed: bool) -> str:
    if self.per_day is None:
      return '1 per 10000 points'
    if not timed and not self.step:
      raise DataError(
        '--per_day needs time stamps, or the seconds between two samples: '
        '--step=60'
      )
    return f'{self.per_day:g} per day'


def _lined(path, samples, notes, names=(), **options):
  """The series of a file; what `samples` has noted was said already."""
  with series_files.told(path, notes):
    line = timelines.of_samples(samples, names, **options)
  notes += [note for note in line.notes if note not in samples.notes]
  return line._replace(notes=())


def _read(path, reading, known, full=False):
  x = _one_channel(path)
  if x is None:
    samples = user_files.read(path, **reading._asdict(), like=known)
  else:
    samples = user_files.from_frame(x, features=('column 0',))
  samples = moments.timed(samples)
  time = moments.find(samples, time=reading.time)[0]
  notes = tuple(
    n for n in samples.notes
    if not ('no feature' in n and n.startswith(f'column {time!r} '))
  )  # fmt: skip
  return work.report(path, samples._replace(notes=notes), known, full)


def _one_channel(path):
  """[n, 1] of an array [n] in a file .npy, which is no table; or None."""
  if not path.lower().endswith('.npy'):
    return None
  try:
    x = np.load(path, allow_pickle=False, mmap_mode='r')
  except storage.BROKEN:
    return None  # it is told by the reader
  return np.array(x[:, None]) if x.ndim == 1 and len(x) else None


def read(
  path: str, reading: Reading, options: Options, dry_run: bool
) -> tuple[Samples, Timeline, Timeline | None, int]:
  """Reads a file; says how, and where its healthy part ends.

  Returns:
    What it holds, the healthy part, the rest or None, the row it begins with.
  """
  samples = _read(path, reading, None, dry_run)
  work.check_names(reading, samples)
  notes: list[str] = []
  line = _lined(
    path, samples, notes, resample=options.resample, time=reading.time
  )
  healthy, rest, row = line, None, 0
  if options.healthy_until:
    with series_files.told(path, notes):
      row = timelines.row_of(options.healthy_until, line)
    healthy, rest = timelines.split(line, row)
  say(path, notes)
  _describe(line, row, rest is not None)
  return samples, healthy, rest, row


def _describe(line, row, cut):
  """How the series is read, in a line."""
  text = f'series of {len(line.names)} channel{"s" * (len(line.names) != 1)}: '
  text += ', '.join(line.names[:8]) + ', ...' * (len(line.names) > 8)
  if line.step:
    text += f'; a sample every {series_explanations.seconds_text(line.step)}'
  text += f'; times in {line.time!r}' if line.time else '; no column of times'
  if cut:
    text += f'; healthy until row {row}'
    text += f', {line.stamps[row]}' if line.time else ''
  print(text, flush=True)


def say(path: str, notes: list[str]) -> None:
  for note in dict.fromkeys(notes):
    print(f'note: {path}: {note}', file=sys.stderr)


def fitted(
  path: str, samples: Samples, healthy: Timeline, reading: Reading,
  options: Options,
) -> SeriesJudge:  # fmt: skip
  """The judge of a healthy series."""
  notes: list[str] = []
  with series_files.told(path, notes):
    by = series_files.fit(
      path, samples, healthy,
      false_alarms=options.false_alarms(healthy.step is not None),
      step=options.step, resample=options.resample, reading=reading,
    )  # fmt: skip
  say(path, notes)
  return by


def judged(
  by: SeriesJudge, path: str, samples: Samples, line: Timeline, first: int = 0,
  healthy: Timeline | None = None,
) -> JudgedSeries:  # fmt: skip
  notes: list[str] = []
  with series_files.told(path, notes):
    found = series_files.judge(by, path, samples, line, first, healthy)
  say(path, notes)
  return found


def detect(
  path: str, new: str | None, reading: Reading, options: Options, dry_run: bool
) -> JudgedSeries | None:
  """Judges what comes after the healthy part, or another file; None if dry."""
  samples, healthy, rest, row = read(path, reading, options, dry_run)
  if rest is None and new is None:
    raise endings.UsageError(
      f'--series: name a file to judge as well, or say until when {path} is '
      'healthy: --healthy_until=TIME'
    )
  other = None if new is None else _read(new, reading, samples, dry_run)
  if dry_run:
    return None
  by = fitted(path, samples, healthy, reading, options)
  if other is not None and new is not None:
    return query(by, new, other)
  assert rest is not None
  return judged(by, path, samples, rest, row, healthy)


def query(by: SeriesJudge, path: str, samples: Samples) -> JudgedSeries:
  """Judges a file that was read as the one that was fitted to."""
  notes: list[str] = []
  names, resample = by.detector.names_, by.detector.resample
  line = _lined(
    path, samples, notes, names, resample=resample, form=by.form, time=by.time
  )
  say(path, notes)
  return judged(by, path, samples, line)


def score(model: str, new: str, changes: dict[str, Any]) -> JudgedSeries:
  """Judges a file by a model file."""
  by = series_files.load(model)
  reading = by.reading._replace(**{k: v for k, v in changes.items() if v})
  known = by.support if by.detector.names_ else None
  return query(by, new, _read(new, reading, known))


def write(found: JudgedSeries, folder: str) -> bool:
  """Writes what was found, prints a summary; whether there is an event."""
  files = series_files.files(found)
  files['report.html'] = page.page(found)
  written = rows.save_files(folder, files)
  print(f'{series_files.summary(found)}\n{", ".join(written)} written')
  return bool(found.found.events)


def explain(
  model: str, new: str, which: Sequence[int], changes: dict[str, Any]
) -> None:
  """Prints why rows, or the five highest events, are what they are."""
  found = score(model, new, changes)
  by, line = found.judge.detector, found.found.line
  events = sorted(found.found.events, key=lambda e: -e.score)[:5]
  for row in which or [e.rows[2] for e in events]:
    if row >= len(line.at):
      raise DataError(f'{new}: there is no row {row}: it has {len(line.at)}')
    why = by.explain(line, row)
    text = series_explanations.text(why, by.step_)
    print(f'row {row}, {line.stamps[row]}: {text}' if line.time
          else f'row {row}: {text}')  # fmt: skip
  if not which and not events:
    print('no event')


def follow(
  model: str, path: str, limit: int = 0, state: str = ''
) -> tuple[int, int]:
  """Judges the points of a file, or of standard input (-), as they come.

  Args:
    model: a model file.
    path: of the file.
    limit: end after so many points; 0 = never.
    state: file to go on from, if it is there, and to keep the state in, in the
      end and once a minute; '' = none.

  Returns:
    As `work.follow`.
  """
  by = series_files.load(model)
  going = state and os.path.exists(state)
  stream = by.detector.follow(state if going else '')
  if going:
    print(f'note: goes on after {stream.number} points', file=sys.stderr)
  if state and not going:
    stream.save(state)  # what cannot be written is said now

  def judged(lines, tell):
    saved = time.monotonic()
    many = limit or sys.maxsize
    for row in series_lines.follow(by, stream, lines, tell, many):
      yield row
      if state and time.monotonic() - saved > 60:
        stream.save(state)
        saved = time.monotonic()

  try:
    return work.streamed(path, judged)
  finally:
    if state:
      stream.save(state)
