"""Tables of any width: what the scores of the in-context learner depend on."""

import functools

import fast
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from metaad_jax import learners, models
from metaad_jax.base import Rows, Task
from metaad_jax.learners import objectives

MODEL = models.make('tables:width=4,blocks=1,heads=1')
LEARNER = learners.make('tables', MODEL)


def make(normals=6, anomalies=2, columns=4, queries=3, seed=0):
  task = tiny.task(seed, normals, anomalies, queries, columns)
  shift = lambda rows: rows._replace(x=rows.x + 3)
  task = task._replace(support=shift(task.support), query=shift(task.query))
  return jax.tree.map(lambda a: np.asarray(a, 'f4'), task)


@functools.cache
def params():
  return fast.jit(LEARNER.init)(jax.random.key(0), make())


@fast.jit
def score(params, task):
  adapted = LEARNER.adapt(None, params, task.support, task.features)
  return LEARNER.score(adapted, task.query.x)


@fast.jit
def gradient(params, task):
  return LEARNER.meta_grad(None, params, task)[0]


def scores(task):
  return np.asarray(score(params(), task))


def changed(task, support=lambda x: x, query=lambda x: x):
  return task._replace(
    support=task.support._replace(x=support(task.support.x)),
    query=task.query._replace(x=query(task.query.x)),
  )


def test_the_order_of_columns_does_not_matter():
  order = np.array([2, 0, 3, 1])
  turned = changed(make(), lambda x: x[:, order], lambda x: x[:, order])
  np.testing.assert_allclose(
    scores(turned), scores(make()), rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize(
  ('factors', 'tolerance'),
  [([1, 4, 2**-9, 1], 0), ([1000, 1, 1, 1e-3], 1e-4)],
)
def test_units_do_not_matter(factors, tolerance):
  """Powers of two not at all, others to rounding."""
  scale = lambda x: (x * np.array(factors)).astype('f4')
  np.testing.assert_allclose(
    scores(changed(make(), scale, scale)), scores(make()), tolerance, tolerance
  )


def holes(*places):
  def dig(x):
    x = x.copy()
    for place in places:
      x[place] = np.nan
    return x

  return dig


@pytest.mark.parametrize(
  ('support', 'query'),
  [
    (holes((0, 0), (3, 2)), holes((1, 1))),
    (holes(np.s_[:, 1]), holes()),
    (holes(np.s_[0], np.s_[7]), holes(np.s_[0])),
    (holes(np.s_[:]), holes()),
    (holes(), holes(np.s_[:])),
    (lambda x: 0 * x, lambda x: 0 * x),
    (lambda x: 0 * x + 5, lambda x: x),
    (lambda x: x * np.float32(1e30), lambda x: x),
    (lambda x: x, lambda x: x * np.float32(1e30)),
  ],
)
def test_awkward_tables_give_finite_scores_and_gradients(support, query):
  task = changed(make(), support, query)
  assert np.isfinite(scores(task)).all()
  assert np.isfinite(tiny.flat(gradient(params(), task))).all()


def test_a_missing_value_is_information():
  gone = changed(make(), query=holes((0, 0)))
  assert scores(gone)[0] != scores(make())[0]


@pytest.mark.parametrize(
  'shape', [dict(columns=1), dict(normals=1, anomalies=0, columns=100)]
)
def test_sizes(shape):
  """Finite, and the rows far from the support are told from those near it."""
  task = make(**shape)
  assert np.isfinite(scores(task)).all()
  moved = scores(changed(task, query=lambda x: x + 100))
  assert np.abs(moved - scores(task)).min() > 1e-4


def test_no_row_of_a_large_support_is_looked_at_twice():
  """Of 64 some anomalies come first, then normals, then other anomalies."""
  task = make(normals=5, anomalies=90)
  adapt = fast.jit(LEARNER.adapt)
  _, summary = adapt(None, params(), task.support, task.features).context
  vectors = np.asarray(summary.vectors)
  assert len(np.unique(vectors, axis=0)) == len(vectors) == 64
  assert (summary.normal.sum(), summary.anomaly.sum()) == (5, 59)


def test_labels_fine_tune():
  """The support's loss falls, each row scored in the light of the others."""
  task = make()
  learner = learners.make('tables:adapt_steps=20,rate=0.05', MODEL)
  model = MODEL(1)

  @fast.jit
  def losses(params, task):
    reading = model.read(task.support, task.features)
    tuned = learner.adapt(None, params, task.support, task.features).params
    loss = lambda p: objectives.balanced_bce(*model.support(p, reading))
    return loss(params), loss(tuned)

  before, after = losses(params(), task)
  assert after < before - 1e-3


def test_rows_of_any_width_share_parameters():
  """Meta-parameters made for four columns serve seven."""
  like = lambda columns: jax.eval_shape(
    LEARNER.init, jax.random.key(0), make(columns=columns)
  )
  assert like(4) == like(7)


def test_an_anomaly_in_the_support_is_no_normal():
  """Labelled rows are kept apart: hidden or called normal, scores change."""
  task = make()
  y = task.support.y
  for support in (
    task.support._replace(mask=task.support.mask * (1 - y)),
    task.support._replace(y=0 * y),
  ):
    moved = scores(task._replace(support=support)) - scores(task)
    assert np.abs(moved).max() > 1e-4


def test_the_support_is_scored_in_the_light_of_the_others():
  """The support's own outputs carry its labels and mask, padding and all."""
  task = make()
  padded = Rows(*(np.concatenate([leaf, leaf[:1]]) for leaf in task.support))
  padded.mask[-1] = 0
  model, weights = MODEL(1), params()

  @fast.jit
  def outputs(rows):
    return model.support(weights, model.read(rows, task.features))

  short, long = outputs(task.support), outputs(padded)
  np.testing.assert_array_equal(short.y, task.support.y)
  np.testing.assert_array_equal(long.mask, padded.mask)
  np.testing.assert_allclose(long.x[:-1], short.x, rtol=1e-4, atol=1e-5)
  assert isinstance(short, Rows) and short.x.shape == (8, 1)


def test_a_task_holds_all_its_rows_support_first():
  task = Task(
    *(tiny.rows(np.random.default_rng(i), 2, 1, 2) for i in (0, 1)), 0
  )
  rows = task.rows()
  np.testing.assert_array_equal(rows.x[:3], task.support.x)
  np.testing.assert_array_equal(rows.x[3:], task.query.x)
  np.testing.assert_array_equal(rows.y, jnp.array([0.0, 0, 1, 0, 0, 1]))
