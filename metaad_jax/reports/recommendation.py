"""Which algorithm to use: an answer in words, from paired contests.

The best method of a cell, of either kind, is tested against every other one on
the same entities.
"""

from collections.abc import Sequence
import textwrap
from typing import Any, NamedTuple

from metaad_jax.evaluation.results import Results
from metaad_jax.reports import tables
from metaad_jax.reports.tables import CELL, Cell, Table
from metaad_jax.scores import comparisons

_SHOWN = 4  # methods named where more cannot be told apart
_FLEET = 'pooled'  # the one baseline that is trained on other entities

BASIS = (
  'By AUROC: the best method of a cell, of either kind, against every other '
  'one on the same entities; Wilcoxon signed-rank tests, corrected after Holm. '
  'The best is chosen with the rows that it is tested on. Meta-learners and '
  'pooled have to be trained on other entities beforehand, as the shipped '
  'network is; the other baselines do not.'
)


class Choice(NamedTuple):
  """The best method of one cell beside the others."""

  cell: tuple[Any, ...]  # source, contamination, A, K
  means: dict[str, float]  # of each method
  gaps: dict[str, float]  # mean difference of the best to it, the best first
  alike: list[str]  # the best, and those that it is not shown to be better than
  contest: Any  # of the best and the runner-up, see `comparisons.contests`
  left_out: list[str]  # methods not scored on every entity of the cell


def choices(results: Results, metric: str = 'auroc') -> list[Choice]:
  """Compares the best method of every cell with all others.

  Cells in which two methods or more were scored on every entity, by source and
  contamination in the order of the file, A and K.
  """
  table = results.table[results.table[metric].notna()]
  own = table.groupby([*CELL, 'method', 'entity'], sort=False)[metric].mean()
  means = own.groupby([*CELL, 'method'], sort=False).agg(['mean', 'size'])
  entities = table.groupby(CELL)['entity'].nunique()
  all_of_cell = entities.reindex(means.index.droplevel('method')).to_numpy()
  whole = means['size'] == all_of_cell
  complete = means[whole].reset_index()
  best = complete.loc[complete.groupby(CELL)['mean'].idxmax()]
  # The best takes the part of the learner, all others that of the baselines.
  kept = table.merge(complete[[*CELL, 'method']]).merge(
    best[[*CELL, 'method']].rename(columns={'method': 'best'})
  )
  champion = kept.method == kept.best
  kept['kind'] = champion.map({True: 'learner', False: 'baseline'})
  found = []
  for _, block in tables.blocks(comparisons.contests(kept, metric)):
    for cell, rivals in block.groupby(CELL, sort=False):
      rivals = rivals.sort_values('difference', kind='stable')
      first: str = rivals.learner.iloc[0]
      gaps = dict(zip(rivals.baseline, rivals.difference, strict=True))
      unclear = rivals[rivals.p_holm >= tables.ALPHA].baseline
      there = whole.xs(cell, level=CELL)
      scores = means['mean'].xs(cell, level=CELL).to_dict()
      closest = next(rivals.itertuples())
      alike, left_out = [first, *unclear], list(there.index[~there])
      gaps = {first: 0.0} | gaps
      found.append(Choice(cell, scores, gaps, alike, closest, left_out))
  return found


def _some(names: Sequence[str]) -> str:
  shown = ', '.join(tables.clean(name) for name in names[:_SHOWN])
  more = len(names) - _SHOWN
  return shown + (f' and {more} more' if more > 0 else '')


def advice(found: Sequence[Choice], kinds: dict[str, str]) -> str:
  """One sentence for cells without labelled anomalies, one for cells with.

  It names the method that is the best, or not told apart from the best, in the
  most cells; among equals that with the smallest mean gap. Where some supports
  are clean and some contaminated, each gets sentences of its own. `kinds` maps
  a method to 'learner' or 'baseline'.
  """
  groups: dict[tuple[bool, bool], list[Choice]] = {}
  for choice in found:
    _, contamination, anomalies, _ = choice.cell
    groups.setdefault((contamination > 0, anomalies > 0), []).append(choice)
  several = len({dirty for dirty, _ in groups}) > 1
  parts = []
  for (dirty, labels), cells in sorted(groups.items()):
    normals = 'normals'
    if several:
      normals = f'{"contaminated" if dirty else "clean"} normals'
    when = f'From {normals} alone'
    if labels:
      when = 'With labelled anomalies' + f' beside {normals}' * several
    parts.append(_sentence(when, cells, kinds))
  return (
    ' '.join(parts) or 'No advice: no cell in which two methods were scored.'
  )


def _sentence(when: str, cells: Sequence[Choice], kinds: dict[str, str]) -> str:
  names = list(dict.fromkeys(name for c in cells for name in c.gaps))
  level = {name: [name in c.alike for c in cells] for name in names}
  # a cell without the method counts as a gap of 1, the largest there is
  behind = {name: sum(c.gaps.get(name, 1.0) for c in cells) for name in names}
  first, *others = sorted(names, key=lambda n: (-sum(level[n]), behind[n]))
  said = (
    f'{when}, use {tables.clean(first)}: the best, or not told apart from '
    f'it, in {sum(level[first])} of {len(cells)} cells'
  )
  rest = [name for name in others if level[name] == level[first]]
  free = [n for n in rest if kinds[n] == 'baseline' and n != _FLEET]
  if rest:
    said += f'; nothing here tells it from {_some(rest)}'
    if kinds[first] == 'learner' and free:
      said += f'; with no training beforehand, use {_some(free[:1])}'
  elif others:
    said += f' (next: {_some(others[:1])}, in {sum(level[others[0]])})'
  return f'{said}.'


def evidence(found: Sequence[Choice]) -> list[Table]:
  """The evidence of every cell, a table for each source and contamination."""
  groups: dict[tuple, list[tuple[Cell, ...]]] = {}
  for choice in found:
    c = choice.contest
    named = lambda name, means=choice.means: Cell(
      tables.clean(name), tables.number(means[name])
    )
    row = (
      *(str(c.anomalies), str(c.shots), str(c.entities)),
      *(named(c.learner), named(c.baseline)),
      Cell(tables.number(c.difference, True), tables.interval(c)),
      *(tables.p_value(c.p_holm), _some(choice.alike[1:]) or '-'),
      _some(choice.left_out) or '-',
    )
    groups.setdefault(choice.cell[:2], []).append(tables.row(*row))
  header = (
    *('A', 'K', 'entities', 'best', 'runner-up', 'difference [95% interval]'),
    *('p (Holm)', 'best not told apart from', 'not on every entity'),
  )
  return [
    Table(
      f'{tables.block_name(block)}: the best method of each cell by AUROC',
      header,
      {'': rows},
      frozenset({0, 3, 4, 7, 8}),
    )
    for block, rows in groups.items()
  ]


def text(results: Results, width: int = 100) -> str:
  """The recommendation for the terminal; the advice is its last sentence."""
  found = choices(results)
  kinds = dict(zip(results.table.method, results.table.kind, strict=True))
  parts = ['Which algorithm should I use?\n']
  parts += [f'{tables.text(table, width)}\n' for table in evidence(found)]
  parts += [
    f'{textwrap.fill(paragraph, width)}\n'
    for paragraph in (BASIS, advice(found, kinds))
  ]
  return ''.join(parts)
