"""An audit fires on what it is for, names the rows, and is quiet otherwise."""

import dataclasses
import re

import numpy as np
import pytest

from metaad_jax.base import DataError, Entity
from metaad_jax.data import audits
from metaad_jax.evaluation import tasks


def table(name, seed=0, *, levels=0, normals=100, goods=80, bads=40, **fields):
  """Measured values; with `levels`, whole numbers below it in 2 columns."""
  rng = np.random.default_rng(seed)
  count = normals + goods + bads
  rows = rng.normal(size=(count, 3))
  if levels:
    rows = rng.integers(levels, size=(count, 2))
  rows = rows.astype(np.float32)
  labels = np.repeat([0, 1], [goods, bads]).astype(np.int32)
  return Entity(name, rows[:normals], rows[normals:], labels, **fields)


def refusal(call, *args):
  with pytest.raises(DataError) as refused:
    call(*args)
  assert '\n' not in str(refused.value)
  return str(refused.value)


# --- splits ------------------------------------------------------------------


def test_a_digest_is_of_the_rows_and_not_of_their_order():
  one = table('a')
  order = np.random.default_rng(0).permutation(len(one.query))
  same = dataclasses.replace(
    one, name='b', normal=one.normal[::-1], query=one.query[order],
    labels=one.labels[order],
  )  # fmt: skip
  assert audits.digest(one) == audits.digest(same)
  negative = one.query.copy()
  negative[0, 0] = np.nextafter(negative[0, 0], np.float32(9))
  changed = dataclasses.replace(one, query=negative)
  wide = dataclasses.replace(
    one, normal=one.normal.reshape(50, 6), query=one.query.reshape(60, 6)
  )
  assert len({audits.digest(e) for e in (one, changed, wide)}) == 3


@pytest.mark.parametrize(
  ('intruder', 'what'),
  [
    (table('a', 9), 'name'),
    (table('x', 9, group='g'), 'group'),
    (table('x', 1), 'rows'),
  ],
)
@pytest.mark.parametrize('side', ['validation', 'test'])
def test_what_is_on_two_sides_is_named(intruder, what, side):
  split = {'train': [table('a', 1, group='g')], 'validation': [], 'test': []}
  split[side] = [table('c', 3), intruder]
  told = refusal(audits.sides, split)
  assert f'same {what}' in told and "'a' (train)" in told
  assert f'{intruder.name!r} ({side})' in told


def test_who_was_trained_on_is_no_test():
  seen = {audits.digest(table('a', 1)), audits.digest(table('b', 2))}
  audits.unseen([table('a', 3), table('b', 4)], seen)  # new rows, old names
  audits.unseen([table('a', 1)], frozenset())  # a run that did not say
  told = refusal(audits.unseen, [table('new', 3), table('x', 2)], seen)
  assert '1 of 2' in told and 'x' in told and 'new' not in told


# --- anomalies that are copies -----------------------------------------------


def test_copies_among_anomalies_are_told_and_coincidence_is_not():
  clean = table('clean')
  assert audits.repeated_anomalies([clean]) == []
  coarse = table('coarse', levels=4)
  assert audits.repeated_anomalies([coarse]) == []
  query = clean.query.copy()
  query[82:89] = query[81]
  copied = dataclasses.replace(clean, name='copied', query=query)
  (note,) = audits.repeated_anomalies([clean, coarse, copied])
  assert 'copied (8 of 40, rows 81 = 82, ...)' in note
  assert 'clean' not in note and 'coarse' not in note
  query = clean.query.copy()
  query[1:30] = query[0]  # normal rows
  same = dataclasses.replace(clean, query=query)
  assert audits.repeated_anomalies([same]) == []


# --- copies ------------------------------------------------------------------


@pytest.mark.parametrize('levels', [0, 2, 5, 20, 60])
@pytest.mark.parametrize('normals', [5, 20, 100, 400])
def test_rows_repeat_by_chance_and_that_is_no_leak(levels, normals):
  make = lambda seed: table(f't{seed}', seed, levels=levels, normals=normals)
  audits.shared_rows([make(seed) for seed in range(40)])


@pytest.mark.parametrize('levels', [0, 60])
def test_copies_between_support_and_query_are_named(levels):
  leaky = table('pump', 1, levels=levels)
  leaky.query[:30] = leaky.normal[40:70]
  told = refusal(audits.shared_rows, [table('clean', 2), leaky])
  assert told.startswith('pump:') and '40 = 0, 41 = 1' in told
  assert int(re.search(r'(\d+) of its 80', told)[1]) >= 30


def test_copies_of_nothing_and_minus_nothing():
  leaky = table('pump', 1)
  leaky.normal[:, 0], leaky.query[:, 0] = 0.0, -0.0
  leaky.query[:30, 1:] = leaky.normal[:30, 1:]
  assert '0 = 0' in refusal(audits.shared_rows, [leaky])


@pytest.mark.parametrize('levels', [0, 2, 5, 20, 60])
def test_entities_alike_by_chance_share_no_recording(levels):
  make = lambda seed: table(
    f't{seed}', seed, levels=levels, normals=20 * 2 ** (seed % 5)
  )
  audits.across([make(seed) for seed in range(30)])


@pytest.mark.parametrize('levels', [0, 60])
def test_entities_that_overlap_are_named_unless_of_one_group(levels):
  one = table('one', 1, levels=levels)
  two = table('two', 2, levels=levels)
  two.normal[10:60] = one.query[:50]
  told = refusal(audits.across, [table('clean', 3, levels=levels), one, two])
  assert "'one'" in told and "'two'" in told
  audits.across([dataclasses.replace(e, group='rig') for e in (one, two)])


# --- tasks -------------------------------------------------------------------

GRID = tasks.Grid((2, 5), (0, 3), (0.0, 0.2), draws=2, queries=20)


def test_drawn_tasks_pass_and_wrong_ones_are_named():
  everyone = [table('a', 1), table('b', 2)]
  cells, _ = tasks.draw_cells(everyone, GRID)
  audits.cells(cells, everyone)
  full = next(c for c in cells if c.anomalies and len(c.contaminants))
  normal = int(np.flatnonzero(everyone[0].labels == 0)[3])
  for change, told in (
    ({'query': np.append(full.query, full.anomalous[1])}, 'twice'),
    ({'query': np.append(full.query, full.contaminants[0])}, 'twice'),
    ({'query': np.append(full.query, full.query[5])}, 'twice'),
    ({'contaminants': full.anomalous[:1]}, 'twice'),
    ({'normal': np.append(full.normal, full.normal[0])}, 'twice'),
    ({'anomalous': full.anomalous[:2]}, 'fewer than asked'),
    ({'anomalous': np.append(full.anomalous[:2], normal)}, 'fewer than asked'),
    ({'normal': full.normal[:-1]}, 'fewer than asked'),
  ):
    query = change.get('query', full.query)
    if normal in change.get('anomalous', ()):
      query = np.setdiff1d(query, [normal])
    wrong = full._replace(**{**change, 'query': query})
    message = refusal(audits.cells, [*cells, wrong], everyone)
    assert told in message and message.startswith('a, draw')


def test_more_anomalies_than_anybody_has():
  everyone = [table('a', bads=2), table('b', bads=4)]
  audits.enough_anomalies(everyone, (0, 3), 'train')
  told = refusal(audits.enough_anomalies, everyone, (0, 4), 'train')
  assert 'b has most with 4' in told and '[80, 81, 82, 83]' in told


def test_constant_scores_of_a_set_of_cells():
  everyone = [table('a', 1), table('b', 2)]
  cells, _ = tasks.draw_cells(
    everyone, GRID._replace(shots=(1, 5), contamination=(0.0,))
  )
  rng = np.random.default_rng(0)
  scores = [rng.random(len(cell.query)) for cell in cells]
  flat = lambda chosen: [
    np.full(len(s), 0.5) if chosen(c) else s
    for c, s in zip(cells, scores, strict=True)
  ]
  audits.constant('knn', cells, scores, everyone)
  # One row to compare with, or one table, may leave nothing to say.
  for chosen in (lambda c: c.shots == 1, lambda c: c.entity == 0):
    audits.constant('knn', cells, flat(chosen), everyone)
  dead = flat(lambda c: c.shots == 5 and c.anomalies == 3)
  told = refusal(audits.constant, 'knn', cells, dead, everyone)
  assert told.startswith('knn: all 4 tasks of 5 shots and 3 anomalies')
  first = next(c for c in cells if c.shots == 5 and c.anomalies == 3)
  assert f'query rows {first.query[:5].tolist()} of a' in told
