"""P-values and thresholds from a few samples, by way of other entities.

A score says who is more abnormal, not how often a normal row scores as much.
The entities of a calibration set tell: each is adapted from a few normals, and
its held-out normals are scored. Scores of different entities are made
comparable by their supports (`standardize`), pooled so that every entity
weighs the same, and the share of the pool that scores at least as high is the
p-value. As an entity's own held-out normals arrive, they take over.

`docs/calibration.md` states what is guaranteed and what is not.

References:
  Vovk, Gammerman and Shafer, Algorithmic learning in a random world, 2005.
  Fisch, Schuster, Jaakkola and Barzilay, Few-shot conformal prediction with
    auxiliary tasks, ICML 2021.
  Dunn, Wasserman and Ramdas, Distribution-free prediction sets for two-layer
    hierarchical models, JASA 2022.
  Lee, Barber and Willett, Distribution-free inference with hierarchical data,
    2023, arXiv 2306.06342.
  Bates, Candes, Lei, Romano and Sesia, Testing for outliers with conformal
    p-values, Annals of Statistics 2023.
"""

from collections.abc import Iterable, Mapping, Sequence
import itertools
from typing import NamedTuple

import numpy as np

from metaad_jax.base import DataError

# P-values are rounded up to one of these 512: 1.8 % at most.
LEVELS = np.union1d(np.geomspace(1e-4, 1, 509), (0.02, 0.05, 0.2))[::-1]
# Numbers of own normals that the transition is calibrated at.
OWN = (2, 5, 10, 20, 50, 100)
# The other entities count as this many own normals.
STRENGTH = 20.0
_STRENGTHS = (0.5, 2.0, 10.0, 50.0)


class Case(NamedTuple):
  """One support of one calibration entity, and what was scored with it.

  Attributes:
    entity: its name; several cases may share an entity, and count as one.
    shots: number of support rows that were given as normal.
    anomalies: number of labelled support anomalies.
    unlabelled: whether the support's normals may be contaminated.
    support: [k] scores of support normals, each adapted without itself.
    normal: [n] scores of normals outside the support; n >= 1.
    anomaly: [a] scores of anomalies outside the support, may be empty; they
      only help to choose how scores are standardized.
  """

  entity: str
  shots: int
  anomalies: int
  unlabelled: bool
  support: np.ndarray
  normal: np.ndarray
  anomaly: np.ndarray


class Evidence(NamedTuple):
  """What is known of the entity that is to be judged; see `Case`.

  Attributes:
    shots: number of support rows given as normal.
    anomalies: number of labelled support anomalies.
    unlabelled: whether the support's normals may be contaminated.
    support: [k] scores of support normals, each adapted without itself.
    own: [m] scores of the entity's normals that are not in the support.
  """

  shots: int
  anomalies: int
  unlabelled: bool
  support: np.ndarray
  own: np.ndarray


class Calibration(NamedTuple):
  """A fitted calibration: a few arrays, float32 where nothing else is said.

  A cell is a number of shots, of anomalies, and clean or unlabelled.

  Attributes:
    shots: [B] int32, increasing.
    anomalies: [A] int32, increasing.
    squash: [] 1 = scores are taken as sign(s) log(1 + |s|), 0 = as they are.
    moments: [B, A, 2, 4] location and scale over entities of a cell, and how
      many support scores either counts as.
    grid: [B, A, 2, 512] standardized scores; a score above grid[..., g] has a
      p-value of at most LEVELS[g].
    mixed: [B, M, 512] the same for minus the mixture of `p_values`.
    entities: [] int32, the least number of entities in a cell.
  """

  shots: np.ndarray
  anomalies: np.ndarray
  squash: np.ndarray
  moments: np.ndarray
  grid: np.ndarray
  mixed: np.ndarray
  entities: np.ndarray


def standardize(
  scores: np.ndarray, support: np.ndarray, moments: np.ndarray
) -> np.ndarray:
  """(score - location) / scale, both from the support, shrunk to the others'.

  With one or two support scores it is nearly the other entities' location and
  scale that count, with many nearly the support's own (empirical Bayes).

  Args:
    scores: [n].
    support: [k] scores of support normals adapted without themselves; k >= 0.
    moments: [4] see `Calibration`.

  Returns:
    [n] float64, increasing in `scores`.
  """
  location, scale, location_strength, scale_strength = np.asarray(moments, 'f8')
  k = len(support)
  if k:
    own, variance = np.mean(support, dtype='f8'), np.var(support, dtype='f8')
    location = (k * own + location_strength * location) / (
      k + location_strength
    )
    scale = np.sqrt(
      (k * variance + scale_strength * scale**2) / (k + scale_strength)
    )
  return (np.asarray(scores, 'f8') - location) / scale


def fit(cases: Sequence[Case]) -> Calibration:
  """Fits a calibration to the cases of many entities.

  Args:
    cases: all combinations of the numbers of shots, of anomalies and of
      clean or unlabelled that occur must occur together, but unlabelled cases
      may be missing altogether.

  Returns:
    The calibration.

  Raises:
    DataError: if there are fewer than two entities in a cell, a cell is
      missing, or a score is not finite.
  """
  for case in cases:
    values = np.concatenate([case.support, case.normal, case.anomaly])
    if not np.isfinite(values).all() or not len(case.normal):
      raise DataError(
        f'entity {case.entity!r}: no normal was scored, or a score is not '
        'finite: leave it out of the calibration'
      )
  shots = sorted({case.shots for case in cases})
  anomalies = sorted({case.anomalies for case in cases})
  both = any(case.unlabelled for case in cases)
  cells: dict[tuple[int, int, bool], list[Case]] = {}
  for case in cases:
    place = (case.shots, case.anomalies, case.unlabelled)
    cells.setdefault(place, []).append(case)
  for place in itertools.product(shots, anomalies, (False, True)[: 1 + both]):
    if len({case.entity for case in cells.get(place, ())}) < 2:
      raise DataError(
        f'{place[0]} shots, {place[1]} anomalies: fewer than two entities to '
        'calibrate with: leave that number out'
      )
  squash = max((0, 1), key=lambda s: _quality(cells, s))
  moments = np.zeros((len(shots), len(anomalies), 2, 4), 'f4')
  grid = np.zeros((len(shots), len(anomalies), 2, len(LEVELS)), 'f4')
  mixed = np.zeros((len(shots), len(OWN), len(LEVELS)), 'f4')
  for i, j, unlabelled in itertools.product(
    range(len(shots)), range(len(anomalies)), (False, True)
  ):
    members = [
      _squashed(case, squash)
      for case in cells[shots[i], anomalies[j], unlabelled and both]
    ]
    cell = (i, j, int(unlabelled))
    moments[cell] = _moments(members)[0]
    each = [standardize(c.normal, c.support, moments[cell]) for c in members]
    grid[cell] = _grid(each, _weights(members))
    if not j and not unlabelled:
      mixed[i] = _mixed(members, each)
  least = min(len({c.entity for c in members}) for members in cells.values())
  as_int = lambda values: np.asarray(values, np.int32)
  return Calibration(
    as_int(shots),
    as_int(anomalies),
    np.asarray(squash, np.float32),
    moments,
    grid,
    mixed,
    as_int(least),
  )


def _squash(scores, squash):
  scores = np.asarray(scores, 'f8')
  return np.sign(scores) * np.log1p(np.abs(scores)) if squash else scores


def _squashed(case, squash):
  support, normal, anomaly = (_squash(part, squash) for part in case[4:])
  return case._replace(support=support, normal=normal, anomaly=anomaly)


def _quality(cells, squash):
  """Mean recall over the cells."""
  return np.mean(
    [
      _moments([_squashed(case, squash) for case in members])[1]
      for members in cells.values()
    ]
  )


def _weights(cases):
  """[cases] the weight of each: those of one entity add up to 1."""
  names = [case.entity for case in cases]
  number = {name: names.count(name) for name in set(names)}
  return np.array([1 / number[name] for name in names])


def _moments(cases):
  """Moments of a cell that keep the highest recall, and that recall.

  The recall at false-alarm rates of 1, 5 and 10 %; where no anomalies were
  scored, minus the largest share of false alarms that a tenth of the entities
  exceeds.
  """
  weights = _weights(cases)
  mean = lambda values: np.average(values, weights=weights)
  location = mean([case.normal.mean() for case in cases])
  scale = np.sqrt(mean([case.normal.var() for case in cases])) + 1e-3
  best, quality = np.zeros(4), -np.inf
  known = any(len(case.support) for case in cases)
  choices = _STRENGTHS if known else _STRENGTHS[:1]
  for strengths in itertools.product(choices, choices):
    moments = np.array([location, scale, *strengths])
    values = [standardize(c.normal, c.support, moments) for c in cases]
    others = [standardize(c.anomaly, c.support, moments) for c in cases]
    grid = _grid(values, weights)
    found = []
    for rate in (0.01, 0.05, 0.1):
      bar = grid[np.argmax(LEVELS <= rate)]
      recalls = [np.mean(o > bar) if len(o) else np.nan for o in others]
      if np.isfinite(recalls).any():
        found.append(np.nanmean(recalls))
      else:
        found.append(-np.quantile([np.mean(v > bar) for v in values], 0.9))
    if np.mean(found) > quality:
      best, quality = moments, np.mean(found)
  return best, quality


def _grid(values, weights):
  """[512] the value above which p <= LEVELS[g]; weights sum to entities."""
  pooled = np.concatenate(values)
  mass = np.concatenate(
    [np.full(len(v), w / len(v)) for v, w in zip(values, weights, strict=True)]
  )
  # How many of its own entity's normals are at least as high as each.
  own = np.concatenate(
    [1 - np.searchsorted(np.sort(v), v, 'left') / len(v) for v in values]
  )
  order = np.argsort(-pooled, kind='stable')
  pooled, total = pooled[order], np.sum(weights) + 1
  after = _with_new(np.cumsum(mass[order]), (mass * own)[order]) / total
  first = np.searchsorted(after, LEVELS * (1 + 1e-9), 'right')
  bars = np.append(pooled, -np.inf)[first]
  bars[0.5 / total > LEVELS] = np.inf
  # Rounded up, so that float32 keeps the promise.
  rounded = bars.astype('f4')
  low = rounded < bars
  rounded[low] = np.nextafter(rounded[low], np.float32(np.inf))
  return rounded


def _with_new(others, own):
  """The sum of all entities' shares, with what the new one is expected to add.

  Of a row of the new entity only the other entities' shares at or above it are
  known. Its own is taken to be what it is for the calibration entities' rows
  at about the same place, at a half to twice the sum; and the whole at least
  0.5, for so few entities cannot tell less.

  Args:
    others: [n] sum of the shares at or above each of the pooled values.
    own: [n] the share in the value's own entity, times its mass.

  Returns:
    [n] not decreasing.
  """
  known = np.append(0, others)
  low, high = others / 2, np.minimum(2 * others, others[-1])
  sums = [
    np.interp(x, known, np.append(0, np.cumsum(own))) for x in (low, high)
  ]
  expected = (sums[1] - sums[0]) / (high - low)
  return np.maximum.accumulate(np.maximum(0.5, others + expected))


def _look_up(grid, values):
  """[n] p-values of `values` in one [512] grid."""
  return LEVELS[np.searchsorted(grid, values, 'left') - 1]


def _mixture(across, scores, own):
  """[n] p across tasks and share of own normals, weighted by their numbers."""
  share = STRENGTH / (STRENGTH + len(own))
  return share * across + (1 - share) * _exceeding(scores, own) / len(own)


def _exceeding(scores, own):
  """[n] how many own normals score at least as high, but for rounding."""
  bar = scores - 1e-6 * (1 + np.abs(scores))
  return len(own) - np.searchsorted(np.sort(own), bar, 'left')


def _mixed(cases, values):
  """[M, 512] grids of minus the mixture, from held-out normals in two parts.

  An entity is looked up among the others only, as a new one is.
  """
  names = np.array([case.entity for case in cases])
  weights = _weights(cases)
  draw = np.random.default_rng(0)
  across = [np.empty(0)] * len(cases)
  for group in np.array_split(draw.permutation(np.unique(names)), 10):
    inside = np.isin(names, group)
    if not inside.any():
      continue
    rest = np.flatnonzero(~inside)
    grid = _grid([values[i] for i in rest], weights[rest])
    for i in np.flatnonzero(inside):
      across[i] = _look_up(grid, values[i])
  grids = []
  for own in OWN:
    found, kept = [], []
    for case, p, weight in zip(cases, across, weights, strict=True):
      if len(case.normal) > own:
        order = draw.permutation(len(case.normal))
        new, old = order[own:], order[:own]
        found.append(-_mixture(p[new], case.normal[new], case.normal[old]))
        kept.append(weight)
    grids.append(_grid(found, np.array(kept)) if len(kept) > 1 else None)
  # Too few normals for so many: the grid of the next smaller number.
  first = next((g for g in grids if g is not None), None)
  if first is None:
    first = _grid([-p for p in across], weights)
  last, filled = first, []
  for grid in grids:
    last = last if grid is None else grid
    filled.append(last)
  return np.stack(filled)


def p_values(
  calibration: Calibration, evidence: Evidence, scores: np.ndarray
) -> np.ndarray:
  """The p-value of each score: how likely a normal row scores as much.

  Without own normals it is the share of the calibration entities' normals that
  score at least as high, after standardization; the new entity counts among
  them, with what is expected of it (`_with_new`). With m own normals, that
  share and the share of the own normals are averaged, with weights 20 and m;
  and since an average of p-values is none, its place among those of the
  calibration entities is taken, each with m own normals. Beyond 100 own
  normals, the p-value within the entity, (1 + own normals that score at least
  as high) / (m + 1), takes over.

  Numbers of shots, anomalies and own normals between calibrated ones are
  interpolated; beyond them, the nearest counts.

  Args:
    calibration: see `fit`.
    evidence: of the entity.
    scores: [n] of the same adapted detector; finite.

  Returns:
    [n] in (0, 1], not increasing in the score.

  Raises:
    DataError: if a score is not finite.
  """
  squash = calibration.squash > 0
  parts = (scores, evidence.support, evidence.own)
  scores, support, own = (_squash(part, squash) for part in parts)
  if not all(np.isfinite(part).all() for part in (scores, support, own)):
    raise DataError('a score is not finite: look at the rows it came from')
  few = _between(calibration.shots, evidence.shots)
  labelled = _between(calibration.anomalies, evidence.anomalies)
  cells = [
    ((i, j, int(evidence.unlabelled)), share * part)
    for (i, share), (j, part) in itertools.product(few, labelled)
  ]
  moments = sum(
    share * calibration.moments[cell].astype('f8') for cell, share in cells
  )
  values = standardize(scores, support, np.asarray(moments))
  across = np.zeros(len(scores))
  for cell, share in cells:
    across += share * _look_up(calibration.grid[cell], values)
  if not len(own):
    return across
  found = np.zeros(len(scores))
  for i, share in few:
    found += share * _transition(calibration.mixed[i], across, scores, own)
  return found


def _transition(grids, across, scores, own):
  """From p-values across tasks to those within one, as own normals arrive."""
  m = len(own)
  mixture = -_mixture(across, scores, own)
  found = np.zeros(len(scores))
  for place, share in _between(np.array([0, *OWN]), m):
    p = across if place == 0 else _look_up(grids[place - 1], mixture)
    found += share * p
  if m > OWN[-1]:
    within = (1 + _exceeding(scores, own)) / (m + 1)
    share = OWN[-1] / m
    found = share * found + (1 - share) * within
  return found


def _between(known, wanted):
  """The neighbours of a number among increasing ones, and their shares."""
  place = np.interp(np.log1p(wanted), np.log1p(known), np.arange(len(known)))
  low = int(place)
  share = place - low
  return [(low, 1 - share)] + ([(low + 1, share)] if share > 0 else [])


def threshold(
  calibration: Calibration, evidence: Evidence, rate: float
) -> float:
  """The score above which p-values are at most `rate`.

  Args:
    calibration: see `fit`.
    evidence: of the entity.
    rate: false-alarm rate.

  Returns:
    The threshold: a score above it is an alarm.

  Raises:
    DataError: if no score can have so small a p-value.
  """
  check(calibration, evidence, rate)
  high = 1.0
  for score in (*np.ravel(evidence.support), *np.ravel(evidence.own)):
    high = max(high, abs(float(score)))
  judge = lambda scores: p_values(calibration, evidence, scores) <= rate
  while not judge(np.array([high]))[0]:
    high *= 4
  low = -high
  if judge(np.array([low]))[0]:
    return low
  for _ in range(5):  # 256 ** 5: the resolution of float32 and more
    ladder = np.linspace(low, high, 257)
    first = max(1, int(np.argmax(judge(ladder))))
    low, high = ladder[first - 1], ladder[first]
  return float(np.nextafter(high, -np.inf))


def check(calibration: Calibration, evidence: Evidence, rate: float) -> None:
  """Refuses a rate that no score of an entity can meet.

  Args:
    calibration: see `fit`.
    evidence: of the entity; of its scores only the number of own ones counts.
    rate: false-alarm rate.

  Raises:
    DataError: if no score can have so small a p-value.
  """
  if _least(calibration, evidence) > rate:
    raise DataError(
      f'a false-alarm rate of {rate:g} cannot be promised from '
      f'{calibration.entities} calibration entities: ask for at least '
      f'{smallest_rate(calibration):.2g}'
    )


def _least(calibration, evidence):
  """The p-value of a score above all others."""
  own = np.zeros(len(evidence.own))
  evidence = evidence._replace(support=np.zeros(0), own=own)
  return p_values(calibration, evidence, np.array([1e30]))[0]


def ladder(
  calibration: Calibration, evidence: Evidence, steps: int = 4096
) -> tuple[np.ndarray, np.ndarray]:
  """The p-values of an entity as a table, for who cannot compute them.

  Args:
    calibration: see `fit`.
    evidence: of the entity.
    steps: of the table.

  Returns:
    Scores [steps], increasing, and their p-values [steps], not increasing. A
    score between two has at most the p-value of the lower one.
  """
  least = _least(calibration, evidence)
  low, high = (
    threshold(calibration, evidence, rate) for rate in (0.99, least * 1.001)
  )
  span = max(high - low, 1e-3 * abs(high), 1e-6)
  below = low - span * np.geomspace(1e6, 1e-4, steps // 8)
  above = np.linspace(low, low + 1.001 * span, steps - len(below))
  scores = np.concatenate([below, above])
  return scores, p_values(calibration, evidence, scores)


def smallest_rate(calibration: Calibration) -> float:
  """The smallest false-alarm rate that can be promised without own normals."""
  return float(
    max(LEVELS[np.isfinite(g)].min() for g in _rows(calibration.grid))
  )


def _rows(grid) -> Iterable[np.ndarray]:
  return grid.reshape(-1, grid.shape[-1])


def benjamini_hochberg(p: np.ndarray, rate: float) -> np.ndarray:
  """Which of a batch to report, so that few of the reports are false.

  Among independent p-values, or those with positive regression dependence (as
  conformal ones of one calibration set are), the expected share of false
  reports is at most `rate`.

  Args:
    p: [n] p-values.
    rate: false-discovery rate.

  Returns:
    [n] bool.

  References:
    Benjamini and Hochberg, Controlling the false discovery rate, 1995.
    Bates et al., Testing for outliers with conformal p-values, 2023.
  """
  p = np.asarray(p)
  ordered = np.sort(p)
  good = ordered <= rate * np.arange(1, len(p) + 1) / max(len(p), 1)
  return p <= ordered[good].max() if good.any() else np.zeros(len(p), bool)


def to_arrays(calibration: Calibration) -> dict[str, np.ndarray]:
  """The arrays of a calibration by name, for a model file."""
  return {
    f'calibration/{name}': np.asarray(value)
    for name, value in calibration._asdict().items()
  }


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Calibration | None:
  """The calibration in a model file's arrays; None if there is none.

  Raises:
    DataError: if it is incomplete or of impossible shapes.
  """
  names = [f'calibration/{name}' for name in Calibration._fields]
  if not any(name.startswith('calibration/') for name in arrays):
    return None
  try:
    found = Calibration(*[np.asarray(arrays[name]) for name in names])
  except KeyError as error:
    raise DataError(
      f'the calibration lacks {error}: fit it again with experiments.calibrate'
    ) from error
  cells = (len(found.shots), len(found.anomalies), 2)
  if (
    found.moments.shape != (*cells, 4)
    or found.grid.shape != (*cells, len(LEVELS))
    or found.mixed.shape != (cells[0], len(OWN), len(LEVELS))
  ):
    raise DataError(
      'the calibration has impossible shapes: fit it again with '
      'experiments.calibrate'
    )
  return found
