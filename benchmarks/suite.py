"""The suites: all that a machine is asked, part by part, each kept when done.

A part is a file below `parts/`: what is there, of the same code and the same
versions, is not measured again, so that a suite can be ended and gone on with.
"""

from collections.abc import Callable
import datetime
import functools
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any, NamedTuple

import tqdm

from benchmarks import contest, precision
from metaad_jax import devices, storage
from metaad_jax.base import DataError
from metaad_jax.training import records

_ROOT = pathlib.Path(__file__).parents[1]
_SECONDS = 540  # of one part, at most


class Case(NamedTuple):
  """A workload at a size, beside libraries that are fastest there."""

  workload: str
  inner_steps: int
  tasks: int  # 0 = as the workload has it
  width: float
  libraries: tuple[str, ...]

  @property
  def name(self) -> str:
    """Of its part."""
    return f'{self.workload}-{self.inner_steps}-{self.tasks}-{self.width:g}'


_FUNC, _COMPILED = ('plain-jax', 'torch.func'), ('plain-jax', 'torch.compile')
_ALL = ('plain-jax', 'torch.func', 'torch.compile')
_STEPS = {'W1': 5, 'W2': 5, 'W3': 5, 'W4': 5, 'W5': 4}
CASES = {
  # At the paper's sizes, then at sizes that fill the device.
  'accelerator': (
    Case('W1', 5, 0, 1, _ALL),
    Case('W2', 5, 0, 1, _ALL),
    Case('W3', 5, 0, 1, _FUNC),
    Case('W4', 1, 0, 1, _FUNC),
    Case('W4', 5, 0, 1, _FUNC),
    Case('W5', 4, 0, 1, _FUNC),
    Case('W1', 5, 2048, 1, _ALL),
    Case('W2', 5, 2048, 1, _ALL),
    Case('W2', 5, 256, 8, _FUNC),
    Case('W3', 5, 256, 1, _FUNC),
    Case('W4', 5, 128, 1, _FUNC),
    Case('W5', 4, 4, 8, _FUNC),
  ),
  # A CPU is full at the paper's sizes, but for the smallest. The loop is there
  # for its memory.
  'cpu': (
    Case('W1', 1, 0, 1, _COMPILED),
    Case('W1', 5, 0, 1, _COMPILED),
    Case('W2', 5, 0, 1, (*_COMPILED, 'torch-loop')),
    Case('W2', 5, 256, 1, _COMPILED),
    Case('W3', 5, 0, 1, ('torch.func', 'torch-loop')),
    Case('W4', 1, 0, 1, ('torchopt', 'torch-loop')),
    Case('W4', 5, 0, 1, ('torchopt', 'torch-loop')),
    Case('W5', 4, 0, 1, _FUNC),
  ),
  'precision': (),
  'lowering': (),
}

Part = Callable[[], Any]


def parts(suite: str, platform: str, rounds: int, seconds: float) -> dict:
  """{name: () -> what is kept}, in their order: correctness first.

  Args:
    suite: one of `CASES`.
    platform: of the device, as JAX has it.
    rounds: turns of each variant.
    seconds: of a turn.
  """
  asked = functools.partial(_asked, platform=platform)
  lowered = {'lowering': functools.partial(asked, 'lowering')}
  if suite == 'lowering':
    return lowered
  made: dict[str, Part] = {'limits': functools.partial(asked, 'limits')}
  for workload, steps in _STEPS.items():
    made[f'precision-{workload}'] = functools.partial(
      precision.of_gradient, workload, steps, platform
    )
  made['precision-scores'] = functools.partial(precision.of_scores, platform)
  if suite == 'precision':
    return made
  for case in CASES[suite]:
    made[case.name] = functools.partial(_contest, case, rounds, seconds)
  rest = 'training', 'detector'
  return (
    made | {name: functools.partial(asked, name) for name in rest} | lowered
  )


def _contest(case, rounds, seconds):
  grid = contest.Grid(
    [case.workload], ['maml'], [case.inner_steps], [case.tasks], [case.width],
    [0], [0], case.libraries,
  )  # fmt: skip
  return contest.measure(contest.cells(grid), rounds=rounds, seconds=seconds)


def _asked(what, platform):
  """What a process of its own finds: see `suite_worker`."""
  command = [sys.executable, '-m', 'benchmarks.suite_worker', what, platform]
  path = os.pathsep.join(filter(None, (str(_ROOT), os.getenv('PYTHONPATH'))))
  environment = {
    'XLA_PYTHON_CLIENT_PREALLOCATE': 'false', 'PYTHONPATH': path,
  }  # fmt: skip
  try:
    done = subprocess.run(
      command, capture_output=True, text=True, cwd=_ROOT, check=True,
      timeout=_SECONDS, env={**os.environ, **environment},
    )  # fmt: skip
  except subprocess.TimeoutExpired as error:
    raise DataError(f'took more than {_SECONDS} s') from error
  except subprocess.CalledProcessError as error:
    raise DataError(error.stderr.strip().splitlines()[-1][:300]) from error
  return json.loads(done.stdout.splitlines()[-1])


def run(
  suite: str,
  output: str,
  *,
  minutes: float = 0,
  rounds: int = 5,
  seconds: float = 0.5,
) -> dict[str, Any]:
  """Measures what is not there yet, in the order of `parts`.

  Args:
    suite: one of `CASES`.
    output: folder; each part is kept below it.
    minutes: after which no further part is begun, 0 = none are left out. A part
      takes up to nine.
    rounds: turns of each variant.
    seconds: of a turn.

  Returns:
    {name: part}, of all that are there: `found` or, where it could not be
    measured, `failed`; `seconds`, `load` when it ended, `date`. A part that is
    missing was not begun.
  """
  known = {'code': records.code_version(), 'versions': records.versions()}
  platform = _asked('platform', '')
  if suite == 'accelerator' and platform == 'cpu':
    raise DataError('JAX finds no accelerator here: use --suite=cpu')
  platform = 'cpu' if suite == 'cpu' else platform
  began, done = time.monotonic(), {}
  wanted = parts(suite, platform, rounds, seconds)
  for name, part in tqdm.tqdm(wanted.items(), desc=suite, disable=None):
    path = os.path.join(output, 'parts', f'{name}.json')
    if (kept := _kept(path, known)) is not None:
      done[name] = kept
      continue
    if minutes and time.monotonic() - began > 60 * minutes:
      continue
    done[name] = _measured(part) | known
    storage.write_bytes(path, json.dumps(done[name], indent=1).encode())
  return done


def _kept(path, known):
  try:
    with open(path) as file:
      content = json.load(file)
  except (OSError, ValueError):
    return None
  same = all(content.get(key) == value for key, value in known.items())
  return content if same and 'found' in content else None


def _measured(part):
  began = time.monotonic()
  try:
    content = {'found': part()}
  except (DataError, OSError, RuntimeError) as error:
    content = {'failed': ' '.join(str(error).split())[:300]}
  return content | {
    'seconds': round(time.monotonic() - began, 1),
    'load': round(os.getloadavg()[0], 1),
    'cores': devices.cores(),
    'date': datetime.date.today().isoformat(),
  }
