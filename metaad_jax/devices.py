"""Devices, processes and compiling: how the tasks of a batch are shared out.

Learners are written for one task and see nothing of this. What is fastest on
which backend is listed in `TUNING`, and nowhere else.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import ctypes
import functools
import math
import os
import signal
import sys
from typing import Any, NamedTuple, NoReturn
import warnings

import jax
from jax._src import xla_bridge
from jax.experimental import multihost_utils
from jax.flatten_util import ravel_pytree
from jaxlib import utils
import numpy as np

from metaad_jax import memory
from metaad_jax.base import DataError

TASKS = 'tasks'  # the axis of a mesh of devices
# How exact products of float32 are, and what JAX calls that. A CPU has but one.
PRECISIONS = ('highest', 'tf32', 'bf16')
_PRECISION = {
  'gpu': ('highest', 'tensorfloat32', 'BF16_BF16_F32'),
  'tpu': ('highest', 'tensorfloat32', 'bfloat16'),
}
_DEAD = 20  # seconds without a sign of life


class Tuning(NamedTuple):
  """What is fastest on a backend; results differ by rounding at most."""

  # That the tasks under one `vmap` may compute in all, one value after the
  # other: about a tenth of them live at a time, and should fit into a core's
  # cache; None = what lives at a time fits into half of the device's memory.
  tasks_bytes: int | None = None
  # An inner loop that computes less, or of no more steps, becomes a program
  # without a loop: a GPU copies what a loop carries, a third of the time of W2.
  unroll_bytes: int = 1 << 18
  unroll_steps: int = 8
  unroll_layers: int = 32  # likewise of a network's equal layers
  # An inner loop that computes more is recomputed on the way back.
  keep_bytes: int = 1 << 30
  # Steps past the last are skipped by a branch, which a GPU asks its host for;
  # else their outcome is thrown away.
  branches: bool = False
  # Convolutions of fewer input channels multiply gathered taps; others are
  # XLA's own.
  gather_channels: int = 8
  # Inputs to a place from whose moments a normalisation follows, if no more.
  moments: int = 0
  block_elements: int = 1 << 62  # of gathered taps at a time
  # That the detector scores at once, however few are asked for: as many as are
  # no slower a row than more. Fewer where rows x support x columns are more.
  score_rows: int = 1 << 10
  score_elements: int = 1 << 23
  # Compiler options that halve the memory and the time of compiling. XLA's
  # newer emitters of fused operations, which these turn off, make programs of
  # many small operations run up to a fifth faster, and no others.
  options: tuple[tuple[str, Any], ...] = ()


TUNING = {
  'cpu': Tuning(
    tasks_bytes=8 << 20,
    keep_bytes=3 << 27,
    unroll_steps=0,
    unroll_layers=0,
    branches=True,
    moments=16,
    block_elements=1 << 20,
    score_rows=32,
    score_elements=1 << 19,
    options=(
      ('xla_cpu_use_fusion_emitters', False),
      ('xla_backend_optimization_level', 1),
    ),
  ),
  # Few and large kernels, nothing in turn. Chosen by profiles of one H100 and
  # one H200; not measured since.
  'gpu': Tuning(),
  'tpu': Tuning(),
}


def tuning() -> Tuning:
  """What is fastest on the default backend."""
  return TUNING.get(jax.default_backend(), TUNING['gpu'])


def precision(name: str) -> contextlib.AbstractContextManager[None]:
  """A context in which what is traced multiplies float32 in that precision.

  Operands are rounded to 8 (`bf16`) or 11 (`tf32`) significant bits, or not at
  all (`highest`); sums are float32. A TPU has no tf32 and takes three products
  of bf16 for one. A CPU multiplies float32, whatever the name.

  Args:
    name: one of `PRECISIONS`.
  """
  return jax.default_matmul_precision(jax_precision(name))


def jax_precision(name: str) -> str:
  """What JAX calls one of `PRECISIONS` on the default backend."""
  names = _PRECISION.get(jax.default_backend(), ('highest',) * 3)
  return names[PRECISIONS.index(name)]


def check_precision(name: str) -> None:
  """Raises DataError where the default backend has no such precision."""
  if name != 'highest' and jax.default_backend() == 'cpu':
    raise DataError(
      f'precision={name} needs a GPU or a TPU, and this is a CPU, which '
      'multiplies float32 alone: use --precision=highest'
    )


def start(
  devices: int = 0,
  *,
  coordinator: str | None = None,
  processes: int | None = None,
  process: int | None = None,
) -> None:
  """Makes devices of the processor's cores, and joins other processes.

  To be called before anything runs on a device. XLA leaves cores idle on small
  arrays; a device for each core keeps them busy.

  Args:
    devices: CPU devices of this process; 0 = one for every core it may use.
    coordinator: 'host:port' of process 0; 'auto' finds it, and the numbers of
      the processes, where Slurm, a TPU pod, Kubernetes or MPI provide them;
      None = this process works alone.
    processes: how many there are.
    process: which one this is, from 0.

  Raises:
    DataError: if there are fewer cores than devices, other processes cannot be
      reached or have no coordinator, or other devices have been made already.
  """
  if devices > cores():
    raise DataError(
      f'cannot make {devices} CPU devices of {cores()} cores: choose 1 to '
      f'{cores()}, or 0 for all'
    )
  if coordinator is None and (processes, process) != (None, None):
    raise DataError(
      'processes that train together need --coordinator=host:port of process '
      '0, or --coordinator=auto: see docs/scaling.md'
    )
  try:
    jax.config.update('jax_num_cpu_devices', devices or cores())
  except RuntimeError as error:  # something has run: the devices are made
    if devices not in (0, jax.local_device_count()):
      raise DataError(
        f'cannot make {devices} devices: this process has made its '
        f'{jax.local_device_count()} already; start another one'
      ) from error
  if coordinator is None:
    return
  address = None if coordinator == 'auto' else coordinator
  try:
    jax.distributed.initialize(
      address, processes, process, heartbeat_timeout_seconds=_DEAD,
      shutdown_timeout_seconds=_DEAD,
    )  # fmt: skip
  except (ValueError, RuntimeError) as error:
    raise DataError(
      f'cannot join process {process} of {processes} at {coordinator} '
      f'({str(error).splitlines()[0]}): see docs/scaling.md'
    ) from error
  _abort_in_one_line()


def _abort_in_one_line():
  """Where another process is lost, JAX aborts over thirty lines: one instead.

  It does so from a thread of its own, which no exception leaves.
  """
  utils.absl_set_min_log_level(1000)
  ctypes.CDLL(None).signal(signal.SIGABRT, _aborted)


_aborted = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: lost())


def share_memory() -> None:
  """Takes no more of a GPU's memory than is needed, so that others find some.

  JAX would take three quarters of it at its start. Where
  `XLA_PYTHON_CLIENT_PREALLOCATE` is set, it counts. To be called before
  anything runs on a device.
  """
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')


def lost(why: str = 'no sign of life') -> NoReturn:
  """Ends this process, as others that it trained with cannot be reached."""
  os.write(2, (
    'error: another of the processes that train together has ended, or cannot '
    f'be reached ({why}): give all of them the same commands again; they go on '
    'from the newest checkpoint\n'
  ).encode())  # fmt: skip
  os._exit(1)


@contextlib.contextmanager
def together() -> Iterator[None]:
  """Calls `lost` where what all processes compute together fails."""
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if jax.process_count() > 1:
      lost(' '.join(str(error).split())[:100])
    raise


def leave(code: int) -> NoReturn:
  """Ends a process that failed: at once, if others wait for it."""
  if jax.distributed.is_initialized():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  sys.exit(code)


def cores() -> int:
  """Cores this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def check_fork() -> None:
  """Raises DataError in a forked process, where JAX would wait for ever."""
  if _forked:
    raise DataError(
      'this process was forked from one that had used JAX, whose threads stay '
      "behind: start it with multiprocessing.get_context('spawn'), or joblib"
    )


def _after_fork():
  global _forked
  _forked = _forked or xla_bridge.backends_are_initialized()


_forked = False
if hasattr(os, 'register_at_fork'):
  os.register_at_fork(after_in_child=_after_fork)


def first_process() -> bool:
  """Whether this is the process that writes files and shows progress."""
  return jax.process_index() == 0


def any_process(value: bool) -> bool:
  """Whether a value is true in any process; all of them have to ask."""
  if jax.process_count() == 1:
    return value
  with together():
    return bool(multihost_utils.process_allgather(np.asarray(value)).any())


def wait(what: str) -> None:
  """Waits until all processes are here."""
  if jax.process_count() > 1:
    with together():
      multihost_utils.sync_global_devices(what)


def divisor(number: int, most: int) -> int:
  """The largest divisor of `number` that is at most `most`, or 1."""
  few = range(min(number, most), 1, -1)
  return next((c for c in few if number % c == 0), 1)


def mesh(
  tasks: int,
  devices: Sequence[jax.Device] | None = None,
  size: float = math.inf,
) -> jax.sharding.Mesh:
  """A mesh with the axis `TASKS` of devices that finish `tasks` soonest.

  They are as many as share the tasks evenly, or more where `parts` adds an
  eighth at most and the tasks are worth it.

  Args:
    tasks: how many.
    devices: to choose from; None = all, those of other processes too, where
      tasks that cannot be shared out evenly raise DataError.
    size: bytes that all tasks compute, see `memory.footprint`.
  """
  chosen = list(jax.devices() if devices is None else devices)
  each = -(-tasks // len(chosen))
  count = -(-tasks // each)
  small = size < (tuning().tasks_bytes or 0)
  if small or 8 * (count * each - tasks) > tasks:
    count = divisor(tasks, len(chosen))
  if tasks % len(chosen) and jax.process_count() > 1 and devices is None:
    raise DataError(
      f'{tasks} tasks do not divide evenly over {len(chosen)} devices of '
      f'{jax.process_count()} processes: give a multiple of {len(chosen)}'
    )
  return jax.sharding.Mesh(np.asarray(chosen[:count]), (TASKS,))


def replicate(tree: Any, over: jax.sharding.Mesh) -> Any:
  """The same arrays on every device of a mesh, those of other processes too."""
  everywhere = jax.sharding.NamedSharding(over, jax.sharding.PartitionSpec())

  def put(leaf):
    here = getattr(leaf, 'is_fully_addressable', False)
    if here and jax.process_count() > 1:
      leaf = np.asarray(leaf)
    return jax.device_put(leaf, everywhere)

  return jax.tree.map(put, tree)


def local(tree: Any) -> Any:
  """Replicated arrays as arrays on the first device of this process."""
  device = jax.local_devices()[0]
  one = lambda a: jax.device_put(a.addressable_data(0), device)
  return jax.tree.map(one, tree)


@functools.cache
def quick() -> dict[str, Any]:
  """Compiler options that halve the memory and the time of compiling."""
  options = dict(tuning().options)
  try:
    jax.jit(lambda: 0, compiler_options=options).lower().compile()
  except jax.errors.JaxRuntimeError:  # another version of XLA
    return {}
  return options


def jit(
  function: Callable[..., Any],
  over: jax.sharding.Mesh,
  small: bool = False,
  **options: Any,
) -> Any:
  """Compiles a function that every device runs on the same arguments.

  Inside, `share` gives a device its tasks and `mean` averages over devices.
  Where there is a device for every core, no operation is split among cores.

  Args:
    function: of replicated arrays, to replicated arrays.
    over: the devices.
    small: made of small operations and run often: compiled with care.
    **options: of `jax.jit`.
  """
  compiler = dict(quick())
  if small:
    compiler.pop('xla_cpu_use_fusion_emitters', None)
  if over.size == 1:
    return jax.jit(function, compiler_options=compiler, **options)
  same = jax.sharding.PartitionSpec()
  shared = jax.shard_map(
    function, mesh=over, in_specs=same, out_specs=same, check_vma=False
  )
  if over.devices[0].platform == 'cpu':
    compiler['xla_cpu_multi_thread_eigen'] = False
  return jax.jit(shared, compiler_options=compiler, **options)


def parts(
  tasks: int, over: jax.sharding.Mesh, most: int
) -> tuple[np.ndarray, int]:
  """Weights of the tasks, for `share`, and how many to work on at once.

  Where `tasks` cannot be shared out evenly, the first come again at the end,
  and weigh nothing there; the mean of the weights is 1.
  """
  each = -(-tasks // over.size)
  if each * over.size > tasks:
    rounds = -(-each // most)
    most = -(-each // rounds)
    each = rounds * most
  weights = np.zeros(each * over.size, np.float32)
  weights[:tasks] = len(weights) / tasks
  return weights, most


def share(tree: Any, over: jax.sharding.Mesh) -> Any:
  """This device's part of arrays [T, ...]: [T / devices, ...].

  Arrays shorter than the longest begin again.
  """
  if over.size == 1:
    return tree
  longest = max(map(len, jax.tree.leaves(tree)))

  def part(leaf):
    if len(leaf) < longest:
      leaf = leaf[np.arange(longest) % len(leaf)]
    size = longest // over.size
    first = jax.lax.axis_index(TASKS) * size
    return jax.lax.dynamic_slice_in_dim(leaf, first, size)

  return jax.tree.map(part, tree)


def mean(tree: Any, over: jax.sharding.Mesh) -> Any:
  """Mean over the devices of a mesh: one array sent, not many."""
  if over.size == 1:
    return tree
  flat, back = ravel_pytree(tree)
  return back(jax.lax.pmean(flat, TASKS))


def mean_over_tasks(
  function: Callable[..., Any], arguments: Any, at_once: int | None = None
) -> Any:
  """Mean of a function's values over tasks, some worked on at once.

  Args:
    function: of the arguments of one task -> a pytree of arrays.
    arguments: a tuple of pytrees of arrays [T, ...].
    at_once: tasks under one `vmap`, the others after them; None = chosen by
      the size of what one task computes, and by the backend.
  """
  tasks = len(jax.tree.leaves(arguments)[0])
  function = jax.jit(function, inline=True)  # traced once for all that follows
  first = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)
  if at_once is None:
    at_once = most(function, *first(arguments))
  size = divisor(tasks, at_once)

  def average(*chunk):
    if size == 1 < tasks:
      return function(*first(chunk))
    values = jax.vmap(function)(*chunk)
    return jax.tree.map(lambda leaf: leaf.mean(0), values)

  if size == tasks:
    return average(*arguments)
  import optax  # an exported detector does without

  every = range(len(arguments))
  how = optax.microbatching.AccumulationType.MEAN
  return optax.microbatching.microbatch(average, every, size, how)(*arguments)


def most(function: Callable[..., Any], *arguments: Any) -> int:
  """How many tasks are worked on at once, at least 1; arguments of one."""
  size: Callable[..., int] = memory.footprint
  room = tuning().tasks_bytes
  if room is None:
    stats = jax.local_devices()[0].memory_stats() or {}
    room, size = stats.get('bytes_limit', 8 << 30) // 2, memory.alive
  return max(1, room // max(size(function, *arguments), 1))


def persist() -> None:
  """Keeps what is compiled below the user's cache folder, for later processes.

  The folder is `$XDG_CACHE_HOME/metaad_jax` or `~/.cache/metaad_jax`. Another
  folder (`JAX_COMPILATION_CACHE_DIR`, or `jax.config`) stays; where the folder
  cannot be written to, nothing is kept. From now on there is a `cache_folder`.
  """
  global _persists
  _persists = True
  if jax.config.values.get('jax_compilation_cache_dir') is not None:
    return
  if (folder := cache_folder()) is not None:
    # A full disk only makes it compile again.
    warnings.filterwarnings('ignore', '.*persistent compilation cache')
    jax.config.update('jax_compilation_cache_dir', folder)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)


_persists = False


def cache_folder() -> str | None:
  """The user's own, made if need be; None = this process keeps nothing."""
  if not _persists:
    return None
  home = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  folder = os.path.join(home, 'metaad_jax')
  try:
    os.makedirs(folder, exist_ok=True)
  except OSError:
    return None
  return folder if os.access(folder, os.W_OK) else None
