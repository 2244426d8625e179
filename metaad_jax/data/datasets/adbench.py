"""Classical tables of ADBench; one table is one entity."""

from collections.abc import Iterator

import numpy as np

from metaad_jax import specs
from metaad_jax.base import Entity
from metaad_jax.data import public_files, rows

_KNOWN = public_files.catalogue('adbench')


@rows.limited
def load(data_dir: str | None, *, scenario: str = 'all') -> Iterator[Entity]:
  """One entity per table, see `rows.deal`; tables that share data form a group.

  The rows are shuffled, seed 0, for some tables are sorted.

  Args:
    data_dir: holds adbench/Classical/*.npz.
    scenario: 'all', or of the published tables those that belong to one of
      finance, industry, medicine and network.
  """
  scenarios = _KNOWN['scenarios']
  choices = ('all', *scenarios)
  specs.allow(
    scenario in choices, 'adbench', ', '.join(choices), scenario=scenario
  )
  root = public_files.folder(data_dir, 'adbench')
  for name in public_files.names(root / 'Classical', '*.npz'):
    if scenario != 'all' and name not in scenarios[scenario]:
      continue
    file = public_files.File(root, f'Classical/{name}.npz')
    arrays = file.arrays(('X', 'y'))
    x, y = arrays['X'], arrays['y'].ravel()
    good = x.dtype.kind in 'fiub' and x.ndim == 2
    good = good and public_files.are_labels(y, len(x))
    why = f'X {x.dtype} {x.shape}, y {y.dtype} {y.shape}: not rows and 0/1'
    file.require(good, why)
    order = np.random.default_rng(0).permutation(len(x))
    x, anomalous = x[order].astype(np.float32), y[order] == 1
    pool, query = rows.deal(x, anomalous)
    kinds = np.where(anomalous[query], 'anomaly', '')
    group = _KNOWN['groups'].get(name, name)
    columns = tuple(f'column {i}' for i in range(x.shape[1]))
    yield rows.entity(
      name, x[pool], x[query], kinds, group=group, columns=columns
    )


SOURCE = public_files.source('adbench', load)
