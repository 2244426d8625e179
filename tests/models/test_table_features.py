"""What is said of rows of tables: by hand, and what it must not depend on."""

import functools

import fast
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaad_jax.base import Rows
from metaad_jax.models import table_features as tf
from metaad_jax.models import tables

fit, describe = fast.jit(tf.fit), fast.jit(tf.describe)
describe_support = fast.jit(tf.describe_support)


def make(seed=0, normals=7, anomalies=2, columns=5):
  """Columns of several kinds: real, counts, constant, heavy tails."""
  rng = np.random.default_rng(seed)
  x = rng.normal(3, 2, (normals + anomalies, columns))
  x[:, 1::5] = rng.integers(0, 3, x[:, 1::5].shape)
  x[:, 2::5] = 4.0
  x[:, 3::5] = np.exp(2 * x[:, 3::5])
  y = np.repeat([0.0, 1.0], [normals, anomalies])
  return Rows(*(np.asarray(a, 'f4') for a in (x, y, np.ones(len(x)))))


def told(support, x, features=None):
  features = jnp.ones(x.shape[1]) if features is None else features
  return describe(fit(support, features), x)


def close(found, expected, tolerance=1e-4):
  jax.tree.map(
    functools.partial(
      np.testing.assert_allclose, rtol=tolerance, atol=tolerance
    ),
    found,
    expected,
  )


QUERY = make(1, 6, 0).x


def of(cells, *names):
  """The cells' features of these names."""
  return np.asarray(cells)[..., [tf.CELLS.index(name) for name in names]]


def test_cells_by_hand():
  """A column 0, 2, 4, 6 and the cells 3, 6, 9 and NaN."""
  x = np.array([[0.0], [2], [4], [6]], 'f4')
  support = Rows(x, np.zeros(4, 'f4'), np.ones(4, 'f4'))
  rows = np.array([[3.0], [6], [9], [np.nan]], 'f4')
  cells = np.asarray(told(support, rows).cells)[:, 0]
  here = lambda name: of(cells[:3], name)[:, 0]
  deviation = np.sqrt(5.0)
  z, near = np.array([0, 3, 6]) / deviation, np.array([1, 0, 3]) / deviation
  np.testing.assert_allclose(here('deviation'), np.log1p(z), atol=1e-5)
  np.testing.assert_allclose(here('nearest_value'), np.log1p(near), atol=1e-5)
  np.testing.assert_array_equal(here('outside'), [0, 0, 1])
  np.testing.assert_allclose(here('equal_share'), [0, 0.25, 0])
  np.testing.assert_allclose(here('rank_size'), [0, 0.75, 1])
  np.testing.assert_array_equal(here('one_sign'), 1)  # no value below 0
  np.testing.assert_allclose(here('zero_share'), 0.25)
  np.testing.assert_array_equal(cells[3, : tf.CELLS.index('missing')], 0)
  np.testing.assert_array_equal(of(cells, 'missing')[:, 0], [0, 0, 0, 1])


def test_every_feature_has_a_name():
  support = make()
  found = told(support, QUERY)
  assert found.cells.shape[-1] == len(tf.CELLS) == len(set(tf.CELLS)) == 39
  assert found.rows.shape[-1] == len(tf.DISTANCES) == 9
  assert found.labels.shape[-1] == len(tf.LABELS) == 6
  assert len(tables.ROWS) == len(set(tables.ROWS)) == 28


def test_features_are_blanked_by_name():
  found = told(make(), QUERY)
  less = tf.blank(found, 'rank_size', 'mahalanobis', 'discriminant')
  changed = lambda a, b, names: {
    name for i, name in enumerate(names) if (a[..., i] != b[..., i]).any()
  }
  assert changed(found.cells, less.cells, tf.CELLS) == {'rank_size'}
  assert changed(found.rows, less.rows, tf.DISTANCES) == {'mahalanobis'}
  assert changed(found.labels, less.labels, tf.LABELS) == {'discriminant'}
  assert not of(less.cells, 'rank_size').any()
  with pytest.raises(ValueError, match='no_such'):
    tf.blank(found, 'no_such')


def test_a_missing_value_of_the_support_is_not_there():
  """Its column is described as if the row were not in the support."""
  support = make()
  less = support._replace(mask=np.where(np.arange(9) == 0, 0, support.mask))
  names = tf.CELLS[: tf.CELLS.index('residual')]
  expected = told(less, QUERY).cells
  for column in (0, 3):
    rows = support.x.copy()
    rows[0, column] = np.nan
    cells = told(support._replace(x=rows), QUERY).cells
    np.testing.assert_allclose(
      of(cells[:, column], *names),
      of(expected[:, column], *names),
      atol=1e-4,
    )


def test_labelled_anomalies_by_hand():
  """A column 0, 2 of normals, anomalies 4 and 7, the cell 3."""
  x = np.array([[0.0], [2], [4], [7]], 'f4')
  support = Rows(x, np.array([0, 0, 1, 1], 'f4'), np.ones(4, 'f4'))
  found = told(support, np.array([[3.0]], 'f4'))
  # In deviations: anomalies 3 and 6, mean 4.5, variance (2 * 2.25 + 2) / 4.
  likelihood = (2 * 4.5 - 4.5**2 / 2) / (6.5 / 4)
  expected = {
    'nearest_anomaly': np.log(1.001), 'equal_share_anomalies': 0,
    'any_anomaly': 1, 'likelihood': -np.log1p(-likelihood),
    'anomaly_mean': np.log1p(4.5),
    'anomaly_mean_in_deviations': np.log1p(4.5 / np.sqrt(6.5 / 4)),
    'anomaly_rank': 1, 'rank_agreement': 1, 'anomaly_sign': 1,
    'deviation_to_anomalies': np.log1p(2), 'way_to_anomalies': 2 / 4.5,
  }  # fmt: skip
  np.testing.assert_allclose(
    of(found.cells[0, 0], *expected), list(expected.values()), rtol=1e-4
  )
  np.testing.assert_allclose(
    found.labels[0, 2:5], [expected['likelihood'], 1, 1], rtol=1e-5
  )


def test_columns_by_hand():
  """Two of four equal, one of five missing; and a constant column."""
  x = np.array([[1, 7], [1, 7], [-2, 7], [4, 7], [np.nan, 7]], 'f4')
  support = Rows(x, np.zeros(5, 'f4'), np.ones(5, 'f4'))
  columns = fit(support, jnp.ones(2)).columns
  np.testing.assert_allclose(columns.mean, [1, 7], rtol=1e-6)
  np.testing.assert_allclose(columns.scale[0], np.sqrt(18 / 4), rtol=1e-6)
  np.testing.assert_allclose(columns.size, [2, 7], rtol=1e-6)
  np.testing.assert_array_equal(columns.one_sign, [0, 1])
  np.testing.assert_allclose(columns.shape[:, 2], [6 / 16, 1])
  np.testing.assert_array_equal(columns.shape[:, 3], [0, 1])
  np.testing.assert_allclose(columns.shape[:, 4], [0.2, 0], atol=1e-6)


def test_distances_by_hand():
  """Nearest and mean logarithmic distance, and to the nearest anomaly."""
  x = np.array([[0.0, 0], [2, 2], [9, 9]], 'f4')
  support = Rows(x, np.array([0, 0, 1], 'f4'), np.ones(3, 'f4'))
  found = told(support, np.array([[2.0, 1]], 'f4'))
  # In units of the normals (mean 1, deviation 1): (1, 0) to -1, 1 and 8.
  logs = lambda other: (
    sum(abs(np.log1p(abs(a)) * np.sign(a) - other) for a in (1, 0)) / 2
  )
  one, far = np.log(2), np.log(9)
  near, away, anomaly = logs(one), logs(-one), logs(far)
  np.testing.assert_allclose(found.rows[0, 3], np.log(near + 1e-3), rtol=1e-5)
  mean = np.log((near + away) / 2 + 1e-3)
  np.testing.assert_allclose(found.rows[0, 4], mean, rtol=1e-4)
  np.testing.assert_allclose(found.rows[0, 6], 0.5)  # half the cells differ
  np.testing.assert_allclose(
    found.labels[0, :2], [np.log(anomaly + 1e-3), 1], rtol=1e-5
  )


def test_a_row_of_the_support_is_described_without_itself():
  """Exactly, in the units of the whole support."""
  support = make()
  read = fit(support, jnp.ones(5))
  found = describe_support(read, jnp.arange(9))
  for i in range(9):
    others = jnp.ones(9).at[i].set(0)
    less = read._replace(
      normal=read.normal * others, anomaly=read.anomaly * others
    )
    alone = describe(less, support.x[i : i + 1])
    np.testing.assert_allclose(
      found.cells[i, :, :24], alone.cells[0, :, :24], atol=1e-4
    )
    np.testing.assert_allclose(found.rows[i, :8], alone.rows[0, :8], atol=1e-4)
    if support.y[i]:
      np.testing.assert_allclose(found.labels[i], alone.labels[0], atol=1e-4)


def test_an_only_anomaly_has_no_anomaly_to_be_compared_with():
  support = make(anomalies=1)
  found = describe_support(fit(support, jnp.ones(5)), jnp.arange(8))
  np.testing.assert_array_equal(found.labels[7], 0)
  assert (found.labels[:7, tf.LABELS.index('discriminant')] != 0).all()


def test_mahalanobis_without_itself_is_the_refitted_one():
  """x'(S - xx')^-1 x, about the centre of all normals."""
  support = make()
  read = fit(support, jnp.ones(5))
  found = describe_support(read, jnp.arange(7)).rows[:, 8]
  rows = np.asarray(read.rows, float)
  whole = rows.T @ rows + float(read.ridge) * np.eye(5)
  for i in range(7):
    x = rows[i]
    squared = x @ np.linalg.solve(whole - np.outer(x, x), x)
    expected = np.log(squared * 7 / 5 + 1e-3)
    np.testing.assert_allclose(found[i], expected, atol=1e-3)


def test_orders_do_not_matter():
  support, rng = make(), np.random.default_rng(0)
  expected = told(support, QUERY)
  columns, rows, asked = (rng.permutation(n) for n in (5, 9, 6))
  mixed = Rows(support.x[rows][:, columns], support.y[rows], support.mask)
  found = told(mixed, QUERY[asked][:, columns])
  close(found.cells, expected.cells[asked][:, columns])
  close(found.rows, expected.rows[asked])
  close(found.labels, expected.labels[asked])


@pytest.mark.parametrize('junk', [0.0, 7.0, -1e30, np.nan, np.inf])
def test_padding_is_inert(junk):
  support = make()
  expected = told(support, QUERY)
  pad = lambda x, rows: np.pad(
    x, [(0, rows), (0, 3)], constant_values=np.float32(junk)
  )
  padded = Rows(
    pad(support.x, 4), np.pad(support.y, (0, 4)), np.pad(support.mask, (0, 4))
  )
  found = told(padded, pad(QUERY, 0), jnp.array([1.0] * 5 + [0] * 3))
  close(found._replace(cells=found.cells[:, :5]), expected)


@pytest.mark.parametrize('factor', [2.0**-20, 8.0, 2.0**30])
def test_units_do_not_matter(factor):
  """Powers of two leave not one bit changed."""
  support = make()
  factors = np.array([1, factor, factor, 1, factor], 'f4')
  moved = support._replace(x=support.x * factors)
  jax.tree.map(
    np.testing.assert_array_equal,
    told(support, QUERY),
    told(moved, QUERY * factors),
  )


def test_adding_a_number_and_turning_do_matter():
  support = make()
  for change in (lambda x: x + 100, lambda x: -x):
    moved = told(support._replace(x=change(support.x)), change(QUERY))
    assert np.abs(moved.cells - told(support, QUERY).cells).max() > 0.1


def test_a_missing_value_tells_only_that_it_is_missing():
  """Not a bit of the other cells' own description moves."""
  support = make()
  gone = QUERY.copy()
  gone[0, 0] = np.nan
  missing = tf.CELLS.index('missing')
  found, plain = told(support, gone), told(support, QUERY)
  np.testing.assert_array_equal(found.cells[0, 0, :missing], 0)
  assert found.cells[0, 0, missing] == 1 and plain.cells[0, 0, missing] == 0
  np.testing.assert_array_equal(
    found.cells[0, 1:, :24], plain.cells[0, 1:, :24]
  )
  np.testing.assert_array_equal(found.cells[1:], plain.cells[1:])


def test_a_constant_column_has_no_deviations():
  """A row differs there or not; how far, only the nearest value tells."""
  support = make()
  rows = np.repeat(QUERY[:1], 3, 0)
  rows[:, 2] = 4.0, 4.1, 4e6
  cells = told(support, rows).cells[:, 2]
  np.testing.assert_array_equal(of(cells, 'constant')[:, 0], 1)
  np.testing.assert_array_equal(of(cells, 'differs')[:, 0], [0, 1, 1])
  np.testing.assert_array_equal(cells[1, :3], cells[2, :3])
  assert cells[0, 3] < cells[1, 3] < cells[2, 3]


@pytest.mark.parametrize(('spread', 'constant'), [(2e-5, 0), (3e-6, 1)])
def test_a_deviation_of_a_hundred_thousandth_hardly_counts(spread, constant):
  """1,000 +- 0.003 is measured in tenths; less the thousand, in itself."""
  support = make()
  rows, noise = support.x.copy(), np.array([-1, 1, 1, -1, 1, -1, 1, 1, 1])
  rows[:, 0] = 1000 * (1 + spread * noise)
  columns = fit(support._replace(x=rows), jnp.ones(5)).columns
  assert columns.shape[0, 3] == constant
  unit = 0.101 if constant else rows[:7, 0].std()
  np.testing.assert_allclose(columns.scale[0], unit, rtol=0.01)
  rows[:, 0] -= 1000
  columns = fit(support._replace(x=rows), jnp.ones(5)).columns
  assert columns.shape[0, 3] == 0
  np.testing.assert_allclose(columns.scale[0], rows[:7, 0].std(), rtol=0.01)


@pytest.mark.parametrize('place', ['support', 'query', 'column', 'row', 'both'])
def test_any_value_gives_finite_descriptions(place):
  support = make()
  for value in (1e30, -1e30, 3e38, 1e-38, np.inf, np.nan):
    rows, x = support.x.copy(), QUERY.copy()
    for array, where, places in (
      (rows, (0, 0), 'support'), (x, (0, 0), 'query'),
      (rows, (slice(None), 0), 'column'), (rows, 0, 'row'), (x, 0, 'row'),
      (rows, slice(None), 'both'), (x, slice(None), 'both'),
    ):  # fmt: skip
      if place == places:
        array[where] = value
    read = fit(support._replace(x=rows), jnp.ones(5))
    for found in (describe(read, x), describe_support(read, jnp.arange(9))):
      finite = jax.tree.map(lambda leaf: np.isfinite(leaf).all(), found)
      assert all(jax.tree.leaves(finite)), value
