"""Mahalanobis prototypes by hand, on the identity as an embedding."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from metaad_jax.base import Rows
from metaad_jax.learners import mahalanobis

SUPPORT = Rows(
  jnp.array([[-1.0, 0], [1, 2], [0, 1], [4, 1], [99, 99]]),
  jnp.array([0.0, 0, 0, 1, 0]),
  jnp.array([1.0, 1, 1, 1, 0]),
)


def test_by_hand():
  """Normals of mean (0, 1) and scatter [[2, 2], [2, 2]]; the prior is 2 I.

  Covariance ([[2, 2], [2, 2]] + 2 I) / (3 + 2), its inverse
  [[4, -2], [-2, 4]] * 5 / 12.
  """
  with jax.enable_x64(True):
    learner = mahalanobis.mahalanobis(tiny.identity, embedding=2)
    params = {
      'network': {}, 'log_prior': np.log(2.0), 'log_radius': np.log(3.0),
      'log_sharpness': np.log(0.5),
    }  # fmt: skip
    adapted = learner.adapt(None, params, SUPPORT, jnp.ones(2))
    precision = np.array([[4.0, -2], [-2, 4]]) * 5 / 12
    np.testing.assert_allclose(adapted.classes.centres, [[0, 1], [4, 1]])
    np.testing.assert_allclose(adapted.precision, precision)
    # The row (1, 1): (1, 0) from the normals, (-3, 0) from the anomaly.
    near, far = precision[0, 0] / 2, 9 * precision[0, 0] / 2
    beyond = np.exp(-0.5 * 3.0)
    row = jnp.array([[1.0, 1.0]])
    expected = 0.5 * near + np.log(beyond + np.exp(-0.5 * far))
    np.testing.assert_allclose(learner.score(adapted, row), [expected])
    one_class = SUPPORT._replace(
      y=0 * SUPPORT.y, mask=SUPPORT.mask * (1 - SUPPORT.y)
    )
    adapted = learner.adapt(None, params, one_class, jnp.ones(2))
    np.testing.assert_allclose(
      learner.score(adapted, row), [0.5 * near - 0.5 * 3.0]
    )
