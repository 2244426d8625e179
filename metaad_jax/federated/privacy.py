"""What the server may see: sums alone, and how much a site's rows tell of them.

The noise is optax's, the accounting dp-accounting's (extra `federated`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metaad_jax.base import DataError, Params

# (what every site sends) -> the sum of their updates, and nothing else.
SecureSum = Callable[[Sequence[Any]], Params]
_SCALE = 2.0**16  # steps of the fixed-point numbers in which masks cancel


def masked(
  update: Params, site: int, everyone: Sequence[int], secret: jax.Array
) -> Params:
  """An update under masks that cancel in the sum of all sites.

  Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine
  Learning", 2017, without the recovery of sites that drop out. Each pair of
  sites shares a secret that the server does not know; here it is derived from
  one key, which stands for the key agreement.

  Args:
    update: a pytree of float arrays.
    site: who sends it.
    everyone: all sites of the round.
    secret: the sites' common key.

  Returns:
    uint32 arrays, uniformly distributed without the others'.

  Raises:
    DataError: for a value whose sum over the sites might not fit.
  """
  leaves, tree = jax.tree.flatten(update)
  sent = []
  for i, leaf in enumerate(leaves):
    leaf = np.asarray(leaf, np.float64)
    if not (np.abs(leaf) * _SCALE * len(everyone) < 2**31).all():
      raise DataError(
        f'an update is too large to be summed over {len(everyone)} sites: clip '
        'it'
      )
    total = np.round(leaf * _SCALE).astype(np.int64).astype(np.uint32)
    for other in everyone:
      if other != site:
        key = jax.random.fold_in(secret, min(site, other))
        key = jax.random.fold_in(jax.random.fold_in(key, max(site, other)), i)
        mask = np.asarray(jax.random.bits(key, leaf.shape, jnp.uint32))
        total = total + mask if site < other else total - mask
    sent.append(total)
  return jax.tree.unflatten(tree, sent)


def secure_sum(sent: Sequence[Params]) -> Params:
  """The sum of the updates behind what `masked` made, of all sites."""

  def total(*leaves):
    summed = np.sum(np.stack(leaves), 0, dtype=np.uint32)
    return (summed.view(np.int32) / _SCALE).astype(np.float32)

  return jax.tree.map(total, *sent)


def epsilon(
  noise: float, rounds: int, asked: int, sites: int, delta: float
) -> float:
  """The epsilon that `rounds` rounds of a federation spend, for each site.

  Replacing all the rows of one site by others changes the distribution of
  everything the server publishes by a factor of exp(epsilon), but for `delta`
  (Renyi accounting, sites drawn without replacement).

  Args:
    noise: of `Settings`, in clips; a replaced site moves the sum by two.
    rounds: in all.
    asked: sites in a round.
    sites: that there are.
    delta: below 1 / sites.
  """
  return float(_accountant(noise, rounds, asked, sites).get_epsilon(delta))


def noise_for(
  wanted: float, rounds: int, asked: int, sites: int, delta: float
) -> float:
  """The least noise that keeps to epsilon `wanted`; see `epsilon`."""
  import dp_accounting
  from dp_accounting import rdp

  return float(
    dp_accounting.calibrate_dp_mechanism(
      lambda: rdp.RdpAccountant(
        neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE
      ),
      lambda noise: _event(noise, rounds, asked, sites),
      wanted,
      delta,
      dp_accounting.ExplicitBracketInterval(0.05, 1e4),
    )
  )


def _event(noise, rounds, asked, sites):
  import dp_accounting as dp

  one: Any = dp.GaussianDpEvent(noise / 2)
  if asked < sites:
    one = dp.SampledWithoutReplacementDpEvent(sites, asked, one)
  return dp.SelfComposedDpEvent(one, rounds)


def _accountant(noise, rounds, asked, sites):
  import dp_accounting
  from dp_accounting import rdp

  relation = dp_accounting.NeighboringRelation.REPLACE_ONE
  accountant = rdp.RdpAccountant(neighboring_relation=relation)
  return accountant.compose(_event(noise, rounds, asked, sites))
