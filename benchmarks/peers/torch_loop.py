"""PyTorch as most write it: a loop over the tasks, a graph of every step."""

import torch
from torch.func import functional_call
from torch.nn import functional

from benchmarks.peers import torch_serving


def make(problem: torch_serving.Problem):
  """See `torch_serving.serve`."""
  network, loss = problem.network, problem.loss
  start = dict(network.named_parameters())
  names = list(start)[-2 if problem.algorithm == 'anil' else 0 :]
  rates = {name: problem.rate for name in names}
  if problem.algorithm == 'meta_sgd':
    rates = {
      name: torch.full_like(start[name], problem.rate, requires_grad=True)
      for name in names
    }
    problem.learned.extend(rates.values())

  def descend(params, x, y, graph):
    for _ in range(problem.inner_steps):
      value = loss(functional_call(network, params, (x,)), y)
      moving = [params[name] for name in names]
      grads = torch.autograd.grad(value, moving, create_graph=graph)
      params = params | {
        name: params[name] - rates[name] * grad
        for name, grad in zip(names, grads, strict=True)
      }
    return params

  def query_loss(support_x, support_y, query_x, query_y):
    if problem.algorithm == 'protonet':
      return distance_loss(network, support_x, support_y, query_x, query_y)
    params = descend(start, support_x, support_y, True)
    return loss(functional_call(network, params, (query_x,)), query_y)

  def backward(batch):
    total = 0.0
    for task in zip(*batch, strict=True):
      value = query_loss(*task) / len(batch[0])
      value.backward()
      total += float(value.detach())
    return total

  def reptile(batch):
    for param in start.values():
      param.grad = torch.zeros_like(param)
    for support_x, support_y, query_x, query_y in zip(*batch, strict=True):
      x, y = torch.cat([support_x, query_x]), torch.cat([support_y, query_y])
      own = {k: v.detach().requires_grad_() for k, v in start.items()}
      for name, end in descend(own, x, y, False).items():
        start[name].grad += (start[name] - end).detach() / len(batch[0])

  return reptile if problem.algorithm == 'reptile' else backward


def distance_loss(network, support_x, support_y, query_x, query_y):
  """Of prototypes: the means of the classes, in squared distance."""
  hot = functional.one_hot(support_y).to(support_x.dtype)
  centres = hot.T @ network(support_x) / hot.sum(0)[:, None]
  distances = (network(query_x)[:, None] - centres) ** 2
  return functional.cross_entropy(-distances.sum(-1), query_y)


if __name__ == '__main__':
  torch_serving.serve(make)
