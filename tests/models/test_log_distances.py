"""Plain distances beside a network."""

import fast
import jax
import numpy as np
import pytest
from scipy.spatial import distance
from sklearn import covariance

from metaad_jax import base, models
from metaad_jax.evaluation import baselines
from metaad_jax.models import log_distances


def support_of(x, y=None, rows=0, columns=0):
  """A support and the mask of its columns, padded by so many of each."""
  y = np.zeros(len(x)) if y is None else y
  x = np.pad(x, ((0, rows), (0, columns))).astype(np.float32)
  mask = (np.arange(len(x)) < len(y)).astype(np.float32)
  real = (np.arange(x.shape[1]) < x.shape[1] - columns).astype(np.float32)
  return base.Rows(x, np.pad(y, (0, rows)).astype(np.float32), mask), real


def told(x, query, y=None, **padding):
  support, real = support_of(x, y, **padding)
  query = np.pad(query, ((0, 0), (0, padding.get('columns', 0))))
  score = fast.jit(lambda q: log_distances.score(known, q))
  known = fast.jit(log_distances.fit)(support, real)
  return np.asarray(score(query.astype(np.float32)))


@pytest.fixture(scope='module')
def rows():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(40, 3)) * [1, 10, 0.1] + [5, 0, 0]
  return x[:24], np.concatenate([x[24:], x[:24] + 3])


def test_it_is_the_sum_of_three_logarithms(rows):
  x, query = rows
  z, zero = baselines.standardized(x, np.concatenate([x, query]))
  known, _, new = baselines.scaled(
    (z[:24], np.zeros(24), z[24:], zero), 'both'
  )  # fmt: skip
  gaps = distance.cdist(new, known) / np.sqrt(6)
  joint = covariance.LedoitWolf().fit(known).mahalanobis(new) / 6
  parts = [np.log(gaps.min(1) + 1e-3), np.log(joint + 1e-3) / 2]
  mean = np.log(gaps.mean(1) + 1e-3)
  expected = 0.25 * sum(parts) + mean
  np.testing.assert_allclose(told(x, query), expected, atol=5e-3)
  unverified = told(x, query, np.full(24, 0.5))
  np.testing.assert_allclose(unverified, parts[1] + 2 * mean, atol=2e-2)


def test_beside_a_network_that_knows_who_was_checked(rows):
  model = models.make('attention:width=4,blocks=1,heads=1')(1)
  made = models.make('attention:width=4,blocks=1,heads=1,distances=True')(1)
  x, query = rows[0], rows[1].astype(np.float32)

  @fast.jit
  def both(support, real):
    params = model.init(jax.random.key(0), base.Task(support, support, real))
    found = []
    for one in (model, made):
      context = one.summarise(params, one.read(support, real))
      found.append((one.apply(params, context, query), one.suspects(context)))
    return found

  for y, factor in ((0.0, 0.5), (0.5, 0.0)):
    (alone, suspects), (more, same) = both(*support_of(x, np.full(len(x), y)))
    np.testing.assert_allclose(
      (more - alone)[:, 0], factor * told(x, query), atol=1e-3
    )
    np.testing.assert_allclose(suspects, same, atol=1e-4)


def test_padding_says_nothing(rows):
  x, query = rows
  padded = told(x, query, rows=8, columns=5)
  np.testing.assert_allclose(padded, told(x, query), atol=1e-5)


@pytest.mark.parametrize(
  ('number', 'share'), [(1, 0), (3, 0), (5, 2 / 7), (10, 1), (24, 1)]
)
def test_more_normals_count_more_up_to_ten(rows, number, share):
  support, real = support_of(rows[0][:number], rows=24 - number)
  known = fast.jit(log_distances.fit)(support, real)
  assert float(known.factors[2]) == pytest.approx(share)
  if not share:
    scores = fast.jit(log_distances.score)(known, support.x)
    assert not np.asarray(scores).any()


def test_where_anomalies_are_labelled_the_network_is_alone(rows):
  y = np.arange(24) == 3
  assert not told(rows[0], rows[1], y).any()


def test_a_model_has_them_beside_its_own(rows):
  x, query = rows
  plain = models.make('tables:width=4,blocks=1')(1)
  beside = models.make('tables:width=4,blocks=1,distances=True')(1)
  support, real = support_of(x)
  task = base.Task(support, support, real)
  params = fast.jit(beside.init)(jax.random.key(0), task)

  def scores(model):
    reading = model.read(support, real)
    context = model.summarise(params, reading)
    return model.apply(params, context, query.astype(np.float32))[:, 0]

  both, alone = fast.jit(lambda: (scores(beside), scores(plain)))()
  np.testing.assert_allclose(both - alone, told(x, query), atol=1e-4)
