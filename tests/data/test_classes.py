"""N-way and one-class episodes, on rows that say what they are."""

import fast
import jax
import numpy as np
import pytest

from metaad_jax.base import DataError, Entity
from metaad_jax.data import classes


def entities(count, rows=6, size=0):
  """Row r of entity e is e + r / 100; or an image with that in one corner."""
  made = []
  for e in range(count):
    x = np.float32(e + np.arange(rows)[:, None] / 100)
    if size:
      image = np.zeros((rows, size, size), np.float32)
      image[:, 0, 0] = 1 + x[:, 0]
      x = image
    labels = np.array([0, 1, 0, 0], np.int32)
    query = np.concatenate([x[3:4], 0 * x[:1] - 1, x[4:6]])
    made.append(Entity(str(e), x[:3], query, labels[: len(query)]))
  return made


def draw(episode, members, count=200):
  sample = classes.sampler(classes.pool(members, episode), episode)
  task = fast.jit(jax.vmap(sample))(jax.random.split(jax.random.key(0), count))
  return jax.tree.map(np.asarray, task)


def test_n_way_episodes_hold_distinct_classes_and_rows():
  task = draw(classes.Episode(3, 2, 4), entities(5))
  support, query = task.support.x[..., 0], task.query.x[..., 0]
  assert support.shape == (200, 6) and query.shape == (200, 12)
  everything = np.concatenate([support, query], 1)
  assert (everything > -0.5).all()  # the anomaly of an entity is in no class
  assert all(len(set(row)) == 18 for row in everything)  # no row twice
  for rows, each in ((task.support, 2), (task.query, 4)):
    assert (rows.y == np.repeat(np.arange(3), each)).all()
    assert (rows.mask == 1).all()
  whose = np.floor(everything + 1e-4)
  labels = np.concatenate([task.support.y, task.query.y], 1)
  for label in range(3):
    mine = np.where(labels == label, whose, np.nan)
    assert (np.nanmin(mine, 1) == np.nanmax(mine, 1)).all()
  first = whose[:, [0, 2, 4]]
  assert all(len(set(row)) == 3 for row in first)
  share = np.bincount(first.astype(int).ravel()) / 600
  np.testing.assert_allclose(share, 0.2, atol=0.06)  # 3.7 standard errors


def test_one_way_asks_about_other_classes():
  task = draw(classes.Episode(1, 3, 2), entities(4))
  support, query = (np.floor(r.x[..., 0] + 1e-4) for r in task[:2])
  assert (support == support[:, :1]).all() and (task.support.y == 0).all()
  assert (task.query.y == [0, 0, 1, 1]).all()
  assert ((query == support[:, :1]) == (task.query.y == 0)).all()
  assert (query[:, 2] != query[:, 3]).all()


def test_an_image_turned_is_of_another_class():
  task = draw(classes.Episode(4, 1, 2, turned=True), entities(1, size=3))
  corner = lambda x: np.stack(
    [x[..., 0, 0], x[..., 0, 2], x[..., 2, 2], x[..., 2, 0]], -1
  )
  where = corner(task.support.x).argmax(-1)
  assert all(sorted(row) == [0, 1, 2, 3] for row in where)
  assert len({tuple(row) for row in where}) > 20  # of 24 orders
  assert (corner(task.query.x).argmax(-1) == where.repeat(2, 1)).all()


@pytest.mark.parametrize('episode', [(5, 1, 1), (2, 3, 4), (1, 1, 4)])
def test_too_few_classes_or_rows_are_refused(episode):
  with pytest.raises(DataError, match='ask for fewer'):
    classes.pool(entities(4), classes.Episode(*episode))
