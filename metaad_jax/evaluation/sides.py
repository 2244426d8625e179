"""Which entities a run is tested on, and on which its options are chosen."""

from collections.abc import Sequence
from typing import NamedTuple

from metaad_jax.base import DataError, Entity, Source
from metaad_jax.data import audits, registry
from metaad_jax.evaluation import tasks
from metaad_jax.learners import standardized
from metaad_jax.training import setup
from metaad_jax.training.runs import Run

REMEDY = 'leave out --tune_baselines, and they keep their defaults'


class Side(NamedTuple):
  """Entities of a source.

  Attributes:
    spec: of the source.
    source: the same, parsed.
    layout: of a row as it is read.
    entities: not featurized.
  """

  spec: str
  source: Source
  layout: setup.Layout
  entities: list[Entity]


def _read(spec: str, data_dir: str | None) -> Side:
  source, options = registry.get(spec)
  entities = registry.read(source, options, data_dir)
  layout = setup.layout_of(source, options, entities)
  return Side(spec, source, layout, entities)


def at_home(run: Run, source: Source) -> bool:
  """Whether the run was trained on this source, be it with other options."""
  return run.setup.source.name == source.name


def tested(run: Run, spec: str, data_dir: str | None, split: str) -> Side:
  """The entities that a run is evaluated on.

  Args:
    run: decides the fold of its own source.
    spec: of the source, the run's own or another.
    data_dir: root of the data.
    split: 'test', 'validation' or 'all'.

  Raises:
    DataError: if there is no validation side.
  """
  everyone = _read(spec, data_dir)
  if split == 'all':
    return everyone
  if at_home(run, everyone.source):
    entities = run.setup.split(everyone.entities)[split]
  elif split == 'test':
    entities = [e for e in everyone.entities if e.side != 'train']
  else:
    raise DataError(
      f'{spec!r} has no validation side: the run was trained on '
      f'{run.config.source!r}'
    )
  return everyone._replace(entities=entities)


def for_choices(run: Run, side: Side, data_dir: str | None, split: str) -> Side:
  """The entities that options of the baselines are chosen on.

  Those of the same source that are not on the test side; where it has none, the
  validation side that the run was chosen with.

  Args:
    run: one of those evaluated on `side`.
    side: see `tested`.
    data_dir: root of the data.
    split: as in `tested`.

  Raises:
    DataError: if no entity is left to choose on.
  """
  home = at_home(run, side.source)
  # A single scenario has few tables; all those of the run serve.
  everyone = _read(
    run.config.source if home and side.source.tables else side.spec, data_dir
  )
  if not home and split == 'test':
    entities = [
      e for e in everyone.entities if e.side == 'train' and e.labels.any()
    ]
    if entities:
      return everyone._replace(entities=entities)
  if not home:
    everyone = _read(run.config.source, data_dir)
  try:
    entities = run.setup.split(everyone.entities)['validation']
  except DataError as error:
    raise DataError(f'{everyone.spec!r}: {error}; or {REMEDY}') from error
  if everyone.spec == run.config.source:
    known = audits.known(entities, run.seen)
    if len(known) < len(entities):
      raise DataError(
        f'the validation side of {everyone.spec!r} is not the one that the run '
        f'was trained with: {REMEDY}'
      )
  return everyone._replace(entities=entities)


def featurize(run: Run, side: Side, features: str | None) -> list[Entity]:
  """The entities as a run reads them.

  Args:
    run: decides the features.
    side: the entities.
    features: specs for runs of any width on a source other than their own; None
      = the usual ones of that source.
  """
  chosen = ''
  if run.setup.any_width and side.spec != run.config.source:
    chosen = features or '+'.join(side.source.features)
  feature = run.setup.feature_of(side.layout, chosen)
  return run.setup.featurize(side.entities, feature)


def baseline_rows(
  run: Run, side: Side, cells: Sequence[tasks.Cell], features: str | None
) -> list[tasks.Triple]:
  """What the baselines see of cells: rows [n, F], scaled by the support.

  Args:
    run: whose features and prior they share.
    side: that the cells index.
    cells: the tasks.
    features: as in `featurize`.
  """
  entities = featurize(run, side, features)
  if run.prior is None:
    return tasks.scale_tables(cells, entities)
  prior: standardized.Prior | None = run.prior
  if entities[0].normal.ndim == 3:  # raw windows: the source's usual features
    usual = '+'.join(run.setup.source.features)
    feature = run.setup.feature_of(side.layout, usual)
    prior, entities = None, run.setup.featurize(side.entities, feature)
  return tasks.standardize_cells(prior, cells, entities)
