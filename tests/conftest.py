"""What all tests share: a compilation cache, signals that are not ignored."""

import os
import pathlib
import signal
import tempfile

_CACHE = pathlib.Path(tempfile.gettempdir(), f'metaad_jax_tests_{os.getuid()}')

os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(_CACHE))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')

# Under nohup SIGHUP is ignored, behind a shell's & SIGINT: runs keep to that.
for _number, _handler in (
  (signal.SIGHUP, signal.SIG_DFL),
  (signal.SIGINT, signal.default_int_handler),
):
  if signal.getsignal(_number) == signal.SIG_IGN:
    signal.signal(_number, _handler)
