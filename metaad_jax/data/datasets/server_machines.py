"""Metrics of servers: the Server Machine Dataset and its application sibling.

Both come in one layout: a training series without known anomalies, a test
series, and a 0/1 label for each of its rows.
"""

from collections.abc import Iterator
import functools
import re

import numpy as np

from metaad_jax.base import Entity
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
    parts = {'train': metrics, 'test': metrics, 'test_label': 1}
    files = [public_files.File(root, f'{top}{p}/{name}.txt') for p in parts]
    train, test, labels = map(_table, files, parts.values())
    good = public_files.are_labels(labels[:, 0], len(test))
    files[2].require(
      good, f'not one label, 0 or 1, for each of {len(test)} rows'
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


def _table(file, width):
  table = file.table()
  count = table.shape[1]
  file.require(count == width, f'{count} columns, expected {width}')
  return table


def _segments(root, top, name, source):
  """(first row, last row, kind) of each segment of anomalies."""
  path, pattern = 'anomaly_type.csv', rf'{name},(\d+)-(\d+),([\w-]+)'
  if source == 'smd':
    path = f'{top}interpretation_label/{name}.txt'
    pattern = r'(\d+)-(\d+):([\d,]+)'
  file = public_files.File(root, path)
  for number, line in enumerate(file.lines(), start=1):
    if match := re.fullmatch(pattern, line.strip()):
      kind = match[3].replace(',', ' ')
      kind = f'metrics {kind}' if source == 'smd' else kind
      yield int(match[1]), int(match[2]), kind
    elif source == 'smd' and line.strip():
      raise file.broken(f'line {number} is {line[:40]!r}')


def _source(name, metrics):
  return public_files.source(
    name,
    rows.limited(functools.partial(_entities, name, metrics)),
    channels=tuple(f'metric {i}' for i in range(1, metrics + 1)),
  )


SMD, ASD = _source('smd', 38), _source('asd', 19)
