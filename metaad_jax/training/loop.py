"""Meta-training: one jitted scan over many steps, task sampling included."""

from collections.abc import Callable, Sequence
import contextlib
import errno
import functools
import json
import math
import os
import signal
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from metaad_jax import devices as devices_lib
from metaad_jax import memory, storage
from metaad_jax import signals as signals_lib
from metaad_jax.base import DataError, MetaLearner, Params, Task, Terminated
from metaad_jax.training import programs
from metaad_jax.training import validation as validation_lib
from metaad_jax.training.checkpoints import Checkpoints


class Settings(NamedTuple):
  """How long to train, on how much at once, and what is kept.

  Attributes:
    steps: meta-steps in all.
    tasks: tasks per meta-step.
    seed: of everything random. The key of a step is `fold_in(key(seed), step)`:
      a resumed run draws what the uninterrupted one would have drawn.
    average: weight of the past in the running mean of the meta-parameters
      (Polyak and Juditsky, 1992); less in the first steps, 0 = no mean.
    keep: 'best' keeps the meta-parameters with the best validation score,
      'last' those of the last validation.
    report_every: meta-steps per call to the device, and per line of metrics.
    validate_every: meta-steps between validations; a multiple of the former.
    checkpoint_every: likewise.
    skip_limit: stop after this many updates in a row were not finite.
    at_once: tasks worked on at once; None = chosen, see `devices.most`.
    devices: that share the tasks; None = of all, see `devices.mesh`.
    memory: bytes of temporary memory that a device may use; None = any.
  """

  steps: int
  tasks: int
  seed: int = 0
  average: float = 0.0
  keep: str = 'best'
  report_every: int = 100
  validate_every: int = 500
  checkpoint_every: int = 500
  skip_limit: int = 100
  at_once: int | None = None
  devices: Sequence[jax.Device] | None = None
  memory: int | None = None


class State(NamedTuple):
  """All that training carries from step to step.

  Attributes:
    step: int32, steps done.
    params: the meta-parameters.
    average: their running mean over the steps, which is what is validated.
    optimizer: state of the outer optimizer, skipped steps counted in it.
    best: the running mean to use: the one with the best validation score so
      far, or the last one (see `train`).
    best_score: float32, its score.
    best_step: int32, when it was reached.
  """

  step: jax.Array
  params: Params
  average: Params
  optimizer: Any
  best: Params
  best_score: jax.Array
  best_step: jax.Array


def meta_gradient(
  learner: MetaLearner,
  key: jax.Array,
  params: Params,
  batch: Task,
  at_once: int | None = None,
) -> tuple[Params, dict[str, jax.Array]]:
  """Means over a batch of tasks: of the meta-gradients and of the metrics.

  Args:
    learner: see `MetaLearner`.
    key: split into one for each task.
    params: meta-parameters.
    batch: Task with a leading axis.
    at_once: see `devices.mean_over_tasks`.
  """
  keys = jax.random.split(key, batch.features.shape[0])
  return devices_lib.mean_over_tasks(
    lambda key, task: learner.meta_grad(key, params, task),
    (keys, batch),
    at_once,
  )


def initial_state(
  learner: MetaLearner,
  example: Task,
  optimizer: optax.GradientTransformation,
  seed: int,
  params: Params | None = None,
) -> State:
  """The state before the first step; `example` gives the shapes."""
  make = functools.partial(first_state, learner, example, optimizer, seed)
  options = {**devices_lib.quick(), 'xla_backend_optimization_level': 0}
  return jax.jit(make, compiler_options=options)(params)


def first_state(
  learner: MetaLearner,
  example: Task,
  optimizer: optax.GradientTransformation,
  seed: int,
  params: Params | None = None,
) -> State:
  """`initial_state`, to be traced."""
  if params is None:
    params = learner.init(jax.random.fold_in(jax.random.key(seed), 0), example)
  state = State(
    jnp.zeros((), jnp.int32),
    params,
    params,
    guarded(optimizer).init(params),
    params,
    jnp.asarray(-jnp.inf, jnp.float32),
    jnp.zeros((), jnp.int32),
  )
  return jax.tree.map(jnp.copy, state)  # donated: no buffer may serve twice


def guarded(
  optimizer: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Leaves the parameters alone where an update is not finite; counts it."""
  never = jnp.iinfo(jnp.int32).max
  kept = optax.apply_if_finite(optimizer, max_consecutive_errors=never)
  if devices_lib.tuning().branches:
    return kept

  def update(updates, state, params=None):
    leaves = jax.tree.leaves(updates)
    finite = jnp.stack([jnp.isfinite(u).all() for u in leaves]).all()
    changed, inner = _where(
      finite,
      lambda: optimizer.update(updates, state.inner_state, params),
      (jax.tree.map(jnp.zeros_like, updates), state.inner_state),
    )
    bad = (~finite).astype(jnp.int32)
    return changed, optax.ApplyIfFiniteState(
      notfinite_count=(state.notfinite_count + 1) * bad,
      last_finite=finite,
      total_notfinite=state.total_notfinite + bad,
      inner_state=inner,
    )

  return optax.GradientTransformation(kept.init, update)


def _where(condition, make, otherwise):
  """What `make` gives, or `otherwise`: by a branch, or by throwing it away."""
  if devices_lib.tuning().branches:
    return jax.lax.cond(condition, make, lambda: otherwise)
  choose = lambda new, old: jnp.where(condition, new, old)
  return jax.tree.map(choose, make(), otherwise)


def make_scan(
  learner: MetaLearner,
  optimizer: optax.GradientTransformation,
  example: Task,
  params: Params,
  settings: Settings,
  length: int,
) -> tuple[Callable, jax.sharding.Mesh]:
  """Compiles `length` meta-steps into one call; steps past the last do nothing.

  Args:
    learner: see `MetaLearner`.
    optimizer: any optax transformation.
    example, params: shapes of a task that `sample` draws, and of parameters.
    settings: see `Settings`.
    length: steps per call.

  Returns:
    (state, sample) -> (state, metrics [length]), and the mesh that both are to
    be replicated over. `state` is donated. `sample` is a pytree, so that the
    data it draws from is an argument and no constant.
  """
  tasks, root = settings.tasks, jax.random.key(settings.seed)
  progress = jax.eval_shape(lambda: jnp.int32(0) / settings.steps)
  given = progress, root, params, example
  meta_grad = programs.traced(gradient_at(learner), *given)
  fit = devices_lib.most(meta_grad, *given)
  size = tasks * memory.footprint(meta_grad, *given, loops=True)
  mesh = devices_lib.mesh(tasks, settings.devices, size)
  weights, at_once = devices_lib.parts(tasks, mesh, settings.at_once or fit)

  def mean_gradient(key, step, params, sample):
    progress = step / settings.steps
    draw, adapt = (jax.random.split(k, tasks) for k in jax.random.split(key))

    def one(draw, adapt, weight):
      found = meta_grad(progress, adapt, params, sample(draw))
      if len(weights) == tasks:
        return found
      return jax.tree.map(lambda a: (weight * a).astype(a.dtype), found)

    mine = devices_lib.share((draw, adapt, weights), mesh)
    means = devices_lib.mean_over_tasks(one, mine, at_once)
    return devices_lib.mean(means, mesh)

  advance = _step(guarded(optimizer), mean_gradient, root, settings.average)

  def chunk(state, sample):
    def body(state, _):
      _, shapes = jax.eval_shape(advance, state, sample)
      none = jax.tree.map(lambda m: jnp.full(m.shape, jnp.nan, m.dtype), shapes)
      return _where(
        state.step < settings.steps,
        lambda: advance(state, sample),
        (state, none),
      )

    return jax.lax.scan(body, state, length=length)

  return devices_lib.jit(chunk, mesh, small=fit > 1, donate_argnums=0), mesh


def gradient_at(learner):
  """(progress, key, params, task) -> (grads, metrics)."""
  if learner.at is None:
    return lambda progress, *args: learner.meta_grad(*args)
  return lambda progress, *args: learner.at(progress).meta_grad(*args)


def _step(optimizer, mean_gradient, root, average):
  """One meta-step: (state, sample) -> (state, metrics)."""

  @functools.partial(jax.jit, inline=True)  # traced once
  def advance(state, sample):
    key = jax.random.fold_in(root, state.step + 1)
    grads, metrics = mean_gradient(key, state.step, state.params, sample)
    updates, optimizer_state = optimizer.update(
      grads, state.optimizer, state.params
    )
    params = optax.apply_updates(state.params, updates)
    past = jnp.minimum(average, (1 + state.step) / (10 + state.step))
    mean = jax.tree.map(
      lambda old, new: (past * old + (1 - past) * new).astype(old.dtype),
      state.average,
      params,
    )
    state = state._replace(
      step=state.step + 1,
      params=params,
      average=mean if average else params,
      optimizer=optimizer_state,
    )
    return state, metrics

  return advance


def train(
  learner: MetaLearner,
  sample: Callable[[jax.Array], Task],
  validation: Task,
  quality: validation_lib.Quality,
  optimizer: optax.GradientTransformation,
  settings: Settings,
  *,
  params: Params | None = None,
  run_dir: str | None = None,
  label: str = 'meta-train',
  quiet: bool = False,
  compiler: Callable[..., Any] = make_scan,
) -> State:
  """Meta-trains; resumes where a checkpoint in `run_dir` left off.

  All devices share the tasks; all processes call this, the first writes.

  Args:
    learner, compiler: see `MetaLearner`; `make_scan`, or a planner's.
    sample: key -> Task, a `jax.tree_util.Partial` over its data.
    validation: a batch of tasks of meta-validation entities.
    quality: its mean over `validation` selects the meta-parameters.
    optimizer, settings: any of optax; see `Settings`.
    params: meta-parameters to start from; None = the learner's own.
    run_dir: gets `metrics.jsonl` and `checkpoints/`; None = nothing is kept.
    label, quiet: of the progress bar; that there is none.

  Returns:
    The final state, on one device; `best` holds the meta-parameters to use.

  Raises:
    DataError: if training diverges, or a checkpoint cannot be saved.
    Terminated: if SIGINT, SIGTERM or SIGHUP came, once a checkpoint is saved;
      a second SIGINT kills, but not while it is saved.
  """
  example = programs.first(validation)
  state = initial_state(learner, example, optimizer, settings.seed, params)
  length, total = min(settings.report_every, settings.steps), settings.steps
  drawn = jax.eval_shape(sample, jax.random.key(0))  # no shapes of validation
  given = learner, optimizer, drawn, state.params
  scan, mesh = compiler(*given, settings, length)
  room = settings.memory and settings.memory // 2  # an estimate keeps to it
  validate = validation_lib.make(learner, quality, settings.seed, mesh, room)
  placed = devices_lib.replicate((state, sample, validation), mesh)
  state, sample, validation = placed
  with contextlib.ExitStack() as ending:
    state = (folder := _Folder(run_dir)).resume(state, mesh, ending)
    silent, done = quiet or not devices_lib.first_process(), int(state.step)
    bar = tqdm.tqdm(total=total, initial=done, desc=label, disable=silent)
    ending.callback(bar.close)
    bar.set_postfix_str('compiling')
    while (before := int(state.step)) < total:
      state, line = _report(scan, validate, state, sample, validation, settings)
      bar.update(line['step'] - before)
      bar.set_postfix_str(_shown(line, state))
      folder.write(line)
      _check_finite(state, settings)
      folder.save(before, state, settings)
  return devices_lib.local(state)


def _report(scan, validate, state, sample, validation, settings):
  """One call to the device: the state after it, and its line of metrics."""
  before, started = int(state.step), time.perf_counter()
  state, metrics = scan(state, sample)
  step = int(state.step)
  seconds = time.perf_counter() - started
  done = step - before
  line = {
    'step': step,
    **{k: float(np.asarray(v)[:done].mean()) for k, v in metrics.items()},
    'tasks_per_second': round(done * settings.tasks / seconds, 1),
    'skipped': int(state.optimizer.total_notfinite),
  }
  if step < settings.steps and not _due(before, step, settings.validate_every):
    return state, line
  quality = validate(state.average, validation)
  if settings.keep == 'last' or float(quality) > float(state.best_score):
    best, reached = programs.copied((state.average, state.step))
    state = state._replace(best=best, best_score=quality, best_step=reached)
  return state, line | {'validation': float(quality)}


def _shown(line, state):
  return (
    f'loss {line["loss"]:.4f}, {line["tasks_per_second"]:.0f} tasks/s, '
    f'best validation {float(state.best_score):.4f}'
  )


def _check_finite(state, settings):
  bad = int(state.optimizer.notfinite_count)
  if bad >= min(settings.skip_limit, settings.steps):
    raise DataError(
      f'meta-training diverged: the last {bad} updates before step '
      f'{int(state.step)} were not finite; lower the inner or the outer rate'
    )


class _Folder:
  """What is written while training: nothing, if there is no run folder."""

  def __init__(self, path: str | None = None):
    self.path, self.signals = path, signals_lib.Signals()
    self.lines: Any = None
    self.checkpoints: Checkpoints | None = None

  def resume(self, state, mesh, ending):
    """The newest state in the folder, which is open until `ending`."""
    if self.path is None:
      return state
    self.checkpoints = Checkpoints(os.path.join(self.path, 'checkpoints'))
    ending.callback(self.checkpoints.close)
    newest = self.checkpoints.restore(state)
    if newest is not None:
      step, restored = newest
      state = devices_lib.replicate(programs.copied(restored), mesh)
      self.checkpoints.forget_after(step)
    if devices_lib.first_process():
      path = os.path.join(self.path, 'metrics.jsonl')
      self.lines = _open_log(path, int(state.step))
      ending.callback(self._close)
    self.signals = ending.enter_context(signals_lib.collected())
    return state

  def _close(self):
    with contextlib.suppress(OSError):  # `write` has said so
      self.lines.close()

  def write(self, line):
    """Appends a line of metrics; to a file that is still there, or raises."""
    if self.lines is None:
      return
    strict = {k: v if math.isfinite(v) else None for k, v in line.items()}
    try:
      self.lines.write(json.dumps(strict) + '\n')
      self.lines.flush()
      here = os.stat(self.lines.name)  # a deleted file can be written to
      if not os.path.samestat(here, os.fstat(self.lines.fileno())):
        raise OSError(errno.ESTALE, 'it was replaced')
    except OSError as error:
      raise DataError(
        f'cannot write {self.lines.name} ({error.strerror}): see to the disk '
        'and its room, and give the same command again; it goes on from the '
        'newest checkpoint that is there'
      ) from error

  def save(self, before, state, settings):
    """Saves a checkpoint when one is due, or the process is to end."""
    step = int(state.step)
    last = step >= settings.steps
    stop = devices_lib.any_process(bool(self.signals.came)) and not last
    due = last or _due(before, step, settings.checkpoint_every)
    if self.checkpoints is not None and (stop or due):
      with self.signals.held():
        self.checkpoints.save(step, state)
    if stop:
      number = signal.Signals((self.signals.came or [signal.SIGTERM])[0])
      raise Terminated(
        f'ended by {number.name}; step {step} of {settings.steps} is saved in '
        f'{self.path}, and the same command goes on from there',
        number,
      )


def _due(before, step, every):
  return step // every > before // every


def _open_log(path, step):
  """Opens the log for appending, without the lines a resumed run redoes."""
  kept = []
  if os.path.exists(path):
    with open(path, errors='replace') as lines:
      for line in lines:
        try:
          if json.loads(line)['step'] <= step:
            kept.append(line.rstrip('\n') + '\n')
        except (ValueError, KeyError, TypeError):
          continue
  storage.write_bytes(path, ''.join(kept).encode())
  return open(path, 'a')
