"""The rows of benchmark.json: every row has every key, None where unknown."""

from typing import Any

import numpy as np

from benchmarks import turns, workloads
from metaad_jax import specs

_UNKNOWN = (
  'learner', 'inner_steps', 'tasks', 'width', 'devices', 'at_once',
  'compile_seconds', 'first_seconds', 'tasks_per_second', 'temp_mib',
  'start_rss_mib', 'peak_rss_mib', 'peak_device_mib', 'gradient_error',
  'gflop', 'xla_gflop', 'product_mib', 'minimal_gflop', 'gflops',
  'share_of_peak', 'precision', 'commit', 'memory', 'plan',
)  # fmt: skip

_COSTS = ('temp_mib', 'gflop', 'xla_gflop', 'product_mib')


def row(
  workload: str,
  library: str,
  timed: turns.Timed,
  reference: turns.Timed | None,
) -> dict[str, Any]:
  """What every row has: times in milliseconds, ratios to the reference."""
  low, median, high = np.quantile(timed.seconds, (0.25, 0.5, 0.75)) * 1000
  ratio = (None,) * 3 if reference is None else turns.ratio(timed, reference)
  return {
    'workload': workload,
    'library': library,
    **dict.fromkeys(_UNKNOWN),
    'milliseconds': float(median),
    'q1': float(low),
    'q3': float(high),
    'least': min(timed.seconds) * 1000,
    'ratio': ratio[0],
    'ratio_low': ratio[1],
    'ratio_high': ratio[2],
    'repeats': len(timed.seconds),
    'rounds': len(timed.rounds),
    'disturbed': timed.disturbed,
  }


def of_training(
  library: str,
  job: Any,
  timed: turns.Timed,
  reference: turns.Timed | None,
  info: dict[str, Any],
  error: float | None,
) -> dict[str, Any]:
  """The row of a worker that meta-trained, without its share of the peak.

  Args:
    library: its name.
    job: `serving.Job` of the worker.
    timed: what was measured of it.
    reference: what its ratio refers to.
    info: what the worker said of itself when it was ready.
    error: of its gradient, relative; None = not compared.
  """
  made = row(job.workload, library, timed, reference)
  name = specs.parse(job.learner)[0]
  least = workloads.minimal_flops(job.sized, name, job.inner_steps, job.tasks)
  step, first = made['milliseconds'] / 1000, info['first_seconds']
  return made | {
    'learner': job.learner,
    'inner_steps': job.inner_steps,
    'tasks': job.tasks,
    'width': job.width,
    'devices': info.get('devices', 1),
    'precision': job.precision,
    'at_once': job.at_once or None,
    'memory': job.memory or None,
    'plan': info.get('plan'),
    'compile_seconds': info.get('compile_seconds', max(0.0, first - step)),
    'first_seconds': first,
    'tasks_per_second': job.tasks / step,
    'start_rss_mib': info['start_rss_mib'],
    'gradient_error': error,
    'minimal_gflop': least and least / 1e9,
    **{key: info.get(key) for key in _COSTS},
    **{k: timed.said.get(k) for k in ('peak_rss_mib', 'peak_device_mib')},
  }


def share(row: dict[str, Any], peak_gflops: float, platform: str) -> None:
  """Adds the rate, and its share of the peak of the devices in use."""
  if row['minimal_gflop'] is None:
    return
  row['gflops'] = row['minimal_gflop'] / (row['milliseconds'] / 1000)
  devices = row['devices'] if platform != 'cpu' else 1
  row['share_of_peak'] = row['gflops'] / (peak_gflops * devices)
