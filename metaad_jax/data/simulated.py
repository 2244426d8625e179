"""Simulated entities kept on disk, and their features: made once, then read.

Only programs that keep what they compile keep them, too (`devices.persist`),
below the same folder of the user's: a folder for each key, in which nothing is
ever changed. It appears when complete; what is damaged is made anew.
"""

from collections.abc import Callable, Sequence
import contextlib
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import sys
import time
from typing import Any

import jax
import numpy as np

from metaad_jax import devices, storage
from metaad_jax.base import Entity
from metaad_jax.data import audits

_LEAST = 1 << 20  # bytes; fewer are made in no time
_MOST = 2 << 30  # of all; the least recently used go first
_ARRAYS = 'normal', 'query', 'labels'
_FACTS = 'name', 'kinds', 'group', 'fold', 'side', 'columns'


def kept(
  facts: Any, modules: Sequence[str], make: Callable[[], list[Entity]]
) -> list[Entity]:
  """What `make` returns, read from disk where it has been made before.

  Args:
    facts: all that it depends on, as JSON has it, beside
    modules: names of the modules, or of packages, whose code computes it.
    make: () -> entities of rows of one shape.

  Returns:
    The entities; rows that are read from disk cannot be written to.
  """
  if (home := devices.cache_folder()) is None:
    return make()
  folder = pathlib.Path(home, 'simulated', _key(facts, modules))
  try:
    return _read(folder)
  except storage.BROKEN:
    shutil.rmtree(folder, ignore_errors=True)
  entities = make()
  with contextlib.suppress(OSError):  # no room: made anew the next time
    _write(folder, entities)
  return entities


def _key(facts, modules):
  versions = [importlib.metadata.version(p) for p in ('jax', 'jaxlib', 'numpy')]
  x64 = jax.config.values['jax_enable_x64']
  where = [jax.default_backend(), platform.machine(), x64]
  text = json.dumps([facts, versions, where], sort_keys=True, default=str)
  sha256 = hashlib.sha256(text.encode())
  for module in (__name__, *modules):
    path = pathlib.Path(sys.modules[module].__file__ or '')
    files = [path, path.with_suffix('.toml')]
    if path.name == '__init__.py':
      files = sorted(path.parent.glob('*.py'))
    for file in filter(pathlib.Path.exists, files):
      sha256.update(file.read_bytes())
  return sha256.hexdigest()[:32]


def _read(folder):
  content = json.loads((folder / 'entities.json').read_text())
  arrays = [_mapped(folder / f'{a}.npy') for a in _ARRAYS]
  parts = []
  for name, array in zip(_ARRAYS, arrays, strict=True):
    counts = [told['rows'][name != 'normal'] for told in content]
    if len(array) != sum(counts):
      raise ValueError(f'{name} has another size')
    parts.append(np.split(np.asarray(array), np.cumsum(counts)[:-1]))
  entities = []
  for told, normal, query, labels in zip(content, *parts, strict=True):
    told['kinds'], told['columns'] = map(
      tuple, (told['kinds'], told['columns'])
    )
    fields = {name: told[name] for name in _FACTS}
    entity = Entity(normal=normal, query=query, labels=labels, **fields)
    entities.append(audits.with_digest(entity, told['digest']))
  _used(folder)
  return entities


def _mapped(path):
  return np.load(path, mmap_mode='r', allow_pickle=False)


def _write(folder, entities):
  size = sum(e.normal.nbytes + e.query.nbytes for e in entities)
  if not _LEAST <= size <= _MOST // 2:
    return
  folder.parent.mkdir(parents=True, exist_ok=True)
  if shutil.disk_usage(folder.parent).free < 4 * size:
    return
  part = folder.with_name(f'.{folder.name}.{os.getpid()}.part')
  try:
    part.mkdir()
    for name in _ARRAYS:
      _write_array(part / f'{name}.npy', [getattr(e, name) for e in entities])
    content = [
      {name: getattr(e, name) for name in _FACTS}
      | {'rows': [len(e.normal), len(e.query)], 'digest': audits.digest(e)}
      for e in entities
    ]
    storage.write_bytes(part / 'entities.json', json.dumps(content).encode())
    os.rename(part, folder)
    _used(folder)
  finally:
    shutil.rmtree(part, ignore_errors=True)
  _bound(folder.parent)


def _write_array(path, parts):
  """Arrays [N, ...] behind one another, without a copy of them all."""
  head = np.lib.format.header_data_from_array_1_0(parts[0])
  head |= {
    'shape': (sum(map(len, parts)), *parts[0].shape[1:]),
    'fortran_order': False,
  }
  with open(path, 'wb') as file:
    np.lib.format.write_array_header_1_0(file, head)
    for part in parts:
      file.write(np.ascontiguousarray(part).data)
    file.flush()
    os.fsync(file.fileno())


def _used(folder):
  """Notes when, finer than a file system does by itself."""
  now = time.time_ns()
  os.utime(folder, ns=(now, now))


def _bound(home):
  """Removes the least recently used, until no more than `_MOST` is there."""
  size = lambda folder: sum(f.stat().st_size for f in folder.iterdir())
  oldest = sorted(home.iterdir(), key=lambda folder: folder.stat().st_mtime)
  total = sum(map(size, oldest))
  for folder in oldest[:-1]:
    if total <= _MOST:
      break
    total -= size(folder)
    shutil.rmtree(folder, ignore_errors=True)
