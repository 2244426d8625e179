"""How rare a score is, by those of healthy stretches of a period."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from metaad_jax.base import DataError

_TOP = 5  # one in so many healthy stretches makes up the tail
_FEWEST = 8  # but so many, if there are
_LEAST = 0.05  # mean excess of a tail
_PERIODS = 10  # of the healthy part that the promise was measured from
_ALONE = 0.4  # see `alone`
_FAR = 0.5  # see `odd_one`


def blocks(scores: np.ndarray, length: int) -> np.ndarray:
  """The highest score of each stretch of a period; a rest counts as one.

  NaN is no score; a stretch that has none is NaN.
  """
  return np.fmax.reduceat(scores, np.arange(0, len(scores), length))


def doubt(samples: int, period: int) -> str:
  """What is to be said of a healthy part of few periods, or ''."""
  if samples >= _PERIODS * period:
    return ''
  return (
    f'{samples} healthy samples are {samples / period:.2g} periods: from less '
    f'than {_PERIODS} the rate of false events is a guess, give '
    f'{_PERIODS * period} samples or more'
  )


def odd_one(stretches: Sequence[np.ndarray], period: int) -> str:
  """What is to be said of a healthy part with a stretch unlike the rest, or ''.

  Its highest period is far above nine tenths of them, farther than an
  exponential tail of those explains.
  """
  scores = np.concatenate(stretches)
  known = np.sort(scores)
  kept = known[: len(known) - max(1, len(known) // 10)]
  if len(kept) < _FEWEST or known[-1] - kept[-1] < _FAR:
    return ''
  if len(known) * p_values(kept, known[-1:])[0] > 0.01:
    return ''
  first = int(scores.argmax()) * period
  return (
    f'samples {first} to {first + period} of the healthy part are unlike the '
    'rest of it: as long as they count as healthy, what is as far is no '
    'event; leave them out if they are not'
  )


def alone(stretches: Sequence[np.ndarray], known: np.ndarray) -> float:
  """Of high periods the share that does not follow another one (0, 1].

  The runs estimator of the extremal index (Smith and Weissman, JRSS B 1994):
  where high scores come in runs, there are fewer events than high periods.
  Eight periods of what long recordings have on the mean are added, since of few
  periods nearly all are high.

  Args:
    stretches: of `blocks`, each in the order of time.
    known: [n] all of them, sorted.
  """
  count, low, _ = _tail(known)
  high = [x >= low for x in stretches]
  first = sum(int(h[0]) + int((h[1:] > h[:-1]).sum()) for h in high)
  size = min(count, len(known) / 2)
  share = first / sum(int(h.sum()) for h in high)
  return (share * size + _ALONE * _FEWEST) / (size + _FEWEST)


def apart(
  rows: np.ndarray, local: np.ndarray, at: np.ndarray, period: int
) -> list[np.ndarray]:
  """Of rows that are one alarm, those that caused it: a list of events.

  Scores are averages of up to four periods: alarms begin early, end late, and
  join what is apart.

  Args:
    rows: [k] of the alarm.
    local: [k] the highest logarithm of a ratio of the windows at them.
    at: the place in the series of every row.
    period: samples; what is farther apart is two events.
  """
  high = rows[local > max(0.0, 0.5 * local.max())]
  if not len(high):
    return [rows]
  cuts = np.flatnonzero(np.diff(at[high]) > period) + 1
  return [np.arange(x[0], x[-1] + 1) for x in np.split(high, cuts)]


def _tail(known):
  """Number of scores in the tail, the lowest, and the sum of their excesses."""
  top = known[-max(_FEWEST, len(known) // _TOP) :]
  return (
    max(2, len(top)),
    top[0],
    max(float((top - top[0]).sum()), _LEAST * len(top)),
  )


def _levels(n):
  """How likely the next is above each of n sorted scores."""
  return np.arange(n, 0, -1) / (n + 1)


def p_values(known: np.ndarray, scores: np.ndarray) -> np.ndarray:
  """How likely a healthy stretch has such a score; NaN of NaN.

  The next score is above the k-th highest with the probability k / (n + 1)
  (split conformal), in between by interpolation. Beyond their highest an
  exponential tail goes on above the k-th highest, u: with S, the sum of the
  excesses over u, the next score is above u + e with the probability
  k / (n + 1) (1 + e / S)^(1 - k), exactly so for an exponential tail of
  unknown scale, since S of scale is Gamma distributed with k - 1.

  Args:
    known: [n] sorted, n >= 2.
    scores: any shape.
  """
  n = len(known)
  k, low, total = _tail(known)
  rank = np.interp(scores, known, _levels(n), left=1.0)
  excess = np.maximum(scores - low, 0) / total
  tail = k / (n + 1) * (1 + excess) ** (1 - k)
  return np.where(scores > known[-1], np.minimum(tail, rank), rank)


def calibrated(p: Any, odds: float) -> Any:
  """P-values whose odds, p : 1 - p, are so many times smaller.

  A healthy stretch that is compared with what is a third of the healthy part
  away is farther from it than what follows the whole: how much is learned over
  many recordings.
  """
  return p / (p + odds * (1 - p))


def threshold(known: np.ndarray, level: float) -> float:
  """The score that a healthy stretch exceeds with a probability `level`."""
  n = len(known)
  if level * (n + 1) >= 1:
    return float(np.interp(-level, -_levels(n), known))
  k, low, total = _tail(known)
  rarer = (level * (n + 1) / k) ** (-1 / (k - 1)) - 1
  return float(max(known[-1], low + total * rarer))


_SECONDS = {
  'second': 1,
  'minute': 60,
  'hour': 3600,
  'day': 86400,
  'week': 604800,
}


def per_sample(text: str, step: float | None) -> float:
  """False alarms per sample, of '2 per day' or '1 per 10000 points'."""
  words = text.split()
  try:
    count = float(words[0])
    if count <= 0 or words[1] != 'per' or len(words) not in (3, 4):
      raise ValueError
    if words[-1].rstrip('s') == 'point':
      return count / float(words[2])
    unit = _SECONDS[words[-1].rstrip('s')]
    many = float(words[2]) if len(words) == 4 else 1.0
  except (IndexError, KeyError, ValueError) as error:
    raise DataError(
      f"false_alarms={text!r}: say '1 per day' (second, minute, hour, week) or "
      "'1 per 10000 points'"
    ) from error
  if step is None:
    raise DataError(
      f'false_alarms={text!r} needs the time between two samples: give a time '
      "index or step= in seconds, or say '1 per 10000 points'"
    )
  return count * step / (unit * many)
