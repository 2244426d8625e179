"""Data sets and simulators: one module and one registry line each."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from metaad_jax import specs
from metaad_jax.base import DataError, Entity, Source
from metaad_jax.data.datasets import (
  adbench,
  cnc_mill,
  creditcard,
  cwru,
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
  'adbench': adbench.SOURCE,
  'asd': server_machines.ASD,
  'cnc_mill': cnc_mill.SOURCE,
  'creditcard': creditcard.SOURCE,
  'cwru': cwru.SOURCE,
  'folder': folder.TABLES,
  'folder_series': folder.SERIES,
  'mitbih': mitbih.SOURCE,
  'nsl_kdd': nsl_kdd.SOURCE,
  'oddbench': oddbench.SOURCE,
  'omniglot': omniglot.SOURCE,
  'sales_fraud': sales_fraud.SOURCE,
  'skab': skab.SOURCE,
  'smap_msl': smap_msl.SOURCE,
  'smd': server_machines.SMD,
  'vibration': vibration.SOURCE,
}


def get(spec: str) -> tuple[Source, dict[str, Any]]:
  """Parses `name:option=value,...` into a source and its options.

  Raises:
    DataError: for an unknown source or option, or a value of a wrong type.
  """
  name, options = specs.parse(spec)
  source = specs.look_up('source', REGISTRY, name)
  specs.check(f'source {name!r}', source.load, **options)
  return source, options


def load(spec: str, data_dir: str | None = None) -> list[Entity]:
  """Loads and checks the entities of a source.

  Args:
    spec: such as `cwru:snr_db=-6`.
    data_dir: the files of a source lie in `<data_dir>/<name>/`; None for
      simulators.

  Returns:
    The entities; see `validate` for what can be relied on.

  Raises:
    DataError: for an unknown source or option, missing or broken files, and
      rows that fail `validate`.
  """
  return read(*get(spec), data_dir)


def read(
  source: Source, options: dict[str, Any], data_dir: str | None
) -> list[Entity]:
  """Loads and checks the entities of a source that `get` returned."""
  entities = source.load(data_dir, **options)
  validate(source, entities)
  return entities


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
  shape = entities[0].normal.shape[1:]
  for entity in entities:
    where = f'{source.name}: entity {entity.name!r}'
    if not entity.name or entity.name in names:
      raise DataError(f'{where}: the name is taken or empty: make it unique')
    names.add(entity.name)
    channels = source.channels
    if source.tables:
      shape, channels = entity.normal.shape[1:], entity.columns
    if entity.side not in ('', 'train', 'test'):
      raise DataError(
        f"{where}: side {entity.side!r}: it must be '', 'train' or 'test'"
      )
    for part in ('normal', 'query'):
      rows = getattr(entity, part)
      _check_rows(where, part, rows, shape, channels, source.tables)
    if not len(entity.normal):
      raise DataError(
        f'{where}: no normal rows: supports need at least one; leave it out'
      )
    labels = entity.labels
    if labels.dtype != np.int32 or labels.shape != (len(entity.query),):
      raise DataError(
        f'{where}: labels are {labels.dtype} {list(labels.shape)}: they must '
        f'be int32, one for each of the {len(entity.query)} query rows'
      )
    bad = np.flatnonzero((labels != 0) & (labels != 1))
    if len(bad):
      raise DataError(
        f'{where}: query row {bad[0]}: label {labels[bad[0]]}: '
        'use 1 for an anomaly, 0 for normal'
      )
    if entity.kinds and (
      len(entity.kinds) != len(labels)
      or any(
        bool(kind) > label
        for kind, label in zip(entity.kinds, labels, strict=True)
      )
    ):
      raise DataError(
        f'{where}: kinds must be one string per query row, empty where the '
        'row is normal'
      )


def _check_rows(where, part, rows, shape, channels, tables):
  if rows.dtype != np.float32 or rows.ndim not in ((2,) if tables else (2, 3)):
    raise DataError(
      f'{where}: {part} is {rows.dtype} {list(rows.shape)}: it must be float32 '
      '[N, F] or [N, L, C]'
    )
  if rows.shape[1:] != shape:
    raise DataError(
      f'{where}: a {part} row has shape {list(rows.shape[1:])}, the first '
      f'of its entity or source has {list(shape)}: give all rows one shape'
    )
  if channels and rows.shape[-1] != len(channels):
    raise DataError(
      f'{where}: {part} has {rows.shape[-1]} columns, the source names '
      f'{len(channels)} channels'
    )
  bad = np.isinf(rows) if tables else ~np.isfinite(rows)
  if bad.any():
    place = np.argwhere(bad)[0]
    column = channels[place[-1]] if channels else place[-1]
    sample = f', sample {place[1]}' if rows.ndim == 3 else ''
    raise DataError(
      f'{where}: {part} row {place[0]}{sample}, column {column} is '
      f'{rows[tuple(place)]}: remove or repair that row in the file'
    )
