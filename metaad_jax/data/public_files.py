"""Opening public files as they come: plain, or with `.xz` appended.

Nothing is unpickled, and nothing is written. What is missing, corrupt or of
another layout is a DataError that says how to get it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import csv
import dataclasses
import functools
import hashlib
import lzma
import pathlib
import tomllib
from typing import Any, NamedTuple
import urllib.parse
import warnings

import numpy as np

from metaad_jax import storage
from metaad_jax.base import DataError, Entity, RemoteFile, Source

_HERE = pathlib.Path(__file__).parent
_FIELDS = {field.name for field in dataclasses.fields(Source)}


def catalogue(source: str) -> dict[str, Any]:
  """What `datasets/catalogue.toml` holds of a source."""
  return _catalogue()[source]


@functools.cache
def _catalogue():
  text = (_HERE / 'datasets' / 'catalogue.toml').read_text('utf-8')
  return tomllib.loads(text)


def source(
  name: str, load: Callable[..., Iterable[Entity]], **fields
) -> Source:
  """A source of the catalogue, with the files that `checksums.txt` lists."""
  known = catalogue(name)
  files = []
  for line in (_HERE / 'checksums.txt').read_text('utf-8').splitlines():
    digits, _, path = line.partition(f'  {name}/')
    if path and not digits.startswith('#'):
      url = known['url'] + urllib.parse.quote(path)
      files.append(RemoteFile(path, url, digits))
  told = {key: known[key] for key in _FIELDS & known.keys()} | fields
  told |= {key: tuple(v) for key, v in told.items() if isinstance(v, list)}
  return Source(name=name, load=load, files=tuple(files), **told)


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


def _fetching(root):
  return (
    f'fetch it with `python -m experiments.download --source={root.name} '
    f'--data_dir={root.parent}`'
  )


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


class File(NamedTuple):
  """The file `root/path`, or the `.xz` beside it; root is a source's folder."""

  root: pathlib.Path
  path: str

  def find(self) -> pathlib.Path:
    plain = self.root / self.path
    for candidate in (plain, plain.with_name(plain.name + '.xz')):
      if candidate.is_file():
        return candidate
    raise DataError(
      f'{plain} is not there, nor with .xz: {_fetching(self.root)}'
    )

  def broken(self, why: object) -> DataError:
    """The error of a file that makes no sense."""
    reason = storage.reason(why) if isinstance(why, Exception) else why
    return DataError(
      f'{self.find()} is truncated or corrupt ({reason}): delete it and '
      f'{_fetching(self.root)}'
    )

  def require(self, good: object, why: object) -> None:
    """Raises `broken` unless what must hold of the file does."""
    if not good:
      raise self.broken(why)

  @contextlib.contextmanager
  def reading(self) -> Iterator[None]:
    """Turns what a reader of a damaged file raises into `broken`."""
    try:
      yield
    except (UserWarning, *storage.BROKEN) as error:
      raise self.broken(error) from error

  def read(self) -> bytes:
    """The (decompressed) content."""
    place = self.find()
    with self.reading(), _open(place) as file:
      content = file.read()
    if not content.strip():
      raise DataError(f'{place} is empty: {_fetching(self.root)}')
    return content

  def lines(self) -> list[str]:
    content = self.read()
    with self.reading():
      return content.decode('utf-8-sig').splitlines()

  def table(
    self,
    *,
    delimiter: str = ',',
    header: tuple[str, ...] = (),
    columns: tuple[int, ...] | None = None,
  ) -> np.ndarray:
    """A table of numbers, [rows, columns] float64.

    `header` are all names in the first line, () = it is none; `columns` are the
    numbers of those to read, None = all.
    """
    text = self.lines()
    if header:
      first = text.pop(0).strip().replace('"', '').split(delimiter)
      self._check_header(first, header)
    with self.reading(), warnings.catch_warnings():
      warnings.simplefilter('error')  # no rows
      return np.loadtxt(
        text, delimiter=delimiter, usecols=columns, ndmin=2, comments=None,
        quotechar='"',
      )  # fmt: skip

  def cells(
    self, *, header: tuple[str, ...] = (), width: int = 0
  ) -> np.ndarray:
    """A comma-separated table of text, [rows, columns] strings.

    `header` is as in `table`; `width` columns are expected without one.
    """
    text = self.lines()
    with self.reading():
      listed = [row for row in csv.reader(text, strict=True) if row]
      for number, row in enumerate(listed):
        if len(row) != (len(header) or width):
          raise ValueError(f'row {number} has {len(row)} cells')
    if header:
      self._check_header(listed.pop(0), header)
    self.require(listed, 'it holds no rows')
    return np.array(listed)

  def _check_header(self, names, expected):
    told, wanted = (','.join(some)[:60] for some in (names, expected))
    why = f'the header is {told}, expected {wanted}'
    self.require(tuple(names) == expected, why)

  def numbers(self, values: np.ndarray, missing: str = 'nan') -> np.ndarray:
    """Turns text of `cells` into float64; '' and `missing` are NaN."""
    filled = np.where((values == '') | (values == missing), 'nan', values)
    with self.reading():
      try:
        return filled.astype(np.float64)
      except ValueError:
        import pandas as pd  # half a second, for a message

        bad = pd.DataFrame(filled).apply(pd.to_numeric, errors='coerce').isna()
        row, column = np.argwhere(bad.to_numpy() & (filled != 'nan'))[0]
        text = str(filled[row, column])
        raise ValueError(f'row {row}, column {column}: {text!r}') from None

  def arrays(
    self, needed: Sequence[str] = (), *, optional: Sequence[str] = ()
  ) -> dict[str, np.ndarray]:
    """Arrays of an .npz by name, or the one of an .npy as 'array'.

    Those that are optional are left out where they are not there, or hold
    objects.
    """
    place = self.find()
    # An open file and not its content: only what is asked for is decompressed.
    with self.reading(), _open(place) as file:
      if '.npy' in place.suffixes:
        return {'array': np.load(file, allow_pickle=False)}
      with np.load(file, allow_pickle=False) as archive:
        result = {key: archive[key] for key in needed}
        for key in set(optional) & set(archive.files):
          with contextlib.suppress(ValueError):  # objects
            result[key] = archive[key]
        return result


def _open(place: pathlib.Path) -> Any:
  return lzma.open(place) if place.suffix == '.xz' else open(place, 'rb')


def are_labels(labels: np.ndarray, count: int) -> bool:
  """Whether an array holds one label, 0 or 1, for each of `count` rows."""
  plain = labels.dtype.kind in 'fiub' and labels.shape == (count,)
  return plain and bool(np.isin(labels, (0, 1)).all())


def digest(path: pathlib.Path, like: str) -> str:
  """SHA-256 of a file's decompressed content, in the form of `like`.

  `like` is hexadecimal digits, or `KEY:...` for the values of array KEY of an
  .npz file (little-endian float64), whatever its compression. Of a file that
  does not read it is the reason in words.
  """
  key, colon, _ = like.rpartition(':')
  try:
    with _open(path) as file:
      if colon:
        with np.load(file, allow_pickle=False) as archive:
          values = archive[key].astype('<f8').tobytes()
        sha256 = hashlib.sha256(values)
      else:
        sha256 = hashlib.file_digest(file, 'sha256')
  except storage.BROKEN as error:
    return f'unreadable, {storage.reason(error)}'
  return key + colon + sha256.hexdigest()
