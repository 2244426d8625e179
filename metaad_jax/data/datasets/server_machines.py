"""Metrics of servers: the Server Machine Dataset and its application sibling.

Both come in one layout: a training series without known anomalies, a test
series, and a 0/1 label for each of its rows.
"""

from collections.abc import Iterator
import functools
import re

import numpy as np

from metaad_jax.base import Entity, Source
from metaad_jax.data import public_files, rows, series


def _entities(
  source: str,
  metrics: int,
  data_dir: str | None,
  *,
  window: int = 1,
  stride: int = 0,
) -> Iterator[Entity]:
  """One entity per machine: supports from its training series, query from test.

  Constant metrics stay. The fold is the group of services (smd), such as
  'group1'. Kinds are 'metrics 1 9 12' (smd: those that explain the segment) or
  the type of the segment (asd).

  Args:
    source: 'smd' or 'asd'.
    metrics: columns that the files must have.
    data_dir: holds smd/ or asd/.
    window: see `series.cut`.
    stride: see `series.cut`.
  """
  root = public_files.folder(data_dir, source)
  top = 'ServerMachineDataset/' if source == 'smd' else ''
  prefix = 'machine' if source == 'smd' else 'omi'
  order = lambda name: [int(n) for n in re.findall(r'\d+', name)]
  names = public_files.names(root / top / 'train', f'{prefix}-*.txt')
  for name in sorted(names, key=order):
    if not re.fullmatch(rf'{prefix}-\d+(-\d+)?', name):
      continue
    train, test, labels = (
      _table(root, f'{top}{part}/{name}.txt', width)
      for part, width in (
        ('train', metrics),
        ('test', metrics),
        ('test_label', 1),
      )
    )
    public_files.require(
      public_files.are_labels(labels[:, 0], len(test)),
      root,
      f'{top}test_label/{name}.txt',
      f'not one label, 0 or 1, for each of {len(test)} rows',
    )
    anomalous = labels[:, 0] == 1
    kinds = np.where(anomalous, 'anomaly', '').astype(object)
    for first, last, kind in _segments(root, top, name, source):
      segment = slice(first, last + 1)
      kinds[segment][anomalous[segment]] = kind
    fold = f'group{order(name)[0]}' if source == 'smd' else ''
    yield series.entity(
      name, train, test, kinds, window, stride, group=name, fold=fold
    )


def _table(root, path, width):
  table = public_files.table(root, path)
  why = f'{table.shape[1]} columns, expected {width}'
  public_files.require(table.shape[1] == width, root, path, why)
  return table


def _segments(root, top, name, source):
  """(first row, last row, kind) of each segment of anomalies."""
  path, pattern = 'anomaly_type.csv', rf'{name},(\d+)-(\d+),([\w-]+)'
  if source == 'smd':
    path = f'{top}interpretation_label/{name}.txt'
    pattern = r'(\d+)-(\d+):([\d,]+)'
  for number, line in enumerate(public_files.lines(root, path), start=1):
    if match := re.fullmatch(pattern, line.strip()):
      kind = match[3].replace(',', ' ')
      kind = f'metrics {kind}' if source == 'smd' else kind
      yield int(match[1]), int(match[2]), kind
    elif source == 'smd' and line.strip():
      raise public_files.broken(root, path, f'line {number} is {line[:40]!r}')


SMD = Source(
  name='smd',
  description='servers of one company; rows of 38 metrics, one a minute',
  load=rows.limited(functools.partial(_entities, 'smd', 38)),
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
  load=rows.limited(functools.partial(_entities, 'asd', 19)),
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
