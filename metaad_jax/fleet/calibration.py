"""What is rare in a fleet, said by the fleet's own entities."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from metaad_jax.detector import unverified
from metaad_jax.fleet import kin as kin_lib
from metaad_jax.fleet import known, pooled, programs, stretched
from metaad_jax.fleet.kin import Kin
from metaad_jax.fleet.pooled import Blend
from metaad_jax.fleet.store import Entity
from metaad_jax.scores import conformal, reach
from metaad_jax.scores.conformal import Calibration, Case, Evidence
from metaad_jax.training import runs

LEAST = 20  # entities that say what is rare; else those of the run do, too
_FEW = 3  # entities that say whether it is right
_MOST = 200  # entities that are looked at
_SHOTS = (1, 3, 5, 10, 20, 30)  # in between p-values are too large
_HELD_OUT = 2  # normals beside the support, at least
_FOLDS, _OWN = 10, 100  # of the reference; rows of other entities it has scored
_DRAWS, _ENOUGH = 4, 100  # supports of an entity, at most; of all
_RATE = 0.05  # where the run's calibration is asked what is far out
_BLENDED = 15  # known rows up to which pooled ones may count
_FAULTS = 20  # of a case
_NOTHING = np.zeros(0)


class Made(NamedTuple):
  """What `fit` makes of a fleet.

  Attributes:
    calibration: of the scores.
    by: who made it, see `FleetDetector.calibration_`: the 'fleet'; or where it
      is small, 'both', the run's calibration as the fleet's entities need it;
      or the 'run', where fewer than three have rows to spare.
    lends: whether entities may borrow.
    blend: how much the pooled rows of the fleet count.
  """

  calibration: Calibration | None
  by: str
  lends: bool = False
  blend: Blend = pooled.ALONE


def fit(
  run: runs.Run,
  entities: Sequence[Entity],
  words: np.ndarray,
  rate: float,
  groups: Sequence[str] | None,
) -> Made:
  """Calibrates a run on the entities of a fleet, as `conformal.fit` does.

  Every entity is adapted to some of its verified normals and scores the others.
  It borrows from siblings that have not seen it, as a new one will, and how
  much these count beside the network is what entities but its fold choose.

  Args:
    run: see `runs.restore`.
    entities: of the fleet; at most 200 of them are looked at.
    words: numbers of the columns of codes.
    rate: of false alarms that is to be promised.
    groups: [N] that the entities are in; None = nobody lends.
  """
  step = max(1, len(entities) // _MOST)
  normals = [e.x[e.y == 0] for e in entities[::step][:_MOST]]
  counts = np.array([len(x) for x in normals])
  lenders: list[Kin] = []
  if groups is not None:
    lenders = _lenders(run, normals, groups[::step][:_MOST], words)
  lends = bool(lenders) and all(kin.tables for kin in lenders)
  if not lends:
    lenders = [kin._replace(tables={}) for kin in lenders]
  usual = int(0.75 * np.median(counts))
  lines: dict[int, np.ndarray] = {}

  def of(shots):
    some = np.flatnonzero(counts >= shots + _HELD_OUT)
    drawn = _Drawn(run, normals, some, words, shots, lenders)
    cases, lines[shots] = _cases(drawn)
    return cases

  enough = lambda shots, least: (counts >= shots + _HELD_OUT).sum() >= least
  cases = []
  for shots in sorted({*_SHOTS, usual} - {0}):
    if enough(shots, LEAST):
      cases += of(shots)
  if cases:
    made = conformal.fit(cases)
    if conformal.smallest_rate(made) <= rate:
      return Made(made, 'fleet', lends, _blend(lines))
  if run.calibration is None:
    return Made(None, 'run')
  lines.clear()
  cells = {int(k): of(int(k)) for k in run.calibration.shots if enough(k, _FEW)}
  if not cells:
    return Made(run.calibration, 'run')
  calibrated = stretched.fit(run.calibration, cells)
  return Made(calibrated, 'both', lends, _blend(lines))


def _blend(lines):
  shots = [k for k in sorted(lines) if k <= _BLENDED]
  if not any(lines[k][1] for k in shots):
    return pooled.ALONE
  return Blend(np.array(shots), _BLENDED, np.array([lines[k] for k in shots]))


def doubt(used: Calibration | None, by: str, rate: float) -> str:
  """What the entities of a small fleet cannot promise, or ''."""
  if used is None or by == 'fleet':
    return ''
  if by == 'run':
    return (
      'with too few rows to spare cannot say whether the false-alarm rate of '
      'the run holds for them: give three of them three known rows or more; '
      'those of one known row are judged by rows of all'
    )
  least = [
    max(conformal.LEVELS[np.isfinite(grid)].min() for grid in cell)
    for cell in used.grid[:, 0]
  ]
  late = used.shots[np.array(least) > rate]
  return bool(late.size) * (
    f'cannot promise a false-alarm rate of {rate:g} to one of up to '
    f'{late.max(initial=0)} known rows, of which no row is called abnormal: '
    f'{LEAST} entities can, or a rate of {max(least):.2g}'
  )


class _Drawn(NamedTuple):
  """Entities numbers [N] that are to know `shots` of their normal rows."""

  run: runs.Run
  normals: Sequence[np.ndarray]
  numbers: np.ndarray
  words: np.ndarray
  shots: int
  lenders: Sequence[Kin]


def _lenders(run, normals, groups, words):
  """Of entity i the one at i % 10, made of the others; [] of too few."""
  named, room = dict(enumerate(groups)), unverified.room(run)
  fold = np.arange(len(normals)) % _FOLDS
  made = []
  for i in range(min(_FOLDS, len(normals))):
    others = np.flatnonzero(fold != i).tolist()
    rows = [normals[j] for j in others]
    made.append(Kin.fit(others, rows, named, words, room, least=2))
  return made if all(kin.tables or kin.pools for kin in made) else []


def _cases(drawn):
  """Of entities that know the rows of their supports, and no others.

  Returns:
    Cases, and the line of the two scores, see `Blend`.
  """
  run, normals, numbers, words, shots, lenders = drawn
  rng = np.random.default_rng(0)
  numbers = np.tile(numbers, min(_DRAWS, -(-_ENOUGH // len(numbers))))
  drawn = drawn._replace(numbers=numbers)
  rows = [rng.permutation(normals[i])[: shots + _OWN] for i in numbers]
  faults = _faults(rng, drawn, rows)
  entities = [_all_normal(x[:shots]) for x in rows]
  parts = zip(rows, faults, strict=True)
  new = [np.concatenate([x[shots:], bad]) for x, bad in parts]
  of, joined = np.repeat(np.arange(len(new)), _counts(new)), np.concatenate(new)
  filled = list(entities)
  for i, kin in enumerate(lenders):
    some = np.flatnonzero(numbers % _FOLDS == i)
    lent = kin.filled(numbers[some].tolist(), [entities[j] for j in some])
    for j, entity in zip(some, lent, strict=True):
      filled[j] = entity
  whole, by = known.read(filled, words)
  told = _told(numbers, lenders) if _counts(faults).any() else None
  found = known.scored(run, whole, by, told)[0]
  supports, _ = known.supports(whole, by)
  scores = programs.score(run, supports, by.read(joined, of), of)
  line = np.array([1.0, 0.0, 0.0])
  if told is not None:
    own = np.concatenate([x[:shots] for x in rows])
    starts = np.arange(len(rows) + 1) * shots
    pairs = np.column_stack([scores, told(of, own, starts, joined, of)])
    line, lines = _lines(drawn, _counts(faults), pairs, of)
    scores = kin_lib.join(pairs, lines[of])
    both = zip(found, lines, strict=True)
    found = [kin_lib.join(pair, by[None]) for pair, by in both]
  if run.calibration is not None:  # else nothing says how far is far out
    bars = lambda: bars_of(run.calibration, entities, _RATE)
    scores = by.held(joined, of, scores, bars)
  apart = np.split(scores, np.cumsum(_counts(new))[:-1])
  cases = zip(numbers, found, apart, faults, strict=True)
  return [
    Case(str(i), shots, 0, False, known_, rest[: len(rest) - len(bad)],
         _NOTHING)
    for i, known_, rest, bad in cases
  ], line  # fmt: skip


def _counts(parts):
  return np.array([len(part) for part in parts])


def _faults(rng, drawn, rows):
  """Faults that tell the two scores apart, of each case; none where one is."""
  _, normals, numbers, words, shots, lenders = drawn
  if shots > _BLENDED or not lenders or not all(k.pools for k in lenders):
    return [x[:0] for x in rows]
  return [
    pooled.faulty(rng, normals[i], x[shots:], words)[:_FAULTS]
    for i, x in zip(numbers, rows, strict=True)
  ]


def _lines(drawn, faults, pairs, of):
  """The line that all cases choose; and of each what other folds do, [N, 3]."""
  parts = np.split(pairs, np.cumsum(np.bincount(of))[:-1])
  trials = [
    pooled.Trial(int(i), part[: len(part) - bad], part[len(part) - bad :])
    for i, bad, part in zip(drawn.numbers, faults, parts, strict=True)
  ]
  bare = drawn.shots == 1 and not drawn.lenders[0].tables
  fold, others = drawn.numbers % _FOLDS, {}
  for i in np.unique(fold):
    some = [t for t, f in zip(trials, fold, strict=True) if f != i]
    others[i] = pooled.line(some, bare)
  return pooled.line(trials, bare), np.array([others[i] for i in fold])


def _told(numbers, lenders):
  """Pooled scores by those that have not seen an entity; see `kin.Told`."""

  def told(of, own, start, x, which):
    found = np.zeros(len(x))
    for i, kin in enumerate(lenders):
      rows = np.flatnonzero(numbers[of] % _FOLDS == i)
      if len(rows):
        lines = np.tile((0.0, 1.0, 0.0), (len(numbers), 1))
        by = kin.second(numbers.tolist(), lines)
        found[rows] = by(of[rows], own, start, x[rows], which[rows])
    return found

  return told


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
