"""Tables and pictures of one results file; nothing else is looked at.

`table` is for the terminal, `write_html` for the reader, `save_figures` for
the paper. A meta-learner counts as better only where its 95% interval lies
above that of every baseline.
"""

import base64
from collections.abc import Iterable, Sequence
import datetime
import html
import io
import json
import math
import os
import pathlib
import re
import textwrap
from typing import Any, NamedTuple

import matplotlib
from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import lines as mpl_lines
from matplotlib import patches as mpl_patches
from matplotlib import ticker as mpl_ticker
from matplotlib.backends import backend_agg
import numpy as np
from PIL import Image
import pywt
import scipy.signal
import sklearn.metrics

from metaad_jax import base, storage
from metaad_jax.evaluation import old_results as results_lib
from metaad_jax.evaluation import tuning
from metaad_jax.reports import recommendation
from metaad_jax.scores import metrics
from metaad_jax.scores import old_comparisons as comparisons

_METRICS = {
  'auroc': 'AUROC',
  'ap': 'average precision',
  'recall_at_far_1': 'recall at 1% false alarms',
  'recall_at_far_5': 'recall at 5% false alarms',
}

Entry = dict[str, Any]
# (anomalies, shots) -> method -> its line of the summary
Cells = dict[tuple[int, int], dict[str, Entry]]


class Verdict(NamedTuple):
  """What one cell of the table says.

  Attributes:
    source: name of the source.
    contamination: share of unlabelled anomalies in the support.
    shots: normal rows in the support, K.
    anomalies: labelled anomalies in the support, A.
    outcome: 'win' = the best learner's interval lies above every baseline's;
      'loss' = its mean is below the best baseline's; 'overlap' = neither;
      'unknown' = a mean or an interval is missing.
    sentence: the same in words and numbers.
  """

  source: str
  contamination: float
  shots: int
  anomalies: int
  outcome: str
  sentence: str


class Picture(NamedTuple):
  """A figure with the name of its file and what to see in it."""

  name: str
  caption: str
  figure: mpl_figure.Figure


def clean(text: str, width: int = 60) -> str:
  """One printable line of at most `width` characters."""
  text = ''.join(c if c.isprintable() else '?' for c in text)
  return text if len(text) <= width else text[: width - 1] + '…'


def _float(value: Any) -> float:
  return math.nan if value is None else value


def metric_name(metric: str) -> str:
  return _METRICS.get(metric, metric)


def fixed(value: float | None, short: bool = False) -> str:
  if value is None:
    return '-'
  text = f'{value:.3f}'
  return re.sub(r'^(-?)0(?=\.)', r'\1', text) if short else text


def interval_text(entry: Entry, short: bool = False) -> str:
  if entry['low'] is None or entry['high'] is None:
    return '[-]'
  return f'[{fixed(entry["low"], short)}, {fixed(entry["high"], short)}]'


def p_text(value: float | None) -> str:
  if value is None:
    return 'not known'
  return '< 0.001' if value < 0.001 else f'= {value:.3f}'


def support_name(contamination: float) -> str:
  if not contamination:
    return 'clean support'
  return f'support {100 * contamination:g}% contaminated'


def blocks_of(
  results: dict[str, Any], metric: str
) -> dict[tuple[str, float], Cells]:
  """(source, contamination) -> cells, in the order of the file and of A, K."""
  blocks: dict[tuple[str, float], Cells] = {}
  for entry in results['summary']:
    if entry['metric'] == metric:
      block = blocks.setdefault((entry['source'], entry['contamination']), {})
      cell = block.setdefault((entry['anomalies'], entry['shots']), {})
      cell[entry['learner']] = entry
  return {key: dict(sorted(block.items())) for key, block in blocks.items()}


def ranked(cells: Cells, kind: str) -> list[str]:
  """Methods of a kind, the best first, those without a value last.

  By the mean over cells of the lead on the average method of the cell, so that
  a method is not favoured by leaving out the hard cells.
  """
  values: dict[str, list[float]] = {}
  for cell in cells.values():
    known = [e['mean'] for e in cell.values() if e['mean'] is not None]
    average = np.mean(known) if known else 0.0
    for name, entry in cell.items():
      if entry['kind'] == kind:
        values.setdefault(name, [])
        if entry['mean'] is not None:
          values[name].append(entry['mean'] - average)
  mean = lambda name: np.mean(values[name]) if values[name] else -math.inf
  return sorted(values, key=mean, reverse=True)


def valued(cell: dict[str, Entry], kind: str) -> list[Entry]:
  """The lines of a kind that have a mean, the best first."""
  entries = [
    entry
    for entry in cell.values()
    if entry['kind'] == kind and entry['mean'] is not None
  ]
  return sorted(entries, key=lambda entry: -entry['mean'])


def _judge(
  cell: dict[str, Entry], test: Entry | None, names: Sequence[str]
) -> tuple[str, str]:
  """Outcome and sentence of one cell.

  Args:
    cell: method -> its line of the summary.
    test: the paired test of the best learner and the best baseline.
    names: the baselines of all cells.

  Returns:
    See `Verdict`.
  """
  learners, baselines = valued(cell, 'learner'), valued(cell, 'baseline')
  if not learners or not baselines:
    missing = 'baseline' if learners else 'meta-learner'
    return 'unknown', f'no verdict: no {missing} has a value.'
  best, rival = learners[0], baselines[0]
  tell = lambda entry: (
    f'{clean(entry["learner"])} {fixed(entry["mean"])} {interval_text(entry)}'
  )
  bare = [
    clean(entry['learner'])
    for entry in (best, *baselines)
    if entry['low'] is None or entry['high'] is None
  ]
  if bare:
    outcome = 'unknown'
    sentence = (
      f'no verdict: no interval for {", ".join(bare)}; best meta-learner '
      f'{tell(best)}, best baseline {tell(rival)}'
    )
  elif best['mean'] < rival['mean']:
    outcome = 'loss'
    apart = best['high'] < rival['low']
    sentence = (
      f'no: the best meta-learner {tell(best)} is below the best baseline '
      f'{tell(rival)}, intervals {"apart" if apart else "overlapping"}'
    )
  else:
    over = [b for b in baselines if b['high'] >= best['low']]
    outcome = 'overlap' if over else 'win'
    if over:
      place = 'above' if best['mean'] > rival['mean'] else 'level with'
      reaching = ', '.join(clean(b['learner']) for b in over)
      sentence = (
        f'no: the best meta-learner {tell(best)} is {place} the best baseline '
        f'{tell(rival)}, but its interval overlaps that of {reaching}'
      )
    else:
      sentence = (
        f'yes: the best meta-learner {tell(best)} is above '
        f'{"the only baseline" if len(baselines) == 1 else "every baseline"}, '
        f'intervals apart; best of {len(baselines)} baselines {tell(rival)}'
      )
  if test is None or test['difference'] is None:
    sentence += '; no paired test of the two.'
  else:
    sentence += (
      f'; paired difference {test["difference"]:+.3f} {interval_text(test)}, '
      f'Holm-corrected p {p_text(test["p_holm"])}.'
    )
  known = {entry['learner'] for entry in baselines}
  silent = [clean(name) for name in names if name not in known]
  if silent:
    sentence += f' Without a value: {", ".join(silent)}.'
  if best['entities'] != rival['entities']:
    sentence += (
      f' Not over the same entities: {best["entities"]} and '
      f'{rival["entities"]}.'
    )
  return outcome, sentence


def tests_of(results: dict[str, Any], metric: str) -> dict[tuple, Entry]:
  return {
    (
      test['source'],
      test['contamination'],
      test['anomalies'],
      test['shots'],
      test['learner'],
      test['baseline'],
    ): test
    for test in results['tests']
    if test['metric'] == metric
  }


def verdicts(results: dict[str, Any], metric: str = 'auroc') -> list[Verdict]:
  """Says for every cell whether a meta-learner beats all the baselines.

  The best learner and the best baseline are those with the highest mean in the
  cell. The learner wins if the lower end of its 95% interval lies above the
  upper end of every baseline's.

  Args:
    results: see `results.validate`.
    metric: name in the summary; higher must be better.

  Returns:
    One verdict for each source, contamination, A and K.

  Raises:
    DataError: if the results break the schema.
  """
  return _verdicts(results_lib.validate(results), metric)


def _verdicts(results: dict[str, Any], metric: str) -> list[Verdict]:
  tests = tests_of(results, metric)
  found = []
  for (source, contamination), cells in blocks_of(results, metric).items():
    names = ranked(cells, 'baseline')
    for (anomalies, shots), cell in cells.items():
      pair = [
        valued(cell, kind)[0]['learner']
        for kind in ('learner', 'baseline')
        if valued(cell, kind)
      ]
      test = tests.get((source, contamination, anomalies, shots, *pair))
      judged = _judge(cell, test, names)
      found.append(Verdict(source, contamination, shots, anomalies, *judged))
  return found


def count_text(cells: Cells) -> str:
  counts = {e['entities'] for cell in cells.values() for e in cell.values()}
  if counts == {1}:
    return '1 entity'
  return f'{"-".join(map(str, sorted({min(counts), max(counts)})))} entities'


def _grid(header: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
  """Aligned columns; the first to the left, the others to the right."""
  lines = [header, *lines]
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return [
    '  '.join(
      text.ljust(size) if i == 0 else text.rjust(size)
      for i, (text, size) in enumerate(zip(line, widths, strict=True))
    ).rstrip()
    for line in lines
  ]


def _cell_text(cell: dict[str, Entry], name: str) -> str:
  entry = cell.get(name)
  if entry is None or entry['mean'] is None:
    return '-'
  best = valued(cell, entry['kind'])[0]['mean'] == entry['mean']
  mark = '*' if best else ''
  return f'{mark}{fixed(entry["mean"], True)} {interval_text(entry, True)}'


def _regression_lines(results: dict[str, Any]) -> list[str]:
  if not results.get('regression'):
    return []
  general = lambda value: '-' if value is None else f'{value:.4g}'
  header = ('learner', 'steps', 'MSE', '95% interval', 'median', 'diverged')
  return [
    'regression: squared error of the query after adaptation',
    *_grid(
      header,
      (
        (
          clean(entry['learner'], 24),
          str(entry['steps']),
          general(entry['mse']),
          f'[{general(entry["low"])}, {general(entry["high"])}]',
          general(entry['median']),
          f'{entry["diverged"]} of {entry["tasks"]}',
        )
        for entry in results['regression']
      ),
    ),
    '',
  ]


def table(
  results: dict[str, Any], metric: str = 'auroc', width: int = 100
) -> str:
  """Formats one metric for the terminal, with a verdict for every cell.

  Args:
    results: see `results.validate`.
    metric: name in the summary.
    width: columns of the terminal; cells that do not fit go below.

  Returns:
    For each source and contamination the means with their 95% intervals,
    learners first, `*` at the best learner and the best baseline of a column,
    `-` where there is no value; under it the verdicts. Then the regression
    problem, where there is one.

  Raises:
    DataError: if the results break the schema or lack the metric.
  """
  return _table(results_lib.validate(results), metric, width)


def _table(results: dict[str, Any], metric: str, width: int) -> str:
  blocks = blocks_of(results, metric)
  if results['summary'] and not blocks:
    known = sorted({entry['metric'] for entry in results['summary']})
    raise base.DataError(
      f'no metric {metric!r} in the results: choose one of {", ".join(known)}'
    )
  lines = []
  judged = _verdicts(results, metric)
  for (source, contamination), cells in blocks.items():
    lines += [
      f'{clean(source)}, {support_name(contamination)}: '
      f'{metric_name(metric)}, mean [95% interval] over {count_text(cells)}'
    ]
    groups = {kind: ranked(cells, kind) for kind in ('learner', 'baseline')}
    groups = {kind: group for kind, group in groups.items() if group}
    longest = max(len(clean(n, 24)) for g in groups.values() for n in g) + 2
    keys = list(cells)
    texts = {
      key: {
        name: _cell_text(cells[key], name)
        for group in groups.values()
        for name in group
      }
      for key in keys
    }
    while keys:
      taken: list[tuple[int, int]] = []
      room = width - longest
      while keys:
        room -= 2 + max(8, *map(len, texts[keys[0]].values()))
        if taken and room < 0:
          break
        taken.append(keys.pop(0))
      body: list[list[str]] = []
      for kind, group in groups.items():
        body.append([f'{kind}s', *[''] * len(taken)])
        body += [
          [f'  {clean(name, 24)}', *(texts[key][name] for key in taken)]
          for name in group
        ]
      header = ['', *(f'A={a} K={k}' for a, k in taken)]
      lines += _grid(header, body)
    for verdict in judged:
      if (verdict.source, verdict.contamination) == (source, contamination):
        lines += textwrap.wrap(
          f'A={verdict.anomalies} K={verdict.shots}: {verdict.sentence}',
          width,
          subsequent_indent='    ',
        )
    lines.append('')
  if blocks:
    lines += [
      'K normal samples, A labelled anomalies in the support.',
      '* the best meta-learner, the best baseline; - no value.',
      '',
    ]
  lines += _regression_lines(results)
  return '\n'.join(lines).rstrip('\n') + '\n'


# ---- Signals ----


def spectrum(signal: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
  """Amplitude spectrum of one window, Hann-weighted, mean removed.

  Args:
    signal: [L] in any unit.
    rate: sampling rate in Hz.

  Returns:
    Frequencies [L // 2 + 1] in Hz, and the amplitude of a sinusoid there, in
    the signal's unit.
  """
  frequencies, power = scipy.signal.periodogram(
    signal, rate, window='hann', scaling='spectrum'
  )
  return frequencies, np.sqrt(2 * power)


def scalogram(
  signal: np.ndarray, rate: float, bands: int = 64
) -> tuple[np.ndarray, np.ndarray]:
  """Wavelet map of one window: continuous transform, complex Morlet.

  Args:
    signal: [L] in any unit; its mean is removed.
    rate: sampling rate in Hz.
    bands: number of frequencies.

  Returns:
    Frequencies [bands] in Hz, equally spaced in the logarithm from four
    periods a window to 0.45 of the sampling rate, and the amplitude
    [bands, L] of a sinusoid of that frequency, in the signal's unit.

  References:
    Torrence and Compo, A practical guide to wavelet analysis, 1998.
  """
  wavelet = 'cmor1.5-1.0'
  signal = np.asarray(signal, float) - np.mean(signal)
  lowest = min(4 / len(signal), 0.2)
  frequencies = np.geomspace(lowest, 0.45, bands)
  scales = pywt.frequency2scale(wavelet, frequencies)
  coefficients, _ = pywt.cwt(
    signal, scales, wavelet, method='fft', precision=14
  )
  # pywt weighs by 1/sqrt(scale) and averages the wavelet over every sample
  gain = np.sqrt(scales) * np.sinc(frequencies) / 2
  return frequencies * rate, np.abs(coefficients) / gain[:, None]


# ---- Pictures ----

_STYLE: Any = {
  'font.size': 9,
  'axes.titlesize': 9,
  'axes.labelsize': 9,
  'legend.fontsize': 8.5,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'grid.alpha': 0.25,
  'grid.linewidth': 0.6,
  'legend.frameon': False,
  'text.usetex': False,
  'text.parse_math': False,
}
# Okabe and Ito's colours without the yellow, then darker ones after Tol
_COLOURS = (
  '#0072B2',
  '#D55E00',
  '#009E73',
  '#CC79A7',
  '#E69F00',
  '#56B4E9',
  '#882255',
  '#332288',
  '#8C6D1F',
)
_MARKERS = 'os^DvPX*'
_NORMAL, _ANOMALY = '#0072B2', '#D55E00'
_GREY = '#6b6b6b'
_DASHES = ((0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))

Styles = dict[str, dict[str, Any]]


def _styles(results: dict[str, Any]) -> Styles:
  """A colour and a marker for every learner, the same in all pictures."""
  names = {e['learner'] for e in results['summary'] if e['kind'] == 'learner'}
  names |= {entry['learner'] for entry in results.get('regression', [])}
  names |= {_curve_learner(name, names) for name in results['curves']}
  return {
    name: {
      'color': _COLOURS[i % len(_COLOURS)],
      'marker': _MARKERS[i % len(_MARKERS)],
      'linestyle': '-' if i < len(_COLOURS) else '--',
    }
    for i, name in enumerate(sorted(names))
  }


def _curve_learner(name: str, learners: Iterable[str]) -> str:
  """`maml` for a curve called `maml (run 3)`, if there is such a learner."""
  head = name.partition(' (')[0]
  return head if head in learners else name


def _panels(
  count: int,
  columns: int,
  width: float,
  height: float,
  legend: int = 0,
  **options,
) -> tuple[mpl_figure.Figure, list[mpl_axes.Axes]]:
  """A figure of `count` axes.

  Args:
    count: number of axes.
    columns: at most so many in a row.
    width: of the figure, inches.
    height: of one row of axes, inches.
    legend: lines of a legend at the right that the figure must be high enough
      for.
    **options: of `Figure.subplots`.
  """
  columns = min(columns, count)
  rows = -(-count // columns)
  tall = max(height * rows + 0.5, 0.2 * legend + 0.3)
  figure = mpl_figure.Figure(figsize=(width, tall), layout='constrained')
  grid = figure.subplots(rows, columns, squeeze=False, **options)
  axes = list(grid.flat)
  for axis in axes[count:]:
    axis.remove()
  return figure, axes[:count]


def _title(figure: mpl_figure.Figure, text: str) -> None:
  """A title at the left, clear of a legend at the right."""
  figure.suptitle(textwrap.fill(text, 78), x=0.01, ha='left', fontsize=10)


def _log_scale(axis: mpl_axes.Axes) -> None:
  """A logarithmic y axis labelled 0.1, 1, 10."""
  axis.set_yscale('log')
  axis.yaxis.set_major_formatter(
    mpl_ticker.FuncFormatter(lambda y, _: f'{y:g}')
  )
  axis.yaxis.set_minor_formatter(
    mpl_ticker.LogFormatter(minor_thresholds=(1.5, 0.5))
  )


def _draw_entry(axis, x, entries, horizontal=False, **style) -> None:
  """Means with their intervals; missing ones leave a gap."""
  mean = np.array([_float(e and e['mean']) for e in entries])
  low = np.array([_float(e and e['low']) for e in entries])
  high = np.array([_float(e and e['high']) for e in entries])
  ends = np.nan_to_num(np.clip([mean - low, high - mean], 0, None))
  error: dict[str, Any] = {'xerr' if horizontal else 'yerr': ends}
  place = (mean, x) if horizontal else (x, mean)
  axis.errorbar(
    *place,
    **error,
    elinewidth=1,
    markeredgecolor='white',
    markeredgewidth=0.5,
    **style,
  )


def _shots_picture(
  block: tuple[str, float], cells: Cells, metric: str, styles: Styles
) -> Picture:
  """The metric against K, one panel per A."""
  learners, baselines = ranked(cells, 'learner'), ranked(cells, 'baseline')
  named, others = baselines[:3], baselines[3:]
  counts = sorted({a for a, _ in cells})
  shots = sorted({k for _, k in cells})
  figure, axes = _panels(
    len(counts), 3, 10.5, 4, len(learners) + 4, sharey=True
  )
  drawn = named[::-1] + learners[::-1]
  offsets = dict(
    zip(
      learners + named,
      np.linspace(-0.36, 0.36, len(drawn)) if len(drawn) > 1 else [0.0],
      strict=True,
    )
  )
  for axis, anomalies in zip(axes, counts, strict=True):
    find = lambda name, a=anomalies: [
      cells.get((a, k), {}).get(name) for k in shots
    ]
    places = np.arange(len(shots), dtype=float)
    for name in others:
      mean = [_float(e and e['mean']) for e in find(name)]
      axis.plot(places, mean, color='#bbbbbb', linewidth=0.8, zorder=1)
    for name in drawn:
      if name in named:
        style: dict[str, Any] = {
          'color': _GREY,
          'linestyle': _DASHES[named.index(name)],
          'marker': 'd',
          'markersize': 4.5,
          'linewidth': 1.2,
        }
      else:
        style = {**styles[name], 'linewidth': 1.1, 'markersize': 5.5}
      _draw_entry(axis, places + offsets[name], find(name), **style)
    axis.set_xticks(places, [str(k) for k in shots])
    axis.set_xlim(-0.5, len(shots) - 0.5)
    axis.grid(False, axis='x')
    for edge in places[1:] - 0.5:
      axis.axvline(edge, color=_GREY, alpha=0.25, linewidth=0.6)
    axis.set_title(f'labelled anomalies: A = {anomalies}')
    axis.set_xlabel('normal samples in the support, K')
  for axis in axes[::3]:
    axis.set_ylabel(f'{metric_name(metric)}, mean and 95% interval')
  _limit(axes[0].get_ylim, axes[0].set_ylim)
  line = lambda **style: mpl_lines.Line2D([], [], **style)
  handles = [line(**styles[n], linewidth=1.4, markersize=5) for n in learners]
  handles += [
    line(color=_GREY, linestyle=dash, marker='d', markersize=3.5)
    for _, dash in zip(named, _DASHES, strict=False)
  ]
  labels = [clean(name, 24) for name in learners + named]
  if others:
    handles.append(line(color='#bbbbbb', linewidth=0.8))
    labels.append(f'{len(others)} other baselines')
  figure.legend(handles, labels, loc='outside right upper')
  source, contamination = block
  _title(
    figure,
    f'{clean(source)}, {support_name(contamination)}: does a colour lie '
    'above every grey?',
  )
  return Picture(
    f'{metric}-{source}-{contamination:g}',
    f'{clean(source)}, {support_name(contamination)}, '
    f'{count_text(cells)}: {metric_name(metric)} against the number of normal '
    'samples. Meta-learners are coloured; baselines are grey, and the three '
    'with the best mean are named. Points are set apart sideways to be '
    'legible.',
    figure,
  )


def _limit(get, put) -> None:
  """Cuts the margins of an axis that holds shares."""
  low, high = get()
  put(max(low, -0.02), min(high, 1.02))


def _ladder_picture(
  block: tuple[str, float], cells: Cells, metric: str, styles: Styles
) -> Picture:
  """The metric of every method at the only K, one panel per A."""
  names = [*ranked(cells, 'baseline')[::-1], *ranked(cells, 'learner')[::-1]]
  grey = {'color': _GREY, 'marker': 'd'}
  figure, axes = _panels(len(cells), 3, 9, 0.6 + 0.22 * len(names), sharey=True)
  for axis, ((anomalies, shots), cell) in zip(axes, cells.items(), strict=True):
    for place, name in enumerate(names):
      if name in cell and cell[name]['mean'] is not None:
        style = {**styles.get(name, grey), 'linestyle': ''}
        _draw_entry(axis, [place], [cell[name]], True, **style, markersize=5)
    best = valued(cell, 'learner')[:1]
    if best and best[0]['low'] is not None and best[0]['high'] is not None:
      axis.axvspan(
        best[0]['low'],
        best[0]['high'],
        color=styles[best[0]['learner']]['color'],
        alpha=0.12,
        linewidth=0,
      )
    axis.set_yticks(range(len(names)), [clean(name, 24) for name in names])
    axis.set_title(f'labelled anomalies: A = {anomalies}; K = {shots}')
    axis.set_xlabel(f'{metric_name(metric)}, 95% interval')
    _limit(axis.get_xlim, axis.set_xlim)
  source, contamination = block
  _title(
    figure,
    f'{clean(source)}, {support_name(contamination)}: does a baseline (grey) '
    'reach into the band?',
  )
  return Picture(
    f'{metric}-{source}-{contamination:g}',
    f'{clean(source)}, {support_name(contamination)}, '
    f'{count_text(cells)}: {metric_name(metric)} of every method. The band is '
    "the best meta-learner's 95% interval.",
    figure,
  )


_BUDGET = 3  # numbers of shots that make a curve


def _budget_picture(
  block: tuple[str, float], results: dict[str, Any], styles: Styles
) -> Picture | None:
  """The best learner and the best baseline against K, on a logarithmic axis.

  The learner is the best one over all cells of a panel, the baseline the best
  one of each K, whichever that is; a line marks what it reaches at the most
  shots. Only entities that serve every K count, so that a curve is over the
  same ones from end to end.
  """
  shown = ('auroc', 'ap')
  own = [
    row
    for row in results['rows']
    if (row['source'], row['contamination']) == block
    and all(row[metric] is not None for metric in shown)
  ]
  panels = []
  for anomalies in sorted({row['anomalies'] for row in own}):
    serving: dict[int, set[str]] = {}
    for row in own:
      if row['anomalies'] == anomalies:
        serving.setdefault(row['shots'], set()).add(row['entity'])
    everywhere = set.intersection(*serving.values())
    if len(serving) < _BUDGET or len(everywhere) < 2:
      continue
    rows = [
      row
      for row in own
      if row['anomalies'] == anomalies and row['entity'] in everywhere
    ]
    summary = comparisons.summarise(rows, names=shown)
    for metric in shown:
      cells = blocks_of({'summary': summary}, metric)[block]
      if ranked(cells, 'baseline'):
        panels.append((metric, anomalies, cells))
  if not panels:
    return None
  figure, axes = _panels(len(panels), 2, 9.5, 3.2)
  for axis, (metric, anomalies, cells) in zip(axes, panels, strict=True):
    shots = [k for _, k in cells]
    rivals = [
      next(iter(valued(cell, 'baseline')), None) for cell in cells.values()
    ]
    _draw_entry(
      axis,
      np.array(shots, float),
      rivals,
      color=_GREY,
      linestyle=_DASHES[0],
      marker='d',
      markersize=5,
      label='the best baseline of each K',
    )
    before = None
    for k, rival in zip(shots, rivals, strict=True):
      if rival is not None and rival['learner'] != before:
        before = rival['learner']
        inwards = {shots[0]: 'left', shots[-1]: 'right'}
        axis.annotate(
          clean(before, 20),
          (k, rival['low'] if rival['low'] is not None else rival['mean']),
          (0, -4),
          textcoords='offset points',
          ha=inwards.get(k, 'center'),
          va='top',
          fontsize=7.5,
          color=_GREY,
        )
    if rivals[-1] is not None:
      axis.axhline(
        rivals[-1]['mean'],
        color=_GREY,
        linewidth=0.9,
        linestyle=':',
        label=f'the same at K = {shots[-1]}',
      )
    for name in ranked(cells, 'learner')[:1]:
      found = [cell.get(name) for cell in cells.values()]
      _draw_entry(
        axis,
        np.array(shots, float) * 1.05,
        found,
        **styles[name],
        markersize=6,
        label=clean(name, 24),
      )
    axis.set_xscale('log')
    axis.set_xticks(shots, [str(k) for k in shots])
    axis.xaxis.set_minor_locator(mpl_ticker.NullLocator())
    axis.set_title(f'labelled anomalies: A = {anomalies}; {count_text(cells)}')
    axis.set_xlabel('normal samples in the support, K')
    axis.set_ylabel(f'{metric_name(metric)}, 95% interval')
    axis.margins(y=0.15)
    axis.legend(loc='best')
  _title(
    figure,
    f'{clean(block[0])}, {support_name(block[1])}: how many samples does a '
    'baseline need to keep up?',
  )
  return Picture(
    f'budget-{block[0]}-{block[1]:g}',
    f'{clean(block[0])}, {support_name(block[1])}: the best meta-learner '
    'of each panel and the best baseline of each K, named where it changes, '
    'with 95% intervals over the entities that have enough rows for every K. '
    'Dotted: the best baseline at the most samples.',
    figure,
  )


FEWEST = 5  # entities that a ranking needs


def rankings_of(
  results: dict[str, Any], metric: str
) -> dict[tuple[str, float], dict[int, tuple[list[int], comparisons.Ranking]]]:
  """(source, contamination) -> A -> the shots and the ranking over them.

  An entity's value is its mean over the shots that the most methods serve, so
  that every method is ranked on the same cells.
  """
  groups: dict[tuple[str, float], dict[int, list[Entry]]] = {}
  for row in recommendation.known_rows(results, metric):
    block = groups.setdefault((row['source'], row['contamination']), {})
    block.setdefault(row['anomalies'], []).append(row)
  found = {}
  for key, block in groups.items():
    rankings = {}
    for anomalies, rows in sorted(block.items()):
      serving: dict[int, set[str]] = {}
      for row in rows:
        serving.setdefault(row['shots'], set()).add(row['learner'])
      most = max(serving.values(), key=len)
      shots = sorted(k for k, names in serving.items() if names >= most)
      kept = [
        row for row in rows if row['shots'] in shots and row['learner'] in most
      ]
      if len({row['entity'] for row in kept}) < FEWEST or len(most) < 2:
        continue
      try:
        ranking = comparisons.ranking(kept, metric)
      except base.DataError:  # no method on every entity: folds of other runs
        continue
      if len(ranking.names) > 1:
        rankings[anomalies] = shots, ranking
    if rankings:
      found[key] = rankings
  return found


def _levels(ranking: comparisons.Ranking) -> list[int]:
  """The row of each clique's bar: the first whose last bar has ended."""
  ends: list[float] = []
  levels = []
  gap = 0.03 * len(ranking.names)
  for first, last in ranking.cliques:
    start = ranking.ranks[first]
    free = [level for level, end in enumerate(ends) if end + gap < start]
    levels.append(free[0] if free else len(ends))
    ends[levels[-1] : levels[-1] + 1] = [ranking.ranks[last]]
  return levels


def _draw_ranks(
  axis: mpl_axes.Axes, ranking: comparisons.Ranking, styles: Styles
) -> None:
  """A critical-difference diagram: names at their mean ranks, cliques as bars.

  The better half of the names hangs to the left of the scale, the other half
  to the right, one below the other; bars join those who cannot be told apart.
  """
  count = len(ranking.names)
  left = (count + 1) // 2
  step, bar = 1.0, 0.42
  levels = _levels(ranking)
  top = 1.0 + bar * max(levels, default=0)
  low, high = 1, count
  span = max(high - low, 1)
  for place, (name, rank) in enumerate(
    zip(ranking.names, ranking.ranks, strict=True)
  ):
    better = place < left
    depth = top + step * (place if better else count - 1 - place)
    edge = low - 0.03 * span if better else high + 0.03 * span
    style = styles.get(name)
    colour = style['color'] if style else _GREY
    axis.plot([rank, rank, edge], [0, depth, depth], color=colour, linewidth=1)
    axis.plot(
      [rank],
      [0],
      color=colour,
      marker=style['marker'] if style else 'd',
      markersize=5,
      clip_on=False,
      zorder=3,
    )
    text = clean(name, 24)
    axis.text(
      edge + (-0.01 if better else 0.01) * span,
      depth,
      f'{text}  {rank:.2f}' if better else f'{rank:.2f}  {text}',
      ha='right' if better else 'left',
      va='center',
      color=colour if style else 'black',
      fontsize=8.5,
      fontweight='bold' if style else 'normal',
    )
  for level, (first, last) in zip(levels, ranking.cliques, strict=True):
    margin = 0.006 * span
    axis.plot(
      [ranking.ranks[first] - margin, ranking.ranks[last] + margin],
      [0.4 + bar * level] * 2,
      color='black',
      linewidth=3.2,
      solid_capstyle='butt',
      zorder=2,
    )
  axis.set_xlim(low - 0.45 * span, high + 0.45 * span)
  axis.set_ylim(top + step * (left - 1) + 0.6, -0.3)
  axis.spines['bottom'].set_visible(False)
  axis.spines['left'].set_visible(False)
  axis.spines['top'].set_visible(True)
  axis.spines['top'].set_bounds(low, high)
  axis.spines['top'].set_position(('data', 0))
  axis.xaxis.tick_top()
  step_of_ticks = 1 if count <= 12 else 2
  axis.set_xticks(range(1, count + 1, step_of_ticks))
  axis.set_yticks([])
  axis.grid(False)


def _ranks_picture(
  block: tuple[str, float],
  rankings: dict[int, tuple[list[int], comparisons.Ranking]],
  metric: str,
  styles: Styles,
) -> Picture:
  """Critical-difference diagrams of one source, one for each A."""
  heights = [
    1.3 + 0.22 * ((len(ranking.names) + 1) // 2) + 0.1 * len(ranking.cliques)
    for _, ranking in rankings.values()
  ]
  figure = mpl_figure.Figure(
    figsize=(9, sum(heights) + 0.5), layout='constrained'
  )
  axes = figure.subplots(len(rankings), 1, squeeze=False, height_ratios=heights)
  for axis, (anomalies, (shots, ranking)) in zip(
    axes.flat, rankings.items(), strict=True
  ):
    _draw_ranks(axis, ranking, styles)
    chance = p_text(ranking.p)
    axis.set_title(
      f'A = {anomalies}, K = {", ".join(map(str, shots))}; '
      f'{ranking.entities} entities; Friedman p {chance}; mean rank, 1 = best',
      loc='left',
      pad=14,
    )
  source, contamination = block
  _title(
    figure,
    f'{clean(source)}, {support_name(contamination)}: whom does no bar join '
    'with the leftmost?',
  )
  out = sorted({n for _, r in rankings.values() for n in r.left_out})
  return Picture(
    f'ranks-{source}-{contamination:g}',
    f'{clean(source)}, {support_name(contamination)}: mean ranks over '
    f'entities by {metric_name(metric)}, averaged over K. A bar joins methods '
    'of which no pair differs at 5% (Wilcoxon signed-rank tests, corrected '
    'after Holm over all pairs). Meta-learners are coloured.'
    + (f' Not on every entity: {", ".join(map(clean, out))}.' if out else ''),
    figure,
  )


def _histogram_pictures(results: dict[str, Any]) -> list[Picture]:
  groups: dict[tuple[str, int, int], list[Entry]] = {}
  for entry in results['histograms']:
    key = (entry['source'], entry['anomalies'], entry['shots'])
    groups.setdefault(key, []).append(entry)
  pictures = []
  for (source, anomalies, shots), entries in groups.items():
    figure, axes = _panels(len(entries), 3, 9, 2.2)
    for axis, entry in zip(axes, entries, strict=True):
      for side, colour in (('normal', _NORMAL), ('anomaly', _ANOMALY)):
        counts = np.array(entry[side], float)
        axis.stairs(
          counts / max(counts.sum(), 1),
          entry['edges'],
          color=colour,
          fill=True,
          alpha=0.3,
        )
        axis.stairs(counts / max(counts.sum(), 1), entry['edges'], color=colour)
      axis.set_title(
        f'{clean(entry["learner"], 24)}\n{sum(entry["normal"])} normal, '
        f'{sum(entry["anomaly"])} anomalous'
      )
      axis.set_ylim(bottom=0)
    figure.supxlabel('score, higher = more anomalous', fontsize=9)
    figure.supylabel('share of the rows of its class', fontsize=9)
    figure.legend(
      handles=[
        mpl_patches.Patch(color=_NORMAL, alpha=0.6, label='normal'),
        mpl_patches.Patch(color=_ANOMALY, alpha=0.6, label='anomaly'),
      ],
      loc='outside right upper',
    )
    _title(
      figure,
      f'{clean(source)}, K = {shots}, A = {anomalies}: the less the two '
      'overlap, the better',
    )
    pictures.append(
      Picture(
        f'scores-{source}-A{anomalies}-K{shots}',
        f'{clean(source)}, K = {shots}, A = {anomalies}: scores of all query '
        'rows, pooled over entities. Each learner has its own scale.',
        figure,
      )
    )
  return pictures


def _example_name(example: dict[str, Any]) -> str:
  return f'{clean(example["source"])}, {clean(example["entity"])}'


def _thin(values: np.ndarray, columns: int = 600) -> np.ndarray:
  """[B, L] -> [B, at most `columns`], the maximum of each stretch."""
  stretch = -(-values.shape[1] // columns)
  starts = np.arange(0, values.shape[1], stretch)
  return np.maximum.reduceat(values, starts, axis=1)


def _window_picture(example: dict[str, Any]) -> Picture:
  known = example['rate'] is not None
  rate = example['rate'] if known else 1.0
  when = 'time (s)' if known else 'sample'
  how_often = 'frequency (Hz)' if known else 'frequency (cycles a sample)'
  unit = clean(example['units'], 20) or 'recorded unit'
  kind = clean(example['kind'], 24) or 'anomaly'
  sides = {
    side: np.array(list(map(_float, example[side])), float)
    for side in ('normal', 'anomaly')
  }
  titles = {'normal': 'normal', 'anomaly': f'anomaly: {kind}'}
  colours = {'normal': _NORMAL, 'anomaly': _ANOMALY}
  figure = mpl_figure.Figure(figsize=(9, 8), layout='constrained')
  grid = figure.add_gridspec(3, 2)
  wide = figure.add_subplot(grid[1, :])
  axis = None
  for column, (side, signal) in enumerate(sides.items()):
    axis = figure.add_subplot(grid[0, column], sharey=axis)
    time = np.arange(len(signal)) / rate
    axis.plot(time, signal, color=colours[side], linewidth=0.9)
    axis.set_title(titles[side])
    axis.set_xlabel(when)
    axis.set_ylabel(f'{clean(example["channel"], 24) or "signal"}\n({unit})')
    axis.margins(x=0)
    frequencies, amplitude = spectrum(np.nan_to_num(signal), rate)
    wide.plot(
      frequencies[1:],
      np.maximum(amplitude[1:], 1e-30),
      color=colours[side],
      linewidth=1,
      alpha=0.85,
      label=titles[side],
    )
  _log_scale(wide)
  top = max(np.max(line.get_ydata()) for line in wide.lines)
  if top > 1e-29:
    low = min(np.min(line.get_ydata()) for line in wide.lines)
    wide.set_ylim(max(top * 1e-5, low / 2), top * 2)
  wide.set_xlabel(how_often)
  wide.set_ylabel(f'amplitude ({unit})')
  wide.set_title('spectrum: the frequencies that the anomaly adds or loses')
  wide.margins(x=0)
  wide.legend(loc='upper right')
  maps = {
    side: scalogram(np.nan_to_num(signal), rate)
    for side, signal in sides.items()
  }
  top = max(amplitude.max() for _, amplitude in maps.values()) or 1.0
  map_axes, mesh = [], None
  for column, (side, (frequencies, amplitude)) in enumerate(maps.items()):
    axis = figure.add_subplot(grid[2, column])
    level = _thin(20 * np.log10(np.maximum(amplitude / top, 1e-4)))
    edges = np.linspace(0, len(sides[side]) / rate, level.shape[1] + 1)
    mesh = axis.pcolormesh(
      edges,
      np.append(frequencies, frequencies[-1] ** 2 / frequencies[-2]),
      level,
      vmin=-40,
      vmax=0,
      cmap='cividis',
      rasterized=True,
    )
    _log_scale(axis)
    axis.grid(False)
    axis.set_title(f'wavelet map, {titles[side]}')
    axis.set_xlabel(when)
    axis.set_ylabel(how_often)
    map_axes.append(axis)
  assert mesh is not None
  figure.colorbar(mesh, ax=map_axes, label='amplitude (dB, largest = 0)')
  _title(figure, f'{_example_name(example)}: a normal window and an anomaly')
  return Picture(
    'example-signal',
    f'{_example_name(example)}: one normal query window and one anomalous '
    f'({kind}); {len(sides["normal"])} samples'
    f'{f" at {rate:g} Hz" if known else ""}. Both maps share one scale of '
    'colour (complex Morlet wavelet).',
    figure,
  )


def _row_picture(example: dict[str, Any], most: int = 20) -> Picture:
  names = example['features']['names']
  names = names or [f'column {i}' for i in range(len(example['normal']))]
  normal, anomaly = (
    np.array(list(map(_float, example[side])), float)
    for side in ('normal', 'anomaly')
  )
  order = np.argsort(-np.nan_to_num(np.abs(anomaly - normal)), kind='stable')
  order = order[:most]
  figure, (axis,) = _panels(1, 1, 9, 0.8 + 0.25 * len(order))
  places = np.arange(len(order))
  support = example['features'].get('support')
  if support and len(support[0]) == len(names):
    rows = np.array([list(map(_float, row)) for row in support], float)[
      :, order
    ]
    rows = np.nan_to_num(rows)
    axis.barh(
      places,
      np.ptp(rows, axis=0),
      0.9,
      left=rows.min(axis=0),
      color='#999999',
      alpha=0.3,
      label='range of the support',
    )
  for offset, values, colour, label in (
    (-0.18, normal, _NORMAL, 'normal'),
    (0.18, anomaly, _ANOMALY, f'anomaly: {clean(example["kind"], 24)}'),
  ):
    axis.barh(places + offset, values[order], 0.34, color=colour, label=label)
  axis.set_yticks(places, [clean(names[i], 32) for i in order])
  axis.invert_yaxis()
  axis.grid(False, axis='y')
  axis.axvline(0, color='black', linewidth=0.8)
  unit = clean(example['units'], 40)
  axis.set_xlabel(f'value ({unit})' if unit else 'standardised value')
  figure.legend(loc='outside right upper')
  _title(
    figure,
    f'{_example_name(example)}: the features in which the two rows differ most',
  )
  return Picture(
    'example-features',
    f'{_example_name(example)}: one normal and one anomalous query row '
    f'({clean(example["kind"], 24) or "anomaly"}); {len(order)} of '
    f'{len(names)} features.',
    figure,
  )


def _query_picture(example: dict[str, Any]) -> Picture | None:
  """The scores of the example's whole query, one line per learner."""
  names = list(example['scores'])
  if not names:
    return None
  figure, (axis,) = _panels(1, 1, 9, 0.6 + 0.42 * len(names))
  labels = [clean(name, 24) for name in names]
  for place, name in enumerate(names):
    normal, anomaly = (
      np.array([s for s in example['scores'][name][side] if s is not None])
      for side in ('normal', 'anomaly')
    )
    scores = np.concatenate([normal, anomaly])
    if not len(scores):
      continue
    low, spread = scores.min(), np.ptp(scores) or 1.0
    for values, offset, colour, marker in (
      (normal, -0.15, _NORMAL, 'o'),
      (anomaly, 0.15, _ANOMALY, 'X'),
    ):
      axis.plot(
        (values - low) / spread,
        np.full(len(values), place + offset),
        marker,
        color=colour,
        alpha=0.5,
        markersize=5.5,
        markeredgewidth=0,
      )
    if len(normal) and len(anomaly):
      auroc = sklearn.metrics.roc_auc_score(
        np.repeat([0, 1], [len(normal), len(anomaly)]), scores
      )
      labels[place] += f'\nAUROC {auroc:.3f}'
  axis.set_yticks(range(len(names)), labels)
  axis.set_ylim(len(names) - 0.5, -0.5)
  axis.set_xlabel(
    'score, from the lowest (0) to the highest (1) of the learner'
  )
  dot = lambda colour, shape, label: mpl_lines.Line2D(
    [], [], color=colour, marker=shape, ls='', label=label
  )
  figure.legend(
    handles=[
      dot(_NORMAL, 'o', 'normal'),
      dot(_ANOMALY, 'X', 'anomaly'),
    ],
    loc='outside right upper',
  )
  _title(figure, f'{_example_name(example)}: are the anomalies on the right?')
  return Picture(
    'example-scores',
    f'{_example_name(example)}: scores of the whole query after adapting on '
    f'K = {example["shots"]} normal samples and A = {example["anomalies"]} '
    'labelled anomalies. The AUROC is that of this query alone.',
    figure,
  )


def _smooth(values: np.ndarray) -> np.ndarray:
  """Running mean over a fiftieth of the curve, missing values left out."""
  size = max(len(values) // 50, 1)
  known = np.isfinite(values)
  ones = np.ones(2 * size + 1)
  total = np.convolve(np.where(known, values, 0), ones, 'full')
  count = np.convolve(known, ones, 'full')
  cut = slice(size, size + len(values))
  with np.errstate(invalid='ignore'):
    return total[cut] / count[cut]


def _curves_picture(results: dict[str, Any], styles: Styles) -> Picture | None:
  if not results['curves']:
    return None
  regression = bool(results.get('regression')) and not results['summary']
  figure, (left, right) = _panels(2, 2, 9, 3.2, len(styles))
  positive = True
  labelled: set[str] = set()
  for name, curve in results['curves'].items():
    learner = _curve_learner(name, styles)
    style = {key: styles[learner][key] for key in ('color', 'linestyle')}
    loss = np.array(list(map(_float, curve['loss'])), float)
    positive &= bool(np.all(loss[np.isfinite(loss)] > 0))
    noisy = len(loss) > 100
    if noisy:
      left.plot(curve['step'], loss, **style, alpha=0.2, linewidth=0.6)
    left.plot(
      curve['step'],
      _smooth(loss) if noisy else loss,
      **style,
      marker='.' if len(loss) < 20 else '',
      linewidth=1.5,
    )
    right.plot(
      curve['validation_step'],
      list(map(_float, curve['validation_auroc'])),
      **styles[learner],
      markersize=4,
      label=None if learner in labelled else clean(learner, 24),
    )
    labelled.add(learner)
  if positive:
    _log_scale(left)
  left.set_ylabel("training loss, the learner's own")
  left.set_title('loss: does it still fall at the end?')
  right.set_ylabel(
    'minus the squared error of validation tasks'
    if regression
    else 'AUROC of the validation entities'
  )
  right.set_title('validation: does it fall again (overfitting)?')
  for axis in (left, right):
    axis.set_xlabel('meta-training step')
    axis.xaxis.set_major_locator(mpl_ticker.MaxNLocator(6, integer=True))
  figure.legend(loc='outside right upper')
  return Picture(
    'learning-curves',
    'Learning curves. Losses of different learners are different quantities; '
    'only their shapes compare. Pale: single steps; strong: running mean.',
    figure,
  )


def _regression_picture(
  results: dict[str, Any], styles: Styles
) -> Picture | None:
  groups: dict[str, list[Entry]] = {}
  for entry in results.get('regression', []):
    groups.setdefault(entry['learner'], []).append(
      {**entry, 'mean': entry['mse']}
    )
  if not groups:
    return None
  figure, (axis,) = _panels(1, 1, 9, 3.4, len(groups))
  for name, entries in groups.items():
    entries = sorted(entries, key=lambda entry: entry['steps'])
    steps = np.array([entry['steps'] for entry in entries], float)
    _draw_entry(axis, steps, entries, **styles[name], label=clean(name, 24))
  means = [entry['mse'] for group in groups.values() for entry in group]
  if all(mean is None or mean > 0 for mean in means):
    _log_scale(axis)
  axis.xaxis.set_major_locator(mpl_ticker.MaxNLocator(integer=True))
  axis.set_xlabel('steps of adaptation')
  axis.set_ylabel('squared error of the query')
  figure.legend(loc='outside right upper')
  _title(figure, 'regression: error after adaptation, lower = better')
  return Picture(
    'regression',
    'Regression problem: mean squared error of the query, with its 95% '
    'interval, against the steps of adaptation.',
    figure,
  )


def figures(results: dict[str, Any]) -> list[Picture]:
  """Draws every picture that the results have the data for.

  Args:
    results: see `results.validate`.

  Returns:
    The pictures, in the order of the report: AUROC against shots for each
    source and contamination, the best of both kinds against shots where there
    are three or more, critical-difference diagrams, score histograms, the
    example, learning curves, regression.

  Raises:
    DataError: if the results break the schema.
  """
  return _figures(results_lib.validate(results))


def _figures(results: dict[str, Any]) -> list[Picture]:
  styles = _styles(results)
  with matplotlib.rc_context(_STYLE):
    pictures: list[Picture | None] = []
    for block, cells in blocks_of(results, 'auroc').items():
      draw = (
        _ladder_picture if len({k for _, k in cells}) == 1 else _shots_picture
      )
      pictures.append(draw(block, cells, 'auroc', styles))
    for block in blocks_of(results, 'auroc'):
      pictures.append(_budget_picture(block, results, styles))
    pictures += [
      _ranks_picture(block, rankings, 'auroc', styles)
      for block, rankings in rankings_of(results, 'auroc').items()
    ]
    pictures += _histogram_pictures(results)
    example = results['example']
    if example is not None:
      names = len(example['features']['names']) or len(example['normal'])
      row = example['rate'] is None and names == len(example['normal'])
      pictures.append((_row_picture if row else _window_picture)(example))
      pictures.append(_query_picture(example))
    pictures.append(_curves_picture(results, styles))
    pictures.append(_regression_picture(results, styles))
  return [picture for picture in pictures if picture is not None]


def png(figure: mpl_figure.Figure, transparent: bool = False) -> bytes:
  file = io.BytesIO()
  with matplotlib.rc_context(_STYLE):
    backend_agg.FigureCanvasAgg(figure)
    figure.savefig(file, format='png', dpi=160, transparent=transparent)
  return file.getvalue()


def small_png(figure: mpl_figure.Figure) -> bytes:
  """A fifth of the bytes of `png`, for what is kept in git: fewer colours."""
  file = io.BytesIO()
  with matplotlib.rc_context(_STYLE):
    backend_agg.FigureCanvasAgg(figure)
    figure.savefig(file, format='png', dpi=90)
  file.seek(0)
  few = Image.open(file).convert('RGB').quantize(32, dither=Image.Dither.NONE)
  file = io.BytesIO()
  few.save(file, 'png', optimize=True)
  return file.getvalue()


def save_figures(
  results: dict[str, Any], folder: str | os.PathLike[str]
) -> list[pathlib.Path]:
  """Writes every picture as a PNG file.

  Args:
    results: see `results.validate`.
    folder: made where it is missing.

  Returns:
    The files, in the order of `figures`.

  Raises:
    DataError: if the results break the schema or the folder cannot be written.
  """
  return _save_figures(figures(results), pathlib.Path(folder))


def _save_figures(
  pictures: Sequence[Picture], folder: pathlib.Path
) -> list[pathlib.Path]:
  paths = []
  for i, picture in enumerate(pictures, 1):
    slug = re.sub(r'[^A-Za-z0-9.]+', '-', picture.name).strip('-.')[:80]
    paths.append(folder / f'{i:02d}-{slug}.png')
    storage.write_bytes(paths[-1], png(picture.figure))
  return paths


def adapted_png(
  known: np.ndarray,
  labels: np.ndarray,
  scores: np.ndarray,
  threshold: float | None = None,
) -> bytes:
  """Draws the scores of new rows beside those of the support.

  Args:
    known: [K] scores of the support.
    labels: [K] 1 = anomaly, -1 = unlabelled.
    scores: [M] scores of the new rows, in their order.
    threshold: a score above is an alarm; None = nobody knows.

  Returns:
    A PNG file.
  """
  known, labels, scores = map(np.asarray, (known, labels, scores))
  with matplotlib.rc_context(_STYLE):
    figure, (left, right) = _panels(
      2, 2, 9, 3.4, sharey=True, width_ratios=(1, 4)
    )
    for axis in (left, right):
      normal = known[labels != 1]
      low, high = normal.min(), normal.max()
      axis.axhspan(low, high, color=_NORMAL, alpha=0.12, linewidth=0)
    for value, colour, marker, name in (
      (0, _NORMAL, 'o', 'known normal'),
      (1, _ANOMALY, 'X', 'known anomaly'),
      (-1, '#777777', 'D', 'known, unlabelled'),
    ):
      (rows,) = np.nonzero(labels == value)
      if len(rows):
        left.plot(rows, known[rows], marker, color=colour, label=name)
    place, alarm = np.arange(len(scores)), np.zeros(len(scores), bool)
    if threshold is not None:
      alarm = scores > threshold
      for axis in (left, right):
        axis.axhline(
          threshold, color=_ANOMALY, linestyle='--', linewidth=1,
          label='threshold' if axis is right else None,
        )  # fmt: skip
    for who, colour, marker, name in (
      (~alarm, '#333333', '.', 'new row'),
      (alarm, _ANOMALY, '^', 'new row, abnormal'),
    ):
      if who.any():
        right.plot(
          place[who], scores[who], marker, color=colour, markersize=5,
          linestyle='none', label=name,
        )  # fmt: skip
    for axis, title in ((left, 'support'), (right, 'new rows')):
      axis.set_title(title)
      axis.set_xlabel('row')
      axis.xaxis.set_major_locator(mpl_ticker.MaxNLocator(integer=True))
    left.set_ylabel('score, higher = more anomalous')
    figure.legend(loc='outside right upper')
    _title(
      figure,
      'scores after adapting; the band spans the known normals, each scored '
      'after adapting on the others',
    )
  return png(figure)


# ---- The page ----

_CSS = """
:root { color-scheme: light dark; --ink: #1c2127; --soft: #5b6570;
  --paper: #ffffff; --panel: #f4f6f8; --line: #d8dde3; --link: #0b62a8;
  --win: #0b7a4b; --loss: #b3401a; --mixed: #6a5a00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #9ba6b1; --paper: #000000;
    --panel: #15191d; --line: #333b43; --link: #6db7f0;
    --win: #4cc48f; --loss: #f08a63; --mixed: #d9c44a; }
  img { filter: invert(1) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 2rem 1.25rem 5rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.25rem; margin: 3rem 0 .6rem; padding-top: .8rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
p { margin: .4rem 0; max-width: 46rem; }
a { color: var(--link); }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: 1rem 0; }
.soft, figcaption, caption { color: var(--soft); font-size: .875rem; }
dl { display: grid; grid-template-columns: repeat(auto-fit,
  minmax(10rem, 1fr)); gap: .8rem 1.5rem; background: var(--panel);
  padding: 1rem 1.2rem; border-radius: .5rem; margin: 1rem 0; }
dt { color: var(--soft); font-size: .8rem; }
dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: .4rem 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  font-size: .875rem; }
caption { text-align: left; padding-bottom: .4rem; }
th, td { padding: .3rem .7rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; }
th:first-child { text-align: left; position: sticky; left: 0;
  background: var(--paper); }
th[colspan] { text-align: center; }
td.text, th.text { text-align: left; }
td.long { text-align: left; white-space: normal; min-width: 16rem; }
tr.kind th { color: var(--soft); font-weight: 400; padding-top: .8rem; }
td small { display: block; color: var(--soft); font-size: .75rem; }
td b { color: var(--link); }
.badge { font-weight: 600; white-space: nowrap; }
.win { color: var(--win); } .loss { color: var(--loss); }
.overlap { color: var(--mixed); } .unknown { color: var(--soft); }
figure { margin: 1.2rem 0 2rem; overflow-x: auto; }
img { display: block; max-width: max(100%, 40rem); height: auto; }
figcaption { max-width: 46rem; margin-top: .4rem; }
details { margin: .6rem 0; }
summary { cursor: pointer; font-weight: 600; }
code, pre { font: .8rem/1.45 ui-monospace, Menlo, Consolas, monospace; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
"""

_BADGES = {
  'win': 'above all',
  'overlap': 'not shown',
  'loss': 'below',
  'unknown': 'no verdict',
}


def _e(text: Any) -> str:
  return html.escape(clean(str(text), 400))


def _table_html(
  header: Sequence[str], rows: Iterable[str], caption: str = ''
) -> str:
  """A table that scrolls; header cells and rows are markup already."""
  return (
    '<div class="scroll"><table>'
    + (f'<caption>{caption}</caption>' if caption else '')
    + f'<thead>{"".join(header)}</thead><tbody>{"".join(rows)}</tbody>'
    + '</table></div>'
  )


def _header(*names: str) -> str:
  return f'<tr>{"".join(f"<th>{_e(name)}</th>" for name in names)}</tr>'


def _metric_html(block: tuple[str, float], cells: Cells, metric: str) -> str:
  """The table of one metric for one source and contamination."""
  counts = sorted({a for a, _ in cells})
  span = lambda anomalies: sum(a == anomalies for a, _ in cells)
  header = [
    '<tr><th></th>',
    *(f'<th colspan="{span(a)}">A = {a}</th>' for a in counts),
    '</tr><tr><th></th>',
    *(f'<th>K = {k}</th>' for _, k in cells),
    '</tr>',
  ]
  rows = []
  for kind in ('learner', 'baseline'):
    title = 'meta-learners' if kind == 'learner' else 'baselines'
    if not ranked(cells, kind):
      continue
    rows.append(
      f'<tr class="kind"><th>{title}</th><td colspan="{len(cells)}"></td></tr>'
    )
    for name in ranked(cells, kind):
      line = [f'<tr><th>{_e(clean(name))}</th>']
      for cell in cells.values():
        entry = cell.get(name)
        if entry is None or entry['mean'] is None:
          line.append('<td>-</td>')
          continue
        best = valued(cell, kind)[0]['mean'] == entry['mean']
        mean = fixed(entry['mean'])
        line.append(
          f'<td>{f"<b>{mean}</b>" if best else mean}'
          f'<small>{interval_text(entry)}</small></td>'
        )
      rows.append(''.join([*line, '</tr>']))
  source, contamination = block
  return _table_html(
    header,
    rows,
    f'{_e(source)}, {_e(support_name(contamination))}: '
    f'{_e(metric_name(metric))}, mean and 95% interval over '
    f'{count_text(cells)}',
  )


def _verdicts_html(found: Sequence[Verdict]) -> str:
  groups: dict[tuple[str, float], list[Verdict]] = {}
  for verdict in found:
    key = (verdict.source, verdict.contamination)
    groups.setdefault(key, []).append(verdict)
  won = sum(verdict.outcome == 'win' for verdict in found)
  parts = [
    f'<p><b>A meta-learner is above every baseline in {won} of {len(found)} '
    'cells.</b></p>'
  ]
  for (source, contamination), group in groups.items():
    wins = sum(verdict.outcome == 'win' for verdict in group)
    parts.append(
      f'<h3>{_e(source)}, {_e(support_name(contamination))}: above every '
      f'baseline in {wins} of {len(group)} cells</h3>'
    )
    parts.append(
      _table_html(
        [_header('A', 'K', '', '')],
        (
          f'<tr><th>{v.anomalies}</th><td>{v.shots}</td><td class="text">'
          f'<span class="badge {v.outcome}">{_BADGES[v.outcome]}</span></td>'
          f'<td class="long">{html.escape(v.sentence)}</td></tr>'
          for v in group
        ),
      )
    )
  return ''.join(parts)


def _choices_html(results: dict[str, Any]) -> str:
  found = recommendation.choices(results)
  groups: dict[tuple[str, float], list[recommendation.Choice]] = {}
  for choice in found:
    key = (choice.contest.source, choice.contest.contamination)
    groups.setdefault(key, []).append(choice)
  parts = [
    f'<p><b>{html.escape(recommendation.advice(found))}</b></p>',
    f'<p>The best method of a cell, of either kind, by AUROC, against every '
    'other on the same entities: Wilcoxon signed-rank tests, corrected after '
    'Holm. The best is chosen with the rows that it is tested on. '
    f'{html.escape(recommendation.price(results))}</p>',
  ]
  for (source, contamination), group in groups.items():
    parts.append(
      f'<details><summary>{_e(source)}, {_e(support_name(contamination))}'
      '</summary>'
    )
    parts.append(
      _table_html(
        [_header('A', 'K', 'entities', '')],
        (
          f'<tr><th>{c.contest.anomalies}</th><td>{c.contest.shots}</td>'
          f'<td>{c.contest.entities}</td>'
          f'<td class="long">{html.escape(c.sentence)}</td></tr>'
          for c in group
        ),
      )
    )
    parts.append('</details>')
  return ''.join(parts)


def amount(value: float) -> str:
  """A number to two digits, or whole: 0.29, 2.9, 14, 8,640."""
  return f'{value:,.0f}' if value >= 10 else f'{value:.2g}'


def rows_per_day(results: dict[str, Any]) -> dict[str, float]:
  """{source: rows that an entity scores in a day}; empty where not told.

  Raises:
    DataError: if there are several rates, and not one for each source.
  """
  told = results['meta']['flags'].get('rows_per_day')
  if not told:
    return {}
  names = list(dict.fromkeys(row['source'] for row in results['rows']))
  rates = told if isinstance(told, list) else [told]
  if len(rates) not in (1, len(names)):
    raise base.DataError(
      f'{len(rates)} rows_per_day for {len(names)} sources: give one, or one '
      f'for each of {", ".join(names)}'
    )
  return dict(zip(names, rates * (len(names) // len(rates)), strict=True))


def operation(results: dict[str, Any]) -> list[tuple[str, list[list[str]]]]:
  """What the metrics mean in operation: recalls at fixed false-alarm rates.

  Args:
    results: validated; `meta.flags.rows_per_day` is looked at.

  Returns:
    A title and lines for each source and contamination; the first line is a
    header. Of every cell the best learner and the best baseline by recall at
    1% false alarms, with 95% intervals; the false alarms of a day where the
    rows per day are known.
  """
  rates = rows_per_day(results)
  found = []
  for block, cells in blocks_of(results, 'recall_at_far_1').items():
    wider = blocks_of(results, 'recall_at_far_5').get(block, {})
    header = ['A', 'K', 'method', 'found at 1%', 'found at 5%']
    if rates:
      header += ['alarms a day at 1%', 'at 5%']
    lines = [header]
    for key, cell in cells.items():
      for kind in ('learner', 'baseline'):
        for best in valued(cell, kind)[:1]:
          other = wider.get(key, {}).get(best['learner'])
          lines.append(
            [
              *map(str, key),
              clean(best['learner'], 24),
              f'{fixed(best["mean"])} {interval_text(best)}',
              '-'
              if other is None
              else f'{fixed(other["mean"])} {interval_text(other)}',
            ]
          )
          if rates:
            lines[-1] += [
              amount(metrics.alarms_per_day(rate, rates[block[0]]))
              for rate in (0.01, 0.05)
            ]
    title = f'{clean(block[0])}, {support_name(block[1])}'
    found.append((title, lines))
  return found


def _operation_html(results: dict[str, Any]) -> str:
  rates = rows_per_day(results)
  told = ', '.join(f'{_e(s)} {amount(rate)}' for s, rate in rates.items())
  parts = [
    '<p>Share of the anomalies found where the threshold lets 1% or 5% of the '
    "entity's normal rows through: the best meta-learner and the best baseline "
    'by the recall at 1%. The threshold is that of the query itself; one that '
    'is set beforehand, from few rows, is less exact.'
    + (
      f' Rows of an entity in a day, nearly all of them normal: {told}; so '
      'many false alarms come with it.</p>'
      if rates
      else ' --rows_per_day turns rates into alarms a day.</p>'
    )
  ]
  for title, (header, *lines) in operation(results):
    rows = (
      f'<tr><th>{_e(line[0])}</th>'
      + ''.join(f'<td>{_e(text)}</td>' for text in line[1:])
      + '</tr>'
      for line in lines
    )
    parts.append(_table_html([_header(*header)], rows, _e(title)))
  return ''.join(parts)


def _tests_html(results: dict[str, Any], metric: str) -> str:
  """The best learner of every cell against each baseline."""
  tests = tests_of(results, metric)
  parts = []
  for (source, contamination), cells in blocks_of(results, metric).items():
    rows = []
    for (anomalies, shots), cell in cells.items():
      for best in valued(cell, 'learner')[:1]:
        for rival in valued(cell, 'baseline'):
          names = best['learner'], rival['learner']
          test = tests.get((source, contamination, anomalies, shots, *names))
          if test is None or test['difference'] is None:
            continue
          sure = test['p_holm'] is not None and test['p_holm'] < 0.05
          side = 'above' if test['difference'] > 0 else 'below'
          colour = (
            {'above': 'win', 'below': 'loss'}[side] if sure else 'unknown'
          )
          rows.append(
            f'<tr><th>{anomalies}</th><td>{shots}</td>'
            f'<td class="text">{_e(clean(names[0]))}</td>'
            f'<td class="text">{_e(clean(names[1]))}</td>'
            f'<td>{test["difference"]:+.3f}</td><td>{interval_text(test)}</td>'
            f'<td>{_e(p_text(test["p"]).removeprefix("= "))}</td>'
            f'<td>{_e(p_text(test["p_holm"]).removeprefix("= "))}</td>'
            f'<td class="text"><span class="badge {colour}">'
            f'{side if sure else "not shown"}</span></td></tr>'
          )
    if rows:
      header = (
        '<tr><th>A</th><th>K</th><th class="text">best meta-learner</th>'
        '<th class="text">baseline</th><th>difference</th><th>95% interval</th>'
        '<th>p</th><th>p (Holm)</th><th class="text">at 5%</th></tr>'
      )
      parts.append(
        f'<details><summary>{_e(source)}, {support_name(contamination)}: '
        f'{len(rows)} pairs</summary>{_table_html([header], rows)}</details>'
      )
  return ''.join(parts) or '<p>No paired tests in the results.</p>'


def _regression_html(results: dict[str, Any]) -> str:
  general = lambda value: '-' if value is None else f'{value:.4g}'
  rows = (
    f'<tr><th>{_e(clean(e["learner"]))}</th><td>{e["steps"]}</td>'
    f'<td>{general(e["mse"])}<small>[{general(e["low"])}, '
    f'{general(e["high"])}]</small></td><td>{general(e["median"])}</td>'
    f'<td>{e["diverged"]} of {e["tasks"]}</td></tr>'
    for e in results['regression']
  )
  header = _header('learner', 'steps', 'squared error', 'median', 'diverged')
  return _table_html([header], rows)


def _picture_html(picture: Picture) -> str:
  data = base64.b64encode(png(picture.figure, transparent=True)).decode()
  width = round(picture.figure.get_figwidth() * 96)
  return (
    f'<figure><img width="{width}" alt="{_e(picture.caption)}" '
    f'src="data:image/png;base64,{data}">'
    f'<figcaption>{_e(picture.caption)}</figcaption></figure>'
  )


def _meta_html(results: dict[str, Any]) -> str:
  meta, rows = results['meta'], results['rows']
  count = lambda key, kind=None: len(
    {row[key] for row in rows if kind in (None, row['kind'])}
  )
  seconds = meta['seconds']
  facts = {
    'run': meta['created'],
    'took (h:min:s)': '-'
    if seconds is None
    else datetime.timedelta(seconds=round(seconds)),
    'hardware': meta['hardware'],
    'seed': meta['seed'],
    'code': meta['code'],
  }
  if rows:
    entities = len({(row['source'], row['entity']) for row in rows})
    facts |= {
      'sources': count('source'),
      'entities': entities,
      'meta-learners': count('learner', 'learner'),
      'baselines': count('learner', 'baseline'),
      'draws of the support': count('draw'),
      'scored episodes': len(rows),
    }
  listed = ''.join(
    f'<div><dt>{_e(key)}</dt><dd>{_e(value)}</dd></div>'
    for key, value in facts.items()
  )
  settings = ''.join(
    f'<details><summary>{title}</summary><pre>'
    + html.escape(json.dumps(meta[key], indent=2, ensure_ascii=True))
    + '</pre></details>'
    for key, title in (('flags', 'Flags'), ('versions', 'Versions'))
  )
  return f'<dl>{listed}</dl>{settings}'


def _page(results: dict[str, Any], drawn: Sequence[Picture]) -> str:
  pictures: dict[str, list[str]] = {}
  for picture in drawn:
    section = picture.name.partition('-')[0]
    pictures.setdefault(section, []).append(_picture_html(picture))
  metric_names = sorted(
    {entry['metric'] for entry in results['summary']},
    key=lambda m: (list(_METRICS).index(m) if m in _METRICS else 99, m),
  )
  parts: list[tuple[str, str, str]] = []
  if 'auroc' in metric_names:
    parts.append(
      (
        'verdict',
        'Is a meta-learner above every baseline?',
        '<p>For every cell: K normal samples and A labelled anomalies in the '
        'support, the same for all methods. The answer is yes only where the '
        "best meta-learner's 95% interval of AUROC lies above that of every "
        'baseline. Best means the highest mean in this same evaluation, which '
        'favours the side with more methods. The paired differences use that '
        'all methods saw the same entities, and so may tell methods apart '
        'whose intervals overlap.</p>'
        + _verdicts_html(_verdicts(results, 'auroc')),
      )
    )
    if results['rows']:
      parts.append(
        ('choice', 'Which algorithm should I use?', _choices_html(results))
      )
    parts.append(
      (
        'shots',
        'AUROC against shots',
        ''.join(pictures.get('auroc', []) + pictures.get('budget', [])),
      )
    )
    if 'ranks' in pictures:
      parts.append(
        ('ranks', 'Critical differences', ''.join(pictures['ranks']))
      )
  if metric_names:
    parts.append(
      (
        'tables',
        'Tables',
        '<p>Bold: the best meta-learner and the best baseline of a column. '
        '"-": no value; some baselines need labelled anomalies.</p>'
        + ''.join(
          f'<details{" open" if metric == "auroc" else ""}><summary>'
          f'{_e(metric_name(metric))}</summary>'
          + ''.join(
            _metric_html(block, cells, metric)
            for block, cells in blocks_of(results, metric).items()
          )
          + (
            ''
            if metric == 'auroc'
            else _verdicts_html(_verdicts(results, metric))
          )
          + '</details>'
          for metric in metric_names
        ),
      )
    )
  if 'recall_at_far_1' in metric_names:
    parts.append(('alarms', 'Alarms', _operation_html(results)))
  for key, title in (
    ('scores', 'Scores of normal and anomalous rows'),
    ('example', 'One task'),
    ('learning', 'Learning curves'),
  ):
    if key in pictures:
      parts.append((key, title, ''.join(pictures[key])))
  if 'auroc' in metric_names:
    parts.append(
      (
        'tests',
        'Paired tests',
        '<p>The best meta-learner of every cell against each baseline, AUROC, '
        'paired over entities, p corrected after Holm. The results file holds '
        'the other pairs.</p>' + _tests_html(results, 'auroc'),
      )
    )
  if results.get('regression'):
    parts.append(
      (
        'regression',
        'Regression',
        ''.join(pictures['regression']) + _regression_html(results),
      )
    )
  if tuned := tuning.told(results):
    listed = ''.join(
      f'<p>{_e(heading)}:</p><ul>'
      + ''.join(f'<li>{_e(line)}</li>' for line in lines)
      + '</ul>'
      for heading, lines in tuned
    )
    parts.append(('tuned', 'Options of the baselines', listed))
  if results['notes']:
    notes = ''.join(f'<li>{_e(note)}</li>' for note in results['notes'])
    parts.append(('notes', 'Notes', f'<ul>{notes}</ul>'))
  links = ''.join(f'<a href="#{key}">{title}</a>' for key, title, _ in parts)
  body = ''.join(
    f'<section id="{key}"><h2>{title}</h2>{content}</section>'
    for key, title, content in parts
  )
  return (
    '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<meta http-equiv="Content-Security-Policy" content="default-src '
    "'none'; img-src data:; style-src 'unsafe-inline'\">"
    f'<title>Few-shot anomaly detection</title><style>{_CSS}</style></head>'
    '<body><main><h1>Few-shot anomaly detection: meta-learners against '
    f'baselines</h1>{_meta_html(results)}<nav>{links}</nav>{body}'
    '</main></body></html>\n'
  )


def write_html(results: dict[str, Any], path: str | os.PathLike[str]) -> None:
  """Writes the report as one page that needs no other file and no script.

  Args:
    results: see `results.validate`.
    path: the file, `report.html` by custom; written whole or not at all.

  Raises:
    DataError: if the results break the schema or the file cannot be written.
  """
  results = results_lib.validate(results)
  page = _page(results, _figures(results))
  storage.write_bytes(path, page.encode())


def write(results: dict[str, Any], folder: str | os.PathLike[str]) -> str:
  """Writes results.json, report.html and figures/*.png.

  Args:
    results: see `results.validate`.
    folder: made where it is missing.

  Returns:
    The table of the AUROC and the names of the files, for the terminal.

  Raises:
    DataError: if the results break the schema or a file cannot be written.
  """
  folder = pathlib.Path(folder)
  results = results_lib.save(folder / 'results.json', results)
  pictures = _figures(results)
  page = _page(results, pictures)
  storage.write_bytes(folder / 'report.html', page.encode())
  paths = _save_figures(pictures, folder / 'figures')
  return (
    f'{_table(results, "auroc", 100)}\n'
    f'{folder / "results.json"}, {folder / "report.html"} '
    f'and {len(paths)} figures in {folder / "figures"} written'
  )
