"""A judged series as a page: picture, events, and what they are unlike."""

import os
from typing import Any

import numpy as np

from metaad_jax.detector import series_explanations, series_files
from metaad_jax.reports import rendering

_COLUMNS = 1000  # of the picture
_CHANNELS = 5  # that are drawn
_EVENTS = 200  # that are listed
_EXPLAINED = 20  # that get a picture of their own
_TICKS = 6


def page(judged: series_files.JudgedSeries) -> bytes:
  """The page of a judged series, as HTML that needs no other file."""
  found, by = judged.found, judged.judge.detector
  worst = sorted(found.events, key=lambda e: -e.score)
  why = {
    e.rows: by.explain(found.line, e) for e in worst[:_EXPLAINED]
  }  # fmt: skip
  numbers = {e.rows: i for i, e in enumerate(found.events, 1)}
  events = [
    {'number': numbers[e.rows], 'event': e, 'why': w, 'box': w and _box(by, w),
     'text': w and series_explanations.text(w, by.step_)}
    for e in worst[:_EVENTS] for w in [why.get(e.rows)]
  ]  # fmt: skip
  return rendering.html(
    'series.html.j2',
    name=os.path.basename(judged.path),
    source=os.path.basename(judged.judge.path),
    summary=series_files.summary(judged).splitlines(),
    rate=series_files.rate_text(by),
    threshold=by.threshold_,
    count=len(found.events),
    picture=_picture(judged, list(why.values()), numbers),
    events=events,
    columns=judged.judge.support.columns,
    period=series_explanations.length_text(by.period_, by.step_),
    missing=int(np.isnan(found.scores).sum()),
  )


def _picture(judged, why, numbers) -> dict[str, Any]:
  """Places in boxes of 1000 x 100, from the top."""
  found, by = judged.found, judged.judge.detector
  healthy = judged.healthy
  before = np.zeros((0, by.n_features_in_))
  if healthy is not None:
    before = healthy.values[healthy.at]
  values = np.concatenate([before, found.line.values[found.line.at]])
  n, begin = len(values), len(before)
  x = lambda row: round(1000 * row / max(n, 1), 1)
  scores = np.concatenate([np.full(begin, np.nan), found.scores])
  calm, high = by.healthy_range_
  top = np.nanmax([*found.scores, by.threshold_, high])
  low = min(np.nanmin([*found.scores, calm]), by.threshold_ - 0.1)
  level = lambda s: round(float(95 - 90 * (s - low) / (top - low)), 1)
  return {
    'channels': [
      (series_explanations.channel_name(by, c), *_band(values[:, c]))
      for c in _chosen(by, why)
    ],
    'more': by.n_features_in_ - len(_chosen(by, why)),
    'score': _band(scores, low, top)[0],
    'range': (f'{low:.3g}', f'{top:.3g}'),
    'threshold': level(by.threshold_),
    'begin': x(begin),
    'changed': None if found.changed is None else x(begin + found.changed),
    'events': [
      (numbers[e.rows], x(begin + e.rows[0]),
       max(2.0, x(e.rows[1] + 1) - x(e.rows[0])), x(begin + e.rows[2]))
      for e in found.events
    ],
    'ticks': _ticks(judged, begin, n),
  }  # fmt: skip


def _chosen(by, why):
  """Numbers of the channels that are drawn: those of the events first."""
  names = [series_explanations.channel_name(by, c)
           for c in range(by.n_features_in_)]  # fmt: skip
  said = [name for w in why for name, _ in w.channels[:1]]
  order = sorted(
    range(len(names)), key=lambda c: (-said.count(names[c]), c)
  )  # fmt: skip
  return sorted(order[:_CHANNELS])


def _band(x, low=None, high=None):
  """Paths that cover [n] values, one for each run of known ones; the range."""
  known = np.isfinite(x)
  if not known.any():
    return [], '', ''
  low = np.nanmin(x) if low is None else low
  high = np.nanmax(x) if high is None else high
  size = min(len(x), _COLUMNS)
  bins = np.arange(len(x)) * size // len(x)
  starts = np.flatnonzero(np.diff(bins, prepend=-1))
  least = np.minimum.reduceat(np.where(known, x, np.inf), starts)
  most = np.maximum.reduceat(np.where(known, x, -np.inf), starts)
  span = (high - low) or 1.0
  place = lambda v: np.round(95 - 90 * (v - low) / span, 1)
  across = np.round(1000 * (np.arange(size) + 0.5) / size, 1)
  paths, full = [], np.isfinite(least)
  edges = np.flatnonzero(np.diff(np.r_[0, full.astype(int), 0]))
  for a, b in edges.reshape(-1, 2):
    there = zip(across[a:b], place(most[a:b]), strict=True)
    back = zip(across[a:b][::-1], place(least[a:b])[::-1], strict=True)
    points = [f'{px:g} {py:g}' for px, py in (*there, *back)]
    paths.append(f'M{"L".join(points)}Z')
  return paths, f'{low:.4g}', f'{high:.4g}'


def _ticks(judged, begin, n):
  """(place, text) of a few rows."""
  line, healthy = judged.found.line, judged.healthy
  ticks = []
  for i in range(_TICKS):
    row = min(n - 1, round(i * (n - 1) / (_TICKS - 1)))
    if row >= begin:
      stamp = line.stamps[row - begin]
    else:
      stamp = healthy.stamps[row]
    text = str(stamp) if line.time else f'row {judged.first - begin + row}'
    ticks.append((round(1000 * row / max(n - 1, 1), 1), text))
  return ticks


def _box(by, why):
  """The window of an event and the nearest healthy one, in 300 x 100."""
  names = [series_explanations.channel_name(by, c)
           for c in range(by.n_features_in_)]  # fmt: skip
  farthest = why.channels[0][0]  # where all channels together are unlike
  shown = names.index(why.channel if why.channel in names else farthest)
  window, healthy = why.window[:, shown], why.healthy[:, shown]
  low = min(window.min(), healthy.min())
  span = (max(window.max(), healthy.max()) - low) or 1.0
  step = max(1, len(window) // 300)

  def path(x):
    x = x[::step]
    across = 300 * np.arange(len(x)) / max(len(x) - 1, 1)
    places = 95 - 90 * (x - low) / span
    return 'M' + 'L'.join(
      f'{a:.1f} {b:.1f}' for a, b in zip(across, places, strict=True)
    )

  return {'window': path(window), 'healthy': path(healthy),
          'name': names[shown]}  # fmt: skip
