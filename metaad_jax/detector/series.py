"""A detector for series: healthy stretches in, alarms per time stamp out."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self
import warnings

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted

from metaad_jax import storage
from metaad_jax.base import DataError
from metaad_jax.detector import encoding
from metaad_jax.features import subsequences

_LONGEST_GAP = 8  # samples that are filled in by interpolation without a word


class Event(NamedTuple):
  """Neighbouring alarms as one.

  Attributes:
    start, end: index, or time stamp, of the first and of the last alarm.
    peak: where the score is highest.
    score: there; higher = more abnormal.
    p_value: of the peak.
    reason: in words.
  """

  start: Any
  end: Any
  peak: Any
  score: float
  p_value: float
  reason: str


class SeriesAnomalyDetector(OutlierMixin, BaseEstimator):
  """Learns from healthy stretches of a recording how it normally runs.

  A series is [n] or [n, channels]: an array, or a frame or series of pandas or
  polars; a time index of pandas gives the rate its unit and events their time
  stamps. NaN is a missing value. Nothing is trained: windows of a few lengths
  and views are compared with the healthy ones (`subsequences`), and the scores
  of the healthy part itself say what is rare.

  Args:
    false_alarms: 'N per day' (second, minute, hour, week) if the time stamps or
      `step` say how fast the series is, or 'N per M points': how many events of
      a healthy series may be called anomalous.
    period: samples after which the series repeats itself; 0 = from the data.
    step: seconds between two samples, where there is no time index.

  Attributes:
    period_: in samples.
    threshold_: a time stamp whose abnormality is above this is an alarm.
    offset_: -threshold_; decision_function = score_samples - offset_.
    n_features_in_: number of channels.

  Example:
    >>> detector = SeriesAnomalyDetector(step=60).fit(healthy)
    >>> detector.events(series)
  """

  def __init__(
    self,
    *,
    false_alarms: str = '1 per 10000 points',
    period: int = 0,
    step: float | None = None,
  ):
    self.false_alarms = false_alarms
    self.period = period
    self.step = step

  def fit(self, X, y=None) -> Self:
    """Takes in the healthy part.

    Args:
      X: a series, or a list of several stretches; 30 samples at least.
      y: ignored.

    Raises:
      DataError: for a series that cannot be read, in one line.
    """
    stretches = X if isinstance(X, list | tuple) else [X]
    self._names = _names(stretches[0]) if len(stretches) else ()
    if self._names:
      encoding.warn_of_roles(stretches[0])
    parts = [_read(part, self._names) for part in stretches]
    if not parts:
      raise DataError('no healthy stretch: give at least one')
    channels = {x.shape[1] for x, _ in parts}
    if len(channels) != 1:
      raise DataError(
        f'stretches of {sorted(channels)} channels: give one kind'
      )
    if min(len(x) for x, _ in parts) < 30:
      raise DataError('a healthy stretch needs at least 30 samples')
    if self.period < 0 or not (self.step is None or self.step > 0):
      raise DataError(
        f'period={self.period}, step={self.step}: choose a period of 0 or more '
        'samples and a step above 0 seconds'
      )
    steps = {_step(index) for _, index in parts}
    self._step = self.step or (steps.pop() if len(steps) == 1 else None)
    self.stretches_ = [x for x, _ in parts]
    self.n_features_in_ = channels.pop()
    joined = np.concatenate(self.stretches_)
    self.mean_ = joined.mean(0)
    spread = joined.std(0)
    self.scale_ = np.where(
      spread > 1e-9 * np.abs(self.mean_), spread, np.abs(self.mean_) + 1
    )
    inner = [(x - self.mean_) / self.scale_ for x in self.stretches_]
    longest = max(inner, key=len)
    self.period_ = self.period or subsequences.period(longest)
    self._deviation, self._scales = subsequences.fit(inner, self.period_)
    self._calibrate(inner)
    return self

  def partial_fit(self, X, y=None) -> Self:
    """Takes in more that was confirmed as healthy; errors as of `fit`."""
    if not hasattr(self, 'stretches_'):
      return self.fit(X, y)
    more = list(X) if isinstance(X, list | tuple) else [X]
    return self.fit([*self.stretches_, *more])

  def score_samples(self, X) -> np.ndarray:
    """[n], one per time stamp; lower = more abnormal, as in scikit-learn."""
    return -self._score(X)[0]

  def decision_function(self, X) -> np.ndarray:
    """[n]; below 0 = an alarm."""
    return self.score_samples(X) - self.offset_

  def predict(self, X) -> np.ndarray:
    """[n]; -1 = an alarm, 1 = none."""
    return np.where(self._score(X)[0] > self.threshold_, -1, 1)

  def p_values(self, X) -> np.ndarray:
    """[n]: how likely a healthy stretch of a period reaches such a score.

    By the stretches of the healthy part, each scored without what is near it;
    beyond their highest score by an exponential tail.
    """
    return self._p_values(self._score(X)[0])

  def events(self, X) -> list[Event]:
    """Alarms less than a period apart as one event each, in order of time."""
    scores, which, index = self._score(X)
    alarms = np.flatnonzero(scores > self.threshold_)
    if not len(alarms):
      return []
    cuts = np.flatnonzero(np.diff(alarms) > self.period_) + 1
    events = []
    for part in np.split(alarms, cuts):
      peak = part[np.argmax(scores[part])]
      events.append(
        Event(
          index[part[0]],
          index[part[-1]],
          index[peak],
          float(scores[peak]),
          float(self._p_values(scores[peak])),
          self._reason(which[peak]),
        )  # fmt: skip
      )
    return events

  def changed(self, X, rate: float = 0.01) -> int | None:
    """The first index at which what is called healthy has changed for good.

    A test martingale bets against the p-values of successive periods (Vovk,
    Nouretdinov and Gammerman, Testing exchangeability on-line, ICML 2003): on
    a series like the healthy part it ever exceeds 1 / rate with a probability
    of at most `rate`. None = nothing to be said against it.
    """
    scores = self._score(X)[0]
    blocks = _blocks(scores, self.period_)
    p = np.clip(self._p_values(blocks), 1e-12, 1)
    powers = np.linspace(0.05, 0.95, 19)[:, None]
    wealth = np.cumsum(np.log(powers) + (powers - 1) * np.log(p), 1)
    mixed = np.logaddexp.reduce(wealth, 0) - np.log(len(powers))
    over = np.flatnonzero(mixed > -np.log(rate))
    return int(over[0] * self.period_) if len(over) else None

  @property
  def offset_(self) -> float:
    return -self.threshold_

  def save(self, path: str) -> None:
    """Writes options and healthy stretches into a model file (.npz)."""
    check_is_fitted(self, 'stretches_')
    arrays = {f'stretch/{i}': x for i, x in enumerate(self.stretches_)}
    meta = {
      'kind': 'series', 'step': self._step, 'names': self._names,
      'options': self.get_params(),
    }  # fmt: skip
    storage.save(path, arrays, meta)

  @classmethod
  def load(cls, path: str) -> Self:
    """Reads what `save` wrote.

    Raises:
      DataError: if the file is missing, damaged, or no series detector.
    """
    arrays, meta = storage.load(path)
    options: Any = meta.get('options')
    names = [f'stretch/{i}' for i in range(len(arrays))]
    kinds = {'false_alarms': str, 'period': int, 'step': int | float | None}
    good = (
      meta.get('kind') == 'series'
      and isinstance(options, dict)
      and options.keys() == kinds.keys()
      and all(isinstance(options[k], kind) for k, kind in kinds.items())
      and isinstance(meta.get('step'), int | float | None)
      and isinstance(meta.get('names'), list)
      and arrays.keys() == set(names)
    )
    if not names or not good:
      raise DataError(f'{path} is no detector for series')
    made = cls(**options | {'step': meta['step']})
    made.fit([arrays[name] for name in names]).step = options['step']
    made._step, made._names = meta['step'], tuple(map(str, meta['names']))
    made._calibrate()
    return made

  def _score(self, X):
    """[n] abnormality, [n] which view, and the index or time stamps."""
    check_is_fitted(self, 'stretches_')
    x, index = _read(X, self._names)
    if x.shape[1] != self.n_features_in_:
      raise DataError(
        f'{x.shape[1]} channels, but fit saw {self.n_features_in_}'
      )
    if len(x) < self._scales[0].length:
      raise DataError(
        f'{len(x)} samples are shorter than a window of '
        f'{self._scales[0].length}: give a longer stretch'
      )
    step = _step(index)
    if step and self._step and abs(step / self._step - 1) > 0.1:
      warnings.warn(
        f'samples are {step:g} s apart, but {self._step:g} s in fit: resample '
        'one of them, or shapes and rates do not compare',
        stacklevel=3,
      )
    x = (x - self.mean_) / self.scale_
    return *subsequences.score(self._scales, self._deviation, x), index

  def _calibrate(self, inner=None):
    """What scores the healthy part has, and the threshold for the rate."""
    if inner is not None:
      total, at, blocks = sum(map(len, inner)), 0, []
      for x in inner:
        scores, _ = subsequences.score(
          self._scales, self._deviation, x, max(1, total // 10), at
        )
        blocks.append(_blocks(scores[np.isfinite(scores)], self.period_))
        at += len(x)
      self._healthy = np.sort(np.concatenate(blocks))
    rate = _per_sample(self.false_alarms, self._step)
    level = -np.expm1(-rate * self.period_)  # of one period
    known, n = self._healthy, len(self._healthy)
    above = int(level * (n + 1)) - 1  # healthy ones that may exceed it
    self.threshold_ = float(
      known[max(0, n - 1 - above)]
      if above >= 0
      else known[-1] - self._slope() * np.log(level * (n + 1))
    )

  def _p_values(self, scores):
    known = self._healthy
    n = len(known)
    above = n - np.searchsorted(known, scores, 'left')
    beyond = np.maximum(scores - known[-1], 0) / self._slope()
    return (above + np.exp(-beyond)) / (n + 1)

  def _slope(self):
    """Mean excess of the highest fifth: the scale of the exponential tail."""
    top = self._healthy[-max(1, len(self._healthy) // 5) :]
    return max(float((top - top[0]).mean()), 0.05)

  def _reason(self, which):
    channels = self._scales[0].farthest.shape[1]
    scale, rest = divmod(int(which), len(subsequences.VIEWS) * channels)
    view, channel = divmod(rest, channels)
    where = ''
    if channels > 1:
      last = channel == channels - 1
      where = ' of all channels together' if last else f' of channel {channel}'
    return (
      f'{subsequences.VIEWS[view]}{where} over {self._scales[scale].length} '
      'samples is like nothing in the healthy part'
    )


def _names(series) -> tuple[str, ...]:
  return tuple(map(str, getattr(series, 'columns', ())))


def _read(series, names: Sequence[str] = ()) -> tuple[np.ndarray, Any]:
  """[n, channels] float64 without gaps, and an index or time stamps.

  Channels of a frame are those of `names`, in their order.
  """
  if hasattr(series, 'to_pandas'):
    series = series.to_pandas()
  index = getattr(series, 'index', None)
  given = _names(series)
  if names and given and given != tuple(names):
    if sorted(given) != sorted(names):
      raise DataError(
        f'channels {", ".join(given)}: give those of fit, {", ".join(names)}'
      )
    series = series.iloc[:, [given.index(name) for name in names]]
  try:
    if np.ma.is_masked(series):
      series = np.ma.filled(np.ma.asarray(series).astype(np.float64), np.nan)
    x = np.asarray(series, np.float64)
  except (TypeError, ValueError) as error:
    raise DataError(f'the series cannot be read as numbers: {error}') from error
  if x.ndim not in (1, 2) or not x.size:
    raise DataError(f'a series is [n] or [n, channels], not {list(x.shape)}')
  x = x.reshape(len(x), -1)
  if np.isinf(x).any():
    raise DataError('the series holds infinite values: mark them as NaN')
  missing = np.isnan(x)
  if missing.any():
    if missing.all(0).any():
      raise DataError('a channel holds no value at all: leave it out')
    x = pd.DataFrame(x).interpolate(limit_direction='both').to_numpy()
    runs = subsequences.longest_run(missing)
    if runs > _LONGEST_GAP:
      warnings.warn(
        f'up to {runs} values in a row are missing: they are interpolated, and '
        'scores there say little',
        stacklevel=4,
      )
  if not isinstance(index, pd.DatetimeIndex):
    index = np.arange(len(x))
  elif len(index) > 2:
    steps = np.diff(index.to_numpy()).astype('timedelta64[ns]').astype(np.int64)
    if (steps <= 0).any():
      raise DataError('time stamps go back or repeat: sort them, drop copies')
    if np.mean(np.abs(steps / np.median(steps) - 1) > 0.5) > 0.01:
      warnings.warn(
        'time stamps are irregular: samples are taken as they come; resample '
        'them first if time matters',
        stacklevel=4,
      )
  return x, index


def _step(index):
  """Median seconds between time stamps, or None."""
  if not isinstance(index, pd.DatetimeIndex) or len(index) < 2:
    return None
  return float(np.median(np.diff(index.to_numpy()) / np.timedelta64(1, 's')))


def _blocks(scores, length):
  """The highest score of each stretch of a period; a rest counts as one."""
  return np.maximum.reduceat(scores, np.arange(0, len(scores), length))


_SECONDS = {
  'second': 1,
  'minute': 60,
  'hour': 3600,
  'day': 86400,
  'week': 604800,
}


def _per_sample(text: str, step: float | None) -> float:
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
