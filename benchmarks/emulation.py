"""A CPU that multiplies as a GPU does at TF32 or bf16: operands are rounded.

Products of rounded operands are exact in float32, and summed in it: as on a
GPU, but for the order of the sums and the rounding of halves.
"""

from jax._src.interpreters import mlir
from jax._src.lax import convolution, lax
from jax._src.lib.mlir import ir
from jax._src.lib.mlir.dialects import hlo

_MANTISSA = {'tf32': 10, 'bf16': 7}


def round_operands(precision: str) -> None:
  """Every product of float32 that this process compiles from now on."""
  bits = _MANTISSA[precision]

  def rounded(operand):
    if not isinstance(
      ir.RankedTensorType(operand.type).element_type, ir.F32Type
    ):
      return operand
    eight, few = (
      ir.IntegerAttr.get(ir.IntegerType.get_signless(32), n) for n in (8, bits)
    )
    return hlo.reduce_precision(operand, eight, few)

  def lowered(rule):
    return lambda ctx, a, b, **params: rule(
      ctx, rounded(a), rounded(b), **params
    )

  known = mlir._platform_specific_lowerings['cpu']
  for primitive in (lax.dot_general_p, convolution.conv_general_dilated_p):
    rule = known.get(primitive) or mlir._lowerings[primitive]
    mlir.register_lowering(primitive, lowered(rule.rule), platform='cpu')
