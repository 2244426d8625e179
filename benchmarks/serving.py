"""The worker's side of a benchmark: steps on request, one line of JSON each.

A worker is a process `python -m MODULE JOB`, JOB being JSON:

  {"workload": "W1", "width": 1, "inner_steps": 5, "tasks": 25,
   "dtype": "float32", "gradient": "", "platform": "cpu", ...}

With a path in "gradient" it writes the meta-gradient of the first batch there,
as .npy in the order of `workloads.parameters`, and ends. Otherwise it gets
ready, prints a line about itself, and answers every line of stdin: `run N` with
{"seconds": [of each of N calls], "peak_rss_mib": ...}, `profile FOLDER` with
{} when the trace is written. It ends with its stdin. What libraries print goes
to stderr.
"""

from collections.abc import Callable
import json
import os
import sys
import time
from typing import Any, NamedTuple

import numpy as np

from benchmarks import workloads


class Job(NamedTuple):
  """What a worker is asked to run."""

  workload: str  # its name
  width: float = 1  # factor of every hidden layer
  inner_steps: int = 1  # of the descent on a support
  tasks: int = 1  # of a meta-step
  dtype: str = 'float32'  # or 'float64'
  gradient: str = ''  # where to write the gradient of the first batch
  platform: str = 'cpu'  # or an accelerator's name, as JAX has it
  precision: str = 'highest'  # of products of float32: `devices.PRECISIONS`
  # For workers of this library:
  learner: str = 'maml'  # spec
  devices: int = 1  # that share the tasks; 0 = the library's choice
  at_once: int = 0  # tasks mapped at once; 0 = the library's choice
  memory: str = ''  # budget of a device, such as 20MiB; '' = none

  @property
  def sized(self) -> workloads.Workload:
    """The workload, as wide as asked for."""
    return workloads.WORKLOADS[self.workload].wider(self.width)


class Contender(NamedTuple):
  """One library on one job.

  Attributes:
    gradient: batch -> meta-gradient, as `workloads.parameters` are; None = it
      has none.
    start: () -> (step, info). `step()` runs meta-steps to their end, a full
      one each: gradient and Adam. `info` may hold `steps_per_call` (1),
      `compile_seconds`, `temp_mib`, `gflop`, `xla_gflop`.
    device_peak: () -> the most device memory ever held, MiB; None = no device.
    profile: (folder, step) -> None, traces a step; None = cannot.
  """

  gradient: Callable[[workloads.Batch], workloads.Parameters] | None
  start: Callable[[], tuple[Callable[[], Any], dict[str, Any]]]
  device_peak: Callable[[], float] | None = None
  profile: Callable[[str, Callable[[], Any]], None] | None = None


def peak_rss_mib() -> float:
  """Most memory that this process ever held.

  VmHWM, for the `ru_maxrss` of a child starts from its parent's peak.
  """
  try:
    with open('/proc/self/status') as lines:
      found = next(line for line in lines if line.startswith('VmHWM'))
    return int(found.split()[1]) / 1024
  except (OSError, StopIteration):
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == 'darwin' else 1024)


def serve(make: Callable[[Job], Contender]) -> None:
  """Runs a worker to its end; see the top of this file."""
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)

  def say(content):
    answers.write(json.dumps(content) + '\n')
    answers.flush()

  job = Job(**json.loads(sys.argv[1]))
  contender = make(job)
  if job.gradient and contender.gradient is not None:
    first = workloads.batch(job.sized, job.tasks, job.dtype)
    np.save(job.gradient, workloads.flat(contender.gradient(first)))
    say({})
    return
  started = time.perf_counter()
  before = peak_rss_mib()
  step, info = contender.start()
  step()
  first_seconds = time.perf_counter() - started
  say({'first_seconds': first_seconds, 'start_rss_mib': before, **info})
  for line in sys.stdin:
    word, _, argument = line.strip().partition(' ')
    if word == 'profile':
      if contender.profile is not None:
        contender.profile(argument, step)
      say({})
      continue
    seconds = []
    for _ in range(int(argument)):
      begin = time.perf_counter()
      step()
      seconds.append(time.perf_counter() - begin)
    answer = {'seconds': seconds, 'peak_rss_mib': peak_rss_mib()}
    if contender.device_peak is not None:
      answer['peak_device_mib'] = contender.device_peak()
    say(answer)
