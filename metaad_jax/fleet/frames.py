"""Long frames: rows of many entities, one below the other, in any order."""

from collections.abc import Sequence
import os
from typing import Any, NamedTuple
import warnings

import numpy as np
import pandas as pd

from metaad_jax.base import DataError
from metaad_jax.data import cells, roles, times, user_files
from metaad_jax.detector import encoding
from metaad_jax.detector.encoding import Columns
from metaad_jax.fleet import pieces


class Layout(NamedTuple):
  """What the columns of the frame of `fit` are; '' = there is none.

  `form` is how times were written, such as %d/%m/%Y, where they were text.
  """

  entity: str
  time: str
  columns: Columns
  form: str = ''

  def like(self) -> user_files.Samples:
    """What a column is there, it is in other frames."""
    like = self.columns.like(self.columns.names)
    return like._replace(columns=self.columns.report)


class Long(NamedTuple):
  """A frame, read.

  Attributes:
    x: [n, F] float64; NaN = missing, texts are codes.
    which: [n] number of the row's entity.
    names: [N] of the entities, as text.
    labels: [n] 0 = normal, 1 = anomaly, -1 = unlabelled; all 0 without any.
    times: [n] float64 seconds, or None.
    keys: [n] ids and times, as they stand in the frame.
    layout: what its columns are.
    texts: the words [n] of columns of text.
  """

  x: np.ndarray
  which: np.ndarray
  names: np.ndarray
  labels: np.ndarray
  times: np.ndarray | None
  keys: pd.DataFrame
  layout: Layout
  texts: Any

  def take(self, rows: np.ndarray) -> encoding.Encoded:
    """Some of the rows, as a detector of one entity takes them."""
    known = encoding.Encoded(self.x, self.layout.columns, self.texts)
    return known.take(rows)


def read(
  frame: Any,
  entity: str = '',
  time: str = '',
  label: str = '',
  known: Layout | None = None,
  grow: bool = False,
  **reading: Any,
) -> Long:
  """Reads a long frame.

  Args:
    frame: of pandas, polars or arrow, a file, a folder of parquet files, or
      one of their `pieces`.
    entity: name of the column that says whose row it is.
    time: of times, or ''.
    label: of labels, 1 = anomaly; '' = found by its name, 'none' = there is
      none.
    known: of the frame of `fit`; None = this is that frame.
    grow: words that are not known become levels.
    **reading: see `user_files.read`.

  Raises:
    DataError: if there is no such column, a row is of no entity, or the rest
      makes no sense.
  """
  options: dict[str, Any] = dict(reading)
  if known is None:
    ids = ','.join(filter(None, [entity, options.pop('id', '')]))
    options |= {'id': ids, 'time': time, 'label': label}
  else:
    entity, time = known.entity, known.time
    options |= {'like': known.like()}
  samples = _samples(frame, options)
  if not isinstance(samples.rows, pd.DataFrame):
    raise DataError('a fleet takes rows of a table: cut no windows')
  if entity not in samples.keys:
    near = roles.nearest(entity, samples.header)
    raise DataError(f'there is no column {entity!r} of entities{near}')
  if time and time not in samples.keys:
    near = roles.nearest(time, samples.header)
    raise DataError(f'there is no column {time!r} of times{near}')
  rows = samples.rows
  if known is not None:
    rows = _alike(rows, known.columns.names)
  columns = None if known is None else known.columns
  encoded = encoding.encode(samples._replace(rows=rows), columns, grow)
  encoding.check(encoded.x, encoded.x.shape[1:], True)
  which, names = _entities(samples.keys[entity], entity)
  labels = samples.labels
  stamps, form = None, known.form if known else ''
  if time:
    stamps, form = _times(samples.keys[time], time, form)
  layout = Layout(entity, time, encoded.columns, known.form if known else form)
  return Long(
    encoded.x, which, names,
    np.zeros(len(which), np.int64) if labels is None else labels,
    stamps, samples.keys, layout, encoded.texts,
  )  # fmt: skip


def warn_of_doubtful(long: Long) -> None:
  """Of names that are one number, and of rows of one entity at one time."""
  numbers = pd.to_numeric(pd.Series(long.names, dtype=object), errors='coerce')
  dotted = np.array(['.' in name for name in long.names])
  same = numbers.notna() & numbers.duplicated(keep=False)
  if (same & dotted).any():
    value = numbers[same & dotted].iloc[0]
    names = ' and '.join(map(repr, long.names[(numbers == value).to_numpy()]))
    warnings.warn(
      f'{names} are one number, and are taken as different entities: write '
      'those of one entity alike', stacklevel=3,
    )  # fmt: skip
  if long.times is not None:
    at = pd.DataFrame({'which': long.which, 'time': long.times})
    twice = (at.duplicated() & at['time'].notna()).to_numpy()
    if twice.any():
      name = long.names[long.which[np.flatnonzero(twice)[0]]]
      warnings.warn(
        f'{twice.sum()} rows have the entity and the time of another one (the '
        f'first is of {name!r}): all of them are taken as known', stacklevel=3,
      )  # fmt: skip


def some(long: Long, rows: np.ndarray) -> Long:
  """Some of the rows, and their entities alone."""
  names, which = np.unique(long.which[rows], return_inverse=True)
  times = None if long.times is None else long.times[rows]
  texts = {name: text[rows] for name, text in long.texts.items()}
  return Long(
    long.x[rows], which, long.names[names], long.labels[rows], times,
    long.keys.iloc[rows], long.layout, texts,
  )  # fmt: skip


def joined(longs: Sequence[Long]) -> Long:
  """Rows of frames of one layout, one below the other."""
  of = lambda get: np.concatenate([get(long) for long in longs])
  names, which = np.unique(
    of(lambda long: long.names[long.which]), return_inverse=True
  )
  first = longs[0]
  texts = {
    name: np.concatenate([long.texts[name] for long in longs])
    for name in first.texts
  }
  return Long(
    of(lambda long: long.x), which, names, of(lambda long: long.labels),
    None if first.times is None else of(lambda long: long.times),
    pd.concat([long.keys for long in longs], ignore_index=True), first.layout,
    texts,
  )  # fmt: skip


def _samples(frame, options):
  if isinstance(frame, pieces.Piece):
    return pieces.read(frame, **options)
  if not isinstance(frame, str | os.PathLike):
    return user_files.from_frame(frame, **options)
  if os.path.isdir(frame):
    return user_files.from_frame(pieces.folder(frame), **options)
  return user_files.read(os.fspath(frame), **options)


def _alike(rows, names):
  """The columns of `fit`; what lacks is missing, what is new is left out."""
  lacking = [name for name in names if name not in rows]
  surplus = [name for name in rows if name not in names]
  for what, some in (
    ('lacks, which is taken for missing', lacking),
    ('has besides, which was not there in fit and is left out', surplus),
  ):
    if some:
      listed = ', '.join(map(repr, some[:5])) + ', ...' * (len(some) > 5)
      warnings.warn(f'column {listed}: the frame {what}', stacklevel=5)
  if len(lacking) == len(names):
    raise DataError(f'the frame holds none of the columns of fit: {names}')
  return rows.reindex(columns=list(names))


def _entities(column, name):
  """[n] numbers and [N] texts of entities, in order of the texts."""
  codes, found = pd.factorize(column)
  if (codes < 0).any():
    row = np.flatnonzero(codes < 0)[0]
    raise DataError(f'row {row} has no {name!r}: say whose it is')
  texts = np.array([_text(value) for value in found], object)
  if '' in texts:
    row = np.flatnonzero(codes == np.flatnonzero(texts == '')[0])[0]
    raise DataError(f'row {row} has no {name!r}: say whose it is')
  names, places = np.unique(texts.astype(str), return_inverse=True)
  return places[codes], names.astype(object)


def _text(value):
  """1, 1.0 and ' 1' are one entity."""
  if isinstance(value, float) and value.is_integer():
    value = int(value)
  return str(value).strip()


def _times(column, name, form):
  """[n] seconds, and how they were written; as in `fit`, if that fits."""
  text = column.dtype == object or isinstance(column.dtype, pd.StringDtype)
  if form and text:
    stripped = column.astype(str).str.strip().where(column.notna())
    try:
      dates = pd.to_datetime(
        stripped.mask(stripped == ''), format=form, utc=True
      )
      return times.seconds(dates), form
    except (ValueError, OverflowError):
      pass
  typed = cells.from_values(name, column)
  if typed.kind not in ('time', 'number'):
    raise DataError(f'column {name!r} of times holds {typed.kind}')
  _, _, form = typed.note.partition('read as ')
  return typed.values.to_numpy(np.float64), form


def layout_to_json(layout: Layout) -> dict[str, Any]:
  """A layout as JSON holds it."""
  columns = layout.columns._asdict()
  columns['levels'] = {k: list(v) for k, v in layout.columns.levels.items()}
  columns['report'] = [list(column) for column in layout.columns.report]
  return layout._asdict() | {'columns': columns}


def layout_from_json(told: dict[str, Any]) -> Layout:
  """The inverse; raises a KeyError, TypeError or ValueError for nonsense."""
  of = told['columns']
  names, empty = (tuple(map(str, of[name])) for name in ('names', 'empty'))
  levels = {str(k): list(map(str, v)) for k, v in of['levels'].items()}
  if not set(levels) <= set(names) or len(set(names)) < len(names):
    raise ValueError('impossible columns')
  report = tuple(roles.Column(*column) for column in of['report'])
  columns = Columns(
    (len(names),), names, levels, report, empty, str(of['decimal'])
  )
  form = str(told.get('form', ''))
  return Layout(str(told['entity']), str(told['time']), columns, form)
