"""The sweep and the Woodbury distances against NumPy, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaad_jax.models import linear_algebra


def positive(rng, size):
  root = rng.normal(size=(size, size))
  return root @ root.T + 0.1 * np.eye(size)


@pytest.mark.parametrize('size', [1, 2, 17])
def test_inverse_and_its_derivative(size):
  rng = np.random.default_rng(size)
  matrix, weight = positive(rng, size), rng.normal(size=(size, size))
  with jax.enable_x64(True):
    value, grad = jax.jit(
      jax.value_and_grad(lambda a: (linear_algebra.inverse(a) * weight).sum())
    )(jnp.asarray(matrix))
  inverse = np.linalg.inv(matrix)
  np.testing.assert_allclose(value, (inverse * weight).sum(), rtol=1e-8)
  # Symmetric part only: off the symmetric matrices the sweep is not defined.
  expected = -inverse @ weight.T @ inverse
  symmetric = lambda a: a + a.T
  np.testing.assert_allclose(
    symmetric(np.asarray(grad)), symmetric(expected), rtol=1e-6, atol=1e-8
  )


@pytest.mark.parametrize('anomalies', [0, 2])
def test_distances_are_those_of_the_shrunk_covariance(anomalies):
  rng = np.random.default_rng(anomalies)
  x, rows, prior = rng.normal(size=(3, 5)), rng.normal(size=(8, 5)), 0.7
  normal = np.r_[np.ones(4), np.zeros(4)]
  abnormal = np.r_[np.zeros(4), np.ones(anomalies), np.zeros(4 - anomalies)]
  with jax.enable_x64(True):
    found = jax.jit(linear_algebra.log_distances)(
      *map(jnp.asarray, (x, rows, normal, abnormal)), prior
    )
  known = rows[:4]
  centred = known - known.mean(0)
  ridge = prior * 5
  covariance = (centred.T @ centred + ridge * np.eye(5)) / (4 + ridge)
  metric = np.linalg.inv(covariance)
  distance = lambda a, b: (a - b) @ metric @ (a - b) / 5
  for row, line in zip(x, found, strict=True):
    expected = [
      distance(row, known.mean(0)),
      min(distance(row, other) for other in known),
    ]
    np.testing.assert_allclose(line[:2], np.log(np.array(expected) + 1e-4))
    if anomalies:
      nearest = min(distance(row, other) for other in rows[4 : 4 + anomalies])
      np.testing.assert_allclose(line[2], np.log(nearest + 1e-4))
    else:
      assert line[2] == 0
