"""What would make a result worthless stops the run, and names the rows.

Every function here returns nothing, or raises a DataError of one line. What is
odd but no mistake (an entity too small for a cell of the grid, say) is not
here: it becomes a note.
"""

import collections
from collections.abc import Collection, Mapping, Sequence
import hashlib
import itertools
from typing import Any

import numpy as np

from metaad_jax.base import DataError, Entity

_SIGMAS = 5.0
_DIGEST = '_digest'  # of an entity, once it was asked for


def digest(entity: Entity) -> str:
  """16 hexadecimal digits for the rows of an entity, whatever their order."""
  if (known := vars(entity).get(_DIGEST)) is None:
    known = _digest(entity)
    with_digest(entity, known)
  return known


def with_digest(entity: Entity, known: str) -> Entity:
  """The same entity, with its `digest` known; a copy of it has none."""
  vars(entity)[_DIGEST] = known
  return entity


def _digest(entity):
  rows = _keys(entity.normal) + _keys(entity.query)
  sha256 = hashlib.sha256(str(entity.normal.shape[1:]).encode())
  for row in sorted(rows):
    sha256.update(row)
  return sha256.hexdigest()[:16]


def _keys(rows):
  """Equal rows have one key; -0 is 0."""
  return [row.tobytes() for row in np.ascontiguousarray(rows + np.float32(0))]


def sides(split: Mapping[str, Sequence[Entity]]) -> None:
  """No entity, group or table (be it under two names) is on two sides."""
  homes: dict[tuple[str, str], tuple[str, str]] = {}
  for side, members in split.items():
    for entity in members:
      marks = {'name': entity.name, 'rows': digest(entity)}
      marks |= {'group': entity.group} if entity.group else {}
      for what, value in marks.items():
        other = homes.setdefault((what, value), (side, entity.name))
        if other[0] != side:
          raise DataError(
            f'{entity.name!r} ({side}) and {other[1]!r} ({other[0]}) have the '
            f'same {what} and are on two sides of the split: give them one '
            'group, or leave one of them out'
          )


def known(entities: Sequence[Entity], seen: Collection[str]) -> list[str]:
  """Names of the entities whose digest is among those seen."""
  return [e.name for e in entities if seen and digest(e) in seen]


def unseen(
  entities: Sequence[Entity],
  seen: Collection[str],
  used: str = 'used in training or validation',
  remedy: str = 'test on others, or say --split=all to see them among all',
) -> None:
  """No entity to test on was used before: `seen` holds the digests."""
  if names := known(entities, seen):
    raise DataError(
      f'{len(names)} of {len(entities)} entities to test on were {used}: '
      f'{_listed(names)}: {remedy}'
    )


def apart(
  validation: Sequence[Entity], tested: Sequence[Entity], remedy: str
) -> None:
  """What is chosen on some entities is not reported on them."""
  digests = {digest(entity) for entity in validation}
  unseen(tested, digests, 'also used to choose options', remedy)


def _listed(names):
  return ', '.join(names[:5]) + (', ...' if len(names) > 5 else '')


def shared_rows(entities: Sequence[Entity]) -> None:
  """Supports and queries do not share rows more than rows repeat anyway.

  Where values are measured no two rows are equal, and a normal row that is also
  a query row is a copy. In a table of few distinct values equal rows are
  ordinary, between the two pools as within one. So the share of the query's
  normals that equal a row of `normal`, bit for bit, is compared with the share
  of rows of `normal` that equal another row of `normal`: without a leak the
  two estimate the same probability. The audit stops where the first exceeds
  the second by five standard errors, with the variance doubled because
  repeated rows come in groups.

  Anomalies are not looked at: that an anomaly equals a normal row is bad luck
  with the labels, and it cannot raise a score.
  """
  for entity in entities:
    rows = _keys(entity.normal)
    count = collections.Counter(rows)
    places = np.flatnonzero(entity.labels == 0)
    keys = _keys(entity.query[places])
    pairs = zip(keys, places.tolist(), strict=True)
    shared = [(rows.index(key), place) for key, place in pairs if key in count]
    if not shared:
      continue
    repeated = sum(times for times in count.values() if times > 1)
    if _exceeds(len(shared), len(places), repeated, len(rows)):
      told = ', '.join(f'{n} = {q}' for n, q in shared[:5])
      raise DataError(
        f'{entity.name}: {len(shared)} of its {len(places)} normal query rows '
        f'are also rows for supports, though only {repeated} of those '
        f'{len(rows)} repeat one another: copies, not coincidence (normal row '
        f'= query row: {told}): leave them out of one of the two'
      )


def across(entities: Sequence[Entity]) -> None:
  """No two entities that may come on two sides share rows as copies do.

  As `shared_rows`, of the rows of one entity among those of another: a file
  under two names, or recordings that overlap. Entities of one group may. Rows
  that more than 20 entities have are coincidence.
  """
  rows = [_keys(np.concatenate([e.normal, e.query])) for e in entities]
  homes = collections.defaultdict(set)
  for i, keys in enumerate(rows):
    for key in keys:
      homes[key].add(i)
  counts = [collections.Counter(keys).values() for keys in rows]
  repeated = [sum(n for n in count if n > 1) for count in counts]
  for i, keys in enumerate(rows):
    few = [homes[key] for key in keys if len(homes[key]) <= 20]
    others = collections.Counter(j for home in few for j in home)
    for j, shared in others.items():
      group = entities[i].group
      if j == i or (group and group == entities[j].group):
        continue
      if _exceeds(shared, len(keys), repeated[j], len(rows[j])):
        raise DataError(
          f'{shared} of the {len(keys)} rows of {entities[i].name!r} are also '
          f'rows of {entities[j].name!r}, which is a leak where one is learned '
          'from and the other tested: leave one out, or give them one group'
        )


def repeated_anomalies(entities: Sequence[Entity]) -> list[str]:
  """Notes, one line or none, where anomalies repeat more than normals do.

  A labelled anomaly then says what its copies in the query are. It is no error:
  public tables are like that, as an attack or a fault repeats itself. The
  shares of rows that equal another of their pool are compared as in
  `shared_rows`.
  """
  named = []
  for entity in entities:
    places = np.flatnonzero(entity.labels == 1)
    twice, first = _repeated(entity.query[places])
    usual, _ = _repeated(entity.normal)
    if _exceeds(twice, len(places), usual, len(entity.normal)):
      pair = ' = '.join(str(places[i]) for i in first)
      named.append(
        f'{entity.name} ({twice} of {len(places)}, rows {pair}, ...)'
      )
  if not named:
    return []
  return [
    'anomalies that equal another one, bit for bit, more often than normal '
    f'rows do: a labelled one may have copies in the query: {_listed(named)}'
  ]


def _repeated(x):
  """How many rows equal another one, and the first two that are equal."""
  places: dict[bytes, list[int]] = {}
  for i, key in enumerate(_keys(x)):
    places.setdefault(key, []).append(i)
  several = [some for some in places.values() if len(some) > 1]
  return sum(map(len, several)), several[0][:2] if several else []


def _exceeds(count, of, repeated, rows):
  """Whether `count` of `of` is a larger share than `repeated` of `rows`."""
  if not count:
    return False
  usual = (repeated + 1) / (rows + 2)
  variance = 2 * usual * (1 - usual) * (1 / rows + 1 / of)
  return count / of - usual > _SIGMAS * np.sqrt(variance)


def cells(drawn: Sequence[Any], entities: Sequence[Entity]) -> None:
  """Every task is what it says: no stored row twice, no anomaly too few.

  `drawn` are `evaluation.tasks.Cell`s that index `entities`.
  """
  for cell in drawn:
    entity = entities[cell.entity]
    fault = ''
    query = np.concatenate([cell.contaminants, cell.anomalous, cell.query])
    for part, rows in (('normal', cell.normal), ('query', query)):
      values, times = np.unique(rows, return_counts=True)
      if (times > 1).any():
        fault = f'{part} row {int(values[times > 1][0])} is in the task twice'
    labelled = entity.labels[cell.anomalous]
    if len(labelled) < cell.anomalies or not labelled.all():
      fault = f'{int(labelled.sum())} labelled anomalies, fewer than asked for'
    if len(cell.normal) + len(cell.contaminants) < cell.shots:
      fault = f'{len(cell.normal)} normals, fewer than asked for'
    if fault:
      raise DataError(
        f'{entity.name}, draw {cell.draw}, {cell.shots} shots, '
        f'{cell.anomalies} anomalies: {fault}'
      )


def enough_anomalies(
  entities: Sequence[Entity], asked: Sequence[int], side: str
) -> None:
  """Some entity has as many anomalies as were asked for, and one to score."""
  most = max(entities, key=lambda entity: int(entity.labels.sum()))
  if most.labels.sum() <= max(asked):
    raise DataError(
      f'{max(asked)} labelled anomalies were asked for and one for the query; '
      f'no entity of {side} has so many, {most.name} has most with '
      f'{int(most.labels.sum())} (query rows '
      f'{np.flatnonzero(most.labels)[:5].tolist()}): ask for fewer'
    )


def constant(
  name: str,
  drawn: Sequence[Any],
  scores: Sequence[np.ndarray],
  entities: Sequence[Entity],
) -> None:
  """A method that gives every row of every task one score says nothing.

  Per number of shots and of anomalies. A single normal row leaves some
  baselines with nothing to tell rows apart by; such tasks do not count.
  `scores` are [Q] for each of the `drawn` cells, which index `entities`.
  """
  kind = lambda pair: (pair[0].shots, pair[0].anomalies)
  pairs = sorted(zip(drawn, scores, strict=True), key=kind)
  for (shots, anomalies), group in itertools.groupby(pairs, kind):
    members = list(group)
    if shots > 1 and all(np.ptp(values) == 0 for _, values in members):
      first, values = members[0]
      raise DataError(
        f'{name}: all {len(members)} tasks of {shots} shots and {anomalies} '
        f'anomalies have constant scores, such as {values[0]:.6g} for query '
        f'rows {first.query[:5].tolist()} of {entities[first.entity].name}: '
        'it failed or was never trained'
      )
