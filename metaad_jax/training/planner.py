"""How a meta-step is computed within a budget of memory.

There are several ways, all of which give the same gradient to rounding: fewer
tasks at once, inner steps computed anew on the way back, blocks of a network
computed anew. What each needs is estimated before it is compiled
(`memory.alive`), and what XLA plans for the compiled step decides.
"""

from collections.abc import Callable, Mapping, Sequence
import sys
from typing import Any, NamedTuple

import jax
import tqdm

from metaad_jax import devices as devices_lib
from metaad_jax import memory
from metaad_jax.base import DataError, MetaLearner
from metaad_jax.training import loop

# Of the estimate, the least that XLA made do with: .77 to 1.33 on W2 to W5.
_LEAST = 0.7


class Plan(NamedTuple):
  """A way to compute a meta-step.

  Attributes:
    way: options of the learner or its model in that way; '' = its own.
    at_once: tasks worked on at once on a device.
    estimate: bytes of temporary memory.
    scan: the steps, see `loop.make_scan`.
  """

  way: str
  at_once: int
  estimate: int
  scan: Any

  def __str__(self):
    tasks = f'{self.at_once} task{"s" * (self.at_once > 1)} at once'
    return ', '.join(filter(None, [tasks, self.way]))


class Planned:
  """Meta-steps whose plan is chosen at the first call.

  Called as what `loop.make_scan` gives. The plans are tried in turn, the
  fastest first; those are passed over that cannot fit by their estimate.
  """

  def __init__(self, plans: Sequence[Plan], budget: int, quiet: bool = True):
    self.plans, self.budget, self.quiet = plans, budget, quiet
    self.chosen: Plan | None = None
    self.compiled: Any = None
    self.temporary = 0

  def __call__(self, state, sample):
    if self.compiled is None:
      self.compile(state, sample)
      if not self.quiet and devices_lib.first_process():
        line = f'memory: {self.chosen}, {memory.told(self.temporary)} a device'
        tqdm.tqdm.write(line, file=sys.stderr)
    return self.compiled(state, sample)

  def compile(self, state: Any, sample: Any) -> Any:
    """Chooses and compiles.

    Returns:
      The lowered steps; `chosen`, `compiled` and `temporary` bytes are set.

    Raises:
      DataError: if no plan fits, with what the least one takes.
    """
    share = dict.fromkeys((plan.way for plan in self.plans), _LEAST)
    found: list[tuple[int, Plan]] = []
    for plan in self.plans:
      last = plan is self.plans[-1]
      if share[plan.way] * plan.estimate > self.budget and not last:
        continue
      lowered = plan.scan.lower(state, sample)
      compiled = lowered.compile()
      needed = compiled.memory_analysis().temp_size_in_bytes
      if needed <= self.budget:
        self.chosen, self.compiled, self.temporary = plan, compiled, needed
        return lowered
      share[plan.way] = min(1.0, needed / plan.estimate)
      found.append((needed, plan))
    needed, plan = min(found, key=lambda pair: pair[0])
    raise DataError(
      f'memory={memory.told(self.budget)} is too little: the thriftiest plan '
      f'({plan}) takes {memory.told(needed)}: give that, or fewer shots or '
      'queries, or a smaller model'
    )


def make_scan(
  ways: Mapping[str, MetaLearner], quiet: bool = True
) -> Callable[..., tuple[Planned, jax.sharding.Mesh]]:
  """A `loop.make_scan` that keeps to the budget in its settings.

  On a CPU fewer tasks at once cost no time, so that all numbers of them are
  tried before the next way; elsewhere all ways, before fewer tasks.

  Args:
    ways: the learner in ways that need less memory than its own, the fastest
      first, each by its options.
    quiet: does not say on stderr what was chosen.
  """

  def make(learner, optimizer, example, params, settings, length):
    build = lambda learner, settings: loop.make_scan(
      learner, optimizer, example, params, settings, length
    )
    _, mesh = build(learner, settings)
    each = -(-settings.tasks // mesh.size)
    plans: list[Plan] = []
    for way, one in {'': learner, **ways}.items():
      most, size = _sizes(one, example, params, settings)
      numbers = {devices_lib.divisor(each, n) for n in range(1, most + 1)}
      for number in sorted(numbers, reverse=True):
        given = most if number == max(numbers) else number
        scan, over = build(one, settings._replace(at_once=given))
        if over == mesh:
          plans.append(Plan(way, number, number * size, scan))
    if devices_lib.tuning().tasks_bytes is None:
      plans.sort(key=lambda plan: -plan.at_once)
    return Planned(_thriftier(plans), settings.memory, quiet), mesh

  return make


def _sizes(learner, example, params, settings):
  """Tasks at once at most, and the bytes that live of one at a time."""
  one = jax.jit(loop.gradient_at(learner), inline=True)  # traced once
  given = 0.0, jax.random.key(settings.seed), params, example
  most = settings.at_once or devices_lib.most(one, *given)
  return min(most, settings.tasks), memory.alive(one, *given)


def _thriftier(plans):
  """Those that need less than every one before them."""
  kept = plans[:1]
  for plan in plans[1:]:
    if plan.estimate < kept[-1].estimate:
      kept.append(plan)
  return kept
