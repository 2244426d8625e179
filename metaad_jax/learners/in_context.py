"""In-context learning: a support is read once, rows are scored in its light.

Meta-training learns how anomalies look in hundreds of tables, and adaptation is
one pass of the model over the support (Garnelo et al., "Conditional Neural
Processes", 2018; Hollmann et al., "TabPFN", 2022). It needs a model that reads
its support, such as `tables`. With `steps` it is MAML.
"""

import functools

import optax

from metaad_jax.learners import maml

in_context = functools.partial(
  maml.maml, ranking=0.5, steps=0, inner_optimizer=optax.sgd(0.01)
)
