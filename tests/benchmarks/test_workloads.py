"""The benchmark's workloads: the same gradient by every way, counted FLOPs."""

import dataclasses
import functools
import importlib
import importlib.util

import fast
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import (
  flops,
  lowering,
  peers,
  serving,
  training_worker,
  workloads,
)
from benchmarks.peers import plain_jax
from metaad_jax.training import loop

SMALL = {
  name: dataclasses.replace(workloads.WORKLOADS[name], sizes=sizes, **options)
  for name, sizes, options in (
    ('W1', (1, 5, 5, 1), {}),
    ('W2', (6, 5, 5, 1), {}),
    ('W3', (1, 4, 4, 4, 1), {'length': 64}),
    ('W4', (1, 4, 4, 5), {'query': 10, 'length': 7}),
    ('W5', (3, 4, 4, 4, 4, 4, 1), {'support': 6, 'query': 5}),
  )
}
EVERY = pytest.mark.parametrize('name', sorted(SMALL))


@pytest.fixture
def small(monkeypatch):
  """Small workloads in float64, compiled without most optimisations."""
  for name, workload in SMALL.items():
    monkeypatch.setitem(workloads.WORKLOADS, name, workload)
  jax.config.update('jax_disable_most_optimizations', True)
  with jax.enable_x64(True):
    yield
  jax.config.update('jax_disable_most_optimizations', False)


def job_of(name, **options):
  steps = 2 if name in ('W1', 'W2') else 1  # convolutions take long to compile
  return serving.Job(
    name, inner_steps=steps, tasks=2, dtype='float64', **options
  )


def gradient_of(function, job):
  batch = workloads.batch(job.sized, job.tasks, job.dtype)
  return workloads.flat(function(job, batch))


@functools.cache
def reference(name):
  """Plain JAX's gradient of a small workload."""
  return gradient_of(plain_jax.gradient, job_of(name))


def agree(found, expected):
  error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
  assert error < 1e-12, error


@pytest.mark.parametrize(
  ('name', 'mode', 'at_once'),
  [
    ('W2', 'remat', 2),
    ('W3', 'mixed', 0),
    ('W4', 'auto', 1),
    ('W5', 'mixed,blocks=remat', 2),
  ],
)
def test_every_mode_gives_the_gradient_of_plain_jax(name, mode, at_once, small):
  expected = reference(name)
  assert np.isfinite(expected).all() and np.linalg.norm(expected) > 1e-3
  job = job_of(name, learner=f'maml:mode={mode}', at_once=at_once)
  agree(gradient_of(training_worker.gradient, job), expected)


@pytest.mark.parametrize('name', ['W2', 'W4', 'W5'])
def test_the_choices_of_a_gpu_give_the_same_gradient(name, small):
  expected = reference(name)
  with lowering.tuned('gpu'):
    agree(gradient_of(training_worker.gradient, job_of(name)), expected)


@pytest.mark.parametrize(
  ('name', 'backend'),
  [('W1', 'gpu'), ('W3', 'tpu'), ('W4', 'gpu'), ('W5', 'gpu')],
)
def test_an_accelerator_is_asked_for_few_large_kernels(name, backend, small):
  """A step there, lowered: no branch, no loop but over the steps and where keys
  are drawn, no grouped convolution, nothing multiplied twice."""
  job = job_of(name)
  told = lowering.of_step(job, backend)
  assert told['convolution'] == told['case'] == 0 and told['while'] < 3
  least = workloads.minimal_flops(job.sized, 'maml', job.inner_steps, 2) / 1e9
  assert least <= told['gflop'] < 1.3 * least


@pytest.mark.slow
@pytest.mark.skipif(
  jax.default_backend() != 'cpu', reason='what XLA plans differs by backend'
)
def test_what_is_computed_anew_is_not_kept(monkeypatch):
  """Plain, recomputed steps, mixed, mixed with recomputed blocks."""
  deep = dataclasses.replace(
    workloads.WORKLOADS['W5'], sizes=(8, *(16,) * 25, 1), support=512, query=64
  )
  monkeypatch.setitem(workloads.WORKLOADS, 'W5', deep)

  def planned(options):
    job = serving.Job('W5', inner_steps=3, tasks=1, learner=f'maml:{options}')
    learner = training_worker.learner(deep, job.learner, job.inner_steps)
    batch = training_worker.tasks(workloads.batch(deep, job.tasks))
    params = training_worker.to_network(deep, workloads.parameters(deep))
    lowered = jax.jit(loop.meta_gradient, static_argnums=0).lower(
      learner, jax.random.key(0), params, batch
    )
    return lowered.compile().memory_analysis().temp_size_in_bytes

  modes = ('reverse', 'remat', 'mixed', 'mixed,blocks=remat')
  plain, steps, mixed, blocks = (planned(f'mode={mode}') for mode in modes)
  assert steps < 0.5 * plain
  assert mixed < 0.8 * steps
  assert blocks < 0.9 * mixed


@pytest.mark.parametrize('name', ['W1', 'W4'])
def test_plain_jax_is_the_derivative_of_its_loss(name, small):
  """Central differences along the gradient itself."""
  job = job_of(name)
  batch = workloads.batch(job.sized, job.tasks, job.dtype)
  layers = workloads.parameters(job.sized, job.dtype)
  grads = plain_jax.gradient(job, batch)
  size = np.linalg.norm(workloads.flat(grads))
  along = lambda h: jax.tree.map(lambda p, g: p + h * g / size, layers, grads)
  loss = fast.jit(lambda h: plain_jax.meta_loss(job, along(h), batch))
  slope = (loss(1e-6) - loss(-1e-6)) / 2e-6
  np.testing.assert_allclose(slope, size, rtol=1e-5)


CASES = [
  (library, algorithm, name)
  for library, peer in peers.REGISTRY.items()
  for algorithm in peer.learners
  for name in (sorted(SMALL) if algorithm == 'maml' else ['W4'])
  if 'torch' in peer.needs
]


@pytest.mark.parametrize(('library', 'algorithm', 'name'), CASES)
def test_the_torch_peers_give_the_same_gradient(
  library, algorithm, name, small
):
  peer = peers.REGISTRY[library]
  if peer.missing():
    pytest.skip(peer.missing())
  if library == 'torch.compile':
    pytest.skip('compiles for minutes')
  torch_serving = importlib.import_module('benchmarks.peers.torch_serving')
  job = job_of(name, learner=algorithm)
  module = importlib.import_module(peer.module)
  contender = torch_serving.contender(module.make, job)
  batch = workloads.batch(job.sized, job.tasks, job.dtype)
  ours = training_worker.gradient
  expected = reference(name) if algorithm == 'maml' else gradient_of(ours, job)
  agree(workloads.flat(contender.gradient(batch)), expected)


def test_a_compiled_step_counts_no_less_than_the_minimum(small):
  job = job_of('W2')._replace(dtype='float32')
  step, info = training_worker.start(job)
  step()
  least = workloads.minimal_flops(job.sized, 'maml', job.inner_steps, 2) / 1e9
  assert least <= info['gflop'] < 2 * least
  assert 1 <= info['steps_per_call'] == training_worker.steps_per_call(job)
  assert info['compile_seconds'] > 0 and info['temp_mib'] > 0


# --- data --------------------------------------------------------------------


@EVERY
def test_batches_have_the_sizes_of_the_workload(name):
  workload = workloads.WORKLOADS[name]
  batch = workloads.batch(workload, 3)
  assert batch.support_x.shape[:2] == (3, workload.support)
  assert batch.query_x.shape[:2] == batch.query_y.shape == (3, workload.query)
  assert batch.support_x.dtype == batch.query_y.dtype == np.float32
  again, other = (workloads.batch(workload, 3, seed=seed) for seed in (1, 2))
  assert (again.query_x == batch.query_x).all()
  assert (other.query_x != batch.query_x).any()
  if workload.loss == 'cross_entropy':
    assert set(batch.support_y[0]) == set(range(5))
    assert set(np.unique(batch.query_y, return_counts=True)[1]) == {45}
  elif workload.loss == 'bce':
    assert set(np.unique(batch.query_y)) == {0, 1}


def test_hidden_layers_get_wider():
  wide = workloads.WORKLOADS['W2'].wider(0.5)
  assert wide.sizes == (64, 64, 64, 1) and wide.wider(1e-9).sizes[1:3] == (1, 1)


# --- FLOPs -------------------------------------------------------------------


def test_minimal_flops_by_hand():
  """One hidden layer of 2 on 3 columns, 1 task, 1 + 1 rows, one step."""
  workload = workloads.Workload('mlp', (3, 2, 1), 1, 1, 1, 0.1, 'squared_error')
  # Gradient: y 12 + 4; dW 12 + 4; dx 4 of the second layer.
  gradient = 12 + 4 + 12 + 4 + 4
  # Tangents: ty = x v: 12, and tx W + x v: 8; tdW = x' tdy: 12, and two: 8;
  # tdx of the second layer, two: 8.
  product = 12 + 8 + 12 + 8 + 8
  minimal = lambda *case: workloads.minimal_flops(workload, *case)
  assert minimal('maml', 1, 1) == 2 * gradient + product
  assert minimal('maml', 3, 5) == 5 * (4 * gradient + 3 * product)
  assert minimal('fomaml', 1, 1) == 2 * gradient
  assert minimal('reptile', 3, 1) == 6 * gradient


def test_minimal_flops_of_the_workloads():
  """Layer by layer: outputs x taps x inputs, a product and a sum each."""
  layers = {name: workloads.layer_flops(w) for name, w in SMALL.items()}
  assert layers['W1'] == [2 * 5, 2 * 5 * 5, 2 * 5]
  assert layers['W3'] == [2 * 32 * 7 * 4, 2 * 16 * 28 * 4, 2 * 8 * 28 * 4, 8]
  assert layers['W4'] == [2 * 49 * 9 * 4, 2 * 9 * 36 * 4, 2 * 4 * 5]


def test_what_plain_jax_computes_is_the_minimum(monkeypatch):
  """JAX keeps what it has computed: the products counted are the formula's.

  Two tasks of two rows and more in every dimension, so that no product is
  written as a sum; the first layer's input gets no gradient.
  """
  loss = 'cross_entropy'
  workload = workloads.Workload('mlp', (3, 4, 5, 2), 2, 3, 4, 0.1, loss)
  monkeypatch.setitem(workloads.WORKLOADS, 'tiny', workload)
  job = serving.Job('tiny', inner_steps=3, tasks=2)
  batch = workloads.batch(dataclasses.replace(workload, loss='bce'), 2)
  lowered = jax.jit(jax.grad(lambda p: plain_jax.meta_loss(job, p, batch)))
  counted = flops.products(lowered.lower(workloads.parameters(workload)))
  assert counted == workloads.minimal_flops(workload, 'maml', 3, 2)


def test_loops_branches_and_convolutions_are_multiplied_out():
  def powers(x):
    body = lambda c, _: (jnp.tanh(c @ c), None)
    long = lambda x: jax.lax.scan(body, x, length=10)[0].sum()
    return jax.lax.cond(x[0, 0] > 0, long, lambda x: jnp.zeros(()), x)

  x = jnp.ones((6, 6))
  count = lambda f, *args: flops.products(jax.jit(f).lower(*args))
  assert count(powers, x) == 10 * 2 * 6**3
  assert count(jax.grad(powers), x) == 3 * 10 * 2 * 6**3
  twice = lambda x: jax.lax.map(powers, jnp.stack([x, x]))
  assert count(twice, x) == 2 * 10 * 2 * 6**3
  batched = lambda a, b: jnp.einsum('bijk,bkl->bijl', a, b)
  a, b = jnp.ones((5, 3, 4, 7)), jnp.ones((5, 7, 6))
  assert count(batched, a, b) == 2 * 5 * 3 * 4 * 7 * 6
  same = lambda x, k: jax.lax.conv(x, k, (1, 1), 'SAME')
  image, kernel = jnp.ones((2, 3, 8, 8)), jnp.ones((4, 3, 3, 5))
  assert count(same, image, kernel) == 2 * (2 * 4 * 64) * (3 * 15)
