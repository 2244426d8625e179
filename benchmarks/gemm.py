"""A benchmark's worker that measures the machine: products of square matrices.

float32 at the precision of the job, that of the workloads.
"""

import time

import jax

from benchmarks import jax_serving, serving

_SIZES = {'cpu': (1024, 2048)}
_ELSEWHERE = (4096, 8192, 16384)


def start(job: serving.Job):
  """Finds the best size; a step is one product of it."""
  del job
  platform = jax.default_backend()
  product = jax.jit(lambda a: a @ a)
  rates = {}
  for size in _SIZES.get(platform, _ELSEWHERE):
    a = jax.random.normal(jax.random.key(0), (size, size))
    product(a).block_until_ready()
    seconds = []
    for _ in range(4):
      began = time.perf_counter()
      product(a).block_until_ready()
      seconds.append(time.perf_counter() - began)
    rates[size] = size**3 / min(seconds)
  best = max(rates, key=lambda size: rates[size])
  a = jax.random.normal(jax.random.key(0), (best, best))
  step = lambda: product(a).block_until_ready()
  return step, {
    'size': best,
    'gflop': 2 * best**3 / 1e9,
    'platform': platform,
    'device': jax.devices()[0].device_kind,
  }


def make(job: serving.Job) -> serving.Contender:
  """See `serving.Contender`; there is no gradient."""
  return jax_serving.contender(job, None, start)


if __name__ == '__main__':
  serving.serve(make)
