"""What makes up the score of a series, on tasks whose answer is known."""

import numpy as np
from sklearn import metrics

from metaad_jax.features import subsequences
from metaad_jax.training import series_weights

_SHAPE = len(subsequences.COMPONENTS), len(subsequences.WIDTHS)


def _recording(seed, row=2, column=3):
  """Noise, but for one component that is higher where something is wrong."""
  random = np.random.default_rng(seed)
  labels = np.zeros(2000, bool)
  labels[300:340] = True
  x = random.normal(size=(*_SHAPE, 2000)).astype(np.float32)
  x[row, column] = 0.3 * x[row, column] + 2 * labels
  return x, labels


def _task(seed):
  return series_weights.task(*_recording(seed), np.random.default_rng(seed))


def test_the_component_that_tells_gets_the_weight():
  tasks = [_task(seed) for seed in range(6)]
  weights = series_weights.learn(tasks, np.ones(6), steps=150)
  np.testing.assert_allclose(weights.sum(), 1)
  assert (weights >= 0).all()
  excess = subsequences.COMPONENTS.index('excess')
  rest = np.delete(weights, excess, 0)
  assert weights[2, 3] == rest.max() > 0.7 * rest.sum()


def test_the_precision_is_the_average_precision_where_ranks_are_sharp():
  components, labels = _recording(3)
  flat = components.reshape(-1, 2000).T
  random = np.random.default_rng(0)
  weights = random.random(flat.shape[1]).astype(np.float32)
  weights[13] = 8  # the one that tells
  good = flat[~labels]
  task = series_weights.Task(
    flat[labels][None], good[None],
    np.full((1, len(good)), 1 / len(good), np.float32),
    np.array([labels.mean()], np.float32),
  )  # fmt: skip
  got = series_weights.precision(1e4 * weights, task)[0]
  want = metrics.average_precision_score(labels, flat @ weights)
  # A rank among anomalous ones counts itself by half.
  np.testing.assert_allclose(got, want, atol=0.02)


def test_tasks_stand_for_the_whole_recording():
  task = _task(0)
  np.testing.assert_allclose(task.shares.sum(), 1)
  assert task.rate == 0.02
  assert task.anomalous.shape[1] == task.normal.shape[1] == np.prod(_SHAPE)


def test_folds_go_by_group():
  groups = [f'group {i}' for i in range(200)]
  folds = [series_weights.fold(group) for group in groups]
  assert {*folds} == set(range(series_weights.FOLDS))
  assert folds == [series_weights.fold(group) for group in groups]
