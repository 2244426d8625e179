"""Many machines: adapted to in `fit`, judged as they come in `follow`."""

import json
import sys

import pandas as pd

from metaad_jax import FleetDetector, signals
from metaad_jax.base import DataError
from metaad_jax.command import endings
from metaad_jax.command.fleet_score import Alarms
from metaad_jax.detector import follow as lines_lib
from metaad_jax.detector.judge import Reading
from metaad_jax.fleet import follow as follow_lib
from metaad_jax.fleet import store


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
  whose = {
    'fleet': "the fleet's own", 'run': "the run's",
    'both': "the run's and, where they have more false alarms, the fleet's own",
  }[fleet.calibration_]  # fmt: skip
  columns = ', '.join(fleet.layout_.columns.names[:8])
  print(f'{len(fleet.entities_)} entities; p-values by {whose} entities; '
        f'columns {columns}')  # fmt: skip
  print(_choice(fleet.choice_))
  told = fleet.odd_entities() if len(fleet.entities_) > 2 else pd.DataFrame()
  for _, odd in told.head(3).iterrows():
    print(f'most unlike the others: {odd.entity!r}, by the {odd.what} of '
          f'{odd.column!r} (p = {odd.p_value:.2g})')  # fmt: skip


def _choice(choice):
  """Who judges entities of how many rows."""
  every = 'all rows of the fleet'
  said = {'both': f'the network and {every}', 'pooled': every,
          'reference': "the fleet's reference"}  # fmt: skip
  told, last = [], 'network'
  for number, by in choice.items():
    if by != last:
      told.append(
        f'from {number} known rows on by {said.get(by, "the network")}'
      )
    last = by
  return 'entities are judged by the network' if not told else (
    f'entities are judged {", ".join(told)}'
  )  # fmt: skip


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
