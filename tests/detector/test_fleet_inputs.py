"""Long frames of every kind say the same; so do files in pieces."""

import nearest_run
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from metaad_jax import FleetDetector
from metaad_jax.base import DataError
from metaad_jax.fleet import frames, pieces


def frame(n, seed, entities=6):
  rng = np.random.default_rng(seed)
  made = pd.DataFrame(rng.normal(size=(n, 3)).round(6), columns=list('abc'))
  made['site'] = rng.choice(['north', 'so "uth"\nend'], n)
  made.insert(0, 'm', rng.integers(0, entities, n))
  made['t'] = pd.date_range('2024-01-01', periods=n, freq='h')
  made.loc[made.m == 2, 'c'] = np.nan  # it has no such sensor
  return made


KNOWN, NEW = frame(120, 0), frame(60, 1)


@pytest.fixture(scope='module')
def fleet():
  run = nearest_run.shared()
  return FleetDetector(run).fit(KNOWN, entity='m', time='t')


def partitioned(table, path):
  """As Spark writes it: the entity is in the names of folders."""
  table.to_parquet(path, partition_cols=['m'], index=False)
  return path


def foldered(table, path):
  """A file an entity; that of entity 2 has no column 'c'."""
  path.mkdir()
  for name, part in table.assign(site=table.site.astype('category')).groupby(
    'm'
  ):
    if name == 2:
      part = part.drop(columns='c')
    part.to_parquet(path / f'{2 - name % 3}{name}.parquet')
  return path


def filed(table, path):
  table.to_csv(path, index=False)
  return path


FORMS = {
  'polars': lambda table, path: pl.from_pandas(table).lazy(),
  'arrow': lambda table, path: pa.Table.from_pandas(table),
  'nullable': lambda table, path: table.convert_dtypes(dtype_backend='pyarrow'),
  'index': lambda table, path: table.set_index(['m', 't']),
  'csv': lambda table, path: filed(table, path.with_suffix('.csv')),
  'partitioned': partitioned,
  'foldered': foldered,
}


@pytest.mark.parametrize('form', FORMS)
def test_every_kind_of_frame_is_judged_alike(fleet, form, tmp_path):
  known, new = (
    FORMS[form](table, tmp_path / name)
    for table, name in ((KNOWN, 'known'), (NEW, 'new'))
  )
  wanted = fleet.judge(NEW)
  again = FleetDetector(fleet.run_dir).fit(known, entity='m', time='t')
  for got in (fleet.judge(new), again.judge(new)):
    got = got.assign(t=pd.to_datetime(got.t)).set_index('t')['score']
    np.testing.assert_allclose(got[wanted.t], wanted.score, atol=1e-6)


@pytest.mark.parametrize('form', ['csv', 'foldered', 'parquet'])
@pytest.mark.parametrize('cells', [70, 10**6])
def test_pieces_hold_every_row_once_in_order(fleet, form, cells, tmp_path):
  if form == 'parquet':
    path = tmp_path / 'new.parquet'
    NEW.to_parquet(path, row_group_size=25)
  else:
    path = FORMS[form](NEW, tmp_path / 'new')
  found = list(pieces.of(path, cells=cells))
  assert (len(found) > 3) == (cells == 70)
  parts = [frames.read(piece, known=fleet.layout_) for piece in found]
  whole = frames.read(path, known=fleet.layout_)
  joined = np.concatenate([part.x for part in parts])
  np.testing.assert_array_equal(joined, whole.x)
  names = np.concatenate([part.names[part.which] for part in parts])
  np.testing.assert_array_equal(names, whole.names[whole.which])
  times = np.concatenate([part.times for part in parts])
  np.testing.assert_array_equal(times, whole.times)


def test_an_index_of_a_part_of_a_frame_is_no_column(tmp_path):
  path = tmp_path / 'a.parquet'
  KNOWN[KNOWN.m == 1].to_parquet(path)
  (piece,) = pieces.of(path)
  assert pieces.read(piece).header == tuple(KNOWN)


def test_a_file_that_is_broken_is_refused_by_name(tmp_path):
  (tmp_path / 'a.parquet').write_bytes(b'PAR1 no PAR1')
  for path in (tmp_path, tmp_path / 'a.parquet', tmp_path / 'b.parquet'):
    with pytest.raises(DataError, match=str(path)):
      list(pieces.of(path))
  path = filed(NEW, tmp_path / 'a.csv')
  path.write_text(path.read_text() + '1,2\n')
  with pytest.raises(DataError, match='a.csv'):
    for piece in pieces.of(path, cells=70):
      pieces.read(piece)


def test_words_that_are_new_and_columns_that_lack_are_said(fleet):
  with pytest.warns(UserWarning, match="'c'"):
    told = fleet.judge(NEW.drop(columns='c'))
  wanted = fleet.judge(NEW.assign(c=np.nan))
  np.testing.assert_array_equal(told.score, wanted.score)
  west = NEW.assign(site='west')
  assert (fleet.score_samples(west) < fleet.score_samples(NEW)).mean() > 0.5


def test_a_frame_is_read_once_for_all_questions(fleet, monkeypatch):
  read, calls = frames.read, []
  monkeypatch.setattr(frames, 'read', lambda *a, **k: calls.append(1) or
                      read(*a, **k))  # fmt: skip
  long = fleet.read(NEW)
  judged = fleet.judge(long)
  assert len(fleet.explain(long, [3, 4])) == 2
  assert len(fleet.events(long)) <= judged['outlier'].sum()
  assert calls == [1]


def test_entities_called_007_and_7_are_two_in_every_form(tmp_path):
  table = pd.DataFrame({
    'm': np.repeat(['007', '7', '08'], 6), 'a': np.arange(18) % 7.0,
    'b': np.arange(18) % 5.0,
  })  # fmt: skip
  table.to_csv(tmp_path / 'a.csv', index=False)
  for name, rows in table.groupby('m'):
    folder = tmp_path / 'parts' / f'm={name}'
    folder.mkdir(parents=True)
    rows.drop(columns='m').to_parquet(folder / 'rows.parquet')
  for path in ('a.csv', 'parts'):
    long = frames.read(tmp_path / path, 'm')
    assert [*long.names] == ['007', '08', '7']
    found = [frames.read(p, known=long.layout).names
             for p in pieces.of(tmp_path / path)]  # fmt: skip
    assert sorted(np.concatenate(found)) == ['007', '08', '7']
