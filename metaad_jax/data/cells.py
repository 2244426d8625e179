"""What a cell of text means: missing, a number, a time, or a category.

The rules are the same for files, frames, folders and rows that arrive one by
one. A column is read as a whole: its cells are all numbers, all times, or all
words, and a column that mixes numbers and words is refused.
"""

from collections.abc import Iterable, Mapping, Sequence
import datetime
import decimal as decimal_lib
import functools
import numbers as numbers_lib
import re
from typing import Any, NamedTuple
import uuid

import numpy as np
import pandas as pd

from metaad_jax.base import DataError
from metaad_jax.data import times as times_lib
from metaad_jax.data.words import WORDS

_SPACES = ' \u00a0\u202f\u2009'
_GROUPS = f"{_SPACES}'’_"
_SIGNS = '$€£¥₹₽₩₺₪฿'
_CURRENCY = (
  rf'(?:[A-Z]{{0,3}}[{_SIGNS}]|(?i:{"|".join(WORDS["currencies"])})(?![a-z]))'
)
_NUMBER = re.compile(
  rf'(?P<open>\()?(?P<bound>[<>≤≥~≈]=?\s*)?(?P<minus>[-−–+])?\s*'
  rf'(?P<currency>{_CURRENCY})?\s*'
  rf'(?P<minus2>[-−–+])?(?P<digits>[\d.,][\d.,{_GROUPS}]*)'
  rf'(?P<exponent>[eEdD][-+]?\d+)?(?P<minus3>-(?![\w(]))?'
  r'(?P<gap>[\s\u00a0\u202f]+)?'
  rf'(?P<unit>(?:[^\W\d_]|[%‰°µ{_SIGNS}])[^\s(),;]{{0,11}}|1/[a-z]+)?'
  r'(?P<close>\))?'
)
_HEX = re.compile(r'[-+]?0[xX][0-9a-fA-F]+')
_NUMERIC = ('integer', 'floating', 'mixed-integer-float', 'decimal', 'boolean')
_TOLD = (
  str, datetime.date, datetime.time, datetime.timedelta, pd.Interval, uuid.UUID,
  numbers_lib.Real, decimal_lib.Decimal,
)  # fmt: skip
_SOME, _WORDS = 5, 0.2  # rows, and share of words, that make codes of numbers


class _Number(NamedTuple):
  """A cell read as a number: '>= 5 kg' is 5, '>', 'kg', spaced."""

  value: float
  bound: str = ''
  unit: str = ''
  spaced: bool = False


def is_missing(cell: str) -> bool:
  """Whether a cell of text holds nothing."""
  cell = cell.strip().lower()
  return not cell or cell in WORDS['missing'] or cell in WORDS['marks']


def missing(cells: Sequence[str]) -> np.ndarray:
  """Which stripped cells of one column hold nothing; [n] bool."""
  series = pd.Series(cells, dtype=object)
  lower = series.str.lower()
  empty = (lower.isin(WORDS['missing']) | (lower == '')).to_numpy(bool)
  marks = series.isin(WORDS['marks']).to_numpy(bool)
  stated = series[~empty & ~marks].unique()
  if not len(stated) and marks.any() and series[marks].nunique() > 1:
    return empty  # a column of nothing but marks: they are its values
  if len(stated) and not any(re.search(r'\w', cell) for cell in stated):
    return empty
  return empty | marks


def is_number(cell: str) -> bool:
  """Whether a cell reads as a number, in whatever style; '3A' is a word."""
  found = _parse(cell.strip(), '.') or _parse(cell.strip(), ',')
  return found is not None and (
    found.spaced or not any(map(str.isalpha, found.unit.removeprefix('0x')))
  )


def key(value: Any) -> str:
  """What makes two spellings one category: '1', 1.0 and ' 1'; yes and Yes."""
  if isinstance(value, bool | np.bool_):
    return str(bool(value)).lower()
  text = ' '.join(str(value).split()).casefold()
  if len(text) < 17 and re.fullmatch(r'[-+]?\d+(\.\d*)?(e[-+]?\d+)?', text):
    return f'{float(text):.17g}'
  return text


@functools.lru_cache(maxsize=1 << 14)
def _parse(cell: str, decimal: str) -> _Number | None:
  """Reads a number with whatever is put around it."""
  if _HEX.fullmatch(cell):
    return _Number(float(int(cell, 16)), unit='0x')
  match = _NUMBER.fullmatch(cell)
  if match is None or bool(match['open']) != bool(match['close']):
    try:
      return _Number(float(cell))  # inf
    except ValueError:
      return None
  digits = match['digits'].rstrip(_SPACES)
  group = f'[{"," if decimal == "." else "."}{_GROUPS}]'
  fraction = re.escape(decimal)
  grouped = (
    rf'[1-9]\d{{0,2}}(?P<g>{group})\d{{3}}((?P=g)\d{{3}})*({fraction}\d*)?'
  )
  indian = r'\d\d?(,\d\d)+,\d{3}(\.\d*)?' if decimal == '.' else grouped
  if re.fullmatch(grouped, digits) or re.fullmatch(indian, digits):
    digits = re.sub(group, '', digits)
  elif not re.fullmatch(rf'\d+({fraction}\d*)?|{fraction}\d+', digits):
    return None
  exponent = re.sub('[dD]', 'e', match['exponent'] or '')
  value = float(digits.replace(decimal, '.') + exponent)
  signs = [s for s in match.group('minus', 'minus2', 'minus3') if s]
  if len(signs) > 1:
    return None
  if match['open'] or any(sign != '+' for sign in signs):
    value = -value
  spaced = match['digits'] != digits and match['digits'][-1] in _SPACES
  spaced |= bool(match['gap'])
  bound = (match['bound'] or '').strip()
  unit = match['unit'] or (match['currency'] or '').strip()
  return _Number(value, bound, unit, spaced)


def numbers(
  cells: Sequence[str], lost: np.ndarray, decimal: str = '.'
) -> tuple[np.ndarray, str] | None:
  """Reads stripped cells as numbers; None if any is none, or units differ.

  Args:
    cells: [n] stripped.
    lost: [n] bool, see `missing`.
    decimal: the sign before the fraction, '.' or ','.

  Returns:
    [n] float64, NaN where missing; a note of what was left off the cells.
  """
  text = pd.Series(cells, dtype=object).mask(lost)
  if decimal == '.' or not any('.' in cell for cell in cells):
    plain = text.str.replace(',', '.') if decimal == ',' else text
    plain = pd.to_numeric(plain, errors='coerce').to_numpy(np.float64)
    if not (np.isnan(plain) & ~lost).any():
      return plain, ''
  parsed: dict[str, _Number] = {}
  for cell in text.dropna().unique():
    number = _parse(cell, decimal)
    if number is None:
      return None
    parsed[cell] = number
  units = {n.unit for n in parsed.values() if n.value or n.unit}
  if len(units) > 1:
    return None
  notes = [f'{unit!r} is left off' for unit in units if unit]
  if bounds := [c for c, n in parsed.items() if n.bound]:
    notes.append(f'a bound such as {bounds[0]!r} counts as its value')
  values = text.map({cell: number.value for cell, number in parsed.items()})
  return values.to_numpy(np.float64), ', '.join(notes)


def decimal_sign(
  columns: Iterable[Sequence[str]], delimiter: str, known: str = ''
) -> tuple[str, dict[int, str]]:
  """The sign before fractions in a table of text: '.' or ','.

  A column that reads as numbers with one of the two alone decides. Where all
  can be read either way, as 1,234 can, known rows decide, or else numbers that
  stand beside it as 7 and not as 7.000; or a comma as the delimiter, which says
  that the one within cells groups thousands.

  Args:
    columns: of stripped cells.
    delimiter: between cells.
    known: the sign in known rows, or ''.

  Returns:
    The sign; if nothing decided, a cell that could be read either way of each
    column that holds such, by its place.
  """
  doubtful: dict[int, str] = {}
  likely = ''
  for i, cells in enumerate(columns):
    unique = list(dict.fromkeys(_stated(cells, missing(cells))))[:1000]
    marked = [c for c in unique if ',' in c or '.' in c]
    if not marked:
      continue
    point, comma = (
      all(_parse(cell, sign) is not None for cell in unique) for sign in '.,'
    )
    commas = any(',' in cell for cell in marked)
    if point != comma and (commas or comma):
      return ('.' if point else ','), {}
    if point and comma:
      if commas or delimiter in (';', '\t'):
        doubtful[i] = marked[0]
      short = any(re.fullmatch(r'[-+]?\d{1,3}', cell) for cell in unique)
      if short and delimiter != ',' and not likely:
        likely = '.' if commas else ','
    elif point:
      known = known or '.'
  sign = known or likely
  if sign or not doubtful:
    return sign or '.', {}
  commas = any(',' in cell for cell in doubtful.values())
  sign = ',' if commas and delimiter != ',' else '.'
  return sign, doubtful


def decimal_notes(
  sign: str, doubtful: Mapping[int, str], names: Sequence[str]
) -> list[str]:
  """What is to be said of what `decimal_sign` found in columns of names."""
  return ['a comma is the decimal sign'] * (sign == ',') + [
    f'column {names[i]!r}: {cell!r} is read with {sign!r} as the decimal sign, '
    'and could mean thousands'
    for i, cell in doubtful.items()
  ]


def _stated(cells, lost):
  return [cell for cell, gone in zip(cells, lost, strict=True) if not gone]


class Typed(NamedTuple):
  """One column, typed.

  Attributes:
    values: [n] float64, or categories of text; NaN = missing.
    kind: 'number', 'category', 'time' or 'empty'.
    note: how the cells were read where that is worth saying, or ''.
  """

  values: pd.Series
  kind: str
  note: str


def typed(
  name: str,
  cells: Sequence[str],
  *,
  like: pd.Series | None = None,
  decimal: str = '.',
  places: Sequence[int] | None = None,
  codes: bool = False,
) -> Typed:
  """Types a column of text.

  Args:
    name: of the column, for messages.
    cells: [n].
    like: the same column of known rows: the kind it has there is the kind here,
      unless all of it is missing there.
    decimal: see `decimal_sign`.
    places: [n] numbers of the lines that the cells stand in, for messages.
    codes: whole numbers that come again are categories, as in a frame, where
      somebody made them text.

  Raises:
    DataError: if it mixes numbers and words, naming the cell.
  """
  cells = [cell.strip() for cell in cells]
  lost = missing(cells)
  wanted = _wanted(like)
  if lost.all() and wanted != 'category':
    return Typed(pd.Series(np.full(len(cells), np.nan)), 'empty', '')
  if wanted == 'category' or (codes and not wanted and _are_codes(cells, lost)):
    return Typed(categories(cells, lost), 'category', '')
  for sign in (decimal, ',' if decimal == '.' else '.'):
    if read := numbers(cells, lost, sign):
      return Typed(pd.Series(read[0]), 'number', read[1])
  if (truth := _truth(cells, lost)) is not None:
    return Typed(pd.Series(truth), 'number', '')
  if timed := times_lib.read(cells, lost):
    return Typed(pd.Series(timed[0]), 'time', timed[1])
  note = _mixed(name, cells, lost, wanted, places)
  return Typed(categories(cells, lost), 'category', note)


def _truth(cells, lost):
  """[n] float64 of True and False; None if there is anything else."""
  known = {'true': 1.0, 'false': 0.0}
  values = np.array([known.get(c.lower(), np.nan) for c in cells])
  return values if (np.isnan(values) == lost).all() else None


def _are_codes(cells, lost):
  """Whether whole numbers that somebody made text come again, or as 007."""
  stated = _stated(cells, lost)
  return all(map(str.isdigit, stated)) and (
    3 * len(set(stated)) <= 2 * len(stated)
    or any(c[0] == '0' and len(c) > 1 for c in stated)
  )


def _mixed(name, cells, lost, wanted, places):
  """A note on codes such as 7 and 7A; refuses numbers among words."""
  stated = ~lost
  number = {cell: is_number(cell) for cell in set(cells)}
  numeric = stated & np.array([number[cell] for cell in cells], bool)
  wrong = stated & ~numeric
  if not numeric.any() and not wanted:
    return ''
  whole = all(cells[i].isdigit() for i in np.flatnonzero(numeric))
  units = {_parse(cells[i], '.') for i in np.flatnonzero(numeric)}
  many = len({found.unit for found in units if found}) > 3
  share = wrong.sum() / stated.sum() if stated.sum() >= _SOME else 0.0
  if not wanted and (many or share >= (_WORDS if whole else 0.5)):
    return 'numbers among its words count as words'
  i = int(np.flatnonzero(wrong if wrong.any() else stated)[0])
  where = '' if places is None else f'line {places[i]}: '
  what = repr(cells[i][:40])
  why = f'mixes units, as in {what}'
  if wanted:
    why = f'held numbers in the known rows, and here {what}'
  elif wrong.any():
    why = f'holds {what}, other cells of it are numbers'
  raise DataError(
    f'{where}column {name!r} {why}: mend it, leave it empty, or --ignore={name}'
  )


def _wanted(like):
  """The kind that known rows prescribe, or ''."""
  return '' if like is None or like.isna().all() else kind_of(like)


def kind_of(column: pd.Series) -> str:
  """'category' or 'number': the kind of a column that has been typed."""
  words = isinstance(column.dtype, pd.CategoricalDtype)
  return 'category' if words else 'number'


def categories(cells: Sequence[Any], lost: np.ndarray) -> pd.Series:
  """A column of words; spellings of one `key` become the first of them."""
  spelling: dict[str, str] = {}
  values = [
    None if gone else spelling.setdefault(key(cell), str(cell).strip())
    for cell, gone in zip(cells, lost, strict=True)
  ]
  levels = sorted(spelling.values())
  return pd.Series(pd.Categorical(values, categories=levels))


def unseen(name: str, column: pd.Series, known: pd.Series) -> list[str]:
  """A line on the words of a column that its known rows [K] do not hold."""
  if known.isna().all() and column.notna().any():
    return [
      f'column {name!r} was empty in the known rows, and is not in '
      f'{column.notna().sum()} of {len(column)} rows'
    ]
  if kind_of(column) == 'number' or kind_of(known) == 'number':
    return []
  levels = {key(level) for level in known.dropna()}
  new = column[[key(cell) not in levels for cell in column]].dropna()
  words = ', '.join(map(repr, new.unique()[:3]))
  more = ', ...' if new.nunique() > 3 else ''
  return [
    f'column {name!r}: {words}{more} was not there in the known rows '
    f'({len(new)} of {len(column)} rows)'
  ] * bool(len(new))


def codes(column: pd.Series) -> np.ndarray:
  """A typed column as numbers: [n] float64, categories by their place."""
  if kind_of(column) == 'number':
    return column.to_numpy(np.float64)
  places = column.cat.codes.to_numpy(np.float64, copy=True)
  return np.where(places < 0, np.nan, places)


def from_values(
  name: str,
  column: Any,
  *,
  like: pd.Series | None = None,
  decimal: str = '.',
) -> Typed:
  """Types a column of a data frame.

  What the frame says counts: numbers, booleans, times and categories are what
  they are. Text is read as in a file, but whole numbers that come again stay
  categories.

  Args:
    name: of the column, for messages.
    column: [n] of pandas, polars, pyarrow, NumPy, or a list.
    like: see `typed`.
    decimal: see `decimal_sign`; of text.

  Raises:
    DataError: if it holds anything but numbers, times and text.
  """
  series = column if isinstance(column, pd.Series) else to_series(name, column)
  if series.dtype == np.float64 and _wanted(like) != 'category':
    empty = bool(series.isna().all())
    return Typed(
      series.reset_index(drop=True), 'empty' if empty else 'number', ''
    )
  if isinstance(series.dtype, pd.PeriodDtype):
    series = series.dt.to_timestamp()
  lost, told = series.isna().to_numpy(bool), pd.api.types.infer_dtype(series)
  fixed = isinstance(series.dtype, pd.CategoricalDtype)
  if not fixed and _wanted(like) != 'category':
    try:
      if told in _NUMERIC or lost.all():
        values = pd.Series(series.to_numpy(np.float64, na_value=np.nan))
        return Typed(values, 'empty' if values.isna().all() else 'number', '')
      if told in ('datetime64', 'datetime', 'date'):
        dates = pd.to_datetime(series, utc=True)
        return Typed(pd.Series(times_lib.seconds(dates)), 'time', 'dates')
      if told in ('timedelta64', 'timedelta'):
        spans = pd.to_timedelta(series).dt.total_seconds()
        return Typed(
          spans.astype(np.float64), 'number', 'durations, in seconds'
        )
    except (OverflowError, ValueError) as error:
      raise DataError(f'column {name!r}: {error}') from error
  values = series.astype(object).tolist()
  for value in _stated(values, lost):
    if not isinstance(value, _TOLD):
      raise DataError(
        f'column {name!r} holds a {type(value).__name__}: give numbers or '
        f'text, or leave it out: --ignore={name}'
      )
  cells = ['' if gone else str(v) for v, gone in zip(values, lost, strict=True)]
  if fixed:
    return Typed(categories(cells, lost), 'category', '')
  return typed(name, cells, like=like, decimal=decimal, codes=True)


def to_series(name: str, column: Any) -> pd.Series:
  """A column of pandas, polars, pyarrow, NumPy, or a list, as pandas has it."""
  if isinstance(column, pd.Series):
    return column
  if hasattr(column, 'dtype') and 'Categorical' in str(column.dtype):  # polars
    return pd.Series(column.to_list(), dtype='category')
  if type(column).__module__.startswith('pyarrow'):  # pyarrow
    return column.to_pandas()
  if isinstance(column, np.ma.MaskedArray):
    mask, column = np.ma.getmaskarray(column), column.data.astype(object)
    column[mask] = None
  elif hasattr(column, 'to_numpy'):
    column = column.to_numpy()
  if not isinstance(column, np.ndarray):
    values = np.empty(len(column), object)
    values[:] = column
    column = values
  if column.ndim != 1:
    raise DataError(f'column {name!r} holds {column.shape[1:]} per row')
  return pd.Series(column)
