"""Metrics of servers: the Server Machine Dataset and its application sibling.

Both come in one layout: a training series without known anomalies, a test
series, and a 0/1 label for each of its rows.
"""

import functools
import pathlib
import re

import numpy as np

from metaad_jax.base import DataError, Entity, Source
from metaad_jax.data import public_files, rows, series


def _load(
  source: str,
  metrics: int,
  data_dir: str | None,
  *,
  window: int = 1,
  stride: int = 0,
  max_rows: int = 2000,
  max_queries: int = 2000,
) -> list[Entity]:
  """One entity per machine: supports from its training series, query from test.

  Args:
    source: 'smd' or 'asd'.
    metrics: columns that the files must have.
    data_dir: holds smd/ or asd/.
    window: rows per window; 1 = rows.
    stride: rows between windows; 0 = `window`.
    max_rows, max_queries: limits, see `series.thin` and `series.choose`.

  Returns:
    Entities with rows [N, metrics], or windows [N, window, metrics], which are
    anomalous where any of their rows is. Constant metrics stay. The fold is
    the group of services (smd), such as 'group1'. Kinds are 'metrics 1 9 12'
    (smd: those that explain the segment) or the type of the segment (asd).
  """
  rows.check_limits(source, max_rows, max_queries)
  root = public_files.folder(data_dir, source)
  top = 'ServerMachineDataset/' if source == 'smd' else ''
  prefix = 'machine' if source == 'smd' else 'omi'
  pattern = re.compile(rf'({prefix}-\d+(-\d+)?)\.txt(\.xz)?')
  matches = [
    pattern.fullmatch(path.name) for path in (root / top / 'train').glob('*')
  ]
  names = {match[1] for match in matches if match}
  if not names:
    raise DataError(
      f'{root / top / "train"} holds no {prefix}-*.txt, nor with .xz: '
      f'{public_files.fetching(root)}'
    )
  order = lambda name: [int(n) for n in re.findall(r'\d+', name)]
  entities = []
  for name in sorted(names, key=order):
    read = lambda part, width, name=name: _table(root, top, part, name, width)
    train, test = read('train', metrics), read('test', metrics)
    labels = read('test_label', 1)[:, 0]
    if len(labels) != len(test) or not np.isin(labels, (0, 1)).all():
      why = f'not one label, 0 or 1, for each of {len(test)} rows'
      raise public_files.broken(root, f'{top}test_label/{name}.txt', why)
    kinds = np.where(labels == 1, 'anomaly', '').astype(object)
    for first, last, kind in _segments(root, top, name, source):
      spanned = np.arange(first, min(last + 1, len(test)))
      kinds[spanned[labels[spanned] == 1]] = kind
    parts = series.windows(
      f'{source} {name}', train, test, kinds, window=window, stride=stride,
      max_rows=max_rows, max_queries=max_queries,
    )  # fmt: skip
    fold = f'group{order(name)[0]}' if source == 'smd' else ''
    entities.append(Entity(name=name, group=name, fold=fold, **parts))
  return entities


def _table(root, top, part, name, width):
  path = f'{top}{part}/{name}.txt'
  table = public_files.table(root, path)
  if table.shape[1] != width:
    why = f'{table.shape[1]} columns, expected {width}'
    raise public_files.broken(root, path, why)
  return table


def _segments(
  root: pathlib.Path, top: str, name: str, source: str
) -> list[tuple[int, int, str]]:
  """(first row, last row, kind) of each segment of anomalies."""
  if source == 'smd':
    path = f'{top}interpretation_label/{name}.txt'
    pattern = re.compile(r'(\d+)-(\d+):([\d,]+)')
  else:
    path = 'anomaly_type.csv'
    pattern = re.compile(rf'{name},(\d+)-(\d+),([\w-]+)')
  found = []
  for number, line in enumerate(public_files.lines(root, path), start=1):
    match = pattern.fullmatch(line.strip())
    if match:
      kind = match[3].replace(',', ' ')
      kind = f'metrics {kind}' if source == 'smd' else kind
      found.append((int(match[1]), int(match[2]), kind))
    elif source == 'smd' and line.strip():
      raise public_files.broken(root, path, f'line {number} is {line[:40]!r}')
  return found


SMD = Source(
  name='smd',
  description='servers of one company; rows of 38 metrics, one a minute',
  load=functools.partial(_load, 'smd', 38),
  features=('identity',),
  units='none (scaled to 0..1 by the publisher)',
  licence='MIT',
  citation='Su et al., Robust Anomaly Detection for Multivariate Time Series '
  'through Stochastic Recurrent Neural Network, KDD 2019',
  channels=tuple(f'metric {i}' for i in range(1, 39)),
  files=public_files.remote(
    'smd',
    'https://raw.githubusercontent.com/NetManAIOps/OmniAnomaly/'
    '7fb0e0acf89ea49908896bcc9f9e80fcfff6baf4/',
  ),
  note='5 of the 28 published machines are fetched, those whose checksums are '
  'known; others that are put beside them are loaded too.',
)

ASD = Source(
  name='asd',
  description='application servers; rows of 19 metrics, one in 5 minutes',
  load=functools.partial(_load, 'asd', 19),
  features=('identity',),
  units='none (scaled to 0..1 by the publisher)',
  licence='MIT',
  citation='Li et al., Multivariate Time Series Anomaly Detection and '
  'Interpretation using Hierarchical Inter-Metric and Temporal Embedding, '
  'KDD 2021',
  channels=tuple(f'metric {i}' for i in range(1, 20)),
  note='The arrays are published as Python pickles, which are not opened here: '
  'data/processed/omi-<k>_{train,test,test_label}.pkl of '
  'https://github.com/zhhlee/InterFusion. Convert them where you trust them to '
  'comma-separated text, {train,test,test_label}/omi-<k>.txt, and copy '
  'data/interpretation_label/anomaly_type.txt to anomaly_type.csv.',
)
