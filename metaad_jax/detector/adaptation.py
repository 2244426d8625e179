"""A run adapted to one entity, for the detector and for its calibration.

Rows and columns are padded to few sizes, so that another number of samples, or
another table, compiles nothing new.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from metaad_jax import base, devices
from metaad_jax.base import DataError
from metaad_jax.data import episodes
from metaad_jax.detector import sanity
from metaad_jax.training import runs

_SINGLY, _PARTS = 8, 4  # up to 8 normals are left out singly, more in 4 parts
_FEW, _SOME, _MANY = 8, 64, 1024  # rows that are scored at once
_ELEMENTS = 1 << 23  # of queries x support x columns: 32 MB in float32


class Adapted(NamedTuple):
  """A learner adapted to one entity."""

  state: Any  # what its `adapt` returned
  width: int  # columns of a row
  size: int  # elements of the padded support


@functools.lru_cache(maxsize=8)
def _compiled(learner):
  """The learner's `adapt` and `score`, and `score` of rows left out; jitted."""
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
      state = learner.adapt(key, params, rest, features)
      return learner.score(state, support.x[out])

    # One after the other: vmap compiles for minutes, and is no faster here.
    return jax.lax.map(one, parts)

  jit = functools.partial(jax.jit, compiler_options=devices.quick())
  return jit(learner.adapt), jit(score), jit(cross_fit)


@functools.cache
def _key():
  return jax.random.key(0)  # making one takes a third of a millisecond


def _padded(run, x, y):
  """The support and the mask of its columns."""
  x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
  shape = [episodes.padded_size(len(x)), *x.shape[1:]]
  if run.setup.any_width:
    shape[-1] = episodes.padded_size(x.shape[-1])

  def fill(array) -> Any:
    sizes = zip(array.shape, shape, strict=False)
    return np.pad(array, [(0, padded - size) for size, padded in sizes])

  features = (np.arange(shape[-1]) < x.shape[-1]).astype(np.float32)
  return base.Rows(fill(x), fill(y), fill(np.ones_like(y))), features


def _finite(scores, name):
  if not np.isfinite(scores).all():
    row = np.flatnonzero(~np.isfinite(scores))[0]
    raise DataError(
      f'{name.format(row)} has no finite score: its values are too large for '
      'this run'
    )
  return scores


def adapt(run: runs.Run, x: np.ndarray, y: np.ndarray) -> Adapted:
  """Adapts a run.

  Args:
    run: see `runs.restore`.
    x: [n, ...] featurized support rows, float32; NaN = missing, if the run
      takes tables.
    y: [n] 1 = anomaly, 0 = normal; at least one normal.
  """
  order = np.argsort(sanity.order_keys(x))
  rows, features = _padded(run, x[order], y[order])
  state = _compiled(run.learner)[0](_key(), run.params, rows, features)
  return Adapted(jax.block_until_ready(state), x.shape[-1], rows.x.size)


def score(run: runs.Run, adapted: Adapted, x: np.ndarray) -> np.ndarray:
  """Scores [m] float64 of featurized rows [m, ...], higher = more abnormal.

  Raises:
    DataError: if a score is not finite.
  """
  compiled = _compiled(run.learner)[1]
  x = np.asarray(x, np.float32)
  width = x.shape[-1]
  if run.setup.any_width:
    width = episodes.padded_size(width)
  chunk = _FEW
  if len(x) > _SOME:
    room = max(_SOME, _ELEMENTS // adapted.size)
    chunk = min(_MANY, 1 << (room.bit_length() - 1))
    if len(x) <= chunk // 4:
      chunk = max(_SOME, chunk // 4)
  done = [np.zeros(0)]
  for start in range(0, len(x), chunk):
    part = x[start : start + chunk]
    padded = np.zeros((chunk, *x.shape[1:-1], width), np.float32)
    padded[: len(part), ..., : x.shape[-1]] = part
    done.append(np.asarray(compiled(adapted.state, padded))[: len(part)])
  return _finite(np.concatenate(done).astype(np.float64), 'row {}')


def _split(x, normal):
  """The normals dealt out at random, one by one or in parts; see `without`."""
  order = normal[np.argsort(sanity.order_keys(x[normal]))]
  number = _PARTS if len(normal) > _SINGLY else len(normal)
  return np.array_split(order, number)


def without(
  run: runs.Run, x: np.ndarray, y: np.ndarray
) -> list[tuple[Adapted, np.ndarray]]:
  """The detectors behind `support_scores`, each with the normals it left out.

  A single normal is not left out. Arguments as of `adapt`; the normals are
  positions in x.
  """
  y = np.asarray(y)
  normal = np.flatnonzero(y != 1)
  if len(normal) < 2:
    return [(adapt(run, x, y), normal)]
  parts = []
  for members in _split(x, normal):
    rest = np.setdiff1d(np.arange(len(y)), members)
    parts.append((adapt(run, x[rest], y[rest]), members))
  return parts


def support_scores(run: runs.Run, x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Scores [k] of the support's normals, each adapted without itself.

  Up to eight normals are left out one by one, more in four parts. A single
  normal cannot be scored without itself: then k is 0. Arguments as of `adapt`.
  """
  given, order = np.asarray(y) != 1, np.argsort(sanity.order_keys(x))
  if given.sum() < 2:
    return np.zeros(0)
  x, y, normal = x[order], y[order], np.flatnonzero(given[order])
  rows, features = _padded(run, x, y)
  number = _SINGLY if len(normal) <= _SINGLY else _PARTS
  room = episodes.padded_size(-(-len(normal) // number), 1)
  rest = len(y) - len(normal) // number
  size = len(rows.y) // 2  # half as many rows take a quarter of the time
  size = size if rest <= size else len(rows.y)
  kept = np.full((number, size), -1, np.int32)
  out = np.full((number, room), -1, np.int32)
  for i, members in enumerate(_split(x, normal)):
    others = np.setdiff1d(np.arange(len(y)), members)
    kept[i, : len(others)] = others
    out[i, : len(members)] = members
  cross_fit = _compiled(run.learner)[2]
  parts = cross_fit(_key(), run.params, rows, features, (kept, out))
  scores = np.zeros(len(y))
  scores[order[out[out >= 0]]] = np.asarray(parts)[out >= 0]
  return _finite(scores, 'a support row')[given]
