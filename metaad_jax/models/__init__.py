"""Flax Linen networks: the only place that imports Linen.

A model is made for a number of outputs by the learner that needs it:
`make('mlp:width=64')(1)` is a network with one logit. `conv4`, the network of
the benchmarks, is not in the registry: its batch normalisation looks at all the
rows at once, padded ones too.
"""

from collections.abc import Callable

from metaad_jax import base, specs
from metaad_jax.models import conv1d, mlp, residual, tables

Model = Callable[[int], base.Network]

REGISTRY: dict[str, Callable[..., Model]] = {
  'conv1d': conv1d.conv1d,
  'mlp': mlp.mlp,
  'residual': residual.residual,
  'tables': tables.tables,
}


def make(spec: str) -> Model:
  """Reads 'mlp:width=64,depth=2'; returns (outputs) -> network."""
  name, options = specs.parse(spec)
  factory = specs.look_up('model', REGISTRY, name)
  return specs.call(f'model {name!r}', factory, **options)
