"""The blend of what a network says of verified rows, of all, of some."""

import fast
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaad_jax import learners, models
from metaad_jax.base import Rows, Task
from metaad_jax.models import gated
from metaad_jax.training import gates

SIZE = 'width=4,blocks=1,heads=1,rounds=1,rows=6'


def support(verified=3, unverified=6, bad=2, padding=2, seed=0):
  rng = np.random.default_rng(seed)
  y = np.repeat([0, 0.5, 1, 0], [verified, unverified, bad, padding])
  x = 3 + rng.normal(size=(len(y), 3)) + 4 * (y[:, None] == 1)
  mask = np.arange(len(y)) < len(y) - padding
  return Rows(*(np.asarray(a, 'f4') for a in (x, y, mask)))


@pytest.fixture(scope='module')
def read():
  """(support, x) -> logits [n, 3], what is added, scores and suspects."""
  learner = learners.make('tables', models.make(f'gated:{SIZE}'))
  network = models.make(f'kinds:{SIZE}')(1)
  rows, real = support(), np.ones(3, 'f4')
  params = fast.jit(learner.init)(jax.random.key(0), Task(rows, rows, real))
  params = jax.tree.map(lambda a: a + 0.1, params)  # everything is to count

  @fast.jit
  def told(rows, x):
    seen = learner.adapt(None, params, rows, real)
    parts = gated.describe(network, params, seen.context.readings, x)
    return *parts, learner.score(seen, x), seen.context.suspects[-1]

  return lambda *args: [np.asarray(part) for part in told(*args)]


def test_no_order_matters_and_padding_is_inert(read):
  rows, x = support(), support(seed=1).x
  *_, usual, suspects = read(rows, x)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
  order = np.random.default_rng(1).permutation(13)
  *_, moved, told = read(Rows(*(leaf[order] for leaf in rows)), x)
  close(moved, usual)
  close(told[np.argsort(order)][:11], suspects[:11])
  rows.x[11:] = 77.0
  close(read(rows, x)[2], usual)
  close(read(rows, x[::-1])[2][::-1], usual)


def test_without_unverified_rows_there_is_nothing_to_choose(read):
  rows = support()
  rows = rows._replace(mask=rows.mask * (rows.y != 0.5))
  logits, plain, *_ = read(rows, rows.x)
  np.testing.assert_allclose(logits[:, 1:], logits[:, :1].repeat(2, 1), 1e-4)
  assert np.abs(plain).max() > 0


def test_what_no_unverified_row_moves(read):
  """The first reading and the distances; with nothing verified, neither is."""
  rows, x = support(), support(seed=1).x
  before = read(rows, x)
  rows.x[4] += 9.0
  after = read(rows, x)
  np.testing.assert_allclose(after[0][:, 0], before[0][:, 0], atol=1e-4)
  np.testing.assert_allclose(after[1], before[1], atol=1e-4)
  assert np.abs(after[0][:, 1] - before[0][:, 1]).max() > 1e-3
  logits, plain, scores, _ = read(
    rows._replace(mask=rows.mask * (rows.y == 0.5)), x
  )
  assert np.isfinite(scores).all() and not plain.any()
  np.testing.assert_allclose(logits[:, 0], logits[:, 1:].mean(1), rtol=1e-4)


def test_the_gate_learns_whom_to_believe_and_whom_to_suspect():
  """Where many are bad the first logit is right, where none are the second."""
  rng = np.random.default_rng(0)
  y = np.tile(np.repeat([0.0, 1.0], 20), (200, 1)).astype('f4')
  dirty = np.arange(200) % 2 == 0
  noise = lambda: rng.normal(size=y.shape)
  right = 4 * y - 2 + noise()
  first = np.where(dirty[:, None], right, 2 * noise())
  second = np.where(dirty[:, None], 2 * noise(), right)
  about = np.zeros((200, 8), 'f4')
  about[:, 4] = dirty
  doubts = np.stack([noise(), right], 2)
  arrays = np.stack([first, second, second], 2), 0 * y, about, doubts, y
  told = gates.Told(*(jnp.asarray(a, 'f4') for a in (*arrays, *3 * [y])))
  told = told._replace(mask=jnp.ones_like(told.y), open=jnp.ones_like(told.y))
  module = gated.Gate()
  gate = module.init(jax.random.key(0), told.logits[0], told.about[0])['params']
  after = gates.fit(gate, told, 150)
  mean = lambda gate: jax.vmap(gates.loss, (None, 0))(gate, told).mean()
  assert mean(after) < 0.75 * mean(gate)
  assert after['trust'][2] > after['trust'][1] + 0.2
