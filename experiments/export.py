r"""Writes a run's best meta-parameters as one file, without its history.

  python -m experiments.export --run_dir=runs/tables --output=tables.npz

The file can be given wherever a run's folder can: --run_dir=tables.npz. It
holds arrays and JSON, no pickle, and a checksum. With --distances a run of the
model `tables` scores with plain distances beside it, which were not there while
it was trained (models/log_distances.py); calibrate the file then. A run of
--fold=none has seen all that could calibrate it: --calibrated_by names a run or
file of the same flags and another fold, whose calibration it gets.
"""

import os

from absl import flags

from experiments import cli
from metaad_jax.training import exports

FLAGS = flags.FlagValues()
_RUN_DIR = flags.DEFINE_string(
  'run_dir', None, 'folder of a trained run', flag_values=FLAGS
)
_OUTPUT = flags.DEFINE_string(
  'output', 'model.npz', 'the file, ending in .npz', flag_values=FLAGS
)
_DISTANCES = flags.DEFINE_bool(
  'distances', False, 'put plain distances beside it', flag_values=FLAGS
)
_CALIBRATED_BY = flags.DEFINE_string(
  'calibrated_by', None, 'run whose calibration it gets', flag_values=FLAGS
)


def main() -> None:
  """Writes the file, and says how large it is."""
  if not _RUN_DIR.value:
    raise cli.UsageError('--run_dir is missing: name a run')
  path = str(_OUTPUT.value)
  exports.export(
    _RUN_DIR.value, path, distances=_DISTANCES.value,
    calibrated_by=_CALIBRATED_BY.value,
  )  # fmt: skip
  print(f'{path}: {os.path.getsize(path):,} bytes')


if __name__ == '__main__':
  cli.run(main, FLAGS)
