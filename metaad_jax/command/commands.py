"""What each command of `metaad` does; arguments are those of its flags.

A command returns its exit code, or None for success.
"""

from collections.abc import Sequence
from importlib import metadata, util
import os
import pathlib
import platform
import tempfile
import time
from typing import Any

import jax

from metaad_jax import devices
from metaad_jax.base import DataError
from metaad_jax.command import (
  endings,
  fleet_score,
  fleet_work,
  sample_fleet,
  series_work,
  work,
)
from metaad_jax.detector import judge, reasons, series_files
from metaad_jax.detector.judge import Reading

_SAMPLE = pathlib.Path(__file__).with_name('sample')
_SAMPLE_SERIES = pathlib.Path(__file__).with_name('sample_series')
_RATE = 0.05  # of false alarms
_EXTRAS = {
  'report': ('matplotlib',),
  'cluster': ('distributed',),
  'formats': ('pyarrow', 'openpyxl', 'polars'),
  'train': ('absl', 'orbax', 'pyod', 'scikit_posthocs', 'pooch'),
}


def detect(
  *, normal: str, new: str | None, output: str, exit_code: bool, run_dir: str,
  false_alarm_rate: float | None, dry_run: bool, entity: str, budget: str,
  gap: float | None, fdr: float | None, **options: Any,
) -> int | None:  # fmt: skip
  reading, series = _parted(options)
  if entity:
    _no_fleet(series.asked or reading.window or dry_run or new is None)
    alarms = fleet_score.Alarms(gap or 0.0, budget, fdr)
    rate = false_alarm_rate or _RATE
    with tempfile.TemporaryDirectory() as folder:
      model = os.path.join(folder, 'fleet')
      fleet_work.fit(normal, model, run_dir, rate, entity, reading)
      told = fleet_score.score(model, str(new), output, alarms)
    return _code(exit_code, told)
  _of_fleets({'budget': budget, 'gap': gap, 'fdr': fdr})
  if series.asked:
    _refuse(false_alarm_rate, run_dir, reading)
    found = series_work.detect(normal, new, reading, series, dry_run)
    if found is None:
      return None
    return _code(exit_code, series_work.write(found, output))
  if new is None:
    raise endings.UsageError(
      f'name a file of rows to judge by those of {normal}; if it is a series, '
      'say until when it is healthy: --healthy_until=TIME'
    )
  rate = false_alarm_rate or _RATE
  by, query = work.adapt(run_dir, normal, reading, rate, new, dry_run)
  if by is None or query is None:
    return None
  return _code(exit_code, _found(by, new, query, output))


def fit(
  *, normal: str, output: str, run_dir: str, false_alarm_rate: float | None,
  dry_run: bool, entity: str, **options: Any,
) -> None:  # fmt: skip
  reading, series = _parted(options)
  if entity:
    _no_fleet(series.asked or reading.window or dry_run)
    rate = false_alarm_rate or _RATE
    fleet_work.fit(normal, output, run_dir, rate, entity, reading)
  elif series.asked:
    _refuse(false_alarm_rate, run_dir, reading)
    samples, healthy, _, _ = series_work.read(normal, reading, series, dry_run)
    if dry_run:
      return
    fitted = series_work.fitted(normal, samples, healthy, reading, series)
    series_files.save(fitted, output)
    print(series_files.fitted_text(fitted))
  else:
    rate = false_alarm_rate or _RATE
    by, _ = work.adapt(run_dir, normal, reading, rate, dry_run=dry_run)
    if by is None:
      return
    judge.save(by, output)
  print(work.size(output))


def _no_fleet(wrong):
  if wrong:
    raise endings.UsageError(
      '--entity goes with files of rows alone: no --series, --window or '
      '--dry_run'
    )


def _parted(options):
  """How files are read, and what is said of series."""
  series = series_work.Options._fields
  return Reading(**{k: v for k, v in options.items() if k not in series}), (
    series_work.Options(**{k: options[k] for k in series})
  )


def _refuse(rate, run_dir, reading):
  """Flags that mean nothing for series."""
  given = {
    '--false_alarm_rate': rate, '--window': reading.window,
    '--run_dir': run_dir != 'shipped',
  }  # fmt: skip
  for flag, value in given.items():
    if value:
      raise endings.UsageError(
        f'{flag} is for rows of tables: of a series say --per_day=N for the '
        'rate of false events; the lengths of its windows come from the data'
      )


def score(
  *, model: str, new: str, output: str, exit_code: bool, engine: str,
  budget: str, gap: float | None, fdr: float | None, **reading: Any,
) -> int | None:  # fmt: skip
  flags = {'budget': budget, 'gap': gap, 'fdr': fdr, 'engine': engine}
  if fleet_work.is_fleet(model):
    alarms = fleet_score.Alarms(gap or 0.0, budget, fdr)
    told = fleet_score.score(model, new, output, alarms, engine or 'local')
    return _code(exit_code, told)
  _of_fleets(flags)
  if series_files.is_series(model):
    found = series_work.score(model, new, reading)
    return _code(exit_code, series_work.write(found, output))
  by = judge.load(model)
  query = work.query_of(by, new, reading)
  return _code(exit_code, _found(by, new, query, output))


def _of_fleets(flags):
  for flag, value in flags.items():
    if value:
      raise endings.UsageError(f'--{flag} is for fleets: metaad fit --entity=')


def _found(by, path, query, output):
  judged = judge.judge(by, path, query)
  work.write(judged, output)
  return judged.outliers.any()


def _code(wanted, alarms):
  return endings.ALARMS if wanted and alarms else None


def explain(
  *, model: str, new: str, rows: Sequence[int], **reading: Any
) -> None:
  if series_files.is_series(model):
    return series_work.explain(model, new, rows, reading)
  by = judge.load(model)
  query = work.query_of(by, new, reading)
  judged = judge.judge(by, new, query, rows or 5)
  for row, why in judged.explanations.items():
    print(f'row {row}: {reasons.text(why)}')


def follow(
  *, model: str, log: str, max_rows: int, exit_code: bool, state: str,
  budget: str, gap: float | None,
) -> int | None:  # fmt: skip
  if fleet_work.is_fleet(model):
    of_all = fleet_score.Alarms(gap or 0.0, budget)
    code, found = fleet_work.follow(model, log, max_rows, state, of_all)
    return code or _code(exit_code, found)
  _of_fleets({'budget': budget, 'gap': gap})
  if series_files.is_series(model):
    code, alarms = series_work.follow(model, log, max_rows, state)
    return code or _code(exit_code, alarms)
  if state:
    raise endings.UsageError('--state is for series and fleets')
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
  for value in options.values():
    if {*value} & {*',+'}:
      raise DataError(
        f'{value!r} holds a comma or a plus: give the file or column another '
        'name'
      )
  spec = ','.join(f'{k}={v}' for k, v in options.items() if v)
  learning.learn(
    f'fleet:{spec}', output, shots=tuple(shots), minutes=minutes, seed=seed
  )


def export(*, model: str, output: str) -> None:
  if series_files.is_series(model):
    raise DataError(f'{model} is of a series, and has no compiled form')
  judge.load(model).detector.export(output)
  print(work.size(output))


def sample(*, folder: str, series: bool = False, fleet: bool = False) -> None:
  if series and fleet:
    raise endings.UsageError('choose one of --series and --fleet')
  source = _SAMPLE_SERIES if series else _SAMPLE
  files = (
    sample_fleet.files() if fleet
    else {path.name: path.read_bytes() for path in source.iterdir()}
  )  # fmt: skip
  written = judge.save_files(folder, files)
  print(f'{", ".join(written)} written\n{files["README.txt"].decode()}')
  print(
    f'now: metaad fit {folder}/known.csv --entity=machine --time=time '
    f'--output=pumps.fleet\n     metaad score pumps.fleet {folder}/new.csv'
    if fleet else f'now: metaad detect {folder}/series.csv --healthy_until=25s'
    if series else f'now: metaad detect {folder}/normal.csv {folder}/new.csv'
  )  # fmt: skip


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
