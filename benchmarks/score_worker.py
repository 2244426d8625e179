"""A worker that scores tables with the shipped detector, for its precision.

Its "gradient" are the scores of all tables, flat: see `serving`.
"""

from typing import NamedTuple

import numpy as np

from benchmarks import jax_serving, serving, workloads
from metaad_jax.detector import adaptation
from metaad_jax.training import runs

TABLES, NORMALS, QUERIES = 20, 20, 50  # as many anomalies as normal queries
_COLUMNS = (8, 16, 30)


class Table(NamedTuple):
  """Normals to adapt to, and queries: normal ones first."""

  support: np.ndarray
  query: np.ndarray


def tables() -> list[Table]:
  """Correlated columns; anomalies are moved along a direction of the table."""
  rng = np.random.default_rng(0)
  made = []
  for number in range(TABLES):
    columns = _COLUMNS[number % len(_COLUMNS)]
    mixing = rng.normal(size=(columns, columns)) / np.sqrt(columns)
    rows = rng.normal(size=(NORMALS + 2 * QUERIES, columns)) @ mixing
    rows[-QUERIES:] += rng.normal(size=columns) * rng.uniform(0.3, 1)
    rows = rows.astype(np.float32)
    made.append(Table(rows[:NORMALS], rows[NORMALS:]))
  return made


def scores(
  job: serving.Job, batch: workloads.Batch | None = None
) -> workloads.Parameters:
  """{'scores': {table: [2 QUERIES]}} at the precision of the job."""
  del batch
  emulated = job.platform == 'cpu'
  run = runs.restore(
    runs.SHIPPED, precision='highest' if emulated else job.precision
  )
  found = {}
  for number, table in enumerate(tables()):
    y = np.zeros(NORMALS, np.float32)
    adapted = adaptation.adapt(run, table.support, y)
    found[f'{number:02}'] = adaptation.score(run, adapted, table.query)
  return {'scores': found}


def make(job: serving.Job) -> serving.Contender:
  """See `serving.Contender`; nothing is timed."""
  return jax_serving.contender(job, scores, lambda job: (lambda: None, {}))


if __name__ == '__main__':
  serving.serve(make)
