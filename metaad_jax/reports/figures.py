"""Figures, all in one style: of an evaluation, and of a user's judged rows.

`metaad_jax/metaad.mplstyle` is the style. A `block` is (source, contamination),
`styles` what `learner_styles` returns.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
import io
import textwrap
from typing import Any, NamedTuple

from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import ticker as mpl_ticker
import matplotlib.style
import numpy as np
import pandas as pd
from PIL import Image

from metaad_jax.reports import tables
from metaad_jax.scores import comparisons

_MARKERS = 'os^DvPX*'
_NORMAL, _ANOMALY, _GREY, _PALE = '#0072B2', '#D55E00', '#6b6b6b', '#bbbbbb'
_DASHES = ((0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
_BUDGET = 3  # numbers of shots that make a curve

Styles = dict[str, dict[str, Any]]


class Picture(NamedTuple):
  """A figure, the name of its file, and a sentence on what it shows."""

  name: str
  caption: str
  figure: mpl_figure.Figure


def style() -> AbstractContextManager[None]:
  """The style of all figures, for a `with` block around drawing and saving."""
  return matplotlib.style.context('metaad_jax.metaad')


def png(figure: mpl_figure.Figure, transparent: bool = False) -> bytes:
  """The figure as a PNG file of 160 dots per inch."""
  file = io.BytesIO()
  with style():
    figure.savefig(file, format='png', transparent=transparent)
  return file.getvalue()


def small_png(figure: mpl_figure.Figure) -> bytes:
  """A fifth of the bytes of `png`, to be kept in a repository: few colours."""
  file, small = io.BytesIO(), io.BytesIO()
  with style():
    figure.savefig(file, format='png', dpi=90)
  few = Image.open(file).convert('RGB').quantize(32, dither=Image.Dither.NONE)
  few.save(small, 'png', optimize=True)
  return small.getvalue()


def learner_styles(summary: pd.DataFrame) -> Styles:
  """A colour and a marker for every learner, the same in all figures."""
  names = sorted(summary.method[summary.kind == 'learner'].unique())
  with style():
    colours = matplotlib.rcParams['axes.prop_cycle'].by_key()['color']
  return {
    name: {
      'color': colours[i % len(colours)],
      'marker': _MARKERS[i % len(_MARKERS)],
      'linestyle': '-' if i < len(colours) else '--',
    }
    for i, name in enumerate(names)
  }


def _panels(
  count: int, columns: int, width: float, height: float, **options: Any
) -> tuple[mpl_figure.Figure, list[mpl_axes.Axes]]:
  """A figure of `count` axes, at most `columns` beside each other; inches."""
  columns = min(columns, count)
  rows = -(-count // columns)
  size = width, height * rows + 0.5
  figure = mpl_figure.Figure(figsize=size, layout='constrained')
  axes = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
  for axis in axes[count:]:
    axis.remove()
  return figure, axes[:count]


def _picture(
  kind: str, block: Sequence[Any], title: str, more: str, figure: Any
) -> Picture:
  """Puts the title on a figure; the caption is the title and `more`."""
  title = f'{tables.block_name(block)}: {title}'
  figure.suptitle(textwrap.fill(title, 95), x=0.01, ha='left')
  return Picture(f'{kind}-{block[0]}-{block[1]:g}', f'{title}. {more}', figure)


def _draw(
  axis: mpl_axes.Axes,
  places: Sequence[float] | np.ndarray,
  entries: pd.DataFrame,
  horizontal: bool = False,
  **options: Any,
) -> None:
  """Means with intervals at their places; NaN leaves a gap."""
  numbers = entries[['mean', 'low', 'high']].to_numpy(float).T
  mean, low, high = numbers
  ends = np.nan_to_num(np.clip([mean - low, high - mean], 0, None))
  options |= {'markeredgecolor': 'white', 'markeredgewidth': 0.5}
  options['xerr' if horizontal else 'yerr'] = ends
  x, y = (mean, places) if horizontal else (places, mean)
  axis.errorbar(x, y, elinewidth=1, **options)


def against_shots(
  block: Sequence[Any], summary: pd.DataFrame, styles: Styles
) -> Picture:
  """A metric (the one of `summary`) against K, a panel for each A."""
  learners, baselines = (tables.ranked(summary, k) for k in tables.KINDS)
  looks = {name: {**styles[name], 'markersize': 5.5} for name in learners}
  for name, dash in zip(baselines, _DASHES, strict=False):
    looks[name] = {'color': _GREY, 'linestyle': dash, 'marker': 'd'}
  others = [name for name in baselines if name not in looks]
  shots = sorted(summary.shots.unique())
  panels = list(summary.groupby('anomalies'))
  figure, axes = _panels(len(panels), 3, 10.5, 4, sharey=True)
  places = np.arange(len(shots), dtype=float)
  offsets = np.linspace(-0.36, 0.36, len(looks)) if len(looks) > 1 else [0.0]
  for axis, (anomalies, panel) in zip(axes, panels, strict=True):
    panel = panel.set_index('shots')
    row = lambda name, panel=panel: panel[panel.method == name].reindex(shots)
    for offset, (name, look) in zip(offsets, looks.items(), strict=True):
      label = tables.clean(name)
      _draw(
        axis, places + offset, row(name), linewidth=1.1, label=label, **look
      )
    for i, name in enumerate(others):
      label = '_' if i else f'{len(others)} other baselines'
      pale: Any = {'color': _PALE, 'linewidth': 0.8, 'zorder': 1}
      axis.plot(places, row(name)['mean'], label=label, **pale)
    axis.set_xticks(places, [str(k) for k in shots])
    axis.set_xlim(-0.5, len(shots) - 0.5)
    axis.set_title(f'labelled anomalies: A = {anomalies}')
    axis.set_xlabel('normal samples in the support, K')
  metric = tables.METRICS[summary.metric.iloc[0]]
  axes[0].set_ylabel(f'{metric}, mean and 95% interval')
  handles, labels = axes[0].get_legend_handles_labels()
  figure.legend(handles, labels, loc='outside right upper')
  return _picture(
    'auroc',
    block,
    f'{metric} of learners (colours) and baselines (grey) by K and A',
    f'Over {tables.entities_text(summary)}; points are moved sideways.',
    figure,
  )


def ladder(
  block: Sequence[Any], summary: pd.DataFrame, styles: Styles
) -> Picture:
  """A metric of every method at the only K, a panel for each A."""
  names = [
    name
    for kind in reversed(tables.KINDS)
    for name in reversed(tables.ranked(summary, kind))
  ]
  panels = list(summary.groupby(['anomalies', 'shots']))
  height = 0.6 + 0.22 * len(names)
  figure, axes = _panels(len(panels), 3, 9, height, sharey=True)
  metric = tables.METRICS[summary.metric.iloc[0]]
  for axis, ((anomalies, shots), panel) in zip(axes, panels, strict=True):
    entries = panel.set_index('method').reindex(names)
    for place, name in enumerate(names):
      look = {**styles.get(name, {'color': _GREY, 'marker': 'd'})}
      look |= {'linestyle': '', 'markersize': 5}
      _draw(axis, [place], entries.loc[[name]], horizontal=True, **look)
    axis.set_yticks(range(len(names)), [tables.clean(n) for n in names])
    axis.set_title(f'labelled anomalies: A = {anomalies}; K = {shots}')
    axis.set_xlabel(f'{metric}, mean and 95% interval')
  return _picture(
    'auroc',
    block,
    f'{metric} of learners (colours) and baselines (grey)',
    f'Over {tables.entities_text(summary)}.',
    figure,
  )


def budget(
  block: Sequence[Any], table: pd.DataFrame, styles: Styles
) -> Picture | None:
  """The best learner and the best baselines against K on a logarithmic axis.

  The learner is the best one over a panel, the baseline the best one of each
  K. Only entities that serve every K count, so that a curve is over the same
  ones from end to end; `table` holds the rows of the block. None where no panel
  has three K, two such entities and a baseline.
  """
  panels = []
  scored = table.dropna(subset=['auroc', 'ap'])
  for anomalies, rows in scored.groupby('anomalies'):
    served = rows.groupby('entity').shots.nunique()
    whole = served.index[served == rows.shots.nunique()]
    if rows.shots.nunique() >= _BUDGET and len(whole) > 1:
      rows = rows[rows.entity.isin(whole)]
      for metric in ('auroc', 'ap'):
        panels.append((anomalies, comparisons.summary(rows, metric)))
  if not panels or not (table.kind == 'baseline').any():
    return None
  figure, axes = _panels(len(panels), 2, 9.5, 3.2)
  for axis, (anomalies, summary) in zip(axes, panels, strict=True):
    _budget_panel(axis, summary, styles)
    count = tables.entities_text(summary)
    axis.set_title(f'labelled anomalies: A = {anomalies}; {count}')
  return _picture(
    'budget',
    block,
    'the best learner beside the best baseline of each number of samples',
    'Over the entities that have enough rows for every K; the baseline is '
    'named where it changes. Dotted: the best baseline at the most samples.',
    figure,
  )


def _budget_panel(
  axis: mpl_axes.Axes, summary: pd.DataFrame, styles: Styles
) -> None:
  shots = np.sort(summary.shots.unique())
  of_k = lambda rows: rows.set_index('shots').reindex(shots)
  rivals = of_k(tables.best_of(summary, 'baseline').reset_index())
  look: Any = {'color': _GREY, 'linestyle': _DASHES[0], 'marker': 'd'}
  _draw(axis, shots, rivals, label='the best baseline of each K', **look)
  changed = (rivals.method != rivals.method.shift()) & rivals['mean'].notna()
  for k, rival in rivals[changed].iterrows():
    inwards = {shots[0]: 'left', shots[-1]: 'right'}
    low = rival['mean'] if pd.isna(rival.low) else rival.low
    axis.annotate(
      tables.clean(rival.method, 20), (k, low), (0, -4), color=_GREY,
      textcoords='offset points', ha=inwards.get(k, 'center'), va='top',
      fontsize=7.5,
    )  # fmt: skip
  last, label = rivals['mean'].iloc[-1], f'the same at K = {shots[-1]}'
  axis.axhline(last, color=_GREY, linewidth=0.9, linestyle=':', label=label)
  for name in tables.ranked(summary, 'learner')[:1]:
    ours = of_k(summary[summary.method == name])
    label = tables.clean(name)
    _draw(axis, shots * 1.05, ours, markersize=6, label=label, **styles[name])
  axis.set_xscale('log')
  axis.set_xticks(shots, [str(k) for k in shots])
  axis.xaxis.set_minor_locator(mpl_ticker.NullLocator())
  axis.set_xlabel('normal samples in the support, K')
  axis.set_ylabel(f'{tables.METRICS[summary.metric.iloc[0]]}, 95% interval')
  axis.margins(y=0.15)
  axis.legend(loc='best')


def ranks(rankings: Sequence[comparisons.Ranking], styles: Styles) -> Picture:
  """Critical-difference diagrams of one block, one for each A."""
  heights = [
    1.2 + 0.2 * ((len(r.methods) + 1) // 2 + len(r.cliques)) for r in rankings
  ]
  size = 9, sum(heights) + 0.5
  figure = mpl_figure.Figure(figsize=size, layout='constrained')
  axes = figure.subplots(len(rankings), 1, squeeze=False, height_ratios=heights)
  for axis, ranking in zip(axes.flat, rankings, strict=True):
    _critical_differences(axis, ranking, styles)
    axis.set_title(
      f'A = {ranking.anomalies}, K = {", ".join(map(str, ranking.shots))}; '
      f'{ranking.entities} entities; Friedman p '
      f'{tables.p_value(ranking.p, "= ")}',
      loc='left',
    )
  out = sorted({tables.clean(name) for r in rankings for name in r.left_out})
  missing = f' Not on every entity: {", ".join(out)}.' if out else ''
  return _picture(
    'ranks',
    (rankings[0].source, rankings[0].contamination),
    'mean rank by AUROC (1 = best); bars join methods not told apart',
    'Ranks over entities, averaged over K. Of the methods under a bar no pair '
    'differs at 5% (Wilcoxon signed-rank tests, corrected after Holm over all '
    f'pairs). Learners are coloured.{missing}',
    figure,
  )


def _critical_differences(
  axis: mpl_axes.Axes, ranking: comparisons.Ranking, styles: Styles
) -> None:
  # seconds to import, which nobody who draws no ranks should wait for
  from scikit_posthocs import critical_difference_diagram

  names = [tables.clean(name) for name in ranking.methods]
  if len(set(names)) < len(names):  # the diagram tells methods by their names
    names = [f'{i} {name}' for i, name in enumerate(names, 1)]
  alike = np.eye(len(names))
  for first, last in ranking.cliques:
    alike[first : last + 1, first : last + 1] = 1
  colour = lambda name: styles[name]['color'] if name in styles else _GREY
  critical_difference_diagram(
    dict(zip(names, ranking.ranks, strict=True)),
    pd.DataFrame(alike, names, names),
    ax=axis,
    label_fmt_left='{label}  {rank:.2f}',
    label_fmt_right='{rank:.2f}  {label}',
    label_props={'fontsize': 8.5},
    elbow_props={'linewidth': 1},
    color_palette=dict(zip(names, map(colour, ranking.methods), strict=True)),
    text_h_margin=0.03 * len(names),
  )
  axis.grid(False)
  axis.spines['top'].set_visible(True)


def of_evaluation(
  table: pd.DataFrame,
  summary: pd.DataFrame,
  rankings: Sequence[comparisons.Ranking],
) -> list[Picture]:
  """Every figure that an evaluation has the data for.

  For each block the AUROC against K (or of all methods, at a single K); then
  the budgets, where there are three K or more; then the ranks by `rankings`.
  """
  summary = summary[summary.metric == 'auroc']
  styles = learner_styles(summary)
  pictures: list[Picture | None] = []
  with style():
    for block, rows in tables.blocks(summary):
      draw = ladder if rows.shots.nunique() == 1 else against_shots
      pictures.append(draw(block, rows, styles))
    for block, rows in tables.blocks(table):
      pictures.append(budget(block, rows, styles))
    for block in dict.fromkeys((r.source, r.contamination) for r in rankings):
      ours = [r for r in rankings if (r.source, r.contamination) == block]
      pictures.append(ranks(ours, styles))
  return [picture for picture in pictures if picture is not None]


def adapted_png(
  known: np.ndarray,
  labels: np.ndarray,
  scores: np.ndarray,
  threshold: float | None = None,
) -> bytes:
  """A PNG file of the scores [M] of new rows beside those of the support.

  The support has scores [K] and labels [K]: 1 = anomaly, 0 = normal, -1 =
  unlabelled. A score above the threshold, if there is one, is an alarm.
  """
  known, labels, scores = map(np.asarray, (known, labels, scores))
  alarm = scores > (np.inf if threshold is None else threshold)
  normal = known[labels != 1]
  with style():
    ratios = (1, 4)
    figure, axes = _panels(2, 2, 9, 3.4, sharey=True, width_ratios=ratios)
    left, right = axes
    for axis, values, chosen, colour, marker, label in (
      (left, known, labels == 0, _NORMAL, 'o', 'known normal'),
      (left, known, labels == 1, _ANOMALY, 'X', 'known anomaly'),
      (left, known, labels == -1, '#777777', 'D', 'known, unlabelled'),
      (right, scores, ~alarm, '#333333', '.', 'new row'),
      (right, scores, alarm, _ANOMALY, '^', 'new row, abnormal'),
    ):
      (rows,) = np.nonzero(chosen)
      if len(rows):
        axis.plot(rows, values[rows], marker, color=colour, label=label)
    for axis, title in ((left, 'support'), (right, 'new rows')):
      axis.axhspan(normal.min(), normal.max(), color=_NORMAL, alpha=0.12)
      if threshold is not None:
        label = 'threshold' if axis is right else '_'
        axis.axhline(threshold, color=_ANOMALY, linestyle='--', label=label)
      axis.set_title(title)
      axis.set_xlabel('row')
      axis.xaxis.set_major_locator(mpl_ticker.MaxNLocator(integer=True))
    left.set_ylabel('score, higher = more anomalous')
    figure.legend(loc='outside right upper')
    title = 'Scores of known and new rows; the band spans the known normals'
    figure.suptitle(title, x=0.01, ha='left')
  return png(figure)
