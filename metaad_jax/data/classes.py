"""Entities as classes -> N-way episodes, and one-class episodes beside them.

Vinyals et al., "Matching Networks for One Shot Learning", NeurIPS 2016, arXiv
1606.04080: N classes, K rows of each in the support, Q in the query. One way is
the episode of OC-MAML (Frikha et al., AAAI 2021, arXiv 2007.04146): K rows of
one class; the query holds Q more of it, and Q rows of other classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metaad_jax.base import DataError, Entity, Rows, Task
from metaad_jax.data import episodes


class Episode(NamedTuple):
  """What an episode is made of.

  Attributes:
    way: classes; 1 = one class against all others.
    shots: support rows of each.
    queries: query rows of each; of one class, and as many of others.
    turned: rows are square images, of which one turned by 90 degrees is of
      another class, so that there are four for each entity.
  """

  way: int
  shots: int
  queries: int
  turned: bool = False


class Pool(NamedTuple):
  """The rows of E entities on the device, padded to the longest.

  Attributes:
    rows: [E, N, ...] float32.
    counts: [E] int32 real rows.
  """

  rows: jax.Array
  counts: jax.Array


def pool(entities: Sequence[Entity], episode: Episode) -> Pool:
  """Puts the normal rows of entities on the device, those of the query too.

  Raises:
    DataError: if too few entities have rows enough for an episode.
  """
  each = episode.shots + episode.queries
  normals = (
    np.concatenate([e.normal, e.query[e.labels == 0]]).astype(np.float32)
    for e in entities
  )
  kept = [x for x in normals if len(x) >= each]
  wanted = _wanted(episode)
  if len(kept) * (4 if episode.turned else 1) < wanted:
    raise DataError(
      f'{len(kept)} of {len(entities)} entities have the {each} rows that '
      f'{episode.shots} shots and {episode.queries} queries take, and an '
      f'episode needs {wanted} classes: ask for fewer'
    )
  counts = np.array([len(x) for x in kept], np.int32)
  rows = np.zeros((len(kept), counts.max(), *kept[0].shape[1:]), np.float32)
  for place, x in zip(rows, kept, strict=True):
    place[: len(x)] = x
  return Pool(jnp.asarray(rows), jnp.asarray(counts))


def _wanted(episode):
  """Classes of an episode, those that anomalies are of among them."""
  return episode.way if episode.way > 1 else 1 + episode.queries


def sampler(pool: Pool, episode: Episode) -> episodes.Sampler:
  """sample(key) -> Task, jittable: classes, then rows, without replacement."""
  turns = 4 if episode.turned else 1

  def rows_of(key, place, count):
    entity = place // turns
    allowed = jnp.arange(pool.rows.shape[1]) < pool.counts[entity]
    index, _ = episodes.draw(key, allowed, count)
    x = pool.rows[entity, index]
    if turns == 1:
      return x
    turned = [jnp.rot90(x, quarter, (1, 2)) for quarter in range(turns)]
    return jnp.stack(turned)[place % turns]

  def draw(key, places, count):
    keys = jax.random.split(key, len(places))
    return jax.vmap(rows_of, (0, 0, None))(keys, places, count)

  def sample(key):
    which, own, strange = jax.random.split(key, 3)
    everything = jnp.ones(len(pool.counts) * turns, bool)
    places, _ = episodes.draw(which, everything, _wanted(episode))
    known, others = places[: episode.way], places[episode.way :]
    drawn = draw(own, known, episode.shots + episode.queries)
    support, query = drawn[:, : episode.shots], drawn[:, episode.shots :]
    asked = _rows(query)
    if len(others):
      x = jnp.concatenate([asked.x, draw(strange, others, 1)[:, 0]])
      y = jnp.repeat(jnp.arange(2.0), episode.queries)
      asked = Rows(x, y, jnp.ones_like(y))
    return Task(_rows(support), asked, jnp.ones(drawn.shape[-1]))

  return sample


def _rows(x):
  """Rows [C, n, ...] of C classes as rows [C n, ...] with their labels."""
  y = jnp.repeat(jnp.arange(len(x), dtype=jnp.float32), x.shape[1])
  return Rows(x.reshape(-1, *x.shape[2:]), y, jnp.ones_like(y))
