"""What a precision costs: in the meta-gradient, and in the detector's scores.

The reference is float64 on the host for gradients, float32 at the highest
precision for scores. On a CPU `tf32` and `bf16` are emulated: see `emulation`.
"""

import pathlib
import tempfile
from typing import Any

import numpy as np
from scipy import stats
from sklearn import metrics

from benchmarks import contest, score_worker, serving, turns, workloads
from metaad_jax import devices

_TASKS = 32  # of a workload, at most


def of_gradient(
  workload: str, inner_steps: int, platform: str
) -> list[dict[str, Any]]:
  """Rows: relative errors of a meta-gradient, by precision, ours and plain JAX.

  Args:
    workload: its name.
    inner_steps: of the descent.
    platform: of the device, as JAX has it.
  """
  tasks = min(_TASKS, workloads.WORKLOADS[workload].tasks)
  job = serving.Job(workload, 1, inner_steps, tasks)
  modules = {
    contest.OURS: 'benchmarks.training_worker',
    'plain-jax': 'benchmarks.peers.plain_jax',
  }
  ours = modules[contest.OURS]
  exact = outcome(ours, job._replace(dtype='float64'))
  rows = []
  for library, module in modules.items():
    told: dict[str, Any] = {}
    for name in devices.PRECISIONS:
      if library != contest.OURS and name != 'highest':
        continue
      found = outcome(module, job._replace(platform=platform, precision=name))
      apart = np.linalg.norm(found - exact) / np.linalg.norm(exact)
      told[name] = float(apart)
    named = {'workload': workload, 'inner_steps': inner_steps, 'tasks': tasks}
    rows.append({**named, 'library': library, **told})
  return rows


def of_scores(platform: str) -> list[dict[str, Any]]:
  """Rows: how far the detector's scores move, by precision.

  In standard deviations of the scores of a table's normal queries; the least
  rank correlation of a table; and the change of its AUROC.
  """
  job = serving.Job('W1', platform=platform)
  found = {
    name: outcome('benchmarks.score_worker', job._replace(precision=name))
    for name in devices.PRECISIONS
  }
  shape = score_worker.TABLES, 2 * score_worker.QUERIES
  usual = found['highest'].reshape(shape)
  spread = usual[:, : score_worker.QUERIES].std(1, keepdims=True)
  return [
    {'precision': name, **_moved(usual, scores.reshape(shape), spread)}
    for name, scores in found.items()
    if name != 'highest'
  ]


def _moved(usual, scores, spread):
  moved = abs(scores - usual) / spread
  y = np.arange(usual.shape[1]) >= score_worker.QUERIES
  areas = [
    [metrics.roc_auc_score(y, row) for row in table]
    for table in (usual, scores)
  ]
  change = np.subtract(areas[1], areas[0])
  ranks = [
    stats.spearmanr(a, b).statistic for a, b in zip(usual, scores, strict=True)
  ]
  return {
    'median': float(np.median(moved)),
    'most': float(moved.max()),
    'spearman': float(min(ranks)),
    'auroc': float(np.mean(areas[0])),
    'auroc_change': float(change.mean()),
    'auroc_most': float(abs(change).max()),
  }


def outcome(module: str, job: serving.Job) -> np.ndarray:
  """What a worker writes for "gradient", flat."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, 'gradient.npy')
    job = job._replace(gradient=str(path), devices=1)
    worker: turns.Worker = contest.start_worker(module, job)
    worker.close()
    return np.load(path, allow_pickle=False)
