"""Learners and baselines on the same tasks: same support, query and scaling."""

from collections.abc import Sequence
import dataclasses
import datetime
import itertools
import math
import os
import platform
import time
from typing import Any, NamedTuple
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from metaad_jax import learners, specs
from metaad_jax.base import DataError, Entity, Rows, Task
from metaad_jax.data import audits, episodes, registry, splitting
from metaad_jax.evaluation import baselines, tuning
from metaad_jax.learners import standardized
from metaad_jax.scores import metrics
from metaad_jax.scores import old_comparisons as comparisons
from metaad_jax.training import loop, records, runs, setup

_BATCH = 32
_ELEMENTS = 1 << 23  # of a batch: tasks x query x support x columns
_VALIDATION = 100  # query rows of a label, at most, to choose options by
_LIMIT = 1e6  # of the baselines' z-scores: they stay finite


class Grid(NamedTuple):
  """What is evaluated.

  Attributes:
    shots: numbers of support normals.
    anomalies: numbers of labelled support anomalies.
    contamination: shares of the support normals that are unlabelled anomalies.
    draws: supports drawn per entity.
    queries: at most this many normal, and as many anomalous, query rows.
    seed: of the draws.
  """

  shots: tuple[int, ...] = (1, 5, 10, 20)
  anomalies: tuple[int, ...] = (0, 1, 5)
  contamination: tuple[float, ...] = (0.0,)
  draws: int = 3
  queries: int = 200
  seed: int = 0


class Cell(NamedTuple):
  """One task of the evaluation, as indices into its entity's rows.

  Attributes:
    entity: index of the entity.
    draw: number of the draw.
    shots: K.
    anomalies: A.
    contamination: share of contaminated normals.
    normal: [K - c] indices into `Entity.normal`.
    contaminants: [c] indices into `Entity.query`, labelled normal.
    anomalous: [A] indices into `Entity.query`, labelled anomalous.
    query: [Q] indices into `Entity.query`; the same for all cells of a draw.
  """

  entity: int
  draw: int
  shots: int
  anomalies: int
  contamination: float
  normal: np.ndarray
  contaminants: np.ndarray
  anomalous: np.ndarray
  query: np.ndarray


def check_grid(grid: Grid) -> None:
  """Raises DataError if the grid makes no sense."""
  for good, what in (
    (grid.shots and min(grid.shots) >= 1, 'shots must be 1 or more'),
    (
      grid.anomalies and min(grid.anomalies) >= 0,
      'anomalies must be 0 or more',
    ),
    (
      grid.contamination and all(0 <= c <= 0.5 for c in grid.contamination),
      'contamination must lie between 0 and 0.5',
    ),
    (grid.draws >= 1, 'draws must be 1 or more'),
    (grid.queries >= 2, 'queries must be 2 or more'),
    (grid.seed >= 0, 'seed must be 0 or more'),
  ):
    if not good:
      raise DataError(f'{what}: {grid}')


def draw_cells(
  entities: Sequence[Entity], grid: Grid
) -> tuple[list[Cell], list[str]]:
  """Draws the tasks: nested supports, and one query per entity and draw.

  Within a draw the support of few shots is part of the support of many, and
  the rows that the largest cell takes for its support are in no query, so
  that all cells are scored on the same rows. A draw depends on the seed and
  the entity's name alone.

  Args:
    entities: to evaluate on.
    grid: see `Grid`.

  Returns:
    The cells, and notes on what had to be left out.
  """
  cells, notes = [], []
  for number, entity in enumerate(entities):
    anomalies = np.flatnonzero(entity.labels == 1)
    normals = np.flatnonzero(entity.labels == 0)
    if not len(anomalies) or not len(normals):
      notes.append(
        f'{entity.name}: left out, its query rows are of one class only'
      )
      continue
    dirty = {
      (k, c): int(np.ceil(c * k - 1e-9))  # 0.07 * 100 is above 7
      for k in grid.shots
      for c in grid.contamination
    }
    reserved = max(grid.anomalies) + max(dirty.values())
    spare = min(reserved, len(anomalies) - 1)
    for draw in range(grid.draws):
      name = zlib.crc32(entity.name.encode())
      rng = np.random.default_rng([grid.seed, name, draw])
      pool = rng.permutation(len(entity.normal))
      bad = rng.permutation(anomalies)
      good = np.sort(rng.permutation(normals)[: grid.queries])
      query = np.concatenate([good, np.sort(bad[spare:][: grid.queries])])
      for k, a, c in (
        (k, a, c)
        for k in grid.shots
        for a in grid.anomalies
        for c in grid.contamination
      ):
        unlabelled = dirty[k, c]
        if k > len(pool) or a + unlabelled > spare:
          notes.append(
            f'{entity.name}: no task with {k} shots, {a} anomalies and '
            f'{unlabelled} contaminants; it has {len(pool)} normal rows and '
            f'{spare} anomalies to spare'
          )
          continue
        cells.append(
          Cell(
            number,
            draw,
            k,
            a,
            c,
            pool[: k - unlabelled],
            bad[spare - unlabelled : spare],
            bad[:a],
            query,
          )
        )
  return cells, sorted(set(notes))


def as_task(
  cells: Sequence[Cell],
  entities: Sequence[Entity],
  sizes: tuple[int, int],
  width: int | None = None,
) -> Task:
  """Stacks cells into a batch of tasks of one size, padded with masks.

  Args:
    cells: T of them.
    entities: featurized.
    sizes: rows of the support and of the query.
    width: columns to pad to; None = all entities have the same.

  Returns:
    The batch, as NumPy arrays.
  """
  columns = entities[cells[0].entity].normal.shape[1:]
  columns = (*columns[:-1], width or columns[-1])

  def blank(size) -> Any:
    zeros: Any = lambda *shape: np.zeros((len(cells), size, *shape), np.float32)
    return Rows(zeros(*columns), zeros(), zeros())

  support, query = blank(sizes[0]), blank(sizes[1])
  features: Any = np.zeros((len(cells), columns[-1]), np.float32)
  for t, cell in enumerate(cells):
    entity = entities[cell.entity]
    x, y = support_rows(cell, entity)
    real = x.shape[-1]
    support.x[t, : len(x), ..., :real], support.y[t, : len(x)] = x, y
    support.mask[t, : len(x)] = 1
    n = len(cell.query)
    query.x[t, :n, ..., :real] = entity.query[cell.query]
    query.y[t, :n] = entity.labels[cell.query]
    query.mask[t, :n] = 1
    features[t, :real] = 1
  return Task(support, query, features)


def support_rows(cell: Cell, entity: Entity) -> tuple[np.ndarray, np.ndarray]:
  """The support of a cell: rows [n, ...] and labels [n]."""
  x = np.concatenate(
    [
      entity.normal[cell.normal],
      entity.query[cell.contaminants],
      entity.query[cell.anomalous],
    ]
  )
  y = np.zeros(len(x), np.float32)
  y[len(x) - len(cell.anomalous) :] = 1
  return x, y


def score_cells(
  learner,
  params: Any,
  cells: Sequence[Cell],
  entities: Sequence[Entity],
  *,
  any_width: bool = False,
  seed: int = 0,
  label: str = '',
  quiet: bool = False,
) -> list[np.ndarray]:
  """Scores of a learner: for each cell [Q], in batches on the device.

  Where the learner takes any width, cells whose padded shapes are alike share a
  batch, so that a small table is not padded to the widest of all.

  Args:
    learner: see `MetaLearner`.
    params: its meta-parameters.
    cells: the tasks.
    entities: featurized.
    any_width: the learner takes rows of any width: they may differ in it.
    seed: for learners that draw.
    label: of the progress bar.
    quiet: no progress bar.

  Returns:
    For each cell [Q].
  """

  @jax.jit
  def score(key, params, batch):
    return loop.scores_of(learner, key, params, batch)

  root = jax.random.key(seed)
  scores: list[Any] = [None] * len(cells)
  bar = tqdm.tqdm(total=len(cells), desc=label, disable=quiet, leave=False)
  for shape, members in _alike(cells, entities, any_width).items():
    support, query, width = shape
    length = _BATCH
    if any_width:
      length = min(_BATCH, max(1, _ELEMENTS // math.prod(shape)))
    for start in range(0, len(members), length):
      place = members[start : start + length]
      padded = place + [place[-1]] * (length - len(place))
      batch = as_task(
        [cells[i] for i in padded], entities, (support, query), width
      )
      key = jax.random.fold_in(root, place[0])
      out = np.asarray(score(key, params, jax.tree.map(jnp.asarray, batch)))
      for i, values in zip(place, out, strict=False):
        scores[i] = values[: len(cells[i].query)]
      bar.update(len(place))
  bar.close()
  return scores


def _alike(cells, entities, any_width):
  """Indices of the cells, by the (support, query, width) they are padded to."""
  groups: dict[tuple[int, int, int], list[int]] = {}
  largest = _sizes(cells)
  for i, cell in enumerate(cells):
    key = (*largest, entities[cell.entity].normal.shape[-1])
    if any_width:
      support, query = _sizes([cell])
      key = (
        episodes.padded_size(support),
        min(episodes.padded_size(query, 64), largest[1]),
        episodes.padded_size(key[-1]),
      )
    groups.setdefault(key, []).append(i)
  return groups


def _sizes(cells):
  support = max(
    len(c.normal) + len(c.contaminants) + len(c.anomalous) for c in cells
  )
  return support, max(len(c.query) for c in cells)


def standardize_cells(
  prior: standardized.Prior | None,
  cells: Sequence[Cell],
  entities: Sequence[Entity],
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """What the baselines see: the learners' rows, scaled as the learners do.

  Args:
    prior: of the columns; None = the support alone decides.
    cells: the tasks.
    entities: featurized.

  Returns:
    For each cell support [n, F], labels [n] and query [Q, F].
  """
  if prior is None:
    width = entities[0].normal.shape[-1]
    prior = standardized.Prior(*[jnp.zeros(width)] * 3)
  sizes = _sizes(cells)

  @jax.jit
  @jax.vmap
  def scale(support, query):
    scaling = standardized.fit(support, prior)
    return tuple(
      standardized.transform(scaling, rows.x) for rows in (support, query)
    )

  done = []
  for start in range(0, len(cells), _BATCH):
    part = list(cells[start : start + _BATCH])
    padded = part + [part[-1]] * (_BATCH - len(part))
    batch = as_task(padded, entities, sizes)
    support, query = map(np.asarray, scale(batch.support, batch.query))
    for t, cell in enumerate(part):
      rows = batch.support.mask[t] > 0
      done.append(
        (
          support[t, rows].reshape(rows.sum(), -1),
          np.asarray(batch.support.y)[t, rows],
          query[t, : len(cell.query)].reshape(len(cell.query), -1),
        )
      )
  return done


def scale_tables(
  cells: Sequence[Cell], entities: Sequence[Entity]
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """What the baselines see of tables: finite z-scores of the real columns.

  A missing value becomes the median of the support's normals, 0 where they
  have none. A column is centred and scaled by the mean and the standard
  deviation of the same rows; one that is constant there keeps its units.

  What else may be done to the columns is in `baselines.SCALINGS`, and chosen on
  validation tasks by `tuning`.

  Args:
    cells: the tasks.
    entities: of any width, NaN where a value is missing.

  Returns:
    For each cell support [n, F], labels [n] and query [Q, F], float32.
  """
  done = []
  for cell in cells:
    entity = entities[cell.entity]
    support, labels = support_rows(cell, entity)
    rows = np.concatenate([support, entity.query[cell.query]], dtype=np.float64)
    normal = np.where(labels == 0)[0]
    known = np.isfinite(rows[normal]).any(0)
    median = np.zeros(rows.shape[1])
    median[known] = np.nanmedian(rows[normal][:, known], 0)
    rows = np.where(np.isnan(rows), median, rows)
    deviation = rows[normal].std(0)
    scale = np.where(deviation > 0, deviation, 1)
    rows = np.clip((rows - rows[normal].mean(0)) / scale, -_LIMIT, _LIMIT)
    rows = rows.astype(np.float32)
    done.append((rows[: len(labels)], labels, rows[len(labels) :]))
  return done


def _group(run, source):
  config = run.config
  key = (source or config.source, config.folds, config.seed)
  foreign = source is not None and not _own(run, source)
  return key + (('foreign',) if foreign else (config.fold,))


def _groups(loaded, source, split):
  """{key: paths and runs} that share their test entities.

  Runs of another source join those that were trained on this one, so that all
  are scored on the same entities.
  """
  groups: dict[Any, list[tuple[str, runs.Run]]] = {}
  guests = []
  for path, run in loaded:
    if source is not None and not _own(run, source):
      guests.append((path, run))
    else:
      groups.setdefault(_group(run, source), []).append((path, run))
  if groups and split == 'test':
    for members in groups.values():
      members += guests
  else:
    for path, run in guests:
      groups.setdefault(_group(run, source), []).append((path, run))
  return groups


def _own(run, spec):
  """Whether it is the source of the run, be it with other options."""
  return specs.parse(spec)[0] == specs.parse(run.config.source)[0]


def _test_entities(run, source, data_dir, split):
  """Raw entities to evaluate on, and the layout of their rows."""
  spec = source or run.config.source
  everyone = registry.load(spec, data_dir)
  layout = setup.layout_of(*registry.get(spec), everyone)
  if split == 'all':
    return everyone, layout
  if _own(run, spec):
    config = run.config
    sides = splitting.split(
      everyone, fold=config.fold, folds=config.folds, seed=config.seed
    )
    return sides[split], layout
  if split == 'validation':
    raise DataError(
      f'{spec!r} has no validation side: the run was trained on '
      f'{run.config.source!r}'
    )
  return [e for e in everyone if e.side != 'train'], layout


def _featurized(run, layout, entities, cache, text=None):
  config = run.config
  if text is not None:
    config = dataclasses.replace(config, features=text)
  key = config.features or config.source
  if key not in cache:
    feature = run.setup.feature_of(layout, text or '')
    cache[key] = run.setup.featurize(entities, feature)
  return cache[key]


def evaluate(
  run_dirs: Sequence[str],
  grid: Grid,
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
) -> dict[str, Any]:
  """Every run and every baseline over a grid, on the same tasks.

  Runs that were trained on different folds are each evaluated on their own
  test entities, and the rows put together: cross-validation.

  Args:
    run_dirs: of trained runs.
    grid: see `Grid`.
    fine_tune: specs of learners that start from the meta-parameters of each
      run, and are evaluated beside it (see `runs.fine_tuned`).
    source: evaluate there instead of on each run's own source; several are
      joined by '+'.
    features: of the rows of another source than the run's own, for runs that
      take any width; None = the usual ones of that source.
    data_dir: root of the data.
    split: 'test' = entities that the run has not seen; 'validation' = those
      that it was chosen with and not trained on; 'all' = all.
    baseline_names: keys of `baselines.REGISTRY`.
    tune_baselines: validation tasks, at most, for each source and cell, that
      the options of the baselines are chosen on; 0 = their defaults.
    tune_together: one choice for all shots and numbers of labels of a source
      and contamination, from so many tasks without labels and so many with.
    workers: processes for the baselines.
    quiet: no progress bars.

  Returns:
    The content of `results.json` (see `metaad_jax.evaluation.results`).

  Raises:
    DataError: if a run or the data cannot be used.
  """
  started = time.time()
  check_grid(grid)
  _check_dirs(run_dirs)
  loaded = [(run_dir, runs.restore(run_dir)) for run_dir in run_dirs]
  loaded += [
    (run_dir, runs.fine_tuned(run, spec))
    for run_dir, run in loaded
    for spec in dict.fromkeys(fine_tune)
  ]
  groups: dict[Any, list[tuple[str, runs.Run]]] = {}
  for one in source.split('+') if source else (None,):
    for key, members in _groups(loaded, one, split).items():
      groups.setdefault(key, []).extend(members)
  rows: list[dict[str, Any]] = []
  notes: list[str] = []
  collected: dict[Any, tuple[list, list]] = {}
  earlier: dict[Any, Any] = {}
  tuned_on: list[dict[str, Any]] = []
  tuned: list[dict[str, Any]] = []
  example = None
  for (spec, *_), members in groups.items():
    raw, layout = _test_entities(members[0][1], spec, data_dir, split)
    for path, run in members:
      if split == 'test':
        audits.unseen(raw, run.seen)
      elif names := audits.known(raw, run.seen):
        notes.append(
          f'{path} was trained or validated on {len(names)} of the {len(raw)} '
          f'entities of {spec!r}'
        )
    audits.shared_rows(raw)
    cells, said = draw_cells(raw, grid)
    notes += said
    if not cells:
      raise DataError(
        f'no entity of {spec!r} has enough rows for {grid}: ask for fewer '
        'shots or anomalies'
      )
    audits.cells(cells, raw)
    audits.enough_anomalies(raw, grid.anomalies, repr(spec))
    if max(grid.anomalies):
      notes += [f'{spec}: {n}' for n in audits.repeated_anomalies(raw)]
    chosen: dict[tuning.Cell, dict[str, tuning.Choice]] = {}
    if tune_baselines and baseline_names:
      chosen, where, choices = _tune(
        _baseline_run(members), spec, features, data_dir, split, raw, grid,
        baseline_names, tune_baselines, tune_together, earlier,
        workers=workers, quiet=quiet,
      )  # fmt: skip
      tuned_on.append(where)
      tuned += choices
    scored, kinds = _score_group(
      members, spec, features, raw, layout, cells, grid, baseline_names,
      chosen, workers, quiet,
    )  # fmt: skip
    for name, (indices, scores) in scored.items():
      audits.constant(name, [cells[i] for i in indices], scores, raw)
      for i, values in zip(indices, scores, strict=True):
        cell = cells[i]
        labels = raw[cell.entity].labels[cell.query]
        rows.append(
          {
            'source': spec,
            'entity': raw[cell.entity].name,
            'learner': name,
            'kind': kinds[name],
            'shots': cell.shots,
            'anomalies': cell.anomalies,
            'contamination': cell.contamination,
            'draw': cell.draw,
            **metrics.all_metrics(labels, values),
            'queries': len(labels),
            'query_anomalies': int(labels.sum()),
          }
        )
    _collect(collected, spec, cells, raw, scored, kinds)
    if example is None:
      example = _example(spec, members[0][1], layout, cells, raw, scored, kinds)
  used = {run.config.features or run.config.source for _, run in loaded}
  if len(used) > 1:
    notes.append(
      'the runs differ in features; the baselines use those of the first run '
      f'of each group, here {members[0][1].config.features or "the default"}'
    )
  return {
    'schema': 1,
    'meta': _meta(grid, run_dirs, source, split, started),
    'rows': rows,
    'summary': comparisons.summarise(rows),
    'tests': comparisons.compare(rows),
    'curves': {
      _unique(path, run, loaded): records.curves(path) for path, run in loaded
    },
    'histograms': _histograms(collected),
    'example': example,
    'tuned_on': tuned_on,
    'tuning': tuned,
    'notes': notes,
  }


def _check_dirs(run_dirs):
  folders = [os.path.realpath(path) for path in run_dirs]
  for path, folder in zip(run_dirs, folders, strict=True):
    if folders.count(folder) > 1:
      raise DataError(f'{path} is named twice: name every run once')
  if not folders:
    raise DataError('no run to evaluate: name at least one')


def _unique(path, run, members):
  """The learner's name, with the run's folder where two runs share it."""
  same = [os.path.normpath(p) for p, r in members if r.name == run.name]
  if len(same) == 1:
    return run.name
  folder = os.path.normpath(path)
  short = os.path.basename(folder)
  if [os.path.basename(p) for p in same].count(short) > 1:
    short = folder
  return f'{run.name} ({short})'


def _score_group(
  members, spec, features, raw, layout, cells, grid, baseline_names, chosen,
  workers, quiet,
):  # fmt: skip
  cache: dict[str, list[Entity]] = {}
  scored: dict[str, tuple[Sequence[int], list[np.ndarray]]] = {}
  kinds = {}
  everything = range(len(cells))
  for path, run in members:
    if not layout.shape and not run.setup.any_width:
      raise DataError(
        f'{path} was trained on rows of one width, the tables of {spec!r} '
        'differ in theirs: choose a run of '
        'a model such as tables'
      )
    entities = _featurized(run, layout, raw, cache, _usual(run, spec, features))
    wanted = run.setup.columns
    fits = entities[0].normal.shape[1:] == wanted
    if not (fits or run.setup.any_width):
      raise DataError(
        f'{path} was trained on rows of shape {wanted}, these have '
        f'{entities[0].normal.shape[1:]}: choose a source (or options such as '
        'length and rate) that gives the same features'
      )
    name = _unique(path, run, members)
    kinds[name] = 'baseline' if run.name in learners.BASELINES else 'learner'
    scores = score_cells(
      run.learner, run.params, cells, entities,
      any_width=run.setup.any_width, seed=grid.seed, label=name,
      quiet=quiet,
    )  # fmt: skip
    scored[name] = everything, scores
  scored |= _score_baselines(
    baseline_names, _baseline_run(members), spec, features, layout, raw, cells,
    chosen, seed=grid.seed, workers=workers, quiet=quiet,
  )  # fmt: skip
  kinds |= dict.fromkeys(baseline_names, 'baseline')
  return scored, kinds


def _baseline_run(members):
  """The run whose features and prior the baselines get."""
  return next((r for _, r in members if r.prior is not None), members[0][1])


def _usual(run, spec, features):
  """Features of a run of any width on a source that is not its own."""
  if run.setup.any_width and spec != run.config.source:
    return features or '+'.join(registry.get(spec)[0].features)
  return None


def _baseline_tasks(run, spec, features, layout, raw, cells):
  """What the baselines see of the cells; see `baselines.score_jobs`."""
  entities = _featurized(run, layout, raw, {}, _usual(run, spec, features))
  if run.prior is None:
    return scale_tables(cells, entities)
  prior = run.prior
  if entities[0].normal.ndim == 3:
    own = '+'.join(registry.get(run.config.source)[0].features)
    prior, entities = None, _featurized(run, layout, raw, {}, own)
  return standardize_cells(prior, cells, entities)


def _score_baselines(
  names, run, spec, features, layout, raw, cells, chosen, **how
):
  """{name: (indices of cells, scores)}, with the options chosen for a cell.

  Where a baseline ignores labels, the cells of a draw that differ in their
  number alone are scored once.
  """
  tasks = _baseline_tasks(run, spec, features, layout, raw, cells)
  first: dict[Any, int] = {}
  same = [
    first.setdefault((c.entity, c.draw, c.shots, c.contamination), i)
    for i, c in enumerate(cells)
  ]
  jobs: list[list[baselines.Job]] = []
  for i, cell in enumerate(cells):
    jobs.append([])
    told = chosen.get((cell.shots, cell.anomalies, cell.contamination), {})
    for name in names:
      labelled = baselines.REGISTRY[name].needs_anomalies
      if cell.anomalies if labelled else same[i] == i:
        jobs[-1].append((name, told[name].options if name in told else {}))
  found = baselines.score_jobs(jobs, tasks, **how)
  scores = {
    (name, i): np.asarray(values)
    for i, some in enumerate(jobs)
    for (name, _), values in zip(some, found[i], strict=True)
  }
  scored: dict[str, tuple[Sequence[int], list[np.ndarray]]] = {}
  for name in names:
    labelled = baselines.REGISTRY[name].needs_anomalies
    indices = [i for i, c in enumerate(cells) if c.anomalies or not labelled]
    places = indices if labelled else [same[i] for i in indices]
    scored[name] = indices, [scores[name, i] for i in places]
  return scored


_REMEDY = 'leave out --tune_baselines, and they keep their defaults'


def _tune(
  run, spec, features, data_dir, split, raw, grid, names, count, together,
  earlier, **how,
):  # fmt: skip
  """Options of the baselines from validation tasks: choices, and a record.

  Entities of the same source that are not on the test side; where it has none,
  the validation side that the run was chosen with. `earlier` remembers what was
  chosen on the same entities for another source.
  """
  home, members, layout = _validation_side(run, spec, data_dir, split)
  audits.apart(members, raw, _REMEDY)
  group = lambda k, a, c: (0, min(a, 1), c) if together else (k, a, c)
  cells = _validation_cells(members, grid, count, group)
  key = id(run), home, tuple(entity.name for entity in members)
  if key not in earlier:
    earlier[key] = tuning.choose(
      names,
      _baseline_tasks(run, home, features, layout, members, cells),
      [members[c.entity].labels[c.query] for c in cells],
      [group(c.shots, c.anomalies, c.contamination) for c in cells],
      seed=grid.seed,
      **how,
    )
  chosen = {
    cell: earlier[key][group(*cell)]
    for cell in itertools.product(
      grid.shots, grid.anomalies, grid.contamination
    )
    if group(*cell) in earlier[key]
  }
  used = sorted({members[c.entity].name for c in cells})
  choices = [
    {
      'source': spec, 'learner': name, 'shots': shots, 'anomalies': anomalies,
      'contamination': share, 'options': tuning.text(one.options),
      'auroc': one.auroc, 'default': one.default, 'tasks': one.tasks,
    }
    for (shots, anomalies, share), found in chosen.items()
    for name, one in found.items()
  ]  # fmt: skip
  return chosen, {'source': spec, 'from': home, 'entities': used}, choices


def _validation_side(run, spec, data_dir, split):
  """A source, entities of it that options are chosen on, and their layout."""
  config = run.config
  home, members = spec, []
  if _own(run, spec) and registry.get(spec)[0].tables:
    home = config.source  # of one scenario there are few
  everyone = registry.load(home, data_dir)
  if not _own(run, spec) and split == 'test':
    members = [e for e in everyone if e.side == 'train' and e.labels.any()]
  if not members:
    if not _own(run, home):
      home = config.source
      everyone = registry.load(home, data_dir)
    try:
      members = splitting.split(
        everyone, fold=config.fold, folds=config.folds, seed=config.seed
      )['validation']
    except DataError as error:
      raise DataError(f'{home!r}: {error}; or {_REMEDY}') from error
    if home == config.source and len(audits.known(members, run.seen)) < len(
      members
    ):
      raise DataError(
        f'the validation side of {home!r} is not the one that the run was '
        f'trained with: {_REMEDY}'
      )
  return home, members, setup.layout_of(*registry.get(home), everyone)


def _validation_cells(members, grid, count, group):
  """At most `count` tasks for each group of cells, over many entities."""
  grid = grid._replace(
    draws=-(-count // len(members)), queries=min(grid.queries, _VALIDATION)
  )
  cells, _ = draw_cells(members, grid)
  rng = np.random.default_rng(grid.seed)
  order, turn = rng.permutation(len(members)), rng.random(len(cells))
  place = sorted(
    range(len(cells)),
    key=lambda i: (cells[i].draw, order[cells[i].entity], turn[i]),
  )
  taken: dict[Any, list[Cell]] = {}
  seen = set()
  for cell in (cells[i] for i in place):
    key = group(cell.shots, cell.anomalies, cell.contamination)
    once = key, cell.draw, cell.entity
    if once not in seen and len(taken.setdefault(key, [])) < count:
      seen.add(once)
      taken[key].append(cell)
  return [cell for some in taken.values() for cell in some]


def _collect(collected, spec, cells, raw, scored, kinds):
  """Adds learners' scores in the cells with most shots: normal, anomalous."""
  shots = max(c.shots for c in cells)
  clean = min(c.contamination for c in cells)
  for name, (indices, scores) in scored.items():
    for i, values in zip(indices, scores, strict=True):
      cell = cells[i]
      richest = (cell.shots, cell.contamination) == (shots, clean)
      if kinds[name] == 'learner' and richest:
        labels = raw[cell.entity].labels[cell.query]
        key = spec, name, shots, cell.anomalies
        parts = collected.setdefault(key, ([], []))
        for label, part in enumerate(parts):
          part.append(values[labels == label])


def _histograms(collected):
  """Counts of scores over all entities of all folds, tails clipped."""
  drawn = []
  for (spec, name, shots, anomalies), parts in collected.items():
    values = [np.concatenate(part) for part in parts]
    low, high = np.percentile(np.concatenate(values), [0.5, 99.5])
    edges = np.linspace(low, max(high, low + 1e-6), 41)
    counts = [
      np.histogram(np.clip(v, low, edges[-1]), edges)[0] for v in values
    ]
    drawn.append(
      {
        'source': spec,
        'learner': name,
        'shots': shots,
        'anomalies': anomalies,
        'edges': edges.tolist(),
        'normal': counts[0].tolist(),
        'anomaly': counts[1].tolist(),
      }
    )
  return drawn


def _example(spec, run, layout, cells, raw, scored, kinds):
  """One task to look at: a normal and an anomalous row, and all scores."""
  shots = max(c.shots for c in cells)
  fewest = min(c.anomalies for c in cells)
  place = next(
    i for i, c in enumerate(cells) if (c.shots, c.anomalies) == (shots, fewest)
  )
  cell = cells[place]
  entity = raw[cell.entity]
  labels = entity.labels[cell.query]
  scores = {}
  for name, (indices, values) in scored.items():
    if kinds[name] == 'learner' and place in indices:
      own = values[list(indices).index(place)]
      scores[name] = {
        'normal': own[labels == 0].tolist(),
        'anomaly': own[labels == 1].tolist(),
      }
  typical = {}
  for label in (0, 1):
    rows = cell.query[labels == label]
    rank = np.arange(len(rows))
    if scores:
      own = next(iter(scores.values()))['normal' if label == 0 else 'anomaly']
      rank = np.argsort(own)
    typical[label] = rows[rank[len(rows) // 2]]
  source, _ = registry.get(spec)
  shown = lambda row: (
    np.ravel(row[:, 0] if row.ndim == 2 else row).astype(float).tolist()
  )
  kind = entity.kinds[typical[1]] if entity.kinds else ''
  windows = len(layout.shape) == 2 and layout.shape[0] > 1
  units = source.units
  if not windows:
    units = "standard deviations of the entity's normals"
    mean, deviation = _moments(entity.normal)
    plain = shown
    shown = lambda row: plain(np.nan_to_num((row - mean) / deviation))
  return {
    'source': spec,
    'entity': entity.name,
    'rate': layout.rate if windows else None,
    'units': units,
    'channel': layout.channels[0] if layout.channels else '',
    'features': {
      'names': list(layout.channels or entity.columns)
      if not windows
      else list(run.setup.feature_of(layout).names)
    },
    'normal': shown(entity.query[typical[0]]),
    'anomaly': shown(entity.query[typical[1]]),
    'kind': kind,
    'shots': cell.shots,
    'anomalies': cell.anomalies,
    'scores': scores,
  }


def _moments(rows):
  """Mean and standard deviation of the columns, without missing values."""
  held = ~np.isnan(rows)
  count = np.maximum(held.sum(0), 1)
  mean = np.where(held, rows, 0).sum(0, np.float64) / count
  variance = np.where(held, rows - mean, 0) ** 2
  return mean, np.sqrt(variance.sum(0) / count) + 1e-6


def _meta(grid, run_dirs, source, split, started):
  device = jax.devices()[0]
  return {
    'created': datetime.datetime.now(datetime.UTC).isoformat('T', 'seconds'),
    'seed': grid.seed,
    'versions': records.versions(),
    'hardware': (
      f'{device.platform} {device.device_kind}, {os.cpu_count()} cores, '
      f'{platform.machine()}'
    ),
    'seconds': round(time.time() - started, 1),
    'flags': {
      **grid._asdict(),
      'run_dir': list(run_dirs),
      'source': source or '',
      'split': split,
    },
    'code': records.code_version(),
  }
