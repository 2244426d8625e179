"""The tasks of an evaluation: which rows they hold, and how they are scored.

A `Cell` names the rows of one task by their place in an entity. All methods are
scored on the same cells.
"""

from collections.abc import Callable, Iterator, Sequence
import functools
import itertools
import math
from typing import Any, NamedTuple
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from metaad_jax.base import DataError, Entity, MetaLearner, Params, Rows, Task
from metaad_jax.data import episodes
from metaad_jax.evaluation import baselines
from metaad_jax.evaluation.baselines import Triple
from metaad_jax.learners import standardized
from metaad_jax.training import validation

_BATCH = 32
_ELEMENTS = 1 << 23  # of a batch: tasks x query x support x columns
_LIMIT = 1e6  # of z-scores, so that they stay finite

Shape = tuple[int, int, int]  # rows of the support, of the query, columns


class Grid(NamedTuple):
  """What is evaluated."""

  shots: tuple[int, ...] = (1, 5, 10, 20)  # support normals
  anomalies: tuple[int, ...] = (0, 1, 5)  # labelled support anomalies
  contamination: tuple[float, ...] = (0.0,)  # share of the support normals
  draws: int = 3  # supports of each entity
  queries: int = 200  # normal rows at most, and as many anomalous ones
  seed: int = 0

  def cells(self) -> Iterator[tuple[int, int, float]]:
    """Every (shots, anomalies, contamination)."""
    return itertools.product(self.shots, self.anomalies, self.contamination)


class Cell(NamedTuple):
  """One task, as indices into the rows of its entity."""

  entity: int  # its index
  draw: int
  shots: int  # K, the support's rows that are labelled normal
  anomalies: int  # A, those that are labelled anomalous
  contamination: float  # share of the K that are unlabelled anomalies, c
  normal: np.ndarray  # [K - c] into `Entity.normal`
  contaminants: np.ndarray  # [c] into `Entity.query`, labelled normal
  anomalous: np.ndarray  # [A] into `Entity.query`, labelled anomalous
  query: np.ndarray  # [Q] into `Entity.query`; of all cells of a draw

  @property
  def setting(self) -> tuple[int, int, float]:
    """Shots, anomalies and contamination."""
    return self.shots, self.anomalies, self.contamination

  @property
  def size(self) -> tuple[int, int]:
    """Rows of the support and of the query."""
    return self.shots + self.anomalies, len(self.query)


def check_grid(grid: Grid) -> None:
  """Raises DataError if a value of the grid is impossible."""
  for name, least in (
    ('shots', 1), ('anomalies', 0), ('draws', 1), ('queries', 2), ('seed', 0)
  ):  # fmt: skip
    values = np.atleast_1d(getattr(grid, name))
    if not values.size or values.min() < least:
      raise DataError(f'{name} must be {least} or more: {grid}')
  shares = grid.contamination
  if not shares or not all(0 <= share <= 0.5 for share in shares):
    raise DataError(f'contamination must lie between 0 and 0.5: {grid}')


def draw_cells(
  entities: Sequence[Entity], grid: Grid
) -> tuple[list[Cell], list[str]]:
  """Draws the tasks: nested supports, and one query per entity and draw.

  Within a draw the support of few shots is part of the support of many, and
  the rows that the largest cell takes for its support are in no query, so
  that all cells are scored on the same rows. A draw depends only on the seed,
  its number and the entity's name.

  Returns:
    The cells, and notes on what had to be left out.
  """
  cells: list[Cell] = []
  notes: set[str] = set()
  for number, entity in enumerate(entities):
    if len(np.unique(entity.labels)) < 2:
      notes.add(f'{entity.name}: left out, its query is of one class only')
      continue
    for draw in range(grid.draws):
      cells += _draw(number, draw, entity, grid, notes)
  return cells, sorted(notes)


def _draw(number, draw, entity, grid, notes) -> Iterator[Cell]:
  """The cells of one draw; notes those that the entity lacks rows for."""
  dirty = {
    (k, share): math.ceil(share * k - 1e-9)  # 0.07 * 100 is above 7
    for k, _, share in grid.cells()
  }
  anomalies = np.flatnonzero(entity.labels == 1)
  normals = np.flatnonzero(entity.labels == 0)
  reserved = max(grid.anomalies) + max(dirty.values())
  spare = min(reserved, len(anomalies) - 1)
  name = zlib.crc32(entity.name.encode())
  rng = np.random.default_rng([grid.seed, name, draw])
  pool = rng.permutation(len(entity.normal))
  bad = rng.permutation(anomalies)
  good = np.sort(rng.permutation(normals)[: grid.queries])
  query = np.concatenate([good, np.sort(bad[spare:][: grid.queries])])
  for shots, labelled, share in grid.cells():
    unlabelled = dirty[shots, share]
    if shots > len(pool) or labelled + unlabelled > spare:
      notes.add(
        f'{entity.name}: no task with {shots} shots, {labelled} anomalies and '
        f'{unlabelled} contaminants; it has {len(pool)} normal rows and '
        f'{spare} anomalies to spare'
      )
      continue
    yield Cell(
      number, draw, shots, labelled, share,
      normal=pool[: shots - unlabelled],
      contaminants=bad[spare - unlabelled : spare],
      anomalous=bad[:labelled],
      query=query,
    )  # fmt: skip


def rows_of(cell: Cell, entity: Entity) -> Triple:
  """The rows of a cell; contaminants are labelled normal."""
  places = np.concatenate([cell.contaminants, cell.anomalous])
  support = np.concatenate([entity.normal[cell.normal], entity.query[places]])
  labels = np.repeat([0, 1], [cell.shots, cell.anomalies])
  return support, labels.astype(np.float32), entity.query[cell.query]


def as_task(triples: Sequence[Triple], shape: Shape) -> Task:
  """T tasks as one batch of NumPy arrays, padded to a shape.

  No label of a query is in it.
  """
  supports, queries, width = shape
  middle = triples[0][0].shape[1:-1]
  x, y, query = zip(*triples, strict=True)

  def rows(x, y, size) -> Any:
    mask = [np.ones(len(part)) for part in x]
    return Rows(
      _stack(x, size, *middle, width), *(_stack(p, size) for p in (y, mask))
    )

  features: Any = _stack([np.ones(part.shape[-1]) for part in x], width)
  return Task(
    rows(x, y, supports), rows(query, [()] * len(x), queries), features
  )


def _stack(arrays, *shape):
  """[T, *shape]: every array in the corner of zeros."""
  stacked = np.zeros((len(arrays), *shape), np.float32)
  for place, array in zip(stacked, arrays, strict=True):
    place[tuple(map(slice, np.shape(array)))] = array
  return stacked


def score_in_batches(
  score: Callable[[np.ndarray, Task], jax.Array],
  shapes: Sequence[Shape],
  rows: Callable[[int], Triple],
  *,
  elements: float = math.inf,
  label: str = '',
  quiet: bool = False,
) -> list[np.ndarray]:
  """Scores tasks, [Q] each, those that are padded to one shape in batches.

  Args:
    score: (places [B] among all tasks, batch of B tasks) -> [B, Q].
    shapes: what each task is padded to.
    rows: place -> the task.
    elements: bounds a batch: its tasks x query x support x columns.
    label, quiet: of the progress bar.
  """
  groups: dict[Shape, list[int]] = {}
  for place, shape in enumerate(shapes):
    groups.setdefault(shape, []).append(place)
  scores: dict[int, np.ndarray] = {}
  bar = tqdm.tqdm(total=len(shapes), desc=label, disable=quiet, leave=False)
  with bar:
    for shape, members in groups.items():
      length = int(min(_BATCH, max(1, elements // math.prod(shape))))
      for start in range(0, len(members), length):
        places = members[start : start + length]
        padded = places + [places[-1]] * (length - len(places))
        triples = [rows(place) for place in padded]
        batch = jax.tree.map(jnp.asarray, as_task(triples, shape))
        out = np.asarray(score(np.array(padded), batch))
        for place, triple, values in zip(places, triples, out, strict=False):
          scores[place] = values[: len(triple[2])]
        bar.update(len(places))
  return [scores[place] for place in range(len(shapes))]


def score_cells(
  learner: MetaLearner,
  params: Params,
  cells: Sequence[Cell],
  entities: Sequence[Entity],
  *,
  any_width: bool = False,
  unverified: bool = False,
  seed: int = 0,
  label: str = '',
  quiet: bool = False,
) -> list[np.ndarray]:
  """Scores of a learner: for each cell [Q], in batches on the device.

  The entities are featurized; with `any_width` they may differ in their
  columns, and a small table is not padded to the widest of all. The seed is for
  learners that draw; `label` and `quiet` are of the progress bar. `unverified`
  tells the learner that nobody has checked the normals of dirty supports.
  """
  score = jax.jit(functools.partial(validation.scores_of, learner))
  root = jax.random.key(seed)
  support, query = largest(cells)
  size = episodes.padded_size

  def shape(cell: Cell) -> Shape:
    width = entities[cell.entity].normal.shape[-1]
    if not any_width:
      return support, query, width
    n, m = cell.size
    return size(n), min(size(m, 64), query), size(width)

  def rows(place: int) -> Triple:
    cell = cells[place]
    x, y, asked = rows_of(cell, entities[cell.entity])
    if unverified and cell.contamination:
      y = np.where(y == 0, np.float32(0.5), y)
    return x, y, asked

  return score_in_batches(
    lambda places, batch: score(
      jax.random.fold_in(root, places[0]), params, batch
    ),
    [shape(cell) for cell in cells],
    rows,
    elements=_ELEMENTS if any_width else math.inf,
    label=label,
    quiet=quiet,
  )


def largest(cells: Sequence[Cell]) -> tuple[int, int]:
  """Rows of the largest support and of the largest query."""
  supports, queries = zip(*(cell.size for cell in cells), strict=True)
  return max(supports), max(queries)


def standardize_cells(
  prior: standardized.Prior | None,
  cells: Sequence[Cell],
  entities: Sequence[Entity],
) -> list[Triple]:
  """What the baselines see: the learners' rows, scaled as the learners do.

  For each cell support [n, F], labels [n], query [Q, F] and zero [F]. Without a
  prior the support alone decides.
  """
  width = entities[0].normal.shape[-1]
  prior = prior or standardized.Prior(*[jnp.zeros(width)] * 3)
  shape = *largest(cells), width

  @jax.jit
  @jax.vmap
  def scale(support, query):
    scaling = standardized.fit(support, prior)
    rows = [standardized.transform(scaling, x) for x in (support.x, query.x)]
    return rows, -scaling.centre / scaling.scale

  triples: list[Triple] = []
  for cell in cells:
    raw = rows_of(cell, entities[cell.entity])
    task = as_task([raw], shape)
    rows, origin = scale(task.support, task.query)
    support, query = (
      np.asarray(x[0, :n]).reshape(n, -1)
      for x, n in zip(rows, cell.size, strict=True)
    )
    zero = np.tile(origin[0], support.shape[1] // width)
    triples.append((support, raw[1], query, zero))
  return triples


def scale_tables(
  cells: Sequence[Cell], entities: Sequence[Entity]
) -> list[Triple]:
  """What the baselines see of tables: finite z-scores of the real columns.

  A missing value becomes the median of the support's normals, 0 where they
  have none. The same rows centre and scale a column; one that is constant there
  tells only whether a value differs, see `baselines.standardized`.

  For each cell support [n, F], labels [n], query [Q, F] and where zero lies in
  these units [F], float32.
  """
  triples: list[Triple] = []
  for cell in cells:
    support, labels, query = rows_of(cell, entities[cell.entity])
    rows = np.concatenate([support, query], dtype=np.float64)
    normal = np.flatnonzero(labels == 0)
    present = np.isfinite(rows[normal]).any(0)
    median = np.zeros(rows.shape[1])
    median[present] = np.nanmedian(rows[normal][:, present], 0)
    rows = np.where(np.isnan(rows), median, rows)
    rows, zero = baselines.standardized(rows[normal], rows)
    rows = np.clip(rows, -_LIMIT, _LIMIT).astype(np.float32)
    triples.append((rows[: len(labels)], labels, rows[len(labels) :], zero))
  return triples
