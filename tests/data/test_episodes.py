"""Splits that do not leak, and tasks whose every row can be traced."""

import collections
import dataclasses

import fast
from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaad_jax.base import DataError, Entity
from metaad_jax.data import episodes, splitting
from metaad_jax.data.episodes import Episode


def entity(name, normals=3, goods=2, bads=2, base=0.0, **fields):
  """Rows [x, kind]: x unlike any other row's, kind 0 pool, 1 query, 2 bad."""
  counts = (normals, goods, bads)
  rows = [
    np.stack([base + 0.01 * np.arange(n) + 0.3 * k, np.full(n, k)], -1)
    for k, n in enumerate(counts)
  ]
  return Entity(
    name,
    rows[0].astype(np.float32),
    np.concatenate(rows[1:]).astype(np.float32),
    np.repeat([0, 1], counts[1:]).astype(np.int32),
    **fields,
  )


def grouped(**fields):
  ((name, values),) = fields.items()
  return [
    entity(n, group='g', **{name: value})
    for n, value in zip('ab', values, strict=True)
  ]


def group(e):
  return e.group or e.name


# --- splits ------------------------------------------------------------------

MEMBER = st.tuples(
  st.sampled_from(['', 'g1', 'g2', 'g3', 'g4']),
  st.sampled_from(['', 'left', 'right']),
  st.sampled_from(['', '', 'train', 'test']),
)


@settings(deadline=None, max_examples=300)
@given(
  st.lists(MEMBER, min_size=1, max_size=12),
  st.sampled_from(['0', '1', '2', 'left', 'right', 'nowhere', '-1', '²', '']),
  st.integers(0, 3),
)
def test_a_split_is_a_partition_by_group_or_a_refusal(members, fold, seed):
  everyone = [
    entity(f'e{i}', group=g, fold=f, side=s)
    for i, (g, f, s) in enumerate(members)
  ]
  try:
    sides = splitting.split(everyone, fold=fold, folds=3, seed=seed)
  except DataError as error:
    assert '\n' not in str(error)
    return
  homes = {side: {group(e) for e in found} for side, found in sides.items()}
  assert list(sides) == ['train', 'validation', 'test']
  assert all(homes.values())
  assert not homes['train'] & homes['validation']
  assert not (homes['train'] | homes['validation']) & homes['test']
  count = collections.Counter(e.name for found in sides.values() for e in found)
  assert set(count.values()) == {1}
  for e in everyone:
    left_out = (e.side == 'train' and group(e) in homes['test']) or (
      e.side == 'test' and (group(e) in homes['train'] | homes['validation'])
    )
    if e.name not in count and not left_out:
      # Its group serves on the other side, and has nobody who may.
      mates = {m.side for m in everyone if group(m) == group(e)}
      assert len(mates) == 1 and e.side
  assert all(
    e.side != 'test' for k in ('train', 'validation') for e in sides[k]
  )
  assert all(e.side != 'train' for e in sides['test'])


def test_dealt_folds_test_every_entity_once():
  everyone = [entity(f'e{i}', group=f'g{i // 2}') for i in range(30)]
  tested = [
    e.name
    for fold in splitting.fold_names(everyone, 5)
    for e in splitting.split(everyone, fold=fold, folds=5)['test']
  ]
  assert sorted(tested) == sorted(e.name for e in everyone)
  sides = splitting.split(everyone, fold='0', folds=5)
  assert [len({group(e) for e in sides[k]}) for k in sides] == [10, 2, 3]
  names = lambda seed: [
    e.name for e in splitting.split(everyone, seed=seed)['test']
  ]
  assert names(0) == names(0) and names(0) != names(1)


def test_without_a_fold_all_are_trained_on():
  everyone = [entity(f'e{i}', fold='abc'[i % 3]) for i in range(10)]
  sides = splitting.split(everyone, fold='none')
  assert sides['train'] == everyone and not sides['test']
  assert len(sides['validation']) == 2


def test_a_named_fold_is_the_test_side():
  everyone = [entity(f'e{i}', fold='abc'[i % 3]) for i in range(9)]
  assert splitting.fold_names(everyone, 5) == ['a', 'b', 'c']
  sides = splitting.split(everyone, fold='b')
  assert {e.fold for e in sides['test']} == {'b'} and len(sides['test']) == 3
  assert {e.fold for e in sides['train'] + sides['validation']} == {'a', 'c'}


def test_entities_with_a_side_each_are_split_already():
  everyone = [
    entity(f'e{i}', side='test' if i < 4 else 'train') for i in range(12)
  ]
  assert splitting.fold_names(everyone, 5) == ['0']
  sides = splitting.split(everyone)
  assert [e.name for e in sides['test']] == ['e0', 'e1', 'e2', 'e3']


def test_entities_for_testing_only_take_no_place_in_validation():
  everyone = [entity(f'e{i}', fold='a') for i in range(2)]
  everyone += [entity(f't{i}', fold='b', side='test') for i in range(20)]
  everyone += [entity(f'e{i}', fold='b') for i in range(2, 6)]
  for seed in range(20):
    sides = splitting.split(everyone, fold='a', seed=seed)
    assert len(sides['train']) == 3 and len(sides['validation']) == 1


@pytest.mark.parametrize(
  ('everyone', 'fold', 'told'),
  [
    ([entity('a'), entity('b')], '5', "no fold '5'"),
    ([entity('a'), entity('b')], 'x', "no fold 'x'"),
    ([entity('a', fold='p'), entity('b', fold='q')], 'x', 'p, q'),
    ([entity('a')], '0', 'too few'),
    ([*grouped(fold='pq'), entity('c', fold='q')], 'p', "group 'g'"),
    (grouped(side=('train', 'test')), '0', "group 'g'"),
  ],
)
def test_splits_that_cannot_be(everyone, fold, told):
  with pytest.raises(DataError, match=told):
    splitting.split(everyone, fold=fold)


# --- features ----------------------------------------------------------------


def test_featurize_keeps_rows_labels_and_order_across_chunks():
  everyone = [
    entity('a', normals=300, goods=1, bads=0),
    entity('b', normals=1, goods=0, bads=270, base=50.0),
  ]
  double = lambda row: jnp.stack([2 * row[0], row[1], row[0] + row[1]])
  for old, new in zip(
    everyone, episodes.featurize(everyone, double), strict=True
  ):
    for part in ('normal', 'query'):
      rows = getattr(old, part)
      expected = np.stack([2 * rows[:, 0], rows[:, 1], rows.sum(1)], -1)
      np.testing.assert_allclose(getattr(new, part), expected, rtol=1e-6)
    assert new.labels is old.labels and new.name == old.name


def test_column_statistics_by_hand():
  rows = lambda *values: np.array(values, np.float32)[:, None]
  make = lambda name, normal: dataclasses.replace(entity(name), normal=normal)
  # Means 1 and 5 and variances 1 and 4, however many rows there are.
  everyone = [make('a', rows(0, 2)), make('b', rows(3, 7, 3, 7, 3, 7))]
  centre, between, within = episodes.column_statistics(everyone)
  np.testing.assert_allclose(centre, [3])
  np.testing.assert_allclose(within, [np.sqrt((1 + 4) / 2)], rtol=1e-6)
  power = (np.mean([0, 4]) + np.mean([9, 49])) / 2
  np.testing.assert_allclose(between, [np.sqrt(power - 9)], rtol=1e-6)


# --- tasks -------------------------------------------------------------------

RICH = Episode((2, 4), (0, 2), (0.0, 0.5), query_normals=3, query_anomalies=3)


def draw(pools, episode, count=200, seed=0):
  """Many tasks, as NumPy arrays."""
  sample = episodes.from_pools(pools, episode)
  keys = jax.random.split(jax.random.key(seed), count)
  return jax.tree.map(np.asarray, fast.jit(jax.vmap(sample))(keys))


def tasks_of(batch):
  for t in range(len(batch.features)):
    yield jax.tree.map(lambda leaf: leaf[t], batch)  # noqa: B023


def test_every_row_is_of_its_pool_and_of_one_entity_and_none_comes_twice():
  pools = episodes.pool(
    [entity(f'e{i}', 12, 9, 14, base=10.0 * i) for i in range(3)]
  )
  seen = collections.Counter()
  for task in tasks_of(draw(pools, RICH)):
    support, query = task.support, task.query
    real = support.mask > 0
    kind = support.x[:, 1]
    assert (query.mask == 1).all()
    assert (query.x[:, 1] == 1 + query.y).all()
    assert (kind[real & (support.y == 1)] == 2).all()
    assert not (kind[real & (support.y == 0)] == 1).any()
    values = np.concatenate([support.x[real, 0], query.x[:, 0]])
    assert len(set(values.tolist())) == len(values)
    owner = set((values // 10).astype(int).tolist())
    assert len(owner) == 1
    shots = int((support.mask * (1 - support.y)).sum())
    anomalies = int((support.mask * support.y).sum())
    dirty = int((kind[real & (support.y == 0)] == 2).sum())
    seen[shots, anomalies, dirty] += 1
    seen[owner.pop()] += 1
  # Contaminants are a half of the shots, or none, each half of the time.
  assert set(k for k in seen if isinstance(k, tuple)) == {
    (k, a, c) for k in (2, 4) for a in (0, 2) for c in (0, k // 2)
  }
  assert all(seen[i] > 35 for i in range(3))
  assert all(n > 8 for n in seen.values())


def test_shares_that_are_no_whole_number_of_rows_hold_on_average():
  pools = episodes.pool([entity('e', 20, 9, 30)])
  episode = Episode((5,), (0,), (0.25,), 2, 2)
  batch = draw(pools, episode, 4000)
  dirty = (batch.support.x[..., 1] == 2).sum(1)
  assert set(dirty.tolist()) == {1, 2}
  error = np.sqrt(0.25 * 0.75 / 4000)
  assert abs(dirty.mean() - 1.25) < 5 * error
  assert (batch.support.y == 0).all()


def test_all_rows_are_drawn_equally_often():
  pools = episodes.pool([entity('e', 6, 5, 7)])
  batch = draw(pools, Episode((2,), (1,), (0.0,), 2, 2), 6000)
  for values, kind, of, size in (
    (batch.support.x, 0, 2, 6),
    (batch.query.x, 1, 2, 5),
    (batch.query.x, 2, 2, 7),
    (batch.support.x, 2, 1, 7),
  ):
    index = (values[..., 0] - 0.3 * kind) / 0.01
    index = np.round(index[values[..., 1] == kind]).astype(int)
    share = of / size
    expected, error = 6000 * share, np.sqrt(6000 * share * (1 - share))
    assert (
      abs(np.bincount(index, minlength=size) - expected) < 5 * error
    ).all()


def test_small_pools_pad_and_serve_the_query_first():
  pools = episodes.pool(
    [entity('big', 9, 9, 20), entity('tiny', 2, 1, 4, 10.0)]
  )
  episode = Episode((5,), (3,), (0.4,), 4, 3)
  counts = set()
  for task in tasks_of(draw(pools, episode)):
    support, query = task.support, task.query
    masks = [
      support.mask[:5].sum(), support.mask[5:].sum(),
      query.mask[:4].sum(), query.mask[4:].sum(),
    ]  # fmt: skip
    tiny = bool(query.x[query.mask > 0, 0].max() > 9)
    counts.add((tiny, *map(int, masks)))
    real = np.concatenate([support.mask, query.mask]) > 0
    values = np.concatenate([support.x, query.x])[real, 0]
    assert len(set(values.tolist())) == len(values)
    if tiny:
      assert (values > 9).all()  # zeros of the padding never count
  # Of 4 anomalies 3 go to the query, 1 is labelled, and none contaminates.
  assert counts == {(False, 5, 3, 4, 3), (True, 2, 1, 1, 3)}


def test_pool_leaves_out_who_has_nothing_to_score_and_thins():
  good = entity('good', 100, 3, 3)
  pools = episodes.pool(
    [entity('a', 3, 2, 0), entity('b', 3, 0, 2), entity('c', 0), good], limit=10
  )
  assert pools.counts.tolist() == [[10, 3, 3]]
  kept = np.asarray(pools.normal[0, :, 0])
  assert kept[0] == good.normal[0, 0] and kept[-1] == good.normal[-1, 0]
  assert (np.diff(kept) > 0.09).all()
  with pytest.raises(DataError, match='none of the entities'):
    episodes.pool([entity('a', 3, 2, 0)])


def test_a_simulator_gives_a_new_machine_to_every_task():
  def generate(key, normals, anomalies):
    """Windows [2, 1] of (machine, number); anomalies are negative."""
    machine = jax.random.uniform(key)
    make = lambda n, sign: (
      sign * jnp.stack([jnp.full(n, machine), jnp.arange(1.0, n + 1)], -1)
    )
    return make(normals, 1)[..., None], make(anomalies, -1)[..., None]

  sample = episodes.from_simulator(generate, lambda w: w[:, 0], RICH)
  keys = jax.random.split(jax.random.key(0), 100)
  batch = fast.jit(jax.vmap(sample))(keys)
  machines = set()
  for task in tasks_of(jax.tree.map(np.asarray, batch)):
    support, query = task.support, task.query
    x = np.concatenate([support.x[support.mask > 0], query.x])
    assert len({row.tobytes() for row in x}) == len(x)
    assert ((query.x < 0).all(1) == (query.y == 1)).all()
    assert (support.x[support.y == 1] < 0).all()
    assert len(set(abs(x[:, 0]).tolist())) == 1
    machines.add(float(abs(x[0, 0])))
  assert len(machines) == 100
  dirty = (batch.support.x[..., 0] < 0) * (batch.support.y == 0)
  shots = batch.support.mask * (1 - batch.support.y)
  assert 0.15 < (dirty * shots).sum() / shots.sum() < 0.35


def test_unverified_rows_hide_anomalies():
  """Verified rows are clean; who is bad among the others is told to losses."""
  one = entity('a', normals=40, goods=10, bads=20)
  pools = episodes.pool([one])
  wanted = Episode((0, 3), (0, 2), (0.0, 0.5), 4, 4, unverified=(0, 8))
  sample = fast.jit(episodes.from_pools(pools, wanted))
  seen = set()
  for seed in range(40):
    task = jax.tree.map(np.asarray, sample(jax.random.key(seed)))
    x, y, mask = task.support
    used = mask > 0
    bad = x[:, 1] == 2
    np.testing.assert_array_equal(y, np.repeat([0, 0.5, 1], [3, 8, 2]))
    np.testing.assert_array_equal(
      bad[:11] & used[:11], (task.hidden * mask)[:11]
    )
    assert not (bad & used)[:3].any() and bad[11:][used[11:]].all()
    assert not task.hidden[11:].any() and used[:11].any()
    rows = x[used].tolist() + task.query.x[task.query.mask > 0].tolist()
    assert len(rows) == len({tuple(row) for row in rows})
    share = task.hidden[3:11].sum() * used[3]
    seen.add((used[:3].sum(), used[3:11].sum(), share))
  assert {(k, u) for k, u, _ in seen} == {(0, 8), (3, 0), (3, 8)}
  assert {share for *_, share in seen} == {0, 4}


def test_clean_rows_may_be_said_to_be_checked():
  """All of them or none; never beside verified rows, never dirty ones."""
  pools = episodes.pool([entity('a', normals=40, goods=10, bads=20)])
  wanted = Episode(
    (0, 3), (0,), (0.0, 0.5), 4, 4, unverified=(4, 8), checked=0.5
  )
  sample = fast.jit(episodes.from_pools(pools, wanted))
  told = []
  for seed in range(60):
    task = jax.tree.map(np.asarray, sample(jax.random.key(seed)))
    x, y, mask = task.support
    beside = y[3:11][mask[3:11] > 0]
    assert len(set(beside)) == 1
    clean = not ((x[:, 1] == 2) & (mask > 0)).any() and not mask[0]
    assert clean or beside[0] == 0.5
    told += [beside[0] == 0] * clean
  assert 0.2 < np.mean(told) < 0.8
