"""Results of a made-up evaluation, small enough to be checked by hand."""

import itertools

import numpy as np
import pandas as pd

from metaad_jax.evaluation import results as results_lib
from metaad_jax.evaluation.results import Results

LEVELS = {
  'maml': ('learner', 0.8),
  'protonet': ('learner', 0.7),
  'knn': ('baseline', 0.65),
  'pooled': ('baseline', 0.6),
  'trees': ('baseline', 0.75),  # needs labelled anomalies
}
META = {
  'schema': results_lib.SCHEMA,
  'created': '2026-01-02T03:04:05+00:00',
  'seed': 7,
  'versions': {'jax': '0.10'},
  'hardware': 'one CPU core',
  'seconds': 3725.4,
  'flags': {'draws': 2, 'rows_per_day': [2000.0, 50.0]},
  'code': 'abc1234',
  'command': 'python -m experiments.evaluate --data_dir=/home/me/data',
  'notes': ['e9: no task with 50 shots', 'e9: no task with 20 shots', 'odd'],
}


def make(levels=LEVELS, cells=((5, 0), (5, 1)), entities=7, source='rig'):
  """Rows around a level for each method, 'trees' with labels only.

  Args:
    levels: {method: (kind, AUROC)}.
    cells: (shots, anomalies) or (shots, anomalies, contamination).
    entities: their number.
    source: its name.
  """
  rng = np.random.default_rng(0)
  rows = []
  for cell, entity, draw in itertools.product(cells, range(entities), range(2)):
    shots, anomalies, *dirt = cell
    for method, (kind, level) in levels.items():
      auroc = np.clip(level + 0.01 * shots**0.5 + 0.03 * rng.normal(), 0, 1)
      if method != 'trees' or anomalies:
        rows.append(
          {
            'source': source, 'entity': f'e{entity}', 'method': method,
            'kind': kind, 'shots': shots, 'anomalies': anomalies,
            'contamination': dirt[0] if dirt else 0.0, 'draw': draw,
            'auroc': auroc, 'ap': 0.9 * auroc, 'recall_at_far_1': 0.4 * auroc,
            'recall_at_far_5': 0.6 * auroc, 'queries': 100,
            'query_anomalies': 20,
          }
        )  # fmt: skip
  table = pd.DataFrame(rows, columns=list(results_lib.COLUMNS))
  return results_lib.check(Results(table, dict(META)))
