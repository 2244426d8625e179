"""The relation network by hand: what its head is shown of a row."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from metaad_jax import models
from metaad_jax.base import Rows
from metaad_jax.learners import relation


class Chosen(tiny.Identity):
  """Embeds a row as itself; a head's output is the entry params say."""

  def apply(self, params, x, features):
    if isinstance(params, dict):
      return super().apply(params, x, features)
    return (x * features @ params)[:, None]


def test_three_rows_by_hand():
  """Normals (0, 0) and (2, 0), an anomaly (1, 3), and a row (1, 1).

  The normals' mean is (1, 0), their scatter diag(2, 0). A prior of 1/2 times
  two columns gives the covariance diag(3, 1) / 3 in the embedding, one of 1/4
  diag(2.5, 0.5) / 2.5 over the columns.
  """
  support = Rows(
    jnp.array([[0.0, 0], [2, 0], [1, 3], [50, 50]]),
    jnp.array([0.0, 0, 1, 0]),
    jnp.array([1.0, 1, 1, 0]),
  )
  learner = relation.relation(models.adapt(Chosen), embedding=2)

  def shown(entry):
    params = {
      'network': {}, 'head': jax.nn.one_hot(entry, 12),
      'log_prior': jnp.log(jnp.array([0.5, 0.25])),
    }  # fmt: skip
    adapted = learner.adapt(None, params, support, jnp.ones(2))
    return learner.score(adapted, jnp.array([[1.0, 1.0]]))[0]

  away = np.array([[0, 1], [1, 1], [0, 2]]) ** 2  # mean, normal, anomaly
  learned, plain = np.log(away @ np.array([[1, 1], [3, 5]]) / 2 + 1e-4).T
  expected = [1, 1, 0, 1, *learned, *plain, np.log(3), np.log(2)]
  found = [float(shown(entry)) for entry in range(12)]
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
