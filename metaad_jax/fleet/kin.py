"""Who may lend to whom in a fleet, and what is made of what they lend."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from metaad_jax.base import DataError
from metaad_jax.data import roles
from metaad_jax.fleet import pooled, siblings
from metaad_jax.fleet.frames import Long
from metaad_jax.fleet.pooled import Beside, Blend, Pooled
from metaad_jax.fleet.siblings import Siblings
from metaad_jax.fleet.store import Entity

# Entity of each row, known rows, where those of each begin, rows, and which.
Told = Callable[
  [np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray
]


class Kin(NamedTuple):
  """Who may lend to whom.

  Attributes:
    tables: `Siblings` of each group of enough entities, and '' = of them all.
    groups: of entities that are in a group.
    pools: all rows of each group, and of them all.
    blend: how much these count beside the network.
  """

  tables: Mapping[str, Siblings]
  groups: Mapping[Any, str]
  pools: Mapping[str, Pooled]
  blend: Blend = pooled.ALONE

  @classmethod
  def fit(
    cls,
    names: Sequence[Any],
    x: Sequence[np.ndarray],
    groups: Mapping[Any, str],
    words: np.ndarray,
    room: int = siblings.ROOM,
    least: int = 3,
  ) -> Self:
    """Of entities by name, with normal rows x; see `siblings.fit`.

    It takes `least` entities to pool their rows.
    """
    members: dict[str, list[np.ndarray]] = {'': list(x)}
    for name, rows in zip(names, x, strict=True):
      if groups.get(name):
        members.setdefault(groups[name], []).append(rows)
    found = {g: siblings.fit(r, words, room) for g, r in members.items()}
    pools = {g: pooled.fit(r, words, siblings.LEAST if g else least)
             for g, r in members.items()}  # fmt: skip
    there = lambda made: {g: s for g, s in made.items() if s is not None}
    return cls(there(found), groups, there(pools))

  def arrays(self) -> dict[str, np.ndarray]:
    """The tables and pools, in their order, for a file."""
    made = {
      f'{i}/{name}': value
      for i, table in enumerate(self.tables.values())
      for name, value in table._asdict().items()
    }
    for i, pool in enumerate(self.pools.values()):
      made |= {f'pool/{i}/{k}': v for k, v in pooled.arrays(pool).items()}
    return made | {f'blend/{k}': np.asarray(v)
                   for k, v in self.blend._asdict().items()}  # fmt: skip

  @classmethod
  def of_arrays(
    cls,
    arrays: Mapping[str, np.ndarray],
    labels: Sequence[str],
    pools: Sequence[str],
    groups: Mapping[str, str],
  ) -> Self:
    """The inverse; a KeyError or ValueError for nonsense."""
    tables = {
      label: siblings.sound(
        Siblings(*(arrays[f'{i}/{name}'] for name in Siblings._fields))
      )
      for i, label in enumerate(labels)
    }
    within = lambda i: {
      name.removeprefix(f'pool/{i}/'): part for name, part in arrays.items()
    }
    found = {g: pooled.of_arrays(within(i)) for i, g in enumerate(pools)}
    if not found:  # as files of before have it
      return cls(tables, groups, found)
    shots, most, lines = (arrays[f'blend/{name}'] for name in Blend._fields)
    blend = Blend(shots, int(most), lines)
    if (
      blend.shots.ndim != 1 or not np.isfinite(blend.lines).all()
      or blend.lines.shape != (max(1, len(blend.shots)), 3)
    ):  # fmt: skip
      raise ValueError('impossible numbers of a blend')
    return cls(tables, groups, found, blend)

  def filled(
    self, names: Sequence[Any], entities: Sequence[Entity]
  ) -> list[Entity]:
    """The entities with what they borrow, as rows of their supports."""
    made = list(entities)
    places: dict[str, list[int]] = {}
    for i, (name, entity) in enumerate(zip(names, entities, strict=True)):
      group = self.groups.get(name, '')
      group = group if group in self.tables else ''
      normals = (entity.support & (entity.y != 1)).sum()
      if group in self.tables and 0 < normals < self.tables[group].room:
        places.setdefault(group, []).append(i)
    for group, some in places.items():
      own = [e.x[e.support & (e.y != 1)] for e in (made[i] for i in some)]
      start = np.append(0, np.cumsum([len(rows) for rows in own]))
      lent, which = self.tables[group].lend(np.concatenate(own), start)
      cuts = np.searchsorted(which, np.arange(len(some) + 1))
      for i, a, b in zip(some, cuts, cuts[1:], strict=False):
        made[i] = _with_lent(made[i], lent[a:b])
    return made

  def lines(
    self, names: Sequence[Any], entities: Sequence[Entity]
  ) -> np.ndarray:
    """[N, 3] of each entity, '' = one that is not known, see `Blend`."""
    count = np.array([own_rows(entity).sum() for entity in entities], int)
    there = [
      bool(name != '' and self._pool(name) and not (entity.y == 1).any())
      for name, entity in zip(names, entities, strict=True)
    ]  # labelled anomalies are the network's to read
    found = np.zeros((len(count), 3))
    found[:] = self.blend.line(count)
    found[~np.array(there, bool)] = 1, 0, 0
    return found

  def _pool(self, name):
    group = self.groups.get(name, '')
    return self.pools.get(group) or self.pools.get('')

  def second(self, names: Sequence[Any], lines: np.ndarray) -> Told | None:
    """What pooled rows say of rows; None = nobody has a use for it."""
    if not lines[:, 1].any():
      return None
    owners: dict[int, list[int]] = {}
    pools = {}
    for i in np.flatnonzero(lines[:, 1]).tolist():
      pool = self._pool(names[i])
      pools[id(pool)] = pool
      owners.setdefault(id(pool), []).append(i)

    def told(of, own, start, x, which):
      found = np.zeros(len(x))
      for key, some in owners.items():
        rows = np.flatnonzero(np.isin(of, some))
        if len(rows):
          found[rows] = pools[key].told(own, start, x[rows], which[rows])
      return found

    return told

  def blended(
    self,
    names: Sequence[Any],
    entities: Sequence[Entity],
    x: np.ndarray,
    which: np.ndarray,
    scores: np.ndarray,
  ) -> np.ndarray:
    """Scores [n] of rows of the entities which [n], as the fleet has chosen."""
    lines = self.lines(names, entities)
    told = self.second(names, lines)
    if told is None:
      return scores
    own = [entity.x[own_rows(entity)] for entity in entities]
    start = np.append(0, np.cumsum([len(rows) for rows in own]))
    second = told(which, np.concatenate(own), start, x, which)
    return join(np.column_stack([scores, second]), lines[which])

  def beside(self, name: Any, entity: Entity) -> Beside | None:
    """What `fitted.Fitted` takes of one entity."""
    (line,) = self.lines([name], [entity])
    return Beside(self._pool(name), line) if line[1] else None


def join(pairs: np.ndarray, lines: np.ndarray) -> np.ndarray:
  """[n] of the network's scores and of pooled rows', [n, 2]; lines [n, 3]."""
  return (pairs * lines[:, :2]).sum(1) + lines[:, 2]


def own_rows(entity: Entity) -> np.ndarray:
  """[n] bool, normal rows of the support that nobody lent."""
  return entity.support & np.isin(entity.y, (0, -1))


def _with_lent(entity, lent):
  x, y, support = entity[:3]
  at = support.sum()  # the support comes first
  put = lambda array, values: np.concatenate([array[:at], values, array[at:]])
  return entity._replace(
    x=put(x, lent),
    y=put(y, np.full(len(lent), siblings.BORROWED, np.int8)),
    support=put(support, np.ones(len(lent), bool)),
  )


def groups_of(long: Long, column: str) -> dict[str, str]:
  """The group of each entity, by its name; '' = none."""
  if not column:
    return dict.fromkeys(long.names, '')
  if column not in long.keys:
    near = roles.nearest(column, long.keys)
    raise DataError(f'there is no column {column!r} of groups{near}')
  found = long.keys[column].fillna('').astype(str).to_numpy()
  groups = dict(zip(long.names[long.which], found, strict=True))
  odd = found != np.array([groups[name] for name in long.names])[long.which]
  if odd.any():
    name = long.names[long.which[np.flatnonzero(odd)[0]]]
    raise DataError(
      f'entity {name!r} is in two groups of {column!r}: choose one'
    )
  return groups
