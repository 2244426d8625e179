"""What of the comparisons of a series makes up its score, learned over many.

A task is a recording: a healthy beginning, and labelled time stamps after it.
The score is a sum, with weights that are not negative, of the components of
`subsequences` averaged over several widths; the weights are those that make the
average precision highest, on the mean over tasks. Few and positive, so that
what was learned on some archives holds on others.
"""

from collections.abc import Sequence
import hashlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metaad_jax.features import subsequences

FOLDS = 5
_KEPT = {'anomalous': 48, 'high': 96, 'middle': 48, 'easy': 48}
_SHARPNESS = 6.0  # of the steps that ranks are smoothed by
_PENALTY = 0.003  # of the sum of weights
_EXCESS = 0.5  # share of the weight that what no healthy window reaches gets


class Task(NamedTuple):
  """Time stamps of a recording.

  Attributes:
    anomalous: [m, K] components of anomalous ones.
    normal: [n, K] of normal ones, most of them near the top.
    shares: [n] how many of the normal ones each stands for, sum 1.
    rate: share of anomalous ones in the recording.
  """

  anomalous: np.ndarray
  normal: np.ndarray
  shares: np.ndarray
  rate: float


def fold(group: str) -> int:
  """Of a group of recordings, the same everywhere."""
  return int(hashlib.md5(group.encode()).hexdigest(), 16) % FOLDS


def task(
  components: np.ndarray, labels: np.ndarray, random: np.random.Generator
) -> Task:
  """Draws from a recording.

  Args:
    components: [COMPONENTS, WIDTHS, T] of `subsequences.spread`.
    labels: [T] bool, some true and some not.
    random: draws.
  """
  x = components.reshape(-1, components.shape[-1]).T
  normal = np.flatnonzero(~labels)
  n = len(normal)
  top: set[int] = set()
  for name, width in (
    ('highest', 1), ('mean', 0), ('mean together', 2), ('level together', 0),
    ('short', 0),
  ):  # fmt: skip
    values = components[subsequences.COMPONENTS.index(name), width, normal]
    top |= set(normal[np.argsort(-values)[: max(8, n // 100)]].tolist())
    if name == 'highest':
      middle = normal[np.argsort(-values)[: max(40, n // 10)]]
  high = np.array(sorted(top))
  middle = np.setdiff1d(middle, high) if len(set(middle) - top) else high
  easy = np.setdiff1d(normal, high) if n > len(high) else high
  parts = (high, len(high) / n), (middle, 0.09), (easy, 0.9)
  kept = [_KEPT[name] for name in ('high', 'middle', 'easy')]
  rows = [
    random.choice(part, k) for (part, _), k in zip(parts, kept, strict=True)
  ]
  shares = np.concatenate(
    [np.full(k, s / k) for (_, s), k in zip(parts, kept, strict=True)]
  )
  positive = random.choice(np.flatnonzero(labels), _KEPT['anomalous'])
  return Task(
    x[positive], x[np.concatenate(rows)], shares / shares.sum(),
    float(labels.mean()),
  )  # fmt: skip


def precision(weights: jax.Array, tasks: Task) -> jax.Array:
  """[tasks] average precision with smoothed ranks.

  Brown et al., Smooth-AP, ECCV 2020, with the rate of anomalies of the
  recording; weights [K], `tasks` stacked.
  """
  above = lambda a, b: jax.nn.sigmoid(
    _SHARPNESS * (a[:, None, :] - b[:, :, None])
  )
  good, bad = tasks.normal @ weights, tasks.anomalous @ weights
  wrong = (tasks.shares[:, None] * above(good, bad)).sum(-1)
  found = above(bad, bad).mean(-1)
  rate = tasks.rate[:, None]  # type: ignore[index]
  return (rate * found / (rate * found + (1 - rate) * wrong)).mean(-1)


def learn(
  tasks: Sequence[Task], importance: Sequence[float], steps: int = 300
) -> np.ndarray:
  """[COMPONENTS, WIDTHS] weights, sum 1.

  Args:
    tasks: of `task`.
    importance: of each task.
    steps: of Adam.
  """
  stacked = jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *tasks)
  share = jnp.asarray(np.array(importance) / np.sum(importance))
  optimizer = optax.adam(optax.cosine_decay_schedule(0.1, steps))
  positive = lambda p: jax.nn.softplus(p - 2.5)

  def loss(p):
    weights = positive(p)
    mean = share @ precision(weights, stacked)
    return 1 - mean + _PENALTY * weights.sum()

  def step(carry, _):
    p, state = carry
    updates, state = optimizer.update(jax.grad(loss)(p), state)
    return (optax.apply_updates(p, updates), state), None

  p = jnp.zeros(len(subsequences.COMPONENTS) * len(subsequences.WIDTHS))
  run = jax.jit(lambda p, s: jax.lax.scan(step, (p, s), None, steps)[0][0])
  shape = len(subsequences.COMPONENTS), len(subsequences.WIDTHS)
  found = positive(run(p, optimizer.init(p)))
  weights = np.asarray(found, np.float64).reshape(shape)
  return with_excess(weights / weights.sum())


def with_excess(weights: np.ndarray) -> np.ndarray:
  """Weights of which what no healthy window reaches has its fixed share.

  It is zero nearly everywhere, so ranks of few time stamps of a recording
  hardly tell its worth, but an alarm is made of it.
  """
  row = subsequences.COMPONENTS.index('excess')
  made = weights * (1 - _EXCESS)
  made[row, :2] += _EXCESS / 2
  return made / made.sum()
