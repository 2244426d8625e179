"""Which algorithm should I use? An answer in words, with its evidence.

Everything is derived from the rows of a results file: the best method of every
cell, whether it is better than the others by paired tests over entities, what
it costs, and one sentence at the end.
"""

from collections.abc import Sequence
import math
import textwrap
from typing import Any, NamedTuple

from metaad_jax.scores import old_comparisons as comparisons

_ALPHA = 0.05
_SHOWN = 4  # methods named where more cannot be told apart
_FLEET = 'pooled'  # the one baseline that is trained on other entities


class Choice(NamedTuple):
  """What one cell says.

  Attributes:
    contest: the best method of the cell and its rivals.
    alike: the best, and the rivals that it is not significantly better than
      (Holm-corrected p >= 0.05), the highest mean first.
    sentence: the same in words and numbers.
  """

  contest: comparisons.Contest
  alike: tuple[str, ...]
  sentence: str


def known_rows(results: dict[str, Any], metric: str) -> list[dict[str, Any]]:
  """The rows whose metric exists."""
  return [row for row in results['rows'] if row.get(metric) is not None]


def choices(results: dict[str, Any], metric: str = 'auroc') -> list[Choice]:
  """Compares the best method of every cell with all others.

  Args:
    results: what `results.validate` returned.
    metric: a metric of the rows.

  Returns:
    One for each cell in which at least two methods were scored.
  """
  costs = _costs(results)
  return [
    _choice(contest, costs)
    for contest in comparisons.contests(known_rows(results, metric), metric)
    if len(contest.rivals) > 1
  ]


def _choice(contest, costs):
  best, runner_up = contest.rivals[:2]
  name, other = _text(best['learner']), _text(runner_up['learner'])
  alike = tuple(
    line['learner']
    for line in contest.rivals
    if line['p_holm'] is None or line['p_holm'] >= _ALPHA
  )
  sure = runner_up['p_holm'] < _ALPHA
  gap = f'{runner_up["difference"]:+.3f} ' + (
    f'[{runner_up["low"]:+.3f}, {runner_up["high"]:+.3f}]'
    if math.isfinite(runner_up['low'])
    else '[-]'
  )
  chance = runner_up['p_holm']
  p = '< 0.001' if chance < 0.001 else f'= {chance:.3f}'
  verdict = 'significantly better than' if sure else 'not told apart from'
  sentence = (
    f'{name} {best["mean"]:.3f}{_cost(name, costs)}, {verdict} the runner-up '
    f'{other} {runner_up["mean"]:.3f}{_cost(other, costs)}: {gap}, '
    f'Holm-corrected p {p}.'
  )
  rest = [_text(n) for n in alike[1:] if n != runner_up['learner']]
  if rest:
    nor = 'Not told apart from' if sure else 'Nor from'
    sentence += f' {nor} {_some(rest)}.'
  if contest.left_out:
    out = [_text(n) for n in contest.left_out]
    sentence += f' Not on every entity: {_some(out)}.'
  return Choice(contest, alike, sentence)


def _text(name):
  return ''.join(c if c.isprintable() else '?' for c in name)[:40]


def _some(names: Sequence[str]) -> str:
  more = len(names) - _SHOWN
  return ', '.join(names[:_SHOWN]) + (f' and {more} more' if more > 0 else '')


def _costs(results):
  return {line['learner']: line['seconds'] for line in results.get('costs', [])}


def _cost(name, costs):
  """` (2.1 ms)`, of the method, or of its algorithm where runs share one."""
  seconds = costs.get(name, costs.get(name.partition(' (')[0]))
  return '' if seconds is None else f' ({_duration(seconds)})'


def _duration(seconds: float) -> str:
  if seconds >= 1:
    return f'{seconds:.1f} s'
  digits = 0 if seconds >= 0.01 else 1 if seconds >= 0.001 else 2
  return f'{1000 * seconds:.{digits}f} ms'


def advice(found: Sequence[Choice]) -> str:
  """A sentence for cells without, and one for cells with labelled anomalies.

  The method that is the best, or not told apart from it, in the most cells;
  among equals that with the highest mean over cells. Where some supports are
  clean and some contaminated, they get sentences of their own: what is best
  for one may be bad for the other.

  Args:
    found: see `choices`.

  Returns:
    The sentences; they say so where nothing could be told apart.
  """
  if not found:
    return 'No advice: no cell in which two methods were scored.'
  supports: dict[bool, list[Choice]] = {}
  for choice in sorted(found, key=lambda c: c.contest.contamination > 0):
    supports.setdefault(choice.contest.contamination > 0, []).append(choice)
  parts = []
  for dirty, own in supports.items():
    alone, labelled = 'From normals alone', 'With labelled anomalies'
    if len(supports) > 1:
      what = 'contaminated' if dirty else 'clean'
      alone = f'From {what} normals alone'
      labelled = f'With labelled anomalies beside {what} normals'
    groups = {
      alone: [c for c in own if not c.contest.anomalies],
      labelled: [c for c in own if c.contest.anomalies],
    }
    parts += [_part(when, group) for when, group in groups.items() if group]
  return ' '.join(parts)


def _part(when, group):
  name, level, rest, second = _favourite(group)
  part = (
    f'{when}, use {_text(name)}: the best, or not told apart from it, in '
    f'{level} of {len(group)} cells'
  )
  kinds = {
    line['learner']: line['kind'] for c in group for line in c.contest.rivals
  }
  free = [n for n in rest if kinds[n] == 'baseline' and n != _FLEET]
  if rest:
    part += (
      f'; nothing here tells it from {_some([_text(other) for other in rest])}'
    )
    if kinds[name] == 'learner' and free:
      part += f'; with no training beforehand, use {_text(free[0])}'
  elif second:
    part += f' (next: {_text(second[0])}, in {second[1]})'
  return f'{part}.'


def _favourite(group):
  """The method to use, in how many cells it is level, who is in the same."""
  names = list(
    dict.fromkeys(line['learner'] for c in group for line in c.contest.rivals)
  )
  level = {name: sum(name in c.alike for c in group) for name in names}

  def behind(name):
    """Mean over cells of the gap to the best; a missing cell counts as 1."""
    gaps = [
      line['difference']
      for c in group
      for line in c.contest.rivals
      if line['learner'] == name
    ]
    return (sum(gaps) + len(group) - len(gaps)) / len(group)

  order = sorted(names, key=lambda name: (-level[name], behind(name)))
  first = order[0]
  rest = [
    name
    for name in order[1:]
    if level[name] == level[first]
    and all((name in c.alike) == (first in c.alike) for c in group)
  ]
  second = (order[1], level[order[1]]) if len(order) > 1 else None
  return first, level[first], rest, second


def text(
  results: dict[str, Any], metric: str = 'auroc', width: int = 100
) -> str:
  """The recommendation for the terminal.

  Args:
    results: what `results.validate` returned.
    metric: a metric of the rows.
    width: columns of the terminal.

  Returns:
    A line for every cell, grouped by source and contamination, what the times
    are, and the advice as the last sentence.
  """
  found = choices(results, metric)
  lines = [f'Which algorithm should I use? ({metric})']
  block = None
  for choice in found:
    contest = choice.contest
    if (contest.source, contest.contamination) != block:
      block = contest.source, contest.contamination
      dirt = f'{100 * contest.contamination:g}% contaminated'
      lines.append(
        f'{_text(contest.source)}, support '
        f'{dirt if contest.contamination else "clean"}:'
      )
    lines += textwrap.wrap(
      f'A={contest.anomalies} K={contest.shots}, {contest.entities} '
      f'entities: {choice.sentence}',
      width,
      initial_indent='  ',
      subsequent_indent='      ',
    )
  lines += textwrap.wrap(price(results), width)
  lines += textwrap.wrap(advice(found), width)
  return '\n'.join(lines) + '\n'


def price(results: dict[str, Any]) -> str:
  """What the times in brackets are, and what the methods cost before them."""
  known = [c for c in results.get('costs', []) if c['seconds'] is not None]
  if not known:
    return 'The cost was not measured (--compare does).'
  one = known[-1]
  wider = ', '.join(
    f'{_text(c["learner"])}: {c["columns"]}'
    for c in known
    if c['columns'] != one['columns']
  )
  columns = f'{one["columns"]} columns' + (f' ({wider})' if wider else '')
  return (
    f'In brackets: time for one entity, adapting to {one["shots"]} normal and '
    f'{one["anomalies"]} anomalous rows of {columns} and '
    f'scoring {one["queries"]} rows, features and compilation apart. '
    'Meta-learners and pooled have to be trained on other entities once '
    'before, as the shipped network is; the other baselines do not.'
  )
