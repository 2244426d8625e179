"""From a configuration, which is text, to the objects of a run: once.

`resolve` reads every spec, checks every value, and builds what does not depend
on the data; `Setup.at` adds what depends on the shape of a row. Everybody
behind asks the setup, and nobody reads a spec of the configuration again.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metaad_jax import devices, features, learners, memory, models, specs
from metaad_jax.base import (
  DataError,
  Entity,
  MetaLearner,
  Rows,
  Source,
  Task,
)
from metaad_jax.data import classes, episodes, registry, splitting
from metaad_jax.learners import inner_loop, objectives, standardized


@dataclasses.dataclass(frozen=True)
class Config:
  """Everything that decides a run's result; see `experiments/train.py`."""

  source: str = 'vibration'
  features: str = ''
  learner: str = 'maml'
  model: str = ''
  shots: tuple[int, ...] = (5, 10)
  anomalies: tuple[int, ...] = (0, 2)
  contamination: tuple[float, ...] = (0.0,)
  unverified: tuple[int, ...] = (0,)
  checked: float = 0.0
  clustered: float = 0.4
  queries: int = 20
  way: int = 0
  context: bool = False
  stream: bool = False
  fold: str = '0'
  folds: int = 5
  seed: int = 0
  steps: int = 2000
  tasks: int = 16
  outer: str = 'adam:rate=0.001'
  schedule: str = 'constant'
  clip: float = 10.0
  average: float = 0.0
  keep: str = 'best'
  validation_tasks: int = 200
  validate_every: int = 500
  start: str = ''
  precision: str = 'highest'
  memory: str = ''


class Layout(NamedTuple):
  """What a row looks like; enough to rebuild a run without its data.

  Attributes:
    shape: of a row as it is read: (L, C) or (F,); () = rows of any width.
    rate: sampling rate in Hz of windows.
    channels: names of the C channels or F columns, where they are the same for
      all entities.
  """

  shape: tuple[int, ...] = ()
  rate: float | None = None
  channels: tuple[str, ...] = ()


_AS_READ = features.Feature(lambda row: row, ())


class Setup(NamedTuple):
  """A configuration, resolved.

  Attributes:
    config: what was resolved.
    source: the data set or simulator.
    source_options: of its loader.
    feature_specs: the parsed specs of what a row is turned into.
    name: of the learner.
    model: spec of the model, the default one where the configuration has none.
    any_width: the model takes rows of any width.
    suspicious: it suspects rows of a support that nobody verified.
    unverified: it is told which rows these are; see `base.Model`.
    algorithm: the learner of rows that are scaled already.
    episode: what the tasks are made of: an `episodes.Episode`, or one of
      `classes` where entities are these.
    optimizer: the outer one.
    layout: of a row as it is read; any width until `at` was given another.
    feature: of a row of that layout.
    learner: scales the features of that layout and applies the algorithm.
    ways: the algorithm in ways that need less memory, the fastest first, each
      by the options that make it so; none without a budget.
    thrifty: the same of `learner`.
  """

  config: Config
  source: Source
  source_options: dict[str, Any]
  feature_specs: tuple[features.Spec, ...]
  name: str
  model: str
  any_width: bool
  suspicious: bool
  unverified: bool
  algorithm: MetaLearner
  episode: Any
  optimizer: optax.GradientTransformation
  layout: Layout
  feature: features.Feature
  learner: MetaLearner
  ways: dict[str, MetaLearner]
  thrifty: dict[str, MetaLearner]

  def load(self, data_dir: str | None) -> list[Entity]:
    """Reads the entities of the source; see `registry.load`."""
    return registry.read(self.source, self.source_options, data_dir)

  def split(self, entities: Sequence[Entity]) -> dict[str, list[Entity]]:
    """The sides of this run's fold; see `splitting.split`."""
    config = self.config
    return splitting.split(
      entities, fold=config.fold, folds=config.folds, seed=config.seed
    )

  def with_fold(self, fold: str):
    """The setup of the same run with another test side."""
    return self._replace(config=dataclasses.replace(self.config, fold=fold))

  def at(self, layout: Layout, prior: standardized.Prior | None = None):
    """The setup for rows of a layout.

    Args:
      layout: see `Layout`.
      prior: of the columns, for new meta-parameters; None = they will be
        restored, with their prior.

    Returns:
      The setup, with `layout`, `feature` and `learner` set.

    Raises:
      DataError: if the model or the features do not fit such rows.
    """
    if not (layout.shape or self.any_width):
      raise DataError(
        f'rows of any width, and model {self.model!r} needs one width'
      )
    feature = self.feature_of(layout)
    placed = self._replace(layout=layout, feature=feature)
    if self.any_width:
      return placed
    if prior is None:
      width = 1 if self.pooled else placed.columns[-1]
      prior = standardized.Prior(*[jnp.ones(width)] * 3)
    scaled = functools.partial(
      standardized.standardized,
      prior=prior,
      context=self.config.context,
      own=not self.config.way,
    )
    return placed._replace(
      learner=scaled(self.algorithm),
      thrifty={way: scaled(one) for way, one in self.ways.items()},
    )

  @property
  def pooled(self) -> bool:
    """Whether all columns of a row are scaled alike, as those of classes."""
    return self.source.images and self.config.way > 0

  @property
  def columns(self) -> tuple[int, ...]:
    """Shape of a row after its features: (F,) or (L, C); () = any width."""
    if not self.layout.shape:
      return ()
    row = jnp.zeros(self.layout.shape)
    return jax.eval_shape(self.feature.apply, row).shape

  def example(self) -> Task:
    """A task of one row, for its shapes."""
    shape = self.columns or (4,)
    rows = Rows(jnp.zeros((1, *shape)), jnp.zeros(1), jnp.ones(1))
    return Task(rows, rows, jnp.ones(shape[-1]))

  def feature_of(self, layout: Layout, text: str = '') -> features.Feature:
    """What rows of a layout are turned into; tables stay as they are.

    Args:
      layout: of the rows.
      text: specs of other features, joined by '+'; '' = those of the setup.
    """
    if not layout.shape:
      return _AS_READ
    if layout == self.layout and not text:
      return self.feature  # compiled once for all that share it
    return features.make(
      text or self.feature_specs,
      layout.shape,
      rate=layout.rate,
      channels=layout.channels,
    )

  def featurize(
    self, entities: Sequence[Entity], feature: features.Feature | None = None
  ) -> list[Entity]:
    """The entities with features in place of rows.

    Args:
      entities: of `layout`.
      feature: of another layout (see `feature_of`); None = of this one.
    """
    feature = feature or self.feature
    if feature is _AS_READ:
      return list(entities)
    return episodes.featurize(entities, feature.apply)


def layout_of(
  source: Source, options: dict[str, Any], entities: Sequence[Entity]
) -> Layout:
  """What the rows of a source look like, read with those options."""
  if source.tables:
    return Layout()
  shape = entities[0].normal.shape[1:]
  return Layout(shape, options.get('rate', source.rate), source.channels)


def resolve(config: Config | Setup, **overrides: Any) -> Setup:
  """Reads every spec of a configuration, and checks every value.

  Args:
    config: what to resolve; a setup is returned as it is.
    **overrides: options of the learner in place of those in its spec.

  Returns:
    The setup, for rows of any width; see `Setup.at`.

  Raises:
    DataError: if a value or a combination makes no sense, in one line.
  """
  if isinstance(config, Setup):
    return config
  _check_values(config)
  source, source_options = registry.get(config.source)
  chosen = features.parse(config.features or '+'.join(source.features))
  name, options = specs.parse(config.learner)
  if name in learners.UNTRAINED:
    config = dataclasses.replace(config, steps=1, tasks=1, validation_tasks=1)
  model = config.model or _default_model(name, source, chosen)
  make_model = models.make(model)
  network = make_model(1)
  any_width, together = network.any_width, network.together
  _check_widths(config, source, chosen, model, any_width)
  if together and not config.way:
    raise DataError(
      f'model {model!r} normalises over all rows of a task, and these are '
      'padded: choose another one, or --way'
    )
  options |= overrides
  build = lambda options, make_model: learners.precise(
    learners.build(name, options, make_model, **_objective(config.way)),
    config.precision,
  )
  algorithm = build(options, make_model)
  ways = {}
  if memory.budget(config.memory):
    ways = _ways(name, options, model, build)
  episode = _episode(config, source, any_width)
  return Setup(
    config, source, source_options, chosen, name, model, any_width,
    network.suspects is not None, network.unverified, algorithm, episode,
    _outer(config), Layout(), _AS_READ, algorithm, ways, ways,
  )  # fmt: skip


def _ways(name, options, model, build):
  """The algorithm with what it computes anew, where that was left open."""
  found, told = {}, []
  if learners.chooses_mode(name, options):
    told, options = ['mode=mixed'], options | {'mode': 'mixed'}
    found['mode=mixed'] = build(options, models.make(model))
  if (deep := models.recomputed(model)) is not None:
    way = ', '.join([*told, 'remat=True of the model'])
    found[way] = build(options, models.make(deep))
  return found


def _objective(way):
  """The loss, and how many outputs it takes."""
  if way > 1:
    return {'loss': objectives.cross_entropy, 'outputs': way}
  return {'loss': objectives.balanced_bce}


def _episode(config, source, any_width):
  if not config.way:
    queries = config.queries, config.queries
    return episodes.Episode(
      config.shots, config.anomalies, config.contamination, *queries,
      config.unverified, config.checked, config.clustered,
    )  # fmt: skip
  if any_width or config.stream or config.context or len(config.shots) > 1:
    raise DataError(
      f'way={config.way}: classes take rows of one width and one number of '
      '--shots, and neither --stream nor --context'
    )
  return classes.Episode(
    config.way, config.shots[0], config.queries, source.images
  )


def _default_model(learner, source, chosen):
  if learner in learners.MODELS:
    return learners.MODELS[learner]
  if source.tables:
    return 'tables'
  return 'conv1d' if [spec.name for spec in chosen] == ['raw'] else 'mlp'


def _check_widths(config, source, chosen, model, any_width):
  if source.tables and not any_width:
    raise DataError(
      f'source {source.name!r} holds tables of different widths, model '
      f'{model!r} needs one width: choose --model=tables'
    )
  if any_width and config.context:
    raise DataError(
      f'context=True is impossible: model {model!r} compares rows with their '
      'own support alone; leave it out'
    )
  if source.tables and [spec.name for spec in chosen] != ['identity']:
    raise DataError(
      f'features={config.features!r} is impossible: the rows of tables are '
      'taken as they are; leave it out'
    )
  if config.stream and source.generate is None:
    raise DataError(
      f'source {source.name!r} is no simulator: leave --stream out'
    )


def _check_values(config):
  positive = 'it must be at least 1'
  shares, unverified = config.contamination, config.unverified
  for name, good, remedy in (
    ('shots', config.shots and min(config.shots) >= (not any(unverified)),
     'every number of support normals must be at least 1'),
    ('unverified', unverified and min(unverified) >= 0,
     'numbers of unverified rows start at 0'),
    ('anomalies', config.anomalies and min(config.anomalies) >= 0,
     'numbers of labelled anomalies start at 0'),
    ('contamination', shares and all(0 <= share <= 0.5 for share in shares),
     'shares of the support lie between 0 and 0.5'),
    ('checked', 0 <= config.checked <= 1, 'shares lie between 0 and 1'),
    ('clustered', 0 <= config.clustered <= 1, 'shares lie between 0 and 1'),
    ('queries', config.queries >= 1, positive),
    ('way', config.way >= 0, '0 = anomalies, else the classes of a task'),
    ('steps', config.steps >= 1, positive),
    ('tasks', config.tasks >= 1, positive),
    ('validation_tasks', config.validation_tasks >= 1, positive),
    ('validate_every', config.validate_every >= 1, positive),
    ('folds', config.folds >= 2, 'it must be at least 2'),
    ('clip', config.clip > 0, 'it must be above 0'),
    ('average', 0 <= config.average < 1, 'it must lie in [0, 1)'),
    ('seed', 0 <= config.seed < 2**63, 'it must lie in [0, 2^63)'),
    ('schedule', config.schedule in ('constant', 'cosine'),
     'choose constant or cosine'),
    ('keep', config.keep in ('best', 'last'), 'choose best or last'),
    ('precision', config.precision in devices.PRECISIONS,
     f'choose one of {", ".join(devices.PRECISIONS)}'),
  ):  # fmt: skip
    if not good:
      value = getattr(config, name)
      raise DataError(f'{name}={value!r} is impossible: {remedy}')


def _outer(config):
  """The outer optimizer: gradient clipping, then any of optax's."""
  name, options = specs.parse(config.outer)

  def make(*, rate: float = 1e-3, weight_decay: float = 0.0):
    schedule: Any = rate
    if config.schedule == 'cosine':
      schedule = optax.cosine_decay_schedule(rate, config.steps)
    more = {'weight_decay': weight_decay} if weight_decay else {}
    return inner_loop.optimizer(name, schedule, **more)

  made = specs.call(f'optimizer {name!r}', make, **options)
  return optax.chain(optax.clip_by_global_norm(config.clip), made)
