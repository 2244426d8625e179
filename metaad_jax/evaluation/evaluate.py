"""Learners and baselines on the same tasks: same support, query and scaling."""

from collections.abc import Sequence
import dataclasses
import datetime
import json
import os
import platform
import time
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from metaad_jax import learners
from metaad_jax.base import DataError, Entity
from metaad_jax.data import audits, registry
from metaad_jax.evaluation import baselines, jobs, results, sides, tasks, tuning
from metaad_jax.scores import metrics
from metaad_jax.training import records, runs, setup

Member = tuple[str, runs.Run]  # a run and its folder
_OF_CELL = ('draw', 'shots', 'anomalies', 'contamination')


class Plan(NamedTuple):
  """How runs are evaluated.

  `split`: 'test' are entities that a run has not seen, 'validation' those that
  it was chosen with and not trained on. `features` are of the rows of another
  source than the run's own, for runs that take any width. `fine_tune` are specs
  of learners that start from each run's meta-parameters and are evaluated
  beside it.
  """

  grid: tasks.Grid
  source: str | None = None  # None = each run's own; several are joined by '+'
  features: str | None = None  # None = the usual ones of that source
  data_dir: str | None = None
  split: str = 'test'  # or 'validation', or 'all'
  baselines: Sequence[str] = tuple(baselines.REGISTRY)
  fine_tune: Sequence[str] = ()
  tune: int = 0  # validation tasks, at most, for each choice of options
  tune_together: bool = False  # one choice for all shots, one more with labels
  workers: int = 2  # processes for the baselines
  quiet: bool = False  # no progress bars
  precision: str = ''  # '' = each run's own
  kept: str = ''  # file of baselines' scores, for a run that is cut off


class Group(NamedTuple):
  """Runs that share their test entities, with unique names, and the tasks."""

  members: list[Member]
  names: list[str]
  side: sides.Side
  cells: list[tasks.Cell]

  @property
  def baseline_run(self) -> runs.Run:
    """The run whose features and prior the baselines share."""
    scaled = [run for _, run in self.members if run.prior is not None]
    return (scaled or [self.members[0][1]])[0]


def evaluate(run_dirs: Sequence[str], plan: Plan) -> results.Results:
  """Evaluates every run and every baseline over a grid, on the same tasks.

  Runs of different folds are each evaluated on their own test entities. Raises
  DataError if a run or the data cannot be used.
  """
  started = time.time()
  tasks.check_grid(plan.grid)
  loaded = _restore(run_dirs, plan)
  rows: list[dict[str, Any]] = []
  notes: list[str] = []
  tuned: dict[str, list] = {}
  earlier: dict[tuple, tuning.Tuned] = {}
  groups = _grouped(loaded, plan)
  for spec, members in groups:
    there = [one for other, some in groups if other == spec for one in some]
    group = _prepare(spec, members, there, plan, notes)
    chosen = _tune(group, plan, earlier, tuned)
    rows += _score_learners(group, plan)
    rows += _score_baselines(group, plan, chosen)
  if len({run.config.features or run.config.source for _, run in loaded}) > 1:
    notes.append(
      'the runs differ in features; the baselines use those of the first run '
      'of each group that scales its columns'
    )
  device = jax.devices()[0]
  flags = plan.grid._asdict() | {
    'run_dir': run_dirs, 'source': plan.source or '', 'split': plan.split
  }  # fmt: skip
  meta = {
    'schema': results.SCHEMA,
    'created': datetime.datetime.now(datetime.UTC).isoformat('T', 'seconds'),
    'seed': plan.grid.seed,
    'versions': records.versions(),
    'hardware': f'{device.platform} {device.device_kind}, {os.cpu_count()} '
    f'cores, {platform.machine()}',
    'seconds': round(time.time() - started, 1),
    'flags': json.loads(json.dumps(flags)),
    'code': records.code_version(),
    'command': '',
    'notes': notes,
    **tuned,
  }
  table = pd.DataFrame(rows, columns=list(results.COLUMNS))
  return results.check(results.Results(table, meta))


def _restore(run_dirs: Sequence[str], plan: Plan) -> list[Member]:
  """The runs, and those that start from them."""
  folders = [os.path.realpath(path) for path in run_dirs]
  for path, folder in zip(run_dirs, folders, strict=True):
    if folders.count(folder) > 1:
      raise DataError(f'{path} is named twice: name every run once')
  if not folders:
    raise DataError('no run to evaluate: name at least one')
  told = {'precision': plan.precision} if plan.precision else {}
  loaded = [(path, runs.restore(path, **told)) for path in run_dirs]
  if ways := [path for path, run in loaded if run.config.way]:
    raise DataError(f'{ways[0]} tells classes apart, others find anomalies')
  return loaded + [
    (path, runs.fine_tuned(run, spec))
    for path, run in loaded
    for spec in dict.fromkeys(plan.fine_tune)
  ]


def _grouped(
  loaded: list[Member], plan: Plan
) -> list[tuple[str, list[Member]]]:
  """Specs of sources, with the runs that share their test entities there.

  Runs of another source join those that were trained on this one, so that all
  are scored on the same entities.
  """
  groups: dict[tuple, list[Member]] = {}
  for spec in plan.source.split('+') if plan.source else [None]:
    target = registry.get(spec)[0] if spec else None
    residents: dict[tuple, list[Member]] = {}
    guests: dict[tuple, list[Member]] = {}
    for path, run in loaded:
      config = run.config
      home = target is None or sides.at_home(run, target)
      fold = config.fold if home else None
      key = spec or config.source, config.folds, config.seed, fold
      (residents if home else guests).setdefault(key, []).append((path, run))
    if residents and plan.split == 'test':
      for members in residents.values():
        members += [guest for some in guests.values() for guest in some]
      guests = {}
    for key, members in (*residents.items(), *guests.items()):
      groups.setdefault(key, []).extend(members)
  return [(key[0], members) for key, members in groups.items()]


def _prepare(
  spec: str,
  members: list[Member],
  everyone: list[Member],
  plan: Plan,
  notes: list[str],
) -> Group:
  """Reads the test entities, audits them, and draws the tasks."""
  side = sides.tested(members[0][1], spec, plan.data_dir, plan.split)
  for path, run in members:
    if plan.split == 'test':
      audits.unseen(side.entities, run.seen)
    elif names := audits.known(side.entities, run.seen):
      notes.append(
        f'{path} was trained or validated on {len(names)} of the '
        f'{len(side.entities)} entities of {spec!r}'
      )
  audits.shared_rows(side.entities)
  cells, left_out = tasks.draw_cells(side.entities, plan.grid)
  notes += left_out
  if not cells:
    raise DataError(
      f'no entity of {spec!r} has enough rows for {plan.grid}: ask for fewer '
      'shots or anomalies'
    )
  audits.cells(cells, side.entities)
  audits.enough_anomalies(side.entities, plan.grid.anomalies, repr(spec))
  if max(plan.grid.anomalies):
    repeated = audits.repeated_anomalies(side.entities)
    notes += [f'{spec}: {note}' for note in repeated]
  recipes = {_recipe(run) for _, run in everyone}
  names = [
    _unique(*member, members, recipes, plan.baselines) for member in members
  ]
  return Group(members, names, side, cells)


def _recipe(run: runs.Run) -> tuple[str, setup.Config]:
  """What runs of one method on several folds have in common."""
  return run.name, dataclasses.replace(run.config, fold='', seed=0)


def _unique(
  path: str,
  run: runs.Run,
  members: list[Member],
  recipes: set[tuple[str, setup.Config]],
  taken: Sequence[str],
) -> str:
  """The learner's name, with the run's folder where the name is not unique.

  That is among `members`, who have the same entities, and among the `recipes`
  of this source.
  """
  same = [os.path.normpath(p) for p, r in members if r.name == run.name]
  others = [name for name, _ in recipes].count(run.name) > 1
  if len(same) == 1 and not others and run.name not in taken:
    return run.name
  folder = os.path.normpath(path)
  short = os.path.basename(folder)
  if [os.path.basename(p) for p in same].count(short) > 1:
    short = folder
  return f'{run.name} ({short})'


def _score_learners(group: Group, plan: Plan) -> list[dict[str, Any]]:
  """Rows of every run on every cell."""
  rows = []
  cache: dict[str, list[Entity]] = {}
  for name, (path, run) in zip(group.names, group.members, strict=True):
    any_width = run.setup.any_width
    if not (group.side.layout.shape or any_width):
      raise DataError(
        f'{path} was trained on rows of one width, the tables of '
        f'{group.side.spec!r} differ in theirs: choose a run of a model that '
        'takes any width, such as tables'
      )
    key = f'{run.config.features or run.config.source} {any_width}'
    if key not in cache:
      cache[key] = sides.featurize(run, group.side, plan.features)
    columns = cache[key][0].normal.shape[1:]
    if not any_width and columns != run.setup.columns:
      raise DataError(
        f'{path} was trained on rows of shape {run.setup.columns}, these have '
        f'{columns}: choose a source (or options such as length and rate) that '
        'gives the same features'
      )
    scores = tasks.score_cells(
      run.learner, run.params, group.cells, cache[key],
      any_width=any_width, unverified=run.setup.suspicious,
      seed=plan.grid.seed, label=name, quiet=plan.quiet,
    )  # fmt: skip
    kind = 'baseline' if run.setup.name in learners.BASELINES else 'learner'
    rows += _rows(group, name, kind, range(len(scores)), scores)
  return rows


def _score_baselines(
  group: Group, plan: Plan, chosen: tuning.Choices
) -> list[dict[str, Any]]:
  """Rows of every baseline, with the options that were chosen for a cell.

  Where a baseline ignores labels, the cells of a draw that differ only in the
  number of labels are scored once.
  """
  cells = group.cells
  first: dict[tuple, int] = {}
  same = [
    first.setdefault((c.entity, c.draw, c.shots, c.contamination), place)
    for place, c in enumerate(cells)
  ]
  served: dict[str, dict[int, jobs.Job]] = {}  # of each cell's place
  for name in plan.baselines:
    served[name] = {}
    for place, cell in enumerate(cells):
      labelled = baselines.REGISTRY[name].needs_anomalies
      if cell.anomalies or not labelled:
        scored = place if labelled else same[place]
        choice = chosen.get(cells[scored].setting, {}).get(name)
        options = choice.options if choice else {}
        served[name][place] = jobs.job(scored, name, options)
  scores = jobs.score_jobs(
    [job for places in served.values() for job in places.values()],
    sides.baseline_rows(group.baseline_run, group.side, cells, plan.features),
    seed=plan.grid.seed, workers=plan.workers, quiet=plan.quiet,
    kept=plan.kept,
  )  # fmt: skip
  rows = []
  for name, places in served.items():
    found = [scores[job] for job in places.values()]
    rows += _rows(group, name, 'baseline', list(places), found)
  return rows


def _tune(
  group: Group, plan: Plan, earlier: dict[tuple, tuning.Tuned], meta: dict
) -> tuning.Choices:
  """Chooses options of the baselines on validation tasks, and notes them.

  `earlier` remembers what was chosen on the same entities for another source.
  """
  if not (plan.tune and plan.baselines):
    return {}
  run = group.baseline_run
  side = sides.for_choices(run, group.side, plan.data_dir, plan.split)
  audits.apart(side.entities, group.side.entities, sides.REMEDY)
  key = id(run), side.spec, tuple(entity.name for entity in side.entities)
  if key not in earlier:
    earlier[key] = tuning.tune(
      plan.baselines,
      side.entities,
      lambda cells: sides.baseline_rows(run, side, cells, plan.features),
      plan.grid,
      count=plan.tune,
      together=plan.tune_together,
      workers=plan.workers,
      quiet=plan.quiet,
      kept=plan.kept,
    )
  report = tuning.report(group.side.spec, side.spec, earlier[key])
  for name, entries in report.items():
    meta.setdefault(name, []).extend(entries)
  return earlier[key].choices


def _rows(
  group: Group,
  name: str,
  kind: str,
  places: Sequence[int],
  scores: Sequence[np.ndarray],
) -> list[dict[str, Any]]:
  """The rows of a method, for the scores [Q] of the cells at these places."""
  entities = group.side.entities
  cells = [group.cells[place] for place in places]
  audits.constant(name, cells, scores, entities)
  rows = []
  for cell, values in zip(cells, scores, strict=True):
    labels = entities[cell.entity].labels[cell.query]
    rows.append(
      {
        'source': group.side.spec,
        'entity': entities[cell.entity].name,
        'method': name,
        'kind': kind,
        **{key: getattr(cell, key) for key in _OF_CELL},
        **metrics.all_metrics(labels, values),
        'queries': len(labels),
        'query_anomalies': int(labels.sum()),
      }
    )
  return rows
