"""What a benchmark found, on a page and in pictures."""

from collections.abc import Callable, Iterator
import io
from typing import Any

from matplotlib import figure as mpl_figure
from matplotlib import ticker
import matplotlib.style
import numpy as np

Row = dict[str, Any]

_OURS = 'metaad_jax'
# What rows of meta-training can be set against, and how it is called.
AXES = {
  'inner_steps': 'inner steps',
  'tasks': 'tasks per meta-step',
  'width': 'width of the hidden layers',
  'devices': 'devices',
}
_PANELS = {
  'milliseconds': 'ms per meta-step',
  'temp_mib': 'temporary memory, MiB',
  'peak_rss_mib': 'peak memory of the process, MiB',
}


def page(content: dict[str, Any]) -> str:
  """A section of Markdown: how it was measured, a table per workload."""
  parts = [f'    {content["command"]}\n', _told(content)]
  rows = content['rows']
  for workload in dict.fromkeys(row['workload'] for row in rows):
    own = [row for row in rows if row['workload'] == workload]
    columns = DETECTOR if workload == 'detector' else training_columns(own)
    parts += [f'### {workload}\n', table(own, columns)]
  if any(row['workload'] != 'detector' for row in rows):
    parts.append(LEGEND)
  return '\n'.join(parts)


def table(rows: list[Row], columns: dict[str, Callable[[Row], str]]) -> str:
  """Rows as a table of GitHub's Markdown."""
  lines = [f'| {" | ".join(columns)} |', '| --- ' * len(columns) + '|']
  for row in rows:
    cells = [cell(row) for cell in columns.values()]
    lines.append(f'| {" | ".join(cells)} |')
  return '\n'.join(lines) + '\n'


def _told(content):
  versions = ', '.join(f'{k} {v}' for k, v in content['versions'].items())
  parts = [
    f'{content["date"]}, {content["cores"]} cores',
    f'load when it ended: {content["load"]}',
  ]
  if content['device']:
    parts[0] += f', {content["device"]}'
    parts.append(
      f'largest rate of float32 matrix products in the same run: '
      f'{content["gemm_gflops"]:,.0f} GFLOP/s'
    )
  parts.append(versions)
  lines = '; '.join(parts) + '.\n'
  lines += ''.join(f'\n- {line}' for line in content['left_out'])
  return lines + '\n' * bool(content['left_out'])


LEGEND = """\
ms: median of a meta-step; quartiles; least. Ratio: time over that of the first
row of the same case, turn by turn (median, least to largest). Compile: tracing
and compiling, or what a first step takes longer. Temp: temporary memory of the
compiled step, as XLA plans it, per device. Peak: of the whole process, in
brackets before it compiled. Error: of the gradient against ours in float64.
GFLOP: of all matrix products of a step; least: by formula, nothing computed
twice. Peak share: least GFLOP over time, over the rate of matrix products.
"""


def _number(key: str, digits: int = 3) -> Callable[[Row], str]:
  def show(row):
    value = row.get(key)
    return '' if value is None else format_number(value, digits)

  return show


def format_number(value: float, digits: int = 3) -> str:
  """Three digits, without exponents."""
  if value == 0:
    return '0'
  if abs(value) >= 10 ** (digits - 1):
    return f'{value:,.0f}'
  return f'{value:#.{digits}g}' if abs(value) >= 1e-4 else f'{value:.1e}'


def _quartiles(row):
  return f'{format_number(row["q1"])}-{format_number(row["q3"])}'


def _ratio(row):
  if row['ratio'] is None:
    return ''
  low, high = format_number(row['ratio_low']), format_number(row['ratio_high'])
  return f'{format_number(row["ratio"])} ({low}-{high})'


def _error(row):
  error = row['gradient_error']
  return '' if error is None else f'{error:.0e}' if error else '0'


def _peak(row):
  if row['peak_rss_mib'] is None:
    return ''
  return f'{row["peak_rss_mib"]:,.0f} ({row["start_rss_mib"]:,.0f})'


def _share(row):
  share = row['share_of_peak']
  return '' if share is None else f'{100 * share:.1f}%'


def _library(row):
  if row['library'] != _OURS:
    return row['library']
  at_once = f', {row["at_once"]} at once' if row['at_once'] else ''
  budget = f', in {row["memory"]}: {row["plan"]}' if row.get('memory') else ''
  commit = f'@{row["commit"]}' if row.get('commit') else ''
  return f'**{_OURS}{commit}** {row["learner"]}{at_once}{budget}'


def _whole(key):
  return lambda row: '' if row[key] is None else f'{row[key]:g}'


def training_columns(rows: list[Row]) -> dict[str, Callable[[Row], str]]:
  """Of rows of meta-training, those that say something."""
  shown = {
    'library': _library,
    'inner steps': _whole('inner_steps'),
    'tasks': _whole('tasks'),
    'width': _whole('width'),
    'devices': _whole('devices'),
    'ms': _number('milliseconds'),
    'quartiles': _quartiles,
    'least': _number('least'),
    'ratio': _ratio,
    'tasks/s': _number('tasks_per_second'),
    'compile s': _number('compile_seconds', 2),
    'temp MiB': _number('temp_mib'),
    'peak MiB': _peak,
    'device MiB': _number('peak_device_mib'),
    'error': _error,
    'GFLOP': _number('gflop'),
    'least GFLOP': _number('minimal_gflop'),
    'peak share': _share,
  }
  fixed = {
    key for key in ('width', 'devices') if {row[key] for row in rows} == {1}
  }
  return {
    name: cell
    for name, cell in shown.items()
    if name not in fixed and any(cell(row) for row in rows)
  }


DETECTOR: dict[str, Callable[[Row], str]] = {
  'what': lambda row: row['what'],
  'rows x columns': lambda row: f'{row["rows"]:,} x {row["columns"]}',
  'method': lambda row: row['library'],
  'median ms': _number('milliseconds'),
  'quartiles': _quartiles,
  'least': _number('least'),
}


# --- pictures ----------------------------------------------------------------


def pictures(rows: list[Row]) -> dict[str, bytes]:
  """{file name: PNG}: all times; and growth along every axis with values."""
  training = [row for row in rows if row['workload'] != 'detector']
  curves = {axis: dict(_curves(training, axis)) for axis in AXES}
  with matplotlib.style.context('metaad_jax.metaad'):
    images = {'benchmark.png': _bytes(_bars(rows))}
    for axis, some in curves.items():
      if some:
        images[f'growth-{axis}.png'] = _bytes(_growth(some, axis))
  return images


def _bytes(figure):
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png', dpi=100)
  return buffer.getvalue()


def _label(row):
  if row['workload'] == 'detector':
    return f'{row["what"]}, {row["rows"]:,} rows: {row["library"]}'
  told = [f'{row["workload"]}, {row["inner_steps"]} steps']
  told.append(f'{row["tasks"]} tasks')
  if row['width'] != 1:
    told.append(f'width x{row["width"]:g}')
  if row['devices'] > 1:
    told.append(f'{row["devices"]} devices')
  return f'{", ".join(told)}: {_library(row).replace("*", "")}'


def _plain(axis, *within):
  """Ticks of a logarithmic axis: some within a decade, plain numbers."""
  axis.set_major_locator(ticker.LogLocator(subs=within))
  axis.set_major_formatter(lambda value, _: f'{value:,g}')
  axis.set_minor_locator(ticker.NullLocator())


def _bars(rows):
  """One line per measurement: median, quartiles, least."""
  figure = mpl_figure.Figure((8, 0.8 + 0.24 * len(rows)), layout='constrained')
  axis = figure.subplots()
  place = np.arange(len(rows))[::-1]
  part = lambda key: np.array([row[key] for row in rows])
  colour = [
    'C1' if row['library'].startswith(_OURS) else 'grey' for row in rows
  ]
  axis.barh(place, part('milliseconds'), color=colour)
  axis.hlines(place, part('q1'), part('q3'), color='black')
  axis.plot(part('least'), place, '|', color='white')
  axis.set_xscale('log')
  _plain(axis.xaxis, 1, 3)
  axis.set_xlabel('milliseconds: median, quartiles (black), least (white)')
  axis.set_yticks(place, map(_label, rows), fontsize='small')
  axis.set_ylim(-0.6, len(rows) - 0.4)
  return figure


def _curves(rows: list[Row], axis: str) -> Iterator[tuple[str, list[Row]]]:
  """(label, rows along the axis) of all that differ in nothing else."""
  groups: dict[tuple, list[Row]] = {}
  keys = ('workload', 'library', 'commit', 'learner', 'at_once', *AXES)
  for row in rows:
    rest = tuple((key, row[key]) for key in keys if key != axis)
    groups.setdefault(rest, []).append(row)
  groups = {k: v for k, v in groups.items() if len(v) > 1}
  usual = {key: {dict(g)[key] for g in groups} for key in AXES if key != axis}
  for rest, found in groups.items():
    known = dict(rest)
    told = [known['workload'], _library(found[0]).replace('*', '')]
    told += [
      f'{AXES[key]} {known[key]:g}'
      for key, values in usual.items()
      if len(values) > 1
    ]
    yield ', '.join(told), sorted(found, key=lambda row: row[axis])


def _growth(curves, axis):
  figure = mpl_figure.Figure((12, 4.2), layout='constrained')
  panels = figure.subplots(1, len(_PANELS))
  for panel, (key, label) in zip(panels, _PANELS.items(), strict=True):
    for name, rows in curves.items():
      known = [row for row in rows if row[key] is not None]
      own = known and known[0]['library'] == _OURS
      panel.plot(
        [row[axis] for row in known], [row[key] for row in known],
        'o-' if own else 's--', label=name,
      )  # fmt: skip
    panel.set_xscale('log')
    panel.set_yscale('log')
    panel.set_xlabel(AXES[axis])
    panel.set_ylabel(label)
    ticks = sorted({row[axis] for rows in curves.values() for row in rows})
    panel.set_xticks(ticks, [f'{tick:g}' for tick in ticks])
    panel.xaxis.set_minor_locator(ticker.NullLocator())
    _plain(panel.yaxis, 1, 1.5, 2, 3, 4, 5, 7)
  figure.legend(
    *panels[0].get_legend_handles_labels(), loc='outside lower center',
    ncols=2, fontsize='small',
  )  # fmt: skip
  return figure
