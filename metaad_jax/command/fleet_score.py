"""A long file judged piece by piece; tables and a page of what was found."""

from collections.abc import Iterator
import contextlib
import csv
import os
import shutil
import sys
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from metaad_jax import FleetDetector
from metaad_jax.base import DataError
from metaad_jax.detector import judge, reasons, sheets
from metaad_jax.fleet import alarms as alarms_lib
from metaad_jax.fleet import engines, pieces
from metaad_jax.fleet.tally import Tally
from metaad_jax.reports import fleet as fleet_page

_NAMED = 5  # entities of an event


class Alarms(NamedTuple):
  """What becomes of abnormal rows; see `FleetDetector.events`.

  `fdr` is the share of all alarms that may be false; None = the rate of the
  fleet holds, of normal rows.
  """

  gap: float = 0.0
  budget: str = ''
  fdr: float | None = None


def score(
  model: str, path: str, output: str, alarms: Alarms, engine: str = 'local'
) -> bool:
  """Judges the rows of a file; tables and a page. Any alarm that is told?"""
  fleet = FleetDetector.load(model)
  layout = fleet.layout_
  if (alarms.gap or alarms.budget) and not layout.time:
    raise DataError('the fleet has no times: metaad fit --time=COLUMN')
  if alarms.budget:
    alarms_lib.per_second(alarms.budget)  # refused before the work
  tally = Tally(fleet, alarms.fdr)
  with _folder(output) as part:
    parts = pieces.of(path, layout.columns.decimal)
    for found in engines.judged(model, parts, engine):
      frame = tally.add(found).drop(columns='outlier')
      _append(part, frame)
    for note in tally.notes:
      print(f'note: {path}: {note}', file=sys.stderr)
    _note_unknown(tally)
    found, events = _events(tally, alarms)
    worst = tally.worst(found)
    worst['reasons'] = [
      '; '.join(r.text for r in reasons.reasons(why)) if why else ''
      for why in worst.pop('why').where(lambda why: why.notna(), None)
    ]
    ranking = _ranking(tally, found, layout.entity)
    contents = {'entities.csv': sheets.harmless_csv(ranking).encode()}
    if layout.time:
      contents['events.csv'] = sheets.harmless_csv(events.copy()).encode()
    contents['report.html'] = fleet_page.page(
      tally, ranking, found, worst, path, fleet.false_alarm_rate, alarms.fdr
    )
    _finish(part, os.path.join(output, 'scores.csv'), found, worst)
    written = [os.path.join(output, 'scores.csv')]
    written += judge.save_files(output, contents)
  _say(tally, found, events, ranking, alarms, fleet)
  print(f'{", ".join(map(os.fspath, written))} written')
  return bool(events['told'].any() if layout.time else len(found))


@contextlib.contextmanager
def _folder(output) -> Iterator[str]:
  """A file in it for rows in work; a new folder goes with a failure."""
  new = not os.path.isdir(output)
  part = os.path.join(output, f'.scores.csv.{os.getpid()}.part')
  try:
    os.makedirs(output, exist_ok=True)
    yield part
  except BaseException:
    if new:
      shutil.rmtree(output, ignore_errors=True)
    raise
  finally:
    with contextlib.suppress(OSError):
      os.remove(part)


def _append(part, frame):
  frame.insert(0, 'row', frame.pop('row'))
  text = sheets.harmless_csv(frame)
  with open(part, 'a', newline='') as file:
    file.write(text if not file.tell() else text[text.index('\n') + 1 :])


def _note_unknown(tally):
  unknown = [n for n, k in zip(tally.names, tally.known, strict=True) if not k]
  if unknown:
    listed = ', '.join(map(repr, unknown[:3])) + ', ...' * (len(unknown) > 3)
    print(f'note: {len(unknown)} entities are not known ({listed}): they are '
          "judged by the fleet's reference alone", file=sys.stderr)  # fmt: skip


def _events(tally, alarms):
  """The alarms, each with its `event`; and the events, if there are times."""
  found = tally.alarms()
  found['event'] = np.arange(len(found))
  columns = ('event', 'start', 'end', 'entities', 'most_abnormal', 'rows',
             'p_value', 'told')  # fmt: skip
  if not (tally.timed and len(found)):
    return found, pd.DataFrame(columns=columns).astype({'told': bool})
  names = np.array(tally.names, object)[found['entity'].to_numpy()]
  listed = alarms_lib.events(
    found['time'].to_numpy(), names, found['p_value'].to_numpy(),
    np.ones(len(found), bool), alarms.gap,
  )  # fmt: skip
  told = listed
  if alarms.budget:
    told = alarms_lib.within_budget(listed, alarms.budget)
  numbers = {id(event) for event in told}
  stamps = found['stamp'].to_numpy()
  event_of = np.empty(len(found), np.int64)
  rows = []
  for number, event in enumerate(listed):
    event_of[event.rows] = number
    rows.append((
      number, *stamps[event.rows[[0, -1]]], len(event.entities),
      ', '.join(event.entities[:_NAMED]), len(event.rows), event.p_value,
      id(event) in numbers,
    ))  # fmt: skip
  found['event'] = event_of
  return found, pd.DataFrame(rows, columns=columns).astype({'told': bool})


def _ranking(tally, found, entity):
  """[N] the entities by their least p-value, then by their share of alarms."""
  count = len(tally.names)
  rows = tally.rows
  abnormal = np.bincount(found['entity'], minlength=count)
  order = np.lexsort((-abnormal / rows, tally.least))
  ranking = pd.DataFrame({
    entity: tally.names, 'rows': rows, 'abnormal': abnormal,
    'least_p_value': tally.least, 'known': tally.known,
  })  # fmt: skip
  return ranking.iloc[order]


def _finish(part, path, found, worst):
  """The rows with decisions, events and reasons, in place of the file."""
  alarms = zip(found['row'], found['event'], strict=True)  # in order of rows
  bad, event = next(alarms, (-1, ''))
  why = dict(zip(worst['row'], worst['reasons'], strict=True))
  target = f'{part}.2'
  try:
    with (
      open(part, newline='') as source, open(target, 'w', newline='') as file
    ):  # fmt: skip
      reader, writer = csv.reader(source), csv.writer(file, lineterminator='\n')
      writer.writerow([*next(reader), 'decision', 'event', 'reasons'])
      for row, cells in enumerate(reader):
        writer.writerow([
          *cells, judge.decision(row == bad), event if row == bad else '',
          sheets.harmless(why.get(row, '')),
        ])  # fmt: skip
        if row == bad:
          bad, event = next(alarms, (-1, ''))
      file.flush()
      os.fsync(file.fileno())
    os.replace(target, path)
  finally:
    with contextlib.suppress(OSError):
      os.remove(target)


def _say(tally, found, events, ranking, alarms, fleet) -> None:
  entity: Any = fleet.layout_.entity
  worst = ', '.join(ranking[entity][:5])
  promise = f'a false-alarm rate of {fleet.false_alarm_rate:g}'
  if alarms.fdr:
    promise = f'a share of false ones among the alarms of {alarms.fdr:g}'
  print(
    f'{tally.count} rows of {len(ranking)} entities; {len(found)} are called '
    f'abnormal at {promise}; the most abnormal entities: {worst}'
  )
  if fleet.layout_.time:
    budget = f' within {alarms.budget}' if alarms.budget else ''
    print(f'{len(events)} events, {events["told"].sum()} told{budget}')
