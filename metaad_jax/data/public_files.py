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
import urllib.parse
import warnings

import numpy as np
import pandas as pd

from metaad_jax import storage
from metaad_jax.base import DataError, RemoteFile


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
  place = find(root, path)
  with reading(root, place):
    content = place.read_bytes()
    if place.suffix == '.xz':
      content = lzma.decompress(content)
  if not content.strip():
    raise DataError(f'{place} is empty: {fetching(root)}')
  return content


def broken(
  root: pathlib.Path, path: pathlib.Path | str, why: object
) -> DataError:
  """A DataError for a file, or a path below root, that does not read."""
  path = find(root, path) if isinstance(path, str) else path
  reason = storage.reason(why) if isinstance(why, Exception) else why
  return DataError(
    f'{path} is truncated or corrupt ({reason}): delete it and {fetching(root)}'
  )


@contextlib.contextmanager
def reading(root: pathlib.Path, path: pathlib.Path | str) -> Iterator[None]:
  """Turns what a reader of a damaged file raises into a DataError."""
  try:
    yield
  except (UserWarning, *storage.BROKEN) as error:
    raise broken(root, path, error) from error


def lines(root: pathlib.Path, path: str) -> list[str]:
  """Returns the lines of a text file."""
  content = read(root, path)
  with reading(root, find(root, path)):
    return content.decode('utf-8-sig').splitlines()


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
  place = find(root, path)
  if header:
    names = tuple(text.pop(0).strip().replace('"', '').split(delimiter))
    _check_header(root, place, names, header)
  with reading(root, place), warnings.catch_warnings():
    warnings.simplefilter('error')  # no rows
    return np.loadtxt(
      text,
      delimiter=delimiter,
      usecols=columns,
      ndmin=2,
      comments=None,
      quotechar='"',
    )


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
  place = find(root, path)
  with reading(root, place):
    listed = [row for row in csv.reader(text, strict=True) if row]
    for number, row in enumerate(listed):
      if len(row) != (len(header) or width):
        raise ValueError(f'row {number} has {len(row)} cells')
  rows = np.array(listed)
  if header:
    _check_header(root, place, tuple(rows[0]), header)
    rows = rows[1:]
  if not len(rows):
    raise DataError(f'{place} holds no rows: {fetching(root)}')
  return rows


def _check_header(root, place, names, expected):
  if tuple(names) != expected:
    raise DataError(
      f'{place}: the header is {",".join(names)[:60]}, expected '
      f'{",".join(expected)[:60]}: {fetching(root)}'
    )


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
  filled = np.where((values == '') | (values == missing), 'nan', values)
  with reading(root, find(root, path)):
    try:
      return filled.astype(np.float64)
    except ValueError:
      bad = pd.DataFrame(filled).apply(pd.to_numeric, errors='coerce').isna()
      row, column = np.argwhere(bad.to_numpy() & (filled != 'nan'))[0]
      text = str(filled[row, column])
      raise ValueError(f'row {row}, column {column}: {text!r}') from None


def array(root: pathlib.Path, path: str, key: str) -> np.ndarray:
  """Returns array `key` of an .npz file, flat, float64."""
  content = read(root, path)
  with reading(root, find(root, path)):
    return _values(io.BytesIO(content), key)


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
  place = find(root, path)
  # An open file and not its content: only what is asked for is decompressed.
  opened = lzma.open if place.suffix == '.xz' else open
  with reading(root, place), opened(place, 'rb') as file:
    if '.npy' in place.suffixes:
      return {'array': np.load(file, allow_pickle=False)}
    with np.load(file, allow_pickle=False) as archive:
      result = {key: archive[key] for key in needed}
      for key in set(optional) & set(archive.files):
        with contextlib.suppress(ValueError):  # objects
          result[key] = archive[key]
      return result


def _values(file, key):
  """One array of an archive, flat, as little-endian float64."""
  with np.load(file, allow_pickle=False) as loaded:
    values = loaded[key].ravel().astype('<f8')
  if not values.size:
    raise ValueError('the array is empty')
  return values


def remote(source: str, base_url: str) -> tuple[RemoteFile, ...]:
  """The files of one source that `checksums.txt` lists."""
  listed = pathlib.Path(__file__).with_name('checksums.txt').read_text('utf-8')
  files = []
  for line in listed.splitlines():
    digits, _, path = line.partition(f'  {source}/')
    if path and not digits.startswith('#'):
      files.append(
        RemoteFile(path, base_url + urllib.parse.quote(path), digits)
      )
  return tuple(files)


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
  opened = lzma.open if path.suffix == '.xz' else open
  try:
    with opened(path, 'rb') as file:
      if colon:
        sha256 = hashlib.sha256(_values(file, key).tobytes())
      else:
        sha256 = hashlib.file_digest(file, 'sha256')
  except storage.BROKEN as error:
    return f'unreadable, {storage.reason(error)}'
  return key + colon + sha256.hexdigest()
