"""A model file comes back bit for bit, or is refused in one line."""

import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest

from metaad_jax import storage
from metaad_jax.base import DataError

ARRAYS = {
  'params/dense/kernel': np.arange(6, dtype=np.float32).reshape(2, 3),
  'params/scale': np.float32(-0.0),
  'empty': np.zeros((0, 4), np.float64),
  'flags': np.array([True, False]),
  'transposed': np.arange(6).reshape(2, 3).T,
}
META = {'name': 'tables', 'shots': [5, 20], 'rate': None, 'deep': {'ü': 1.5}}


@pytest.fixture
def path(tmp_path):
  path = str(tmp_path / 'folder' / 'model.npz')
  storage.save(path, ARRAYS, META)
  return path


def refusal(path):
  with pytest.raises(DataError) as refused:
    storage.load(path)
  assert '\n' not in str(refused.value) and path in str(refused.value)
  return str(refused.value)


def members(path):
  with zipfile.ZipFile(path) as archive:
    return {name: archive.read(name) for name in archive.namelist()}


def rewrite(path, contents):
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    for name, data in contents:
      archive.writestr(name, data)


def edit(path, change):
  """Replaces members of the archive by those of change(members)."""
  contents = members(path)
  change(contents)
  rewrite(path, contents.items())


def edit_json(path, change):
  def changed(contents):
    content = json.loads(contents['model.json'])
    change(content)
    contents['model.json'] = json.dumps(content)

  edit(path, changed)


def test_what_was_saved_comes_back(path):
  arrays, meta = storage.load(path)
  assert meta == META and set(arrays) == set(ARRAYS)
  for name, array in ARRAYS.items():
    one, other = arrays[name], np.asarray(array)
    assert (one.dtype, one.shape) == (other.dtype, other.shape)
    assert one.tobytes() == other.tobytes()
    arrays[name][...] = 0  # its own memory, and writable


def test_the_same_content_gives_the_same_bytes(path, tmp_path):
  other = str(tmp_path / 'other.npz')
  storage.save(other, dict(reversed(ARRAYS.items())), META)
  one, two = (open(p, 'rb').read() for p in (path, other))
  assert one == two
  assert os.listdir(os.path.dirname(path)) == ['model.npz']  # no .part left


def test_a_flipped_bit_is_refused_or_changes_nothing(path):
  """A zip archive has a few bytes, such as dates, that nobody reads."""
  content = open(path, 'rb').read()
  refused = 0
  for place in range(0, len(content), 7):
    changed = bytearray(content)
    changed[place] ^= 1 << place % 8
    open(path, 'wb').write(changed)
    try:
      arrays, meta = storage.load(path)
    except DataError as error:
      assert '\n' not in str(error)
      refused += 1
      continue
    assert meta == META
    for name, array in ARRAYS.items():
      assert arrays[name].tobytes() == array.tobytes()
  assert refused > len(content) // 7 // 2


def test_another_array_or_meta_under_the_old_checksum(path):
  original = open(path, 'rb').read()
  buffer = io.BytesIO()
  np.save(buffer, ARRAYS['params/scale'] + 1)
  edit(path, lambda c: c.update({'params/scale.npy': buffer.getvalue()}))
  assert 'checksum' in refusal(path)
  for change in (
    lambda c: c['meta'].update(name='other'),
    lambda c: c.update(sha256='0' * 64),
    lambda c: c.pop('sha256'),
    lambda c: c.update(meta=[]),
  ):
    open(path, 'wb').write(original)
    edit_json(path, change)
    refusal(path)
  open(path, 'wb').write(original)
  edit(path, lambda c: c.pop('flags.npy'))
  assert 'checksum' in refusal(path)


class Bomb:
  def __reduce__(self):
    return os.mkdir, ('unpickled',)


def test_a_pickle_is_never_opened(path, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  head = io.BytesIO()
  objects = np.array([Bomb()], object)
  np.lib.format.write_array(head, objects, allow_pickle=True)
  original = open(path, 'rb').read()
  for name, data in (
    ('flags.npy', head.getvalue()),
    ('flags.npy', pickle.dumps(Bomb())),
    ('model.json', pickle.dumps(Bomb())),
    ('more.pkl', pickle.dumps(Bomb())),
  ):
    open(path, 'wb').write(original)
    edit(path, lambda c: c.update({name: data}))  # noqa: B023
    refusal(path)
  open(path, 'wb').write(pickle.dumps(Bomb()))
  refusal(path)
  assert not (tmp_path / 'unpickled').exists()


def test_a_bomb_is_not_unpacked(path, monkeypatch):
  edit(path, lambda c: c.update({'flags.npy': bytes(1 << 20)}))
  monkeypatch.setattr(storage, '_LARGEST', 1 << 19)
  monkeypatch.setattr(zipfile.ZipFile, 'read', lambda *_: pytest.fail('opened'))
  assert 'not opened' in refusal(path)


def test_a_header_cannot_ask_for_memory(path):
  head = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    head, {'descr': '<f8', 'fortran_order': False, 'shape': (1 << 50,)}
  )
  edit(path, lambda c: c.update({'flags.npy': head.getvalue() + bytes(8)}))
  assert 'says' in refusal(path)


def test_a_member_that_comes_twice(path):
  contents = list(members(path).items())
  with pytest.warns(UserWarning, match='Duplicate'):
    rewrite(path, contents + contents[:1])
  assert 'twice' in refusal(path)


def test_no_file_and_no_archive(tmp_path):
  (tmp_path / 'text.npz').write_text('hello')
  for path in (tmp_path / 'nowhere.npz', tmp_path, tmp_path / 'text.npz'):
    refusal(str(path))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
  path, tmp_path, monkeypatch
):
  before = open(path, 'rb').read()
  for place in (path + '/below.npz', str(tmp_path)):
    with pytest.raises(DataError, match='cannot write'):
      storage.save(place, ARRAYS, META)

  def full(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(DataError, match='No space left'):
    storage.save(path, ARRAYS, {})
  assert open(path, 'rb').read() == before
  assert os.listdir(os.path.dirname(path)) == ['model.npz']
