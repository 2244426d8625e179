"""Save and restore a training state: atomic, arrays and JSON only (orbax)."""

import logging
import os
from typing import Any

import jax
import orbax.checkpoint as ocp

from metaad_jax.base import DataError

logging.getLogger('absl').addFilter(
  lambda record: record.levelno >= logging.WARNING
)


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
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(
      lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device), like
    )
    try:
      return step, self._manager.restore(
        step, args=ocp.args.StandardRestore(target)
      )
    except Exception as error:
      place = os.path.join(str(self._manager.directory), str(step))
      reason = str(error).split('\n')[0][:200]
      raise DataError(
        f'cannot read the checkpoint {place}: {reason}; delete that folder to '
        'go on from the one before it'
      ) from error

  def close(self) -> None:
    """Waits for pending work and lets go of the folder."""
    self._manager.close()
