"""MAML against closed forms, and its first-order kin."""

import fast
import jax
import numpy as np
import optax
import pytest
import tiny

from metaad_jax import learners, models
from metaad_jax.learners import inner_loop, maml, objectives

STEPS, RATE = 3, 0.1
POWER = np.linalg.matrix_power(np.eye(3) - RATE * tiny.Quadratic.H, STEPS)


def make(**options):
  return fast.learner(maml.maml(
    tiny.quadratic, loss=tiny.quadratic_loss, steps=STEPS,
    inner_optimizer=optax.sgd(RATE), **options,
  ))  # fmt: skip


@pytest.mark.parametrize('mode', inner_loop.MODES)
def test_quadratics_are_the_closed_form(mode):
  """Exact: (I - a H)^k' H (w_k - x_q); first-order: H (w_k - x_q)."""
  with jax.enable_x64(True):
    task, learner = tiny.task(columns=3), make(mode=mode)
    w = learner.init(None, task)
    x, x_query = task.support.x.mean(0), task.query.x.mean(0)
    end = x + POWER @ (w - x)
    outer = tiny.Quadratic.H @ (end - x_query)
    if mode != 'first_order':
      outer = POWER.T @ outer
    found, _ = learner.meta_grad(None, w, task)
    np.testing.assert_allclose(found, outer, rtol=1e-10)
    adapted = learner.adapt(None, w, task.support, task.features)
    np.testing.assert_allclose(adapted.params, end, rtol=1e-10)


def test_steps_of_adapting_leave_training_alone():
  task = tiny.task(columns=3)
  few, many = make(), make(adapt_steps=80)
  w = few.init(None, task)
  np.testing.assert_array_equal(
    few.meta_grad(None, w, task)[0], many.meta_grad(None, w, task)[0]
  )
  adapted = many.adapt(None, w, task.support, task.features)
  expected = task.support.x.mean(0)
  assert np.abs(adapted.params - expected).max() < 0.2
  assert np.abs(few.adapt(None, w, *task[::2]).params - expected).max() > 0.5


def test_the_ranking_loss_is_added_for_the_query_alone():
  task = tiny.task()
  model = models.make('mlp:width=3,depth=1')
  plain, ranked = (
    fast.learner(learners.make(f'maml:steps=1,ranking={r}', model))
    for r in (0.0, 0.25)
  )
  params = plain.init(jax.random.key(0), task)
  adapted = plain.adapt(None, params, task.support, task.features)
  outputs = plain.score(adapted, task.query.x)[:, None]
  more = objectives.ranking(outputs, task.query.y, task.query.mask)
  loss = lambda learner: learner.meta_grad(None, params, task)[1]['loss']
  np.testing.assert_allclose(loss(ranked), loss(plain) + 0.25 * more, rtol=1e-5)
  same = ranked.adapt(None, params, task.support, task.features)
  np.testing.assert_allclose(tiny.flat(same), tiny.flat(adapted), rtol=1e-6)


def test_several_outputs_reach_the_loss():
  """Classes of the benchmarks: the loss sees all of them, not the score's."""
  seen = []

  def loss(outputs, y, mask):
    seen.append(outputs.shape[1])
    return objectives.cross_entropy(outputs, y, mask)

  network = models.make('mlp:width=3,depth=0')
  learner = maml.maml(lambda outputs: network(5), loss=loss, steps=1)
  task = tiny.task()
  params = jax.eval_shape(learner.init, jax.random.key(0), task)
  jax.eval_shape(learner.meta_grad, None, params, task)
  assert set(seen) == {5}
