"""Why an event of a series is one: where, how, and what would be healthy."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from metaad_jax.data import timelines
from metaad_jax.features import forecasts, subsequences

TOGETHER = 'all channels together'
FORECAST = 'forecast'
_DATES = 1e8  # seconds: above they count since 1970


class Event(NamedTuple):
  """Neighbouring alarms as one.

  Attributes:
    start, end: index, or time stamp, of the first and of the last alarm.
    peak: where the score is highest.
    score: there; higher = more abnormal.
    p_value: of the peak.
    reason: in words.
    rows: numbers of the rows of start, end and peak.
    view: what is unlike at the peak, one of `subsequences.VIEWS`, or
      'forecast'.
    channel: of which channel; see `TOGETHER`.
    length: over how many samples.
  """

  start: Any
  end: Any
  peak: Any
  score: float
  p_value: float
  reason: str
  rows: tuple[int, int, int]
  view: str
  channel: str
  length: int


class SeriesExplanation(NamedTuple):
  """Why a place in a series is abnormal.

  Attributes:
    view: what of the window is unlike: one of `subsequences.VIEWS`; or
      `FORECAST`: its last value is, to what those before it foretell.
    channel: of which channel, or `TOGETHER`.
    length: samples of the window; of a forecast, those that foretell.
    excess: how many times as far from the healthy part as any healthy window is
      from the others; from the forecast as any healthy value is.
    channels: the names of the channels, the farthest first, and how many times
      as far each is on its own.
    rows: the window's first row and the row after its last, in the series.
    window: [length, channels] its values.
    stretch, sample: where the nearest healthy window begins: in which healthy
      stretch, and at which of its samples; -1 of a forecast.
    healthy: [length, channels] its values; of a forecast, what was foretold.
    since: when that was, in words, or ''.
  """

  view: str
  channel: str
  length: int
  excess: float
  channels: tuple[tuple[str, float], ...]
  rows: tuple[int, int]
  window: np.ndarray
  stretch: int
  sample: int
  healthy: np.ndarray
  since: str


def channel_name(detector: Any, channel: int) -> str:
  if detector.n_features_in_ == 1 and not detector.names_:
    return ''
  if channel == detector.n_features_in_:
    return TOGETHER
  return detector.names_[channel] if detector.names_ else f'channel {channel}'


def explain(
  detector: Any, line: timelines.Timeline, row: int,
  asked: tuple[str, str, int] | None = None,
) -> SeriesExplanation:  # fmt: skip
  """Explains a row of a series.

  Args:
    detector: a fitted `SeriesAnomalyDetector`.
    line: the series.
    row: its number, such as that of an event's peak.
    asked: view, channel and length to explain it by; None = the farthest.

  Raises:
    DataError: if nothing can be said there, since too much is missing.
  """
  place = int(line.at[row])
  pieces, _ = timelines.pieces(line)
  shortest = detector._scales[0].length
  held = [
    p for p in pieces
    if p.start <= place < p.start + len(p.values) and len(p.values) >= shortest
  ]  # fmt: skip
  if not held:
    raise timelines.DataError(
      f'nothing can be said of row {row}: too much is missing around it'
    )
  (piece,) = held

  def rows_of(start, stop):
    at = piece.start + np.array([start, stop])
    first, last = np.searchsorted(line.at, at)
    return int(first), int(last)

  foretold = _foretold(detector, piece, place, rows_of)
  if asked and asked[0] == FORECAST:
    if foretold:
      return foretold._replace(channel=asked[1])
    asked = None
  found, excess = _nearest(detector, piece, place, asked)
  if foretold and not asked and np.log(foretold.excess) > found[0]:
    return foretold
  high, length, view, channel, start, begin = found
  ends = np.cumsum([len(s) for s in detector.stretches_])
  stretch = int(np.searchsorted(ends, begin, 'right'))
  sample = begin - int(ends[stretch] - len(detector.stretches_[stretch]))
  return SeriesExplanation(
    subsequences.VIEWS[view], channel_name(detector, channel), length,
    float(np.exp(high)), _alone(detector, excess),
    rows_of(start, start + length),
    piece.values[start : start + length], stretch, sample,
    detector.stretches_[stretch][sample : sample + length],
    _since(detector, stretch, sample),
  )  # fmt: skip


def _nearest(detector, piece, place, asked):
  """What is nearest to the window around a place, and [C] ratios of channels.

  The logarithm of the ratio, length, view, channel, where the window begins in
  the piece, and the nearest one in the healthy part.
  """
  x = detector._standardized(piece.values)
  found: Any = None
  excess = np.full(detector.n_features_in_, -np.inf)
  every = zip(detector._scales, comparisons(detector), strict=True)
  for scale, compare in list(every)[:-1]:
    length = scale.length
    if length > len(x):
      continue
    start = place - piece.start - (length - 1) // 2
    start = int(np.clip(start, 0, len(x) - length))
    ratio, nearest = compare(x[start : start + length])
    ratio = ratio[: subsequences.NAMED]
    excess = np.maximum(excess, ratio[:, : len(excess)].max(0))
    view, channel = divmod(int(ratio.argmax()), ratio.shape[1])
    if asked and asked[2] == length:
      view = subsequences.VIEWS.index(asked[0])
      channel = _names(detector).index(asked[1])
    high = ratio[view, channel]
    first = found is None or (not asked and high > found[0])
    if first or (asked and asked[2] == length):
      begin = scale.starts[nearest[view, channel]]
      found = high, length, view, channel, start, int(begin)
  return found, excess


def _foretold(detector, piece, place, rows_of):
  """What the forecast says of a place; None where too little came before."""
  forecast = detector._windows.forecast
  at, lags = place - piece.start, forecast.lags
  if at < lags:
    return None
  begin = max(0, at - 2 * lags)
  values = piece.values[begin : at + 1]
  x = detector._standardized(values)
  said = np.concatenate([x[:lags], forecasts.foretold(forecast, x)])
  ratio = forecasts.ratios(forecast, (x - said)[-1:])[:, 0]
  return SeriesExplanation(
    FORECAST, channel_name(detector, int(ratio.argmax())), lags,
    float(np.exp(ratio.max())),
    _alone(detector, ratio[: detector.n_features_in_]),
    rows_of(at - lags, at + 1), values[-lags - 1 :], -1, -1,
    (said * detector.scale_ + detector.mean_)[-lags - 1 :], '',
  )  # fmt: skip


def _alone(detector, excess):
  """Names of channels and their ratios, the farthest first."""
  order = np.argsort(-excess, kind='stable')
  return tuple(
    (channel_name(detector, c), float(np.exp(excess[c]))) for c in order
  )


def _since(detector, stretch, sample):
  """When a sample of the healthy part was."""
  start, step = detector.starts_[stretch], detector.step_
  if start is None or step is None:
    return ''
  seconds = start + sample * step
  if seconds < _DATES:
    return f'{seconds:.6g} s'
  return str(pd.Timestamp(round(seconds, 3), unit='s'))


def _names(detector):
  """Names of the channels, and of all of them together."""
  count = detector._scales[0].farthest.shape[1]
  return [channel_name(detector, c) for c in range(count)]


def comparisons(detector: Any) -> list[subsequences.Comparison]:
  """Of each length; made once for a detector."""
  if detector._comparisons is None:
    detector._comparisons = [
      subsequences.Comparison(scale, detector._windows.deviation)
      for scale in detector._scales
    ]
  return detector._comparisons


def compared(detector: Any, which: int) -> tuple[str, str, int]:
  """View, channel and length of a number of `subsequences.score`."""
  columns = detector._scales[0].farthest.shape[1]
  number, rest = divmod(int(which), len(subsequences.VIEWS) * columns)
  if number == len(detector._scales):
    lags = detector._windows.forecast.lags
    return FORECAST, channel_name(detector, rest), lags
  view, channel = divmod(rest, columns)
  return (
    subsequences.VIEWS[view], channel_name(detector, channel),
    detector._scales[number].length,
  )  # fmt: skip


def reason(detector: Any, which: int) -> str:
  """In words, which of the comparisons is the farthest; see `compared`."""
  view, name, length = compared(detector, which)
  of = f' of {name}' if name else ''
  if view == FORECAST:
    many = length_text(length, detector.step_)
    return f'value{of}: not what the {many} before it foretell'
  return (
    f'{view}{of} over {length_text(length, detector.step_)}: farthest from '
    'what is healthy'
  )


def text(e: SeriesExplanation, step: float | None = None) -> str:
  """A line on it; `step` in seconds."""
  of = f' of {e.channel}' if e.channel else ''
  when = f', {e.since},' if e.since else ''
  many = [f'{name} ({x:.2g})' for name, x in e.channels[:3]]
  more = f'; each alone: {", ".join(many)}' if len(e.channels) > 1 else ''
  if e.view == FORECAST:
    return (
      f'the value{of} lies {e.excess:.2g} times as far from what the '
      f'{length_text(e.length, step)} before it foretell as any healthy value '
      f'does{more}'
    )
  return (
    f'{e.view}{of} over {length_text(e.length, step)} lies {e.excess:.2g} '
    'times as far from the healthy part as any of its own windows does; the '
    f'nearest healthy window{when} begins at sample {e.sample}'
    f'{f" of stretch {e.stretch}" if e.stretch else ""}{more}'
  )


_UNITS = ((86400.0, 'day'), (3600.0, 'hour'), (60.0, 'minute'))


def length_text(samples: float, step: float | None) -> str:
  """'288 samples (1 day)'."""
  text = f'{samples:,.0f} samples'
  return text if step is None else f'{text} ({seconds_text(samples * step)})'


def seconds_text(seconds: float) -> str:
  """'1.5 hours'."""
  for unit, name in _UNITS:
    if seconds >= unit:
      many = f'{seconds / unit:.3g}'
      return f'{many} {name}{"s" if many != "1" else ""}'
  return f'{seconds:.3g} seconds'
