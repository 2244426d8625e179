"""How rare a score is, by those of healthy stretches of a period."""

import numpy as np

from metaad_jax.base import DataError

_TOP = 5  # one in so many healthy stretches makes up the tail
_LEAST = 0.05  # mean excess of a tail


def blocks(scores: np.ndarray, length: int) -> np.ndarray:
  """The highest score of each stretch of a period; a rest counts as one."""
  return np.maximum.reduceat(scores, np.arange(0, len(scores), length))


def _tail(known):
  """Number of scores in the tail, and their mean excess over its lowest."""
  top = known[-max(1, len(known) // _TOP) :]
  return len(top), max(float((top - top[0]).mean()), _LEAST)


def p_values(known: np.ndarray, scores: np.ndarray) -> np.ndarray:
  """How likely a healthy stretch has such a score; NaN of NaN.

  By rank among the known ones (split conformal). Beyond their highest an
  exponential tail goes on; since its scale is an estimate from k of them, what
  is expected of the next one is a Pareto tail, (1 + e / (k scale))^-k at an
  excess e, which is heavier the fewer there are.

  Args:
    known: [n] sorted.
    scores: any shape.
  """
  n = len(known)
  count, scale = _tail(known)
  above = n - np.searchsorted(known, scores, 'left')
  excess = np.maximum(scores - known[-1], 0) / scale
  return (above + (1 + excess / count) ** -count) / (n + 1)


def threshold(known: np.ndarray, level: float) -> float:
  """The score that a healthy stretch exceeds with a probability `level`."""
  n = len(known)
  above = int(level * (n + 1)) - 1  # healthy ones that may exceed it
  if above >= 0:
    return float(known[max(0, n - 1 - above)])
  count, scale = _tail(known)
  return float(
    known[-1] + count * scale * ((level * (n + 1)) ** (-1 / count) - 1)
  )


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
