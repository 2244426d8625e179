"""Baselines that train a small network on the support: learners, untrained."""

from collections.abc import Mapping
import functools
from typing import Any
import zlib

import jax
import numpy as np

from metaad_jax import learners, models
from metaad_jax.data import episodes
from metaad_jax.evaluation import tasks


def score(
  name: str,
  model: str,
  options: Mapping[str, Any],
  triples: Mapping[int, tasks.Triple],
  *,
  seed: int,
  quiet: bool = False,
) -> dict[int, np.ndarray]:
  """Scores tasks with a learner that has no meta-parameters.

  The scores depend on the seed, a task's place, the name and the options, never
  on the other tasks but for rounding. Where the tasks differ in width, rows are
  padded to the next power of two, and the network is initialised for that.

  Args:
    name: of the learner.
    model: spec of its network.
    options: of the learner.
    triples: place -> the task, its rows scaled.
    seed: not negative.
    quiet: no progress bar.

  Returns:
    place -> scores [m] float64.
  """
  adapt_and_score = _compiled(name, model, tuple(sorted(options.items())))
  root = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
  rows = list(triples.values())
  places = np.array(list(triples))
  widths = {x.shape[1] for x, _, _ in rows}
  shapes = [
    (
      episodes.padded_size(len(x)),
      episodes.padded_size(len(query), 64),
      x.shape[1] if len(widths) == 1 else 1 << (x.shape[1] - 1).bit_length(),
    )
    for x, _, query in rows
  ]
  scores = tasks.score_in_batches(
    lambda members, batch: adapt_and_score(root, places[members], batch),
    shapes,
    lambda member: rows[member],
    label=name,
    quiet=quiet,
  )
  return {
    place: values.astype(np.float64)
    for place, values in zip(triples, scores, strict=True)
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
