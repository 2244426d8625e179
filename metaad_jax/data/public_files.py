"""Opening public files as they come: plain, or with `.xz` appended.

Nothing is ever unpickled, and nothing is written.
"""

from collections.abc import Iterator, Sequence
import contextlib
import csv
import hashlib
import io
import lzma
import pathlib
import tokenize
import urllib.parse
import warnings
import zipfile
import zlib

import numpy as np

from metaad_jax.base import DataError, RemoteFile

_BROKEN = (
  OSError,
  EOFError,
  IndexError,
  KeyError,
  MemoryError,
  NotImplementedError,
  RuntimeError,
  SyntaxError,
  TypeError,
  ValueError,
  csv.Error,
  tokenize.TokenError,
  lzma.LZMAError,
  zipfile.BadZipFile,
  zlib.error,
)


def fetching(root: pathlib.Path) -> str:
  """The remedy for a missing or broken file below `<data_dir>/<source>`."""
  return (
    f'fetch it with `python -m experiments.download --source={root.name} '
    f'--data_dir={root.parent}`'
  )


def folder(data_dir: str | None, source: str) -> pathlib.Path:
  """Returns `<data_dir>/<source>`; a DataError says how to get it."""
  if data_dir is None:
    raise DataError(
      f'source {source!r} reads files: give the folder that holds {source}/ as '
      f'data_dir, after `python -m experiments.download --source={source} '
      '--data_dir=...`'
    )
  root = pathlib.Path(data_dir) / source
  if not root.is_dir():
    raise DataError(f'{root} is not there: {fetching(root)}')
  return root


def find(root: pathlib.Path, path: str) -> pathlib.Path:
  """Returns root/path, or the `.xz` beside it."""
  plain = root / path
  for candidate in (plain, plain.with_name(plain.name + '.xz')):
    if candidate.is_file():
      return candidate
  raise DataError(f'{plain} is not there, nor with .xz: {fetching(root)}')


def read(root: pathlib.Path, path: str) -> bytes:
  """Returns the (decompressed) content of root/path."""
  found = find(root, path)
  try:
    content = found.read_bytes()
    if found.suffix == '.xz':
      content = lzma.decompress(content)
  except _BROKEN as error:
    raise broken(root, found, error) from error
  if not content.strip():
    raise DataError(f'{found} is empty: {fetching(root)}')
  return content


def broken(root: pathlib.Path, path: pathlib.Path, why: object) -> DataError:
  """A DataError for a file that is there and does not read."""
  reason = ' '.join(str(why).split()) or type(why).__name__
  return DataError(
    f'{path} is truncated or corrupt ({reason}): delete it and {fetching(root)}'
  )


@contextlib.contextmanager
def reading(root: pathlib.Path, path: pathlib.Path) -> Iterator[None]:
  """Turns what a reader of a damaged file raises into a DataError."""
  try:
    yield
  except _BROKEN as error:
    raise broken(root, path, error) from error


def lines(root: pathlib.Path, path: str) -> list[str]:
  """Returns the lines of a text file."""
  content = read(root, path)
  try:
    return content.decode('utf-8-sig').splitlines()
  except UnicodeDecodeError as error:
    raise broken(root, find(root, path), error) from error


def table(
  root: pathlib.Path,
  path: str,
  *,
  delimiter: str = ',',
  header: tuple[str, ...] = (),
  columns: tuple[int, ...] | None = None,
) -> np.ndarray:
  """Reads a table of numbers.

  Args:
    root: `<data_dir>/<source>`.
    path: below it.
    delimiter: between columns.
    header: the names in the first line, all of them; () = there is no header.
    columns: numbers of the columns to read; None = all.

  Returns:
    [rows, columns] float64.

  Raises:
    DataError: if the file is missing, empty, corrupt or of another layout.
  """
  text = lines(root, path)
  found = find(root, path)
  if header:
    names = tuple(text.pop(0).strip().replace('"', '').split(delimiter))
    if names != header:
      raise DataError(
        f'{found}: the header is {names}, expected {header}: {fetching(root)}'
      )
  if not text:
    raise DataError(f'{found} has a header and no rows: {fetching(root)}')
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('error')
      return np.loadtxt(
        text,
        delimiter=delimiter,
        usecols=columns,
        ndmin=2,
        comments=None,
        quotechar='"',
      )
  except (UserWarning, *_BROKEN) as error:
    raise broken(root, found, error) from error


def cells(
  root: pathlib.Path,
  path: str,
  *,
  header: tuple[str, ...] = (),
  width: int | None = None,
) -> np.ndarray:
  """Reads a comma-separated table of text.

  Args:
    root: `<data_dir>/<source>`.
    path: below it.
    header: the names in the first line, all of them; () = there is no header.
    width: columns, where there is no header.

  Returns:
    [rows, columns] strings, as they stand in the file.

  Raises:
    DataError: if the file is missing, empty, corrupt or of another layout.
  """
  text = lines(root, path)
  found = find(root, path)
  try:
    rows = [row for row in csv.reader(text, strict=True) if row]
  except csv.Error as error:
    raise broken(root, found, error) from error
  if header and (not rows or tuple(rows.pop(0)) != header):
    raise DataError(
      f'{found}: the header is not {",".join(header)[:60]}...: {fetching(root)}'
    )
  if not rows:
    raise DataError(f'{found} holds no rows: {fetching(root)}')
  width = len(header) or width
  for number, row in enumerate(rows):
    if len(row) != width:
      raise broken(
        root, found, f'row {number} has {len(row)} cells instead of {width}'
      )
  return np.array(rows)


def numbers(
  root: pathlib.Path, path: str, values: np.ndarray, *, missing: str = 'nan'
) -> np.ndarray:
  """Turns text of `cells` into float64; a DataError names the place.

  Args:
    root: as for `cells`.
    path: as for `cells`.
    values: [rows, columns] strings; an empty one is NaN.
    missing: another string that stands for NaN.

  Returns:
    [rows, columns] float64.
  """
  blank = (values == '') | (values == missing)
  filled = np.where(blank, 'nan', values)
  try:
    return filled.astype(np.float64)
  except ValueError:
    for row, column in np.ndindex(filled.shape):
      try:
        float(filled[row, column])
      except ValueError as error:
        where = f'row {row}, column {column}: {error}'
        raise broken(root, find(root, path), where) from error
    raise


def array(root: pathlib.Path, path: str, key: str) -> np.ndarray:
  """Returns array `key` of an .npz file, flat, float64."""
  content = read(root, path)
  try:
    return _flat(_member(io.BytesIO(content), key)).astype('<f8')
  except _BROKEN as error:
    raise broken(root, find(root, path), error) from error


def arrays(
  root: pathlib.Path,
  path: str,
  needed: Sequence[str] = (),
  *,
  optional: Sequence[str] = (),
) -> dict[str, np.ndarray]:
  """Reads arrays of an .npz file, or the one of an .npy file.

  Args:
    root: `<data_dir>/<source>`.
    path: below it.
    needed: names of the arrays that must be there (of an .npz).
    optional: names of arrays that are left out where they are not there, or
      hold objects.

  Returns:
    The arrays by name, as they were stored; that of an .npy is 'array'.

  Raises:
    DataError: if the file is missing or corrupt, or one that is needed is not
      there or holds objects: pickles are not opened.
  """
  found = find(root, path)
  try:
    # An open file and not its content: only what is asked for is decompressed.
    opened = lzma.open if found.suffix == '.xz' else open
    with opened(found, 'rb') as file:
      if '.npy' in found.suffixes:
        return {'array': np.load(file, allow_pickle=False)}
      with np.load(file, allow_pickle=False) as archive:
        result = {key: archive[key] for key in needed}
        for key in set(optional) & set(archive.files):
          try:
            result[key] = archive[key]
          except ValueError:  # objects
            continue
        return result
  except _BROKEN as error:
    raise broken(root, found, error) from error


def _member(file, key):
  with np.load(file, allow_pickle=False) as loaded:
    return loaded[key]


def _flat(values):
  if not values.size:
    raise ValueError('the array is empty')
  return values.ravel()


def remote(source: str, base_url: str) -> tuple[RemoteFile, ...]:
  """The files of one source that `checksums.txt` lists."""
  listed = pathlib.Path(__file__).with_name('checksums.txt').read_text('utf-8')
  entries = [
    line.split('  ', 1)
    for line in listed.splitlines()
    if not line.startswith('#')
  ]
  paths = [
    (path.removeprefix(f'{source}/'), digest)
    for digest, path in entries
    if path.startswith(f'{source}/')
  ]
  return tuple(
    RemoteFile(path, base_url + urllib.parse.quote(path), digest)
    for path, digest in paths
  )


def digest(path: pathlib.Path, like: str) -> str:
  """Digest of a file's decompressed content, in the form of `like`.

  Args:
    path: a file; `.xz` is decompressed.
    like: hexadecimal digits, or `KEY:...` for the values of array KEY of an
      .npz file (little-endian float64), whatever its compression.

  Returns:
    The sha256, with `KEY:` in front where `like` has it; the reason in words
    where the file does not read.
  """
  key, colon, _ = like.rpartition(':')
  sha256 = hashlib.sha256()
  opened = lzma.open if path.suffix == '.xz' else open
  try:
    with opened(path, 'rb') as file:
      if colon:
        values = _flat(_member(file, key))
        for i in range(0, len(values), 1 << 20):
          sha256.update(values[i : i + (1 << 20)].astype('<f8').tobytes())
      else:
        for chunk in iter(lambda: file.read(1 << 20), b''):
          sha256.update(chunk)
  except _BROKEN as error:
    return f'unreadable, {" ".join(str(error).split())}'
  return key + colon + sha256.hexdigest()
