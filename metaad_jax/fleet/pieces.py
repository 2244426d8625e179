"""Long files in pieces that fit into memory, whatever the file's size."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import re
from typing import Any, NamedTuple

from metaad_jax import storage
from metaad_jax.base import DataError
from metaad_jax.data import formats, text_files, user_files

CELLS = 1 << 22  # of a piece of parquet; of text, four bytes for each
_TRIED = 1000  # ends of lines, for one that is not inside quotes


class Piece(NamedTuple):
  """Rows of a file or folder that are read at once, on any machine.

  Attributes:
    path: as it was given.
    groups: of parquet, (file, number of the row group).
    span: of parquet the rows [start, end) of these; of text the bytes.
    head: of text, the lines above the first row; of parquet, the schema.
    decimal: sign before the fraction of numbers that are text.
  """

  path: str
  groups: tuple[tuple[str, int], ...] = ()
  span: tuple[int, int] = (0, 0)
  head: str | bytes = ''
  decimal: str = ''


def of(
  path: str | os.PathLike[str], decimal: str = '', cells: int = 0
) -> Iterator[Piece]:
  """The pieces of a file, or of a folder of parquet files, in order.

  Args:
    path: .parquet and text that is not packed come in pieces, others whole.
    decimal: see `text_files.parse`.
    cells: of a piece; 0 = `CELLS`.

  Raises:
    DataError: if it is not there, or makes no sense.
  """
  path, cells = os.fspath(path), cells or CELLS
  suffix = pathlib.Path(path).suffix.lower()
  if os.path.isdir(path) or suffix == '.parquet':
    yield from _groups(path, cells)
  elif suffix in formats.TEXT and os.path.exists(path):
    yield from _lines(path, decimal, cells * 4)
  else:
    yield Piece(path)


def read(piece: Piece, **options: Any) -> user_files.Samples:
  """The rows of a piece; options as of `user_files.read`.

  Raises:
    DataError: of what makes no sense.
  """
  if piece.groups:
    return user_files.from_frame(_table(piece), **options)
  if not piece.span[1]:
    return user_files.read(piece.path, **options)
  with open(piece.path, 'rb') as file:
    file.seek(piece.span[0])
    content = file.read(piece.span[1] - piece.span[0])
  notes: list[str] = []
  try:
    text = str(piece.head) + text_files.decoded(content, notes)
    parsed = text_files.parse(text, notes, piece.decimal)
    return user_files.from_frame(formats.text(parsed), **options)
  except (DataError, *storage.BROKEN) as error:
    raise DataError(
      f'{piece.path}, from byte {piece.span[0]} on: {storage.reason(error)}'
    ) from error


# --- parquet -----------------------------------------------------------------


def folder(path: str | os.PathLike[str]) -> Any:
  """A folder of parquet files as one arrow table; DataError if it is none."""
  with _told(path):
    whole, _ = _dataset(os.fspath(path))
    return _named(whole.to_table())


@contextlib.contextmanager
def _told(path):
  try:
    import pyarrow
  except ImportError as error:
    raise DataError(
      'to read .parquet, pip install "metaad_jax[formats]"'
    ) from error
  try:
    yield
  except FileNotFoundError as error:
    raise DataError(f'{path} is not there') from error
  except (pyarrow.ArrowException, OSError) as error:
    raise DataError(
      f'{path} cannot be read as .parquet: {storage.reason(error)}'
    ) from error


def _dataset(path, schema=None, files=()):
  """A file, or all of a folder, with the columns of all files; and these."""
  import pyarrow as pa
  from pyarrow import dataset, parquet

  inside = os.path.isdir(path)
  if not files:
    found = pathlib.Path(path).rglob('*.parquet') if inside else [path]
    files = sorted(map(str, found))
  if not files:
    raise DataError(f'{path} holds no .parquet file')
  options = {'format': 'parquet', 'partition_base_dir': path if inside else ''}
  if schema is None:
    whole = dataset.dataset(files, partitioning='hive', **options)
    padded = _padded(files)
    named = [
      pa.field(f.name, pa.string()) if f.name in padded else f
      for f in whole.schema
    ]
    schemas = [pa.schema(named), *map(parquet.read_schema, files)]
    schemas = [_plain(pa, schema) for schema in schemas]
    schema = pa.unify_schemas(schemas, promote_options='permissive')
  keys = dataset.partitioning(schema, flavor='hive')
  made = dataset.dataset(files, schema=schema, partitioning=keys, **options)
  return made, schema


def _padded(files):
  """Names of folders' keys such as machine=007, which is no number."""
  found = re.findall(
    r'(?<![^/\\\n])([^/\\=\n]+)=0\d+(?=[/\\])', '\n'.join(files)
  )
  return set(found)


def _plain(pa, schema):
  """Words as such: their codes may differ from file to file."""
  of = lambda kind: kind.value_type if pa.types.is_dictionary(kind) else kind
  return pa.schema([(field.name, of(field.type)) for field in schema])


def _named(table):
  """Without the numbers of rows that pandas keeps of a part of a frame."""
  unnamed = [n for n in table.column_names if re.match('__index_level_', n)]
  return table.drop_columns(unnamed)


def _groups(path, cells):
  with _told(path):
    whole, schema = _dataset(path)
    most = max(1, cells // len(schema))
    made = Piece(path, head=schema.serialize().to_pybytes())
    held: list[tuple[str, int]] = []
    count = rows = 0
    for fragment in whole.get_fragments():
      for group in fragment.row_groups:
        if held and count + group.num_rows > most:
          yield from _spans(made._replace(groups=tuple(held)), count, most)
          held, count = [], 0
        held.append((fragment.path, group.id))
        count, rows = count + group.num_rows, rows + group.num_rows
    if not rows:
      raise DataError(f'{path}: it holds no rows')
    yield from _spans(made._replace(groups=tuple(held)), count, most)


def _spans(piece, count, most):
  for start in range(0, count, most):
    yield piece._replace(span=(start, min(start + most, count)))


def _table(piece):
  """The rows of a piece, as an arrow table."""
  with _told(piece.path):
    import pyarrow as pa

    schema = pa.ipc.read_schema(pa.py_buffer(piece.head))
    groups: dict[str, list[int]] = {}
    for file, group in piece.groups:
      groups.setdefault(file, []).append(group)
    whole, _ = _dataset(piece.path, schema, list(groups))
    batches, at, (start, end) = [], 0, piece.span
    for part in whole.get_fragments():
      some = part.subset(row_group_ids=groups[part.path], schema=schema)
      for batch in some.to_batches(
        schema=schema, use_threads=False, batch_readahead=0,
        fragment_readahead=0,
      ):  # fmt: skip
        low, high = max(0, start - at), max(0, min(end - at, len(batch)))
        at += len(batch)
        if low < high:
          batches.append(batch.slice(low, high - low))
        if at >= end:
          break
    return _named(pa.Table.from_batches(batches, schema))


# --- text --------------------------------------------------------------------


def _lines(path, decimal, size):
  with open(path, 'rb') as file:
    first = file.read(size)
    end = _cut(first, b'"')
    if len(first) < size or not end or b'\0' in first[:400]:
      yield Piece(path)
      return
    try:
      text = text_files.decoded(first[:end], [])
      parsed = text_files.parse(text, [], decimal)
    except (DataError, *storage.BROKEN) as error:
      raise DataError(f'{path}: {storage.reason(error)}') from error
    head = ''.join(
      f'{line}\n' for line in text.split('\n')[: parsed.places[0] - 1]
    )
    sign, quote = parsed.dialect.decimal, parsed.dialect.quote.encode()
    yield Piece(path, span=(0, end), decimal=sign)
    start, rest = end, first[end:]
    while block := rest + file.read(size):
      whole = len(block) < size
      length = len(block) if whole else _cut(block, quote) or len(block)
      if block[:length].strip():
        yield Piece(path, (), (start, start + length), head, sign)
      start, rest = start + length, block[length:]


def _cut(block, quote):
  """Behind the last line that does not end inside quotes; 0 = there is none."""
  at = last = block.rfind(b'\n') + 1
  odd = block.count(quote, 0, at) % 2
  for _ in range(_TRIED):
    if not odd or not at:
      return at
    before = block.rfind(b'\n', 0, at - 1) + 1
    odd ^= block.count(quote, before, at) % 2
    at = before
  return last
