"""higher (Grefenstette et al., 2019): a functional copy per task."""

import higher
import torch

from benchmarks.peers import torch_serving


def make(problem: torch_serving.Problem):
  """See `torch_serving.serve`."""
  network, loss = problem.network, problem.loss
  inner = torch.optim.SGD(network.parameters(), lr=problem.rate)

  def backward(batch):
    total = 0.0
    for support_x, support_y, query_x, query_y in zip(*batch, strict=True):
      with higher.innerloop_ctx(network, inner, copy_initial_weights=False) as (
        copy,
        descent,
      ):
        for _ in range(problem.inner_steps):
          descent.step(loss(copy(support_x), support_y))
        value = loss(copy(query_x), query_y) / len(batch[0])
        value.backward()
        total += float(value.detach())
    return total

  return backward


if __name__ == '__main__':
  torch_serving.serve(make)
