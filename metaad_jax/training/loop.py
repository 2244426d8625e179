"""Meta-training: one jitted scan over many steps, task sampling included."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import functools
import json
import math
import os
import signal
import threading
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import tqdm

from metaad_jax import devices as devices_lib
from metaad_jax import storage
from metaad_jax.base import DataError, MetaLearner, Params, Task, Terminated
from metaad_jax.training.checkpoints import Checkpoints

Quality = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


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
    at_once: see `parallel.mean_over_tasks`.
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
  if params is None:
    key = jax.random.fold_in(jax.random.key(seed), 0)
    params = jax.jit(learner.init)(key, example)
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
  return optax.apply_if_finite(optimizer, max_consecutive_errors=never)


def make_scan(
  learner: MetaLearner,
  optimizer: optax.GradientTransformation,
  example: Task,
  params: Params,
  *,
  seed: int,
  steps: int,
  tasks: int,
  length: int,
  average: float = 0.0,
  at_once: int | None = None,
  devices: Sequence[jax.Device] | None = None,
) -> Callable[[State, Callable], tuple[State, dict[str, jax.Array]]]:
  """Compiles `length` meta-steps into one call; steps past the last do nothing.

  The key of a step is `fold_in(key(seed), step)`: a resumed run draws what the
  uninterrupted one would have drawn.

  Args:
    learner: see `MetaLearner`.
    optimizer: any optax transformation.
    example: a task; its shapes, and those of
    params: the meta-parameters, say how much a task computes.
    seed: of everything random.
    steps: the last step.
    tasks: tasks per step.
    length: steps per call.
    average: weight of the past in the running mean of the meta-parameters
      (Polyak and Juditsky, 1992); less in the first steps, 0 = no mean.
    at_once: tasks worked on at once; None = chosen, see `parallel.most`.
    devices: that share the tasks; None = as many of all as divide them evenly.

  Returns:
    (state, sample) -> (state, metrics [length]); `state` is donated. `sample`
    is a pytree, so that the data it draws from is an argument and no constant.
    Both are to be on all the devices: see `parallel.replicate`.
  """
  outer = guarded(optimizer)
  root = jax.random.key(seed)
  meta_grad = jax.jit(learner.meta_grad, inline=True)  # traced once
  fit = devices_lib.most(
    devices_lib.footprint(meta_grad, root, params, example)
  )
  at_once = at_once or fit
  mesh = devices_lib.mesh(tasks, devices)

  def mean_gradient(key, params, sample):
    draw, adapt = jax.random.split(key)
    keys = jax.random.split(draw, tasks), jax.random.split(adapt, tasks)

    def one(draw, adapt):
      return meta_grad(adapt, params, sample(draw))

    mine = devices_lib.share(keys, mesh)
    found = devices_lib.mean_over_tasks(one, mine, at_once)
    return devices_lib.mean(found, mesh)

  @functools.partial(jax.jit, inline=True)  # traced once
  def advance(state, sample):
    key = jax.random.fold_in(root, state.step + 1)
    grads, metrics = mean_gradient(key, state.params, sample)
    updates, optimizer_state = outer.update(
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

  def chunk(state, sample):
    def body(state, _):
      idle = jax.eval_shape(lambda s: advance(s, sample)[1], state)
      rest = lambda s: (
        s,
        jax.tree.map(lambda m: jnp.full(m.shape, jnp.nan, m.dtype), idle),
      )
      return jax.lax.cond(
        state.step < steps, lambda s: advance(s, sample), rest, state
      )

    return jax.lax.scan(body, state, length=length)

  return devices_lib.jit(chunk, mesh, small=fit > 1, donate_argnums=0)


def scores_of(
  learner: MetaLearner, key: jax.Array, params: Params, batch: Task
) -> jax.Array:
  """Adapts to every task of a batch and scores its queries: [T, N]."""
  keys = jax.random.split(key, batch.features.shape[0])
  one = lambda key, task: _adapted_score(learner, key, params, task)
  return jax.vmap(one)(keys, batch)


def _adapted_score(learner, key, params, task):
  adapted = learner.adapt(key, params, task.support, task.features)
  return learner.score(adapted, task.query.x)


def train(
  learner: MetaLearner,
  sample: Callable[[jax.Array], Task],
  validation: Task,
  quality: Quality,
  *,
  optimizer: optax.GradientTransformation,
  steps: int,
  tasks: int,
  params: Params | None = None,
  seed: int = 0,
  average: float = 0.0,
  keep: str = 'best',
  report_every: int = 100,
  validate_every: int = 500,
  checkpoint_every: int = 500,
  run_dir: str | None = None,
  label: str = 'meta-train',
  quiet: bool = False,
  skip_limit: int = 100,
  at_once: int | None = None,
  devices: Sequence[jax.Device] | None = None,
) -> State:
  """Meta-trains; resumes where a checkpoint in `run_dir` left off.

  The tasks of a step are shared among devices, those of other processes too;
  all processes call this alike, and the first one writes.

  Args:
    learner: see `MetaLearner`.
    sample: key -> Task, a `jax.tree_util.Partial` over its data.
    validation: a batch of tasks of meta-validation entities.
    quality: (scores [N], y [N], mask [N]) -> scalar, higher = better; its mean
      over `validation` selects the meta-parameters.
    optimizer: any optax transformation.
    steps: meta-steps in all.
    tasks: tasks per meta-step.
    params: meta-parameters to start from; None = the learner's own.
    seed: of everything random.
    average: see `make_scan`.
    keep: 'best' keeps the meta-parameters with the best validation score,
      'last' those of the last validation.
    report_every: meta-steps per call to the device, and per line of metrics.
    validate_every: meta-steps between validations; a multiple of the former.
    checkpoint_every: likewise.
    run_dir: gets `metrics.jsonl` and `checkpoints/`; None = nothing is kept.
    label: of the progress bar.
    quiet: no progress bar.
    skip_limit: stop after this many updates in a row were not finite.
    at_once: tasks worked on at once; None = chosen, see `parallel`.
    devices: that share the tasks; None = as many of all as divide them evenly.

  Returns:
    The final state, on one device; `best` holds the meta-parameters to use.

  Raises:
    DataError: if training diverges, or a checkpoint cannot be saved.
    Terminated: if SIGTERM came; with a `run_dir` it is heard at the next
      report, and a checkpoint is saved then. A second one kills.
  """
  skip_limit = min(skip_limit, steps)
  example = jax.tree.map(lambda leaf: leaf[0], validation)
  state = initial_state(learner, example, optimizer, seed, params)
  scan = make_scan(
    learner,
    optimizer,
    example,
    state.params,
    seed=seed,
    steps=steps,
    tasks=tasks,
    length=min(report_every, steps),
    average=average,
    at_once=at_once,
    devices=devices,
  )
  mesh = devices_lib.mesh(tasks, devices)

  def validate(params, validation):
    size = len(validation.features)
    shared = mesh if size % mesh.size == 0 else alone
    key = jax.random.fold_in(jax.random.key(seed), 2**31 - 1)
    keys = jax.random.split(key, size)

    def one(key, task):
      score = _adapted_score(learner, key, params, task)
      return quality(score, task.query.y, task.query.mask)

    mine = devices_lib.share((keys, validation), shared)
    return devices_lib.mean(jax.vmap(one)(*mine).mean(), shared)

  alone = jax.sharding.Mesh(mesh.devices[:1], mesh.axis_names)
  validate = devices_lib.jit(validate, mesh)
  sample, validation = devices_lib.replicate((sample, validation), mesh)
  state = devices_lib.replicate(state, mesh)
  checkpoints = log = None
  writes = devices_lib.first_process()
  if run_dir is not None:
    checkpoints = Checkpoints(os.path.join(run_dir, 'checkpoints'))
    found = checkpoints.restore(state)
    if found is not None:
      state = devices_lib.replicate(jax.tree.map(jnp.copy, found[1]), mesh)
      checkpoints.forget_after(found[0])
    if writes:
      log = _open_log(os.path.join(run_dir, 'metrics.jsonl'), int(state.step))
  bar = tqdm.tqdm(
    total=steps,
    initial=int(state.step),
    desc=label,
    disable=quiet or not writes,
  )
  ending = contextlib.ExitStack()
  came = ending.enter_context(_terminations()) if checkpoints else []
  try:
    while (before := int(state.step)) < steps:
      started = time.perf_counter()
      state, metrics = scan(state, sample)
      step = int(state.step)
      seconds = time.perf_counter() - started
      done = step - before
      line = {
        'step': step,
        **{k: float(v[:done].mean()) for k, v in metrics.items()},
        'tasks_per_second': round(done * tasks / seconds, 1),
        'skipped': int(state.optimizer.total_notfinite),
      }
      last = step >= steps
      if last or _due(before, step, validate_every):
        score = validate(state.average, validation)
        line['validation'] = float(score)
        if keep == 'last' or score > state.best_score:
          state = state._replace(
            best=jax.tree.map(jnp.copy, state.average),
            best_score=score,
            best_step=jnp.copy(state.step),
          )
      bar.update(done)
      bar.set_postfix_str(
        f'loss {line["loss"]:.4f}, {line["tasks_per_second"]:.0f} tasks/s, '
        f'best validation {float(state.best_score):.4f}'
      )
      if log is not None:
        _write(log, json.dumps(_strict(line)) + '\n')
      if (bad := int(state.optimizer.notfinite_count)) >= skip_limit:
        raise DataError(
          f'meta-training diverged: the last {bad} updates before step {step} '
          'were not finite; lower the inner or the outer rate'
        )
      stop = devices_lib.any_process(bool(came)) and not last
      if checkpoints is not None and (
        stop or last or _due(before, step, checkpoint_every)
      ):
        checkpoints.save(step, state)
      if stop:
        raise Terminated(
          f'terminated; step {step} of {steps} is saved in {run_dir}, and the '
          'same command goes on from there'
        )
  finally:
    ending.close()
    bar.close()
    if log is not None:
      with contextlib.suppress(OSError):  # told where it was written
        log.close()
    if checkpoints is not None:
      checkpoints.close()
  return devices_lib.local(state)


@contextlib.contextmanager
def _terminations() -> Iterator[list[int]]:
  """Collects SIGTERM instead of dying; a second one kills."""
  came: list[int] = []
  if threading.current_thread() is not threading.main_thread():
    yield came
    return

  def heard(number, frame):
    del frame
    came.append(number)
    signal.signal(number, signal.SIG_DFL)

  before = signal.signal(signal.SIGTERM, heard)
  try:
    yield came
  finally:
    signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _due(before, step, every):
  return step // every > before // every


def _write(log, text):
  try:
    log.write(text)
    log.flush()
  except OSError as error:
    raise DataError(
      f'cannot write {log.name} ({error.strerror}): make room, and give the '
      'same command again; it goes on from the newest checkpoint'
    ) from error


def _strict(line):
  return {k: v if math.isfinite(v) else None for k, v in line.items()}


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
