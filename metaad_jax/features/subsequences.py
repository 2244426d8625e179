"""How unlike the healthy part every stretch of a series is.

Windows of a few lengths, taken from the period of the series, are described in
a few ways that forget different things (the mean, the size, what is slow), and
each is compared with its nearest window of the healthy part (semi-supervised
discords: Yeh et al., Matrix Profile I, ICDM 2016). The largest distance of a
healthy window to the others makes the ways comparable, so that the highest of
them is the score.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage, signal

POINTS = 32  # that a window is resampled to
SCALES = (0.25, 0.5, 1.0)  # lengths of windows, in periods
VIEWS = ('level', 'shape', 'shape without its size', 'fast changes')
_CHUNK = 1024  # windows that are compared at once
_BANK = 2048  # healthy windows that are kept; fewer of many channels
_FLOOR = 1e-4  # distances of copies, in standard deviations of the series


class Scale(NamedTuple):
  """The healthy windows of one length.

  Attributes:
    length: L, samples of a window.
    bank: [N, C, POINTS] float32, the windows.
    starts: [N] where each begins in the healthy part.
    farthest: [views, C or C + 1] logarithm of the largest distance of a
      healthy window to the others that do not overlap it; the last column of
      several channels is of all of them together.
  """

  length: int
  bank: np.ndarray
  starts: np.ndarray
  farthest: np.ndarray


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
  """Windows of a series [T, C], resampled by averages: [N, C, POINTS] float32.

  Windows shorter than `POINTS` are interpolated.
  """
  total = np.concatenate([np.zeros((1, x.shape[1])), np.cumsum(x, 0)])
  edges = starts[:, None] + np.linspace(0, length, POINTS + 1)
  whole = np.minimum(edges.astype(int), len(x) - 1)
  part = (edges - whole)[..., None]
  sums = total[whole] + part * x[whole]
  means = np.diff(sums, axis=1) / (length / POINTS)
  return np.moveaxis(means, 1, 2).astype(np.float32)


def _describe(w, typical, xp=jnp):
  """[N, C, P] windows -> [views, C, N, P]; `typical` [C] is their deviation."""
  centred = w - w.mean(-1, keepdims=True)
  size = xp.maximum(centred.std(-1), 0.1 * typical)[..., None]
  steps = xp.diff(w, axis=-1, prepend=w[..., :1])
  views = xp.stack([w, centred, centred / size, steps])
  return xp.swapaxes(views, 1, 2) / POINTS**0.5


@jax.jit
def _nearest(bank, kept, starts, typical, queries, at, apart):
  """Distance to the nearest kept window at least `apart` samples away.

  bank [N, C, P], kept [N] bool, starts [N], typical [C] deviation, queries
  [M, C, P], at [M] -> [views, C, M], or C + 1 of several channels: the last is
  of all of them together.
  """
  reference, asked = _describe(bank, typical), _describe(queries, typical)
  excluded = ~kept | (jnp.abs(at[:, None] - starts) < apart)

  def of_view(pair):  # [C, M, P], [C, N, P]
    def of_channel(total, channel):
      q, r = channel
      product = jnp.matmul(q, r.T, precision='highest')
      squares = (q**2).sum(-1)[:, None] + (r**2).sum(-1) - 2 * product
      squares = jnp.where(excluded, jnp.inf, squares)
      return total + squares, squares.min(-1)

    zero = jnp.zeros(excluded.shape, bank.dtype)
    total, least = jax.lax.scan(of_channel, zero, pair)
    if len(least) == 1:
      return least
    return jnp.concatenate([least, total.min(-1)[None] / len(least)])

  least = jax.lax.map(of_view, (asked, reference))
  return jnp.sqrt(jnp.maximum(least, _FLOOR**2))


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
  for first in range(0, len(starts), _CHUNK):
    some = starts[first : first + _CHUNK]
    part = x[some[0] : some[-1] + scale.length + 1]
    queries = pad(windows(part, some - some[0], scale.length), _CHUNK)
    least = _nearest(
      bank, kept, begins, deviation, queries, pad(some + at, _CHUNK), apart
    )
    done = slice(first, first + len(some))
    yield done, np.asarray(least)[..., : len(some)]


class Comparison:
  """One window at a time against the healthy ones of a length, by NumPy."""

  def __init__(self, scale: Scale, deviation: np.ndarray):
    self.scale, self._deviation = scale, deviation.astype(np.float32)
    self._views = _describe(scale.bank, self._deviation, np)
    self._squares = (self._views**2).sum(-1)

  def __call__(self, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A window [L, C] -> [views, C or C + 1] log ratios as in `score`.

    And the number of the nearest healthy window for each of them.
    """
    w = windows(window, np.zeros(1, int), self.scale.length)
    asked = _describe(w, self._deviation, np)[:, :, 0]
    product = (self._views @ asked[..., None])[..., 0]
    squares = (asked**2).sum(-1)[..., None] + self._squares - 2 * product
    if squares.shape[1] > 1:
      together = squares.mean(1, keepdims=True)
      squares = np.concatenate([squares, together], 1)
    nearest = squares.argmin(-1)
    least = np.take_along_axis(squares, nearest[..., None], -1)[..., 0]
    ratio = np.log(np.maximum(least, _FLOOR**2)) / 2 - self.scale.farthest
    return ratio, nearest


def fit(
  stretches: Sequence[np.ndarray], base: int, seed: int = 0
) -> tuple[np.ndarray, tuple[Scale, ...]]:
  """The healthy windows of every length, shortest first.

  Args:
    stretches: [T, C] each, standardized.
    base: samples of a period.
    seed: of the choice of windows, where there are more than are kept.

  Returns:
    [C] the typical deviation of a window of a period, and the scales.
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
  return deviation, tuple(reversed(scales))


def score(
  scales: Sequence[Scale], deviation: np.ndarray, x: np.ndarray,
  apart: int = 0, at: int = 0,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
  """The score of every time stamp of a series [T, C], standardized.

  Args:
    scales, deviation: of `fit`.
    x: the series, at least as long as the shortest windows.
    apart: > 0 for a stretch of the healthy part: its windows are compared with
      those that begin at least so many samples away, and do not overlap.
    at: where it begins there.

  Returns:
    [T] logarithm of how much farther it is from the healthy part than any
    healthy window is from the others, half of it averaged over half a period:
    one far window alone may be noise. And [T] which view is the farthest: the
    index into [scales, views, channels].
  """
  tracks = []
  for scale in scales:
    last = len(x) - scale.length
    starts = np.unique(np.r_[0 : last : hop(scale), last])
    tracks.append(_track(scale, deviation, x, starts[starts >= 0], apart, at))
  return of_stamps(scales, tracks, len(x))


def _track(scale, deviation, x, starts, apart, at):
  """[3, n] of the windows at `starts`; see `of_stamps`."""
  track = np.zeros((3, len(starts)))
  gap = max(apart, scale.length) if apart else 0
  for done, least in _distances(scale, deviation, x, starts, gap, at):
    ratio = np.log(least) - scale.farthest[..., None]
    ratio = ratio.reshape(-1, ratio.shape[-1])
    track[:, done] = starts[done], ratio.max(0), ratio.argmax(0)
  return track


def arriving(
  scales: Sequence[Scale], deviation: np.ndarray, x: np.ndarray, apart: int,
  at: int,
) -> np.ndarray:  # fmt: skip
  """[T] what `score` says of each time stamp when it is the last that came.

  Arguments of `score`; NaN before the first window is complete.
  """
  tracks = [
    _track(s, deviation, x, np.arange(len(x) - s.length + 1), apart, at)
    for s in scales
  ]
  scores = np.full(len(x), np.nan)
  for size in range(scales[0].length, len(x) + 1):
    first, some = max(0, size - 1 - blend(scales)), []
    for scale, track in zip(scales, tracks, strict=True):
      last = size - scale.length
      low = max(0, first - scale.length - 2 * hop(scale))
      low -= low % hop(scale)
      which = np.unique(np.r_[low : last : hop(scale), last])
      some.append(track[:, which[which >= 0]])
    scores[size - 1] = of_stamps(scales, some, size, first)[0][-1]
  return scores


def hop(scale: Scale) -> int:
  """Samples between the starts of two windows that are scored."""
  return max(1, scale.length // 8)


def blend(scales: Sequence[Scale]) -> int:
  """Samples that half of a score is averaged over."""
  return max(1, scales[-1].length // 2)


def of_stamps(
  scales: Sequence[Scale], tracks: Sequence[np.ndarray], size: int,
  first: int = 0,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
  """Scores of time stamps from those of windows; see `score`.

  Args:
    scales: of `fit`.
    tracks: for each scale [3, n]: where windows start, the highest logarithm of
      a ratio, and its number among [views, channels].
    size: T, time stamps of the series.
    first: the first one that is asked for; of what lies before it only what is
      less than `blend` away counts.
  """
  stamps = np.arange(first, size)
  best = np.full(len(stamps), -np.inf, np.float32)
  which = np.zeros(len(stamps), np.int64)
  for number, (scale, (starts, high, index)) in enumerate(
    zip(scales, tracks, strict=True)
  ):
    if not len(starts):
      continue
    centres = starts + (scale.length - 1) / 2
    values = np.interp(stamps, centres, high)
    nearest = np.searchsorted((centres[1:] + centres[:-1]) / 2, stamps)
    higher = values > best
    best[higher] = values[higher]
    which[higher] = (number * scale.farthest.size + index[nearest])[higher]
  width = min(blend(scales), size)
  smooth = ndimage.uniform_filter1d(best, width, mode='nearest')
  return (best + smooth) / 2, which
