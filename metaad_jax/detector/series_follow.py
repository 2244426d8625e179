"""A series that is judged point by point, as it arrives.

What a stream has to remember is the last window of every length and what was
found in the last few: memory and time for a point are constant.
"""

import hashlib
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from metaad_jax import schema, storage
from metaad_jax.base import DataError
from metaad_jax.data import moments, timelines
from metaad_jax.detector import series_changes, series_explanations
from metaad_jax.features import forecasts, subsequences

_NOTHING = -1e9  # the logarithm of no wealth
_CALIBRATED = 3000  # healthy samples that the threshold is moved by


class Point(NamedTuple):
  """What is said of a point when it arrives.

  Attributes:
    number: of the point, from 0.
    score: higher = more abnormal; NaN where nothing is said: at the start, and
      where the point or more than 8 before it are missing.
    p_value: 1 where nothing is said.
    alarm: whether the score is above `SeriesStream.threshold`.
    event: one that has ended: the last alarm is more than a period ago.
    reason: in words, of an alarm.
    note: what the user should know, or ''.
  """

  number: int
  score: float
  p_value: float
  alarm: bool
  event: Any = None
  reason: str = ''
  note: str = ''


class SeriesStream:
  """Judges a series as it arrives; made by `SeriesAnomalyDetector.follow`.

  A point's score is the one that it has as the last point of all that came so
  far: `score_samples(series[: n + 1])[-1]`, with the sign turned.

  Example:
    >>> stream = detector.follow()
    >>> for values in sensor:
    ...   point = stream.push(values)
    ...   if point.alarm: ...
    >>> stream.save('state.npz')  # stream = detector.follow('state.npz')
  """

  def __init__(self, detector: Any):
    if detector.resample:
      raise DataError(
        f'resample={detector.resample!r}: a stream is not resampled; fit to a '
        'series of even steps'
      )
    self._detector, self._scales = detector, detector._scales
    self._compare = series_explanations.comparisons(detector)
    # A score is one of the last window alone, and so a little higher than in
    # the middle of a series, for which the threshold is.
    if detector._lead is None:
      detector._lead = _lead(detector)
    self._lead, tops = detector._lead
    self._number = 0  # points that were pushed
    self._last: float | None = None  # seconds of the last one
    self._anew()
    self._pending: list[np.ndarray] = []  # rows that lack a value
    self._fast = 0  # steps in a row that were too short
    self._known, self._bets = series_changes.begin(tops), 0
    self._wealth = np.full(len(series_changes.POWERS), _NOTHING)
    self._block = [-np.inf, 0]
    # Of alarms less than a period apart the highest ratio, and the last one.
    self._run = 0.0, -1
    self._changed = False
    self._event: dict[str, Any] | None = None

  def _anew(self):
    """Forgets what came: the next point is the first of a piece."""
    longest = self._scales[-1].length
    self._buffer = np.zeros((2 * longest, self._detector.n_features_in_))
    self._filled, self._count = 0, 0
    self._tracks: list[list[np.ndarray]] = [[] for _ in self._scales]
    self._foretold: list[np.ndarray] = []

  @property
  def threshold(self) -> float:
    """A point whose score is above this is an alarm."""
    return float(self._detector.threshold_ + self._lead)

  @property
  def number(self) -> int:
    """Points that came."""
    return self._number

  @property
  def last(self) -> float | None:
    """Seconds of the last point, or None."""
    return self._last

  def push(self, values: Any, time: Any = None, stamp: Any = None) -> Point:
    """Judges the next point.

    Args:
      values: a number, or [channels] numbers in the order of `fit`; NaN =
        missing.
      time: seconds, or a time stamp; points that are not there count as
        missing. None = the next of the series.
      stamp: what events call the point; the time, or else its number.

    Raises:
      DataError: for what is no point, or a time that is not after the last; the
        stream stays as it was.
    """
    detector = self._detector
    row = np.asarray(values, np.float64).reshape(-1)
    if len(row) != detector.n_features_in_ or (np.abs(row) > 1e100).any():
      raise DataError(
        f'a point has {detector.n_features_in_} numbers, not '
        f'{np.array2string(row, threshold=5)}'
      )
    note = self._advance(time)
    self._number += 1
    if stamp is None:
      stamp = self._number - 1 if time is None else time
    if np.isnan(row).any():
      self._pending.append(row)
      return self._said(np.nan, 0, 0.0, stamp, note)
    if len(self._pending) > timelines.LONGEST_GAP:
      self._anew()
      note = note or 'too much is missing: the next windows begin here'
    elif self._pending and self._count:
      rows = np.stack([self._buffer[self._filled - 1], *self._pending, row])
      filled = pd.DataFrame(rows).interpolate().to_numpy()
      for missing in filled[1:-1]:
        self._take(missing)
    self._pending = []
    score, which, local = self._take(row)
    return self._said(score, which, local, stamp, note)

  def _advance(self, time):
    """Counts points that are not there as missing; a note on the rate."""
    if time is None:
      return ''
    seconds = seconds_of(time)
    before, step = self._last, self._detector.step_
    note = ''
    if before is not None:
      if seconds <= before:
        raise DataError(f'the time {time} is not after that of the last point')
      many = (seconds - before) / step if step else 1.0
      self._fast = self._fast + 1 if many < 0.9 else 0
      if self._fast == 50:
        note = (
          f'points come every {seconds - before:g} s, but {step:g} s apart in '
          'fit: shapes and rates do not compare'
        )
      whole = max(1, round(many))
      most = timelines.LONGEST_GAP + 1
      if whole > most or abs(many - whole) < 0.25:
        gone = np.full(self._detector.n_features_in_, np.nan)
        self._pending += [gone] * min(whole - 1, most)
    self._last = seconds
    return note

  def _take(self, row):
    """Score, view and highest ratio of the next point; NaN at the start."""
    if self._filled == len(self._buffer):
      keep = self._scales[-1].length
      self._buffer[:keep] = self._buffer[-keep:]
      self._filled = keep
    self._buffer[self._filled] = row
    self._filled += 1
    self._count += 1
    self._foretold.append(self._forecast())
    count, blend = self._count, subsequences.blend(self._scales)
    del self._foretold[: -1 - blend]
    if count < self._scales[0].length:
      return np.nan, 0, 0.0
    tracks, first = [], max(0, count - 1 - blend)
    for scale, compare, kept in zip(
      self._scales, self._compare, self._tracks, strict=True
    ):
      start = count - scale.length
      if start < 0:
        tracks.append(np.zeros((subsequences.TRACK, 0)))
        continue
      window = self._buffer[self._filled - scale.length : self._filled]
      ratio, _ = compare(self._detector._standardized(window))
      now = subsequences.of_window(np.array([start]), ratio[..., None])[:, 0]
      tracks.append(np.array([*kept, now]).T)
      hop = subsequences.hop(scale)
      if start % hop == 0:
        kept.append(now)
        past = first - (scale.length - 1) / 2
        while len(kept) > 1 and kept[1][0] <= past:
          kept.pop(0)
    tracks.append(np.array(self._foretold).T)
    score, which, local = subsequences.of_stamps(
      self._scales, tracks, count, self._detector.weights_, first
    )
    return float(score[-1]), int(which[-1]), float(local[-1])

  def _forecast(self):
    """[forecasts.TRACK] of the point that came last."""
    forecast = self._detector._windows.forecast
    begin = max(0, self._filled - 1 - min(forecast.lags, self._count - 1))
    recent = self._detector._standardized(self._buffer[begin : self._filled])
    return forecasts.track(forecast, recent)[:, -1]

  def _said(self, score, which, local, stamp, note):
    detector = self._detector
    known = not np.isnan(score)
    p = float(detector._p_values(np.array(score - self._lead)))
    alarm = known and score > self.threshold
    why = series_explanations.reason(detector, which) if alarm else ''
    ended = self._grow(alarm, score, p, stamp, which, local)
    if self._drifted(score) and not self._changed:
      self._changed = True
      note = (
        'more is unlike the healthy part than single events explain: if that '
        'is the new normal, fit anew (said in error once in '
        f'{1 / series_changes.RATE:.0f} healthy streams)'
      )
    return Point(self._number - 1, score, p, alarm, ended, why, note)

  def _grow(self, alarm, score, p, stamp, which, local):
    """Goes on with an event; the one that has ended, or None."""
    number, ended = self._number - 1, None
    open_, period = self._event, self._detector.period_
    if open_ and number - open_['rows'][1] > period:
      ended, open_, self._event = self.finish(), None, None
    high, last = self._run
    high = max(high if number - last <= period else 0.0, local)
    if not alarm:
      return ended
    self._run = high, number
    if high > 0 and local <= high / 2:
      return ended  # an echo in the average of what was before
    if open_ is None:
      open_ = self._event = {
        'start': stamp, 'score': -np.inf, 'rows': [number] * 3
      }  # fmt: skip
    open_['end'], open_['rows'][1] = stamp, number
    if score > open_['score']:
      open_ |= {'score': score, 'p_value': p, 'peak': stamp, 'which': which}
      open_['rows'][2] = number
    return ended

  def finish(self) -> series_explanations.Event | None:
    """The event that is not over yet, or None."""
    if self._event is None:
      return None
    e, detector = self._event, self._detector
    which = e['which']
    return series_explanations.Event(
      e['start'], e['end'], e['peak'], e['score'], e['p_value'],
      series_explanations.reason(detector, which), tuple(e['rows']),
      *series_explanations.compared(detector, which),
    )  # fmt: skip

  def _drifted(self, score):
    """Bets every period, as `SeriesAnomalyDetector.changed` does."""
    high, count = self._block
    self._block = [float(np.fmax(high, score)), count + 1]
    if count + 1 < self._detector.period_:
      return False
    top, _ = self._block
    self._block = [-np.inf, 0]
    if top == -np.inf:
      return False
    self._bets += 1
    p = series_changes.rank(self._known, top, self._bets)
    won = series_changes.bet(p)
    begun = np.logaddexp(self._wealth, series_changes.stake(self._bets))
    self._wealth = np.maximum(begun + won, _NOTHING)
    wealth = series_changes.total(self._wealth, self._bets)
    return wealth > -np.log(series_changes.RATE)

  # --- files -----------------------------------------------------------------

  def save(self, path: str) -> None:
    """Writes the state, so that `detector.follow(path)` goes on from here."""
    arrays = {
      'buffer': self._buffer[: self._filled][-self._scales[-1].length :],
      'pending': np.array(self._pending, np.float64).reshape(
        -1, self._detector.n_features_in_
      ),
      'wealth': self._wealth,
      'known': np.array(self._known),
      'block': np.array(self._block, np.float64),
      'run': np.array(self._run),
      'foretold': np.array(self._foretold).reshape(-1, forecasts.TRACK),
    }
    for i, track in enumerate(self._tracks):
      arrays[f'track/{i}'] = np.array(track).reshape(-1, subsequences.TRACK)
    event = self._event and {
      name: value if name == 'rows' else moments.written(value)
      for name, value in self._event.items()
    }
    storage.save(path, arrays, {
      'kind': 'series state', 'format': 2, 'model': fingerprint(self._detector),
      'number': self._number, 'count': self._count, 'last': self._last,
      'fast': self._fast, 'changed': self._changed, 'event': event,
      'bets': self._bets,
    })  # fmt: skip

  @classmethod
  def load(cls, detector: Any, path: str) -> 'SeriesStream':
    """The stream that `save` wrote.

    Raises:
      DataError: if it is no state, or that of another detector.
    """
    arrays, meta = storage.load(path)
    stream = cls(detector)
    try:
      _STATE('its model.json', meta)
      if meta['model'] != fingerprint(detector):
        raise DataError('it is the state of another detector')
      stream._restore(arrays, meta)
    except DataError as error:
      raise DataError(f'{path}: {error}: start without a state') from error
    return stream

  def _restore(self, arrays, meta):
    channels = self._detector.n_features_in_
    names = [f'track/{i}' for i in range(len(self._scales))]
    shapes = {
      'buffer': (self._scales[-1].length, channels),
      'pending': (timelines.LONGEST_GAP + 10**6, channels),
      'wealth': self._wealth.shape, 'block': (2,), 'run': (2,),
      'known': (series_changes.MOST,),
      **dict.fromkeys(names, (999, subsequences.TRACK)),
      'foretold': (subsequences.blend(self._scales) + 1, forecasts.TRACK),
    }  # fmt: skip
    if arrays.keys() != shapes.keys():
      raise DataError('it lacks an array, or has one too many')
    for name, shape in shapes.items():
      x = arrays[name]
      free = name not in ('wealth', 'block', 'run')
      if (
        x.dtype.kind != 'f' or x.ndim != len(shape)
        or x.shape[free:] != shape[free:] or len(x) > shape[0]
        or (name not in ('block', 'pending') and not np.isfinite(x).all())
      ):  # fmt: skip
        schema.refuse(name, x.shape, f'numbers, at most {shape}')
    buffer = arrays['buffer']
    if len(buffer) != min(meta['count'], shapes['buffer'][0]):
      raise DataError('its buffer is not as long as it says')
    self._buffer[: len(buffer)] = buffer
    self._filled, self._count = len(buffer), meta['count']
    self._pending = list(arrays['pending'])
    self._wealth, self._bets = arrays['wealth'].copy(), meta['bets']
    known = min(series_changes.MOST, len(self._known) + self._bets)
    if len(arrays['known']) != known:
      raise DataError('its scores are not those of so many periods')
    self._known = np.sort(arrays['known']).tolist()
    self._block = [float(arrays['block'][0]), int(arrays['block'][1])]
    self._tracks = [list(arrays[name]) for name in names]
    self._foretold = list(arrays['foretold'])
    known = min(self._count, shapes['foretold'][0])
    columns = self._scales[0].farthest.shape[1]
    named = all(x[-1] in range(columns) for x in self._foretold)
    if len(self._foretold) != known or not named:
      raise DataError('its forecasts are not those of so many points')
    self._run = float(arrays['run'][0]), int(arrays['run'][1])
    self._number, self._last = meta['number'], meta['last']
    self._fast, self._changed = meta['fast'], meta['changed']
    self._event = meta['event']
    numbers = len(self._scales) * self._scales[0].farthest.size + columns
    if self._event and not (
      self._event['which'] < numbers and len(self._event['rows']) == 3
    ):
      raise DataError('its event is of another detector')


def _lead(detector):
  """How much higher scores of the last point are, at the top of a period.

  And those tops.
  """
  sizes = [len(x) for x in detector.stretches_]
  longest = int(np.argmax(sizes))
  x = detector._standardized(detector.stretches_[longest][:_CALIBRATED])
  begin = sum(sizes[:longest])
  known = detector._windows, x, detector.weights_, detector._apart(), begin
  last = subsequences.arriving(*known)
  inner = subsequences.score(*known)[0]
  both = np.stack([last, inner])[:, np.isfinite(last) & np.isfinite(inner)]
  period = detector.period_
  count = both.shape[1] // period
  if not count:
    return 0.0, detector._healthy
  tops = both[:, : count * period].reshape(2, count, period).max(-1)
  return float(max(0.0, (tops[0] - tops[1]).mean())), tops[0]


_STAMP = schema.satisfies(
  lambda v: isinstance(v, int | float | str) and len(str(v)) < 100, 'a time'
)
_COUNT = schema.whole(0, 2**62)
_STATE = schema.fields({
  'kind': schema.satisfies(lambda v: v == 'series state', "'series state'"),
  'format': schema.whole(2, 2), 'model': schema.TEXT, 'number': _COUNT,
  'count': _COUNT, 'last': schema.or_none(schema.number(-1e15, 1e15)),
  'fast': _COUNT, 'bets': _COUNT,
  'changed': schema.satisfies(lambda v: isinstance(v, bool), 'true or false'),
  'event': schema.or_none(schema.fields({
    'start': _STAMP, 'end': _STAMP, 'peak': _STAMP, 'which': _COUNT,
    'score': schema.number(-1e300, 1e300), 'p_value': schema.number(0, 1),
    'rows': schema.listed(_COUNT, 3),
  }, ('start', 'end', 'peak', 'which', 'score', 'p_value', 'rows'))),
}, ('kind', 'format', 'model', 'number', 'count', 'last', 'fast', 'changed',
    'event', 'bets'))  # fmt: skip


def fingerprint(detector: Any) -> str:
  """Of what a detector was fitted to."""
  params = {k: v for k, v in detector.get_params().items() if k != 'weights'}
  sha256 = hashlib.sha256(repr(sorted(params.items())).encode())
  for x in (*detector.stretches_, detector.weights_):
    sha256.update(np.ascontiguousarray(x).data)
  return sha256.hexdigest()


def seconds_of(time: Any) -> float:
  """Seconds of a number, or since 1970 of a time stamp (UTC without a zone)."""
  if isinstance(time, int | float | np.number):
    return float(time)
  try:
    stamp = pd.Timestamp(time)
    if stamp is not pd.NaT:
      return stamp.timestamp()
  except (ValueError, TypeError, OverflowError):
    pass
  raise DataError(f'{time!r} is no time')
