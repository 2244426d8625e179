"""What the benchmark's workers on JAX share."""

from collections.abc import Callable
import functools
import json
import pathlib
import time
from typing import Any

import jax
import numpy as np

from benchmarks import costliest, emulation, flops, serving, workloads
from metaad_jax import devices
from metaad_jax.training import planner


def contender(
  job: serving.Job, gradient: Callable | None, start: Callable
) -> serving.Contender:
  """Sets JAX up as the job has it, before its first use.

  `gradient` is (job, batch) -> layers, or None; `start`, job -> (step, info).
  """
  jax.config.update('jax_enable_x64', job.dtype == 'float64')
  if job.platform == 'cpu':
    jax.config.update('jax_platforms', 'cpu')
    if job.precision != 'highest':
      emulation.round_operands(job.precision)
  name = devices.jax_precision(job.precision)
  jax.config.update('jax_default_matmul_precision', name)
  return serving.Contender(
    gradient and functools.partial(gradient, job),
    functools.partial(start, job),
    None if job.platform == 'cpu' else _device_peak,
    _profile,
  )


def ordered(tree: Any, like: workloads.Parameters) -> workloads.Parameters:
  """A tree of arrays, whose layers JAX has sorted, in the order of another."""
  return {
    layer: {name: np.asarray(tree[layer][name]) for name in arrays}
    for layer, arrays in like.items()
  }


def compile_steps(
  function: Any, steps: int, *arguments: Any
) -> tuple[Callable, dict[str, Any]]:
  """Compiles a function of `steps` meta-steps; info as of `Contender`."""
  began = time.perf_counter()
  if isinstance(function, planner.Planned):
    lowered = function.compile(*arguments)
    compiled = function.compiled
  else:
    lowered = function.lower(*arguments)
    compiled = lowered.compile()
  seconds = time.perf_counter() - began
  _latest.update(text=compiled.as_text, steps=steps)
  said, counted = compiled.cost_analysis() or {}, flops.counts(lowered)
  memory = compiled.memory_analysis()
  return compiled, {
    'steps_per_call': steps,
    'compile_seconds': seconds,
    'temp_mib': memory.temp_size_in_bytes / 2**20 if memory else None,
    'gflop': counted[flops.FLOPS] / steps / 1e9,
    'product_mib': counted[flops.BYTES] / steps / 2**20,
    'xla_gflop': said.get('flops', 0) / 1e9,
  }


def _device_peak():
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  return max(s.get('peak_bytes_in_use', 0) for s in stats) / 2**20


_latest: dict[str, Any] = {}  # what was compiled last: its text, its steps


def _profile(folder, step):
  """A trace, and a table of the costliest operations beside it."""
  with jax.profiler.trace(folder):
    step()
  rows = costliest.table(folder, _latest['text'](), _latest['steps'])
  path = pathlib.Path(folder, 'costliest')
  path.with_suffix('.md').write_text(costliest.markdown(rows))
  path.with_suffix('.json').write_text(json.dumps(rows, indent=1))
