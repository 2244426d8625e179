"""A user's own fleet: a folder of files, each of them one entity.

`folder` takes every file as a table of its own, of any width; the rows have no
order. `folder_series` takes every file as a recording of the same columns, in
the order of time, from which windows can be cut.
"""

from collections.abc import Iterator
import logging
import pathlib

import numpy as np

from metaad_jax.base import DataError, Entity, Source
from metaad_jax.data import rows, series

_log = logging.getLogger(__name__)


@rows.limited
def load_tables(
  data_dir: str | None,
  *,
  path: str = '',
  share: float = 0.5,
  label: str = '',
  anomaly_label: str = '',
  ids: bool = False,
) -> Iterator[Entity]:
  """One entity per file, named after it; see `user_files.read` for the files.

  Supports come from the first of the normal rows, all others are scored. A
  file without labels holds normal rows only.

  Args:
    data_dir: the folder, where `path` is not given.
    path: the folder.
    share: of the normal rows, for supports.
    label: the column of labels, see `user_files.read`.
    anomaly_label: the word of an anomaly, see `user_files.read`.
    ids: columns that count the rows or tell the time are features.
  """
  for name, x, labels, columns in _read(
    str(path) or data_dir, share, label, anomaly_label, ids, alike=False
  ):
    if x.ndim != 2:
      raise DataError(
        f'{name} holds windows, not rows: read it with --source=folder_series'
      )
    normal = np.flatnonzero(labels == 0)
    pool = normal[: max(1, round(share * len(normal)))]
    query = np.setdiff1d(np.arange(len(x)), pool)
    kinds = np.where(labels == 1, 'anomaly', '')[query]
    yield rows.entity(name, x[pool], x[query], kinds, columns=columns)


@rows.limited
def load_series(
  data_dir: str | None,
  *,
  path: str = '',
  window: int = 1,
  stride: int = 0,
  share: float = 0.5,
  label: str = '',
  anomaly_label: str = '',
  ids: bool = False,
) -> Iterator[Entity]:
  """One entity per file, all of the same columns, rows in the order of time.

  Supports come from the beginning of a file, from what is normal there; the
  rest is scored, after a gap of a window. A window is anomalous where any of
  its rows is. Files of windows, [n, L, C], are taken as they are.

  Args:
    data_dir: as for `load_tables`.
    path: as for `load_tables`.
    window: see `series.cut`.
    stride: see `series.cut`.
    share: of the file, its beginning, for supports.
    label: as for `load_tables`.
    anomaly_label: as for `load_tables`.
    ids: as for `load_tables`.
  """
  for name, x, labels, columns in _read(
    str(path) or data_dir, share, label, anomaly_label, ids, alike=True
  ):
    if x.ndim > 2 and window != 1:
      raise DataError(f'{name} holds windows already: leave out window')
    end = round(share * len(x))
    inside = lambda y: series.cut(y == 1, window, stride).reshape(-1, window)
    anomalous = inside(labels[:end]).any(1)
    late = inside(labels[end + window - 1 :]).any(1)
    if anomalous.all() or not late.size:
      raise DataError(
        f'{name}: window={window}, share={share} leave no normal window for '
        f'supports, or none to score, of {len(x)} rows: change them'
      )
    normal = series.cut(x[:end], window, stride)[~anomalous]
    query = series.cut(x[end + window - 1 :], window, stride)
    kinds = np.where(late, 'anomaly', '')
    yield rows.entity(name, normal, query, kinds, columns=columns)


def _read(folder, share, label, anomaly_label, ids, alike):
  """(name, rows, labels, names of columns) of each file."""
  import pandas as pd  # half a second that no other source waits for

  from metaad_jax.data import cells, roles, user_files

  if not 0 < share < 1:
    raise DataError(f'share={share}: choose 0 < share < 1')
  root = pathlib.Path(folder or '')
  if not folder or not root.is_dir():
    raise DataError(
      f'{str(root)!r} is no folder: give one of files such as .csv, '
      '--source=folder:path=... or --data_dir=...'
    )
  files = [p for p in sorted(root.iterdir()) if p.is_file()]
  files = [path for path in files if user_files.holds_table(path)]
  if not files:
    raise DataError(f'{root} holds no file such as .csv: add some')
  like = None
  headers: set[str] = set()
  for path in files:
    samples = user_files.read(
      str(path),
      label=label,
      anomaly_label=anomaly_label,
      features=('*',) if ids else (),
      like=like,
    )
    headers |= {*samples.header}
    for note in roles.notes(samples.columns):
      _log.warning('%s: %s', path, note)
    labels = samples.labels
    if labels is None:
      labels = np.zeros(len(samples.rows), int)
    if (labels < 0).any():
      raise DataError(
        f'{path}: row {labels.argmin()} has no label: give it one'
      )
    x = samples.rows
    names: tuple[str, ...] = ()
    if isinstance(x, pd.DataFrame):
      like = samples if like is None and alike else like
      x = x if like is None else x.reindex(columns=like.rows.columns)
      names = tuple(map(str, x.columns))
      x = np.column_stack([cells.codes(x[name]) for name in names])
    with np.errstate(over='ignore'):
      yield path.name, x.astype(np.float32), labels, names
  if headers:
    roles.Given(label).check(sorted(headers))


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
