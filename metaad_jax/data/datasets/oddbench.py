"""OddBench: hundreds of real tables, from as many public repositories.

Rows with the usual value of one column (the indicator, which is taken out) are
normal, rows with a rare value are the anomalies. Any folder of files in this
format is read, whatever the names.
"""

from collections.abc import Iterable
import itertools
import re
from typing import Any
import zlib

import numpy as np
import scipy.sparse.csgraph

from metaad_jax.base import DataError, Entity, Source
from metaad_jax.data import cells, public_files, rows, series

_NEEDED = ('train', 'test', 'test_labels')
_TOLD = (
  'feature_names',
  'github_link',
  'indicator_feature',
  'llm_keywords',
  'origin',
  'tags',
)
# Words of llm_keywords; each also in the plural.
_WORDS = {
  'finance': 'account accounting bank banking billing claim credit currency '
  'debt default economy expenditure finance financial fraud funding income '
  'insurance interest investment invoice loan market money mortgage payment '
  'portfolio price pricing procurement profit purchase revenue sale salary '
  'stock tax trading transaction wage',
  'industry': 'actuator battery component defect device drive driving engine '
  'equipment factory fault hardware industrial inverter machine machining '
  'machinery maintenance manufacturing mechanical motor pipeline plant power '
  'pressure production pump robot robotics sensor turbine valve vibration '
  'voltage welding wear',
  'medicine': 'biomarker blood cancer cardiac clinical covid diabetes '
  'diagnosis disease doctor drug eeg epidemiology health healthcare heart '
  'hospital infection insulin leukemia medical medication medicine mortality '
  'patient surgery symptom therapy treatment tumor vaccination',
  'network': 'authentication bandwidth botnet connection cyber cybersecurity '
  'ddos dns domain email firewall http internet intrusion ip latency malware '
  'network packet phishing port protocol request router security server spam '
  'tcp url vpn vulnerability web wifi',
}
SCENARIOS = tuple(sorted(_WORDS))
# Names that tell nothing about a column.
_GENERIC = re.compile(
  r'(|x|v|f|c|a|y|col|column|feature|attr|attribute|var|unnamed)\d*'
)
_SKETCH = 1000
_PARTS = 5
# 30_satellite and its kin, and 32_shuttle as it is and standardized.
IN_ADBENCH = ('SatelliteAnomaly', 'ShuttleAnomaly', 'ShuttleOutlier')


def load(
  data_dir: str | None,
  *,
  scenario: str = 'all',
  overlap: bool = True,
  max_rows: int = 2000,
  max_queries: int = 2000,
) -> list[Entity]:
  """One entity per table: supports from its `train`, query from its `test`.

  Infinities count as missing. Query rows that equal a normal row stay.

  Args:
    data_dir: holds oddbench/*.npz.
    scenario: 'all', or one of `SCENARIOS`: tables that belong there.
    overlap: False leaves out the tables that adbench has too (`IN_ADBENCH`).
    max_rows, max_queries: limits, see `series.thin` and `series.choose`.

  Returns:
    Entities of different width, by name. `near_duplicates` share a group, whose
    hash is the fold, part0 to part4. Kinds name the indicator.
  """
  if scenario not in ('all', *SCENARIOS):
    raise DataError(
      f'oddbench: scenario={scenario!r}: choose all, {", ".join(SCENARIOS)}'
    )
  rows.check_limits('oddbench', max_rows, max_queries)
  root = public_files.folder(data_dir, 'oddbench')
  paths = {path.name.removesuffix('.xz') for path in root.glob('*.npz*')}
  names = sorted(p.removesuffix('.npz') for p in paths if p.endswith('.npz'))
  if not names:
    raise DataError(f'{root} holds no .npz: {SOURCE.note}')
  tables: list[dict[str, Any]] = []
  for name in names:
    if name in IN_ADBENCH and not overlap:
      continue
    told = public_files.arrays(root, f'{name}.npz', optional=_TOLD)
    if scenario == 'all' or scenario in scenarios(
      _text(told, 'origin'), _words(told, 'tags'), _words(told, 'llm_keywords')
    ):
      tables.append(_read(root, name, told, max_rows, max_queries))
  groups = near_duplicates(
    [table['columns'] for table in tables],
    [table['repository'] for table in tables],
    [table['sketch'] for table in tables],
  )
  names = [tables[group]['name'] for group in groups]
  return [
    Entity(
      name=table['name'],
      normal=table['normal'],
      query=table['query'],
      labels=table['labels'],
      kinds=tuple(table['kind'] if label else '' for label in table['labels']),
      group=name,
      fold=f'part{zlib.crc32(name.encode()) % _PARTS}',
      columns=table['columns'],
    )
    for table, name in zip(tables, names, strict=True)
  ]


def _read(root, name, told, max_rows, max_queries):
  """What is kept of one table."""
  path = f'{name}.npz'
  held = public_files.arrays(root, path, _NEEDED)
  where = public_files.find(root, path)
  train, test = (_numbers(root, where, held[part]) for part in _NEEDED[:2])
  labels = held['test_labels'].ravel()
  if train.ndim != 2 or train.shape[1:] != test.shape[1:] or not train.size:
    why = f'train {train.shape}, test {test.shape}: not rows of one width'
    raise public_files.broken(root, where, why)
  if (
    labels.dtype.kind not in 'fiub'
    or len(labels) != len(test)
    or not np.isin(labels, (0, 1)).all()
  ):
    why = f'test_labels are not 0 or 1, for each of {len(test)} rows'
    raise public_files.broken(root, where, why)
  chosen = series.choose(labels == 1, max_queries)
  sketch = np.concatenate([_sketch(train), _sketch(test)])
  columns = tuple(' '.join(c.split()) for c in _words(told, 'feature_names'))
  if len(columns) != train.shape[1]:
    columns = tuple(f'column {i}' for i in range(train.shape[1]))
  repository = '/'.join(_text(told, 'github_link').split('/')[3:5])
  if 'Shuttle' in name:  # all NASA's; scaled rows and other names hide it
    repository = 'shuttle'
  return {
    'name': name,
    'normal': train[series.thin(np.arange(len(train)), max_rows)],
    'query': test[chosen],
    'labels': labels[chosen].astype(np.int32),
    'kind': _text(told, 'indicator_feature') or 'anomaly',
    'columns': columns,
    'repository': repository,
    'sketch': np.unique(sketch)[:_SKETCH],
  }


def _numbers(root, where, x):
  """float32, what is not finite as NaN."""
  with public_files.reading(root, where), np.errstate(over='ignore'):
    if x.dtype.kind in 'US' and x.ndim == 2:
      listed = x.astype(str).T.tolist()
      typed = [
        cells.typed(str(i), cell).values for i, cell in enumerate(listed)
      ]
      x = np.column_stack([cells.codes(column) for column in typed])
    if x.dtype.kind not in 'fiub':
      raise ValueError(f'{x.dtype} is not numbers')
    x = x.astype(np.float32)
    x[np.isinf(x)] = np.nan
    return x


def _text(told, key):
  return ' '.join(_words(told, key))


def _words(told, key):
  value = told.get(key, np.array([], str)).ravel()
  if value.dtype.kind == 'S':
    return [one.decode('utf-8', 'replace') for one in value.tolist()]
  return list(map(str, value.tolist()))


def scenarios(
  origin: str, tags: Iterable[str], keywords: Iterable[str]
) -> frozenset[str]:
  """Which of `SCENARIOS` a table belongs to, by what was written about it.

  A keyword decides that has a telling word in it. The origin (Human, Science,
  Engineering, Logistics, Other) and the tags are too coarse to decide alone:
  one keyword is enough where the origin agrees (medicine: Human or Science;
  industry and network: Engineering; finance: Logistics or Human), two are
  needed elsewhere. The keywords were written by a language model: expect one
  table in five to be there by mistake, and others to be missing.

  Args:
    origin: of the table.
    tags: of the table; one such as 'origin_Engineering' counts as the origin.
    keywords: of the table.

  Returns:
    Their names; none for most tables.
  """
  fitting = {
    'finance': {'Logistics', 'Human'},
    'industry': {'Engineering'},
    'medicine': {'Human', 'Science'},
    'network': {'Engineering'},
  }
  origins = {origin} | {tag.removeprefix('origin_') for tag in tags}
  split = [set(re.findall(r'[a-z]+', word.lower())) for word in keywords]
  chosen = set()
  for name, listed in _WORDS.items():
    telling = set(listed.split())
    telling |= {word + 's' for word in telling}
    hits = sum(bool(words & telling) for words in split)
    if hits >= (1 if origins & fitting[name] else 2):
      chosen.add(name)
  return frozenset(chosen)


def _sketch(x):
  """The smallest hashes of rows that hardly occur twice by chance."""
  random = np.random.default_rng(0).integers(0, 2**63, x.shape[1], np.uint64)
  least = np.zeros(0, np.uint64)
  for begin in range(0, len(x), 8192):
    part = x[begin : begin + 8192]
    part = part[(part != np.round(part)).any(1)] + np.float32(0)
    part = np.sort(part, axis=1)
    part = part[(np.diff(part, axis=1) > 0).sum(1) >= 3]
    bits = np.ascontiguousarray(part).view(np.uint32).astype(np.uint64)
    mixed = (bits * (2 * random + 1)).sum(1, dtype=np.uint64)
    mixed ^= mixed >> np.uint64(31)
    mixed *= np.uint64(0x9E3779B97F4A7C15)
    least = np.unique(np.concatenate([least, mixed]))[:_SKETCH]
  return least


def near_duplicates(
  columns: list[tuple[str, ...]],
  repositories: list[str],
  sketches: list[np.ndarray],
) -> list[int]:
  """Groups tables that are made from the same data.

  Two tables belong together if they are from one repository, or if at least
  four names of columns are common to both and 60 % of all the names that they
  have, or if 5 % of the rows of one are rows of the other, in any order of
  the columns.

  Args:
    columns: their names, per table; case and punctuation do not count.
    repositories: per table; '' = not known.
    sketches: per table, sorted hashes of rows.

  Returns:
    Per table the number of the first table of its group.
  """

  def shared(items):
    """{(i, j): how many items they share} for pairs that share any."""
    owners: dict[Any, list[int]] = {}
    for i, some in enumerate(items):
      for item in some:
        owners.setdefault(item, []).append(i)
    counts: dict[tuple[int, int], int] = {}
    for owner in owners.values():
      for pair in itertools.combinations(owner, 2):
        counts[pair] = counts.get(pair, 0) + 1
    return counts

  plain = [
    {re.sub(r'[\W_]+', '', name.lower()) for name in names} for names in columns
  ]
  plain = [{n for n in names if not _GENERIC.fullmatch(n)} for names in plain]
  hashes = [sketch.tolist() for sketch in sketches]
  same = set(shared([[name] if name else [] for name in repositories]))
  for (i, j), count in shared(plain).items():
    if count >= 4 and count >= 0.6 * len(plain[i] | plain[j]):
      same.add((i, j))
  for (i, j), count in shared(hashes).items():
    if count >= max(5, 0.05 * min(len(hashes[i]), len(hashes[j]))):
      same.add((i, j))
  size = len(columns)
  i, j = np.array(sorted(same), int).reshape(-1, 2).T
  edges = scipy.sparse.coo_array((np.ones(len(i)), (i, j)), (size, size))
  _, group = scipy.sparse.csgraph.connected_components(edges, directed=False)
  _, first = np.unique(group, return_index=True)
  return first[group].tolist()


SOURCE = Source(
  name='oddbench',
  description='real tables of every kind, one entity each',
  load=load,
  features=('identity',),
  units='of each table',
  licence='none stated: for research, do not redistribute',
  citation='OutFormer, arXiv 2602.03018 (OddBench)',
  note='Copy benchmarks/oddbench/*.npz of '
  'https://github.com/psorus/Outformer into oddbench/: their checksums are not '
  'published.',
  tables=True,
)
