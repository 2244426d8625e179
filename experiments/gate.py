r"""Makes the file for supports with rows that nobody checked.

  python -m experiments.gate --run_dir=runs/kinds --data_dir=data \
    --output=metaad_jax/shipped/unverified.npz

Takes a finished run of the model `kinds` (experiments/flags/kinds.flags), lets
it read supports of its own training tables with 0 to 32% of bad rows among the
unverified ones, fits the blend of models/gated.py to what it says, and writes a
model file. A quarter of an hour on one core. Then, as for any run:
experiments.calibrate --flagfile=experiments/flags/unverified_calibration.flags.
"""

import os

from absl import flags

from experiments import cli
from metaad_jax import storage
from metaad_jax.base import DataError
from metaad_jax.training import gates, runs

FLAGS = flags.FlagValues()
_RUN_DIR = flags.DEFINE_string(
  'run_dir', None, 'a run of the model kinds', flag_values=FLAGS
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'root of the data', flag_values=FLAGS
)
_OUTPUT = flags.DEFINE_string(
  'output', 'unverified.npz', 'the file, ending in .npz', flag_values=FLAGS
)
_EPISODES = flags.DEFINE_integer(
  'episodes', 2400, 'supports that are read', flag_values=FLAGS
)
_STEPS = flags.DEFINE_integer(
  'steps', 1000, 'of the fit, each on 64 supports', flag_values=FLAGS
)
_WIDEST = flags.DEFINE_integer(
  'widest', 16, 'leave tables of more columns out', flag_values=FLAGS
)


def main() -> None:
  """Reads, fits, writes."""
  if not _RUN_DIR.value:
    raise cli.UsageError('--run_dir is missing: name a run of the model kinds')
  if min(_EPISODES.value, _STEPS.value) < 1:
    raise cli.UsageError('--episodes and --steps start at 1')
  path = str(_OUTPUT.value)
  if not path.endswith('.npz'):
    raise DataError(f'{path}: a model file ends in .npz')
  run = gates.ungated(runs.restore(_RUN_DIR.value))
  sides = runs.load_data(run.config, _DATA_DIR.value).entities
  members = [e for e in sides['train'] if e.normal.shape[-1] <= _WIDEST.value]
  told = gates.collect(run, members, _EPISODES.value)
  gate = gates.fit(run.params['gate'], told, _STEPS.value)
  done = run._replace(params=run.params | {'gate': gate})
  storage.save(path, *runs.pack(done))
  print(f'{len(members)} tables; {path}: {os.path.getsize(path):,} bytes')


if __name__ == '__main__':
  cli.run(main, FLAGS)
