"""MAML++: a rate for every step and layer, and a loss after every step.

Antoniou, Edwards & Storkey, "How to Train Your MAML", ICLR 2019, arXiv
1810.09502. Meta-learned are the initialisation, a rate for each step and array
of parameters, and for each step the scales and offsets of normalisations, which
no inner step moves. The outer loss is a mean over all steps at first, and that
after the last from a tenth of meta-training on. Of one step, and without
normalisations, it is Meta-SGD with a rate for each array.
"""

import jax
import jax.numpy as jnp
import optax

from metaad_jax.base import MakeModel, MetaLearner
from metaad_jax.learners import fine_tuning, inner_loop, objectives

_ANNEALING = 0.1  # of meta-training


def maml_pp(
  model: MakeModel,
  *,
  loss: objectives.Objective = objectives.balanced_bce,
  outputs: int = 1,
  steps: int = 5,
  adapt_steps: int = 0,
  rate: float = 0.1,
  mode: str = 'auto',
) -> MetaLearner:
  """MAML++; arguments as for `maml.maml`, and `rate`, that all rates start at.

  Steps of `adapt` beyond those of meta-training are like the last.
  """
  network, each = model(outputs), jax.tree_util.tree_map_with_path

  def init(key, task):
    params = network.init(key, task)
    copies = lambda path, x: jnp.stack([x] * steps) if _normal(path) else x
    rates = jax.tree.map(lambda x: jnp.full(steps, rate, x.dtype), params)
    return {'network': each(copies, params), 'rates': rates}

  def at_step(params, step):
    return each(lambda p, x: x[step] if _normal(p) else x, params)

  def move(params, rates, reading, step):
    support_loss = lambda p: loss(*network.support(at_step(p, step), reading))
    scale = lambda path, a, g: g * (0 if _normal(path) else -a[step])
    sgd = optax.stateless(lambda grads, _: each(scale, rates, grads))
    return inner_loop.descend(support_loss, params, sgd, 1, mode=mode)

  def walk(meta_params, support, features, count):
    """The network's parameters after each step."""
    reading, params = network.read(support, features), meta_params['network']
    for step in (min(i, steps - 1) for i in range(count)):
      params = move(params, meta_params['rates'], reading, step)
      yield at_step(params, step)

  def at(progress):
    early = jnp.maximum(1 - progress / _ANNEALING, 0) / steps

    def query_loss(_, meta_params, task):
      support, query, features = task[:3]
      losses = []
      for params in walk(meta_params, support, features, steps):
        adapted = fine_tuning.see(network, params, support, features)
        losses.append(loss(*fine_tuning.scored(network, adapted, query)))
      *first, last = losses
      return early * sum(first) + (1 - (steps - 1) * early) * last

    return learner._replace(meta_grad=objectives.gradient_of(query_loss))

  last, end = lambda *args: [*walk(*args)][-1], (steps, adapt_steps)
  learner = fine_tuning.by_descent(network, init, last, loss, *end)
  return learner._replace(at=at)


def _normal(path):
  return bool(path) and path[-1].key in ('scale', 'offset')
