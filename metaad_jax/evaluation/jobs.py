"""Runs baselines over many tasks: in worker processes, networks in batches."""

from collections.abc import Iterable, Sequence
from typing import Any

import joblib
import numpy as np
import tqdm

from metaad_jax import base, specs
from metaad_jax.evaluation import baselines, networks

Place = tuple[int, int]  # of a task, and of a job among those of the task


def score_jobs(
  jobs: Sequence[Sequence[baselines.Job]],
  triples: Sequence[baselines.Triple],
  *,
  seed: int,
  workers: int,
  quiet: bool = False,
  label: str = 'baselines',
) -> list[list[np.ndarray | None]]:
  """Runs baselines over tasks, with other options in each if need be.

  The scores depend on `seed`, a task's place in `triples`, a baseline's name
  and its options, never on `workers` or on the other jobs. Workers are fresh
  processes (loky, no fork: JAX threads may be running in this one) that stay
  for reuse by the next call; starting them takes a few seconds, one worker runs
  in place. Networks are trained in this process, in batches.

  Args:
    jobs: for each task, names of `baselines.REGISTRY` with options: those of
      the method, and `scaling`, one of `baselines.SCALINGS`.
    triples: of (support_x [n, F], support_y [n], query_x [m, F]) each, with
      support_y 1 = anomaly, 0 = normal, standardised by the normal rows.
    seed: not negative.
    workers: number of processes, at least 1.
    quiet: no progress bar.
    label: of the progress bar.

  Returns:
    For each task, for each of its jobs, scores [m] float64; None where a
    baseline needs anomalies and the support has none.

  Raises:
    DataError: if a name is unknown, or a task is malformed, not finite, or
      without a normal row.
  """
  _check({name for some in jobs for name, _ in some}, triples)
  in_processes: dict[Place, baselines.Job] = {}
  trained: dict[str, dict[Place, baselines.Job]] = {}
  for task, some in enumerate(jobs):
    for position, (name, options) in enumerate(some):
      baseline = baselines.REGISTRY[name]
      if baseline.needs_anomalies and not np.any(triples[task][1]):
        continue
      members = in_processes
      if not baseline.detect:
        key = repr((name, sorted(options.items())))
        members = trained.setdefault(key, {})
      members[task, position] = name, options
  how: dict[str, Any] = {'seed': seed, 'quiet': quiet}
  scores: dict[Place, np.ndarray] = {}
  for members in trained.values():
    scores |= _train_networks(members, triples, **how)
  scores |= _run_processes(in_processes, triples, workers, label, **how)
  return [
    [scores.get((task, position)) for position in range(len(some))]
    for task, some in enumerate(jobs)
  ]


def _run_processes(jobs, triples, workers, label, *, seed, quiet):
  """{place: scores} of jobs, a task at a time."""
  by_task: dict[int, list[Place]] = {}
  for place in jobs:
    by_task.setdefault(place[0], []).append(place)
  run = joblib.Parallel(
    n_jobs=max(1, min(workers, len(by_task))),
    backend='loky',
    return_as='generator',
    max_nbytes=None,
  )
  results = run(
    joblib.delayed(baselines.score_one)(
      [jobs[place] for place in places], triples[task], seed, task
    )
    for task, places in by_task.items()
  )
  bar = tqdm.tqdm(
    results, desc=label, total=len(by_task), disable=quiet, leave=False
  )
  scores: dict[Place, np.ndarray] = {}
  for places, values in zip(by_task.values(), bar, strict=True):
    scores |= dict(zip(places, values, strict=True))
  return scores


def _train_networks(jobs, triples, **how):
  """{place: scores} of jobs that share their name and options."""
  name, options = next(iter(jobs.values()))
  options = dict(options)
  scaling = options.pop('scaling', 'plain')
  scaled = {task: baselines.scaled(triples[task], scaling) for task, _ in jobs}
  model = baselines.REGISTRY[name].model
  scores = networks.score(name, model, options, scaled, **how)
  return {place: scores[place[0]] for place in jobs}


def _check(names: Iterable[str], triples: Sequence[baselines.Triple]) -> None:
  for name in sorted(names):
    specs.look_up('baseline', baselines.REGISTRY, name)
  for place, triple in enumerate(triples):
    support_x, support_y, query_x = (np.asarray(part) for part in triple)
    if (
      support_x.ndim != 2
      or query_x.ndim != 2
      or support_y.shape != support_x.shape[:1]
      or support_x.shape[1:] != query_x.shape[1:]
    ):
      raise base.DataError(
        f'task {place}: support_x {support_x.shape}, support_y '
        f'{support_y.shape} and query_x {query_x.shape} must be [n, F], [n] '
        'and [m, F]'
      )
    if not np.isin(support_y, (0, 1)).all() or not np.any(support_y == 0):
      raise base.DataError(
        f'task {place}: support_y needs labels 0 and 1 only, and a normal (0)'
      )
    if not np.isfinite(support_x).all() or not np.isfinite(query_x).all():
      raise base.DataError(
        f'task {place}: a feature is not finite: impute or drop it first'
      )
