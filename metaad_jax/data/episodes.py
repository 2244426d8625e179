"""Entities -> arrays on the device -> episodes."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metaad_jax.base import DataError, Entity, Rows, Task
from metaad_jax.data import rows

Sampler = Callable[[jax.Array], Task]


class Episode(NamedTuple):
  """What an episode is made of.

  Attributes:
    shots: numbers of support normals; each task draws one of them.
    anomalies: numbers of labelled support anomalies; each task draws one.
    contamination: shares of unlabelled anomalies among the support's unverified
      rows, or where an episode has none, among its normals; each task draws
      one.
    query_normals: normal rows of the query.
    query_anomalies: anomalous rows of the query.
    unverified: numbers of rows that nobody has checked; each task draws one.
    checked: share of the clean supports of unverified rows alone that are said
      to be verified.
    clustered: share of the contaminated supports whose bad rows are like one of
      them, in augmented tables.
  """

  shots: tuple[int, ...] = (5, 10)
  anomalies: tuple[int, ...] = (0, 2)
  contamination: tuple[float, ...] = (0.0,)
  query_normals: int = 20
  query_anomalies: int = 20
  unverified: tuple[int, ...] = (0,)
  checked: float = 0.0
  clustered: float = 0.4

  @property
  def normals(self) -> int:
    """Slots of the support for verified and unverified rows."""
    return max(self.shots) + max(self.unverified)


class Pools(NamedTuple):
  """The rows of E entities on the device, padded to the largest.

  Attributes:
    normal: [E, N, ...] rows that supports draw their normals from.
    query: [E, M, ...] normal rows that queries draw from.
    anomaly: [E, A, ...] anomalous rows.
    counts: [E, 3] int32 real rows of the three.
    features: [E, F] (or [E, C]) 1 = a real column; the others hold 0. In a real
      column NaN is a missing value.
  """

  normal: jax.Array
  query: jax.Array
  anomaly: jax.Array
  counts: jax.Array
  features: jax.Array


def transform_rows(
  apply: Callable[[jax.Array], jax.Array], x: np.ndarray, chunk: int = 256
) -> np.ndarray:
  """Applies a feature of one row to [N, ...] rows, in chunks; -> [N, F]."""
  mapped = _mapped(apply)
  done = []
  for start in range(0, len(x), chunk):
    part = np.asarray(x[start : start + chunk], np.float32)
    short = chunk - len(part)
    padded = np.concatenate([part, np.zeros((short, *part.shape[1:]), 'f4')])
    done.append(np.asarray(mapped(padded))[: len(part)])
  return np.concatenate(done)


@functools.cache
def _mapped(apply):
  return jax.jit(jax.vmap(apply))


def featurize(
  entities: Sequence[Entity], apply: Callable[[jax.Array], jax.Array]
) -> list[Entity]:
  """Replaces every row by its features; order and labels stay."""
  parts = [part for e in entities for part in (e.normal, e.query)]
  cuts = np.cumsum([len(part) for part in parts])[:-1]
  parts = np.split(transform_rows(apply, np.concatenate(parts)), cuts)
  return [
    dataclasses.replace(e, normal=parts[2 * i], query=parts[2 * i + 1])
    for i, e in enumerate(entities)
  ]


def pool(entities: Sequence[Entity], *, limit: int = 4096) -> Pools:
  """Puts entities on the device, narrow ones padded to the widest.

  Entities without anomalies are left out: their tasks have no query to score.
  Longer pools than `limit` rows are thinned evenly.

  Raises:
    DataError: if no entity has an anomaly.
  """
  triples = []
  for entity in entities:
    anomalous = entity.labels == 1
    if anomalous.any() and not anomalous.all() and len(entity.normal):
      parts = entity.normal, entity.query[~anomalous], entity.query[anomalous]
      triples.append([p[rows.thin(np.arange(len(p)), limit)] for p in parts])
  if not triples:
    raise DataError(
      'none of the entities has normal rows and at least one anomaly to train '
      'on: check the labels'
    )
  sizes = [max(len(t[i]) for t in triples) for i in range(3)]
  widths = np.array([triple[0].shape[-1] for triple in triples])
  shape = (*triples[0][0].shape[1:-1], widths.max())
  padded: list[np.ndarray] = []
  for i, size in enumerate(sizes):
    array = np.zeros((len(triples), size, *shape), 'f4')
    for row, triple in zip(array, triples, strict=True):
      row[: len(triple[i]), ..., : triple[i].shape[-1]] = triple[i]
    padded.append(array)
  counts = np.array([[len(p) for p in t] for t in triples], np.int32)
  columns = (np.arange(widths.max()) < widths[:, None]).astype(np.float32)
  return Pools(*jax.device_put((*padded, counts, columns)))


def padded_size(count: int, least: int = 8) -> int:
  """The smallest of `least` * 1, 4, 16, ... that `count` fits in.

  What depends on a width or a number of rows is compiled for these alone: a
  compilation takes seconds, and scoring a padded row microseconds.
  """
  twos = max(0, -(-count // least) - 1).bit_length()
  return least << (twos + twos % 2)


def draw(
  key: jax.Array, allowed: jax.Array, wanted: int
) -> tuple[jax.Array, jax.Array]:
  """Draws distinct rows at random, all of those allowed being as likely.

  Args:
    key: of the draw.
    allowed: [N] bool.
    wanted: static number of rows.

  Returns:
    [wanted] int indices and [wanted] bool; False = padding.
  """
  lottery = jnp.where(allowed, jax.random.uniform(key, allowed.shape), -1)
  value, index = jax.lax.top_k(lottery, min(wanted, len(allowed)))
  short = max(0, wanted - len(allowed))
  return jnp.pad(index, (0, short)), jnp.pad(value >= 0, (0, short))


def assemble(
  key: jax.Array,
  episode: Episode,
  normal: tuple[jax.Array, jax.Array],
  query: tuple[jax.Array, jax.Array],
  anomaly: tuple[jax.Array, jax.Array],
  features: jax.Array,
) -> Task:
  """Makes a task of rows that were drawn for it.

  Args:
    key: draws the number of shots, of anomalies, and the contamination.
    episode: see `Episode`.
    normal: rows [episode.normals, ...] and which of them are real.
    query: rows [query_normals, ...] and which are real.
    anomaly: rows [query_anomalies + max(anomalies) + contaminants, ...] and
      which are real; the query is served first.
    features: [F].

  Returns:
    The task; its support holds the normals first, then the unverified rows,
    then the anomalies.
  """
  keys = [*jax.random.split(key, 4), jax.random.fold_in(key, 4)]
  pick = lambda k, options: jax.random.choice(k, jnp.asarray(options))
  shots = pick(keys[0], episode.shots)
  anomalies = pick(keys[1], episode.anomalies)
  unverified = pick(keys[4], episode.unverified)
  most_shots, most_anomalies = max(episode.shots), max(episode.anomalies)
  most_unverified = max(episode.unverified)
  unverified = jnp.where(shots + unverified > 0, unverified, most_unverified)
  queries = episode.query_anomalies
  taken = queries + most_anomalies
  labelled, labelled_real = (part[queries:taken] for part in anomaly)
  spare, spare_real = (part[taken:] for part in anomaly)

  places = jnp.arange(episode.normals)
  dirty, first = (unverified, most_shots) if most_unverified else (shots, 0)
  x_normal, bad = normal[0], jnp.zeros(len(places), bool)
  if len(spare):
    share = pick(keys[2], episode.contamination)
    wanted = jnp.floor(share * dirty + jax.random.uniform(keys[3]))
    x_normal, bad = _spoil(x_normal, spare, spare_real, first, wanted)
  counts = most_shots, most_unverified, most_anomalies
  labels = _labels(key, episode, counts, (shots > 0) | bad.any())
  late = places - most_shots
  used = jnp.where(late < 0, places < shots, late < unverified)
  chosen = labelled_real * (jnp.arange(most_anomalies) < anomalies)
  support = Rows(
    jnp.concatenate([x_normal, labelled]),
    jnp.asarray(labels, jnp.float32),
    jnp.concatenate([used * jnp.where(bad, 1, normal[1]), chosen]),
  )
  scored = Rows(
    jnp.concatenate([query[0], anomaly[0][:queries]]),
    jnp.concatenate([jnp.zeros(episode.query_normals), jnp.ones(queries)]),
    jnp.concatenate([query[1], anomaly[1][:queries]]),
  )
  hidden = jnp.pad(bad.astype(jnp.float32), (0, most_anomalies))
  return Task(support, scored, features, hidden if most_unverified else None)


def _labels(key, episode, counts, never):
  """Of unverified rows, too, 0 in a share of the tasks that may have it."""
  labels = np.repeat([0.0, 0.5, 1.0], counts)
  if not episode.checked:
    return labels
  told = jax.random.bernoulli(jax.random.fold_in(key, 5), episode.checked)
  told &= ~never
  return jnp.where(told & (labels == 0.5), 0, labels)


def _spoil(rows, spare, real, first, wanted):
  """Anomalies in place of `wanted` rows from `first` on, and where they are."""
  places = jnp.arange(len(rows)) - first
  which = jnp.clip(places, 0, len(spare) - 1)
  bad = (places >= 0) & (places < jnp.minimum(wanted, len(spare)))
  bad &= real[which] > 0
  bad_rows = bad.reshape((-1,) + (1,) * (rows.ndim - 1))
  return jnp.where(bad_rows, spare[which], rows), bad


def contaminants(episode: Episode) -> int:
  """The most contaminating rows a support can hold."""
  share = max(episode.contamination)
  dirty = max(episode.unverified) or max(episode.shots)
  return int(np.ceil(share * dirty)) if share > 0 else 0


def _wanted(episode):
  """How many rows of each pool a task draws."""
  labelled = max(episode.anomalies) + contaminants(episode)
  abnormal = episode.query_anomalies + labelled
  return episode.normals, episode.query_normals, abnormal


def from_pools(pools: Pools, episode: Episode) -> Sampler:
  """Tasks of real entities: sample(key) -> Task, jittable.

  An entity is drawn, then rows without replacement. Where an entity has too
  few rows the task is padded, the query's anomalies being served first.
  """
  wanted = _wanted(episode)

  def sample(key):
    who, *keys = jax.random.split(key, 5)
    entity = jax.random.randint(who, (), 0, len(pools.counts))
    drawn: list[tuple[jax.Array, jax.Array]] = []
    for i, source in enumerate(pools[:3]):
      allowed = jnp.arange(source.shape[1]) < pools.counts[entity, i]
      index, real = draw(keys[i], allowed, wanted[i])
      drawn.append((source[entity, index], real.astype(jnp.float32)))
    normal, query, anomaly = drawn
    columns = pools.features[entity]
    return assemble(keys[3], episode, normal, query, anomaly, columns)

  return sample


def from_simulator(
  generate: Callable[..., tuple[jax.Array, jax.Array]],
  apply: Callable[[jax.Array], jax.Array],
  episode: Episode,
) -> Sampler:
  """Tasks of machines that nobody has seen before: a new one for every task.

  Args:
    generate: (key, normals, anomalies) -> the windows of one new machine.
    apply: the feature of one window.
    episode: see `Episode`.
  """
  shots, queries, abnormal = _wanted(episode)

  def sample(key):
    machine, rest = jax.random.split(key)
    normal, anomaly = generate(machine, shots + queries, abnormal)
    normal, anomaly = jax.vmap(apply)(normal), jax.vmap(apply)(anomaly)
    real = lambda rows: (rows, jnp.ones(len(rows)))
    support, query = real(normal[:shots]), real(normal[shots:])
    columns = jnp.ones(normal.shape[-1])
    return assemble(rest, episode, support, query, real(anomaly), columns)

  return sample


def column_statistics(
  entities: Sequence[Entity],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Centre, spread between and spread within entities of every column.

  Every entity weighs the same. Only rows for supports are looked at.

  Args:
    entities: featurized, of the training side.

  Returns:
    [F] mean over entities of their means; [F] standard deviation over all
    entities; [F] root mean variance within an entity. Float32.
  """
  axes = tuple(range(entities[0].normal.ndim - 1))
  means = np.stack([e.normal.mean(axes, np.float64) for e in entities])
  squares = [e.normal.astype(np.float64) ** 2 for e in entities]
  power = np.stack([square.mean(axes) for square in squares])
  within = np.maximum(power - means**2, 0).mean(0)
  centre = means.mean(0)
  overall = np.maximum(power.mean(0) - centre**2, 0)
  return tuple(
    a.astype(np.float32) for a in (centre, np.sqrt(overall), np.sqrt(within))
  )
