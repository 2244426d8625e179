"""The one file that an evaluation leaves behind: written, read, checked.

`docs/results_schema.md` gives the type, the unit and the meaning of every key.
"""

import json
import lzma
import math
import os
import pathlib
import re
from typing import Any, NoReturn

import numpy as np

from metaad_jax import base, storage

SCHEMA = 1
METRICS = ('auroc', 'ap', 'recall_at_far_1', 'recall_at_far_5')

_MEND = 'run the evaluation again with this version'


def _number(value: Any) -> bool:
  return value is None or (
    isinstance(value, int | float) and not isinstance(value, bool)
  )


def _list_of(check):
  return lambda value: isinstance(value, list) and all(map(check, value))


_text = lambda value: isinstance(value, str)
_count = lambda value: type(value) is int and value >= 0
_share = lambda value: (
  _number(value) and (value is None or -1e-6 <= value <= 1 + 1e-6)
)

_CHECKS = {
  'a text': _text,
  'an integer': lambda value: type(value) is int,
  'a count': _count,
  'a number or null': _number,
  'a positive number or null': lambda value: (
    _number(value) and (value is None or value > 0)
  ),
  'a share in [0, 1]': lambda value: value is not None and _share(value),
  'a share in [0, 1] or null': _share,
  "'learner' or 'baseline'": lambda value: value in ('learner', 'baseline'),
  'a list of texts': _list_of(_text),
  'a list of counts': _list_of(_count),
  'a list of numbers': _list_of(_number),
  'an object': lambda value: isinstance(value, dict),
  'a list': lambda value: isinstance(value, list),
  'true or false': lambda value: isinstance(value, bool),
}

_CELL = {
  'source': 'a text',
  'shots': 'a count',
  'anomalies': 'a count',
  'contamination': 'a share in [0, 1]',
}
_INTERVAL = {'low': 'a number or null', 'high': 'a number or null'}

FIELDS: dict[str, dict[str, str]] = {
  'meta': {
    'created': 'a text',
    'seed': 'an integer',
    'versions': 'an object',
    'hardware': 'a text',
    'seconds': 'a number or null',
    'flags': 'an object',
    'code': 'a text',
  },
  'rows': {
    **_CELL,
    'entity': 'a text',
    'learner': 'a text',
    'kind': "'learner' or 'baseline'",
    'draw': 'a count',
    **dict.fromkeys(METRICS, 'a share in [0, 1] or null'),
    'queries': 'a count',
    'query_anomalies': 'a count',
  },
  'summary': {
    **_CELL,
    'learner': 'a text',
    'kind': "'learner' or 'baseline'",
    'metric': 'a text',
    'mean': 'a number or null',
    **_INTERVAL,
    'entities': 'a count',
  },
  'tests': {
    **_CELL,
    'metric': 'a text',
    'learner': 'a text',
    'baseline': 'a text',
    'difference': 'a number or null',
    **_INTERVAL,
    'p': 'a share in [0, 1] or null',
    'p_holm': 'a share in [0, 1] or null',
  },
  'curves': {
    'step': 'a list of counts',
    'loss': 'a list of numbers',
    'validation_step': 'a list of counts',
    'validation_auroc': 'a list of numbers',
  },
  'histograms': {
    'source': 'a text',
    'learner': 'a text',
    'shots': 'a count',
    'anomalies': 'a count',
    'edges': 'a list of numbers',
    'normal': 'a list of counts',
    'anomaly': 'a list of counts',
  },
  'example': {
    'source': 'a text',
    'entity': 'a text',
    'rate': 'a positive number or null',
    'units': 'a text',
    'channel': 'a text',
    'features': 'an object',
    'normal': 'a list of numbers',
    'anomaly': 'a list of numbers',
    'kind': 'a text',
    'shots': 'a count',
    'anomalies': 'a count',
    'scores': 'an object',
  },
  'regression': {
    'learner': 'a text',
    'steps': 'a count',
    'mse': 'a number or null',
    **_INTERVAL,
    'median': 'a number or null',
    'diverged': 'a count',
    'tasks': 'a count',
  },
  'tuned_on': {
    'source': 'a text',
    'from': 'a text',
    'entities': 'a list of texts',
  },
  'tuning': {
    **_CELL,
    'learner': 'a text',
    'options': 'a text',
    'auroc': 'a share in [0, 1]',
    'default': 'a share in [0, 1]',
    'tasks': 'a count',
  },
  'costs': {
    'learner': 'a text',
    'kind': "'learner' or 'baseline'",
    'shots': 'a count',
    'anomalies': 'a count',
    'columns': 'a count',
    'queries': 'a count',
    'seconds': 'a positive number or null',
  },
}

# Checked where they are there; files of earlier versions lack them.
OPTIONAL: dict[str, dict[str, str]] = {
  'meta': {'command': 'a text'},
  'tests': {'entities': 'a count', 'best': 'true or false'},
}

LATER = ('regression', 'costs', 'tuned_on', 'tuning')
_LISTS = ('rows', 'summary', 'tests', 'histograms', *LATER)
_DECIMALS = 4  # of a metric in a compact file
_SUMMARY_KEY = (*_CELL, 'learner', 'metric')
_TESTS_KEY = (*_SUMMARY_KEY, 'baseline')


_AS_IS = {str, int, bool, type(None)}  # most of what a large file holds


def _plain(value: Any) -> Any:
  """JSON types only; arrays become lists, non-finite numbers None."""
  if value is None or isinstance(value, str | bool | int):
    return value
  if isinstance(value, float):
    return float(value) if math.isfinite(value) else None
  if isinstance(value, dict):
    return {
      str(key): item
      if type(item) in _AS_IS or (type(item) is float and math.isfinite(item))
      else _plain(item)
      for key, item in value.items()
    }
  if isinstance(value, list | tuple):
    return [_plain(item) for item in value]
  if hasattr(value, '__array__') and np.asarray(value).dtype.kind in 'biufU':
    return _plain(np.asarray(value).tolist())
  raise base.DataError(
    f'results hold {repr(value)[:60]}, a {type(value).__name__}: '
    'put numbers, texts, lists, dicts or arrays there'
  )


def _refuse(where: str, what: str) -> NoReturn:
  raise base.DataError(f'results: {where} {what}: {_MEND}')


def _check(
  item: Any,
  fields: dict[str, str],
  where: str,
  optional: dict[str, str] | None = None,
) -> None:
  if not isinstance(item, dict):
    _refuse(where, f'is {repr(item)[:60]}, not an object')
  for key, kind in fields.items():
    if key not in item:
      _refuse(where, f'has no {key!r}')
    if not _CHECKS[kind](item[key]):
      _refuse(f'{where}.{key}', f'is {repr(item[key])[:60]}, not {kind}')
  if optional:
    _check(item, {k: v for k, v in optional.items() if k in item}, where)


def _check_example(example: dict[str, Any]) -> None:
  _check(example, FIELDS['example'], 'example')
  _check(example['features'], {'names': 'a list of texts'}, 'example.features')
  for name, scores in example['scores'].items():
    fields = dict.fromkeys(('normal', 'anomaly'), 'a list of numbers')
    _check(scores, fields, f'example.scores[{name!r}]')
  names = len(example['features']['names'])
  for row in example['features'].get('support') or []:
    if not _CHECKS['a list of numbers'](row) or len(row) != names:
      _refuse('example.features.support', f'is not [K, {names}] numbers')
  sizes = {len(example[side]) for side in ('normal', 'anomaly')}
  if 0 in sizes:
    _refuse('example.normal or .anomaly', 'is empty')
  if example['rate'] is None and len(sizes) > 1:
    _refuse('example.normal and .anomaly', 'differ in length')


def validate(results: dict[str, Any]) -> dict[str, Any]:
  """Checks the results of an evaluation against the schema.

  Keys that the schema does not know are left alone.

  Args:
    results: see `docs/results_schema.md`; numpy and jax arrays and scalars are
      taken for lists and numbers, NaN and infinities for null.

  Returns:
    The same as dicts, lists, texts, numbers and None only.

  Raises:
    DataError: if a key is missing or of the wrong type, the schema is newer,
      lengths disagree, or a cell appears twice.
  """
  results = _plain(results)
  _check(results, {'schema': 'a count'}, 'the file')
  if results['schema'] > SCHEMA:
    raise base.DataError(
      f'results have schema {results["schema"]}, this version reads up to '
      f'{SCHEMA}: update metaad_jax'
    )
  top = dict.fromkeys(('rows', 'summary', 'tests', 'histograms'), 'a list')
  top |= {
    'meta': 'an object',
    'curves': 'an object',
    'notes': 'a list of texts',
  }
  for section in LATER:
    if section in results:
      top[section] = 'a list'
  _check(results, top, 'the file')

  _check(results['meta'], FIELDS['meta'], 'meta', OPTIONAL['meta'])
  for section in _LISTS:
    for i, item in enumerate(results.get(section, [])):
      _check(item, FIELDS[section], f'{section}[{i}]', OPTIONAL.get(section))
  for name, curve in results['curves'].items():
    where = f'curves[{name!r}]'
    _check(curve, FIELDS['curves'], where)
    for x, y in (('step', 'loss'), ('validation_step', 'validation_auroc')):
      if len(curve[x]) != len(curve[y]):
        _refuse(where, f'has {len(curve[x])} {x} but {len(curve[y])} {y}')
  for i, item in enumerate(results['histograms']):
    bins, edges = len(item['edges']) - 1, item['edges']
    if not bins == len(item['normal']) == len(item['anomaly']):
      _refuse(f'histograms[{i}]', 'needs one edge more than counts')
    if None in edges or any(
      a > b for a, b in zip(edges, edges[1:], strict=False)
    ):
      _refuse(f'histograms[{i}].edges', 'decrease')
  for section, key in (('summary', _SUMMARY_KEY), ('tests', _TESTS_KEY)):
    seen = set()
    for i, item in enumerate(results[section]):
      cell = tuple(item[k] for k in key)
      if cell in seen:
        _refuse(f'{section}[{i}]', f'repeats {cell}')
      seen.add(cell)
  if 'example' not in results:
    _refuse('the file', "has no 'example' (null where there is none)")
  if results['example'] is not None:
    _check_example(results['example'])
  return results


def portable(text: str) -> str:
  """Cuts the absolute paths in a command line or a flag to their last part.

  They say where a file lay on one machine, which no other machine has.

  Args:
    text: such as `--data_dir=/home/me/data --output=results`.
  """
  return re.sub(
    r"(?<![^\s='\",])/(?:[^/\s'\",]+/)*([^/\s'\",]+)/?", r'\1', text
  )


def _portable(value: Any) -> Any:
  if isinstance(value, str):
    return portable(value)
  if isinstance(value, list):
    return [_portable(item) for item in value]
  if isinstance(value, dict):
    return {key: _portable(item) for key, item in value.items()}
  return value


def compact(results: dict[str, Any]) -> dict[str, Any]:
  """Returns what a results page needs, small enough to be kept in git.

  The draws of an entity are put together into one row, their mean to four
  decimals, which weighs every draw as the statistics do. `draw` is then 0 and
  `queries` and `query_anomalies` are those of the first draw. The curves, the
  histograms and the example (which shows rows of the data, whose licence may
  forbid that) are left out, and absolute paths cut (see `portable`).

  Args:
    results: see `validate`.

  Returns:
    Results of the same schema; what was compact already stays as it is.

  Raises:
    DataError: as `validate`.
  """
  results = validate(results)
  groups: dict[tuple, list[dict[str, Any]]] = {}
  for row in results['rows']:
    key = (*(row[k] for k in _CELL), row['learner'], row['entity'])
    groups.setdefault(key, []).append(row)
  rows = []
  for draws in groups.values():
    means: dict[str, float | None] = {}
    for metric in METRICS:
      values = [row[metric] for row in draws if row[metric] is not None]
      means[metric] = (
        round(sum(values) / len(values), _DECIMALS) if values else None
      )
    rows.append({**draws[0], **means, 'draw': 0})
  empty: dict[str, Any] = {'curves': {}, 'histograms': [], 'example': None}
  meta = _portable(results['meta'])
  notes = _portable(results['notes'])
  return {**results, **empty, 'meta': meta, 'rows': rows, 'notes': notes}


def save(
  path: str | os.PathLike[str], results: dict[str, Any]
) -> dict[str, Any]:
  """Checks the results and writes them as strict JSON, whole or not at all.

  Args:
    path: the file, `results.json` by custom; compressed if it ends in `.xz`.
    results: see `validate`.

  Returns:
    What was written, as `validate` returns it.

  Raises:
    DataError: if the results break the schema or cannot be written; nothing
      is written then.
  """
  results = validate(results)
  text = json.dumps(results, allow_nan=False) + '\n'
  content = text.encode()
  if str(path).endswith('.xz'):
    content = lzma.compress(content)
  storage.write_bytes(path, content)
  return results


def _no_constant(name: str) -> NoReturn:
  raise ValueError(f'{name} is not JSON')


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads and checks what `save` wrote.

  Args:
    path: the file.

  Returns:
    The results; None stands for a number that does not exist.

  Raises:
    DataError: if the file is missing, truncated, of a newer schema or
      otherwise not what `save` writes.
  """
  try:
    content = pathlib.Path(path).read_bytes()
    if str(path).endswith('.xz'):
      content = lzma.decompress(content)
    text = content.decode()
  except lzma.LZMAError as error:
    raise base.DataError(
      f'{path}: truncated or not xz ({error}): {_MEND}'
    ) from None
  except OSError as error:
    raise base.DataError(
      f'{path}: {error.strerror}: give the results.json of an evaluation'
    ) from None
  except UnicodeDecodeError:
    raise base.DataError(f'{path}: not a text file: {_MEND}') from None
  try:
    return validate(json.loads(text, parse_constant=_no_constant))
  except base.DataError as error:
    raise base.DataError(f'{path}: {error}') from None
  except (ValueError, RecursionError) as error:
    raise base.DataError(
      f'{path}: truncated or not JSON ({error}): {_MEND}'
    ) from None


def from_tidy(results) -> dict[str, Any]:
  """The old layout of new results, until reports/ reads the new one."""
  from metaad_jax.scores import old_comparisons

  rows = results.table.rename(columns={'method': 'learner'})
  rows = rows.to_dict('records')
  tuning = [
    {('learner' if k == 'method' else k): v for k, v in one.items()}
    for one in results.meta.get('tuning', [])
  ]
  return {
    'schema': 1,
    'meta': {k: v for k, v in results.meta.items() if k != 'notes'},
    'rows': rows,
    'summary': old_comparisons.summarise(rows),
    'tests': old_comparisons.compare(rows),
    'curves': {},
    'histograms': [],
    'example': None,
    'tuned_on': results.meta.get('tuned_on', []),
    'tuning': tuning,
    'notes': results.meta['notes'],
  }
