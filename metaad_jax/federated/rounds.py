"""Federated meta-learning: sites keep their rows, parameters travel.

In a round some sites start from the same parameters, take a few steps on tasks
of their own, and send the difference; the server moves by the mean. What a
site's step follows is the `meta_grad` of a learner:

- `pooled` (the gradient of a loss): FedAvg (McMahan et al., 2017, arXiv
  1602.05629). With one step and Reptile's descent inside it is Reptile: FedAvg
  is `reptile` with the sites as its tasks.
- `maml`, `fomaml`: Per-FedAvg, exact and first-order (Fallah et al., 2020,
  arXiv 2002.07948).
- `proximal` > 0: FedProx (Li et al., 2020, arXiv 1812.06127).

Sites are a vmapped axis of one program here, and processes in `flower`; both
call `site_update` and `aggregate`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metaad_jax.base import DataError, Entity, MetaLearner, Params
from metaad_jax.data import episodes


class Settings(NamedTuple):
  """Of a federation.

  Attributes:
    asked: sites that take part in a round.
    steps: of a site in a round, each on one task of its own.
    rate: of a site's steps.
    proximal: FedProx's weight of the distance from where the round began.
    server: rate of the server's step; 1 = the mean of the sites' parameters.
    clip: a site's update is cut to this length; 0 = not at all.
    noise: deviation of the noise on the sum of updates, in clips. Above 0 the
      sites weigh the same and what is published is private (`privacy`).
    at_once: sites that are computed at once.
  """

  asked: int = 10
  steps: int = 5
  rate: float = 0.05
  proximal: float = 0.0
  server: float = 1.0
  clip: float = 0.0
  noise: float = 0.0
  at_once: int = 16


class Sites(NamedTuple):
  """Who holds what.

  Attributes:
    pools: the rows of all entities.
    members: [S, M] int32 the entities of each site, repeated up to M.
    weights: [S] rows of each site.
  """

  pools: episodes.Pools
  members: jax.Array
  weights: jax.Array


def sites(entities: Sequence[Entity], site_of: Sequence[str]) -> Sites:
  """Entities grouped into sites, in the order of their first appearance.

  Args:
    entities: featurized; those without anomalies or normals are left out.
    site_of: the site of each.

  Raises:
    DataError: if no entity has both normals and anomalies.
  """
  pairs = [
    (entity, site)
    for entity, site in zip(entities, site_of, strict=True)
    if len(entity.normal) and 0 < entity.labels.sum() < len(entity.labels)
  ]
  pools = episodes.pool([entity for entity, _ in pairs])
  members: dict[str, list[int]] = {}
  for i, (_, site) in enumerate(pairs):
    members.setdefault(site, []).append(i)
  most = max(map(len, members.values()))
  table = np.array([np.resize(m, most) for m in members.values()], np.int32)
  sizes = np.asarray(pools.counts).sum(1)
  weights = [sizes[m].sum() for m in members.values()]
  return Sites(pools, jnp.asarray(table), jnp.asarray(weights, jnp.float32))


def sampler(
  held: Sites, episode: episodes.Episode
) -> Callable[[jax.Array, jax.Array], Any]:
  """(key, members [M] of a site) -> a task of one of its entities."""

  def sample(key, members):
    which, draw = jax.random.split(key)
    entity = jax.random.choice(which, members)
    own = episodes.Pools(*(leaf[entity][None] for leaf in held.pools))
    return episodes.from_pools(own, episode)(draw)

  return sample


def site_update(
  learner: MetaLearner,
  settings: Settings,
  key: jax.Array,
  params: Params,
  sample: episodes.Sampler,
) -> tuple[Params, jax.Array]:
  """What a site sends: parameters before less after; and its mean loss."""

  def step(now, key):
    draw, adapt = jax.random.split(key)
    grads, metrics = learner.meta_grad(adapt, now, sample(draw))
    move = lambda w, g, start: (
      w - settings.rate * (g + settings.proximal * (w - start))
    )
    return jax.tree.map(move, now, grads, params), metrics['loss']

  keys = jax.random.split(key, settings.steps)
  after, losses = jax.lax.scan(step, params, keys)
  return jax.tree.map(jnp.subtract, params, after), losses.mean()


def aggregate(
  settings: Settings, key: jax.Array, updates: Params, weights: jax.Array
) -> Params:
  """The mean of updates [S, ...], weighed by rows, or private.

  Args:
    settings: see `Settings`.
    key: of the noise.
    updates: with a leading axis.
    weights: [S] rows of each site; without effect where there is noise.
  """
  if settings.noise > 0:
    if settings.clip <= 0:
      raise DataError('noise without a clip protects nobody: set clip above 0')
    private = optax.contrib.differentially_private_aggregate(
      settings.clip, settings.noise, key
    )
    return private.update(updates, private.init(None))[0]
  if settings.clip > 0:
    norms = jax.vmap(optax.global_norm)(updates)
    scale = jnp.minimum(1, settings.clip / jnp.maximum(norms, 1e-12))
    updates = jax.tree.map(
      lambda u: jnp.einsum('s,s...->s...', scale, u), updates
    )
  share = weights / weights.sum()
  return jax.tree.map(lambda u: jnp.tensordot(share, u, 1), updates)


def site_key(key: jax.Array, number: Any, site: Any) -> jax.Array:
  """The key of a site in a round: the same in every engine."""
  return jax.random.fold_in(jax.random.fold_in(key, number), site)


def move(settings: Settings, params: Params, mean: Params) -> Params:
  """The server's step."""
  return jax.tree.map(lambda w, u: w - settings.server * u, params, mean)


def simulate(
  learner: MetaLearner, settings: Settings, sample: Callable, length: int
) -> Any:
  """Compiles `length` rounds of all sites into one program.

  Args:
    learner: whose `meta_grad` the sites follow.
    settings: see `Settings`; `asked` sites are drawn anew in each round.
    sample: see `sampler`.
    length: static.

  Returns:
    (key, params, first round, members [S, M], weights [S]) -> the parameters
    and the sites' mean loss in each round, [length].
  """

  @jax.jit
  def run(key, params, first, members, weights):
    def one_round(params, number):
      now = jax.random.fold_in(key, number)
      order = jax.random.permutation(now, len(weights))
      chosen = order[: min(settings.asked, len(weights))]

      def of_site(site):
        draw = lambda k: sample(k, members[site])
        one = site_key(key, number, site)
        return site_update(learner, settings, one, params, draw)

      at_once = min(settings.at_once, len(chosen))
      updates, losses = jax.lax.map(of_site, chosen, batch_size=at_once)
      noise = jax.random.fold_in(now, 2**31 - 1)
      mean = aggregate(settings, noise, updates, weights[chosen])
      return move(settings, params, mean), losses.mean()

    return jax.lax.scan(one_round, params, first + jnp.arange(length))

  return run
