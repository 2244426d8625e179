"""What a suite found: a page, and the roofline."""

import io
from typing import Any

from matplotlib import figure as mpl_figure
import matplotlib.style
import numpy as np

from benchmarks import page

Parts = dict[str, dict[str, Any]]

_LEGEND = """\
Copy share: bytes that products read and write over time, over the rate of
copies; more than 100% is work in a cache.
"""


def text(command: str, wanted: list[str], parts: Parts) -> str:
  """The page; parts that are missing or have failed are named."""
  told = [f'    {command}\n', _about(parts)]
  for name in wanted:
    if name not in parts:
      told.append(f'- {name}: not begun; the same command goes on\n')
    elif 'failed' in parts[name]:
      told.append(f'- {name}: failed: {parts[name]["failed"]}\n')
  found = {name: part['found'] for name, part in parts.items() if _there(part)}
  if 'limits' in found:
    told += ['### What the machine can do\n', _limits(found['limits'])]
  rows = _of(found, 'precision-W')
  if rows:
    told += [
      '### What a precision costs in the meta-gradient\n',
      'Relative errors, against float64 on the host; on a CPU tf32 and bf16 '
      'are emulated by rounding the operands of every product.\n',
      _table(rows),
    ]
  if 'precision-scores' in found:
    told += [
      "### What it costs in the shipped detector's scores\n",
      'Against the highest precision, on 20 simulated tables: median and '
      'largest move, in deviations of normal scores; least rank correlation; '
      'AUROC at the highest, its mean and its largest change.\n',
      _table(found['precision-scores']),
    ]
  told += _training(found)
  if 'lowering' in found:
    told += ['### What a meta-step asks for\n', _table(found['lowering'])]
  return '\n'.join(told)


def _training(found):
  told = []
  for workload in ('W1', 'W2', 'W3', 'W4', 'W5'):
    rows = cells(found, workload)
    if rows:
      columns = page.training_columns(rows) | _SHARES
      told += [f'### {workload}\n', page.table(rows, columns)]
  left = sorted({
    line
    for part in found.values()
    if isinstance(part, dict)
    for line in part.get('left_out', ())
  })  # fmt: skip
  told += [f'- {line}\n' for line in left]
  if told:
    told += ['![Roofline](roofline.png)\n', page.LEGEND, _LEGEND]
  if 'training' in found:
    told += ['### Meta-training, end to end\n', _table(found['training'])]
  if 'detector' in found:
    rows = found['detector']
    told += ['### The detector\n', page.table(rows, page.DETECTOR)]
  return told


_SHARES = {'copy share': lambda row: _percent(row.get('share_of_copy'))}


def _percent(share):
  return '' if share is None else f'{share:.0%}'


def cells(found: dict[str, Any], prefix: str = 'W') -> list[page.Row]:
  """The rows of contests, with their share of the rate of copies."""
  copies = found.get('limits', {}).get('copy_gbs')
  rows = []
  for name, part in found.items():
    for row in part['rows'] if name.startswith(prefix) else ():
      moved = row.get('product_mib')
      share = None
      if moved and copies:
        share = moved * 2**20 / (row['milliseconds'] / 1000) / (copies * 1e9)
      rows.append({**row, 'share_of_copy': share})
  return rows


def _there(part):
  return 'found' in part


def _of(found, prefix):
  return [
    row
    for name, rows in found.items()
    if name.startswith(prefix)
    for row in rows
  ]


def _about(parts):
  known = next(iter(parts.values()), None)
  if known is None:
    return ''
  versions = ', '.join(f'{k} {v}' for k, v in known['versions'].items())
  dates = sorted({part['date'] for part in parts.values()})
  loads = [part['load'] for part in parts.values()]
  seconds = sum(part['seconds'] for part in parts.values())
  return (
    f'{" to ".join(dict.fromkeys((dates[0], dates[-1])))}, {known["cores"]} '
    f'cores, code {known["code"]}; {versions}. {len(parts)} parts in '
    f'{seconds / 60:.1f} minutes; load {min(loads):g} to {max(loads):g} when '
    'they ended.\n'
  )


def _limits(found):
  rates = [
    {'what': f'products of float32, {name}', 'rate': rate, 'unit': 'GFLOP/s'}
    for name, rate in found['gemm_gflops'].items()
  ]
  rates += [
    {'what': 'copies', 'rate': found['copy_gbs'], 'unit': 'GB/s'},
    {
      'what': 'a call that does nothing',
      'rate': found['call_us'],
      'unit': 'us',
    },
  ]
  clocks = f'; clocks as found: {found["clocks"]}' if found['clocks'] else ''
  return f'{found["device"]} ({found["platform"]}){clocks}.\n\n' + _table(rates)


def _table(rows):
  keys = dict.fromkeys(key for row in rows for key in row)
  show = lambda key: lambda row: _cell(row.get(key, ''))
  return page.table(rows, {key: show(key) for key in keys})


def _cell(value):
  if isinstance(value, float):
    if value and abs(value) < 0.01:
      return f'{value:.1e}'
    return page.format_number(value)
  return str(value)


def roofline(parts: Parts) -> dict[str, bytes]:
  """{file name: PNG} of rates over FLOP per byte of products; {} without."""
  found = {name: part['found'] for name, part in parts.items() if _there(part)}
  rows = [row for row in cells(found) if row.get('product_mib')]
  if not rows or 'limits' not in found:
    return {}
  limits = found['limits']
  with matplotlib.style.context('metaad_jax.metaad'):
    figure = mpl_figure.Figure((8, 4.5), layout='constrained')
    axis = figure.subplots()
    at = [r['gflop'] * 1e9 / (r['product_mib'] * 2**20) for r in rows]
    wide = np.geomspace(min(at) / 3, max(at) * 30, 200)
    for name, peak in limits['gemm_gflops'].items():
      roof = np.minimum(peak, wide * limits['copy_gbs'])
      axis.plot(wide, roof, label=f'limit, {name}')
    for library in dict.fromkeys(row['library'] for row in rows):
      own = [(x, r) for x, r in zip(at, rows, strict=True)
             if r['library'] == library]  # fmt: skip
      axis.plot(
        [x for x, _ in own], [r['gflops'] for _, r in own],
        'o' if library == 'metaad_jax' else 's', label=library,
      )  # fmt: skip
    for x, row in zip(at, rows, strict=True):
      if row['library'] == 'metaad_jax':
        label = f'{row["workload"]} {row["inner_steps"]} x{row["tasks"]}'
        axis.annotate(label, (x, row['gflops']), fontsize='x-small')
    axis.set_xscale('log')
    axis.set_yscale('log')
    for side in (axis.xaxis, axis.yaxis):
      side.set_major_formatter('{x:g}')
    axis.set_xlabel('FLOP per byte that products read or write')
    axis.set_ylabel('GFLOP/s, of the least that a meta-step takes')
    axis.legend(fontsize='small')
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=100)
  return {'roofline.png': buffer.getvalue()}
