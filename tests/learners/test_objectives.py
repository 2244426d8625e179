"""Masked losses against their definitions, written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics, utils

from metaad_jax.base import Rows, Task
from metaad_jax.learners import objectives

RNG = np.random.default_rng(0)
N = 11


def case(y, mask):
  return RNG.normal(size=(len(y), 1)) * 3, np.array(y, float), np.array(mask)


@pytest.mark.parametrize('anomalies', [0, 1, 4, N])
@pytest.mark.parametrize('balanced', [True, False])
def test_bce_is_sklearn_log_loss(anomalies, balanced):
  with jax.enable_x64(True):
    outputs, y, mask = case([0] * (N - anomalies) + [1] * anomalies, [1.0] * N)
    share = 1 / (1 + np.exp(-outputs[:, 0]))
    weights = utils.compute_sample_weight('balanced', y) if balanced else None
    expected = metrics.log_loss(
      y, share, sample_weight=weights, labels=[0.0, 1.0]
    )
    loss = objectives.balanced_bce if balanced else objectives.bce
    found = loss(*map(jnp.asarray, (outputs, y, mask)))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


EVERY = pytest.mark.parametrize(
  'loss',
  [
    objectives.balanced_bce,
    objectives.bce,
    objectives.cross_entropy,
    objectives.squared_error,
  ],
)


@EVERY
def test_masked_rows_change_neither_value_nor_gradient(loss):
  outputs, y, mask = case([0, 1, 0, 1, 0], [1.0, 1.0, 1.0, 0.0, 0.0])
  both = jax.jit(jax.value_and_grad(loss))
  value, grads = both(*map(jnp.asarray, (outputs, y, mask)))
  short = both(*map(jnp.asarray, (outputs[:3], y[:3], mask[:3])))
  np.testing.assert_allclose(value, short[0], rtol=1e-6)
  np.testing.assert_allclose(grads[:3], short[1], rtol=1e-6)
  assert not grads[3:].any()


@EVERY
def test_no_real_row_gives_zero_and_no_nan(loss):
  outputs, y, mask = case([0, 1], [0.0, 0.0])
  value, grads = jax.value_and_grad(loss)(*map(jnp.asarray, (outputs, y, mask)))
  assert value == 0 and not grads.any()


def test_bce_stays_finite_at_extreme_logits():
  y = jnp.array([0.0, 1.0])
  value, grads = jax.value_and_grad(objectives.balanced_bce)(
    jnp.array([[1e4], [-1e4]]), y, jnp.ones(2)
  )
  np.testing.assert_allclose(value, 1e4, rtol=1e-6)
  np.testing.assert_allclose(grads[:, 0], [0.5, -0.5], rtol=1e-6)


def test_cross_entropy_is_sklearn_log_loss():
  with jax.enable_x64(True):
    y, outputs = np.array([2.0, 0.0, 1.0, 2.0]), RNG.normal(size=(4, 3)) * 3
    share = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
    found = objectives.cross_entropy(*map(jnp.asarray, (outputs, y, y**0)))
    np.testing.assert_allclose(found, metrics.log_loss(y, share), rtol=1e-12)


def test_squared_error_by_hand():
  outputs = jnp.array([[1.0], [5.0], [9.0]])
  found = objectives.squared_error(
    outputs, jnp.array([0.0, 2.0, 0.0]), jnp.array([1.0, 1.0, 0.0])
  )
  assert found == (1 + 9) / 2


def test_ranking_by_hand():
  """Anomalies 2 and 0 against normals 1 and 0; the masked row is far off."""
  outputs = jnp.array([[2.0], [0], [1], [0], [-99]])
  y = jnp.array([1.0, 1, 0, 0, 1])
  mask = jnp.array([1.0, 1, 1, 1, 0])
  gaps = np.array([-1.0, -2, 1, 0])
  expected = np.log1p(np.exp(gaps)).mean()
  found = objectives.ranking(outputs, y, mask)
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  assert objectives.ranking(outputs, 0 * y, mask) == 0


def test_a_learner_from_its_query_loss():
  """Score (w - mean of the support) x: the gradient goes through `adapt`."""
  with jax.enable_x64(True):
    rows = lambda x: Rows(jnp.array(x), jnp.array([0.0, 1.0]), jnp.ones(2))
    task = Task(rows([1.0, 3.0]), rows([2.0, 4.0]), jnp.ones(1))
    learner = objectives.from_query_loss(
      lambda key, task: 5.0,
      lambda key, w, support, features: w**2 - support.x.mean(),
      lambda adapted, x: adapted * x,
      objectives.squared_error,
    )
    # adapted = 25 - 2; errors 46 - 0 and 92 - 1, d adapted / dw = 10
    grads, metrics_ = learner.meta_grad(None, 5.0, task)
    np.testing.assert_allclose(metrics_['loss'], (46**2 + 91**2) / 2)
    np.testing.assert_allclose(grads, 10 * (46 * 2 + 91 * 4))
