"""Classical tables of ADBench; one table is one entity."""

from collections.abc import Iterator

import numpy as np

from metaad_jax.base import DataError, Entity, Source
from metaad_jax.data import public_files, rows

_FOLDER = 'Classical'
# Made from the same data.
_GROUPS = {
  '38_thyroid': '2_annthyroid',
  '42_WBC': '4_breastw',
  '30_satellite': '19_landsat',
  '31_satimage-2': '19_landsat',
}
SCENARIOS = {
  'finance': '5_campaign',
  'industry': '32_shuttle',
  'medicine': '15_Hepatitis 21_Lymphography 23_mammography 29_Pima '
  '2_annthyroid 38_thyroid 42_WBC 4_breastw',
  'network': '17_InternetAds 34_smtp 35_SpamBase',
}


@rows.limited
def load(data_dir: str | None, *, scenario: str = 'all') -> Iterator[Entity]:
  """One entity per table, see `rows.deal`; tables that share data form a group.

  The rows are shuffled, seed 0, for some tables are sorted.

  Args:
    data_dir: holds adbench/Classical/*.npz.
    scenario: 'all', or of the published tables those that belong to one of
      `SCENARIOS`.
  """
  if scenario != 'all' and scenario not in SCENARIOS:
    raise DataError(
      f'adbench: scenario={scenario!r}: choose all, {", ".join(SCENARIOS)}'
    )
  root = public_files.folder(data_dir, 'adbench')
  for name in public_files.names(root / _FOLDER, '*.npz'):
    if scenario != 'all' and name not in SCENARIOS[scenario].split():
      continue
    path = f'{_FOLDER}/{name}.npz'
    arrays = public_files.arrays(root, path, ('X', 'y'))
    x, y = arrays['X'], arrays['y'].ravel()
    good = x.dtype.kind in 'fiub' and x.ndim == 2
    good = good and public_files.are_labels(y, len(x))
    why = f'X {x.dtype} {x.shape}, y {y.dtype} {y.shape}: not rows and 0/1'
    public_files.require(good, root, path, why)
    order = np.random.default_rng(0).permutation(len(x))
    x, anomalous = x[order].astype(np.float32), y[order] == 1
    pool, query = rows.deal(x, anomalous)
    kinds = np.where(anomalous[query], 'anomaly', '')
    yield rows.entity(
      name,
      x[pool],
      x[query],
      kinds,
      group=_GROUPS.get(name, name),
      columns=tuple(f'column {i}' for i in range(x.shape[1])),
    )


SOURCE = Source(
  name='adbench',
  description='classical tables of anomaly detection, one entity each',
  load=load,
  features=('identity',),
  units='of each table; names of columns are not published',
  licence='BSD-2-Clause for the collection; the tables keep the terms of their '
  'sources (mostly CC BY 4.0)',
  citation='Han et al., ADBench: Anomaly Detection Benchmark, NeurIPS 2022',
  files=public_files.remote(
    'adbench',
    'https://raw.githubusercontent.com/Minqi824/ADBench/'
    '3dac8221081e190f157d78e93bfa8867f90d0965/adbench/datasets/',
  ),
  note='24 of the tables are fetched, those whose checksums are known; others '
  'that are put beside them are loaded too.',
  tables=True,
)
