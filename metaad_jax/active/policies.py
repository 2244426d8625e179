"""Who decides which row is looked at: by rule, or learned over many tables.

A policy is (key, observation [N, F]) -> preferences [N]; the open row that is
preferred most is looked at next.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metaad_jax.active import hunt

Policy = Callable[[jax.Array, jax.Array], jax.Array]
_COLUMN = {name: i - len(hunt.LABELS) for i, name in enumerate(hunt.LABELS)}


def _of(seen, name):
  return seen[:, _COLUMN[name]]


def _first(seen):
  """Mean rank of the first scores."""
  ranks = (seen.shape[1] - len(hunt.LABELS)) // 2
  return seen[:, :ranks].mean(1)


def greedy(which: int | None = None) -> Policy:
  """Top down by first score number `which`; None = by their mean rank."""
  return lambda key, seen: _first(seen) if which is None else seen[:, which]


def random(key: jax.Array, seen: jax.Array) -> jax.Array:
  """Any row."""
  return jax.random.uniform(key, seen.shape[:1])


def feedback(key: jax.Array, seen: jax.Array) -> jax.Array:
  """The first score, moved by what the looks told of the rows around."""
  del key
  votes = _of(seen, 'votes_anomaly') - _of(seen, 'votes_normal')
  return _first(seen) + 2 * votes


def uncertainty(key: jax.Array, seen: jax.Array) -> jax.Array:
  """Nearest to the boundary: the 95th percentile, moved as in `feedback`."""
  return -jnp.abs(feedback(key, seen) - 1.64)


def diversity(key: jax.Array, seen: jax.Array) -> jax.Array:
  """Farthest from all rows looked at; the first by score."""
  del key
  names = ('nearest_normal', 'nearest_anomaly')
  known = jnp.stack([_of(seen, f'seen_{n}') > 0 for n in ('normal', 'anomaly')])
  near = jnp.stack([_of(seen, name) for name in names])
  least = jnp.where(known, near, jnp.inf).min(0)
  return jnp.where(known.any(0), least, _first(seen))


RULES: dict[str, Policy] = {
  'greedy': greedy(), 'random': random, 'feedback': feedback,
  'uncertainty': uncertainty, 'diversity': diversity,
}  # fmt: skip


def meta_aad_columns(which: int, scores: int) -> tuple[int, ...]:
  """The columns that Meta-AAD's agent sees, with first score `which`."""
  start = 2 * scores
  return scores + which, *range(start, start + 5)


def network(params: dict[str, Any], seen: jax.Array) -> jax.Array:
  """[N] preferences: a line through the columns and two hidden layers."""
  x = jnp.where(params['columns'] > 0, seen, 0)
  hidden = jax.nn.relu(x @ params['in'] + params['bias'])
  hidden = jax.nn.relu(hidden @ params['middle'])
  return x @ params['line'] + hidden @ params['out']


def learned(params: dict[str, Any]) -> Policy:
  """The policy of parameters that `train` returned."""
  return lambda key, seen: network(params, seen)


def init(key, scores: int, columns=None, width: int = 16) -> dict[str, Any]:
  """Parameters that look top down, by the mean of the ranks.

  Args:
    key: of the hidden layers.
    scores: how many detectors give a first score.
    columns: those of the observation that may be used; None = all.
    width: of the hidden layers.
  """
  size = 2 * scores + len(hunt.LABELS)
  used = jnp.ones(size) if columns is None else jnp.zeros(size)
  used = used if columns is None else used.at[jnp.array(columns)].set(1.0)
  line = used * (jnp.arange(size) < (scores if columns is None else 2 * scores))
  draw = lambda key, rows: jax.random.normal(key, (rows, width)) / rows**0.5
  keys = jax.random.split(key)
  return {
    'columns': used, 'line': 2 * line / line.sum(), 'bias': jnp.zeros(width),
    'in': draw(keys[0], size), 'middle': draw(keys[1], width),
    'out': jnp.zeros(width),
  }  # fmt: skip


class Steps(NamedTuple):
  """Of hunts [H] over looks [L]."""

  seen: jax.Array  # [L, H, N, F]
  action: jax.Array  # [L, H]
  reward: jax.Array  # [L, H]
  found: jax.Array  # [L, H] anomalies so far


def _open(seen, preferences):
  return jnp.where(seen[..., _COLUMN['open']] > 0, preferences, -1e9)


def play(
  key: jax.Array, params: hunt.Params, policy: Policy, states: hunt.State,
  looks: int, *, sample: bool = False, keep: bool = False,
) -> Steps:  # fmt: skip
  """Hunts from `states` (leading axis H), `looks` looks each.

  Args:
    key: of the policy's draws.
    params: of the environment.
    policy: see the module.
    states: where each hunt starts.
    looks: static.
    sample: rows are drawn by the softmax of the preferences.
    keep: the observations are wanted.
  """

  def one(state, key):
    seen = hunt.observe(state, params)
    keys = jax.random.split(key)
    wanted = _open(seen, policy(keys[0], seen))
    if sample:
      wanted += jax.random.gumbel(keys[1], wanted.shape)
    action = jnp.argmax(wanted)
    _, state, reward, _, info = hunt.step(key, state, action, params)
    steps = Steps(
      seen if keep else jnp.zeros(()), action, reward, info['found']
    )
    return state, steps

  def look(states, key):
    keys = jax.random.split(key, len(states.table))
    return jax.vmap(one)(states, keys)

  return jax.lax.scan(look, states, jax.random.split(key, looks))[1]


def train(
  key: jax.Array, env: hunt.Params, params: dict[str, Any], *,
  iterations: int = 300, tables: int = 16, hunts: int = 8, looks: int = 20,
  epochs: int = 2, discount: float = 1.0, rate: float = 3e-3,
  report: Callable[[int, float], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
  """Meta-learns a policy over the tables of `env`, by PPO.

  In every iteration `tables` tables are drawn, and hunted `hunts` times each.
  What a look is worth is the discounted reward from there on, less the mean of
  the same table's other hunts, so that no value network is needed. The clipped
  surrogate (Schulman et al., 2017, arXiv 1707.06347) is climbed `epochs` times;
  once = REINFORCE.

  Args:
    key: of everything random.
    env: of the environment.
    params: where to start; see `init`.
    iterations, tables, hunts, looks, epochs, discount: as above.
    rate: of Adam.
    report: called with the iteration and the mean of anomalies found.
  """
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))

  @jax.jit
  def iteration(key, moving, fixed, state):
    keys = jax.random.split(key)
    which = jax.random.randint(keys[0], (tables,), 0, len(env.tables.x))
    begin = jax.vmap(lambda table: hunt.start(table, env.tables))
    states = begin(jnp.repeat(which, hunts))
    policy = learned({**fixed, **moving})
    steps = play(keys[1], env, policy, states, looks, sample=True, keep=True)
    worth = _worth(steps.reward, discount).reshape(looks, tables, hunts)
    rest = (worth.sum(-1, keepdims=True) - worth) / (hunts - 1)
    advantage = (worth - rest).reshape(looks, -1)
    advantage /= advantage.std() + 1e-6
    old = _log_chances({**fixed, **moving}, steps)

    def climb(carry, _):
      moving, state = carry
      slope = jax.grad(_surrogate)(moving, fixed, steps, old, advantage)
      updates, state = optimizer.update(slope, state)
      return (optax.apply_updates(moving, updates), state), None

    carry, _ = jax.lax.scan(climb, (moving, state), length=epochs)
    return *carry, steps.found[-1].mean()

  fixed = {'columns': params['columns']}
  moving = {k: v for k, v in params.items() if k != 'columns'}
  state = optimizer.init(moving)
  for i in range(iterations):
    key, now = jax.random.split(key)
    moving, state, found = iteration(now, moving, fixed, state)
    if report is not None:
      report(i, float(found))
  return {**fixed, **moving}


def _surrogate(moving, fixed, steps, old, advantage):
  """PPO's clipped loss of the actions of `steps`."""
  now = _log_chances({**fixed, **moving}, steps)
  ratio = jnp.exp(now - old)
  clipped = jnp.clip(ratio, 0.8, 1.2)
  return -jnp.minimum(ratio * advantage, clipped * advantage).mean()


def _log_chances(params, steps):
  """[L, H] logarithm of the chance of each action; one look at a time."""

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def of_look(look):
    seen, action = look
    logits = _open(seen, network(params, seen))
    logs = jax.nn.log_softmax(logits)
    return jnp.take_along_axis(logs, action[:, None], 1)[:, 0]

  return jax.lax.map(of_look, (steps.seen, steps.action))


def _worth(reward, discount):
  def back(later, now):
    total = now + discount * later
    return total, total

  return jax.lax.scan(back, jnp.zeros_like(reward[0]), reward, reverse=True)[1]
