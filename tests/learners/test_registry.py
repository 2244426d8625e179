"""What holds for every algorithm, on every model that it takes."""

import functools

import fast
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from metaad_jax import learners, models
from metaad_jax.base import DataError, Rows
from metaad_jax.evaluation import baselines
from metaad_jax.learners import objectives, standardized

MLP, TABLES = 'mlp:width=6,depth=1', 'tables:width=3,blocks=1,heads=1'
SPECS = {
  'maml': 'maml:steps=2',
  'fomaml': 'fomaml:steps=2',
  'anil': 'anil:steps=2',
  'boil': 'boil:steps=2',
  'meta_sgd': 'meta_sgd',
  'meta_curvature': 'meta_curvature:steps=1',
  'maml_pp': 'maml_pp:steps=2',
  'imaml': 'imaml:steps=2,solver_steps=2',
  'cavia': 'cavia:contexts=2,steps=1',
  'reptile': 'reptile:steps=2',
  'pooled': 'pooled:adapt_steps=2',
  'scratch': 'scratch:adapt_steps=3',
  'deep_sad': 'deep_sad:adapt_steps=2,inner=sgd,rate=0.01',
  'deep_svdd': 'deep_svdd:adapt_steps=2,inner=sgd,rate=0.01',
  'devnet': 'devnet:adapt_steps=2,inner=sgd,rate=0.01',
  'protonet': 'protonet:embedding=3',
  'deep_mahalanobis': 'deep_mahalanobis:embedding=3',
  'relation': 'relation:embedding=3',
  'matching': 'matching:embedding=3',
  'r2d2': 'r2d2:embedding=3',
  'metaoptnet': 'metaoptnet:embedding=3,solver_steps=20',
  'meta_svdd': 'meta_svdd:embedding=3,solver_steps=20',
}
ALIASES = {'tables', 'tables_maml', 'tables_reptile'}
PAIRS = [(spec, MLP) for spec in SPECS.values()] + [('tables', TABLES)]
# Their meta-gradient is not the gradient of the query's loss after `adapt`.
OTHERWISE = {
  'fomaml', 'reptile', 'imaml', 'pooled', 'scratch', 'deep_sad', 'deep_svdd',
  'devnet',
}  # fmt: skip
# Also by themselves, without a batch: one for each way of adapting.
ALONE = {'maml', 'protonet', 'relation', 'scratch', 'deep_sad', 'tables'}
EXTRA = 3  # rows of padding
KEY = 1


def make(spec, model):
  learner = learners.make(spec, models.make(model))
  if model == TABLES:
    return learner
  prior = standardized.Prior(0.5 * jnp.ones(5), jnp.ones(5), 2 * jnp.ones(5))
  return standardized.standardized(learner, prior)


def query_loss(spec, adapted, score, query):
  outputs = score(adapted, query.x)[:, None], query.y, query.mask
  ranked = 0.5 if spec == 'tables' else 0.0
  loss = objectives.balanced_bce(*outputs)
  return loss + ranked * objectives.ranking(*outputs)


def padded(task, row=0.0, column=0.0):
  """Three more rows that the masks exclude, and a column that is none."""

  def pad(rows):
    x = jnp.pad(rows.x, ((0, 0), (0, 1)), constant_values=column)
    x = jnp.pad(x, ((0, EXTRA), (0, 0)), constant_values=row)
    y = jnp.pad(rows.y, (0, EXTRA), constant_values=1.0)
    return Rows(x, y, jnp.pad(rows.mask, (0, EXTRA)))

  features = jnp.pad(task.features, (0, 1))
  return task._replace(
    support=pad(task.support), query=pad(task.query), features=features
  )


def variants():
  task = tiny.task()
  support, query = task.support, task.query
  turned = Rows(*(leaf[::-1] for leaf in support))
  lone = support._replace(mask=support.mask * (1 - support.y))
  return {
    'plain': padded(task),
    'junk': padded(task, 7.0, 55.0),
    'worse': padded(task, -1e3, -3.0),
    'query moved': padded(
      task._replace(query=query._replace(x=query.x.at[0].add(5.0)))
    ),
    'query labels': padded(task._replace(query=query._replace(y=1 - query.y))),
    'turned': padded(task._replace(support=turned)),
    'no labels': padded(task._replace(support=lone)),
    'no labels, moved': padded(
      task._replace(support=lone._replace(x=lone.x.at[:, 0].add(3.0)))
    ),
    'other': padded(tiny.task(1)),
  }


@functools.cache
def results(spec, model):
  """{variant: (scores, gradients, metrics, gradients of adapt + score)}."""
  with jax.enable_x64(True):
    learner = make(spec, model)
    tasks = variants()
    params = fast.jit(learner.init)(jax.random.key(0), tasks['plain'])
    if model == TABLES:  # biases of 0 are kinks
      rng = np.random.default_rng(0)
      noise = lambda a: a + 0.1 * rng.normal(size=a.shape)
      params = jax.tree.map(noise, params)

    def everything(task):
      key = jax.random.key(KEY)

      def after(params):
        adapted = learner.adapt(key, params, task.support, task.features)
        scores = learner.score(adapted, task.query.x)
        return query_loss(spec, adapted, learner.score, task.query), scores

      grads, metrics = learner.meta_grad(key, params, task)
      if spec.partition(':')[0] in OTHERWISE:
        return after(params)[1], grads, metrics['loss'], (), ()
      (loss, scores), wanted = jax.value_and_grad(after, has_aux=True)(params)
      return scores, grads, metrics['loss'], wanted, loss

    batched = fast.jit(jax.vmap(everything))(tiny.stack(tasks.values()))
    take = lambda i: jax.tree.map(lambda leaf: np.asarray(leaf[i]), batched)
    found = {name: take(i) for i, name in enumerate(tasks)}
    if spec.partition(':')[0] in ALONE:
      found['alone'] = fast.jit(everything)(tiny_plain(spec))
    return jax.tree.map(np.asarray, found)


def tiny_plain(spec):
  """The task by itself, without rows of padding.

  `scratch` draws a background row for each row of the support, so that its
  padding stays; columns of padding stay since parameters depend on them.
  """
  task = padded(tiny.task())
  if spec.startswith('scratch'):
    return task
  cut = lambda rows: Rows(*(leaf[:-EXTRA] for leaf in rows))
  return task._replace(support=cut(task.support), query=cut(task.query))


def close(found, expected, rtol=1e-7, atol=1e-9):
  jax.tree.map(
    lambda f, e: np.testing.assert_allclose(f, e, rtol, atol), found, expected
  )


@pytest.fixture(scope='module', params=PAIRS, ids='|'.join)
def case(request):
  spec, model = request.param
  return spec, model, results(spec, model)


def real(scores):
  return scores[..., :-EXTRA]


def test_every_algorithm_is_here():
  names = {spec.partition(':')[0] for spec, _ in PAIRS}
  ours = {name for name in learners.REGISTRY if not name.startswith('test_')}
  assert names | ALIASES == ours


def test_padding_moves_neither_scores_nor_gradients(case):
  """Nor does a batch: one task by itself gives what it gives among others."""
  spec, _, found = case
  plain = found['plain']
  for name in {'junk', 'worse', 'alone'} & set(found):
    scores, *rest = found[name]
    short = name == 'alone' and not spec.startswith('scratch')
    close(scores if short else real(scores), real(plain[0]), 1e-5, 1e-7)
    close(tuple(rest[:2]), tuple(plain[1:3]), 1e-5, 1e-7)


def test_the_query_does_not_reach_adaptation(case):
  _, _, found = case
  plain, moved = found['plain'][0], found['query moved'][0]
  np.testing.assert_allclose(moved[1:], plain[1:], rtol=1e-12)
  assert moved[0] != plain[0]
  np.testing.assert_allclose(found['query labels'][0], plain, rtol=1e-12)


def test_the_order_of_the_support_does_not_matter(case):
  spec, _, found = case
  if not spec.startswith('scratch'):  # whose background rows have an order
    close(found['turned'][:3], found['plain'][:3], 1e-6, 1e-8)


def test_labels_and_normals_both_count(case):
  spec, _, found = case
  plain, lone, moved = (
    real(found[name][0]) for name in ('plain', 'no labels', 'no labels, moved')
  )
  labels = np.abs(plain - lone).max()
  assert labels < 1e-9 if spec.startswith('deep_svdd') else labels > 1e-4
  assert np.abs(moved - lone).max() > 1e-4


def test_gradients_and_scores_are_finite(case):
  _, _, found = case
  for scores, grads, loss, *_ in found.values():
    leaves = jax.tree.leaves((scores, grads, loss))
    assert all(np.isfinite(leaf).all() for leaf in leaves)


def test_the_meta_gradient_is_that_of_adapt_and_score(case):
  """Through the scaling too, which is fitted on the support."""
  spec, _, found = case
  if spec.partition(':')[0] in OTHERWISE:
    pytest.skip('has a meta-gradient of its own, tested by itself')
  for name in ('plain', 'no labels', 'other'):
    _, grads, loss, wanted, expected = found[name]
    close((grads, loss), (wanted, expected), 1e-9, 1e-11)
    assert np.abs(tiny.flat(grads)).max() > 1e-4


@pytest.mark.parametrize(
  'name',
  ['maml', 'reptile', 'protonet', 'deep_mahalanobis', 'pooled'],
)
def test_algorithms_take_tables_of_any_width(name):
  learner, task = make(name, TABLES), padded(tiny.task())
  params = jax.eval_shape(learner.init, jax.random.key(0), task)
  grads, _ = jax.eval_shape(learner.meta_grad, jax.random.key(0), params, task)
  assert jax.tree.map(lambda a: a.shape, grads) == jax.tree.map(
    lambda a: a.shape, params
  )


@pytest.mark.parametrize('name', ['relation', 'scratch'])
def test_algorithms_that_need_one_width_say_so(name):
  with pytest.raises(DataError, match=f'{name}.*any width'):
    learners.make(name, models.make(TABLES))


def test_aliases_are_the_algorithms_with_other_defaults():
  """`tables_maml` is MAML, of two steps at 0.01 with a ranking loss."""
  task = padded(tiny.task())
  for alias, spec in (
    ('tables_maml:rate=0.1', 'maml:steps=2,rate=0.1,ranking=0.5'),
    ('tables_reptile', 'reptile:steps=3,rate=0.01'),
    ('tables', 'tables:steps=0,adapt_steps=0'),
  ):
    one, other = (
      learners.make(text, models.make(MLP)) for text in (alias, spec)
    )
    params = one.init(jax.random.key(0), task)
    close(
      *(fast.jit(made.meta_grad)(None, params, task) for made in (one, other))
    )


@pytest.mark.parametrize(
  'spec',
  [
    'magic', 'maml:steps=0', 'maml:steps=1.5', 'maml:adapt_steps=-1',
    'maml:mode=fast', 'maml:rate=x', 'maml:inner=5', 'maml:inner=nowhere',
    'maml:rate=-1', 'protonet:embedding=0', 'protonet:steps=2',
    'tables:steps=-1', 'imaml:strength=0', 'cavia:contexts=0',
    'meta_svdd:solver_steps=0', 'maml:outputs=2', 'tables_maml:steps=0',
  ],
)  # fmt: skip
def test_impossible_options_are_refused(spec):
  with pytest.raises(DataError):
    learners.make(spec, models.make(MLP))


def test_learners_that_are_baselines_too_are_the_networks():
  """Otherwise names differ, since their scores share one table."""
  both = set(learners.REGISTRY) & set(baselines.REGISTRY)
  assert both == {n for n, one in baselines.REGISTRY.items() if not one.detect}
  assert both <= learners.UNTRAINED & learners.BASELINES
