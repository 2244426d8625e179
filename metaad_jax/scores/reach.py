"""What can be promised with the rows there are, and how many would do."""

import itertools

import numpy as np

from metaad_jax.scores import conformal
from metaad_jax.scores.conformal import Calibration, Evidence


def bars(
  calibration: Calibration, evidence: Evidence, rate: float
) -> np.ndarray:
  """[3] scores: of p-values about .9 and .5, and of the least there is.

  The first two are no alarms at `rate`, if that is larger.
  """
  low, middle = max(0.9, (1 + rate) / 2), max(0.5, rate)
  rates = low, middle, 1.001 * conformal.least_p(calibration, evidence)
  return np.array(
    [conformal.threshold(calibration, evidence, r) for r in rates]
  )


def usual_bars(
  calibration: Calibration,
  shots: int,
  anomalies: int,
  unlabelled: bool,
  rate: float,
) -> np.ndarray:
  """`bars` of an entity of which no score is known yet, without a search."""
  levels = max(0.9, (1 + rate) / 2), max(0.5, rate)
  few = conformal.between(calibration.shots, shots)
  labelled = conformal.between(calibration.anomalies, anomalies)
  found = np.zeros(3)
  for (i, share), (j, part) in itertools.product(few, labelled):
    cell = i, j, int(unlabelled)
    location, scale = calibration.moments[cell][:2]
    grid = calibration.grid[cell]
    places = [int(np.argmax(conformal.LEVELS <= level)) for level in levels]
    scores = [*grid[places], grid[np.isfinite(grid)].max()]
    found += share * part * (location + scale * np.array(scores, 'f8'))
  if calibration.squash > 0:
    found = np.sign(found) * np.expm1(np.abs(found))
  return found


def batch_advice(
  calibration: Calibration, evidence: Evidence, count: int, rate: float
) -> str:
  """Why `conformal.benjamini_hochberg` cannot report one row; '' if it can.

  `count` is the size of the batch, `rate` the share of false reports.
  """
  least = conformal.least_p(calibration, evidence)
  if least <= rate / count:
    return ''
  needed, most = np.ceil(least * count / rate), max(1, int(rate / least))
  more = conformal.or_more(calibration, evidence, rate / count)
  return (
    f'of {count} rows none can be reported by itself at a rate of {rate:g}: no '
    f'p-value is below {least:.2g}, and {needed:.0f} rows would have to have '
    f'it; take batches of {most}{more}'
  )


def enough(
  calibration: Calibration, evidence: Evidence, score: float, rate: float
) -> int:
  """How many support rows may do for an alarm, where this score is the highest.

  The least calibrated number with which it is one; or else twice as many as
  there are, since scores grow with the support.
  """
  for shots in calibration.shots[calibration.shots > evidence.shots]:
    other = evidence._replace(shots=int(shots), support=np.zeros(0))
    if conformal.p_values(calibration, other, np.array([score]))[0] <= rate:
      return int(shots)
  return 2 * evidence.shots
