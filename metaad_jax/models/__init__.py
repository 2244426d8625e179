"""Networks by name; the only place that imports Linen.

A model is made for a number of outputs by the learner that needs it:
`make('mlp:width=64')(1)` has one logit. A registry entry takes options and
returns (outputs) -> a Linen module called with (x, features), or a `Model`.
"""

from collections.abc import Callable
import inspect

from flax import linen as nn

from metaad_jax import specs
from metaad_jax.base import MakeModel, Model
from metaad_jax.models import (
  attention,
  conv1d,
  conv4,
  gated,
  kinds,
  mlp,
  residual,
  tables,
)

REGISTRY: dict[str, Callable[..., Callable[[int], nn.Module | Model]]] = {
  'attention': attention.attention,
  'conv1d': conv1d.conv1d,
  'conv4': conv4.conv4,
  'gated': gated.gated,
  'kinds': kinds.kinds,
  'mlp': mlp.mlp,
  'residual': residual.residual,
  'tables': tables.tables,
}


def make(spec: str) -> MakeModel:
  """Reads 'mlp:width=64,depth=2'; returns (outputs) -> model.

  Raises:
    DataError: if the model or one of its options is unknown or impossible.
  """
  name, options = specs.parse(spec)
  factory = specs.look_up('model', REGISTRY, name)
  return adapt(specs.call(f'model {name!r}', factory, **options))


def recomputed(spec: str) -> str | None:
  """The spec with `remat=True`, or None if that is no choice of the model."""
  name, options = specs.parse(spec)
  parameters = inspect.signature(REGISTRY[name]).parameters
  if 'remat' not in parameters or 'remat' in options:
    return None
  return specs.with_option(spec, 'remat=True')


def adapt(make_network: Callable[[int], nn.Module | Model]) -> MakeModel:
  """(outputs) -> Linen module becomes (outputs) -> model."""

  def make_model(outputs):
    network = make_network(outputs)
    return network if isinstance(network, Model) else of_rows(network)

  return make_model


def of_rows(network: nn.Module) -> Model:
  """The model of a Linen module that looks at every row by itself."""

  def apply(params, features, x):
    return network.apply(params, x, features)

  def support(params, reading):
    rows, features = reading
    return rows._replace(x=apply(params, features, rows.x))

  return Model(
    init=lambda key, task: network.init(key, task.support.x, task.features),
    read=lambda support, features: (support, features),
    summarise=lambda params, reading: reading[1],
    support=support,
    apply=apply,
    together=getattr(network, 'together', False),
  )
