"""One compilation cache for all tests: workers and subprocesses share it."""

import os
import pathlib
import tempfile

_CACHE = pathlib.Path(tempfile.gettempdir(), f'metaad_jax_tests_{os.getuid()}')

os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(_CACHE))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')
