"""How often runs that tell classes apart are right, on tasks of new classes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from metaad_jax.base import DataError
from metaad_jax.data import audits, classes
from metaad_jax.evaluation import sides
from metaad_jax.scores import metrics
from metaad_jax.training import runs

_BATCH = 20


def of_tasks(
  run: runs.Run,
  *,
  data_dir: str | None = None,
  tasks: int = 600,
  seed: int = 0,
  split: str = 'test',
) -> np.ndarray:
  """The accuracy of every task, [tasks] float64.

  Args:
    run: trained with `Config.way`.
    data_dir: root of the data.
    tasks: how many are drawn of the run's kind of episode.
    seed: of the draws.
    split: 'test' = classes that the run has not seen; or 'validation', 'all'.

  Raises:
    DataError: if the run has no ways, or an entity of the test side was seen.
  """
  episode = run.setup.episode
  if not isinstance(episode, classes.Episode):
    raise DataError(f'{run.name} finds anomalies: it was trained without --way')
  side = sides.tested(run, run.config.source, data_dir, split)
  if split == 'test':
    audits.unseen(side.entities, run.seen)
  pool = classes.pool(sides.featurize(run, side, None), episode)

  @jax.jit
  @functools.partial(jax.vmap, in_axes=(None, 0))
  def one(pool, key):
    draw, own = jax.random.split(key)
    task = classes.sampler(pool, episode)(draw)
    adapted = run.learner.adapt(own, run.params, task.support, task.features)
    scores = run.learner.score(adapted, task.query.x)
    return metrics.masked_accuracy(scores, task.query.y, task.query.mask)

  keys = jax.random.split(jax.random.key(seed), -(-tasks // _BATCH) * _BATCH)
  batches = keys.reshape(-1, _BATCH)
  found = jnp.concatenate([one(pool, batch) for batch in batches])[:tasks]
  return np.asarray(found, np.float64)


def summary(found: np.ndarray) -> dict[str, float]:
  """Mean accuracy with the normal 95% interval of the mean over tasks."""
  half = 1.96 * found.std(ddof=1) / np.sqrt(len(found)) if len(found) > 1 else 1
  mean = float(found.mean())
  return {
    'accuracy': mean, 'low': mean - half, 'high': mean + half,
    'tasks': len(found),
  }  # fmt: skip
