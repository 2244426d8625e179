"""Modules outside the package that add to its registries when imported.

A plugin is named on the command line (`--plugin=my_module`), or announced by an
installed package in its pyproject.toml:

  [project.entry-points.'metaad_jax.plugins']
  mine = 'my_package.my_module'

A run records the plugins that were loaded when it was trained.
"""

from collections.abc import Iterable
import importlib
import importlib.metadata

from metaad_jax.base import DataError

GROUP = 'metaad_jax.plugins'
_loaded: dict[str, None] = {}


def load(names: Iterable[str]) -> None:
  """Imports the modules of that name, each once.

  Raises:
    DataError: if one is not there or fails.
  """
  for name in names:
    try:
      importlib.import_module(name)
    except Exception as error:  # a plugin may raise anything
      raise DataError(
        f'plugin {name!r} cannot be imported '
        f'({type(error).__name__}: {error}): install it, '
        'or put its folder on PYTHONPATH'
      ) from error
    _loaded[name] = None


def load_installed() -> None:
  """Imports what installed packages announce; see `load`."""
  load(entry.module for entry in importlib.metadata.entry_points(group=GROUP))


def loaded() -> list[str]:
  """Names of the plugins that were loaded, in that order."""
  return list(_loaded)


def missing(names: Iterable[str]) -> list[str]:
  """Loads what can be loaded; returns what each of the others says."""
  messages = []
  for name in names:
    try:
      load([name])
    except DataError as error:
      messages.append(str(error))
  return messages
