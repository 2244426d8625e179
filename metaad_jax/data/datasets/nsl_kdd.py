"""NSL-KDD: connections of a simulated network, normal or attacks of 39 types.

The test file holds 18 types of attack that the training file does not: they
are the test side, so that whole types are unseen. Every entity draws its
normals from the file that its attacks are in, and no two entities share one.
"""

import numpy as np

from metaad_jax.base import DataError, Entity, Source
from metaad_jax.data import public_files, rows, series

_CATEGORIES = {'protocol_type': 1, 'service': 2, 'flag': 3}
COLUMNS = (
  'duration',
  *_CATEGORIES,
  *'src_bytes dst_bytes land wrong_fragment urgent hot'.split(),
  *'num_failed_logins logged_in num_compromised root_shell'.split(),
  *'su_attempted num_root num_file_creations num_shells'.split(),
  *'num_access_files num_outbound_cmds is_host_login is_guest_login'.split(),
  *'count srv_count serror_rate srv_serror_rate rerror_rate'.split(),
  *'srv_rerror_rate same_srv_rate diff_srv_rate srv_diff_host_rate'.split(),
  *'dst_host_count dst_host_srv_count dst_host_same_srv_rate'.split(),
  *'dst_host_diff_srv_rate dst_host_same_src_port_rate'.split(),
  *'dst_host_srv_diff_host_rate dst_host_serror_rate'.split(),
  *'dst_host_srv_serror_rate dst_host_rerror_rate'.split(),
  'dst_host_srv_rerror_rate',
)
TRAIN, TEST = 'KDDTrain+_20Percent.txt', 'KDDTest+.txt'


def load(
  data_dir: str | None,
  *,
  by: str = 'attack',
  categories: str = 'codes',
  min_rows: int = 20,
  max_rows: int = 2000,
  max_queries: int = 2000,
) -> list[Entity]:
  """One entity per type of attack, or per service.

  By attack: of the types that the training file knows (side 'train') the rows
  of that file, or of the test file where the training file has too few; of the
  types that only the test file knows (side 'test') the rows there. The normals
  of each file are dealt out among its entities, every n-th to each; the first
  half of them is for supports. By service: supports from the normals of the
  training file, the query is the test file, attacks of all types. Rows that
  repeat an earlier row, or one of the training file, are dropped.

  Args:
    data_dir: holds nsl_kdd/.
    by: 'attack' or 'service'.
    categories: of protocol, service and flag: 'codes', their number in the
      sorted list, or 'onehot', a column each.
    min_rows: anomalies that an entity must have, and by service also normals
      of either file.
    max_rows, max_queries: limits, see `series.thin` and `series.choose`.

  Returns:
    Entities with rows [N, 41], or [N, 119] one-hot; kinds are the types of
    attack.
  """
  if by not in ('attack', 'service') or categories not in ('codes', 'onehot'):
    raise DataError(
      f"nsl_kdd: by={by!r}, categories={categories!r}: choose by='attack' or "
      "'service' and categories='codes' or 'onehot'"
    )
  rows.check_limits('nsl_kdd', max_rows, max_queries)
  root = public_files.folder(data_dir, 'nsl_kdd')
  x, kind, service, columns = _rows(root, categories)
  cut = _by_attack if by == 'attack' else _by_service
  entities = []
  for name, side, part, pool, other, query in cut(kind, service, min_rows):
    chosen = query[series.choose(kind[other][query] != '', max_queries)]
    entities.append(
      Entity(
        name=name,
        normal=x[part][series.thin(pool, max_rows)],
        query=x[other][chosen],
        labels=(kind[other][chosen] != '').astype(np.int32),
        kinds=tuple(map(str, kind[other][chosen])),
        side=side,
        columns=columns,
      )
    )
  return entities


def _rows(root, categories):
  """Features, kinds and services of both files, repetitions left out."""
  # The last column is a difficulty: how many of 21 classifiers got it right.
  tables = [
    public_files.cells(root, path, width=len(COLUMNS) + 2)
    for path in (TRAIN, TEST)
  ]
  kinds = [np.where(t[:, -2] == 'normal', '', t[:, -2]) for t in tables]
  values, columns = _encode(root, tables, categories)
  services = [table[:, _CATEGORIES['service']] for table in tables]
  kept = [rows.distinct(x) for x in values]
  kept[1] = kept[1][rows.unseen(values[1][kept[1]], values[0])]
  take = lambda parts: [part[i] for part, i in zip(parts, kept, strict=True)]
  return take(values), take(kinds), take(services), columns


def _encode(root, tables, categories):
  """The 41 columns of both files as float32, and the names of the columns."""
  numeric = [i for i in range(len(COLUMNS)) if i not in _CATEGORIES.values()]
  values = []
  for path, table in zip((TRAIN, TEST), tables, strict=True):
    x = np.zeros((len(table), len(COLUMNS)), np.float32)
    x[:, numeric] = public_files.numbers(root, path, table[:, numeric])
    values.append(x)
  blocks: list[list[np.ndarray]] = [[], []]
  names = []
  for i, column in enumerate(COLUMNS):
    if i in numeric:
      names.append(column)
      for block, x in zip(blocks, values, strict=True):
        block.append(x[:, [i]])
      continue
    known = np.unique(np.concatenate([table[:, i] for table in tables]))
    onehot = categories == 'onehot'
    names += [f'{column}={value}' for value in known] if onehot else [column]
    for block, table in zip(blocks, tables, strict=True):
      code = np.searchsorted(known, table[:, i])
      coded = np.eye(len(known))[code] if onehot else code[:, None]
      block.append(coded.astype(np.float32))
  return [np.concatenate(block, 1) for block in blocks], tuple(names)


def _by_attack(kind, service, least):
  """(name, side, part of normals, normals, part of query, query) of each."""
  del service
  known = set(kind[0])
  homes: list[list[str]] = [[], []]
  for name in sorted((known | set(kind[1])) - {''}):
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
      yield name, 'train' if name in known else 'test', part, pool, part, query


def _by_service(kind, service, least):
  """As `_by_attack`."""
  for name in sorted(set(service[0]) & set(service[1])):
    pool = np.flatnonzero((service[0] == name) & (kind[0] == ''))
    query = np.flatnonzero(service[1] == name)
    attacks = int((kind[1][query] != '').sum())
    if min(len(pool), attacks, len(query) - attacks) >= least:
      yield str(name), '', 0, pool, 1, query


SOURCE = Source(
  name='nsl_kdd',
  description='attacks on a simulated network; rows are connections',
  load=load,
  features=('identity',),
  units='s, bytes, counts, rates 0..1, and codes of categories',
  licence='no file states one; the publisher (UNB) asks for the citation',
  citation='Tavallaee et al., A Detailed Analysis of the KDD CUP 99 Data Set, '
  'CISDA 2009, https://www.unb.ca/cic/datasets/nsl.html',
  files=public_files.remote(
    'nsl_kdd',
    'https://raw.githubusercontent.com/jmnwong/NSL-KDD-Dataset/'
    '9d544d0eb9b87d7e2f43ff65733bdb644631d12f/',
  ),
)
