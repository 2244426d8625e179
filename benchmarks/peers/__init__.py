"""The benchmark's peers: one file per library, each a worker of `serving`."""

import importlib.util
import os
from typing import NamedTuple


class Peer(NamedTuple):
  """A library to compare with."""

  module: str  # the worker
  needs: tuple[str, ...]  # packages without which it cannot run
  # environment variable that may name an unpacked source distribution in place
  # of the last of them
  sdist: str = ''
  learners: tuple[str, ...] = ('maml',)  # algorithms that it is written for

  def missing(self) -> str:
    """'' or why it cannot run."""
    for package in self.needs:
      if self.sdist and package == self.needs[-1] and self.sdist in os.environ:
        continue
      if importlib.util.find_spec(package) is None:
        hint = f' and ${self.sdist} is not set' if self.sdist else ''
        return f'{package} is not installed{hint}'
    return ''


REGISTRY = {
  'plain-jax': Peer('benchmarks.peers.plain_jax', ('jax',)),
  'torch-loop': Peer(
    'benchmarks.peers.torch_loop', ('torch',),
    learners=('maml', 'anil', 'meta_sgd', 'reptile', 'protonet'),
  ),
  'torch.func': Peer('benchmarks.peers.torch_func', ('torch',)),
  'torch.compile': Peer('benchmarks.peers.torch_compile', ('torch',)),
  'higher': Peer('benchmarks.peers.higher', ('torch', 'higher')),
  'torchopt': Peer(
    'benchmarks.peers.torchopt', ('torch', 'torchopt'),
    learners=('maml', 'anil', 'imaml'),
  ),
  'learn2learn': Peer(
    'benchmarks.peers.learn2learn', ('torch', 'learn2learn'), 'L2L_SDIST',
    learners=('maml', 'anil', 'meta_sgd', 'protonet'),
  ),
}  # fmt: skip
