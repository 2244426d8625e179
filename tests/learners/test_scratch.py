"""The classifier against background rows."""

import fast
import jax
import jax.numpy as jnp
import numpy as np
import tiny

from metaad_jax import models
from metaad_jax.base import Rows
from metaad_jax.learners import fine_tuning, scratch


def test_the_background_is_a_second_class_around_the_support(monkeypatch):
  seen = []
  tune = fine_tuning.tune

  def spy(model, loss, params, rows, *rest):
    seen.append(rows)
    return tune(model, loss, params, rows, *rest)

  monkeypatch.setattr(fine_tuning, 'tune', spy)
  learner = scratch.scratch(
    models.make('mlp:width=4,depth=1'), adapt_steps=1, spread=5.0
  )
  x = jnp.concatenate([jnp.full((100, 20), 2.0), jnp.full((100, 20), 99.0)])
  mask = jnp.repeat(jnp.array([1.0, 0.0]), 100)
  support = Rows(x, jnp.zeros(200), mask)
  learner.adapt(jax.random.key(0), {}, support, jnp.ones(20))
  (rows,) = seen
  np.testing.assert_array_equal(rows.x[:200], x)
  np.testing.assert_array_equal(rows.y, np.repeat([0, 1], 200))
  np.testing.assert_array_equal(rows.mask, np.tile(mask, 2))
  background = np.asarray(rows.x[200:])  # 4,000 values, centred on real rows
  assert abs(background.mean() - 2) < 0.4 and abs(background.std() - 5) < 0.3


def test_what_is_far_from_the_support_scores_higher():
  learner = scratch.scratch(models.make('mlp:width=16,depth=1'))
  support = tiny.rows(np.random.default_rng(0), 20, 0, 2)

  @fast.jit
  def score(key, x):
    adapted = learner.adapt(key, {}, support, jnp.ones(2))
    return learner.score(adapted, x)

  near, far = jnp.zeros((1, 2)), jnp.array([[6.0, 0], [-6, 0], [0, 6], [0, -6]])
  scores = score(jax.random.key(0), jnp.concatenate([near, far]))
  assert scores[0] < scores[1:].min()
  other = score(jax.random.key(1), near)
  assert scores[0] != other[0]  # another key, another start and background


def test_there_is_nothing_to_meta_train():
  learner = scratch.scratch(models.make('mlp:width=2'), adapt_steps=1)
  task = tiny.task()
  assert learner.init(jax.random.key(0), task) == {}
  grads, metrics = learner.meta_grad(jax.random.key(0), {}, task)
  assert grads == {} and metrics['loss'] > 0
