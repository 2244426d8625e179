"""What a run keeps on disk beside its checkpoints.

`config.json`: the configuration, versions, code, the shape of a row, digests of
the entities it saw; `metrics.jsonl`; parameters by name in a model file.
"""

from collections.abc import Sequence
import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
from typing import Any

import jax
import numpy as np

from metaad_jax import __version__, storage
from metaad_jax.base import DataError, Params
from metaad_jax.training import plugins
from metaad_jax.training.setup import Config, Layout, Setup

SCHEMA = 1


def versions() -> dict[str, str]:
  """Versions of what the numbers depend on."""
  packages = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'scikit-learn')
  found = {name: importlib.metadata.version(name) for name in packages}
  return {
    'metaad_jax': __version__,
    'python': platform.python_version(),
    **found,
  }


def code_version() -> str:
  """The commit of the checkout this code lies in, or 'unknown'."""
  here = os.path.dirname(os.path.abspath(__file__))
  try:
    told = subprocess.run(
      ['git', 'describe', '--always', '--dirty'],
      cwd=here, capture_output=True, text=True, timeout=10, check=True,
    )  # fmt: skip
  except (OSError, subprocess.SubprocessError):
    return 'unknown'
  return told.stdout.strip()


def open_run(run_dir: str, setup: Setup, seen: Sequence[str]) -> None:
  """Writes config.json, or checks that it is this run's.

  Args:
    run_dir: made if need be.
    setup: of the run, at the layout of its rows.
    seen: digests of the entities that it trains and validates on.

  Raises:
    DataError: if the folder holds another run, or cannot be written to.
  """
  path = os.path.join(run_dir, 'config.json')
  wanted = json.loads(json.dumps(dataclasses.asdict(setup.config)))
  if os.path.exists(path):
    written = read(run_dir).get('config')
    if not isinstance(written, dict):
      raise DataError(f'{path} is damaged: delete {run_dir} to train it again')
    usual = json.loads(json.dumps(dataclasses.asdict(Config())))
    differing = [k for k in wanted if written.get(k, usual[k]) != wanted[k]]
    differing = [k for k in differing if k != 'memory']  # the same to rounding
    steps = written.get('steps')
    more = isinstance(steps, int) and steps < wanted['steps']
    if differing == ['steps'] and more and wanted['schedule'] == 'constant':
      content = read(run_dir) | {'config': wanted}
      return storage.write_bytes(path, json.dumps(content, indent=2).encode())
    if differing:
      raise DataError(
        f'{run_dir} holds another run (it differs in '
        f'{", ".join(sorted(differing))}): choose another --run_dir, or delete '
        'that folder; only more steps of a constant schedule go on'
      )
    return
  content = {
    'schema': SCHEMA,
    'config': wanted,
    'layout': setup.layout._asdict(),
    'seen': list(seen),
    'plugins': plugins.loaded(),
    'versions': versions(),
    'code': code_version(),
    'devices': [str(device) for device in jax.devices()],
  }
  storage.write_bytes(path, json.dumps(content, indent=2).encode())


def read(run_dir: str) -> dict[str, Any]:
  """The content of a run's config.json.

  Raises:
    DataError: if it is missing, damaged or of another version.
  """
  path = os.path.join(run_dir, 'config.json')
  try:
    with open(path) as file:
      content = json.load(file)
  except FileNotFoundError as error:
    raise DataError(
      f'{run_dir} is no run directory: it has no config.json; '
      'train one with python -m experiments.train --run_dir=...'
    ) from error
  except (OSError, ValueError) as error:
    raise DataError(f'cannot read {path}: {error}') from error
  schema = content.get('schema') if isinstance(content, dict) else None
  if schema != SCHEMA:
    raise DataError(
      f'{path} has schema {schema!r}, this version reads {SCHEMA}: train the '
      'run again'
    )
  return content


def flatten(params: Params) -> dict[str, Any]:
  """{'params/network/kernel': leaf, ...}."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(params)
  name = lambda path: jax.tree_util.keystr(path, simple=True, separator='/')
  return {f'params/{name(path)}': leaf for path, leaf in leaves}


def unflatten(arrays: dict[str, Any], like: Params, path: str) -> Params:
  """The inverse of `flatten`.

  Args:
    arrays: whose names begin with 'params/'; others are passed over.
    like: parameters, or their shapes.
    path: where the arrays come from, for a message.

  Raises:
    DataError: if names, shapes or dtypes differ.
  """
  wanted = flatten(like)
  arrays = {k: v for k, v in arrays.items() if k.startswith('params/')}
  form = lambda array: (array.shape, array.dtype)
  for name in sorted(wanted.keys() | arrays.keys()):
    given = form(arrays[name]) if name in arrays else 'nothing'
    asked = form(wanted[name]) if name in wanted else 'nothing'
    if given != asked:
      raise DataError(
        f'{path}: {name} is {given}, this version of the learner has {asked}: '
        'export the run anew, with the version that trained it'
      )
  leaves = jax.device_put([arrays[name] for name in wanted])
  return jax.tree.unflatten(jax.tree.structure(like), leaves)


def grown(arrays: dict[str, Any], params: Params) -> Params:
  """Parameters of a larger network that starts as a smaller one.

  Args:
    arrays: of the smaller one, see `flatten`: they go to the leaves of their
      names, into the corner of zeros where these are larger.
    params: fresh ones; leaves without a namesake stay.

  Raises:
    DataError: if a leaf is smaller than its namesake.
  """
  leaves = flatten(params)
  for name, leaf in leaves.items():
    if name in arrays:
      old = np.asarray(arrays[name])
      sizes = list(zip(np.shape(leaf), old.shape, strict=False))
      if old.ndim != leaf.ndim or any(new < size for new, size in sizes):
        raise DataError(
          f'{name} has shape {np.shape(leaf)}, the run to start from '
          f'{old.shape}: start from a smaller network'
        )
      leaves[name] = np.pad(old, [(0, new - size) for new, size in sizes])
  filled = jax.device_put(list(leaves.values()))
  return jax.tree.unflatten(jax.tree.structure(params), filled)


def nested(arrays: dict[str, Any]) -> Params:
  """`unflatten` by the names alone: tracing `init` takes half a second."""
  params: dict[str, Any] = {}
  for name, array in arrays.items():
    kind, *path, last = name.split('/')
    if kind == 'params':
      place = params
      for part in path:
        place = place.setdefault(part, {})
      place[last] = array
  return jax.device_put(params)


def settings(content: dict[str, Any]) -> tuple[Config, Layout]:
  """The configuration and the layout in a config.json or a model file.

  Raises:
    KeyError, TypeError, ValueError, AttributeError: if it is damaged.
  """
  fields: dict[str, Any] = {
    key: tuple(value) if isinstance(value, list) else value
    for key, value in content['config'].items()
  }
  layout = content['layout']
  if not isinstance(content.get('step', 0), int):
    raise DataError(f'step {content["step"]!r} is no number')
  # Earlier versions wrote [null] where rows have any width.
  shape = tuple(size for size in layout['shape'] if size is not None)
  channels = tuple(layout['channels'])
  return Config(**fields), Layout(shape, layout['rate'], channels)
