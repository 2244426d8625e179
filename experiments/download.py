"""Fetches the public files of a data set and checks their sha256.

Files that are there already, plain or with .xz appended, and have the right
content are left alone, so that an interrupted download goes on where it ended;
a file appears under its name only when it is complete.

  python -m experiments.download --list
  python -m experiments.download --source=cwru --data_dir=data
"""

import pathlib
import sys

from absl import flags
import pooch

from experiments import cli
from metaad_jax.base import DataError, RemoteFile, Source
from metaad_jax.data import public_files, registry

FLAGS = flags.FlagValues()
_SOURCE = flags.DEFINE_string(
  'source', None, 'What to fetch; --list shows the choices.', flag_values=FLAGS
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir',
  'data',
  'Files are put into <data_dir>/<source>/.',
  flag_values=FLAGS,
)
_LIST = flags.DEFINE_bool(
  'list',
  False,
  'Print the sources with licence, citation and notes, and fetch nothing.',
  flag_values=FLAGS,
)


def destination(root: pathlib.Path, file: RemoteFile) -> pathlib.Path:
  """Where a file goes; a DataError if that is not below root."""
  path = root / file.path
  inside = path.resolve().is_relative_to(root.resolve())
  if not inside or path == root or '\\' in file.path:
    raise DataError(
      f'{file.path!r} would be written outside of {root}: the entry of the '
      'source is wrong and was refused'
    )
  return path


def present(path: pathlib.Path, sha256: str) -> bool:
  """Whether the file is there, plain or .xz, with the right content."""
  candidates = (path, path.with_name(path.name + '.xz'))
  return any(
    candidate.is_file() and public_files.digest(candidate, sha256) == sha256
    for candidate in candidates
  )


def fetch(path: pathlib.Path, file: RemoteFile) -> None:
  """Downloads one file; it appears under its name only when it is complete.

  Raises:
    DataError: naming the URL, if it cannot be fetched or has a wrong sha256.
  """
  pooch.get_logger().setLevel('ERROR')
  get = pooch.HTTPDownloader(
    progressbar=sys.stderr.isatty(), chunk_size=1 << 16, timeout=30
  )
  path.unlink(missing_ok=True)  # a wrong one
  try:
    pooch.retrieve(file.url, None, path.name, path.parent, downloader=get)
  except OSError as error:
    raise DataError(
      f'cannot fetch {file.url} ({error}): check connection and disk and run '
      'this again, what is there is kept'
    ) from error
  digest = public_files.digest(path, file.sha256)
  if digest != file.sha256:
    path.unlink()
    raise DataError(
      f'{file.url}: sha256 is {digest}, expected {file.sha256}: it was '
      'damaged on the way or changed by its publisher, and was not kept'
    )


def download(source: Source, data_dir: str) -> int:
  """Fetches what is missing of a source; returns how many files that were.

  Raises:
    DataError: at the first file that cannot be fetched, or if there is nothing
      to fetch because the user has to do it by hand.
  """
  if not source.files and source.note:
    raise DataError(f'{source.name}: nothing can be fetched. {source.note}')
  root = pathlib.Path(data_dir) / source.name
  paths = [destination(root, file) for file in source.files]
  fetched = 0
  for i, (path, file) in enumerate(zip(paths, source.files, strict=True)):
    if not present(path, file.sha256):
      print(f'[{i + 1}/{len(paths)}] {file.url}', file=sys.stderr)
      fetch(path, file)
      fetched += 1
  return fetched


def describe(source: Source) -> str:
  """What --list prints of a source."""
  by_hand = 'nothing to fetch by URL' if source.note else 'generated, no files'
  facts = [
    ('licence', source.licence),
    ('cite', source.citation),
    ('files', str(len(source.files)) if source.files else by_hand),
    ('note', source.note),
  ]
  told = [f'  {name}: {value}' for name, value in facts if value]
  return '\n'.join([f'{source.name}: {source.description}', *told])


def main() -> None:
  if _LIST.value:
    print('\n\n'.join(map(describe, registry.REGISTRY.values())))
    return
  if _SOURCE.value is None:
    raise cli.UsageError('--source is missing: --list shows the choices')
  with cli.usage():
    source, options = registry.get(_SOURCE.value)
  if options:
    raise cli.UsageError(
      f'--source={_SOURCE.value}: give the name alone, {source.name}'
    )
  fetched = download(source, _DATA_DIR.value)
  if source.files:
    kept = len(source.files) - fetched
    where = pathlib.Path(_DATA_DIR.value) / source.name
    print(f'{where}: {fetched} files fetched, {kept} were there')
  else:
    print(f'{source.name} is generated: there is nothing to fetch')
  if source.note:
    print(source.note)


if __name__ == '__main__':
  cli.run(main, FLAGS)
