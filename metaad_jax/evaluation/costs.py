"""What a method costs where it is used: time to adapt to an entity and score.

The rows are drawn at random; only their number and width matter.
"""

from collections.abc import Callable, Sequence
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import threadpoolctl

from metaad_jax import learners
from metaad_jax.base import Rows, Task
from metaad_jax.evaluation import baselines
from metaad_jax.training import loop, runs

_COLUMNS = 30  # of a run that takes tables of any width
_REPEATS = 5


def measure(
  run_dirs: Sequence[str],
  baseline_names: Sequence[str],
  *,
  shots: int,
  anomalies: int,
  queries: int = 200,
) -> list[dict[str, Any]]:
  """Times every algorithm on one made-up task, alone, the median of five.

  Args:
    run_dirs: of trained runs; the first of several of one algorithm counts.
    baseline_names: keys of `baselines.REGISTRY`, timed on one thread, on rows
      as wide as those of the first run.
    shots: normal rows of the support.
    anomalies: labelled anomalies of the support; 0 leaves out the baselines
      that need some.
    queries: rows to score.

  Returns:
    The `costs` of a results file: one for each algorithm, learners first.

  Raises:
    DataError: if a run cannot be restored.
  """
  found: dict[str, dict[str, Any]] = {}
  widths = []

  def note(name, kind, columns, call):
    found[name] = {
      'learner': name,
      'kind': kind,
      'shots': shots,
      'anomalies': anomalies,
      'columns': columns,
      'queries': queries,
      'seconds': _median(call),
    }

  for path in run_dirs:
    run = runs.restore(path)
    if run.name in found:
      continue
    shape = run.setup.columns or (_COLUMNS,)
    task = _task(shape, shots, anomalies, queries)
    widths.append(int(np.prod(shape)))
    kind = 'baseline' if run.name in learners.BASELINES else 'learner'
    note(run.name, kind, widths[-1], _call(run, task))
  task = _task((widths[0] if widths else _COLUMNS,), shots, anomalies, queries)
  arrays = [np.asarray(task.support.x[0]), np.asarray(task.support.y[0])]
  arrays.append(np.asarray(task.query.x[0]))
  with threadpoolctl.threadpool_limits(1):
    for name in baseline_names:
      baseline = baselines.REGISTRY[name]
      if anomalies or not baseline.needs_anomalies:
        call = lambda score=baseline.score: score(0, *arrays)
        note(name, 'baseline', arrays[0].shape[1], call)
  return list(found.values())


def _task(shape, shots, anomalies, queries):
  """A batch of one task of standard normal rows."""
  rng = np.random.default_rng(0)

  def rows(labels):
    x = rng.normal(size=(1, len(labels), *shape)).astype(np.float32)
    y = jnp.asarray(labels, jnp.float32)[None]
    return Rows(jnp.asarray(x), y, jnp.ones_like(y))

  support = rows(np.repeat([0, 1], [shots, anomalies]))
  return Task(support, rows(np.zeros(queries)), jnp.ones((1, shape[-1])))


def _call(run, task):
  key = jax.random.key(0)
  score = jax.jit(
    lambda params, task: loop.scores_of(run.learner, key, params, task)
  )
  return lambda: jax.block_until_ready(score(run.params, task))


def _median(call: Callable[[], Any]) -> float:
  call()  # compiles, imports
  seconds = []
  for _ in range(_REPEATS):
    start = time.perf_counter()
    call()
    seconds.append(time.perf_counter() - start)
  return float(np.median(seconds))
