"""Pages: the report of an evaluation, a page of docs/results.

The sections of an evaluation are made once (`sections`) and rendered by the
templates beside this file, as HTML and as Markdown.
"""

import collections
from collections.abc import Sequence
import datetime
import json
import os
import pathlib
import re
from typing import NamedTuple

import pandas as pd

from metaad_jax import base, storage
from metaad_jax.evaluation import results as results_lib
from metaad_jax.evaluation import tuning
from metaad_jax.evaluation.results import Results
from metaad_jax.reports import figures, recommendation, rendering, tables
from metaad_jax.reports.tables import Table
from metaad_jax.scores import comparisons

_NAMED = 40  # entities whose names are listed

_PROTOCOL = (
  'K normal rows and A labelled anomalies are the support, the same for all '
  'methods; all are scored on the same query. Draws are averaged within an '
  'entity; entities are the units of all intervals (95%) and tests.'
)
_CONTESTS = (
  'The best baseline of a cell has the highest mean; it is chosen with the '
  'rows that it is tested on, which favours it. Difference: mean over the '
  'entities that both were scored on; better-worse: on how many of them the '
  'learner is above and below. p: Wilcoxon signed-rank test, corrected after '
  'Holm over all pairs of a learner and a baseline of the cell; the verdict is '
  'at 5%.'
)
_MEANS = (
  'Mean over entities, its 95% interval in brackets, then the median. Bold: '
  'the best learner and the best baseline of a column; -: no value (it needs '
  'labelled anomalies, or the entities have too few rows). Where the number '
  'of entities differs, columns are not over the same ones.'
)
_OPERATION = (
  'Share of the anomalies found where the threshold lets 1% or 5% of the '
  "entity's normal rows through: the best learner and the best baseline by "
  'recall at 1%. The threshold is that of the query itself; one that is set '
  'beforehand, from few rows, is less exact.'
)
_TUNED = (
  'Chosen on validation tasks, for each cell by mean AUROC: in brackets the '
  'number of cells, then the AUROC of those tasks with the defaults and with '
  'the choice.'
)
_TOO_FEW = (
  'Too few rows for some combinations of K, A and contamination (how many; the '
  'meta data say which)'
)
_NO_RANKS = (
  'No diagram: fewer than five entities were scored by two methods or more.'
)


class Section(NamedTuple):
  """A part of the report of an evaluation, rendered in this order.

  `key` is its anchor, `lead` its conclusion; images come with their address;
  `folded` tables are closed at first.
  """

  key: str
  title: str
  lead: str = ''
  text: Sequence[str] = ()
  code: str = ''
  images: Sequence[tuple[figures.Picture, str]] = ()
  tables: Sequence[Table] = ()
  items: Sequence[str] = ()
  folded: bool = False


class Statistics(NamedTuple):
  """What is computed once: all metrics; AUROC and ap; ranks by the AUROC."""

  summary: pd.DataFrame
  contests: pd.DataFrame
  rankings: list[comparisons.Ranking]


def statistics(table: pd.DataFrame) -> Statistics:
  """Means, contests and ranks of the table of an evaluation."""
  if table.empty:
    raise base.DataError('no episode was scored: there is nothing to report')
  of_all = lambda function, metrics: pd.concat(
    [function(table, metric) for metric in metrics], ignore_index=True
  )
  return Statistics(
    of_all(comparisons.summary, tables.METRICS),
    of_all(comparisons.contests, ('auroc', 'ap')),
    comparisons.ranks(table, 'auroc'),
  )


# ---- Sections ----


def _run(results: Results, command: str) -> Section:
  """What was run: when, where, by which command, on which entities."""
  table, meta = results
  flags = meta['flags']
  duration = datetime.timedelta(seconds=round(meta['seconds'] or 0))
  protocol = [
    f'{name} {flags[name]}'
    for name in ('draws', 'queries', 'split', 'seed')
    if flags.get(name) not in (None, '')
  ]
  text = [
    f'{meta["created"]}, {meta["hardware"]}, code {meta["code"]}, {duration}.',
    f'Protocol: {", ".join(protocol)}. {_PROTOCOL}',
  ]
  for source, entities in table.groupby('source', sort=False).entity:
    names = entities.unique()
    shown = f': {", ".join(names)}' if len(names) <= _NAMED else ''
    text.append(f'Entities of {source}: {len(names)}{shown}.')
  code = f'{meta["command"] or "(the command was not recorded)"}\n{command}'
  return Section('run', 'What was run', text=text, code=code.strip())


def _contests(contests: pd.DataFrame) -> Section:
  best = contests[contests.best]
  auroc = best[best.metric == 'auroc']
  verdicts = [tables.verdict(contest) for contest in auroc.itertuples()]
  counts = ', '.join(
    f'{verdict} in {verdicts.count(verdict)}'
    for verdict in ('better', 'worse', 'not told apart')
  )
  return Section(
    'contests',
    'Learners against the best baseline',
    f'AUROC, {len(verdicts)} pairs of a learner and a cell: {counts}.',
    [_CONTESTS],
    tables=[
      tables.against_best(pairs, block)
      for _, rows in contests.groupby('metric', sort=False)
      for block, pairs in tables.blocks(rows)
    ],
  )


def _means(summary: pd.DataFrame, metric: str) -> Section:
  title = tables.METRICS[metric]
  return Section(
    metric,
    title[0].upper() + title[1:],
    text=[_MEANS],
    tables=[
      tables.means(panel, block)
      for block, rows in tables.blocks(summary[summary.metric == metric])
      for _, panel in rows.groupby('anomalies')
    ],
    folded=metric != 'auroc',
  )


def _operation(results: Results, summary: pd.DataFrame) -> Section:
  rates = tables.rows_per_day(results)
  text = [_OPERATION]
  if rates:
    given = ', '.join(f'{s} {tables.amount(r)}' for s, r in rates.items())
    text.append(
      'Rows that an entity scores in a day, nearly all of them normal: '
      f'{given}; the last two columns are the false alarms of a day.'
    )
  found = tables.operation(summary, rates)
  return Section('operation', 'In operation', text=text, tables=found)


def _left_out(notes: Sequence[str]) -> Section:
  """One line for all entities with too few rows, one for any other note."""
  parts = [note.partition(': no task with ') for note in notes]
  few = collections.Counter(entity for entity, short, _ in parts if short)
  counts = ', '.join(f'{entity} ({n})' for entity, n in few.items())
  items = [f'{_TOO_FEW}: {counts}'] * bool(few)
  items += [note for note, short, _ in parts if not short]
  return Section('notes', 'Left out', items=items)


def sections(
  results: Results,
  found: Statistics,
  images: Sequence[tuple[figures.Picture, str]] = (),
  command: str = '',
  metrics: Sequence[str] = tuple(tables.METRICS),
) -> list[Section]:
  """Everything that a report says, in its order.

  Args:
    results: of an evaluation.
    found: see `statistics`.
    images: figures with their addresses.
    command: makes the page again.
    metrics: whose means are shown.
  """
  choices = recommendation.choices(results)
  kinds = dict(zip(results.table.method, results.table.kind, strict=True))
  shown = lambda *kinds: [
    image for image in images if image[0].name.startswith(kinds)
  ]
  tuned = [
    line
    for heading, lines in tuning.told(results.meta)
    for line in (f'{heading}.', *lines)
  ]
  parts = [
    _run(results, command),
    Section(
      'choice',
      'Which algorithm should I use?',
      recommendation.advice(choices, kinds),
      [recommendation.BASIS],
      tables=recommendation.evidence(choices),
    ),
    _contests(found.contests),
    Section('samples', 'AUROC by samples', images=shown('auroc', 'budget')),
    *(_means(found.summary, metric) for metric in metrics),
    Section(
      'ranks',
      'Critical differences',
      images=shown('ranks'),
      text=[] if found.rankings else [_NO_RANKS],
    ),
    _operation(results, found.summary),
    Section(
      'tuned',
      'Options of the baselines',
      text=[_TUNED] if tuned else [],
      items=tuned,
    ),
    _left_out(results.meta['notes']),
  ]
  return [part for part in parts if any(part[2:])]


# ---- Rendering ----


def _slug(name: str) -> str:
  return re.sub(r'[^A-Za-z0-9.=_-]+', '-', name).strip('-.')[:80]


def write(results: Results, folder: str | os.PathLike[str]) -> list[str]:
  """Writes report.html, figures/*.png, summary.csv and contests.csv.

  Returns:
    The paths of the files, the report first.

  Raises:
    DataError: if there is no row, or a file cannot be written.
  """
  table, meta = results
  found = statistics(table)
  pictures = figures.of_evaluation(table, found.summary, found.rankings)
  images = [
    (picture, rendering.data_uri(figures.png(picture.figure, transparent=True)))
    for picture in pictures
  ]
  page = rendering.html(
    'report.html.j2',
    sections=sections(results, found, images),
    settings={
      key: json.dumps(meta[key], indent=2) for key in ('flags', 'versions')
    },
  )
  content = {
    'report.html': page,
    'summary.csv': tables.csv(found.summary).encode(),
    'contests.csv': tables.csv(found.contests).encode(),
  }
  for picture in pictures:
    name = f'figures/{_slug(picture.name)}.png'
    content[name] = figures.png(picture.figure)
  paths = [os.path.join(folder, name) for name in content]
  for path, data in zip(paths, content.values(), strict=True):
    storage.write_bytes(path, data)
  return paths


def write_markdown(
  results: Results,
  path: str | os.PathLike[str],
  *,
  intro: str | os.PathLike[str] | None = None,
  rows_per_day: Sequence[float] | None = None,
) -> list[pathlib.Path]:
  """Writes a page, its figures, and the compact results it is made from.

  Args:
    results: of an evaluation; compact ones are enough.
    path: the page, `docs/results/NAME.md`; `NAME.csv.xz`, `NAME.meta.json.xz`
      and `NAME-*.png` are written beside it.
    intro: hand-written Markdown for the top; `intro/NAME.md` beside the page
      by default, where there is one.
    rows_per_day: one for all sources, or one for each in the order of the
      rows, in place of what the evaluation was given.

  Returns:
    The files, the page first.

  Raises:
    DataError: if the page does not end in .md, or a file cannot be read or
      written.
  """
  path = pathlib.Path(path)
  if path.suffix != '.md':
    raise base.DataError(f'{path} is no page: give a name that ends in .md')
  top = _intro(path, intro)
  table, meta = results_lib.compact(results)
  if rows_per_day is not None:
    meta = {**meta, 'flags': {**meta['flags'], 'rows_per_day': rows_per_day}}
  results = Results(table, meta)
  data = path.with_suffix('.csv.xz')
  results_lib.save(results, data)
  found = statistics(table)
  images = []
  for picture in figures.of_evaluation(table, found.summary, found.rankings):
    if picture.name.startswith(('budget', 'ranks')):
      name = path.with_name(f'{path.stem}-{_slug(picture.name)}.png')
      storage.write_bytes(name, figures.small_png(picture.figure))
      images.append((picture, name.name))
  command = storage.portable(
    f'python -m experiments.page --results={data} --output={path}'
  )
  page = rendering.markdown(
    'results.md.j2',
    title=f'Results: {path.stem}',
    intro=top,
    sections=sections(results, found, images, command, ('auroc', 'ap')),
  )
  page = re.sub(r'\n{3,}', '\n\n', page).strip()
  storage.write_bytes(path, f'{page}\n'.encode())
  written = [path, data, path.with_suffix('.meta.json.xz')]
  return written + [path.with_name(name) for _, name in images]


def _intro(path: pathlib.Path, intro: str | os.PathLike[str] | None) -> str:
  """What was written by hand for the top of a page; '' where nothing was."""
  top = pathlib.Path(intro or path.parent / 'intro' / path.name)
  if not intro and not top.exists():
    return ''
  try:
    return top.read_text(encoding='utf-8').strip()
  except (OSError, UnicodeDecodeError) as error:
    raise base.DataError(
      f'{top}: cannot be read ({error}): give a text in Markdown'
    ) from None
