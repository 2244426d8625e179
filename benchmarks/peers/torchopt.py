"""TorchOpt (Ren et al., 2022): its differentiable SGD, state put back; its
implicit gradients."""

import torch
import torchopt

from benchmarks.peers import torch_serving

STRENGTH, SOLVER_STEPS = 2.0, 5  # of iMAML, as here


def make(problem: torch_serving.Problem):
  """See `torch_serving.serve`."""
  if problem.algorithm == 'imaml':
    return implicit(problem)
  network, loss = problem.network, problem.loss
  body, moving = lambda x: x, network
  if problem.algorithm == 'anil':
    body, moving = network[:-1], network[-1]
  inner = torchopt.MetaSGD(moving, lr=problem.rate)

  def backward(batch):
    parameters = torchopt.extract_state_dict(
      moving, by='reference', detach_buffers=True
    )
    state = torchopt.extract_state_dict(inner, by='reference')
    values = []
    for support_x, support_y, query_x, query_y in zip(*batch, strict=True):
      x = body(support_x)
      for _ in range(problem.inner_steps):
        inner.step(loss(moving(x), support_y))
      values.append(loss(moving(body(query_x)), query_y))
      torchopt.recover_state_dict(moving, parameters)
      torchopt.recover_state_dict(inner, state)
    value = torch.stack(values).mean()
    value.backward()
    return float(value.detach())

  return backward


class Pulled(  # type: ignore[call-arg]
  torchopt.nn.ImplicitMetaGradientModule,
  linear_solve=torchopt.linear_solve.solve_cg(maxiter=SOLVER_STEPS),
):
  """A network that descends on the support, pulled back to another."""

  def __init__(self, meta, problem):
    super().__init__()
    self.meta, self.problem = meta, problem
    self.own = torchopt.module_clone(meta, by='deepcopy')

  def forward(self, x):
    return self.own(x)

  def objective(self, x, y):
    pairs = zip(self.parameters(), self.meta_parameters(), strict=True)
    away = sum(((own - meta) ** 2).sum() for own, meta in pairs)
    return self.problem.loss(self(x), y) + STRENGTH / 2 * away

  def solve(self, x, y):
    params = tuple(self.parameters())
    with torch.no_grad():
      for own, meta in zip(params, self.meta_parameters(), strict=True):
        own.copy_(meta)
    descent = torch.optim.SGD(params, lr=self.problem.rate)
    with torch.enable_grad():
      for _ in range(self.problem.inner_steps):
        descent.zero_grad()
        self.objective(x, y).backward(inputs=params)
        descent.step()
    return self


def implicit(problem: torch_serving.Problem):
  """iMAML, by implicit differentiation of `Pulled`."""
  network, loss = problem.network, problem.loss
  for module in network.modules():
    if isinstance(module, torch_serving.BatchNorm):
      module.written_out = True  # functorch differentiates it

  def backward(batch):
    total = 0.0
    for support_x, support_y, query_x, query_y in zip(*batch, strict=True):
      adapted = Pulled(network, problem).solve(support_x, support_y)
      value = loss(adapted(query_x), query_y) / len(batch[0])
      value.backward(inputs=list(network.parameters()))
      total += float(value.detach())
    return total

  return backward


if __name__ == '__main__':
  torch_serving.serve(make)
