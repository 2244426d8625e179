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

import collections
from collections.abc import Callable, Generator, Mapping, Sequence
import types
from typing import Any, NamedTuple

import numpy as np

Score = Callable[[np.ndarray], np.ndarray]
Plan = Generator[tuple[Score, np.ndarray], np.ndarray, Any]  # see `together`
_BUDGET = 2048  # rows that are scored for the attributions of one
# Of more columns, so many are looked at one by one, and the others in groups.
_WIDE, _SINGLES, _GROUPS = 256, 32, 16
_AT_ONCE = 1 << 24  # numbers, of the rows that are explained together


class Change(NamedTuple):
  """The fewest columns found whose replacement makes the row normal."""

  columns: np.ndarray  # [k] int, most important first
  row: np.ndarray  # the row with those columns replaced
  score: float  # of that row
  normal: int  # number of the support's normal that gave the values


class Explanation(NamedTuple):
  """Why one row of F columns or features scores what it scores.

  `attributions` add up to `score` - `reference`; `shared` is the part of it
  that detectors of parts of the support miss, see `attributions` below.
  """

  names: tuple[str, ...]
  row: np.ndarray  # [F] values
  attributions: np.ndarray  # [F]; [0] of a run that learns its own features
  score: float  # higher = more abnormal
  reference: float  # mean score of the normals, each by a detector without it
  shared: float
  threshold: float  # a score above is an alarm; NaN = not calibrated
  p_value: float  # NaN = not calibrated
  normals: np.ndarray  # [n, F] the support's normals
  nearest: np.ndarray  # [k] numbers of the nearest of them, nearest first
  distances: np.ndarray  # [k] to them; see `nearest` below
  change: Change | None  # None if the row is normal, or nothing was found
  times: np.ndarray = np.zeros(0)  # [S] of stretches of time, in windows
  seconds: np.ndarray = np.zeros(0)  # [S + 1] their ends, in `time_unit`
  time_unit: str = 'samples'  # 's' where the sampling rate is known
  signal: np.ndarray = np.zeros((0, 0))  # [L, C] the window
  usual: np.ndarray = np.zeros((0, 0, 0))  # [n, L, C] the normals' windows
  numbers: np.ndarray = np.zeros(0, int)  # [n] which row of `fit` a normal is
  # The texts of the codes of a column, by name; the row's own texts, by column.
  categories: Mapping[str, Sequence[str]] = types.MappingProxyType({})
  words: Mapping[str, str] = types.MappingProxyType({})


def together(plans: Sequence[Plan]) -> list[Any]:
  """Runs plans in step: the rows that they ask for are scored together.

  A plan yields a score, a function of rows [n, ...], and rows, and is sent
  their scores [n]. Returns what the plans return.
  """
  asked, results = {}, [None] * len(plans)

  def go_on(i, scores):
    try:
      asked[i] = plans[i].send(scores)
    except StopIteration as end:
      asked.pop(i, None)
      results[i] = end.value

  for i in range(len(plans)):
    go_on(i, None)
  while asked:
    askers = collections.defaultdict(list)
    for i, (score, _) in asked.items():
      askers[score].append(i)
    for score, members in askers.items():
      rows = [asked[i][1] for i in members]
      ends = np.cumsum([len(part) for part in rows])[:-1]
      parts = np.split(score(np.concatenate(rows)), ends)
      for i, part in zip(members, parts, strict=True):
        go_on(i, part)
  return results


def explain(fitted: Any, rows: Any, judged: Any) -> list[Explanation]:
  """Explains rows (`encoding.Encoded`) that a `fitted.Fitted` judged."""
  support, normal = fitted.x[fitted.support], fitted.normal[fitted.support]
  seen, threshold = fitted.features(support), fitted.threshold
  normals, unseen, values = seen[normal], fitted.unseen, fitted.features(rows.x)
  windows = rows.x.ndim > 2
  shown = normals.reshape(len(normals), -1) if windows else support[normal]
  reference = float(np.mean(fitted.scores[fitted.normal]))
  judges = [(by, seen[which]) for by, which in unseen]
  of_windows = [
    (lambda x, by=by: by(fitted.features(x)), support[which])
    for by, which in unseen
  ] if windows else []  # fmt: skip

  def plan(i):
    score, row = float(judged.scores[i]), values[i]
    near, distances = nearest(row.ravel(), normals.reshape(len(normals), -1))
    gains, shared, mend = np.zeros(0), 0.0, None
    if normals.ndim == 2:
      rise = score - reference
      gains, shared = yield from of_columns(judges, row, normals, rise)
    # A copy of a known row is normal, whatever the learner says of it.
    if normals.ndim == 2 and score > threshold:
      mend = yield from change(
        fitted.score_features, row, normals, gains, threshold
      )
    if not windows:  # shown as it came, not as it is scored
      row = rows.x[i]
      if mend is not None:
        mended = row.copy()
        mended[mend.columns] = shown[mend.normal][mend.columns]
        mend = mend._replace(row=mended)
    told = Explanation(
      fitted.names, row.ravel(), gains, score, reference, shared, threshold,
      float(judged.p_values[i]), shown, near, distances, mend,
      numbers=np.flatnonzero(fitted.normal), categories=fitted.columns.levels,
      words=rows.words(i),
    )  # fmt: skip
    if not windows:
      return told
    return (yield from _timed(fitted, told, rows.x[i], of_windows))

  most = max(1, _AT_ONCE // (_BUDGET * rows.x[:1].size or 1))
  parts = [
    range(len(rows.x))[i : i + most] for i in range(0, len(rows.x), most)
  ]
  return [told for part in parts for told in together([*map(plan, part)])]


def _timed(fitted, explanation, row, judges):
  """The explanation of a window, with up to 16 equal stretches of time."""
  part = np.arange(len(row)) * min(len(row), 16) // len(row)
  players = np.repeat(part[:, None], row.shape[1], 1)
  rise = explanation.score - explanation.reference
  times, _ = yield from attributions(judges, row, players, rise)
  ends = np.append(np.flatnonzero(np.diff(part, prepend=-1)), len(row))
  rate = fitted.run.layout.rate or fitted.options.rate
  return explanation._replace(
    times=times, seconds=ends / (rate or 1.0),
    time_unit='s' if rate else 'samples', signal=row,
    usual=fitted.x[fitted.normal],
  )  # fmt: skip


def of_columns(
  judges: Sequence[tuple[Score, np.ndarray]],
  row: np.ndarray,
  normals: np.ndarray,
  rise: float,
) -> Plan:
  """`attributions` of the columns of a row [F].

  Of more than 256 columns, 32 are players of their own and the others share
  what their group of similar ones gets: first those that deviate most from the
  normals [n, F], and then, in a second game, those that got most in the first.
  """
  width = len(row)
  if width <= _WIDE:
    return (yield from attributions(judges, row, np.arange(width), rise))
  with np.errstate(invalid='ignore'):
    each = np.abs(row - np.nanmean(normals, 0)) / _spread(normals)
  each[np.isnan(each)] = 10
  order, shared = np.arange(width), 0.0
  groups = np.arange(width - _SINGLES) * _GROUPS // (width - _SINGLES)
  for _ in range(2):
    order = order[np.argsort(-np.abs(each[order]), kind='stable')]
    players = np.arange(width)
    players[order] = [*range(_SINGLES), *(_SINGLES + groups)]
    gains, shared = yield from attributions(
      judges, row, players, rise, len(judges)
    )
    each = (gains / np.bincount(players))[players]
  return each, shared


def attributions(
  judges: Sequence[tuple[Score, np.ndarray]],
  row: np.ndarray,
  players: np.ndarray,
  rise: float,
  budget: int = _BUDGET,
) -> Plan:
  """Shapley values, with normals that the detector has not seen.

  A detector scores the rows that it was adapted to far too low; a step away
  from one of them would look like a reason in any column. So each part of the
  normals is compared with by a detector that was adapted to the others. These
  score the row a little differently than the detector that is explained; the
  difference is shared out in proportion to the attributions.

  `judges` are scores [n, ...] -> [n], and the normals [m, ...] unseen by each;
  `rise` is the row's score minus the normals' mean score, `budget` that of
  `shapley` for all of them. Returns [P] float64 that add up to `rise`, and the
  difference that was shared out.
  """
  count = int(players.max()) + 1
  total = sum(len(normals) for _, normals in judges)
  share = budget // len(judges)
  gains = np.zeros(count)
  for seed, (score, normals) in enumerate(judges):
    part = yield from shapley(
      score, row, normals, players, budget=share, seed=seed
    )
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
) -> Plan:
  """[P] float64 attributions to groups of entries of a row; see the module.

  `players` [...] int says which of P groups an entry of the row [...] belongs
  to, `budget` about how many rows to score: four times as many where each
  normal would not be compared with once, and then of very many a sample. They
  add up to score(row) minus the mean score of the normals that were drawn.
  """
  draw = np.random.default_rng(seed)
  count = int(players.max()) + 1
  # Every normal equally often, so that the sum is exact; both ways along an
  # order (antithetic: half the noise), or in turns where there are many.
  most = min(len(normals), max(1, 4 * budget // (count + 1)))
  chosen = draw.permutation(len(normals))[:most]
  pairs = min(32, budget // (2 * count + 2)) // most
  chosen = np.tile(chosen, max(1, pairs))
  rows, ranks = [], []
  order = np.arange(count)
  steps = np.arange(count + 1).reshape(-1, *[1] * row.ndim)
  for i, base in enumerate(chosen):
    order = order[::-1] if not pairs and i % 2 else draw.permutation(count)
    for way in (order, order[::-1]) if pairs else (order,):
      ranks.append(np.argsort(way))
      rows.append(np.where(ranks[-1][players] < steps, row, normals[base]))
  scores = (yield score, np.concatenate(rows)).reshape(len(ranks), count + 1)
  return np.take_along_axis(np.diff(scores), np.array(ranks), 1).mean(0)


def nearest(
  row: np.ndarray, normals: np.ndarray, most: int = 3
) -> tuple[np.ndarray, np.ndarray]:
  """Numbers of the nearest normals, and how far they are.

  The mean over columns of |difference| in units of the column's spread among
  the normals, each limited to 10.
  """
  with np.errstate(invalid='ignore'):
    gap = np.minimum(np.abs(normals - row) / _spread(normals), 10)
  gap = np.where(np.isnan(normals) & np.isnan(row), 0, gap)
  distance = np.where(np.isnan(gap), 10, gap).mean(1)
  order = np.argsort(distance, kind='stable')[:most]
  return order, distance[order]


def _spread(normals):
  """[F] standard deviation; of constant columns, 1e-3 of their size."""
  values = np.ma.masked_invalid(normals)
  size = np.abs(values).max(0).filled(0)
  size = np.where(size > 0, size, 1.0)  # as the square of 1e200 overflows
  values = values / size
  mean, spread = (np.ma.filled(v, 0) for v in (values.mean(0), values.std(0)))
  return size * np.where(spread > 1e-12, spread, 1e-3 * np.abs(mean) + 1e-9)


def change(
  score: Score,
  row: np.ndarray,
  normals: np.ndarray,
  attributions: np.ndarray,
  threshold: float,
) -> Plan:
  """The fewest columns to set to a near normal's values, greedily.

  The columns of a row [F] are replaced in the order of their attributions until
  the score falls to the threshold, with each of the three nearest normals; then
  each is put back if the row stays normal without it. None if the row is normal
  already, or even the normals themselves are not. Of more than 256 columns, not
  every number is tried.
  """
  if not (yield score, row[None])[0] > threshold:
    return None
  order = np.argsort(-attributions, kind='stable')
  rank = np.argsort(order, kind='stable')
  best: Change | None = None

  def mended(columns, normal):
    changed = row.copy()
    changed[columns] = normal[columns]
    return changed

  wide = len(row) > _WIDE
  for number in nearest(row, normals)[0]:
    other = normals[number]
    low, high = 0, len(row)
    for points in (12, 8) if wide else (high,):
      space = np.geomspace if points == 12 else np.linspace
      steps = np.unique(space(low + 1, high, points).astype(int))
      tried = np.where(rank < steps[:, None], other, row)
      good = (yield score, tried) <= threshold
      if not good.any():
        break
      first = np.argmax(good)
      low, high = steps[first - 1] if first else low, steps[first]
    else:
      kept = list(order[:high])
      for column in kept[::-1][: 8 if wide else None]:
        without = [c for c in kept if c != column]
        if not without:
          continue
        if (yield score, mended(without, other)[None])[0] <= threshold:
          kept = without
      if best is None or len(kept) < len(best.columns):
        changed = mended(kept, other)
        value = float((yield score, changed[None])[0])
        best = Change(np.array(kept), changed, value, int(number))
      if wide:
        break
  return best
