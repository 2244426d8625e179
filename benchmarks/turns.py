"""The driver's side of a benchmark: workers take turns, A B A B.

A turn that other processes disturb is taken again, some times; what it is told
apart by is the processor time that neither the worker nor this process used.
"""

from collections.abc import Callable, Sequence
import dataclasses
import json
import os
import statistics
import subprocess
import tempfile
import time
from typing import Any

DISTURBED = 0.15  # of a core, used by others during a turn
_AGAIN = 3  # times at most that a disturbed turn is taken again
_PAUSE = 0.7  # seconds before that
_MOST_CALLS = 2000  # of a turn
_LONG = 2.0  # seconds of a call from which on few rounds must do
_FEW = 3


class WorkerError(RuntimeError):
  """A worker that could not start or died, in one line: why."""


class Worker:
  """A persistent process that runs steps when asked to (see `serving`)."""

  def __init__(
    self,
    command: Sequence[str],
    environment: dict[str, str],
    folder: str | None = None,
  ):
    """Starts it in a folder, and waits until it is ready.

    A WorkerError holds the last line that it said; `environment` is added to
    that of this process.
    """
    self._errors = tempfile.TemporaryFile('w+')
    self.process = subprocess.Popen(
      command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
      stderr=self._errors, text=True, env={**os.environ, **environment},
      cwd=folder,
    )  # fmt: skip
    self.info: dict[str, Any] = {}
    try:
      self.info = self._answer()
    except BaseException:
      self.close()
      raise

  def ask(self, line: str) -> dict[str, Any]:
    """Says a line and waits for the answer."""
    try:
      self.process.stdin.write(line + '\n')  # type: ignore[union-attr]
      self.process.stdin.flush()  # type: ignore[union-attr]
    except OSError:
      pass  # it is dead: the answer says why
    return self._answer()

  def run(self, calls: int) -> dict[str, Any]:
    """Seconds of each of some calls, and the peak of memory so far."""
    return self.ask(f'run {calls}')

  def _answer(self):
    line = self.process.stdout.readline()  # type: ignore[union-attr]
    try:
      return json.loads(line)
    except ValueError:
      self.process.kill()
      self.process.wait()
      self._errors.seek(0)
      said = [text.strip() for text in self._errors if text.strip()]
      why = said[-1] if said else f'exit code {self.process.returncode}'
      raise WorkerError(why[:300]) from None

  def seconds(self) -> float:
    """Processor time that it has used so far."""
    try:
      with open(f'/proc/{self.process.pid}/stat') as file:
        fields = file.read().rpartition(')')[2].split()
    except OSError:
      return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')

  def close(self) -> None:
    """Ends it; it is told by its stdin, and killed if it does not listen."""
    self.process.stdin.close()  # type: ignore[union-attr]
    try:
      self.process.wait(10)
    except subprocess.TimeoutExpired:
      self.process.kill()
      self.process.wait()
    self.process.stdout.close()  # type: ignore[union-attr]
    self._errors.close()


def busy() -> float | None:
  """Processor time that all of this machine used, None where unknown."""
  try:
    with open('/proc/stat') as file:
      fields = file.readline().split()
  except OSError:
    return None
  used = (1, 2, 3, 6, 7, 8)  # not idle, not waiting for a disk
  return sum(int(fields[i]) for i in used) / os.sysconf('SC_CLK_TCK')


def foreign(worker: Worker, turn: Callable[[], Any]) -> tuple[Any, float]:
  """What a turn gives, and the cores that others used meanwhile."""
  own = lambda: worker.seconds() + time.process_time()
  before, mine, began = busy(), own(), time.perf_counter()
  answer = turn()
  wall = time.perf_counter() - began
  after = busy()
  if before is None or after is None:
    return answer, 0.0
  # The counters tick every 10 ms: a short turn can be out by a tick or two.
  ticks = 2 / os.sysconf('SC_CLK_TCK')
  return answer, max(0.0, after - before - (own() - mine) - ticks) / wall


@dataclasses.dataclass
class Timed:
  """What was measured of one contender."""

  rounds: list[list[float]]  # seconds of every meta-step, per round
  disturbed: int = 0  # turns that stayed disturbed
  # the last answer: peaks of memory
  said: dict[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def seconds(self) -> list[float]:
    """Of every step of every round."""
    return [second for part in self.rounds for second in part]


def take_turns(
  workers: dict[str, Worker],
  rounds: int,
  seconds: float,
  leave_out: Callable[[str, Any], Any],
  progress: Callable[[], Any] = lambda: None,
  measure: Callable[[Worker, Callable], tuple[Any, float]] = foreign,
) -> dict[str, Timed]:
  """Times all workers, round by round, for as long as they are alive.

  Args:
    workers: by name, ready.
    rounds: turns of each; a worker whose call takes over two seconds gets
      three at most.
    seconds: about how long a turn is; one call at least.
    leave_out: called with the name of a worker that died, and why.
    progress: called after every turn.
    measure: (worker, turn) -> (what it gives, cores that others used).
  """
  calls, most, found = {}, {}, {}
  for name, worker in list(workers.items()):
    try:
      least = min(worker.run(2)['seconds'])
    except WorkerError as error:
      leave_out(name, error)
      continue
    calls[name] = max(1, min(_MOST_CALLS, int(seconds / least)))
    most[name] = rounds if least <= _LONG else min(rounds, _FEW)
    found[name] = Timed([])
  patience = rounds * seconds * len(found)
  for turn in range(rounds):
    for name in list(found):
      timed, worker = found[name], workers[name]
      if turn < most[name]:
        try:
          for again in range(1 + _AGAIN):
            began = time.perf_counter()
            answer, others = measure(
              worker, lambda w=worker, n=calls[name]: w.run(n)
            )
            if others <= DISTURBED or patience <= 0:
              break
            if again < _AGAIN:
              time.sleep(_PAUSE)
              patience -= time.perf_counter() - began
        except WorkerError as error:
          leave_out(name, error)
          del found[name]
          progress()
          continue
        steps = worker.info.get('steps_per_call', 1)
        timed.rounds.append([s / steps for s in answer['seconds']])
        timed.disturbed += others > DISTURBED
        timed.said = answer
      progress()
  return found


def ratio(own: Timed, reference: Timed) -> tuple[float, float, float]:
  """Time over that of the reference: median, least and most of the rounds."""
  each = [
    statistics.median(a) / statistics.median(b)
    for a, b in zip(own.rounds, reference.rounds, strict=False)
  ]
  return statistics.median(each), min(each), max(each)
