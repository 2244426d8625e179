"""What the columns of a table are for: features, labels, ids, times.

Names and values both count, since either may lie: what is set aside unasked is
said in a line, with the flag that takes it back.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
import difflib
import itertools
import re
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd

from metaad_jax.base import DataError
from metaad_jax.data import cells
from metaad_jax.data.words import MONTHS
from metaad_jax.data.words import WORDS as _WORDS

# Columns of these names hold labels, unless they hold measured values.
LABELS = ('label', 'labels', 'y', 'anomaly')
_NORMAL = _WORDS['good'] | _WORDS['normal']
_ANOMALY = _WORDS['anomaly']
_CLEAR = (_NORMAL | _ANOMALY) - _WORDS['plain']  # say it in any column
_JUDGING = (_NORMAL | _ANOMALY) - _WORDS['answers']
_FEW, _LEAST, _SURE = 20, 5, 10  # levels; rows that show a role, that prove it
_EPOCHS = tuple((1e9 * unit, 2.1e9 * unit) for unit in (1, 1e3, 1e6, 1e9))
_RANGES = {
  'year': (1800, 2200), 'month': (1, 12), 'day': (1, 31), 'hour': (0, 24),
  'minute': (0, 60), 'second': (0, 60), 'weekday': (0, 7), 'week': (0, 53),
  'quarter': (1, 4), 'yearday': (0, 366),
}  # fmt: skip
_CODES = (-999, -9999, -99999, 9999, 99999, 999999, -32768, -999.9, -999.99)
_UUID = re.compile(r'[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{16,}')


class Column(NamedTuple):
  """One line of the report.

  Attributes:
    name: of the column.
    kind: 'number', 'category', 'time', 'empty' or 'ignored'.
    missing: share of the cells that hold nothing.
    role: 'feature', 'label', 'id', 'time' or 'ignored'.
    why: reason for the role or for how the cells are read, or ''.
  """

  name: str
  kind: str
  missing: float
  role: str
  why: str


class Given(NamedTuple):
  """What the user says of columns, by name, see `user_files.read`."""

  label: str = ''
  ignore: tuple[str, ...] = ()
  features: tuple[str, ...] = ()
  time: tuple[str, ...] = ()
  id: tuple[str, ...] = ()

  def as_in(self, known: Iterable[Column]) -> Self:
    """The roles of the columns of known rows, where nothing else is said."""
    said = {*self.ignore, *self.features, *self.time, *self.id, self.label}
    of = lambda role: tuple(
      c.name for c in known if c.role == role and c.name not in said
    )
    return self._replace(
      label=self.label or next(iter(of('label')), ''),
      ignore=(*self.ignore, *of('ignored')),
      features=(*self.features, *of('feature')),
      time=(*self.time, *of('time')),
      id=(*self.id, *of('id')),
    )

  def check(self, header: Sequence[str]) -> None:
    """Refuses names that no column has."""
    label = () if self.label in ('', 'none') else (self.label,)
    for flag, names in {**self._asdict(), 'label': label}.items():
      for name in names:
        if name not in header and (flag, name) != ('features', '*'):
          raise DataError(
            f'--{flag}: there is no column {name!r}{nearest(name, header)}'
          )


def report(
  table: Mapping[str, cells.Typed], given: Given, labelled: bool = True
) -> tuple[Column, ...]:
  """Says what every column is for.

  Args:
    table: the typed columns.
    given: what is known of them.
    labelled: whether one of them may hold the labels; else those that look
      like labels say what is known apart, and are no features.
  """
  label, leaks = _find_labels(table, given, labelled)
  told = {
    **dict.fromkeys(leaks, ('ignored', 'looks like labels')),
    **dict.fromkeys(given.id, ('id', '')),
    **dict.fromkeys(given.time, ('time', '')),
    **dict.fromkeys(given.features, ('feature', '')),
    **dict.fromkeys(given.ignore, ('ignored', '')),
    label: ('label', '' if given.label == label else 'is taken for the labels'),
  }
  entries = []
  for name, typed in table.items():
    role, why = told.get(name) or _role(name, typed)
    if '*' in given.features and role in ('id', 'time') and name not in told:
      role, why = 'feature', ''
    if role == 'feature':
      why = ', '.join(filter(None, (typed.note, why)))
    share = float(typed.values.isna().mean()) if len(typed.values) else 0.0
    entries.append(Column(name, typed.kind, share, role, why))
  return tuple(entries)


def _parts(name):
  """The words of a name, and all of it as one."""
  name = re.sub(r'(?<=[a-z])(?=[A-Z])', ' ', name)
  words = re.findall(r'[^\W\d_]+', name.lower())
  return {*words, ''.join(words)}, ''.join(words)


def _role(name, typed):
  """('id' | 'time' | 'feature', why), from the values and the name."""
  values = typed.values.dropna()
  parts, plain = _parts(name)
  named = {k: bool(parts & _WORDS[k]) for k in _WORDS}
  if typed.kind == 'time' and typed.note.startswith('dates'):
    return 'time', 'holds dates'
  if typed.kind == 'category':
    texts = values.astype(str)
    if len(texts) and texts.str.isdigit().all():  # as text in a frame
      if found := _calendar(texts.to_numpy(np.float64), plain):
        return 'time', found
    return _role_of_words(values, named['identifying'])
  if typed.kind not in ('number', 'time') or len(values) < 3:
    return 'feature', ''
  x = values.to_numpy(np.float64)
  if not np.isfinite(x).all():
    return 'feature', ''
  whole = bool((x == np.round(x)).all())
  if whole and (found := _calendar(x, plain)):
    return 'time', found
  if (x == x[0]).all():
    return 'feature', ''
  role, why = _role_of_numbers(x, values.index.to_numpy(), whole, named)
  if not why and plain in _WORDS['timing'] and len(set(x)) > 0.9 * len(x):
    why = 'is looked at; if it says when the row was taken, --time it'
  return 'time' if role == 'id' and typed.kind == 'time' else role, why


def _role_of_words(values, named):
  count, levels = len(values), values.nunique()
  keys = {cells.key(level) for level in values.unique()}
  if keys and keys <= {*MONTHS} | _WORDS['weekdays']:
    return 'time', 'holds names of months or days'
  if count >= _LEAST and levels == count:
    return 'id', 'holds another word in every row'
  if count >= _SURE and (levels > 0.9 * count or named and levels > count / 2):
    return 'id', 'holds another word in almost every row'
  if keys and all(map(_UUID.fullmatch, keys)):
    return 'id', 'holds keys of a database'
  return 'feature', ''


def _calendar(x, plain):
  """Why whole numbers are dates or parts of dates, or ''."""
  low, high = next(
    (r for part, r in _RANGES.items() if plain in _WORDS[part]), (1, 0)
  )
  if low <= x.min() and x.max() <= high:
    return 'is a part of a date'
  forms = {8: '%Y%m%d', 12: '%Y%m%d%H%M', 14: '%Y%m%d%H%M%S'}
  form = forms.get(len(f'{x[0]:.0f}'))
  if form and len(x) >= _LEAST:
    texts = pd.Series([f'{v:.0f}' for v in x])
    dates = pd.to_datetime(texts, format=form, errors='coerce')
    if dates.dt.year.between(1900, 2200).all():
      return 'holds dates'
  return ''


def _role_of_numbers(x, places, whole, named):
  count, distinct = len(x), len(np.unique(x))
  steps, gaps = np.diff(x), np.diff(places)
  rising = (steps >= 0).all() or (steps <= 0).all()
  if count >= (3 if named['identifying'] or named['timing'] else _LEAST):
    slope = steps / gaps
    rounding = 1e-6 * np.abs(slope).max() + 4e-16 * np.abs(x).max()
    if steps.all() and np.ptp(slope) <= rounding:
      return 'id', 'counts the rows'
    again = steps != 1
    if whole and again.mean() <= 0.1 and (x[1:][again] == x[0]).all():
      return 'id', 'counts the rows, and starts again'
  if count >= _LEAST:
    epoch = any(low < x.min() and x.max() < high for low, high in _EPOCHS)
    if epoch and (rising or named['timing']):
      return 'time', 'holds times since 1970'
    if rising and named['timing']:
      return 'time', 'only rises or falls, as time does'
  if whole and (
    (named['identifying'] and distinct > count / 2)
    or (named['certain'] and distinct >= _LEAST)
  ):
    return 'id', 'is called an id and holds whole numbers'
  if count < _SURE:
    return 'feature', _code_of_missing(x)
  if whole and distinct == count and np.ptp(x) == count - 1:
    return 'id', 'holds the numbers of rows, in another order'
  if rising and distinct > count / 2:
    if whole and distinct == count:
      return 'id', 'only rises or falls, as a counter does'
    if named['counting']:
      return 'time', 'only rises or falls, as a counter does'
    return 'feature', (
      'only rises or falls, so that new rows may lie outside of what is known; '
      'if it counts, --ignore it'
    )
  return 'feature', _code_of_missing(x)


def _code_of_missing(x):
  """A remark on values such as -9999 that lie far from all others."""
  for code in _CODES:
    rest = x[x != code]
    if len(rest) < len(x) and len(rest) and abs(code) > 9 * abs(rest).max():
      return f'holds {code}: if that means missing, leave those cells empty'
  return ''


def notes(
  entries: Sequence[Column],
  rows: pd.DataFrame | None = None,
  known: pd.DataFrame | None = None,
  known_entries: Sequence[Column] = (),
) -> tuple[str, ...]:
  """A line for each column that was set aside unasked, or read with a note.

  Args:
    entries: the report.
    rows: the features, to be compared with those of known rows.
    known: the known rows, or None.
    known_entries: their report.
  """
  lines = []
  told = {(c.name, c.role, c.why) for c in known_entries}
  for name, _, _, role, why in entries:
    if (name, role, why) in told:
      continue
    if role == 'label' and why and name.strip().lower() not in LABELS:
      lines.append(f'column {name!r} {why}; if it holds none, --label=none')
    elif role == 'ignored' and why:
      lines.append(
        f'column {name!r} {why}: left out; if it is a feature, '
        f'--features={name}; if they are the labels, --label={name}'
      )
    elif role in ('id', 'time') and why:
      lines.append(
        f'column {name!r} {why}: it is no feature; to make it one, '
        f'--features={name}'
      )
    elif role == 'feature' and why:
      lines.append(f'column {name!r}: {why}')
  if rows is not None and known is not None:
    for name in rows.columns.intersection(known.columns):
      lines += cells.unseen(name, rows[name], known[name])
    units = {c.name: _unit(c.why) for c in known_entries}
    lines += [
      f'column {c.name!r} is in {_unit(c.why) or "no unit"} here, and in '
      f'{units[c.name] or "none"} in the known rows'
      for c in entries
      if c.role == 'feature' and units.get(c.name, _unit(c.why)) != _unit(c.why)
    ]
  return tuple(lines)


def _unit(why):
  found = re.search(r"('[^']+') is left off", why)
  return found[1] if found else ''


def long_format(rows: pd.DataFrame, keys: pd.DataFrame) -> tuple[str, ...]:
  """A line on one column of readings, each named in a second one, or none."""
  words = rows.columns[rows.dtypes == 'category']
  numbers = rows.columns.difference(words)
  for when, word in itertools.product(keys, words if len(numbers) == 1 else ()):
    pairs = pd.DataFrame({'when': keys[when], 'word': rows[word]})
    few = pairs.nunique() <= len(pairs) / 2
    if few.all() and not pairs.duplicated().any():
      return (
        f'each {when!r} stands in several rows, one for each {word!r}: if '
        f'that names what {numbers[0]!r} measures, make a column of each '
        f'first, as pandas does: pivot(index={when!r}, columns={word!r})',
      )
  return ()


def same_names(new: Iterable[str], known: Iterable[str]) -> dict[str, str]:
  """New names -> known ones that differ from them in case and marks alone."""
  fold = lambda name: re.sub(r'[\W_]+', '', name).casefold()
  new, known = set(new), set(known)
  folded = {fold(name): name for name in known - new}
  count = collections.Counter(fold(name) for name in new | known)
  return {
    name: folded[fold(name)]
    for name in new - known
    if fold(name) in folded and count[fold(name)] == 2
  }


def nearest(name: str, known: Iterable[str]) -> str:
  """'; did you mean ...?' for a name that does not exist, or ''."""
  folded = {other.casefold(): other for other in known}
  close = difflib.get_close_matches(name.casefold(), folded, 1, 0.5)
  return f'; did you mean {folded[close[0]]!r}?' if close else ''


def _are_known(y):
  return y.dtype == np.int64 and set(np.unique(y)) <= {0, 1}


# --- labels ------------------------------------------------------------------


def _find_labels(table, given, labelled):
  """The column of labels or '', and others that look like one."""
  if given.label and given.label != 'none':
    label = given.label if given.label in table else ''
  free = [
    name
    for name, typed in table.items()
    if typed.kind in ('number', 'category')
    and name not in {*given.features, *given.ignore, *given.id, *given.time}
  ]
  found = {name: _likely(name, table[name]) for name in free}
  leaks = [n for n in free if found[n] and n != given.label]
  if given.label == 'none':
    return '', ()
  if not labelled:
    return '', [] if '*' in given.features else leaks
  if given.label:
    return label, leaks
  best = sorted((n for n in free if found[n] > 1), key=lambda n: -found[n])
  label = best[0] if best else ''
  return label, [n for n in leaks if n != label]


def _likely(name, typed):
  """3: surely labels; 2: perhaps; 1: as good as labels, and no feature."""
  levels = _levels(typed.values)
  words = typed.kind == 'category'
  few = len(levels) <= _FEW and (words or all(map(_is_whole, levels)))
  parts, plain = _parts(name)
  if not levels or not few:
    return 0
  if name.strip().lower() in LABELS:
    other = plain == 'y' and not words and not levels <= {'0', '1', '-1'}
    return 1 if other else 3
  if _are_labels(levels) and not levels & _CLEAR and _says_normal(parts):
    return 1
  if _are_labels(levels) and (
    parts & (_WORDS['labelled'] | _WORDS['exactly']) or levels & _CLEAR
  ):
    return 2
  if plain in _WORDS['labelled'] | _WORDS['exactly']:
    return 1
  return int(words and (bool(parts & _WORDS['labelled']) or _judge(levels)))


def _judge(levels):
  """Whether words say what is good or bad, whatever their column is called."""
  judging = levels & _JUDGING
  both = bool(judging & _NORMAL and judging & _ANOMALY)
  alone = bool(judging) and levels <= _NORMAL | _ANOMALY
  return both or alone or bool(judging & _ANOMALY & _CLEAR)


def _levels(values):
  return {_word(value) for value in values.dropna().unique()}


def _word(value):
  """The `cells.key` of a value; of words without marks: 'n.i.O.' is 'nio'."""
  key = cells.key(value)
  wordy = any(map(str.isalpha, key))
  return re.sub(r'[\W_]+', '', key) or key if wordy else key


def _says_normal(parts):
  denied = parts & {'not', 'non', 'no'} and parts & _WORDS['labelled']
  return bool(parts & _WORDS['good'] or denied)


def _is_whole(level):
  return re.fullmatch(r'-?\d+', level) is not None


def _are_labels(levels):
  if levels <= {'0', '1'}:
    return True
  return levels <= _NORMAL | _ANOMALY and len(levels) <= 2


def echoes(
  table: Mapping[str, cells.Typed], names: Sequence[str], labels: np.ndarray
) -> list[str]:
  """Names of columns of two values that say the same as labels [n]."""
  known = labels >= 0
  found = []
  for name in names:
    codes = pd.factorize(table[name].values)[0][known]
    same = [
      np.array_equal(codes, y) for y in (labels[known], 1 - labels[known])
    ]
    if any(same) and min((codes == 0).sum(), (codes == 1).sum()) >= _LEAST:
      found.append(name)
  return found


def check_name(name: str, values: Any, anomaly_label: str) -> None:
  """Refuses labels such as `is_normal` = 1, which mean the contrary of ours."""
  if not name or anomaly_label or not _says_normal(_parts(name)[0]):
    return
  levels = _levels(values)
  if _are_labels(levels) and not levels & _CLEAR:
    raise DataError(
      f'column {name!r} says what is normal: name the value of an anomaly with '
      '--anomaly_label, such as --anomaly_label=0'
    )


def labels(
  values: Any, count: int, anomaly_label: str = ''
) -> np.ndarray | None:
  """Reads labels: 0 and 1, or words whose meaning is known.

  Args:
    values: [count] numbers or categories, or None.
    anomaly_label: the word of an anomaly; every other word is normal then.

  Returns:
    [count] int64, 1 = anomaly, 0 = normal, -1 = nobody knows; None if
    there are none.

  Raises:
    DataError: if they are anything else, or words that nobody explained.
  """
  if values is None:
    return None
  wrong = DataError(
    f'labels must be one for each of the {count} rows, 0 = normal, 1 = '
    'anomaly, missing = unlabelled; if that column holds no labels, say '
    '--label=none'
  )
  if not isinstance(values, pd.Series):
    values = np.asarray(values)
    if values.ndim != 1 or values.dtype.kind not in 'biufU':
      raise wrong
    if len(values) == count and not anomaly_label and _are_known(values):
      return values
    values = cells.from_values('label', values).values
  if len(values) != count:
    raise wrong
  keys = values.map(_word, na_action='ignore').astype(object)
  levels = set(keys.dropna())
  if anomaly_label:
    bad = {_word(word) for word in anomaly_label.split('|')}
    if not bad & levels and len(levels) > 1:
      raise DataError(
        f'no label is {anomaly_label!r}; there are '
        f'{", ".join(sorted(levels)[:5])}'
      )
  elif levels <= {'0', '1'}:
    bad = {'1'}
  elif levels <= {'-1', '0', '1'}:
    raise DataError(
      'labels are 1 and -1, and -1 may mean an anomaly or a row that nobody '
      'checked: say --anomaly_label=-1, or write 0 = normal, 1 = anomaly and '
      'leave the cells of unchecked rows empty'
    )
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
