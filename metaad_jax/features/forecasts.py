"""How far each value of a series is from what the values before it foretell.

A linear autoregression of all channels by all channels, fitted to the healthy
part by ridge regression. The healthy part itself is judged a tenth at a time by
a fit to the rest of it; its largest error makes channels comparable.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

LAGS = 32  # values before, at most
TRACK = 3  # numbers of a time stamp: see `track`
_NUMBERS = 512  # of all channels together that foretell
_FOLDS = 10
_RIDGE = 1.0
_FLOOR = 1e-4  # errors, in standard deviations of the series
_ROOM = 1 << 21  # numbers that are held at once


class Forecast(NamedTuple):
  """What foretells the next value.

  Attributes:
    lags: values before that count.
    coefficients: [C * lags + 1, C] of them, and a constant.
    deviation: [C] root mean square of healthy errors.
    farthest: [C or C + 1] logarithm of the largest healthy error; the last of
      several channels is of the root mean square of all, in deviations.
    inside: [TRACK, T] `track` of the healthy part.
    calm: [TRACK] of what nothing foretells, since too little came before.
  """

  lags: int
  coefficients: np.ndarray
  deviation: np.ndarray
  farthest: np.ndarray
  inside: np.ndarray
  calm: np.ndarray


def fit(stretches: Sequence[np.ndarray], most: int) -> Forecast:
  """Fits to healthy stretches [T, C], standardized; `most` lags at most."""
  channels = stretches[0].shape[1]
  lags = max(1, min(LAGS, most, _NUMBERS // channels))
  parts = _tenths(stretches, lags)
  grams = [sum(a.T @ a for a in _rows(part, lags)) for part in parts]
  total = sum(grams)
  errors = np.concatenate(
    [
      a[:, lags * channels + 1 :] - a[:, : lags * channels + 1] @ fitted
      for part, gram in zip(parts, grams, strict=True)
      for fitted in [_solve(total - gram, channels)]
      for a in _rows(part, lags)
    ]
  )
  deviation = np.sqrt((errors**2).mean(0)) + _FLOOR
  made = Forecast(
    lags, _solve(total, channels), deviation, np.zeros(1), errors, errors
  )
  made = made._replace(farthest=ratios(made, errors).max(1))
  inside = _of_ratios(ratios(made, errors))
  calm = np.array([*np.median(inside[:2], 1), 0])
  ends = np.cumsum([len(x) - lags for x in stretches])[:-1]
  fill = np.repeat(calm[:, None], lags, 1)
  every = [
    y for x in np.split(inside, ends, axis=1) for y in (fill, x)
  ]  # fmt: skip
  return made._replace(
    inside=np.concatenate(every, 1).astype(np.float32), calm=calm
  )


def _tenths(stretches, lags):
  """Lists of pieces [lags + n, C] of stretches, of a tenth of the rows each."""
  count = sum(len(x) - lags for x in stretches)
  cuts = np.linspace(0, count, _FOLDS + 1).astype(int)
  parts: list[list[np.ndarray]] = [[] for _ in range(_FOLDS)]
  begin = 0
  for x in stretches:
    for part, low, high in zip(parts, cuts[:-1], cuts[1:], strict=True):
      first, last = max(low - begin, 0), min(high - begin, len(x) - lags)
      if first < last:
        part.append(x[first : last + lags])
    begin += len(x) - lags
  return [part for part in parts if part]


def _rows(pieces, lags) -> Iterator[np.ndarray]:
  """[n, C * lags + 1 + C]: the values before, 1, and the values; in chunks."""
  for x in pieces:
    most = max(64, _ROOM // ((lags + 1) * x.shape[1]))
    for first in range(0, len(x) - lags, most):
      part = x[first : first + most + lags]
      past = np.lib.stride_tricks.sliding_window_view(part[:-1], lags, 0)
      ones = np.ones((len(past), 1))
      yield np.hstack([past.reshape(len(past), -1), ones, part[lags:]])


def _solve(gram, channels):
  """[C * lags + 1, C] of the sums of products of `_rows`."""
  size = len(gram) - channels
  ridge = np.diag([*[_RIDGE] * (size - 1), 1e-9])
  return np.linalg.solve(gram[:size, :size] + ridge, gram[:size, size:])


def foretold(forecast: Forecast, x: np.ndarray) -> np.ndarray:
  """[T - lags, C]: what those before foretell of values from the lags-th on."""
  size = len(forecast.coefficients)
  made = [
    a[:, :size] @ forecast.coefficients for a in _rows([x], forecast.lags)
  ]
  return np.concatenate([np.zeros((0, x.shape[1])), *made])


def ratios(forecast: Forecast, errors: np.ndarray) -> np.ndarray:
  """[n, C] -> [C or C + 1, n] logarithms: above 0 no healthy error is as large.

  The last of several channels is of all of them together.
  """
  made = np.log(np.maximum(np.abs(errors.T), _FLOOR))
  if len(made) > 1:
    square = ((errors / forecast.deviation) ** 2).mean(1)
    made = np.vstack([made, np.log(np.maximum(square, _FLOOR**2)) / 2])
  return made - forecast.farthest.reshape(-1, 1)


def _of_ratios(ratio):
  """[TRACK, n]: the farthest channel's, that of all; the highest's number."""
  channels = ratio[:-1] if len(ratio) > 1 else ratio
  return np.stack([channels.max(0), ratio[-1], ratio.argmax(0)])


def track(forecast: Forecast, x: np.ndarray) -> np.ndarray:
  """[TRACK, T] of the time stamps of a series [T, C], standardized.

  The logarithms of the ratio of the farthest channel and of all together, and
  which of `ratios` is the highest.
  """
  lags = min(forecast.lags, len(x))
  made = np.repeat(forecast.calm[:, None], len(x), 1)
  if len(x) > lags:
    errors = x[lags:] - foretold(forecast, x)
    made[:, lags:] = _of_ratios(ratios(forecast, errors))
  return made
