"""Tables of an evaluation, from its tidy table to text.

`Table` is what a reader sees: rows of cells that are text already. There is
one renderer for the terminal (`text`) and one for Markdown (`markdown`); the
templates of `pages` render the same tables as HTML.
"""

from collections.abc import Iterable, Sequence
import re
import textwrap
from typing import Any, NamedTuple

import pandas as pd

from metaad_jax import base
from metaad_jax.evaluation.results import Results
from metaad_jax.scores import comparisons

METRICS = {
  'auroc': 'AUROC',
  'ap': 'average precision',
  'recall_at_far_1': 'recall at 1% false alarms',
  'recall_at_far_5': 'recall at 5% false alarms',
}
BLOCK = ['source', 'contamination']
CELL = ['source', 'contamination', 'anomalies', 'shots']
KINDS = ('learner', 'baseline')
ALPHA = 0.05  # of all verdicts


class Cell(NamedTuple):
  """A number or words, a note to it such as an interval, and its emphasis."""

  text: str
  note: str = ''
  best: bool = False

  def __str__(self) -> str:
    return f'{self.text} {self.note}'.rstrip()


class Table(NamedTuple):
  """A table to be rendered."""

  title: str  # what the numbers are
  header: tuple[str, ...]
  groups: dict[str, list[tuple[Cell, ...]]]  # '' where rows are not grouped
  words: frozenset[int] = frozenset({0})  # columns aligned to the left


def row(*cells: Cell | str) -> tuple[Cell, ...]:
  """A row of a table; texts become cells."""
  return tuple(Cell(c) if isinstance(c, str) else c for c in cells)


def clean(text: Any, width: int = 60) -> str:
  """One printable line of at most `width` characters."""
  line = ''.join(c if c.isprintable() else '?' for c in str(text))
  return line if len(line) <= width else line[: width - 1] + '…'


def number(value: float, sign: bool = False) -> str:
  """Three decimals without the leading zero: `.846`, `-.012`; `-` for NaN."""
  if pd.isna(value):
    return '-'
  text = f'{value:+.3f}' if sign else f'{value:.3f}'
  return re.sub(r'^([+-]?)0(?=\.)', r'\1', text)


def interval(entry: Any) -> str:
  """`[.830, .861]` of an entry with `low` and `high`; `[-]` where unknown."""
  if pd.isna(entry.low) or pd.isna(entry.high):
    return '[-]'
  return f'[{number(entry.low)}, {number(entry.high)}]'


def p_value(p: float, relation: str = '') -> str:
  """`.048`, or with `relation='= '` `= .048`; small ones are `< .001`."""
  return '< .001' if p < 0.001 else f'{relation}{number(p)}'


def amount(value: float) -> str:
  """A number to two digits, or whole: 0.29, 2.9, 14, 8,640."""
  return f'{value:,.0f}' if value >= 10 else f'{value:.2g}'


def support_name(contamination: float) -> str:
  if not contamination:
    return 'clean support'
  return f'support {100 * contamination:g}% contaminated'


def block_name(block: Sequence[Any]) -> str:
  """`rig, clean support` of (source, contamination)."""
  return f'{clean(block[0])}, {support_name(block[1])}'


def blocks(frame: pd.DataFrame) -> Iterable[tuple[Any, pd.DataFrame]]:
  """((source, contamination), its rows by A and K), ordered as the file."""
  for block, rows in frame.groupby(BLOCK, sort=False):
    yield block, rows.sort_values(['anomalies', 'shots'], kind='stable')


def entities_text(summary: pd.DataFrame) -> str:
  """`200 entities`, or `7-11 entities` where cells differ."""
  low, high = summary.entities.min(), summary.entities.max()
  if high == 1:
    return '1 entity'
  return f'{low} entities' if low == high else f'{low}-{high} entities'


def ranked(summary: pd.DataFrame, kind: str) -> list[str]:
  """Methods of a kind, the best first.

  By the mean over cells of the lead on the average method of the cell, so that
  leaving out the hard cells does not favour a method.
  """
  lead = summary['mean'] - summary.groupby(CELL)['mean'].transform('mean')
  ours = summary.kind == kind
  means = lead[ours].groupby(summary.method[ours], sort=False).mean()
  return list(means.sort_values(ascending=False, kind='stable').index)


def best_of(summary: pd.DataFrame, kind: str) -> pd.DataFrame:
  """The entry of the highest mean of each cell, indexed by `CELL`."""
  known = summary[(summary.kind == kind) & summary['mean'].notna()]
  return known.loc[known.groupby(CELL, sort=False)['mean'].idxmax()].set_index(
    CELL
  )


# ---- Tables of an evaluation ----


def means(
  summary: pd.DataFrame, block: Sequence[Any], medians: bool = True
) -> Table:
  """Methods against cells of one block: mean, interval and, asked for, median.

  Learners first, the best first; emphasised are the best learner and the best
  baseline of each column. `summary` is of one metric.
  """
  keys = list(summary.groupby(['anomalies', 'shots']).groups)
  entries = {
    (entry.anomalies, entry.shots, entry.method): entry
    for entry in summary.itertuples()
  }
  highest = summary.groupby(['anomalies', 'shots', 'kind'])['mean'].max()

  def cell(key: tuple, method: str) -> Cell:
    entry: Any = entries.get((*key, method))
    if entry is None or pd.isna(entry.mean):
      return Cell('-')
    note = interval(entry) + (f' {number(entry.median)}' if medians else '')
    best = entry.mean == highest[(*key, entry.kind)]
    return Cell(number(entry.mean), note, bool(best))

  groups = {
    f'{kind}s': [
      (Cell(clean(name)), *(cell(key, name) for key in keys))
      for name in ranked(summary, kind)
    ]
    for kind in KINDS
    if kind in set(summary.kind)
  }
  title = (
    f'{block_name(block)}: {METRICS[summary.metric.iloc[0]]}, mean '
    f'[95% interval]{" median" if medians else ""} over '
    f'{entities_text(summary)}'
  )
  return Table(title, ('', *(f'A={a} K={k}' for a, k in keys)), groups)


def verdict(contest: Any) -> str:
  """What a paired contest says of the learner: the only verdict there is."""
  if pd.isna(contest.p_holm) or contest.p_holm >= ALPHA:
    return 'not told apart'
  return 'better' if contest.difference > 0 else 'worse'


def against_best(contests: pd.DataFrame, block: Sequence[Any]) -> Table:
  """Each learner against the best baseline of each cell, of one metric."""
  rows = []
  ours = contests[contests.best].sort_values(['anomalies', 'shots'])
  rivals = contests[contests.baseline != 'random']
  number_of = rivals.groupby(['anomalies', 'shots', 'learner']).size()
  for c in ours.itertuples():
    difference = Cell(number(c.difference, True), interval(c))
    of = f'(of {number_of.get((c.anomalies, c.shots, c.learner), 0)})'
    names = clean(c.learner), Cell(clean(c.baseline), of)
    counts = number(c.median, True), f'{c.wins}-{c.losses}'
    judged = p_value(c.p_holm), verdict(c)
    rows.append(
      row(str(c.anomalies), str(c.shots), *names, difference, *counts, *judged)
    )
  header = (
    *('A', 'K', 'learner', 'best baseline', 'difference [95% interval]'),
    *('median', 'better-worse', 'p (Holm)', 'verdict'),
  )
  return Table(
    f'{block_name(block)}: {METRICS[contests.metric.iloc[0]]}, each learner '
    'against the best baseline of the cell',
    header,
    {'': rows},
    frozenset({0, 2, 3, 8}),
  )


def rows_per_day(results: Results) -> dict[str, float]:
  """{source: rows that an entity scores in a day}; empty where not given."""
  rates = results.meta['flags'].get('rows_per_day')
  if not rates:
    return {}
  names = list(results.table.source.unique())
  rates = rates if isinstance(rates, list) else [rates]
  if len(rates) not in (1, len(names)):
    raise base.DataError(
      f'{len(rates)} rows_per_day for {len(names)} sources: give one, or one '
      f'for each of {", ".join(names)}'
    )
  return dict(zip(names, rates * (len(names) // len(rates)), strict=True))


def operation(summary: pd.DataFrame, rates: dict[str, float]) -> list[Table]:
  """Recalls at fixed false-alarm rates, and with `rows_per_day` alarms a day.

  A table for each block: of every cell the best learner and the best baseline
  by recall at 1% false alarms. `summary` is of all metrics.
  """
  strict = summary[summary.metric == 'recall_at_far_1']
  wide = summary[summary.metric == 'recall_at_far_5']
  wide = wide.set_index([*CELL, 'method'])
  tables = []
  for block, entries in blocks(strict):
    both = [best_of(entries, kind) for kind in KINDS]
    rows = []
    for cell in entries.set_index(CELL).index.unique():
      for best in (b.loc[cell] for b in both if cell in b.index):
        other = wide.loc[(*cell, best.method)]
        found = [Cell(number(e['mean']), interval(e)) for e in (best, other)]
        alarms = [
          amount(rate * rates[block[0]]) for rate in (0.01, 0.05) if rates
        ]
        name = clean(best.method)
        rows.append(row(*map(str, cell[2:]), name, *found, *alarms))
    header = ['A', 'K', 'method', 'found at 1%', 'found at 5%']
    header += ['alarms a day at 1%', 'at 5%'] if rates else []
    title = f'{block_name(block)}: anomalies found at two false-alarm rates'
    tables.append(Table(title, tuple(header), {'': rows}, frozenset({0, 2})))
  return tables


# ---- Renderers ----


def text(table: Table, width: int = 100) -> str:
  """A table for the terminal; columns that do not fit go below.

  `*` marks emphasised cells. The names of groups are lines of their own.
  """
  indent = '  ' * any(table.groups)
  mark = lambda cell: f'{"*" * cell.best}{cell}'
  lines = [
    (name, [(indent + mark(cells[0]), *map(mark, cells[1:])) for cells in rows])
    for name, rows in table.groups.items()
  ]
  body = [cells for _, rows in lines for cells in rows]
  sizes = [max(map(len, c)) for c in zip(table.header, *body, strict=True)]
  pages: list[list[int]] = []
  room = 0
  for column in range(1, len(sizes)):
    room -= sizes[column] + 2
    if room < 0 or not pages:
      pages.append([0])
      room = width - sizes[0] - sizes[column] - 2
    pages[-1].append(column)
  shown = [table.title]
  for page in pages:
    align = lambda cells, page=page: '  '.join(
      cells[i].ljust(sizes[i]) if i in table.words else cells[i].rjust(sizes[i])
      for i in page
    ).rstrip()
    shown.append(align(table.header))
    for name, rows in lines:
      shown += [name] * bool(name) + [align(cells) for cells in rows]
  return '\n'.join(shown) + '\n'


def escape(text: Any) -> str:
  """Text that cannot break a Markdown table or start markup."""
  return re.sub(r'([\\|<>`*_]|\[(?![-+.\d])|\](?=\())', r'\\\1', str(text))


def markdown(table: Table) -> str:
  """A table in Markdown; emphasised cells are bold."""
  line = lambda cells: f'| {" | ".join(cells)} |\n'
  columns = range(len(table.header))
  rule = ['---' if i in table.words else '---:' for i in columns]
  lines = [line(table.header), line(rule)]
  for group, rows in table.groups.items():
    for first, *cells in rows:
      name = escape(first) + ' (baseline)' * (group == 'baselines')
      numbers = [
        f'{"**" * c.best}{escape(c.text)}{"**" * c.best} {c.note}'.rstrip()
        for c in cells
      ]
      lines.append(line([name, *numbers]))
  return ''.join(lines)


def csv(frame: pd.DataFrame) -> str:
  """CSV in which no text is a formula to a spreadsheet."""
  harmless = lambda value: (
    f"'{value}"
    if isinstance(value, str) and value.lstrip()[:1] in ('=', '+', '-', '@')
    else value
  )
  return frame.map(harmless).to_csv(index=False, lineterminator='\n')


def sentence(contest: Any, learner: Any, baseline: Any) -> str:
  """A contest in words, from its entry and the two of `comparisons.summary`."""
  judged = verdict(contest)
  relation = f'{judged} {"from" if judged == "not told apart" else "than"}'
  said = (
    f'{clean(contest.learner)} {number(learner.mean)}, {relation} the best '
    f'baseline {clean(contest.baseline)} {number(baseline.mean)}: '
    f'{number(contest.difference, True)} {interval(contest)}, median '
    f'{number(contest.median, True)}, better on {contest.wins} and worse on '
    f'{contest.losses} of {contest.entities} entities, Holm-corrected p '
    f'{p_value(contest.p_holm, "= ")}.'
  )
  if learner.entities != baseline.entities:
    said += (
      f' Means are not over the same entities: {learner.entities} and '
      f'{baseline.entities}.'
    )
  return said


def verdicts(
  summary: pd.DataFrame, contests: pd.DataFrame
) -> dict[tuple, tuple[str, str]]:
  """The best learner against the best baseline, of one metric.

  {(source, contamination, A, K): (verdict, sentence)} of the cells in which
  there is such a contest.
  """
  entries = {
    (*(getattr(e, key) for key in CELL), e.method): e
    for e in summary.itertuples()
  }
  best = best_of(summary, 'learner').method
  said = {}
  ours = contests[contests.best].sort_values(['anomalies', 'shots'])
  for contest in ours.itertuples():
    cell = tuple(getattr(contest, key) for key in CELL)
    if best.get(cell) == contest.learner:
      names = contest.learner, contest.baseline
      pair = [entries[(*cell, name)] for name in names]
      said[cell] = verdict(contest), sentence(contest, *pair)
  return said


def terminal(results: Results, width: int = 104) -> str:
  """Means of the AUROC for a terminal of `width` columns, with the verdicts.

  For each block the means with their 95% intervals; under it, for each cell,
  the best learner against the best baseline by the paired test, corrected after
  Holm.
  """
  if results.table.empty:
    return 'No episode was scored.\n'
  summary = comparisons.summary(results.table, 'auroc')
  said = verdicts(summary, comparisons.contests(results.table, 'auroc'))
  parts = []
  for block, entries in blocks(summary):
    parts.append(text(means(entries, block, medians=False), width))
    for (*own, a, k), (_, line) in said.items():
      if tuple(own) == tuple(block):
        wrapped = textwrap.wrap(
          f'A={a} K={k}: {line}', width, subsequent_indent='    '
        )
        parts.append('\n'.join(wrapped) + '\n')
    parts.append('\n')
  return ''.join(parts) + (
    'K normal samples, A labelled anomalies in the support.\n'
    '* the best meta-learner, the best baseline; - no value.\n'
  )
