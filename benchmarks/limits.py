"""What the machine can do at most: matrix products, copies, calls."""

from collections.abc import Callable
import functools
import subprocess
import time
from typing import Any

import jax
import jax.numpy as jnp

from metaad_jax import devices

_SIZE = {'cpu': 2048}  # of the matrices; elsewhere
_LARGE = 8192
_ASKED = (
  'name,clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu,driver_version'
)


def measure() -> dict[str, Any]:
  """The best of some rounds each, on the first device of the default backend.

  Returns:
    `gemm_gflops` by precision (on a CPU the highest alone), `copy_gbs` read and
    written, `call_us` of a call that does nothing, and what the device says of
    itself: `device`, `platform`, `clocks`.
  """
  platform = jax.default_backend()
  size = _SIZE.get(platform, _LARGE)
  names = devices.PRECISIONS[: 1 if platform == 'cpu' else None]
  a = jax.random.normal(jax.random.key(0), (size, size))
  x = jnp.ones((1 << 26) if platform == 'cpu' else (1 << 29), jnp.float32)
  one = jnp.ones(())
  return {
    'platform': platform,
    'device': jax.devices()[0].device_kind,
    'clocks': clocks(),
    'gemm_gflops': {
      name: 2 * size**3 / _least(functools.partial(_product(name), a)) / 1e9
      for name in names
    },
    'copy_gbs': 2 * x.nbytes / _least(functools.partial(_plus_one(), x)) / 1e9,
    'call_us': 1e6 * _least(functools.partial(_plus_one(), one), 100),
  }


def _product(precision):
  def product(a):
    with devices.precision(precision):
      return a @ a

  return jax.jit(product)


def _plus_one():
  return jax.jit(lambda x: x + 1)


def _least(call: Callable[[], jax.Array], rounds: int = 8) -> float:
  call().block_until_ready()
  taken = []
  for _ in range(rounds):
    began = time.perf_counter()
    call().block_until_ready()
    taken.append(time.perf_counter() - began)
  return min(taken)


def clocks() -> str:
  """Clocks as found, in the words of the machine; '' where it has none."""
  command = ['nvidia-smi', f'--query-gpu={_ASKED}', '--format=csv,noheader']
  try:
    told = subprocess.run(
      command, capture_output=True, text=True, timeout=30, check=True
    )
    return told.stdout.strip().replace('\n', '; ')
  except (OSError, subprocess.SubprocessError):
    pass
  try:
    with open('/proc/cpuinfo') as file:
      lines = [line.partition(':')[2].strip() for line in file if _of_cpu(line)]
  except OSError:
    return ''
  return ', '.join(dict.fromkeys(lines))


def _of_cpu(line):
  return line.startswith(('model name', 'cpu MHz'))
