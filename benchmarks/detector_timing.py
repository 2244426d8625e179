"""The benchmark's workload `detector`: the shipped detector at its work.

Adapt from 20 samples, score one row, 1,000 rows, all rows, and the first score
of a fresh process, beside scikit-learn and PyOD on the same data.
"""

from collections.abc import Callable, Iterator
import functools
import subprocess
import sys
import time
from typing import Any, NamedTuple

import numpy as np
from pyod.models import ecod
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor

from benchmarks import rows as rows_lib
from benchmarks import turns as turns_lib
from metaad_jax.detector import adaptation, estimator

OURS = 'metaad_jax'
_SHOTS = 20
# What a program does that scores one row and ends; arguments: run, columns.
DATA = (
  'import sys; import numpy as np; rng = np.random.default_rng(0); '
  'x = rng.normal(size=(21, int(sys.argv[2]))); '
)
FIRST = {
  OURS: 'from metaad_jax import MetaAnomalyDetector as D; d = D(sys.argv[1]); ',
  'IsolationForest': 'from sklearn.ensemble import IsolationForest as D; '
  'd = D(); ',
  'LOF': 'from sklearn.neighbors import LocalOutlierFactor as D; '
  'd = D(novelty=True); ',
  'ECOD': 'from pyod.models.ecod import ECOD as D; d = D(); ',
}
LAST = 'd.fit(x[:20]); d.decision_function(x[20:])'


class Measured(NamedTuple):
  """One thing that was timed."""

  what: str  # 'fit', 'score' or 'first score'
  rows: int  # that it was done to
  columns: int  # of a row
  seconds: dict[str, list[float]]  # of every repeat, by method


def rows(run_dir: str, **options: int) -> Iterator[dict[str, Any]]:
  """The rows of benchmark.json; arguments as of `measure`."""
  for measured in measure(run_dir, **options):
    timed = {
      name: turns_lib.Timed([[second] for second in seconds])
      for name, seconds in measured.seconds.items()
    }
    for name, one in timed.items():
      yield {
        **rows_lib.row('detector', name, one, timed[OURS]),
        'what': measured.what,
        'rows': measured.rows,
        'columns': measured.columns,
      }


def measure(
  run_dir: str, *, rows: int, columns: int, repeats: int, cold: int
) -> Iterator[Measured]:
  """Times the shipped detector, or another, one thing after the other.

  Args:
    run_dir: a run folder, model file, or shipped.
    rows: of the largest query.
    columns: of a row.
    repeats: of each.
    cold: fresh processes of each method.
  """
  rng = np.random.default_rng(0)
  mixing = rng.normal(size=(columns, columns)) / np.sqrt(columns)
  support, query = (
    rng.normal(size=(n, columns)) @ mixing for n in (_SHOTS, rows)
  )
  ours = estimator.MetaAnomalyDetector(run_dir)
  run = estimator.load_run(run_dir)
  x, y = support.astype('f4'), np.zeros(_SHOTS, 'f4')
  adapted = lambda: adaptation.adapt(run, x, y)
  models: dict[str, Any] = {
    OURS: ours,
    'IsolationForest': IsolationForest(random_state=0),
    'LOF': LocalOutlierFactor(novelty=True),
    'ECOD': ecod.ECOD(),
  }
  fit = lambda model: functools.partial(model.fit, support)
  fits: dict[str, Any] = {name: fit(m) for name, m in models.items()}
  fits[f'{OURS}, with its threshold'] = lambda: ours.fit(support).threshold_
  fits[f'{OURS}, uncalibrated'] = adapted
  yield Measured('fit', _SHOTS, columns, turns(fits, repeats))
  for count in sorted({1, min(1000, rows), rows}):
    part = query[:count]
    scores: dict[str, Callable[[], Any]] = {
      name: functools.partial(model.decision_function, part)
      for name, model in models.items()
    }
    few = repeats if count <= 1000 else max(3, repeats // 3)
    yield Measured('score', count, columns, turns(scores, few))
  if cold:
    fresh = {
      name: process(code, run_dir, columns) for name, code in FIRST.items()
    }
    yield Measured('first score', 1, columns, turns(fresh, cold))


def turns(
  calls: dict[str, Callable[[], Any]], repeats: int
) -> dict[str, list[float]]:
  """Seconds [repeats] of each call, in turns, after one of each."""
  for call in calls.values():
    call()
  taken: dict[str, list[float]] = {name: [] for name in calls}
  for _ in range(repeats):
    for name, call in calls.items():
      start = time.perf_counter()
      call()
      taken[name].append(time.perf_counter() - start)
  return taken


def process(code: str, run_dir: str, columns: int) -> Callable[[], Any]:
  """() -> a fresh process that scores one row, ended."""
  line = [sys.executable, '-c', DATA + code + LAST, run_dir, str(columns)]
  return lambda: subprocess.run(line, check=True, capture_output=True)
