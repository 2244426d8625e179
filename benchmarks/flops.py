"""What a lowered JAX program does, loops multiplied out.

XLA's own cost analysis counts the body of a loop once, whatever its number of
rounds.
"""

import collections
import math
import re
from typing import Any

FLOPS, BYTES = 'flops', 'bytes'  # of products: see `counts`


def products(lowered: Any) -> int:
  """FLOPs of all products and convolutions of `jax.jit(f).lower(...)`."""
  return counts(lowered)[FLOPS]


def counts(lowered: Any) -> collections.Counter[str]:
  """How often each kind of operation runs, and what products cost.

  Over all devices; of a branch the dearer side; of a loop every round, where
  their number is a constant as in `jax.lax.scan` and `jax.lax.map`, else one.

  Args:
    lowered: `jax.jit(f).lower(...)`.

  Returns:
    Counts by name, such as 'dot_general', 'convolution', 'while'; `FLOPS` of
    all products and convolutions; `BYTES` that they read and write.
  """
  module = lowered.compiler_ir('stablehlo')
  devices = module.operation.attributes['mhlo.num_partitions'].value
  functions = {
    function.attributes['sym_name'].value: function.operation
    for function in module.body.operations
    if function.operation.name == 'func.func'
  }
  known: dict[str, collections.Counter] = {}

  def called(name):
    if name not in known:
      known[name] = _sum(parts(functions[name]))
    return known[name]

  def parts(operation):
    return [
      _sum(cost(o.operation) for block in region for o in block)
      for region in operation.regions
    ]

  def cost(operation):
    name = operation.name.removeprefix('stablehlo.')
    own = collections.Counter({name: 1})
    match name:
      case 'dot_general' | 'convolution':
        return own + _of_product(operation)
      case 'call' | 'func.call':
        return called(operation.attributes['callee'].value)
      case 'while':
        return own + _times(_sum(parts(operation)), _rounds(operation))
      case 'case' | 'if':
        return own + max(parts(operation), key=lambda part: part[FLOPS])
      case 'sdy.manual_computation':
        return _times(_sum(parts(operation)), devices)
      case 'reduce' | 'reduce_window' | 'scatter' | 'sort':
        return own
    return own + _sum(parts(operation))

  return called('main')


def _sum(counters):
  return sum(counters, collections.Counter())


def _times(counter, factor):
  return collections.Counter({k: factor * n for k, n in counter.items()})


def _of_product(operation):
  dot = operation.name == 'stablehlo.dot_general'
  terms = _contracted(operation) if dot else _under_kernel(operation)
  arrays = [*operation.operands, *operation.results]
  sizes = sum(map(_bytes, arrays))
  return collections.Counter(
    {FLOPS: 2 * _size(operation.results[0]) * terms, BYTES: sizes}
  )


def _bytes(value):
  return _size(value) * max(1, value.type.element_type.width // 8)


def _shape(value):
  return tuple(value.type.shape)


def _size(value):
  return math.prod(_shape(value))


def _contracted(operation):
  """Terms of the sum that every number of a product is."""
  numbers = str(operation.attributes['dot_dimension_numbers'])
  found = re.search(r'lhs_contracting_dimensions = \[([\d, ]*)\]', numbers)
  shape = _shape(operation.operands[0])
  listed = found[1].split(',') if found else []
  return math.prod(shape[int(d)] for d in listed if d.strip())


def _under_kernel(operation):
  """Likewise of a convolution: taps x inputs of a group."""
  numbers = str(operation.attributes['dimension_numbers'])
  order = re.findall(r'\w+', numbers.split('x[')[1].split(']')[0])
  shape = _shape(operation.operands[1])
  return math.prod(shape) // shape[order.index('o')]


def _rounds(operation):
  """The constant that the counter is compared with."""
  constants = {}
  for o in operation.regions[0].blocks[0].operations:
    if o.operation.name == 'stablehlo.constant':
      constants[o.operation.results[0]] = o.operation.attributes['value']
    if o.operation.name == 'stablehlo.compare':
      bound = constants.get(o.operation.operands[1])
      return 1 if bound is None else int(next(iter(bound)))
  return 1
