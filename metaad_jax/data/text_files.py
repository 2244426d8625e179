"""Tables of text as people have them: delimiters, encodings, names, titles."""

import bz2
import collections
from collections.abc import Sequence
import csv
import gzip
import io
import lzma
import pathlib
import re
from typing import NamedTuple
import zipfile

from metaad_jax.base import DataError
from metaad_jax.data import cells

PACKED = ('.gz', '.zip', '.xz', '.bz2')
_DELIMITERS = {
  ',': 'commas', ';': 'semicolons', '\t': 'tabs', '|': 'bars', ' ': 'blanks'
}  # fmt: skip
_RULE = re.compile(r'[\s|+:;,=-]*[-=]{3}[\s|+:;,=-]*')  # as |---|---|
_COMMENT = ('#', '%', '//')
_UNUSED = re.compile(b'[\x81\x8d\x8f\x90\x9d]')  # bytes that cp1252 lacks
_SNIFFED = 200  # lines that decide on the delimiter


class Dialect(NamedTuple):
  """How a text file is written.

  Attributes:
    delimiter: between cells; ' ' = any run of blanks.
    quote: around cells that hold the delimiter.
    decimal: sign before the fraction of a number.
  """

  delimiter: str = ','
  quote: str = '"'
  decimal: str = '.'


SHEET = Dialect('', decimal='')  # cells of a spreadsheet


class Text(NamedTuple):
  """A text file as cells: names, rows, the lines they stand in."""

  names: tuple[str, ...]
  rows: list[list[str]]
  places: list[int]
  dialect: Dialect
  notes: list[str]


def unpacked(path: str) -> bytes:
  """The content of a file, decompressed by its suffix."""
  content = pathlib.Path(path).read_bytes()
  packed = pathlib.Path(path).suffix.lower()
  if packed == '.zip':
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
      (name,) = [n for n in archive.namelist() if not n.endswith('/')]
      return archive.read(name)
  unpack = {'.gz': gzip, '.xz': lzma, '.bz2': bz2}.get(packed)
  return unpack.decompress(content) if unpack else content


def decoded(content: bytes, notes: list[str]) -> str:
  """Text of the content, line ends as \\n; the encoding is found out."""
  encoding = 'utf-8-sig'
  even, odd = content[:400:2].count(0), content[1:400:2].count(0)
  if content.startswith((b'\xff\xfe', b'\xfe\xff')):
    encoding = 'utf-16'
  elif max(even, odd) > 20 and min(even, odd) < 5:
    encoding = 'utf-16-le' if odd > even else 'utf-16-be'
  elif b'\0' in content:
    raise ValueError('it holds zero bytes, and is no text')
  try:
    text = content.decode(encoding)
  except UnicodeDecodeError:
    encoding = 'latin-1' if _UNUSED.search(content) else 'cp1252'
    text = content.decode(encoding)
  if encoding != 'utf-8-sig':
    notes.append(f'the encoding is taken to be {encoding}')
  return text.replace('\r\n', '\n').replace('\r', '\n')


def split(line: str, dialect: Dialect) -> list[str]:
  """The cells of one line; raises csv.Error where it makes no sense."""
  blank = dialect.delimiter == ' '
  reader = csv.reader(
    [line.strip(' ') if blank else line],
    delimiter=dialect.delimiter,
    quotechar=dialect.quote,
    skipinitialspace=blank,
    strict=True,
  )
  found = [cell.strip() for cell in next(reader, [])]
  return (
    [c for c in found if c] if blank and dialect.quote not in line else found
  )


def sniff(lines: Sequence[str]) -> Dialect:
  """The delimiter and the quotes of lines of text.

  The delimiter is the one by which most lines have the same number of cells,
  most cells are numbers, and few hold another delimiter.
  """
  quote = "'" if lines[0].lstrip().startswith("'") else '"'
  best, dialect = 0.0, Dialect(',', quote)
  for delimiter in _DELIMITERS:
    trial = Dialect(delimiter, quote)
    try:
      _, rows = _split_all(lines, trial)
    except csv.Error:
      continue
    (width, count), *_ = collections.Counter(map(len, rows)).most_common(1)
    if width < 2:
      continue
    held = [c for row in rows if len(row) == width for c in row]
    good = sum(map(_is_numeric, held))
    mixed = sum(any(mark in c for mark in ';\t|') for c in held)
    score = (count / len(rows)) ** 4 * (0.1 + good / len(held))
    score *= 1 - mixed / len(held)
    score *= 0.5 if len(rows[0]) < width - 1 else 1.0
    if score > best * 1.001:
      best, dialect = score, trial
  if (
    dialect.delimiter == ','
    and ',' not in lines[0]
    and all(re.fullmatch(r'\s*[-+]?\d+,\d+\s*', line) for line in lines[1:])
  ):
    return Dialect(';', quote)  # one column, a comma before the fraction
  return dialect


def _is_numeric(cell):
  return cells.is_missing(cell) or cells.is_number(cell)


def parse(text: str, notes: list[str], decimal: str = '') -> Text:
  """Finds the table in a text: names, rows, and what stands around them.

  Comments, blank lines, a title above, units below the names and names that are
  repeated are left out, and noted.

  Args:
    text: see `decoded`.
    notes: are added to.
    decimal: the sign in known rows, for numbers such as 1,234.

  Raises:
    DataError: if the rows differ in width, or no row is left.
  """
  if re.match(r'\s*(<[!?a-zA-Z]|\{\s*"|\[\s*[\[{])', text):
    raise DataError('it is no table but JSON, HTML or XML: save it as .csv')
  lines, comment, forced = _lines(text, notes)
  if not lines:
    raise DataError('it is empty' if not text.strip() else 'it holds no rows')
  start = max(_SNIFFED, len(lines) // 2)
  dialect = sniff(
    [line for _, line in lines[:_SNIFFED] + lines[start : start + _SNIFFED]]
  )
  if forced:
    dialect = dialect._replace(delimiter=forced)
  at, rows = _split_all([line for _, line in lines], dialect, whole=True)
  if dialect.delimiter != ',' and _usual_width(rows) > 1:
    notes.append(f'cells are parted by {_DELIMITERS[dialect.delimiter]}')
  return table(
    rows, [lines[i][0] for i in at], dialect._replace(decimal=decimal), notes,
    split(comment, dialect),
  )  # fmt: skip


def table(
  rows: list[list[str]],
  places: list[int],
  dialect: Dialect,
  notes: list[str],
  comment: Sequence[str] = (),
) -> Text:
  """Finds the table in rows of cells, of a text or a sheet; see `parse`."""
  while rows and not any(rows[-1]):  # as spreadsheets end
    rows, places = rows[:-1], places[:-1]
  if not rows:
    raise DataError('it holds no rows')
  width = _usual_width(rows)
  rows, places = _without_titles(rows, places, width, notes)
  rows, named = _fitted(rows, width, notes)
  width = _usual_width(rows)
  head = rows[0] if named or _is_header(rows) else []
  if len(comment) == width and (not head or len(set(head)) < len(head)):
    head = list(comment)  # as np.savetxt writes them; what comes is of units
  elif head:
    rows, places = rows[1:], places[1:]
  rows, places = _without_units(head, rows, places, notes)
  rows, places = _without_totals(rows, places, notes)
  if not rows:
    raise DataError('it holds no rows below the names of its columns')
  for row, place in zip(rows, places, strict=True):
    if len(row) != width:
      raise DataError(
        f'line {place}: {len(row)} values where {width} were expected'
      )
  names = [name or f'column {i}' for i, name in enumerate(head)]
  if not names:
    names = [f'column {i}' for i in range(width)]
    notes.append(f'there is no line of names: they are {names[0]!r} and so on')
  if head and not head[0] and width > 1:
    names[0] = 'row name'  # as pandas and R write them
  if len(set(names)) < len(names):
    twice = next(name for name in names if names.count(name) > 1)
    raise DataError(f'two columns are called {twice!r}: rename one')
  listed = list(zip(*rows[:10_000], strict=True))
  decimal, doubtful = cells.decimal_sign(
    listed, dialect.delimiter, dialect.decimal
  )
  notes += cells.decimal_notes(decimal, doubtful, names)
  dialect = dialect._replace(decimal=decimal)
  return Text(tuple(names), rows, places, dialect, notes)


def _usual_width(rows):
  return collections.Counter(map(len, rows)).most_common(1)[0][0]


def _lines(text, notes):
  """[(number, line)] without blanks and comments; last comment; sep=."""
  numbered = [
    (i, line)
    for i, line in enumerate(text.split('\n'), 1)
    if line.strip() and not _RULE.fullmatch(line)
  ]
  forced = ''
  if numbered and (found := re.fullmatch(r'"?sep=(.)"?\s*', numbered[0][1])):
    forced, numbered = found[1], numbered[1:]
  remarks = [(i, x) for i, x in numbered if x.lstrip().startswith(_COMMENT)]
  comment = ''
  if remarks and len(remarks) < len(numbered):
    taken = {i for i, _ in remarks}
    numbered = [pair for pair in numbered if pair[0] not in taken]
    above = [x for i, x in remarks if i < numbered[0][0]]
    comment = above[-1].strip() if above else ''
    if not re.match(r'# ?of ', comment):  # the number of
      comment = comment.lstrip('#%/').strip()
    notes.append(f'comments are left out: {len(remarks)}')
  return numbered, comment, forced


def _split_all(lines, dialect, whole=False):
  """Places and cells of rows; a quoted cell may go over several lines."""
  if not any(dialect.quote in line for line in lines):
    return range(len(lines)), [split(line, dialect) for line in lines]
  reader = csv.reader(
    [line + '\n' for line in lines],
    delimiter=dialect.delimiter,
    quotechar=dialect.quote,
    skipinitialspace=True,
  )
  places, rows = [], []
  for row in reader:
    at = min(reader.line_num, len(lines)) - 1
    inside = [part for cell in row for part in cell.split('\n')[1:-1]]
    lost = any(x.count(dialect.delimiter) >= len(row) - 1 > 0 for x in inside)
    if whole and row and (lost or row[-1].endswith('\n')):
      raise DataError(f'a quote is never closed before {lines[at][:40]!r}')
    places.append(at)
    rows.append([cell.strip() for cell in row])
  return places, rows


def _without_titles(rows, places, width, notes):
  """Drops lines above the table that are too short to belong to it."""
  stated = lambda row: sum(map(bool, row))
  usual = sorted(map(stated, rows))[len(rows) // 2]
  few = lambda row: (
    stated(row) < 2
    or (stated(row) <= usual / 2 and not all(map(_is_numeric, row)))
  )
  short = lambda row: len(row) < width or (width > 2 and few(row))
  full = [i for i, row in enumerate(rows) if not short(row)]
  top = full[0] if full and width > 1 else 0
  if (
    top
    and len(rows[top - 1]) == width - 1
    and stated(rows[top - 1]) == width - 1
    and all(len(row) == width for row in rows[top:])
    and not (width > 2 and _is_header(rows[top:]))
  ):
    top -= 1  # names, but none of the names of rows
  if top:
    notes.append(f'line {places[0]} is a title: left out')
  return rows[top:], places[top:]


def _fitted(rows, width, notes):
  """Rows of one width, where each ends in delimiters or starts with a name."""
  if len(rows[0]) == width - 1 and all(len(row) == width for row in rows[1:]):
    if all(row[-1] == '' for row in rows[1:]):
      notes.append('rows end in a delimiter: left out')
      return [rows[0], *(row[:-1] for row in rows[1:])], True
    return [['row name', *rows[0]], *rows[1:]], True  # as R writes them
  if width > 1 and all(len(row) == width for row in rows):
    used = [i for i in range(width) if any(row[i] for row in rows)]
    if 0 < len(used) < width:
      notes.append(f'columns without a name or a cell: {width - len(used)}')
      return [[row[i] for i in used] for row in rows], False
  return rows, False


def _is_header(rows):
  """Whether the first row holds names.

  It does if it counts, as 0, 1, 2 or 2019, 2020 do, and the rest is other
  numbers; if a column of numbers has a word there; or if no cell of it is a
  number, and some do not come again.
  """
  first = rows[0]
  rest = [row for row in rows[1:100] if row != first]
  stated = [cell for cell in first if cell]
  if len(stated) > 1 and all(cell.isdecimal() for cell in stated):
    start = int(stated[0])
    counts = stated == [str(start + i) for i in range(len(stated))]
    whole = all(re.fullmatch(r'-?\d*', cell) for row in rest for cell in row)
    zero = start == 0 and len(stated) > 2
    return counts and bool(rest) and (zero or not whole)
  if any(map(cells.is_number, stated)) or _worded(first, rest):
    return _worded(first, rest)
  columns = zip(*[row for row in rest if len(row) == len(first)], strict=True)
  again = [cell in column for cell, column in zip(first, columns, strict=False)]
  return not again or not all(again)


def _worded(first, rest):
  """Whether a column of numbers has a word in this row."""
  for i, cell in enumerate(first):
    below = [row[i] for row in rest if i < len(row)]
    below = [c for c in below if not cells.is_missing(c)]
    word = not _is_numeric(cell) and len(below) > 1
    if word and all(map(cells.is_number, below)):
      return True
  return False


def _without_units(head, rows, places, notes):
  """Drops a line of units below the names, and names that are repeated."""
  if not head:
    return rows, places
  if len(rows) > 2 and not any(map(cells.is_number, rows[0])):
    below = [row for row in rows[1:50] if len(row) == len(rows[0])]
    worded = [
      column
      for unit, *column in zip(rows[0], *below, strict=True)
      if not cells.is_missing(unit)
    ]
    if worded and below and all(_is_numeric(c) for col in worded for c in col):
      notes.append(f'line {places[0]} holds units: left out')
      rows, places = rows[1:], places[1:]
  if again := rows.count(head):
    notes.append(f'repeated lines of names are left out: {again}')
    kept = [i for i, row in enumerate(rows) if row != head]
    rows, places = [rows[i] for i in kept], [places[i] for i in kept]
  return rows, places


def _without_totals(rows, places, notes):
  """Drops sums and means below the table."""
  end = len(rows)
  while end > 3:
    at, word = next(((i, c) for i, c in enumerate(rows[end - 1]) if c), (0, ''))
    others = (row[at] for row in rows[: end - 1] if at < len(row))
    if word.lower().rstrip(': ') not in cells.WORDS['totals'] or word in others:
      break
    end -= 1
    notes.append(f'line {places[end]} is a total: left out')
  return rows[:end], places[:end]
