"""Attention over columns and rows: who sees whom, and what is told of rows."""

import fast
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import distance
from sklearn import covariance

from metaad_jax import learners, models
from metaad_jax.base import DataError, Rows, Task
from metaad_jax.models import attention

SPEC = 'attention:width=8,blocks=2,heads=2'


def support(unchecked=6, bad=2, columns=3, padding=0, seed=0):
  rng = np.random.default_rng(seed)
  y = np.repeat([0.5, 1, 0], [unchecked, bad, padding])
  x = 3 + rng.normal(size=(len(y), columns)) + 4 * (y[:, None] == 1)
  mask = np.arange(len(y)) < len(y) - padding
  return Rows(*(np.asarray(a, 'f4') for a in (x, y, mask)))


@pytest.fixture(scope='module')
def network():
  learner = learners.make('tables', models.make(SPEC))
  rows = support()
  params = fast.jit(learner.init)(
    jax.random.key(0), Task(rows, rows, np.ones(3))
  )
  params = jax.tree.map(lambda a: a + 0.1, params)  # nothing is 0

  @fast.jit
  def score(rows, features, x):
    adapted = learner.adapt(None, params, rows, features)
    suspects = models.make(SPEC)(1).suspects(adapted.context)
    return learner.score(adapted, x), suspects[-1]

  def scores(rows, x, features=None):
    features = np.ones(x.shape[1], 'f4') if features is None else features
    return [np.asarray(a) for a in score(rows, features, x)]

  return learner, params, scores


def close(a, b):
  np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_no_order_matters_and_padding_is_inert(network):
  scores = network[2]
  rows, x = support(), support(seed=1).x
  usual, suspects = scores(rows, x)
  turn = np.random.default_rng(0).permutation(8)
  turned = Rows(*(a[turn] for a in rows))
  found, theirs = scores(turned, x)
  close(found, usual)
  close(theirs, suspects[turn])
  columns = np.array([2, 0, 1])
  close(scores(rows._replace(x=rows.x[:, columns]), x[:, columns])[0], usual)
  more = support(padding=3)
  padded = more._replace(x=np.concatenate([rows.x, more.x[8:]]))
  found, theirs = scores(padded, x)
  close(found, usual)
  close(theirs[:8], suspects)
  wide = lambda a: np.pad(a, ((0, 0), (0, 2)))
  real = np.array([1, 1, 1, 0, 0], 'f4')
  close(scores(rows._replace(x=wide(rows.x)), wide(x), real)[0], usual)


def test_every_row_of_the_support_counts_and_new_ones_do_not(network):
  scores = network[2]
  rows, x = support(), support(seed=1).x
  usual, _ = scores(rows, x)
  for i in range(8):
    moved = rows.x.copy()
    moved[i] += 2
    assert np.abs(scores(rows._replace(x=moved), x)[0] - usual).max() > 1e-3
  other = np.concatenate([x[:1], x[1:] + 9])
  close(scores(rows, other)[0][0], usual[0])


def test_what_is_known_of_rows_counts(network):
  """Checked, not checked, anomaly: three scores."""
  scores = network[2]
  rows, x = support(), support(seed=1).x
  found = [
    scores(rows._replace(y=np.asarray(y, 'f4')), x)[0]
    for y in (rows.y, np.where(rows.y < 1, 0, 1), np.full(8, 0.5))
  ]
  for i in range(3):
    assert np.abs(found[i] - found[i - 1]).max() > 1e-2
  one = rows.y.copy()
  one[0] = 0  # one that was checked among others does not make them so
  close(scores(rows._replace(y=one), x)[0], found[0])


def test_missing_values_are_told(network):
  scores = network[2]
  rows, x = support(), support(seed=1).x
  holed = x.copy()
  holed[:, 1] = np.nan
  found, usual = scores(rows, holed)[0], scores(rows, x)[0]
  assert np.isfinite(found).all() and np.abs(found - usual).max() > 1e-3
  gone = rows.x.copy()
  gone[:4, 0] = np.nan
  assert np.isfinite(scores(rows._replace(x=gone), x)[0]).all()


def test_distances_of_a_row_are_those_to_the_others():
  rng = np.random.default_rng(0)
  rows = rng.normal(size=(30, 8)).astype('f4')
  known, x = rows[:20], rows[20:]
  ones = np.ones(20, 'f4')

  @fast.jit
  def find(known, x, own):
    joint = attention.suspicion.joint(known, ones, 8.0)
    return attention._distances(x, own, ones, known, joint, 8.0)

  gaps = distance.cdist(x, known) / np.sqrt(8)
  near = np.sort(gaps, 1)
  blocks = distance.cdist(x, known, 'cityblock') / 8
  found, logs = find(known, x, np.zeros((10, 20), 'f4'))
  expected = [
    np.log(near[:, 0] + 1e-2),
    np.log(near[:, :3].mean(1) + 1e-2),
    np.log(near[:, :5].mean(1) + 1e-2),
    np.log(blocks.min(1) + 1e-3),
  ]
  np.testing.assert_allclose(found[:, :4], np.stack(expected, 1), atol=1e-3)
  shrunk = covariance.LedoitWolf().fit(known).mahalanobis(x) / 8
  np.testing.assert_allclose(np.exp(2 * found[:, 5]), shrunk, rtol=0.05)
  np.testing.assert_allclose(np.exp(logs[..., 0]), gaps + 1e-2, rtol=1e-3)
  np.testing.assert_allclose(np.exp(logs[..., 1]), blocks + 1e-3, rtol=1e-3)

  own, _ = find(known, known, np.eye(20, dtype='f4'))
  gaps = distance.cdist(known, known) / np.sqrt(8) + 1e9 * np.eye(20)
  np.testing.assert_allclose(own[:, 0], np.log(gaps.min(1) + 1e-2), atol=2e-3)


def test_one_row_and_equal_rows(network):
  scores = network[2]
  for rows in (support(1, 0), support(6, 0)):
    same = rows._replace(x=np.broadcast_to(rows.x[:1], rows.x.shape).copy())
    found, suspects = scores(same, support(seed=1).x)
    assert np.isfinite(found).all() and np.isfinite(suspects).all()


def test_the_gradient_is_finite_and_reaches_all(network):
  learner, params, _ = network
  rows = support()
  query = rows._replace(x=rows.x[::-1] + 1, y=(np.arange(8) % 2).astype('f4'))
  hidden = np.asarray(np.arange(8) == 1, 'f4')
  task = Task(rows, query, jnp.ones(3), hidden)
  grads, _ = fast.jit(learner.meta_grad)(jax.random.key(0), params, task)
  flat = jax.tree_util.tree_leaves_with_path(grads)
  for path, leaf in flat:
    assert np.isfinite(leaf).all()
    idle = 'checked' in str(path) or 'column_k' in str(path)
    assert idle or np.abs(leaf).max() > 0, path


def test_impossible_options_are_told():
  with pytest.raises(DataError, match='multiple of heads'):
    models.make('attention:width=6,heads=4')
