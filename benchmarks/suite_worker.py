"""A process that finds one thing for a suite, and prints it as JSON.

python -m benchmarks.suite_worker limits cpu
"""

import dataclasses
import json
import os
import sys
import tempfile
import time

import jax

from benchmarks import limits, lowering, serving, workloads
from metaad_jax import devices
from metaad_jax.training import runs, setup

_STEPS = {'W1': 5, 'W2': 5, 'W3': 5, 'W4': 5, 'W5': 4}
_SOURCE = 'vibration:machines=40,test_machines=8'
_TRAINED = {
  'maml': setup.Config(source=_SOURCE, learner='maml', tasks=16),
  'tables, as shipped': setup.Config(
    source=_SOURCE, learner='tables', model='tables:width=32,blocks=2',
    shots=(3, 5, 5, 8, 10, 15, 20, 20, 20), tasks=32,
    outer='adamw:rate=0.003,weight_decay=0.5',
  ),
}  # fmt: skip


def training(steps: int) -> list[dict]:
  """Meta-training as `experiments.train` does it, data and validation included.

  The source is simulated. `tasks_per_second` are those of the last hundred
  steps, `first_seconds` those until the first hundred are done, compiling
  included, `seconds` of all.
  """
  rows = []
  for name, config in _TRAINED.items():
    config = dataclasses.replace(
      config, steps=steps, validate_every=steps, validation_tasks=40
    )
    with tempfile.TemporaryDirectory() as folder:
      began = time.perf_counter()
      data = runs.load_data(config, None)
      loaded = time.perf_counter()
      runs.train(config, data=data, run_dir=folder, quiet=True)
      ended = time.perf_counter()
      with open(os.path.join(folder, 'metrics.jsonl')) as file:
        lines = [json.loads(line) for line in file]
    first = lines[0]['step'] * config.tasks / lines[0]['tasks_per_second']
    rows.append({
      'learner': name, 'tasks': config.tasks, 'steps': steps,
      'tasks_per_second': lines[-1]['tasks_per_second'],
      'data_seconds': loaded - began, 'first_seconds': first,
      'seconds': ended - loaded,
    })  # fmt: skip
  return rows


def detector() -> list[dict]:
  """The rows of the workload `detector`, without fresh processes."""
  from benchmarks import detector_timing  # imports what it compares with

  few = {'rows': 10_000, 'columns': 30, 'repeats': 9, 'cold': 0}
  return list(detector_timing.rows(runs.SHIPPED, **few))


def lowered() -> list[dict]:
  """What a meta-step of each workload asks of each backend."""
  rows = []
  for name, steps in _STEPS.items():
    tasks = workloads.WORKLOADS[name].tasks
    job = serving.Job(name, inner_steps=steps, tasks=tasks, devices=1)
    for backend in lowering.PLATFORMS:
      told = {'workload': name, 'inner_steps': steps, 'backend': backend}
      rows.append(told | lowering.of_step(job, backend))
  return rows


def main(what: str, platform: str) -> None:
  """Prints it, alone on the last line."""
  if platform == 'cpu':
    jax.config.update('jax_platforms', 'cpu')
  if what in ('training', 'detector'):
    devices.start()
    devices.persist()
  on_cpu = jax.default_backend() == 'cpu'
  found = {
    'platform': jax.default_backend,
    'limits': limits.measure,
    'training': lambda: training(200 if on_cpu else 400),
    'detector': detector,
    'lowering': lowered,
  }[what]()
  print(json.dumps(found))


if __name__ == '__main__':
  main(*sys.argv[1:])
