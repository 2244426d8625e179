"""The algorithms, one file each; a new one is one line below."""

from collections.abc import Callable
import inspect

from metaad_jax import base, specs
from metaad_jax.learners import (
  inner_loop,
  mahalanobis,
  maml,
  pooled,
  protonet,
  relation,
  reptile,
  scratch,
  tables,
  tables_maml,
  tables_reptile,
)

REGISTRY: dict[str, Callable[..., base.MetaLearner]] = {
  'deep_mahalanobis': mahalanobis.mahalanobis,
  'fomaml': maml.fomaml,
  'maml': maml.maml,
  'pooled': pooled.pooled,
  'protonet': protonet.protonet,
  'relation': relation.relation,
  'reptile': reptile.reptile,
  'scratch': scratch.scratch,
  'tables': tables.tables,
  'tables_maml': tables_maml.tables_maml,
  'tables_reptile': tables_reptile.tables_reptile,
}

# Not meta-learning: what it has to beat, with the same network.
BASELINES = frozenset({'pooled', 'scratch'})

# They take rows of any width, raw, with NaN where a value is missing.
TABLES = frozenset({'tables', 'tables_maml', 'tables_reptile'})

# Without meta-parameters: there is nothing to meta-train.
UNTRAINED = frozenset({'scratch'})


def make(
  spec: str, model, *, rate: float | None = None, **arguments
) -> base.MetaLearner:
  """Reads 'maml:steps=5,inner=sgd,rate=0.1,mode=remat'.

  Args:
    spec: name and options; `inner` and `rate` name an optax optimizer and its
      learning rate for learners that descend.
    model: (outputs) -> network.
    rate: inner learning rate of meta-learners that descend, unless the spec
      has one; None = their own default.
    **arguments: further keyword arguments of the learner, such as `loss`.

  Returns:
    The learner.

  Raises:
    DataError: if the learner or one of its options is unknown or impossible.
  """
  name, options = specs.parse(spec)
  factory = specs.look_up('learner', REGISTRY, name)
  what = f'learner {name!r}'
  known = inspect.signature(factory).parameters
  for key, least in (
    ('steps', int(name != 'tables')),
    ('adapt_steps', 0),
    ('embedding', 1),
  ):
    value = options.get(key, least)
    if key in known and (not isinstance(value, int) or value < least):
      raise base.DataError(
        f'{what}: {key}={value!r} must be a whole number from {least}'
      )
  if options.get('mode', 'auto') not in inner_loop.MODES:
    raise base.DataError(
      f'{what}: mode must be one of {", ".join(inner_loop.MODES)}'
    )
  if 'inner_optimizer' in known:
    default = None if name in BASELINES else rate
    chosen, inner = options.pop('rate', default), options.pop('inner', None)
    if not isinstance(chosen, int | float | None):
      raise base.DataError(f'{what}: rate={chosen!r} must be a number')
    if not isinstance(inner, str | None):
      raise base.DataError(
        f'{what}: inner={inner!r} must be a name, such as sgd'
      )
    if chosen is not None or inner is not None:
      arguments['inner_optimizer'] = inner_loop.optimizer(
        inner or 'sgd', 0.1 if chosen is None else chosen
      )
  return specs.call(what, factory, model, **options, **arguments)
