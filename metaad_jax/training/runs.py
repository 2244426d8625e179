"""A run: trained into its folder, and rebuilt from it.

A run directory holds `config.json` (flags, versions, code, seed, the shape of
a row), `metrics.jsonl`, and `checkpoints/`. A model file (`exports`) is a run
without its history, in one file; the package ships two, called `shipped` and
`unverified`, the latter for supports with rows that nobody checked.
"""

import contextlib
import dataclasses
import json
import os
from typing import Any, NamedTuple

import jax
import numpy as np

from metaad_jax import devices, features, memory, specs, storage
from metaad_jax.base import DataError, Entity, MetaLearner, Params
from metaad_jax.data import (
  audits,
  classes,
  episodes,
  simulated,
  splitting,
  synthetic_tables,
)
from metaad_jax.learners import standardized
from metaad_jax.scores import conformal, metrics
from metaad_jax.scores.conformal import Calibration
from metaad_jax.training import (
  checkpoints,
  loop,
  model_files,
  planner,
  plugins,
  records,
)
from metaad_jax.training import setup as setup_lib
from metaad_jax.training.setup import Config, Layout, Setup, resolve

# Names of the model files of the package, as run directories.
SHIPPED, UNVERIFIED, THOROUGH = 'shipped', 'unverified', 'thorough'
_FOLDER = os.path.join(os.path.dirname(devices.__file__), 'shipped')
_SHIPPED, _UNVERIFIED, _THOROUGH = (
  os.path.join(_FOLDER, f'{name}.npz')
  for name in ('tables', UNVERIFIED, THOROUGH)
)
CALIBRATION = 'calibration.npz'  # in a run directory


class Data(NamedTuple):
  """A source, read, split and turned into features.

  Attributes:
    entities: featurized, by side.
    raw: as they were read, by side.
    layout: of the raw rows.
  """

  entities: dict[str, list[Entity]]
  raw: dict[str, list[Entity]]
  layout: Layout


class Run(NamedTuple):
  """A trained run, ready to adapt.

  Attributes:
    name: of the learner.
    setup: of the run, at the layout of its rows.
    params: the meta-parameters.
    step: when they were reached.
    seen: digests of the entities that it was trained and validated on.
    calibration: of its scores.
  """

  name: str
  setup: Setup
  params: Params
  step: int
  seen: frozenset[str] = frozenset()
  calibration: Calibration | None = None

  @property
  def config(self) -> Config:
    return self.setup.config

  @property
  def layout(self) -> Layout:
    return self.setup.layout

  @property
  def learner(self) -> MetaLearner:
    return self.setup.learner

  @property
  def prior(self) -> standardized.Prior | None:
    """Of the columns; None where the model takes rows of any width."""
    return None if self.setup.any_width else self.params['prior']


def load_data(config: Config | Setup, data_dir: str | None) -> Data:
  """Reads the source, splits it by entity, and computes the features."""
  setup = resolve(config)
  everyone = setup.load(data_dir)
  raw = setup.split(everyone)
  layout = setup_lib.layout_of(setup.source, setup.source_options, everyone)
  if setup.any_width and len(layout.shape) == 1:
    layout = Layout()
  feature = setup.feature_of(layout)
  done = {
    side: _featurized(setup, members, feature, layout)
    for side, members in raw.items()
  }
  return Data(done, raw, layout)


def _featurized(setup, members, feature, layout):
  """Of simulated entities, from disk (see `simulated`)."""
  make = lambda: setup.featurize(members, feature)
  source = setup.source
  if not (source.code and layout.shape):
    return make()
  names = [entity.name for entity in members]
  what = [source.name, setup.source_options, setup.feature_specs, layout, names]
  return simulated.kept(what, (*source.code, features.__name__), make)


def fold_names(config: Config | Setup, data_dir: str | None) -> list[str]:
  """All folds of a source: by name where it has names, else by number."""
  setup = resolve(config)
  return splitting.fold_names(setup.load(data_dir), setup.config.folds)


def prior_of(
  entities: list[Entity], pooled: bool = False
) -> standardized.Prior:
  """What the training side says of the columns; `pooled` = of all as one."""
  if pooled:
    entities = [
      dataclasses.replace(e, normal=e.normal[..., None]) for e in entities
    ]
  return standardized.Prior(
    *jax.device_put(episodes.column_statistics(entities))
  )


def samplers(setup: Setup, data: Data):
  """The samplers of the training and of the validation side.

  Args:
    setup: at the layout of the data.
    data: of its source.

  Returns:
    Two `jax.tree_util.Partial`s, key -> Task.
  """
  episode, partial = setup.episode, jax.tree_util.Partial
  if isinstance(episode, classes.Episode):
    of = lambda pool, key: classes.sampler(pool, episode)(key)
    sides = data.entities['train'], data.entities['validation']
    return tuple(partial(of, classes.pool(side, episode)) for side in sides)
  pools = {
    side: episodes.pool(data.entities[side]) for side in ('train', 'validation')
  }
  sample = lambda pools, key: episodes.from_pools(pools, episode)(key)
  augmented = lambda pools, key: synthetic_tables.sampler(pools, episode)(key)
  train = partial(augmented if setup.any_width else sample, pools['train'])
  if setup.config.stream:
    fleet = {'machines', 'test_machines', 'windows', 'queries', 'seed'}
    options = setup.source_options.items()
    static = {k: v for k, v in options if k not in fleet}
    simulate = setup.source.generate
    assert simulate is not None  # `resolve` has checked it
    generate = lambda *args: simulate(*args, **static)
    train = partial(
      episodes.from_simulator(generate, setup.feature.apply, episode)
    )
  return train, partial(sample, pools['validation'])


def train(
  config: Config | Setup,
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
      holds another run, or that another process is training in.
  """
  setup = resolve(config)
  with contextlib.ExitStack() as ending:
    if run_dir is not None and devices.first_process():
      ending.enter_context(storage.locked(run_dir))
    data = data or load_data(setup, data_dir)
    devices.check_precision(setup.config.precision)
    ending.enter_context(devices.together())
    return _train(setup, data, run_dir, quiet)


def _train(setup, data, run_dir, quiet):
  _audit(setup, data)
  prior = None
  if not setup.any_width:
    prior = prior_of(data.entities['train'], setup.pooled)
  setup = setup.at(data.layout, prior)
  sample, validation = _tasks(setup, data)
  params, seen = _start(setup, data)
  if run_dir is not None:
    if devices.first_process():
      records.open_run(run_dir, setup, seen)
    devices.wait('run folder')
  wanted, compiler = setup.config, loop.make_scan
  if budget := memory.budget(wanted.memory):
    compiler = planner.make_scan(setup.thrifty, quiet)
  return loop.train(
    setup.learner,
    sample,
    validation,
    metrics.masked_accuracy if wanted.way else metrics.masked_auroc,
    setup.optimizer,
    loop.Settings(
      steps=wanted.steps,
      tasks=wanted.tasks,
      seed=wanted.seed,
      average=wanted.average,
      keep=wanted.keep,
      validate_every=wanted.validate_every,
      checkpoint_every=wanted.validate_every,
      report_every=min(wanted.validate_every, max(100, wanted.steps // 200)),
      memory=budget,
    ),
    params=params,
    run_dir=run_dir,
    label=setup.name,
    quiet=quiet,
    compiler=compiler,
  )


def _audit(setup, data):
  if setup.config.fold != 'none':  # its validation side is trained on
    audits.sides(data.raw)
  if not setup.source.code:  # rows that are drawn are no copies
    audits.shared_rows(data.raw['train'] + data.raw['validation'])
  for side in () if setup.config.way else ('train', 'validation'):
    audits.enough_anomalies(data.raw[side], setup.config.anomalies, side)


def _tasks(setup, data):
  """The sampler of the training side, and a batch of validation tasks."""
  sample, sample_validation = samplers(setup, data)
  config = setup.config

  @jax.jit
  def keys():  # apart, as with another seed only this is another program
    root = jax.random.fold_in(jax.random.key(config.seed), 2**31 - 2)
    return jax.random.split(root, config.validation_tasks)

  draw = jax.jit(lambda keys, f: jax.vmap(f)(keys))
  return sample, draw(keys(), sample_validation)


def _start(setup, data):
  """Meta-parameters to start from, if not new ones, and the entities seen."""
  members = data.raw['train'] + data.raw['validation']
  seen = {audits.digest(entity) for entity in members}
  if not setup.config.start:
    return None, sorted(seen)
  started = restore(setup.config.start)
  audits.unseen(data.raw['test'], started.seen)
  if specs.parse(started.setup.model)[0] == specs.parse(setup.model)[0]:
    params = _taken_over(started, _shapes(setup))
  else:
    key = jax.random.fold_in(jax.random.key(setup.config.seed), 0)
    fresh = jax.jit(setup.learner.init)(key, setup.example())
    params = records.grown(records.flatten(started.params), fresh)
  return params, sorted(seen | started.seen)


def file_of(run_dir: str) -> str:
  """What a name of the package's own stands for."""
  files = {
    SHIPPED: _SHIPPED, UNVERIFIED: _UNVERIFIED, THOROUGH: _THOROUGH
  }  # fmt: skip
  return files.get(run_dir, run_dir)


def restore(run_dir: str, **overrides: Any) -> Run:
  """Rebuilds a run from its folder, with its best meta-parameters.

  Args:
    run_dir: of a run that has at least one checkpoint; or a model file
      (.npz, see `exports.export`); or 'shipped', 'unverified' or 'thorough',
      those of this package.
    **overrides: `precision`, and options of the learner, in place of the
      run's, such as `adapt_steps`.

  Returns:
    The run.

  Raises:
    DataError: if the folder is no run, is damaged, or has no checkpoint yet;
      if the file is missing, damaged or of another version.
  """
  file = file_of(run_dir)
  if file.endswith('.npz') and not os.path.isdir(file):
    arrays, content = storage.load(file)
    return unpack(arrays, content, file, **overrides)
  content = records.read(run_dir)
  path = os.path.join(run_dir, 'config.json')
  missing = plugins.missing(content.get('plugins', ()))
  setup = _resolved(content, path, overrides, missing)
  params, step = _best(run_dir, setup)
  file, arrays = os.path.join(run_dir, CALIBRATION), {}
  if os.path.exists(file):
    arrays, _ = storage.load(file)
  return _run(setup, params, step, content, arrays, file)


def unpack(
  arrays: dict[str, np.ndarray], content: dict, file: str, **overrides: Any
) -> Run:
  """The inverse of `pack`; `file` says in messages where it comes from.

  Raises:
    DataError: if it is damaged, or of another version.
  """
  try:
    model_files.check(arrays, content)
  except DataError as error:
    raise DataError(f'{file} is no model file, or damaged: {error}') from error
  needed = content.get('plugins', ())
  if needed:
    plugins.load_installed()
  missing = [
    f'load the plugin {name!r}'
    for name in needed
    if name not in plugins.loaded()
  ]  # a file from a stranger has nothing imported
  setup = _resolved(content, file, overrides, missing)
  if file in (_SHIPPED, _UNVERIFIED, _THOROUGH) and not overrides:
    params = records.nested(arrays)  # a test compares it with `unflatten`
  else:
    params = records.unflatten(arrays, _shapes(setup), file)
  return _run(setup, params, content.get('step', 0), content, arrays, file)


def _run(setup, params, step, content, arrays, file):
  try:
    calibrated = conformal.from_arrays(arrays)
  except DataError as error:
    raise DataError(f'{file}: {error}') from error
  seen = frozenset(content.get('seen', ()))
  return Run(setup.name, setup, params, int(step), seen, calibrated)


def _resolved(content, path, overrides, missing):
  """The setup of what a config.json or a model file holds."""
  try:
    config, layout = records.settings(content)
    precision = overrides.pop('precision', config.precision)
    config = dataclasses.replace(config, precision=precision)
    return resolve(config, **overrides).at(layout)
  except DataError as error:
    raise DataError('; '.join([f'{path}: {error}', *missing])) from error
  except (KeyError, TypeError, AttributeError, ValueError) as error:
    raise DataError(
      f'{path} is damaged or of another version: {error!r}'
    ) from error


def _shapes(setup):
  """Shapes of the meta-parameters."""
  init = lambda: setup.learner.init(jax.random.key(0), setup.example())
  return jax.eval_shape(init)


def fine_tuned(run: Run, spec: str) -> Run:
  """Another learner that starts from the meta-parameters of a run.

  Args:
    run: see `restore`.
    spec: of a learner that suits the run's model, such as
      'tables_maml:adapt_steps=5,rate=0.01'.

  Returns:
    The run, named by the spec.

  Raises:
    DataError: if the spec is wrong, or its parameters are of another shape.
  """
  config = dataclasses.replace(run.config, learner=spec, model=run.setup.model)
  setup = resolve(config).at(run.layout)
  params = _taken_over(run, _shapes(setup))
  return run._replace(name=spec, setup=setup, params=params)


def _taken_over(run, like):
  """The meta-parameters of a run, for another learner of the same model."""
  what = f'the run of {run.config.learner!r} that was to start from'
  return records.unflatten(records.flatten(run.params), like, what)


def _best(run_dir, setup):
  """The best meta-parameters of a run folder, and their step."""
  like = jax.eval_shape(
    lambda: loop.first_state(
      setup.learner, setup.example(), setup.optimizer, setup.config.seed
    )
  )
  folder = os.path.join(run_dir, 'checkpoints')
  newest = None
  if os.path.isdir(folder):
    kept = checkpoints.Checkpoints(folder)
    try:
      newest = kept.restore(like)
    finally:
      kept.close()
  if newest is None:
    raise DataError(
      f'{run_dir} has no checkpoint yet: let the training run go on'
    )
  _, state = newest
  return state.best, int(state.best_step)


def pack(run: Run) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """The arrays and the meta data of a run's model file."""
  meta = {
    'name': run.name,
    'config': dataclasses.asdict(run.config),
    'layout': run.layout._asdict(),
    'step': run.step,
    'trained_on': run.config.source,
    'seen': sorted(run.seen),
    'plugins': plugins.loaded(),
    'versions': records.versions(),
    'code': records.code_version(),
  }
  meta = json.loads(json.dumps(meta))  # as a file gives it back
  arrays = jax.tree.map(np.asarray, records.flatten(run.params))
  if run.calibration is not None:
    arrays |= conformal.to_arrays(run.calibration)
  return arrays, meta
