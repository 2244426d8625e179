"""What the columns of a table are for: features, labels, ids, times."""

from collections.abc import Mapping, Sequence
import difflib
import re
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from metaad_jax.base import DataError
from metaad_jax.data import cells

# Names of columns of labels, without case and punctuation; the first four are
# believed, the others hold labels only if their values are such.
LABELS = ('label', 'labels', 'y', 'anomaly')
_PERHAPS = (
  'class', 'target', 'isanomaly', 'anomalous', 'isfraud', 'fraud', 'outlier',
  'isoutlier', 'attack', 'isattack', 'fault', 'faulty', 'failure',
  'machinefailure', 'changepoint', 'groundtruth', 'isabnormal', 'abnormal',
)  # fmt: skip
_GOOD = frozenset('normal ok okay good healthy benign inlier'.split())
_NORMAL = _GOOD | frozenset(
  'no false regular pass passed negative fine legit genuine nominal nofault '
  '0'.split()
)
_ANOMALY = frozenset(
  'anomaly anomalous abnormal attack fault faulty broken defect defective '
  'malicious yes true fraud fraudulent outlier bad fail failed failure '
  'positive damaged error novelty irregular ill sick 1'.split()
)
_LEAST = 10  # rows that a counter is recognized by
_IDS = re.compile(r'(.*[ _])?(id|index|idx|uuid|guid|key|serial)|unnamed: 0|no')
_EPOCHS = tuple((1e9 * unit, 2.1e9 * unit) for unit in (1, 1e3, 1e6, 1e9))


class Column(NamedTuple):
  """One line of the report.

  Attributes:
    name: of the column.
    kind: 'number', 'category', 'time' or 'empty'.
    missing: share of the cells that hold nothing.
    role: 'feature', 'label', 'id', 'time' or 'ignored'.
    why: reason for the role or for how the cells are read, or ''.
  """

  name: str
  kind: str
  missing: float
  role: str
  why: str


def report(
  table: Mapping[str, cells.Typed],
  *,
  label: str = '',
  ignore: Sequence[str] = (),
  features: Sequence[str] = (),
  set_aside: bool = True,
) -> tuple[Column, ...]:
  """Says what every column is for.

  Args:
    table: the typed columns.
    label: the column of labels, or ''.
    ignore: columns to leave out.
    features: columns that are features whatever they look like.
    set_aside: ids and times are no features.
  """
  entries = []
  for name, typed in table.items():
    role, why = 'feature', typed.note
    if name == label:
      role = 'label'
    elif name in ignore:
      role = 'ignored'
    elif name not in features:
      found, reason = _role(name, typed)
      if found != 'feature':
        why = reason
        role = found if set_aside else role
    share = float(typed.values.isna().mean()) if len(typed.values) else 0.0
    entries.append(Column(name, typed.kind, share, role, why))
  return tuple(entries)


def _role(name, typed):
  """('id' | 'time' | 'feature', why), from the values first, then the name."""
  values = typed.values
  if typed.kind == 'time' and typed.note.startswith('dates'):
    return 'time', 'holds dates'
  if len(values) < _LEAST or values.isna().any():
    return 'feature', ''
  named = bool(_IDS.fullmatch(name.strip().lower()))
  if typed.kind == 'category':
    if values.nunique() == len(values):
      return 'id', 'holds another word in every row'
    return 'feature', ''
  x = values.to_numpy(np.float64)
  steps = np.diff(x)
  if not np.isfinite(x).all() or not (steps != 0).all():
    return 'feature', ''
  rising = (steps > 0).all() or (steps < 0).all()
  if (
    rising
    and np.ptp(steps) <= 1e-6 * np.abs(steps).max() + 4e-16 * np.abs(x).max()
  ):
    return 'id', 'counts the rows'
  if rising and any(low < x.min() and x.max() < high for low, high in _EPOCHS):
    return 'time', 'holds times since 1970'
  whole = (x == np.round(x)).all() and len(np.unique(x)) == len(x)
  if named and whole:
    return 'id', 'is called an id and is another whole number in every row'
  return 'feature', ''


def notes(entries: Sequence[Column]) -> tuple[str, ...]:
  """A line for each column that was set aside unasked, or read with a note."""
  lines = []
  for column in entries:
    if column.role in ('id', 'time'):
      lines.append(
        f'column {column.name!r} {column.why}: it is no feature; to make it '
        f'one, --features={column.name}'
      )
    elif column.role == 'feature' and column.why:
      lines.append(f'column {column.name!r}: {column.why}')
  return tuple(lines)


def nearest(name: str, known: Sequence[str]) -> str:
  """'; did you mean ...?' for a name that does not exist, or ''."""
  folded = {other.casefold(): other for other in known}
  close = difflib.get_close_matches(name.casefold(), folded, 1, 0.5)
  return f'; did you mean {folded[close[0]]!r}?' if close else ''


# --- labels ------------------------------------------------------------------


def find_label(
  table: Mapping[str, cells.Typed], label: str, features: Sequence[str] = ()
) -> tuple[str, tuple[str, ...]]:
  """The column of labels, and others that look like one and are no features.

  Args:
    table: the typed columns.
    label: its name if it is known; 'none' = there is none.
    features: columns that are none, whatever they are called.

  Returns:
    Its name, or ''; names of the others.
  """
  if label:
    return (label if label in table else '', ())
  plain = {
    re.sub(r'[\W_]', '', name.lower()): name
    for name in table
    if name not in features
  }
  sure = [plain[name] for name in LABELS if name in plain]
  perhaps = [plain[name] for name in _PERHAPS if name in plain]
  likely = [name for name in perhaps if _are_labels(table[name].values)]
  first, *others = [*sure[:1], *likely] or ['']
  return first, tuple(others)


def _are_labels(values):
  levels = {cells.key(value) for value in values.dropna().unique()}
  if levels <= {'0', '1'}:
    return True
  return levels <= _NORMAL | _ANOMALY and len(levels) <= 2


def check_name(name: str, values: Any, anomaly_label: str) -> None:
  """Refuses labels such as `is_normal` = 1, which mean the contrary of ours."""
  words = set(re.split(r'[\W_]+', name.lower()))
  if words & _GOOD and _are_labels(values) and not anomaly_label:
    raise DataError(
      f'column {name!r} says what is normal: name the value of an anomaly with '
      '--anomaly_label, such as --anomaly_label=0'
    )


def labels(
  values: Any, count: int, anomaly_label: str = ''
) -> np.ndarray | None:
  """Reads labels: 0 and 1, or words whose meaning is known.

  Args:
    values: [n] numbers or categories, or None.
    count: n.
    anomaly_label: the word of an anomaly; every other word is normal then.

  Returns:
    [n] int64, 1 = anomaly, 0 = normal, -1 = unlabelled (-1 or missing); None
    if there are none.

  Raises:
    DataError: if they are anything else, or words that nobody explained.
  """
  if values is None:
    return None
  wrong = DataError(
    f'labels must be one for each of the {count} rows, 0 = normal, 1 = '
    'anomaly, -1 or missing = unlabelled; if that column holds no labels, say '
    '--label=none'
  )
  if not isinstance(values, pd.Series):
    values = np.asarray(values)
    if values.ndim != 1 or values.dtype.kind not in 'biufU':
      raise wrong
    values = cells.from_values('label', values).values
  if len(values) != count:
    raise wrong
  keys = values.map(cells.key, na_action='ignore').astype(object)
  levels = set(keys.dropna())
  if anomaly_label:
    bad = {cells.key(word) for word in anomaly_label.split('|')}
    if not bad <= levels and not levels <= {*_NORMAL, '0'}:
      raise DataError(
        f'no label is {anomaly_label!r}; there are '
        f'{", ".join(sorted(levels)[:5])}'
      )
  elif levels <= {'-1', '0', '1'}:
    if levels == {'-1', '1'}:
      raise DataError(
        'labels are 1 and -1 and never 0, and may mean either: write 0 = '
        'normal, 1 = anomaly, and leave the cells of unlabelled rows empty'
      )
    bad = {'1'}
    keys = keys.mask(keys == '-1')
  elif levels <= _NORMAL | _ANOMALY:
    bad = levels & _ANOMALY
  elif cells.kind_of(values) == 'category':
    words = ', '.join(sorted(levels)[:5])
    raise DataError(
      f'the labels are {words}: name the word of an anomaly with '
      '--anomaly_label, or say --label=none if that column holds no labels'
    )
  else:
    raise wrong
  return np.where(keys.isna(), -1, keys.isin(bad)).astype(np.int64)
