"""A run adapted to one entity, for the detector and for its calibration.

Two programs do everything, `adapt` and `score`, each for few numbers of support
rows and of columns, to which the others are padded (`padded_size`); rows are
scored so many at a time, whatever the batch. So all is compiled when the first
row is scored, the detector's `fit` does that, and a row's score is the same in
every batch.
"""

from concurrent import futures
import dataclasses
import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metaad_jax import base, devices
from metaad_jax.base import DataError
from metaad_jax.data import episodes
from metaad_jax.detector import sanity
from metaad_jax.training import runs

_SINGLY, _PARTS = 8, 4  # up to 8 normals are left out singly, more in 4 parts
_SENT = 64  # parts of a batch that are under way before the first is waited for


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=['flat', 'others'],
  meta_fields=['tree', 'shapes'],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Packed:
  """A pytree in one array: what a call costs grows with its arguments."""

  flat: Any  # [n] float32, one leaf after the other
  others: tuple[Any, ...]  # leaves of other types
  tree: Any  # of leaves, see `jax.tree.structure`
  shapes: tuple[Any, ...]  # of the leaves; None = one of the others

  def unpack(self, flat: Any) -> Any:
    """The pytree, as slices of `flat`."""
    sizes = [0 if s is None else math.prod(s) for s in self.shapes]
    begins, others = itertools.accumulate(sizes, initial=0), iter(self.others)
    leaves = [
      next(others) if s is None else flat[begin : begin + size].reshape(s)
      for s, begin, size in zip(self.shapes, begins, sizes, strict=False)
    ]
    return jax.tree.unflatten(self.tree, leaves)


def _pack(tree):
  """A `Packed`, within a program."""
  leaves, structure = jax.tree.flatten(tree)
  leaves = [jnp.asarray(leaf) for leaf in leaves]
  plain = lambda leaf: leaf.dtype == jnp.float32
  flat = [leaf.ravel() for leaf in leaves if plain(leaf)]
  return Packed(
    jnp.concatenate([jnp.zeros(0, jnp.float32), *flat]),
    tuple(leaf for leaf in leaves if not plain(leaf)),
    structure,
    tuple(leaf.shape if plain(leaf) else None for leaf in leaves),
  )


class Adapted(NamedTuple):
  """A learner adapted to one entity."""

  packed: Packed
  width: int  # columns of a row
  rows: int  # that are scored at once

  @property
  def state(self) -> Any:
    """What the learner's `adapt` returned, in NumPy's arrays."""
    return self.packed.unpack(np.asarray(self.packed.flat))


@functools.lru_cache(maxsize=8)
def _compiled(learner):
  """The learner's `adapt` and `score`."""

  def adapt(*given):
    return _pack(learner.adapt(*given))

  def score(packed, x):
    return learner.score(packed.unpack(packed.flat), x)

  jit = functools.partial(jax.jit, compiler_options=devices.quick())
  return jit(adapt), jit(score)


@functools.cache
def _key():
  return jax.random.key(0)  # making one takes a third of a millisecond


def padded_width(count: int) -> int:
  """The smallest of 8, 16, 24, 32, 48, 64, 96, ... that `count` fits in.

  Twice as many take twice as long, so these are closer than numbers of rows.
  """
  size = 8 << max(0, -(-count // 8) - 1).bit_length()
  return size // 4 * 3 if size > 16 and count <= size // 4 * 3 else size


def _padded(run, x, y, least):
  """A support as of at least so many rows, and the mask of its columns."""
  x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
  shape = [episodes.padded_size(max(len(x), least)), *x.shape[1:]]
  if run.setup.any_width:
    shape[-1] = padded_width(x.shape[-1])

  def fill(array) -> Any:
    sizes = zip(array.shape, shape, strict=False)
    return np.pad(array, [(0, padded - size) for size, padded in sizes])

  features = (np.arange(shape[-1]) < x.shape[-1]).astype(np.float32)
  return base.Rows(fill(x), fill(y), fill(np.ones_like(y))), features


def adapt(
  run: runs.Run, x: np.ndarray, y: np.ndarray, *, least: int = 0
) -> Adapted:
  """Adapts a run.

  Args:
    run: see `runs.restore`.
    x: [n, ...] featurized support rows, float32; NaN = missing, if the run
      takes tables.
    y: [n] 1 = anomaly, 0 = normal, .5 = unverified; not anomalies alone.
    least: uses what was compiled for a support of so many rows.
  """
  order = np.argsort(sanity.order_keys(x))
  rows, features = _padded(run, x[order], y[order], least)
  packed = _compiled(run.learner)[0](_key(), run.params, rows, features)
  tuning = devices.tuning()
  room = tuning.score_elements // rows.x.size  # a power of two, or less than 1
  count = min(tuning.score_rows, max(8, room))
  return Adapted(jax.block_until_ready(packed), x.shape[-1], count)


def score(run: runs.Run, adapted: Adapted, x: np.ndarray) -> np.ndarray:
  """Scores [m] float64 of featurized rows [m, ...], higher = more abnormal.

  Raises:
    DataError: if a score is not finite.
  """
  compiled, chunk = _compiled(run.learner)[1], adapted.rows
  x = np.asarray(x, np.float32)
  width = x.shape[-1]
  if run.setup.any_width:
    width = padded_width(width)

  def scored(start):
    part = x[start : start + chunk]
    padded = np.zeros((chunk, *x.shape[1:-1], width), np.float32)
    padded[: len(part), ..., : x.shape[-1]] = part
    return compiled(adapted.packed, padded)

  starts, cores = range(0, len(x), chunk), devices.cores()
  if len(starts) >= 8 and cores > 1 and jax.default_backend() == 'cpu':
    with futures.ThreadPoolExecutor(cores) as pool:  # a call takes one core
      done = list(pool.map(lambda start: np.asarray(scored(start)), starts))
  else:
    done = []
    for first in range(0, len(starts), _SENT):
      sent = [scored(start) for start in starts[first : first + _SENT]]
      done += map(np.asarray, sent)
  scores = np.concatenate([np.zeros(0), *done])[: len(x)]
  if not np.isfinite(scores).all():
    row = np.flatnonzero(~np.isfinite(scores))[0]
    raise DataError(
      f'row {row} has no finite score: its values are too large for this run'
    )
  return scores


def without(
  run: runs.Run,
  x: np.ndarray,
  y: np.ndarray,
  own: np.ndarray | bool = True,
) -> list[tuple[Adapted, np.ndarray]]:
  """Detectors of parts of the support, each with the normals it left out.

  Up to eight normals are left out one by one, more in four parts, dealt out at
  random; a single one is not left out. Arguments as of `adapt`; `own` [n] says
  which may be left out. The normals are positions in x.
  """
  y = np.asarray(y)
  normal = np.flatnonzero((y != 1) & own)
  if len(normal) < 2:
    return [(adapt(run, x, y), normal)]
  order = normal[np.argsort(sanity.order_keys(x[normal]))]
  number = _PARTS if len(normal) > _SINGLY else len(normal)
  parts = []
  for members in np.array_split(order, number):
    rest = np.setdiff1d(np.arange(len(y)), members)
    parts.append((adapt(run, x[rest], y[rest], least=len(y)), members))
  return parts


def support_scores(run: runs.Run, x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Scores [k] of the support's normals, each adapted without itself.

  A single normal cannot be scored without itself: then k is 0. Arguments as of
  `adapt`.
  """
  normal = np.flatnonzero(np.asarray(y) != 1)
  if len(normal) < 2:
    return np.zeros(0)
  scores = np.zeros(len(y))
  for adapted, members in without(run, x, y):
    scores[members] = score(run, adapted, x[members])
  return scores[normal]
