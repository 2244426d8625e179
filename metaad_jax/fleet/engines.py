"""The pieces of a long file, judged here or by the workers of a cluster."""

import collections
from collections.abc import Iterable, Iterator
import contextlib
import os
import threading
from typing import Any

from metaad_jax.base import DataError
from metaad_jax.fleet import tally
from metaad_jax.fleet.detector import FleetDetector
from metaad_jax.fleet.pieces import Piece
from metaad_jax.fleet.tally import Found

NAMES = 'local', 'dask'  # or the address of a scheduler of Dask
_AHEAD = 2  # pieces that are under way, for each thread of a worker
_opened = threading.local()


def judged(model: str, pieces: Iterable[Piece], engine: str) -> Iterator[Found]:
  """Judges pieces, in their order.

  Args:
    model: file of a fleet; it and the pieces' files can be read by workers.
    pieces: see `pieces.of`.
    engine: 'local', in this process; 'dask', in a process for each core; or an
      address such as tcp://host:8786. A piece whose worker is lost is judged
      again by another.

  Raises:
    DataError: for another engine, or one that is not installed or not there.
  """
  if engine == 'local':
    for piece in pieces:
      yield _judge(model, piece)
    return
  if engine not in NAMES and '://' not in engine:
    raise DataError(
      f'--engine={engine}: choose local, dask, or tcp://host:8786'
    )
  with _client(engine) as client:
    waiting: collections.deque[Any] = collections.deque()
    for piece in pieces:
      waiting.append(client.submit(_judge, model, piece, pure=False))
      if len(waiting) >= _AHEAD * max(1, sum(client.nthreads().values())):
        yield _result(waiting.popleft())
    while waiting:
      yield _result(waiting.popleft())


def _result(future):
  import distributed

  try:
    return future.result()
  except distributed.KilledWorker as error:
    raise DataError(
      f'workers end while they judge ({error}): give them more memory'
    ) from error


def _judge(model: str, piece: Piece) -> Found:
  """In a worker; the fleet stays open for the next piece."""
  stamp = model, os.stat(model).st_mtime_ns
  if getattr(_opened, 'stamp', None) != stamp:
    _opened.fleet, _opened.stamp = FleetDetector.load(model), stamp
  return tally.judge(_opened.fleet, piece)


@contextlib.contextmanager
def _client(engine):
  try:
    import distributed
  except ImportError as error:
    raise DataError(
      'Dask is not installed: pip install "metaad_jax[cluster]"'
    ) from error
  try:
    if engine != 'dask':
      client = distributed.Client(engine)
    else:
      client = distributed.Client(threads_per_worker=1, dashboard_address=None)
  except (OSError, ValueError) as error:
    raise DataError(f'there is no scheduler at {engine}: {error}') from error
  with client:
    yield client
