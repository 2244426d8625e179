r"""Times the library against what people use now; tables, JSON, pictures.

  python -m experiments.benchmark --workloads=detector --output=runs/benchmark
  python -m experiments.benchmark --workloads=W1,W2,W3,W4 --peers
  python -m experiments.benchmark --workloads=W3 --inner_steps=1,5,20,100 \
    --learners=maml:mode=remat,maml:mode=reverse

Workload `detector`: adapt from 20 samples, score one row, score 1,000 rows,
score 10,000 rows of 30 columns, and the first score of a fresh process, beside
scikit-learn and PyOD on the same data.

Workloads W1 to W4: a meta-step (gradient and Adam) of meta-training, described
in experiments/workloads.py. Every variant is a process of its own; they take
turns, A B A B, and a turn that other processes disturb is taken again. With
--peers, all libraries that are installed run the same tasks from the same
parameters; before anything is timed, their gradients are compared with ours in
float64.

Writes benchmark.json, benchmark.md and pictures into --output.
"""

from collections.abc import Iterator
import contextlib
import datetime
import importlib.metadata
import itertools
import json
import math
import os
import pathlib
import re
import sys
import tempfile
from typing import Any, NamedTuple

from absl import flags
import numpy as np
import tqdm

from benchmarks import (
  detector_timing,
  page,
  peers,
  serving,
  training_worker,
  turns,
  workloads,
)
from experiments import cli
from metaad_jax import specs, storage
from metaad_jax.base import DataError
from metaad_jax.training import records

FLAGS = flags.FlagValues()
_WORKLOADS = flags.DEFINE_string(
  'workloads', 'all', 'what to time, several between commas', flag_values=FLAGS
)
flags.DEFINE_alias('workload', 'workloads', flag_values=FLAGS)
_OUTPUT = flags.DEFINE_string(
  'output', 'runs/benchmark', 'folder', flag_values=FLAGS
)
_LEARNERS = flags.DEFINE_string(
  'learners', 'maml', 'maml, fomaml, reptile, with options such as '
  'maml:mode=remat; several between commas or plus signs; the first is what '
  'ratios refer to', flag_values=FLAGS,
)  # fmt: skip
_INNER_STEPS = flags.DEFINE_list(
  'inner_steps', ['1', '5'], 'of the descent on a support', flag_values=FLAGS
)
_META_BATCH = flags.DEFINE_list(
  'meta_batch', ['0'], 'tasks per meta-step; 0 = as the workload has it',
  flag_values=FLAGS,
)  # fmt: skip
_WIDTH = flags.DEFINE_list(
  'width', ['1'], 'factor of every hidden layer', flag_values=FLAGS
)
_DEVICES = flags.DEFINE_list(
  'devices', ['0'], 'that share the tasks, on a CPU one or more cores each; '
  '0 = as in training: as many of one per core, or of all, as divide them',
  flag_values=FLAGS,
)  # fmt: skip
_AT_ONCE = flags.DEFINE_list(
  'at_once', ['0'], 'tasks mapped at once; 0 = chosen', flag_values=FLAGS
)
_PEERS = flags.DEFINE_boolean(
  'peers', False, 'run other libraries, too', flag_values=FLAGS
)
_LIBRARIES = flags.DEFINE_string(
  'libraries', 'all', f'which of {", ".join(peers.REGISTRY)}',
  flag_values=FLAGS,
)  # fmt: skip
_ROUNDS = flags.DEFINE_integer(
  'rounds', 7, 'turns of each variant of W1 to W4', flag_values=FLAGS
)
_SECONDS = flags.DEFINE_float(
  'seconds', 0.5, 'of a turn, about', flag_values=FLAGS
)
_PROFILE = flags.DEFINE_boolean(
  'profile', False, 'a trace of every variant of W1 to W4 of ours, for '
  'Perfetto or TensorBoard, below profile/', flag_values=FLAGS,
)  # fmt: skip
_RUN_DIR = flags.DEFINE_string(
  'run_dir', 'shipped', 'a run folder, model file, or shipped (detector)',
  flag_values=FLAGS,
)  # fmt: skip
_REPEATS = flags.DEFINE_integer(
  'repeats', 31, 'of each (detector)', flag_values=FLAGS
)
_COLD = flags.DEFINE_integer(
  'cold', 5, 'fresh processes of each method (detector)', flag_values=FLAGS
)
_ROWS = flags.DEFINE_integer(
  'rows', 10_000, 'of the largest query (detector)', flag_values=FLAGS
)
_COLUMNS = flags.DEFINE_integer(
  'columns', 30, 'of a row (detector)', flag_values=FLAGS
)

OURS = 'metaad_jax'
TOLERANCE = 1e-9  # relative, of gradients in float64
_COMPARED = 2  # tasks of these gradients
_OWN = 'benchmarks.training_worker'
_ROOT = pathlib.Path(__file__).parents[1]
_ENVIRONMENT = {
  'JAX_ENABLE_COMPILATION_CACHE': '0',  # or compiling would not be seen
  'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',  # several workers, one GPU
  'OMP_WAIT_POLICY': 'PASSIVE',  # a worker that waits its turn does not spin
}


class Variant(NamedTuple):
  """One contender of a cell: a library, its worker and the worker's job."""

  library: str
  module: str
  job: serving.Job

  @property
  def label(self) -> str:
    """What sets it apart within its cell."""
    if self.library != OURS:
      return self.library
    told = [OURS, self.job.learner]
    if self.job.devices:
      told.append(f'{self.job.devices} devices')
    if self.job.at_once:
      told.append(f'{self.job.at_once} at once')
    return ' '.join(told)


def main() -> None:
  """Times, prints, writes."""
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  chosen = cli.choose(
    'workloads', _WORKLOADS.value, ['detector', *workloads.WORKLOADS]
  )
  if min(_REPEATS.value, _COLUMNS.value, _ROWS.value) < 1 or _COLD.value < 0:
    raise cli.UsageError('--repeats, --columns and --rows must be at least 1')
  if _ROUNDS.value < 1 or not 0 < _SECONDS.value < math.inf:
    raise cli.UsageError('--rounds must be at least 1, --seconds above 0')
  training = [name for name in chosen if name != 'detector']
  cells = _cells(training)
  content: dict[str, Any] = {
    'schema': 1,
    'command': cli.command(),
    'date': datetime.date.today().isoformat(),
    'versions': {**records.versions(), **_versions()},
    'code': records.code_version(),
    'cores': os.cpu_count(),
    'device': None,
    'gemm_gflops': None,
    'load': None,
    'left_out': [],
    'rows': [],
  }
  if 'detector' in chosen:
    content['rows'] += list(_detector())
  if cells:
    _train(cells, content)
  if hasattr(os, 'getloadavg'):
    content['load'] = round(os.getloadavg()[0], 1)
  files = {
    'benchmark.json': json.dumps(content, indent=1).encode(),
    'benchmark.md': page.page(content).encode(),
    **page.pictures(content['rows']),
  }
  for name, body in files.items():
    storage.write_bytes(os.path.join(_OUTPUT.value, name), body)
  print(page.page(content))
  print(f'written below {_OUTPUT.value}: {", ".join(files)}')


# --- detector ----------------------------------------------------------------


def _detector() -> Iterator[dict[str, Any]]:
  for found in detector_timing.measure(
    _RUN_DIR.value,
    rows=_ROWS.value,
    columns=_COLUMNS.value,
    repeats=_REPEATS.value,
    cold=_COLD.value,
  ):
    timed = {
      name: turns.Timed([[second] for second in seconds])
      for name, seconds in found.seconds.items()
    }
    for name, one in timed.items():
      yield {
        **_row('detector', name, one, timed[OURS]),
        'what': found.what,
        'rows': found.rows,
        'columns': found.columns,
      }


def _row(
  workload: str,
  library: str,
  timed: turns.Timed,
  reference: turns.Timed | None,
) -> dict[str, Any]:
  """What every row has; what is not known of a workload is None."""
  low, median, high = np.quantile(timed.seconds, (0.25, 0.5, 0.75)) * 1000
  ratio = (None,) * 3 if reference is None else turns.ratio(timed, reference)
  unknown = (
    'learner', 'inner_steps', 'tasks', 'width', 'devices', 'at_once',
    'compile_seconds', 'first_seconds', 'tasks_per_second', 'temp_mib',
    'start_rss_mib', 'peak_rss_mib', 'peak_device_mib', 'gradient_error',
    'gflop', 'xla_gflop', 'minimal_gflop', 'gflops', 'share_of_peak',
  )  # fmt: skip
  return {
    'workload': workload,
    'library': library,
    **dict.fromkeys(unknown),
    'milliseconds': float(median),
    'q1': float(low),
    'q3': float(high),
    'least': min(timed.seconds) * 1000,
    'ratio': ratio[0],
    'ratio_low': ratio[1],
    'ratio_high': ratio[2],
    'repeats': len(timed.seconds),
    'rounds': len(timed.rounds),
    'disturbed': timed.disturbed,
  }


# --- meta-training -----------------------------------------------------------


def split_learners(text: str) -> list[str]:
  """'maml,maml:mode=mixed,steps=2+reptile' -> its three learners."""
  found: list[str] = []
  for item in re.split('[+,]', text):
    if found and '=' in item and ':' not in item:
      found[-1] += f',{item}'
    else:
      found.append(item)
  return found


def _cells(training: list[str]) -> list[list[Variant]]:
  """What is to be timed together: every cell differs from the others in the
  workload, the inner steps, the tasks or the width."""
  learners = split_learners(_LEARNERS.value)
  with cli.usage():
    for spec in learners:
      name, options = specs.parse(spec)
      if 'steps' in options:
        raise DataError(f'--learners={spec}: give steps by --inner_steps')
      if name not in training_worker.LEARNERS:
        names = ', '.join(training_worker.LEARNERS)
        raise DataError(f'--learners: unknown {name!r}: some of {names}')
      training_worker.learner(workloads.WORKLOADS['W1'], spec, 1)
  numbers = {}
  for flag, least, kind in (
    (_INNER_STEPS, 1, int), (_META_BATCH, 0, int), (_DEVICES, 0, int),
    (_AT_ONCE, 0, int), (_WIDTH, 0.01, float),
  ):  # fmt: skip
    numbers[flag.name] = cli.numbers(flag.name, flag.value, kind)
    if not flag.value or not least <= min(numbers[flag.name]) < math.inf:
      raise cli.UsageError(f'--{flag.name}: give numbers from {least} on')
  libraries = cli.choose('libraries', _LIBRARIES.value, peers.REGISTRY)
  cells = []
  for workload, steps, tasks, width in itertools.product(
    training, *(numbers[n] for n in ('inner_steps', 'meta_batch', 'width'))
  ):
    tasks = tasks or workloads.WORKLOADS[workload].tasks
    plain = serving.Job(workload, width, steps, tasks)
    own = [
      Variant(OURS, _OWN, plain._replace(
        learner=spec, devices=devices, at_once=at_once
      ))
      for spec, devices, at_once in itertools.product(
        learners, numbers['devices'], numbers['at_once']
      )
    ]  # fmt: skip
    exact = any(specs.parse(spec)[0] == 'maml' for spec in learners)
    others = [
      Variant(name, peers.REGISTRY[name].module, plain)
      for name in libraries
      if _PEERS.value and exact
    ]
    cells.append(own + others)
  return cells


def _versions():
  names = ('torch', 'torchopt', 'higher', 'learn2learn') * _PEERS.value
  return {name: v for name in names if (v := _version(name))}


def _version(name):
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return None


def _train(cells: list[list[Variant]], content: dict[str, Any]) -> None:
  """Times all cells; puts rows, and what else there is to say, in content."""

  def leave_out(name, why):
    line = f'{name}: left out: {why}'
    if line not in content['left_out']:
      content['left_out'].append(line)
      tqdm.tqdm.write(line, file=sys.stderr)

  absent = {v.library for cell in cells for v in cell} - {OURS}
  for name in list(absent):
    why = peers.REGISTRY[name].missing()
    if why:
      leave_out(name, why)
    else:
      absent.remove(name)
  try:
    gemm = _worker('benchmarks.gemm', serving.Job('W1', platform=''))
  except turns.WorkerError as error:
    raise DataError(f'cannot measure matrix products: {error}') from error
  with contextlib.closing(gemm):
    content['device'] = gemm.info['device']
    platform = gemm.info['platform']
    timed = []
    for cell in tqdm.tqdm(cells, desc='cells', disable=None):
      _ask_peak(gemm, content)
      present = [
        v._replace(job=v.job._replace(platform=platform))
        for v in cell
        if v.library not in absent
      ]
      timed.append(_time(present, leave_out))
    _ask_peak(gemm, content)
  for rows in timed:
    for row in rows:
      seconds = row['milliseconds'] / 1000
      row['gflops'] = row['minimal_gflop'] / seconds
      count = row['devices'] if platform != 'cpu' else 1
      row['share_of_peak'] = row['gflops'] / (content['gemm_gflops'] * count)
      content['rows'].append(row)


def _worker(module, job):
  path = os.pathsep.join(
    filter(None, (str(_ROOT), os.environ.get('PYTHONPATH')))
  )
  return turns.Worker(
    [sys.executable, '-m', module, json.dumps(job._asdict())],
    {**_ENVIRONMENT, 'PYTHONPATH': path},
  )


def _ask_peak(gemm, content):
  rate = gemm.info['gflop'] / min(gemm.run(5)['seconds'])
  content['gemm_gflops'] = max(rate, content['gemm_gflops'] or 0)


def _time(cell: list[Variant], leave_out) -> list[dict[str, Any]]:
  """Rows of one cell."""
  job = cell[0].job
  where = f'{job.workload}, {job.inner_steps} steps, {job.tasks} tasks'
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
        worker = _worker(variant.module, variant.job)
      except turns.WorkerError as error:
        leave_out(f'{variant.label} ({where})', error)
        continue
      workers[variant.label] = worker
      stack.callback(worker.close)
    rounds = _ROUNDS.value
    with tqdm.tqdm(
      total=rounds * len(workers), desc=where, disable=None, leave=False
    ) as bar:
      found = turns.take_turns(
        workers, rounds, _SECONDS.value, leave_out, bar.update
      )
    rows = []
    variants = [v for v in kept if v.label in found]
    ours = [found[v.label] for v in variants if v.library == OURS]
    for variant in variants:
      timed, worker = found[variant.label], workers[variant.label]
      row = _row(
        job.workload, variant.library, timed, ours[0] if ours else None
      )
      rows.append(_more(row, variant, worker, timed, errors[variant.label]))
      if _PROFILE.value and variant.library == OURS:
        name = re.sub(r'[^\w.=-]+', '-', f'{where} {variant.label}')
        folder = pathlib.Path(_OUTPUT.value, 'profile', name).absolute()
        worker.ask(f'profile {folder}')
  return rows


def _more(row, variant, worker, timed, error):
  """A row with what is known of a variant."""
  job, info = variant.job, worker.info
  name = specs.parse(job.learner)[0]
  least = workloads.minimal_flops(job.sized, name, job.inner_steps, job.tasks)
  step = row['milliseconds'] / 1000
  first = info['first_seconds']
  known = {
    'learner': job.learner,
    'inner_steps': job.inner_steps,
    'tasks': job.tasks,
    'width': job.width,
    'devices': info.get('devices', 1),
    'at_once': job.at_once or None,
    'compile_seconds': info.get('compile_seconds', max(0.0, first - step)),
    'first_seconds': first,
    'tasks_per_second': job.tasks / step,
    'start_rss_mib': info['start_rss_mib'],
    'gradient_error': error,
    'minimal_gflop': least / 1e9,
  }
  for key in ('temp_mib', 'gflop', 'xla_gflop'):
    known[key] = info.get(key)
  for key in ('peak_rss_mib', 'peak_device_mib'):
    known[key] = timed.said.get(key)
  return {**row, **known}


def _compare(cell: list[Variant], leave_out) -> dict[str, float | None]:
  """Relative errors of the variants' gradients, in float64.

  The first variant of ours of each algorithm is what the others of the same
  algorithm are compared with; where there is no other, nothing is computed.

  Raises:
    DataError: naming the first whose gradient is another one.
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
    known = variant.module, job.learner, job.at_once
    try:
      if known not in computed:
        computed[known] = _gradient(variant)
    except turns.WorkerError as error:
      leave_out(f'{variant.label} ({job.workload})', error)
      continue
    found = computed[known]
    reference = references.setdefault(name, found)
    scale = np.linalg.norm(reference)
    apart = float(np.linalg.norm(found - reference) / scale)
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
    job = job._replace(dtype='float64', gradient=path, tasks=few, devices=1)
    _worker(variant.module, job).close()
    return np.load(path, allow_pickle=False)


if __name__ == '__main__':
  cli.run(main, FLAGS)
