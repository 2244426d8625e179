"""The learner for tables of any width: what its scores depend on."""

import functools

import fast
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from metaad_jax import learners, models
from metaad_jax.base import Rows, Task
from metaad_jax.data import episodes, synthetic_tables
from metaad_jax.learners import objectives
from metaad_jax.training import setup

MODEL = models.make('tables:width=4,blocks=1,heads=1')
LEARNER = learners.make('tables', MODEL)


def rows(rng, good, bad, columns):
  y = np.repeat([0.0, 1.0], [good, bad])
  x = rng.normal(3, 1, (good + bad, columns)) + 2 * y[:, None]
  return Rows(x, y, np.ones(good + bad))


def make(seed=0, normals=6, anomalies=2, columns=4, queries=3):
  rng = np.random.default_rng(seed)
  parts = (
    rows(rng, normals, anomalies, columns),
    rows(rng, queries, queries, columns),
    np.ones(columns),
  )
  return jax.tree.map(lambda a: np.asarray(a, 'f4'), Task(*parts))


@functools.cache
def params():
  return fast.jit(LEARNER.init)(jax.random.key(0), make())


@fast.jit
def both(params, task):
  adapted = LEARNER.adapt(None, params, task.support, task.features)
  return LEARNER.score(adapted, task.query.x), LEARNER.meta_grad(
    None, params, task
  )


@fast.jit
def score(params, task):
  adapted = LEARNER.adapt(None, params, task.support, task.features)
  return LEARNER.score(adapted, task.query.x)


def scores(task):
  return np.asarray(score(params(), task))


def finite(task):
  return all(
    np.isfinite(a).all() for a in jax.tree.leaves(both(params(), task))
  )


def changed(task, support=lambda x: x, query=lambda x: x):
  return task._replace(
    support=task.support._replace(x=support(task.support.x)),
    query=task.query._replace(x=query(task.query.x)),
  )


def test_orders_do_not_matter():
  task, rng = make(), np.random.default_rng(0)
  columns, known, asked = (rng.permutation(n) for n in (4, 8, 6))
  other = Task(
    Rows(*(leaf[known] for leaf in task.support)),
    Rows(*(leaf[asked] for leaf in task.query)),
    task.features,
  )
  other = changed(other, lambda x: x[:, columns], lambda x: x[:, columns])
  np.testing.assert_allclose(
    scores(other), scores(task)[asked], rtol=1e-4, atol=1e-5
  )


def test_padding_is_inert():
  """Columns, rows of support and query, and the gradient with them."""
  task = make()
  expected, (grads, _) = both(params(), task)

  def pad(rows):
    x = np.pad(rows.x, [(0, 3), (0, 4)], constant_values=np.float32(-77))
    return Rows(x, np.pad(rows.y, (0, 3)), np.pad(rows.mask, (0, 3)))

  padded = Task(
    pad(task.support), pad(task.query), np.pad(task.features, (0, 4))
  )
  found, (padded_grads, _) = both(params(), padded)
  np.testing.assert_allclose(found[:6], expected, rtol=1e-4, atol=1e-5)
  flat = lambda tree: jax.flatten_util.ravel_pytree(tree)[0]
  np.testing.assert_allclose(
    flat(padded_grads), flat(grads), rtol=1e-3, atol=1e-5
  )


def test_vmapped_equals_looped():
  tasks = [make(seed) for seed in range(3)]
  stacked = jax.tree.map(lambda *leaf: np.stack(leaf), *tasks)
  found, (grads, _) = jax.vmap(lambda t: both(params(), t))(stacked)
  for i, task in enumerate(tasks):
    expected, (wanted, _) = both(params(), task)
    np.testing.assert_allclose(found[i], expected, rtol=1e-4, atol=1e-5)
    jax.tree.map(
      lambda g, w, i=i: np.testing.assert_allclose(
        g[i], w, rtol=1e-3, atol=1e-5
      ),
      grads,
      wanted,
    )


def test_units_do_not_matter():
  task = make()
  for factors, tolerance in (
    ([1, 4, 2**-9, 1], 0),
    ([1000, 1, 1, 1e-3], 1e-4),
  ):
    scale = lambda x, f=factors: (x * np.array(f)).astype('f4')
    np.testing.assert_allclose(
      scores(changed(task, scale, scale)),
      scores(task),
      rtol=tolerance,
      atol=tolerance,
    )


def test_no_row_of_the_query_moves_the_score_of_another():
  task = make()
  moved = scores(changed(task, query=lambda x: np.r_[x[:1] + 9, x[1:]]))
  np.testing.assert_array_equal(moved[1:], scores(task)[1:])
  assert moved[0] != scores(task)[0]


def holes(*places):
  def dig(x):
    x = x.copy()
    for place in places:
      x[place] = np.nan
    return x

  return dig


@pytest.mark.parametrize(
  'support, query',
  [
    (holes((0, 0), (3, 2)), holes((1, 1))),
    (holes(np.s_[:, 1]), holes()),
    (holes(np.s_[:, 1]), holes(np.s_[:, 1])),
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
  assert finite(changed(make(), support, query))


def test_a_missing_value_is_information():
  task = make()
  assert scores(changed(task, query=holes((0, 0))))[0] != scores(task)[0]


@pytest.mark.parametrize(
  'shape',
  [
    dict(columns=1),
    dict(columns=2000, queries=1),
    dict(normals=1, anomalies=0),
    dict(normals=1, anomalies=1),
    dict(normals=1000, anomalies=0, queries=1),
    dict(normals=20, anomalies=0),
  ],
)
def test_sizes(shape):
  """Finite, and the rows far from the support are told from those near it."""
  task = make(**shape)
  assert np.isfinite(scores(task)).all()
  moved = scores(changed(task, query=lambda x: x + 100))
  assert np.abs(moved - scores(task)).min() > 1e-4


@pytest.mark.parametrize('normals, anomalies', [(90, 0), (40, 40), (5, 90)])
def test_no_row_of_a_large_support_is_looked_at_twice(normals, anomalies):
  task = make(normals=normals, anomalies=anomalies)
  adapt = fast.jit(LEARNER.adapt)
  _, summary = adapt(None, params(), task.support, task.features).context
  vectors = np.asarray(summary.vectors)
  assert len(np.unique(vectors, axis=0)) == len(vectors) == 64
  assert summary.anomaly.sum() >= min(16, anomalies)
  assert summary.normal.sum() >= min(40, normals)
  assert np.all(summary.normal + summary.anomaly == 1)


def test_labels_and_contamination_are_seen():
  task = make()
  y = task.support.y
  for support in (
    task.support._replace(mask=task.support.mask * (1 - y)),
    task.support._replace(y=0 * y),
  ):
    moved = scores(task._replace(support=support)) - scores(task)
    assert np.abs(moved).max() > 1e-4


def differences(function, argument, count, h=1e-5):
  """Directions and central differences along them."""
  flat, unravel = jax.flatten_util.ravel_pytree(argument)
  value = fast.jit(lambda f: function(unravel(f)))
  rng = np.random.default_rng(0)
  for _ in range(count):
    d = jnp.asarray(rng.normal(size=flat.shape))
    yield d, (value(flat + h * d) - value(flat - h * d)) / (2 * h)


@pytest.mark.parametrize('name', ['tables', 'tables_maml:rate=0.01'])
def test_meta_gradients_are_exact(name):
  """Central differences in float64, through two inner steps where there are.

  Where a unit is at its kink the differences are wrong: most must agree.
  """
  with jax.enable_x64(True):
    learner = learners.make(name, MODEL)
    task = jax.tree.map(lambda a: jnp.asarray(a, 'f8'), make())
    rng = np.random.default_rng(1)  # biases of 0 are kinks
    start = jax.tree.map(
      lambda a: jnp.asarray(a + 0.1 * rng.normal(size=a.shape)), params()
    )

    def loss(p):
      adapted = learner.adapt(None, p, task.support, task.features)
      outputs = learner.score(adapted, task.query.x)[:, None]
      query = task.query.y, task.query.mask
      ranks = objectives.ranking(outputs, *query)
      return objectives.balanced_bce(outputs, *query) + 0.5 * ranks

    grads, found = fast.jit(learner.meta_grad)(None, start, task)
    np.testing.assert_allclose(found['loss'], loss(start), rtol=1e-9)
    flat = jax.flatten_util.ravel_pytree(grads)[0]
    errors = [
      abs(flat @ d - slope) / abs(slope)
      for d, slope in differences(loss, start, 4)
    ]
    assert np.median(errors) < 1e-6


def test_the_second_order_is_there():
  """The gradient through the steps is not the one at their end."""
  task = make()
  learner = learners.make('tables_maml:rate=0.1', MODEL)
  exact = fast.jit(learner.meta_grad)(None, params(), task)[0]
  adapt = fast.jit(learner.adapt)
  end = adapt(None, params(), task.support, task.features)[0]
  first = both(end, task)[1][0]
  flat = lambda tree: jax.flatten_util.ravel_pytree(tree)[0]
  assert np.abs(flat(exact) - flat(first)).max() > 1e-3


def test_reptile_is_its_definition():
  """One step of rate a on all labelled rows: a times their gradient."""
  task = make()
  rate = 0.05
  learner = learners.make(f'tables_reptile:steps=1,rate={rate}', MODEL)
  found = fast.jit(learner.meta_grad)(None, params(), task)[0]
  everyone = Rows(*map(np.concatenate, zip(*task[:2], strict=True)))
  one = learners.make(f'tables:steps=1,rate={rate}', MODEL)
  end = fast.jit(one.adapt)(None, params(), everyone, task.features)[0]
  flat = lambda tree: jax.flatten_util.ravel_pytree(tree)[0]
  np.testing.assert_allclose(flat(found), flat(params()) - flat(end), atol=1e-6)
  assert np.abs(flat(found)).max() > 1e-4


@pytest.mark.parametrize('name', ['tables_maml', 'tables_reptile'])
def test_labels_fine_tune(name):
  """The support's loss falls, each row scored in the light of the others."""
  task = make()
  learner = learners.make(f'{name}:adapt_steps=30,rate=0.05', MODEL)
  adapt = fast.jit(learner.adapt)
  tuned, (read, _) = adapt(None, params(), task.support, task.features)

  def loss(p):
    return objectives.balanced_bce(*MODEL(1).support(p, read))

  assert loss(tuned) < loss(params()) - 1e-3


def test_steps_of_adapting_leave_training_alone():
  task = make()
  learner = learners.make('tables:adapt_steps=3,rate=0.5', MODEL)
  found = fast.jit(learner.meta_grad)(None, params(), task)[1]['loss']
  expected = both(params(), task)[1][1]['loss']
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def table_pools(tables=3, count=60, columns=6):
  """A value is 1 + label/4 + column/100 + table/1000, with label 0 or 1."""
  shape = lambda n: np.zeros((tables, n, columns))
  place = np.arange(columns) / 100 + np.arange(tables)[:, None, None] / 1000
  parts = [1 + shape(count) + place] * 2 + [1.25 + shape(count) + place]
  return episodes.Pools(
    *(jnp.asarray(part, 'f4') for part in parts),
    jnp.full((tables, 3), count),
    jnp.ones((tables, columns)),
  )


EPISODE = episodes.Episode((5, 8), (0, 2), (0.0,), 6, 6)


@pytest.fixture
def plain(monkeypatch):
  """Switches all augmentations off; returns a way to switch some on."""

  def put(**on):
    for name in (
      'SYNTHETIC', 'RELABELLED', 'NARROW', 'TURNED', 'BENT', 'BLANKED',
      'FOREIGN', 'MISSING',
    ):  # fmt: skip
      monkeypatch.setattr(synthetic_tables, f'_{name}', on.get(name, 0.0))

  put()
  return put


def parts(rows, mean):
  """Label, column and table that values tell of; undoes the size."""
  value = np.round(np.asarray(rows) * mean, 4)
  label = (value > 1.2).astype(int)
  rest = value - 1 - label / 4
  column = np.floor(rest * 100 + 0.05)
  return label, column, np.round((rest - column / 100) * 1000)


def test_rows_are_what_they_claim(plain, monkeypatch):
  """Of one table, the label's own, the same column in every row."""
  monkeypatch.setattr(synthetic_tables, '_bend', lambda key, rows, real: rows)
  sample = fast.jit(synthetic_tables.sampler(table_pools(), EPISODE))
  seen = set()
  for seed in range(8):
    task = sample(jax.random.key(seed))
    for rows in task[:2]:
      real = np.asarray(rows.mask) > 0
      label, column, table = parts(np.asarray(rows.x)[real], 1)
      assert (label == np.asarray(rows.y)[real, None]).all()
      assert (column == column[0]).all() and len(set(column[0])) == 6
      assert (table == table[0, 0]).all()
      seen.add(table[0, 0])
  assert seen == {0, 1, 2}


def test_columns_of_another_table_tell_nothing(plain, monkeypatch):
  monkeypatch.setattr(synthetic_tables, '_bend', lambda key, rows, real: rows)
  plain(FOREIGN=1.0)
  pools = table_pools()
  foreign = 0
  sample = fast.jit(synthetic_tables.sampler(pools, EPISODE))
  for seed in range(8):
    task = sample(jax.random.key(seed))
    real = np.asarray(task.query.mask) > 0
    label, _, _ = parts(np.asarray(task.query.x)[real], 1)
    y = np.asarray(task.query.y)[real, None]
    dull = (label == 0).all(0)
    assert ((label == y).all(0) | dull).all()
    foreign += dull.sum()
    assert not dull.all()
  assert foreign


@pytest.mark.parametrize('columns', [1, 2, 3])
def test_narrow_tables_keep_a_column_of_their_own(plain, columns):
  plain(FOREIGN=1.0)
  sample = fast.jit(
    synthetic_tables.sampler(table_pools(columns=columns), EPISODE)
  )
  for seed in range(8):
    task = sample(jax.random.key(seed))
    x, y = np.asarray(task.query.x), np.asarray(task.query.y)
    assert (x[y == 1].min(0) > x[y == 0].max(0)).any()


def test_relabelled_tasks_have_not_the_column_that_decides(plain, monkeypatch):
  """One column is 0, rarely 1, and decides; the others tell the row."""
  monkeypatch.setattr(synthetic_tables, '_bend', lambda key, rows, real: rows)
  plain(RELABELLED=1.0)
  pools = table_pools(tables=1, count=200, columns=4)
  normal = np.random.default_rng(0).random((1, 200, 4)).astype('f4')
  normal[:, :, 1] = np.arange(200) % 5 == 0
  pools = pools._replace(normal=jnp.asarray(normal), query=jnp.asarray(normal))
  monkeypatch.setattr(
    synthetic_tables,
    '_relabel',
    lambda key, table, normal, columns: (1, normal & (table[:, 1] == 1)),
  )
  deciding = {row[0]: row[1] for row in normal[0]}
  sample = fast.jit(synthetic_tables.sampler(pools, EPISODE))
  for seed in range(4):
    task = sample(jax.random.key(seed))
    real = np.asarray(task.features) > 0
    assert real.sum() == 3
    x = np.asarray(task.query.x)[:, real]
    assert not np.isin(x, [0, 1]).all(0).any()
    for row, y in zip(x, np.asarray(task.query.y), strict=True):
      known = [deciding[v] for v in row if v in deciding]
      assert known and known[0] == y


@pytest.mark.parametrize('seed', range(4))
def test_what_relabelling_calls_an_anomaly_is_rare_or_extreme(seed):
  rng = np.random.default_rng(seed)
  table = np.stack([rng.normal(size=200), rng.integers(0, 3, 200)], 1)
  normal = jnp.arange(200) < 150
  column, other = fast.jit(synthetic_tables._relabel)(
    jax.random.key(seed), jnp.asarray(table), normal, jnp.array([True, True])
  )
  other, values = np.asarray(other), table[:, int(column)]
  assert not other[150:].any() and 0 < other.sum() < 80
  rest = values[:150][~other[:150]]
  chosen = values[other]
  if column == 1:
    assert not set(chosen) & set(rest)
  else:
    assert chosen.min() > rest.max() or chosen.max() < rest.min()


def test_sampling_is_deterministic_and_jittable():
  """Labels and masks are 0 or 1, whatever is missing."""
  sample = synthetic_tables.sampler(table_pools(), EPISODE)
  jitted = fast.jit(sample)
  for seed in range(2):
    key = jax.random.key(seed)
    found = jitted(key)
    jax.tree.map(np.testing.assert_array_equal, found, jitted(key))
    with jax.disable_jit():
      by_hand = sample(key)
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
      found,
      by_hand,
    )
    for rows in found[:2]:
      assert np.isin(rows.y, [0, 1]).all() and np.isin(rows.mask, [0, 1]).all()
    assert np.isin(found.features, [0, 1]).all() and found.features.sum() >= 2
  other = jitted(jax.random.key(5))
  assert not np.array_equal(other.query.x, found.query.x, equal_nan=True)


def test_small_pools_are_padded(plain):
  """Fewer rows than a task wants: the mask says which; the query comes last."""
  pools = table_pools(count=4)._replace(counts=jnp.full((3, 3), 4))
  task = fast.jit(synthetic_tables.sampler(pools, EPISODE))(jax.random.key(0))
  count = lambda rows, y: float((rows.mask * (rows.y == y)).sum())
  assert count(task.support, 0) in (5, 8) and count(task.query, 0) == 0
  assert count(task.support, 1) == 0 and count(task.query, 1) == 4


def test_what_is_blanked_comes_from_rows_that_are_there(monkeypatch):
  """A short pool is padded with rows that no table holds."""
  monkeypatch.setattr(synthetic_tables, '_BLANKED', 1.0)
  real = jnp.array([True, False, True, False, False])
  rows = jnp.concatenate([jnp.arange(5.0), jnp.full(40, 99.0)])
  rows = jnp.tile(rows[:, None], (1, 6))
  given = set()
  for seed in range(20):
    made = np.asarray(synthetic_tables._blank(jax.random.key(seed), rows, real))
    np.testing.assert_array_equal(made[:5], rows[:5])
    given |= set(made[5:].ravel())
  assert given == {0.0, 2.0, 99.0}


def test_weight_decay_by_hand():
  """Without a gradient, a step takes rate x decay of the parameters."""
  config = setup.Config(outer='adamw:rate=0.1,weight_decay=0.5', clip=1.0)
  optimizer = setup.resolve(config).optimizer
  params = {'w': jnp.array([2.0, -4.0])}
  zero = {'w': jnp.zeros(2)}
  updates, _ = optimizer.update(zero, optimizer.init(params), params)
  np.testing.assert_allclose(updates['w'], [-0.1, 0.2], rtol=1e-6)


def test_an_optimizer_without_weight_decay_says_so():
  with pytest.raises(ValueError, match='weight_decay'):
    setup.resolve(setup.Config(outer='adam:weight_decay=0.5'))
