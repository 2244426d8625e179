"""Convolution and dense layers are Flax's, with derivatives of every order."""

import re

import derivatives
import fast
from flax import linen as nn
import jax
from jax import export
import jax.numpy as jnp
import numpy as np
import pytest

from metaad_jax import devices
from metaad_jax.models import per_task_ops

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def draw(*shape):
  return jnp.asarray(RNG.normal(size=shape))


def layer(network):
  """(kernel, bias, x) -> what the network makes of them."""
  return lambda kernel, bias, x: network.apply(
    {'params': {'kernel': kernel, 'bias': bias}}, x
  )


@pytest.mark.parametrize(
  ('sizes', 'taps', 'stride', 'channels', 'options'),
  [
    ((17,), (7,), 2, 8, {}),  # XLA's convolution
    ((5,), (7,), 2, 1, {}),  # gathered taps, more than there are samples
    ((9,), (2,), 5, 9, {'block_elements': 1}),  # row by row
    ((7, 8), (3, 2), 2, 3, {'block_elements': 700}),  # two rows at a time
    ((6, 7), (3, 3), 1, 9, {'gather_channels': 100, 'block_elements': 1}),
  ],
)
def test_conv_is_flax_conv_with_all_its_derivatives(
  sizes, taps, stride, channels, options, monkeypatch
):
  cpu = devices.TUNING['cpu']._replace(**options)
  monkeypatch.setitem(devices.TUNING, 'cpu', cpu)
  ours = per_task_ops.Conv(4, taps, stride)
  flax = nn.Conv(4, taps, stride, padding='SAME', param_dtype=jnp.float64)
  arguments = draw(*taps, channels, 4), draw(4), draw(4, *sizes, channels)
  shapes = lambda network: jax.tree.map(
    jnp.shape, jax.eval_shape(network.init, jax.random.key(0), arguments[2])
  )
  assert shapes(ours) == shapes(flax)
  way = [jnp.cos(a + 1) for a in arguments]
  actual, expected = (
    fast.jit(derivatives.all_of(layer(network), way))(*arguments)
    for network in (ours, flax)
  )
  derivatives.close(actual, expected)


@pytest.mark.parametrize('axes', [(0, 0), (0, None), (None, 0)])
def test_conv_with_rows_and_a_kernel_for_each_task(axes):
  arguments = tuple(
    a if axis == 0 else a[0]
    for a, axis in zip((draw(3, 4, 6, 2), draw(3, 3, 2, 4)), axes, strict=True)
  )
  plain = lambda x, kernel: jax.lax.conv_general_dilated(
    x, kernel, (1,), 'SAME', dimension_numbers=('NWC', 'WIO', 'NWC')
  )
  way = draw(4, 6, 2), draw(3, 2, 4)
  actual, expected = (
    fast.jit(jax.vmap(derivatives.all_of(function, way), axes))(*arguments)
    for function in (per_task_ops.convolve, plain)
  )
  derivatives.close(actual, expected)


@pytest.mark.parametrize('stride', [1, 2, 3])
def test_what_other_backends_compute_is_the_same(stride):
  """They have products alone."""
  window = per_task_ops.same((6, 7), (3, 2), stride)
  kernel, x, g = draw(3, 2, 9, 4), draw(2, 6, 7, 9), draw(2, *window.outs, 4)
  ops = per_task_ops
  for elsewhere, on_cpu, operands in (
    (ops._gathered, ops._conv_on_cpu, (x, kernel)),
    (ops._gathered_input, ops._input_on_cpu, (g, kernel)),
    (ops._gathered_kernel, ops._kernel_on_cpu, (x, g)),
  ):
    derivatives.close(elsewhere(*operands, window), on_cpu(*operands, window))


@pytest.mark.parametrize(
  ('groups', 'tasks', 'inputs', 'outputs'),
  [
    ((0, 0, 0), (0, 0, 0), 3, 5),
    ((0, 0, 0), (None, None, 0), 1, 4),
    ((None, None, 0), (None, None, 0), 3, 5),
    ((None, 0, 0), (0, 0, None), 4, 1),
  ],
)
def test_dense_is_flax_dense_with_all_its_derivatives(
  groups, tasks, inputs, outputs
):
  """Kernel, bias and rows, each its own or shared by groups or their tasks."""
  shapes = (inputs, outputs), (outputs,), (6, inputs)
  arguments = [
    draw(*(n for n, axis in ((2, group), (3, task)) if axis == 0), *shape)
    for shape, group, task in zip(shapes, groups, tasks, strict=True)
  ]
  way = [draw(*shape) for shape in shapes]

  def run(network):
    mapped = jax.vmap(derivatives.all_of(layer(network), way), tasks)
    return fast.jit(jax.vmap(mapped, groups))(*arguments)

  flax = nn.Dense(outputs, param_dtype=jnp.float64)
  derivatives.close(run(per_task_ops.Dense(outputs)), run(flax))


@pytest.mark.parametrize('narrow', [jnp.bfloat16, jnp.float32])
def test_the_wider_type_of_rows_and_kernel_counts(narrow):
  x, kernel = draw(2, 6, 3), draw(3, 3, 4)
  x = x.astype(narrow)
  for ours, plain in (
    (per_task_ops.convolve, per_task_ops.convolve),
    (lambda x, k: per_task_ops.product(x[0], k[0]), lambda x, k: x[0] @ k[0]),
  ):
    found, wide = ours(x, kernel), plain(x.astype(kernel.dtype), kernel)
    assert found.dtype == jnp.float64
    derivatives.close(found, wide)


def test_products_have_the_precision_of_where_they_were_called():
  """Not of where they are lowered, which is after the function has run."""

  def network(params):
    kernel, dense = params
    with jax.default_matmul_precision('highest'):
      y = per_task_ops.convolve(jnp.ones((4, 7, 5)), kernel, 2)
      return jnp.sin(per_task_ops.product(y.sum(1), dense)).sum()

  slope = lambda p: sum(g.sum() for g in jax.grad(network)(p))
  second = jax.jit(jax.vmap(jax.grad(slope)))
  many = draw(2, 3, 5, 4), draw(2, 4, 2)
  for platform in ('cuda', 'tpu'):
    text = export.export(second, platforms=[platform])(many)
    lines = re.findall(
      r'stablehlo\.(?:dot_general|convolution).*', text.mlir_module()
    )
    assert len(lines) > 5
    assert all(line.count('HIGHEST') == 2 for line in lines)
