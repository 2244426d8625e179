"""FLOPs of the matrix products of a lowered JAX program, loops multiplied out.

XLA's own cost analysis counts the body of a loop once, whatever its number of
rounds.
"""

import math
import re
from typing import Any


def products(lowered: Any) -> int:
  """FLOPs of all products and convolutions of `jax.jit(f).lower(...)`.

  Over all devices; of a branch the dearer side; of a loop every round, where
  their number is a constant as in `jax.lax.scan` and `jax.lax.map`, else one.
  """
  module = lowered.compiler_ir('stablehlo')
  devices = module.operation.attributes['mhlo.num_partitions'].value
  functions = {
    function.attributes['sym_name'].value: function.operation
    for function in module.body.operations
    if function.operation.name == 'func.func'
  }
  known: dict[str, int] = {}

  def called(name):
    if name not in known:
      known[name] = sum(parts(functions[name]))
    return known[name]

  def parts(operation):
    return [
      sum(cost(o.operation) for block in region for o in block)
      for region in operation.regions
    ]

  def cost(operation):
    match operation.name:
      case 'stablehlo.dot_general':
        return 2 * _size(operation.results[0]) * _contracted(operation)
      case 'stablehlo.convolution':
        return 2 * _size(operation.results[0]) * _under_kernel(operation)
      case 'func.call':
        return called(operation.attributes['callee'].value)
      case 'stablehlo.while':
        return _rounds(operation) * sum(parts(operation))
      case 'stablehlo.case' | 'stablehlo.if':
        return max(parts(operation))
      case 'sdy.manual_computation':
        return devices * sum(parts(operation))
    return sum(parts(operation))

  return called('main')


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
