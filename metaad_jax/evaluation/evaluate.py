"""Learners and baselines on the same tasks: same support, query and scaling."""

from collections.abc import Sequence
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
from metaad_jax.evaluation import (
  baselines,
  jobs,
  results,
  sides,
  tasks,
  tuning,
)
from metaad_jax.scores import metrics
from metaad_jax.training import records, runs

Member = tuple[str, runs.Run]  # a run and its folder


class Plan(NamedTuple):
  """What was asked for; see `evaluate`."""

  grid: tasks.Grid
  features: str | None
  data_dir: str | None
  split: str
  baselines: tuple[str, ...]
  tune: int
  tune_together: bool
  workers: int
  quiet: bool


class Group(NamedTuple):
  """Runs that share their test entities.

  Attributes:
    members: the runs.
    side: the entities.
    cells: the tasks, drawn from them.
    names: of the members, unique.
  """

  members: list[Member]
  side: sides.Side
  cells: list[tasks.Cell]
  names: list[str]

  @property
  def baseline_run(self) -> runs.Run:
    """The run whose features and prior the baselines share."""
    scaled = [run for _, run in self.members if run.prior is not None]
    return (scaled or [self.members[0][1]])[0]


class Scored(NamedTuple):
  """The scores of one method.

  Attributes:
    kind: 'learner' or 'baseline'.
    places: of the cells that it served.
    scores: [Q] of each of them.
  """

  kind: str
  places: Sequence[int]
  scores: list[np.ndarray]


def evaluate(
  run_dirs: Sequence[str],
  grid: tasks.Grid,
  *,
  fine_tune: Sequence[str] = (),
  source: str | None = None,
  features: str | None = None,
  data_dir: str | None = None,
  split: str = 'test',
  baseline_names: Sequence[str] = tuple(baselines.REGISTRY),
  tune_baselines: int = 0,
  tune_together: bool = False,
  workers: int = 2,
  quiet: bool = False,
) -> results.Results:
  """Evaluates every run and every baseline over a grid, on the same tasks.

  Runs of different folds are each evaluated on their own test entities.

  Args:
    run_dirs: of trained runs.
    grid: see `tasks.Grid`.
    fine_tune: specs of learners that start from each run's meta-parameters and
      are evaluated beside it.
    source: evaluate there instead of on each run's own source; several are
      joined by '+'.
    features: of the rows of another source than the run's own, for runs that
      take any width; None = the usual ones of that source.
    data_dir: root of the data.
    split: 'test' = entities that the run has not seen; 'validation' = those
      that it was chosen with and not trained on; 'all' = all.
    baseline_names: keys of `baselines.REGISTRY`.
    tune_baselines: validation tasks, at most, for each source and cell, that
      options of the baselines are chosen on; 0 = their defaults.
    tune_together: one choice for all shots, and one more with labels.
    workers: processes for the baselines.
    quiet: no progress bars.

  Raises:
    DataError: if a run or the data cannot be used.
  """
  started = time.time()
  tasks.check_grid(grid)
  names = tuple(baseline_names)
  how = tune_baselines, tune_together, workers, quiet
  plan = Plan(grid, features, data_dir, split, names, *how)
  loaded = _restore(run_dirs, fine_tune)
  rows: list[dict[str, Any]] = []
  notes: list[str] = []
  tuned: dict[str, list] = {}
  earlier: dict[tuple, tuning.Tuned] = {}
  for spec, members in _grouped(loaded, source, split):
    group = _prepare(spec, members, plan, notes)
    chosen = _tune(group, plan, earlier, tuned)
    scored = _score_learners(group, plan)
    rows += _rows(group, scored | _score_baselines(group, plan, chosen))
  meta = _meta(grid, run_dirs, source, split, started)
  meta |= {'notes': notes + _mixed_features(loaded)} | tuned
  table = pd.DataFrame(rows, columns=list(results.COLUMNS))
  return results.check(results.Results(table, meta))


def _restore(run_dirs: Sequence[str], fine_tune: Sequence[str]) -> list[Member]:
  """The runs, and those that start from them."""
  folders = [os.path.realpath(path) for path in run_dirs]
  for path in run_dirs:
    if folders.count(os.path.realpath(path)) > 1:
      raise DataError(f'{path} is named twice: name every run once')
  if not folders:
    raise DataError('no run to evaluate: name at least one')
  loaded = [(path, runs.restore(path)) for path in run_dirs]
  return loaded + [
    (path, runs.fine_tuned(run, spec))
    for path, run in loaded
    for spec in dict.fromkeys(fine_tune)
  ]


def _grouped(
  loaded: list[Member], source: str | None, split: str
) -> list[tuple[str, list[Member]]]:
  """Specs of sources, with the runs that share their test entities there.

  Runs of another source join those that were trained on this one, so that all
  are scored on the same entities.
  """
  groups: dict[tuple, list[Member]] = {}
  for spec in source.split('+') if source else [None]:
    target = registry.get(spec)[0] if spec else None
    residents: dict[tuple, list[Member]] = {}
    guests: dict[tuple, list[Member]] = {}
    for path, run in loaded:
      config = run.config
      home = target is None or sides.at_home(run, target)
      fold = config.fold if home else None
      key = spec or config.source, config.folds, config.seed, fold
      (residents if home else guests).setdefault(key, []).append((path, run))
    if residents and split == 'test':
      for members in residents.values():
        members += [guest for some in guests.values() for guest in some]
      guests = {}
    for key, members in (*residents.items(), *guests.items()):
      groups.setdefault(key, []).extend(members)
  return [(key[0], members) for key, members in groups.items()]


def _prepare(
  spec: str, members: list[Member], plan: Plan, notes: list[str]
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
  names = [_unique(*member, members, plan.baselines) for member in members]
  return Group(members, side, cells, names)


def _unique(
  path: str, run: runs.Run, members: list[Member], taken: Sequence[str]
) -> str:
  """The learner's name, with the run's folder where the name is not unique."""
  same = [os.path.normpath(p) for p, r in members if r.name == run.name]
  if len(same) == 1 and run.name not in taken:
    return run.name
  folder = os.path.normpath(path)
  short = os.path.basename(folder)
  if [os.path.basename(p) for p in same].count(short) > 1:
    short = folder
  return f'{run.name} ({short})'


def _score_learners(group: Group, plan: Plan) -> dict[str, Scored]:
  """Scores every run on every cell."""
  scored = {}
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
      any_width=any_width, seed=plan.grid.seed, label=name, quiet=plan.quiet,
    )  # fmt: skip
    kind = 'baseline' if run.setup.name in learners.BASELINES else 'learner'
    scored[name] = Scored(kind, range(len(group.cells)), scores)
  return scored


def _score_baselines(
  group: Group, plan: Plan, chosen: tuning.Choices
) -> dict[str, Scored]:
  """Scores every baseline with the options that were chosen for a cell.

  Where a baseline ignores labels, the cells of a draw that differ only in the
  number of labels are scored once.
  """
  cells = group.cells
  first: dict[tuple, int] = {}
  same = [
    first.setdefault((c.entity, c.draw, c.shots, c.contamination), place)
    for place, c in enumerate(cells)
  ]
  served = {}  # name -> {place of a cell: place of the cell that is scored}
  for name in plan.baselines:
    labelled = baselines.REGISTRY[name].needs_anomalies
    served[name] = {
      place: place if labelled else same[place]
      for place, cell in enumerate(cells)
      if cell.anomalies or not labelled
    }
  todo: list[list[baselines.Job]] = []
  for place, cell in enumerate(cells):
    options = {n: c.options for n, c in chosen.get(cell.setting, {}).items()}
    todo.append(
      [
        (name, options.get(name, {}))
        for name, places in served.items()
        if places.get(place) == place
      ]
    )
  scores = jobs.score_jobs(
    todo,
    sides.baseline_rows(group.baseline_run, group.side, cells, plan.features),
    seed=plan.grid.seed, workers=plan.workers, quiet=plan.quiet,
  )  # fmt: skip
  by_name = [
    {name: values for (name, _), values in zip(*pair, strict=True)}
    for pair in zip(todo, scores, strict=True)
  ]
  return {
    name: Scored(
      'baseline',
      list(places),
      [np.asarray(by_name[p][name]) for p in places.values()],
    )
    for name, places in served.items()
  }


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
    )
  report = tuning.report(group.side.spec, side.spec, earlier[key])
  for name, entries in report.items():
    meta.setdefault(name, []).extend(entries)
  return earlier[key].choices


def _rows(group: Group, scored: dict[str, Scored]) -> list[dict[str, Any]]:
  """One row per method and cell, audited."""
  rows, entities = [], group.side.entities
  for name, (kind, places, scores) in scored.items():
    cells = [group.cells[place] for place in places]
    audits.constant(name, cells, scores, entities)
    for cell, values in zip(cells, scores, strict=True):
      labels = entities[cell.entity].labels[cell.query]
      rows.append(
        {
          'source': group.side.spec,
          'entity': entities[cell.entity].name,
          'method': name,
          'kind': kind,
          'shots': cell.shots,
          'anomalies': cell.anomalies,
          'contamination': cell.contamination,
          'draw': cell.draw,
          **metrics.all_metrics(labels, values),
          'queries': len(labels),
          'query_anomalies': int(labels.sum()),
        }
      )
  return rows


def _mixed_features(loaded: list[Member]) -> list[str]:
  used = {run.config.features or run.config.source for _, run in loaded}
  if len(used) < 2:
    return []
  return [
    'the runs differ in features; the baselines use those of the first run of '
    'each group that scales its columns'
  ]


def _meta(grid, run_dirs, source, split, started) -> dict[str, Any]:
  device = jax.devices()[0]
  return {
    'schema': results.SCHEMA,
    'created': datetime.datetime.now(datetime.UTC).isoformat('T', 'seconds'),
    'seed': grid.seed,
    'versions': records.versions(),
    'hardware': (
      f'{device.platform} {device.device_kind}, {os.cpu_count()} cores, '
      f'{platform.machine()}'
    ),
    'seconds': round(time.time() - started, 1),
    'flags': {
      **json.loads(json.dumps(grid._asdict())),
      'run_dir': list(run_dirs),
      'source': source or '',
      'split': split,
    },
    'code': records.code_version(),
    'command': '',
  }
