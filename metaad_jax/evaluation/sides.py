"""Which entities a run is tested on, and on which its options are chosen."""

from collections.abc import Sequence
from typing import NamedTuple

from metaad_jax.base import DataError, Entity, Source
from metaad_jax.data import audits, registry
from metaad_jax.evaluation import tasks
from metaad_jax.training import setup
from metaad_jax.training.runs import Run

REMEDY = 'leave out --tune_baselines, and they keep their defaults'


class Side(NamedTuple):
  """Entities of a source, not featurized, and the layout of their rows."""

  spec: str
  source: Source
  layout: setup.Layout
  entities: list[Entity]


def _read(run: Run, spec: str, data_dir: str | None) -> Side:
  source, options = run.setup.source, run.setup.source_options
  if spec != run.config.source:
    source, options = registry.get(spec)
  entities = registry.read(source, options, data_dir)
  layout = setup.layout_of(source, options, entities)
  return Side(spec, source, layout, entities)


def at_home(run: Run, source: Source) -> bool:
  """Whether the run was trained on this source, be it with other options."""
  return run.setup.source.name == source.name


def tested(run: Run, spec: str, data_dir: str | None, split: str) -> Side:
  """The entities of the source `spec` that a run is evaluated on.

  Raises:
    DataError: if there is no such side.
  """
  everyone = _read(run, spec, data_dir)
  if split == 'all':
    return everyone
  if at_home(run, everyone.source):
    if run.config.fold == 'none':
      raise DataError(
        f'the run was trained on all entities of {run.config.source!r} (--fold='
        'none): evaluate one of the same flags that has a fold'
      )
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

  Raises:
    DataError: if no entity is left to choose on.
  """
  own = run.config.source
  home = at_home(run, side.source)
  if not home and split == 'test':
    other = _read(run, side.spec, data_dir)
    train = [e for e in other.entities if e.side == 'train' and e.labels.any()]
    if train:
      return other._replace(entities=train)
  # A single scenario has few tables; all those of the run serve.
  everyone = _read(
    run, side.spec if home and not side.source.tables else own, data_dir
  )
  try:
    entities = run.setup.split(everyone.entities)['validation']
  except DataError as error:
    raise DataError(f'{everyone.spec!r}: {error}; or {REMEDY}') from error
  seen = audits.known(entities, run.seen) if everyone.spec == own else entities
  if len(seen) < len(entities):
    raise DataError(
      f'the validation side of {own!r} is not the one that the run was trained '
      f'with: {REMEDY}'
    )
  return everyone._replace(entities=entities)


def featurize(run: Run, side: Side, features: str | None) -> list[Entity]:
  """The entities as a run reads them.

  Runs of any width read sources other than their own by `features`; None = the
  usual ones of that source.
  """
  chosen = ''
  if run.setup.any_width and side.spec != run.config.source:
    chosen = features or '+'.join(side.source.features)
  feature = run.setup.feature_of(side.layout, chosen)
  return run.setup.featurize(side.entities, feature)


def baseline_rows(
  run: Run, side: Side, cells: Sequence[tasks.Cell], features: str | None
) -> list[tasks.Triple]:
  """What the baselines see of cells of a side: `run`'s features, scaled."""
  entities = featurize(run, side, features)
  if run.prior is None:
    return tasks.scale_tables(cells, entities)
  if entities[0].normal.ndim < 3:
    return tasks.standardize_cells(run.prior, cells, entities)
  # The run reads raw windows, baselines the usual features of its source.
  usual = '+'.join(run.setup.source.features)
  feature = run.setup.feature_of(side.layout, usual)
  entities = run.setup.featurize(side.entities, feature)
  return tasks.standardize_cells(None, cells, entities)
