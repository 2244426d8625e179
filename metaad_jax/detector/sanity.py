"""Scores that make sense, whatever a learner makes of a few rows.

Before the learner, `Reading`: rounding in a column that does not vary is no
difference, and float32 is given what it can hold. Behind it, `Guard`: a value
far outside what is known always tells, and more so the farther it is; a copy
of a verified normal row, or one within measurement noise, never is an outlier.
NumPy and SciPy alone, so that an exported detector does the same.
"""

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import NamedTuple
import warnings

import numpy as np

_LARGE = 1e15  # float32 holds more, but not the squares of more
_LIMIT = 1e18  # what is farther out is moved here
_ROUNDING = 1e-13  # of the size: what varies by less is constant, as 0.1 + 0.2
_TINY = 1e-12  # multiples of 2^-60 below this are what is left of differences
_RANGES = 1e3  # beyond the known values: farther out, learners see no more
_ABSURD = 3e5, 9e5  # ranges: from here an outlier by degrees, and certainly
_RISE = 0.05, 30.0  # of the score for a power of ten, from about so many
_MEASURED = 5  # values of a column at least, if rows are to be copies
NOISE = 0.03, 0.12  # of a column's deviation: a copy, and no copy any more


class Reading(NamedTuple):
  """How rows are read: six of [d], or of [1] for all columns, and words.

  x becomes (x - centre) * unit, but stays within `low` and `high`, and at
  `constant` where it is within `noise` of it.
  Codes of words first become ranks, see `ranks`.
  """

  centre: np.ndarray
  unit: np.ndarray
  constant: np.ndarray
  noise: np.ndarray
  low: np.ndarray
  high: np.ndarray
  words: np.ndarray = np.zeros(0, int)  # [W] numbers of the columns of codes
  ranks: np.ndarray = np.zeros((0, 1))  # [W, L] of the codes; the last: unseen

  def __call__(self, x: np.ndarray) -> np.ndarray:
    """Rows [n, ..., d] float64 -> float32 for the learner."""
    x = ranked(x, self.words, self.ranks)
    with np.errstate(over='ignore', invalid='ignore'):
      same = np.abs(x - self.constant) <= self.noise
      x = np.where(same, self.constant, x)
      x = (np.clip(x, self.low, self.high) - self.centre) * self.unit
    return np.clip(x, -_LIMIT, _LIMIT).astype(np.float32)

  def undone(self, x: np.ndarray) -> np.ndarray:
    """[n, d] float64 of what was read; ranks of words stay as they are."""
    return x.astype(np.float64) / self.unit + self.centre


AS_IS = Reading(*(np.full(1, v) for v in (0.0, 1.0, 0.0, 0.0, -np.inf, np.inf)))


def ranked(x: np.ndarray, words: np.ndarray, ranks: np.ndarray) -> np.ndarray:
  """Rows [n, d] with codes replaced, see `Reading`; missing stays missing."""
  if len(words):
    x, codes = x.copy(), x[:, words]
    places = np.clip(np.nan_to_num(codes), 0, ranks.shape[1] - 1).astype(int)
    known = ranks[np.arange(len(words)), places]
    x[:, words] = np.where(np.isnan(codes), np.nan, known)
  return x


def ranks(x: np.ndarray, words: np.ndarray) -> np.ndarray:
  """[W, L] ranks of the codes 0, 1, ... of words: the most frequent come first.

  Among codes as frequent what else is in their rows decides, by a hash, so that
  neither names nor the orders of levels, rows or columns count; x is [n, d].
  """
  counts, keys = _counts(x, words), row_keys(x, words)
  found = np.zeros(counts.shape)
  for i, column in enumerate(words):
    tied = np.zeros(counts.shape[1], np.uint64)
    there = ~np.isnan(x[:, column])
    np.add.at(tied, x[there, column].astype(int), keys[there])
    order = np.stack([-counts[i], tied.astype(np.float64)])
    found[i] = np.unique(order, axis=1, return_inverse=True)[1].ravel()
  return found


def _counts(x, words):
  """[W, L] float64, how many rows have each code; none has the last."""
  size = int(np.nan_to_num(x[:, words]).max(initial=-1)) + 2
  count = lambda codes: np.bincount(codes[codes >= 0].astype(int), None, size)
  return np.array([count(codes) for codes in x[:, words].T], np.float64)


def row_keys(x: np.ndarray, words: np.ndarray) -> np.ndarray:
  """`order_keys` that the order of the words does not matter to, either."""
  return order_keys(ranked(x, words, _counts(x, words)) if len(words) else x)


def order_keys(x: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
  """[n] uint64, a hash of each row [n, ...] that no order has a part in.

  Neither the order of the rows nor that of the columns; sorted by it, rows are
  shuffled, always in the same way. Of several tables, one below the other,
  `start` says where each begins.
  """
  flat = _flat(np.where(np.isnan(x), np.pi, x + 0.0))
  bits = np.ascontiguousarray(flat, np.float64).view(np.uint64)
  columns = _mixed(bits)
  if start is None:
    return _mixed(bits ^ columns.sum(0)).sum(1)
  sums = np.add.reduceat(columns, start, 0)
  rows = np.diff(np.append(start, len(bits)))
  return _mixed(bits ^ np.repeat(sums, rows, 0)).sum(1)


def originals(x: np.ndarray, y: np.ndarray, words: np.ndarray) -> np.ndarray:
  """[n] the first row that is the same as this one, in values and label.

  Only a column of measured values, which do not come again by chance, shows
  that rows are copies; without one, every row is its own.
  """
  flat = np.ascontiguousarray(_flat(np.where(np.isnan(x), np.pi, x + 0.0)))
  places = _mixed(np.arange(1, flat.shape[1] + 1, dtype=np.uint64))
  keys = _mixed(flat.view(np.uint64) ^ places).sum(1)
  pairs = np.stack([keys, y.astype(np.int64).view(np.uint64)], 1)
  _, first, group = np.unique(
    pairs, axis=0, return_index=True, return_inverse=True
  )
  if len(first) < len(x):
    some = np.delete(flat[first], words, axis=1)
    values = [len(np.unique(column)) for column in some.T]
    if max(values, default=0) >= max(_MEASURED, len(first) / 2):
      return first[group.ravel()]
  return np.arange(len(x))


def _mixed(z):
  """Splitmix64's finalizer, [...] uint64."""
  z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return z ^ (z >> np.uint64(31))


def reading(
  x: np.ndarray, guard: 'Guard', words: np.ndarray, ranks: np.ndarray
) -> Reading:
  """How rows are read beside those of the support, x [n, d].

  A table learner looks at differences and ratios, so a power of two changes
  nothing; a column that varies by less than 1e-4 of its size, such as a time
  of day in seconds since 1970, is shifted by its median, but not if all that
  varies is rounding.
  """
  x = ranked(x, words, ranks)
  with warnings.catch_warnings(), np.errstate(all='ignore'):
    warnings.simplefilter('ignore', RuntimeWarning)  # columns all missing
    never = np.isnan(x).all(0)
    low, high = (np.nan_to_num(f(x, 0)) for f in (np.nanmin, np.nanmax))
    span, centre = high / 2 - low / 2, np.zeros(x.shape[1])
    size = np.maximum(np.abs(low), np.abs(high))
    left = _left(x, size)
    same = (span <= _ROUNDING * size) | left
    noise = np.where(left, _TINY, 3e-7 * size) * (
      same & np.isfinite(guard.span)
    )
    narrow = ~same & (span < 1e-4 * size)
    if narrow.any():  # a median takes longer than all the rest
      median = np.nanmedian(x[:, narrow], 0)
      far = span[narrow] < 1e-4 * np.abs(median)
      centre[narrow] = np.where(far, median, 0.0)
      size = np.nan_to_num(np.nanmax(np.abs(x - centre), 0))
  odd = (size > _LARGE) | ((size < 1 / _LARGE) & (size > 0) & ~left)
  exponent = np.frexp(np.where(odd, size, 0.0))[1]
  unit = np.exp2(np.clip(-exponent, -1000, 1000).astype(np.float64))
  # Of a value where there never was one, that it is there is all it says.
  constant = np.where(never, 1.0, np.where(left, 0.0, high))
  noise = np.where(never, np.inf, noise)
  return Reading(centre, unit, constant, noise, *guard.limits, words, ranks)


@dataclasses.dataclass(frozen=True, eq=False)
class Guard:
  """What the scores of rows [n, ..., d] are held to; see `guard`."""

  low: np.ndarray  # [d] least and largest known values
  high: np.ndarray
  span: np.ndarray  # [d] between them; their size if 0, inf if in no order
  varies: np.ndarray  # [d] bool, whether they differ
  reach: np.ndarray  # [d] how far beyond them a learner is shown values
  spread: np.ndarray  # [D] deviation of what the verified rows have
  rows: np.ndarray  # [V, D] verified normal rows, in these units

  @property
  def limits(self) -> tuple[np.ndarray, np.ndarray]:
    """[d] the least and the largest value that a learner is shown."""
    return self.low - self.reach, self.high + self.reach

  @functools.cached_property
  def _tree(self):
    from scipy import spatial

    return spatial.cKDTree(self.rows)

  def far(self, x: np.ndarray) -> np.ndarray:
    """[2, n] ranges beyond the known values, where it is most.

    Among the columns that vary, and among all; one that does not is measured
    by its size, one of zeros by 1.
    """
    with np.errstate(all='ignore'):
      beyond = np.maximum(self.low - x, x - self.high) / self.span
      parts = beyond * self.varies, beyond
    return np.array([np.nan_to_num(_flat(b)).max(1).clip(0) for b in parts])

  def copies(self, x: np.ndarray) -> np.ndarray:
    """[n] 1 = a verified row but for noise, 0 = not, by degrees between."""
    if not len(self.rows):
      return np.zeros(len(x))
    near = {'p': np.inf, 'distance_upper_bound': NOISE[1]}
    return likeness(self._tree.query(placed(x, self.spread), **near)[0])

  def __call__(
    self, x: np.ndarray, scores: np.ndarray, bars: Callable[[], np.ndarray]
  ) -> np.ndarray:
    """[n] scores, higher = more abnormal, as they make sense.

    Args:
      x: [n, ..., d] the rows as they came.
      scores: [n] what the learner says.
      bars: gives three scores, asked for where they matter: a low one and a
        middling one of normals, and one that is an outlier's at any rate.
    """
    return held(scores, self.far(x), self.copies(x), bars)


def likeness(distance: np.ndarray) -> np.ndarray:
  """[n] 1 = a copy at so many deviations, 0 = none, by degrees between."""
  same, other = NOISE
  distance = np.clip(distance, same, other)
  return np.log(other / distance) / np.log(other / same)


def held(
  scores: np.ndarray,
  far: np.ndarray,
  copies: np.ndarray,
  bars: Callable[[], np.ndarray],
) -> np.ndarray:
  """See `Guard.__call__`; `far` [2, n] and `copies` [n] are what it finds."""
  far, farthest = far
  slope, start = _RISE
  begin, end = _ABSURD
  rise = slope * (np.log10(1 + far / start) + np.log10(1 + farthest / begin))
  absurd = np.log(np.maximum(farthest, begin) / begin) / np.log(end / begin)
  absurd = np.minimum(absurd, 1)
  if not (absurd.any() or copies.any()):
    return scores + rise
  low, middle, high = bars()
  scores = scores + absurd * np.maximum(high - scores, 0) + rise
  room = np.maximum(middle - low, 1e-9)
  most = low - room * np.expm1(-np.maximum(scores - low, 0) / room)
  most = np.minimum(most, middle)
  return scores - copies * np.maximum(scores - most, 0)


def guard(x: np.ndarray, y: np.ndarray, words: np.ndarray) -> Guard:
  """Reads rows of `fit`.

  Args:
    x: [n, ..., d] float64, NaN = missing.
    y: [n] 0 = verified normal, 1 = anomaly, -1 = unlabelled.
    words: numbers of the columns whose values are codes of words, [W].
  """
  with warnings.catch_warnings(), np.errstate(all='ignore'):
    warnings.simplefilter('ignore', RuntimeWarning)  # columns all missing
    known = x[y != 1].reshape(-1, x.shape[-1])
    low, high = np.nanmin(known, 0), np.nanmax(known, 0)
    size = np.maximum(np.abs(low), np.abs(high))
    varies = high - low > _ROUNDING * size
    none = _left(known, size)
    span = np.where(none, 1.0, np.where(varies, high - low, size))
    span[np.union1d(words, np.flatnonzero(np.isnan(low)))] = np.inf
    low, high = np.nan_to_num(low), np.nan_to_num(high)
    # What is usual cannot be said of one row, or of zeros.
    reach = np.where(none | (len(known) < 2), np.inf, _RANGES * span)
  flat = _flat(x)
  spread = _spread(flat[y == 0])
  spread.reshape(-1, x.shape[-1])[:, words] = 1.0
  bad = placed(flat[y == 1], spread)
  made = Guard(low, high, span, varies & ~none, reach, spread, bad)
  good = flat[y == 0]
  if len(bad):  # what resembles a known anomaly as much certifies none
    good = good[made.copies(good) == 0]
  return dataclasses.replace(made, rows=placed(good, spread))


def _left(x, size):
  """[d] bool, columns of zeros, and of what rounding leaves of differences."""
  return (size < _TINY) & ~(x * 2.0**60 % 1 > 0).any(0)


def _flat(x):
  return x.reshape(len(x), math.prod(x.shape[1:]))


def placed(x: np.ndarray, spread: np.ndarray | float) -> np.ndarray:
  """Rows [n, D] in units of the spread; a missing value is far from any."""
  with np.errstate(all='ignore'):
    x = np.clip(_flat(x) / spread, -1e14, 1e14)
  return np.where(np.isnan(x), 1e15, x)


def _spread(x):
  """[D] standard deviation of rows; a part of the size where there is none."""
  with warnings.catch_warnings(), np.errstate(all='ignore'):
    warnings.simplefilter('ignore', RuntimeWarning)
    size = np.nan_to_num(np.nanmax(np.abs(x), 0, initial=0.0))
    deviation = np.nan_to_num(np.nanstd(x / np.where(size > 0, size, 1), 0))
  least = 0.02 if len(x) == 1 else 1e-4  # of one row, a part of its values
  relative = np.where(deviation > 1e-9, deviation, least)
  return np.where(size > 0, size * relative, 1e-11)
