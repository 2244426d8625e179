"""PyTorch as most write it: a loop over the tasks, a graph of every step."""

import torch
from torch.func import functional_call

from benchmarks.peers import torch_serving


def make(problem: torch_serving.Problem):
  """See `torch_serving.serve`."""
  network, loss = problem.network, problem.loss
  start = dict(network.named_parameters())

  def backward(batch):
    total = 0.0
    for support_x, support_y, query_x, query_y in zip(*batch, strict=True):
      params = start
      for _ in range(problem.inner_steps):
        value = loss(functional_call(network, params, (support_x,)), support_y)
        grads = torch.autograd.grad(
          value, list(params.values()), create_graph=True
        )
        params = {
          name: param - problem.rate * grad
          for (name, param), grad in zip(params.items(), grads, strict=True)
        }
      value = loss(functional_call(network, params, (query_x,)), query_y)
      value = value / len(batch[0])
      value.backward()
      total += float(value.detach())
    return total

  return backward


if __name__ == '__main__':
  torch_serving.serve(make)
