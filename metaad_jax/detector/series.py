"""A detector for series: healthy stretches in, alarms per time stamp out."""

import functools
import importlib.resources
import re
from typing import Any, NamedTuple, Self
import warnings

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted

from metaad_jax import storage
from metaad_jax.base import DataError
from metaad_jax.data import timelines
from metaad_jax.data.timelines import Timeline
from metaad_jax.detector import (
  series_changes,
  series_explanations,
  series_tails,
)  # fmt: skip
from metaad_jax.detector.series_explanations import Event, SeriesExplanation
from metaad_jax.detector.series_follow import SeriesStream
from metaad_jax.features import subsequences
from metaad_jax.training import model_files

_SHORTEST = 30  # samples of a healthy stretch
_FARTHEST = 1e6  # deviations from the mean: what is beyond is as abnormal


class Judgement(NamedTuple):
  """What is said of a series of n rows.

  Attributes:
    line: the series as it was read.
    scores: [n] float64, higher = more abnormal; NaN where nothing is said.
    p_values: [n]
    outliers: [n] bool, alarms.
    events: in order of time.
    changed: the row at which what is called healthy has changed, or None.
  """

  line: Timeline
  scores: np.ndarray
  p_values: np.ndarray
  outliers: np.ndarray
  events: list[Event]
  changed: int | None


class SeriesAnomalyDetector(OutlierMixin, BaseEstimator):
  """Learns from healthy stretches of a recording how it normally runs.

  A series is [n] or [n, channels]: an array, or a frame or series of pandas or
  polars, whose time index or column of times gives the rate its unit and events
  their time stamps (`data.timelines`). NaN is a missing value; where more than
  8 in a row are missing, nothing is said: p-values there are 1. Windows
  of a few lengths and views are compared with the healthy ones, values with
  what those before them foretell (`subsequences`), what of that counts is
  learned over many recordings, and the scores of the healthy part itself say
  what is rare.

  Args:
    false_alarms: 'N per day' (second, minute, hour, week) if the time stamps or
      `step` say how fast the series is, or 'N per M points': how many events of
      a healthy series may be called anomalous.
    period: samples after which the series repeats itself; 0 = from the data.
    step: seconds between two samples, where there are no time stamps.
    resample: width of bins of time that are averaged, such as '10s', where time
      stamps are irregular; '' = samples are taken as they come.
    weights: [components, widths] of what makes up the score, as
      `training.series_weights` learns them; None = the shipped ones, which are
      others for several channels than for one.

  Attributes:
    period_: in samples.
    threshold_: a time stamp whose abnormality is above this is an alarm.
    offset_: -threshold_; decision_function = score_samples - offset_.
    n_features_in_: number of channels.
    names_: of the channels, () if they have none.
    time_: name of the column of times, or ''.
    stretches_: the healthy parts, [n, C] each.
    starts_: seconds at which each begins, or None.
    step_: seconds between two samples, or None.
    event_rate_: false events per sample that `false_alarms` allows.
    weights_: of `weights`, sum 1.

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
    resample: str = '',
    weights: np.ndarray | None = None,
  ):
    self.false_alarms = false_alarms
    self.period = period
    self.step = step
    self.resample = resample
    self.weights = weights

  def fit(self, X, y=None) -> Self:
    """Takes in the healthy part.

    Args:
      X: a series, or a list of several stretches; 30 samples at least.
      y: ignored.

    Raises:
      DataError: for a series that cannot be read, in one line.
    """
    stretches = _stretches(X)
    if not stretches:
      raise DataError('no healthy stretch: give at least one')
    first = timelines.read(stretches[0], (), self.resample)
    return self._fit([first, *self._lines(stretches[1:], first.names)])

  def _lines(self, stretches, names):
    return [timelines.read(x, names, self.resample) for x in stretches]

  def _fit(self, lines, weights=None):
    lines = list(map(timelines.without_anomalies, lines))
    channels = {line.values.shape[1] for line in lines}
    if len(channels) != 1:
      raise DataError(f'stretches of {channels} channels: give one kind')
    if self.period < 0 or not (self.step is None or self.step > 0):
      raise DataError(
        f'period={self.period}, step={self.step}: choose a period of 0 or more '
        'samples and a step above 0 seconds'
      )
    found = [timelines.pieces(line) for line in lines]
    for line, (_, note) in zip(lines, found, strict=True):
      _warn([*line.notes, note])
    kept = [
      (_begin(line, piece), piece.values)
      for line, (pieces, _) in zip(lines, found, strict=True)
      for piece in pieces if len(piece.values) >= _SHORTEST
    ]  # fmt: skip
    self.starts_ = [start for start, _ in kept]
    self.stretches_ = [x for _, x in kept]
    if not self.stretches_:
      raise DataError(
        f'a healthy stretch needs at least {_SHORTEST} samples in a row, none '
        'of them missing'
      )
    self.step_ = self.step or _common_step(lines)
    self.names_, self.time_ = lines[0].names, lines[0].time
    self.n_features_in_ = channels.pop()
    joined = np.concatenate(self.stretches_)
    self.mean_ = joined.mean(0)
    spread = joined.std(0)
    moves = spread > 1e-9 * np.abs(self.mean_)
    self.scale_ = np.where(moves, spread, np.abs(self.mean_) + 1)
    _warn(timelines.doubts(joined, ~moves, self.names_))
    if weights is None:
      weights = self.weights
    self.weights_ = subsequences.checked(
      shipped_weights(self.n_features_in_) if weights is None else weights
    )
    inner = [self._standardized(x) for x in self.stretches_]
    longest = max(inner, key=len)
    self.period_ = self.period or subsequences.period(longest)
    _warn([series_tails.doubt(len(joined), self.period_)])
    self._windows = subsequences.fit(inner, self.period_)
    self._scales = self._windows.scales
    self._calibrate(inner)
    # Found when first asked for: what streams and explanations need.
    self._lead: tuple[float, np.ndarray] | None = None
    self._comparisons: Any = None
    return self

  def partial_fit(self, X, y=None) -> Self:
    """Takes in more that was confirmed as healthy; errors as of `fit`."""
    if not hasattr(self, 'stretches_'):
      return self.fit(X, y)
    none = np.zeros(0, int)
    known = [
      Timeline(x, none, none, step=self.step_, names=self.names_)
      for x in self.stretches_
    ]
    starts = self.starts_
    self._fit([*known, *self._lines(_stretches(X), self.names_)], self.weights_)
    self.starts_[: len(starts)] = starts
    return self

  def score_samples(self, X) -> np.ndarray:
    """[n], one per time stamp; lower = more abnormal, as in scikit-learn."""
    return -self._known(self._score(X)[0])

  def decision_function(self, X) -> np.ndarray:
    """[n]; below 0 = an alarm."""
    return self.score_samples(X) + self.threshold_

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
    """Alarms less than a period apart as one event each, in order of time.

    Scores are averages: of alarms an event has the windows that are at least
    half as far out as the farthest (in logarithms), and all between them.
    """
    return self._events(*self._score(X))

  def explain(self, X, event: Event | int) -> SeriesExplanation:
    """Why an event, or the row of a number, of a series is abnormal."""
    line = timelines.read(X, self.names_, self.resample)
    if isinstance(event, int):
      return series_explanations.explain(self, line, event)
    asked = event.view, event.channel, event.length
    return series_explanations.explain(self, line, event.rows[2], asked)

  def follow(self, state: str = '') -> SeriesStream:
    """A stream that judges points as they arrive.

    Args:
      state: a file of `SeriesStream.save` to go on from; '' = anew.
    """
    check_is_fitted(self, 'stretches_')
    if state:
      return SeriesStream.load(self, state)
    return SeriesStream(self)

  def judge(self, X) -> Judgement:
    """All that is said of a series, scored once."""
    scores, which, local, line = self._score(X)
    return Judgement(
      line, scores, self._p_values(scores),
      self._known(scores) > self.threshold_,
      self._events(scores, which, local, line),
      self._changed(scores, series_changes.RATE),
    )  # fmt: skip

  def components(self, X) -> np.ndarray:
    """[components, widths, n] float32: what `weights` weigh, a whole series.

    Raises:
      DataError: if values are missing.
    """
    check_is_fitted(self, 'stretches_')
    x = timelines.read(X, self.names_, self.resample).values
    if np.isnan(x).any():
      raise DataError('values are missing: leave them out')
    tracks = subsequences.tracks(self._windows, self._standardized(x))
    return subsequences.spread(self._scales, tracks, len(x))

  def changed(self, X, rate: float = series_changes.RATE) -> int | None:
    """The first row at which what is called healthy has changed for good.

    A test martingale bets against the ranks of the scores of periods
    (`series_changes`): on a series like the healthy part it ever exceeds
    1 / rate with a probability of at most `rate`. None = nothing to be said
    against it.
    """
    return self._changed(self._score(X)[0], rate)

  def _events(self, scores, which, local, line):
    alarms = np.flatnonzero(self._known(scores) > self.threshold_)
    if not len(alarms):
      return []
    cuts = np.flatnonzero(np.diff(line.at[alarms]) > self.period_) + 1
    events = []
    parts = [
      core for x in np.split(alarms, cuts)
      for core in series_tails.apart(x, local[x], line.at, self.period_)
    ]  # fmt: skip
    for part in parts:
      peak = part[np.argmax(scores[part])]
      rows = part[0], part[-1], peak
      events.append(Event(
        line.stamps[rows[0]], line.stamps[rows[1]], line.stamps[peak],
        float(scores[peak]),
        float(self._p_values(scores[peak])),
        series_explanations.reason(self, which[peak]),
        (int(rows[0]), int(rows[1]), int(peak)),
        *series_explanations.compared(self, which[peak]),
      ))  # fmt: skip
    return events

  def _changed(self, scores, rate):
    blocks = series_tails.blocks(scores, self.period_)
    said = np.flatnonzero(np.isfinite(blocks))
    wealth = series_changes.course(self._healthy, blocks[said])
    over = np.flatnonzero(wealth > -np.log(rate))
    return int(said[over[0]]) * self.period_ if len(over) else None

  @property
  def healthy_range_(self) -> tuple[float, float]:
    """The lowest and the highest score of a healthy stretch of a period."""
    return float(self._healthy[0]), float(self._healthy[-1])

  @property
  def offset_(self) -> float:
    return -self.threshold_

  def save(self, path: str, more: dict[str, Any] | None = None) -> None:
    """Writes options and healthy stretches into a model file (.npz).

    Args:
      path: of the file.
      more: meta data of the caller, 'file'.
    """
    check_is_fitted(self, 'stretches_')
    arrays = {f'stretch/{i}': x for i, x in enumerate(self.stretches_)}
    arrays['weights'] = self.weights_
    options = {k: v for k, v in self.get_params().items() if k != 'weights'}
    meta = {
      'kind': 'series', 'format': 1, 'step': self.step_, 'names': self.names_,
      'time': self.time_, 'starts': self.starts_,
      'options': options, **(more or {}),
    }  # fmt: skip
    storage.save(path, arrays, meta)

  @classmethod
  def load(cls, path: str) -> Self:
    """Reads what `save` wrote.

    Raises:
      DataError: if the file is missing, damaged, or no series detector.
    """
    return cls.restore(path)[0]

  @classmethod
  def restore(cls, path: str) -> tuple[Self, dict[str, Any]]:
    """The detector of a model file, and the file's meta data; as `load`."""
    arrays, meta = storage.load(path)
    try:
      model_files.check_series(arrays, meta)
    except DataError as error:
      raise DataError(f'{path} is no detector for series: {error}') from error
    options = meta['options']
    made, weights = cls(**options), arrays.pop('weights')
    none = np.zeros(0, int)
    made._fit([
      Timeline(
        arrays[f'stretch/{i}'], none, none, step=meta['step'],
        names=tuple(meta['names']), time=meta['time'],
      )
      for i in range(len(arrays))
    ], weights)  # fmt: skip
    made.starts_ = list(meta['starts'])
    return made, meta

  def _score(self, X):
    """[n] abnormality, NaN = missing; which view; of the window alone; line."""
    check_is_fitted(self, 'stretches_')
    line = timelines.read(X, self.names_, self.resample)
    pieces, note = timelines.pieces(line)
    _warn([*line.notes, note])
    if line.values.shape[1] != self.n_features_in_:
      raise DataError(
        f'{line.values.shape[1]} channels, but fit saw {self.n_features_in_}'
      )
    shortest = self._scales[0].length
    long = [p for p in pieces if len(p.values) >= shortest]
    if not long:
      raise DataError(
        f'{max(len(p.values) for p in pieces)} samples in a row are shorter '
        f'than a window of {shortest}: give a longer stretch'
      )
    if line.step and self.step_ and abs(line.step / self.step_ - 1) > 0.1:
      _warn([
        f'samples are {line.step:g} s apart, but {self.step_:g} s in fit: '
        'resample one of them, or shapes and rates do not compare'
      ])  # fmt: skip
    n = len(line.values)
    scores, local = np.full(n, np.nan), np.zeros(n, np.float32)
    which = np.zeros(n, np.int32)
    for start, x in long:
      part = slice(start, start + len(x))
      scores[part], which[part], local[part] = subsequences.score(
        self._windows, self._standardized(x), self.weights_
      )
    return scores[line.at], which[line.at], local[line.at], line

  def _standardized(self, x):
    x = x - self.mean_
    x /= self.scale_
    return np.clip(x, -_FARTHEST, _FARTHEST, out=x)

  def _known(self, scores):
    """[n] scores; of what is missing that of the calmest healthy stretch."""
    return np.where(np.isnan(scores), self._healthy[0], scores)

  def _calibrate(self, inner):
    """What scores the healthy part has, and the threshold for the rate.

    Each time stamp by windows a third of it away: what comes is not near it.
    """
    apart, at, blocks = self._apart(), 0, []
    for x in inner:
      scores, _, _ = subsequences.score(
        self._windows, x, self.weights_, apart, at
      )
      blocks.append(
        series_tails.blocks(scores[np.isfinite(scores)], self.period_)
      )
      at += len(x)
    _warn([series_tails.odd_one(blocks, self.period_)])
    self._healthy = np.sort(np.concatenate(blocks))
    self._alone = series_tails.alone(blocks, self._healthy)
    rate = series_tails.per_sample(self.false_alarms, self.step_)
    self.event_rate_ = rate
    # Neighbouring periods that are high together are one event.
    level = -np.expm1(-rate * self.period_ / self._alone)  # of one period
    level = series_tails.calibrated(level, 1 / _odds())
    self.threshold_ = series_tails.threshold(self._healthy, level)

  def _apart(self):
    """Samples from a healthy window to those that it is compared with."""
    return max(1, sum(map(len, self.stretches_)) // 3)

  def _p_values(self, scores):
    p = series_tails.p_values(self._healthy, scores)
    p = series_tails.calibrated(p, _odds())
    return np.where(np.isnan(scores), 1.0, p)


def shipped_weights(channels: int, fold: int | None = None) -> np.ndarray:
  """[components, widths] for series of so many channels.

  Learned from all recordings, or from those that are not of the groups of a
  fold (`series_weights.fold`).
  """
  arrays = _shipped()
  kept = arrays['weights'] if fold is None else arrays['folds'][fold]
  return kept[int(channels > 1)]


def _odds():
  """Of `series_tails.calibrated`; see `experiments.series_calibration`."""
  return float(_shipped().get('odds', 1.0))


@functools.cache
def _shipped():
  """Of one channel, then of several: [2, ...], and [folds, 2, ...]."""
  shipped = importlib.resources.files('metaad_jax') / 'shipped' / 'series.npz'
  with importlib.resources.as_file(shipped) as path:
    return storage.load(str(path))[0]


def _begin(line, piece):
  """Seconds at which a piece begins, or None."""
  if line.seconds is None or not len(line.at):
    return None
  return float(line.seconds[np.searchsorted(line.at, piece.start)])


def _stretches(X):
  """A list of series, of what `fit` takes."""
  many = isinstance(X, list | tuple) and all(hasattr(x, 'shape') for x in X)
  return list(X) if many and (not X or X[0].shape) else [X]


def _common_step(lines):
  """Seconds between samples of all stretches, or None."""
  steps = [line.step for line in lines if line.step]
  if not steps:
    return None
  if max(steps) > 1.1 * min(steps):
    _warn([
      f'samples of the stretches are {min(steps):g} to {max(steps):g} s apart: '
      "resample them, as in resample='1min', or shapes do not compare"
    ])  # fmt: skip
  return float(np.median(steps))


def _warn(notes):
  for note in filter(None, notes):
    warnings.warn(re.sub(r'; to make it one, --fea.*', '', note), stacklevel=5)
