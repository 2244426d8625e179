"""Opening public files as they come: plain, or with `.xz` appended.

Files are named by the folder of their source, `root` = `<data_dir>/<source>`,
and a path below it. Nothing is unpickled, and nothing is written. What is
missing, corrupt or of another layout is a DataError that says how to get it.
"""

from collections.abc import Iterator, Sequence
import contextlib
import csv
import hashlib
import lzma
import pathlib
from typing import Any
import urllib.parse
import warnings

import numpy as np
import pandas as pd

from metaad_jax import storage
from metaad_jax.base import DataError, RemoteFile


def _fetching(root):
  return (
    f'fetch it with `python -m experiments.download --source={root.name} '
    f'--data_dir={root.parent}`'
  )


def folder(data_dir: str | None, source: str) -> pathlib.Path:
  """Returns `<data_dir>/<source>`."""
  if data_dir is None:
    raise DataError(
      f'source {source!r} reads files: give the folder that holds {source}/ as '
      f'data_dir, after `python -m experiments.download --source={source} '
      '--data_dir=...`'
    )
  root = pathlib.Path(data_dir) / source
  if not root.is_dir():
    raise DataError(f'{root} is not there: {_fetching(root)}')
  return root


def names(root: pathlib.Path, pattern: str, remedy: str = '') -> list[str]:
  """Sorted names, without folder and `.xz`, of the files of a pattern."""
  suffix = pathlib.PurePath(pattern).suffix
  found = {p.name.removesuffix('.xz') for p in root.glob(pattern + '*')}
  found = {name for name in found if name.endswith(suffix)}
  if not found:
    raise DataError(
      f'{root} holds no {pattern}, nor with .xz: {remedy or _fetching(root)}'
    )
  return sorted(name.removesuffix(suffix) for name in found)


def find(root: pathlib.Path, path: str) -> pathlib.Path:
  """Returns root/path, or the `.xz` beside it."""
  plain = root / path
  for candidate in (plain, plain.with_name(plain.name + '.xz')):
    if candidate.is_file():
      return candidate
  raise DataError(f'{plain} is not there, nor with .xz: {_fetching(root)}')


def _open(place: pathlib.Path) -> Any:
  return lzma.open(place) if place.suffix == '.xz' else open(place, 'rb')


def read(root: pathlib.Path, path: str) -> bytes:
  """Returns the (decompressed) content of root/path."""
  place = find(root, path)
  with reading(root, path), _open(place) as file:
    content = file.read()
  if not content.strip():
    raise DataError(f'{place} is empty: {_fetching(root)}')
  return content


def broken(root: pathlib.Path, path: str, why: object) -> DataError:
  """A DataError for a file that makes no sense."""
  reason = storage.reason(why) if isinstance(why, Exception) else why
  return DataError(
    f'{find(root, path)} is truncated or corrupt ({reason}): delete it and '
    f'{_fetching(root)}'
  )


def require(good: object, root: pathlib.Path, path: str, why: object) -> None:
  """Raises `broken` unless what must hold of a file does."""
  if not good:
    raise broken(root, path, why)


@contextlib.contextmanager
def reading(root: pathlib.Path, path: str) -> Iterator[None]:
  """Turns what a reader of a damaged file raises into `broken`."""
  try:
    yield
  except (UserWarning, *storage.BROKEN) as error:
    raise broken(root, path, error) from error


def lines(root: pathlib.Path, path: str) -> list[str]:
  """Returns the lines of a text file."""
  content = read(root, path)
  with reading(root, path):
    return content.decode('utf-8-sig').splitlines()


def table(
  root: pathlib.Path,
  path: str,
  *,
  delimiter: str = ',',
  header: tuple[str, ...] = (),
  columns: tuple[int, ...] | None = None,
) -> np.ndarray:
  """Reads a table of numbers, [rows, columns] float64.

  Args:
    root: see above.
    path: see above.
    delimiter: between columns.
    header: the names in the first line, all of them; () = there is no header.
    columns: numbers of the columns to read; None = all.
  """
  text = lines(root, path)
  if header:
    first = text.pop(0).strip().replace('"', '').split(delimiter)
    _check_header(root, path, first, header)
  with reading(root, path), warnings.catch_warnings():
    warnings.simplefilter('error')  # no rows
    return np.loadtxt(
      text, delimiter=delimiter, usecols=columns, ndmin=2, comments=None,
      quotechar='"',
    )  # fmt: skip


def cells(
  root: pathlib.Path, path: str, *, header: tuple[str, ...] = (), width: int = 0
) -> np.ndarray:
  """Reads a comma-separated table of text, [rows, columns] strings.

  Args:
    root: see above.
    path: see above.
    header: as for `table`.
    width: columns, where there is no header.
  """
  text = lines(root, path)
  with reading(root, path):
    listed = [row for row in csv.reader(text, strict=True) if row]
    for number, row in enumerate(listed):
      if len(row) != (len(header) or width):
        raise ValueError(f'row {number} has {len(row)} cells')
  if header:
    _check_header(root, path, listed.pop(0), header)
  require(listed, root, path, 'it holds no rows')
  return np.array(listed)


def _check_header(root, path, names, expected):
  told, wanted = (','.join(some)[:60] for some in (names, expected))
  why = f'the header is {told}, expected {wanted}'
  require(tuple(names) == expected, root, path, why)


def numbers(
  root: pathlib.Path, path: str, values: np.ndarray, missing: str = 'nan'
) -> np.ndarray:
  """Turns text of `cells` into float64; '' and `missing` are NaN."""
  filled = np.where((values == '') | (values == missing), 'nan', values)
  with reading(root, path):
    try:
      return filled.astype(np.float64)
    except ValueError:
      bad = pd.DataFrame(filled).apply(pd.to_numeric, errors='coerce').isna()
      row, column = np.argwhere(bad.to_numpy() & (filled != 'nan'))[0]
      text = str(filled[row, column])
      raise ValueError(f'row {row}, column {column}: {text!r}') from None


def array(root: pathlib.Path, path: str, key: str) -> np.ndarray:
  """Returns array `key` of an .npz file, flat, float64."""
  place = find(root, path)
  with reading(root, path), _open(place) as file:
    return _values(file, key)


def arrays(
  root: pathlib.Path,
  path: str,
  needed: Sequence[str] = (),
  *,
  optional: Sequence[str] = (),
) -> dict[str, np.ndarray]:
  """Reads arrays of an .npz file, or the one of an .npy file.

  Args:
    root: see above.
    path: see above.
    needed: names of the arrays that must be there (of an .npz).
    optional: names of arrays that are left out where they are not there, or
      hold objects.

  Returns:
    The arrays by name, as they were stored; that of an .npy is 'array'.
  """
  place = find(root, path)
  # An open file and not its content: only what is asked for is decompressed.
  with reading(root, path), _open(place) as file:
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


def are_labels(labels: np.ndarray, count: int) -> bool:
  """Whether an array holds one label, 0 or 1, for each of `count` rows."""
  plain = labels.dtype.kind in 'fiub' and labels.shape == (count,)
  return plain and bool(np.isin(labels, (0, 1)).all())


def remote(source: str, base_url: str) -> tuple[RemoteFile, ...]:
  """The files of one source that `checksums.txt` lists."""
  listed = pathlib.Path(__file__).with_name('checksums.txt').read_text('utf-8')
  files = []
  for line in listed.splitlines():
    digits, _, path = line.partition(f'  {source}/')
    if path and not digits.startswith('#'):
      url = base_url + urllib.parse.quote(path)
      files.append(RemoteFile(path, url, digits))
  return tuple(files)


def digest(path: pathlib.Path, like: str) -> str:
  """SHA-256 of a file's decompressed content, in the form of `like`.

  Args:
    path: a file; `.xz` is decompressed.
    like: hexadecimal digits, or `KEY:...` for the values of array KEY of an
      .npz file (little-endian float64), whatever its compression.

  Returns:
    The digits, with `KEY:` in front where `like` has it; the reason in words
    where the file does not read.
  """
  key, colon, _ = like.rpartition(':')
  try:
    with _open(path) as file:
      if colon:
        sha256 = hashlib.sha256(_values(file, key).tobytes())
      else:
        sha256 = hashlib.file_digest(file, 'sha256')
  except storage.BROKEN as error:
    return f'unreadable, {storage.reason(error)}'
  return key + colon + sha256.hexdigest()
