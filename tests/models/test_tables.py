"""The encoder of tables: what a row is compared with."""

import types

import fast
import jax
import jax.numpy as jnp
import numpy as np

from metaad_jax.base import Rows
from metaad_jax.models import table_features, tables


def test_a_row_of_the_support_is_not_compared_with_itself():
  rng = np.random.default_rng(0)
  y = np.array([0, 0, 0, 0, 1, 1], 'f4')
  support = Rows(rng.normal(size=(6, 3)).astype('f4'), y, np.ones(6, 'f4'))
  network = tables.Tables(width=4, blocks=1, heads=2, outputs=1)

  def read(support):
    x, fitted = support.x, table_features.fit(support, jnp.ones(3))
    params = network.init(jax.random.key(0), fitted, x)
    apply = lambda *args, method: network.apply(params, *args, method=method)
    summary, described = apply(fitted, method='summarise')
    new = table_features.describe(fitted, x)

    def scores(moved, rows):
      vectors = summary.vectors + moved
      return apply(summary._replace(vectors=vectors), rows, method='score')

    moves = 3 * jnp.eye(6)[:, :, None]
    score = jax.vmap(scores, (0, None))
    return scores(0, described), score(moves, described), score(moves, new)

  usual, moved, of_new = (a[..., 0] for a in fast.jit(read)(support))
  changed = np.abs(moved - usual) > 1e-6
  np.testing.assert_array_equal(changed, ~np.eye(6, dtype=bool))
  # Another row that happens to be equal is compared with it.
  assert (np.abs(of_new.diagonal() - usual) > 1e-6).all()


def test_a_large_support_shows_some_anomalies_and_then_normals():
  """20 anomalies, 30 rows of padding and 50 normals: 64 are looked at."""
  place = np.arange(100)
  anomaly, normal = (place < 20).astype('f4'), (place >= 50).astype('f4')
  support = types.SimpleNamespace(normal=normal, anomaly=anomaly)
  chosen = np.sort(tables._choose(support))
  np.testing.assert_array_equal(chosen, [*range(16), *range(50, 98)])
