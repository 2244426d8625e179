"""Why known rows, or what was found by them, may not be what they seem."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from metaad_jax.data import cells
from metaad_jax.detector.judge import Judge, Judged

_FEW = 5  # normal rows; from fewer, gross faults pass
_MANY = 50  # columns, among which a single one hardly shows
_MOST = 0.3  # share of abnormal rows that no anomalies explain


def of_known(by: Judge) -> Iterator[str]:
  """Lines on the rows that a detector was adapted to."""
  normals, columns = int((by.labels != 1).sum()), len(by.columns)
  if normals < _FEW:
    yield (
      f'{normals} normal rows say little of what is normal: even gross faults '
      'may pass; give 10 or more'
    )
  if columns >= _MANY:
    yield (
      f'{columns} columns are looked at: a fault in a single one must be very '
      'large to be found; --ignore those that matter little'
    )


def of_found(judged: Judged) -> Iterator[str]:
  """Lines on rows that were judged."""
  rows, known = judged.query.rows, judged.judge.support.rows
  if not isinstance(rows, pd.DataFrame):
    return
  names = list(judged.judge.columns)
  rows, known = rows[names], known[judged.judge.labels != 1]
  empty = rows.isna().all() & known.notna().all()
  if empty.any():
    lost = _listed(empty.index[empty])
    yield f'no row has a value in {lost}, all known ones do'
  if blank := int(rows.isna().all(axis=1).sum()):
    yield (
      f'{blank} rows hold no value in the columns that are looked at: what is '
      'said of them means nothing'
    )
  labels = judged.query.labels
  good = np.ones(len(rows), bool) if labels is None else labels != 1
  share = judged.outliers[good].mean() if good.any() else 0.0
  if len(rows) < 2 * _FEW or share <= max(_MOST, 2 * judged.judge.rate):
    return
  beyond = {n: _beyond(rows.loc[good, n], known[n]) for n in names}
  worst = sorted(names, key=lambda name: -beyond[name])[:3]
  told = [f'{n!r} in {beyond[n]:.0%}' for n in worst if 2 * beyond[n] > share]
  where = (
    f' (beyond all of them: {", ".join(told)} of the rows)' if told else ''
  )
  yield (
    f'{share:.0%} of the rows are abnormal: they are of another kind than the '
    f'known ones{where}; give normal rows of this kind, or look for a unit, a '
    'set point or a sensor that has changed'
  )


def _beyond(column, known):
  """The share of values that no known one reaches."""
  if cells.kind_of(column) == 'category':
    levels = set(known.dropna().astype(str))
    return float(np.mean([x == x and str(x) not in levels for x in column]))
  return float(((column < known.min()) | (column > known.max())).mean())


def _listed(names):
  more = f' and {len(names) - 5} more' if len(names) > 5 else ''
  return ', '.join(map(repr, names[:5])) + more
