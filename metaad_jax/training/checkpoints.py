"""Save and restore a training state: atomic, arrays and JSON only (orbax)."""

import hashlib
import json
import logging
import os
import pathlib
import shutil
from typing import Any

import jax

from metaad_jax import devices, storage
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
    """Opens `folder`, making it if need be.

    Raises:
      DataError: if it cannot be made.
    """
    # A quarter of a second that only who trains should wait for.
    import orbax.checkpoint as ocp

    self._args = ocp.args
    try:
      os.makedirs(folder, exist_ok=True)
      self._manager = ocp.CheckpointManager(
        os.path.abspath(folder),
        options=ocp.CheckpointManagerOptions(
          max_to_keep=2, enable_async_checkpointing=False
        ),
      )
    except OSError as error:
      raise DataError(
        f'cannot keep checkpoints in {folder} ({error.strerror or error}): '
        'choose a folder that can be written to'
      ) from error

  def save(self, step: int, state: Any) -> None:
    """Saves a pytree of arrays as step `step`.

    Raises:
      DataError: if the disk is full or cannot be written to; the checkpoint
        before it is still there.
    """
    folder = self._folder(step)
    try:
      if not folder.parent.is_dir():  # orbax would make another
        raise FileNotFoundError(f'{folder.parent} has vanished')
      self._manager.save(step, args=self._args.StandardSave(state))
      if not folder.is_dir():
        raise FileNotFoundError('nothing was written')
      if devices.first_process():
        content = json.dumps(_digests(folder)).encode()
        storage.write_bytes(folder / _DIGESTS, content)
      devices.wait(f'checkpoint {step}')
    except Exception as error:  # orbax and tensorstore have their own
      if jax.process_count() > 1 and not isinstance(error, OSError):
        devices.lost(storage.reason(error)[:100])
      shutil.rmtree(folder, ignore_errors=True)
      for part in folder.parent.glob(f'{step}.orbax-checkpoint-tmp*'):
        shutil.rmtree(part, ignore_errors=True)
      kept = [s for s in self._steps() if s != step]
      last = f'step {kept[0]} is the last good one' if kept else 'none is kept'
      reason = ' '.join(str(error).split())[:200] or type(error).__name__
      raise DataError(
        f'cannot save the checkpoint {folder} ({reason}); {last}: make room, '
        'or let the folder be written to, and give the same command again'
      ) from error

  def _steps(self) -> list[int]:
    """Steps that have a folder, the newest first."""
    return sorted(
      (int(p.name) for p in self._folder(0).parent.glob('*')
       if p.name.isdecimal()),
      reverse=True,
    )  # fmt: skip

  def forget_after(self, step: int) -> None:
    """Deletes the checkpoints, damaged ones, that are newer than `step`."""
    for newer in self._steps():
      if newer > step:
        shutil.rmtree(self._folder(newer), ignore_errors=True)
    devices.wait('checkpoints forgotten')
    self._manager.reload()

  def restore(self, like: Any) -> tuple[int, Any] | None:
    """The newest checkpoint that is whole; a damaged one is warned of.

    Args:
      like: a pytree of arrays or `jax.ShapeDtypeStruct`s of its structure.

    Returns:
      Its step and its state; None if there is no checkpoint.

    Raises:
      DataError: if all are damaged or of another structure.
    """
    failure: DataError | None = None
    for step in self._steps():
      try:
        found = self._restore(step, like)
      except DataError as error:
        failure = failure or error
        continue
      if failure is not None:
        logging.getLogger(__name__).warning(
          '%s; going on from step %d', failure, step
        )
      return step, found
    if failure is not None:
      raise failure
    return None

  def _restore(self, step, like):
    self._check(step)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(
      lambda a: jax.ShapeDtypeStruct(
        a.shape, a.dtype, sharding=getattr(a, 'sharding', None) or device
      ),
      like,
    )
    try:
      return self._manager.restore(
        step, args=self._args.StandardRestore(target)
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
      f'cannot read the checkpoint {self._folder(step)}: {reason}'
    )

  def close(self) -> None:
    """Waits for pending work and lets go of the folder."""
    self._manager.close()
