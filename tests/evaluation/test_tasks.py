"""Which rows a task holds, and that batches and padding change no score."""

import collections
import functools
import itertools

import fast
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import entity, table, z_scores

from metaad_jax.base import DataError, Rows, Task
from metaad_jax.evaluation import tasks
from metaad_jax.evaluation.tasks import Grid
from metaad_jax.learners import standardized

GRID = Grid((2, 4), (0, 2), (0.0, 0.25), draws=2, queries=4)


def test_one_query_per_entity_and_draw_and_nested_supports():
  everyone = [entity('a'), entity('bb', 2, 20, 50, 50)]
  grid = Grid((1, 4, 8), (0, 2), (0.0, 0.25), draws=3, queries=5)
  cells, notes = tasks.draw_cells(everyone, grid)
  assert not notes and len(cells) == 2 * 3 * 3 * 2 * 2
  by_draw = collections.defaultdict(list)
  for cell in cells:
    by_draw[cell.entity, cell.draw].append(cell)
  queries = set()
  for (number, _), group in by_draw.items():
    labels, query = everyone[number].labels, group[0].query
    queries.add((number, query.tobytes()))
    assert (labels[query] == 0).sum() == 5
    assert (labels[query] == 1).sum() == min(5, labels.sum() - 4)
    for cell in group:
      np.testing.assert_array_equal(cell.query, query)
      dirty = int(np.ceil(cell.contamination * cell.shots))
      assert len(cell.normal) == len(set(cell.normal)) == cell.shots - dirty
      assert len(cell.contaminants) == dirty
      assert len(cell.anomalous) == cell.anomalies
      taken = np.concatenate([cell.contaminants, cell.anomalous])
      assert (labels[taken] == 1).all() and len(set(taken)) == len(taken)
      assert not set(taken) & set(query)
    for few, many in itertools.permutations(group, 2):
      if few.contamination == many.contamination:
        if few.shots <= many.shots:
          assert set(few.normal) <= set(many.normal)
          assert set(few.contaminants) <= set(many.contaminants)
        if few.anomalies <= many.anomalies:
          assert set(few.anomalous) <= set(many.anomalous)
  assert len(queries) == 6


def test_a_draw_depends_only_on_seed_number_and_name():
  a, b = entity('a'), entity('b')

  def draws(everyone, **changes):
    cells, _ = tasks.draw_cells(everyone, GRID._replace(**changes))
    return {
      (everyone[c.entity].name, c.draw, *c.setting): tuple(map(tuple, c[5:]))
      for c in cells
    }

  both, alone, other = draws([a, b]), draws([b]), draws([b], seed=1)
  assert all(both[key] == alone[key] for key in alone)
  assert all(draws([b], draws=3)[key] == alone[key] for key in alone)
  assert any(other[key] != alone[key] for key in alone)
  setting = 4, 0, 0.0
  assert both['a', 0, *setting] != both['b', 0, *setting]
  assert both['a', 0, *setting] != both['a', 1, *setting]


def test_entities_too_small_are_left_out_with_a_note():
  everyone = [
    entity('clean', bads=0),
    entity('sick', goods=0),
    entity('short', normals=3),
    entity('calm', bads=2),
  ]
  cells, notes = tasks.draw_cells(everyone, Grid((2, 5), (0, 2), draws=2))
  kept = {(everyone[c.entity].name, c.shots, c.anomalies) for c in cells}
  assert kept == {
    ('short', 2, 0), ('short', 2, 2), ('calm', 2, 0), ('calm', 5, 0)
  }  # fmt: skip
  assert len(notes) == len(set(notes)) == 6
  for one in everyone:
    assert any(note.startswith(f'{one.name}:') for note in notes)
  assert all((everyone[c.entity].labels[c.query] == 1).any() for c in cells)


def test_shares_of_whole_rows_stay_whole():
  big = entity('big', 1, 200, 10, 60)
  for share, shots in ((0.07, 100), (0.14, 50), (0.28, 25), (0.3, 10)):
    cells, _ = tasks.draw_cells([big], Grid((shots,), (0,), (share,)))
    assert {len(c.contaminants) for c in cells} == {round(share * shots)}


@pytest.mark.parametrize(
  'change',
  [
    {'shots': ()}, {'shots': (0,)}, {'anomalies': (-1,)}, {'anomalies': ()},
    {'contamination': (0.6,)}, {'contamination': (float('nan'),)},
    {'draws': 0}, {'queries': 1}, {'seed': -1},
  ],
)  # fmt: skip
def test_impossible_grids(change):
  with pytest.raises(DataError, match=next(iter(change))):
    tasks.check_grid(Grid()._replace(**change))


def test_a_task_holds_the_rows_of_its_cell_and_no_label_of_the_query():
  one = entity('a', 2)
  cells, _ = tasks.draw_cells([one], GRID)
  triples = [tasks.rows_of(cell, one) for cell in cells]
  batch = tasks.as_task(triples, (8, 20, 5))
  for t, cell in enumerate(cells):
    places = np.concatenate([cell.contaminants, cell.anomalous])
    rows = np.concatenate([one.normal[cell.normal], one.query[places]])
    real = batch.support.mask[t] > 0
    np.testing.assert_array_equal(batch.support.x[t, real, :2], rows)
    labels = [0] * cell.shots + [1] * cell.anomalies
    np.testing.assert_array_equal(batch.support.y[t, real], labels)
    asked = batch.query.mask[t] > 0
    np.testing.assert_array_equal(
      batch.query.x[t, asked, :2], one.query[cell.query]
    )
    assert not batch.support.x[t, ~real].any()
    assert not batch.query.x[t, :, 2:].any()
  assert not batch.query.y.any()
  np.testing.assert_array_equal(batch.features, [[1, 1, 0, 0, 0]] * len(cells))


def one_by_one(learner, params, cells, everyone):
  """Scores of a loop over adapt and score, without padding."""
  for cell in cells:
    x, y, query = tasks.rows_of(cell, everyone[cell.entity])
    support = Rows(jnp.asarray(x), jnp.asarray(y), jnp.ones(len(x)))
    key, features = jax.random.key(0), jnp.ones(x.shape[1])
    yield score(learner, key, params, Task(support, query, features))


@functools.partial(fast.jit, static_argnums=0)
def score(learner, key, params, task):
  adapted = learner.adapt(key, params, task.support, task.features)
  return learner.score(adapted, task.query)


@pytest.mark.parametrize('widths', [(3, 3, 3), (3, 40)])
def test_scores_are_those_of_a_loop_over_adapt(widths):
  everyone = [table(f't{i}', width) for i, width in enumerate(widths)]
  cells, _ = tasks.draw_cells(everyone, GRID)
  learner, params = z_scores(None), {'scale': jnp.asarray(2.0)}
  found = tasks.score_cells(
    learner, params, cells, everyone, any_width=len(set(widths)) > 1,
    quiet=True,
  )  # fmt: skip
  expected = one_by_one(learner, params, cells[::5], everyone)
  for scores, wanted in zip(found[::5], expected, strict=True):
    np.testing.assert_allclose(scores, wanted, rtol=1e-4)


def test_a_batch_is_bounded_and_holds_one_shape():
  shapes = [(4, 8, 2), (4, 8, 2), (4, 8, 16)] * 3
  triple = np.zeros((2, 2)), np.zeros(2), np.zeros((5, 2))
  batches = []

  def score(places, batch):
    batches.append((batch.query.x.shape, tuple(places)))
    return jnp.broadcast_to(places[:, None], batch.query.y.shape)

  found = tasks.score_in_batches(
    score, shapes, lambda place: triple, elements=4 * 4 * 8 * 2, quiet=True
  )
  assert [values.tolist() for values in found] == [[i] * 5 for i in range(9)]
  assert batches == [
    ((4, 8, 2), (0, 1, 3, 4)),
    ((4, 8, 2), (6, 7, 7, 7)),
    *(((1, 8, 16), (i,)) for i in (2, 5, 8)),
  ]


def test_baselines_see_exactly_the_scaled_rows():
  everyone = [entity('a', 2), entity('bb', 2)]
  within = np.array([0.5, 3.0])
  prior = standardized.Prior(jnp.zeros(2), jnp.ones(2), jnp.asarray(within))
  cells, _ = tasks.draw_cells(everyone, GRID)
  triples = tasks.standardize_cells(prior, cells, everyone)
  for cell, (support, y, query, zero) in zip(cells, triples, strict=True):
    rows, labels, asked = tasks.rows_of(cell, everyone[cell.entity])
    normal = rows[labels == 0].astype(float)
    n = len(normal)
    deviation = np.sqrt((n * normal.var(0) + 5 * within**2) / (n + 5)) + 1e-6
    scale = lambda x: (x - normal.mean(0)) / deviation  # noqa: B023
    np.testing.assert_allclose(support, scale(rows), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(query, scale(asked), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(zero, scale(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(y, labels)


def test_baselines_see_tables_scaled_by_the_normals_alone():
  one = table('t', 4)
  one.normal[:, 1], one.query[:, 1] = 7, np.arange(16)  # constant in supports
  one.normal[:, 2] = np.nan  # never seen in it
  cells, _ = tasks.draw_cells([one], GRID._replace(contamination=(0.0,)))
  for cell, (support, y, query, zero) in zip(
    cells, tasks.scale_tables(cells, [one]), strict=True
  ):
    raw, labels, asked = tasks.rows_of(cell, one)
    np.testing.assert_array_equal(y, labels)
    assert support.shape == raw.shape and query.shape == asked.shape
    assert np.isfinite(support).all() and np.isfinite(query).all()
    normal = raw[labels == 0, 0].astype(float)
    median = np.nan_to_num(np.nanmedian(normal))
    fill = lambda v: np.where(np.isnan(v), median, v)  # noqa: B023
    mean, deviation = fill(normal).mean(), fill(normal).std() or 1
    expected = (fill(asked[:, 0]) - mean) / deviation
    np.testing.assert_allclose(query[:, 0], expected, rtol=1e-4, atol=1e-5)
    assert (support[labels == 0, 1:3] == 0).all()
    np.testing.assert_allclose(zero[0], -mean / deviation, rtol=1e-4)
    # What never varied still counts, but no more than that it differs.
    np.testing.assert_array_equal(query[:, 1], 5 * np.sign(asked[:, 1] - 7))
