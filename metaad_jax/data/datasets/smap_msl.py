"""Telemetry of two spacecraft: the satellite SMAP and the rover of MSL.

The first column is the telemetry of one channel, the others are commands, one
or none at a time. They differ in number between the two spacecraft.
"""

from collections.abc import Iterator
import json
import re

import numpy as np

from metaad_jax.base import DataError, Entity, Source
from metaad_jax.data import public_files, rows, series

_PARTS = ('train', 'test')
_WIDTHS = {'SMAP': 25, 'MSL': 55}
# Telemetry that correlates by .98, or is the same in three rows of four.
_GROUPS = {
  'D-4': 'D-3',
  'D-7': 'D-3',
  'D-12': 'D-3',
  'E-11': 'E-10',
  'E-12': 'E-10',
}
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
  if spacecraft not in _WIDTHS:
    raise DataError(
      f"smap_msl: spacecraft={spacecraft!r}: choose 'SMAP' or 'MSL'"
    )
  root = public_files.folder(data_dir, 'smap_msl')
  spans: dict[str, list[tuple[int, int, str]]] = {}
  cells = public_files.cells(root, _LABELS, header=_HEADER)
  for channel, craft, sequences, classes, _ in cells:
    if craft == spacecraft and re.fullmatch(r'[A-Z]+-\d+', channel):
      # P-2 stands there twice.
      spans.setdefault(str(channel), []).extend(
        _spans(root, sequences, classes)
      )
  for name in sorted(spans, key=lambda n: (n[0], int(n.split('-')[1]))):
    if not any((root / 'train').glob(f'{name}.npy*')):
      continue
    train, test = (_series(root, name, part, spacecraft) for part in _PARTS)
    kinds = np.full(len(test), '', object)
    for first, last, kind in spans[name]:
      why = f'{name}: anomaly {first}..{last} of {len(test)} rows'
      good = 0 <= first <= last < len(test)
      public_files.require(good, root, _LABELS, why)
      kinds[first : last + 1] = kind
    group = _GROUPS.get(name, name)
    yield series.entity(name, train, test, kinds, window, stride, group=group)


def _series(root, name, part, spacecraft):
  path = f'{part}/{name}.npy'
  x = public_files.arrays(root, path)['array']
  good = x.dtype.kind in 'fiu' and x.shape[1:] == (_WIDTHS[spacecraft],)
  why = f'{x.dtype} {x.shape}, expected {_WIDTHS[spacecraft]} columns'
  public_files.require(good, root, path, why)
  return x


def _spans(root, sequences, classes):
  """(first row, last row, kind) of each anomaly of a line of the labels."""
  try:
    pairs = [(int(a), int(b)) for a, b in json.loads(sequences)]
    kinds = re.findall(r'\w+', classes)
    return [(*p, kind) for p, kind in zip(pairs, kinds, strict=True)]
  except (ValueError, TypeError, RecursionError) as error:
    raise public_files.broken(root, _LABELS, error) from error


SOURCE = Source(
  name='smap_msl',
  description='telemetry channels of a spacecraft; rows of a value, commands',
  load=load,
  features=('identity',),
  units='none (scaled to -1..1 by the publisher); commands 0 or 1',
  licence='none for the data; the code beside them: BSD-style (Caltech)',
  citation='Hundman et al., Detecting Spacecraft Anomalies Using LSTMs and '
  'Nonparametric Dynamic Thresholding, KDD 2018',
  files=public_files.remote(
    'smap_msl',
    'https://raw.githubusercontent.com/imperial-qore/TranAD/'
    '7ffb98d0c18189cc3d9ab732b4cb0278200a0af0/data/SMAP_MSL/',
  ),
  note='The labels are not fetched, for the checksum of the whole file is not '
  'known: put labeled_anomalies.csv of https://github.com/khundman/telemanom '
  'into smap_msl/. 61 of the 82 channels are fetched; others that are put '
  'beside them are loaded too.',
)
