"""A page of docs/results/, made from one results file and nothing else.

What a person has to say stands in a file of its own (`intro/NAME.md`), which is
put at the top, so that making the page anew loses nothing.
"""

from collections.abc import Iterable, Sequence
import os
import pathlib
import re
from typing import Any

from metaad_jax import base, storage
from metaad_jax.evaluation import old_results as results_lib
from metaad_jax.evaluation import tuning
from metaad_jax.reports import recommendation, report

_METRICS = ('auroc', 'ap')
_NAMED = 40  # entities whose names are listed


def _plain(text: Any) -> str:
  """Text that cannot break a table or start markup."""
  return re.sub(r'[|<>`\[\]*_]', lambda m: '\\' + m[0], report.clean(str(text)))


def _table(
  header: Sequence[str],
  lines: Iterable[Sequence[str]],
  texts: Sequence[int] = (),
) -> list[str]:
  """Numbers to the right, the first column and those of `texts` to the left."""
  join = lambda cells: f'| {" | ".join(cells)} |'
  return [
    join(header),
    join(['---' if i in (0, *texts) else '---:' for i, _ in enumerate(header)]),
    *map(join, lines),
    '',
  ]


def _wrapped(block: tuple[str, float]) -> str:
  return f'{_plain(block[0])}, {report.support_name(block[1])}'


def _facts(results: dict[str, Any], command: str) -> list[str]:
  """What was run: protocol, entities, commands."""
  meta, rows = results['meta'], results['rows']
  grid = meta['flags']
  lines = [
    '## What was run',
    '',
    f'{_plain(meta["created"])}, {_plain(meta["hardware"])}, code '
    f'{_plain(meta["code"])}'
    + (f', {meta["seconds"]:.0f} s' if meta['seconds'] is not None else '')
    + '.',
    '',
    '```',
    meta.get('command', '(the command of this evaluation was not recorded)'),
    command,
    '```',
    '',
    'The first command evaluates, the second makes this page.',
    '',
  ]
  told = {
    'draws': '{} draws of the support per entity',
    'queries': 'at most {} normal and {} anomalous query rows',
    'split': 'split: {}',
    'seed': 'seed {}',
  }
  said = [
    text.replace('{}', _plain(grid[key]))
    for key, text in told.items()
    if grid.get(key) not in (None, '')
  ]
  if said:
    lines += [
      f'Protocol: {"; ".join(said)}. K normal rows and A labelled anomalies '
      'are the support, the same for all methods; all are scored on the same '
      'query. Draws are averaged within an entity, entities are the units of '
      'all intervals (95%) and tests.',
      '',
    ]
  entities: dict[str, dict[str, None]] = {}
  for row in rows:
    entities.setdefault(row['source'], {})[row['entity']] = None
  for source, names in entities.items():
    listed = ''
    if len(names) <= _NAMED:
      listed = f': {", ".join(map(_plain, names))}'
    lines += [f'Entities of {_plain(source)}: {len(names)}{listed}.', '']
  return lines


def _tuned(results: dict[str, Any]) -> list[str]:
  """What the baselines were given, one line each."""
  found = tuning.told(results)
  if not found:
    return []
  lines = [
    '## Options of the baselines',
    '',
    'Chosen on validation tasks, for each cell by mean AUROC: in brackets the '
    'number of cells, then the AUROC of those tasks with the defaults and with '
    'the choice.',
    '',
  ]
  for heading, several in found:
    lines += [f'{_plain_sentence(heading)}:', '']
    lines += [f'- {_plain_sentence(line)}' for line in several]
    lines += ['']
  return lines


def _choice(results: dict[str, Any]) -> list[str]:
  found = recommendation.choices(results)
  lines = [
    '## Which algorithm should I use?',
    '',
    f'**{_plain_sentence(recommendation.advice(found))}**',
    '',
    'By AUROC; the best method of a cell against every other, Wilcoxon '
    'signed-rank tests, corrected after Holm. '
    f'{_plain_sentence(recommendation.price(results))}',
    '',
  ]
  blocks = dict.fromkeys(
    (c.contest.source, c.contest.contamination) for c in found
  )
  for block in blocks:
    lines += [f'{_wrapped(block)}:', '']
    lines += _table(
      ('A', 'K', 'entities', 'evidence'),
      (
        (
          str(c.contest.anomalies),
          str(c.contest.shots),
          str(c.contest.entities),
          _plain_sentence(c.sentence),
        )
        for c in found
        if (c.contest.source, c.contest.contamination) == block
      ),
      texts=(3,),
    )
  return lines


def _plain_sentence(text: str) -> str:
  return re.sub(r'[|<>`*_]', lambda m: '\\' + m[0], text)


def _means(results: dict[str, Any], metric: str) -> list[str]:
  """Learners and baselines, one table for each A."""
  lines = [f'## {report.metric_name(metric)}', '']
  if metric == _METRICS[0]:
    lines += [
      'Mean over entities, 95% interval. Bold: the best learner and the best '
      'baseline of a column; -: no value (it needs labelled anomalies, or the '
      'entities have too few rows). Where the number of entities differs, the '
      'columns are not over the same ones.',
      '',
    ]
  for block, cells in report.blocks_of(results, metric).items():
    for anomalies in sorted({a for a, _ in cells}):
      own = {key: cell for key, cell in cells.items() if key[0] == anomalies}
      lines += [
        f'{_wrapped(block)}, A = {anomalies}, {report.count_text(own)}:',
        '',
      ]
      body = []
      for kind in ('learner', 'baseline'):
        for name in report.ranked(own, kind):
          values = [_cell(cell, name, kind) for cell in own.values()]
          title = _plain(name)
          if kind == 'baseline':
            title += ' (baseline)'
          body.append([title, *values])
      lines += _table(['', *(f'K = {k}' for _, k in own)], body)
  return lines


def _cell(cell: dict[str, report.Entry], name: str, kind: str) -> str:
  entry = cell.get(name)
  if entry is None or entry['mean'] is None:
    return '-'
  mean = report.fixed(entry['mean'], True)
  if report.valued(cell, kind)[0]['mean'] == entry['mean']:
    mean = f'**{mean}**'
  return f'{mean} {report.interval_text(entry, True)}'


def _against_best(results: dict[str, Any]) -> list[str]:
  """Every learner against the best of all baselines, paired."""
  lines = [
    '## Against the best of all baselines',
    '',
    'The best baseline of each cell (highest mean, chosen with the same rows, '
    'which favours it), and the mean paired difference of each learner to it '
    'with its 95% interval; p of the signed-rank test, corrected after Holm '
    'over all pairs of learner and baseline of the cell.',
    '',
  ]
  found: dict[tuple, dict[tuple, dict[str, report.Entry]]] = {}
  for test in results['tests']:
    if test.get('best') and test['difference'] is not None:
      block = test['source'], test['contamination']
      cell = test['anomalies'], test['shots'], test['learner']
      found.setdefault(block, {}).setdefault(cell, {})[test['metric']] = test
  if not found:
    return []
  for block, cells in found.items():
    body = []
    for (anomalies, shots, learner), own in sorted(cells.items()):
      line = [str(anomalies), str(shots), _plain(learner)]
      for metric in _METRICS:
        test = own.get(metric)
        line += (
          ['-', '-', '-']
          if test is None
          else [
            _plain(test['baseline']),
            f'{test["difference"]:+.3f} {report.interval_text(test)}',
            report.p_text(test['p_holm'])
            .removeprefix('= ')
            .replace('<', '\\<'),
          ]
        )
      body.append(line)
    lines += [f'{_wrapped(block)}:', '']
    header = ['A', 'K', 'learner']
    for metric in ('AUROC', 'AP'):
      header += [f'best by {metric}', f'difference of {metric}', 'p']
    lines += _table(header, body, texts=(2, 3, 6))
  return lines


def _operation(results: dict[str, Any]) -> list[str]:
  found = report.operation(results)
  if not found:
    return []
  rates = report.rows_per_day(results)
  lines = [
    '## In operation',
    '',
    'Share of the anomalies found where the threshold lets 1% or 5% of the '
    "entity's normal rows through: the best learner and the best baseline by "
    'recall at 1%. The threshold is that of the query itself; one that is set '
    'beforehand, from few rows, is less exact.',
    '',
  ]
  if rates:
    told = ', '.join(
      f'{_plain(s)} {report.amount(rate)}' for s, rate in rates.items()
    )
    lines += [
      f'Rows that an entity scores in a day, nearly all normal: {told}; the '
      'last two columns are the false alarms of a day.',
      '',
    ]
  for title, (header, *body) in found:
    lines += [f'{_plain(title)}:', '']
    lines += _table(
      header, ([_plain_sentence(t) for t in b] for b in body), texts=(2,)
    )
  return lines


def _left_out(notes: Sequence[str]) -> list[str]:
  """One line for all entities with too few rows, one for any other note."""
  if not notes:
    return []
  few: dict[str, int] = {}
  others = []
  for note in notes:
    entity, short, _ = note.partition(': no task with ')
    if short:
      few[entity] = few.get(entity, 0) + 1
    else:
      others.append(note)
  lines = ['## Left out', '']
  if few:
    told = ', '.join(f'{entity} ({n})' for entity, n in few.items())
    lines += [
      '- Too few rows for some combinations of K, A and contamination: no task '
      f'there (how many combinations; the results file says which): '
      f'{_plain_sentence(told)}'
    ]
  return lines + [f'- {_plain_sentence(note)}' for note in others]


def render(
  results: dict[str, Any],
  *,
  title: str,
  intro: str = '',
  command: str = '',
  images: Sequence[tuple[str, str]] = (),
) -> str:
  """The page as Markdown.

  Args:
    results: what `results.validate` returned.
    title: of the page, where the intro does not begin with a heading.
    intro: Markdown put at the top as it stands.
    command: makes this page.
    images: (file beside the page, caption) of each picture.

  Returns:
    Markdown, ending in a line break.
  """
  intro = intro.strip()
  lines = [
    '<!-- Generated. Edit the file in intro/ and run the command below. -->',
    '',
    *([] if intro.startswith('# ') else [f'# {_plain(title)}', '']),
    *([intro, ''] if intro else []),
    *_facts(results, command),
  ]
  if results['rows']:
    lines += _choice(results)
  pictures = {
    'budget': 'Samples against quality',
    'ranks': 'Critical differences',
  }
  shown = dict.fromkeys(pictures, False)
  metrics = {entry['metric'] for entry in results['summary']}
  for metric in _METRICS:
    if metric in metrics:
      lines += _means(results, metric)
  lines += _against_best(results)
  for file, caption in images:
    kind = next(k for k in pictures if f'-{k}-' in file)
    if not shown[kind]:
      shown[kind] = True
      lines += [f'## {pictures[kind]}', '']
    text = _plain_sentence(caption)
    lines += [f'![{text}]({file})', '', text, '']
  if results['rows'] and not shown['ranks']:
    lines += [
      'No critical-difference diagram: fewer than '
      f'{report.FEWEST} entities were scored by all methods.',
      '',
    ]
  lines += _operation(results)
  lines += _tuned(results)
  lines += _left_out(results['notes'])
  return '\n'.join(lines).rstrip() + '\n'


def write(
  results: dict[str, Any],
  path: str | os.PathLike[str],
  *,
  intro: str | os.PathLike[str] | None = None,
  rows_per_day: float | Sequence[float] | None = None,
) -> list[pathlib.Path]:
  """Writes a page, its pictures, and the compact results that it is made from.

  Args:
    results: see `results.validate`; what a compact file holds is enough.
    path: the page, `docs/results/NAME.md`; `NAME.json.xz` and `NAME-*.png` are
      written beside it.
    intro: hand-written Markdown for the top; `intro/NAME.md` beside the page
      by default, where there is one.
    rows_per_day: one for all sources, or one for each in the order of the
      rows; turns false-alarm rates into alarms a day, in place of what
      the evaluation was given.

  Returns:
    The files, the page first.

  Raises:
    DataError: if the results break the schema, the page does not end in .md,
      or a file cannot be read or written.
  """
  path = pathlib.Path(path)
  if path.suffix != '.md':
    raise base.DataError(f'{path} is no page: give a name that ends in .md')
  results = results_lib.compact(results)
  if rows_per_day is not None:
    results['meta']['flags']['rows_per_day'] = rows_per_day
  text = ''
  top = path.parent / 'intro' / path.name if intro is None else intro
  if intro is not None or os.path.exists(top):
    try:
      text = pathlib.Path(top).read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
      raise base.DataError(
        f'{top}: cannot be read ({error}): give a text in Markdown'
      ) from None
  data = path.with_suffix('.json.xz')
  command = f'python -m experiments.page --results={data} --output={path}'
  written = [path, data]
  images = []
  results_lib.save(data, results)
  for picture in report.figures(results):
    if picture.name.split('-')[0] in ('budget', 'ranks'):
      slug = re.sub(r'[^A-Za-z0-9.]+', '-', picture.name).strip('-.')[:80]
      written.append(path.with_name(f'{path.stem}-{slug}.png'))
      storage.write_bytes(written[-1], report.small_png(picture.figure))
      images.append((written[-1].name, picture.caption))
  page = render(
    results,
    title=f'Results: {path.stem}',
    intro=text,
    command=results_lib.portable(command),
    images=images,
  )
  storage.write_bytes(path, page.encode())
  return written
