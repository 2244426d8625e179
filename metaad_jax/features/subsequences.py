"""How unlike the healthy part every stretch of a series is.

Windows of a few lengths, taken from the period of the series, are described in
a few ways that forget different things (the mean, the size, what is slow, the
phase), and each is compared with its nearest window of the healthy part
(semi-supervised discords: Yeh et al., Matrix Profile I, ICDM 2016). The largest
distance of a healthy window to the others makes the ways comparable. Beside
them stands how far a value is from what those before it foretell (`forecasts`).
What of all that makes up the score, and averaged over how long, is learned over
many recordings (`weights`; `training.series_weights`).
"""

import collections
from collections.abc import Sequence
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage, signal

from metaad_jax.base import DataError
from metaad_jax.features import forecasts
from metaad_jax.features.forecasts import Forecast

POINTS = 32  # that a window is resampled to; short ones to fewer
SCALES = (0.25, 0.5, 1.0, 2.0)  # lengths of windows, in periods
VIEWS = (
  'level', 'shape', 'shape without its size', 'fast changes', 'spectrum'
)  # fmt: skip
NAMED = 4  # of the views, and all scales but the longest: what reasons name
# What is made of the comparisons around a time stamp: the highest of all, what
# of it is above every healthy one, that of the shortest windows; of the longest
# ones spectrum and level (of the farthest channel, and of all together); means
# over all windows, and errors of the forecast (both likewise).
COMPONENTS = (
  'highest', 'excess', 'short', 'spectrum', 'level', 'level together', 'mean',
  'mean together', 'forecast', 'forecast together',
)  # fmt: skip
WIDTHS = (0.0, 0.5, 1.0, 2.0, 4.0)  # averages of those, in periods
TRACK = 8  # numbers of a window: see `_track`
_CHUNK = 1024  # windows that are compared at once
_BLOCK = 1 << 18  # time stamps that are held at once
_AHEAD = 2  # chunks that are begun before one is waited for: on other cores
_BANK = 2048  # healthy windows that are kept; fewer of many channels
_ABSENT = 1e30  # square of a distance to no window
_FLOOR = 1e-4  # distances of copies, in standard deviations of the series


class Scale(NamedTuple):
  """The healthy windows of one length.

  Attributes:
    length: L, samples of a window.
    bank: [N, C, P] float32, the windows.
    starts: [N] where each begins in the healthy part.
    farthest: [views, C or C + 1] logarithm of the largest distance of a
      healthy window to the others that do not overlap it; the last column of
      several channels is of all of them together.
  """

  length: int
  bank: np.ndarray
  starts: np.ndarray
  farthest: np.ndarray


class Healthy(NamedTuple):
  """What is known of the healthy part.

  Attributes:
    scales: its windows, the shortest first.
    deviation: [C] the typical one of a window of a period.
    forecast: what foretells its values.
  """

  scales: tuple[Scale, ...]
  deviation: np.ndarray
  forecast: Forecast


def period(x: np.ndarray, shortest: int = 8, longest: int = 1000) -> int:
  """The samples after which a series [T] or [T, C] repeats itself best.

  The first peak of the autocorrelation within a tenth of the highest one; the
  median over channels; 125 where no channel has a peak.
  """
  x = np.asarray(x, np.float64).reshape(len(x), -1)[:20000]
  found = []
  for channel in (x - x.mean(0)).T:
    last = min(longest, len(channel) // 3)
    power = np.abs(np.fft.rfft(channel, 2 * len(channel))) ** 2
    correlation = np.fft.irfft(power)[: last + 1]
    peaks, _ = signal.find_peaks(correlation)
    peaks = peaks[(peaks >= shortest) & (correlation[peaks] > 0)]
    if len(peaks):
      high = correlation[peaks] > 0.9 * correlation[peaks].max()
      found.append(peaks[high][0])
  return int(np.median(found)) if found else 125


def windows(x: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
  """Windows of a series [T, C], resampled by averages: [N, C, P] float32.

  P is `POINTS`, or the power of two from 8 on that is not below `length`;
  windows shorter than that are interpolated.
  """
  points = min(POINTS, 1 << max(3, (length - 1).bit_length()))
  total = np.concatenate([np.zeros((1, x.shape[1])), np.cumsum(x, 0)])
  edges = starts[:, None] + np.linspace(0, length, points + 1)
  whole = np.minimum(edges.astype(int), len(x) - 1)
  part = (edges - whole)[..., None]
  sums = total[whole] + part * x[whole]
  means = np.diff(sums, axis=1) / (length / points)
  return np.moveaxis(means, 1, 2).astype(np.float32)


def _describe(w, typical, xp=jnp):
  """[N, C, P] windows -> [C, N, P] for each view, P / 2 for the spectrum.

  `typical` [C] is their deviation.
  """
  centred = w - w.mean(-1, keepdims=True)
  size = xp.maximum(centred.std(-1), 0.1 * typical)[..., None]
  steps = xp.diff(w, axis=-1)
  lines = xp.abs(xp.fft.rfft(centred, axis=-1, norm='ortho'))[..., 1:]
  views = w, centred, centred / size, steps, lines
  scaled = lambda x: (xp.swapaxes(x, 0, 1) / w.shape[-1] ** 0.5).astype(w.dtype)
  return [scaled(x) for x in views]


@functools.partial(jax.jit, static_argnames='inside')
def _nearest(bank, kept, starts, typical, queries, at, apart, inside):
  """Distance to the nearest kept window at least `apart` samples away.

  bank [N, C, P], kept [N] bool, starts [N], typical [C] deviation, queries
  [M, C, P], at [M], `inside` whether `apart` counts -> [views, C, M], or C + 1
  of several channels: the last is of all of them together.
  """
  reference, asked = _describe(bank, typical), _describe(queries, typical)
  near = jnp.abs(at - starts[:, None]) < apart

  def least(squares):  # [N, M] -> [M]
    if inside:
      squares = jnp.where(near, jnp.inf, squares)
    return squares.min(0)

  def of_channel(total, pair):  # [N, M], ([N, P], [M, P])
    r, q = pair
    # One product for r^2 - 2 r q: nothing of [N, M] is written but for it.
    norm = jnp.where(kept, (r**2).sum(-1), _ABSENT)
    r = jnp.concatenate([r, norm[:, None]], -1)
    q1 = jnp.concatenate([-2 * q, jnp.ones_like(q[:, :1])], -1)
    squares = jnp.matmul(r, q1.T, precision='highest')
    return total + squares, least(squares) + (q**2).sum(-1)

  def of_view(r, q):  # [C, N, P], [C, M, P]
    none = jnp.zeros((len(kept), len(at)), r.dtype)
    if len(r) == 1:
      return of_channel(none, (r[0], q[0]))[1][None]
    total, each = jax.lax.scan(of_channel, none, (r, q))
    whole = least(total) + (q**2).sum((0, 2))
    return jnp.concatenate([each, whole[None] / len(each)])

  every = zip(reference, asked, strict=True)
  squares = jnp.stack([of_view(r, q) for r, q in every])
  squares = jnp.where(squares > _ABSENT / 2, jnp.inf, squares)
  return jnp.sqrt(jnp.maximum(squares, _FLOOR**2))


def _distances(scale, deviation, x, starts, apart=0, at=0):
  """Distances of windows to the nearest healthy ones, in chunks of one shape.

  Windows of x [T, C] that begin at `starts` [N]; `at` is where x begins in the
  healthy part if it is from there, and healthy windows that begin less than
  `apart` samples away do not count. Yields a slice and [views, C or C + 1, n].
  """
  room = 1 << max(8, (len(scale.bank) - 1).bit_length())
  pad = lambda a, size: np.pad(
    a, [(0, size - len(a))] + [(0, 0)] * (a.ndim - 1)
  )
  bank, begins = pad(scale.bank, room), pad(scale.starts, room)
  kept = np.arange(room) < len(scale.bank)
  running: collections.deque = collections.deque()
  for first in range(0, len(starts), _CHUNK):
    some = starts[first : first + _CHUNK]
    part = x[some[0] : some[-1] + scale.length + 1]
    queries = pad(windows(part, some - some[0], scale.length), _CHUNK)
    least = _nearest(
      bank, kept, begins, deviation, queries, pad(some + at, _CHUNK), apart,
      apart > 0,
    )  # fmt: skip
    running.append((slice(first, first + len(some)), least))
    if len(running) > _AHEAD:
      yield _done(*running.popleft())
  for pair in running:
    yield _done(*pair)


def _done(part, least):
  return part, np.asarray(least)[..., : part.stop - part.start]


class Comparison:
  """One window at a time against the healthy ones of a length, by NumPy."""

  def __init__(self, scale: Scale, deviation: np.ndarray):
    self.scale, self._deviation = scale, deviation.astype(np.float32)
    views = _describe(scale.bank, self._deviation, np)
    self._views = list(map(np.ascontiguousarray, views))
    self._squares = [(view**2).sum(-1) for view in self._views]
    # What `windows` makes of one, as a product.
    unit = np.eye(scale.length)
    self._means = windows(unit, np.zeros(1, int), scale.length)[0].astype(float)

  def __call__(self, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A window [L, C] -> [views, C or C + 1] log ratios as in `score`.

    And the number of the nearest healthy window for each of them.
    """
    w = (window.T @ self._means).astype(np.float32)
    asked = _describe(w[None], self._deviation, np)
    squares = np.stack([
      (q**2).sum(-1) + known - 2 * (r @ np.swapaxes(q, 1, 2))[..., 0]
      for r, known, q in zip(self._views, self._squares, asked, strict=True)
    ])  # fmt: skip
    if squares.shape[1] > 1:
      together = squares.mean(1, keepdims=True)
      squares = np.concatenate([squares, together], 1)
    nearest = squares.argmin(-1)
    least = np.take_along_axis(squares, nearest[..., None], -1)[..., 0]
    ratio = np.log(np.maximum(least, _FLOOR**2)) / 2 - self.scale.farthest
    return ratio, nearest


def fit(stretches: Sequence[np.ndarray], base: int, seed: int = 0) -> Healthy:
  """Takes in the healthy windows of every length, and fits the forecast.

  Args:
    stretches: [T, C] each, standardized.
    base: samples of a period.
    seed: of the choice of windows, where there are more than are kept.
  """
  random = np.random.default_rng(seed)
  shortest, joined = min(map(len, stretches)), np.concatenate(stretches)
  ends = np.cumsum([len(x) for x in stretches])
  scales, deviation = [], np.zeros(0)
  for part in sorted(SCALES, reverse=True):
    length = int(np.clip(round(part * base), 4, max(4, shortest // 3)))
    starts = np.concatenate(
      [
        np.arange(end - len(x), end - length + 1)
        for x, end in zip(stretches, ends, strict=True)
      ]
    )
    room = max(256, _BANK // max(1, joined.shape[1] // 4))
    if len(starts) > room:
      starts = np.sort(random.choice(starts, room, replace=False))
    bank = windows(joined, starts, length)
    if not len(deviation):
      deviation = np.median(bank.std(-1), 0) + _FLOOR
    scale = Scale(length, bank, starts, np.zeros(1))
    farthest = [
      np.where(np.isfinite(least), least, _FLOOR).max(-1)
      for _, least in _distances(scale, deviation, joined, starts, length)
    ]
    scales.append(scale._replace(farthest=np.log(np.max(farthest, 0))))
  forecast = forecasts.fit(stretches, scales[0].length)
  return Healthy(tuple(reversed(scales)), deviation, forecast)


def score(
  healthy: Healthy, x: np.ndarray, weights: np.ndarray, apart: int = 0,
  at: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
  """The score of every time stamp of a series [T, C], standardized.

  Args:
    healthy: of `fit`.
    x: the series, at least as long as the shortest windows.
    weights: [COMPONENTS, WIDTHS], sum 1.
    apart: > 0 for a stretch of the healthy part: its windows are compared with
      those that begin at least so many samples away, and do not overlap.
    at: where it begins there.

  Returns:
    [T] a weighted mean of logarithms of how much farther it is from the healthy
    part than any healthy window is from the others. [T] what is the farthest:
    the index into [scales, views, channels], and beyond it that of `forecasts`.
    And [T] the highest logarithm there, of no neighbours: above 0 nothing
    healthy is as far.
  """
  scores, which = np.zeros(len(x)), np.zeros(len(x), np.int32)
  highest, margin = np.zeros(len(x), np.float32), blend(healthy.scales)
  for begin in range(0, len(x), _BLOCK):
    end = min(begin + _BLOCK, len(x))
    first, size = max(0, begin - margin), min(end + margin, len(x))
    some = tracks(healthy, x, apart, at, first, size)
    made = of_stamps(healthy.scales, some, size, weights, first)
    inner = slice(begin - first, end - first)
    scores[begin:end], which[begin:end], highest[begin:end] = (
      part[inner] for part in made
    )
  return scores, which, highest


def tracks(
  healthy: Healthy, x: np.ndarray, apart: int = 0, at: int = 0,
  first: int = 0, size: int | None = None,
) -> list[np.ndarray]:  # fmt: skip
  """Of each scale [TRACK, n] what is said of its windows; then the forecast's.

  As `score`; what matters for the time stamps from `first` to `size`.
  """
  size, made = len(x) if size is None else size, []
  for scale in healthy.scales:
    last, step = len(x) - scale.length, hop(scale)
    low, high = max(0, first - scale.length) // step * step, size + step
    starts = np.unique(np.r_[low : min(last, high) : step, min(last, high)])
    starts = starts[(starts >= 0) & (starts <= last)]
    made.append(_track(scale, healthy.deviation, x, starts, apart, at))
  return [*made, _foretold(healthy.forecast, x, apart, at, first, size)]


def _foretold(forecast, x, apart, at, first, size):
  if apart:
    return forecast.inside[:, at + first : at + size]
  begin = max(0, first - forecast.lags)
  return forecasts.track(forecast, x[begin:size])[:, first - begin :]


def _track(scale, deviation, x, starts, apart, at):
  """[TRACK, n] of the windows at `starts`; see `of_window`."""
  track = np.zeros((TRACK, len(starts)))
  gap = max(apart, scale.length) if apart else 0
  for done, least in _distances(scale, deviation, x, starts, gap, at):
    ratio = np.log(least) - scale.farthest[..., None]
    if not np.isfinite(ratio).all():  # nothing is so far away
      ratio = np.where(np.isfinite(ratio), ratio, 0)
    track[:, done] = of_window(starts[done], ratio)
  return track


def of_window(start: np.ndarray, ratio: np.ndarray) -> np.ndarray:
  """[TRACK, n] of windows that begin at `start` [n].

  Their starts, the number of the highest logarithm of a ratio, of [views, C or
  C + 1, n], among those that reasons name; that; the means over views of the
  farthest channel and of all together; their spectrum together, and their level
  by the farthest channel and together.
  """
  own = ratio[:NAMED].reshape(-1, ratio.shape[-1])
  channels = ratio[:, :-1] if ratio.shape[1] > 1 else ratio
  far, together = channels.max(1), ratio[:, -1]
  return np.stack([
    start, own.argmax(0), own.max(0), far.mean(0), together.mean(0),
    together[NAMED], far[0], together[0],
  ])  # fmt: skip


def arriving(
  healthy: Healthy, x: np.ndarray, weights: np.ndarray, apart: int, at: int
) -> np.ndarray:
  """[T] what `score` says of each time stamp when it is the last that came.

  Arguments of `score`; NaN before the first window is complete.
  """
  scales = healthy.scales
  every = [
    _track(s, healthy.deviation, x, np.arange(len(x) - s.length + 1), apart, at)
    for s in scales
  ]
  foretold = _foretold(healthy.forecast, x, apart, at, 0, len(x))
  scores = np.full(len(x), np.nan)
  for size in range(scales[0].length, len(x) + 1):
    first, some = max(0, size - 1 - blend(scales)), []
    for scale, track in zip(scales, every, strict=True):
      last = size - scale.length
      low = max(0, first - scale.length - 2 * hop(scale))
      low -= low % hop(scale)
      which = np.unique(np.r_[low : last : hop(scale), last])
      some.append(track[:, which[which >= 0]])
    some.append(foretold[:, first:size])
    scores[size - 1] = of_stamps(scales, some, size, weights, first)[0][-1]
  return scores


def checked(weights: np.ndarray) -> np.ndarray:
  """Weights that sum to 1, [COMPONENTS, WIDTHS] float64.

  Raises:
    DataError: if they are not of that shape, are negative or all zero.
  """
  weights = np.asarray(weights, np.float64)
  shape = len(COMPONENTS), len(WIDTHS)
  if weights.shape != shape or not (weights >= 0).all() or not weights.sum():
    raise DataError(
      f'weights {weights.shape}: give numbers {shape}, 0 or more, not all 0'
    )
  total = weights.sum()
  return weights if abs(total - 1) < 1e-9 else weights / total


def hop(scale: Scale) -> int:
  """Samples between the starts of two windows that are scored."""
  return max(1, round(scale.length / 4))


def _width(scales, periods):
  """Samples of an average over periods."""
  return max(1, int(periods * scales[SCALES.index(1.0)].length))


def blend(scales: Sequence[Scale]) -> int:
  """Samples on either side that a score is averaged over."""
  return _width(scales, max(WIDTHS)) // 2


def of_stamps(
  scales: Sequence[Scale], tracks: Sequence[np.ndarray], size: int,
  weights: np.ndarray, first: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
  """Scores of time stamps from those of windows; see `score`.

  Args:
    scales: of `fit`.
    tracks: of each scale [TRACK, n], as of `of_window`; and [.., n] of the
      forecast, of the last n time stamps.
    size: T, time stamps of the series.
    weights: [COMPONENTS, WIDTHS].
    first: the first one that is asked for; of what lies before it only what is
      less than `blend` away counts.
  """
  stamps = np.arange(first, size)
  components, which = _components(scales, tracks, stamps)
  total = np.zeros(len(stamps))
  for share, periods in zip(weights.T, WIDTHS, strict=True):
    if share.any():
      total += _averaged(scales, share @ components, periods, size)
  return total, which, components[0]


def spread(
  scales: Sequence[Scale], tracks: Sequence[np.ndarray], size: int
) -> np.ndarray:
  """[COMPONENTS, WIDTHS, T] float32: what `weights` weigh; as `of_stamps`."""
  made, _ = _components(scales, tracks, np.arange(size))
  wide = [_averaged(scales, made, periods, size) for periods in WIDTHS]
  return np.stack(wide, 1).astype(np.float32)


def _averaged(scales, x, periods, size):
  width = min(_width(scales, periods), size)
  return ndimage.uniform_filter1d(x, width, mode='nearest') if width > 1 else x


def _components(scales, tracks, stamps):
  """[COMPONENTS, n] of time stamps, and [n] the number of the highest."""
  highest = np.full(len(stamps), -np.inf, np.float32)
  which = np.zeros(len(stamps), np.int64)
  short, long, means, some = None, None, np.zeros((2, len(stamps))), 0
  *tracks, foretold = tracks
  for number, (scale, track) in enumerate(zip(scales, tracks, strict=True)):
    if not track.shape[1]:
      continue
    centres = track[0] + (scale.length - 1) / 2
    at = lambda row, centres=centres, track=track: np.interp(
      stamps, centres, track[row]
    )
    means += np.stack([at(3), at(4)])
    some += 1
    long = np.stack([at(5), at(6), at(7)]).astype(np.float32)
    if number < len(scales) - 1:
      nearest = np.searchsorted((centres[1:] + centres[:-1]) / 2, stamps)
      values = at(2).astype(np.float32)
      short = values if short is None else short
      higher = values > highest
      highest[higher] = values[higher]
      index = number * scale.farthest.size + track[1][nearest].astype(int)
      which[higher] = index[higher]
  far, together, column = foretold[:, foretold.shape[1] - len(stamps) :]
  values = np.maximum(far, together).astype(np.float32)
  which = np.where(
    values > highest, len(scales) * scales[0].farthest.size + column, which
  ).astype(int)
  high = _soft(np.maximum(highest, values))
  made = np.stack(
    [high, np.maximum(high, 0), _soft(short), *_soft(long),
     *_soft(means / some), _soft(far), _soft(together)]
  )  # fmt: skip
  return made, which


def _soft(x):
  """What is many times too far counts for less than its logarithm."""
  return np.clip(np.where(x > 2.5, 2.5 + (x - 2.5) / 4, x), -3, 6)
