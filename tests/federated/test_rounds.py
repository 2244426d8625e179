"""Federated algorithms against their definitions and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose
import optax
import pytest

from metaad_jax import learners, models
from metaad_jax.base import DataError, Entity, MetaLearner
from metaad_jax.data import episodes
from metaad_jax.federated import rounds

EPISODE = episodes.Episode((4,), (0,), (0.0,), 4, 4)
KEY = jax.random.key(0)


def entity(seed, rows=12):
  random = np.random.default_rng(seed)
  x = random.normal(size=(3 * rows, 3)).astype('f4') + seed
  labels = np.repeat([0, 1], rows).astype(np.int32)
  return Entity(f'e{seed}', x[:rows], x[rows:], labels)


HELD = rounds.sites(
  [entity(0), entity(1, 8), entity(2), entity(3)], ['a', 'b', 'a', 'c']
)
SAMPLE = rounds.sampler(HELD, EPISODE)


def quadratic(target):
  """A learner whose tasks all pull towards one point."""

  def meta_grad(key, params, task):
    return {'w': params['w'] - target}, {'loss': jnp.zeros(())}

  return MetaLearner(None, None, None, meta_grad)


def close(a, b, **how):
  jax.tree.map(lambda x, y: assert_allclose(x, y, **how), a, b)


def test_sites_hold_their_entities():
  assert_allclose(HELD.members, [[0, 2], [1, 1], [3, 3]])
  assert_allclose(HELD.weights, [72, 24, 36])
  draw = jax.jit(jax.vmap(SAMPLE, (0, None)))
  tasks = draw(jax.random.split(KEY, 20), HELD.members[0])
  means = np.asarray(tasks.query.x).mean((1, 2)).round()
  assert set(means) == {0.0, 2.0}
  with pytest.raises(DataError):
    rounds.sites([], [])


def test_fedavg_is_reptile():
  """Local descent on a site's rows, averaged = Reptile's meta-gradient."""
  model = models.make('mlp:width=8')
  inner = optax.sgd(0.1)
  average = learners.build('pooled', {}, model)
  reptile = learners.build(
    'reptile', {'steps': 3}, model, inner_optimizer=inner
  )
  tasks = jax.vmap(SAMPLE)(jax.random.split(KEY, 3), HELD.members)
  first = jax.tree.map(lambda leaf: leaf[0], tasks)
  params = average.init(KEY, first)
  settings = rounds.Settings(steps=3, rate=0.1)

  def of_site(task):
    return rounds.site_update(average, settings, KEY, params, lambda _: task)[0]

  sent = rounds.aggregate(settings, KEY, jax.vmap(of_site)(tasks), jnp.ones(3))
  one = lambda task: reptile.meta_grad(KEY, params, task)[0]
  expected = jax.tree.map(lambda g: g.mean(0), jax.vmap(one)(tasks))
  close(sent, expected, atol=1e-6)


def test_per_fedavg_steps_along_the_meta_gradient():
  model = models.make('mlp:width=4')
  maml = learners.build('maml', {'steps': 1}, model)
  task = SAMPLE(KEY, HELD.members[0])
  params = maml.init(KEY, task)
  settings = rounds.Settings(steps=2, rate=0.5)
  sent, _ = rounds.site_update(maml, settings, KEY, params, lambda _: task)
  now = params
  for _ in range(2):
    grads, _ = maml.meta_grad(KEY, now, task)
    now = jax.tree.map(lambda w, g: w - 0.5 * g, now, grads)
  close(sent, jax.tree.map(jnp.subtract, params, now), atol=1e-6)


def test_fedprox_in_closed_form():
  """w' = w - r ((w - c) + mu (w - w0)) ends at (c + mu w0) / (1 + mu)."""
  learner, start = quadratic(3.0), {'w': jnp.array(1.0)}
  draw = lambda key: None
  far = rounds.Settings(steps=200, rate=0.1, proximal=1.0)
  sent, _ = rounds.site_update(learner, far, KEY, start, draw)
  assert_allclose(1 - sent['w'], 2.0, atol=1e-5)
  near = rounds.Settings(steps=3, rate=0.1, proximal=1.0)
  sent, _ = rounds.site_update(learner, near, KEY, start, draw)
  assert_allclose(1 - sent['w'], 2 - 0.8**3, rtol=1e-5)


def test_a_round_is_the_weighted_mean_of_its_sites():
  settings = rounds.Settings(asked=3, steps=2, rate=0.1, at_once=2)
  target = lambda task: task.query.x.mean()
  learner = MetaLearner(
    None, None, None,
    lambda key, p, task: ({'w': p['w'] - target(task)}, {'loss': p['w']}),
  )  # fmt: skip
  start = {'w': jnp.array(0.5)}
  run = rounds.simulate(learner, settings, SAMPLE, 1)
  after, _ = run(KEY, start, 4, HELD.members, HELD.weights)
  total = 0.0
  for site, weight in enumerate(HELD.weights):
    draw = lambda key: SAMPLE(key, HELD.members[site])  # noqa: B023
    key = rounds.site_key(KEY, 4, site)
    sent, _ = rounds.site_update(learner, settings, key, start, draw)
    total += weight * sent['w']
  assert_allclose(after['w'], 0.5 - total / HELD.weights.sum(), rtol=1e-5)


def test_unasked_sites_take_no_part():
  settings = rounds.Settings(asked=1, steps=1, rate=1.0)
  learner = MetaLearner(
    None, None, None,
    lambda key, p, task: (
      {'w': p['w'] - task.query.x.mean().round()}, {'loss': p['w']}
    ),
  )  # fmt: skip
  run = rounds.simulate(learner, settings, SAMPLE, 1)
  ends = [
    float(run(k, {'w': jnp.array(0.5)}, 0, HELD.members, HELD.weights)[0]['w'])
    for k in jax.random.split(KEY, 12)
  ]
  assert set(ends) <= {0.0, 1.0, 2.0, 3.0} and len(set(ends)) > 1


def test_clipped_and_noised():
  updates = {'w': jnp.array([[3.0, 4.0], [0.3, 0.4]]), 'v': jnp.zeros((2, 1))}
  weights = jnp.array([1.0, 3.0])
  cut = rounds.aggregate(rounds.Settings(clip=1.0), KEY, updates, weights)
  assert_allclose(cut['w'], [0.25 * 0.6 + 0.75 * 0.3, 0.25 * 0.8 + 0.75 * 0.4])
  private = rounds.Settings(clip=1.0, noise=2.0)
  keys = jax.random.split(KEY, 4000)
  join = lambda key: rounds.aggregate(private, key, updates, weights)['w']
  drawn = np.asarray(jax.vmap(join)(keys))
  assert_allclose(drawn.mean(0), [0.45, 0.6], atol=0.06)  # sites weigh the same
  assert_allclose(drawn.std(0), 1.0, rtol=0.05)  # two clips of noise, two sites
  with pytest.raises(DataError):
    rounds.aggregate(rounds.Settings(noise=1.0), KEY, updates, weights)
