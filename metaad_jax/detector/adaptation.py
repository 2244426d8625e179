"""A run adapted to one entity, for the detector and for its calibration.

Rows and columns are padded to few sizes, so that another number of samples, or
another table, compiles nothing new.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from metaad_jax import base, devices
from metaad_jax.base import DataError, MetaLearner
from metaad_jax.data import episodes
from metaad_jax.training import runs

_SINGLY, _PARTS = 8, 4  # up to 8 normals are left out singly, more in 4 parts
_FEW, _SOME, _MANY = 8, 64, 1024  # rows that are scored at once
_ELEMENTS = 1 << 23  # of queries x support x columns: 32 MB in float32


class Adapted(NamedTuple):
  """A learner adapted to one entity.

  Attributes:
    state: what the learner's `adapt` returned.
    width: columns of a row.
    size: of the padded support times that of the padded columns.
  """

  state: Any
  width: int
  size: int


def any_width(run: runs.Run) -> bool:
  """Whether a run takes rows of any number of columns, NaN = missing."""
  return run.setup.any_width


class _Compiled(NamedTuple):
  """A learner's functions, jitted once."""

  adapt: Any
  score: Any
  cross_fit: Any


@functools.lru_cache(maxsize=8)
def _compiled(learner: MetaLearner):
  rows = devices.tuning().score_rows

  def score(state, x):
    if len(x) <= rows or len(x) % rows:
      return learner.score(state, x)
    parts = x.reshape(-1, rows, *x.shape[1:])
    return jax.lax.map(lambda part: learner.score(state, part), parts).ravel()

  def cross_fit(key, params, support, features, parts):
    def one(part):  # positions to keep, and to leave out; -1 = none
      kept, out = part
      rest = jax.tree.map(lambda leaf: leaf[kept], support)
      rest = rest._replace(mask=rest.mask * (kept >= 0))
      return learner.score(
        learner.adapt(key, params, rest, features), support.x[out]
      )

    # One after the other: vmap compiles for minutes, and is no faster here.
    return jax.lax.map(one, parts)

  jit = functools.partial(jax.jit, compiler_options=devices.quick())
  return _Compiled(jit(learner.adapt), jit(score), jit(cross_fit))


@functools.cache
def _key():
  return jax.random.key(0)  # making one takes a third of a millisecond


def _padded(run, x, y):
  x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
  shape = (episodes.padded_size(len(x)), *x.shape[1:])
  if any_width(run):
    shape = (*shape[:-1], episodes.padded_size(x.shape[-1]))
  features = np.zeros(shape[-1], np.float32)
  features[: x.shape[-1]] = 1

  def fill(array) -> Any:
    pairs = zip(array.shape, shape, strict=False)
    return np.pad(array, [(0, padded - size) for size, padded in pairs])

  return base.Rows(fill(x), fill(y), fill(np.ones_like(y))), features


def adapt(run: runs.Run, x: np.ndarray, y: np.ndarray) -> Adapted:
  """Adapts a run.

  Args:
    run: see `runs.restore`.
    x: [n, ...] featurized support rows, float32; NaN = missing, if the run
      takes tables.
    y: [n] 1 = anomaly, 0 = normal; at least one normal.

  Returns:
    What `score` needs.
  """
  rows, features = _padded(run, x, y)
  state = _compiled(run.learner).adapt(_key(), run.params, rows, features)
  return Adapted(jax.block_until_ready(state), x.shape[-1], rows.x.size)


def score(run: runs.Run, adapted: Adapted, x: np.ndarray) -> np.ndarray:
  """Scores [m] float64 of featurized rows [m, ...], higher = more abnormal.

  Raises:
    DataError: if a score is not finite.
  """
  compiled = _compiled(run.learner).score
  x = np.asarray(x, np.float32)
  width = x.shape[-1]
  if any_width(run):
    width = episodes.padded_size(width)
  chunk = _FEW
  if len(x) > _SOME:
    room = max(_SOME, _ELEMENTS // adapted.size)
    chunk = min(_MANY, 1 << (room.bit_length() - 1))
    if len(x) <= chunk // 4:
      chunk = max(_SOME, chunk // 4)
  done = []
  for start in range(0, len(x), chunk):
    part = x[start : start + chunk]
    padded = np.zeros((chunk, *x.shape[1:-1], width), np.float32)
    padded[: len(part), ..., : x.shape[-1]] = part
    done.append(np.asarray(compiled(adapted.state, padded))[: len(part)])
  scores = np.concatenate(done or [np.zeros(0)]).astype(np.float64)
  if not np.isfinite(scores).all():
    row = np.flatnonzero(~np.isfinite(scores))[0]
    raise DataError(
      f'row {row} has no finite score: its values are too large for this run'
    )
  return scores


def _split(normal):
  """The normals dealt out at random, one by one or in parts."""
  order = np.random.default_rng(0).permutation(normal)
  number = _PARTS if len(normal) > _SINGLY else len(normal)
  return np.array_split(order, number)


def without(
  run: runs.Run, x: np.ndarray, y: np.ndarray
) -> list[tuple[Adapted, np.ndarray]]:
  """Detectors of parts of the support, each with the normals it has not seen.

  They are those of `support_scores`. A single normal is not left out.

  Args:
    run: see `runs.restore`.
    x: [n, ...] featurized support rows.
    y: [n] 1 = anomaly, 0 = normal.

  Returns:
    Adapted detectors, and positions in x.
  """
  y = np.asarray(y)
  normal = np.flatnonzero(y != 1)
  if len(normal) < 2:
    return [(adapt(run, x, y), normal)]
  parts = []
  for members in _split(normal):
    rest = np.setdiff1d(np.arange(len(y)), members)
    parts.append((adapt(run, x[rest], y[rest]), members))
  return parts


def support_scores(run: runs.Run, x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Scores [k] of the support's normals, each adapted without itself.

  Up to eight normals are left out one by one, more in four parts. A single
  normal cannot be scored without itself: then k is 0.

  Args:
    run: see `runs.restore`.
    x: [n, ...] featurized support rows.
    y: [n] 1 = anomaly, 0 = normal.
  """
  normal = np.flatnonzero(np.asarray(y) != 1)
  if len(normal) < 2:
    return np.zeros(0)
  rows, features = _padded(run, x, y)
  number = _SINGLY if len(normal) <= _SINGLY else _PARTS
  room = episodes.padded_size(-(-len(normal) // number), 1)
  rest = len(y) - len(normal) // number
  size = len(rows.y) // 2  # half as many rows take a quarter of the time
  size = size if rest <= size else len(rows.y)
  kept = np.full((number, size), -1, np.int32)
  out = np.full((number, room), -1, np.int32)
  for i, members in enumerate(_split(normal)):
    others = np.setdiff1d(np.arange(len(y)), members)
    kept[i, : len(others)] = others
    out[i, : len(members)] = members
  cross_fit = _compiled(run.learner).cross_fit
  parts = cross_fit(_key(), run.params, rows, features, (kept, out))
  scores = np.zeros(len(rows.y))
  scores[out[out >= 0]] = np.asarray(parts)[out >= 0]
  if not np.isfinite(scores).all():
    raise DataError('a support row has no finite score: look at its values')
  return scores[normal]
