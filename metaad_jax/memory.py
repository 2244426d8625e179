"""What a function needs of memory, told before it is compiled; budgets."""

from collections.abc import Callable
import math
import re
from typing import Any

import jax
from jax.extend import core

from metaad_jax.base import DataError

_UNITS = {'KiB': 1 << 10, 'MiB': 1 << 20, 'GiB': 1 << 30}


def budget(text: str) -> int | None:
  """Bytes of a budget such as '2GiB' or '1.5MiB'; '' = None, no budget.

  Raises:
    DataError: if the text is none, or less than a byte.
  """
  if not text:
    return None
  found = re.fullmatch(r'(\d+(?:\.\d+)?)(KiB|MiB|GiB)', text.strip(), re.ASCII)
  size = float(found[1]) * _UNITS[found[2]] if found else 0
  if not 1 <= size < 2**63:
    raise DataError(
      f'memory={text!r} is impossible: give a number and KiB, MiB or GiB, such '
      'as 2GiB'
    )
  return int(size)


def told(size: int) -> str:
  """Bytes as a budget has them, rounded up: 11010048 -> '10.5MiB'."""
  unit = next((u for u in ('GiB', 'MiB') if size >= _UNITS[u]), 'KiB')
  return f'{math.ceil(10 * size / _UNITS[unit]) / 10:g}{unit}'


def footprint(
  function: Callable[..., Any], *arguments: Any, loops: bool = False
) -> int:
  """Bytes of all that a function computes on the way.

  Bodies of loops count once; with `loops` as often as they run.
  """
  return _bytes(jax.make_jaxpr(function)(*arguments).jaxpr, loops)


def _bytes(jaxpr, loops):
  total = 0
  for equation in jaxpr.eqns:
    subs = core.jaxprs_in_params(equation.params)
    inner = sum(_bytes(sub, loops) for sub in subs)
    times = equation.params.get('length', 1) if loops else 1
    out = [v.aval for v in equation.outvars if hasattr(v.aval, 'shape')]
    outputs = sum(a.size * a.dtype.itemsize for a in out)
    total += max(times * inner, outputs)
  return total


def alive(function: Callable[..., Any], *arguments: Any) -> int:
  """Bytes that live at once at most, if nothing is fused; arguments apart."""
  return _alive(jax.make_jaxpr(function)(*arguments).jaxpr)


def _alive(jaxpr):
  last: dict[Any, float] = {}  # where a value is used last
  for place, equation in enumerate(jaxpr.eqns):
    last |= dict.fromkeys(map(id, equation.invars), place)
  last |= dict.fromkeys(map(id, jaxpr.outvars), math.inf)
  held = peak = 0
  ending: dict[float, int] = {}  # bytes that end with an equation
  for place, equation in enumerate(jaxpr.eqns):
    subs = core.jaxprs_in_params(equation.params)
    inner = max(map(_alive, subs), default=0)
    for variable in equation.outvars:
      if hasattr(variable.aval, 'shape'):
        size = variable.aval.size * variable.aval.dtype.itemsize
        held += size
        end = last.get(id(variable), place)
        ending[end] = ending.get(end, 0) + size
    peak = max(peak, held + inner)
    held -= ending.pop(place, 0)
  return peak
