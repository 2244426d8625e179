"""What is rare in a fleet, said by the fleet's own entities."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from metaad_jax.detector import unverified
from metaad_jax.fleet import known, programs, stretched
from metaad_jax.fleet.siblings import Kin
from metaad_jax.fleet.store import Entity
from metaad_jax.scores import conformal, reach
from metaad_jax.scores.conformal import Calibration, Case, Evidence
from metaad_jax.training import runs

LEAST = 20  # entities that say what is rare; else those of the run do, too
_FEW = 3  # entities that say whether it is right
_MOST = 200  # entities that are looked at
_SHOTS = (1, 3, 10, 30)
_HELD_OUT = 2  # normals beside the support, at least
_FOLDS, _OWN = 10, 100  # of the reference; rows of other entities it has scored
_DRAWS, _ENOUGH = 4, 100  # supports of an entity, at most; of all
_RATE = 0.05  # where the run's calibration is asked what is far out
_NOTHING = np.zeros(0)


def fit(
  run: runs.Run,
  entities: Sequence[Entity],
  words: np.ndarray,
  rate: float,
  groups: Sequence[str] | None,
) -> tuple[Calibration | None, str, bool]:
  """Calibrates a run on the entities of a fleet, as `conformal.fit` does.

  Every entity is adapted to some of its verified normals and scores the others.
  It borrows from siblings that have not seen it, as a new one will.

  Args:
    run: see `runs.restore`.
    entities: of the fleet; at most 200 of them are looked at.
    words: numbers of the columns of codes.
    rate: of false alarms that is to be promised.
    groups: [N] that the entities are in; None = nobody lends.

  Returns:
    The calibration, and who made it, see `FleetDetector.calibration_`: the
    'fleet'; or where it is small, 'both', the run's calibration as the fleet's
    entities need it; or the 'run', where fewer than three have rows to spare.
    And whether entities may borrow.
  """
  step = max(1, len(entities) // _MOST)
  normals = [e.x[e.y == 0] for e in entities[::step][:_MOST]]
  counts = np.array([len(x) for x in normals])
  lenders = []
  if groups is not None:
    lenders = _lenders(run, normals, groups[::step][:_MOST], words)
  usual = int(0.75 * np.median(counts))
  of = lambda shots: _cases(
    run, normals, np.flatnonzero(counts >= shots + _HELD_OUT), words, shots,
    lenders,
  )  # fmt: skip
  enough = lambda shots, least: (counts >= shots + _HELD_OUT).sum() >= least
  cases = []
  for shots in sorted({*_SHOTS, usual} - {0}):
    if enough(shots, LEAST):
      cases += of(shots)
  if cases:
    made = conformal.fit(cases)
    if conformal.smallest_rate(made) <= rate:
      return made, 'fleet', bool(lenders)
  if run.calibration is None:
    return None, 'run', False
  cells = {int(k): of(k) for k in run.calibration.shots if enough(k, _FEW)}
  if not cells:
    return run.calibration, 'run', False
  return stretched.fit(run.calibration, cells), 'both', bool(lenders)


def doubt(used: Calibration | None, by: str, rate: float) -> str:
  """What the entities of a small fleet cannot promise, or ''."""
  if used is None or by == 'fleet':
    return ''
  if by == 'run':
    return (
      'with too few rows to spare cannot say whether the false-alarm rate of '
      'the run holds for them: give three of them three known rows or more'
    )
  least = [
    max(conformal.LEVELS[np.isfinite(grid)].min() for grid in cell)
    for cell in used.grid[:, 0]
  ]
  late = used.shots[np.array(least) > rate]
  return late.size * (
    f'cannot promise a false-alarm rate of {rate:g} to one of up to '
    f'{late.max(initial=0)} known rows, of which no row is called abnormal: '
    f'{LEAST} entities can, or a rate of {max(least):.2g}'
  )


def _lenders(run, normals, groups, words):
  """Of entity i the one at i % 10, made of the others."""
  named, room = dict(enumerate(groups)), unverified.room(run)
  fold = np.arange(len(normals)) % _FOLDS
  made = [
    Kin.fit(others, [normals[i] for i in others], named, words, room)
    for others in (np.flatnonzero(fold != i).tolist() for i in range(_FOLDS))
  ]
  return made if all(kin.tables for kin in made) else []


def _cases(run, normals, numbers, words, shots, lenders):
  """Of entities that know the rows of their supports, and no others."""
  rng = np.random.default_rng(0)
  numbers = np.tile(numbers, min(_DRAWS, -(-_ENOUGH // len(numbers))))
  drawn = [rng.permutation(normals[i])[: shots + _OWN] for i in numbers]
  entities = [_all_normal(x[:shots]) for x in drawn]
  new = np.concatenate([x[shots:] for x in drawn])
  of = np.repeat(np.arange(len(drawn)), [len(x) - shots for x in drawn])
  filled = list(entities)
  for i, kin in enumerate(lenders):
    some = np.flatnonzero(numbers % _FOLDS == i)
    lent = kin.filled(numbers[some].tolist(), [entities[j] for j in some])
    for j, entity in zip(some, lent, strict=True):
      filled[j] = entity
  whole, by = known.read(filled, words)
  found = known.scored(run, whole, by)[0]
  supports, _ = known.supports(whole, by)
  scores = programs.score(run, supports, by.read(new, of), of)
  if run.calibration is not None:  # else nothing says how far is far out
    bars = lambda: bars_of(run.calibration, entities, _RATE)
    scores = by.held(new, of, scores, bars)
  own = np.split(scores, np.cumsum(np.bincount(of))[:-1])
  return [
    Case(str(number), shots, 0, False, support, rest, _NOTHING)
    for number, support, rest in zip(numbers, found, own, strict=True)
  ]


def prior(
  run: runs.Run, entities: Sequence[Entity], words: np.ndarray, room: int
) -> Entity:
  """The fleet's reference, for entities that nobody knows.

  A detector like the others, adapted to rows of many of them; what is rare is
  said by entities that were left out of it, up to ten rows of each.
  """
  rng = np.random.default_rng(0)
  some = rng.permutation(len(entities))[: max(room, _OWN)]
  normals = [rng.permutation(entities[i].x[entities[i].y != 1]) for i in some]
  pool = lambda those: _dealt([normals[i] for i in those], room)
  folds = np.array_split(np.arange(len(some)), min(_FOLDS, len(some)))
  own = []
  for fold in folds:
    rest = np.setdiff1d(np.arange(len(some)), fold)
    if len(rest):
      each = max(1, _OWN // len(some))
      rows = np.concatenate([normals[i][:each] for i in fold])
      by = known.read([pool(rest)], words)
      supports, _ = known.supports(*by)
      zeros = np.zeros(len(rows), int)
      own.append(programs.score(run, supports, by[1].read(rows, zeros), zeros))
  scores = np.concatenate([_NOTHING, *own])
  return pool(np.arange(len(some)))._replace(known=_NOTHING, own=scores)


def _dealt(normals, room):
  """One row of each, and again, as long as there is room."""
  rank = np.concatenate([np.arange(len(x)) for x in normals])
  x = np.concatenate(normals)[np.argsort(rank, kind='stable')[:room]]
  return _all_normal(x)


def _all_normal(x):
  return Entity(x, np.zeros(len(x), np.int8), np.ones(len(x), bool))


def _about(entity) -> tuple[int, int, bool]:
  """Shots, labelled anomalies, and whether some of the rows are unlabelled."""
  y = entity.y[entity.support]
  return (
    int(np.isin(y, (0, -1)).sum()),
    int((y == 1).sum()),
    bool((y == -1).any()),
  )


def p_values(
  used: Calibration,
  entities: Sequence[Entity],
  scores: np.ndarray,
  which: np.ndarray,
) -> np.ndarray:
  """[n] of scores [n] of the entities [n], in their order."""
  p = np.empty(len(scores))
  cuts = np.searchsorted(which, np.arange(len(entities) + 1))
  for entity, a, b in zip(entities, cuts, cuts[1:], strict=False):
    if b > a:
      about: Any = *_about(entity), entity.known, entity.own
      evidence = Evidence(*about)
      p[a:b] = conformal.p_values(used, evidence, scores[a:b])
  return p


def bars_of(
  used: Calibration | None, entities: Sequence[Entity], rate: float
) -> np.ndarray:
  """[3, N] see `sanity.Guard`: of an entity with as many rows of each kind."""
  kinds = [_about(entity) for entity in entities]
  if used is None:
    return np.repeat([[-np.inf], [0.0], [np.inf]], len(kinds), 1)
  told = {k: reach.usual_bars(used, *k, rate=rate) for k in set(kinds)}
  return np.stack([told[kind] for kind in kinds], 1)
