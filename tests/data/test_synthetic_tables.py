"""Tasks of public tables, changed: what stays true of them."""

import functools

import fast
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaad_jax.data import episodes, synthetic_tables


def table_pools(tables=3, count=60, columns=6):
  """A value is 1 + label/4 + column/100 + table/1000, with label 0 or 1."""
  shape = lambda n: np.zeros((tables, n, columns))
  place = np.arange(columns) / 100 + np.arange(tables)[:, None, None] / 1000
  parts = [1 + shape(count) + place] * 2 + [1.25 + shape(count) + place]
  return episodes.Pools(
    *(jnp.asarray(part, 'f4') for part in parts),
    jnp.full((tables, 3), count),
    jnp.ones((tables, columns)),
  )


EPISODE = episodes.Episode((5, 8), (0, 2), (0.0,), 6, 6)


@pytest.fixture
def plain(monkeypatch):
  """Switches all augmentations off; returns a way to switch some on."""

  def put(**on):
    for name in (
      'SYNTHETIC', 'RELABELLED', 'NARROW', 'TURNED', 'BENT', 'BLANKED',
      'FOREIGN', 'MISSING',
    ):  # fmt: skip
      monkeypatch.setattr(synthetic_tables, f'_{name}', on.get(name, 0.0))

  put()
  return put


def parts(rows, mean):
  """Label, column and table that values tell of; undoes the size."""
  value = np.round(np.asarray(rows) * mean, 4)
  label = (value > 1.2).astype(int)
  rest = value - 1 - label / 4
  column = np.floor(rest * 100 + 0.05)
  return label, column, np.round((rest - column / 100) * 1000)


def test_rows_are_what_they_claim(plain, monkeypatch):
  """Of one table, the label's own, the same column in every row."""
  monkeypatch.setattr(synthetic_tables, '_bend', lambda key, rows, real: rows)
  sample = fast.jit(synthetic_tables.sampler(table_pools(), EPISODE))
  seen = set()
  for seed in range(8):
    task = sample(jax.random.key(seed))
    for rows in task[:2]:
      real = np.asarray(rows.mask) > 0
      label, column, table = parts(np.asarray(rows.x)[real], 1)
      assert (label == np.asarray(rows.y)[real, None]).all()
      assert (column == column[0]).all() and len(set(column[0])) == 6
      assert (table == table[0, 0]).all()
      seen.add(table[0, 0])
  assert seen == {0, 1, 2}


def test_columns_of_another_table_tell_nothing(plain, monkeypatch):
  monkeypatch.setattr(synthetic_tables, '_bend', lambda key, rows, real: rows)
  plain(FOREIGN=1.0)
  pools = table_pools()
  foreign = 0
  sample = fast.jit(synthetic_tables.sampler(pools, EPISODE))
  for seed in range(8):
    task = sample(jax.random.key(seed))
    real = np.asarray(task.query.mask) > 0
    label, _, _ = parts(np.asarray(task.query.x)[real], 1)
    y = np.asarray(task.query.y)[real, None]
    dull = (label == 0).all(0)
    assert ((label == y).all(0) | dull).all()
    foreign += dull.sum()
    assert not dull.all()
  assert foreign


@pytest.mark.parametrize('columns', [1, 2, 3])
def test_narrow_tables_keep_a_column_of_their_own(plain, columns):
  plain(FOREIGN=1.0)
  sample = fast.jit(
    synthetic_tables.sampler(table_pools(columns=columns), EPISODE)
  )
  for seed in range(8):
    task = sample(jax.random.key(seed))
    x, y = np.asarray(task.query.x), np.asarray(task.query.y)
    assert (x[y == 1].min(0) > x[y == 0].max(0)).any()


def test_relabelled_tasks_have_not_the_column_that_decides(plain, monkeypatch):
  """One column is 0, rarely 1, and decides; the others tell the row."""
  monkeypatch.setattr(synthetic_tables, '_bend', lambda key, rows, real: rows)
  plain(RELABELLED=1.0)
  pools = table_pools(tables=1, count=200, columns=4)
  normal = np.random.default_rng(0).random((1, 200, 4)).astype('f4')
  normal[:, :, 1] = np.arange(200) % 5 == 0
  pools = pools._replace(normal=jnp.asarray(normal), query=jnp.asarray(normal))
  monkeypatch.setattr(
    synthetic_tables,
    '_relabel',
    lambda key, table, normal, columns: (1, normal & (table[:, 1] == 1)),
  )
  deciding = {row[0]: row[1] for row in normal[0]}
  sample = fast.jit(synthetic_tables.sampler(pools, EPISODE))
  for seed in range(4):
    task = sample(jax.random.key(seed))
    real = np.asarray(task.features) > 0
    assert real.sum() == 3
    x = np.asarray(task.query.x)[:, real]
    assert not np.isin(x, [0, 1]).all(0).any()
    for row, y in zip(x, np.asarray(task.query.y), strict=True):
      known = [deciding[v] for v in row if v in deciding]
      assert known and known[0] == y


@pytest.mark.parametrize('seed', range(4))
def test_what_relabelling_calls_an_anomaly_is_rare_or_extreme(seed):
  rng = np.random.default_rng(seed)
  table = np.stack([rng.normal(size=200), rng.integers(0, 3, 200)], 1)
  normal = jnp.arange(200) < 150
  column, other = fast.jit(synthetic_tables._relabel)(
    jax.random.key(seed), jnp.asarray(table), normal, jnp.array([True, True])
  )
  other, values = np.asarray(other), table[:, int(column)]
  assert not other[150:].any() and 0 < other.sum() < 80
  rest = values[:150][~other[:150]]
  chosen = values[other]
  if column == 1:
    assert not set(chosen) & set(rest)
  else:
    assert chosen.min() > rest.max() or chosen.max() < rest.min()


def test_sampling_is_deterministic_and_jittable():
  """Labels and masks are 0 or 1, whatever is missing."""
  jitted = fast.jit(synthetic_tables.sampler(table_pools(), EPISODE))
  for seed in range(2):
    key = jax.random.key(seed)
    found = jitted(key)
    jax.tree.map(np.testing.assert_array_equal, found, jitted(key))
    for rows in found[:2]:
      assert np.isin(rows.y, [0, 1]).all() and np.isin(rows.mask, [0, 1]).all()
    assert np.isin(found.features, [0, 1]).all() and found.features.sum() >= 2
  other = jitted(jax.random.key(5))
  assert not np.array_equal(other.query.x, found.query.x, equal_nan=True)


def test_small_pools_are_padded(plain):
  """Fewer rows than a task wants: the mask says which; the query comes last."""
  pools = table_pools(count=4)._replace(counts=jnp.full((3, 3), 4))
  task = fast.jit(synthetic_tables.sampler(pools, EPISODE))(jax.random.key(0))
  count = lambda rows, y: float((rows.mask * (rows.y == y)).sum())
  assert count(task.support, 0) in (5, 8) and count(task.query, 0) == 0
  assert count(task.support, 1) == 0 and count(task.query, 1) == 4


def test_what_is_blanked_comes_from_rows_that_are_there(monkeypatch):
  """A short pool is padded with rows that no table holds."""
  monkeypatch.setattr(synthetic_tables, '_BLANKED', 1.0)
  real = jnp.array([True, False, True, False, False])
  rows = jnp.concatenate([jnp.arange(5.0), jnp.full(40, 99.0)])
  rows = jnp.tile(rows[:, None], (1, 6))
  given = set()
  for seed in range(20):
    made = np.asarray(synthetic_tables._blank(jax.random.key(seed), rows, real))
    np.testing.assert_array_equal(made[:5], rows[:5])
    given |= set(made[5:].ravel())
  assert given == {0.0, 2.0, 99.0}


def test_clustered_contamination_is_near_its_first():
  rng = np.random.default_rng(0)
  rows = jnp.asarray(rng.normal(size=(30, 2)), 'f4')
  real = jnp.arange(30) != 25
  cluster = functools.partial(
    synthetic_tables._cluster, jax.random.key(0), rows, real, 10
  )
  np.testing.assert_array_equal(cluster(0.0)[0], rows)
  made, there = cluster(1.0)
  np.testing.assert_array_equal(made[:20], rows[:20])
  assert there.sum() == 29 and not there[-1]
  spread = np.asarray(rows)[np.asarray(real)].std(0)
  gaps = np.minimum(np.abs(made[20:] - made[20]) / spread, 3).sum(1)
  assert (np.diff(gaps[:-1]) >= 0).all()
