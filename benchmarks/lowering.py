"""What a meta-step becomes on a backend that need not be there.

Lowered for a GPU or a TPU, not compiled: how many products, convolutions, loops
and branches a step asks for, loops multiplied out.
"""

from collections.abc import Iterator
import contextlib

import jax

from benchmarks import flops, serving, training_worker
from metaad_jax import devices

PLATFORMS = {'cpu': 'cpu', 'gpu': 'cuda', 'tpu': 'tpu'}
KINDS = ('dot_general', 'convolution', 'while', 'case', 'concatenate')


@contextlib.contextmanager
def tuned(backend: str) -> Iterator[None]:
  """What is traced inside makes the choices of another backend."""
  own = jax.default_backend()
  kept = devices.TUNING[own]
  devices.TUNING[own] = devices.TUNING[backend]
  try:
    yield
  finally:
    devices.TUNING[own] = kept


def of_step(job: serving.Job, backend: str) -> dict[str, float]:
  """Counts of `KINDS` and of all operations, per meta-step, and its GFLOP.

  Args:
    job: of `training_worker`, on one device.
    backend: 'cpu', 'gpu' or 'tpu'.
  """
  with tuned(backend):
    scan, arguments, length = training_worker.prepared(job)
    traced = scan.trace(*arguments)
    lowered = traced.lower(lowering_platforms=(PLATFORMS[backend],))
  found = flops.counts(lowered)
  told = {kind: found[kind] / length for kind in KINDS}
  names = (
    n for kind, n in found.items() if kind not in (flops.FLOPS, flops.BYTES)
  )
  return told | {
    'operations': sum(names) / length,
    'gflop': found[flops.FLOPS] / length / 1e9,
  }
