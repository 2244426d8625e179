"""OddBench: hundreds of real tables, from as many public repositories.

Rows with the usual value of one column (the indicator, which is taken out) are
normal, rows with a rare value are the anomalies. Any folder of files in this
format is read, whatever the names.
"""

import collections
from collections.abc import Iterable
import dataclasses
import itertools
import re
from typing import NamedTuple
import zlib

import numpy as np

from metaad_jax import specs
from metaad_jax.base import Entity
from metaad_jax.data import public_files, rows

_NEEDED = ('train', 'test', 'test_labels')
_TOLD = (
  'feature_names', 'github_link', 'indicator_feature', 'llm_keywords',
  'origin', 'tags',
)  # fmt: skip
_KNOWN = public_files.catalogue('oddbench')
SCENARIOS = tuple(_KNOWN['words'])
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
  `near_duplicates` share a group, whose hash is the fold, part0 to part4. Kinds
  name the indicator.

  Args:
    data_dir: holds oddbench/*.npz.
    scenario: 'all', or one of `SCENARIOS`: tables that belong there.
    overlap: False leaves out the tables that adbench has too (`IN_ADBENCH`).
    max_rows: see `rows.thinned`.
    max_queries: see `rows.thinned`.
  """
  choices = ('all', *SCENARIOS)
  specs.allow(
    scenario in choices, 'oddbench', ', '.join(choices), scenario=scenario
  )
  root = public_files.folder(data_dir, 'oddbench')
  tables: list[_Table] = []
  for name in public_files.names(root, '*.npz', SOURCE.note):
    if name in IN_ADBENCH and not overlap:
      continue
    file = public_files.File(root, f'{name}.npz')
    told = file.arrays(optional=_TOLD)
    if scenario == 'all' or scenario in scenarios(
      _text(told, 'origin'), _words(told, 'tags'), _words(told, 'llm_keywords')
    ):
      entity, sketch = _read(file, name, told)
      entity = rows.thinned(entity, max_rows, max_queries)
      repository = '/'.join(_text(told, 'github_link').split('/')[3:5])
      if 'Shuttle' in name:  # all NASA's; scaled rows and other names hide it
        repository = 'shuttle'
      tables.append(_Table(entity, repository, sketch))
  entities = [table.entity for table in tables]
  groups = near_duplicates(
    [entity.columns for entity in entities],
    [table.repository for table in tables],
    [table.sketch for table in tables],
  )
  grouped = []
  for entity, group in zip(entities, groups, strict=True):
    name = entities[group].name
    fold = f'part{zlib.crc32(name.encode()) % _PARTS}'
    grouped.append(dataclasses.replace(entity, group=name, fold=fold))
  return grouped


class _Table(NamedTuple):
  entity: Entity
  repository: str
  sketch: np.ndarray  # see `near_duplicates`


def _read(file, name, told):
  """One table, and the sketch of its rows."""
  held = file.arrays(_NEEDED)
  train, test = (_numbers(file, held[part]) for part in _NEEDED[:2])
  labels = held['test_labels'].ravel()
  good = train.ndim == 2 and train.shape[1:] == test.shape[1:] and train.size
  why = f'train {train.shape}, test {test.shape}: not rows of one width'
  file.require(good, why)
  good = public_files.are_labels(labels, len(test))
  file.require(
    good, f'test_labels are not 0 or 1, for each of {len(test)} rows'
  )
  columns = tuple(' '.join(c.split()) for c in _words(told, 'feature_names'))
  if len(columns) != train.shape[1]:
    columns = tuple(f'column {i}' for i in range(train.shape[1]))
  kind = _text(told, 'indicator_feature') or 'anomaly'
  kinds = np.where(labels == 1, kind, '')
  sketch = np.unique(np.concatenate([_sketch(train), _sketch(test)]))
  entity = rows.entity(name, train, test, kinds, columns=columns)
  return entity, sketch[:_SKETCH]


def _numbers(file, x):
  """float32, what is not finite as NaN."""
  from metaad_jax.data import cells  # of pandas, see `folder`

  with file.reading(), np.errstate(over='ignore'):
    if x.dtype.kind in 'US' and x.ndim == 2:
      listed = enumerate(x.astype(str).T.tolist())
      typed = [cells.typed(str(i), cell).values for i, cell in listed]
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

  A keyword decides that has a telling word in it: one is enough where the
  origin (or a tag such as 'origin_Engineering') agrees, two are needed
  elsewhere. The keywords were written by a language model: expect one table in
  five to be there by mistake, and others to be missing.
  """
  origins = {origin} | {tag.removeprefix('origin_') for tag in tags}
  split = [set(re.findall(r'[a-z]+', word.lower())) for word in keywords]
  chosen = set()
  for name, listed in _KNOWN['words'].items():
    telling = {*listed, *(word + 's' for word in listed)}
    hits = sum(bool(words & telling) for words in split)
    if hits >= (1 if origins & {*_KNOWN['origins'][name]} else 2):
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
  import scipy.sparse.csgraph  # late: the detector does without

  plain = [
    {re.sub(r'[\W_]+', '', name.lower()) for name in names} for names in columns
  ]
  plain = [{n for n in names if not _GENERIC.fullmatch(n)} for names in plain]
  hashes = [set(sketch.tolist()) for sketch in sketches]
  edges = set(_shared([{name} - {''} for name in repositories]))
  for (i, j), count in _shared(plain).items():
    if count >= 4 and count >= 0.6 * len(plain[i] | plain[j]):
      edges.add((i, j))
  for (i, j), count in _shared(hashes).items():
    if count >= max(5, 0.05 * min(len(hashes[i]), len(hashes[j]))):
      edges.add((i, j))
  graph = np.zeros((len(columns), len(columns)), bool)
  graph[tuple(np.array(sorted(edges), int).reshape(-1, 2).T)] = True
  _, group = scipy.sparse.csgraph.connected_components(graph, directed=False)
  _, first = np.unique(group, return_index=True)
  return first[group].tolist()


def _shared(sets):
  """{(i, j): how many items they share} for pairs that share any."""
  owners = collections.defaultdict(list)
  for i, items in enumerate(sets):
    for item in items:
      owners[item].append(i)
  pairs = (itertools.combinations(owner, 2) for owner in owners.values())
  return collections.Counter(itertools.chain.from_iterable(pairs))


SOURCE = public_files.source('oddbench', load)
