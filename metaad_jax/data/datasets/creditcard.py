"""Card payments of two days, 492 of them frauds (ULB and Worldline).

No card or holder is named; an entity is a span of hours.
"""

from collections.abc import Iterator

import numpy as np

from metaad_jax import specs
from metaad_jax.base import Entity
from metaad_jax.data import public_files, rows

_CHANNELS = (*(f'V{i}' for i in range(1, 29)), 'Amount')
_HEADER = ('Time', *_CHANNELS, 'Class')
_SAMPLE, _FULL = 'creditcard_sample.csv', 'creditcard.csv'


@rows.limited
def load(data_dir: str | None, *, hours: float = 2.0) -> Iterator[Entity]:
  """One entity per span of time, 'hour 0', 'hour 2', ..., rows [N, 29].

  Supports come from the first half of a span's normal payments, the query is
  what comes later in it, frauds included; frauds before that are left out, and
  so are the time, rows that repeat an earlier one, and spans without a normal
  row for the support, or with less than both kinds to score.

  Args:
    data_dir: holds creditcard/creditcard_sample.csv or the whole
      creditcard/creditcard.csv.
    hours: length of a span.
  """
  specs.allow(0 < hours <= 48, 'creditcard', '0 < hours <= 48', hours=hours)
  root = public_files.folder(data_dir, 'creditcard')
  file = public_files.File(root, _FULL if (root / _FULL).exists() else _SAMPLE)
  table = file.table(header=_HEADER)
  time, fraud = table[:, 0], table[:, -1]
  good = public_files.are_labels(fraud, len(fraud)) and np.isfinite(time).all()
  file.require(good, 'no time, or Class not 0/1')
  order = np.argsort(time, kind='stable')
  x = table[order, 1:-1].astype(np.float32)
  kept = rows.distinct(x)
  x, fraud = x[kept], fraud[order][kept] == 1
  span = np.floor(time[order][kept] / (3600 * hours)).astype(int)
  for number in np.unique(span):
    own = np.flatnonzero(span == number)
    normal = own[~fraud[own]]
    pool = normal[: len(normal) // 2]
    later = own[own > pool[-1]] if len(pool) else own[:0]
    if fraud[later].any() and not fraud[later].all():
      kinds = np.where(fraud[later], 'fraud', '')
      yield rows.entity(f'hour {number * hours:g}', x[pool], x[later], kinds)


SOURCE = public_files.source('creditcard', load, channels=_CHANNELS)
