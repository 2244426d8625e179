r"""Calibrates a trained run, so that its scores become p-values.

  python -m experiments.calibrate --run_dir=runs/tables --data_dir=data \
    --report=runs/calibration

Adapts the run to supports of every entity of the training and the validation
side, scores their held-out normals, and writes the calibration into the run's
folder or model file; see docs/calibration.md. With --report it then counts, on
entities of the test side and of --report_sources, how often each rule calls a
normal row abnormal, and how many anomalies it finds; calibration.json, .md and
one .png per source are written there.
"""

import json
import os

from absl import flags

from experiments import cli
from metaad_jax import storage
from metaad_jax.base import DataError
from metaad_jax.detector import calibrate
from metaad_jax.scores import conformal
from metaad_jax.training import exports, records, runs

FLAGS = flags.FlagValues()
_RUN_DIR = flags.DEFINE_string(
  'run_dir', None, 'a run folder, model file, or shipped', flag_values=FLAGS
)
_SOURCES = flags.DEFINE_string(
  'sources',
  None,
  "to calibrate on, joined by '+'; the one of the training by default",
  flag_values=FLAGS,
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'root of the data', flag_values=FLAGS
)
_SHOTS = flags.DEFINE_list(
  'shots', ['1', '2', '5', '10', '20', '50'], 'support normals',
  flag_values=FLAGS,
)  # fmt: skip
_ANOMALIES = flags.DEFINE_list(
  'anomalies', ['0', '1', '5'], 'labelled anomalies', flag_values=FLAGS
)
_CONTAMINATION = flags.DEFINE_list(
  'contamination',
  ['0', '0.05', '0.1', '0.2'],
  'shares of anomalies in unlabelled supports, one drawn for each',
  flag_values=FLAGS,
)
_DRAWS = flags.DEFINE_integer(
  'draws', 2, 'supports per entity', flag_values=FLAGS
)
_VALIDATION_ONLY = flags.DEFINE_bool(
  'validation_only',
  False,
  'leave the training side out: fewer entities, none of which the run has seen',
  flag_values=FLAGS,
)
_ALONE = flags.DEFINE_bool(
  'alone', False, 'unlabelled supports have no verified row', flag_values=FLAGS
)
_REPORT = flags.DEFINE_string(
  'report', None, 'folder for the check on other entities', flag_values=FLAGS
)
_REPORT_SOURCES = flags.DEFINE_string(
  'report_sources',
  None,
  "to check on, joined by '+'; the one of the training by default",
  flag_values=FLAGS,
)
_REPORT_PLAIN = flags.DEFINE_bool(
  'report_plain',
  False,
  'check clean supports without labels only: a quarter of the time',
  flag_values=FLAGS,
)
_KEEP = flags.DEFINE_bool(
  'keep', False, 'do not fit: check the calibration that is there',
  flag_values=FLAGS,
)  # fmt: skip


def main() -> None:
  """Calibrates, writes, checks."""
  if not _RUN_DIR.value:
    raise cli.UsageError('--run_dir is missing')
  run_dir, data_dir = str(_RUN_DIR.value), _DATA_DIR.value
  shots = cli.numbers('shots', _SHOTS.value)
  anomalies = cli.numbers('anomalies', _ANOMALIES.value)
  contamination = cli.numbers('contamination', _CONTAMINATION.value, float)
  if not shots or min(shots) < 0 or not anomalies or min(anomalies) < 0:
    raise cli.UsageError('--shots and --anomalies start at 0: give some')
  if any(not 0 <= share <= 0.5 for share in contamination):
    raise cli.UsageError('--contamination: shares lie between 0 and 0.5')
  if _DRAWS.value < 1:
    raise cli.UsageError('--draws must be at least 1')
  run = runs.restore(run_dir)
  if min(shots) < 1 and not run.setup.suspicious:
    raise cli.UsageError(
      f'--shots start at 1: {run_dir} does not tell unverified rows from others'
    )
  names = (_SOURCES.value or run.config.source).split('+')
  if not _KEEP.value:
    members = []
    for name in names:
      sides = calibrate.entities(run, name, data_dir)
      if name == run.config.source:
        if run.config.fold == 'none':
          raise DataError(
            f'{run_dir} was trained on all entities of {name!r} (--fold=none): '
            'calibrate a run with a fold, and export with --calibrated_by'
          )
        members += [] if _VALIDATION_ONLY.value else sides['train']
        members += sides['validation']
      else:
        members += sides['test']
    found = calibrate.cases(
      run, members, shots=shots, anomalies=anomalies,
      contamination=contamination, draws=_DRAWS.value, alone=_ALONE.value,
    )  # fmt: skip
    calibrated = conformal.fit(found)
    path = exports.calibrate(
      run_dir,
      calibrated,
      {'sources': names, 'entities': len(members), 'draws': _DRAWS.value},
    )
    print(
      f'{len(members)} entities, {len(found)} supports; false-alarm rates from '
      f'{conformal.smallest_rate(calibrated):.2g} can be promised\n'
      f'{path} written'
    )
    run = run._replace(calibration=calibrated)
  if run.calibration is None:
    raise DataError(f'{run_dir} is not calibrated: leave --keep out')
  if _REPORT.value:
    _report(run, str(_REPORT.value), names)


def _report(run, folder, calibrated_on):
  """Writes calibration.json, calibration.md and the pictures."""
  os.makedirs(folder, exist_ok=True)
  checked, text = {}, []
  sources = (_REPORT_SOURCES.value or run.config.source).split('+')
  for name in sources:
    members = calibrate.entities(run, name, _DATA_DIR.value)['test']
    settings = [(0, 0.0), (1, 0.0), (5, 0.0), (0, 0.1)]
    settings = settings[:1] if _REPORT_PLAIN.value else settings
    found = calibrate.check(
      run,
      run.calibration,
      members,
      shots=(5, 10, 20, 50),
      settings=settings,
      alone=_ALONE.value,
    )
    checked[name] = found
    for rate in calibrate.RATES:
      text.append(f'## {name}, nominal {rate:.0%}\n')
      text.append(calibrate.table(found, rate) + '\n')
    picture = calibrate.picture(found, name)
    file = f'calibration_{name.partition(":")[0]}.png'
    storage.write_bytes(os.path.join(folder, file), picture)
  content = {
    'schema': 1,
    'run': run.name,
    'calibrated_on': calibrated_on,
    'versions': records.versions(),
    'code': records.code_version(),
    'records': checked,
  }
  for file, body in (
    ('calibration.json', json.dumps(content, indent=1)),
    ('calibration.md', '\n'.join(text)),
  ):
    storage.write_bytes(os.path.join(folder, file), body.encode())
  print('\n'.join(text))
  print(f'written below {folder}')


if __name__ == '__main__':
  cli.run(main, FLAGS)
