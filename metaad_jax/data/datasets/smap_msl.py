"""Telemetry of two spacecraft: the satellite SMAP and the rover of MSL.

The first column is the telemetry of one channel, the others are commands, one
or none at a time. They differ in number between the two spacecraft.
"""

from collections.abc import Iterator
import json
import re

import numpy as np

from metaad_jax import specs
from metaad_jax.base import Entity
from metaad_jax.data import public_files, rows, series

_PARTS = ('train', 'test')
_WIDTHS = {'SMAP': 25, 'MSL': 55}
_GROUPS = public_files.catalogue('smap_msl')['groups']
_LABELS = 'labeled_anomalies.csv'
_HEADER = ('chan_id', 'spacecraft', 'anomaly_sequences', 'class', 'num_values')


@rows.limited
def load(
  data_dir: str | None,
  *,
  spacecraft: str = 'SMAP',
  window: int = 1,
  stride: int = 0,
) -> Iterator[Entity]:
  """One entity per channel: supports from its training series, query from test.

  Kinds are 'point' or 'contextual'.

  Args:
    data_dir: holds smap_msl/.
    spacecraft: 'SMAP' (25 columns) or 'MSL' (55).
    window: see `series.cut`.
    stride: see `series.cut`.
  """
  specs.allow(
    spacecraft in _WIDTHS, 'smap_msl', 'SMAP or MSL', spacecraft=spacecraft
  )
  root = public_files.folder(data_dir, 'smap_msl')
  spans: dict[str, list[tuple[int, int, str]]] = {}
  labels = public_files.File(root, _LABELS)
  for channel, craft, sequences, classes, _ in labels.cells(header=_HEADER):
    if craft == spacecraft and re.fullmatch(r'[A-Z]+-\d+', channel):
      own = spans.setdefault(str(channel), [])  # P-2 stands there twice
      own += _spans(labels, sequences, classes)
  for name in sorted(spans, key=lambda n: (n[0], int(n.split('-')[1]))):
    if not any((root / 'train').glob(f'{name}.npy*')):
      continue
    train, test = (_series(root, name, part, spacecraft) for part in _PARTS)
    kinds = np.full(len(test), '', object)
    for first, last, kind in spans[name]:
      why = f'{name}: anomaly {first}..{last} of {len(test)} rows'
      labels.require(0 <= first <= last < len(test), why)
      kinds[first : last + 1] = kind
    group = _GROUPS.get(name, name)
    yield series.entity(name, train, test, kinds, window, stride, group=group)


def _series(root, name, part, spacecraft):
  file = public_files.File(root, f'{part}/{name}.npy')
  x = file.arrays()['array']
  good = x.dtype.kind in 'fiu' and x.shape[1:] == (_WIDTHS[spacecraft],)
  why = f'{x.dtype} {x.shape}, expected {_WIDTHS[spacecraft]} columns'
  file.require(good, why)
  return x


def _spans(labels, sequences, classes):
  """(first row, last row, kind) of each anomaly of a line of the labels."""
  try:
    pairs = [(int(a), int(b)) for a, b in json.loads(sequences)]
    kinds = re.findall(r'\w+', classes)
    return [(*p, kind) for p, kind in zip(pairs, kinds, strict=True)]
  except (ValueError, TypeError, RecursionError) as error:
    raise labels.broken(error) from error


SOURCE = public_files.source('smap_msl', load)
