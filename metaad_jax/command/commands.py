"""What each command of `metaad` does; arguments are those of its flags.

A command returns its exit code, or None for success.
"""

from collections.abc import Sequence
from importlib import metadata, util
import pathlib
import platform
import time
from typing import Any

import jax

from metaad_jax import devices
from metaad_jax.base import DataError
from metaad_jax.command import endings, work
from metaad_jax.detector import judge, reasons
from metaad_jax.detector.judge import Reading

_SAMPLE = pathlib.Path(__file__).with_name('sample')
_EXTRAS = {
  'report': ('matplotlib',),
  'formats': ('pyarrow', 'openpyxl', 'polars'),
  'train': ('absl', 'orbax', 'pyod', 'scikit_posthocs', 'pooch'),
}


def detect(
  *, normal: str, new: str, output: str, exit_code: bool, run_dir: str,
  false_alarm_rate: float, dry_run: bool, **reading: Any,
) -> int | None:  # fmt: skip
  by, query = work.adapt(
    run_dir, normal, Reading(**reading), false_alarm_rate, new, dry_run
  )
  if by is None or query is None:
    return None
  return _code(exit_code, _found(by, new, query, output))


def fit(
  *, normal: str, output: str, run_dir: str, false_alarm_rate: float,
  dry_run: bool, **reading: Any,
) -> None:  # fmt: skip
  by, _ = work.adapt(
    run_dir, normal, Reading(**reading), false_alarm_rate, dry_run=dry_run
  )
  if by is not None:
    judge.save(by, output)
    print(work.size(output))


def score(
  *, model: str, new: str, output: str, exit_code: bool, **reading: Any
) -> int | None:
  by = judge.load(model)
  query = work.query_of(by, new, reading)
  return _code(exit_code, _found(by, new, query, output))


def _found(by, path, query, output):
  judged = judge.judge(by, path, query)
  work.write(judged, output)
  return judged.outliers.any()


def _code(wanted, alarms):
  return endings.ALARMS if wanted and alarms else None


def explain(
  *, model: str, new: str, rows: Sequence[int], **reading: Any
) -> None:
  by = judge.load(model)
  query = work.query_of(by, new, reading)
  judged = judge.judge(by, new, query, rows or 5)
  for row, why in judged.explanations.items():
    print(f'row {row}: {reasons.text(why)}')


def follow(
  *, model: str, log: str, max_rows: int, exit_code: bool
) -> int | None:
  code, alarms = work.follow(judge.load(model), log, max_rows)
  return code or _code(exit_code, alarms)


def learn(
  *, fleet: str, output: str, entity: str, group: str, time: str, label: str,
  anomaly_label: str, shots: Sequence[int], minutes: float, seed: int,
) -> None:  # fmt: skip
  try:
    from metaad_jax.command import learn as learning
  except ImportError as error:
    raise DataError(
      f"{error.name} is missing: pip install 'metaad_jax[train]'"
    ) from error
  options = {
    'path': fleet, 'entity': entity, 'group': group, 'time': time,
    'label': label, 'anomaly_label': anomaly_label,
  }  # fmt: skip
  spec = ','.join(f'{k}={v}' for k, v in options.items() if v)
  learning.learn(
    f'fleet:{spec}', output, shots=tuple(shots), minutes=minutes, seed=seed
  )


def export(*, model: str, output: str) -> None:
  judge.load(model).detector.export(output)
  print(work.size(output))


def sample(*, folder: str) -> None:
  files = {path.name: path.read_bytes() for path in _SAMPLE.iterdir()}
  written = judge.save_files(folder, files)
  print(f'{", ".join(written)} written\n{files["README.txt"].decode()}')
  print(f'now: metaad detect {folder}/normal.csv {folder}/new.csv')


def doctor() -> None:
  """Tells versions, devices, extras and times; raises if scores are wrong."""
  packages = ('metaad_jax', 'jax', 'flax', 'numpy', 'pandas', 'scikit-learn')
  versions = ', '.join(f'{p} {metadata.version(p)}' for p in packages)
  print(f'python {platform.python_version()}, {versions}')
  print(f'{platform.platform()}, {devices.cores()} cores, {jax.devices()}')
  devices.persist()
  cache = jax.config.values.get('jax_compilation_cache_dir')
  print(f'compiled code is kept in {cache or "no folder: starts take longer"}')
  for extra, modules in _EXTRAS.items():
    lacking = ', '.join(m for m in modules if not util.find_spec(m))
    state = f"no {lacking}: pip install 'metaad_jax[{extra}]'"
    print(f'{extra}: {state if lacking else "installed"}', flush=True)
  start = time.monotonic()
  normal, new = (str(_SAMPLE / name) for name in ('normal.csv', 'new.csv'))
  known = work.read(normal, Reading())
  query = work.read(new, Reading(), known)
  by = judge.adapt('shipped', normal, known, rate=0.05)
  alarms, faults = judge.judge(by, new, query, (0,)).outliers, query.labels == 1
  found, false = alarms[faults].mean(), alarms[~faults].mean()
  seconds = time.monotonic() - start
  print(f'sample: {found:.0%} of the faults found, {false:.1%} false alarms, '
        f'{seconds:.1f} s')  # fmt: skip
  if found < 0.5 or false > 0.2:
    raise DataError('the sample is judged wrong: install metaad_jax anew')
