"""torch.func: `vmap` over the tasks of `grad` within `grad`."""

from torch.func import functional_call, grad, grad_and_value, vmap

from benchmarks.peers import torch_serving


def make(problem: torch_serving.Problem, transform=lambda function: function):
  """See `torch_serving.serve`; `transform` is done to the whole gradient."""
  network, loss = problem.network, problem.loss
  for module in network.modules():
    if isinstance(module, torch_serving.BatchNorm):
      module.written_out = True
  start = dict(network.named_parameters())

  def row_loss(params, x, y):
    return loss(functional_call(network, params, (x,)), y)

  def task(params, support_x, support_y, query_x, query_y):
    for _ in range(problem.inner_steps):
      grads = grad(row_loss)(params, support_x, support_y)
      params = {
        name: param - problem.rate * grads[name]
        for name, param in params.items()
      }
    return row_loss(params, query_x, query_y)

  def mean(params, batch):
    return vmap(task, (None, 0, 0, 0, 0))(params, *batch).mean()

  gradient = transform(grad_and_value(mean))

  def backward(batch):
    params = {name: param.detach() for name, param in start.items()}
    grads, value = gradient(params, batch)
    for name, param in start.items():
      param.grad = grads[name]
    return float(value)

  return backward


if __name__ == '__main__':
  torch_serving.serve(make)
