"""Meta-trains one learner on one source, and keeps the run in a folder.

  python -m experiments.train --learner=maml --run_dir=runs/maml
  python -m experiments.train --flagfile=experiments/flags/sinusoid.flags

Killed and started again with the same flags, it goes on where the newest
checkpoint left off and ends with the same parameters. The folder holds
config.json, metrics.jsonl and checkpoints/; experiments.evaluate and
experiments.adapt read it.
"""

from absl import flags

from experiments import cli
from metaad_jax import runs, sources
from metaad_jax.learners import REGISTRY

FLAGS = flags.FlagValues()

_DEFAULT = runs.Config()

_SOURCE = flags.DEFINE_string(
  'source',
  _DEFAULT.source,
  'where the entities come from, with options: '
  f'{", ".join(sorted(sources.REGISTRY))}; such as cwru:snr_db=-6',
  flag_values=FLAGS,
)
_LEARNER = flags.DEFINE_string(
  'learner',
  _DEFAULT.learner,
  f'the algorithm, with options: {", ".join(sorted(REGISTRY))}; such as '
  'maml:steps=5,inner=adam,rate=0.01,mode=mixed',
  flag_values=FLAGS,
)
_RUN_DIR = flags.DEFINE_string(
  'run_dir',
  None,
  'folder of the run; runs/<source>-<learner> if not given',
  flag_values=FLAGS,
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'root that holds one folder per source', flag_values=FLAGS
)
_SEED = flags.DEFINE_integer(
  'seed', _DEFAULT.seed, 'of everything random', flag_values=FLAGS
)
_STEPS = flags.DEFINE_integer(
  'steps', _DEFAULT.steps, 'meta-steps', flag_values=FLAGS
)
_TASKS = flags.DEFINE_integer(
  'tasks', _DEFAULT.tasks, 'tasks per meta-step', flag_values=FLAGS
)
_FEATURES = flags.DEFINE_string(
  'features',
  _DEFAULT.features,
  "joined by '+', such as logspec:bins=64+statistics; the source's own if "
  'not given; raw = the window itself',
  flag_values=FLAGS,
)
_MODEL = flags.DEFINE_string(
  'model',
  _DEFAULT.model,
  'mlp:width=64,depth=2 or conv1d:channels=32; mlp on features and conv1d on '
  'raw windows if not given',
  flag_values=FLAGS,
)
_SHOTS = flags.DEFINE_list(
  'shots',
  [str(k) for k in _DEFAULT.shots],
  'numbers of support normals; each task draws one',
  flag_values=FLAGS,
)
_ANOMALIES = flags.DEFINE_list(
  'anomalies',
  [str(a) for a in _DEFAULT.anomalies],
  'numbers of labelled support anomalies; each task draws one',
  flag_values=FLAGS,
)
_CONTAMINATION = flags.DEFINE_list(
  'contamination',
  [str(c) for c in _DEFAULT.contamination],
  'shares of the support normals that are unlabelled anomalies',
  flag_values=FLAGS,
)
_QUERIES = flags.DEFINE_integer(
  'queries',
  _DEFAULT.queries,
  'normal, and as many anomalous, query rows',
  flag_values=FLAGS,
)
_CONTEXT = flags.DEFINE_bool(
  'context',
  _DEFAULT.context,
  'give the learner every feature a second time, scaled over all entities',
  flag_values=FLAGS,
)
_STREAM = flags.DEFINE_bool(
  'stream',
  _DEFAULT.stream,
  'simulators: a machine nobody has seen for every task, instead of a fleet',
  flag_values=FLAGS,
)
_FOLD = flags.DEFINE_string(
  'fold',
  _DEFAULT.fold,
  'number or name of the fold that is the test side',
  flag_values=FLAGS,
)
_FOLDS = flags.DEFINE_integer(
  'folds', _DEFAULT.folds, 'folds dealt out', flag_values=FLAGS
)
_OUTER = flags.DEFINE_string(
  'outer',
  _DEFAULT.outer,
  'outer optimizer: any of optax, with its rate',
  flag_values=FLAGS,
)
_SCHEDULE = flags.DEFINE_string(
  'schedule',
  _DEFAULT.schedule,
  'of the outer rate: constant or cosine',
  flag_values=FLAGS,
)
_CLIP = flags.DEFINE_float(
  'clip', _DEFAULT.clip, 'largest norm of the meta-gradient', flag_values=FLAGS
)
_VALIDATION_TASKS = flags.DEFINE_integer(
  'validation_tasks',
  _DEFAULT.validation_tasks,
  'tasks of each validation',
  flag_values=FLAGS,
)
_VALIDATE_EVERY = flags.DEFINE_integer(
  'validate_every',
  _DEFAULT.validate_every,
  'meta-steps between validations, with a checkpoint each',
  flag_values=FLAGS,
)


def config() -> runs.Config:
  """The flags as a configuration; UsageError if a value makes no sense."""
  made = runs.Config(
    source=_SOURCE.value,
    features=_FEATURES.value,
    learner=_LEARNER.value,
    model=_MODEL.value,
    shots=cli.numbers('shots', _SHOTS.value),
    anomalies=cli.numbers('anomalies', _ANOMALIES.value),
    contamination=cli.numbers('contamination', _CONTAMINATION.value, float),
    queries=_QUERIES.value,
    context=_CONTEXT.value,
    stream=_STREAM.value,
    fold=_FOLD.value,
    folds=_FOLDS.value,
    seed=_SEED.value,
    steps=_STEPS.value,
    tasks=_TASKS.value,
    outer=_OUTER.value,
    schedule=_SCHEDULE.value,
    clip=_CLIP.value,
    validation_tasks=_VALIDATION_TASKS.value,
    validate_every=_VALIDATE_EVERY.value,
  )
  with cli.usage():
    runs.check(made)
  return made


def main() -> None:
  """Trains, and says where the run lies and how good it is."""
  made = config()
  name = lambda spec: spec.partition(':')[0]
  run_dir = _RUN_DIR.value or f'runs/{name(made.source)}-{name(made.learner)}'
  state = runs.train(made, data_dir=_DATA_DIR.value, run_dir=run_dir)
  what = '-MSE' if runs.regression(made) else 'AUROC'
  print(
    f'{run_dir}: {int(state.step)} steps; best validation {what} '
    f'{float(state.best_score):.4f} at step {int(state.best_step)}; '
    f'{int(state.optimizer.total_notfinite)} updates skipped'
  )


if __name__ == '__main__':
  cli.run(main, FLAGS)
