"""The training workloads of the benchmark: NumPy only, the same for all.

A workload is a network, a batch of tasks, an inner rate and a loss. One
meta-step is the exact gradient, with respect to the initial parameters, of the
mean over the tasks of the query's loss after some steps of gradient descent on
the support's loss, and a step of Adam along it.

| | network | tasks | support + query | inner rate | loss |
| --- | --- | --- | --- | --- | --- |
| W1 | MLP 1-40-40-1, sinusoids | 25 | 10 + 10 | 0.01 | squared error |
| W2 | MLP 64-128-128-1 | 32 | 20 + 64 | 0.1 | binary cross-entropy |
| W3 | 3 x conv1d, 32 channels, 7 taps, stride 2, mean over time, on 1,024 samples | 8 | 10 + 30 | 0.1 | binary cross-entropy |
| W4 | 4 x (conv 3 x 3 of 64 channels, batch norm, ReLU, max-pool), 28 x 28, 5 ways | 8 | 5 + 75 | 0.1 | cross-entropy |
| W5 | 16 residual blocks of two layers, width 128, 64 columns | 1 | 1024 + 256 | 0.01 | binary cross-entropy |

W5 is deep and has many rows: what it costs is memory.
"""  # noqa: E501

from collections.abc import Sequence
import dataclasses
from typing import Any, NamedTuple

import numpy as np

Parameters = dict[str, dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Workload:
  """What is computed, without how."""

  network: str  # 'mlp', 'conv1d', 'conv4' or 'residual'
  # of the input (columns or channels), of every hidden layer (units or
  # channels), and of the output
  sizes: tuple[int, ...]
  tasks: int  # per meta-step
  support: int  # rows of a task to descend on
  query: int  # rows of a task to judge by
  rate: float  # of the inner descent
  loss: str  # 'squared_error', 'bce' or 'cross_entropy', the mean over rows
  length: int = 0  # samples in time ('conv1d'), or pixels of a side ('conv4')
  taps: int = 1  # of a kernel, along every axis
  stride: int = 1  # of 'conv1d'

  def wider(self, factor: float) -> 'Workload':
    """The same with every hidden layer `factor` times as wide."""
    first, *hidden, last = self.sizes
    hidden = [max(1, round(size * factor)) for size in hidden]
    return dataclasses.replace(self, sizes=(first, *hidden, last))


WORKLOADS = {
  'W1': Workload('mlp', (1, 40, 40, 1), 25, 10, 10, 0.01, 'squared_error'),
  'W2': Workload('mlp', (64, 128, 128, 1), 32, 20, 64, 0.1, 'bce'),
  'W3': Workload(
    'conv1d', (1, 32, 32, 32, 1), 8, 10, 30, 0.1, 'bce',
    length=1024, taps=7, stride=2,
  ),
  'W4': Workload(
    'conv4', (1, 64, 64, 64, 64, 5), 8, 5, 75, 0.1, 'cross_entropy',
    length=28, taps=3,
  ),
  'W5': Workload(
    'residual', (64, *(128,) * 33, 1), 1, 1024, 256, 0.01, 'bce'
  ),
}  # fmt: skip


class Batch(NamedTuple):
  """Tasks: x [T, N, ...], channels last; y [T, N], a class or a target."""

  support_x: np.ndarray
  support_y: np.ndarray
  query_x: np.ndarray
  query_y: np.ndarray


def parameters(
  workload: Workload, dtype: Any = np.float32, seed: int = 0
) -> Parameters:
  """Where training starts, {layer: {name: array}}, layers in forward order.

  Kernels are (inputs, outputs) or (*taps, inputs, outputs), of He's spread;
  biases and the batch norm's offsets are small, its scales near one, and none
  is zero, so that no gradient is right by chance.
  """
  rng = np.random.default_rng(seed)
  small = lambda size: np.asarray(0.01 * rng.standard_normal(size), dtype)

  def layer(*shape):
    spread = np.sqrt(2 / np.prod(shape[:-1]))
    kernel = np.asarray(rng.standard_normal(shape) * spread, dtype)
    return {'kernel': kernel, 'bias': small(shape[-1])}

  *inner, last = zip(workload.sizes[:-1], workload.sizes[1:], strict=True)
  if workload.network == 'mlp':
    return {f'Dense_{i}': layer(*pair) for i, pair in enumerate([*inner, last])}
  layers: Parameters = {}
  if workload.network == 'residual':
    first, *pairs = inner
    layers['Dense_0'] = layer(*first)
    for i, (one, two) in enumerate(zip(pairs[::2], pairs[1::2], strict=True)):
      out = layer(*two)['kernel'] / 10
      layers[f'Block_{i}'] = {**layer(*one), 'out': out}
    return {**layers, 'Dense_1': layer(*last)}
  for i, pair in enumerate(inner):
    if workload.network == 'conv1d':
      layers[f'Conv_{i}'] = layer(workload.taps, *pair)
    else:
      block = layer(workload.taps, workload.taps, *pair)
      scale, offset = np.asarray(1 + small(pair[1]), dtype), small(pair[1])
      layers[f'Block_{i}'] = {**block, 'scale': scale, 'offset': offset}
  places = _sides(workload)[-1] ** 2 if workload.network == 'conv4' else 1
  return {**layers, 'Dense_0': layer(places * last[0], last[1])}


def _sides(workload: Workload) -> list[int]:
  """Samples or pixels of a side that every convolution puts out, and the last
  pooling leaves."""
  sides, side = [], workload.length
  for _ in workload.sizes[1:-1]:
    if workload.network == 'conv1d':
      side = -(-side // workload.stride)
    sides.append(side)
    if workload.network == 'conv4':
      side //= 2
  return [*sides, side]


def batch(
  workload: Workload, tasks: int, dtype: Any = np.float32, seed: int = 1
) -> Batch:
  """Draws tasks.

  Sinusoids as in the MAML paper; else two classes, of which a task shifts one
  by a direction of its own (columns) or adds noise to it (windows); else specks
  on paper with as many rows of every class.
  """
  rng = np.random.default_rng(seed)
  rows = workload.support + workload.query
  x: np.ndarray
  y: np.ndarray
  if workload.loss == 'squared_error':
    amplitude = rng.uniform(0.1, 5, (tasks, 1))
    phase = rng.uniform(0, np.pi, (tasks, 1))
    x = rng.uniform(-5, 5, (tasks, rows, workload.sizes[0]))
    y = amplitude * np.sin(x[..., 0] - phase)
  elif workload.network in ('mlp', 'residual'):
    x = rng.standard_normal((tasks, rows, workload.sizes[0]))
    y = rng.random((tasks, rows)) < 0.5
    x += y[..., None] * rng.standard_normal((tasks, 1, workload.sizes[0]))
  elif workload.network == 'conv1d':
    time = np.arange(workload.length) / workload.length
    frequency = rng.uniform(3, 40, (tasks, 1, 1))
    phase = rng.uniform(0, 2 * np.pi, (tasks, rows, 1))
    noise = rng.standard_normal((2, tasks, rows, workload.length))
    y = rng.random((tasks, rows)) < 0.5
    x = np.sin(2 * np.pi * frequency * time + phase) + 0.3 * noise[0]
    x = (x + y[..., None] * noise[1])[..., None]
  else:
    shape = (tasks, rows, workload.length, workload.length, workload.sizes[0])
    x = (rng.random(shape) < 0.2) + 0.1 * rng.standard_normal(shape)
    ways = workload.sizes[-1]
    order = [*range(workload.support), *range(workload.query)]
    y = np.broadcast_to(np.array(order) % ways, (tasks, rows))
  x, y = x.astype(dtype), y.astype(dtype)
  cut = workload.support
  return Batch(x[:, :cut], y[:, :cut], x[:, cut:], y[:, cut:])


def batches(
  workload: Workload, tasks: int, dtype: Any = np.float32
) -> list[Batch]:
  """What training goes through in turn: four batches, fewer of many tasks."""
  count = max(1, min(4, 256 // tasks))
  return [batch(workload, tasks, dtype, seed) for seed in range(count)]


def layer_flops(workload: Workload) -> list[int]:
  """FLOPs of the products of one row's forward pass, layer by layer."""
  pairs = list(zip(workload.sizes[:-1], workload.sizes[1:], strict=True))
  if workload.network in ('mlp', 'residual'):
    return [2 * inputs * outputs for inputs, outputs in pairs]
  axes = 2 if workload.network == 'conv4' else 1
  found = [
    2 * (side * workload.taps) ** axes * inputs * outputs
    for side, (inputs, outputs) in zip(_sides(workload), pairs, strict=True)
  ]
  inputs, outputs = pairs[-1]
  left = _sides(workload)[-1] ** 2 if axes == 2 else 1
  return [*found[:-1], 2 * left * inputs * outputs]


def minimal_flops(
  workload: Workload, learner: str, inner_steps: int, tasks: int
) -> int | None:
  """What one meta-step costs at least, in products, nothing computed twice.

  None = there is no formula here for the learner.

  A layer is y = x W, of cost c, c1 of them in the first layer; F = sum of c.
  With d for what flows back:

  - gradient: y = x W, dW = x' dy in all layers, dx = dy W' in all but the
    first, whose input needs none: G = 3 F - c1.
  - Hessian times a vector v, what the gradient computed being kept (tangents,
    t): ty = tx W + x v, tdW = tx' dy + x' tdy, tdx = tdy W' + dy v'. Two
    products for each of the gradient's one; tx is zero in the first layer,
    which saves one product in each of the first two:
    H = (2 F - c1) + (2 F - c1) + 2 (F - c1) = 6 F - 4 c1.

  An inner step of exact MAML is a gradient on the way forth and one Hessian
  times the cotangent on the way back (reverse-over-reverse has the same
  products in another order), both of the support; then comes the query's
  gradient: K S (G + H) + Q G per task. First-order MAML has no H; Reptile
  descends on support and query together: K (S + Q) G.

  A product and a sum count as two FLOPs, padding as if it were data.
  """
  if learner not in ('maml', 'fomaml', 'reptile', 'meta_sgd'):
    return None
  costs = layer_flops(workload)
  gradient = 3 * sum(costs) - costs[0]
  exact = learner in ('maml', 'meta_sgd')
  product = 6 * sum(costs) - 4 * costs[0] if exact else 0
  rows = inner_steps * workload.support
  if learner == 'reptile':
    rows += inner_steps * workload.query
    return tasks * rows * gradient
  return tasks * (rows * (gradient + product) + workload.query * gradient)


def flat(layers: Parameters) -> np.ndarray:
  """All numbers in one row, in the order of `parameters`."""
  parts: Sequence[np.ndarray] = [
    np.ravel(array) for layer in layers.values() for array in layer.values()
  ]
  return np.concatenate(parts)
