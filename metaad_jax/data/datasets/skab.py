"""Skoltech Anomaly Benchmark: 34 experiments on a water-circulation rig.

Time tells the label: what keeps it out is in docs/sources.md.
"""

from collections.abc import Iterator

import numpy as np

from metaad_jax.base import Entity
from metaad_jax.data import public_files, rows, series

_KNOWN = public_files.catalogue('skab')
_CHANNELS = tuple(_KNOWN['channels'])
_HEADER = ('datetime', *_CHANNELS, 'anomaly', 'changepoint')


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
  columns = tuple(range(1, len(_HEADER)))
  for path in (file.path for file in SOURCE.files):
    file = public_files.File(root, path)
    table = file.table(delimiter=';', header=_HEADER, columns=columns)
    sensors, anomalous, _ = np.split(table, [-2, -1], axis=1)
    anomalous = anomalous[:, 0]
    good = public_files.are_labels(anomalous, len(table)) and anomalous.any()
    file.require(good, 'labels are not 0 and 1, both')
    name = path.removeprefix('data/').removesuffix('.csv')
    fold = name.split('/')[0]
    kind = _KNOWN['kinds'].get(name) or _KNOWN['kinds'][fold]
    kinds = np.where(anomalous, kind, '')
    half = int(np.argmax(anomalous)) // 2
    later = slice(half + window, None)
    yield series.entity(
      name, sensors[:half], sensors[later], kinds[later], window, stride,
      group=_KNOWN['groups'].get(name, name), fold=fold,
    )  # fmt: skip


SOURCE = public_files.source('skab', load)
