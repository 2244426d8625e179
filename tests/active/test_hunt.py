"""The hunt by hand: what a look tells, pays, and costs."""

import fast
import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest

from metaad_jax.active import hunt, policies
from metaad_jax.base import DataError

N, SIZE = 12, 16
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(N, 3))
LABELS = (np.arange(N) % 4 == 0).astype(float)
SCORES = RANDOM.normal(size=(N, 2))
STEP = fast.jit(hunt.step)


def column(seen, name):
  return np.asarray(seen)[..., list(hunt.LABELS).index(name) + 4]


@pytest.fixture(scope='module')
def params():
  table = hunt.prepare(X, SCORES, LABELS, SIZE)
  return hunt.Params(hunt.stack([table, table]), budget=4, cost=0.25)


def play(params, rows):
  seen, state = hunt.reset(jax.random.key(0), params)
  told = []
  for row in rows:
    seen, state, *rest = STEP(jax.random.key(0), state, row, params)
    told.append([np.asarray(part) for part in rest[:2]])
  return np.asarray(seen), state, told


def test_rewards_and_the_end(params):
  seen, state, told = play(params, [0, 1, 0, SIZE - 1])
  rewards, done = zip(*told, strict=True)
  # an anomaly, a normal, a row already seen, and padding
  assert_allclose(rewards, [0.75, -0.25, -0.25, -0.25])
  assert list(map(bool, done)) == [False, False, False, True]
  assert_allclose(state.counts, [1, 1])
  assert_array_equal(column(seen, 'open'), [0, 0] + [1] * 10 + [0] * 4)


def test_a_table_without_rows_left_is_over(params):
  _, _, told = play(params._replace(budget=100), range(N))
  assert [bool(done) for _, done in told] == [False] * (N - 1) + [True]
  assert_allclose(sum(reward for reward, _ in told), 3 - 0.25 * N)


def test_the_columns_are_meta_aads(params):
  seen, *_ = play(params, [0, 1, 4])  # anomalies 0 and 4, normal 1
  z = (X - X.mean(0)) / X.std(0)  # all components: distances are as in z
  away = np.linalg.norm(z[:, None] - z, axis=-1)
  scaled = (away - away.mean(1, keepdims=True)) / away.std(1, keepdims=True)
  for name, expected in (
    ('mean_normal', scaled[:, 1]),
    ('nearest_normal', scaled[:, 1]),
    ('mean_anomaly', scaled[:, [0, 4]].mean(1)),
    ('nearest_anomaly', scaled[:, [0, 4]].min(1)),
  ):
    assert_allclose(column(seen, name)[:N], expected, atol=2e-4)
  near = np.argsort(away, 1)[:, 1:6]
  assert_array_equal(
    column(seen, 'anomaly_beside')[:N], np.isin(near, [0, 4]).any(1)
  )
  assert_allclose(column(seen, 'hit_rate')[:N], 2 / 3)


def test_the_order_of_looks_does_not_matter(params):
  assert_allclose(
    play(params, [0, 1, 4])[0], play(params, [4, 0, 1])[0], atol=1e-5
  )


def test_padding_is_inert_and_units_do_not_matter(params):
  seen, *_ = play(params, [0, 1])
  table = hunt.prepare(3e4 * X + 7, 5 * SCORES - 2, LABELS, N)
  other, *_ = play(params._replace(tables=hunt.stack([table])), [0, 1])
  assert_allclose(seen[:N], other, atol=1e-3)
  assert not seen[N:].any()


def test_many_hunts_are_single_hunts(params):
  keys = jax.random.split(jax.random.key(1), 3)
  _, states = jax.vmap(hunt.reset, (0, None))(keys, params)
  actions = jnp.array([0, 3, 9])
  many = jax.vmap(hunt.step, (0, 0, 0, None))(keys, states, actions, params)
  for i in range(3):
    state = jax.tree.map(lambda leaf: leaf[i], states)  # noqa: B023
    one = STEP(keys[i], state, actions[i], params)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
      assert_allclose(a, b[i], atol=1e-5)


def test_missing_constant_and_huge_columns():
  x = np.column_stack([X, np.ones(N), np.full(N, np.nan), 1e30 * X[:, 0]])
  x[0, 0] = np.nan
  table = hunt.prepare(x, SCORES, LABELS)
  assert all(np.isfinite(leaf).all() for leaf in table)


@pytest.mark.parametrize(
  'x, scores', [(X[:1], SCORES[:1]), (X, SCORES[:3]), (X, SCORES + np.inf)]
)
def test_nonsense_is_refused(x, scores):
  with pytest.raises(DataError):
    hunt.prepare(x, scores)


def test_rules_see_open_rows_only(params):
  state = jax.vmap(lambda i: hunt.start(i, params.tables))(jnp.arange(2))
  for rule in policies.RULES.values():
    play = lambda key, rule=rule: policies.play(key, params, rule, state, N)
    steps = fast.jit(play)(jax.random.key(0))
    assert_array_equal(np.sort(steps.action[:, 0]), np.arange(N))
    assert_array_equal(steps.found[-1], [3, 3])
