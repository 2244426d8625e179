"""Options and scaling of the baselines, chosen on validation tasks.

What is tried is listed with the baselines: first every way of scaling with the
defaults, then, with the best of them, every candidate. The choice is made for
each cell (shots, anomalies, contamination) by the mean AUROC over the tasks
given; a tie goes to what comes first, the default first of all.
"""

import collections
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from metaad_jax.base import Entity
from metaad_jax.evaluation import baselines, jobs, tasks
from metaad_jax.scores import metrics

_QUERIES = 100  # query rows of a label, at most, to choose options by

Cell = tuple[int, int, float]  # shots, anomalies, contamination


class Choice(NamedTuple):
  """What was chosen for a baseline in a cell.

  Attributes:
    options: for `Baseline.score`; {} = the defaults.
    auroc: mean over the tasks, with these options.
    default: the same with the defaults.
    tasks: number of tasks.
  """

  options: dict[str, Any]
  auroc: float
  default: float
  tasks: int


Choices = dict[Cell, dict[str, Choice]]


class Tuned(NamedTuple):
  """The choices for a source.

  Attributes:
    entities: names of those that the choice was made on.
    choices: for each cell of the grid, by name of the baseline.
  """

  entities: list[str]
  choices: Choices


def tune(
  names: Sequence[str],
  entities: Sequence[Entity],
  rows: Callable[[Sequence[tasks.Cell]], Sequence[tasks.Triple]],
  grid: tasks.Grid,
  *,
  count: int,
  together: bool,
  **how: Any,
) -> Tuned:
  """Chooses the options of baselines for every cell of a grid.

  Args:
    names: of `baselines.REGISTRY`.
    entities: for the validation tasks; none of those that are reported.
    rows: cells of these entities -> what the baselines see of them.
    grid: that is reported.
    count: at most so many tasks for a choice.
    together: one choice for all shots and all numbers of labels; the tasks
      without labels are then counted apart from those with.
    **how: workers and quiet, see `choose`.
  """
  group: Callable[[int, int, float], Cell] = lambda k, a, c: (k, a, c)
  if together:
    group = lambda k, a, c: (0, min(a, 1), c)
  cells = _validation_cells(entities, grid, count, group)
  choices = choose(
    names,
    rows(cells),
    [entities[c.entity].labels[c.query] for c in cells],
    [group(*c.setting) for c in cells],
    seed=grid.seed,
    **how,
  )
  return Tuned(
    sorted({entities[c.entity].name for c in cells}),
    {
      cell: choices[group(*cell)]
      for cell in grid.cells()
      if group(*cell) in choices
    },
  )


def _validation_cells(
  entities: Sequence[Entity],
  grid: tasks.Grid,
  count: int,
  group: Callable[[int, int, float], Cell],
) -> list[tasks.Cell]:
  """At most `count` tasks for each group of cells, over many entities."""
  grid = grid._replace(
    draws=-(-count // len(entities)), queries=min(grid.queries, _QUERIES)
  )
  cells, _ = tasks.draw_cells(entities, grid)
  rng = np.random.default_rng(grid.seed)
  order, turn = rng.permutation(len(entities)), rng.random(len(cells))
  places = sorted(
    range(len(cells)),
    key=lambda i: (cells[i].draw, order[cells[i].entity], turn[i]),
  )
  taken: dict[Cell, list[tasks.Cell]] = {}
  seen = set()
  for cell in (cells[i] for i in places):
    key = group(*cell.setting)
    once = key, cell.draw, cell.entity
    if once not in seen and len(taken.setdefault(key, [])) < count:
      seen.add(once)
      taken[key].append(cell)
  return [cell for some in taken.values() for cell in some]


def choose(
  names: Sequence[str],
  triples: Sequence[tasks.Triple],
  labels: Sequence[np.ndarray],
  cells: Sequence[Cell],
  *,
  seed: int,
  workers: int,
  quiet: bool = False,
) -> Choices:
  """Chooses the options of baselines.

  Args:
    names: of `baselines.REGISTRY`.
    triples: the tasks, see `jobs.score_jobs`.
    labels: [m] 1 = anomaly, of the query of each task.
    cells: of each task.
    seed: not negative.
    workers: number of processes, at least 1.
    quiet: no progress bar.

  Returns:
    For each cell, a choice for each name; none for baselines that need
    anomalies in cells without. Baselines that ignore labels are tried where
    there are fewest, and the choice holds for any number.

  Raises:
    DataError: as `jobs.score_jobs`.
  """
  deciding = _deciding(names, cells)
  how: dict[str, Any] = {'seed': seed, 'workers': workers, 'quiet': quiet}
  tried = {pair: _scalings(pair[1]) for pair in deciding.values()}
  means, count = _mean_aurocs(tried, triples, labels, cells, **how)
  more = {}
  for pair, options in tried.items():
    best = options[int(np.argmax(means[pair]))]
    candidates = baselines.REGISTRY[pair[1]].candidates[1:]
    more[pair] = [best | candidate for candidate in candidates]
  more_means, _ = _mean_aurocs(more, triples, labels, cells, **how)
  choices: Choices = {cell: {} for cell in cells}
  for (cell, name), pair in deciding.items():
    values = np.concatenate([means[pair], more_means.get(pair, [])])
    place = int(np.argmax(values))  # the first of equals
    choices[cell][name] = Choice(
      (tried[pair] + more[pair])[place],
      float(values[place]),
      float(values[0]),
      count[pair],
    )
  return choices


def _deciding(
  names: Sequence[str], cells: Sequence[Cell]
) -> dict[tuple[Cell, str], tuple[Cell, str]]:
  """(cell, name) -> the same with the cell whose tasks decide."""
  fewest: dict[tuple[int, float], int] = {}
  for shots, anomalies, share in cells:
    least = fewest.get((shots, share), anomalies)
    fewest[shots, share] = min(least, anomalies)
  deciding = {}
  for cell in dict.fromkeys(cells):
    shots, anomalies, share = cell
    for name in names:
      if not baselines.REGISTRY[name].needs_anomalies:
        deciding[cell, name] = (shots, fewest[shots, share], share), name
      elif anomalies:
        deciding[cell, name] = cell, name
  return deciding


def _mean_aurocs(
  tried: dict[tuple[Cell, str], list[dict[str, Any]]],
  triples: Sequence[tasks.Triple],
  labels: Sequence[np.ndarray],
  cells: Sequence[Cell],
  **how: Any,
) -> tuple[dict[tuple[Cell, str], np.ndarray], dict[tuple[Cell, str], int]]:
  """For each cell and name [options] means over tasks, and their number."""
  todo: list[list[baselines.Job]] = [
    [
      (name, options)
      for (other, name), several in tried.items()
      if other == cell
      for options in several
    ]
    for cell in cells
  ]
  scored = jobs.score_jobs(todo, triples, label='tuning', **how)
  areas: dict[tuple[Cell, str], list[float]] = {}
  for cell, some, scores, truth in zip(
    cells, todo, scored, labels, strict=True
  ):
    for (name, _), values in zip(some, scores, strict=True):
      area = metrics.auroc(truth, np.asarray(values))
      areas.setdefault((cell, name), []).append(area)
  shaped = {
    pair: np.reshape(values, (-1, len(tried[pair])))
    for pair, values in areas.items()
  }
  means = {pair: values.mean(0) for pair, values in shaped.items()}
  return means, {pair: len(values) for pair, values in shaped.items()}


def _scalings(name: str) -> list[dict[str, Any]]:
  """Options that name every scaling; that of the default goes unnamed."""
  return [
    {} if scaling == 'plain' else {'scaling': scaling}
    for scaling in baselines.REGISTRY[name].scalings
  ]


def report(reported: str, home: str, tuned: Tuned) -> dict[str, list]:
  """What was chosen for a source, on another: see docs/results_schema.md."""
  where = {'source': reported, 'from': home, 'entities': tuned.entities}
  tuning = [
    {
      'source': reported, 'method': name, 'shots': shots,
      'anomalies': anomalies, 'contamination': share,
      'options': text(choice.options), 'auroc': choice.auroc,
      'default': choice.default, 'tasks': choice.tasks,
    }
    for (shots, anomalies, share), chosen in tuned.choices.items()
    for name, choice in chosen.items()
  ]  # fmt: skip
  return {'tuned_on': [where], 'tuning': tuning}


def text(options: dict[str, Any]) -> str:
  """Options as a reader may type them; 'defaults' where there are none."""
  return ','.join(f'{k}={v}' for k, v in sorted(options.items())) or 'defaults'


def told(meta: dict[str, Any]) -> list[tuple[str, list[str]]]:
  """What was chosen, in words.

  Args:
    meta: of the results.

  Returns:
    For each set of entities that options were chosen on, a heading and a line
    for each baseline: its options, in how many cells, and the mean over cells
    of the validation AUROC with the defaults and with the choice. Empty where
    nothing was tuned.
  """
  homes: dict[tuple, list[str]] = {}
  for where in meta.get('tuned_on', []):
    key = where['from'], tuple(where['entities'])
    homes.setdefault(key, []).append(where['source'])
  sections = []
  for (home, entities), served in homes.items():
    choices = [c for c in meta['tuning'] if c['source'] == served[0]]
    most = max(c['tasks'] for c in choices)
    heading = (
      f'Baselines of {", ".join(dict.fromkeys(served))}: chosen on at most '
      f'{most} tasks for each cell, of {len(entities)} entities of {home}, '
      'none of which is reported'
    )
    lines = []
    names = [c.get('method') or c['learner'] for c in choices]
    for name in dict.fromkeys(names):
      cells = [c for c, n in zip(choices, names, strict=True) if n == name]
      count = collections.Counter(c['options'] for c in cells)
      several = ', '.join(
        f'{options} ({times})' for options, times in count.most_common()
      )
      before, after = (
        np.mean([c[key] for c in cells]) for key in ('default', 'auroc')
      )
      lines.append(f'{name}: {several}; {before:.3f} -> {after:.3f}')
    sections.append((heading, lines))
  return sections
