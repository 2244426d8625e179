"""Signals that end a process once its work is safe, instead of at once."""

from collections.abc import Iterator
import contextlib
import signal
import threading

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
  """Those that came; while `held`, none of them kills."""

  def __init__(self) -> None:
    self.came: list[int] = []
    self._held = False

  def _heard(self, number, frame):
    del frame
    self.came.append(number)
    self._arm()

  def _arm(self):
    """A second Ctrl-C kills, even within a call that takes minutes."""
    if signal.SIGINT in self.came:
      kills = signal.SIG_IGN if self._held else signal.SIG_DFL
      signal.signal(signal.SIGINT, kills)

  @contextlib.contextmanager
  def held(self) -> Iterator[None]:
    """For what must not be cut short, such as saving."""
    self._held = True
    self._arm()
    try:
      yield
    finally:
      self._held = False
      self._arm()


@contextlib.contextmanager
def collected() -> Iterator[Signals]:
  """Collects SIGINT, SIGTERM and SIGHUP; those that are ignored stay so.

  As nohup and a shell's & ignore them. Outside of the main thread nothing is
  collected.
  """
  signals = Signals()
  before = {}
  if threading.current_thread() is threading.main_thread():
    for number in ENDING:
      if signal.getsignal(number) != signal.SIG_IGN:
        before[number] = signal.signal(number, signals._heard)
  try:
    yield signals
  finally:
    for number, handler in before.items():
      signal.signal(number, handler or signal.SIG_DFL)
