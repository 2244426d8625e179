"""A folder of a user's own files is a source."""

import numpy as np
import pandas as pd
import pytest

from metaad_jax.base import DataError
from metaad_jax.data import registry

X = np.random.default_rng(0).normal(size=(60, 3)).round(4)
FRAME = pd.DataFrame(X, columns=['temp', 'press', 'rpm'])


def load(folder, spec='folder'):
  return registry.load(spec, str(folder))


def refusal(folder, spec='folder'):
  with pytest.raises(DataError) as refused:
    load(folder, spec)
  assert '\n' not in str(refused.value)
  return str(refused.value)


def test_tables_of_any_width_and_kind(tmp_path):
  (tmp_path / 'a.csv').write_text(
    'temp;site;label\n20,5;north;0\n;south;0\n21;north;0\n90;south;1\n'
  )
  x = np.random.default_rng(1).normal(size=(6, 2)).astype(np.float32)
  np.savez(tmp_path / 'b.npz', x=x, y=[0, 0, 1, 0, 0, 1])
  np.save(tmp_path / 'c.npy', np.ones((4, 7)))
  FRAME.to_parquet(tmp_path / 'd.parquet')
  (tmp_path / 'notes.txt').write_text('not a table')
  entities = load(tmp_path)
  again = registry.load(f'folder:path={tmp_path}')
  assert [e.name for e in entities] == [e.name for e in again]
  a, b, c, d = entities
  assert a.columns == ('temp', 'site')
  np.testing.assert_array_equal(a.normal, [[20.5, 0], [np.nan, 1]])
  np.testing.assert_array_equal(a.query, [[21, 0], [90, 1]])
  assert a.labels.tolist() == [0, 1] and a.kinds == ('', 'anomaly')
  np.testing.assert_array_equal(b.normal, x[:2])
  np.testing.assert_array_equal(b.query, x[2:])
  assert c.normal.shape == (2, 7) and not c.labels.any()
  np.testing.assert_array_equal(d.normal, X[:30].astype(np.float32))
  most = load(tmp_path, 'folder:share=0.75')[1]
  np.testing.assert_array_equal(most.normal, x[[0, 1, 3]])


def test_recordings_are_split_in_time_and_have_the_first_ones_columns(tmp_path):
  marks = np.zeros(40, int)
  marks[[3, 30]] = 1
  when = pd.date_range('2024-01-01', periods=40, freq='min')
  frame = FRAME[:40].assign(label=marks, when=when)
  frame.to_csv(tmp_path / 'a.csv', index=False)
  frame[['when', 'label', 'rpm', 'temp', 'press']].to_csv(
    tmp_path / 'b.csv', index=False, sep=';', decimal=','
  )
  x = X[:40].astype(np.float32)
  for entity in load(tmp_path, 'folder_series:window=4'):
    np.testing.assert_array_equal(entity.normal[:, 0], x[4:20:4])
    np.testing.assert_array_equal(entity.query[:, 0], x[23:36:4])
    assert entity.labels.tolist() == [0, 1, 0, 0]
    assert entity.columns == tuple(FRAME)
  for entity in load(tmp_path, 'folder_series'):
    np.testing.assert_array_equal(entity.normal, np.delete(x[:20], 3, 0))
    np.testing.assert_array_equal(entity.query, x[20:])
  assert load(tmp_path, 'folder:ids=True')[0].columns[-1] == 'when'


@pytest.mark.parametrize('delimiter', [';', '\t', '|', ' '])
def test_delimiters_and_a_label_that_no_file_has(delimiter, tmp_path):
  FRAME.to_csv(tmp_path / 'a.csv', index=False, sep=delimiter)
  for source in ('folder', 'folder_series'):
    (entity,) = load(tmp_path, source)
    assert entity.columns == tuple(FRAME)
  assert "'tmp'" in refusal(tmp_path, 'folder:label=tmp')


@pytest.mark.parametrize('source', ['folder', 'folder_series:share=0.3'])
def test_labels_in_words_cannot_be_turned_round(source, tmp_path):
  join = ',' if ':' in source else ':'
  for bad, good in (('attack', 'normal'), ('fault', 'ok'), ('F', 'N')):
    marks = [bad if 50 <= i < 55 else good for i in range(60)]
    FRAME.assign(label=marks).to_csv(tmp_path / 'a.csv', index=False)
    if bad == 'F':
      assert '--anomaly_label' in refusal(tmp_path, source)
      source += f'{join}anomaly_label=F'
    assert [int(e.labels.sum()) for e in load(tmp_path, source)] == [5]


@pytest.mark.parametrize(
  ('spec', 'content', 'why'),
  [
    ('folder', 'a,b\n1,2\n3,x\n', "'x'"),
    ('folder', 'a,b\n1,2\n3\n', 'line 3'),
    ('folder', 'a,b,label\n1,2,0\n3,4,2\n', 'labels'),
    ('folder', 'a,b,label\n1,2,0\n3,4,\n', 'row 1 has no label'),
    ('folder', 'a,b\n1,2\n3,inf\n', 'inf'),
    ('folder', '', 'empty'),
    ('folder', 'a,b,label\n1,2,1\n3,4,1\n', 'no normal rows'),
    ('folder:share=1.0', 'a,b\n1,2\n', 'share'),
    ('folder_series:window=9', 'a,b\n1,2\n3,4\n', 'window=9'),
  ],
)
def test_what_a_folder_cannot_hold(spec, content, why, tmp_path):
  (tmp_path / 'one.csv').write_text(content)
  message = refusal(tmp_path, spec)
  assert why in message and ('one.csv' in message or 'share' in message)


def test_a_folder_must_be_there_and_hold_something(tmp_path):
  assert '--source=folder:path=' in refusal(tmp_path / 'no')
  assert 'holds no file' in refusal(tmp_path)
  with pytest.raises(DataError, match='path='):
    registry.load('folder')
