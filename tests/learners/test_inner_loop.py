"""The inner loop against closed forms and finite differences, in float64."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metaad_jax import base, devices
from metaad_jax.learners import inner_loop

EXACT = ('auto', 'reverse', 'remat', 'mixed')


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def network_loss(params, x, y, gain):
  hidden = jnp.tanh(x @ params['w'] * gain + params['b'])
  return jnp.mean((hidden @ params['v'] - y) ** 2)


def network_task(seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape))
  params = {'w': draw(3, 5), 'b': draw(5), 'v': draw(5)}
  return params, draw(6, 3), draw(6), draw(8, 3), draw(8)


@pytest.mark.parametrize(
  ('optimizer', 'many'),  # steps from which on they are taken in leaps
  [
    (optax.sgd(0.1), 64),
    (optax.sgd(0.1, momentum=0.9, nesterov=True), 64),
    (optax.sgd(0.1, momentum=0.9, nesterov=True), 3),
    (optax.adam(0.05, eps_root=1e-8), 64),
    (optax.rmsprop(0.05, eps=1e-3), 64),
  ],
)
def test_every_exact_mode_gives_the_same_gradient(optimizer, many, monkeypatch):
  monkeypatch.setattr(inner_loop, '_MANY', many)
  params, x, y, xq, yq = network_task()

  def meta_loss(params, gain, mode):
    support = lambda p: network_loss(p, x, y, gain)
    adapted = inner_loop.descend(support, params, optimizer, 7, mode=mode)
    return network_loss(adapted, xq, yq, 1.0)

  grad = jax.jit(jax.grad(meta_loss, (0, 1)), static_argnums=2)
  expected = grad(params, jnp.asarray(1.3), 'reverse')
  for mode in ('remat', 'mixed'):
    jax.tree.map(
      lambda f, e: np.testing.assert_allclose(f, e, rtol=1e-9, atol=1e-12),
      grad(params, jnp.asarray(1.3), mode),
      expected,
    )


@pytest.mark.parametrize('mode', EXACT)
def test_learned_inner_rates_get_their_gradient(mode):
  params, x, y, xq, yq = network_task(2)

  def meta_loss(meta):
    support = lambda p: network_loss(p, x, y, 1.0)
    rated = optax.GradientTransformation(
      lambda p: optax.EmptyState(),
      lambda g, s, p=None: (jax.tree.map(lambda r, v: -r * v, meta[1], g), s),
    )
    adapted = inner_loop.descend(support, meta[0], rated, 3, mode=mode)
    return network_loss(adapted, xq, yq, 1.0)

  rates = jax.tree.map(lambda p: jnp.full_like(p, 0.1), params)
  check_by_differences(meta_loss, (params, rates))


def check_by_differences(function, argument, tolerance=1e-6):
  """jax.grad against central differences along random directions."""
  flat, unravel = jax.flatten_util.ravel_pytree(argument)
  grads = jax.jit(jax.grad(function))(argument)
  grad = jax.flatten_util.ravel_pytree(grads)[0]
  value = jax.jit(lambda f: function(unravel(f)))
  rng = np.random.default_rng(0)
  for _ in range(5):
    direction = jnp.asarray(rng.normal(size=flat.shape))
    h = 1e-5
    rise = (value(flat + h * direction) - value(flat - h * direction)) / (2 * h)
    np.testing.assert_allclose(grad @ direction, rise, rtol=tolerance)


@pytest.mark.parametrize('mode', EXACT)
def test_dead_units_do_not_make_adam_nan(mode):
  x, y = jnp.ones((4, 3)), jnp.ones(4)
  params = {'w': -jnp.ones((3, 2)), 'v': jnp.ones(2)}
  loss = lambda p: jnp.mean((jax.nn.relu(x @ p['w']) @ p['v'] - y) ** 2)
  adam = inner_loop.optimizer('adam', 0.1)

  def meta_loss(params):
    return loss(inner_loop.descend(loss, params, adam, 3, mode=mode))

  grads = jax.jit(jax.grad(meta_loss))(params)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize('mode', inner_loop.MODES)
def test_vmapped_equals_looped(mode):
  tasks = [network_task(seed)[1:] for seed in range(3)]
  params = network_task()[0]

  def meta_loss(params, x, y, xq, yq):
    support = lambda p: network_loss(p, x, y, 1.0)
    adam = optax.adam(0.05, eps_root=1e-8)
    adapted = inner_loop.descend(support, params, adam, 3, mode=mode)
    return network_loss(adapted, xq, yq, 1.0)

  grad = jax.jit(jax.grad(meta_loss))
  stacked = [jnp.stack(leaf) for leaf in zip(*tasks, strict=True)]
  found = jax.jit(jax.vmap(grad, (None, 0, 0, 0, 0)))(params, *stacked)
  for i, task in enumerate(tasks):
    jax.tree.map(
      lambda f, e, i=i: np.testing.assert_allclose(f[i], e, rtol=1e-10),
      found,
      grad(params, *task),
    )


def test_unknown_names_are_refused():
  with pytest.raises(ValueError, match='unknown mode'):
    inner_loop.descend(jnp.sum, jnp.ones(2), optax.sgd(1.0), 1, mode='fast')
  for name in ('adamm', '__name__', 'apply_updates', 'chain'):
    with pytest.raises(base.DataError, match='optimizer'):
      inner_loop.optimizer(name, 0.1)


def test_auto_recomputes_what_is_too_much_to_keep(monkeypatch):
  """The gradients are the same; the steps are kept, or computed anew."""

  def after(params):
    loss = lambda p: jnp.sum(jnp.tanh(p) ** 2)
    return inner_loop.descend(loss, params, optax.sgd(0.1), 3).sum()

  params = jnp.arange(1.0, 4.0)
  kept = str(jax.make_jaxpr(jax.grad(after))(params))
  cpu = devices.TUNING['cpu']._replace(keep_bytes=3 * 3 * 4)
  monkeypatch.setitem(devices.TUNING, 'cpu', cpu)
  anew = str(jax.make_jaxpr(jax.grad(after))(params))
  assert 'checkpoint' not in kept and 'remat' not in kept
  assert 'checkpoint' in anew or 'remat' in anew
