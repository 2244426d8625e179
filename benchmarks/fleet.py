"""A fleet beside a loop over its entities, and one forest for all of them.

  python benchmarks/fleet.py 10000 1000000

Rows of 10 columns, 20 known ones an entity; seconds are of the wall and of all
cores together, once everything is compiled.
"""

import os
import sys
import tempfile
import time
import warnings

import numpy as np
import pandas as pd
from sklearn import ensemble

from metaad_jax import FleetDetector, MetaAnomalyDetector
from metaad_jax.fleet import known, programs

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


def main(entities: int, rows: int) -> None:
  warnings.simplefilter('ignore')
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


if __name__ == '__main__':
  main(*map(int, sys.argv[1:3]))
