"""Policies: where they start, what a look is worth, and that they learn."""

import fast
import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from metaad_jax.active import hunt, policies


def test_worth_is_the_discounted_reward_from_there_on():
  reward = jnp.array([[1.0], [0.0], [2.0]])
  worth = policies._worth(reward, 0.5)
  assert_allclose(worth[:, 0], [1 + 0 + 0.5, 1.0, 2.0])


def tables(count, size, random):
  """Tables in which the second score tells and the first does not."""
  made = []
  for _ in range(count):
    labels = np.arange(size) < size // 4
    x = random.normal(size=(size, 4))
    scores = np.column_stack([random.normal(size=size), random.random(size)])
    scores[:, 1] += 0.7 * labels
    made.append(hunt.prepare(x, scores, labels, size))
  return hunt.Params(hunt.stack(made))


def test_a_policy_starts_greedy_and_learns_which_score_tells():
  random = np.random.default_rng(0)
  env, new = tables(8, 32, random), tables(16, 32, random)
  start = policies.init(jax.random.key(0), 2)
  begin = jax.vmap(lambda i: hunt.start(i, new.tables))(jnp.arange(16))

  def hunts(policy):
    play = lambda key: policies.play(key, new, policy, begin, 6)
    return fast.jit(play)(jax.random.key(1))

  greedy = hunts(policies.greedy())
  assert_array_equal(greedy.action, hunts(policies.learned(start)).action)
  trained = policies.train(
    jax.random.key(2), env, start, iterations=40, tables=8, hunts=4, looks=6,
    rate=1e-2,
  )  # fmt: skip
  found = hunts(policies.learned(trained)).found[-1].mean()
  assert found > greedy.found[-1].mean() + 0.5


def test_meta_aad_sees_six_columns():
  columns = policies.meta_aad_columns(0, 2)
  params = policies.init(jax.random.key(0), 2, columns)
  assert params['columns'].sum() == 6
  seen = jax.random.normal(jax.random.key(1), (5, len(params['columns'])))
  wanted = policies.network(params, seen)
  assert_array_equal(np.argsort(wanted), np.argsort(seen[:, 2]))
