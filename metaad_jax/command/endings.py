"""How a program ends: with an exit code, and one line for what went wrong.

0 is success, 1 bad data or a missing file, 2 a wrong command line, 3 alarms
where that was asked for, 141 nobody reads any more, and 128 + the number of the
signal that ended it. What else is raised is a bug and keeps its traceback.
"""

from collections.abc import Iterator
import contextlib
import os
import re
import shlex
import signal
import sys
from typing import NoReturn

from metaad_jax import devices
from metaad_jax.base import DataError, Terminated

ALARMS = 3
NOBODY_READS = 128 + signal.SIGPIPE
_FLAG = re.compile(r'(--(?:features|ignore|label)=)([^;]+?)(?=;|$|, or | if )')


class UsageError(ValueError):
  """A wrong command line, in one line: what is wrong and what is right."""


@contextlib.contextmanager
def told() -> Iterator[None]:
  """Ends the program where what is inside fails in a way that it may."""
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, 'reconfigure'):  # a terminal that knows ASCII alone
      stream.reconfigure(errors='backslashreplace')
  try:
    try:
      yield
    finally:
      if sys.stdout is not None:
        sys.stdout.flush()
  except UsageError as error:
    fail(f'{error} (--help shows the flags)', 2)
  except BrokenPipeError:
    nobody_reads()
    sys.exit(NOBODY_READS)
  except (DataError, OSError) as error:
    fail(error, 1)
  except KeyboardInterrupt:
    fail('interrupted', 130)
  except Terminated as error:  # so have the others: they wait for each other
    _tell(error)
    sys.exit(128 + error.number)


def nobody_reads() -> None:
  """Lets what is still to be printed go nowhere, and not fail."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail(message: object, code: int) -> NoReturn:
  """Ends with a code and one line on standard error."""
  _tell(message)
  devices.leave(code)


def _tell(message):
  line = ' '.join(str(message).split())
  print('error:', pasteable(line), file=sys.stderr)


def pasteable(line: str) -> str:
  """A line whose flags go through a shell, whatever columns are called.

  Example:
    >>> pasteable('to make it one, --features=Flow (gal)')
    "to make it one, --features='Flow (gal)'"
  """
  return _FLAG.sub(lambda found: found[1] + _quoted(found[2]), line)


def _quoted(name):
  name = f'"{name}"' if ',' in name else name
  return name if re.fullmatch(r'[\w.*%+:/-]+', name) else shlex.quote(name)
