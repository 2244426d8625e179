"""Classical tables of ADBench; one table is one entity."""

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
  'finance': ('5_campaign',),
  'industry': ('32_shuttle',),
  'medicine': (
    '15_Hepatitis',
    '21_Lymphography',
    '23_mammography',
    '29_Pima',
    '2_annthyroid',
    '38_thyroid',
    '42_WBC',
    '4_breastw',
  ),
  'network': ('17_InternetAds', '34_smtp', '35_SpamBase'),
}


def load(
  data_dir: str | None,
  *,
  scenario: str = 'all',
  max_rows: int = 2000,
  max_queries: int = 2000,
) -> list[Entity]:
  """One entity per table.

  The rows are shuffled, seed 0, for some tables are sorted. Equal rows are
  taken once (see `rows.deal`), so that no row is in support and query. Half of
  the normal rows are for supports.

  Args:
    data_dir: holds adbench/Classical/*.npz.
    scenario: 'all', or 'finance', 'industry', 'medicine' or 'network': of the
      published tables, those that belong there.
    max_rows, max_queries: limits, see `series.thin` and `series.choose`.

  Returns:
    Entities of different width. Tables that share data share a group.
  """
  if scenario != 'all' and scenario not in SCENARIOS:
    raise DataError(
      f'adbench: scenario={scenario!r}: choose all, {", ".join(SCENARIOS)}'
    )
  rows.check_limits('adbench', max_rows, max_queries)
  root = public_files.folder(data_dir, 'adbench')
  paths = {p.name.removesuffix('.xz') for p in (root / _FOLDER).glob('*.npz*')}
  names = sorted(p.removesuffix('.npz') for p in paths if p.endswith('.npz'))
  if not names:
    raise DataError(
      f'{root / _FOLDER} holds no .npz: {public_files.fetching(root)}'
    )
  entities = []
  for name in names:
    if scenario != 'all' and name not in SCENARIOS[scenario]:
      continue
    x, y = _read(root, f'{_FOLDER}/{name}.npz')
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order].astype(np.float32), y[order]
    pool, query = rows.deal(x, y, max_rows=max_rows, max_queries=max_queries)
    labels = y[query].astype(np.int32)
    entities.append(
      Entity(
        name=name,
        normal=x[pool],
        query=x[query],
        labels=labels,
        kinds=tuple('anomaly' if label else '' for label in labels),
        group=_GROUPS.get(name, name),
        columns=tuple(f'column {i}' for i in range(x.shape[1])),
      )
    )
  return entities


def _read(root, path):
  """Rows and labels of one table."""
  arrays = public_files.arrays(root, path, ('X', 'y'))
  x, y = arrays['X'], arrays['y'].ravel()
  if (
    x.dtype.kind not in 'fiub'
    or x.ndim != 2
    or len(x) != len(y)
    or y.dtype.kind not in 'fiub'
    or not np.isin(y, (0, 1)).all()
  ):
    why = f'X {x.dtype} {x.shape}, y {y.dtype} {y.shape}: not rows and 0/1'
    raise public_files.broken(root, path, why)
  return x, y


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
