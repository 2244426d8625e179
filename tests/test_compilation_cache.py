"""The compilation cache: on by default, never against the user's will."""

import os
import subprocess
import sys
import textwrap

import pytest

PROGRAM = textwrap.dedent("""
  import jax, jax.numpy as jnp
  from metaad_jax import devices
  devices.persist()
  jax.jit(lambda x: jnp.sort(jnp.sin(x) @ x))(jnp.ones((64, 64)))
  print(jax.config.jax_compilation_cache_dir)
""")


def run(**environment):
  kept = {k: v for k, v in os.environ.items() if not k.startswith('JAX_C')}
  told = subprocess.run(
    [sys.executable, '-c', PROGRAM],
    env={**kept, **environment},
    capture_output=True,
    text=True,
    check=True,
  )
  return told.stdout.strip()


def test_what_is_compiled_is_kept(tmp_path):
  assert run(XDG_CACHE_HOME=str(tmp_path)) == str(tmp_path / 'metaad_jax')
  assert (tmp_path / 'metaad_jax').is_dir()


def test_another_choice_stays(tmp_path):
  other = tmp_path / 'other'
  told = run(XDG_CACHE_HOME=str(tmp_path), JAX_COMPILATION_CACHE_DIR=str(other))
  assert told == str(other)
  assert not (tmp_path / 'metaad_jax').exists()


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path):
  (tmp_path / 'file').write_text('')
  assert run(XDG_CACHE_HOME=str(tmp_path / 'file')) == 'None'


@pytest.mark.skipif(os.name != 'posix', reason='reads HOME')
def test_the_home_folder_is_the_default(tmp_path):
  environment = {'XDG_CACHE_HOME': '', 'HOME': str(tmp_path)}
  assert run(**environment) == str(tmp_path / '.cache' / 'metaad_jax')
