"""A user's own file: every way to write it, and every way to break it."""

import random

import numpy as np
import pytest

from metaad_jax.base import DataError
from metaad_jax.data import user_rows

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
Y = np.array([0, 0, 1, 0, 1, 0], np.float32)


def write(path, x, y=None, head=None):
  """Writes rows in the format of the path's suffix."""
  if path.suffix == '.npy':
    np.save(path, x)
  elif path.suffix == '.npz':
    np.savez_compressed(path, x=x, **({} if y is None else {'y': y}))
  else:
    table = x.reshape(len(x), -1).tolist()
    if y is not None:
      head = head or [*'abcd', 'label']
      table = [[*row, label] for row, label in zip(table, y, strict=True)]
    lines = [head] * (head is not None) + table
    path.write_text('\n'.join(','.join(map(str, line)) for line in lines))
  return str(path)


@pytest.mark.parametrize('suffix', ['.npy', '.npz', '.csv', '.NPY'])
def test_rows_without_labels(suffix, tmp_path):
  if suffix == '.NPY':
    write(tmp_path / 'a.npy', X)
    (tmp_path / 'a.npy').rename(tmp_path / 'a.NPY')
    path = str(tmp_path / 'a.NPY')
  else:
    path = write(tmp_path / f'a{suffix}', X)
  x, y = user_rows.read(path, (4,))
  np.testing.assert_array_equal(x, X)
  assert y is None and x.dtype == np.float32


@pytest.mark.parametrize('suffix', ['.npz', '.csv'])
def test_rows_with_labels(suffix, tmp_path):
  path = write(tmp_path / f'a{suffix}', X, Y)
  x, y = user_rows.read(path, (4,))
  np.testing.assert_array_equal(x, X)
  np.testing.assert_array_equal(y, Y)


def test_the_label_column_may_stand_anywhere(tmp_path):
  path = tmp_path / 'a.csv'
  path.write_text('\ufeffp, Anomaly ,q\r\n1,1,2\r\n\r\n3,0,4\r\n', 'utf-8')
  x, y = user_rows.read(str(path), (2,))
  assert x.tolist() == [[1, 2], [3, 4]] and y.tolist() == [1, 0]


def test_windows_keep_the_order_of_their_samples(tmp_path):
  windows = np.arange(24, dtype=np.float32).reshape(2, 6, 2)
  for name, x in (('a.npy', windows), ('b.npy', windows.reshape(2, -1))):
    found, _ = user_rows.read(write(tmp_path / name, x), (6, 2))
    np.testing.assert_array_equal(found, windows)
  found, _ = user_rows.read(write(tmp_path / 'c.csv', windows), (6, 2))
  np.testing.assert_array_equal(found, windows)


def test_transposed_windows_are_refused_and_not_scrambled(tmp_path):
  path = write(tmp_path / 'a.npy', np.zeros((3, 2, 6)))
  with pytest.raises(DataError, match='2 x 6.* 6 x 2'):
    user_rows.read(path, (6, 2))


def refusal(path, shape=(4,)):
  with pytest.raises(DataError) as refused:
    user_rows.read(str(path), shape)
  told = str(refused.value)
  assert str(path) in told and '\n' not in told
  return told


@pytest.mark.parametrize('suffix', ['.npy', '.npz', '.csv'])
@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf, 1e300])
def test_the_place_of_a_value_that_is_not_finite_is_named(
  suffix, bad, tmp_path, recwarn
):
  x = X.astype(float)
  x[3, 2] = bad
  told = refusal(write(tmp_path / f'a{suffix}', x))
  assert 'row 3' in told and '[2]' in told
  assert not recwarn


@pytest.mark.parametrize(
  ('name', 'content', 'told'),
  [
    ('a.txt', b'1,2,3,4', '.npy, .npz or .csv'),
    ('a', b'', '.npy, .npz or .csv'),
    ('a.csv', b'', 'empty'),
    ('a.csv', b'a,b,c,d\n', 'no rows'),
    ('a.csv', b'1,2,3,4\n1,2,3\n', 'line 2'),
    ('a.csv', b'a,b,c,d\n1,2,3,x\n', "line 2: 'x'"),
    ('a.csv', b'1,2,3\n', '4'),
    ('a.csv', b'a,b,c,d,label\n1,2,3,4,2\n', 'labels'),
    ('a.csv', b'a,b,c,d,label\n1,2,3,4,nan\n', 'labels'),
    ('a.csv', b'label\n1\n', 'row'),
    ('a.csv', b'\xff\xfe1\x00', 'cannot be read'),
    ('a.csv', b'"' + b'1' * 140_000 + b'"\n', 'cannot be read'),
    ('a.npy', b'', 'cannot be read'),
    ('a.npy', b'garbage', 'cannot be read'),
    ('a.npz', b'PK\x03\x04', 'cannot be read'),
  ],
)
def test_broken_files_are_refused_in_one_line(name, content, told, tmp_path):
  (tmp_path / name).write_bytes(content)
  assert told in refusal(tmp_path / name)


def test_missing_files_and_folders(tmp_path):
  assert 'not there' in refusal(tmp_path / 'a.csv')
  (tmp_path / 'b.npy').mkdir()
  refusal(tmp_path / 'b.npy')


@pytest.mark.parametrize(
  'array',
  [
    np.array(['a', 'b']),
    np.array(1.0),
    np.zeros((0, 4)),
    np.zeros((3, 0)),
    np.zeros((3, 5)),
    np.zeros(4),
    np.zeros((3, 4), complex),
    np.zeros(3, [('a', 'f4')]),
  ],
  ids=lambda array: f'{array.dtype.kind}{array.shape}',
)
def test_arrays_that_are_no_rows(array, tmp_path):
  refusal(write(tmp_path / 'a.npy', array))


def test_no_pickle_is_ever_opened(tmp_path):
  class Bomb:
    def __reduce__(self):
      return (tmp_path.joinpath('boom').mkdir, ())

  array = np.array([Bomb()], object)
  np.save(tmp_path / 'a.npy', array, allow_pickle=True)
  np.savez(tmp_path / 'b.npz', x=array)
  assert 'pickle' in refusal(tmp_path / 'a.npy')
  assert 'pickle' in refusal(tmp_path / 'b.npz')
  assert not (tmp_path / 'boom').exists()


@pytest.mark.parametrize(
  'y', [Y[:5], Y[:, None], Y + 1, np.array(list('abcdef'))]
)
def test_labels_that_do_not_fit(y, tmp_path):
  assert 'labels' in refusal(write(tmp_path / 'a.npz', X, y))


def test_an_npz_of_several_arrays_needs_an_x(tmp_path):
  np.savez(tmp_path / 'a.npz', p=X, q=X)
  assert "'x'" in refusal(tmp_path / 'a.npz')
  np.savez(tmp_path / 'b.npz', anything=X)
  assert len(user_rows.read(str(tmp_path / 'b.npz'), (4,))[0]) == 6


@pytest.mark.parametrize('suffix', ['.npy', '.npz', '.csv'])
def test_damage_is_refused_or_harmless_but_never_a_traceback(suffix, tmp_path):
  path = tmp_path / f'a{suffix}'
  write(path, X, None if suffix == '.npy' else Y)
  whole = path.read_bytes()
  rng = random.Random(0)
  refused = 0
  for turn in range(300):
    damaged = bytearray(whole)
    if turn % 3:
      for _ in range(rng.choice((1, 4))):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    else:
      del damaged[rng.randrange(len(damaged)) :]
    path.write_bytes(damaged)
    try:
      x, _ = user_rows.read(str(path), (4,))
      assert x.shape[1:] == (4,) and np.isfinite(x).all()
    except DataError as error:
      refused += 1
      assert '\n' not in str(error)
  assert refused > 30
