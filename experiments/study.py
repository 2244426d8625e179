r"""The main job: several learners, trained and evaluated side by side.

  python -m experiments.study
  python -m experiments.study --flagfile=experiments/flags/cwru_0db.flags \
    --data_dir=data

Without flags: simulates a fleet of rotating machines, meta-trains several
learners on it, adapts each to machines nobody has seen from 5 and 10 normal
windows, with and without labelled anomalies, and prints their AUROC next to
what scikit-learn and PyOD do with the same windows; some minutes on two cores.
With several --test_folds every learner is trained once per fold, and each run
is evaluated on the entities it has not seen. Writes the runs, results.csv,
meta.json, report.html and figures below --output; started again it goes on
where it stopped.
"""

import os

from absl import flags

from experiments import cli, train
from metaad_jax.data import registry
from metaad_jax.evaluation import baselines, evaluate, results, tasks
from metaad_jax.reports import pages, tables
from metaad_jax.training import runs

FLAGS = flags.FlagValues()
_LEARNERS = flags.DEFINE_string(
  'learners',
  'maml+fomaml+reptile+protonet+relation+pooled+scratch',
  "joined by '+', each with its options",
  flag_values=FLAGS,
)
_FOLDS = flags.DEFINE_list(
  'test_folds',
  ['0'],
  'folds that are the test side, each in its turn; all = every one',
  flag_values=FLAGS,
)
_OUTPUT = flags.DEFINE_string(
  'output', 'runs/study', 'folder to write', flag_values=FLAGS
)
_TEST_SOURCE = flags.DEFINE_string(
  'test_source',
  None,
  'evaluate there instead of on the source of training',
  flag_values=FLAGS,
)
_TEST_SHOTS = flags.DEFINE_list(
  'test_shots', ['5', '10'], 'support normals in testing', flag_values=FLAGS
)
_TEST_ANOMALIES = flags.DEFINE_list(
  'test_anomalies',
  ['0', '2'],
  'labelled support anomalies in testing',
  flag_values=FLAGS,
)
_TEST_CONTAMINATION = flags.DEFINE_list(
  'test_contamination',
  ['0'],
  'shares of the support that are unlabelled anomalies in testing',
  flag_values=FLAGS,
)
_DRAWS = flags.DEFINE_integer(
  'draws', 1, 'supports drawn per entity', flag_values=FLAGS
)
_BASELINES = flags.DEFINE_string(
  'baselines', 'all', 'as in experiments.evaluate', flag_values=FLAGS
)
train.define_flags(FLAGS, skip=('learner', 'run_dir', 'fold', 'way'))
cli.define_devices(FLAGS)
FLAGS.set_default('steps', 1500)


def main() -> None:
  """Trains all learners on all folds, evaluates all, writes the report."""
  learners = _LEARNERS.value.split('+')
  grid = tasks.Grid(
    cli.numbers('test_shots', _TEST_SHOTS.value),
    cli.numbers('test_anomalies', _TEST_ANOMALIES.value),
    cli.numbers('test_contamination', _TEST_CONTAMINATION.value, float),
    _DRAWS.value,
    seed=FLAGS.seed,
  )
  baseline_names = cli.choose('baselines', _BASELINES.value, baselines.REGISTRY)
  with cli.usage():
    tasks.check_grid(grid)
    if _TEST_SOURCE.value:
      registry.get(_TEST_SOURCE.value)
  setups = [train.resolve(FLAGS, learner=learner) for learner in learners]
  names = [setup.name for setup in setups]
  if not _FOLDS.value or len(set(names)) < len(names):
    raise cli.UsageError(
      f'--test_folds={",".join(_FOLDS.value)}, --learners={_LEARNERS.value}: '
      'name at least one fold, and every learner once'
    )
  folds = _FOLDS.value
  if folds == ['all']:
    folds = runs.fold_names(setups[0], FLAGS.data_dir)
  folders = []
  for fold in folds:
    data = None
    for setup in (setup.with_fold(fold) for setup in setups):
      if data is None:
        data = runs.load_data(setup, FLAGS.data_dir)
        sizes = ', '.join(f'{len(v)} for {k}' for k, v in data.raw.items())
        source = setup.config.source
        print(f'{source}, fold {fold}: entities {sizes}', flush=True)
      folders.append(os.path.join(_OUTPUT.value, f'{setup.name}-{fold}'))
      runs.train(setup, run_dir=folders[-1], data=data)
  plan = evaluate.Plan(
    grid,
    source=_TEST_SOURCE.value,
    data_dir=FLAGS.data_dir,
    baselines=baseline_names,
    workers=os.cpu_count() or 1,
  )
  found = evaluate.evaluate(folders, plan)
  found.meta['command'] = cli.command()
  results.save(found, _OUTPUT.value)
  written = pages.write(found, _OUTPUT.value)
  print(f'{tables.terminal(found)}\n{written[0]} written')


if __name__ == '__main__':
  cli.run(main, FLAGS)
