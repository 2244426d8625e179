"""`detector.sanity` of many entities at once: how rows are read, and held.

Entities that know equally many rows of each kind are laid side by side, as
columns of one table: what `sanity` says of a column it says of one entity's.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import numpy as np

from metaad_jax.detector import sanity

_CHUNK = 1 << 16  # rows at a time
_READING = ('centre', 'unit', 'constant', 'noise', 'low', 'high')
_GUARD = ('low', 'high', 'span', 'varies', 'reach', 'spread')


class Known(NamedTuple):
  """Rows of N entities that are known, those of one after the other.

  Of one entity, the support comes first.
  """

  x: np.ndarray  # [S, F] float64; NaN = missing
  y: np.ndarray  # [S] 0 = normal, 1 = anomaly, -1 = unlabelled
  support: np.ndarray  # [S] bool
  start: np.ndarray  # [N + 1]

  @property
  def of(self) -> np.ndarray:
    """[S] whose row it is."""
    return np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))


class Readings(NamedTuple):
  """A `sanity.Reading` and a `sanity.Guard` of each of N entities.

  Arrays of `reading` and `guard` are [N, F]; `rows` [V, F] are the verified
  normal rows in units of the spread, those of entity i from start[i].
  """

  reading: dict[str, np.ndarray]
  guard: dict[str, np.ndarray]
  rows: np.ndarray
  start: np.ndarray  # [N + 1]
  words: np.ndarray  # [W] numbers of the columns of codes
  ranks: np.ndarray  # [N, W, L]

  def read(self, x: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Rows [n, F] float64 of the entities [n] -> float32 for the learner."""
    read = np.empty(x.shape, np.float32)
    for at in range(0, len(x), _CHUNK):
      part, of = x[at : at + _CHUNK], which[at : at + _CHUNK]
      if len(self.words):
        part = self._ranked(part, of)
      by = sanity.Reading(*(self.reading[name][of] for name in _READING))
      read[at : at + _CHUNK] = by(part)
    return read

  def _ranked(self, x, which):
    codes = x[:, self.words]
    last = self.ranks.shape[2] - 1
    places = np.clip(np.nan_to_num(codes), 0, last).astype(int)
    columns = np.arange(len(self.words))
    x = x.copy()
    known = self.ranks[which[:, None], columns, places]
    x[:, self.words] = np.where(np.isnan(codes), np.nan, known)
    return x

  def held(
    self,
    x: np.ndarray,
    which: np.ndarray,
    scores: np.ndarray,
    bars: Callable[[], np.ndarray],
  ) -> np.ndarray:
    """[n] scores as they make sense; see `sanity.Guard`.

    `bars` gives [3, N] scores, three of each entity.
    """
    made = np.empty(len(x))
    told = functools.cache(bars)
    for at in range(0, len(x), _CHUNK):
      part, of = x[at : at + _CHUNK], which[at : at + _CHUNK]
      guard = {name: array[of] for name, array in self.guard.items()}
      far = sanity.Guard(**guard, rows=self.rows[:0]).far(part)
      copies = self._copies(part / guard['spread'], of)
      mine = lambda of=of: told()[:, of]
      made[at : at + _CHUNK] = sanity.held(
        scores[at : at + _CHUNK], far, copies, mine
      )
    return made

  def _copies(self, x, which):
    """[n] see `sanity.Guard.copies`; pairs of rows that are near so far."""
    x = sanity.placed(x, 1.0)
    order = np.argsort(-self.guard['varies'].mean(0), kind='stable')
    count = np.diff(self.start)[which]
    row = np.repeat(np.arange(len(x)), count)
    first = np.repeat(self.start[which] - (np.cumsum(count) - count), count)
    other = np.arange(len(row)) + first
    distance = np.zeros(len(row))
    for column in order:
      gap = np.abs(x[row, column] - self.rows[other, column])
      distance = np.maximum(distance, gap)
      near = distance < sanity.NOISE[1]
      row, other, distance = row[near], other[near], distance[near]
    nearest = np.full(len(x), np.inf)
    np.minimum.at(nearest, row, distance)
    return sanity.likeness(nearest)


def of(known: Known, words: np.ndarray) -> Readings:
  """Reads the known rows of N entities; words [W] are columns of codes."""
  number, width = len(known.start) - 1, known.x.shape[1]
  reading = {name: np.empty((number, width)) for name in _READING}
  guard = {name: np.empty((number, width)) for name in _GUARD}
  guard['varies'] = np.zeros((number, width), bool)
  ranks = _ranks(known, words)
  verified: list[np.ndarray] = [np.zeros((0, width))] * number
  for members in _alike(known):
    here = known.start[members[0]] + np.arange(
      known.start[members[0] + 1] - known.start[members[0]]
    )
    y, support = known.y[here], known.support[here]
    if (y == 1).any():  # copies of anomalies are no matter of one column
      members = members[:, None]
    else:
      members = members[None]
    for together in members:
      place = known.start[together][:, None] + np.arange(len(y))
      x = known.x[place].transpose(1, 0, 2).reshape(len(y), -1)
      at = np.arange(len(together))[:, None] * width + words
      made = sanity.guard(x, y, at.ravel())
      as_read = sanity.reading(
        x[support],
        made,
        at.ravel(),
        ranks[together].reshape(at.size, ranks.shape[2]),
      )
      for name in _GUARD:
        guard[name][together] = getattr(made, name).reshape(-1, width)
      for name in _READING:
        reading[name][together] = getattr(as_read, name).reshape(-1, width)
      rows = made.rows.reshape(len(made.rows), -1, width)
      for i, entity in enumerate(together):
        verified[entity] = rows[:, i]
  start = np.append(0, np.cumsum([len(rows) for rows in verified]))
  return Readings(reading, guard, np.concatenate(verified), start, words, ranks)


def _alike(known):
  """Numbers of entities whose rows are of the same kinds, in their order."""
  kind = (known.y + 2) * 2 + known.support
  groups: dict[bytes, list[int]] = {}
  for i, (a, b) in enumerate(zip(known.start, known.start[1:], strict=False)):
    groups.setdefault(kind[a:b].astype(np.int8).tobytes(), []).append(i)
  return map(np.array, groups.values())


def _ranks(known, words):
  """[N, W, L], see `sanity.ranks`; what is beyond an entity's is its last."""
  number = len(known.start) - 1
  if not len(words):
    return np.zeros((number, 0, 1))
  found = []
  for a, b in zip(known.start, known.start[1:], strict=False):
    x = known.x[a:b]
    found.append(sanity.ranks(x[known.y[a:b] != 1], words))
  most = max(ranks.shape[1] for ranks in found)
  wide = [
    np.pad(ranks, ((0, 0), (0, most - ranks.shape[1])), 'edge')
    for ranks in found
  ]
  return np.stack(wide)
