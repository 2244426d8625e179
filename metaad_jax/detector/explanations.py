"""Why a row is abnormal: columns, times, examples, and what would mend it.

An attribution is a Shapley value: the mean, over orders of the columns and
over normals of the support, of what the score gains when a column of the
normal is replaced by the row's own. The attributions add up to the row's score
minus the normals' mean score exactly (completeness). Integrated gradients have
the same property in theory; on rows with discrete columns they miss it, because
a detector that looks at ranks and at equality has a gradient of zero nearly
everywhere (`docs/calibration.md`).

References:
  Strumbelj and Kononenko, Explaining prediction models and individual
    predictions with feature contributions, 2014.
  Sundararajan, Taly and Yan, Axiomatic attribution for deep networks, ICML
    2017 (integrated gradients).
"""

from collections.abc import Callable, Mapping, Sequence
import io
import types
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
  from matplotlib import figure as mpl_figure

Score = Callable[[np.ndarray], np.ndarray]
_BUDGET = 2048  # rows that are scored for the attributions of one
# Features of windows that are logarithms of a power, and what to call them.
_POWERS = {'log-power ': 'band', 'envelope ': 'envelope band'}


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
    threshold: a score above is an alarm.
    p_value: of the score.
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
      of `normals` is; () = the same numbers.
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
  times: np.ndarray
  seconds: np.ndarray
  time_unit: str = 's'
  signal: np.ndarray = np.zeros((0, 0))
  usual: np.ndarray = np.zeros((0, 0, 0))
  numbers: Sequence[int] = ()
  categories: Mapping[str, Sequence[str]] = types.MappingProxyType({})
  words: Mapping[str, str] = types.MappingProxyType({})


def attributions(
  judges: Sequence[tuple[Score, np.ndarray]],
  row: np.ndarray,
  players: np.ndarray,
  rise: float,
) -> tuple[np.ndarray, float]:
  """Shapley values, with normals that the detector has not seen.

  A detector scores the rows that it was adapted to far too low; a step away
  from one of them would look like a reason, in whichever column it is. So the
  normals are dealt out in parts, and each part is compared with by a detector
  that was adapted to the others. These score the row itself a little
  differently than the detector that is explained, which was adapted to all
  normals; the difference is shared out in proportion to what they found.

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
  found = np.zeros(count)
  for i, (score, normals) in enumerate(judges):
    found += (
      len(normals)
      / total
      * shapley(
        score, row, normals, players, budget=_BUDGET // len(judges), seed=i
      )
    )
  left = rise - found.sum()
  size = np.abs(found)
  size = size / size.sum() if size.any() else np.full(count, 1 / count)
  return found + left * size, float(left)


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
  for i, base in enumerate(chosen):
    order = order[::-1] if not pairs and i % 2 else draw.permutation(count)
    for way in (order, order[::-1]) if pairs else (order,):
      rank = np.empty(count, int)
      rank[way] = np.arange(count)
      steps = np.arange(count + 1).reshape(-1, *[1] * row.ndim)
      rows.append(np.where(rank[players] < steps, row, normals[base]))
      orders.append(way)
  scores = score(np.concatenate(rows)).reshape(len(orders), count + 1)
  gains = np.zeros((len(orders), count))
  for gain, order, path in zip(gains, orders, scores, strict=True):
    gain[order] = np.diff(path)
  return gains.mean(0)


def integrated_gradients(
  score: Callable[[jax.Array], jax.Array],
  row: np.ndarray,
  normals: np.ndarray,
  *,
  steps: int = 64,
) -> np.ndarray:
  """Attributions by gradients along straight lines from the normals.

  Args:
    score: jittable, [n, F] -> [n].
    row: [F] to explain, finite.
    normals: [n, F] baselines, finite.
    steps: of the integral along each line, by the midpoint rule.

  Returns:
    [F]; the sum is score(row) minus the normals' mean score where the score is
    smooth.
  """
  parts = jnp.asarray((np.arange(steps) + 0.5) / steps, jnp.float32)
  target = jnp.asarray(row, jnp.float32)
  slope = jax.jit(jax.grad(lambda x: score(x).sum()))
  found = np.zeros(len(row))
  for normal in np.asarray(normals, np.float32):
    line = normal + parts[:, None] * (target - normal)
    found += np.asarray(slope(line).mean(0) * (target - normal))
  return found / len(normals)


def nearest(
  row: np.ndarray, normals: np.ndarray, most: int = 3
) -> tuple[np.ndarray, np.ndarray]:
  """Numbers of the nearest normals, and their distances; see `Explanation`."""
  with np.errstate(invalid='ignore'):
    spread = _spread(normals)
    gap = np.minimum(np.abs(normals - row) / spread, 10)
  gap = np.where(np.isnan(normals) & np.isnan(row), 0, gap)
  distance = np.where(np.isnan(gap), 10, gap).mean(1)
  order = np.argsort(distance, kind='stable')[:most]
  return order, distance[order]


def _spread(normals):
  """[F] standard deviation; of constant columns, 1e-3 of their size."""
  seen = np.isfinite(normals)
  count = np.maximum(seen.sum(0), 1)
  known = np.where(seen, normals, 0)
  size = np.abs(known).max(0)  # divided by: squares of 1e200 are no numbers
  size = np.where(size > 0, size, 1.0)
  known = known / size
  mean = known.sum(0) / count
  variance = np.where(seen, (known - mean) ** 2, 0).sum(0) / count
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
    threshold: a score above is an alarm.

  Returns:
    The change with the fewest columns; None if the row is normal already, or
    even the normals themselves are not.
  """
  if score(row[None])[0] <= threshold:
    return None
  order = np.argsort(-attributions, kind='stable')
  rank = np.empty(len(order), int)
  rank[order] = np.arange(len(order))
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


class Reason(NamedTuple):
  """One column that makes a row abnormal.

  Attributes:
    column: its name.
    value: the row's own, the text of a category; NaN = missing.
    share: its attribution.
    text: the value beside those of the normals, in words.
  """

  column: str
  value: float | str
  share: float
  text: str


def reasons(explanation: Explanation, most: int = 3) -> list[Reason]:
  """The columns that explain most; those below a tenth of the first: none."""
  e = explanation
  return [
    Reason(
      e.names[c],
      e.words.get(e.names[c], float(e.row[c])),
      float(e.attributions[c]),
      _reason(e, c),
    )
    for c in _leading(e, most)
  ]


def text(explanation: Explanation, most: int = 3) -> str:
  """A line that says what is abnormal, and what would make it normal."""
  e = explanation
  verdict = 'abnormal' if e.score > e.threshold else 'normal'
  line = f'{verdict} (p = {e.p_value:.2g})'
  why = [reason.text for reason in reasons(e, most)]
  if why:
    line += ': ' + '; '.join(why)
  if len(e.times) and e.times.max() > 0:
    i = int(np.argmax(e.times))
    begin, end = e.seconds[i], e.seconds[i + 1]
    line += f'; mostly between {begin:.4g} and {end:.4g} {e.time_unit}'
  line += f'; the nearest normal is {_normal(e, e.nearest[0])} of fit'
  if e.change is not None:
    told = ', '.join(
      _shown(e.names[c])
      if len(e.signal)  # a number of a feature tells nobody what to mend
      else f'{e.names[c]} = {_told(e, c, e.change.row[c])}'
      for c in e.change.columns[:most]
    )
    more = len(e.change.columns) - most
    line += f'; it would be normal with {told}'
    line += f' and {more} more' if more > 0 else ''
    line += f' as in {_normal(e, e.change.normal)}' if len(e.signal) else ''
  return line


def _normal(e, place):
  number = int(e.numbers[place]) if len(e.numbers) else int(place)
  return f'{"window" if len(e.signal) else "row"} {number}'


def _shown(name):
  """The name of a column; of a feature that is the power in a band, that."""
  for start in _POWERS:
    if name.startswith(start):
      return f'{_POWERS[start]} {name.removeprefix(start)}'
  return name


def _power_reason(e, c):
  """`_reason` of a band of a spectrum, as a ratio of powers."""
  value, known = e.row[c], e.normals[:, c]
  name = _shown(e.names[c])
  if value > known.max():
    ratio = _number(np.exp(min(value - known.max(), 500.0)))
    return f"{name} has {ratio} times the power of the normals' strongest"
  if value < known.min():
    ratio = _number(np.exp(min(known.min() - value, 500.0)))
    return f"{name} is {ratio} times weaker than the normals' weakest"
  return f'{name} is as strong as in some normals, but unusual'


def _number(x):
  return f'{x:.2g}' if x < 99.5 else f'{x:,.0f}' if x < 1e6 else f'{x:.0e}'


def _leading(e, most):
  order = np.argsort(-e.attributions, kind='stable')[:most]
  if not len(order):
    return []
  least = max(0.1 * e.attributions[order[0]], 0)
  return [c for c in order if e.attributions[c] > least]


def _reason(e, c):
  if len(e.signal) and _shown(e.names[c]) != e.names[c]:
    return _power_reason(e, c)
  value, known = e.row[c], e.normals[:, c]
  known = known[np.isfinite(known)]
  start = f'{e.names[c]} is {_value(e, c)}'
  if np.isnan(value):
    return start
  if not len(known):
    return f'{start}, and no normal has a value there'
  low, high, seen = known.min(), known.max(), np.mean(known == value)
  if low == high:
    if seen:
      return f'{start}, as always'
    return f'{start}, always {_told(e, c, low)} in normals'
  if e.names[c] in e.categories:
    return f'{start}, as in {f"{seen:.0%}" if seen else "none"} of the normals'
  if low <= value <= high:
    if seen:
      return f'{start}, as in {seen:.0%} of the normals'
    return (
      f'{start}, within the range of the normals ({_told(e, c, low)} to '
      f'{_told(e, c, high)}) but unusual there'
    )
  side, bound = ('above', high) if value > high else ('below', low)
  far = abs(value / 2 - bound / 2) / (high / 2 - low / 2)
  return f'{start}, {side} all normals by {_number(far)} times their range'


def _told(e, c, value):
  """A value in words: a number, or the text of a category."""
  texts = e.categories.get(e.names[c])
  if np.isnan(value):
    return 'missing'
  if texts is None:
    return f'{value:.4g}'
  code = int(value)
  return repr(texts[code]) if code < len(texts) else 'a text not seen in fit'


def picture(
  explanation: Explanation, most: int = 12, title: str = ''
) -> 'mpl_figure.Figure':
  """Attributions, the row among the normals, and stretches of time.

  Args:
    explanation: see `Explanation`.
    most: columns to show.
    title: a line above the verdict.

  Returns:
    The figure.
  """
  # A third of a second that only who draws should wait for.
  from matplotlib import figure as mpl_figure

  e = explanation
  timed, noun = len(e.times) > 0, 'window' if len(e.signal) else 'row'
  shown = np.argsort(-np.abs(e.attributions), kind='stable')[:most][::-1]
  figure = mpl_figure.Figure(
    figsize=(9, 1.9 + 0.32 * max(len(shown), 3) + 1.8 * timed),
    layout='constrained',
  )
  axes = figure.subplots(
    1 + timed, 2, squeeze=False, height_ratios=[2.5, 1][: 1 + timed]
  )
  place = np.arange(len(shown))
  left, right = axes[0]
  colour = np.where(e.attributions[shown] > 0, 'tab:red', 'tab:blue')
  left.barh(place, e.attributions[shown], color=list(colour))
  left.axvline(0, color='black', linewidth=0.6)
  left.set_yticks(place, [_shown(e.names[c])[:40] for c in shown])
  left.set_xlabel('share of the score')
  right.axvspan(-1, 1, color='tab:green', alpha=0.12, linewidth=0)
  scaled = lambda x: _beyond(x, e.normals)[..., shown]
  for normal in scaled(e.normals):
    right.plot(normal, place, '|', color='grey', alpha=0.6)
  right.plot(
    scaled(e.normals[e.nearest[0]]), place, '|', color='tab:green',
    markersize=12, label=f'nearest normal, {_normal(e, e.nearest[0])} of fit',
  )  # fmt: skip
  right.plot(scaled(e.row), place, 'D', color='tab:red', label=f'this {noun}')
  right.yaxis.tick_right()
  # Numbers of features tell nobody anything; those of a table are known.
  values = [] if len(e.signal) else [_value(e, c) for c in shown]
  right.set_yticks(place, values or [''] * len(place))
  right.set_xlim(-4.3, 4.3)
  right.set_xticks([-3, -1, 1, 3], ['-100', 'low', 'high', '+100'])
  right.set_xlabel("normals' range (green); beyond: in halves of it")
  for axis in axes[0]:
    axis.set_ylim(-0.7, len(place) - 0.3)
  figure.legend(loc='outside lower right', fontsize='small', ncols=2)
  if timed:
    for axis in axes[1]:
      axis.remove()
    axis = figure.add_subplot(axes[1, 0].get_gridspec()[1, :])
    _draw_signal(axis, e)
  verdict = 'abnormal' if e.score > e.threshold else 'normal'
  line = f'{title}\n' if title else ''
  figure.suptitle(
    f'{line}{verdict}: p = {e.p_value:.2g}, score {e.score:.3g} (normals '
    f'{e.reference:.3g})'
  )
  return figure


def _beyond(x, normals):
  """Where values lie: -1 to 1 is the normals' range, 2 is ten halves of it.

  A constant column has no range: what differs is at the end of the scale.
  """
  with np.errstate(all='ignore'):
    gone = np.isnan(normals).all(0)
    known = np.where(gone, 0, normals)
    low, high = np.nanmin(known, 0), np.nanmax(known, 0)
    middle = low / 2 + high / 2
    far = (x - middle) / (high / 2 - low / 2)
    far = np.where(x == middle, 0, far)
    outside = np.sign(far) * (1 + np.log10(np.abs(far)))
    return np.clip(np.where(np.abs(far) > 1, outside, far), -4, 4)


def _value(e, c):
  own = e.words.get(e.names[c])
  return _told(e, c, e.row[c]) if own is None else repr(own)


def _draw_signal(axis, e):
  """The window and the normals; the darker, the more a stretch explains."""
  share = np.maximum(e.times, 0) / max(e.times.max(), 1e-12)
  for begin, end, part in zip(e.seconds, e.seconds[1:], share, strict=False):
    axis.axvspan(begin, end, color='tab:orange', alpha=0.5 * part, linewidth=0)
  length = len(e.signal)
  time = np.arange(length) * (e.seconds[-1] / length)
  for low, high in zip(e.usual.min(0).T, e.usual.max(0).T, strict=True):
    axis.fill_between(time, low, high, color='grey', alpha=0.3, linewidth=0)
  axis.plot(time, e.signal, color='tab:red', linewidth=1.2)
  axis.margins(x=0)
  axis.set_xlabel(
    f'time in {e.time_unit}; grey: the normals; orange: what explains the score'
  )
  axis.set_ylabel('signal')


def png(explanation: Explanation, title: str = '') -> bytes:
  """The picture as a file."""
  from PIL import Image  # matplotlib brings it, and is as late

  held, small = io.BytesIO(), io.BytesIO()
  picture(explanation, title=title).savefig(held, format='png', dpi=90)
  image = Image.open(held).convert('RGB').quantize(256)  # half of the bytes
  image.save(small, 'png', optimize=True)
  return small.getvalue()


def segments(length: int, most: int = 16) -> np.ndarray:
  """[length] int: which of up to `most` equal stretches a sample is in."""
  return np.arange(length) * min(length, most) // length
