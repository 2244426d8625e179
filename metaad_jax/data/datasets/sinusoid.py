"""Sinusoid regression: the validation problem of the MAML paper.

Finn, Abbeel & Levine, ICML 2017, arXiv 1703.03400, section 5.1: amplitude
uniform in [0.1, 5], phase uniform in [0, pi], inputs uniform in [-5, 5].
"""

import jax
import jax.numpy as jnp

from metaad_jax.base import DataError, Entity, Rows, Source, Task


def sample(key: jax.Array, shots: int, queries: int) -> Task:
  """One sinusoid: support [shots, 1] and query [queries, 1] with targets."""
  keys = jax.random.split(key, 3)
  amplitude = jax.random.uniform(keys[0], minval=0.1, maxval=5.0)
  phase = jax.random.uniform(keys[1], maxval=jnp.pi)
  x = jax.random.uniform(keys[2], (shots + queries, 1), minval=-5, maxval=5)
  y = amplitude * jnp.sin(x[:, 0] - phase)
  rows = Rows(x, y, jnp.ones_like(y))
  part = lambda where: Rows(*(leaf[where] for leaf in rows))
  return Task(
    part(slice(None, shots)), part(slice(shots, None)), jnp.ones_like(x[0])
  )


def load(data_dir: str | None) -> list[Entity]:
  """There are no entities and no anomalies here: a regression problem."""
  del data_dir
  raise DataError(
    "source 'sinusoid' is a regression problem without entities: it trains "
    'and is evaluated by itself, and has no rows to load'
  )


SOURCE = Source(
  name='sinusoid',
  description='sine waves of random amplitude and phase (regression)',
  load=load,
  features=('identity',),
  units='none',
  licence='none needed: generated',
  citation='Finn, Abbeel & Levine, ICML 2017, arXiv 1703.03400',
  sample=sample,
)
