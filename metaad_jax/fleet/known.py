"""Which rows of an entity are kept, and how they score without themselves."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from metaad_jax.detector import sanity
from metaad_jax.fleet import programs, readings
from metaad_jax.fleet.programs import Supports
from metaad_jax.fleet.readings import Known, Readings
from metaad_jax.fleet.store import Entity
from metaad_jax.training import runs

_ANOMALIES = 64  # labelled ones that a support holds at most
_OWN = 100  # normals beside the support that are kept
_SINGLY, _PARTS = 8, 4  # as in `detector.adaptation.without`


def choose(
  x: np.ndarray, y: np.ndarray, which: np.ndarray, words: np.ndarray, room: int
) -> Known:
  """Chooses what each entity is adapted to, as `MetaAnomalyDetector.fit` does.

  Args:
    x: [n, F] float64 rows of all entities, in any order.
    y: [n] 0 = normal, 1 = anomaly, -1 = unlabelled.
    which: [n] whose row it is; every entity has one that is no anomaly.
    words: numbers of the columns of codes.
    room: normals that a support holds.

  Returns:
    What is kept: of normals `room` and up to 100 more, of unlabelled rows as
    many as there is room for, of anomalies 64.
  """
  order = np.argsort(which, kind='stable')
  order = order[_firsts(x[order], y[order], which[order], words)]
  x, y, which = x[order], y[order], which[order]
  if len(words):  # the numbers of words depend on the entity
    parts = np.split(x, _begins(which)[1:])
    keys = np.concatenate([sanity.row_keys(part, words) for part in parts])
  else:
    keys = sanity.order_keys(x, _begins(which))
  kind = np.where(y == 0, 0, np.where(y == -1, 1, 2))
  order = np.lexsort((keys, kind, which))
  place = which[order] * 3 + kind[order]
  first = np.r_[True, place[1:] != place[:-1]]
  rank = np.arange(len(place)) - np.flatnonzero(first)[np.cumsum(first) - 1]
  normals = np.bincount(which[y == 0], minlength=which.max() + 1)
  rest = np.maximum(0, room - normals)[which[order]]
  limit = np.choose(kind[order], [room, rest, _ANOMALIES])
  more = np.choose(kind[order], [_OWN, 0, 0])
  support, kept = rank < limit, rank < limit + more
  order, support = order[kept], support[kept]
  again = np.argsort(which[order] * 2 + ~support, kind='stable')
  order, support = order[again], support[again]
  start = np.append(0, np.cumsum(np.bincount(which[order])))
  return Known(x[order], y[order], support, start)


def rows_of(which: np.ndarray) -> list[np.ndarray]:
  """Places of the rows of each entity, in the order of their numbers."""
  order = np.argsort(which, kind='stable')
  return np.split(order, _begins(which[order])[1:])


def _firsts(x, y, which, words):
  """[n] bool, rows that are no copies; see `sanity.originals`."""
  kept = np.ones(len(x), bool)
  sums = (np.nan_to_num(x) * np.arange(1.0, 1 + x.shape[1])).sum(1)
  rough = np.column_stack([which, y, sums])
  again = pd.DataFrame(rough).duplicated(keep=False).to_numpy()
  for entity in np.unique(which[again]):
    a, b = np.searchsorted(which, (entity, entity + 1))
    first = sanity.originals(x[a:b], y[a:b], words)
    kept[a:b] = first == np.arange(b - a)
  return kept


def _begins(which):
  return np.append(0, np.flatnonzero(np.diff(which)) + 1)


def more(
  entity: Entity, x: np.ndarray, y: np.ndarray, words: np.ndarray, room: int
) -> Entity:
  """An entity with more rows, as `MetaAnomalyDetector.partial_fit` has it."""
  before = len(entity.x)
  rows, labels = np.concatenate([entity.x, x]), np.concatenate([entity.y, y])
  which = np.zeros(len(rows), int)
  first = _firsts(rows, labels, which, words)[before:]
  x, y = x[first], y[first]
  normal, bad = y == 0, y == 1
  seen = (entity.y == 0).sum() + np.cumsum(normal)
  good = (y == -1) | (normal & (seen % 2 == 0))
  held = entity.support & (entity.y != 1)
  marked = entity.support & (entity.y == 1)
  chosen = good & (np.cumsum(good) <= room - held.sum())
  chosen |= bad & (np.cumsum(bad) <= _ANOMALIES - marked.sum())
  rest = normal & ~chosen
  own = (~entity.support & (entity.y == 0)).sum()
  kept = chosen | (rest & (np.cumsum(rest) <= _OWN - own))
  x = np.concatenate([entity.x, x[kept]])
  y = np.concatenate([entity.y, y[kept].astype(np.int8)])
  support = np.concatenate([entity.support, chosen[kept]])
  order = np.argsort(~support, kind='stable')
  return Entity(x[order], y[order], support[order])


def entities(known: Known) -> list[Entity]:
  """One by one."""
  made = []
  for a, b in zip(known.start, known.start[1:], strict=False):
    y = known.y[a:b].astype(np.int8)
    made.append(Entity(known.x[a:b], y, known.support[a:b]))
  return made


def joined(found: Sequence[Entity]) -> Known:
  """The inverse of `entities`."""
  x, y, support = (
    np.concatenate([entity[i] for entity in found]) for i in range(3)
  )
  start = np.append(0, np.cumsum([len(entity.x) for entity in found]))
  return Known(x, y, support, start)


def supports(known: Known, by: Readings) -> tuple[Supports, np.ndarray]:
  """What the entities are adapted to.

  Returns:
    The supports, and [S] which rows of `known` theirs are, in their order.
  """
  rows, of = np.flatnonzero(known.support), known.of[known.support]
  x = by.read(known.x[rows], of)
  order = np.lexsort((sanity.order_keys(x, _begins(of)), of))
  rows, x = rows[order], x[order]
  counts = np.bincount(of, minlength=len(known.start) - 1)
  start = np.append(0, np.cumsum(counts))
  real = np.ones((len(counts), x.shape[1]), bool)
  y = np.where(known.y[rows] == -1, 0.5, known.y[rows] == 1)
  return Supports(x, y, start, real), rows


def scored(
  run: runs.Run, known: Known, by: Readings, told: Any = None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
  """Scores of what is known, float64, for the calibration.

  Of rows there are two, [k, 2], where `told` says the second; see `kin.Told`.

  Returns:
    Of each entity the support's normals, each scored without itself as in
    `adaptation.support_scores`, and its normals that are not in the support.
  """
  whole, rows = supports(known, by)
  of, normal = known.of[rows], np.isin(known.y[rows], (0, -1))
  count = np.bincount(of[normal], minlength=len(whole.start) - 1)
  parts = np.where(count > _SINGLY, _PARTS, np.where(count > 1, count, 0))
  # The part [S] that a normal is in: as np.array_split deals them out.
  rank = (np.cumsum(normal) - 1) - (np.cumsum(count) - count)[of]
  size, more = np.divmod(count, np.maximum(parts, 1))
  early = rank < (more * (size + 1))[of]
  part = np.where(
    early, rank // (size + 1)[of],
    more[of] + (rank - (more * (size + 1))[of]) // np.maximum(size, 1)[of],
  )  # fmt: skip
  part = np.where(normal, part, -1)
  begin = np.cumsum(parts) - parts
  row = np.repeat(np.arange(len(of)), parts[of])
  left = np.arange(len(row)) - np.repeat(
    np.cumsum(parts[of]) - parts[of], parts[of]
  )
  stays = part[row] != left
  row, sub = row[stays], begin[of[row[stays]]] + left[stays]
  order = np.argsort(sub, kind='stable')
  row, sub = row[order], sub[order]
  start = _starts(sub, parts.sum())
  owner = np.repeat(np.arange(len(parts)), parts)
  without = Supports(whole.x[row], whole.y[row], start, whole.real[owner])
  out = np.flatnonzero(normal & (parts[of] > 0))
  subset, other_of = begin[of[out]] + part[out], known.of
  found = programs.score(run, without, whole.x[out], subset)
  other = np.flatnonzero(~known.support & (known.y == 0))
  own = programs.score(
    run, whole, by.read(known.x[other], known.of[other]), other_of[other]
  )
  if told is not None:
    mine = normal[row]
    starts = _starts(sub[mine], parts.sum())
    left = known.x[rows[row[mine]]]
    second = told(of[out], left, starts, known.x[rows[out]], subset)
    found = np.column_stack([found, second])
    mine, at = known.x[rows[normal]], other_of[other]
    second = told(at, mine, np.append(0, np.cumsum(count)), known.x[other], at)
    own = np.column_stack([own, second])
  cut = lambda scores, of: np.split(
    scores, np.cumsum(np.bincount(of, minlength=len(parts)))
  )[:-1]
  return cut(found, of[out]), cut(own, other_of[other])


def _starts(of, number):
  return np.append(0, np.cumsum(np.bincount(of, minlength=number)))


def read(found: Sequence[Entity], words: np.ndarray) -> tuple[Known, Readings]:
  """Entities laid side by side, and how their rows are read."""
  known = joined(found)
  return known, readings.of(known, words)
