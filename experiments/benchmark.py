r"""Times the library against what people use now; tables, JSON, pictures.

  python -m experiments.benchmark --workloads=detector --output=runs/benchmark
  python -m experiments.benchmark --workloads=W1,W2,W3,W4 --peers
  python -m experiments.benchmark --workloads=W3 --inner_steps=1,5,20,100 \
    --learners=maml:mode=remat,maml:mode=reverse

Workload `detector`: adapt from 20 samples, score 1, 1,000 and 10,000 rows, and
the first score of a fresh process, beside scikit-learn and PyOD.

Workloads W1 to W5: a meta-step (gradient and Adam) of meta-training, described
in benchmarks/workloads.py. Every variant is a process of its own; they take
turns, A B A B, and a turn that other processes disturb is taken again. With
--peers, all libraries that are installed run the same tasks from the same
parameters; before anything is timed, their gradients are compared with ours in
float64.

Writes benchmark.json, benchmark.md and pictures into --output. With --suite=cpu
or accelerator: all that a machine is asked, in parts (docs/benchmarks.md).
"""

import contextlib
import datetime
import json
import math
import os
from typing import Any

from absl import flags

from benchmarks import (
  contest,
  detector_timing,
  page,
  peers,
  suite,
  suite_page,
  workloads,
)
from experiments import cli
from metaad_jax import devices, memory, storage
from metaad_jax.base import DataError
from metaad_jax.training import records

FLAGS = flags.FlagValues()


def _define(kind, *arguments):
  return getattr(flags, f'DEFINE_{kind}')(*arguments, flag_values=FLAGS)


_WORKLOADS = _define(
  'string', 'workloads', 'all', 'what to time, several between commas'
)
flags.DEFINE_alias('workload', 'workloads', flag_values=FLAGS)
_OUTPUT = _define('string', 'output', 'runs/benchmark', 'folder')
_LEARNERS = _define(
  'string', 'learners', 'maml', 'maml, fomaml, reptile, with options such as '
  'maml:mode=remat; several between commas or plus signs; the first is what '
  'ratios refer to',
)  # fmt: skip
_INNER_STEPS = _define(
  'list', 'inner_steps', ['1', '5'], 'of the descent on a support'
)
_META_BATCH = _define(
  'list', 'meta_batch', ['0'], 'tasks per meta-step; 0 = as the workload has it'
)
_WIDTH = _define('list', 'width', ['1'], 'factor of every hidden layer')
_DEVICES = _define('list', 'devices', ['0'], 'that share the tasks; 0 = chosen')
_AT_ONCE = _define('list', 'at_once', ['0'], 'tasks mapped at once; 0 = chosen')
_MEMORY = _define(
  'list', 'memory', ['any'], 'that our step may take on a device, such as '
  '20MiB (docs/scaling.md); any = no budget',
)  # fmt: skip
_PEERS = _define('boolean', 'peers', False, 'run other libraries, too')
_LIBRARIES = _define(
  'string', 'libraries', 'all', f'which of {", ".join(peers.REGISTRY)}'
)
_ROUNDS = _define('integer', 'rounds', 7, 'turns of each variant of W1 to W5')
_SECONDS = _define('float', 'seconds', 0.5, 'of a turn, about')
_PROFILE = _define(
  'boolean', 'profile', False, 'traces of our W1 to W5 for Perfetto, too, and '
  'tables of their ten costliest operations',
)  # fmt: skip
_PRECISION = _define(
  'enum', 'precision', 'highest', devices.PRECISIONS, 'of products of float32, '
  "ours and other libraries'; emulated on a CPU",
)  # fmt: skip
_COMPARE = _define(
  'string', 'compare', None, 'time W1 to W5 of another commit, too, such as '
  'main~1, in turns with this code',
)  # fmt: skip
_SUITE = _define(
  'enum', 'suite', None, list(suite.CASES), 'all that a machine is asked, at '
  'fixed sizes, in parts that are kept in --output; other flags but --rounds '
  'and --seconds do not count',
)  # fmt: skip
_MINUTES = _define(
  'float', 'minutes', 0, 'after which no further part of a suite is begun; the '
  'same command goes on; 0 = all parts',
)  # fmt: skip
_RUN_DIR = _define(
  'string', 'run_dir', 'shipped', 'run folder, model file, shipped (detector)'
)
_REPEATS = _define('integer', 'repeats', 31, 'of each (detector)')
_COLD = _define('integer', 'cold', 5, 'fresh processes of each (detector)')
_ROWS = _define('integer', 'rows', 10_000, 'of the largest query (detector)')
_COLUMNS = _define('integer', 'columns', 30, 'of a row (detector)')


def main() -> None:
  """Times, prints, writes."""
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  if _SUITE.value:
    _run_suite()
    return
  chosen = cli.choose(
    'workloads', _WORKLOADS.value, ['detector', *workloads.WORKLOADS]
  )
  if min(_REPEATS.value, _COLUMNS.value, _ROWS.value) < 1 or _COLD.value < 0:
    raise cli.UsageError('--repeats, --columns and --rows must be at least 1')
  if _ROUNDS.value < 1 or not 0 < _SECONDS.value < math.inf:
    raise cli.UsageError('--rounds must be at least 1, --seconds above 0')
  with contextlib.ExitStack() as ending:
    commits = []
    if _COMPARE.value:
      with cli.usage():
        folder = ending.enter_context(contest.checked_out(_COMPARE.value))
      commits.append((_COMPARE.value, folder))
    names = [name for name in chosen if name != 'detector']
    _run(chosen, contest.cells(_grid(names, commits)))


def _run(chosen, cells):
  content: dict[str, Any] = {
    'schema': 1,
    'command': cli.command(),
    'date': datetime.date.today().isoformat(),
    'versions': records.versions() | contest.versions(_PEERS.value),
    'code': records.code_version(),
    'cores': os.cpu_count(),
    **dict.fromkeys(('device', 'gemm_gflops', 'load')),
    'left_out': [],
    'rows': [],
  }
  if 'detector' in chosen:
    content['rows'] += detector_timing.rows(
      _RUN_DIR.value, rows=_ROWS.value, columns=_COLUMNS.value,
      repeats=_REPEATS.value, cold=_COLD.value,
    )  # fmt: skip
  if cells:
    profile = os.path.join(_OUTPUT.value, 'profile') if _PROFILE.value else None
    measured = contest.measure(
      cells, rounds=_ROUNDS.value, seconds=_SECONDS.value, profile=profile
    )
    content |= measured | {'rows': content['rows'] + measured['rows']}
  if hasattr(os, 'getloadavg'):
    content['load'] = round(os.getloadavg()[0], 1)
  text = page.page(content)
  files = {
    'benchmark.json': json.dumps(content, indent=1).encode(),
    'benchmark.md': text.encode(),
    **page.pictures(content['rows']),
  }
  for name, body in files.items():
    storage.write_bytes(os.path.join(_OUTPUT.value, name), body)
  print(text)
  print(f'written below {_OUTPUT.value}: {", ".join(files)}')


def _run_suite():
  name, output = _SUITE.value, _OUTPUT.value
  parts = suite.run(
    name, output, minutes=_MINUTES.value, rounds=_ROUNDS.value,
    seconds=_SECONDS.value,
  )  # fmt: skip
  wanted = list(suite.parts(name, '', 1, 1))
  written = {
    'suite.json': json.dumps(parts, indent=1).encode(),
    'suite.md': suite_page.text(cli.command(), wanted, parts).encode(),
    **suite_page.roofline(parts),
  }
  for file, body in written.items():
    storage.write_bytes(os.path.join(output, file), body)
  print(written['suite.md'].decode())
  left = [part for part in wanted if 'found' not in parts.get(part, {})]
  print(f'written below {output}: {", ".join(written)}')
  if left:
    raise DataError(
      f'{len(left)} of {len(wanted)} parts are not there ({", ".join(left)}): '
      'give the same command again, it goes on'
    )


def _grid(names: list[str], commits: list[tuple[str, str]]) -> contest.Grid:
  """The flags, checked."""
  learners = contest.split_learners(_LEARNERS.value)
  with cli.usage():
    for spec in learners:
      contest.check_learner(spec)
  budgets = ['' if text == 'any' else text for text in _MEMORY.value]
  with cli.usage():
    for text in budgets:
      memory.budget(text)
  libraries = cli.choose('libraries', _LIBRARIES.value, peers.REGISTRY)
  return contest.Grid(
    names,
    learners,
    inner_steps=_numbers(_INNER_STEPS, 1),
    tasks=_numbers(_META_BATCH, 0),
    width=_numbers(_WIDTH, 0.01, float),
    devices=_numbers(_DEVICES, 0),
    at_once=_numbers(_AT_ONCE, 0),
    memory=budgets,
    libraries=libraries * _PEERS.value,
    precision=_PRECISION.value,
    commits=commits,
  )


def _numbers(flag, least, kind=int):
  values = cli.numbers(flag.name, flag.value, kind)
  if not values or not least <= min(values) < math.inf:
    raise cli.UsageError(f'--{flag.name}: give numbers from {least} on')
  return values


if __name__ == '__main__':
  cli.run(main, FLAGS)
