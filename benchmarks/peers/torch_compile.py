"""torch.func under `torch.compile`; needs a C++ compiler on a CPU."""

import functools

import torch

from benchmarks.peers import torch_func, torch_serving

if __name__ == '__main__':
  torch_serving.serve(
    functools.partial(torch_func.make, transform=torch.compile)
  )
