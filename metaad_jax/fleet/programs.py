"""Many entities adapted and scored at once, in few programs of fixed shapes.

Entities are padded to few sizes of support and taken 32 at a time, their rows
up to 32 at a time: what is compiled serves as entities come and go.
"""

from concurrent import futures
import functools
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from metaad_jax import devices
from metaad_jax.base import DataError, Rows
from metaad_jax.data import episodes
from metaad_jax.training import runs

_GROUP = 4, 32  # entities of a dispatch; the first where there are so few
_ROWS = np.array([4, 8, 32])  # of each in a dispatch, as many as are left
_SUPPORT = np.array([8, 20, 32, 64])  # rows; more as `episodes.padded_size`
_AT_MOST = 512  # rows of an entity that one adaptation serves


class Supports(NamedTuple):
  """What N detectors are adapted to, as a learner reads it.

  Rows of one of them follow one another.
  """

  x: np.ndarray  # [S, F] float32; NaN = missing
  y: np.ndarray  # [S] 1 = anomaly, .5 = unverified
  start: np.ndarray  # [N + 1] where each begins
  real: np.ndarray  # [N, F] bool, columns that it has

  def take(self, rows: np.ndarray, of: np.ndarray) -> Self:
    """Of some of the rows, [R] in the order of their entities `of`, [R].

    Entities are numbered anew by `np.unique(of)`.
    """
    _, first = np.unique(of, return_index=True)
    start = np.append(first, len(of))
    return self._replace(
      x=self.x[rows], y=self.y[rows], start=start, real=self.real[of[first]]
    )


@functools.lru_cache(maxsize=8)
def _programs(learner):
  """`adapt` and `score` of a group; of parameters there is one copy."""
  kept: dict[str, Any] = {}

  def adapt(params, rows, features):
    given = {id(leaf): i for i, leaf in enumerate(jax.tree.leaves(params))}

    def one(rows, features):
      state = learner.adapt(jax.random.key(0), params, rows, features)
      leaves, kept['tree'] = jax.tree.flatten(state)
      kept['given'] = [given.get(id(leaf)) for leaf in leaves]
      return [leaf for leaf in leaves if id(leaf) not in given]

    return jax.vmap(one)(rows, features)

  def score(params, states, x):
    given = jax.tree.leaves(params)

    def one(state, x):
      own = iter(state)
      leaves = [next(own) if i is None else given[i] for i in kept['given']]
      return learner.score(jax.tree.unflatten(kept['tree'], leaves), x)

    return jax.vmap(one)(states, x)

  jit = functools.partial(jax.jit, compiler_options=devices.quick())
  return jit(adapt), jit(score)


def _width(run, columns):
  """Columns that are computed with: at most a quarter more than there are."""
  if not run.setup.any_width:
    return columns
  step = max(2, 1 << (columns - 1).bit_length() >> 3)
  return -(-columns // step) * step


def _sizes(lengths):
  """[N] padded numbers of rows of supports."""
  place = np.searchsorted(_SUPPORT, lengths)
  sizes = np.append(_SUPPORT, 0)[place]
  for i in np.flatnonzero(place == len(_SUPPORT)):
    sizes[i] = episodes.padded_size(int(lengths[i]), int(_SUPPORT[-1]))
  return sizes


def _wide(x, width):
  if x.shape[1] == width:
    return np.asarray(x, np.float32)
  padded = np.zeros((len(x), width), np.float32)
  padded[:, : x.shape[1]] = x
  return padded


def _adapted(run, supports, size, group):
  """States of a group of supports, each at most `size` rows."""
  group = np.pad(group, (0, _many(group) - len(group)), 'edge')
  place = supports.start[group][:, None] + np.arange(size)
  there = place < supports.start[group + 1][:, None]
  place = np.minimum(place, len(supports.x) - 1)
  x = np.where(there[..., None], supports.x[place], np.float32(0))
  mask = there.astype(np.float32)
  y = supports.y if run.setup.unverified else np.floor(supports.y)
  parts: Any = x, y[place].astype(np.float32) * mask, mask
  rows = Rows(*parts)
  return _programs(run.learner)[0](run.params, rows, supports.real[group])


def _many(group):
  return _GROUP[len(group) > _GROUP[0]]


def _each(call, groups):
  """Calls with every group, one on each core; the first alone, it compiles."""
  for group in groups[:1]:
    call(group)
  with futures.ThreadPoolExecutor(devices.cores()) as pool:
    for _ in pool.map(call, groups[1:]):
      pass


def adapt(run: runs.Run, supports: Supports) -> None:
  """Adapts to all supports, and keeps nothing: to be timed."""
  width = _width(run, supports.x.shape[1])
  supports = supports._replace(
    x=_wide(supports.x, width), real=_wide(supports.real, width)
  )
  which = np.arange(len(supports.start) - 1)
  one = lambda group: jax.block_until_ready(
    _adapted(run, supports, group[3], group[0])
  )
  _each(one, list(_groups(supports, which)))


def score(
  run: runs.Run, supports: Supports, x: np.ndarray, which: np.ndarray
) -> np.ndarray:
  """Scores rows of many entities, in any order.

  Args:
    run: see `runs.restore`.
    supports: of N entities.
    x: [n, F] float32 rows, as a learner reads them.
    which: [n] the entity of each.

  Returns:
    [n] float64, higher = more abnormal; those of one entity are what
    `adaptation.score` says, to rounding.

  Raises:
    DataError: if a score is not finite.
  """
  if not len(x):
    return np.zeros(0)
  width = _width(run, x.shape[1])
  x = _wide(x, width)
  real = _wide(supports.real, width)
  supports = supports._replace(x=_wide(supports.x, width), real=real)
  order = np.argsort(which, kind='stable')
  scores = np.zeros(len(x))

  def one(group):
    owner, first, size, padded = group
    states = _adapted(run, supports, padded, owner)
    left = int(size.max())
    while left > 0:
      count = int(_ROWS[np.searchsorted(_ROWS[:-1], left)])
      place = first[:, None] + np.arange(count)
      there = np.arange(count) < size[:, None]
      rows = order[np.where(there, place, 0)]
      chunk = np.zeros((_many(owner), count, width), np.float32)
      chunk[: len(owner)] = x[rows]
      scored = _programs(run.learner)[1](run.params, states, chunk)
      scores[rows[there]] = np.asarray(scored)[: len(there)][there]
      first, size, left = first + count, size - count, left - count

  _each(one, list(_groups(supports, which)))
  if not np.isfinite(scores).all():
    row = np.flatnonzero(~np.isfinite(scores))[0]
    raise DataError(
      f'row {row} has no finite score: its values are too large for this run'
    )
  return scores


def _groups(supports, which):
  """Entities that are adapted together: numbers, first row, rows; and size.

  Rows are places in the order of their entities. Those of as many rows go
  together; one of very many comes several times.
  """
  lengths = np.diff(supports.start)
  counts = np.bincount(which, minlength=len(lengths))
  begin = np.cumsum(counts) - counts
  parts = -(-counts // _AT_MOST)
  owner = np.repeat(np.arange(len(lengths)), parts)
  offset = np.arange(len(owner)) - np.repeat(np.cumsum(parts) - parts, parts)
  offset = offset * _AT_MOST
  size = np.minimum(counts[owner] - offset, _AT_MOST)
  padded = _sizes(lengths[owner])
  order = np.lexsort((size, padded))
  cuts = np.flatnonzero(np.diff(padded[order])) + 1
  for part in np.split(order, cuts):
    for start in range(0, len(part), _GROUP[1]):
      group = part[start : start + _GROUP[1]]
      first = begin[owner[group]] + offset[group]
      yield owner[group], first, size[group], int(padded[group[0]])
