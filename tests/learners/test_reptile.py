"""Reptile against its definition."""

import fast
import jax
import numpy as np
import optax
import pytest
import tiny

from metaad_jax.learners import reptile


@pytest.mark.parametrize('steps', [1, 2])
def test_it_is_its_definition(steps):
  """On all rows: one step gives a g, two give 2 a g - a^2 H g.

  The loss reported is that of the query once adapted.
  """
  with jax.enable_x64(True):
    task, rate, h = tiny.task(columns=3), 0.1, tiny.Quadratic.H
    everyone = np.concatenate([task.support.x, task.query.x])
    learner = fast.learner(reptile.reptile(
      tiny.quadratic, loss=tiny.quadratic_loss, steps=steps, adapt_steps=4,
      inner_optimizer=optax.sgd(rate),
    ))  # fmt: skip
    w = learner.init(None, task)
    g = h @ (w - everyone.mean(0))
    expected = {1: rate * g, 2: 2 * rate * g - rate**2 * h @ g}[steps]
    found, metrics = learner.meta_grad(None, w, task)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    away = w - found - task.query.x
    loss = 0.5 * np.einsum('ni,ij,nj->n', away, h, away).mean()
    np.testing.assert_allclose(metrics['loss'], loss)

    x = np.asarray(task.support.x).mean(0)
    power = np.linalg.matrix_power(np.eye(3) - rate * h, 4)
    adapted = learner.adapt(None, w, task.support, task.features)
    np.testing.assert_allclose(adapted.params, x + power @ (w - x))
