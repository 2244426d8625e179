"""NSL-KDD: connections of a simulated network, normal or attacks of 39 types.

The 18 types of attack that only the test file holds are the test side. Every
entity draws its normals from the file of its attacks, and no two share one.
"""

from collections.abc import Iterator

import numpy as np

from metaad_jax import specs
from metaad_jax.base import Entity
from metaad_jax.data import public_files, rows

_CATEGORIES = {'protocol_type': 1, 'service': 2, 'flag': 3}
COLUMNS = tuple(public_files.catalogue('nsl_kdd')['columns'])
TRAIN, TEST = 'KDDTrain+_20Percent.txt', 'KDDTest+.txt'


@rows.limited
def load(
  data_dir: str | None,
  *,
  by: str = 'attack',
  categories: str = 'codes',
  min_rows: int = 20,
) -> Iterator[Entity]:
  """One entity per type of attack, or per service; kinds are types of attack.

  By attack: types that the training file has enough rows of come from there
  (side 'train'), others from the test file, those that only that file knows on
  side 'test'. The normals of a file are dealt out among its entities, the first
  half of each share for supports. By service: supports from the normals of the
  training file, the query is the test file. Repeated rows are dropped.

  Args:
    data_dir: holds nsl_kdd/.
    by: 'attack' or 'service'.
    categories: of protocol, service and flag: 'codes', their number in the
      sorted list (rows [N, 41]), or 'onehot', a column each ([N, 119]).
    min_rows: anomalies that an entity must have, and by service also normals
      of either file.
  """
  specs.allow(
    by in ('attack', 'service') and categories in ('codes', 'onehot'),
    'nsl_kdd', "by='attack' or 'service', categories='codes' or 'onehot'",
    by=by, categories=categories,
  )  # fmt: skip
  root = public_files.folder(data_dir, 'nsl_kdd')
  x, kind, service, columns = _rows(root, categories)
  cut = _by_attack if by == 'attack' else _by_service
  for name, side, part, pool, other, query in cut(kind, service, min_rows):
    normal, scored, kinds = x[part][pool], x[other][query], kind[other][query]
    yield rows.entity(name, normal, scored, kinds, side=side, columns=columns)


def _rows(root, categories):
  """Features, kinds and services of both files, repetitions left out."""
  # The last column is a difficulty: how many of 21 classifiers got it right.
  files = [public_files.File(root, path) for path in (TRAIN, TEST)]
  tables = [file.cells(width=len(COLUMNS) + 2) for file in files]
  kinds = [np.where(t[:, -2] == 'normal', '', t[:, -2]) for t in tables]
  values, columns = _encode(files, tables, categories == 'onehot')
  services = [table[:, _CATEGORIES['service']] for table in tables]
  kept = [rows.distinct(x) for x in values]
  kept[1] = kept[1][rows.unseen(values[1][kept[1]], values[0])]
  take = lambda parts: [part[i] for part, i in zip(parts, kept, strict=True)]
  return take(values), take(kinds), take(services), columns


def _encode(files, tables, onehot):
  """The columns of both files as float32, and their names."""
  blocks: list[list[np.ndarray]] = [[], []]
  names: list[str] = []
  for i, column in enumerate(COLUMNS):
    known = np.unique(np.concatenate([table[:, i] for table in tables]))
    hot = onehot and column in _CATEGORIES
    names += [f'{column}={value}' for value in known] if hot else [column]
    for file, block, table in zip(files, blocks, tables, strict=True):
      if column in _CATEGORIES:
        code = np.searchsorted(known, table[:, i])
        coded = np.eye(len(known))[code] if hot else code[:, None]
      else:
        coded = file.numbers(table[:, [i]])
      block.append(coded.astype(np.float32))
  return [np.concatenate(block, 1) for block in blocks], tuple(names)


def _by_attack(kind, service, least):
  """(name, side, part of normals, normals, part of query, query) of each."""
  del service
  homes: list[list[str]] = [[], []]
  for name in sorted({*kind[0], *kind[1]} - {''}):
    counts = [int((k == name).sum()) for k in kind]
    part = int(counts[0] < least)
    if counts[part] >= least:
      homes[part].append(str(name))
  for part, names in enumerate(homes):
    normal = np.flatnonzero(kind[part] == '')
    for i, name in enumerate(names):
      own = normal[i :: len(names)]
      pool, rest = np.split(own, [(len(own) + 1) // 2])
      query = np.sort(np.r_[rest, np.flatnonzero(kind[part] == name)])
      side = 'train' if name in kind[0] else 'test'
      yield name, side, part, pool, part, query


def _by_service(kind, service, least):
  for name in sorted(set(service[0]) & set(service[1])):
    pool = np.flatnonzero((service[0] == name) & (kind[0] == ''))
    query = np.flatnonzero(service[1] == name)
    attacks = int((kind[1][query] != '').sum())
    if min(len(pool), attacks, len(query) - attacks) >= least:
      yield str(name), '', 0, pool, 1, query


SOURCE = public_files.source('nsl_kdd', load)
