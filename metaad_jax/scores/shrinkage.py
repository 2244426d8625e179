"""Location and scale of scores, shrunk to the others'; many cases at once."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


def told(support: np.ndarray) -> tuple[int, float, float]:
  """Number, mean and variance of a support's scores; 0 if it has none."""
  if not len(support):
    return 0, 0.0, 0.0
  mean, variance = np.mean(support, dtype='f8'), np.var(support, dtype='f8')
  return len(support), float(mean), float(variance)


def shrunk(k: Any, mean: Any, variance: Any, moments: np.ndarray) -> Any:
  """Location and scale by what `told` says, of one support or [n] of many.

  `moments` [4] are as of `conformal.Calibration`: without a score of its own,
  a support has the first two.
  """
  others, spread, location_strength, scale_strength = moments
  pulled = location_strength * others
  location = (k * mean + pulled) / (k + location_strength)
  pulled = scale_strength * spread**2
  scale = np.sqrt((k * variance + pulled) / (k + scale_strength))
  if np.ndim(k):
    return np.where(k > 0, location, others), np.where(k > 0, scale, spread)
  return location, scale


class Rows(NamedTuple):
  """Scores of several cases in one array."""

  scores: np.ndarray  # [n]
  case: np.ndarray  # [n] whose each is
  starts: np.ndarray  # where those of each case begin that has any
  sizes: np.ndarray  # their numbers

  @classmethod
  def of(cls, parts: Sequence[np.ndarray]) -> 'Rows':
    """Of the scores of each case, which may be none."""
    sizes = np.array([len(part) for part in parts])
    starts = (np.cumsum(sizes) - sizes)[sizes > 0]
    case = np.repeat(np.arange(len(parts)), sizes)
    return cls(np.concatenate(parts), case, starts, sizes[sizes > 0])

  def standardized(self, location: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """[n] by the location and the scale of each case."""
    return (self.scores - location[self.case]) / scale[self.case]

  def shares(self, which: np.ndarray) -> np.ndarray:
    """The share of each case's scores that `which` [n] is true of."""
    return np.add.reduceat(which, self.starts, dtype=int) / self.sizes
