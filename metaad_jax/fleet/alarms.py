"""Alarms of a whole fleet: joined to events, within a budget, few false.

The online procedures decide about one p-value after the other, and keep the
expected share of false alarms among all alarms at most `rate`.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
import warnings

import numpy as np
import pandas as pd

from metaad_jax.base import DataError

_SECONDS = {'second': 1, 'minute': 60, 'hour': 3600, 'day': 86400,
            'week': 604800}  # fmt: skip


class Event(NamedTuple):
  """Alarms of one time as one.

  Attributes:
    start, end: seconds of the first and of the last alarm.
    entities: those that are concerned, the most abnormal first.
    rows: [k] numbers of the rows.
    p_value: the least of them.
  """

  start: float
  end: float
  entities: tuple[str, ...]
  rows: np.ndarray
  p_value: float


def events(
  times: np.ndarray,
  entities: Sequence[Any],
  p_values: np.ndarray,
  alarms: np.ndarray,
  gap: float = 0.0,
) -> list[Event]:
  """Joins alarms that follow each other within `gap` seconds, of any entity.

  What strikes many entities at one instant, such as a power cut, is one event.

  Args:
    times: [n] seconds of the rows, in any order.
    entities: [n] names.
    p_values: [n].
    alarms: [n] bool.
    gap: seconds.
  """
  rows = np.flatnonzero(alarms)
  rows = rows[np.argsort(times[rows], kind='stable')]
  if not len(rows):
    return []
  if np.isnan(times[rows]).any():
    raise DataError('an alarm has no time: fill the column of times')
  cuts = np.flatnonzero(np.diff(times[rows]) > gap) + 1
  found = []
  for part in np.split(rows, cuts):
    worst = part[np.argsort(p_values[part], kind='stable')]
    names = tuple(dict.fromkeys(str(entities[i]) for i in worst))
    at = times[part]
    found.append(
      Event(float(at[0]), float(at[-1]), names, part, float(p_values[worst[0]]))
    )
  return found


def per_second(budget: str) -> tuple[float, float]:
  """(alarms, seconds) of '20 per day', or of '5 per 2 hours'.

  Raises:
    DataError: for other words.
  """
  words = budget.split()
  try:
    count, unit = float(words[0]), _SECONDS[words[-1].removesuffix('s')]
    many = float(words[2]) if len(words) == 4 else 1.0
    if words[1] != 'per' or len(words) not in (3, 4) or min(count, many) <= 0:
      raise ValueError
  except (IndexError, KeyError, ValueError) as error:
    raise DataError(
      f"budget={budget!r}: say '20 per day' (second, minute, hour, week)"
    ) from error
  return count, unit * many


def within_budget(found: Iterable[Event], budget: str) -> list[Event]:
  """The events that may be told, in order of time.

  In no stretch of the budget's length are there more: an event that would be
  one too many is left out, however abnormal, since later ones are not known
  yet. Give a lower false-alarm rate where many are.
  """
  count, length = per_second(budget)
  told: list[Event] = []
  for event in sorted(found, key=lambda event: event.start):
    recent = sum(event.start - other.start < length for other in told)
    if recent + 1 <= count:
      told.append(event)
  return told


class Watch:
  """Alarms of a fleet as they come: joined to events, within a budget.

  On rows in order of time it finds the events of `events` and tells those of
  `within_budget`. A late row belongs to the event that is going on, if that is
  not too far away, or is one of its own.

  Args:
    gap: seconds between alarms that are one event.
    budget: as of `within_budget`; '' = all are told.
    state: what `state` gave.
  """

  def __init__(self, gap: float = 0.0, budget: str = '', state: Any = None):
    self.gap = gap
    self._budget = per_second(budget) if budget else (np.inf, 0.0)
    self._number, self._span, self._told = -1, [np.nan, np.nan], False
    self._starts: list[float] = []
    if state:
      self._number, self._span, self._told, self._starts = state

  @property
  def state(self) -> Any:
    """All of it, as JSON holds it."""
    return [self._number, self._span, self._told, self._starts]

  def push(
    self, times: np.ndarray, alarms: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Takes rows as they come.

    Args:
      times: [n] seconds.
      alarms: [n] bool.

    Returns:
      [n] numbers of the events, -1 = no alarm; [n] bool, whether it is told.
    """
    numbers, told = np.full(len(alarms), -1), np.zeros(len(alarms), bool)
    for i in np.flatnonzero(alarms):
      at = float(times[i])
      at = self._span[1] if np.isnan(at) else at
      low, high = self._span
      if not low - self.gap <= at <= high + self.gap:
        self._number, low, high = self._number + 1, at, at
        self._told = self._may_tell(at)
      self._span = [min(low, at), max(high, at)]
      numbers[i], told[i] = self._number, self._told
    return numbers, told

  def _may_tell(self, start):
    most, length = self._budget
    self._starts = [s for s in self._starts if start - s < length]
    near = sum(abs(start - s) < length for s in self._starts)
    if near + 1 > most:
      return False
    if length:
      self._starts.append(start)
    return True


def _gamma(count):
  """[count] weights that add up to less than 1, of LORD++ (with log 2)."""
  t = np.arange(1.0, count + 1)
  weights = np.log(np.maximum(t, 2)) / (t * np.exp(np.sqrt(np.log(t))))
  return 0.07720838 * weights


def lord(p_values: np.ndarray, rate: float) -> np.ndarray:
  """[n] bool: alarms among p-values [n] in order of time, by LORD++.

  Ramdas, Yang, Wainwright and Jordan, Online control of the false discovery
  rate with decaying memory, 2017; gamma as in Javanmard and Montanari, 2018.
  A level is alpha_t = gamma_t w + (rate - w) gamma_(t - t1) + rate * the sum of
  gamma_(t - tj) over the later discoveries, with w = rate / 2.
  """
  p = np.asarray(p_values, 'f8')
  gamma, first = _gamma(len(p)), rate / 2
  level, found = first * gamma, np.zeros(len(p), bool)
  for t in range(len(p)):
    if p[t] <= level[t]:
      share = rate if found.any() else rate - first
      found[t] = True
      level[t + 1 :] += share * gamma[: len(p) - t - 1]
  return found


def saffron(
  p_values: np.ndarray, rate: float, candidate: float = 0.5
) -> np.ndarray:
  """[n] bool: alarms among p-values [n] in order of time, by SAFFRON.

  Ramdas, Zrnic, Wainwright and Jordan, SAFFRON, ICML 2018: p-values above
  `candidate` cost nothing, so that more is left where many are alarms.
  """
  p = np.asarray(p_values, 'f8')
  gamma, first = _gamma(len(p)), rate / 2
  found = np.zeros(len(p), bool)
  # Of each share of the wealth: since when, candidates before, how much.
  shares = [(0, 0, first)]
  passed = 0
  for t in range(len(p)):
    wealth = sum(w * gamma[t - since - passed + c] for since, c, w in shares)
    level = min(candidate, (1 - candidate) * wealth)
    passed += int(p[t] <= candidate)
    if p[t] <= level:
      shares.append((t + 1, passed, rate if found.any() else rate - first))
      found[t] = True
  return found


def odd_entities(x: Sequence[np.ndarray], names: Sequence[str]) -> pd.DataFrame:
  """Entities that are themselves unlike the fleet, the oddest first.

  Location and spread of each column, robust, are compared with those of the
  other entities, in units of how these differ; entities of few rows are allowed
  what so few vary by.

  Args:
    x: [n_i, F] normal rows of each of N entities; NaN = missing.
    names: of the entities.

  Returns:
    [N] `entity`, `oddness`, `p_value` (of its rank in the fleet: at least
    1 / N), `column` (its number) and `what`: 'location' or 'spread'.
  """
  with np.errstate(all='ignore'):
    with warnings.catch_warnings():
      warnings.simplefilter('ignore', RuntimeWarning)  # columns all missing
      centre = np.array([np.nanmedian(rows, 0) for rows in x])
      spread = np.array([
        1.4826 * np.nanmedian(np.abs(rows - c), 0)
        for rows, c in zip(x, centre, strict=True)
      ])  # fmt: skip
      count = np.array([np.isfinite(rows).sum(0) for rows in x])
      usual = np.nanmedian(spread, 0)
      noise = np.fmax(usual, spread) ** 2
      error = 1.5 * noise / np.maximum(count, 1)  # of a median
      location = _far(centre, error)
      spread = np.where((count < 3) | (spread <= 0), np.nan, spread)
      width = _far(np.log(spread), 1.4 / np.maximum(count - 1, 1))
  both = np.nan_to_num(np.concatenate([location, width], 1))
  most = both.argmax(1)
  oddness = np.sqrt(np.mean(np.minimum(both, 1e3) ** 2, 1)) + both.max(1)
  order = np.sort(oddness)
  p = (len(x) - np.searchsorted(order, oddness, 'left')) / len(x)
  columns = location.shape[1]
  told = pd.DataFrame({
    'entity': list(names), 'oddness': oddness, 'p_value': p,
    'column': most % columns,
    'what': np.where(most < columns, 'location', 'spread'),
  })  # fmt: skip
  return told.sort_values('oddness', ascending=False, ignore_index=True)


def _far(values, error):
  """[N, F] deviations from the fleet's median, each with its own error."""
  middle = np.nanmedian(values, 0)
  between = 1.4826 * np.nanmedian(np.abs(values - middle), 0)
  return np.abs(values - middle) / np.sqrt(between**2 + error + 1e-30)
