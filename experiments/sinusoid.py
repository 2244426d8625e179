"""Validates the learners on the MAML paper's regression problem: sinusoids.

  python -m experiments.sinusoid --flagfile=experiments/flags/sinusoid.flags

Finn, Abbeel & Levine, ICML 2017, arXiv 1703.03400, section 5.1: amplitude
uniform in [0.1, 5], phase uniform in [0, pi], inputs uniform in [-5, 5].
Meta-trains, then prints the mean squared error on new sinusoids after so many
steps of adaptation and writes it to mse.json in --run_dir. A task has diverged
if its error is not finite or above 100; the mean is over the others.
"""

import json
import os

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from experiments import cli
from metaad_jax import learners, models, specs
from metaad_jax.base import Rows, Task
from metaad_jax.learners import inner_loop, objectives
from metaad_jax.training import loop, validation

MODEL = 'mlp:width=40,depth=2,stddev=0.01'  # as in the paper
QUERIES = 100  # of a new sinusoid

FLAGS = flags.FlagValues()
flags.DEFINE_string(
  'learner', 'maml:steps=1,rate=0.001', 'that descends', flag_values=FLAGS
)
flags.DEFINE_string(
  'run_dir', 'runs/sinusoid', 'folder of the run', flag_values=FLAGS
)
for _name, _default, _help in (
  ('shots', 10, 'rows of a support, and of a query, in meta-training'),
  ('tasks', 25, 'tasks per meta-step'),
  ('steps', 70_000, 'meta-steps, with Adam at 0.001'),
  ('test_shots', 5, 'rows of the support of a new sinusoid'),
  ('test_tasks', 10_000, 'new sinusoids'),
  ('seed', 0, 'of everything random'),
):
  flags.DEFINE_integer(
    _name, _default, _help, lower_bound=int(_name != 'seed'), flag_values=FLAGS
  )
flags.DEFINE_list(
  'test_steps', ['1', '5', '10'], 'steps of adaptation', flag_values=FLAGS
)


def sample(key: jax.Array, shots: int, queries: int) -> Task:
  """One sinusoid: support [shots, 1] and query [queries, 1] with targets."""
  keys = jax.random.split(key, 3)
  amplitude = jax.random.uniform(keys[0], minval=0.1, maxval=5.0)
  phase = jax.random.uniform(keys[1], maxval=jnp.pi)
  x = jax.random.uniform(keys[2], (shots + queries, 1), minval=-5, maxval=5)
  y = amplitude * jnp.sin(x[:, 0] - phase)
  rows = Rows(x, y, jnp.ones_like(y))
  support, query = (
    Rows(*(leaf[part] for leaf in rows))
    for part in (slice(None, shots), slice(shots, None))
  )
  return Task(support, query, jnp.ones(1))


def learner_of(spec: str, **options):
  """The learner, on the squared error; options take the place of the spec's."""
  name, given = specs.parse(spec)
  return learners.build(
    name, given | options, models.make(MODEL), loss=objectives.squared_error
  )


def negative_error(scores, y, mask):
  """Minus the mean squared error, which is what is maximised."""
  return -objectives.squared_error(scores[:, None], y, mask)


def meta_train(learner, run_dir: str | None) -> loop.State:
  """Trains as the flags say."""
  draw = lambda key: sample(key, FLAGS.shots, FLAGS.shots)
  keys = jax.random.split(jax.random.key(FLAGS.seed + 1), 200)
  return loop.train(
    learner,
    jax.tree_util.Partial(draw),
    jax.jit(jax.vmap(draw))(keys),
    negative_error,
    inner_loop.optimizer('adam', 1e-3),
    loop.Settings(
      FLAGS.steps,
      FLAGS.tasks,
      FLAGS.seed,
      report_every=500,
      validate_every=10_000,
      checkpoint_every=10_000,
    ),
    run_dir=run_dir,
    label='sinusoids',
  )


def errors(learner, params, batch: Task) -> np.ndarray:
  """Squared error of every task of a batch, once adapted: [T] float64."""
  score = jax.jit(
    lambda p, b: validation.scores_of(learner, jax.random.key(0), p, b)
  )
  return np.asarray(
    ((score(params, batch) - batch.query.y) ** 2).mean(1), np.float64
  )


def main() -> None:
  """Trains, tests, prints and writes the table."""
  test_steps = cli.numbers('test_steps', FLAGS.test_steps)
  with cli.usage():
    learner = learner_of(FLAGS.learner)
  state = meta_train(learner, FLAGS.run_dir)
  keys = jax.random.split(jax.random.key(FLAGS.seed + 2), FLAGS.test_tasks)
  draw = lambda key: sample(key, FLAGS.test_shots, QUERIES)
  batch = jax.jit(jax.vmap(draw))(keys)
  table = []
  for steps in test_steps:
    with cli.usage():
      adapting = learner_of(FLAGS.learner, adapt_steps=steps)
    error = errors(adapting, state.best, batch)
    kept = error[error < 100]
    half = 1.96 * kept.std() / np.sqrt(max(len(kept), 1))
    table.append(
      {
        'steps': steps,
        'mse': float(kept.mean()),
        'low': float(kept.mean() - half),
        'high': float(kept.mean() + half),
        'median': float(np.median(np.nan_to_num(error, nan=np.inf))),
        'diverged': len(error) - len(kept),
      }
    )
    print(
      '{steps:3} steps: {mse:.2f} [{low:.2f}, {high:.2f}], '
      'median {median:.2f}, {diverged} diverged'.format(**table[-1])
    )
  with open(os.path.join(FLAGS.run_dir, 'mse.json'), 'w') as file:
    json.dump(table, file, indent=2)


if __name__ == '__main__':
  cli.run(main, FLAGS)
