"""learn2learn (Arnold et al., 2020): `MAML.clone` and `adapt`.

The package, if it can be imported; else, as its release 0.2.0 does not build on
current Pythons, the pure Python of its algorithm from the unpacked source
distribution that $L2L_SDIST names.
"""

import importlib
import importlib.util
import os
import pathlib
import sys
import types

from benchmarks.peers import torch_serving


def maml():
  """Its class MAML."""
  try:
    return importlib.import_module('learn2learn.algorithms.maml').MAML
  except ImportError:
    folder = pathlib.Path(os.environ['L2L_SDIST'], 'learn2learn')
  for name in ('learn2learn', 'learn2learn.algorithms'):
    package = types.ModuleType(name)
    package.__path__ = []
    sys.modules[name] = package
  for name, file in (
    ('utils', 'utils/__init__.py'),
    ('algorithms.base_learner', 'algorithms/base_learner.py'),
    ('algorithms.maml', 'algorithms/maml.py'),
  ):
    name = f'learn2learn.{name}'
    spec = importlib.util.spec_from_file_location(name, folder / file)
    if spec is None or spec.loader is None:
      raise ImportError(f'no {file} in $L2L_SDIST')
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
  return sys.modules['learn2learn.algorithms.maml'].MAML


def make(problem: torch_serving.Problem):
  """See `torch_serving.serve`."""
  loss = problem.loss
  learner = maml()(problem.network, lr=problem.rate, first_order=False)

  def backward(batch):
    total = 0.0
    for support_x, support_y, query_x, query_y in zip(*batch, strict=True):
      copy = learner.clone()
      for _ in range(problem.inner_steps):
        copy.adapt(loss(copy(support_x), support_y))
      value = loss(copy(query_x), query_y) / len(batch[0])
      value.backward()
      total += float(value.detach())
    return total

  return backward


if __name__ == '__main__':
  torch_serving.serve(make)
