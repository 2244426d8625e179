"""What an evaluation leaves behind: a tidy table and its meta data.

`docs/results_schema.md` gives the type, the unit and the meaning of each column
and key.
"""

import io
import json
import lzma
import os
import pathlib
from typing import Any, NamedTuple

import pandas as pd

from metaad_jax import base, storage
from metaad_jax.scores import comparisons, metrics

SCHEMA = 2
TEXTS = ('source', 'entity', 'method', 'kind')
COUNTS = ('shots', 'anomalies', 'draw', 'queries', 'query_anomalies')
COLUMNS = (
  *(*TEXTS, 'shots', 'anomalies', 'contamination', 'draw'),
  *(*metrics.NAMES, 'queries', 'query_anomalies'),
)

_META: dict[str, type | tuple[type, ...]] = {
  **dict.fromkeys(('created', 'hardware', 'code', 'command'), str),
  **dict.fromkeys(('versions', 'flags'), dict),
  **{'seed': int, 'seconds': (int, float), 'notes': list},
}
_SHARES = [(column, 1.0) for column in ('contamination', *metrics.NAMES)]
_DECIMALS = 6  # of a metric in a compact table


class Results(NamedTuple):
  """One row per method and scored episode, with exactly `COLUMNS`.

  A metric that is undefined is NaN. The meta data tell what was run, where and
  how: JSON types only.
  """

  table: pd.DataFrame
  meta: dict[str, Any]


def check(results: Results) -> Results:
  """The same results, checked: columns in order, of type str, int64 or float64.

  Raises:
    DataError: if a column or key is missing, unknown, of another type or out
      of range, or the schema is another one.
  """
  table, meta = results
  if meta.get('schema') != SCHEMA:
    raise _fault(
      f'the results have schema {meta.get("schema")}, this version reads '
      f'{SCHEMA}'
    )
  for key, kind in _META.items():
    if key not in meta or not isinstance(meta[key], kind):
      raise _fault(f'meta.{key} cannot be {repr(meta.get(key))[:60]}')
  if sorted(map(str, table.columns)) != sorted(COLUMNS):
    different = ', '.join(sorted({*map(str, table.columns)} ^ {*COLUMNS}))
    raise _fault(f'columns missing or unknown: {different}')
  types = dict.fromkeys(COLUMNS, 'float64') | dict.fromkeys(COUNTS, 'int64')
  try:
    table = table[list(COLUMNS)].astype(types | dict.fromkeys(TEXTS, 'str'))
  except (TypeError, ValueError, OverflowError) as error:
    raise _fault(
      f'a column holds something other than its type ({error})'
    ) from None
  good = {'kind': table['kind'].isin(('learner', 'baseline'))}
  for column, most in (*((c, float('inf')) for c in COUNTS), *_SHARES):
    good[column] = table[column].between(-1e-6, most + 1e-6)
  for column in metrics.NAMES:
    good[column] |= table[column].isna()
  good['query_anomalies'] &= table['query_anomalies'] <= table['queries']
  good['method'] = table.groupby('method')['kind'].transform('nunique') == 1
  for column, rows in good.items():
    if not rows.all():
      place = rows.argmin()
      value = table[column].iloc[place]
      raise _fault(f'row {place}: {column} cannot be {value!r}')
  return Results(table, meta)


def _fault(message):
  return base.DataError(f'{message}: run the evaluation again')


def compact(results: Results) -> Results:
  """What a page of results needs, small enough to be kept in a repository.

  The draws of an entity are merged into one row, draw 0: their mean to six
  decimals, which weighs every draw as the statistics do. `queries` and
  `query_anomalies` are those of the first draw. Absolute paths are cut to
  their last part (see `storage.portable`). Compact results stay as they are.
  """
  table, meta = check(results)
  keys = [*comparisons.CELL, 'method', 'kind', 'entity']
  groups, names = table.groupby(keys, sort=False), [*metrics.NAMES]
  merged = groups.first().assign(draw=0)
  merged[names] = groups[names].mean().round(_DECIMALS)
  meta = json.loads(storage.portable(json.dumps(meta)))
  return Results(merged.reset_index()[list(COLUMNS)], meta)


def renewed(old: Results, newer: Results) -> Results:
  """Compact results whose learners are those of newer ones on the same tasks.

  A new checkpoint need not wait for baselines that have not changed.

  Raises:
    DataError: if the newer ones lack, or add, a task of a learner.
  """
  (table, meta), (fresh, later) = compact(old), compact(newer)
  fresh = fresh[fresh['kind'] == 'learner']
  gone = table['method'].isin(fresh['method'])
  keys = [*comparisons.CELL, 'method', 'entity', 'queries', 'query_anomalies']
  tasks = lambda rows: set(rows[keys].itertuples(index=False, name=None))
  if different := tasks(table[gone]) ^ tasks(fresh):
    raise base.DataError(
      f'{len(different)} tasks are in one of the two results alone, such as '
      f'{sorted(different)[0]}: run both with one flagfile'
    )
  whole = pd.concat([fresh, table[~gone]], ignore_index=True)
  kept = {k: later[k] for k in ('created', 'code')}
  return check(Results(whole, meta | kept))


def save(results: Results, path: str | os.PathLike[str]) -> None:
  """Writes the table and, beside it, the meta data; each whole or not at all.

  `path` is a folder, which gets `results.csv` and `meta.json`; or a file
  `NAME.csv.xz`, which gets `NAME.meta.json.xz` beside it. Raises DataError if
  the results break the schema, or cannot be written.
  """
  table, meta = check(results)
  table_path, meta_path = _paths(path)
  try:
    text = json.dumps(meta, indent=1, allow_nan=False)
  except (TypeError, ValueError) as error:
    raise base.DataError(
      f'the meta data are not JSON ({error}): leave only texts, numbers, lists '
      'and dicts there'
    ) from None
  content = table.to_csv(index=False, lineterminator='\n')
  for place, body in ((meta_path, f'{text}\n'), (table_path, content)):
    packed = place.suffix == '.xz'
    data = lzma.compress(body.encode()) if packed else body.encode()
    storage.write_bytes(place, data)


def load(path: str | os.PathLike[str]) -> Results:
  """Reads what `save` wrote to a path; a DataError where it is not that."""
  table_path, meta_path = _paths(path)
  place = meta_path
  try:
    meta = json.loads(_read(meta_path))
    if not isinstance(meta, dict):
      raise ValueError('no object')
    place = table_path
    table = pd.read_csv(
      io.BytesIO(_read(table_path)),
      dtype=dict.fromkeys(TEXTS, str),
      keep_default_na=False,  # an entity may be called NA
      na_values=dict.fromkeys(metrics.NAMES, ['']),
      float_precision='round_trip',
    )
    return check(Results(table, meta))
  except OSError as error:
    raise base.DataError(
      f'{place}: {error.strerror}: name the folder of an evaluation'
    ) from None
  except base.DataError as error:
    raise base.DataError(f'{place}: {error}') from None
  except storage.BROKEN as error:
    raise _fault(
      f'{place}: truncated or damaged ({storage.reason(error)})'
    ) from None


def _read(path):
  content = path.read_bytes()
  return lzma.decompress(content) if path.suffix == '.xz' else content


def _paths(path: str | os.PathLike[str]) -> tuple[pathlib.Path, pathlib.Path]:
  """The files of the table and of the meta data."""
  path = pathlib.Path(path)
  name, dot, ending = path.name.partition('.csv')
  if ending not in ('', '.xz') or not dot:
    path, name, ending = path / 'results.csv', 'results', ''
  meta = 'meta.json' if path.name == 'results.csv' else f'{name}.meta.json'
  return path, path.with_name(meta + ending)
