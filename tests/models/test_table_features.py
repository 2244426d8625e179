"""What is said of rows of tables: by hand, and what it must not depend on."""

import derivatives
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
  return rows_of(x, np.repeat([0, 1], [normals, anomalies]))


def rows_of(x, y):
  return Rows(*(np.asarray(a, 'f4') for a in (x, y, np.ones(len(x)))))


SUPPORT, QUERY, REAL = make(), make(1, 6, 0).x, jnp.ones(5)


def told(support, x, features=None):
  features = jnp.ones(x.shape[1]) if features is None else features
  return describe(fit(support, features), x)


def of(cells, *names):
  """The cells' features of these names."""
  return np.asarray(cells)[..., [tf.CELLS.index(name) for name in names]]


PLAIN = told(SUPPORT, QUERY)
MISSING = tf.CELLS.index('missing')


def test_cells_by_hand():
  """A column 0, 2, 4, 6 and the cells 3, 6, 9 and NaN."""
  support = rows_of([[0], [2], [4], [6]], np.zeros(4))
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
  np.testing.assert_array_equal(cells[3, :MISSING], 0)
  np.testing.assert_array_equal(cells[:, MISSING], [0, 0, 0, 1])


def test_features_have_names_and_are_blanked_by_them():
  parts = ('cells', tf.CELLS, 39), ('rows', tf.DISTANCES, 9)
  less = tf.blank(PLAIN, 'rank_size', 'mahalanobis', 'discriminant')
  changed = set()
  for part, names, count in (*parts, ('labels', tf.LABELS, 6)):
    before, after = getattr(PLAIN, part), getattr(less, part)
    assert before.shape[-1] == len(set(names)) == len(names) == count
    moved = [(before != after)[..., i].any() for i in range(count)]
    changed |= {name for name, m in zip(names, moved, strict=True) if m}
  assert changed == {'rank_size', 'mahalanobis', 'discriminant'}
  assert not of(less.cells, 'rank_size').any()
  assert len(tables.ROWS) == len(set(tables.ROWS)) == 28
  with pytest.raises(ValueError, match='no_such'):
    tf.blank(PLAIN, 'no_such')


def test_a_missing_value_of_the_support_is_not_there():
  """Its column is described as if the row were not in the support."""
  less = SUPPORT._replace(mask=np.where(np.arange(9) == 0, 0, SUPPORT.mask))
  names = tf.CELLS[: tf.CELLS.index('residual')]
  expected = of(told(less, QUERY).cells, *names)
  for column in (0, 3):
    rows = SUPPORT.x.copy()
    rows[0, column] = np.nan
    cells = of(told(SUPPORT._replace(x=rows), QUERY).cells, *names)
    np.testing.assert_allclose(cells[:, column], expected[:, column], atol=1e-4)


def test_labelled_anomalies_by_hand():
  """A column 0, 2 of normals, anomalies 4 and 7, the cell 3."""
  support = rows_of([[0], [2], [4], [7]], [0, 0, 1, 1])
  row = told(support, np.full((4, 1), 3, 'f4'))
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
  cells = of(row.cells[0, 0], *expected)
  np.testing.assert_allclose(cells, list(expected.values()), rtol=1e-4)
  whole = [expected['likelihood'], 1, 1]
  np.testing.assert_allclose(row.labels[0, 2:5], whole, rtol=1e-5)


def test_columns_by_hand():
  """Two of four equal, one of five missing; and a constant column."""
  x = [[1, 7], [1, 7], [-2, 7], [4, 7], [np.nan, 7]]
  columns = fit(rows_of(x, np.zeros(5)), jnp.ones(2)).columns
  np.testing.assert_allclose(columns.mean, [1, 7], rtol=1e-6)
  np.testing.assert_allclose(columns.scale[0], np.sqrt(18 / 4), rtol=1e-6)
  np.testing.assert_allclose(columns.size, [2, 7], rtol=1e-6)
  np.testing.assert_array_equal(columns.one_sign, [0, 1])
  ties, constant, gone = [6 / 16, 1], [0, 1], [0.2, 0]
  expected = np.stack([ties, constant, gone], 1)
  np.testing.assert_allclose(columns.shape[:, 2:], expected, atol=1e-6)


def test_distances_by_hand():
  """Nearest and mean logarithmic distance, and to the nearest anomaly."""
  support = rows_of([[0, 0], [2, 2], [9, 9]], [0, 0, 1])
  row = told(support, np.array([[2.0, 1]], 'f4'))
  # In units of the normals (mean 1, deviation 1): (1, 0) to -1, 1 and 8.
  one, far = np.log(2), np.log(9)
  logs = lambda other: (abs(one - other) + abs(other)) / 2
  near, away = logs(one), logs(-one)
  expected = np.log(np.array([near, (near + away) / 2]) + 1e-3)
  np.testing.assert_allclose(row.rows[0, 3:5], expected, rtol=1e-4)
  np.testing.assert_allclose(row.rows[0, 6], 0.5)  # half the cells differ
  anomaly = [np.log(logs(far) + 1e-3), 1]
  np.testing.assert_allclose(row.labels[0, :2], anomaly, rtol=1e-5)


def test_a_row_of_the_support_is_described_without_itself():
  """Exactly, in the units of the whole support."""
  read = fit(SUPPORT, REAL)
  rows = describe_support(read, jnp.arange(9))
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4)
  for i in range(9):
    others = jnp.ones(9).at[i].set(0)
    normal, anomaly = read.normal * others, read.anomaly * others
    less = read._replace(normal=normal, anomaly=anomaly)
    alone = describe(less, np.repeat(SUPPORT.x[i : i + 1], 6, 0))
    close(rows.cells[i, :, :24], alone.cells[0, :, :24])
    close(rows.rows[i, :8], alone.rows[0, :8])
    if SUPPORT.y[i]:
      close(rows.labels[i], alone.labels[0])


def test_an_only_anomaly_has_no_anomaly_to_be_compared_with():
  alone = SUPPORT._replace(mask=np.where(np.arange(9) == 8, 0, SUPPORT.mask))
  rows = describe_support(fit(alone, REAL), jnp.arange(9))
  np.testing.assert_array_equal(rows.labels[7], 0)
  assert (rows.labels[:7, tf.LABELS.index('discriminant')] != 0).all()


def test_mahalanobis_without_itself_is_the_refitted_one():
  """x'(S - xx')^-1 x, about the centre of all normals."""
  read = fit(SUPPORT, REAL)
  distances = describe_support(read, jnp.arange(9)).rows[:7, 8]
  rows = np.asarray(read.rows, float)
  whole = rows.T @ rows + float(read.ridge) * np.eye(5)
  for x, distance in zip(rows, distances, strict=False):
    squared = x @ np.linalg.solve(whole - np.outer(x, x), x)
    expected = np.log(squared * 7 / 5 + 1e-3)
    np.testing.assert_allclose(distance, expected, atol=1e-3)


def test_orders_do_not_matter():
  rng = np.random.default_rng(0)
  columns, rows, asked = (rng.permutation(n) for n in (5, 9, 6))
  x, y = SUPPORT.x[rows][:, columns], SUPPORT.y[rows]
  mixed = told(Rows(x, y, SUPPORT.mask), QUERY[asked][:, columns])
  expected = jax.tree.map(lambda leaf: leaf[asked], PLAIN)
  expected = expected._replace(cells=expected.cells[:, columns])
  derivatives.close(mixed, expected, 1e-4)


@pytest.mark.parametrize('junk', [0.0, -1e30, np.nan, np.inf])
def test_padding_is_inert(junk):
  pad = lambda x, rows: np.pad(
    x, [(0, rows), (0, 3)], constant_values=np.float32(junk)
  )
  y, mask = (np.pad(a, (0, 4)) for a in (SUPPORT.y, SUPPORT.mask))
  real = jnp.array([1.0] * 5 + [0] * 3)
  padded = told(Rows(pad(SUPPORT.x, 4), y, mask), pad(QUERY, 0), real)
  padded = padded._replace(cells=padded.cells[:, :5])
  derivatives.close(padded, PLAIN, 1e-4)


def test_units_do_not_matter_but_zero_and_signs_do():
  """Powers of two leave not one bit changed."""
  for factor in (2.0**-20, 2.0**30):
    factors = np.array([1, factor, factor, 1, factor], 'f4')
    moved = told(SUPPORT._replace(x=SUPPORT.x * factors), QUERY * factors)
    jax.tree.map(np.testing.assert_array_equal, moved, PLAIN)
  for change in (lambda x: x + 100, lambda x: -x):
    moved = told(SUPPORT._replace(x=change(SUPPORT.x)), change(QUERY))
    assert np.abs(moved.cells - PLAIN.cells).max() > 0.1


def test_a_missing_value_tells_only_that_it_is_missing():
  """Not a bit of the other cells' own description moves."""
  gone = QUERY.copy()
  gone[0, 0] = np.nan
  cells, plain = told(SUPPORT, gone).cells, PLAIN.cells
  assert cells[0, 0, MISSING] == 1 and not cells[0, 0, :MISSING].any()
  np.testing.assert_array_equal(cells[0, 1:, :24], plain[0, 1:, :24])
  np.testing.assert_array_equal(cells[1:], plain[1:])


def test_a_constant_column_has_no_deviations():
  """A row differs there or not; how far, only the nearest value tells."""
  rows = np.repeat(QUERY[:1], 3, 0)
  rows[:, 2] = 4.0, 4.1, 4e6
  cells = told(SUPPORT, rows).cells[:, 2]
  np.testing.assert_array_equal(of(cells, 'constant')[:, 0], 1)
  np.testing.assert_array_equal(of(cells, 'differs')[:, 0], [0, 1, 1])
  np.testing.assert_array_equal(cells[1, :3], cells[2, :3])
  assert cells[0, 3] < cells[1, 3] < cells[2, 3]


@pytest.mark.parametrize(('spread', 'constant'), [(2e-5, 0), (3e-6, 1)])
def test_a_deviation_of_a_hundred_thousandth_hardly_counts(spread, constant):
  """1,000 +- 0.003 is measured in tenths; less the thousand, in itself."""
  rows, noise = SUPPORT.x.copy(), np.array([-1, 1, 1, -1, 1, -1, 1, 1, 1])
  rows[:, 0] = 1000 * (1 + spread * noise)
  for offset, flat in ((0, constant), (1000, 0)):
    rows[:, 0] -= offset
    columns = fit(SUPPORT._replace(x=rows), REAL).columns
    assert columns.shape[0, 3] == flat
    unit = 0.101 if flat else rows[:7, 0].std()
    np.testing.assert_allclose(columns.scale[0], unit, rtol=0.01)


@pytest.mark.parametrize('value', [1e30, -1e30, 3e38, 1e-38, np.inf, np.nan])
def test_any_value_gives_finite_descriptions(value):
  """In a cell of the support, of the query, a column, a row, or everywhere."""
  places = [((0, 0), None), (None, (0, 0)), ((slice(None), 0), None), (0, 0)]
  for in_support, in_query in (*places, (slice(None), slice(None))):
    rows, x = SUPPORT.x.copy(), QUERY.copy()
    for array, place in ((rows, in_support), (x, in_query)):
      if place is not None:
        array[place] = value
    read = fit(SUPPORT._replace(x=rows), REAL)
    for part in (describe(read, x), describe_support(read, jnp.arange(9))):
      assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(part))
