"""Small tasks and networks, for tests of learners and of training."""

import jax
import jax.numpy as jnp
import numpy as np

from metaad_jax import models
from metaad_jax.base import Rows, Task


def rows(rng, normals, anomalies, columns):
  """Normals around 0, then anomalies around 2."""
  y = np.repeat([0.0, 1.0], [normals, anomalies])
  x = rng.normal(size=(len(y), columns)) + 2 * y[:, None]
  return Rows(*map(jnp.asarray, (x, y, np.ones(len(y)))))


def task(seed=0, normals=4, anomalies=2, queries=4, columns=4):
  """Float64 when x64 is on."""
  rng = np.random.default_rng(seed)
  support = rows(rng, normals, anomalies, columns)
  query = rows(rng, queries, queries, columns)
  return Task(support, query, jnp.ones(columns))


def stack(tasks):
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *tasks)


def flat(tree):
  return np.asarray(jax.flatten_util.ravel_pytree(tree)[0])


class Identity:
  """A network whose outputs are the real columns of a row."""

  def __init__(self, outputs):
    del outputs

  def init(self, key, x, features):
    del key, x, features
    return {}

  def apply(self, params, x, features):
    del params
    return x * features


class Quadratic:
  """Outputs w - x: with `quadratic_loss`, 0.5 (w - x)' H (w - x) per row."""

  H = np.array([[2.0, 0.3, 0.1], [0.3, 1.0, 0.2], [0.1, 0.2, 0.5]])

  def __init__(self, outputs):
    del outputs

  def init(self, key, x, features):
    del key, features
    return jnp.arange(1.0, 1 + x.shape[-1], dtype=x.dtype)

  def apply(self, params, x, features):
    del features
    return params - x


def quadratic_loss(outputs, y, mask):
  del y
  h = jnp.asarray(Quadratic.H)
  values = 0.5 * jnp.einsum('ni,ij,nj->n', outputs, h, outputs)
  return (mask * values).sum() / mask.sum()


identity = models.adapt(Identity)
quadratic = models.adapt(Quadratic)
