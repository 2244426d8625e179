"""A long file of many machines: adapted to in `fit`, judged in `score`."""

import json
import os
import sys
from typing import NamedTuple

import numpy as np
import pandas as pd

from metaad_jax import FleetDetector, signals
from metaad_jax.base import DataError
from metaad_jax.command import endings
from metaad_jax.detector import follow as lines_lib
from metaad_jax.detector import judge, reasons, sheets
from metaad_jax.detector.judge import Reading
from metaad_jax.fleet import follow as follow_lib
from metaad_jax.fleet import store
from metaad_jax.reports import fleet as fleet_page


def is_fleet(path: str) -> bool:
  """Whether a file is the state of a fleet, by its first bytes."""
  return store.is_one(path)


def fit(
  path: str, output: str, run_dir: str, rate: float, entity: str,
  reading: Reading,
) -> None:  # fmt: skip
  """Adapts to every entity of a file or a folder, and writes the fleet."""
  fleet = FleetDetector(run_dir, false_alarm_rate=rate)
  more = ('id', 'ignore', 'features', 'anomaly_label')
  fleet.fit(
    path, entity=entity, time=reading.time, label=reading.label,
    **{name: getattr(reading, name) for name in more},
  )  # fmt: skip
  fleet.save(output)
  whose = "the fleet's own" if fleet.calibration_ == 'fleet' else "the run's"
  columns = ', '.join(fleet.layout_.columns.names[:8])
  print(f'{len(fleet.entities_)} entities; p-values by {whose} entities; '
        f'columns {columns}')  # fmt: skip
  told = fleet.odd_entities() if len(fleet.entities_) > 2 else pd.DataFrame()
  for _, odd in told.head(3).iterrows():
    print(f'most unlike the others: {odd.entity!r}, by the {odd.what} of '
          f'{odd.column!r} (p = {odd.p_value:.2g})')  # fmt: skip


def score(model: str, path: str, output: str) -> bool:
  """Judges the rows of a file; two tables and a page. Any abnormal?"""
  fleet = FleetDetector.load(model)
  long = fleet.read(path)
  judged = fleet.judge(long)
  why = fleet.explain(long, _explained(judged, fleet.layout_.entity))
  judged.insert(0, 'row', np.arange(len(judged)))
  judged['decision'] = [judge.decision(o) for o in judged.pop('outlier')]
  judged['reasons'] = [
    '; '.join(r.text for r in reasons.reasons(why[row])) if row in why else ''
    for row in range(len(judged))
  ]
  entity = fleet.layout_.entity
  bad = judged['decision'] == 'abnormal'
  groups = judged.assign(abnormal=bad).groupby(entity, sort=False)
  ranking = groups.agg(
    rows=('row', 'size'), abnormal=('abnormal', 'sum'),
    least_p_value=('p_value', 'min'), known=('known', 'first'),
  )  # fmt: skip
  share = ranking['abnormal'] / ranking['rows']
  order = np.lexsort((-share, ranking['least_p_value']))
  ranking = ranking.iloc[order].reset_index()
  files = {'scores.csv': judged, 'entities.csv': ranking}
  contents = {n: sheets.harmless_csv(f).encode() for n, f in files.items()}
  layout = fleet.layout_
  contents['report.html'] = fleet_page.page(
    judged, ranking, long.times, path, fleet.false_alarm_rate,
    {'entity': entity, 'time': layout.time},
  )  # fmt: skip
  written = judge.save_files(output, contents)
  worst = ', '.join(ranking[entity][:5])
  print(f'{len(judged)} rows of {len(ranking)} entities; {bad.sum()} are '
        f'called abnormal at a false-alarm rate of {fleet.false_alarm_rate:g}; '
        f'the most abnormal entities: {worst}')  # fmt: skip
  print(f'{", ".join(map(os.fspath, written))} written')
  return bool(bad.any())


def _explained(judged, entity):
  """Numbers of up to 50 outliers: the worst five of each entity come first."""
  bad = judged[judged['outlier']].sort_values(
    ['p_value', 'score'], ascending=[True, False], kind='stable'
  )
  later = (bad.groupby(entity).cumcount() >= 5).to_numpy()
  return bad.index[np.argsort(later, kind='stable')[:50]].tolist()


class Alarms(NamedTuple):
  """What becomes of abnormal rows; see `alarms.Watch`."""

  gap: float = 0.0
  budget: str = ''


def follow(
  model: str, path: str, limit: int, state: str, alarms: Alarms
) -> tuple[int, int]:
  """Judges rows of a file, or of standard input (-), as they come.

  What is printed is kept in `state` once it is: killed at any moment, nothing
  is lost, and what is said again has the numbers that it had.

  Returns:
    As `work.follow`, the alarms that were told.
  """
  kept = follow_lib.State(state)
  follower = follow_lib.Follower(
    FleetDetector.load(model), kept, gap=alarms.gap, budget=alarms.budget,
  )  # fmt: skip
  if kept.about.get('rows'):
    print(f'note: goes on after {kept.about["rows"]} rows', file=sys.stderr)
  count = told = 0
  tell = lambda line: print(line, file=sys.stderr, flush=True)
  with signals.collected() as heard:
    stopped = lambda: bool(heard.came)
    out = lambda row: lines_lib.tell(json.dumps(row, allow_nan=False), stopped)
    try:
      for batch in _batches(path, kept.about.get('place', ()), stopped):
        while batch and not (limit and count >= limit):
          some = batch[: limit - count] if limit else batch
          batch = batch[len(some) :]
          for row in follower.push([line for line, _ in some], tell):
            if not out(row):
              return 128 + heard.came[0], told
            count += 1
            told += row.get('told', row.get('decision') == 'abnormal')
          kept.about['place'] = some[-1][1]
          kept.commit()
        if limit and count >= limit:
          break
      out({'summary': follower.summary()})
    except BrokenPipeError:
      endings.nobody_reads()
      return endings.NOBODY_READS, told
    finally:
      kept.close()
    return 128 + heard.came[0] if heard.came else 0, told


def _batches(path, place, stopped):
  if path != '-':
    return follow_lib.batches(path, follow_lib.Place(*place), stopped)
  if sys.stdin is None:
    raise DataError('standard input is closed: name a file, or pipe rows in')
  return follow_lib.piped(sys.stdin.fileno(), stopped)
