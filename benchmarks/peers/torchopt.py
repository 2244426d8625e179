"""TorchOpt (Ren et al., 2022): its differentiable SGD, state put back."""

import torch
import torchopt

from benchmarks.peers import torch_serving


def make(problem: torch_serving.Problem):
  """See `torch_serving.serve`."""
  network, loss = problem.network, problem.loss
  inner = torchopt.MetaSGD(network, lr=problem.rate)

  def backward(batch):
    parameters = torchopt.extract_state_dict(
      network, by='reference', detach_buffers=True
    )
    state = torchopt.extract_state_dict(inner, by='reference')
    values = []
    for support_x, support_y, query_x, query_y in zip(*batch, strict=True):
      for _ in range(problem.inner_steps):
        inner.step(loss(network(support_x), support_y))
      values.append(loss(network(query_x), query_y))
      torchopt.recover_state_dict(network, parameters)
      torchopt.recover_state_dict(inner, state)
    value = torch.stack(values).mean()
    value.backward()
    return float(value.detach())

  return backward


if __name__ == '__main__':
  torch_serving.serve(make)
