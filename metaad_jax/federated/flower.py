"""A federation of processes, over Flower (extra `federated`).

What a site computes and how updates are joined is `rounds`, as in the simulated
federation; Flower carries the parameters. A site that dies is left out from the
round in which it fails.
"""

from collections.abc import Callable
import logging
import socket
from typing import Any

from flwr.client import NumPyClient
from flwr.common import (
  FitIns,
  ndarrays_to_parameters,
  parameters_to_ndarrays,
)
from flwr.server import ServerConfig, start_server
from flwr.server.strategy import FedAvg
import jax
import jax.numpy as jnp
import numpy as np

from metaad_jax.base import MetaLearner, Params
from metaad_jax.data import episodes
from metaad_jax.federated import rounds

logging.getLogger('flwr').setLevel(logging.ERROR)


class Site(NumPyClient):
  """A site's client.

  Args:
    learner, settings: as of `rounds.simulate`.
    key: of the federation; common.
    number: of the site.
    like: parameters, for their shapes.
    sample: tasks of the site.
    weight: rows of the site.
  """

  def __init__(
    self, learner: MetaLearner, settings: rounds.Settings, key: jax.Array,
    number: int, like: Params, sample: episodes.Sampler, weight: float,
  ):  # fmt: skip
    self._tree = jax.tree.structure(like)
    self._key, self._number, self._weight = key, number, weight
    self._update = jax.jit(
      lambda key, params: rounds.site_update(
        learner, settings, key, params, sample
      )
    )

  def fit(self, parameters, config):
    params = jax.tree.unflatten(self._tree, map(jnp.asarray, parameters))
    key = rounds.site_key(self._key, config['round'], self._number)
    update, loss = self._update(key, params)
    sent = [np.asarray(leaf) for leaf in jax.tree.leaves(update)]
    told = {'site': self._number, 'loss': float(loss)}
    return sent, int(self._weight), told


class Server(FedAvg):
  """Flower's FedAvg, with the clients' updates joined by `rounds.aggregate`.

  Args:
    settings: of the federation.
    key: of the federation.
    params: where it starts.
    least: clients that the first round waits for; later ones take who is left.
    report: called after each round with its number, the parameters, the mean
      loss and the bytes that were received.
  """

  def __init__(
    self, settings: rounds.Settings, key: jax.Array, params: Params, least: int,
    report: Callable[[int, Params, float, int], Any],
  ):  # fmt: skip
    share = 1.0 if settings.asked >= least else settings.asked / least
    super().__init__(
      fraction_fit=share, fraction_evaluate=0.0, min_fit_clients=1,
      min_evaluate_clients=0, min_available_clients=least,
      initial_parameters=_sent(params),
    )  # fmt: skip
    self._settings, self._key, self._report = settings, key, report
    self.params, self.min_available_clients = params, least

  def configure_fit(self, server_round, parameters, client_manager):
    client_manager.wait_for(self.min_available_clients)
    self.min_available_clients = 1
    chosen = super().configure_fit(server_round, parameters, client_manager)
    config: dict[str, Any] = {'round': server_round - 1}
    return [(c, FitIns(told.parameters, config)) for c, told in chosen]

  def aggregate_fit(self, server_round, results, failures):
    if not results:
      return None, {}
    results = [r for _, r in results]
    results.sort(key=lambda r: r.metrics['site'])  # sums in one order
    tree = jax.tree.structure(self.params)
    updates = [
      jax.tree.unflatten(tree, parameters_to_ndarrays(r.parameters))
      for r in results
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *updates)
    weights = jnp.array([float(r.num_examples) for r in results])
    noise = jax.random.fold_in(
      jax.random.fold_in(self._key, server_round - 1), 2**31 - 1
    )
    mean = rounds.aggregate(self._settings, noise, stacked, weights)
    self.params = rounds.move(self._settings, self.params, mean)
    received = sum(leaf.nbytes for leaf in jax.tree.leaves(stacked))
    loss = float(np.mean([r.metrics['loss'] for r in results]))
    self._report(server_round - 1, self.params, loss, received)
    return _sent(self.params), {}


def _sent(params):
  return ndarrays_to_parameters(
    [np.asarray(v) for v in jax.tree.leaves(params)]
  )


def serve(address: str, server: Server, number: int, seconds: float) -> Params:
  """Runs `number` rounds, each of at most so many seconds; the parameters."""
  config = ServerConfig(num_rounds=number, round_timeout=seconds)
  start_server(server_address=address, config=config, strategy=server)
  return server.params


def take_part(address: str, site: Site) -> None:
  """A client of the server at that address, until it ends."""
  from flwr.compat.client.app import start_client

  start_client(server_address=address, client=site.to_client(), insecure=True)


def free_port() -> int:
  """A port of this machine that nobody listens on."""
  with socket.socket() as found:
    found.bind(('127.0.0.1', 0))
    return found.getsockname()[1]
