"""Skoltech Anomaly Benchmark: 34 experiments on a water-circulation rig.

Every file holds one contiguous block of anomalies, so time tells the label:
what comes late is anomalous. Therefore the query holds the normal rows on both
sides of the block, and the supports are drawn from the beginning of the file
alone, from rows that the query does not hold.
"""

import numpy as np

from metaad_jax.base import DataError, Entity, Source
from metaad_jax.data import public_files, series

CHANNELS = (
  'Accelerometer1RMS',
  'Accelerometer2RMS',
  'Current',
  'Pressure',
  'Temperature',
  'Thermocouple',
  'Voltage',
  'Volume Flow RateRMS',
)
_HEADER = ('datetime', *CHANNELS, 'anomaly', 'changepoint')
_KINDS = {
  'valve1': 'inlet valve closed',
  'valve2': 'outlet valve closed',
  'other/1': 'fluid leak or addition',
  'other/2': 'fluid leak or addition',
  'other/3': 'fluid leak or addition',
  'other/4': 'fluid leak or addition',
  'other/5': 'rotor imbalance, sharp',
  'other/6': 'rotor imbalance, linear',
  'other/7': 'rotor imbalance, step',
  'other/8': 'rotor imbalance, impulse',
  'other/9': 'rotor imbalance, exponential',
  'other/10': 'water added slowly',
  'other/11': 'water added suddenly',
  'other/12': 'tank drained until cavitation',
  'other/13': 'two-phase flow at the pump inlet',
  'other/14': 'hot water added',
}
# These recordings overlap in time: they share rows.
_GROUPS = {
  'other/3': 'other/2',
  'other/4': 'other/2',
  'other/11': 'other/10',
  'other/13': 'other/12',
}

FILES = public_files.remote(
  'skab',
  'https://raw.githubusercontent.com/waico/SKAB/'
  'b2c0d46c2971dcbfe71e26087b6d231998bb91c2/',
)


def load(
  data_dir: str | None, *, window: int = 1, stride: int = 0
) -> list[Entity]:
  """One entity per file.

  The first half of the rows before the block of anomalies is for the supports;
  the query is the rest of the file, after a gap of one window.

  Args:
    data_dir: holds skab/.
    window: rows per window, at about one row per second; 1 = rows.
    stride: rows between windows; 0 = `window`. Overlapping windows put nearly
      the same samples into a query and among its labelled support anomalies.

  Returns:
    Entities with rows [N, 8], or windows [N, window, 8], which are anomalous
    where any of their rows is; the fold is the folder (valve1, valve2, other).
  """
  root = public_files.folder(data_dir, 'skab')
  entities = []
  for path in (file.path for file in FILES):
    rows = public_files.table(
      root,
      path,
      delimiter=';',
      header=_HEADER,
      columns=tuple(range(1, len(_HEADER))),
    )
    sensors, anomalous = rows[:, : len(CHANNELS)], rows[:, len(CHANNELS)]
    if not np.isin(anomalous, (0, 1)).all() or not anomalous.any():
      raise public_files.broken(root, path, 'labels are not 0 and 1, both')
    half = int(np.argmax(anomalous)) // 2
    pool = series.starts(0, half, window, stride, 'skab')
    later = series.starts(half + window, len(rows), window, stride, 'skab')
    if not len(pool) or not len(later):
      raise DataError(
        f'skab: window={window} leaves no normal window in {path}, whose '
        f'supports come from its first {half} rows: choose window <= {half}'
      )
    labels = series.gather(anomalous[:, None], later, window)
    labels = labels.reshape(len(later), -1).max(1).astype(np.int32)
    name = path.removeprefix('data/').removesuffix('.csv')
    kind = _KINDS.get(name) or _KINDS[name.split('/')[0]]
    entities.append(
      Entity(
        name=name,
        normal=series.gather(sensors, pool, window),
        query=series.gather(sensors, later, window),
        labels=labels,
        kinds=tuple(kind if label else '' for label in labels),
        group=_GROUPS.get(name, name),
        fold=name.split('/')[0],
      )
    )
  return entities


SOURCE = Source(
  name='skab',
  description='experiments on a water-circulation rig; rows of 8 sensors',
  load=load,
  features=('identity',),
  units='g, g, A, bar, degC, degC, V, L/min',
  licence='GPL-3.0: keep the data apart from differently licensed code',
  citation='Katser & Kozitsin, Skoltech Anomaly Benchmark (SKAB), 2020, '
  'https://doi.org/10.34740/KAGGLE/DSV/1693952',
  channels=CHANNELS,
  files=FILES,
)
