"""A user's own fleet: a folder of files, each of them one entity.

`folder` takes every file as a table of its own, of any width; the rows have no
order. `folder_series` takes every file as a recording of the same columns, in
the order of time, from which windows can be cut.
"""

import logging
import pathlib
from typing import NamedTuple

import numpy as np
import pandas as pd

from metaad_jax.base import DataError, Entity, Source
from metaad_jax.data import cells, roles, rows, series, user_files

_log = logging.getLogger(__name__)


class _Options(NamedTuple):
  """Options of both loaders; see `load_tables`."""

  folder: str
  share: float
  max_rows: int
  max_queries: int
  label: str
  anomaly_label: str
  ids: bool


def load_tables(
  data_dir: str | None,
  *,
  path: str = '',
  share: float = 0.5,
  max_rows: int = 2000,
  max_queries: int = 2000,
  label: str = '',
  anomaly_label: str = '',
  ids: bool = False,
) -> list[Entity]:
  """One entity per file, of any width; see `user_files.read` for the files.

  Supports come from the first of the normal rows, all others are scored. A
  file without labels holds normal rows only.

  Args:
    data_dir: the folder, where `path` is not given.
    path: the folder.
    share: of the normal rows, for supports.
    max_rows, max_queries: limits, see `series.thin` and `series.choose`.
    label: the column of labels, see `user_files.read`.
    anomaly_label: the word of an anomaly, see `user_files.read`.
    ids: columns that count the rows or tell the time are features.

  Returns:
    Entities with rows [N, F], named after their files.
  """
  entities = []
  options = _Options(
    str(path) or data_dir or '', share, max_rows, max_queries, label,
    anomaly_label, ids,
  )  # fmt: skip
  for name, x, labels, columns in _read('folder', options):
    if x.ndim != 2:
      raise DataError(
        f'{name} holds windows, not rows: read it with --source=folder_series'
      )
    normal = np.flatnonzero(labels == 0)
    pool = normal[: max(1, round(share * len(normal)))]
    query = np.setdiff1d(np.arange(len(x)), pool)
    query = query[series.choose(labels[query] == 1, max_queries)]
    entities.append(
      Entity(
        name=name,
        normal=x[series.thin(pool, max_rows)],
        query=x[query],
        labels=labels[query],
        kinds=tuple('anomaly' if y else '' for y in labels[query]),
        columns=columns,
      )
    )
  return entities


def load_series(
  data_dir: str | None,
  *,
  path: str = '',
  window: int = 1,
  stride: int = 0,
  share: float = 0.5,
  max_rows: int = 2000,
  max_queries: int = 2000,
  label: str = '',
  anomaly_label: str = '',
  ids: bool = False,
) -> list[Entity]:
  """One entity per file, all of the same columns, rows in the order of time.

  Supports come from the beginning of a file, from what is normal there; the
  rest is scored, after a gap of a window. Files of windows, [n, L, C], are
  taken as they are.

  Args:
    data_dir: the folder, where `path` is not given.
    path: the folder.
    window: rows per window; 1 = rows.
    stride: rows between windows; 0 = `window`.
    share: of the file, its beginning, for supports.
    max_rows, max_queries: limits, see `series.thin` and `series.choose`.
    label, anomaly_label, ids: as for `load_tables`.

  Returns:
    Entities with rows [N, C], or windows [N, window, C], which are anomalous
    where any of their rows is; named after their files.
  """
  entities = []
  options = _Options(
    str(path) or data_dir or '', share, max_rows, max_queries, label,
    anomaly_label, ids,
  )  # fmt: skip
  for name, x, labels, columns in _read('folder_series', options, alike=True):
    if x.ndim > 2 and window != 1:
      raise DataError(f'{name} holds windows already: leave out window')
    entities.append(
      _recording(name, x, labels, columns, window, stride, options)
    )
  return entities


def _recording(name, x, labels, columns, window, stride, options):
  """One file: its beginning for supports, the rest to score."""
  end = round(options.share * len(x))
  pool = series.starts(0, end, window, stride, name)
  later = series.starts(end + window - 1, len(x), window, stride, name)
  inside = lambda first, y=labels: y[first[:, None] + np.arange(window)].max(1)
  pool = pool[inside(pool) == 0]
  if not len(pool) or not len(later):
    raise DataError(
      f'{name}: window={window}, share={options.share} leave no normal '
      f'window for supports, or none to score, of {len(x)} rows: change them'
    )
  later = later[series.choose(inside(later) == 1, options.max_queries)]
  anomalous = inside(later)
  return Entity(
    name=name,
    normal=series.gather(x, series.thin(pool, options.max_rows), window),
    query=series.gather(x, later, window),
    labels=anomalous,
    kinds=tuple('anomaly' if y else '' for y in anomalous),
    columns=columns,
  )


def _read(source, options, alike=False):
  """(name, rows, int32 labels, names of columns) of each file."""
  rows.check_limits(source, options.max_rows, options.max_queries)
  if not 0 < options.share < 1:
    raise DataError(f'{source}: share={options.share}: choose 0 < share < 1')
  root = pathlib.Path(options.folder)
  if not options.folder or not root.is_dir():
    raise DataError(
      f'{source}: {str(root)!r} is no folder: give one of files such as .csv, '
      f'--source={source}:path=... or --data_dir=...'
    )
  files = sorted(
    path
    for path in root.iterdir()
    if path.is_file() and user_files.holds_table(path)
  )
  if not files:
    raise DataError(f'{source}: {root} holds no file such as .csv: add some')
  like = None
  for path in files:
    samples = user_files.read(
      str(path),
      label=options.label,
      anomaly_label=options.anomaly_label,
      features=('*',) if options.ids else (),
      like=like,
    )
    for note in roles.notes(samples.columns):
      _log.warning('%s: %s', path, note)
    labels = samples.labels
    if labels is None:
      labels = np.zeros(len(samples.rows), np.int32)
    if (labels < 0).any():
      raise DataError(
        f'{path}: row {labels.argmin()} has no label: give it one'
      )
    x = samples.rows
    names: tuple[str, ...] = ()
    if isinstance(x, pd.DataFrame):
      like = like if like is not None else x if alike else None
      x = x if like is None else x.reindex(columns=like.columns)
      names = tuple(map(str, x.columns))
      x = np.column_stack([cells.codes(x[column]) for column in names])
    with np.errstate(over='ignore'):
      yield path.name, x.astype(np.float32), labels.astype(np.int32), names


TABLES = Source(
  name='folder',
  description='a folder of your own tables, one entity each, of any width',
  load=load_tables,
  features=('identity',),
  units='yours',
  licence='yours',
  citation='none',
  note='Your own files: .csv and the like (a column called label holds the '
  'labels), .parquet, .npy or .npz (x, and y for the labels), in --data_dir or '
  'path=...',
  tables=True,
)

SERIES = Source(
  name='folder_series',
  description='a folder of your own recordings of the same columns',
  load=load_series,
  features=('identity',),
  units='yours',
  licence='yours',
  citation='none',
  note='Your own files, as for folder, rows in the order of time.',
)
