"""What a model file may say, checked before anything is built or compiled.

It may come from a stranger: every field has a type and bounds, whatever is not
named here is refused, and no option makes a network or an inner loop so large
that it would keep a machine busy.
"""

import dataclasses
import math
import re
from typing import Any

import numpy as np

from metaad_jax import schema, specs
from metaad_jax.base import DataError
from metaad_jax.scores.conformal import Calibration
from metaad_jax.training.setup import Config

_LARGE = 1 << 24  # numbers in a row
ELEMENTS = 1 << 26  # support rows, squared, x columns
# The most of an option of a spec; others are at most a million.
_OPTIONS = {
  'steps': 2000, 'adapt_steps': 2000, 'heads': 32, 'width': 8192,
  'channels': 8192, 'embedding': 8192,
}  # fmt: skip
_DEEP = ('depth', 'blocks', 'layers')  # as many as the file has arrays for
_OF_TYPE: dict[type, schema.Check] = {
  bool: schema.satisfies(lambda v: isinstance(v, bool), 'true or false'),
  int: schema.whole(0, 2**63 - 1),
  float: schema.number(0, 1e6),
  str: schema.TEXT,
}


def _of(default):
  if isinstance(default, tuple):
    return schema.listed(_of(default[0]), 1000)
  return _OF_TYPE[type(default)]


_CONFIG = {f.name: _of(f.default) for f in dataclasses.fields(Config)}
_COLUMN = {
  'name': schema.TEXT, 'kind': schema.TEXT, 'missing': schema.number(0, 1),
  'role': schema.TEXT, 'why': schema.TEXT,
}  # fmt: skip
_META = schema.fields({
  'config': schema.fields(_CONFIG),
  'layout': schema.fields({
    'shape': schema.listed(schema.or_none(schema.whole(1, _LARGE)), 3),
    'rate': schema.or_none(schema.number(1e-9, 1e12)),
    'channels': schema.listed(schema.TEXT),
  }, ('shape', 'rate', 'channels')),
  'name': schema.TEXT,
  'step': schema.whole(0, 2**31),
  'trained_on': schema.TEXT,
  'seen': schema.listed(schema.TEXT),
  'plugins': schema.listed(schema.TEXT, 100),
  'versions': schema.mapping(schema.TEXT),
  'code': schema.TEXT,
  'calibration': schema.mapping(schema.ANYTHING),
  'file': schema.mapping(schema.ANYTHING),  # `judge.load` reads it
  'detector': schema.fields({
    'options': schema.fields({
      'false_alarm_rate': schema.number(1e-9, 1 - 1e-9),
      'window_features': schema.or_none(schema.TEXT),
      'rate': schema.or_none(schema.number(1e-9, 1e12)),
      'features': schema.listed(schema.TEXT),
    }, ('false_alarm_rate', 'window_features', 'rate')),
    'names': schema.or_none(schema.listed(schema.TEXT)),
    'categories': schema.mapping(schema.listed(schema.TEXT)),
    'n_features_in': schema.whole(1, _LARGE),
    'report': schema.listed(schema.fields(_COLUMN, tuple(_COLUMN))),
    'decimal': schema.TEXT,
  }, ('options', 'names', 'categories', 'n_features_in')),
}, ('config', 'layout'))  # fmt: skip


_SERIES = schema.fields({
  'kind': schema.satisfies(lambda v: v == 'series', "'series'"),
  'format': schema.whole(1, 1),  # a newer one is of a newer version
  'step': schema.or_none(schema.number(1e-12, 1e12)),
  'names': schema.listed(schema.TEXT, 4096),
  'time': schema.TEXT,
  'starts': schema.listed(schema.or_none(schema.number(-1e12, 1e12))),
  'options': schema.fields({
    'false_alarms': schema.TEXT,
    'period': schema.whole(0, 1_000_000),
    'step': schema.or_none(schema.number(1e-12, 1e12)),
    'resample': schema.TEXT,
  }, ('false_alarms', 'period', 'step', 'resample')),
  'file': schema.mapping(schema.ANYTHING),  # `series_files.load` reads it
}, ('kind', 'format', 'step', 'names', 'time', 'starts', 'options')
)  # fmt: skip


def check_series(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
  """Raises DataError for what no model file of a detector of series holds."""
  _SERIES('its model.json', meta)
  weights = arrays.get('weights')
  from metaad_jax.features import subsequences  # imports scipy.signal

  fewer = weights is None or len(weights) < len(subsequences.COMPONENTS)
  if fewer and 'stretch/0' in arrays:
    raise DataError('it is of an earlier version: fit it anew')
  arrays = {name: x for name, x in arrays.items() if name != 'weights'}
  if weights is None or not arrays or arrays.keys() != {
    f'stretch/{i}' for i in range(len(arrays))
  }:  # fmt: skip
    raise DataError('its arrays are not weights, stretch/0, stretch/1, ...')
  if weights.dtype.kind != 'f':
    schema.refuse('weights', weights.shape, 'numbers')
  subsequences.checked(weights)
  shapes = {x.shape[1:] for x in arrays.values()}
  for name, x in arrays.items():
    if x.dtype.kind != 'f' or x.ndim != 2 or len(x) < 30 or not x.shape[1]:
      schema.refuse(name, x.shape, 'numbers [30 or more, channels]')
    if not (np.abs(x) <= 1e100).all():
      raise DataError(f'{name} holds what is no number, or an absurd one')
  (channels,) = shapes.pop() if len(shapes) == 1 else (0,)
  names = meta['names']
  if len(meta['starts']) != len(arrays):
    schema.refuse('starts', meta['starts'], 'one of each stretch')
  if not channels or len({*names}) not in (0, channels):
    raise DataError('its stretches and names are of different channels')
  if len(names) not in (0, channels):
    schema.refuse('names', names, 'different names of the channels')


def check(arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
  """Raises DataError for what no model file holds; see `runs.pack`.

  Shapes of parameters are compared with the learner's later.
  """
  _META('its model.json', meta)
  if math.prod(n for n in meta['layout']['shape'] if n) > _LARGE:
    schema.refuse('layout shape', meta['layout']['shape'], 'smaller')
  known = {f'calibration/{name}' for name in Calibration._fields}
  known |= {'detector/x', 'detector/y', 'detector/support'}
  params = {k: v for k, v in arrays.items() if k.startswith('params/')}
  for name, array in params.items():
    if array.dtype.kind != 'f' or not np.isfinite(array).all():
      raise DataError(f'{name[:60]} holds what is no finite number')
  if unknown := arrays.keys() - known - params.keys():
    raise DataError(f'it has an unknown array {min(unknown)[:60]!r}')
  numbers = re.findall(r'(\d+)(?=/|\n|$)', '\n'.join(params))
  depth = max([7, *(int(n) for n in numbers if len(n) < 4)]) + 1
  config = meta['config']
  for name in ('source', 'learner', 'model', 'outer'):
    _spec(name, config.get(name, ''), depth)
  for text in config.get('features', '').split('+'):
    _spec('features', text, depth)
  if 'detector' in meta:
    _detector(arrays, meta)


def _spec(name, text, depth):
  if not text:
    return
  for key, value in specs.parse(text)[1].items():
    most = depth if key in _DEEP else _OPTIONS.get(key, 1_000_000)
    if isinstance(value, int | float) and not abs(value) <= most:
      schema.refuse(f'option {key} of {name}', value, f'at most {most}')


def _detector(arrays, meta):
  """Its rows: so many that adapting to them takes some memory, not all."""
  parts = [arrays.get(f'detector/{name}') for name in ('x', 'y', 'support')]
  if any(part is None for part in parts):
    raise DataError('it has no rows of a detector')
  x, y, support = parts
  rows, saved = (len(x) if x.ndim else 0,), meta['detector']
  if x.dtype.kind != 'f' or x.ndim not in (2, 3) or 0 in x.shape:
    schema.refuse(
      'detector/x', x.shape, 'rows [n, d] or windows [n, length, channels]'
    )
  if np.isinf(x).any() or (x.ndim == 3 and np.isnan(x).any()):
    raise DataError('detector/x holds infinity, or NaN in a window')
  if np.isnan(x).all():
    raise DataError('detector/x holds no number')
  if y.dtype.kind != 'i' or y.shape != rows or not np.isin(y, (-1, 0, 1)).all():
    raise DataError('detector/y are no labels 0, 1 or -1, one for each row')
  if support.dtype.kind != 'b' or support.shape != rows:
    raise DataError('detector/support is not true or false for each row')
  if not (y[support] != 1).any():
    raise DataError('detector/support has no normal row')
  if int(support.sum()) ** 2 * x[0].size > ELEMENTS:
    raise DataError('detector/support has too many rows')
  names, width = saved['names'], x.shape[1]
  if width != saved['n_features_in'] or len(names or x[0]) != width:
    raise DataError('detector/x has another number of columns than its names')
  report = saved.get('report')
  if report and not {*(names or ())} <= {column['name'] for column in report}:
    raise DataError('its report lacks columns')
  for name, levels in saved['categories'].items():
    if name not in (names or ()) or len(set(levels)) < len(levels):
      schema.refuse(
        f'categories of {name[:40]!r}', levels, 'different texts of a column'
      )
  for text in (saved['options']['window_features'] or '').split('+'):
    _spec('window_features', text, 0)
