"""Card payments of two days, 492 of them frauds (ULB and Worldline).

No card or holder is named; an entity is a span of hours.
"""

import numpy as np

from metaad_jax.base import DataError, Entity, Source
from metaad_jax.data import public_files, rows, series

CHANNELS = (*(f'V{i}' for i in range(1, 29)), 'Amount')
_HEADER = ('Time', *CHANNELS, 'Class')
_SAMPLE, _FULL = 'creditcard_sample.csv', 'creditcard.csv'


def load(
  data_dir: str | None,
  *,
  hours: float = 2.0,
  max_rows: int = 2000,
  max_queries: int = 2000,
) -> list[Entity]:
  """One entity per span of time.

  Supports come from the first half of a span's normal payments, the query is
  what comes later in it, frauds included; frauds before that are left out, and
  so is the time. Rows that repeat an earlier one are dropped.

  Args:
    data_dir: holds creditcard/creditcard_sample.csv or the whole
      creditcard/creditcard.csv.
    hours: length of a span.
    max_rows, max_queries: limits, see `series.thin` and `series.choose`.

  Returns:
    Entities 'hour 0', 'hour 2', ... with rows [N, 29]. Spans without a normal
    row for the support, or with less than both kinds to score, are left out.
  """
  rows.check_limits('creditcard', max_rows, max_queries)
  if not 0 < hours <= 48:
    raise DataError(f'creditcard: hours={hours}: choose 0 < hours <= 48')
  root = public_files.folder(data_dir, 'creditcard')
  path = _FULL if (root / _FULL).exists() else _SAMPLE
  table = public_files.table(root, path, header=_HEADER)
  time, fraud = table[:, 0], table[:, -1]
  if not np.isin(fraud, (0, 1)).all() or not np.isfinite(time).all():
    raise public_files.broken(root, path, 'no time, or Class not 0/1')
  order = np.argsort(time, kind='stable')
  x = table[order, 1:-1].astype(np.float32)
  kept = rows.distinct(x)
  x, fraud = x[kept], fraud[order][kept] == 1
  span = np.floor(time[order][kept] / (3600 * hours)).astype(int)
  entities = []
  for number in np.unique(span):
    own = np.flatnonzero(span == number)
    normal = own[~fraud[own]]
    pool = normal[: len(normal) // 2]
    later = own[own > pool[-1]] if len(pool) else own[:0]
    if not fraud[later].any() or fraud[later].all():
      continue
    later = later[series.choose(fraud[later], max_queries)]
    entities.append(
      Entity(
        name=f'hour {number * hours:g}',
        normal=x[series.thin(pool, max_rows)],
        query=x[later],
        labels=fraud[later].astype(np.int32),
        kinds=tuple('fraud' if y else '' for y in fraud[later]),
      )
    )
  return entities


SOURCE = Source(
  name='creditcard',
  description='card payments within two hours; rows of 28 components, amount',
  load=load,
  features=('identity',),
  units='none (principal components of secret features); EUR',
  licence='Database Contents License 1.0, according to its page at Kaggle',
  citation='Dal Pozzolo et al., Calibrating Probability with Undersampling '
  'for Unbalanced Classification, SSCI 2015',
  channels=CHANNELS,
  note='Needs a login: fetch creditcard.csv from '
  'https://www.kaggle.com/datasets/mlg-ulb/creditcardfraud and put it into '
  'creditcard/. A sample in the same layout, creditcard_sample.csv, is read '
  'where the whole is not there.',
)
