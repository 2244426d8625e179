"""The sweep and the Woodbury distances against NumPy, in float64."""

import fast
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import spatial

from metaad_jax.models import linear_algebra


@pytest.mark.parametrize('size', [1, 17])
def test_inverse_and_its_derivative(size):
  rng = np.random.default_rng(size)
  root, weight = rng.normal(size=(2, size, size))
  matrix = root @ root.T + 0.1 * np.eye(size)
  value = lambda a: (linear_algebra.inverse(a) * weight).sum()
  with jax.enable_x64(True):
    value, grad = fast.jit(jax.value_and_grad(value))(jnp.asarray(matrix))
  inverse = np.linalg.inv(matrix)
  np.testing.assert_allclose(value, (inverse * weight).sum(), rtol=1e-8)
  # Symmetric part only: off the symmetric matrices the sweep is not defined.
  expected = -inverse @ weight.T @ inverse
  symmetric = lambda a: np.asarray(a + a.T)
  np.testing.assert_allclose(
    symmetric(grad), symmetric(expected), rtol=1e-6, atol=1e-8
  )


@pytest.mark.parametrize('anomalies', [0, 2])
def test_distances_are_those_of_the_shrunk_covariance(anomalies):
  rng = np.random.default_rng(anomalies)
  x, rows, prior = rng.normal(size=(3, 5)), rng.normal(size=(8, 5)), 0.7
  place = np.arange(8)
  normal, abnormal = place < 4, (place >= 4) & (place < 4 + anomalies)
  with jax.enable_x64(True):
    distances = fast.jit(linear_algebra.log_distances)(
      x, rows, normal.astype(float), abnormal.astype(float), prior
    )
  mean, ridge = rows[:4].mean(0), prior * 5
  centred = rows[:4] - mean
  covariance = (centred.T @ centred + ridge * np.eye(5)) / (4 + ridge)
  near = lambda others: spatial.distance.cdist(
    x, others, 'mahalanobis', VI=np.linalg.inv(covariance)
  ).min(1)
  expected = [near(mean[None]), near(rows[:4])]
  if anomalies:
    expected.append(near(rows[abnormal]))
  logs = np.log(np.stack(expected, 1) ** 2 / 5 + 1e-4)
  np.testing.assert_allclose(distances[:, : len(expected)], logs)
  assert anomalies or not distances[:, 2].any()
