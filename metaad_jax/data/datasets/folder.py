"""A user's own fleet: a folder of files, each of them one entity.

`folder` takes every file as a table of its own, of any width; the rows have no
order. `folder_series` takes every file as a recording of the same columns, in
the order of time, from which windows can be cut.
"""

import pathlib

import numpy as np

from metaad_jax.base import DataError, Entity, Source
from metaad_jax.data import rows, series, user_rows

_SUFFIXES = ('.csv', '.npy', '.npz')


def load_tables(
  data_dir: str | None,
  *,
  path: str = '',
  share: float = 0.5,
  max_rows: int = 2000,
  max_queries: int = 2000,
) -> list[Entity]:
  """One entity per file, of any width; see `user_rows.table` for the files.

  Supports come from the first of the normal rows, all others are scored. A
  file without labels holds normal rows only.

  Args:
    data_dir: the folder, where `path` is not given.
    path: the folder.
    share: of the normal rows, for supports.
    max_rows: the normals are thinned evenly to so many.
    max_queries: so is the query, see `series.choose`.

  Returns:
    Entities with rows [N, F], named after their files.

  Raises:
    DataError: for missing or broken files and for options out of range.
  """
  entities = []
  for name, x, labels, columns in _read(
    'folder', data_dir, path, share, max_rows, max_queries
  ):
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
        columns=columns or tuple(f'column {i}' for i in range(x.shape[1])),
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
    max_rows: the normals are thinned evenly to so many.
    max_queries: so is the query, see `series.choose`.

  Returns:
    Entities with rows [N, C], or windows [N, window, C], which are anomalous
    where any of their rows is; named after their files.

  Raises:
    DataError: for missing or broken files and for options out of range.
  """
  entities = []
  for name, x, labels, columns in _read(
    'folder_series', data_dir, path, share, max_rows, max_queries
  ):
    if x.ndim > 2 and window != 1:
      raise DataError(f'{name} holds windows already: leave out window')
    end = round(share * len(x))
    pool = series.starts(0, end, window, stride, name)
    later = series.starts(end + window - 1, len(x), window, stride, name)
    inside = lambda first, y=labels: y[first[:, None] + np.arange(window)].max(
      1
    )
    pool = pool[inside(pool) == 0]
    if not len(pool) or not len(later):
      raise DataError(
        f'{name}: window={window}, share={share} leave no normal window for '
        f'supports, or none to score, of {len(x)} rows: change them'
      )
    later = later[series.choose(inside(later) == 1, max_queries)]
    anomalous = inside(later)
    entities.append(
      Entity(
        name=name,
        normal=series.gather(x, series.thin(pool, max_rows), window),
        query=series.gather(x, later, window),
        labels=anomalous,
        kinds=tuple('anomaly' if y else '' for y in anomalous),
        columns=columns,
      )
    )
  return entities


def _read(source, data_dir, path, share, max_rows, max_queries):
  """(name, rows, int32 labels, names of columns) of each file."""
  rows.check_limits(source, max_rows, max_queries)
  if not 0 < share < 1:
    raise DataError(f'{source}: share={share}: choose 0 < share < 1')
  root = pathlib.Path(str(path) or data_dir or '')
  if not (path or data_dir) or not root.is_dir():
    raise DataError(
      f'{source}: {str(root)!r} is no folder: give one of .csv, .npy or .npz '
      f'files, --source={source}:path=... or --data_dir=...'
    )
  found = sorted(
    p for p in root.iterdir() if p.suffix.lower() in _SUFFIXES and p.is_file()
  )
  if not found:
    raise DataError(f'{source}: {root} holds no .csv, .npy or .npz: add some')
  for file in found:
    x, y, columns = user_rows.table(str(file))
    labels = np.zeros(len(x), np.int32) if y is None else y.astype(np.int32)
    yield file.name, x, labels, columns


TABLES = Source(
  name='folder',
  description='a folder of your own tables, one entity each, of any width',
  load=load_tables,
  features=('identity',),
  units='yours',
  licence='yours',
  citation='none',
  note='Your own files: .csv (a column called label holds the labels), .npy '
  'or .npz (x, and y for the labels), in --data_dir or path=...',
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
