"""The costliest operations of a traced program, and what each computes."""

import collections
import glob
import math
import re
from typing import Any, NamedTuple

from jax import profiler

_CONTAINERS = ('while', 'conditional', 'call', 'async-start', 'async-done')
_INSTRUCTION = re.compile(
  r'^\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<type>\([^=]*?\)|\S+) '
  r'(?P<kind>[\w\-]+)\((?P<rest>.*)$'
)
_COMPUTATION = re.compile(r'^(?:ENTRY )?%?([\w.\-]+) \(.*\{$')
_ARRAY = re.compile(r'([a-z]+)(\d*)\w*\[([\d,]*)\]')
_HEADER = ('operation', 'from', 'share', 'ms', 'times', 'MFLOP', 'MiB')


class Instruction(NamedTuple):
  """A line of a compiled program's text."""

  type: str
  kind: str
  rest: str  # operands and attributes


class Program:
  """A compiled program's text, read: what its instructions cost."""

  def __init__(self, text: str):
    self.instructions: dict[str, Instruction] = {}
    self.members: dict[str, list[str]] = {}
    where = ''
    for line in text.splitlines():
      if opened := _COMPUTATION.match(line):
        where = opened[1]
      elif found := _INSTRUCTION.match(line):
        name, of_type, kind, rest = found.groups()
        self.instructions[name] = Instruction(of_type, kind, rest)
        self.members.setdefault(where, []).append(name)

  def flops(self, name: str) -> int:
    """Of the products of one execution, those of a fusion included."""
    one = self.instructions[name]
    dims = re.search(r'lhs_contracting_dim\w*[":=]+[\[{]([\d",]*)', one.rest)
    if dims and one.kind != 'fusion':
      lhs = _arrays(self.instructions[self._operands(one)[0]].type)[0][1]
      places = [int(d) for d in re.findall(r'\d+', dims[1])]
      terms = math.prod(lhs[d] for d in places)
      return 2 * math.prod(_arrays(one.type)[0][1]) * terms
    if one.kind == 'convolution':
      kernel = _arrays(self.instructions[self._operands(one)[1]].type)[0][1]
      order = re.search(r'dim_labels=\w+_(\w+)->', one.rest)
      outputs = kernel[order[1].index('o')] if order else 1
      result = math.prod(_arrays(one.type)[0][1])
      return 2 * result * math.prod(kernel) // outputs
    inner = re.search(r'calls=%?([\w.\-]+)', one.rest)
    return sum(map(self.flops, self.members.get(inner[1], ()) if inner else ()))

  def bytes(self, name: str) -> int:
    """That one execution reads and writes, every operand in full."""
    one = self.instructions[name]
    types = [self.instructions[o].type for o in self._operands(one)]
    return sum(
      math.prod(shape) * width
      for text in (one.type, *types)
      for width, shape in _arrays(text)
    )

  def origin(self, name: str) -> str:
    """What in the source it comes from, as far as XLA still knows."""
    found = re.search(r'op_name="([^"]*)"', self.instructions[name].rest)
    return '/'.join(found[1].split('/')[-2:]) if found else ''

  def _operands(self, one):
    names = re.findall(r'%([\w.\-]+)', one.rest.split('), ')[0])
    return [name for name in names if name in self.instructions]


def _arrays(text):
  """[(bytes of an element, shape)] of the arrays in a type."""
  return [
    (max(1, int(bits or 8) // 8), [int(n) for n in shape.split(',') if n])
    for _, bits, shape in _ARRAY.findall(text)
  ]


def table(
  folder: str, text: str, steps: int, most: int = 10
) -> list[dict[str, Any]]:
  """The operations of a trace that take the most time, per step.

  Args:
    folder: that `jax.profiler.trace` wrote.
    text: of the compiled program, `compiled.as_text()`.
    steps: in the trace.
    most: how many.

  Returns:
    A row each: `operation`, `from`, `share` of the time of all, `ms`, `times`,
    `MFLOP` of its products, `MiB` read and written.
  """
  program = Program(text)
  times: collections.Counter[str] = collections.Counter()
  counts: collections.Counter[str] = collections.Counter()
  for name, nanoseconds in _events(folder):
    known = program.instructions.get(name)
    if known is not None and known.kind not in _CONTAINERS:
      times[name] += nanoseconds
      counts[name] += 1
  total = sum(times.values())
  return [
    {
      'operation': name,
      'from': program.origin(name),
      'share': spent / total,
      'ms': spent / steps / 1e6,
      'times': counts[name] / steps,
      'MFLOP': program.flops(name) * counts[name] / steps / 1e6,
      'MiB': program.bytes(name) * counts[name] / steps / 2**20,
    }
    for name, spent in times.most_common(most)
  ]


def _events(folder):
  """(operation, nanoseconds) of all that ran while it was traced."""
  files = glob.glob(f'{folder}/**/*.xplane.pb', recursive=True)
  for plane in profiler.ProfileData.from_file(max(files)).planes:
    for line in plane.lines:
      for event in line.events:
        name = dict(event.stats).get('hlo_op')
        if name is not None:
          yield name, event.duration_ns


def markdown(rows: list[dict[str, Any]]) -> str:
  """The table as text."""
  lines = [f'| {" | ".join(_HEADER)} |', '|---' * len(_HEADER) + '|']
  for row in rows:
    numbers = (f'{row[key]:.3g}' for key in ('ms', 'times', 'MFLOP', 'MiB'))
    cells = row['operation'], row['from'], f'{row["share"]:.1%}', *numbers
    lines.append(f'| {" | ".join(cells)} |')
  return '\n'.join(lines) + '\n'
