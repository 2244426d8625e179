"""Pooled training by hand: all rows of a task are rows of one problem."""

import fast
import jax
import numpy as np
import optax
import tiny

from metaad_jax.learners import pooled


def test_the_gradient_is_over_all_rows_and_fine_tuning_over_the_support():
  with jax.enable_x64(True):
    task, h = tiny.task(columns=3), tiny.Quadratic.H
    learner = fast.learner(pooled.pooled(
      tiny.quadratic, loss=tiny.quadratic_loss, adapt_steps=2,
      inner_optimizer=optax.sgd(0.1),
    ))  # fmt: skip
    w = learner.init(None, task)
    everyone = np.concatenate([task.support.x, task.query.x])
    found, metrics = learner.meta_grad(None, w, task)
    np.testing.assert_allclose(found, h @ (w - everyone.mean(0)), rtol=1e-10)
    away = w - everyone
    loss = 0.5 * np.einsum('ni,ij,nj->n', away, h, away).mean()
    np.testing.assert_allclose(metrics['loss'], loss)
    x = np.asarray(task.support.x).mean(0)
    power = np.linalg.matrix_power(np.eye(3) - 0.1 * h, 2)
    adapted = learner.adapt(None, w, task.support, task.features)
    np.testing.assert_allclose(adapted.params, x + power @ (w - x))
    still = pooled.pooled(tiny.quadratic, adapt_steps=0)
    assert still.adapt(None, w, task.support, task.features).params is w
