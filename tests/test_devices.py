"""Tasks at once, on devices, in processes: always the same training."""

import json
import os
import re
import socket
import subprocess
import sys
import time

import fast
import jax
from jax import export
import jax.numpy as jnp
import numpy as np
import pytest

from metaad_jax import devices, memory
from metaad_jax.base import DataError

# Trains a small MAML on eight tasks a step and prints the parameters, in full.
_PROGRAM = """
import json
import jax, jax.numpy as jnp, numpy as np, optax
from metaad_jax import devices, models
from metaad_jax.base import Rows, Task
from metaad_jax.learners import maml
from metaad_jax.scores import metrics
from metaad_jax.training import loop

def main(use, run_dir, steps):
  def draw(centres, key):
    who, noise = jax.random.split(key)
    x = jax.random.normal(noise, (11, 3))
    x += jnp.asarray(centres)[jax.random.randint(who, (), 0, len(centres))]
    y = (jnp.arange(8) >= 4).astype(jnp.float32)
    x = x.at[7:, 0].add(2.0)
    return Task(
      Rows(x[:3], jnp.zeros(3), jnp.ones(3)), Rows(x[3:], y, jnp.ones(8)),
      jnp.ones(3),
    )

  centres = np.random.default_rng(0).normal(size=(6, 3)).astype('f')
  sample = jax.tree_util.Partial(draw, centres)
  keys = jax.random.split(jax.random.key(5), 8)
  validation = jax.tree.map(
    np.asarray, jax.jit(jax.vmap(lambda k: sample(k)))(keys)
  )
  learner = maml.maml(models.make('mlp:width=8,depth=1'), steps=2)
  settings = loop.Settings(
    steps, tasks=8, seed=7, report_every=5, validate_every=5,
    checkpoint_every=5, devices=jax.devices()[:use] if use else None,
  )
  state = loop.train(
    learner, sample, validation, metrics.masked_auroc, optax.adam(0.05),
    settings, quiet=True, run_dir=run_dir or None,
  )
  flat = [np.asarray(a).ravel() for a in jax.tree.leaves(state.params)]
  print(json.dumps({
    'params': np.concatenate(flat).tolist(), 'step': int(state.step),
    'score': float(state.best_score), 'process': jax.process_index(),
    'devices': len(jax.devices()),
  }))
"""


def _start(code, **environment):
  return subprocess.Popen(
    [sys.executable, '-c', _PROGRAM + code],
    env={**os.environ, 'JAX_PLATFORMS': 'cpu', **environment},
    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
  )  # fmt: skip


def _printed(process):
  out, err = process.communicate(timeout=300)
  assert process.returncode == 0, err[-2000:]
  return [
    json.loads(line)
    for line in out.splitlines()
    if line[:1] in ('{', '[') and not line.startswith('[Gloo]')
  ]


def close(a, b):
  np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope='module')
def alone():
  """Trained on 1 and on 3 devices of one process; means over 1, 2 and 4."""
  return _printed(_start('''
jax.config.update('jax_num_cpu_devices', 4)
devices.TUNING['cpu'] = devices.TUNING['cpu']._replace(tasks_bytes=1)
for use in (1, 3):
  main(use, '', 10)
x = np.random.default_rng(1).normal(size=(24, 300)).astype('f')
for use in (1, 2, 4):
  mesh = devices.mesh(len(x), jax.devices()[:use])
  mine = lambda x: (devices.share(x, mesh),)
  mean = lambda x: devices.mean_over_tasks(lambda task: task, mine(x), 3)
  f = devices.jit(lambda x: devices.mean(mean(x), mesh), mesh)
  print(json.dumps(np.asarray(f(x)).tolist()))
'''))  # fmt: skip


def test_more_devices_train_alike(alone):
  """Three devices that eight tasks do not divide by: one is worked on twice."""
  one, three = alone[:2]
  assert one['devices'] == 4
  close(three['params'], one['params'])
  assert three['score'] == pytest.approx(one['score'], abs=1e-6)
  assert three['params'] != one['params']  # truly shared out


def test_a_mean_over_devices_is_the_mean_up_to_the_order_of_the_sum(alone):
  """The bound that docs/scaling.md gives."""
  x = np.random.default_rng(1).normal(size=(24, 300)).astype('f').astype('f8')
  room = len(x) * 2.0**-23 * abs(x).mean(0)
  for mean in alone[2:]:
    assert (abs(mean - x.mean(0)) <= room).all()


def _start_two(folder, steps):
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  return [
    _start(f'''
jax.config.update('jax_num_cpu_devices', 2)
devices.start(
  0, coordinator='localhost:{port}', processes=2, process={process}
)
main(0, {str(folder)!r}, {steps})
''')
    for process in (0, 1)
  ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
  'killed', [0, pytest.param(1, marks=pytest.mark.nightly)]
)
def test_where_one_process_dies_the_other_ends_in_one_line(killed, tmp_path):
  """Within 30 s, though it waits for what the dead one would send."""
  both = _start_two(tmp_path, 10**7)
  left = both[1 - killed]
  log = tmp_path / 'metrics.jsonl'
  deadline = time.monotonic() + 200
  while not (log.exists() and log.stat().st_size):
    assert time.monotonic() < deadline and left.poll() is None
    time.sleep(0.2)
  both[killed].kill()
  try:
    _, err = left.communicate(timeout=30)
  finally:
    left.kill()
    both[killed].communicate()
  assert left.returncode == 1
  assert err.startswith('error: another of the processes'), err[:2000]
  assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_two_processes_of_two_devices_train_alike_and_keep_one_run(
  alone, tmp_path
):
  together = _start_two(tmp_path, 5)
  first, second = ([*_printed(p)][-1] for p in together)
  assert (first['process'], second['process']) == (0, 1)
  assert first['devices'] == 4 and first['params'] == second['params']
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == [5]
  # One process on one device goes on where the two left off.
  (resumed,) = _printed(_start(f'''
devices.start(1)
main(0, {str(tmp_path)!r}, 10)
'''))  # fmt: skip
  assert resumed['step'] == 10
  close(resumed['params'], alone[0]['params'])


def test_any_number_of_tasks_at_once_gives_the_same_means():
  rng = np.random.default_rng(0)
  x, t = rng.normal(size=(12, 3)), np.arange(12.0)
  function = lambda x, t: {'a': jnp.sin(x) * t, 'b': x.sum()}
  want = {'a': (np.sin(x) * t[:, None]).mean(0), 'b': x.sum(1).mean()}
  with jax.enable_x64(True):
    for at_once in (1, 5, 100, None):
      run = lambda *a, n=at_once: devices.mean_over_tasks(function, a, n)
      means = fast.jit(run)(x, t)
      for name, value in want.items():
        np.testing.assert_allclose(means[name], value, rtol=1e-12)


def test_as_many_at_once_as_fit(monkeypatch):
  """One row computes 4 kB and the sum."""
  function = lambda row: jnp.tanh(row).sum()
  size = memory.footprint(function, jnp.ones(1000))
  assert size == 4 * 1000 + 4
  for room, fit in ((100 * size, 100), (2 * size + 99, 2), (1, 1)):
    cpu = devices.TUNING['cpu']._replace(tasks_bytes=room)
    monkeypatch.setitem(devices.TUNING, 'cpu', cpu)
    assert devices.most(function, jnp.ones(1000)) == fit


def test_an_accelerator_holds_half_of_its_memory(monkeypatch):
  class Device:
    memory_stats = staticmethod(lambda: {'bytes_limit': 1000})

  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  monkeypatch.setattr(jax, 'local_devices', lambda: [Device])
  chain = lambda x: jnp.tanh(jnp.sin(x))
  for number, fit in ((12, 5), (63, 1), (1000, 1)):  # 8 bytes live of each
    assert devices.most(chain, jnp.ones(number)) == fit


def test_the_footprint_counts_every_value_once_and_loops_as_asked():
  x = jnp.ones(1000, jnp.float32)
  chain = lambda x: jnp.tanh(jnp.sin(x))
  assert memory.footprint(chain, x) == 8000
  loop = lambda x: jax.lax.scan(lambda c, _: (chain(c), None), x, length=50)[0]
  assert memory.footprint(loop, x) == 8000
  assert memory.footprint(loop, x, loops=True) == 50 * 8000


def test_what_lives_at_a_time_ends_with_its_last_use():
  x = jnp.ones(1000, jnp.float32)
  double = lambda x: jnp.tanh(jnp.sin(x))  # one comes, one goes
  assert memory.alive(double, x) == 8000
  long = lambda x: jnp.cos(double(double(x)))
  assert memory.alive(long, x) == 8000
  kept = lambda x: (y := jnp.sin(x), jnp.cos(double(y)))
  assert memory.alive(kept, x) == 12_000
  loop = lambda x: jax.lax.scan(lambda c, _: (long(c), None), x, length=50)[0]
  assert memory.alive(loop, x) == 12_000  # its outcome, and its body


def test_a_divisor_is_the_largest_that_fits():
  cases = ((12, 0), (12, 5), (12, 99), (7, 6))
  assert [devices.divisor(*case) for case in cases] == [1, 4, 12, 1]


def test_a_mesh_takes_the_devices_that_are_done_first():
  device = jax.devices()[0]
  for tasks, wanted in ((12, 6), (7, 7), (11, 6), (9, 5), (8, 4), (1, 1)):
    assert devices.mesh(tasks, [device] * 7).size == wanted
  assert devices.mesh(5, [device] * 4).size == 1  # a fifth would be padding
  assert devices.mesh(25, [device] * 2).size == 2
  little = devices.TUNING['cpu'].tasks_bytes - 1
  assert devices.mesh(25, [device] * 2, little).size == 1
  assert devices.mesh(24, [device] * 2, little).size == 2


@pytest.mark.parametrize(
  'tasks, most, wanted', [(12, 5, (12, 5)), (25, 99, (27, 9)), (25, 4, (27, 3))]
)
def test_tasks_that_are_not_even_fill_their_rounds(tasks, most, wanted):
  over = jax.sharding.Mesh(np.asarray([jax.devices()[0]] * 3), ('tasks',))
  weights, at_once = devices.parts(tasks, over, most)
  assert (len(weights), at_once) == wanted
  assert weights.mean() == pytest.approx(1) and not weights[tasks:].any()


def test_processes_that_cannot_share_the_tasks_evenly_are_refused(monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(jax, 'devices', lambda: [None] * 4)
  with pytest.raises(DataError, match='6 tasks.*multiple of 4'):
    devices.mesh(6)


def test_a_process_that_cannot_be_reached_is_named(monkeypatch):
  def fail(*_, **__):
    raise RuntimeError('deadline exceeded\nmore')

  monkeypatch.setattr(jax.distributed, 'initialize', fail)
  monkeypatch.setattr(jax.config, 'update', lambda *_: None)
  with pytest.raises(DataError, match='process 1 of 2 at x:1 .deadline'):
    devices.start(1, coordinator='x:1', processes=2, process=1)


@pytest.mark.parametrize('numbers', [{'processes': 2}, {'process': 0}])
def test_processes_without_a_coordinator_do_not_train_apart(numbers):
  with pytest.raises(DataError, match='--coordinator'):
    devices.start(**numbers)


def test_more_devices_than_cores_are_refused_at_once(monkeypatch):
  monkeypatch.setattr(jax.config, 'update', lambda *_: pytest.fail('made'))
  monkeypatch.setattr(devices, 'cores', lambda: 2)
  for number in (3, 100_000):
    with pytest.raises(DataError, match=f'{number} CPU devices of 2 cores'):
      devices.start(number)


@pytest.mark.parametrize(
  ('name', 'backend', 'expected'),
  [
    ('highest', 'gpu', r'precision = \[HIGHEST, HIGHEST\]'),
    ('highest', 'tpu', r'precision = \[HIGHEST, HIGHEST\]'),
    ('tf32', 'gpu', r'precision = \[HIGH, HIGH\]'),
    ('bf16', 'gpu', r'lhs_precision_type = bf16.*accumulation_type = f32'),
    ('bf16', 'tpu', r'x \[0\] : '),
  ],
)
def test_a_precision_is_what_the_backend_calls_it(
  name, backend, expected, monkeypatch
):
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)

  def product(x):
    with devices.precision(name):
      return x @ x

  platforms = ['cuda' if backend == 'gpu' else backend]
  made = export.export(jax.jit(product), platforms=platforms)(jnp.ones((3, 3)))
  (line,) = re.findall('stablehlo.dot_general.*', made.mlir_module())
  assert re.search(expected, line), line
  devices.check_precision(name)


def test_a_cpu_trains_at_no_other_precision():
  devices.check_precision('highest')
  for name in ('tf32', 'bf16'):
    with pytest.raises(DataError, match=f'{name}.*--precision=highest'):
      devices.check_precision(name)


@pytest.mark.parametrize(('level', 'hushed'), [(None, True), ('0', False)])
def test_what_xla_says_beside_its_errors_stays_off_the_screen(level, hushed):
  """It complains of a folder that cannot be made; and nothing is preallocated.

  Where someone has chosen to see it, it does.
  """
  code = """
import os
from metaad_jax import devices
import jax
devices.share_memory()
print(os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'], jax.jit(abs)(-1.0))
"""
  environment = {
    **os.environ, 'JAX_PLATFORMS': 'cpu', 'JAX_ENABLE_COMPILATION_CACHE': '0',
    'XLA_FLAGS': '--xla_dump_to=/dev/null/x',
  }  # fmt: skip
  environment.pop('TF_CPP_MIN_LOG_LEVEL', None)
  if level is not None:
    environment['TF_CPP_MIN_LOG_LEVEL'] = level
  done = subprocess.run(
    [sys.executable, '-c', code], check=True, capture_output=True, text=True,
    env=environment,
  )  # fmt: skip
  assert done.stdout == 'false 1.0\n'
  assert ('dev/null/x' in done.stderr) is not hushed


# --- the compilation cache: on by default, never against the user's will


@pytest.fixture
def persist(monkeypatch):
  """(environment) -> the folder that is chosen, where `chosen` was before."""

  def run(chosen=None, **environment):
    config = {'jax_compilation_cache_dir': chosen}
    monkeypatch.setattr(jax.config, 'update', config.__setitem__)
    monkeypatch.setattr(type(jax.config), 'values', config, raising=False)
    for name, value in environment.items():
      monkeypatch.setenv(name, str(value))
    devices.persist()
    return config['jax_compilation_cache_dir']

  return run


def test_what_is_compiled_is_kept_below_the_users_cache(persist, tmp_path):
  folder = tmp_path / 'metaad_jax'
  assert persist(XDG_CACHE_HOME=tmp_path) == str(folder) and folder.is_dir()
  home = tmp_path / '.cache' / 'metaad_jax'
  assert persist(XDG_CACHE_HOME='', HOME=tmp_path) == str(home)


def test_another_choice_and_a_folder_that_cannot_be_made_stay(
  persist, tmp_path
):
  assert persist('other', XDG_CACHE_HOME=tmp_path) == 'other'
  assert not list(tmp_path.iterdir())
  file = tmp_path / 'file'
  file.write_text('')
  assert persist(XDG_CACHE_HOME=file) is None
