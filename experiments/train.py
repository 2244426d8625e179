"""Meta-trains one learner on one source, and keeps the run in a folder.

  python -m experiments.train --learner=maml --run_dir=runs/maml
  python -m experiments.train --flagfile=experiments/flags/cwru_0db.flags

Killed and started again with the same flags, it goes on where the newest
checkpoint left off and ends with the same parameters. The folder holds
config.json, metrics.jsonl and checkpoints/; experiments.evaluate and
experiments.adapt read it.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

from absl import flags

from experiments import cli
from metaad_jax.data import registry
from metaad_jax.learners import REGISTRY
from metaad_jax.training import runs, setup

_HELP = {
  'source': 'where the entities come from, with options: '
  f'{", ".join(sorted(registry.REGISTRY))}; such as cwru:snr_db=-6',
  'features': "joined by '+', such as logspec:bins=64+statistics; the "
  "source's own if not given; raw = the window itself",
  'learner': f'the algorithm, with options: {", ".join(sorted(REGISTRY))}; '
  'such as maml:steps=5,inner=adam,rate=0.01,mode=mixed',
  'model': 'mlp:width=64,depth=2 or conv1d:channels=32; mlp on features and '
  'conv1d on raw windows if not given',
  'shots': 'numbers of support normals; each task draws one',
  'anomalies': 'numbers of labelled support anomalies; each task draws one',
  'contamination': 'shares of the support normals that are unlabelled '
  'anomalies; each task draws one',
  'unverified': 'numbers of support rows that nobody has checked, which '
  'contamination is then a share of; each task draws one',
  'checked': 'share of the clean supports of unverified rows alone that are '
  'given as verified',
  'clustered': 'share of the contaminated supports of augmented tables whose '
  'bad rows are alike',
  'queries': 'normal, and as many anomalous, query rows',
  'way': 'entities as classes: so many for each task, with so many shots and '
  'queries of each; 1 = one class against all others; 0 = anomalies',
  'context': 'give the learner every feature a second time, scaled over all '
  'entities',
  'stream': 'simulators: a machine nobody has seen for every task, instead of '
  'a fleet',
  'fold': 'number or name of the fold that is the test side, or none',
  'folds': 'number of folds that entities are dealt out to',
  'seed': 'of everything random',
  'steps': 'meta-steps',
  'tasks': 'tasks per meta-step',
  'outer': 'outer optimizer: any of optax, with its rate',
  'schedule': 'of the outer rate: constant or cosine',
  'clip': 'largest norm of the meta-gradient',
  'average': 'weight of the past in the running mean of the meta-parameters, '
  'which is validated and kept; 0 = the meta-parameters themselves',
  'keep': 'best = what did best in validation, last = the last meta-parameters',
  'validation_tasks': 'tasks of each validation',
  'validate_every': 'meta-steps between validations, with a checkpoint each',
  'start': 'a run whose meta-parameters to start from, on the same network or '
  'a smaller one of the same names',
  'precision': 'of products of float32: highest, or tf32, bf16 of GPUs and '
  'TPUs, faster and coarser (docs/scaling.md)',
  'memory': 'that a meta-step may take on each device beside its parameters, '
  'such as 2GiB or 500MiB: of ways with the same result to rounding the '
  'fastest that keeps to it (docs/scaling.md); any if not given',
}


def define_flags(to: flags.FlagValues, skip: Sequence[str] = ()) -> None:
  """Defines --data_dir, --run_dir, and a flag for each field of the config."""
  for name, text, default in (
    (
      'run_dir',
      'folder of the run; runs/<source>-<learner> if not given',
      None,
    ),
    ('data_dir', 'root that holds one folder per source', None),
  ):
    if name not in skip:
      flags.DEFINE_string(name, default, text, flag_values=to)
  define: dict[type, Any] = {
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
  }
  for field in dataclasses.fields(setup.Config):
    if field.name in skip:
      continue
    default, text = field.default, _HELP[field.name]
    if isinstance(default, tuple):
      listed = [str(value) for value in default]
      flags.DEFINE_list(field.name, listed, text, flag_values=to)
    else:
      define[type(default)](field.name, default, text, flag_values=to)


def resolve(values: flags.FlagValues, **fixed: Any) -> setup.Setup:
  """The flags as a setup; UsageError if a value makes no sense."""
  chosen: dict[str, Any] = {}
  for field in dataclasses.fields(setup.Config):
    if field.name in fixed or field.name not in values:
      continue
    value: Any = values[field.name].value
    if isinstance(field.default, tuple):
      value = cli.numbers(field.name, value, type(field.default[0]))
    chosen[field.name] = value
  with cli.usage():
    return setup.resolve(setup.Config(**chosen, **fixed))


FLAGS = flags.FlagValues()
define_flags(FLAGS)
cli.define_devices(FLAGS)


def main() -> None:
  """Trains, and says where the run lies and how good it is."""
  made = resolve(FLAGS)
  run_dir = FLAGS.run_dir or f'runs/{made.source.name}-{made.name}'
  state = runs.train(made, data_dir=FLAGS.data_dir, run_dir=run_dir)
  quality = 'accuracy' if made.config.way else 'AUROC'
  print(
    f'{run_dir}: {int(state.step)} steps; best validation {quality} '
    f'{float(state.best_score):.4f} at step {int(state.best_step)}; '
    f'{int(state.optimizer.total_notfinite)} updates skipped'
  )


if __name__ == '__main__':
  cli.run(main, FLAGS)
