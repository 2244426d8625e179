"""A user's series judged: its healthy part, what comes after it, findings.

`fit` makes a judge of a healthy series, `judge` says what is abnormal in
another or in the rest, `files` writes it for spreadsheets and for programs,
`save` and `load` keep the judge in a model file.
"""

from collections.abc import Iterator
import contextlib
import json
import os
from typing import Any, NamedTuple
import warnings

import numpy as np
import pandas as pd

from metaad_jax import storage
from metaad_jax.base import DataError
from metaad_jax.data import moments, text_files, timelines
from metaad_jax.data.roles import Column
from metaad_jax.data.timelines import Timeline
from metaad_jax.data.user_files import Samples
from metaad_jax.detector import judge as rows
from metaad_jax.detector import sheets
from metaad_jax.detector.series import Judgement, SeriesAnomalyDetector
from metaad_jax.detector.series_explanations import length_text

_UNITS = (
  (7 * 86400.0, 'week'), (86400.0, 'day'), (3600.0, 'hour'), (60.0, 'minute'),
  (1.0, 'second'),
)  # fmt: skip


class SeriesJudge(NamedTuple):
  """A detector that was fitted to a file."""

  path: str
  support: Samples  # its rows are of the healthy part
  detector: SeriesAnomalyDetector
  reading: rows.Reading = rows.AS_FOUND
  form: str = ''  # of its dates

  @property
  def columns(self) -> tuple[str, ...]:
    """The channels."""
    return tuple(self.support.rows.columns)

  @property
  def time(self) -> str:
    """Name of the column of times, or ''."""
    return self.detector.time_


class JudgedSeries(NamedTuple):
  """What was found.

  `first` is the number of the first judged row in its file, `healthy` the part
  before it where that is in the same file.
  """

  judge: SeriesJudge
  path: str
  found: Judgement
  keys: pd.DataFrame  # [n] ids and times
  first: int = 0
  healthy: Timeline | None = None

  def stretches(self) -> tuple[int, int, int] | None:
    """Labelled stretches, those that an event meets, events in none of them."""
    labels = self.found.line.labels
    if labels is None or not (labels == 1).any():
      return None
    spans = [event.rows[:2] for event in self.found.events]
    inside = [(labels[a : b + 1] == 1).any() for a, b in spans]
    starts, stops = timelines.runs(labels == 1)
    met = [
      any(a < stop and b >= start for a, b in spans)
      for start, stop in zip(starts, stops, strict=True)
    ]
    return len(met), sum(met), len(inside) - sum(inside)


@contextlib.contextmanager
def told(path: str, notes: list[str]) -> Iterator[None]:
  """Collects warnings in `notes`; errors name the file."""
  with warnings.catch_warnings(record=True) as heard:
    warnings.simplefilter('always', UserWarning)
    try:
      yield
    except DataError as error:
      raise DataError(f'{path}: {error}') from error
  for warning in heard:
    if issubclass(warning.category, UserWarning):
      notes.append(str(warning.message))
    else:
      warnings.warn_explicit(
        warning.message, warning.category, warning.filename, warning.lineno
      )


def fit(
  path: str, samples: Samples, line: Timeline, *,
  false_alarms: str, step: float | None = None, resample: str = '',
  reading: rows.Reading = rows.AS_FOUND,
) -> SeriesJudge:  # fmt: skip
  """Learns from a healthy series.

  Args:
    path: of its file.
    samples: what the file holds.
    line: the healthy part of it.
    false_alarms, step, resample: see `SeriesAnomalyDetector`.
    reading: of the file.

  Raises:
    DataError: for a series that makes no sense, in one line.
  """
  detector = SeriesAnomalyDetector(
    false_alarms=false_alarms, step=step, resample=resample
  ).fit(line)
  healthy = pd.DataFrame(
    np.concatenate(detector.stretches_), columns=list(line.names)
  )
  samples = samples._replace(rows=healthy)
  return SeriesJudge(path, samples, detector, reading, line.form)


def judge(
  by: SeriesJudge, path: str, samples: Samples, line: Timeline, first: int = 0,
  healthy: Timeline | None = None,
) -> JudgedSeries:  # fmt: skip
  """Scores a series of a file from its row `first` on; see `JudgedSeries`."""
  keys = samples.keys.iloc[first : first + len(line.at)]
  if line.time and line.time not in keys:  # it stands among the numbers
    keys = keys.assign(**{line.time: line.stamps})
  return JudgedSeries(by, path, by.detector.judge(line), keys, first, healthy)


# --- model files -------------------------------------------------------------


def save(by: SeriesJudge, path: str) -> None:
  """Writes a model file that `load` and `SeriesAnomalyDetector.load` read."""
  support = by.support
  about = {
    'name': os.path.basename(by.path), 'header': support.header,
    'dialect': support.dialect, 'columns': support.columns,
    'reading': by.reading._asdict(), 'form': by.form,
  }  # fmt: skip
  by.detector.save(path, {'file': about})


def load(path: str) -> SeriesJudge:
  """Reads a model file: of `save`, or of `SeriesAnomalyDetector.save`.

  Raises:
    DataError: if it makes no sense.
  """
  detector, meta = SeriesAnomalyDetector.restore(path)
  about = meta.get('file', {})
  names = detector.names_ or tuple(
    f'column {i}' for i in range(detector.n_features_in_)
  )
  try:
    dialect, read = about.get('dialect'), dict(about.get('reading', {}))
    read |= {
      k: tuple(map(str, read.get(k, ()))) for k in ('ignore', 'features')
    }
    support = Samples(
      pd.DataFrame(np.concatenate(detector.stretches_), columns=list(names)),
      None, None, tuple(map(str, about.get('header', names))),
      columns=tuple(Column(*column) for column in about.get('columns', ())),
      dialect=dialect and text_files.Dialect(*map(str, dialect)),
    )  # fmt: skip
    reading = rows.Reading(**read)
  except (TypeError, ValueError, AttributeError) as error:
    raise DataError(
      f'{path} does not say how its files are read ({error!r}): fit it anew'
    ) from error
  name = str(about.get('name', os.path.basename(path)))
  form = str(about.get('form', ''))
  return SeriesJudge(name, support, detector, reading, form)


def is_series(path: str) -> bool:
  """Whether a model file holds a detector for series."""
  return storage.load(path)[1].get('kind') == 'series'


# --- what is found -----------------------------------------------------------


def rate_text(detector: SeriesAnomalyDetector) -> str:
  """How many false events are promised, as an operator thinks."""
  rate, step = detector.event_rate_, detector.step_
  text = detector.false_alarms.removesuffix(' points')
  if step is None:
    return f'{text} points'
  unit, name = next(
    (u for u in reversed(_UNITS) if rate * u[0] / step >= 0.5), _UNITS[0]
  )
  said = f'{rate * unit / step:.3g} per {name}'
  return said if said == text else f'{said} ({detector.false_alarms})'


def fitted_text(by: SeriesJudge) -> str:
  """A line on what was learned."""
  detector = by.detector
  healthy = sum(map(len, detector.stretches_))
  return (
    f'{length_text(healthy, detector.step_)} of healthy series, a period of '
    f'{length_text(detector.period_, detector.step_)}, '
    f'{rate_text(detector)} false events'
  )


def summary(judged: JudgedSeries) -> str:
  """A few lines for the terminal."""
  by, found = judged.judge.detector, judged.found
  events, n = found.events, len(found.scores)
  healthy = sum(map(len, by.stretches_))
  lines = [
    f'{n} rows judged from {length_text(healthy, by.step_)} of healthy series '
    f'with a period of {length_text(by.period_, by.step_)}',
    f'{len(events)} event{"s" if len(events) != 1 else ""} at a rate of '
    f'{rate_text(by)} false ones: a series as healthy as that would have '
    f'{by.event_rate_ * n:.2g} in as many rows',
  ]
  for event in sorted(events, key=lambda e: -e.score)[:3]:
    lines.append(
      f'  {event.start} to {event.end}, p = {event.p_value:.2g}: {event.reason}'
    )
  if found.changed is not None:
    later = sum(event.rows[0] >= found.changed for event in events)
    lines.append(
      f'from {found.line.stamps[found.changed]} on more is unlike the healthy '
      f'part than single events explain, the rate does not hold: {later} of '
      'the events are later; if that is the new normal, fit anew with newer '
      'healthy rows (said in error once in 100 healthy series)'
    )
  met = judged.stretches()
  if met:
    lines.append(
      f'against the labels in {judged.path}: {met[1]} of {met[0]} labelled '
      f'stretches met by an event, {met[2]} events outside of them'
    )
  return '\n'.join(lines)


def _decisions(found):
  missing = np.isnan(found.scores)
  names = np.array(['normal', 'abnormal', 'unknown'])
  return names[np.where(missing, 2, found.outliers.astype(int))]


def _scores_csv(judged):
  found = judged.found
  said = np.isfinite(found.scores)
  frame = pd.DataFrame({
    'row': judged.first + np.arange(len(found.scores)),
    'score': [f'{s:.5g}' if k else '' for s, k in zip(found.scores, said,
                                                     strict=True)],
    'p_value': [f'{p:.4g}' if k else '' for p, k in zip(found.p_values, said,
                                                        strict=True)],
    'decision': _decisions(found),
  })  # fmt: skip
  return sheets.with_keys(frame, judged.keys)


def event_rows(judged: JudgedSeries) -> list[dict[str, Any]]:
  """The events as JSON holds them."""
  plain = moments.written
  return [
    {
      'event': number, 'start': plain(e.start), 'end': plain(e.end),
      'peak': plain(e.peak), 'score': round(e.score, 6),
      'p_value': float(f'{e.p_value:.4g}'), 'reason': e.reason,
      'channel': e.channel, 'view': e.view, 'samples': e.length,
      **{
        f'{name}_row': judged.first + row
        for name, row in zip(('start', 'end', 'peak'), e.rows, strict=True)
      },
    }
    for number, e in enumerate(judged.found.events, 1)
  ]  # fmt: skip


_EVENT = (
  'event', 'start', 'end', 'peak', 'score', 'p_value', 'reason', 'channel',
  'view', 'samples', 'start_row', 'end_row', 'peak_row',
)  # fmt: skip


def files(judged: JudgedSeries) -> dict[str, bytes]:
  """scores.csv, events.csv and events.json, to be saved."""
  by, found = judged.judge.detector, judged.found
  events = event_rows(judged)
  table = pd.DataFrame(events, columns=list(_EVENT))
  said = {
    'schema': 1,
    'healthy': os.path.basename(judged.judge.path),
    'series': os.path.basename(judged.path),
    'channels': list(by.names_),
    'first_row': judged.first,
    'rows': len(found.scores),
    'missing': int(np.isnan(found.scores).sum()),
    'period': by.period_,
    'step': by.step_,
    'false_alarms': by.false_alarms,
    'threshold': by.threshold_,
    'changed_row': None if found.changed is None
    else judged.first + found.changed,
    'events': events,
  }  # fmt: skip
  return {
    'scores.csv': _scores_csv(judged).encode(),
    'events.csv': sheets.harmless_csv(table).encode(),
    'events.json': json.dumps(said, indent=1, allow_nan=False).encode(),
  }
