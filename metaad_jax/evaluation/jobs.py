"""Runs baselines over many tasks: in worker processes, networks in batches."""

from collections.abc import Mapping, Sequence
import functools
from typing import Any
import zlib

import jax
import joblib
import numpy as np
import tqdm

from metaad_jax import learners, models, specs
from metaad_jax.data import episodes
from metaad_jax.evaluation import baselines, tasks

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
  and its options, never on `workers` or (but for rounding) on the other jobs.
  Workers are fresh processes (loky, no fork: JAX threads may be running in this
  one) that stay for the next call; networks are trained in this process.

  Args:
    jobs: for each task, names of `baselines.REGISTRY` with options: those of
      the method, and `scaling`, one of `baselines.SCALINGS`.
    triples: the tasks, standardised by their normal rows.
    seed: not negative.
    workers: number of processes, at least 1.
    label, quiet: of the progress bar.

  Returns:
    For each task, for each of its jobs, scores [m] float64; None where a
    baseline needs anomalies and the support has none.

  Raises:
    DataError: if a name is unknown.
  """
  for name in sorted({name for some in jobs for name, _ in some}):
    specs.look_up('baseline', baselines.REGISTRY, name)
  by_task: dict[int, dict[Place, baselines.Job]] = {}
  by_network: dict[str, dict[Place, baselines.Job]] = {}
  for task, some in enumerate(jobs):
    for position, (name, options) in enumerate(some):
      baseline = baselines.REGISTRY[name]
      if baseline.needs_anomalies and not np.any(triples[task][1]):
        continue
      if baseline.detect:
        members = by_task.setdefault(task, {})
      else:
        key = repr((name, sorted(options.items())))
        members = by_network.setdefault(key, {})
      members[task, position] = name, options
  scores: dict[Place, np.ndarray] = {}
  for members in by_network.values():
    name, options = next(iter(members.values()))
    scores |= _train(name, options, list(members), triples, seed, quiet)
  scores |= _run(by_task, triples, seed, workers, label, quiet)
  return [
    [scores.get((task, position)) for position in range(len(some))]
    for task, some in enumerate(jobs)
  ]


def _run(by_task, triples, seed, workers, label, quiet):
  """{place: scores} of {task: {place: job}}, in worker processes."""
  run = joblib.Parallel(
    max(1, min(workers, len(by_task))), 'loky', 'generator', max_nbytes=None
  )
  done = run(
    joblib.delayed(baselines.score_one)(
      list(members.values()), triples[task], seed, task
    )
    for task, members in by_task.items()
  )
  bar = tqdm.tqdm(done, label, len(by_task), disable=quiet, leave=False)
  scores: dict[Place, np.ndarray] = {}
  for members, values in zip(by_task.values(), bar, strict=True):
    scores |= dict(zip(members, values, strict=True))
  return scores


def _train(
  name: str,
  options: Mapping[str, Any],
  places: Sequence[Place],
  triples: Sequence[baselines.Triple],
  seed: int,
  quiet: bool,
) -> dict[Place, np.ndarray]:
  """Scores of a learner without meta-parameters, trained on each support.

  Where the tasks differ in width, rows are padded to a ladder of widths, and
  the network is initialised for those.
  """
  options = dict(options)
  scaling = options.pop('scaling', 'plain')
  model = baselines.REGISTRY[name].model
  score = _compiled(name, model, tuple(sorted(options.items())))
  root = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
  numbers = np.array([task for task, _ in places])
  rows = [baselines.scaled(triples[task], scaling) for task in numbers]
  widths = [x.shape[1] for x, _, _ in rows]
  size = episodes.padded_size
  if len(set(widths)) > 1:
    widths = [size(width) for width in widths]
  scores = tasks.score_in_batches(
    lambda members, batch: score(root, numbers[members], batch),
    [
      (size(len(x)), size(len(query), 64), width)
      for (x, _, query), width in zip(rows, widths, strict=True)
    ],
    rows.__getitem__,
    label=name,
    quiet=quiet,
  )
  return {
    place: values.astype(np.float64)
    for place, values in zip(places, scores, strict=True)
  }


@functools.cache
def _compiled(name, model, options):
  """(root, places [B], batch) -> [B, Q]; a key of its own for each place."""
  learner = learners.build(name, dict(options), models.make(model))

  def one(root, place, task):
    key = jax.random.fold_in(root, place)
    adapted = learner.adapt(key, {}, task.support, task.features)
    return learner.score(adapted, task.query.x)

  return jax.jit(jax.vmap(one, in_axes=(None, 0, 0)))
