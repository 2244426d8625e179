"""A benchmark's worker that runs this library (see `serving`).

What is timed is what `experiments.train` runs: learner, model and objective of
the library, tasks drawn by key inside one jitted scan, Adam outside.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import jax_serving, serving, workloads
from metaad_jax import devices as devices_lib
from metaad_jax import learners, memory, models, specs
from metaad_jax.base import MetaLearner, Rows, Task
from metaad_jax.learners import objectives
from metaad_jax.models import conv1d, conv4, mlp, residual
from metaad_jax.training import loop, planner

LEARNERS = (
  'maml', 'fomaml', 'reptile', 'anil', 'meta_sgd', 'imaml', 'protonet'
)  # fmt: skip

# FLOPs that a call may hold, so that it is neither all dispatch nor too long.
_PER_CALL = {'cpu': 4e9}
_PER_CALL_ELSEWHERE = 1e12
_MOST_STEPS = 100


def network(workload: workloads.Workload, remat: bool = False):
  """(outputs) -> network: the workload's, whatever outputs are asked for."""
  width, depth = workload.sizes[1], len(workload.sizes) - 2
  if workload.network == 'mlp':
    model = mlp.mlp(width=width, depth=depth)
  elif workload.network == 'conv1d':
    taps, stride = workload.taps, workload.stride
    model = conv1d.conv1d(
      channels=width, layers=depth, taps=taps, stride=stride, spread=False
    )
  elif workload.network == 'residual':
    model = residual.residual(width=width, blocks=(depth - 1) // 2, remat=remat)
  else:
    model = conv4.conv4(channels=width, layers=depth)
  return models.adapt(model)


def learner(
  workload: workloads.Workload, spec: str, inner_steps: int
) -> MetaLearner:
  """'maml:mode=remat' with the workload's network, loss and inner rate.

  Of a residual network `blocks=remat` computes the blocks anew, too.
  """
  name, options = specs.parse(spec)
  blocks = options.pop('blocks', None)
  outputs = workload.sizes[-1]
  if name == 'protonet':
    options = {'embedding': outputs, **options}
  else:
    options = {'steps': inner_steps, 'rate': workload.rate, **options}
  text = ','.join(f'{key}={value}' for key, value in options.items())
  return learners.make(
    f'{name}:{text}',
    network(workload, blocks == 'remat'),
    loss=getattr(objectives, workload.loss),
    outputs=outputs,
  )


def ways(job: serving.Job) -> dict[str, MetaLearner]:
  """The learner in ways that need less memory, as `setup.resolve` has them."""
  name, options = specs.parse(job.learner)
  told, found = [], {}

  def add(option):
    told.append(option)
    spec = job.learner
    for one in told:
      spec = specs.with_option(spec, one)
    found[', '.join(told)] = learner(job.sized, spec, job.inner_steps)

  if learners.chooses_mode(name, options):
    add('mode=mixed')
  if job.sized.network == 'residual' and 'blocks' not in options:
    add('blocks=remat')
  return found


def to_network(
  workload: workloads.Workload, layers: workloads.Parameters
) -> dict:
  """Parameters as the network has them: those of residual blocks stacked."""
  if workload.network != 'residual':
    return {'params': layers}
  blocks = [a for name, a in layers.items() if name.startswith('Block_')]
  stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *blocks)
  rest = {name: a for name, a in layers.items() if name.startswith('Dense_')}
  return {'params': {**rest, **stacked}}


def placed(job: serving.Job, start: dict) -> dict:
  """A learner's first meta-parameters, those of the network as the workload has
  them; distances are summed over the columns, as in other libraries, not
  averaged."""
  params = to_network(job.sized, workloads.parameters(job.sized, job.dtype))
  if 'network' not in start:
    return params
  if 'rates' in start:
    full = lambda leaf: jnp.full_like(leaf, job.sized.rate)
    start['rates'] = jax.tree.map(full, params)
  if 'log_sharpness' in start:
    start['log_sharpness'] += jnp.log(job.sized.sizes[-1])
  return {**start, 'network': params}


def from_network(params: dict, layers: workloads.Parameters) -> dict:
  """The inverse of `to_network` and `placed`; layers in any order."""
  held = params.get('network', params)['params']
  return {
    name: held[name]
    if name in held
    else {key: held[key][int(name.removeprefix('Block_'))] for key in layer}
    for name, layer in layers.items()
  }


def tasks(batch: workloads.Batch) -> Task:
  """A batch as the library has it: every row and column is real."""
  rows = lambda x, y: Rows(x, y, np.ones_like(y))
  x = batch.support_x
  features: Any = np.ones((len(x), x.shape[-1]), x.dtype)
  support, query = rows(x, batch.support_y), rows(batch.query_x, batch.query_y)
  return Task(support, query, features)


def draw(pool: Task, key: jax.Array) -> Task:
  """One task of the pool, any."""
  place = jax.random.bits(key, dtype=jnp.uint32) % len(pool.features)
  return jax.tree.map(lambda leaf: leaf[place], pool)


def gradient(job: serving.Job, batch: workloads.Batch) -> workloads.Parameters:
  """The mean meta-gradient of a batch, at the workload's parameters."""
  made = learner(job.sized, job.learner, job.inner_steps)
  layers = workloads.parameters(job.sized, job.dtype)
  given = tasks(batch)
  example = jax.tree.map(lambda leaf: leaf[0], given)
  params = placed(job, jax.jit(made.init)(jax.random.key(0), example))
  found, _ = jax.jit(loop.meta_gradient, static_argnums=(0, 4))(
    made, jax.random.key(0), params, given, job.at_once or None
  )
  return jax_serving.ordered(from_network(found, layers), layers)


def steps_per_call(job: serving.Job) -> int:
  """How many meta-steps one call to the device holds."""
  least = workloads.minimal_flops(job.sized, 'maml', job.inner_steps, job.tasks)
  assert least
  most = _PER_CALL.get(job.platform, _PER_CALL_ELSEWHERE)
  return max(1, min(_MOST_STEPS, int(most / least)))


def prepared(job: serving.Job):
  """What is timed: (scan, its arguments, meta-steps in it), not compiled."""
  made = learner(job.sized, job.learner, job.inner_steps)
  batches = workloads.batches(job.sized, job.tasks, job.dtype)
  pool = tasks(
    workloads.Batch(*map(np.concatenate, zip(*batches, strict=True)))
  )
  sample = jax.tree_util.Partial(draw, pool)
  length = steps_per_call(job)
  adam = optax.adam(1e-3)
  example = jax.tree.map(lambda leaf: leaf[0], pool)
  state = loop.initial_state(made, example, adam, 0)
  params = placed(job, state.params)
  copy = lambda: jax.tree.map(
    lambda old, new: np.array(new, old.dtype), state.params, params
  )
  state = state._replace(params=copy(), average=copy(), best=copy())
  devices = jax.devices()[: job.devices] if job.devices else None
  settings = loop.Settings(
    2**30, job.tasks, at_once=job.at_once or None, devices=devices,
    memory=memory.budget(job.memory),
  )  # fmt: skip
  compiler = planner.make_scan(ways(job)) if job.memory else loop.make_scan
  scan, mesh = compiler(made, adam, example, state.params, settings, length)
  return scan, devices_lib.replicate((state, sample), mesh), length


def start(job: serving.Job):
  """Compiles many meta-steps into one call; returns it and what XLA says."""
  scan, (state, sample), length = prepared(job)
  compiled, info = jax_serving.compile_steps(scan, length, state, sample)
  held = [state]

  def step():
    held[0], metrics = compiled(held[0], sample)
    jax.block_until_ready((held[0].params, metrics))

  devices = len(state.step.devices())
  plan = str(scan.chosen) if job.memory else None
  return step, {**info, 'devices': devices, 'plan': plan}


def make(job: serving.Job) -> serving.Contender:
  """See `serving.Contender`."""
  devices_lib.start(job.devices)
  return jax_serving.contender(job, gradient, start)


if __name__ == '__main__':
  serving.serve(make)
