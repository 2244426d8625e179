"""What is written of a finished run: its model file, and its calibration."""

import dataclasses
import os
from typing import Any

import numpy as np

from metaad_jax import specs, storage
from metaad_jax.base import DataError
from metaad_jax.scores import conformal
from metaad_jax.scores.conformal import Calibration
from metaad_jax.training import records, runs, setup


def export(
  run_dir: str,
  path: str,
  distances: bool = False,
  calibrated_by: str | None = None,
) -> None:
  """Writes a run's best meta-parameters as a model file.

  Args:
    run_dir: see `runs.restore`; path: of the file, ending in .npz.
    distances: puts those of `models.log_distances` beside `tables` or
      `attention`, which makes another score: without a calibration.
    calibrated_by: a run of the same recipe whose calibration the file gets,
      where the run itself has seen all entities that could calibrate it.

  Raises:
    DataError: if the run cannot be restored or the file not be written.
  """
  if not path.endswith('.npz'):
    raise DataError(f'{path}: a model file ends in .npz')
  run = runs.restore(run_dir)
  if distances:
    model = specs.with_option(run.config.model, 'distances=True')
    config = dataclasses.replace(run.config, model=model)
    made = setup.resolve(config).at(run.layout)
    run = run._replace(setup=made, calibration=None)
  if calibrated_by:
    other = runs.restore(calibrated_by)
    if other.calibration is None or _kind(other) != _kind(run):
      raise DataError(
        f'{calibrated_by} is not calibrated, or not of the same learner and '
        f'model as {run_dir}: calibrate a run of the same flags and another '
        '--fold, exported with the same options'
      )
    run = run._replace(calibration=other.calibration)
  storage.save(path, *runs.pack(run))


def _kind(run):
  """What two runs have in common that may share a calibration."""
  arrays = records.flatten(run.params)
  shapes = {name: np.shape(array) for name, array in arrays.items()}
  return run.name, run.setup.unverified, shapes


def calibrate(
  run_dir: str, calibrated: Calibration, about: dict[str, Any]
) -> str:
  """Writes a calibration into a run's folder or model file.

  Args:
    run_dir: see `runs.restore`.
    calibrated: takes the place of the one that was there.
    about: what it was fitted on, for the meta data.

  Returns:
    The path of the file.

  Raises:
    DataError: if there is no run, or the file cannot be written.
  """
  file = runs.file_of(run_dir)
  arrays: dict[str, np.ndarray] = {}
  meta: dict[str, Any] = {}
  if file.endswith('.npz') and not os.path.isdir(file):
    arrays, meta = storage.load(file)
  else:
    records.read(run_dir)
    file = os.path.join(run_dir, runs.CALIBRATION)
  arrays |= conformal.to_arrays(calibrated)
  storage.save(file, arrays, meta | {'calibration': about})
  return file
