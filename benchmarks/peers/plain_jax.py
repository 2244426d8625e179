"""MAML as it is written first in JAX: `vmap`, `lax.conv`, one jit per step."""

import jax
from jax import lax, nn
import jax.numpy as jnp
import optax

from benchmarks import jax_serving, serving, workloads


def forward(workload: workloads.Workload, layers, x):
  """[N, ...] -> [N, outputs]."""
  depth = len(workload.sizes) - 2
  if workload.network == 'mlp':
    for i in range(depth):
      x = nn.relu(_dense(layers[f'Dense_{i}'], x))
    return _dense(layers[f'Dense_{depth}'], x)
  if workload.network == 'residual':
    x = _dense(layers['Dense_0'], x)
    for i in range((depth - 1) // 2):
      layer = layers[f'Block_{i}']
      x = x + nn.relu(_dense(layer, nn.relu(x))) @ layer['out']
    return _dense(layers['Dense_1'], x)
  for i in range(depth):
    if workload.network == 'conv1d':
      x = nn.relu(_convolution(layers[f'Conv_{i}'], x, workload.stride))
      continue
    layer = layers[f'Block_{i}']
    x = nn.relu(_norm(layer, _convolution(layer, x, 1)))
    square = (1, 2, 2, 1)
    x = lax.reduce_window(x, -jnp.inf, lax.max, square, square, 'VALID')
  x = x.mean(1) if workload.network == 'conv1d' else x.reshape(len(x), -1)
  return _dense(layers['Dense_0'], x)


def _dense(layer, x):
  return x @ layer['kernel'] + layer['bias']


def _convolution(layer, x, stride):
  order = {3: ('NHC', 'HIO', 'NHC'), 4: ('NHWC', 'HWIO', 'NHWC')}[x.ndim]
  strides = (stride,) * (x.ndim - 2)
  y = lax.conv_general_dilated(
    x, layer['kernel'], strides, 'SAME', dimension_numbers=order
  )
  return y + layer['bias']


def _norm(layer, x):
  axes = tuple(range(x.ndim - 1))
  x = (x - x.mean(axes)) * lax.rsqrt(x.var(axes) + 1e-5)
  return x * layer['scale'] + layer['offset']


def loss(workload: workloads.Workload, layers, x, y):
  """Mean over the rows."""
  outputs = forward(workload, layers, x)
  if workload.loss == 'squared_error':
    return ((outputs[:, 0] - y) ** 2).mean()
  if workload.loss == 'bce':
    return (nn.softplus(outputs[:, 0]) - y * outputs[:, 0]).mean()
  hot = nn.one_hot(y.astype(int), outputs.shape[1], dtype=outputs.dtype)
  return -(hot * nn.log_softmax(outputs)).sum(1).mean()


def meta_loss(job: serving.Job, layers, batch):
  """Mean over the tasks of the query's loss after descent on the support."""
  workload = job.sized

  def task(support_x, support_y, query_x, query_y):
    own = layers
    for _ in range(job.inner_steps):
      grads = jax.grad(lambda p: loss(workload, p, support_x, support_y))(own)
      own = jax.tree.map(lambda p, g: p - workload.rate * g, own, grads)
    return loss(workload, own, query_x, query_y)

  return jax.vmap(task)(*batch).mean()


def gradient(job: serving.Job, batch: workloads.Batch):
  """See `serving.Contender`."""
  layers = workloads.parameters(job.sized, job.dtype)
  grads = jax.jit(jax.grad(lambda p: meta_loss(job, p, batch)))(layers)
  return jax_serving.ordered(grads, layers)


def start(job: serving.Job):
  """See `serving.Contender`."""
  adam = optax.adam(1e-3)
  params = jax.tree.map(jnp.asarray, workloads.parameters(job.sized, job.dtype))
  pool = [
    jax.tree.map(jnp.asarray, batch)
    for batch in workloads.batches(job.sized, job.tasks, job.dtype)
  ]

  def advance(params, state, batch):
    value, grads = jax.value_and_grad(lambda p: meta_loss(job, p, batch))(
      params
    )
    updates, state = adam.update(grads, state, params)
    return optax.apply_updates(params, updates), state, value

  state = adam.init(params)
  jitted = jax.jit(advance, donate_argnums=(0, 1))
  compiled, info = jax_serving.compile_steps(jitted, 1, params, state, pool[0])
  held, done = [(params, state)], [0]

  def step():
    batch = pool[done[0] % len(pool)]
    *held[0], value = compiled(*held[0], batch)
    jax.block_until_ready((held[0], value))
    done[0] += 1

  return step, info


if __name__ == '__main__':
  serving.serve(lambda job: jax_serving.contender(job, gradient, start))
