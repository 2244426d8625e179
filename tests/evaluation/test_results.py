"""What is written is what is read, and nothing impossible is either."""

import json
import lzma

import numpy as np
import pandas as pd
import pytest

from metaad_jax.base import DataError
from metaad_jax.evaluation import results
from metaad_jax.scores import comparisons, metrics

META = {
  'schema': 2, 'created': '2026-01-01T00:00:00+00:00', 'seed': 0,
  'versions': {'numpy': '2'}, 'hardware': 'cpu', 'seconds': 1.5,
  'flags': {'run_dir': ['/home/me/runs/maml'], 'source': ''}, 'code': 'abc',
  'command': 'evaluate --run_dir=/home/me/runs/maml', 'notes': ['/tmp/x left'],
}  # fmt: skip


def line(**changes):
  return {
    'source': 'rig', 'entity': 'NA', 'method': 'maml', 'kind': 'learner',
    'shots': 5, 'anomalies': 2, 'contamination': 0.1, 'draw': 0,
    **dict.fromkeys(metrics.NAMES, 1 / 3), 'queries': 9, 'query_anomalies': 4,
    **changes,
  }  # fmt: skip


def made(*lines):
  lines = lines or (line(), line(entity='007', auroc=np.nan, kind='learner'))
  return results.Results(pd.DataFrame(lines), META)


@pytest.mark.parametrize('place', ['', 'table.csv.xz', 'table.csv'])
def test_saved_and_loaded_are_the_same(place, tmp_path):
  results.save(made(), tmp_path / place)
  found = results.load(tmp_path / place)
  # Texts stay texts: an entity may be called NA or 007; floats are exact.
  pd.testing.assert_frame_equal(
    found.table, made().table[list(results.COLUMNS)], check_dtype=False
  )
  assert found.meta == META
  names = {
    '': {'results.csv', 'meta.json'},
    'table.csv.xz': {'table.csv.xz', 'table.meta.json.xz'},
  }
  expected = names.get(place, {place, 'table.meta.json'})
  assert {path.name for path in tmp_path.iterdir()} == expected


@pytest.mark.parametrize(
  'change, match',
  [
    ({'auroc': 1.1}, 'row 1: auroc'),
    ({'ap': -0.2}, 'row 1: ap'),
    ({'shots': -1}, 'row 1: shots'),
    ({'draw': -1}, 'row 1: draw'),
    ({'contamination': np.nan}, 'row 1: contamination'),
    ({'kind': 'both'}, 'row 1: kind'),
    ({'query_anomalies': 10}, 'row 1: query_anomalies'),
    ({'kind': 'baseline'}, 'method'),
    ({'queries': 'many'}, 'type'),
    ({'colour': 'red'}, 'unknown: colour'),
  ],
)
def test_impossible_tables_are_refused(change, match, tmp_path):
  with pytest.raises(DataError, match=match) as refused:
    results.save(made(line(), line(**change)), tmp_path)
  assert '\n' not in str(refused.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'change, match',
  [
    ({'schema': 1}, 'schema 1'),
    ({'seed': '0'}, 'meta.seed'),
    ({'notes': None}, 'meta.notes'),
    ({'more': np.zeros(2)}, 'not JSON'),
    ({'seconds': float('nan')}, 'not JSON'),
  ],
)
def test_impossible_meta_data_are_refused(change, match, tmp_path):
  with pytest.raises(DataError, match=match):
    results.save(made()._replace(meta=META | change), tmp_path)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('file', ['NAME.csv.xz', 'NAME.meta.json.xz'])
@pytest.mark.parametrize('damage', ['gone', 'cut', 'other'])
def test_damaged_files_are_named(file, damage, tmp_path):
  path = tmp_path / 'NAME.csv.xz'
  results.save(made(), path)
  broken = tmp_path / file
  content = broken.read_bytes()
  broken.write_bytes(content[:40] if damage == 'cut' else b'[1]')
  if damage == 'gone':
    broken.unlink()
  with pytest.raises(DataError, match=file) as refused:
    results.load(path)
  assert '\n' not in str(refused.value)


def test_a_table_without_a_column_is_refused(tmp_path):
  path = tmp_path / 'NAME.csv.xz'
  results.save(made(), path)
  table = made().table.drop(columns='ap')
  path.write_bytes(lzma.compress(table.to_csv(index=False).encode()))
  with pytest.raises(DataError, match='missing or unknown: ap'):
    results.load(path)


def test_compact_tables_keep_the_statistics_and_no_place_on_a_disk():
  rng = np.random.default_rng(0)
  lines = [
    line(entity=f'e{i}', draw=draw, auroc=rng.random(), shots=shots)
    for shots in (1, 5)
    for i in range(4)
    for draw in range(3)
  ]
  lines.append(line(entity='e0', draw=3, auroc=np.nan, shots=1))
  full = made(*lines)
  small = results.compact(full)
  assert len(small.table) == 2 * 4 and set(small.table['draw']) == {0}
  before, after = (
    comparisons.summary(one.table, 'auroc') for one in (full, small)
  )
  pd.testing.assert_frame_equal(before, after, atol=1e-6)
  again = results.compact(small)
  pd.testing.assert_frame_equal(again.table, small.table)
  assert '/home' not in json.dumps(small.meta)
  assert small.meta['flags']['run_dir'] == ['maml']


def test_newer_learners_take_the_place_of_theirs():
  both = [line(), line(method='knn', kind='baseline'), line(entity='b')]
  newer = [line(auroc=0.75), line(entity='b', auroc=0.5)]
  found = results.renewed(made(*both), made(*newer)).table
  told = dict(zip(found.method + found.entity, found.auroc, strict=True))
  assert told == {'mamlNA': 0.75, 'mamlb': 0.5, 'knnNA': round(1 / 3, 6)}
  for other in (newer[:1], [*newer, line(entity='c')], [line(shots=1)]):
    with pytest.raises(DataError, match='one flagfile'):
      results.renewed(made(*both), made(*other))
