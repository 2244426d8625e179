"""The compilation cache: on by default, never against the user's will."""

import os

import jax
import pytest

from metaad_jax import devices


@pytest.fixture
def persist(monkeypatch):
  """(environment) -> the folder that is chosen, where `chosen` was before."""

  def run(chosen=None, **environment):
    config = {'jax_compilation_cache_dir': chosen}
    monkeypatch.setattr(jax.config, 'update', config.__setitem__)
    monkeypatch.setattr(type(jax.config), 'values', config, raising=False)
    for name, value in environment.items():
      monkeypatch.setenv(name, value)
    devices.persist()
    return config['jax_compilation_cache_dir']

  return run


def test_what_is_compiled_is_kept(persist, tmp_path):
  folder = tmp_path / 'metaad_jax'
  assert persist(XDG_CACHE_HOME=str(tmp_path)) == str(folder)
  assert folder.is_dir()


def test_another_choice_stays(persist, tmp_path):
  assert persist('other', XDG_CACHE_HOME=str(tmp_path)) == 'other'
  assert not (tmp_path / 'metaad_jax').exists()


def test_a_folder_that_cannot_be_made_is_no_error(persist, tmp_path):
  (tmp_path / 'file').write_text('')
  assert persist(XDG_CACHE_HOME=str(tmp_path / 'file')) is None


@pytest.mark.skipif(os.name != 'posix', reason='reads HOME')
def test_the_home_folder_is_the_default(persist, tmp_path):
  folder = persist(XDG_CACHE_HOME='', HOME=str(tmp_path))
  assert folder == str(tmp_path / '.cache' / 'metaad_jax')
