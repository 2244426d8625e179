"""The contest of W1 to W5: who meta-trains fastest, in workers that take turns.

A cell is a case (workload, inner steps, tasks, width) and its variants: this
library's learners, and other libraries on the same tasks. Before anything is
timed, the gradients of a cell are compared in float64.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import functools
import importlib.metadata
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple

import numpy as np
import tqdm

from benchmarks import peers, rows, serving, training_worker, turns, workloads
from metaad_jax import specs
from metaad_jax.base import DataError

OURS = 'metaad_jax'
TOLERANCE = 1e-9  # relative, of gradients in float64
_COMPARED = 2  # tasks of these gradients
_ROOT = pathlib.Path(__file__).parents[1]
_ENVIRONMENT = {
  'JAX_ENABLE_COMPILATION_CACHE': '0',  # or compiling would not be seen
  'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',  # several workers, one GPU
  'OMP_WAIT_POLICY': 'PASSIVE',  # a worker that waits its turn does not spin
}

LeaveOut = Callable[[str, Any], None]


class Variant(NamedTuple):
  """One contender of a cell: a library, its worker and the worker's job."""

  library: str
  module: str
  job: serving.Job
  commit: tuple[str, str] | None = None  # another one's name and checkout

  @property
  def label(self) -> str:
    """What sets it apart within its cell."""
    if self.library != OURS:
      return self.library
    parts = [OURS, self.job.learner]
    if self.commit:
      parts[0] += f'@{self.commit[0]}'
    if self.job.devices:
      parts.append(f'{self.job.devices} devices')
    if self.job.at_once:
      parts.append(f'{self.job.at_once} at once')
    if self.job.memory:
      parts.append(f'in {self.job.memory}')
    return ' '.join(parts)


class Grid(NamedTuple):
  """What is timed: all combinations."""

  workloads: Sequence[str]  # names
  learners: Sequence[str]  # specs; ratios refer to the first
  inner_steps: Sequence[int]  # of the descent on a support
  tasks: Sequence[int]  # per meta-step; 0 = as the workload has it
  width: Sequence[float]  # factors of every hidden layer
  devices: Sequence[int]  # that share the tasks; 0 = chosen
  at_once: Sequence[int]  # tasks mapped at once; 0 = chosen
  # others, where they have the algorithm; then each algorithm is a case
  libraries: Sequence[str]
  precision: str = 'highest'  # of products of float32, for everybody
  memory: Sequence[str] = ('',)  # ours, of a device, such as 20MiB; '' = any
  commits: Sequence[tuple[str, str]] = ()  # of ours, beside it: name, folder


def split_learners(text: str) -> list[str]:
  """'maml,maml:mode=mixed,steps=2+reptile' -> its three learners."""
  learners: list[str] = []
  for item in re.split('[+,]', text):
    if learners and '=' in item and ':' not in item:
      learners[-1] += f',{item}'
    else:
      learners.append(item)
  return learners


def check_learner(spec: str) -> None:
  """Raises DataError if a learner cannot be timed here."""
  name, options = specs.parse(spec)
  if 'steps' in options:
    raise DataError(f'--learners={spec}: give steps by --inner_steps')
  if name not in training_worker.LEARNERS:
    names = ', '.join(training_worker.LEARNERS)
    raise DataError(f'--learners: unknown {name!r}: some of {names}')
  training_worker.learner(workloads.WORKLOADS['W1'], spec, 1)


def cells(grid: Grid) -> list[list[Variant]]:
  """What is to be timed together, case by case."""
  named: dict[str, list[str]] = {}
  for spec in grid.learners:
    named.setdefault(specs.parse(spec)[0] * bool(grid.libraries), []).append(
      spec
    )
  made = []
  for workload, steps, tasks, width, (algorithm, learners) in itertools.product(
    grid.workloads, grid.inner_steps, grid.tasks, grid.width, named.items()
  ):
    tasks = tasks or workloads.WORKLOADS[workload].tasks
    job = serving.Job(workload, width, steps, tasks, precision=grid.precision)
    worker = 'benchmarks.training_worker'
    ours = [
      Variant(
        OURS,
        worker,
        job._replace(learner=spec, devices=n, at_once=most, memory=budget),
        commit,
      )
      for spec, n, most, budget, commit in itertools.product(
        learners,
        grid.devices,
        grid.at_once,
        grid.memory,
        [None, *grid.commits],
      )
    ]
    job = job._replace(learner=algorithm)
    others = [
      Variant(name, peers.REGISTRY[name].module, job)
      for name in grid.libraries
      if algorithm in peers.REGISTRY[name].learners
    ]
    made.append(ours + others)
  return made


def measure(
  cells: list[list[Variant]],
  *,
  rounds: int,
  seconds: float,
  profile: str | None = None,
) -> dict[str, Any]:
  """Times all cells.

  Args:
    cells: see `cells`.
    rounds: turns of each variant.
    seconds: of a turn, about.
    profile: folder for a trace of each of our variants; None = no traces.

  Returns:
    'device'; 'gemm_gflops', the machine's best rate of matrix products in
    between; 'left_out', a line for each variant that could not run; 'rows'.

  Raises:
    DataError: if two gradients differ, naming the variant.
  """
  left_out: list[str] = []
  leave_out = functools.partial(_leave_out, left_out)
  absent = set()
  for name in {v.library for cell in cells for v in cell} - {OURS}:
    if why := peers.REGISTRY[name].missing():
      leave_out(name, why)
      absent.add(name)
  try:
    precision = next(v.job.precision for cell in cells for v in cell)
    job = serving.Job('W1', platform='', precision=precision)
    gemm = start_worker('benchmarks.gemm', job)
  except turns.WorkerError as error:
    raise DataError(f'cannot measure matrix products: {error}') from error
  with contextlib.closing(gemm):
    platform, peaks, timed = gemm.info['platform'], [_peak(gemm)], []
    for cell in tqdm.tqdm(cells, desc='cells', disable=None):
      present = [
        v._replace(job=v.job._replace(platform=platform))
        for v in cell
        if v.library not in absent
      ]
      timed += _time(present, rounds, seconds, profile, leave_out)
      peaks.append(_peak(gemm))
  for row in timed:
    rows.share(row, max(peaks), platform)
  return {
    'device': gemm.info['device'],
    'gemm_gflops': max(peaks),
    'left_out': left_out,
    'rows': timed,
  }


def versions(peers: bool) -> dict[str, str]:
  """Of the other libraries that are installed; {} without peers."""
  names = {'torch', 'torchopt', 'higher', 'learn2learn'} if peers else {}
  installed = importlib.metadata.distributions()
  return {d.name: d.version for d in installed if d.name in names}


def start_worker(
  module: str, job: serving.Job, checkout: str = ''
) -> turns.Worker:
  """A process that runs a job, ready; of another checkout if one is given."""
  root = checkout or str(_ROOT)
  path = os.pathsep.join(filter(None, (root, os.environ.get('PYTHONPATH'))))
  usual = serving.Job(job.workload)._asdict()  # an older one has fewer fields
  told = {k: v for k, v in job._asdict().items() if v != usual[k]}
  text = json.dumps({'workload': job.workload, **told})
  command = [sys.executable, '-m', module, text]
  return turns.Worker(command, {**_ENVIRONMENT, 'PYTHONPATH': path}, root)


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[str]:
  """A folder with another commit of this checkout, gone afterwards.

  Raises:
    DataError: if git does not know it, or this is no checkout.
  """
  git = functools.partial(
    subprocess.run, cwd=_ROOT, check=True, capture_output=True, text=True
  )
  with tempfile.TemporaryDirectory() as parent:
    folder = os.path.join(parent, 'checkout')
    try:
      git(['git', 'worktree', 'add', '--detach', folder, commit])
    except (OSError, subprocess.CalledProcessError) as error:
      said = (getattr(error, 'stderr', '') or str(error)).strip()
      raise DataError(f'no commit {commit!r}: {said[-200:]}') from error
    try:
      yield folder
    finally:
      git(['git', 'worktree', 'remove', '--force', folder])


def _leave_out(lines, name, why):
  line = f'{name}: left out: {why}'
  if line not in lines:
    lines.append(line)
    tqdm.tqdm.write(line, file=sys.stderr)


def _peak(gemm):
  return gemm.info['gflop'] / min(gemm.run(5)['seconds'])


def _time(cell, rounds, seconds, profile, leave_out: LeaveOut):
  """The rows of one cell."""
  job = cell[0].job
  case = f'{job.workload}, {job.inner_steps} steps, {job.tasks} tasks'
  kept = []
  for variant in cell:
    if job.tasks % max(1, variant.job.devices):
      why = f'{job.tasks} tasks do not divide by {variant.job.devices} devices'
      leave_out(f'{variant.label} ({job.workload})', why)
    else:
      kept.append(variant)
  errors = _compare(kept, leave_out)
  workers: dict[str, turns.Worker] = {}
  with contextlib.ExitStack() as stack:
    for variant in kept:
      if variant.label not in errors:
        continue
      try:
        worker = _start(variant, variant.job)
      except turns.WorkerError as error:
        leave_out(f'{variant.label} ({case})', error)
        continue
      workers[variant.label] = worker
      stack.callback(worker.close)
    with tqdm.tqdm(
      total=rounds * len(workers), desc=case, disable=None, leave=False
    ) as bar:
      timed = turns.take_turns(workers, rounds, seconds, leave_out, bar.update)
    variants = [v for v in kept if v.label in timed]
    ours = [v.label for v in variants if v.library == OURS]
    reference = timed[ours[0]] if ours else None
    for label in ours * (profile is not None):
      name = re.sub(r'[^\w.=-]+', '-', f'{case} {label}')
      folder = pathlib.Path(profile, name).absolute()
      workers[label].ask(f'profile {folder}')
    return [
      rows.of_training(
        v.library, v.job, timed[v.label], reference,
        workers[v.label].info, errors[v.label],
      ) | {'commit': v.commit[0] if v.commit else None}
      for v in variants
    ]  # fmt: skip


def _compare(
  cell: list[Variant], leave_out: LeaveOut
) -> dict[str, float | None]:
  """Relative errors of the variants' gradients, in float64.

  The first variant of ours of each algorithm is what the others of the same
  algorithm are compared with; where there is no other, nothing is computed. A
  DataError names the first whose gradient is another one.
  """
  names = [specs.parse(v.job.learner)[0] for v in cell]
  references: dict[str, np.ndarray] = {}
  computed: dict[tuple, np.ndarray] = {}
  errors: dict[str, float | None] = {}
  for variant, name in zip(cell, names, strict=True):
    if names.count(name) < 2:
      errors[variant.label] = None
      continue
    job = variant.job
    key = variant.module, variant.commit, job.learner, job.at_once
    try:
      if key not in computed:
        computed[key] = _gradient(variant)
    except turns.WorkerError as error:
      leave_out(f'{variant.label} ({job.workload})', error)
      continue
    gradient = computed[key]
    reference = references.setdefault(name, gradient)
    scale = np.linalg.norm(reference)
    apart = float(np.linalg.norm(gradient - reference) / scale)
    if not apart <= TOLERANCE:
      raise DataError(
        f'{job.workload}, {job.inner_steps} inner steps: the gradient of '
        f'{variant.label} differs from that of {OURS} {name} by {apart:.1e} in '
        f'float64, more than {TOLERANCE:.0e}: nothing was timed'
      )
    errors[variant.label] = apart
  return errors


def _gradient(variant: Variant) -> np.ndarray:
  """The meta-gradient of a variant in float64, of a few of the tasks."""
  job = variant.job
  few = min(job.tasks, _COMPARED)
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'gradient.npy')
    job = job._replace(
      dtype='float64', gradient=path, tasks=few, devices=1, precision='highest'
    )
    _start(variant, job).close()
    return np.load(path, allow_pickle=False)


def _start(variant, job):
  checkout = [variant.commit[1]] if variant.commit else []
  return start_worker(variant.module, job, *checkout)
