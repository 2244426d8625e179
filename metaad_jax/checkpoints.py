"""Save and restore a training state: atomic, arrays and JSON only (orbax)."""

import hashlib
import json
import logging
import os
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from metaad_jax.base import DataError

# What orbax finds wrong it also raises.
logging.getLogger('absl').addFilter(
  lambda record: 'orbax' not in record.pathname
)

_DIGESTS = 'sha256.json'


def _digests(folder: pathlib.Path) -> dict[str, str]:
  """SHA-256 of every file below a folder, by its path there."""
  return {
    path.relative_to(folder).as_posix(): hashlib.sha256(
      path.read_bytes()
    ).hexdigest()
    for path in sorted(folder.rglob('*'))
    if path.is_file() and path.stem != 'sha256'
  }


class Checkpoints:
  """The checkpoints of one run, newest two kept.

  A checkpoint appears under its name only when it is complete, so a run that
  is killed while saving goes on from the one before.
  """

  def __init__(self, folder: str):
    """Opens `folder`, making it if need be."""
    self._manager = ocp.CheckpointManager(
      os.path.abspath(folder),
      options=ocp.CheckpointManagerOptions(
        max_to_keep=2, enable_async_checkpointing=False
      ),
    )

  def save(self, step: int, state: Any) -> None:
    """Saves a pytree of arrays as step `step`."""
    self._manager.save(step, args=ocp.args.StandardSave(state))
    folder = self._folder(step)
    if folder.is_dir():
      path = folder / _DIGESTS
      path.with_suffix('.part').write_text(json.dumps(_digests(folder)))
      os.replace(path.with_suffix('.part'), path)

  def restore(self, like: Any) -> tuple[int, Any] | None:
    """The newest checkpoint.

    Args:
      like: a pytree of arrays or `jax.ShapeDtypeStruct`s of its structure.

    Returns:
      Its step and its state; None if there is no checkpoint.

    Raises:
      DataError: if it is damaged or of another structure.
    """
    step = self._manager.latest_step()
    if step is None:
      return None
    self._check(step)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(
      lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device), like
    )
    try:
      return step, self._manager.restore(
        step, args=ocp.args.StandardRestore(target)
      )
    except Exception as error:
      raise self._damaged(step, str(error).split('\n')[0][:200]) from error

  def _folder(self, step):
    return pathlib.Path(self._manager.directory) / str(step)

  def _check(self, step):
    """Finds damage first: orbax reports it once per array, over many lines."""
    folder = self._folder(step)
    try:
      wanted = json.loads((folder / _DIGESTS).read_text())
    except FileNotFoundError:
      return  # killed between the checkpoint and its digests
    except ValueError as error:
      raise self._damaged(step, f'{_DIGESTS} is damaged') from error
    found = _digests(folder)
    bad = [name for name in wanted if found.get(name) != wanted[name]]
    if bad:
      raise self._damaged(step, f'{bad[0]} is damaged or missing')

  def _damaged(self, step, reason):
    return DataError(
      f'cannot read the checkpoint {self._folder(step)}: {reason}; delete that '
      'folder to go on from the one before it'
    )

  def close(self) -> None:
    """Waits for pending work and lets go of the folder."""
    self._manager.close()
