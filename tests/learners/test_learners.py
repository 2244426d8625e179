"""One table of properties over all learners, and hand-worked cases."""

import dataclasses
import functools
import pathlib

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metaad_jax import base, learners, models
from metaad_jax.base import Rows, Task
from metaad_jax.evaluation import baselines
from metaad_jax.learners import (
  inner_loop,
  maml,
  objectives,
  pooled,
  protonet,
  reptile,
  standardized,
)

# Those of tables take raw rows and a network of their own: see
# test_table_learner.py.
NAMES = sorted(set(learners.REGISTRY) - set(learners.MODELS))
FAST = {
  'maml': 'maml:steps=2',
  'fomaml': 'fomaml:steps=2',
  'reptile': 'reptile:steps=2',
  'pooled': 'pooled:adapt_steps=2',
  'scratch': 'scratch:adapt_steps=3',
  'deep_sad': 'deep_sad:adapt_steps=2,inner=sgd,rate=0.01',
  'deep_svdd': 'deep_svdd:adapt_steps=2,inner=sgd,rate=0.01',
  'devnet': 'devnet:adapt_steps=2,inner=sgd,rate=0.01',
  'protonet': 'protonet:embedding=3',
  'deep_mahalanobis': 'deep_mahalanobis:embedding=3',
  'relation': 'relation:embedding=3',
}
MODEL = models.make('mlp:width=6,depth=1')
PRIOR = standardized.Prior(jnp.zeros(4), jnp.ones(4), jnp.ones(4))


def make_task(seed=0, normals=4, anomalies=2, queries=6, columns=4):
  """Float64 when x64 is on."""
  rng = np.random.default_rng(seed)

  def rows(good, bad):
    y = np.r_[np.zeros(good), np.ones(bad)]
    x = rng.normal(size=(good + bad, columns)) + 2 * y[:, None]
    return Rows(*map(jnp.asarray, (x, y, np.ones(good + bad))))

  return Task(
    rows(normals, anomalies), rows(queries, queries), jnp.ones(columns)
  )


def stack(tasks):
  return jax.tree.map(lambda *leaf: jnp.stack(leaf), *tasks)


def build(name, wrapped=True):
  learner = learners.make(FAST[name], MODEL)
  return standardized.standardized(learner, PRIOR) if wrapped else learner


def run(learner, task, params=None, key=3):
  """Meta-parameters, scores of the query, meta-gradient."""
  key = jax.random.key(key)
  params = learner.init(key, task) if params is None else params
  adapted = learner.adapt(key, params, task.support, task.features)
  return params, learner.score(adapted, task.query.x)


def close(found, expected, rtol=1e-9, atol=1e-11):
  jax.tree.map(
    lambda f, e: np.testing.assert_allclose(f, e, rtol=rtol, atol=atol),
    found,
    expected,
  )


@functools.cache
def compiled(name):
  learner = build(name)

  @jax.jit
  def both(key, params, task):
    adapted = learner.adapt(key, params, task.support, task.features)
    scores = learner.score(adapted, task.query.x)
    return scores, learner.meta_grad(key, params, task)

  return learner, both


@pytest.mark.parametrize('name', NAMES)
def test_vmapped_equals_looped_in_any_order(name):
  # Adam divides by gradients near zero: their rounding grows in 3 steps.
  rtol = 1e-5 if name == 'scratch' else 1e-9
  with jax.enable_x64(True):
    learner, both = compiled(name)
    tasks = [make_task(seed) for seed in range(3)]
    params = learner.init(jax.random.key(0), tasks[0])
    key = jax.random.key(1)
    batched = jax.jit(jax.vmap(lambda t: both(key, params, t)))
    found = batched(stack(tasks))
    other = batched(stack(tasks[::-1]))
    for i, task in enumerate(tasks):
      expected = both(key, params, task)
      close(jax.tree.map(lambda leaf, i=i: leaf[i], found), expected, rtol)
      close(jax.tree.map(lambda leaf, i=i: leaf[2 - i], other), expected, rtol)


@pytest.mark.parametrize('name', NAMES)
def test_padding_is_inert(name):
  if name == 'scratch':
    pytest.skip('draws one background row per support row, padding included')
  with jax.enable_x64(True):
    learner, both = compiled(name)
    task = make_task()
    params = learner.init(jax.random.key(0), task)
    key = jax.random.key(1)
    scores, (grads, metrics) = both(key, params, task)

    def pad(rows, junk):
      extra = Rows(jnp.full((3, 4), junk), jnp.ones(3), jnp.zeros(3))
      pairs = zip(rows, extra, strict=True)
      return Rows(*(jnp.concatenate(pair) for pair in pairs))

    for junk in (7.0, -1e3):
      padded = Task(
        pad(task.support, junk), pad(task.query, junk), task.features
      )
      found, (padded_grads, padded_metrics) = both(key, params, padded)
      close(found[:12], scores)
      close(padded_grads, grads)
      close(padded_metrics, metrics)


@pytest.mark.parametrize('name', NAMES)
def test_padded_columns_are_inert(name):
  learner, both = compiled(name)
  task = make_task()._replace(features=jnp.array([1.0, 1, 1, 0]))
  params = learner.init(jax.random.key(0), task)
  junk = lambda rows, c: rows._replace(x=rows.x.at[:, 3].set(c))
  results = [
    both(
      jax.random.key(1),
      params,
      task._replace(support=junk(task.support, c), query=junk(task.query, -c)),
    )[0]
    for c in (0.0, 55.0)
  ]
  if name == 'scratch':
    return np.testing.assert_allclose(*results, rtol=1e-5)
  np.testing.assert_array_equal(*results)


@pytest.mark.parametrize('name', NAMES)
def test_no_row_of_the_query_moves_the_score_of_another(name):
  learner, both = compiled(name)
  task = make_task()
  params = learner.init(jax.random.key(0), task)
  scores, _ = both(jax.random.key(1), params, task)
  moved = task.query._replace(x=task.query.x.at[0].add(5.0))
  other, _ = both(jax.random.key(1), params, task._replace(query=moved))
  np.testing.assert_array_equal(scores[1:], other[1:])
  assert scores[0] != other[0]


@pytest.mark.parametrize('name', NAMES)
def test_query_labels_do_not_reach_adaptation(name):
  learner, both = compiled(name)
  task = make_task()
  params = learner.init(jax.random.key(0), task)
  flipped = task.query._replace(y=1 - task.query.y)
  scores, _ = both(jax.random.key(1), params, task)
  other, _ = both(jax.random.key(1), params, task._replace(query=flipped))
  np.testing.assert_array_equal(scores, other)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('shots', [1, 5])
def test_normals_alone_are_a_support(name, shots):
  """Finite scores and gradients, and adaptation that depends on the normals."""
  learner = build(name)
  task = make_task(anomalies=0, normals=shots)
  params = learner.init(jax.random.key(0), task)
  params, scores = run(learner, task, params)
  grads, metrics = learner.meta_grad(jax.random.key(1), params, task)
  for leaf in jax.tree.leaves((scores, grads, metrics)):
    assert np.isfinite(leaf).all()
  shifted = task.support._replace(x=task.support.x + 3.0)
  _, other = run(learner, task._replace(support=shifted), params)
  assert np.abs(scores - other).max() > 1e-3


@pytest.mark.parametrize('name', ['maml', 'protonet'])
def test_labelled_anomalies_change_the_scores(name):
  learner = build(name)
  with_labels = make_task(anomalies=2)
  params = learner.init(jax.random.key(0), with_labels)
  hidden = with_labels.support._replace(
    mask=with_labels.support.mask * (1 - with_labels.support.y)
  )
  _, scores = run(learner, with_labels, params)
  _, other = run(learner, with_labels._replace(support=hidden), params)
  assert np.abs(scores - other).max() > 1e-3


def differences(function, argument, count=4, h=1e-5):
  """Pairs of directional derivatives: jax.grad and central differences."""
  flat, unravel = jax.flatten_util.ravel_pytree(argument)
  value = jax.jit(lambda f: function(unravel(f)))
  rng = np.random.default_rng(0)
  for _ in range(count):
    d = jnp.asarray(rng.normal(size=flat.shape))
    yield d, (value(flat + h * d) - value(flat - h * d)) / (2 * h)


@pytest.mark.parametrize('name', ['maml', 'protonet', 'pooled'])
@pytest.mark.parametrize('anomalies', [0, 2])
def test_meta_gradient_is_that_of_the_query_loss(name, anomalies):
  """Central differences of the loss that the learner reports, in float64."""
  smooth = lambda outputs: dataclasses.make_dataclass('Net', ['init', 'apply'])(
    lambda key, x, f: {
      'w': jax.random.normal(key, (x.shape[-1], 5)),
      'v': jax.random.normal(jax.random.fold_in(key, 1), (5, outputs)),
    },
    lambda p, x, f: jnp.tanh(x @ p['w']) @ p['v'],
  )
  with jax.enable_x64(True):
    learner = learners.make(FAST[name], models.adapt(smooth))
    task = make_task(anomalies=anomalies)
    params = learner.init(jax.random.key(0), task)
    key = jax.random.key(1)
    loss = lambda p: learner.meta_grad(key, p, task)[1]['loss']
    grads, _ = jax.jit(learner.meta_grad)(key, params, task)
    flat = jax.flatten_util.ravel_pytree(grads)[0]
    for direction, slope in differences(loss, params):
      np.testing.assert_allclose(flat @ direction, slope, rtol=1e-6)


class Quadratic:
  """A 'network' whose loss below is 0.5 (w - x)'H(w - x), x a row."""

  def __init__(self, outputs):
    del outputs

  def init(self, key, x, features):
    del key, features
    return jnp.arange(1.0, 1 + x.shape[-1], dtype=x.dtype)

  def apply(self, params, x, features):
    del features
    return params - x


H = np.array([[2.0, 0.3, 0.1], [0.3, 1.0, 0.2], [0.1, 0.2, 0.5]])


def quadratic_loss(outputs, y, mask):
  del y
  values = 0.5 * jnp.einsum('ni,ij,nj->n', outputs, jnp.asarray(H), outputs)
  return (mask * values).sum() / mask.sum()


def test_reptile_is_its_definition():
  """k = 1 gives alpha g; k = 2 gives 2 alpha g - alpha^2 H g."""
  with jax.enable_x64(True):
    task = make_task(columns=3)
    x = jnp.concatenate([task.support.x, task.query.x]).mean(0)
    alpha = 0.1
    for steps in (1, 2):
      learner = reptile.reptile(
        models.adapt(Quadratic),
        loss=quadratic_loss,
        steps=steps,
        inner_optimizer=optax.sgd(alpha),
      )
      w = learner.init(None, task)
      g = H @ (w - x)
      expected = {1: alpha * g, 2: 2 * alpha * g - alpha**2 * H @ g}[steps]
      found, _ = learner.meta_grad(None, w, task)
      np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize('mode', inner_loop.MODES)
def test_maml_on_quadratics_is_the_closed_form(mode):
  """Exact: (I - alpha H)^k' H (w_k - x_q); first-order: H (w_k - x_q)."""
  with jax.enable_x64(True):
    task, alpha, steps = make_task(columns=3), 0.1, 3
    learner = maml.maml(
      models.adapt(Quadratic),
      loss=quadratic_loss,
      steps=steps,
      inner_optimizer=optax.sgd(alpha),
      mode=mode,
    )
    w = learner.init(None, task)
    contraction = np.linalg.matrix_power(np.eye(3) - alpha * H, steps)
    x, x_query = task.support.x.mean(0), task.query.x.mean(0)
    adapted = x + contraction @ (w - x)
    outer = H @ (adapted - x_query)
    if mode != 'first_order':
      outer = contraction.T @ outer
    found, _ = learner.meta_grad(None, w, task)
    np.testing.assert_allclose(found, outer, rtol=1e-10)


def test_fomaml_is_maml_with_constant_inner_gradients():
  task = make_task()
  exact, first = build('maml', False), build('fomaml', False)
  params = exact.init(jax.random.key(0), task)
  key = jax.random.key(1)
  close(run(exact, task, params)[1], run(first, task, params)[1], 1e-5, 1e-6)
  adapted, features = first.adapt(key, params, task.support, task.features)
  plain = jax.grad(
    lambda p: objectives.balanced_bce(
      MODEL(1).apply(p, features, task.query.x),
      task.query.y,
      task.query.mask,
    )
  )(adapted)
  close(first.meta_grad(key, params, task)[0], plain, 1e-4, 1e-6)
  flat = lambda tree: jax.flatten_util.ravel_pytree(tree)[0]
  exact_grads = exact.meta_grad(key, params, task)[0]
  assert np.abs(flat(exact_grads) - flat(plain)).max() > 1e-3


class Identity:
  """Embeds a row as itself."""

  def __init__(self, outputs):
    del outputs

  def init(self, key, x, features):
    del key, x, features
    return {}

  def apply(self, params, x, features):
    del params
    return x * features


def test_prototypical_networks_by_hand():
  """Prototypes (0, 1) and (4, 1); the query row is (1, 3)."""
  with jax.enable_x64(True):
    learner = protonet.protonet(models.adapt(Identity), embedding=2)
    support = Rows(
      jnp.array([[-1.0, 0], [1, 2], [4, 1], [99, 99]]),
      jnp.array([0.0, 0, 1, 1]),
      jnp.array([1.0, 1, 1, 0]),
    )
    params = {
      'network': {},
      'log_radius': jnp.log(jnp.asarray(2.0)),
      'log_sharpness': jnp.log(jnp.asarray(0.5)),
    }
    row = jnp.array([[1.0, 3.0]])
    adapted = learner.adapt(None, params, support, jnp.ones(2))
    np.testing.assert_allclose(adapted.normal, [0, 1])
    np.testing.assert_allclose(adapted.anomaly, [4, 1])
    # mean squared distances: normal (1 + 4) / 2, anomaly (9 + 4) / 2
    expected = 0.5 * 2.5 + np.log(np.exp(-0.5 * 2.0) + np.exp(-0.5 * 6.5))
    np.testing.assert_allclose(learner.score(adapted, row), [expected])
    one_class = support._replace(mask=jnp.array([1.0, 1, 0, 0]))
    adapted = learner.adapt(None, params, one_class, jnp.ones(2))
    np.testing.assert_allclose(
      learner.score(adapted, row), [0.5 * 2.5 - 0.5 * 2.0]
    )


def test_pooled_ignores_which_rows_are_support():
  task = make_task()
  learner = pooled.pooled(MODEL)
  params = learner.init(jax.random.key(0), task)
  swapped = Task(task.query, task.support, task.features)
  key = jax.random.key(1)
  close(
    learner.meta_grad(key, params, task)[0],
    learner.meta_grad(key, params, swapped)[0],
    1e-4,
    1e-6,
  )


def test_scaling_by_hand():
  """Two normals at 0 and 4; prior deviation 1 counts as five rows."""
  support = Rows(
    jnp.array([[0.0], [4.0], [50.0], [7.0]]),
    jnp.array([0.0, 0, 1, 0]),
    jnp.array([1.0, 1, 1, 0]),
  )
  prior = standardized.Prior(jnp.zeros(1), jnp.ones(1), jnp.ones(1))
  scaling = standardized.fit(support, prior)
  np.testing.assert_allclose(scaling.centre, [2.0])
  np.testing.assert_allclose(scaling.scale, [(13 / 7) ** 0.5], rtol=1e-5)


@pytest.mark.parametrize('name', ['maml', 'protonet', 'reptile', 'fomaml'])
def test_units_do_not_matter(name):
  """Shifting and scaling a column, prior included, leaves the scores alone."""
  with jax.enable_x64(True):
    task = make_task()
    factor, shift = jnp.array([1e3, 1, 0.1, 5]), jnp.array([7.0, 0, -2, 0])
    change = lambda rows: rows._replace(x=rows.x * factor + shift)
    moved = task._replace(
      support=change(task.support), query=change(task.query)
    )
    ones = jnp.ones(4)
    plain = standardized.Prior(0 * ones, ones, ones)
    other = standardized.Prior(shift, factor, factor)
    results = [
      run(standardized.standardized(build(name, False), prior), data)[1]
      for prior, data in ((plain, task), (other, moved))
    ]
    close(*results, rtol=1e-3)


def test_the_prior_gets_no_gradient_but_the_context_is_seen():
  task = make_task()
  inner = build('protonet', False)
  prior = PRIOR._replace(centre=jnp.full(4, 10.0))
  plain = standardized.standardized(inner, prior)
  params = plain.init(jax.random.key(0), task)
  grads, _ = plain.meta_grad(jax.random.key(1), params, task)
  assert all(not np.any(leaf) for leaf in grads['prior'])
  rich = standardized.standardized(inner, prior, context=True)
  kernel = rich.init(jax.random.key(0), task)['learner']['network']['params']
  assert kernel['Dense_0']['kernel'].shape[0] == 8


def test_every_learner_is_shorter_than_eighty_lines():
  folder = pathlib.Path(learners.__file__).parent
  for path in folder.glob('*.py'):
    if path.stem not in ('__init__', 'standardized'):  # no algorithms
      assert len(path.read_text().splitlines()) <= 80, path


@pytest.mark.parametrize(
  'spec',
  [
    'mamel',
    'maml:stps=3',
    'maml:steps=0',
    'maml:steps=fast',
    'maml:mode=sideways',
    'maml:inner=nonesuch',
    'maml:rate=high',
    'protonet:embedding=0',
  ],
)
def test_bad_specs_get_one_line(spec):
  with pytest.raises(base.DataError) as error:
    learners.make(spec, MODEL)
  assert '\n' not in str(error.value)


def test_learners_that_are_baselines_too_are_the_networks():
  """Otherwise names differ, since their scores share one table."""
  both = set(learners.REGISTRY) & set(baselines.REGISTRY)
  assert both == {n for n, one in baselines.REGISTRY.items() if not one.detect}
  assert both <= learners.UNTRAINED & learners.BASELINES
