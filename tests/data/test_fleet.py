"""A long file of many entities, and the faults that are put into it."""

import numpy as np
import pandas as pd
import pytest

from metaad_jax.base import DataError
from metaad_jax.data import registry
from metaad_jax.data.datasets import fleet


def frame(machines=3, rows=30):
  rng = np.random.default_rng(0)
  n = machines * rows
  return pd.DataFrame(
    {
      'when': np.tile(
        pd.date_range('2025-01-30', periods=rows, freq='h').astype(str),
        machines,
      ),
      'pump': np.repeat([f'p{i}' for i in range(machines)], rows),
      'heat': rng.normal(20, 1, n).round(3),
      'flow': rng.normal(3, 0.1, n).round(3),
      'fault': np.tile(np.arange(rows) % 5 == 4, machines).astype(int),
    }
  )


def spec(path, **more):
  options = {'path': path, 'entity': 'pump', 'time': 'when'} | more
  return 'fleet:' + ','.join(f'{k}={v}' for k, v in options.items())


def test_each_entity_by_time_whatever_the_order_of_the_file(tmp_path):
  table = frame()
  table.loc[table.index[:2], 'heat'] = np.nan
  table.to_csv(tmp_path / 'a.csv', index=False)
  table.sample(frac=1, random_state=1).to_csv(tmp_path / 'b.csv', index=False)
  a, b = (
    registry.load(spec(tmp_path / f'{name}.csv', label='fault'))
    for name in 'ab'
  )
  for one, other in zip(a, b, strict=True):
    np.testing.assert_array_equal(one.normal, other.normal)
    np.testing.assert_array_equal(one.query, other.query)
    assert one.kinds == other.kinds
  assert [e.name for e in a] == ['p0', 'p1', 'p2']
  first = table[(table.pump == 'p0') & (table.fault == 0)]
  flow = first.flow.to_numpy(np.float32)
  np.testing.assert_array_equal(a[0].normal[:, 1], flow[:12])  # half of 24
  assert a[0].normal[0, 0] == np.float32(first.heat[2:12].median())
  assert a[0].labels.sum() == 6


def test_without_labels_faults_are_made_and_told(tmp_path, caplog):
  table = frame(rows=60).drop(columns='fault')
  table['site'] = table.pump.map({'p0': 'A', 'p1': 'A', 'p2': 'B'})
  table.to_csv(tmp_path / 'a.csv', index=False)
  entities = registry.load(spec(tmp_path / 'a.csv', group='site'))
  assert 'faults are made up' in caplog.text
  assert [e.group for e in entities] == ['A', 'A', 'B']
  for entity in entities:
    assert set(entity.kinds) == {'', 'shift', 'noise', 'decoupled'}
    normal = entity.query[entity.labels == 0]
    shifted = np.array(entity.kinds) == 'shift'
    gaps = np.abs(entity.query[shifted] - entity.normal.mean(0))
    spread = entity.normal.std(0)
    assert ((gaps / spread).max(1) > np.abs(
      (normal - entity.normal.mean(0)) / spread).max(1).mean()
    ).mean() > 0.8  # fmt: skip
    mixed = entity.query[np.array(entity.kinds) == 'decoupled']
    for column in range(2):  # each value is one of the entity's
      assert np.isin(mixed[:, column], normal[:, column]).all()


@pytest.mark.parametrize(
  'wrong', [{'entity': 'pmup'}, {'time': 'pump'}, {'label': 'flaw'}]
)
def test_what_is_not_there_is_refused_by_name(tmp_path, wrong):
  frame().to_csv(tmp_path / 'a.csv', index=False)
  with pytest.raises(DataError, match='|'.join(wrong.values())):
    registry.load(spec(tmp_path / 'a.csv', **wrong))


def test_too_few_labelled_anomalies_are_not_taken_for_normal(tmp_path):
  table = frame(rows=40)
  table['fault'] = 0
  table.loc[39, ['heat', 'fault']] = 99.0, 1
  table.to_csv(tmp_path / 'a.csv', index=False)
  entity = registry.load(spec(tmp_path / 'a.csv', label='fault'))[0]
  assert not (entity.query[entity.labels == 0] > 90).any()


def test_one_column_has_no_decoupled_faults():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(20, 1))
  assert set(fleet.injected(rng, x, x)[1]) == {'', 'shift', 'noise'}
