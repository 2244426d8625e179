"""Telemetry of two spacecraft: the satellite SMAP and the rover of MSL.

The first column is the telemetry of one channel, the others are commands, one
or none at a time. They differ in number between the two spacecraft.
"""

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


def load(
  data_dir: str | None,
  *,
  spacecraft: str = 'SMAP',
  window: int = 1,
  stride: int = 0,
  max_rows: int = 2000,
  max_queries: int = 2000,
) -> list[Entity]:
  """One entity per channel: supports from its training series, query from test.

  Args:
    data_dir: holds smap_msl/.
    spacecraft: 'SMAP' or 'MSL'.
    window: rows per window; 1 = rows.
    stride: rows between windows; 0 = `window`.
    max_rows, max_queries: limits, see `series.thin` and `series.choose`.

  Returns:
    Entities with rows [N, 25] (SMAP) or [N, 55] (MSL), or windows
    [N, window, ...], which are anomalous where any of their rows is. Kinds are
    'point' or 'contextual'.
  """
  if spacecraft not in _WIDTHS:
    raise DataError(
      f"smap_msl: spacecraft={spacecraft!r}: choose 'SMAP' or 'MSL'"
    )
  rows.check_limits('smap_msl', max_rows, max_queries)
  root = public_files.folder(data_dir, 'smap_msl')
  spans: dict[str, list[tuple[int, int, str]]] = {}
  for channel, craft, *told in public_files.cells(
    root, _LABELS, header=_HEADER
  ):
    if craft == spacecraft and re.fullmatch(r'[A-Z]+-\d+', channel):
      # P-2 stands there twice.
      spans.setdefault(str(channel), []).extend(_spans(root, *told[:2]))
  entities = []
  for name in sorted(spans, key=lambda n: (n[0], int(n.split('-')[1]))):
    if not any((root / 'train').glob(f'{name}.npy*')):
      continue
    train, test = (_series(root, name, part, spacecraft) for part in _PARTS)
    kinds = np.full(len(test), '', object)
    for first, last, kind in spans[name]:
      if not 0 <= first <= last < len(test):
        why = f'{name}: anomaly {first}..{last} of {len(test)} rows'
        raise public_files.broken(root, _LABELS, why)
      kinds[first : last + 1] = kind
    parts = series.windows(
      f'smap_msl {name}', train, test, kinds, window=window, stride=stride,
      max_rows=max_rows, max_queries=max_queries,
    )  # fmt: skip
    entities.append(Entity(name=name, group=_GROUPS.get(name, name), **parts))
  return entities


def _series(root, name, part, spacecraft):
  path = f'{part}/{name}.npy'
  x = public_files.arrays(root, path)['array']
  if x.dtype.kind not in 'fiu' or x.shape[1:] != (_WIDTHS[spacecraft],):
    why = f'{x.dtype} {x.shape}, expected {_WIDTHS[spacecraft]} columns'
    raise public_files.broken(root, path, why)
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
