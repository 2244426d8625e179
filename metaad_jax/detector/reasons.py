"""Explanations in words, and as pictures."""

import io
from typing import NamedTuple

import numpy as np

from metaad_jax.detector.explanations import Explanation

_NORMAL, _ANOMALY = '#0072B2', '#D55E00'
# Features of windows that are logarithms of a power, and what to call them.
_POWERS = {'log-power ': 'band', 'envelope ': 'envelope band'}


class Reason(NamedTuple):
  """One column that makes a row abnormal."""

  column: str
  value: float | str  # the text of a category; NaN = missing
  share: float  # its attribution
  text: str  # the value beside those of the normals, in words


def reasons(explanation: Explanation, most: int = 3) -> list[Reason]:
  """The columns that explain most, and at least a tenth of the first."""
  e = explanation
  order = np.argsort(-e.attributions, kind='stable')[:most]
  least = max(0.1 * e.attributions[order[0]], 0) if len(order) else 0
  chosen = [c for c in order if e.attributions[c] > least]
  value = lambda c: e.words.get(e.names[c], float(e.row[c]))
  share = lambda c: float(e.attributions[c])
  return [Reason(e.names[c], value(c), share(c), _reason(e, c)) for c in chosen]


def text(explanation: Explanation, most: int = 3) -> str:
  """A line that says what is abnormal, and what would make it normal."""
  e = explanation
  line = _verdict(e)
  why = [reason.text for reason in reasons(e, most)]
  if why:
    line += ': ' + '; '.join(why)
  if len(e.times) and e.times.max() > 0:
    i = int(np.argmax(e.times))
    begin, end = e.seconds[i], e.seconds[i + 1]
    line += f'; mostly between {begin:.4g} and {end:.4g} {e.time_unit}'
  line += f'; the nearest normal is {_normal(e, e.nearest[0])} of fit'
  if e.change is not None:
    parts = [
      _shown(e.names[c])
      if len(e.signal)  # the number of a feature does not say what to mend
      else f'{e.names[c]} = {_in_words(e, c, e.change.row[c])}'
      for c in e.change.columns
    ]
    line += f'; it would be normal with {", ".join(parts[:most])}'
    line += f' and {len(parts) - most} more' if len(parts) > most else ''
    line += f' as in {_normal(e, e.change.normal)}' if len(e.signal) else ''
  return line


def _verdict(e):
  if np.isnan(e.p_value):
    return f'score {e.score:.3g} (not calibrated)'
  verdict = 'abnormal' if e.score > e.threshold else 'normal'
  return f'{verdict} (p = {e.p_value:.2g})'


def _normal(e, place):
  number = int(e.numbers[place]) if len(e.numbers) else int(place)
  return f'{"window" if len(e.signal) else "row"} {number}'


def _shown(name):
  """The name of a column; of the logarithm of a band's power, the band."""
  for start, noun in _POWERS.items():
    if name.startswith(start):
      return f'{noun} {name.removeprefix(start)}'
  return name


def _number(x):
  return f'{x:.2g}' if x < 99.5 else f'{x:,.0f}' if x < 1e6 else f'{x:.0e}'


def _reason(e, c):
  value, normals = e.row[c], e.normals[:, c]
  normals = normals[np.isfinite(normals)]
  start = f'{e.names[c]} is {_value(e, c)}'
  if np.isnan(value):
    return start
  if not len(normals):
    return f'{start}, and no normal has a value there'
  low, high = normals.min(), normals.max()
  if len(e.signal) and _shown(e.names[c]) != e.names[c]:
    return _power_reason(_shown(e.names[c]), value, low, high)
  seen = np.mean(normals == value)
  if low == high:
    always = f'always {_in_words(e, c, low)} in normals'
    return f'{start}, {"as always" if seen else always}'
  if e.names[c] in e.categories:
    return f'{start}, as in {f"{seen:.0%}" if seen else "none"} of the normals'
  if seen:
    return f'{start}, as in {seen:.0%} of the normals'
  if low <= value <= high:
    return (
      f'{start}, within the range of the normals ({_in_words(e, c, low)} to '
      f'{_in_words(e, c, high)}) but unusual there'
    )
  side, bound = ('above', high) if value > high else ('below', low)
  far = abs(value / 2 - bound / 2) / (high / 2 - low / 2)
  return f'{start}, {side} all normals by {_number(far)} times their range'


def _power_reason(name, value, low, high):
  """Of a band of a spectrum, as a ratio of powers."""
  far = max(value - high, low - value)
  if far <= 0:
    return f'{name} is as strong as in some normals, but unusual'
  ratio = _number(np.exp(min(far, 500.0)))
  if value > high:
    return f"{name} has {ratio} times the power of the normals' strongest"
  return f"{name} is {ratio} times weaker than the normals' weakest"


def _in_words(e, c, value):
  """A number, or the text of a category."""
  texts = e.categories.get(e.names[c])
  if np.isnan(value):
    return 'missing'
  if texts is None:
    return f'{value:.4g}'
  code = int(value)
  return repr(texts[code]) if code < len(texts) else 'a text not seen in fit'


def _value(e, c):
  word = e.words.get(e.names[c])
  return _in_words(e, c, e.row[c]) if word is None else repr(word)


def picture(explanation: Explanation, most: int = 12, title: str = ''):
  """Attributions, the row among the normals, and stretches of time.

  A figure of matplotlib with at most `most` columns.
  """
  from matplotlib import figure as mpl_figure  # a third of a second

  e, timed = explanation, len(explanation.times) > 0
  shown = np.argsort(-np.abs(e.attributions), kind='stable')[:most][::-1]
  height = 1.9 + 0.32 * max(len(shown), 3) + 1.8 * timed
  figure = mpl_figure.Figure(figsize=(9, height), layout='constrained')
  grid = figure.add_gridspec(1 + timed, 2, height_ratios=[2.5, 1][: 1 + timed])
  left, right = (figure.add_subplot(grid[0, i]) for i in (0, 1))
  _draw_shares(left, e, shown)
  _draw_values(right, e, shown)
  figure.legend(loc='outside lower right', ncols=2)
  if timed:
    _draw_signal(figure.add_subplot(grid[1, :]), e)
  verdict = f'{_verdict(e)}, score {e.score:.3g} (normals {e.reference:.3g})'
  figure.suptitle(f'{title}\n{verdict}' if title else verdict)
  return figure


def _draw_shares(axis, e, shown):
  gains, names = e.attributions[shown], [_shown(e.names[c])[:40] for c in shown]
  colours = np.where(gains > 0, _ANOMALY, _NORMAL)
  axis.barh(np.arange(len(shown)), gains, color=colours)
  axis.axvline(0, color='black', linewidth=0.6)
  axis.set_yticks(np.arange(len(shown)), names)
  axis.set(xlabel='share of the score', ylim=(-0.7, len(shown) - 0.3))


def _draw_values(axis, e, shown):
  """The row and the normals, in units of the normals' range."""
  place = np.arange(len(shown))
  scaled = lambda x: _beyond(x, e.normals)[..., shown]
  axis.axvspan(-1, 1, color=_NORMAL, alpha=0.12, linewidth=0)
  axis.plot(scaled(e.normals).T, place, '|', color='grey', alpha=0.6)
  near, noun = e.nearest[0], 'window' if len(e.signal) else 'row'
  axis.plot(
    scaled(e.normals[near]), place, '|', color=_NORMAL, markersize=12,
    label=f'nearest normal, {_normal(e, near)} of fit',
  )  # fmt: skip
  axis.plot(scaled(e.row), place, 'D', color=_ANOMALY, label=f'this {noun}')
  axis.yaxis.tick_right()
  # Values of features mean little to a reader; those of a table do.
  values = ['' if len(e.signal) else _value(e, c) for c in shown]
  axis.set_yticks(place, values)
  axis.set_xticks([-3, -1, 1, 3], ['-100', 'low', 'high', '+100'])
  axis.set(xlim=(-4.3, 4.3), ylim=(-0.7, len(shown) - 0.3))
  axis.set_xlabel("normals' range (shaded); beyond: in halves of it")


def _beyond(x, normals):
  """Where values lie: -1 to 1 is the normals' range, 2 is ten halves of it.

  A constant column has no range: what differs is at the end of the scale.
  """
  with np.errstate(all='ignore'):
    normals = np.where(np.isnan(normals).all(0), 0, normals)
    low, high = np.nanmin(normals, 0), np.nanmax(normals, 0)
    middle = low / 2 + high / 2
    far = np.where(x == middle, 0, (x - middle) / (high / 2 - low / 2))
    outside = np.sign(far) * (1 + np.log10(np.abs(far)))
    return np.clip(np.where(np.abs(far) > 1, outside, far), -4, 4)


def _draw_signal(axis, e):
  """The window and the normals; the darker, the more a stretch explains."""
  share = np.maximum(e.times, 0) / max(e.times.max(), 1e-12)
  for begin, end, part in zip(e.seconds, e.seconds[1:], share, strict=False):
    axis.axvspan(begin, end, color='tab:orange', alpha=0.5 * part, linewidth=0)
  time = np.arange(len(e.signal)) * (e.seconds[-1] / len(e.signal))
  for low, high in zip(e.usual.min(0).T, e.usual.max(0).T, strict=True):
    axis.fill_between(time, low, high, color='grey', alpha=0.3, linewidth=0)
  axis.plot(time, e.signal, color=_ANOMALY, linewidth=1.2)
  axis.margins(x=0)
  axis.set_xlabel(
    f'time in {e.time_unit}; grey: the normals; orange: what explains the score'
  )
  axis.set_ylabel('signal')


def png(explanation: Explanation, title: str = '') -> bytes:
  """The picture as a file."""
  import matplotlib.style

  drawn = io.BytesIO()
  with matplotlib.style.context('metaad_jax.metaad'):
    picture(explanation, title=title).savefig(drawn, format='png', dpi=90)
  return drawn.getvalue()
