"""The algorithms, one file each; a new one is one line below."""

from collections.abc import Callable
import functools
import inspect
from typing import Any

import optax

from metaad_jax import base, devices, specs
from metaad_jax.learners import (
  anil,
  boil,
  cavia,
  deep_sad,
  deep_svdd,
  devnet,
  imaml,
  in_context,
  inner_loop,
  mahalanobis,
  maml,
  maml_pp,
  matching,
  meta_curvature,
  meta_sgd,
  meta_svdd,
  metaoptnet,
  pooled,
  protonet,
  r2d2,
  relation,
  reptile,
  scratch,
)

REGISTRY: dict[str, Callable[..., base.MetaLearner]] = {
  'anil': anil.anil,
  'boil': boil.boil,
  'cavia': cavia.cavia,
  'deep_mahalanobis': mahalanobis.mahalanobis,
  'deep_sad': deep_sad.deep_sad,
  'deep_svdd': deep_svdd.deep_svdd,
  'devnet': devnet.devnet,
  'fomaml': maml.fomaml,
  'imaml': imaml.imaml,
  'maml': maml.maml,
  'maml_pp': maml_pp.maml_pp,
  'matching': matching.matching,
  'meta_curvature': meta_curvature.meta_curvature,
  'meta_sgd': meta_sgd.meta_sgd,
  'meta_svdd': meta_svdd.meta_svdd,
  'metaoptnet': metaoptnet.metaoptnet,
  'pooled': pooled.pooled,
  'protonet': protonet.protonet,
  'r2d2': r2d2.r2d2,
  'relation': relation.relation,
  'reptile': reptile.reptile,
  'scratch': scratch.scratch,
  'tables': in_context.in_context,
  'tables_maml': functools.partial(in_context.in_context, steps=2),
  'tables_reptile': functools.partial(
    reptile.reptile, steps=3, inner_optimizer=optax.sgd(0.01)
  ),
}

# The model of learners that are named after it, where none is chosen.
MODELS = {
  'tables': 'tables',
  'tables_maml': 'tables',
  'tables_reptile': 'tables',
}

# Not meta-learning: what it has to beat, with the same network.
BASELINES = frozenset({'deep_sad', 'deep_svdd', 'devnet', 'pooled', 'scratch'})

# Without meta-parameters: there is nothing to meta-train.
UNTRAINED = frozenset({'deep_sad', 'deep_svdd', 'devnet', 'scratch'})


def make(spec: str, model: base.MakeModel, **arguments) -> base.MetaLearner:
  """Reads 'maml:steps=5,inner=sgd,rate=0.1,mode=remat'; see `build`."""
  return build(*specs.parse(spec), model, **arguments)


def build(
  name: str, options: dict[str, Any], model: base.MakeModel, **arguments
) -> base.MetaLearner:
  """The learner of that name with those options.

  Args:
    name: in the registry.
    options: of the learner; `inner` and `rate` name an optax optimizer and its
      learning rate for learners that descend.
    model: (outputs) -> model.
    **arguments: further keyword arguments of the learner: `loss`, and `outputs`
      where there are classes.

  Returns:
    The learner.

  Raises:
    DataError: if the learner or one of its options is unknown or impossible,
      or the model is none for it.
  """
  factory = specs.look_up('learner', REGISTRY, name)
  what = f'learner {name!r}'
  parameters = inspect.signature(factory).parameters
  if arguments.get('outputs', 1) > 1 and 'outputs' not in parameters:
    raise base.DataError(f'{what} knows no classes beside normal and abnormal')
  _check(what, options, parameters)
  if 'inner_optimizer' in parameters and {'inner', 'rate'} & set(options):
    options = dict(options)
    arguments['inner_optimizer'] = _inner_optimizer(
      what, options.pop('inner', 'sgd'), options.pop('rate', 0.1)
    )
  return specs.call(what, factory, model, **options, **arguments)


def chooses_mode(name: str, options: dict[str, Any]) -> bool:
  """Whether a learner's inner loop is computed in a mode of its own choice."""
  parameters = inspect.signature(REGISTRY[name]).parameters
  usual = parameters['mode'].default if 'mode' in parameters else None
  return usual == 'auto' == options.get('mode', usual)


def precise(learner: base.MetaLearner, precision: str) -> base.MetaLearner:
  """The learner with all its products in one of `devices.PRECISIONS`."""

  def within(function):
    @functools.wraps(function)
    def run(*arguments):
      with devices.precision(precision):
        return function(*arguments)

    return run

  at = learner.at
  later = at and (lambda progress: precise(at(progress), precision))
  init, adapt, score, meta_grad = map(within, learner[:4])
  return base.MetaLearner(init, adapt, score, meta_grad, later)


_COUNTS = ('steps', 'adapt_steps', 'embedding', 'contexts', 'solver_steps')


def _check(what, options, parameters):
  """Options that several learners share have values that make sense."""
  if taken := {'loss', 'outputs'} & set(options):
    raise base.DataError(f'{what} has no option {taken.pop()!r}')
  for key in _COUNTS:
    if key not in options or key not in parameters:
      continue
    value = options[key]
    least = 0 if key == 'adapt_steps' else min(parameters[key].default, 1)
    if not isinstance(value, int) or value < least:
      raise base.DataError(
        f'{what}: {key}={value!r} must be a whole number from {least}'
      )
  if options.get('mode', 'auto') not in inner_loop.MODES:
    raise base.DataError(
      f'{what}: mode must be one of {", ".join(inner_loop.MODES)}'
    )


def _inner_optimizer(what, inner, rate):
  if not isinstance(rate, int | float):
    raise base.DataError(f'{what}: rate={rate!r} must be a number')
  if not isinstance(inner, str):
    raise base.DataError(f'{what}: inner={inner!r} must be a name, such as sgd')
  return inner_loop.optimizer(inner, rate)
