"""Options and scaling of the baselines, chosen on validation tasks.

What is tried is listed with the baselines: first every way of scaling with the
defaults, then, with the best of them, every candidate. The choice is made for
each cell (shots, anomalies, contamination) by the mean AUROC over the tasks
given; a tie goes to what comes first, the default first of all.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from metaad_jax.base import Entity
from metaad_jax.evaluation import baselines, jobs, tasks
from metaad_jax.scores import metrics

_QUERIES = 100  # query rows of a label, at most, to choose options by

Cell = tuple[int, int, float]  # shots, anomalies, contamination


class Choice(NamedTuple):
  """What was chosen for a baseline in a cell."""

  options: dict[str, Any]  # for `baselines.score`; {} = the defaults
  auroc: float  # mean over the tasks, with these options
  default: float  # the same with the defaults
  tasks: int


Choices = dict[Cell, dict[str, Choice]]  # by the name of the baseline


class Tuned(NamedTuple):
  """The choices for a source, and the entities that they were made on."""

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
  workers: int,
  quiet: bool,
  kept: str = '',
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
    workers: number of processes, at least 1.
    quiet: no progress bar.
    kept: a file of earlier scores, as in `jobs.score_jobs`.
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
    workers=workers,
    quiet=quiet,
    kept=kept,
  )
  of_cells = {
    cell: choices[group(*cell)]
    for cell in grid.cells()
    if group(*cell) in choices
  }
  return Tuned(sorted({entities[c.entity].name for c in cells}), of_cells)


def _validation_cells(entities, grid, count, group) -> list[tasks.Cell]:
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
  taken: dict[Cell, dict[tuple, tasks.Cell]] = {}
  for cell in (cells[i] for i in places):
    members = taken.setdefault(group(*cell.setting), {})
    if len(members) < count:
      members.setdefault((cell.draw, cell.entity), cell)
  return [cell for members in taken.values() for cell in members.values()]


def choose(
  names: Sequence[str],
  triples: Sequence[tasks.Triple],
  labels: Sequence[np.ndarray],
  cells: Sequence[Cell],
  **how: Any,
) -> Choices:
  """For each cell, a choice for each name, by the tasks of that cell.

  Baselines that need anomalies get none in cells without; those that ignore
  labels are tried where there are fewest, and the choice holds for any number.
  `labels` [m] (1 = anomaly) are of the queries; seed, workers and quiet as in
  `jobs.score_jobs`.
  """
  fewest = {(k, c): a for k, a, c in sorted(set(cells), reverse=True)}
  deciding = {}  # (cell, name) -> the cell whose tasks decide, name
  for cell in dict.fromkeys(cells):
    shots, anomalies, share = cell
    for name in names:
      if not baselines.REGISTRY[name].needs_anomalies:
        deciding[cell, name] = (shots, fewest[shots, share], share), name
      elif anomalies:
        deciding[cell, name] = cell, name
  tried = {pair: _scalings(pair[1]) for pair in deciding.values()}
  score = lambda tried: _aurocs(tried, triples, labels, cells, **how)
  areas, more = score(tried), {}
  for pair, options in tried.items():
    best = options[int(np.argmax(areas[pair].mean(0)))]
    candidates = baselines.REGISTRY[pair[1]].candidates
    more[pair] = [best | candidate for candidate in candidates]
  more_areas = score(more)
  choices: Choices = {cell: {} for cell in cells}
  for (cell, name), pair in deciding.items():
    means = np.hstack([areas[pair], more_areas[pair]]).mean(0)
    place = int(np.argmax(means))  # the first of equals
    choices[cell][name] = Choice(
      (tried[pair] + more[pair])[place],
      auroc=float(means[place]),
      default=float(means[0]),
      tasks=len(areas[pair]),
    )
  return choices


def _aurocs(tried, triples, labels, cells, **how):
  """For each cell and name the AUROCs [tasks, options]."""
  places: dict[Cell, list[int]] = {cell: [] for cell in cells}
  for place, cell in enumerate(cells):
    places[cell].append(place)
  todo = {
    pair: [[jobs.job(i, pair[1], o) for o in some] for i in places[pair[0]]]
    for pair, some in tried.items()
  }
  every = [job for table in todo.values() for row in table for job in row]
  scores = jobs.score_jobs(every, triples, label='tuning', **how)
  auroc = lambda job: metrics.auroc(labels[job.task], scores[job])
  return {
    pair: np.array([[auroc(job) for job in row] for row in table])
    for pair, table in todo.items()
  }


def _scalings(name: str) -> list[dict[str, Any]]:
  """Options that name every scaling; that of the default goes unnamed."""
  others = baselines.REGISTRY[name].scalings[1:]
  return [{}, *({'scaling': scaling} for scaling in others)]


def report(reported: str, home: str, tuned: Tuned) -> dict[str, list]:
  """What was chosen for a source, on another: see docs/results_schema.md."""
  where = {'source': reported, 'from': home, 'entities': tuned.entities}
  tuning = [
    {
      'source': reported, 'method': name, 'shots': shots,
      'anomalies': anomalies, 'contamination': share,
      **choice._asdict(), 'options': _text(choice.options),
    }
    for (shots, anomalies, share), chosen in tuned.choices.items()
    for name, choice in chosen.items()
  ]  # fmt: skip
  return {'tuned_on': [where], 'tuning': tuning}


def _text(options):
  """Options as a reader may type them; 'defaults' where there are none."""
  return ','.join(f'{k}={v}' for k, v in sorted(options.items())) or 'defaults'


def told(meta: dict[str, Any]) -> list[tuple[str, list[str]]]:
  """What was chosen, in words, by the meta data of results.

  For each set of entities that options were chosen on, a heading and a line for
  each baseline: its options, in how many cells, and the mean over cells of the
  validation AUROC with the defaults and with the choice.
  """
  homes: dict[tuple, list[str]] = {}
  for where in meta.get('tuned_on', []):
    key = where['from'], tuple(where['entities'])
    homes.setdefault(key, []).append(where['source'])
  sections = []
  for (home, entities), served in homes.items():
    choices = pd.DataFrame(meta['tuning'])
    choices = choices[choices['source'] == served[0]]
    heading = (
      f'Baselines of {", ".join(dict.fromkeys(served))}: chosen on at most '
      f'{choices["tasks"].max()} tasks for each cell, of {len(entities)} '
      f'entities of {home}, none of which is reported'
    )
    lines = []
    for name, rows in choices.groupby('method', sort=False):
      counts = rows['options'].value_counts()
      several = ', '.join(f'{o} ({count})' for o, count in counts.items())
      before, after = rows['default'].mean(), rows['auroc'].mean()
      lines.append(f'{name}: {several}; {before:.3f} -> {after:.3f}')
    sections.append((heading, lines))
  return sections
