"""Whether what is called healthy has changed: bets against exchangeability.

The scores of a series' periods, those of the healthy part first, are ranked as
they come, each among those before it: as long as all are exchangeable these
ranks are independent and even, from however few healthy periods. A test
martingale bets that ranks are high from some time on; it ever exceeds
1 / rate with a probability of at most `rate`, so that it may be looked at after
every period (Vovk, Nouretdinov and Gammerman, Testing exchangeability on-line,
ICML 2003). When that time comes is not known: a share of 1 / (n (n + 1)) of the
stake begins to bet with period n.
"""

import bisect

import numpy as np

RATE = 0.01  # of streams like the healthy part that are called changed
POWERS = np.linspace(0.05, 0.95, 19)  # of the bets, mixed evenly
MOST = 2048  # scores that are remembered, drawn evenly from all


def begin(healthy: np.ndarray) -> list[float]:
  """The scores of healthy periods as what comes is ranked among, sorted."""
  known = np.sort(healthy)
  if len(known) > MOST:
    known = known[np.linspace(0, len(known) - 1, MOST).astype(int)]
  return known.tolist()


def rank(known: list[float], score: float, number: int) -> float:
  """The p-value of the score of period `number`, which joins the known ones.

  (k + 1) / (n + 1) where k of n known ones are not below it.
  """
  n, below = len(known), bisect.bisect_left(known, score)
  p = (n - below + 1) / (n + 1)
  if n == MOST:
    # As likely to stay as any that came before; the same in every run.
    gone = (number * 2654435761 % 2**32) * (MOST + number) >> 32
    if gone >= MOST:
      return p
    del known[gone]
    below -= gone < below
  known.insert(below, score)
  return p


def bet(p: float | np.ndarray) -> np.ndarray:
  """[powers, ...] logarithms of what the bets win: power p^(power - 1)."""
  powers = POWERS.reshape(-1, *[1] * np.ndim(p))
  return np.log(powers) + (powers - 1) * np.log(p)


def stake(number: int | np.ndarray) -> np.ndarray:
  """The logarithm of the share that begins to bet with period `number`."""
  return -np.log(number) - np.log1p(number)


def total(wealth: np.ndarray, number: int | np.ndarray) -> np.ndarray:
  """The logarithm of all wealth after period `number`.

  Of bets [powers, ...] that have begun, and of the stake that has not.
  """
  begun = np.logaddexp.reduce(wealth, 0) - np.log(len(POWERS))
  return np.logaddexp(begun, -np.log1p(number))


def course(healthy: np.ndarray, scores: np.ndarray) -> np.ndarray:
  """[n] the logarithm of all wealth after each of the scores of n periods."""
  if not len(scores):
    return np.zeros(0)
  known, numbers = begin(healthy), np.arange(1, len(scores) + 1)
  ranks = [rank(known, s, n) for n, s in enumerate(scores.tolist(), 1)]
  won = bet(np.array(ranks))
  after = won.cumsum(1)
  # What begins with a period has none of what was won before.
  begun = np.logaddexp.accumulate(stake(numbers) - (after - won), 1)
  return total(after + begun, numbers)
