"""Prototypical networks by hand, on the identity as an embedding."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from metaad_jax.base import Rows
from metaad_jax.learners import protonet

SUPPORT = Rows(
  jnp.array([[-1.0, 0], [1, 2], [4, 1], [99, 99]]),
  jnp.array([0.0, 0, 1, 1]),
  jnp.array([1.0, 1, 1, 0]),
)


def test_by_hand():
  """Prototypes (0, 1) and (4, 1); the query row is (1, 3)."""
  with jax.enable_x64(True):
    learner = protonet.protonet(tiny.identity, embedding=2)
    params = {
      'network': {},
      'log_radius': np.log(2.0),
      'log_sharpness': np.log(0.5),
    }
    row = jnp.array([[1.0, 3.0]])
    adapted = learner.adapt(None, params, SUPPORT, jnp.ones(2))
    np.testing.assert_allclose(adapted.centres, [[0, 1], [4, 1]])
    # mean squared distances: normal (1 + 4) / 2, anomaly (9 + 4) / 2
    expected = 0.5 * 2.5 + np.log(np.exp(-0.5 * 2.0) + np.exp(-0.5 * 6.5))
    np.testing.assert_allclose(learner.score(adapted, row), [expected])
    one_class = SUPPORT._replace(mask=jnp.array([1.0, 1, 0, 0]))
    adapted = learner.adapt(None, params, one_class, jnp.ones(2))
    expected = 0.5 * 2.5 - 0.5 * 2.0
    np.testing.assert_allclose(learner.score(adapted, row), [expected])
