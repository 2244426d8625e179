"""What programs cost: counted, traced, and with operands rounded."""

import jax
from jax._src.interpreters import mlir
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import costliest, emulation, flops

LARGE, SMALL = jnp.ones((200, 200)), jnp.ones((200, 3))


def chain(a, b):
  """Five products of 200 x 200 by 200 x 3, and one of 200 x 200."""
  step = lambda b, _: (jnp.tanh(a @ b), None)
  return jax.lax.scan(step, b, length=5)[0].sum() + (a @ a).sum()


def test_loops_are_multiplied_out():
  found = flops.counts(jax.jit(chain).lower(LARGE, SMALL))
  each, square = 2 * 200 * 200 * 3, 2 * 200**3
  assert found[flops.FLOPS] == 5 * each + square
  assert found[flops.BYTES] == 4 * (5 * (200 * 206) + 3 * 200 * 200)
  assert (found['dot_general'], found['while'], found['tanh']) == (6, 1, 5)


def test_a_trace_tells_the_costliest_operations(tmp_path):
  compiled = jax.jit(chain).lower(LARGE, SMALL).compile()
  with jax.profiler.trace(str(tmp_path)):
    compiled(LARGE, SMALL).block_until_ready()
  rows = costliest.table(tmp_path, compiled.as_text(), 1)
  assert rows and sum(row['share'] for row in rows) <= 1 + 1e-9
  shares = [row['share'] for row in rows]
  assert shares == sorted(shares, reverse=True)
  products = {round(r['MFLOP'], 2): r for r in rows if r['MFLOP']}
  assert products[1.2]['times'] == 5 and products[16.0]['times'] == 1
  assert 0.9 < products[16.0]['MiB'] / (4 * 200 * 200 / 2**20) < 4
  assert costliest.markdown(rows).count('\n') == 2 + len(rows)


@pytest.mark.parametrize(('precision', 'bits'), [('tf32', 10), ('bf16', 7)])
def test_operands_are_rounded_to_the_bits_of_a_precision(
  precision, bits, monkeypatch
):
  known = mlir._platform_specific_lowerings
  monkeypatch.setitem(known, 'cpu', dict(known['cpu']))
  emulation.round_operands(precision)
  last = 2.0**-bits
  x = np.array([[1 + last, 1 + last / 4, 3.0]], np.float32)
  rounded = np.array([[1 + last, 1, 3]], np.float32)
  product = jax.jit(lambda x: x.T @ x)(x)
  np.testing.assert_array_equal(product, rounded.T @ rounded)
  with jax.enable_x64(True):
    exact = x.astype(float)
    product = jax.jit(lambda x: x.T @ x)(exact)
    np.testing.assert_array_equal(product, exact.T @ exact)
  order = ('NHC', 'HIO', 'NHC')
  convolve = lambda x: jax.lax.conv_general_dilated(
    x.T[None], jnp.ones((1, 1, 1)), (1,), 'SAME', dimension_numbers=order
  )
  np.testing.assert_array_equal(jax.jit(convolve)(x)[0], rounded.T)
