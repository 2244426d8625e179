"""Processes over loopback: the same sums as in one program; one may die."""

import subprocess
import sys

import jax
import jax.numpy as jnp
from numpy.testing import assert_allclose
import pytest

pytest.importorskip('flwr')
pytestmark = pytest.mark.slow
CLIENT = """
import os, sys
import jax, jax.numpy as jnp
from metaad_jax.base import MetaLearner
from metaad_jax.federated import flower, rounds

address, number = sys.argv[1], int(sys.argv[2])

def meta_grad(key, params, task):
  return {'w': params['w'] - task}, {'loss': params['w'].sum()}

class Mortal(flower.Site):
  def fit(self, parameters, config):
    if number == 1 and config['round'] == 2:
      os._exit(1)  # as if the power had gone
    return super().fit(parameters, config)

site = Mortal(
  MetaLearner(None, None, None, meta_grad), rounds.Settings(steps=1, rate=0.5),
  jax.random.key(0), number, {'w': jnp.zeros(3)}, lambda key: 4.0 * number,
  1.0 + 2.0 * number,
)
flower.take_part(address, site)
"""


def test_two_clients_of_which_one_is_killed():
  from metaad_jax.federated import flower, rounds

  address = f'127.0.0.1:{flower.free_port()}'
  seen = []
  server = flower.Server(
    rounds.Settings(asked=2), jax.random.key(0), {'w': jnp.zeros(3)}, 2,
    lambda number, params, loss, size: seen.append((params['w'][0], size)),
  )  # fmt: skip
  clients = [
    subprocess.Popen([sys.executable, '-c', CLIENT, address, str(i)])
    for i in range(2)
  ]
  try:
    flower.serve(address, server, 4, 60.0)
  finally:
    for client in clients:
      client.kill()
      client.wait()
  values, sizes = zip(*seen, strict=True)
  # Half way to 0 and to 4, weighed 1 to 3; from the third round on to 0 alone.
  assert_allclose(values, [1.5, 2.25, 1.125, 0.5625])
  assert sizes == (24, 24, 12, 12)
