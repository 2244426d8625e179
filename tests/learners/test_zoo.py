"""Learners against closed forms, and against one another where they coincide.

In float64, on networks of a few parameters.
"""

import fast
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import svm
import tiny

from metaad_jax import learners, models
from metaad_jax.base import DataError, Rows, Task
from metaad_jax.learners import (
  cavia,
  imaml,
  inner_loop,
  maml,
  maml_pp,
  matching,
  meta_svdd,
  metaoptnet,
  objectives,
  r2d2,
)

MLP, LINEAR = models.make('mlp:width=3,depth=1'), models.make('mlp:depth=0')
H = tiny.Quadratic.H


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def close(found, expected, rtol=1e-8, atol=1e-10):
  jax.tree.map(
    lambda f, e: np.testing.assert_allclose(f, e, rtol, atol), found, expected
  )


def frozen(part):
  """MAML of two steps whose optimizer leaves the head, or the body, alone."""
  label = lambda path, _: part in {key.key for key in path}
  move = {True: optax.sgd(0.1), False: optax.set_to_zero()}
  labels = lambda params: jax.tree_util.tree_map_with_path(label, params)
  optimizer = optax.partition(move, labels)
  return lambda model: maml.maml(model, steps=2, inner_optimizer=optimizer)


def of(spec):
  return lambda model: learners.make(spec, model)


COINCIDE = {
  'meta_sgd:steps=2': of('maml:steps=2'),
  'meta_curvature:steps=2': of('maml:steps=2'),
  'maml_pp:steps=2': of('maml:steps=2'),
  'anil:steps=2,part=all': of('maml:steps=2'),
  'anil:steps=2': frozen('Dense_1'),
  'boil:steps=2': frozen('Dense_0'),
}


def test_where_two_algorithms_coincide_so_do_their_meta_gradients():
  """With their meta-parameters as they start, in what both have."""
  task = tiny.task()
  pairs = [(of(spec)(MLP), other(MLP)) for spec, other in COINCIDE.items()]
  pairs += [
    (of('anil:steps=2')(LINEAR), of('maml:steps=2')(LINEAR)),
    (meta_svdd.meta_svdd(MLP, solver_steps=0), of('protonet')(MLP)),
  ]

  def everything(key):
    for pair in pairs:
      params = [learner.init(key, task) for learner in pair]
      grads = [
        learner.meta_grad(key, p, task)[0]
        for learner, p in zip(pair, params, strict=True)
      ]
      yield [
        grads[0].get('network', grads[0]),
        grads[1].get('network', grads[1]),
      ]

  made = fast.jit(lambda key: list(everything(key)))(jax.random.key(0))
  for one, other in made:
    close(one, other)
    assert np.abs(tiny.flat(one)).max() > 1e-3


def test_a_part_that_is_not_there_is_missed():
  task = tiny.task()
  for spec, model in (('boil', LINEAR), ('anil', tiny.quadratic)):
    learner = learners.make(spec, model)
    with pytest.raises(DataError, match='to adapt'):
      learner.adapt(None, learner.init(jax.random.key(0), task), *task[::2])
  with pytest.raises(DataError, match='part'):
    learners.make('anil:part=feet', MLP)


@pytest.mark.parametrize('strength', [0.5, 1e6])
def test_imaml_on_a_quadratic_is_the_closed_form(strength):
  """The ending is that of its equations, with (I + H / l)^-1 before the rest.

  A strong pull ends where it began: then it is the gradient of the query's
  loss without adaptation.
  """
  task = tiny.task(columns=3)
  rate = 0.3 if strength < 1 else 0.3 / strength
  learner = fast.learner(imaml.imaml(
    tiny.quadratic, loss=tiny.quadratic_loss, strength=strength, steps=400,
    inner_optimizer=optax.sgd(rate),
  ))  # fmt: skip
  w = learner.init(None, task)
  x, x_query = task.support.x.mean(0), task.query.x.mean(0)
  pulled = H + strength * np.eye(3)
  end = np.linalg.solve(pulled, H @ x + strength * w)
  outer = strength * np.linalg.solve(pulled, H @ (end - x_query))
  close(learner.adapt(None, w, *task[::2]).params, end)
  close(learner.meta_grad(None, w, task)[0], outer, 1e-5, 1e-5)
  if strength > 1:
    close(outer, H @ (w - x_query), 1e-5, 1e-5)


def test_cavia_with_identity_weights_is_maml_on_the_first_bias():
  task = tiny.task()
  learner = cavia.cavia(MLP, contexts=3, inner_optimizer=optax.sgd(0.5))
  params = fast.jit(learner.init)(jax.random.key(0), task)
  first = params['params']['Dense_0']
  first['kernel'] = first['kernel'].at[4:].set(jnp.eye(3))
  score = learner.score(learner.adapt(None, params, *task[::2]), task.query.x)

  def network(bias, x):
    hidden = nn.relu(x @ first['kernel'][:4] + first['bias'] + bias)
    last = params['params']['Dense_1']
    return hidden @ last['kernel'] + last['bias']

  x, y, mask = task.support
  loss = lambda bias: objectives.balanced_bce(network(bias, x), y, mask)
  bias = inner_loop.descend(loss, jnp.zeros(3), optax.sgd(0.5), 2)
  assert np.abs(bias).max() > 1e-3
  close(score, network(bias, task.query.x)[:, 0])


def test_the_losses_after_all_steps_fade_in_maml_pp():
  """At first their mean, later that after the last: a quadratic of 2 steps."""
  task = tiny.task(columns=3)
  learner = maml_pp.maml_pp(
    tiny.quadratic, loss=tiny.quadratic_loss, steps=2, rate=0.1
  )
  start = learner.init(None, task)
  w, x, x_query = start['network'], task.support.x.mean(0), task.query.x.mean(0)
  power = np.eye(3) - 0.1 * H
  after = lambda k: x + np.linalg.matrix_power(power, k) @ (w - x)
  one, two = (
    np.linalg.matrix_power(power, k) @ H @ (after(k) - x_query) for k in (1, 2)
  )
  for progress, share in ((0.0, 0.5), (0.05, 0.25), (0.5, 0.0)):
    grads, _ = learner.at(progress).meta_grad(None, start, task)
    close(grads['network'], share * one + (1 - share) * two)
  close(learner.meta_grad(None, start, task)[0], grads)


class Scaled(nn.Module):
  """One layer with the scale of a normalisation behind it."""

  outputs: int

  @nn.compact
  def __call__(self, x, features):
    scale = self.param('scale', nn.initializers.ones, (x.shape[1],))
    return nn.Dense(self.outputs)(x * features * scale)


def test_scales_have_a_copy_for_each_step_and_do_not_move():
  task = tiny.task()
  learner = maml_pp.maml_pp(models.adapt(Scaled), steps=2)
  params = fast.jit(learner.init)(jax.random.key(0), task)
  scale = params['network']['params']['scale'] * np.array([[1.0], [2.0]])
  params['network']['params']['scale'] = scale
  one = lambda params: (
    learner.adapt(None, params, *task[::2]).params,
    learner.meta_grad(None, params, task)[0]['network'],
  )
  after, grads = (tree['params']['scale'] for tree in fast.jit(one)(params))
  close(after, scale[1])
  assert (np.abs(grads).max(1) > 1e-3).all()  # each step's copy is learnt


Z = np.array([[0.0, 0], [4, 0], [2, 1], [1, 5], [0, 7], [-3, 2], [9, 9]])
CLASSES = np.array([0.0, 0, 0, 1, 1, 2, 2])
REAL = np.array([1.0, 1, 1, 1, 1, 1, 0])
SUPPORT = Rows(*map(np.asarray, (Z, CLASSES, REAL)))


def adapted(make, support=SUPPORT, **options):
  learner = make(tiny.identity, embedding=2, **options)
  params = learner.init(None, Task(support, support, np.ones(2)))
  run = fast.jit(
    lambda support: learner.adapt(None, params, support, np.ones(2))
  )
  return learner, run(support)


def test_r2d2_is_ridge_regression():
  learner, head = adapted(r2d2.r2d2, outputs=3)
  z, hot = Z[:6], np.eye(3)[CLASSES[:6].astype(int)]
  expected = np.linalg.solve(z.T @ z + np.eye(2), z.T @ hot)
  close(head.weights, expected)
  close(learner.score(head, jnp.asarray(Z)), np.e * Z @ expected)


def test_metaoptnet_is_the_machine_of_crammer_and_singer():
  _, head = adapted(metaoptnet.metaoptnet, outputs=3, solver_steps=3000)
  machine = svm.LinearSVC(
    multi_class='crammer_singer', fit_intercept=False, tol=1e-9, max_iter=10**6
  )
  machine.fit(Z[:6], CLASSES[:6])
  close(head.weights, machine.coef_.T, 1e-4, 1e-4)


def test_meta_svdd_finds_the_smallest_ball():
  """Of (0, 0), (4, 0) and (2, 1): around (2, 0), which is not their mean."""
  one = SUPPORT._replace(y=np.minimum(CLASSES, 1))
  _, prototypes = adapted(meta_svdd.meta_svdd, one, solver_steps=300)
  close(prototypes.centres, [[2, 0], Z[3:6].mean(0)], 1e-5, 1e-5)


@pytest.mark.parametrize('make', [meta_svdd.meta_svdd, metaoptnet.metaoptnet])
def test_gradients_through_the_programs_are_those_of_differences(make):
  def score(z):
    one = Rows(z, jnp.minimum(CLASSES, 1.0), jnp.asarray(REAL))
    learner = make(tiny.identity, embedding=2)
    params = learner.init(None, Task(one, one, jnp.ones(2)))
    head = learner.adapt(None, params, one, jnp.ones(2))
    return learner.score(head, jnp.array([[1.0, 3.0]]))[0]

  value = fast.jit(jax.value_and_grad(score))
  z, way = jnp.asarray(Z), np.random.default_rng(0).normal(size=Z.shape)
  rise = (value(z + 1e-6 * way)[0] - value(z - 1e-6 * way)[0]) / 2e-6
  np.testing.assert_allclose((value(z)[1] * way).sum(), rise, rtol=1e-5)


def test_matching_by_hand():
  """(0, 2) beside (1, 0) and (0, 1), normals, and (0, -1), an anomaly."""
  z = np.array([[3.0, 0], [0, 5], [0, -1]]) * 1e3
  support = Rows(z, np.array([0.0, 0, 1]), np.ones(3))
  learner, made = adapted(matching.matching, support)
  found = learner.score(made, jnp.array([[0.0, 2e3]]))
  normal = np.log((1 + np.exp(np.e)) / 2)
  expected = np.logaddexp(0, -np.e) - normal
  close(found, [expected], 1e-6)
  lone = support._replace(mask=np.array([1.0, 1, 0]))
  learner, made = adapted(matching.matching, lone)
  close(learner.score(made, jnp.array([[0.0, 2e3]])), [0 - normal], 1e-6)


N_WAY = [
  'maml', 'fomaml', 'reptile', 'anil', 'boil', 'meta_sgd', 'meta_curvature',
  'maml_pp', 'imaml', 'cavia', 'protonet', 'matching', 'r2d2', 'metaoptnet',
]  # fmt: skip


@pytest.mark.parametrize('name', N_WAY)
def test_learners_of_several_classes_give_a_logit_for_each(name):
  learner = learners.build(
    name, {}, MLP, loss=objectives.cross_entropy, outputs=4
  )
  task = tiny.task()
  params = jax.eval_shape(learner.init, jax.random.key(0), task)

  def run(params):
    made = learner.adapt(None, params, task.support, task.features)
    return learner.score(made, task.query.x), learner.meta_grad(
      None, params, task
    )

  scores, (grads, _) = jax.eval_shape(run, params)
  assert scores.shape == (len(task.query.y), 4)
  jax.tree.map(lambda g, p: g.shape == p.shape or 1 / 0, grads, params)
