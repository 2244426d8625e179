"""Sales reports of a firm, some of them inspected and found honest or not.

The reports nobody inspected give the level of each product's price and
quantity; neither verdict has a part in it.
"""

import numpy as np

from metaad_jax.base import DataError, Entity, Source
from metaad_jax.data import public_files, rows

COLUMNS = (
  'quantity',
  'value',
  'unit price',
  'log unit price / median of product',
  'log quantity / median of product',
)
_HEADER = ('ID', 'Prod', 'Quant', 'Val', 'Insp')
_FILE = 'sales.csv'


def load(
  data_dir: str | None,
  *,
  by: str = 'product',
  min_normals: int = 10,
  min_anomalies: int = 3,
  max_rows: int = 2000,
  max_queries: int = 2000,
) -> list[Entity]:
  """One entity per product, or per salesperson.

  Only inspected reports are rows. Supports come from the first half of the
  honest ones (the order is that of the file, no time is given).

  Args:
    data_dir: holds sales_fraud/sales.csv.
    by: 'product' or 'salesperson'.
    min_normals: honest reports that an entity must have.
    min_anomalies: fraudulent reports that it must have.
    max_rows, max_queries: limits, see `series.thin` and `series.choose`.

  Returns:
    Entities with rows [N, 5]. NaN: the quantity or value is not stated, or
    nothing uninspected tells the product's level.
  """
  if by not in ('product', 'salesperson'):
    raise DataError(
      f"sales_fraud: by={by!r}: choose by='product' or by='salesperson'"
    )
  rows.check_limits('sales_fraud', max_rows, max_queries)
  root = public_files.folder(data_dir, 'sales_fraud')
  cells = public_files.cells(root, _FILE, header=_HEADER)
  verdict = cells[:, 4]
  if not np.isin(verdict, ('ok', 'fraud', 'unkn')).all():
    raise public_files.broken(root, _FILE, 'Insp is not ok, fraud or unkn')
  x = _features(root, cells, verdict == 'unkn')
  owner = cells[:, 1 if by == 'product' else 0]
  inspected = np.flatnonzero(verdict != 'unkn')
  names, of = np.unique(owner[inspected], return_inverse=True)
  entities = []
  for number in sorted(range(len(names)), key=lambda i: _order(names[i])):
    own = inspected[of == number]
    labels = verdict[own] == 'fraud'
    if (~labels).sum() < min_normals or labels.sum() < min_anomalies:
      continue
    pool, query = rows.deal(
      x[own], labels, max_rows=max_rows, max_queries=max_queries
    )
    entities.append(
      Entity(
        name=str(names[number]),
        normal=x[own[pool]],
        query=x[own[query]],
        labels=labels[query].astype(np.int32),
        kinds=tuple('fraud' if y else '' for y in labels[query]),
        columns=COLUMNS,
      )
    )
  return entities


def _features(root, cells, uninspected):
  """The five columns, [N, 5]."""
  quantity, value = public_files.numbers(
    root, _FILE, cells[:, 2:4], missing='NA'
  ).T
  with np.errstate(divide='ignore', invalid='ignore'):
    price = value / quantity
    price[~np.isfinite(price)] = np.nan
    logs = np.log(np.stack([price, quantity]))
    logs[~np.isfinite(logs)] = np.nan
  product = np.unique(cells[:, 1], return_inverse=True)[1]
  level = _medians(logs, product, uninspected)
  x = np.stack([quantity, value, price, *(logs - level[:, product])], 1)
  return x.astype(np.float32)


def _medians(values, product, known):
  """[V, P] medians of the known rows of each product; NaN where none is."""
  level = np.full((len(values), product.max() + 1), np.nan)
  chosen = np.flatnonzero(known)
  chosen = chosen[np.argsort(product[chosen], kind='stable')]
  numbers, begin = np.unique(product[chosen], return_index=True)
  for number, part in zip(numbers, np.split(chosen, begin[1:]), strict=True):
    for row, v in zip(level, values, strict=True):
      stated = v[part][~np.isnan(v[part])]
      if len(stated):
        row[number] = np.median(stated)
  return level


def _order(name):
  """p2 before p10."""
  digits = name.lstrip('pv')
  return (int(digits) if digits.isdecimal() else -1, name)


SOURCE = Source(
  name='sales_fraud',
  description='sales of a product or salesperson; rows are inspected reports',
  load=load,
  features=('identity',),
  units='pieces, currency, currency per piece, ratios as logarithms',
  licence='GPL (>= 2): keep the data apart from differently licensed code',
  citation='Torgo, Data Mining with R: Learning with Case Studies, 2010 '
  '(package DMwR)',
  note='Published as an R object, data/sales.RData of '
  'https://github.com/cran/DMwR. Write it as comma-separated text, '
  'sales_fraud/sales.csv with the header ID,Prod,Quant,Val,Insp and nothing '
  'where a value is missing; `pyreadr` or R itself reads it.',
  tables=True,
)
