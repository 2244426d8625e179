"""Scaling by the support's normals, shrunk towards what the fleet says."""

import fast
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from metaad_jax import learners, models
from metaad_jax.base import MetaLearner, Rows, Task
from metaad_jax.learners import standardized
from metaad_jax.learners.standardized import Prior


def prior(centre, between, within, columns=1):
  return Prior(
    *(jnp.full(columns, float(v)) for v in (centre, between, within))
  )


def test_scaling_by_hand():
  """Two normals at 0 and 4; a prior deviation of 3 counts as five rows."""
  support = Rows(
    jnp.array([[0.0], [4.0], [50.0], [7.0]]),
    jnp.array([0.0, 0, 1, 0]),
    jnp.array([1.0, 1, 1, 0]),
  )
  scaling = standardized.fit(support, prior(9, 7, 3))
  deviation = ((2 * 4 + 5 * 9) / 7) ** 0.5
  np.testing.assert_allclose(scaling.centre, [2.0])
  np.testing.assert_allclose(scaling.scale, [deviation], rtol=1e-5)
  x = jnp.array([[2.0], [2 + deviation], [1e4], [-1e4]])
  expected = [[0], [1], [20], [-20]]
  np.testing.assert_allclose(
    standardized.transform(scaling, x), expected, atol=1e-5
  )


def test_a_support_without_normals_has_the_prior():
  support = Rows(jnp.array([[50.0]]), jnp.ones(1), jnp.ones(1))
  scaling = standardized.fit(support, prior(9, 7, 3))
  np.testing.assert_allclose(scaling, [[9.0], [3.0]], rtol=1e-5)


def test_windows_are_scaled_per_channel():
  """Two windows of two samples: channel 0 is 0, 2, 4, 6, the other 10 less."""
  x = jnp.arange(0.0, 8, 2).reshape(2, 2, 1)
  support = Rows(jnp.concatenate([x, x - 10], -1), jnp.zeros(2), jnp.ones(2))
  scaling = standardized.fit(support, prior(0, 1, 1, columns=2))
  np.testing.assert_allclose(scaling.centre, [3, -7])
  deviation = ((2 * 5 + 5 * 1) / 7) ** 0.5  # the variance within is 5
  np.testing.assert_allclose(scaling.scale, [deviation] * 2, rtol=1e-5)


def test_context_appends_the_columns_scaled_by_the_fleet():
  """Normals 1 and 3 of a fleet at 2 +- 4; deviations within are 0 here."""
  seen = {}

  def adapt(key, params, support, features):
    seen.update(support=support.x, features=features)
    return ()

  def init(key, task):
    seen.update(init=task.support.x, columns=task.features)
    return {}

  learner = MetaLearner(init, adapt, lambda _, x: x[:, 0] - x[:, 1], None)
  rich = standardized.standardized(learner, prior(2, 4, 0), context=True)
  support = Rows(jnp.array([[5.0], [7.0]]), jnp.zeros(2), jnp.ones(2))
  task = Task(support, support, jnp.ones(1))
  params = rich.init(None, task)
  adapted = rich.adapt(None, params, support, task.features)
  spread = (2 / 7) ** 0.5
  expected = [[-1 / spread, 3 / 4], [1 / spread, 5 / 4]]
  for name in ('support', 'init'):
    np.testing.assert_allclose(seen[name], expected, rtol=1e-4)
  np.testing.assert_array_equal(seen['features'], [1, 1])
  np.testing.assert_array_equal(seen['columns'], [1, 1])
  found = rich.score(adapted, jnp.array([[9.0]]))
  np.testing.assert_allclose(found, [3 / spread - 7 / 4], rtol=1e-4)


@pytest.mark.parametrize('spec', ['maml:steps=2', 'protonet:embedding=3'])
def test_units_do_not_matter(spec):
  """Shifting and scaling a column, prior included, leaves the scores alone."""
  with jax.enable_x64(True):
    task = tiny.task()
    factor, shift = jnp.array([1e3, 1, 0.1, 5]), jnp.array([7.0, 0, -2, 0])
    change = lambda rows: rows._replace(x=rows.x * factor + shift)
    moved = task._replace(
      support=change(task.support), query=change(task.query)
    )
    ones = jnp.ones(4)
    learner = learners.make(spec, models.make('mlp:width=4,depth=1'))

    def scores(task, prior):
      scaled = fast.learner(standardized.standardized(learner, prior))
      params = scaled.init(jax.random.key(0), task)
      adapted = scaled.adapt(None, params, task.support, task.features)
      return scaled.score(adapted, task.query.x)

    plain = scores(task, Prior(0 * ones, ones, ones))
    other = scores(moved, Prior(shift, factor, factor))
    np.testing.assert_allclose(other, plain, rtol=1e-3)


def test_the_prior_gets_no_gradient():
  task = tiny.task()
  learner = standardized.standardized(
    learners.make('protonet:embedding=2', models.make('mlp:width=3')),
    prior(1, 2, 1, columns=4),
  )
  learner = fast.learner(learner)
  params = learner.init(jax.random.key(0), task)
  grads, _ = learner.meta_grad(None, params, task)
  assert not np.any(tiny.flat(grads['prior']))
  np.testing.assert_array_equal(params['prior'].between, 2 * np.ones(4))
