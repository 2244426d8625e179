"""What a cell of text means: missing, a number, a time, or a category.

The rules are the same for files, frames, folders and rows that arrive one by
one. A column is read as a whole: its cells are all numbers, all times, or all
words, and a column that mixes numbers and words is refused.
"""

from collections.abc import Iterable, Sequence
import datetime
import decimal as decimal_lib
import itertools
import numbers as numbers_lib
import re
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from metaad_jax.base import DataError

# Spellings of "nothing here", in lower case.
MISSING = frozenset(
  '|nan|na|n/a|n.a.|#n/a|#na|<na>|null|nul|none|nil|nat|#value!|#div/0!|'
  '#ref!|#num!|#name?|#null!|-nan|nan(ind)|-nan(ind)|1.#qnan|-1.#ind|\\n'.split(
    '|'
  )
)
# These too, unless all that the column holds is punctuation.
_MARKS = frozenset('- -- --- – — ? ?? * ** *** . .. ... … _ /'.split())
_SPACES = ' \u00a0\u202f\u2009'
_GROUPS = f"{_SPACES}'’_"
_CURRENCY = r'(?:[$€£¥₹]|USD|EUR|GBP|CHF|JPY)'
_NUMBER = re.compile(
  rf'(?P<open>\()?(?P<bound>[<>≤≥]=?\s*)?(?P<minus>[-−–+])?\s*{_CURRENCY}?\s*'
  rf'(?P<minus2>[-−–+])?(?P<digits>[\d.,][\d.,{_GROUPS}]*)'
  rf'(?P<exponent>[eE][-+]?\d+)?(?P<minus3>-(?![\w(]))?(?P<gap>[\s\u00a0\u202f]+)?'
  r'(?P<unit>(?:[^\W\d_]|[%‰°µ$€£¥₹])[^\s(),;]{0,11}|1/[a-z]+)?'
  r'(?P<close>\))?'
)
_HEX = re.compile(r'[-+]?0[xX][0-9a-fA-F]+')
_DATE_LIKE = re.compile(r'(?=.*\d)(?=.*[-/:. ])[\w\-/:., +]{4,40}')
_CLOCK = re.compile(
  r'(?:(\d+) days? )?(\d{1,4}):(\d\d)(?::(\d\d(?:[.,]\d+)?))?'
)
_DATES = (
  '%Y-%m-%d', '%Y/%m/%d', '%Y.%m.%d', '%d.%m.%Y', '%d.%m.%y', '%m/%d/%Y',
  '%d/%m/%Y', '%m/%d/%y', '%d/%m/%y', '%d-%m-%Y', '%m-%d-%Y', '%d-%b-%Y',
  '%d-%b-%y', '%d %b %Y', '%d %B %Y', '%b %d, %Y', '%B %d, %Y', '%b %d %Y',
)  # fmt: skip
_TIMES = (
  '', ' %H:%M', ' %H:%M:%S', ' %H:%M:%S.%f', ' %H:%M:%S,%f', ' %I:%M %p',
  ' %I:%M:%S %p', 'T%H:%M', 'T%H:%M:%S', ', %H:%M:%S', ', %I:%M:%S %p',
)  # fmt: skip


class _Number(NamedTuple):
  """A cell read as a number: '>= 5 kg' is 5, '>', 'kg', spaced."""

  value: float
  bound: str = ''
  unit: str = ''
  spaced: bool = False


def is_missing(cell: str) -> bool:
  """Whether a cell of text holds nothing."""
  cell = cell.strip().lower()
  return cell in MISSING or cell in _MARKS


def missing(cells: Sequence[str]) -> np.ndarray:
  """Which stripped cells of one column hold nothing; [n] bool."""
  series = pd.Series(cells, dtype=object)
  lower = series.str.lower()
  empty = lower.isin(MISSING).to_numpy(bool)
  marks = series.isin(_MARKS).to_numpy(bool)
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
  if re.fullmatch(r'[-+]?\d+(\.\d*)?(e[-+]?\d+)?', text):
    return f'{float(text):.17g}'
  return text


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
  grouped = rf'\d{{1,3}}(?P<g>{group})\d{{3}}((?P=g)\d{{3}})*({fraction}\d*)?'
  if re.fullmatch(grouped, digits):
    digits = re.sub(group, '', digits)
  elif not re.fullmatch(rf'\d+({fraction}\d*)?|{fraction}\d+', digits):
    return None
  value = float(digits.replace(decimal, '.') + (match['exponent'] or ''))
  signs = [s for s in match.group('minus', 'minus2', 'minus3') if s]
  if len(signs) > 1:
    return None
  if match['open'] or any(sign != '+' for sign in signs):
    value = -value
  spaced = match['digits'] != digits and match['digits'][-1] in _SPACES
  spaced |= bool(match['gap'])
  bound = (match['bound'] or '').strip()
  return _Number(value, bound, match['unit'] or '', spaced)


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
  units = {number.unit for number in parsed.values()}
  if len(units) > 1:
    return None
  notes = [f'{unit!r} is left off' for unit in units if unit]
  if bounds := [c for c, n in parsed.items() if n.bound]:
    notes.append(f'a bound such as {bounds[0]!r} counts as its value')
  values = text.map({cell: number.value for cell, number in parsed.items()})
  return values.to_numpy(np.float64), ', '.join(notes)


def decimal_sign(columns: Iterable[Sequence[str]], delimiter: str) -> str:
  """The sign before fractions in a table of text: '.' or ','.

  A column that reads as numbers with one of the two alone decides. Where all
  can be read either way, as 1,234 can, a comma as the delimiter says that the
  one within cells groups thousands.

  Args:
    columns: of stripped cells.
    delimiter: between cells.
  """
  doubtful = False
  for cells in columns:
    unique = list(dict.fromkeys(_stated(cells, missing(cells))))[:1000]
    if not any(',' in cell for cell in unique):
      continue
    point, comma = (
      all(_parse(cell, sign) is not None for cell in unique) for sign in '.,'
    )
    if point != comma:
      return '.' if point else ','
    doubtful |= point
  return ',' if doubtful and delimiter != ',' else '.'


def _stated(cells, lost):
  return [cell for cell, gone in zip(cells, lost, strict=True) if not gone]


def times(
  cells: Sequence[str], lost: np.ndarray
) -> tuple[np.ndarray, str] | None:
  """Reads stripped cells as dates, times of day or durations.

  Returns:
    [n] float64 seconds (since 1970 for dates, UTC where no zone is given), and
    how they were read; None if any cell is no time.
  """
  stated = _stated(cells, lost)
  if not stated or not all(map(_DATE_LIKE.fullmatch, stated[:100])):
    return None
  seconds = np.full(len(cells), np.nan)
  if _CLOCK.fullmatch(stated[0]):
    clocks = [_CLOCK.fullmatch(cell) for cell in stated]
    if not all(clocks):
      return None
    seconds[~lost] = [_clock(match) for match in clocks if match]
    return seconds, 'times of day or durations'
  readings: list[tuple[bool, int, str]] = []
  for form in ('ISO8601', *_formats(stated[0])):
    try:
      dates = _seconds(pd.to_datetime(pd.Series(stated), format=form, utc=True))
    except (ValueError, OverflowError):
      continue
    readings.append((bool((np.diff(dates) < 0).any()), len(readings), form))
    if min(readings)[1] == len(readings) - 1:
      seconds[~lost] = dates
  return (seconds, f'dates, read as {min(readings)[2]}') if readings else None


def _clock(match):
  days, hours, minutes, rest = match.groups()
  rest = float((rest or '0').replace(',', '.'))
  return ((int(days or 0) * 24 + int(hours)) * 60 + int(minutes)) * 60 + rest


def _formats(first):
  """Formats that fit the first cell."""
  for date, clock in itertools.product(_DATES, _TIMES):
    try:
      datetime.datetime.strptime(first, date + clock)
    except ValueError:
      continue
    yield date + clock


def _seconds(dates: pd.Series) -> np.ndarray:
  if getattr(dates.dt, 'tz', None) is not None:
    dates = dates.dt.tz_convert('UTC').dt.tz_localize(None)
  stamps = dates.to_numpy('datetime64[us]')
  seconds = stamps.astype(np.int64) / 1e6
  return np.where(np.isnat(stamps), np.nan, seconds)


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
) -> Typed:
  """Types a column of text.

  Args:
    name: of the column, for messages.
    cells: [n].
    like: the same column of known rows: the kind it has there is the kind here,
      unless all of it is missing there.
    decimal: see `decimal_sign`.
    places: [n] numbers of the lines that the cells stand in, for messages.

  Raises:
    DataError: if it mixes numbers and words, naming the cell.
  """
  cells = [cell.strip() for cell in cells]
  lost = missing(cells)
  wanted = _wanted(like)
  if wanted == 'category':
    return Typed(categories(cells, lost), 'category', '')
  for sign in (decimal, ',' if decimal == '.' else '.'):
    if read := numbers(cells, lost, sign):
      kind = 'empty' if lost.all() else 'number'
      return Typed(pd.Series(read[0]), kind, read[1])
  if timed := times(cells, lost):
    return Typed(pd.Series(timed[0]), 'time', timed[1])
  stated = ~lost
  number = {cell: is_number(cell) for cell in set(cells)}
  numeric = stated & np.array([number[cell] for cell in cells], bool)
  if wanted or numeric.any():
    wrong = stated & ~numeric
    i = int(np.flatnonzero(wrong if wrong.any() else stated)[0])
    where = '' if places is None else f'line {places[i]}: '
    why = (
      f'holds {cells[i][:40]!r}, other cells of it are numbers'
      if wrong.any()
      else f'mixes units, as in {cells[i][:40]!r}'
    )
    raise DataError(f'{where}column {name!r} {why}: mend it, or leave it empty')
  return Typed(categories(cells, lost), 'category', '')


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


def codes(column: pd.Series) -> np.ndarray:
  """A typed column as numbers: [n] float64, categories by their place."""
  if kind_of(column) == 'number':
    return column.to_numpy(np.float64)
  places = column.cat.codes.to_numpy(np.float64, copy=True)
  return np.where(places < 0, np.nan, places)


def from_values(
  name: str, column: Any, *, like: pd.Series | None = None
) -> Typed:
  """Types a column of a data frame.

  What the frame says counts: numbers, booleans, times and categories are what
  they are. Text is a category too, unless all of it is decorated numbers
  ('1,5', '3 kg'), numbers with fractions, or dates.

  Args:
    name: of the column, for messages.
    column: [n] of pandas, polars, pyarrow, NumPy, or a list.
    like: see `typed`.

  Raises:
    DataError: if it holds anything but numbers, times and text.
  """
  series = column if isinstance(column, pd.Series) else _series(name, column)
  wanted = _wanted(like)
  lost = series.isna().to_numpy(bool)
  kind = series.dtype.kind if isinstance(series.dtype, np.dtype) else ''
  if wanted != 'category':
    if pd.api.types.is_datetime64_any_dtype(series):
      return Typed(pd.Series(_seconds(series)), 'time', 'dates')
    if kind == 'm':
      seconds = series.dt.total_seconds().to_numpy(np.float64)
      return Typed(pd.Series(seconds), 'number', 'durations, in seconds')
    if pd.api.types.is_numeric_dtype(series) and kind != 'c':
      values = series.to_numpy(np.float64, na_value=np.nan)
      return Typed(pd.Series(values), 'empty' if lost.all() else 'number', '')
  values = series.astype(object).tolist()
  return _objects(name, values, lost, wanted, series.dtype)


def _series(name, column):
  if hasattr(column, 'to_numpy'):  # polars, pyarrow
    column = column.to_numpy()
  if not isinstance(column, np.ndarray):
    values = np.empty(len(column), object)
    values[:] = column
    column = values
  if column.ndim != 1:
    raise DataError(f'column {name!r} holds {column.shape[1:]} per row')
  return pd.Series(column)


def _objects(name, values, lost, wanted, dtype):
  """Types a column of Python objects."""
  stated = _stated(values, lost)
  real = (numbers_lib.Real, decimal_lib.Decimal)
  fixed = wanted == 'category' or isinstance(dtype, pd.CategoricalDtype)
  if not fixed and all(isinstance(v, real) for v in stated):
    floats = np.full(len(values), np.nan)
    try:
      floats[~lost] = [float(value) for value in stated]
    except OverflowError as error:
      raise DataError(f'column {name!r}: {error}') from error
    return Typed(pd.Series(floats), 'number', '')
  if not fixed and all(isinstance(v, datetime.date) for v in stated):
    dates = pd.to_datetime(pd.Series(values), utc=True)
    return Typed(pd.Series(_seconds(dates)), 'time', 'dates')
  for value in stated:
    if not isinstance(value, (str, datetime.date, *real)):
      raise DataError(
        f'column {name!r} holds a {type(value).__name__}: give numbers or text'
      )
  texts = pd.Series(values, dtype=object).mask(lost, '')
  cells = [str(value).strip() for value in texts]
  if not fixed and all(isinstance(v, str) for v in stated):
    lost = missing(cells)
    read = numbers(cells, lost, decimal_sign([cells], ','))
    if read and not all(map(str.isdigit, filter(None, cells))):
      return Typed(pd.Series(read[0]), 'number', read[1])
    if timed := times(cells, lost):
      return Typed(pd.Series(timed[0]), 'time', timed[1])
  if wanted == 'number':
    raise DataError(
      f'column {name!r} held numbers in the known rows, and now holds text'
    )
  return Typed(categories(cells, lost), 'category', '')
