"""Training tasks from tables: every draw is a table that was never seen before.

A few hundred tables are soon known by heart. So a task is made of a random
choice of a table's columns, bent and turned, some emptied of what they tell,
some taken from another table; in a part of the tasks another column decides
what an anomaly is, as the labels of such tables are made; and a part is drawn
from a random model. Validation and test use the tables as they are.
"""

import jax
import jax.numpy as jnp

from metaad_jax.base import Task
from metaad_jax.data import episodes

COLUMNS = 16  # of a task, at most
_SYNTHETIC = 0.1
_RELABELLED = 0.3
_NARROW = 0.35
_TURNED = 0.3
_BENT = 0.7
_BLANKED = 0.15
_FOREIGN = 0.15
_MISSING = 0.1
_REPEATED = 0.1


def sampler(
  pools: episodes.Pools, episode: episodes.Episode
) -> episodes.Sampler:
  """Augmented tasks of at most 16 columns, from tables of the training side."""
  normals = episode.normals + episode.query_normals
  contaminants = episodes.contaminants(episode)
  anomalies = episode.query_anomalies + max(episode.anomalies) + contaminants
  widest = pools.features.shape[1]
  wanted = min(COLUMNS, widest)

  def sample(key: jax.Array) -> Task:
    keys = jax.random.split(key, 8)
    rows, real, columns = _of_a_table(
      keys[0], pools, normals, anomalies, wanted
    )
    made = jax.random.bernoulli(keys[1], _SYNTHETIC)
    rows = jnp.where(
      made, _of_a_model(keys[2], normals, anomalies, wanted), rows
    )
    real, columns = real | made, columns | made
    columns &= _narrow(keys[3], columns)
    rows, columns = _foreign(keys[4], pools, rows, columns)
    rows = _blank(keys[5], rows, real[:normals])
    rows = _bend(keys[6], rows, real & (jnp.arange(len(rows)) < normals))
    rows = _miss(jax.random.fold_in(keys[6], 1), rows)
    if contaminants:
      rows, real = _cluster(
        jax.random.fold_in(keys[6], 2), rows, real, contaminants,
        episode.clustered,
      )  # fmt: skip
    shots = episode.normals
    part = lambda some: (rows[some], real[some].astype(rows.dtype))
    task = episodes.assemble(
      keys[7],
      episode,
      part(slice(0, shots)),
      part(slice(shots, normals)),
      part(slice(normals, None)),
      columns.astype(rows.dtype),
    )
    if any(episode.unverified):
      task = _repeat(jax.random.fold_in(keys[6], 3), task)
    return task

  return sample


def _of_a_table(key, pools, normals, anomalies, wanted):
  """Rows [normals + anomalies, wanted], which are real, and real columns."""
  keys = jax.random.split(key, 6)
  entity = jax.random.randint(keys[0], (), 0, len(pools.counts))
  counts = pools.counts[entity]
  parts = [part[entity] for part in pools[:3]]
  held = jnp.concatenate(
    [jnp.arange(len(p)) < n for p, n in zip(parts, counts, strict=True)]
  )
  table = jnp.concatenate(parts)
  abnormal = held & (jnp.arange(len(table)) >= len(table) - len(parts[2]))
  normal = held & ~abnormal
  columns = pools.features[entity] > 0
  column, other = _relabel(keys[1], table, normal, columns)
  use = jax.random.bernoulli(keys[2], _RELABELLED)
  use &= (other.sum() >= 8) & ((normal & ~other).sum() >= 40)
  use &= columns.sum() > 2
  columns &= ~(use & (jnp.arange(len(columns)) == column))
  abnormal = jnp.where(use, other, abnormal)
  normal &= ~(use & other)
  rows, real = [], []
  for k, pool, number in (
    (keys[3], normal, normals), (keys[4], abnormal, anomalies)
  ):  # fmt: skip
    index, there = episodes.draw(k, pool, number)
    rows.append(table[index])
    real.append(there)
  index, there = episodes.draw(keys[5], columns, wanted)
  return jnp.concatenate(rows)[:, index], jnp.concatenate(real), there


def _relabel(key, table, normal, columns):
  """A column, and the normal rows with a rare or an extreme value of it."""
  keys = jax.random.split(key, 4)
  column = episodes.draw(keys[0], columns, 1)[0][0]
  values = jnp.nan_to_num(table[:, column])
  equal = normal & (values == values[episodes.draw(keys[1], normal, 1)[0][0]])
  share = equal.sum() / normal.sum()
  rare = jnp.where(share > 0.5, normal & ~equal, equal)
  sign = jnp.where(jax.random.bernoulli(keys[2]), 1, -1)
  signed = jnp.sort(jnp.where(normal, sign * values, jnp.inf))
  upper = 1 - jax.random.uniform(keys[3], (), minval=0.03, maxval=0.3)
  threshold = signed[(upper * normal.sum()).astype(int)]
  extreme = normal & (sign * values >= threshold)
  return column, jnp.where(share > 0.02, rare, extreme)


def _of_a_model(key, normals, anomalies, wanted):
  """Rows of a random table: few causes, mixed into columns of many shapes.

  An anomaly has another cause, columns of another scale, or columns that do
  not go with the others.
  """
  keys = jax.random.split(key, 12)
  uniform = lambda k, low, high, shape=(): jax.random.uniform(
    k, shape, minval=low, maxval=high
  )
  number = normals + anomalies
  abnormal = (jnp.arange(number) >= normals)[:, None]
  causes = jax.random.normal(keys[0], (number, 6))
  centres = uniform(keys[1], 0, 2) * jax.random.normal(keys[2], (3, 6))
  centres *= jnp.array([[1.0], [1.0], [2.0]])
  kind = jax.random.randint(keys[3], (number,), 0, 2)
  how = jax.random.randint(keys[4], (), 0, 3)
  kind = jnp.where(abnormal[:, 0] & (how == 0), 2, kind)
  mixing = jax.random.normal(keys[5], (6, wanted))
  mixing *= jax.random.bernoulli(keys[6], 0.4, mixing.shape)
  noise = jax.random.normal(keys[7], (2, number, wanted))
  loud = jnp.exp(uniform(keys[8], -2, 1, (wanted,)))
  x = (causes + centres[kind]) @ mixing + loud * noise[0]
  spread = jnp.sqrt((mixing**2).sum(0) + loud**2)
  x = x / spread
  hit = jax.random.bernoulli(keys[9], 0.4, (wanted,)) & abnormal
  scale, shift = uniform(keys[10], 0, 3, (2, wanted))
  moved = x * scale + jnp.where(scale > 1.5, shift, -shift)
  x = jnp.where(hit & (how == 1), moved, x)
  x = jnp.where(hit & (how == 2), noise[1], x)
  kinds = jax.random.randint(keys[11], (wanted,), 0, 6)
  shapes = [
    x,
    jnp.exp(0.8 * jnp.clip(x, -8, 8)),
    jnp.round(x),
    jnp.maximum(x - 0.5, 0),
    jax.scipy.stats.norm.cdf(x),
    (x > 1).astype(x.dtype),
  ]
  return jnp.select([kinds == i for i in range(6)], shapes)


def _narrow(key, columns):
  """Leaves at least two of the columns, in some tasks far fewer than all."""
  some, size = jax.random.split(key)
  least = jnp.minimum(2, columns.sum())
  kept = jax.random.randint(size, (), least, columns.sum() + 1)
  kept = jnp.where(jax.random.bernoulli(some, _NARROW), kept, columns.sum())
  return jnp.cumsum(columns) <= kept


def _foreign(key, pools, rows, columns):
  """Puts columns of another table, of no use, in place of the last ones."""
  keys = jax.random.split(key, 5)
  entity = jax.random.randint(keys[0], (), 0, len(pools.counts))
  low = lambda k, shape, high: jax.random.randint(k, shape, 0, high)
  who = low(keys[1], (len(rows), 1), pools.counts[entity, 0])
  width = pools.features[entity].sum().astype(int)
  which = low(keys[2], rows.shape[1:], width)
  start = jnp.maximum(jnp.minimum(columns.sum(), rows.shape[1] - 3), 1)
  stop = start + 1 + low(keys[3], (), 4)
  place = jnp.arange(rows.shape[1])
  slots = (place >= start) & (place < stop)
  slots &= jax.random.bernoulli(keys[4], _FOREIGN)
  return jnp.where(
    slots, pools.normal[entity, who, which], rows
  ), columns | slots


def _blank(key, rows, real):
  """Gives anomalies the values of normals in some columns of [N, F] rows.

  The normals are first; `real` says which of them are no padding.
  """
  some, which, who = jax.random.split(key, 3)
  chosen = jax.random.bernoulli(which, 0.35, rows.shape[1:])
  chosen &= jax.random.bernoulli(some, _BLANKED)
  abnormal = jnp.arange(len(rows)) >= len(real)
  place = jax.random.randint(who, (len(rows),), 0, jnp.maximum(real.sum(), 1))
  source = jnp.argsort(~real)[place]  # the real ones come first
  return jnp.where(abnormal[:, None] & chosen, rows[source], rows)


def _bend(key, rows, reference):
  """Raises columns to powers around zero, and turns some upside down."""
  bent, power, turned = jax.random.split(key, 3)
  there = reference[:, None] & jnp.isfinite(rows)
  count = jnp.maximum(there.sum(0), 1)
  size = jnp.where(there, jnp.abs(rows), 0).sum(0) / count
  x = jnp.clip(rows / jnp.maximum(size, 1e-30), -1e6, 1e6)
  shape = rows.shape[1:]
  exponent = jnp.exp(jax.random.uniform(power, shape, minval=-0.7, maxval=0.7))
  exponent = jnp.where(jax.random.bernoulli(bent, _BENT), exponent, 1)
  x = jnp.sign(x) * jnp.abs(x) ** exponent
  return x * jnp.where(jax.random.bernoulli(turned, _TURNED, shape), -1, 1)


def _miss(key, rows):
  """In some tasks, values go missing."""
  some, which = jax.random.split(key)
  share = jnp.where(jax.random.bernoulli(some, _MISSING), 0.15, 0)
  return jnp.where(
    jax.random.bernoulli(which, share, rows.shape), jnp.nan, rows
  )


def _cluster(key, rows, real, contaminants, share):
  """Sorts the last rows, which contaminate: those near one of them come first.

  In that share of the tasks; in the others they stay as they were drawn.
  """
  some = jax.random.bernoulli(key, share)
  before, last = rows[:-contaminants], rows[-contaminants:]
  there = jnp.nan_to_num(last)
  spread = jnp.nanstd(jnp.where(real[:, None], rows, jnp.nan), 0)
  gap = jnp.abs(there - there[0]) / jnp.maximum(jnp.nan_to_num(spread), 1e-30)
  far = jnp.where(real[-contaminants:], jnp.minimum(gap, 3).sum(1), jnp.inf)
  order = jnp.where(some, jnp.argsort(far), jnp.arange(contaminants))
  return (
    jnp.concatenate([before, last[order]]),
    jnp.concatenate([real[:-contaminants], real[-contaminants:][order]]),
  )


def _repeat(key, task):
  """Some normal rows of the query are verified ones again, but for noise."""
  which, who, noise = jax.random.split(key, 3)
  support, query = task.support, task.query
  verified = (support.mask > 0) & (support.y == 0)
  count = jnp.maximum(verified.sum(), 1)
  place = jax.random.randint(who, query.y.shape, 0, count)
  rows = support.x[jnp.argsort(~verified)[place]]
  rows *= 1 + 1e-3 * jax.random.normal(noise, rows.shape)
  some = jax.random.bernoulli(which, _REPEATED, query.y.shape)
  some &= (query.y == 0) & verified.any()
  x = jnp.where(some[:, None], rows, query.x)
  return task._replace(query=query._replace(x=x))
