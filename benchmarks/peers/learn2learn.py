"""learn2learn (Arnold et al., 2020): its learners.

The package, if it can be imported; else, as its release 0.2.0 does not build on
current Pythons, the pure Python of its algorithms from the unpacked source
distribution that $L2L_SDIST names. ANIL is `MAML` on the last layer, as in its
examples.
"""

import importlib
import importlib.util
import os
import pathlib
import sys
import types

from benchmarks.peers import torch_serving

_FILES = {
  'utils': 'utils/__init__.py',
  'algorithms.base_learner': 'algorithms/base_learner.py',
  'algorithms.maml': 'algorithms/maml.py',
  'algorithms.meta_sgd': 'algorithms/meta_sgd.py',
  'nn.protonet': 'nn/protonet.py',
}


def load(name: str):
  """A module of it."""
  try:
    return importlib.import_module(f'learn2learn.{name}')
  except ImportError:
    folder = pathlib.Path(os.environ['L2L_SDIST'], 'learn2learn')
  for package in ('learn2learn', 'learn2learn.algorithms', 'learn2learn.nn'):
    sys.modules[package] = types.ModuleType(package)
    sys.modules[package].__path__ = []
  for part, file in _FILES.items():
    spec = importlib.util.spec_from_file_location(
      f'learn2learn.{part}', folder / file
    )
    if spec is None or spec.loader is None:
      raise ImportError(f'no {file} in $L2L_SDIST')
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
  return sys.modules[f'learn2learn.{name}']


def make(problem: torch_serving.Problem):
  """See `torch_serving.serve`."""
  network, loss = problem.network, problem.loss
  body, moving = lambda x: x, network
  if problem.algorithm == 'anil':
    body, moving = network[:-1], network[-1]
  if problem.algorithm == 'protonet':
    classifier = load('nn.protonet').PrototypicalClassifier()
  elif problem.algorithm == 'meta_sgd':
    learner = load('algorithms.meta_sgd').MetaSGD(moving, lr=problem.rate)
    problem.learned.extend(learner.lrs)
  else:
    learner = load('algorithms.maml').MAML(moving, lr=problem.rate)

  def outputs(support_x, support_y, query_x):
    if problem.algorithm == 'protonet':
      classifier.fit_(network(support_x), support_y)
      return classifier(network(query_x))
    copy, x = learner.clone(), body(support_x)
    for _ in range(problem.inner_steps):
      copy.adapt(loss(copy(x), support_y))
    return copy(body(query_x))

  def backward(batch):
    total = 0.0
    for support_x, support_y, query_x, query_y in zip(*batch, strict=True):
      value = loss(outputs(support_x, support_y, query_x), query_y)
      (value / len(batch[0])).backward()
      total += float(value.detach()) / len(batch[0])
    return total

  return backward


if __name__ == '__main__':
  torch_serving.serve(make)
