"""Runs baselines over many tasks: in worker processes, networks in batches."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import functools
import hashlib
import json
import os
import sqlite3
from typing import Any, NamedTuple
import zlib

import jax
import joblib
import numpy as np
import tqdm

from metaad_jax import learners, models, specs
from metaad_jax.base import DataError
from metaad_jax.data import episodes
from metaad_jax.evaluation import baselines, tasks


class Job(NamedTuple):
  """A baseline to run on a task."""

  task: int  # its place among the tasks
  name: str  # of `baselines.REGISTRY`
  text: str  # its options as JSON, in which 1 and 1.0 are not the same

  @property
  def options(self) -> dict[str, Any]:
    """Of `baselines.score`."""
    return json.loads(self.text)


Scores = dict[Job, np.ndarray]


def job(task: int, name: str, options: Mapping[str, Any] | None = None) -> Job:
  return Job(task, name, json.dumps(options or {}, sort_keys=True))


def score_jobs(
  todo: Iterable[Job],
  triples: Sequence[baselines.Triple],
  *,
  seed: int,
  workers: int,
  quiet: bool = False,
  label: str = 'baselines',
  kept: str = '',
) -> Scores:
  """Runs baselines over tasks: scores [m] float64 of each job.

  Left out are jobs whose baseline needs anomalies where the support has none.
  The scores depend on `seed`, a task's place in `triples`, a baseline's name
  and its options, never on `workers` or (but for rounding) on the other jobs.
  Workers are fresh processes (loky, no fork: JAX threads may be running in this
  one) that stay for the next call; networks are trained in this process. What
  is in the file `kept` is not run again, and what is run is added to it.

  Raises:
    DataError: if `kept` cannot be written, or is no such file.
  """
  with _opened(kept) as store:
    return _score(
      list(dict.fromkeys(todo)), triples, seed, store, workers, quiet, label
    )


def _score(todo, triples, seed, store, workers, quiet, label) -> Scores:
  keys = _keys(todo, triples, seed) if store else {}
  scores: Scores = {}
  for one, key in keys.items():
    found = store.execute('SELECT scores FROM job WHERE key = ?', (key,))
    for (values,) in found:
      scores[one] = np.frombuffer(values)

  def keep(found: Scores) -> None:
    scores.update(found)
    if store:
      rows = [
        (keys[one], v.astype(float).tobytes()) for one, v in found.items()
      ]
      with store:
        store.executemany('INSERT OR REPLACE INTO job VALUES (?, ?)', rows)

  by_task: dict[int, list[Job]] = {}
  by_network: dict[tuple, list[Job]] = {}
  for one in todo:
    if one in scores:
      continue
    baseline = specs.look_up('baseline', baselines.REGISTRY, one.name)
    if not baseline.needs_anomalies or np.any(triples[one.task][1]):
      if baseline.detect:
        by_task.setdefault(one.task, []).append(one)
      else:
        by_network.setdefault(one[1:], []).append(one)
  for members in by_network.values():
    keep(_train(members, triples, seed, quiet))
  run = joblib.Parallel(
    max(1, min(workers, len(by_task))), 'loky', 'generator', max_nbytes=None
  )
  done = run(
    joblib.delayed(baselines.score_one)(
      [(one.name, one.options) for one in members],
      triples[task], seed, task,
    )
    for task, members in by_task.items()
  )  # fmt: skip
  bar = tqdm.tqdm(done, label, len(by_task), disable=quiet, leave=False)
  for members, values in zip(by_task.values(), bar, strict=True):
    keep(dict(zip(members, values, strict=True)))
  return {one: scores[one] for one in todo if one in scores}


@contextlib.contextmanager
def _opened(path: str) -> Iterator[sqlite3.Connection | None]:
  """The file of earlier scores, made if need be; None of ''."""
  if not path:
    yield None
    return
  try:
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as store:
      store.execute('PRAGMA journal_mode = WAL')
      store.execute('PRAGMA synchronous = NORMAL')
      store.execute(
        'CREATE TABLE IF NOT EXISTS job (key BLOB PRIMARY KEY, scores BLOB) '
        'WITHOUT ROWID'
      )
      yield store
  except (sqlite3.Error, OSError) as error:
    raise DataError(
      f'{path} cannot be used ({error}): remove it, or choose another folder '
      'for the results'
    ) from error


def _keys(todo, triples, seed) -> dict[Job, bytes]:
  """Of all that the scores of a job depend on; the code's version is not."""
  rows = {}
  for place in dict.fromkeys(one.task for one in todo):
    digest = hashlib.sha256(f'{seed} {place}'.encode())
    for part in map(np.ascontiguousarray, triples[place]):
      digest.update(f'{part.dtype} {part.shape}'.encode())
      digest.update(part.tobytes())
    rows[place] = digest.digest()
  return {
    one: hashlib.sha256(rows[one.task] + f'{one[1:]}'.encode()).digest()
    for one in todo
  }


def _train(members, triples, seed, quiet) -> Scores:
  """Of a learner without meta-parameters, trained on each support.

  Where the tasks differ in width, rows are padded to a ladder of widths, and
  the network is initialised for those.
  """
  name, options = members[0].name, members[0].options
  scaling = options.pop('scaling', baselines.REGISTRY[name].scalings[0])
  model = baselines.REGISTRY[name].model
  score = _compiled(name, model, tuple(options.items()))
  root = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
  numbers = np.array([one.task for one in members])
  rows = [baselines.scaled(triples[task], scaling) for task in numbers]
  widths = [x.shape[1] for x, _, _ in rows]
  size = episodes.padded_size
  if len(set(widths)) > 1:
    widths = [size(width) for width in widths]
  scores = tasks.score_in_batches(
    lambda places, batch: score(root, numbers[places], batch),
    [
      (size(len(x)), size(len(query), 64), width)
      for (x, _, query), width in zip(rows, widths, strict=True)
    ],
    rows.__getitem__,
    label=name,
    quiet=quiet,
  )
  return dict(zip(members, (s.astype(float) for s in scores), strict=True))


@functools.cache
def _compiled(name, model, options):
  """(root, places [B], batch) -> [B, Q]; a key of its own for each place."""
  learner = learners.build(name, dict(options), models.make(model))

  def one(root, place, task):
    key = jax.random.fold_in(root, place)
    adapted = learner.adapt(key, {}, task.support, task.features)
    return learner.score(adapted, task.query.x)

  return jax.jit(jax.vmap(one, in_axes=(None, 0, 0)))
