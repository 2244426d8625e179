"""What an entity of few rows borrows from the others of its fleet.

Empirical Bayes: how much the locations and the scales of entities differ is
estimated from the fleet, column by column. An entity's own are shrunk as much
as that tells, and rows as they are then to be expected of it, which vary as its
siblings' do, stand in its support beside its own.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

BORROWED = -2  # the label of such rows
LEAST = 5  # siblings that say how entities differ
ROOM = 32  # rows of a support, with the borrowed ones
ENTITIES = 1000  # that are looked at
_MOST = 1e3  # rows that the fleet's variance counts as, at most
_LEVEL, _FAR = 20.0, 50.0  # units in the usual size; of a logarithm
_TINY = 1e-6  # of the usual variance: the column is constant in an entity
_OWN = -1.0  # in a column of codes: a row is at its entity's usual one


class Siblings(NamedTuple):
  """What the entities of a fleet have in common; of F columns, W of codes.

  Attributes:
    location: [F] mean of the entities' means.
    between: [F] variance of their true means.
    within: [F] variance within an entity, the usual one.
    strength: [F] how many rows it counts as, beside an entity's own.
    rows: [M, F] rows of entities, in deviations from their own means; of codes
      those that are not their entity's most frequent one, or -1.
    whole: [F] bool, columns of whole numbers.
    words: [W] numbers of the columns of codes.
    unit: [F] of columns that are taken as arcsinh(x / unit), a logarithm with
      zero and sign; 0 = as they are. All of the above is of what is taken.
  """

  location: np.ndarray
  between: np.ndarray
  within: np.ndarray
  strength: np.ndarray
  rows: np.ndarray
  whole: np.ndarray
  words: np.ndarray
  unit: np.ndarray

  @property
  def room(self) -> int:
    """Rows that a support is filled up to: twice the usual strength."""
    varies = self.within > 0
    varies[self.words] = False
    usual = np.median(self.strength[varies]) if varies.any() else 0.0
    return int(min(2 * usual, len(self.rows)))

  def posterior(
    self, x: np.ndarray, start: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Location, the variance of its error, and of rows about it, [N, F] each.

    Of N entities with rows x [n, F], one after the other, from start [N + 1];
    NaN = missing, or of columns that an entity lacks.
    """
    count, mean, squares = _moments(taken(x, self.unit), start)
    variance = _variance(count, squares, self.within, self.strength)
    error = variance / np.maximum(count, 1)
    both = self.between + error
    weight = np.where(both > 0, self.between / np.where(both > 0, both, 1), 1)
    location = self.location + weight * (mean - self.location)
    return location, weight * error, variance

  def lend(
    self, x: np.ndarray, start: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Rows as they are to be expected of entities, where their own are few.

    Arguments as of `posterior`.

    Returns:
      [B, F] rows, and [B] whose they are, in order.
    """
    location, error, variance = self.posterior(x, start)
    count = np.diff(start)
    lent = np.maximum(0, self.room - count)
    which = np.repeat(np.arange(len(count)), lent)
    row = np.arange(len(which)) - np.repeat(np.cumsum(lent) - lent, lent)
    seeds = np.ascontiguousarray(self.rows.T).view(np.uint64).sum(1)
    noise = np.stack(
      [np.random.default_rng(s).normal(size=len(self.rows)) for s in seeds], 1
    )  # the same of a column wherever it stands
    made = location[which] + np.sqrt(variance[which]) * self.rows[row]
    made += np.sqrt(error[which]) * noise[row]
    made = np.where(self.unit > 0, self.unit * np.sinh(_near(made)), made)
    made = np.where(self.whole, np.rint(made), made)
    own = x[(start[which] + row % np.maximum(count[which], 1))]
    codes = self.rows[row][:, self.words]
    own = own[:, self.words]
    made[:, self.words] = np.where(codes == _OWN, own, codes)
    return made, which


def fit(
  x: Sequence[np.ndarray],
  words: np.ndarray,
  room: int = ROOM,
  least: int = LEAST,
) -> Siblings | None:
  """Estimates how entities differ.

  The variances follow Smyth, Linear models and empirical Bayes methods for
  assessing differential expression in microarray experiments, 2004: a scaled
  inverse chi-squared prior, by the moments of their logarithms. The variance
  between the means is what theirs exceeds that of their errors by.

  Args:
    x: [n_i, F] normal rows of each of the entities; NaN = missing.
    words: numbers of the columns of codes.
    room: normals that a support holds.
    least: entities with two rows that it takes.

  Returns:
    The estimates; None of fewer entities.
  """
  x = [rows for rows in x if len(rows) > 1]
  x = x[:: max(1, len(x) // ENTITIES)]
  if len(x) < least:
    return None
  start = np.append(0, np.cumsum([len(rows) for rows in x]))
  rows = np.concatenate(x)
  whole = (np.isnan(rows) | (rows == np.rint(rows))).all(0)
  with np.errstate(invalid='ignore'):
    unit = np.abs(rows).sum(0, where=np.isfinite(rows)) / len(rows) / _LEVEL
  strengths = [_prior(*_moments(taken(rows, u), start)[::2])[1]
               for u in (0 * unit, unit)]  # fmt: skip
  unit = np.where(strengths[1] > strengths[0], unit, 0)
  unit[words] = 0
  rows = taken(rows, unit)
  count, mean, squares = _moments(rows, start)
  within, strength = _prior(count, squares)
  variance = _variance(count, squares, within, strength)
  number = np.maximum((count > 0).sum(0), 1)
  location = np.nansum(mean, 0) / number
  spread = np.nansum((mean - location) ** 2, 0) / np.maximum(number - 1, 1)
  known = np.where(count > 0, variance / np.maximum(count, 1), 0)
  between = np.maximum(spread - known.sum(0) / number, 0)
  of = np.repeat(np.arange(len(x)), np.diff(start))
  chosen = dealt(of)[: min(room, ROOM)]
  scale = np.sqrt(variance * (1 - 1 / np.maximum(count, 2)))[of[chosen]]
  far = (rows[chosen] - mean[of[chosen]]) / np.where(scale > 0, scale, 1)
  for column in words:
    codes = rows[:, column]
    usual = _frequent(of, codes)[of[chosen]]
    far[:, column] = np.where(codes[chosen] == usual, _OWN, codes[chosen])
  return Siblings(location, between, within, strength, far, whole, words, unit)


def taken(x: np.ndarray, unit: np.ndarray) -> np.ndarray:
  """Rows [n, F] as `Siblings.unit` says."""
  return np.where(unit > 0, np.arcsinh(x / np.where(unit > 0, unit, 1)), x)


def mean(x: np.ndarray) -> np.ndarray:
  """[F] of rows [n, F]; NaN of columns that have no value."""
  there = np.isfinite(x)
  count = there.sum(0)
  return np.where(there, x, 0).sum(0) / np.where(count > 0, count, np.nan)


def _near(x):
  return np.clip(x, -_FAR, _FAR)


def _moments(x, start):
  """Counts, means and sums of squares about them, [N, F] each."""
  there = np.isfinite(x)
  add = lambda values: np.add.reduceat(values, start[:-1], 0)
  count = add(there.astype(np.int64))
  mean = add(np.where(there, x, 0)) / np.where(count > 0, count, np.nan)
  far = np.where(there, x - np.repeat(mean, np.diff(start), 0), 0)
  return count, mean, add(far**2)


def _variance(count, squares, within, strength):
  """[N, F] the fleet's and the entity's own."""
  freedom = strength + np.maximum(count - 1, 0)
  return (strength * within + squares) / np.maximum(freedom, 1e-9)


def _prior(count, squares):
  """[F] variance, and how many rows it counts as."""
  freedom = np.maximum(count - 1, 1)
  there = (count > 1) & (squares > 0)
  variance = np.where(there, squares / freedom, np.nan)
  usual = [np.median(v[t]) if t.any() else 0.0
           for v, t in zip(variance.T, there.T, strict=True)]  # fmt: skip
  there &= squares > _TINY * freedom * np.array(usual)
  number, half = np.maximum(there.sum(0), 1), freedom / 2
  mean_of = lambda values: np.where(there, values, 0).sum(0) / number
  logs = np.log(np.where(there, squares / 2, 1)) - special.digamma(half)
  mean = mean_of(logs)
  excess = mean_of((logs - mean) ** 2) * number / np.maximum(number - 1, 1)
  excess = excess - mean_of(special.polygamma(1, half))
  strength = 2 * _inverse_trigamma(np.maximum(excess, 1e-4))
  strength = np.where(number > 2, np.minimum(strength, _MOST), 1.0)
  within = np.exp(mean + special.digamma(strength / 2) - np.log(strength / 2))
  return np.where(there.any(0), within, 0.0), strength


def _inverse_trigamma(y):
  """Of positive y; Newton's method on 1 / trigamma, nearly a straight line."""
  x = 0.5 + 1 / y
  for _ in range(10):
    value = special.polygamma(1, x)
    x = x + value * (1 - value / y) / special.polygamma(2, x)
  return x


def dealt(of: np.ndarray) -> np.ndarray:
  """Places of rows [n], by whose they are: one of each entity, and again."""
  rng = np.random.default_rng(0)
  turn = rng.permutation(of[-1] + 1)[of]
  shuffled = rng.permutation(len(of))
  order = shuffled[np.argsort(of[shuffled], kind='stable')]
  size = np.bincount(of)
  rank = np.empty(len(of), int)
  rank[order] = np.arange(len(of)) - np.repeat(np.cumsum(size) - size, size)
  return np.lexsort((turn, rank))


def _frequent(of, codes):
  """[N] the most frequent code of each entity, of equal ones the first; NaN if
  it has none."""
  pairs = np.stack([of, codes])[:, ~np.isnan(codes)]
  pairs, first, count = np.unique(
    pairs, axis=1, return_index=True, return_counts=True
  )
  found = np.full(of[-1] + 1, np.nan)
  owner, code = pairs[:, np.lexsort((-first, count))]
  found[owner.astype(int)] = code
  return found


def sound(table: Siblings) -> Siblings:
  """The table, if its shapes and numbers make sense; files may lie."""
  *parts, rows, whole, words, unit = table
  width = rows.shape[1]
  parts.append(unit)
  if (
    any(part.shape != (width,) for part in (*parts, whole))
    or not np.isfinite(parts).all() or np.min(parts[1:]) < 0
    or np.isinf(rows).any() or not set(words.tolist()) <= set(range(width))
  ):  # fmt: skip
    raise ValueError('impossible numbers of siblings')
  return table
