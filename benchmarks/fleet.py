"""A fleet beside a loop over its entities, and one forest for all of them.

  python benchmarks/fleet.py 10000 1000000 100000

Rows of 10 columns, 20 known ones an entity; seconds are of the wall and of all
cores together, once everything is compiled. Then a fleet of the third number of
entities, rows that come alone in `follow`, and what `metaad score` takes of
memory for files of 1e6 and 1e7 rows of 4 columns (a tenth, if the second number
is).
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet
from sklearn import ensemble

from metaad_jax import FleetDetector, MetaAnomalyDetector
from metaad_jax.command import fleet_score
from metaad_jax.fleet import follow, known, programs

NAMES = [f's{i}' for i in range(10)]


def frame(entities: int, rows: int, seed: int) -> pd.DataFrame:
  """Interleaved rows of entities with locations and scales of their own."""
  own, rng = np.random.default_rng(0), np.random.default_rng(seed)
  centre = 5 * own.normal(size=(entities, 10))
  scale = np.exp(own.normal(size=(entities, 10)))
  which = rng.permutation(np.arange(rows) % entities)
  x = rng.normal(size=(rows, 10)) * scale[which] + centre[which]
  return pd.DataFrame(x, columns=NAMES).assign(machine=which)


def clock(name, call, of=1, unit='s'):
  wall, cpu = time.perf_counter(), time.process_time()
  result = call()
  wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
  print(f'{name}: {wall / of:.4g} {unit}, of all cores {cpu / of:.4g}',
        flush=True)  # fmt: skip
  return result


def peak() -> int:
  """Of this process so far, in MB."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000


def compared(entities: int, rows: int) -> None:
  """A fleet, a loop and a forest."""
  fitting, query = frame(entities, 20 * entities, 1), frame(entities, rows, 2)
  small = fitting[fitting.machine < 40]
  fleet = FleetDetector().fit(small, entity='machine')
  fleet.judge(query[query.machine < 40])
  fleet = clock('fit', lambda: FleetDetector().fit(fitting, entity='machine'))
  found = list(fleet._store.read(fleet.entities_).values())
  side = clock('rows read', lambda: known.read(found, fleet._words))
  supports, _ = known.supports(*side)
  clock('adapt', lambda: programs.adapt(fleet._run, supports))
  clock('score', lambda: fleet.score_samples(query))
  forest = ensemble.IsolationForest(random_state=0).fit(fitting[NAMES])
  clock('one forest for all', lambda: forest.score_samples(query[NAMES]))
  groups = [part[NAMES] for _, part in fitting.groupby('machine')][:200]
  MetaAnomalyDetector().fit(groups[0])
  loop = lambda: [MetaAnomalyDetector().fit(part) for part in groups]
  clock('loop of fit, each', loop, len(groups))
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'fleet')
    clock('save', lambda: fleet.save(path))
    size = os.path.getsize(path) / entities
    print(f'{size:.0f} bytes an entity, of them rows {20 * 10 * 8}')
  alone(fleet, query)


def alone(fleet: FleetDetector, query: pd.DataFrame) -> None:
  """Rows of one machine that come one by one, and all at once."""
  some = query.head(400)
  lines = [json.dumps(row).encode() for row in some.to_dict('records')]
  follower = follow.Follower(fleet, follow.State())
  push = lambda part: list(follower.push(part, print))
  push(lines[:300]), push(lines[:1])
  clock(
    'follow, 300 rows that wait, each', lambda: push(lines[:300]), 0.3, 'ms'
  )
  each = lambda: [push([line]) for line in lines[300:]]
  clock('follow, rows alone, each', each, 0.1, 'ms')


def large(entities: int) -> None:
  """What many entities take: time, disk, memory."""
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'fleet')
    fitting = frame(entities, 20 * entities, 1)
    print(f'{entities} entities, in a process of {peak()} MB')
    fleet = clock('fit', lambda: FleetDetector().fit(fitting, entity='machine'))
    clock('first save', lambda: fleet.save(path))
    size = os.path.getsize(path)
    print(f'{size / 1e6:.0f} MB, {size / entities:.0f} bytes an entity')


def scored(path: str, folder: str, rows: int) -> None:
  """Memory of `metaad score`."""
  columns = NAMES[:4]
  model, out = os.path.join(folder, 'fleet'), os.path.join(folder, 'out')
  fitting = frame(1000, 20_000, 1)[[*columns, 'machine']]
  FleetDetector().fit(fitting, entity='machine').save(model)
  schema = pa.Table.from_pandas(fitting, preserve_index=False).schema
  with parquet.ParquetWriter(path, schema) as file:
    for start in range(0, rows, 250_000):
      part = frame(1000, min(250_000, rows - start), 2 + start)[
        [*columns, 'machine']
      ]
      file.write_table(pa.Table.from_pandas(part, schema, False))
  before = peak()
  call = lambda: fleet_score.score(model, path, out, fleet_score.Alarms())
  clock(f'score of {rows} rows from a file', call)
  print(f'peak {peak()} MB, {before} before')


def main(entities: int, rows: int, many: int) -> None:
  """Each part in a process of its own."""
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'new.parquet')
    for part in (
      ['compared', entities, rows], ['large', many],
      ['scored', path, folder, rows], ['scored', path, folder, 10 * rows],
    ):  # fmt: skip
      command = [sys.executable, __file__, *map(str, part)]
      subprocess.run(command, check=True)


if __name__ == '__main__':
  warnings.simplefilter('ignore')
  name, *given = sys.argv[1:]
  parts: dict[str, Any] = {
    'compared': compared,
    'large': large,
    'scored': scored,
  }
  if name in parts:
    parts[name](*(int(g) if g.isdigit() else g for g in given))
  else:
    main(*map(int, sys.argv[1:4]))
