"""Skoltech Anomaly Benchmark: 34 experiments on a water-circulation rig.

Time tells the label: what keeps it out is in docs/sources.md.
"""

from collections.abc import Iterator

import numpy as np

from metaad_jax.base import Entity, Source
from metaad_jax.data import public_files, rows, series

CHANNELS = (
  'Accelerometer1RMS', 'Accelerometer2RMS', 'Current', 'Pressure',
  'Temperature', 'Thermocouple', 'Voltage', 'Volume Flow RateRMS',
)  # fmt: skip
_HEADER = ('datetime', *CHANNELS, 'anomaly', 'changepoint')
_KINDS = {
  'valve1': 'inlet valve closed',
  'valve2': 'outlet valve closed',
  **{f'other/{i}': 'fluid leak or addition' for i in range(1, 5)},
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


@rows.limited
def load(
  data_dir: str | None, *, window: int = 1, stride: int = 0
) -> Iterator[Entity]:
  """One entity per file; the fold is its folder (valve1, valve2, other).

  Args:
    data_dir: holds skab/.
    window: see `series.cut`.
    stride: see `series.cut`. Overlapping windows put nearly the same samples
      into a query and among its labelled support anomalies.
  """
  root = public_files.folder(data_dir, 'skab')
  for path in (file.path for file in FILES):
    columns = tuple(range(1, len(_HEADER)))
    table = public_files.table(
      root, path, delimiter=';', header=_HEADER, columns=columns
    )
    sensors, anomalous = table[:, : len(CHANNELS)], table[:, len(CHANNELS)]
    good = public_files.are_labels(anomalous, len(table)) and anomalous.any()
    public_files.require(good, root, path, 'labels are not 0 and 1, both')
    name = path.removeprefix('data/').removesuffix('.csv')
    fold = name.split('/')[0]
    kinds = np.where(anomalous, _KINDS.get(name) or _KINDS[fold], '')
    half = int(np.argmax(anomalous)) // 2
    later = slice(half + window, None)
    yield series.entity(
      name, sensors[:half], sensors[later], kinds[later], window, stride,
      group=_GROUPS.get(name, name), fold=fold,
    )  # fmt: skip


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
