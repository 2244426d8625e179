"""The main job: learn from a fleet, adapt to machines nobody has seen.

  python -m experiments.quickstart

Simulates a fleet of rotating machines, meta-trains several learners on it,
adapts each to unseen machines from 5 and 10 normal windows, with and without
labelled anomalies, and prints their AUROC next to what scikit-learn and PyOD do
with the same windows. Takes some minutes on two cores; writes the runs,
results.json, report.html and figures below --output. Run again it goes on where
it stopped.
"""

import os

from absl import flags

from experiments import cli
from metaad_jax import baselines, evaluation, report, runs, specs

FLAGS = flags.FlagValues()

_LEARNERS = flags.DEFINE_string(
  'learners',
  'maml+fomaml+reptile+protonet+pooled+scratch',
  "joined by '+', each with its options",
  flag_values=FLAGS,
)
_OUTPUT = flags.DEFINE_string(
  'output', 'runs/quickstart', 'folder to write', flag_values=FLAGS
)
_SEED = flags.DEFINE_integer(
  'seed', 0, 'of everything random', flag_values=FLAGS
)
_STEPS = flags.DEFINE_integer(
  'steps', 2000, 'meta-steps of each learner', flag_values=FLAGS
)
_DRAWS = flags.DEFINE_integer(
  'draws', 2, 'supports drawn per machine', flag_values=FLAGS
)
_SOURCE = flags.DEFINE_string(
  'source', 'vibration', 'see experiments.train', flag_values=FLAGS
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'see experiments.train', flag_values=FLAGS
)


def main() -> None:
  """Trains all learners, evaluates all, writes the report."""
  learners = _LEARNERS.value.split('+')
  configs = {
    learner: runs.Config(
      source=_SOURCE.value,
      learner=learner,
      steps=_STEPS.value,
      seed=_SEED.value,
    )
    for learner in learners
  }
  with cli.usage():
    for config in configs.values():
      runs.check(config)
    evaluation.check_grid(evaluation.Grid(draws=_DRAWS.value))
  data = runs.load_data(configs[learners[0]], _DATA_DIR.value)
  sizes = ', '.join(f'{len(v)} for {k}' for k, v in data.raw.items())
  print(f'{_SOURCE.value}: entities {sizes}', flush=True)
  folders = []
  for learner, config in configs.items():
    name = specs.parse(learner)[0]
    folders.append(os.path.join(_OUTPUT.value, name))
    runs.train(config, run_dir=folders[-1], data=data)
  grid = evaluation.Grid(
    shots=(5, 10), anomalies=(0, 2), draws=_DRAWS.value, seed=_SEED.value
  )
  found = evaluation.evaluate(
    folders,
    grid,
    data_dir=_DATA_DIR.value,
    baseline_names=list(baselines.REGISTRY),
    workers=os.cpu_count() or 1,
  )
  print(report.write(found, _OUTPUT.value))


if __name__ == '__main__':
  cli.run(main, FLAGS)
