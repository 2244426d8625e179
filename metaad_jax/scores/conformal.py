"""P-values and thresholds from a few samples, learned on other entities.

A score ranks rows; it does not say how often a normal row scores as high. A
calibration set of other entities does: each is adapted to a few of its normals,
and scores others it has not seen. Scores of different entities are made
comparable by their supports (`standardize`) and pooled with equal weight per
entity; the share of the pool that scores at least as high is the p-value. As
held-out normals of the entity itself arrive, they take over.

`docs/calibration.md` has the guarantees, their limits, and the references.
"""

import collections
from collections.abc import Mapping, Sequence
import itertools
from typing import NamedTuple

import numpy as np

from metaad_jax.base import DataError
from metaad_jax.scores import shrinkage

# P-values are rounded up to one of these 512 levels: by 1.8 % at most.
LEVELS = np.union1d(np.geomspace(1e-4, 1, 509), (0.02, 0.05, 0.2))[::-1]
# Numbers of the entity's own normals that the transition is calibrated at.
OWN = (2, 5, 10, 20, 50, 100)
# The other entities weigh as much as this many own normals.
STRENGTH = 20.0
_STRENGTHS = (0.5, 2.0, 10.0, 50.0)
_PLACES = [int(np.argmax(LEVELS <= rate)) for rate in (0.01, 0.05, 0.1)]


class Case(NamedTuple):
  """One support of one calibration entity, and what was scored with it.

  The anomalies may be none: they only help to choose how to standardize.
  """

  entity: str  # several cases may share an entity, and count as one
  shots: int  # support rows that were given as normal
  anomalies: int  # labelled support anomalies
  unlabelled: bool  # whether the support's normals may be contaminated
  support: np.ndarray  # [k] scores of its normals, each adapted without itself
  normal: np.ndarray  # [n] scores of normals outside the support; n >= 1
  anomaly: np.ndarray  # [a] scores of anomalies outside the support


class Evidence(NamedTuple):
  """What is known of the entity to be judged; see `Case`."""

  shots: int
  anomalies: int
  unlabelled: bool
  support: np.ndarray
  own: np.ndarray  # [m] scores of its normals that are not in the support


class Calibration(NamedTuple):
  """A fitted calibration: a few arrays, float32 unless stated.

  A cell is a number of shots, of anomalies, and clean or unlabelled. Of each,
  `moments` are location and scale over the entities, and how many support
  scores each of the two counts as; a standardized score above grid[..., g] has
  a p-value of at most LEVELS[g]; `mixed` is the same for minus the mixture of
  `p_values`.
  """

  shots: np.ndarray  # [B] int32, increasing
  anomalies: np.ndarray  # [A] int32, increasing
  squash: np.ndarray  # [] 1 = scores are sign(s) log(1 + |s|), 0 = as they are
  moments: np.ndarray  # [B, A, 2, 4]
  grid: np.ndarray  # [B, A, 2, 512]
  mixed: np.ndarray  # [B, M, 512]
  entities: np.ndarray  # [] int32, the least number of entities in a cell


def standardize(
  scores: np.ndarray, support: np.ndarray, moments: np.ndarray
) -> np.ndarray:
  """(score - location) / scale, both from the support, shrunk to the others'.

  With one or two support scores the other entities' location and scale count
  most, with many the support's own (empirical Bayes). `scores` [n] and
  `support` [k], k >= 0, as of `Case`, `moments` [4] as of `Calibration`.
  """
  location, scale, *_ = moments = np.asarray(moments, 'f8')
  if len(support):
    told = shrinkage.told(support)
    location, scale = shrinkage.shrunk(*told, moments)
  return (np.asarray(scores, 'f8') - location) / scale


def fit(cases: Sequence[Case]) -> Calibration:
  """Fits a calibration to the cases of many entities.

  Every combination of the numbers of shots, of anomalies and of clean or
  unlabelled must occur; unlabelled cases may be missing altogether.

  Raises:
    DataError: if a cell has fewer than two entities, or a score is not finite.
  """
  cells = _cells(cases)
  shots, anomalies, kinds = map(sorted, map(set, zip(*cells, strict=True)))
  tried = [
    {
      place: _moments([_squashed(case, squash) for case in cell])
      for place, cell in cells.items()
    }
    for squash in (0, 1)
  ]
  # The one of which the cells keep the higher recall, in the mean.
  recalls = [np.mean([recall for _, recall in t.values()]) for t in tried]
  squash = int(recalls[1] > recalls[0])
  shape = (len(shots), len(anomalies), 2)
  moments, grid = (np.zeros((*shape, n), 'f4') for n in (4, len(LEVELS)))
  mixed = np.zeros((len(shots), len(OWN), len(LEVELS)), 'f4')
  for cell in np.ndindex(*shape):
    i, j, unlabelled = cell
    place = (shots[i], anomalies[j], unlabelled in kinds and bool(unlabelled))
    members = [_squashed(case, squash) for case in cells[place]]
    moments[cell] = tried[squash][place][0]
    values = [standardize(c.normal, c.support, moments[cell]) for c in members]
    grid[cell] = _grid(values, _weights(members))
    if not j and not unlabelled:
      mixed[i] = _mixed(members, values)
  least = min(len({c.entity for c in members}) for members in cells.values())
  as_int = lambda values: np.asarray(values, 'i4')
  return Calibration(
    as_int(shots), as_int(anomalies), np.asarray(squash, 'f4'), moments, grid,
    mixed, as_int(least),
  )  # fmt: skip


def _cells(cases):
  """{(shots, anomalies, unlabelled): its cases}, checked and complete."""
  if not cases:
    raise DataError('no entity has enough rows to calibrate on: add some')
  cells: dict[tuple[int, int, bool], list[Case]] = {}
  for case in cases:
    scores = np.concatenate([case.support, case.normal, case.anomaly])
    if not np.isfinite(scores).all() or not len(case.normal):
      raise DataError(
        f'entity {case.entity!r}: no normal was scored, or a score is not '
        'finite: leave it out of the calibration'
      )
    cells.setdefault(case[1:4], []).append(case)
  shots, anomalies, kinds = map(sorted, map(set, zip(*cells, strict=True)))
  for place in itertools.product(shots, anomalies, {False, *kinds}):
    if len({case.entity for case in cells.get(place, ())}) < 2:
      raise DataError(
        f'{place[0]} shots, {place[1]} anomalies: fewer than two entities to '
        'calibrate with: leave that number out'
      )
  return cells


def _squash(scores, squash):
  scores = np.asarray(scores, 'f8')
  return np.sign(scores) * np.log1p(np.abs(scores)) if squash else scores


def _squashed(case, squash):
  return Case(*case[:4], *(_squash(part, squash) for part in case[4:]))


def _weights(cases):
  """[cases] the weight of each: those of one entity add up to 1."""
  names = collections.Counter(case.entity for case in cases)
  return np.array([1 / names[case.entity] for case in cases])


def _moments(cases):
  """Moments of a cell that keep the highest recall, and that recall.

  The mean at false-alarm rates of 1, 5 and 10 %; where no anomalies were
  scored, minus the share of false alarms that a tenth of the entities exceeds.
  """
  weights = _weights(cases)
  mean = lambda values: np.average(values, weights=weights)
  location = mean([case.normal.mean() for case in cases])
  scale = np.sqrt(mean([case.normal.var() for case in cases])) + 1e-3
  best, quality = np.zeros(4), -np.inf
  told = [shrinkage.told(case.support) for case in cases]
  number, mean_of, variance = np.array(told).T
  normals = shrinkage.Rows.of([case.normal for case in cases])
  anomalies = shrinkage.Rows.of([case.anomaly for case in cases])
  choices = _STRENGTHS if number.any() else _STRENGTHS[:1]
  for strengths in itertools.product(choices, choices):
    moments = np.array([location, scale, *strengths])
    place = shrinkage.shrunk(number, mean_of, variance, moments)
    usual, bad = normals.standardized(*place), anomalies.standardized(*place)
    bars = _grid(np.split(usual, normals.starts[1:]), weights)[_PLACES]
    gains = [
      np.mean(anomalies.shares(bad > bar))
      if len(bad)
      else -np.quantile(normals.shares(usual > bar), 0.9)
      for bar in bars
    ]
    if np.mean(gains) > quality:
      best, quality = moments, np.mean(gains)
  return best, quality


def _grid(values, weights):
  """[512] the value above which p <= LEVELS[g]; weights sum to entities."""
  pooled = np.concatenate(values)
  sizes = np.array([len(v) for v in values])
  mass = np.repeat(weights / sizes, sizes)
  # The share of its own entity's normals at or above each value.
  own = np.concatenate(
    [1 - np.searchsorted(np.sort(v), v, 'left') / len(v) for v in values]
  )
  order = np.argsort(-pooled, kind='stable')
  pooled, total = pooled[order], np.sum(weights) + 1
  after = _with_new(np.cumsum(mass[order]), (mass * own)[order]) / total
  first = np.searchsorted(after, LEVELS * (1 + 1e-9), 'right')
  bars = np.append(pooled, -np.inf)[first]
  bars[0.5 / total > LEVELS] = np.inf  # so few entities cannot tell less
  # Rounded up, so that float32 keeps the promise.
  rounded = bars.astype('f4')
  low = rounded < bars
  rounded[low] = np.nextafter(rounded[low], np.float32(np.inf))
  return rounded


def _with_new(others, own):
  """The sum of all entities' shares, the new entity's by expectation.

  `others` [n] sums the entities' shares at or above each pooled value, `own`
  [n] is the share in the value's own entity, times its mass. The new entity's
  share is estimated by that of the rows at about the same place, from half to
  twice the sum.
  """
  sums, owned = np.append(0, others), np.append(0, np.cumsum(own))
  low, high = others / 2, np.minimum(2 * others, others[-1])
  gained = np.interp(high, sums, owned) - np.interp(low, sums, owned)
  return np.maximum.accumulate(others + gained / (high - low))


def _look_up(grid, values):
  """[n] p-values of `values` in one [512] grid."""
  return LEVELS[np.searchsorted(grid, values, 'left') - 1]


def _mixture(across, scores, own):
  """[n] p across entities and share of own normals, weighted by numbers."""
  share = STRENGTH / (STRENGTH + len(own))
  return share * across + (1 - share) * _exceeding(scores, own) / len(own)


def _exceeding(scores, own):
  """[n] how many own normals score at least as high, but for rounding."""
  bar = scores - 1e-6 * (1 + np.abs(scores))
  return len(own) - np.searchsorted(np.sort(own), bar, 'left')


def _mixed(cases, values):
  """[M, 512] grids of minus the mixture, for each number of own normals.

  The normals of an entity are dealt in two: its own ones, and new ones. An
  entity is looked up among the others only, as a new one is.
  """
  names = np.array([case.entity for case in cases])
  weights = _weights(cases)
  draw = np.random.default_rng(0)
  across = [np.empty(0)] * len(cases)
  order = draw.permutation(np.unique(names))
  for group in np.array_split(order, min(10, len(order))):
    rest = np.flatnonzero(~np.isin(names, group))
    grid = _grid([values[i] for i in rest], weights[rest])
    for i in np.flatnonzero(np.isin(names, group)):
      across[i] = _look_up(grid, values[i])
  grids: list[np.ndarray] = []
  for own in OWN:
    mixtures, kept = [], []
    for case, p, weight in zip(cases, across, weights, strict=True):
      if len(case.normal) > own:
        order = draw.permutation(len(case.normal))
        new, old = order[own:], order[:own]
        mixtures.append(-_mixture(p[new], case.normal[new], case.normal[old]))
        kept.append(weight)
    if len(kept) > 1:
      grids.append(_grid(mixtures, np.array(kept)))
    else:  # too few normals for so many: the grid of the next smaller number
      grids.append(grids[-1] if grids else _grid([-p for p in across], weights))
  return np.stack(grids)


def p_values(
  calibration: Calibration, evidence: Evidence, scores: np.ndarray
) -> np.ndarray:
  """The p-value of each score: how likely a normal row scores as high.

  Without own normals it is the share of the calibration entities' normals that
  score at least as high, after standardization; m own normals are averaged in
  with weights 20 and m, and the average's rank among those of the calibration
  entities is the p-value; beyond 100, (1 + own normals that score at least as
  high) / (m + 1) takes over. Numbers between calibrated ones are interpolated;
  beyond them, the nearest counts.

  Args:
    calibration: see `fit`.
    evidence, scores: of the same adapted detector, [n].

  Returns:
    [n] in (0, 1], not increasing in the score.

  Raises:
    DataError: if a score is not finite.
  """
  squash = calibration.squash > 0
  parts = (scores, evidence.support, evidence.own)
  scores, support, own = (_squash(part, squash) for part in parts)
  if not np.isfinite(np.concatenate([scores, support, own])).all():
    raise DataError('a score is not finite: look at the rows it came from')
  few = between(calibration.shots, evidence.shots)
  labelled = between(calibration.anomalies, evidence.anomalies)
  cells = [
    ((i, j, int(evidence.unlabelled)), share * part)
    for (i, share), (j, part) in itertools.product(few, labelled)
  ]
  moments = sum(s * calibration.moments[cell].astype('f8') for cell, s in cells)
  values = standardize(scores, support, np.asarray(moments))
  across = sum(
    s * _look_up(calibration.grid[cell], values) for cell, s in cells
  )
  if not len(own):
    return across
  mixed = calibration.mixed
  return sum(s * _transition(mixed[i], across, scores, own) for i, s in few)


def _transition(grids, across, scores, own):
  """From p-values across entities to those within one, as normals arrive."""
  m = len(own)
  mixture = -_mixture(across, scores, own)
  p = np.zeros(len(scores))
  for place, share in between(np.array([0, *OWN]), m):
    part = across if place == 0 else _look_up(grids[place - 1], mixture)
    p += share * part
  if m > OWN[-1]:
    within = (1 + _exceeding(scores, own)) / (m + 1)
    share = OWN[-1] / m
    p = share * p + (1 - share) * within
  return p


def between(known: np.ndarray, wanted: float) -> list[tuple[int, float]]:
  """The neighbours of a number among increasing ones, and their shares."""
  place = np.interp(np.log1p(wanted), np.log1p(known), np.arange(len(known)))
  low = int(place)
  share = float(place - low)
  return [(low, 1.0 - share), (low + 1, share)][: 1 + (share > 0)]


def threshold(
  calibration: Calibration, evidence: Evidence, rate: float
) -> float:
  """The score above which p-values are at most `rate`; see `check`."""
  check(calibration, evidence, rate)
  scores = np.concatenate([np.ravel(evidence.support), np.ravel(evidence.own)])
  high = float(np.abs(scores).max(initial=1.0))
  alarm = lambda scores: p_values(calibration, evidence, scores) <= rate
  while not alarm(np.array([high]))[0]:
    high *= 4
  low = -high
  if alarm(np.array([low]))[0]:
    return low
  for _ in range(5):  # 256 ** 5: finer than float32
    steps = np.linspace(low, high, 257)
    first = max(1, int(np.argmax(alarm(steps))))
    low, high = steps[first - 1], steps[first]
  return float(np.nextafter(high, -np.inf))


def check(calibration: Calibration, evidence: Evidence, rate: float) -> None:
  """Raises DataError if no score can have a p-value as small as `rate`.

  Of the evidence's scores only the number of own ones counts.
  """
  if least_p(calibration, evidence) > rate:
    raise DataError(
      f'a false-alarm rate of {rate:g} cannot be promised from '
      f'{calibration.entities} calibration entities: ask for at least '
      f'{smallest_rate(calibration):.2g}{or_more(calibration, evidence, rate)}'
    )


def or_more(calibration: Calibration, evidence: Evidence, rate: float) -> str:
  """How many normals beside the support would do; the end of a sentence."""
  for number in np.unique(np.geomspace(1, 1e5, 120).astype(int)):
    own = np.zeros(number)
    if least_p(calibration, evidence._replace(own=own)) <= rate:
      return f', or give about {number} normal rows more than the support takes'
  return ''


def least_p(calibration: Calibration, evidence: Evidence) -> float:
  """The p-value of a score above all others."""
  own = np.zeros(len(evidence.own))
  evidence = evidence._replace(support=np.zeros(0), own=own)
  return p_values(calibration, evidence, np.array([1e30]))[0]


def ladder(
  calibration: Calibration, evidence: Evidence, steps: int = 4096
) -> tuple[np.ndarray, np.ndarray]:
  """A table of [steps] increasing scores and their [steps] p-values.

  A score between two has at most the p-value of the lower one.
  """
  least = least_p(calibration, evidence)
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
  grids = calibration.grid.reshape(-1, len(LEVELS))
  return float(max(LEVELS[np.isfinite(grid)].min() for grid in grids))


def benjamini_hochberg(p: np.ndarray, rate: float) -> np.ndarray:
  """[n] bool: which of a batch to report, so that few reports are false.

  Among independent p-values [n], or those with positive regression dependence
  (as conformal ones of one calibration set are), the expected share of false
  reports is at most `rate`.

  Reference:
    Benjamini and Hochberg, Controlling the false discovery rate, 1995.
  """
  from scipy import stats  # half a second that only a batch should wait for

  return stats.false_discovery_control(np.asarray(p, 'f8')) <= rate


def to_arrays(calibration: Calibration) -> dict[str, np.ndarray]:
  """The arrays of a calibration by name, for a model file."""
  named = calibration._asdict().items()
  return {f'calibration/{name}': np.asarray(value) for name, value in named}


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Calibration | None:
  """The calibration in a model file's arrays; None if there is none.

  Raises:
    DataError: if it is incomplete or of impossible shapes.
  """
  if not any(name.startswith('calibration/') for name in arrays):
    return None
  again = 'fit it again with experiments.calibrate'
  names = [f'calibration/{name}' for name in Calibration._fields]
  try:
    calibration = Calibration(*[np.asarray(arrays[name]) for name in names])
  except KeyError as error:
    raise DataError(f'the calibration lacks {error}: {again}') from error
  if not _sound(calibration):
    raise DataError(
      f'the calibration has impossible shapes or numbers: {again}'
    )
  return calibration


def _sound(calibration):
  """Whether shapes, signs and orders are those of `fit`; files may lie."""
  shots, anomalies, squash, moments, grid, mixed, entities = calibration
  if any(part.dtype.kind not in 'if' for part in calibration):
    return False
  b, a, levels = shots.size, anomalies.size, len(LEVELS)
  shapes = [(b,), (a,), (), (b, a, 2, 4), (b, a, 2, levels)]
  shapes += [(b, len(OWN), levels), ()]
  if not a * b or [part.shape for part in calibration] != shapes:
    return False
  rising = lambda v, strictly=False: (
    (v[..., 1:] > v[..., :-1]) | ((not strictly) & (v[..., 1:] == v[..., :-1]))
  ).all()  # NaN is neither
  return bool(
    rising(shots, True) and rising(anomalies, True) and rising(grid)
    and rising(mixed) and 0 <= shots[0] and 0 < shots[-1] <= 1000
    and 0 <= anomalies[0] and anomalies[-1] <= 1000 and squash in (0, 1)
    and np.isfinite(moments).all() and np.abs(moments).max() < 1e6
    and moments[..., 1:].min() > 1e-6 and 2 <= entities < 1e9
    and not np.isnan(grid[..., :1]).any() and not np.isnan(mixed[..., :1]).any()
  )  # fmt: skip
