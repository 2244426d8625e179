"""Sales reports of a firm, some of them inspected and found honest or not.

The reports nobody inspected give the level of each product's price and
quantity; neither verdict has a part in it.
"""

from collections.abc import Iterator

import numpy as np

from metaad_jax import specs
from metaad_jax.base import Entity
from metaad_jax.data import public_files, rows

_COLUMNS = tuple(public_files.catalogue('sales_fraud')['columns'])
_HEADER = ('ID', 'Prod', 'Quant', 'Val', 'Insp')
_FILE = 'sales.csv'


@rows.limited
def load(
  data_dir: str | None,
  *,
  by: str = 'product',
  min_normals: int = 10,
  min_anomalies: int = 3,
) -> Iterator[Entity]:
  """One entity per product, or per salesperson, rows [N, 5].

  Only inspected reports are rows. Supports come from the first half of the
  honest ones (the order is that of the file, no time is given). NaN: the
  quantity or value is not stated, or nothing uninspected tells the product's
  level.

  Args:
    data_dir: holds sales_fraud/sales.csv.
    by: 'product' or 'salesperson'.
    min_normals: honest reports that an entity must have.
    min_anomalies: fraudulent reports that it must have.
  """
  import pandas as pd  # see `folder`

  choices = ('product', 'salesperson')
  specs.allow(by in choices, 'sales_fraud', ' or '.join(choices), by=by)
  root = public_files.folder(data_dir, 'sales_fraud')
  file = public_files.File(root, _FILE)
  cells = file.cells(header=_HEADER)
  verdict = cells[:, 4]
  good = np.isin(verdict, ('ok', 'fraud', 'unkn')).all()
  file.require(good, 'Insp is not ok, fraud or unkn')
  x = _features(file, cells, verdict == 'unkn')
  owner = cells[:, 1 if by == 'product' else 0]
  inspected = pd.Series(np.flatnonzero(verdict != 'unkn'))
  groups = inspected.groupby(owner[inspected])
  for name, own in sorted(groups, key=lambda group: _order(group[0])):
    own = own.to_numpy()
    fraud = verdict[own] == 'fraud'
    if (~fraud).sum() < min_normals or fraud.sum() < min_anomalies:
      continue
    pool, query = rows.deal(x[own], fraud)
    kinds = np.where(fraud[query], 'fraud', '')
    yield rows.entity(
      str(name), x[own[pool]], x[own[query]], kinds, columns=_COLUMNS
    )


def _features(file, cells, uninspected):
  """The five columns, [N, 5]."""
  quantity, value = file.numbers(cells[:, 2:4], 'NA').T
  with np.errstate(divide='ignore', invalid='ignore'):
    price = value / quantity
    price[~np.isfinite(price)] = np.nan
    logs = np.log(np.stack([price, quantity]))
    logs[~np.isfinite(logs)] = np.nan
  product = cells[:, 1]
  level = np.stack([_medians(v, product, uninspected) for v in logs])
  x = np.stack([quantity, value, price, *(logs - level)], 1)
  return x.astype(np.float32)


def _medians(values, product, known):
  """[N]: for each row the median of its product's known rows, or NaN."""
  import pandas as pd

  stated = pd.Series(values).where(known)
  return stated.groupby(product).transform('median').to_numpy()


def _order(name):
  """p2 before p10."""
  digits = name.lstrip('pv')
  return (int(digits) if digits.isdecimal() else -1, name)


SOURCE = public_files.source('sales_fraud', load)
