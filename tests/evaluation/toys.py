"""Small sources, and runs on them that need no training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from metaad_jax import learners, storage
from metaad_jax.base import Entity, MetaLearner, Source
from metaad_jax.data import audits, registry
from metaad_jax.training import runs


def entity(name, width=3, normals=12, goods=8, bads=8, shift=1.0, **fields):
  """Rows drawn by the name; anomalies are shifted in every column."""
  rng = np.random.default_rng([width, *name.encode()])
  rows = rng.normal(size=(normals + goods + bads, width)).astype(np.float32)
  rows[normals + goods :] += shift
  labels = np.repeat([0, 1], [goods, bads]).astype(np.int32)
  return Entity(name, rows[:normals], rows[normals:], labels, **fields)


def table(name, width):
  """Of any width; a tenth of its values are missing."""
  made = entity(name, width, columns=tuple(f'c{i}' for i in range(width)))
  rng = np.random.default_rng(width)
  for rows in (made.normal, made.query):
    rows[rng.random(rows.shape) < 0.1] = np.nan
  shift = np.float32(3) * made.labels[:, None]
  query = (made.query + shift).astype(np.float32)
  return dataclasses.replace(made, query=query)


def z_scores(model, *, loss=None, sign=1.0):
  """Mean |z| over the columns, by the normals; times a meta-parameter."""
  del model, loss

  def adapt(key, params, support, features):
    del key
    normal = support.mask * (1 - support.y)
    normal = normal.reshape((-1,) + (1,) * (support.x.ndim - 1))
    present = normal * ~jnp.isnan(support.x)
    x = jnp.where(present > 0, support.x, 0)
    count = jnp.maximum(present.sum(0), 1)
    mean = x.sum(0) / count
    variance = (present * (x - mean) ** 2).sum(0) / count
    return params, features, mean, jnp.sqrt(variance + 1e-2)

  def score(adapted, x):
    params, features, mean, deviation = adapted
    z = jnp.nan_to_num(jnp.abs(x - mean) / deviation) * features
    means = z.sum(tuple(range(1, z.ndim))) / features.sum()
    return sign * params['scale'] * means

  init = lambda key, task: {'scale': jnp.ones(())}
  return MetaLearner(init, adapt, score, lambda key, params, task: (params, {}))


def register(patch, name, entities, tables=False):
  """Makes a source of these entities known; returns their list."""
  entities = list(entities)
  patch.setitem(
    registry.REGISTRY,
    name,
    Source(
      name, '', lambda data_dir: entities, ('identity',), 'none', 'none',
      'none', tables=tables,
    ),
  )  # fmt: skip
  patch.setitem(learners.REGISTRY, 'z', z_scores)
  return entities


def write_run(path, source, *, fold='0', scale=1.0, **config):
  """A model file of learner `z`, as if it had been trained on a fold."""
  tables = registry.REGISTRY[source].tables
  setup = runs.resolve(
    runs.Config(
      **{
        'source': source,
        'learner': 'z',
        'model': 'tables:width=2' if tables else 'mlp:width=2,depth=1',
        'shots': (2,),
        'anomalies': (0,),
        'fold': fold,
        **config,
      }
    )
  )
  data = runs.load_data(setup, None)
  prior = None if tables else runs.prior_of(data.entities['train'])
  setup = setup.at(data.layout, prior)
  params = setup.learner.init(jax.random.key(0), setup.example())
  seen = data.raw['train'] + data.raw['validation']
  digests = frozenset(audits.digest(one) for one in seen)
  arrays, meta = runs.pack(runs.Run(setup.name, setup, params, 1, digests))
  for name in arrays:
    if name.endswith('scale'):
      arrays[name] = np.float32(scale)
  storage.save(str(path), arrays, meta)
  return str(path)


def pairwise_auroc(labels, scores):
  gap = scores[labels == 1][:, None] - scores[labels == 0]
  return np.mean((gap > 0) + 0.5 * (gap == 0))
