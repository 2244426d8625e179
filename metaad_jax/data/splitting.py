"""The split of a source into training, validation and test, by entity."""

from collections.abc import Sequence

import numpy as np

from metaad_jax.base import DataError, Entity


def split(
  entities: Sequence[Entity], *, fold: str = '0', folds: int = 5, seed: int = 0
) -> dict[str, list[Entity]]:
  """Splits entities into 'train', 'validation' and 'test', group by group.

  `fold` names one of the entities' own folds (a fault location, say), which is
  the test side then; or it is a number below `folds`, and groups are dealt out
  at random. Of the rest a fifth of the groups, at least one, is the validation
  side. An entity with a side (`Entity.side`) appears there alone; where all
  have one and no own fold, the sides are the split. `seed` is of the dealing.
  With fold 'none' nothing is left to be tested: all entities are on the
  training side, and the validation side is a fifth of the same ones.

  Raises DataError if a side is left empty, the fold does not exist, or a group
  would be torn apart.
  """
  group_of = lambda entity: entity.group or entity.name
  groups = sorted(set(map(group_of, entities)))
  order = np.random.default_rng(seed).permutation(len(groups))
  rank = {groups[i]: r for r, i in enumerate(order)}
  if fold == 'none':
    some = [e for e in entities if rank[group_of(e)] % 5 == 0]
    return {'train': list(entities), 'validation': some, 'test': []}
  named = {e.fold for e in entities if e.fold}
  number = _number(fold, folds, named)
  settled = _settled(entities)

  def tested(entity):
    if fold in named:
      return entity.fold == fold
    if settled:
      return entity.side == 'test'
    return rank[group_of(entity)] % folds == number

  apart = [{group_of(e) for e in entities if tested(e) == b} for b in (0, 1)]
  if torn := sorted(apart[0] & apart[1]):
    raise DataError(
      f'group {torn[0]!r} has entities on both sides of fold {fold!r}: give '
      'them one fold and one side, or groups of their own'
    )
  free = {group_of(e) for e in entities if not tested(e) and e.side != 'test'}
  rest = sorted(free, key=rank.__getitem__)
  held = set(rest[: max(1, len(rest) // 5)] if len(rest) > 1 else ())
  sides: dict[str, list[Entity]] = {'train': [], 'validation': [], 'test': []}
  for entity in entities:
    if tested(entity):
      if entity.side != 'train':
        sides['test'].append(entity)
    elif entity.side != 'test':
      side = 'validation' if group_of(entity) in held else 'train'
      sides[side].append(entity)
  for side, members in sides.items():
    if not members:
      raise DataError(
        f'no entity is left for {side}: {len(entities)} entities in '
        f'{len(groups)} groups are too few for fold {fold} of {folds}'
      )
  return sides


def _number(fold, folds, named):
  number = int(fold) if fold.isdecimal() else None
  if fold not in named and (number is None or not 0 <= number < folds):
    raise DataError(
      f'no fold {fold!r}: choose a number below {folds}'
      + (f' or one of {", ".join(sorted(named))}' if named else '')
    )
  return number


def fold_names(entities: Sequence[Entity], folds: int) -> list[str]:
  """What `split` may take as `fold`: names, or numbers where none are."""
  named = sorted({e.fold for e in entities if e.fold})
  count = 1 if _settled(entities) else folds
  return named or [str(number) for number in range(count)]


def _settled(entities):
  """Whether the entities' own sides are the split."""
  return all(e.side and not e.fold for e in entities)
