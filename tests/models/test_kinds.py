"""Supports of verified, unverified and bad rows: what is known of each row."""

import fast
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import distance
from sklearn import covariance

from metaad_jax import learners, models
from metaad_jax.base import Rows, Task
from metaad_jax.models import suspicion

SPEC = 'kinds:width=4,blocks=1,heads=1,rounds=1,rows=6'
PLACE = {name: i for i, name in enumerate(suspicion.FEATURES)}


def support(verified=3, unverified=5, bad=2, columns=3, padding=0, seed=0):
  rng = np.random.default_rng(seed)
  y = np.repeat([0, 0.5, 1, 0], [verified, unverified, bad, padding])
  x = 3 + rng.normal(size=(len(y), columns)) + 4 * (y[:, None] == 1)
  mask = np.arange(len(y)) < len(y) - padding
  return Rows(*(np.asarray(a, 'f4') for a in (x, y, mask)))


@fast.jit
def first_round(rows, suspected, x):
  real = jnp.ones(rows.x.shape[1])
  chosen = suspicion.references(rows, real)
  made, own = suspicion.read(rows, suspected, chosen, real)
  scaled = [suspicion.coordinates(made.scale, a) for a in (rows.x, x)]
  return own, suspicion.describe(made, x), *scaled


def test_distances_are_those_to_the_others():
  """And to the trusted among them; of a new row to all."""
  rows, suspected = support(), np.zeros(10, 'f4')
  suspected[[4, 6]] = 0.9
  x = support(seed=1).x
  own, new, own_scaled, scaled = map(
    np.asarray, first_round(rows, suspected, x)
  )
  gaps = distance.cdist(own_scaled, own_scaled) / np.sqrt(6)
  gaps[np.arange(10), np.arange(10)] = np.inf
  others = distance.cdist(scaled, own_scaled) / np.sqrt(6)
  trusted = (rows.y < 1) & (suspected < 0.5)
  for name, kind in (
    ('nearest', trusted),
    ('nearest_verified', rows.y == 0),
    ('nearest_anomaly', rows.y == 1),
  ):
    for found, expected in ((own, gaps), (new, others)):
      nearest = expected[:, kind].min(1)
      np.testing.assert_allclose(
        found[:, PLACE[name]], np.log(nearest**2 + 1e-4) / 2, atol=1e-3
      )


@pytest.mark.parametrize('columns', [4, 70])
def test_the_covariance_is_ledoit_and_wolfs_without_the_row_itself(columns):
  """`columns` are few, or so many that rows are inverted in their place."""
  rng = np.random.default_rng(0)
  rows = rng.normal(size=(30, 2 * columns)) * np.exp(rng.normal(size=1))
  rows, x = np.split(rows.astype('f4'), [20])

  @fast.jit
  def find(rows, weights, x, own):
    joint = suspicion.joint(rows, weights, 2 * columns)
    return suspicion.mahalanobis(joint, x, own)

  ones = np.ones(20, 'f4')
  found = np.exp(2 * find(rows, ones, x, np.zeros(10))) * 2 * columns
  expected = covariance.LedoitWolf().fit(rows).mahalanobis(x)
  np.testing.assert_allclose(found, expected, rtol=0.05)
  # A row in the covariance, less its own part: as if its weight were none.
  joint = np.append(ones, 0.0)
  both = np.concatenate([rows, x[:1]])
  alone = find(both, np.append(ones, 1.0), both, np.append(ones, 1.0))[-1]
  without = find(both, joint, x, 0 * x[:, 0])[0]
  np.testing.assert_allclose(alone, without, atol=0.1)  # but for the mean


@pytest.fixture(scope='module')
def network():
  learner = learners.make('tables', models.make(SPEC))
  rows = support()
  params = fast.jit(learner.init)(
    jax.random.key(0), Task(rows, rows, np.ones(3))
  )
  # Slopes and the like start at 0: everything is to count.
  params = jax.tree.map(lambda a: a + 0.1, params)

  @fast.jit
  def score(rows, features, x):
    adapted = learner.adapt(None, params, rows, features)
    return learner.score(adapted, x), adapted.context.suspects[-1]

  def scores(rows, x, features=None):
    features = np.ones(x.shape[1], 'f4') if features is None else features
    return [np.asarray(a) for a in score(rows, features, x)]

  return learner, params, scores


def test_no_order_matters_and_padding_is_inert(network):
  scores = network[2]
  rows, x = support(padding=2), support(seed=1).x
  usual, suspects = scores(rows, x)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
  order = np.random.default_rng(1).permutation(12)
  moved = scores(Rows(*(leaf[order] for leaf in rows)), x)
  close(moved[0], usual)
  close(moved[1][np.argsort(order)][:10], suspects[:10])
  turn = [2, 0, 1]
  close(scores(rows._replace(x=rows.x[:, turn]), x[:, turn])[0], usual)
  close(scores(rows, x[::-1])[0][::-1], usual)  # nor the rest of the batch
  rows.x[10:] = 77.0
  close(scores(rows, x)[0], usual)


def test_each_kind_counts(network):
  scores = network[2]
  rows, x = support(padding=2), support(seed=1).x
  usual, _ = scores(rows, x)
  for kind, other in ((0, 0.5), (0.5, 0), (1, 0.5)):
    y = np.where(rows.y == kind, np.float32(other), rows.y)
    assert np.abs(scores(rows._replace(y=y), x)[0] - usual).max() > 1e-3
    hidden = rows._replace(mask=rows.mask * (rows.y != kind))
    found = scores(hidden, x)[0]
    assert np.isfinite(found).all() and np.abs(found - usual).max() > 1e-3


def test_hidden_labels_teach_whom_to_suspect(network):
  learner, params, _ = network
  rows = support(padding=2)
  task = Task(rows, support(padding=2, seed=1), np.ones(3, 'f4'))
  query = task.query._replace(y=(task.query.y == 1).astype('f4'))
  hidden = (np.arange(12) == 4).astype('f4')
  task = task._replace(query=query, hidden=hidden)

  @fast.jit
  def suspects(params, task):
    adapted = learner.adapt(None, params, task.support, task.features)
    return adapted.context.suspects[-1]

  grads, metrics = fast.jit(learner.meta_grad)(None, params, task)
  step = jax.tree.map(lambda p, g: p - 0.02 * g, params, grads)
  before, after = suspects(params, task), suspects(step, task)
  gain = np.asarray(jax.nn.log_sigmoid(after) - jax.nn.log_sigmoid(before))
  assert gain[4] > gain[[3, 5, 6, 7]].mean() and np.isfinite(metrics['loss'])


def test_large_supports_show_of_each_kind_what_is_near_and_what_is_far():
  rng = np.random.default_rng(0)
  priority = rng.random(100).astype('f4')
  chosen = np.arange(100) >= 20
  index, real = suspicion._spread_out(priority, chosen, 9)
  ranks = np.sort(priority[20:]).searchsorted(priority[index])
  assert real.all() and ranks[0] == 0 and ranks[-1] == 79
  assert (np.abs(np.diff(ranks) - 79 / 8) <= 1).all()
  index, real = suspicion._spread_out(priority, chosen & (priority < 0.1), 9)
  assert real.sum() == (chosen & (priority < 0.1)).sum()
