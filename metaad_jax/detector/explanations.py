"""Why a row is abnormal: columns, times, examples, and what would mend it.

An attribution is a Shapley value: the mean, over orders of the columns and over
normals of the support, of what the score gains when a column of the normal is
replaced by the row's. The attributions add up to the row's score minus the
normals' mean score exactly (completeness). Integrated gradients miss it on rows
with discrete columns: a detector that looks at ranks and at equality has a
gradient of zero nearly everywhere (`docs/calibration.md`).

Reference:
  Strumbelj and Kononenko, Explaining prediction models and individual
    predictions with feature contributions, 2014.
"""

from collections.abc import Callable, Mapping, Sequence
import types
from typing import NamedTuple

import numpy as np

Score = Callable[[np.ndarray], np.ndarray]
_BUDGET = 2048  # rows that are scored for the attributions of one


class Change(NamedTuple):
  """The fewest columns found whose replacement makes the row normal.

  Attributes:
    columns: [k] int, most important first.
    row: the row with those columns replaced.
    score: of that row.
    normal: number of the support normal that gave the values.
  """

  columns: np.ndarray
  row: np.ndarray
  score: float
  normal: int


class Explanation(NamedTuple):
  """Why one row scores what it scores.

  Attributes:
    names: of the F columns or features.
    row: [F] values.
    attributions: [F], or [0] of a run that learns its own features; they add
      up to `score` - `reference`.
    score: of the row, higher = more abnormal.
    reference: mean score of the support's normals, each unseen by the
      detector that scores it.
    shared: the part of `score` - `reference` that detectors of parts of the
      support miss, shared out among the attributions; see `attributions`.
    threshold: a score above is an alarm; NaN = the run is not calibrated.
    p_value: of the score; NaN = the run is not calibrated.
    normals: [n, F] the support's normals.
    nearest: [k] numbers of the nearest of them, nearest first.
    distances: [k] how far: the mean over columns of |difference| in units of
      the column's spread among the normals, each limited to 10.
    change: what would make it normal; None if it is, or nothing was found.
    times: [S] attributions of stretches of time, in windows; else [0].
    seconds: [S + 1] where they begin and end, in `time_unit`.
    time_unit: 's', or 'samples' where the sampling rate is unknown.
    signal: [L, C] the window; else [0, 0].
    usual: [n, L, C] the windows of the support's normals; else [0, 0, 0].
    numbers: [n] which row of `fit` (counted from 0, later ones following) each
      of `normals` is; [0] = the same numbers.
    categories: the texts that the codes of a column stand for, by its name.
    words: the row's own texts, by column; those that `fit` has not seen, too.
  """

  names: tuple[str, ...]
  row: np.ndarray
  attributions: np.ndarray
  score: float
  reference: float
  shared: float
  threshold: float
  p_value: float
  normals: np.ndarray
  nearest: np.ndarray
  distances: np.ndarray
  change: Change | None
  times: np.ndarray = np.zeros(0)
  seconds: np.ndarray = np.zeros(0)
  time_unit: str = 's'
  signal: np.ndarray = np.zeros((0, 0))
  usual: np.ndarray = np.zeros((0, 0, 0))
  numbers: np.ndarray = np.zeros(0, int)
  categories: Mapping[str, Sequence[str]] = types.MappingProxyType({})
  words: Mapping[str, str] = types.MappingProxyType({})


class Unseen(NamedTuple):
  """A detector of a part of the support, and normals it has not seen.

  Attributes:
    score: features [n, F] -> [n].
    which: numbers of the normals among all rows of the support.
  """

  score: Score
  which: np.ndarray


class Context(NamedTuple):
  """What the explanations of one fitted detector share.

  Attributes:
    names, categories, numbers, reference, threshold: see `Explanation`.
    features: rows [n, ...] -> features [n, F] (or [n, L, C]).
    score: features -> scores [n] of the detector.
    unseen: detectors of parts of the support.
    support: [k, ...] its rows.
    normal: [k] bool, which of them are normals.
    rate: sampling rate in Hz of windows, if it is known.
  """

  names: tuple[str, ...]
  categories: Mapping[str, Sequence[str]]
  features: Callable[[np.ndarray], np.ndarray]
  score: Score
  unseen: Sequence[Unseen]
  support: np.ndarray
  normal: np.ndarray
  numbers: np.ndarray
  reference: float
  threshold: float
  rate: float | None


def explain(
  context: Context,
  row: np.ndarray,
  score: float,
  p_value: float,
  words: Mapping[str, str],
) -> Explanation:
  """Explains a row [d] or window [length, channels]; see `Explanation`."""
  seen, values = context.features(context.support), context.features(row[None])
  normals, rise = seen[context.normal], score - context.reference
  gains, shared, mend = np.zeros(0), 0.0, None
  if normals.ndim == 2:
    judges = [(part.score, seen[part.which]) for part in context.unseen]
    players = np.arange(values.shape[1])
    gains, shared = attributions(judges, values[0], players, rise)
    mend = change(context.score, values[0], normals, gains, context.threshold)
  near, distances = nearest(values.ravel(), normals.reshape(len(normals), -1))
  if row.ndim == 1:  # shown as it came, not as it is scored
    values, normals = row, context.support[context.normal]
    if mend is not None:
      mended = row.copy()
      mended[mend.columns] = normals[mend.normal][mend.columns]
      mend = mend._replace(row=mended)
  explanation = Explanation(
    context.names, values.ravel(), gains, float(score), context.reference,
    shared, context.threshold, float(p_value),
    normals.reshape(len(normals), -1), near, distances, mend,
    time_unit='s' if context.rate else 'samples', numbers=context.numbers,
    categories=context.categories, words=words,
  )  # fmt: skip
  return explanation if row.ndim == 1 else _timed(context, explanation, row)


def _timed(context, explanation, row):
  """The explanation of a window, with stretches of time."""
  judges = [
    (lambda rows, p=part: p.score(context.features(rows)),
     context.support[part.which])
    for part in context.unseen
  ]  # fmt: skip
  part = segments(len(row))
  players = np.repeat(part[:, None], row.shape[1], 1)
  rise = explanation.score - context.reference
  times, _ = attributions(judges, row, players, rise)
  starts = np.flatnonzero(np.diff(part, prepend=-1))
  seconds = np.append(starts, len(row)) / (context.rate or 1.0)
  usual = context.support[context.normal]
  return explanation._replace(
    times=times, seconds=seconds, signal=row, usual=usual
  )


def attributions(
  judges: Sequence[tuple[Score, np.ndarray]],
  row: np.ndarray,
  players: np.ndarray,
  rise: float,
) -> tuple[np.ndarray, float]:
  """Shapley values, with normals that the detector has not seen.

  A detector scores the rows that it was adapted to far too low; a step away
  from one of them would look like a reason in any column. So each part of the
  normals is compared with by a detector that was adapted to the others. These
  score the row a little differently than the detector that is explained; the
  difference is shared out in proportion to the attributions.

  Args:
    judges: scores [n, ...] -> [n], and the normals [m, ...] unseen by each.
    row: [...] to explain.
    players: [...] int, which of P groups an entry belongs to.
    rise: what is explained: the row's score minus the normals' mean score.

  Returns:
    [P] float64 that add up to `rise`, and the difference that was shared out.
  """
  count = int(players.max()) + 1
  total = sum(len(normals) for _, normals in judges)
  budget = _BUDGET // len(judges)
  gains = np.zeros(count)
  for seed, (score, normals) in enumerate(judges):
    part = shapley(score, row, normals, players, budget=budget, seed=seed)
    gains += len(normals) / total * part
  left = rise - gains.sum()
  size = np.abs(gains)
  size = size / size.sum() if size.any() else np.full(count, 1 / count)
  return gains + left * size, float(left)


def shapley(
  score: Score,
  row: np.ndarray,
  normals: np.ndarray,
  players: np.ndarray,
  *,
  budget: int = _BUDGET,
  seed: int = 0,
) -> np.ndarray:
  """Attributions to groups of entries of a row; see the module.

  Args:
    score: [n, ...] -> [n].
    row: [...] the row to explain.
    normals: [n, ...] rows to compare with; a sample is drawn of very many.
    players: [...] int, which of P groups an entry belongs to.
    budget: about how many rows to score; four times as many where each normal
      would not be compared with once.
    seed: of the orders and the sample.

  Returns:
    [P] float64; the sum is score(row) minus the mean score of those normals
    that were drawn.
  """
  draw = np.random.default_rng(seed)
  count = int(players.max()) + 1
  # Every normal equally often, so that the sum is exact; both ways along an
  # order (antithetic: half the noise), or in turns where there are many.
  most = min(len(normals), max(1, 4 * budget // (count + 1)))
  chosen = draw.permutation(len(normals))[:most]
  pairs = min(32, budget // (2 * count + 2)) // most
  chosen = np.tile(chosen, max(1, pairs))
  rows, orders = [], []
  order = np.arange(count)
  steps = np.arange(count + 1).reshape(-1, *[1] * row.ndim)
  for i, base in enumerate(chosen):
    order = order[::-1] if not pairs and i % 2 else draw.permutation(count)
    for way in (order, order[::-1]) if pairs else (order,):
      rank = np.empty(count, int)
      rank[way] = np.arange(count)
      rows.append(np.where(rank[players] < steps, row, normals[base]))
      orders.append(way)
  scores = score(np.concatenate(rows)).reshape(len(orders), count + 1)
  gains = np.zeros((len(orders), count))
  for gain, order, path in zip(gains, orders, scores, strict=True):
    gain[order] = np.diff(path)
  return gains.mean(0)


def nearest(
  row: np.ndarray, normals: np.ndarray, most: int = 3
) -> tuple[np.ndarray, np.ndarray]:
  """Numbers of the nearest normals, and their distances; see `Explanation`."""
  with np.errstate(invalid='ignore'):
    gap = np.minimum(np.abs(normals - row) / _spread(normals), 10)
  gap = np.where(np.isnan(normals) & np.isnan(row), 0, gap)
  distance = np.where(np.isnan(gap), 10, gap).mean(1)
  order = np.argsort(distance, kind='stable')[:most]
  return order, distance[order]


def _spread(normals):
  """[F] standard deviation; of constant columns, 1e-3 of their size."""
  seen = np.isfinite(normals)
  count = np.maximum(seen.sum(0), 1)
  values = np.where(seen, normals, 0)
  size = np.abs(values).max(0)  # divided by: the square of 1e200 overflows
  size = np.where(size > 0, size, 1.0)
  values = values / size
  mean = values.sum(0) / count
  variance = np.where(seen, (values - mean) ** 2, 0).sum(0) / count
  spread = np.sqrt(variance)
  return size * np.where(spread > 1e-12, spread, 1e-3 * np.abs(mean) + 1e-9)


def change(
  score: Score,
  row: np.ndarray,
  normals: np.ndarray,
  attributions: np.ndarray,
  threshold: float,
) -> Change | None:
  """The fewest columns to set to a near normal's values, greedily.

  The columns are replaced in the order of their attributions until the score
  falls to the threshold, with each of the three nearest normals; then each
  is put back if the row stays normal without it.

  Args:
    score: [n, F] -> [n].
    row: [F].
    normals: [n, F].
    attributions: [F].
    threshold: a score above is an alarm; NaN = nothing is.

  Returns:
    The change with the fewest columns; None if the row is normal already, or
    even the normals themselves are not.
  """
  if not score(row[None])[0] > threshold:
    return None
  order = np.argsort(-attributions, kind='stable')
  rank = np.argsort(order, kind='stable')
  best: Change | None = None
  for number in nearest(row, normals)[0]:
    other = normals[number]
    steps = np.arange(1, len(row) + 1)[:, None]
    tried = np.where(rank < steps, other, row)
    good = np.flatnonzero(score(tried) <= threshold)
    if not len(good):
      continue
    kept = list(order[: good[0] + 1])
    for column in kept[::-1]:
      without = [c for c in kept if c != column]
      mended = row.copy()
      mended[without] = other[without]
      if without and score(mended[None])[0] <= threshold:
        kept = without
    if best is None or len(kept) < len(best.columns):
      mended = row.copy()
      mended[kept] = other[kept]
      value = float(score(mended[None])[0])
      best = Change(np.array(kept), mended, value, int(number))
  return best


def segments(length: int, most: int = 16) -> np.ndarray:
  """[length] int: which of up to `most` equal stretches a sample is in."""
  return np.arange(length) * min(length, most) // length
