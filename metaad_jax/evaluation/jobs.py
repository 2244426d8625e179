"""Runs baselines over many tasks: in worker processes, networks in batches."""

from collections.abc import Iterable, Sequence

import joblib
import numpy as np
import tqdm

from metaad_jax import base, specs
from metaad_jax.evaluation import baselines, networks


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
  scores: list[list[np.ndarray | None]] = [[None] * len(some) for some in jobs]
  todo: list[list[tuple[int, baselines.Job]]] = [[] for _ in jobs]
  networks: dict[str, list[tuple[int, int, baselines.Job]]] = {}
  for place, some in enumerate(jobs):
    for position, (name, options) in enumerate(some):
      baseline = baselines.REGISTRY[name]
      if baseline.needs_anomalies and not np.any(triples[place][1]):
        continue
      if baseline.detect:
        todo[place].append((position, (name, options)))
      else:
        key = repr((name, sorted(options.items())))
        networks.setdefault(key, []).append((place, position, (name, options)))
  for members in networks.values():
    _score_network(members, triples, scores, seed=seed, quiet=quiet)
  run = joblib.Parallel(
    n_jobs=max(1, min(workers, len(triples))),
    backend='loky',
    return_as='generator',
    max_nbytes=None,
  )
  results = run(
    joblib.delayed(baselines.score_one)(
      [job for _, job in some], triple, seed, place
    )
    for place, (some, triple) in enumerate(zip(todo, triples, strict=True))
  )
  bar = tqdm.tqdm(
    results, desc=label, total=len(triples), disable=quiet, leave=False
  )
  for place, values in enumerate(bar):
    for (position, _), one in zip(todo[place], values, strict=True):
      scores[place][position] = one
  return scores


def _score_network(members, triples, scores, **how):
  """Fills in the scores of jobs that share their name and options."""
  _, _, (name, options) = members[0]
  options = dict(options)
  scaling = options.pop('scaling', 'plain')
  scaled = {
    place: baselines.scaled(triples[place], scaling) for place, _, _ in members
  }
  model = baselines.REGISTRY[name].model
  values = networks.score(name, model, options, scaled, **how)
  for place, position, _ in members:
    scores[place][position] = values[place]


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
