"""The workloads in PyTorch, for every peer that is built on it.

The layouts are PyTorch's (channels first). A strided convolution that pads
evenly, as PyTorch does, is the one that pads as TensorFlow and Flax do ('SAME')
with time turned around: both its kernels and its windows are. The mean over
time does not see it.
"""

from collections.abc import Callable
import functools
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks import serving, workloads


class Conv1d(nn.Module):
  """Strided convolutions, mean over time, a dense layer."""

  def __init__(self, workload: workloads.Workload):
    super().__init__()
    *inner, last = zip(workload.sizes[:-1], workload.sizes[1:], strict=True)
    taps, stride = workload.taps, workload.stride
    self.convolutions = nn.ModuleList(
      nn.Conv1d(i, o, taps, stride, taps // 2) for i, o in inner
    )
    self.head = nn.Linear(*last)

  def forward(self, x):
    for convolution in self.convolutions:
      x = functional.relu(convolution(x))
    return self.head(x.mean(2))


class BatchNorm(nn.Module):
  """Statistics of the batch, and no others, as MAML's code has it.

  Attributes:
    written_out: not PyTorch's own function, but its definition: the second
      derivative of the former is wrong under torch.func (by 3% of W4's
      meta-gradient, in float64, with torch 2.13).
  """

  written_out = False

  def __init__(self, channels: int):
    super().__init__()
    self.weight = nn.Parameter(torch.ones(channels))
    self.bias = nn.Parameter(torch.zeros(channels))

  def forward(self, x):
    if not self.written_out:
      return functional.batch_norm(
        x, None, None, self.weight, self.bias, training=True
      )
    axes = (0, 2, 3)
    x = x - x.mean(axes, keepdim=True)
    spread = torch.rsqrt((x**2).mean(axes, keepdim=True) + 1e-5)
    return x * (spread * self.weight[:, None, None]) + self.bias[:, None, None]


class Residual(nn.Module):
  """x and a hidden layer of it, added."""

  def __init__(self, width):
    super().__init__()
    self.hidden = nn.Linear(width, width)
    self.out = nn.Linear(width, width, bias=False)

  def forward(self, x):
    relu = functional.relu
    return x + self.out(relu(self.hidden(relu(x))))


def network(workload: workloads.Workload) -> nn.Module:
  """The workload's network; parameters in the order of the layers."""
  *inner, last = zip(workload.sizes[:-1], workload.sizes[1:], strict=True)
  if workload.network == 'residual':
    first, *pairs = inner
    blocks = [Residual(width) for width, _ in pairs[::2]]
    return nn.Sequential(nn.Linear(*first), *blocks, nn.Linear(*last))
  if workload.network == 'conv1d':
    return Conv1d(workload)
  layers: list[nn.Module] = []
  for inputs, outputs in inner:
    if workload.network == 'mlp':
      layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    else:
      convolution = nn.Conv2d(
        inputs, outputs, workload.taps, padding=workload.taps // 2
      )
      norm = BatchNorm(outputs)
      layers += [convolution, norm, nn.ReLU(), nn.MaxPool2d(2)]
  if workload.network == 'conv4':
    layers.append(nn.Flatten())
  return nn.Sequential(*layers, nn.Linear(*last))


def to_torch(workload: workloads.Workload, array: np.ndarray) -> np.ndarray:
  """A parameter as PyTorch lays it out."""
  if array.ndim == 3 and workload.stride > 1:
    array = array[::-1]
  axes = (array.ndim - 1, array.ndim - 2, *range(array.ndim - 2))
  return np.ascontiguousarray(array.transpose(axes[: array.ndim]))


def from_torch(workload: workloads.Workload, array: np.ndarray) -> np.ndarray:
  """The inverse of `to_torch`."""
  if array.ndim < 2:
    return array
  array = array.transpose(*range(2, array.ndim), 1, 0)
  if array.ndim == 3 and workload.stride > 1:
    array = array[::-1]
  return array


def to_device(
  workload: workloads.Workload, batch: workloads.Batch, device: str
) -> list[torch.Tensor]:
  """Support x, y and query x, y, one tensor each, tasks first."""
  found = []
  for array in batch:
    if array.ndim > 3:
      array = np.moveaxis(array, -1, 2)
      if workload.stride > 1:
        array = array[..., ::-1]
    tensor = torch.from_numpy(np.ascontiguousarray(array)).to(device)
    if array.ndim == 2:  # y
      if workload.loss == 'cross_entropy':
        tensor = tensor.long()
      else:
        tensor = tensor[..., None]
    found.append(tensor)
  return found


LOSSES: dict[str, Callable[..., torch.Tensor]] = {
  'squared_error': functional.mse_loss,
  'bce': functional.binary_cross_entropy_with_logits,
  'cross_entropy': functional.cross_entropy,
}


class Problem:
  """What a peer gets: the network at the workload's parameters, on the device;
  the loss, (outputs, y) -> mean; the algorithm; the inner descent's rate and
  steps. `learned` takes meta-parameters beside those of the network."""

  def __init__(self, job: serving.Job):
    self.job, self.workload = job, job.sized
    self.device = 'cpu' if job.platform == 'cpu' else 'cuda'
    torch.set_default_dtype(getattr(torch, job.dtype))
    # As PyTorch calls them; by itself it multiplies at 'highest' and convolves
    # at TF32. cuDNN has no bf16 for float32.
    names = {'highest': 'highest', 'tf32': 'high', 'bf16': 'medium'}
    torch.set_float32_matmul_precision(names[job.precision])
    torch.backends.cudnn.allow_tf32 = job.precision != 'highest'
    self.network = network(self.workload).to(self.device)
    self.loss = LOSSES[self.workload.loss]
    self.rate, self.inner_steps = self.workload.rate, job.inner_steps
    self.algorithm, self.learned = job.learner, list[torch.Tensor]()
    self.layers = workloads.parameters(self.workload, job.dtype)
    arrays = [a for layer in self.layers.values() for a in layer.values()]
    with torch.no_grad():
      for own, array in zip(self.network.parameters(), arrays, strict=True):
        own.copy_(torch.from_numpy(to_torch(self.workload, array)))


Make = Callable[[Problem], Callable[[list[torch.Tensor]], Any]]


def contender(make: Make, job: serving.Job) -> serving.Contender:
  """See `serve`."""
  problem = Problem(job)
  backward = make(problem)
  params = list(problem.network.parameters())

  def gradient(batch):
    backward(to_device(problem.workload, batch, problem.device))
    left = iter(params)
    return {
      layer: {
        name: from_torch(problem.workload, next(left).grad.cpu().numpy())
        for name in arrays
      }
      for layer, arrays in problem.layers.items()
    }

  def start():
    adam = torch.optim.Adam([*params, *problem.learned], lr=1e-3)
    pool = [
      to_device(problem.workload, batch, problem.device)
      for batch in workloads.batches(job.sized, job.tasks, job.dtype)
    ]
    done = [0]

    def step():
      adam.zero_grad(set_to_none=True)
      backward(pool[done[0] % len(pool)])
      adam.step()
      done[0] += 1
      if problem.device != 'cpu':
        torch.cuda.synchronize()

    return step, {'threads': torch.get_num_threads()}

  peak = lambda: torch.cuda.max_memory_allocated() / 2**20
  return serving.Contender(
    gradient, start, None if problem.device == 'cpu' else peak
  )


def serve(make: Make) -> None:
  """Runs a worker.

  `make`: problem -> (batch -> None), which leaves the meta-gradient of the
  batch in the `grad` of the network's parameters.
  """
  serving.serve(functools.partial(contender, make))
