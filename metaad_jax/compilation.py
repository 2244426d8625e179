"""Compiled once, kept: JAX's persistent compilation cache, on by default."""

import os

import jax


def persist() -> None:
  """Keeps what is compiled below the user's cache folder, for later processes.

  The folder is `$XDG_CACHE_HOME/metaad_jax` or `~/.cache/metaad_jax`. Whoever
  has chosen another (`JAX_COMPILATION_CACHE_DIR`, or `jax.config`) or has
  turned the cache off (`JAX_ENABLE_COMPILATION_CACHE=0`) keeps that; where the
  folder cannot be written to, nothing is kept.
  """
  if jax.config.values.get('jax_compilation_cache_dir') is not None:
    return
  home = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  folder = os.path.join(home, 'metaad_jax')
  try:
    os.makedirs(folder, exist_ok=True)
  except OSError:
    return
  if os.access(folder, os.W_OK):
    jax.config.update('jax_compilation_cache_dir', folder)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
