"""Networks trained on the support: what they minimise, and what they ignore."""

import fast
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metaad_jax import learners, models
from metaad_jax.base import Rows
from metaad_jax.evaluation import baselines, jobs
from metaad_jax.learners import devnet

NAMES = [name for name, one in baselines.REGISTRY.items() if not one.detect]
FEATURES = jnp.ones(4)
KEY = jax.random.key(0)


def support(seed=0):
  """Six normals around 0, two anomalies around 3, one row of padding."""
  x = np.random.default_rng(seed).normal(size=(9, 4))
  x[6:8] += 3
  x[8] = 1e3
  y = np.repeat([0.0, 1.0], [6, 3])
  return Rows(*map(jnp.float32, (x, y, np.arange(9) < 8)))


def learner(name, **options):
  model = models.make('mlp:width=8,depth=1')
  return learners.build(name, {'adapt_steps': 0} | options, model)


def adapted(name, rows, **options):
  adapt = fast.jit(learner(name, **options).adapt)
  return adapt(KEY, {}, rows, FEATURES)


def scores(name, rows, x, **options):
  made = learner(name, **options)
  return made.score(adapted(name, rows, **options), x)


def test_one_step_of_deep_sad_follows_its_objective():
  """Plain descent without momentum: the change is minus rate x gradient."""
  rows = support()
  start = adapted('deep_sad', rows, eta=2.0)
  network = models.make('mlp:width=8,depth=1')(32)
  z = network.apply(start.params, start.context, rows.x)
  centre = z[:6].mean(0)
  centre = jnp.where(jnp.abs(centre) < 0.1, jnp.copysign(0.1, centre), centre)
  np.testing.assert_allclose(start.centre, centre, rtol=1e-5)

  def objective(params):
    z = network.apply(params, start.context, rows.x)[:8]
    squares = ((z - centre) ** 2).sum(1) + 1e-6
    decay = sum((w**2).sum() for w in jax.tree.leaves(params)) * 1e-3 / 2
    return (squares[:6].sum() + (2 / squares[6:]).sum()) / 8 + decay

  gradient = fast.jit(jax.grad(objective))(start.params)
  options = {'adapt_steps': 1, 'inner': 'sgd', 'rate': 0.01, 'eta': 2.0}
  after = adapted('deep_sad', rows, **options)
  jax.tree.map(
    lambda before, g, now: np.testing.assert_allclose(
      now, before - 0.01 * g, rtol=1e-4, atol=1e-6
    ),
    start.params, gradient, after.params,
  )  # fmt: skip


def test_deep_svdd_is_deep_sad_without_anomalies():
  rows = support()
  normals = Rows(*(part[:6] for part in rows))
  expected = scores('deep_sad', normals, rows.x, adapt_steps=3)
  np.testing.assert_allclose(
    scores('deep_svdd', rows, rows.x, adapt_steps=3), expected, rtol=1e-4
  )
  other = scores('deep_sad', rows, rows.x, adapt_steps=3)
  assert np.abs(other - expected).max() > 1e-3


def test_deviation_by_hand():
  outputs = jnp.array([[1.0], [-3.0], [2.0], [7.0], [99.0]])
  y, mask = jnp.array([0.0, 0, 1, 1, 1]), jnp.array([1.0, 1, 1, 1, 0])
  # Normals (1 + 3) / 2, anomalies (3 + 0) / 2, halved.
  assert devnet.deviation(outputs, y, mask) == pytest.approx((2 + 1.5) / 2)


def triple(seed, normals=7, anomalies=3, columns=4, queries=5):
  rng = np.random.default_rng(seed)
  y = np.repeat([0.0, 1.0], [normals, anomalies])
  x = rng.normal(size=(normals + anomalies, columns)) + 3 * y[:, None]
  labels = np.arange(queries) % 2
  query = rng.normal(size=(queries, columns)) + 3 * labels[:, None]
  return x, y, query


def score(name, triples, seed=0, **options):
  """Scores of all tasks by one network."""
  todo = [jobs.job(i, name, options) for i in range(len(triples))]
  found = jobs.score_jobs(todo, triples, seed=seed, workers=1, quiet=True)
  return [found[job] for job in todo if job in found]


@pytest.mark.parametrize('name', NAMES)
def test_networks_find_anomalies_whatever_else_is_scored(name):
  triples = [triple(seed) for seed in range(3)]
  triples[2] = triple(2, normals=12, queries=9)  # padded to another shape
  found = score(name, triples)
  for values, (_, _, query) in zip(found, triples, strict=True):
    labels = np.arange(len(query)) % 2
    assert values.shape == (len(query),) and values.dtype == np.float64
    assert values[labels == 1].min() > values[labels == 0].max()
  job = jobs.job(1, name)
  alone = jobs.score_jobs([job], triples[:2], seed=0, workers=1, quiet=True)
  np.testing.assert_allclose(alone[job], found[1], rtol=1e-3, atol=1e-3)
  assert np.any(score(name, triples[:1], seed=1)[0] != found[0])
  if baselines.REGISTRY[name].needs_anomalies:
    assert score(name, [triple(0, anomalies=0)]) == []


def test_scaling_reaches_the_networks():
  x, y, query = triple(0)
  far = x * 4, y, query * 4
  assert np.abs(far[0]).max() > 5
  (clipped,) = score('devnet', [far], scaling='clipped')
  scaled = baselines.scaled(far, 'clipped')
  (expected,) = score('devnet', [scaled])
  np.testing.assert_array_equal(clipped, expected)


def test_mixed_widths_compile_for_a_few_and_padding_changes_no_ranks():
  """Tasks of 3 to 8 columns share one program; an empty column is masked."""
  triples = [triple(seed, columns=3 + seed) for seed in range(6)]
  run = jobs._compiled('devnet', baselines.REGISTRY['devnet'].model, ())
  before = run._cache_size()
  found = score('devnet', triples)
  for values, (_, _, query) in zip(found, triples, strict=True):
    labels = np.arange(len(query)) % 2
    assert values[labels == 1].min() > values[labels == 0].max()
  assert run._cache_size() <= before + 1
