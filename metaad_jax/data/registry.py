"""Data sets and simulators: one module and one registry line each."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from metaad_jax import specs
from metaad_jax.base import DataError, Entity, Source
from metaad_jax.data import simulated
from metaad_jax.data.datasets import (
  adbench,
  cnc_mill,
  creditcard,
  cwru,
  fleet,
  folder,
  mitbih,
  nsl_kdd,
  oddbench,
  omniglot,
  sales_fraud,
  server_machines,
  skab,
  smap_msl,
  vibration,
)

REGISTRY: dict[str, Source] = {
  source.name: source
  for source in (
    adbench.SOURCE, server_machines.ASD, cnc_mill.SOURCE, creditcard.SOURCE,
    cwru.SOURCE, fleet.SOURCE, folder.TABLES, folder.SERIES, mitbih.SOURCE,
    nsl_kdd.SOURCE, oddbench.SOURCE, omniglot.SOURCE, sales_fraud.SOURCE,
    skab.SOURCE, smap_msl.SOURCE, server_machines.SMD, vibration.SOURCE,
  )
}  # fmt: skip


def get(spec: str) -> tuple[Source, dict[str, Any]]:
  """Parses `name:option=value,...` into a source and its checked options."""
  name, options = specs.parse(spec)
  source = specs.look_up('source', REGISTRY, name)
  specs.check(f'source {name!r}', source.load, **options)
  return source, options


def load(spec: str, data_dir: str | None = None) -> list[Entity]:
  """Loads the entities of a source, such as `cwru:snr_db=-6`.

  Its files lie in `<data_dir>/<name>/`; None for simulators. See `validate` for
  what can be relied on. Raises DataError for an unknown source or option,
  missing or broken files, and rows that fail `validate`.
  """
  return read(*get(spec), data_dir)


def read(
  source: Source, options: dict[str, Any], data_dir: str | None
) -> list[Entity]:
  """Loads and checks the entities of a source that `get` returned.

  Where `source.code` says what they depend on, from disk (see `simulated`).
  """

  def load():
    entities = list(source.load(data_dir, **options))
    validate(source, entities)
    return entities

  if not source.code:
    return load()
  return simulated.kept([source.name, options], source.code, load)


def validate(source: Source, entities: Sequence[Entity]) -> None:
  """Checks once what everything behind the sources takes for granted.

  Names are unique; all rows have one shape, with as many columns as the source
  has channels; values are float32 and finite (in `tables` the shape is that of
  the entity, and NaN is a missing value); labels are int32, 0 or 1, one for
  each query row; kinds, where given, are '' for the normal rows alone; there is
  a normal row; sides are known.

  Raises:
    DataError: naming the entity, the row and the column.
  """
  if not entities:
    raise DataError(f'{source.name}: no entities: check data_dir and options')
  names = set()
  for entity in entities:
    same = entity if source.tables else entities[0]
    fault = (
      'the name is taken or empty: make it unique'
      if not entity.name or entity.name in names
      else _fault(entity, source, same.normal.shape[1:])
    )
    if fault:
      raise DataError(f'{source.name}: entity {entity.name!r}: {fault}')
    names.add(entity.name)


def _fault(entity, source, shape):
  """What is wrong with an entity of rows [.., *shape], or ''."""
  channels = entity.columns if source.tables else source.channels
  for part, rows in (('normal', entity.normal), ('query', entity.query)):
    if fault := _fault_of_rows(rows, shape, channels, source.tables):
      return f'{part} {fault}'
  labels, kinds = entity.labels, entity.kinds
  if entity.side not in ('', 'train', 'test'):
    return f"side {entity.side!r}: it must be '', 'train' or 'test'"
  if not len(entity.normal):
    return 'no normal rows: supports need at least one; leave it out'
  if labels.dtype != np.int32 or labels.shape != (len(entity.query),):
    return (
      f'labels are {labels.dtype} {list(labels.shape)}: they must be int32, '
      f'one for each of the {len(entity.query)} query rows'
    )
  bad = np.flatnonzero((labels != 0) & (labels != 1))
  if len(bad):
    return (
      f'query row {bad[0]}: label {labels[bad[0]]}: use 1 for an anomaly, 0 '
      'for normal'
    )
  if kinds and (
    len(kinds) != len(labels)
    or any(kind and not y for kind, y in zip(kinds, labels, strict=True))
  ):
    return 'kinds must be one string per query row, empty where it is normal'
  return ''


def _fault_of_rows(rows, shape, channels, tables):
  if rows.dtype != np.float32 or rows.ndim not in ((2,) if tables else (2, 3)):
    return (
      f'is {rows.dtype} {list(rows.shape)}: it must be float32 [N, F] or '
      '[N, L, C]'
    )
  if rows.shape[1:] != shape:
    return (
      f'rows have shape {list(rows.shape[1:])}, the first of the entity or '
      f'source has {list(shape)}: give all rows one shape'
    )
  if channels and rows.shape[-1] != len(channels):
    return f'has {rows.shape[-1]} columns, there are {len(channels)} names'
  bad = np.argwhere(np.isinf(rows) if tables else ~np.isfinite(rows))
  if len(bad):
    row, *sample, column = bad[0]
    value = rows[tuple(bad[0])]
    where = f'row {row}' + ''.join(f', sample {i}' for i in sample)
    return (
      f'{where}, column {channels[column] if channels else column} is {value}: '
      'remove or repair that row in the file'
    )
  return ''
