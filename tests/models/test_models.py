"""Networks: the convolution against Flax's, and columns that are padding."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from metaad_jax import models
from metaad_jax.base import DataError
from metaad_jax.models import conv4, convolution, dense, mlp

RNG = np.random.default_rng(0)


def _all_of(function, way):
  """The value, the gradients, and these again forwards and backwards."""

  def loss(*args):
    return jnp.sin(function(*args)).sum()

  def run(*args):
    every = tuple(range(len(args)))
    grads = jax.grad(loss, every)
    along = lambda *args: sum(
      jnp.vdot(g, w) for g, w in zip(grads(*args), way, strict=True)
    )
    return (
      function(*args),
      grads(*args),
      jax.jvp(grads, args, tuple(way))[1],
      jax.grad(along, every)(*args),
    )

  return run


def _close(found, expected, rtol=1e-9):
  for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    np.testing.assert_allclose(
      a, b, rtol=rtol, atol=max(rtol * np.abs(b).max(), 1e-12)
    )


@pytest.fixture(params=['direct', 'fast'])
def way_of_convolving(request, monkeypatch):
  """Every algorithm, however small the arrays are."""
  fast = request.param == 'fast'
  monkeypatch.setattr(convolution, '_WIDE', 1)
  monkeypatch.setattr(convolution, '_FAST', 0 if fast else float('inf'))
  if request.param == 'in blocks':
    monkeypatch.setattr(convolution, '_FEW', 100)
    monkeypatch.setattr(convolution, '_BLOCK', 100)


_SHAPES = {
  'direct': [
    ((17,), (7,), 2, 8),
    ((5,), (7,), 2, 1),
    ((9,), (2,), 5, 9),
    ((7, 8), (3, 2), 2, 3),
  ],
  'fast': [((16,), (3,), 1, 2), ((6, 7), (3, 3), 1, 2)],
  'in blocks': [((16,), (4,), 3, 2), ((6, 7), (3, 3), 1, 2)],
}


@pytest.mark.parametrize(
  ('way_of_convolving', 'sizes', 'taps', 'stride', 'channels'),
  [(way, *shape) for way, shapes in _SHAPES.items() for shape in shapes],
  indirect=['way_of_convolving'],
)
def test_conv_is_flax_conv_with_all_its_derivatives(
  sizes, taps, stride, channels, way_of_convolving
):
  with jax.enable_x64(True):
    draw = lambda *shape: jnp.asarray(RNG.normal(size=shape))
    x = draw(4, *sizes, channels)
    own = convolution.Conv(4, taps, stride)
    flax = nn.Conv(4, taps, stride, padding='SAME', param_dtype=jnp.float64)
    kernel, bias = draw(*taps, channels, 4), draw(4)
    network = lambda net: (
      lambda kernel, bias, x: net.apply(
        {'params': {'kernel': kernel, 'bias': bias}}, x
      )
    )
    shapes = lambda net: jax.tree.map(
      jnp.shape, jax.eval_shape(net.init, jax.random.key(0), x)
    )
    assert shapes(own) == shapes(flax)
    way = [jnp.cos(a + 1) for a in (kernel, bias, x)]
    found, expected = (
      jax.jit(_all_of(network(net), way))(kernel, bias, x)
      for net in (own, flax)
    )
    _close(found, expected)


@pytest.mark.parametrize('shared', ['none', 'kernel', 'x'])
def test_conv_with_a_kernel_for_each_task(shared, way_of_convolving):
  with jax.enable_x64(True):
    draw = lambda *shape: jnp.asarray(RNG.normal(size=shape))
    x, kernel = draw(3, 4, 6, 5, 2), draw(3, 3, 3, 2, 4)
    axes = (
      0 if shared != 'x' else None,
      0 if shared != 'kernel' else None,
    )
    arguments = tuple(
      a if axis == 0 else a[0]
      for a, axis in zip((x, kernel), axes, strict=True)
    )
    plain = lambda x, kernel: jax.lax.conv_general_dilated(
      x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    way = (jnp.cos(x[0]), jnp.sin(kernel[0]))
    found, expected = (
      jax.jit(jax.vmap(_all_of(function, way), axes))(*arguments)
      for function in (convolution.convolve, plain)
    )
    _close(found, expected)


@pytest.mark.parametrize(('inputs', 'outputs'), [(3, 5), (1, 4), (4, 1)])
@pytest.mark.parametrize(
  ('groups', 'tasks'),
  [
    ((0, 0, 0), (0, 0, 0)),
    ((0, 0, 0), (None, None, 0)),
    ((None, None, 0), (None, None, 0)),
    ((0, 0, 0), (0, 0, None)),
    ((None, 0, 0), (0, 0, None)),
  ],
)
def test_dense_is_flax_dense_with_all_its_derivatives(
  groups, tasks, inputs, outputs
):
  """Kernel, bias and rows, each its own or shared by groups or their tasks."""
  with jax.enable_x64(True):
    shapes = (inputs, outputs), (outputs,), (6, inputs)
    arguments, way = [], []
    for shape, group, task in zip(shapes, groups, tasks, strict=True):
      lead = [n for n, axis in ((2, group), (3, task)) if axis == 0]
      arguments.append(jnp.asarray(RNG.normal(size=(*lead, *shape))))
      way.append(jnp.asarray(RNG.normal(size=shape)))

    def run(net):
      layer = lambda kernel, bias, x: net.apply(
        {'params': {'kernel': kernel, 'bias': bias}}, x
      )
      mapped = jax.vmap(jax.vmap(_all_of(layer, way), tasks), groups)
      return jax.jit(mapped)(*arguments)

    flax = nn.Dense(outputs, param_dtype=jnp.float64)
    _close(run(dense.Dense(outputs)), run(flax))


def test_fast_convolution_is_as_accurate_as_sums(monkeypatch):
  monkeypatch.setattr(convolution, '_FAST', 0)
  x = RNG.normal(size=(2, 12, 12, 64)).astype('f4')
  kernel = RNG.normal(size=(3, 3, 64, 64)).astype('f4')
  with jax.enable_x64(True):
    exact = jax.lax.conv_general_dilated(
      np.float64(x), np.float64(kernel), (1, 1), 'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )  # fmt: skip
    exact = np.asarray(exact)
  plain = jax.lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  error = lambda y: np.abs(np.asarray(y) - exact).max()
  assert error(convolution.convolve(x, kernel)) < 4 * error(plain)


_POOLS = {
  'convolution.max_pool': convolution.max_pool,
  'nn.max_pool': lambda x: nn.max_pool(x, (2, 2), (2, 2)),
}


@pytest.mark.parametrize('name', list(_POOLS))
@pytest.mark.parametrize(('size', 'channels'), [(7, 64), (3, 8)])
def test_pooling_has_the_same_derivatives_compiled_and_not(
  name, size, channels
):
  """After a batch normalisation and ReLU: see `convolution.max_pool`."""
  with jax.enable_x64(True):
    draw = lambda *shape: jnp.asarray(RNG.normal(size=shape))
    x, scale, weight = (
      draw(5, size, size, channels),
      1 + 0.1 * draw(channels),
      draw(5, size // 2, size // 2, channels),
    )

    def function(x, scale):
      mean = x.mean((0, 1, 2))
      variance = ((x - mean) ** 2).mean((0, 1, 2))
      y = (x - mean) * scale * jax.lax.rsqrt(variance + 1e-5) + 0.1
      return _POOLS[name](nn.relu(y)) * weight

    way = (jnp.cos(x), jnp.sin(scale))
    run = _all_of(function, way)
    found = jax.jit(run)(x, scale)
    with jax.disable_jit():
      expected = run(x, scale)
    _close(found, expected)


def test_max_pool_is_flax_max_pool_and_leaves_an_odd_end_out():
  for shape in ((2, 7, 3), (2, 6, 5, 3), (1, 4, 5, 7, 2)):
    x = jnp.asarray(RNG.normal(size=shape), jnp.float32)
    two = (2,) * (x.ndim - 2)
    np.testing.assert_array_equal(
      convolution.max_pool(x), nn.max_pool(x, two, two)
    )


@pytest.mark.parametrize('channels', [1, 3])
def test_a_block_of_conv4_is_flax_layers_in_a_row(channels, monkeypatch):
  monkeypatch.setattr(conv4, '_BLOCK', 300)  # several blocks of rows
  with jax.enable_x64(True):
    draw = lambda *shape: jnp.asarray(RNG.normal(size=shape))
    x = draw(6, 7, 8, channels)
    params = draw(3, 3, channels, 4), draw(4), 1 + 0.1 * draw(4), draw(4)

    def own(kernel, bias, scale, offset, x):
      return conv4.Block(4).apply(
        {'params': {
          'kernel': kernel, 'bias': bias, 'scale': scale, 'offset': offset,
        }},
        x,
      )  # fmt: skip

    def theirs(kernel, bias, scale, offset, x):
      conv = nn.Conv(4, (3, 3), param_dtype=jnp.float64)
      y = conv.apply({'params': {'kernel': kernel, 'bias': bias}}, x)
      norm = nn.BatchNorm(
        use_running_average=False, epsilon=1e-5, param_dtype=jnp.float64
      )
      y, _ = norm.apply(
        {'params': {'scale': scale, 'bias': offset}}, y, mutable='batch_stats'
      )
      return nn.max_pool(nn.relu(y), (2, 2), (2, 2))

    way = [jnp.cos(a) for a in (*params, x)]
    found, expected = (
      jax.jit(_all_of(function, way))(*params, x) for function in (own, theirs)
    )
    _close(found, expected, 1e-8)


def test_conv4_needs_images():
  network = conv4.conv4(channels=2, layers=2)(5)
  images = jnp.ones((3, 16, 16, 1))
  params = network.init(jax.random.key(0), images, jnp.ones(1))
  assert network.apply(params, images, jnp.ones(1)).shape == (3, 5)
  with pytest.raises(DataError, match='conv4 needs images'):
    network.init(jax.random.key(0), jnp.ones((3, 16)), jnp.ones(16))
  with pytest.raises(DataError, match='channels and layers'):
    conv4.conv4(channels=0)


@pytest.mark.parametrize('text', ['mlp:width=5,depth=2', 'mlp:depth=0'])
def test_mlp_ignores_padded_columns(text):
  network = models.make(text)(3)
  x = jnp.asarray(RNG.normal(size=(4, 6)), jnp.float32)
  features = jnp.array([1.0, 0, 1, 1, 0, 1])
  params = network.init(jax.random.key(0), x, features)
  score = jax.jit(
    lambda x: (
      network.apply(params, x, features),
      jax.jacobian(lambda x: network.apply(params, x, features))(x),
    )
  )
  found, slope = score(x)
  assert found.shape == (4, 3)
  for junk in (7.0, jnp.nan, jnp.inf):
    np.testing.assert_array_equal(score(x.at[:, 1].set(junk))[0], found)
  moved = np.abs(slope).sum((0, 1, 2))
  assert (moved[features == 1] > 0).all() and not moved[features == 0].any()


@pytest.mark.parametrize('text', ['mlp:width=4', 'conv1d:channels=3,layers=2'])
def test_windows_of_several_channels_and_padded_ones(text):
  network = models.make(text)(1)
  x = jnp.asarray(RNG.normal(size=(2, 12, 3)), jnp.float32)
  features = jnp.array([1.0, 0, 1])
  params = network.init(jax.random.key(0), x, features)
  score = jax.jit(lambda x: network.apply(params, x, features))
  found = score(x)
  assert found.shape == (2, 1)
  np.testing.assert_array_equal(score(x.at[..., 1].set(jnp.nan)), found)
  assert (score(x.at[:, 5, 2].add(1.0)) != found).all()


def test_conv1d_hears_impulses_and_levels_and_survives_silence():
  network = models.make('conv1d:channels=8,layers=1')(1)
  x = jnp.zeros((3, 64, 1)).at[1, 20].set(5.0).at[2].set(1.0)
  params = network.init(jax.random.key(0), x, jnp.ones(1))
  scores, grads = jax.jit(
    jax.value_and_grad(
      lambda p: network.apply(p, x, jnp.ones(1))[:, 0].sum(), has_aux=False
    )
  )(params)
  assert np.isfinite(scores)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
  silent, impulse, level = network.apply(params, x, jnp.ones(1))[:, 0]
  assert abs(silent - impulse) > 1e-3 and abs(silent - level) > 1e-3


def test_conv1d_without_spread_sees_the_mean_alone():
  """One tap of one channel: the same mean is the same output."""
  x = jnp.zeros((2, 8, 1)).at[0, 3].set(8.0).at[1].set(1.0)
  for spread in (True, False):
    network = models.make(f'conv1d:layers=1,taps=1,stride=1,spread={spread}')(1)
    params = network.init(jax.random.key(0), x, jnp.ones(1))
    impulse, level = network.apply(params, x, jnp.ones(1))[:, 0]
    assert (abs(impulse - level) > 1e-3) == spread


def test_mlp_by_hand():
  network = mlp.MLP((2,), 1)
  params = {
    'params': {
      'Dense_0': {
        'kernel': jnp.array([[1.0, -1.0], [2.0, 0.0]]),
        'bias': jnp.array([0.0, 1.0]),
      },
      'Dense_1': {'kernel': jnp.array([[3.0], [10.0]]), 'bias': jnp.ones(1)},
    }
  }
  found = network.apply(params, jnp.array([[2.0, 1.0]]), jnp.ones(2))
  assert found == 3 * (2 + 2) + 10 * 0 + 1


def test_the_papers_initialisation_is_cut_at_two_deviations():
  network = models.make('mlp:width=400,depth=2,stddev=0.01')(1)
  x = jnp.zeros((1, 400))
  params = network.init(jax.random.key(0), x, jnp.ones(400))
  hidden = params['params']['Dense_1']['kernel']
  cut = stats.truncnorm(-2, 2, scale=0.01)
  np.testing.assert_allclose(hidden.std(), cut.std(), rtol=0.02)
  assert 0.0199 < abs(hidden).max() <= 0.02


@pytest.mark.parametrize(
  'text',
  ['mlp:width=0', 'mlp:depth=-1', 'conv1d:taps=0', 'conv1d:stride=0']
  + ['resnet', 'mlp:hidden=3', 'conv1d:channels=x'],
)
def test_impossible_models_are_refused(text):
  with pytest.raises(DataError):
    models.make(text)


def test_conv1d_on_rows_says_what_to_do():
  with pytest.raises(DataError, match='--features=raw'):
    models.make('conv1d')(1).init(
      jax.random.key(0), jnp.zeros((2, 5)), jnp.ones(5)
    )
