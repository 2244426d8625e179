"""A run: its configuration, its folder, and what is rebuilt from them.

A run directory holds `config.json` (flags, versions, code, seed, the shape of
a row), `metrics.jsonl`, and `checkpoints/`. A model file (`export`) is a run
without its history, in one file; the package ships one, called `shipped`.
"""

import dataclasses
import functools
import importlib.metadata
import json
import os
import platform
import subprocess
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metaad_jax import (
  __version__,
  base,
  devices,
  features,
  learners,
  models,
  specs,
  storage,
)
from metaad_jax.base import DataError, Entity, MetaLearner, Params
from metaad_jax.data import (
  audits,
  episodes,
  registry,
  splitting,
  synthetic_tables,
)
from metaad_jax.learners import inner_loop, objectives, standardized
from metaad_jax.scores import conformal, metrics
from metaad_jax.scores.conformal import Calibration
from metaad_jax.training import checkpoints, loop

SCHEMA = 1
SHIPPED = 'shipped'  # names the model file of the package, as a run directory
_SHIPPED = os.path.join(
  os.path.dirname(devices.__file__), 'shipped', 'tables.npz'
)
_CALIBRATION = 'calibration.npz'  # in a run directory


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
  queries: int = 20
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


class Layout(NamedTuple):
  """What a row looks like; enough to rebuild a run without its data.

  Attributes:
    shape: of a row as it is read: (L, C), (F,), or (None,) = any width.
    rate: sampling rate in Hz of windows.
    channels: names of the C channels or F columns, where they are the same for
      all entities.
  """

  shape: tuple[Any, ...]
  rate: float | None
  channels: tuple[str, ...]


class Data(NamedTuple):
  """A source, read, split and turned into features."""

  entities: dict[str, list[Entity]]  # features; by side
  raw: dict[str, list[Entity]]  # rows as they were read
  feature: features.Feature
  layout: Layout


def episode_of(config: Config) -> episodes.Episode:
  """What the tasks of a run are made of."""
  return episodes.Episode(
    config.shots,
    config.anomalies,
    config.contamination,
    config.queries,
    config.queries,
  )


def check(config: Config) -> None:
  """Raises DataError if a value makes no sense, in one line."""

  def require(good, name, remedy):
    if not good:
      value = getattr(config, name)
      raise DataError(f'{name}={value!r} is impossible: {remedy}')

  require(
    config.shots and min(config.shots) >= 1,
    'shots',
    'every number of support normals must be at least 1',
  )
  require(
    config.anomalies and min(config.anomalies) >= 0,
    'anomalies',
    'numbers of labelled anomalies start at 0',
  )
  require(
    config.contamination
    and all(0 <= share <= 0.5 for share in config.contamination),
    'contamination',
    'shares of the support lie between 0 and 0.5',
  )
  for name in (
    'queries', 'steps', 'tasks', 'validation_tasks', 'validate_every'
  ):  # fmt: skip
    require(getattr(config, name) >= 1, name, 'it must be at least 1')
  require(config.folds >= 2, 'folds', 'it must be at least 2')
  require(config.clip > 0, 'clip', 'it must be above 0')
  require(0 <= config.average < 1, 'average', 'it must lie in [0, 1)')
  require(0 <= config.seed < 2**63, 'seed', 'it must lie in [0, 2^63)')
  require(
    config.schedule in ('constant', 'cosine'),
    'schedule',
    'choose constant or cosine',
  )
  require(config.keep in ('best', 'last'), 'keep', 'choose best or last')
  source, _ = registry.get(config.source)
  learner = specs.parse(config.learner)[0]
  if source.tables and learner not in learners.TABLES:
    raise DataError(
      f'source {source.name!r} holds tables of different widths, learner '
      f'{learner!r} needs one width: choose of '
      + ', '.join(sorted(learners.TABLES))
    )
  if learner in learners.TABLES and (source.sample or config.context):
    raise DataError(
      f'learner {learner!r} ranks rows by their own support: choose a source '
      'of rows or windows, without context'
    )
  if source.tables and _features(config) != 'identity':
    raise DataError(
      f'features={config.features!r} is impossible: the rows of tables are '
      'taken as they are; leave it out'
    )
  for name, options in specs.parse_many(config.features or 'identity'):
    factory = specs.look_up('feature', features.REGISTRY, name)
    specs.check(f'feature {name!r}', factory, **options)
  learners.make(config.learner, models.make(_model(config)))
  outer(config)


def _features(config: Config) -> str:
  source, _ = registry.get(config.source)
  return config.features or '+'.join(source.features)


def _model(config: Config) -> str:
  if config.model:
    return config.model
  if any_width(config):
    return 'tables'
  if registry.get(config.source)[0].sample is not None:
    return 'mlp:width=40,stddev=0.01'  # as in the MAML paper
  return 'conv1d' if _features(config) == 'raw' else 'mlp'


def any_width(config: Config) -> bool:
  """Whether the run's learner takes rows of any width."""
  return specs.parse(config.learner)[0] in learners.TABLES


def load_data(config: Config, data_dir: str | None) -> Data:
  """Reads the source, splits it by entity, and computes the features."""
  everyone = registry.load(config.source, data_dir)
  raw = splitting.split(
    everyone, fold=config.fold, folds=config.folds, seed=config.seed
  )
  layout = layout_of(config.source, everyone)
  if any_width(config) and len(layout.shape) == 1:
    layout = Layout((None,), None, ())
  feature = make_feature(config, layout)
  done = {
    side: featurize(config, layout, members) for side, members in raw.items()
  }
  return Data(done, raw, feature, layout)


def layout_of(spec: str, entities: list[Entity]) -> Layout:
  """What the rows of a source look like."""
  source, options = registry.get(spec)
  if source.tables:
    return Layout((None,), None, ())
  shape = entities[0].normal.shape[1:]
  return Layout(shape, options.get('rate', source.rate), source.channels)


def featurize(
  config: Config, layout: Layout, entities: list[Entity]
) -> list[Entity]:
  """The entities with features in place of rows; tables stay as they are."""
  if layout.shape == (None,):
    return list(entities)
  return episodes.featurize(entities, make_feature(config, layout).apply)


def fold_names(config: Config, data_dir: str | None) -> list[str]:
  """All folds of a source: by name where it has names, else by number."""
  return splitting.fold_names(
    registry.load(config.source, data_dir), config.folds
  )


@functools.lru_cache  # one compilation for all that share it
def make_feature(config: Config, layout: Layout) -> features.Feature:
  """The features of one row; those of any width stay as they are."""
  if layout.shape == (None,):
    return features.Feature(lambda row: row, ())
  return features.make(
    _features(config),
    layout.shape,
    rate=layout.rate,
    channels=layout.channels,
  )


def regression(config: Config) -> bool:
  """Whether the source is a regression problem that validates learners."""
  return registry.get(config.source)[0].sample is not None


def make_learner(
  config: Config, prior: standardized.Prior | None, **overrides: Any
) -> MetaLearner:
  """The learner of a run.

  Args:
    config: of the run.
    prior: of the columns; None = no standardisation.
    **overrides: options of the learner in place of those in the config.

  Returns:
    The learner.
  """
  regress = regression(config)
  learner = learners.make(
    config.learner,
    models.make(_model(config)),
    loss=objectives.squared_error if regress else objectives.balanced_bce,
    rate=1e-3 if regress else None,
    **overrides,
  )
  if prior is not None:
    learner = standardized.standardized(learner, prior, context=config.context)
  return learner


def prior_of(entities: list[Entity]) -> standardized.Prior:
  """What the training side says of the columns."""
  return standardized.Prior(
    *map(jnp.asarray, episodes.column_statistics(entities))
  )


def outer(config: Config) -> optax.GradientTransformation:
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


def samplers(config: Config, data: Data | None):
  """The samplers of the training and of the validation side."""
  episode = episode_of(config)
  source, options = registry.get(config.source)
  partial = jax.tree_util.Partial
  if data is None:
    if source.sample is None:
      raise DataError(f'source {source.name!r} needs its data to be loaded')
    regression_task = source.sample
    draw = lambda key: regression_task(key, max(config.shots), config.queries)
    return partial(draw), partial(draw)
  pools = {
    side: episodes.pool(data.entities[side]) for side in ('train', 'validation')
  }
  sample = lambda pools, key: episodes.from_pools(pools, episode)(key)
  augmented = lambda pools, key: synthetic_tables.sampler(pools, episode)(key)
  train = partial(augmented if any_width(config) else sample, pools['train'])
  if config.stream:
    if source.generate is None:
      raise DataError(
        f'source {source.name!r} is no simulator: leave --stream out'
      )
    fleet = {'machines', 'test_machines', 'windows', 'queries', 'seed'}
    static = {k: v for k, v in options.items() if k not in fleet}
    generate = lambda *args: source.generate(*args, **static)
    train = partial(
      episodes.from_simulator(generate, data.feature.apply, episode)
    )
  return train, partial(sample, pools['validation'])


def negative_error(scores, y, mask):
  """-MSE: the quality of a prediction in regression problems."""
  return -objectives.squared_error(scores[:, None], y, mask)


def train(
  config: Config,
  *,
  data_dir: str | None = None,
  run_dir: str | None = None,
  data: Data | None = None,
  quiet: bool = False,
) -> loop.State:
  """Meta-trains a run, or resumes it.

  Args:
    config: see `Config`.
    data_dir: root of the data.
    run_dir: folder of the run; None = keep nothing.
    data: of an earlier call to `load_data` with the same source, features,
      folds and seed, to read it only once.
    quiet: no progress bar.

  Returns:
    The final state.

  Raises:
    DataError: for impossible values, bad data, divergence, or a `run_dir` that
      holds another run.
  """
  check(config)
  if specs.parse(config.learner)[0] in learners.UNTRAINED:
    config = dataclasses.replace(config, steps=1, tasks=1, validation_tasks=1)
  regress = regression(config)
  if data is None and not regress:
    data = load_data(config, data_dir)
  if data is not None:
    audits.sides(data.raw)
    audits.shared_rows(data.raw['train'] + data.raw['validation'])
    for side in ('train', 'validation'):
      audits.enough_anomalies(data.raw[side], config.anomalies, side)
  prior = None
  if data is not None and not any_width(config):
    prior = prior_of(data.entities['train'])
  learner = make_learner(config, prior)
  sample, sample_validation = samplers(config, data)
  keys = jax.random.split(
    jax.random.fold_in(jax.random.key(config.seed), 2**31 - 2),
    config.validation_tasks,
  )
  validation = jax.jit(lambda keys, f: jax.vmap(f)(keys))(
    keys, sample_validation
  )
  seen = _seen(data)
  params = None
  if config.start:
    started = restore(config.start)
    if data is not None:
      audits.unseen(data.raw['test'], started.seen)
    example = jax.tree.map(lambda leaf: leaf[0], validation)
    params = _taken_over(started, learner, example)
    seen = sorted({*seen, *started.seen})
  if run_dir is not None:
    layout = data.layout if data is not None else Layout((1,), None, ())
    if devices.first_process():
      _open(run_dir, config, layout, seen)
    devices.wait('run folder')
  return loop.train(
    learner,
    sample,
    validation,
    negative_error if regress else metrics.masked_auroc,
    optimizer=outer(config),
    steps=config.steps,
    tasks=config.tasks,
    params=params,
    seed=config.seed,
    average=config.average,
    keep=config.keep,
    validate_every=config.validate_every,
    checkpoint_every=config.validate_every,
    report_every=min(config.validate_every, max(100, config.steps // 200)),
    run_dir=run_dir,
    label=specs.parse(config.learner)[0],
    quiet=quiet,
  )


def versions() -> dict[str, str]:
  """Versions of what the numbers depend on."""
  packages = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'scikit-learn')
  found = {name: importlib.metadata.version(name) for name in packages}
  return {
    'metaad_jax': __version__,
    'python': platform.python_version(),
    **found,
  }


def code_version() -> str:
  """The commit of the checkout this code lies in, or 'unknown'."""
  here = os.path.dirname(os.path.abspath(__file__))
  try:
    told = subprocess.run(
      ['git', 'describe', '--always', '--dirty'],
      cwd=here, capture_output=True, text=True, timeout=10, check=True,
    )  # fmt: skip
  except (OSError, subprocess.SubprocessError):
    return 'unknown'
  return told.stdout.strip()


def _seen(data):
  """Digests of the entities that training or validation looks at."""
  if data is None:
    return []
  members = data.raw['train'] + data.raw['validation']
  return sorted(audits.digest(entity) for entity in members)


def _open(run_dir, config, layout, seen):
  """Writes config.json, or checks that it is this run's."""
  path = os.path.join(run_dir, 'config.json')
  wanted = json.loads(json.dumps(dataclasses.asdict(config)))
  if os.path.exists(path):
    held = _read(path).get('config')
    if not isinstance(held, dict):
      raise DataError(f'{path} is damaged: delete {run_dir} to train it again')
    usual = json.loads(json.dumps(dataclasses.asdict(Config())))
    differing = sorted(k for k in wanted if held.get(k, usual[k]) != wanted[k])
    if differing:
      raise DataError(
        f'{run_dir} holds another run (it differs in {", ".join(differing)}): '
        'choose another --run_dir, or delete that folder'
      )
    return
  try:
    os.makedirs(run_dir, exist_ok=True)
  except OSError as error:
    raise DataError(f'cannot make {run_dir}: {error.strerror}') from error
  content = {
    'schema': SCHEMA,
    'config': wanted,
    'layout': layout._asdict(),
    'seen': seen,
    'versions': versions(),
    'code': code_version(),
    'devices': [str(device) for device in jax.devices()],
  }
  storage.write_bytes(path, json.dumps(content, indent=2).encode())


def _read(path):
  try:
    with open(path) as file:
      content = json.load(file)
  except FileNotFoundError as error:
    raise DataError(
      f'{os.path.dirname(path)} is no run directory: it has no config.json; '
      'train one with python -m experiments.train --run_dir=...'
    ) from error
  except (OSError, ValueError) as error:
    raise DataError(f'cannot read {path}: {error}') from error
  schema = content.get('schema') if isinstance(content, dict) else None
  if schema != SCHEMA:
    raise DataError(
      f'{path} has schema {schema!r}, this version reads {SCHEMA}: train the '
      'run again'
    )
  return content


class Run(NamedTuple):
  """A trained run, ready to adapt."""

  name: str
  config: Config
  layout: Layout
  learner: MetaLearner
  params: Params
  step: int
  prior: standardized.Prior | None
  seen: frozenset[str] = frozenset()  # digests of what it was trained on
  calibration: Calibration | None = None


def restore(run_dir: str, **overrides: Any) -> Run:
  """Rebuilds a run from its folder, with its best meta-parameters.

  Args:
    run_dir: of a run that has at least one checkpoint; or a model file that
      `export` wrote (.npz); or 'shipped', the model file of this package.
    **overrides: options of the learner in place of the run's, such as
      `adapt_steps`.

  Returns:
    The run.

  Raises:
    DataError: if the folder is no run, is damaged, or has no checkpoint yet;
      if the file is missing, damaged or of another version.
  """
  file = _SHIPPED if run_dir == SHIPPED else run_dir
  if file.endswith('.npz') and not os.path.isdir(file):
    arrays, content = storage.load(file)
    config, layout, columns = _settings(content, file)
    learner, prior = _learner(config, columns, **overrides)
    if run_dir == SHIPPED and not overrides:
      params = _nested(arrays)  # a test compares it with `like`
    else:
      like = jax.eval_shape(
        lambda: learner.init(jax.random.key(0), _example(columns))
      )
      params = _unflatten(arrays, like, file)
    step = content.get('step', 0)
  else:
    path = os.path.join(run_dir, 'config.json')
    content = _read(path)
    config, layout, columns = _settings(content, path)
    learner, prior = _learner(config, columns, **overrides)
    params, step = _best(run_dir, config, learner, columns)
    file, arrays = os.path.join(run_dir, _CALIBRATION), {}
    if os.path.exists(file):
      arrays, _ = storage.load(file)
  try:
    calibrated = conformal.from_arrays(arrays)
  except DataError as error:
    raise DataError(f'{file}: {error}') from error
  if prior is not None:
    prior = params['prior']
  name = specs.parse(config.learner)[0]
  seen = frozenset(content.get('seen', ()))
  return Run(
    name, config, layout, learner, params, int(step), prior, seen, calibrated
  )


def fine_tuned(run: Run, spec: str) -> Run:
  """Another learner that starts from the meta-parameters of a run.

  Args:
    run: see `restore`.
    spec: of a learner on the same network, such as
      'tables_maml:adapt_steps=5,rate=0.01'.

  Returns:
    The run, named by the spec.

  Raises:
    DataError: if the spec is wrong, or its parameters are of another shape.
  """
  config = dataclasses.replace(run.config, learner=spec)
  check(config)
  if any_width(config) != any_width(run.config):
    raise DataError(
      f'{spec!r} cannot start from a run of {run.config.learner!r}: they read '
      'rows differently'
    )
  columns = row_columns(config, run.layout)
  learner, _ = _learner(config, columns)
  params = _taken_over(run, learner, _example(columns))
  return run._replace(name=spec, config=config, learner=learner, params=params)


def _taken_over(run, learner, example):
  """The meta-parameters of a run, for another learner of the same network."""
  like = jax.eval_shape(lambda: learner.init(jax.random.key(0), example))
  what = f'the run of {run.config.learner!r} that was to start from'
  return _unflatten(_flatten(run.params), like, what)


def _settings(content, path):
  """The config, the layout, and the shape of a featurized row."""
  try:
    fields: dict[str, Any] = {
      key: tuple(value) if isinstance(value, list) else value
      for key, value in content['config'].items()
    }
    config = Config(**fields)
    check(config)
    layout = Layout(
      tuple(content['layout']['shape']),
      content['layout']['rate'],
      tuple(content['layout']['channels']),
    )
    if not isinstance(content.get('step', 0), int):
      raise DataError(f'step {content["step"]!r} is no number')
    return config, layout, row_columns(config, layout)
  except DataError as error:
    raise DataError(f'{path}: {error}') from error
  except (KeyError, TypeError, AttributeError, ValueError) as error:
    raise DataError(
      f'{path} is damaged or of another version: {error!r}'
    ) from error


def _learner(config, columns, **overrides):
  """The learner of a run, and a prior of the right shape if it has one."""
  prior = None
  if not (regression(config) or any_width(config)):
    prior = standardized.Prior(*[jnp.ones(columns[-1])] * 3)
  return make_learner(config, prior, **overrides), prior


def _best(run_dir, config, learner, columns):
  """The best meta-parameters of a run folder, and their step."""
  like = jax.eval_shape(
    lambda: loop.initial_state(
      learner, _example(columns), outer(config), config.seed
    )
  )
  folder = os.path.join(run_dir, 'checkpoints')
  found = None
  if os.path.isdir(folder):
    kept = checkpoints.Checkpoints(folder)
    try:
      found = kept.restore(like)
    finally:
      kept.close()
  if found is None:
    raise DataError(
      f'{run_dir} has no checkpoint yet: let the training run go on'
    )
  return found[1].best, int(found[1].best_step)


def _flatten(params):
  """{'params/network/kernel': leaf, ...}."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(params)
  name = lambda path: jax.tree_util.keystr(path, simple=True, separator='/')
  return {f'params/{name(path)}': leaf for path, leaf in leaves}


def _unflatten(arrays, like, path):
  wanted = _flatten(like)
  arrays = {k: v for k, v in arrays.items() if k.startswith('params/')}
  form = lambda array: (array.shape, array.dtype)
  for name in sorted(wanted.keys() | arrays.keys()):
    held = form(arrays[name]) if name in arrays else 'nothing'
    asked = form(wanted[name]) if name in wanted else 'nothing'
    if held != asked:
      raise DataError(
        f'{path}: {name} is {held}, this version of the learner has {asked}: '
        'export the run anew, with the version that trained it'
      )
  leaves = jax.device_put([arrays[name] for name in wanted])
  return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _nested(arrays):
  """`_unflatten` by the names alone: tracing `init` takes half a second."""
  params: dict[str, Any] = {}
  for name, array in arrays.items():
    kind, *path, last = name.split('/')
    if kind == 'params':
      place = params
      for part in path:
        place = place.setdefault(part, {})
      place[last] = array
  return jax.device_put(params)


def export(run_dir: str, path: str) -> None:
  """Writes a run's best meta-parameters as a model file.

  Args:
    run_dir: see `restore`.
    path: of the file, ending in .npz.

  Raises:
    DataError: if the run cannot be restored or the file not be written.
  """
  if not path.endswith('.npz'):
    raise DataError(f'{path}: a model file ends in .npz')
  storage.save(path, *pack(restore(run_dir)))


def pack(run: Run) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """The arrays and the meta data of a run's model file."""
  meta = {
    'name': run.name,
    'config': dataclasses.asdict(run.config),
    'layout': run.layout._asdict(),
    'step': run.step,
    'trained_on': run.config.source,
    'seen': sorted(run.seen),
    'versions': versions(),
    'code': code_version(),
  }
  arrays = jax.tree.map(np.asarray, _flatten(run.params))
  if run.calibration is not None:
    arrays |= conformal.to_arrays(run.calibration)
  return arrays, meta


def calibrate(
  run_dir: str, calibrated: Calibration, about: dict[str, Any]
) -> str:
  """Writes a calibration into a run's folder or model file.

  Args:
    run_dir: see `restore`.
    calibrated: takes the place of the one that was there.
    about: what it was fitted on, for the meta data.

  Returns:
    The path of the file.

  Raises:
    DataError: if there is no run, or the file cannot be written.
  """
  file = _SHIPPED if run_dir == SHIPPED else run_dir
  arrays: dict[str, np.ndarray] = {}
  meta: dict[str, Any] = {}
  if file.endswith('.npz') and not os.path.isdir(file):
    arrays, meta = storage.load(file)
  else:
    _read(os.path.join(run_dir, 'config.json'))
    file = os.path.join(run_dir, _CALIBRATION)
  arrays |= conformal.to_arrays(calibrated)
  storage.save(file, arrays, meta | {'calibration': about})
  return file


def row_columns(config: Config, layout: Layout) -> tuple[int | None, ...]:
  """Shape of a row after its features: (F,), (L, C), or (None,)."""
  if layout.shape == (None,):
    if not any_width(config):
      raise DataError(
        f'rows of any width, and learner {config.learner!r} needs one width'
      )
    return layout.shape
  if regression(config):
    return layout.shape
  apply = make_feature(config, layout).apply
  return jax.eval_shape(apply, jnp.zeros(layout.shape)).shape


def _example(columns):
  shape = [4 if size is None else size for size in columns]
  rows = base.Rows(jnp.zeros((1, *shape)), jnp.zeros(1), jnp.ones(1))
  return base.Task(rows, rows, jnp.ones(shape[-1]))


def curves(run_dir: str) -> dict[str, list[float]]:
  """The learning curves in a run's `metrics.jsonl`, for the report."""
  found: dict[str, list[float]] = {
    'step': [], 'loss': [], 'validation_step': [], 'validation_auroc': []
  }  # fmt: skip
  path = os.path.join(run_dir, 'metrics.jsonl')
  if not os.path.exists(path):
    return found
  with open(path, errors='replace') as lines:
    for text in lines:
      try:
        line = json.loads(text)
        step, loss, score = line['step'], line['loss'], line.get('validation')
      except (ValueError, KeyError, TypeError, AttributeError):
        continue  # cut short by a kill; a resumed run writes it anew
      found['step'].append(step)
      found['loss'].append(loss)
      if score is not None:
        found['validation_step'].append(step)
        found['validation_auroc'].append(score)
  return found
