"""Rows that nobody checked: which run reads them, how many, who is suspected.

A run whose model tells verified rows from unverified ones (`Setup.suspicious`)
is handed both as what they are; for any other, unverified rows pass for normal.
"""

import math
import warnings

import numpy as np

from metaad_jax import models, specs
from metaad_jax.detector import adaptation, sanity
from metaad_jax.training import model_files, runs

_ROWS = 512  # of a support with unverified rows, at most
_UNCHECKED = 200  # of them, where none is verified and none is told apart
_ATTENDED = 128  # of them, where none is verified: its square counts
_UNCALIBRATED = 50  # normals that a support holds, where nobody measured
_ANOMALIES = 64  # labelled ones that a support holds at most


def run_for(run_dir: str, y: np.ndarray) -> str:
  """The run for labels y [n], -1 = unverified: the package has three files.

  The second is for verified and unverified rows together; where nothing is
  verified it is not better than the first (`docs/results/unverified.md`). The
  third is there for who asks for it.
  """
  both = run_dir == runs.SHIPPED and {-1, 0} <= set(np.unique(y))
  return runs.UNVERIFIED if both else run_dir


def room(run: runs.Run) -> int:
  """How many verified normals a support holds."""
  known = run.calibration
  return _UNCALIBRATED if known is None else int(known.shots[-1])


def rooms(run: runs.Run, y: np.ndarray, size: int) -> dict[int, int]:
  """How many rows of `size` numbers a support holds, by their labels.

  Unverified rows have what verified ones (of labels y [n]) leave: of the room
  for normals, or where the run tells them apart, of 512 rows, or so many as a
  file may hold. Where nothing is verified, 200 of them pass for normal, or 128
  are told apart.
  """
  most = normals = room(run)
  if not (y == 0).any():
    told = run.setup.suspicious
    most = _ATTENDED if told else max(most, _UNCHECKED)
  elif run.setup.suspicious:
    most = min(_ROWS, math.isqrt(model_files.ELEMENTS // max(size, 1)))
    most = max(most - _ANOMALIES, normals + 1)
  return {0: normals, 1: _ANOMALIES, -1: most}


def warn(run: runs.Run, y: np.ndarray) -> None:
  """Where unverified rows beside verified ones (labels y) may do harm."""
  if not {-1, 0} <= set(np.unique(y)):
    return
  name, options = specs.parse(run.setup.model)
  if name == 'attention' and options.get('distances'):
    warnings.warn(
      'this run was not calibrated on verified and unverified rows together: '
      "its p-values may be off; run_dir='shipped' was",
      stacklevel=4,
    )
  elif name == 'attention':
    warnings.warn(
      'this run asks whether all rows were verified: some were not, so it '
      "takes none for verified; run_dir='shipped' tells them apart",
      stacklevel=4,
    )
  elif not run.setup.suspicious:
    warnings.warn(
      'this run takes unlabelled rows for normal ones: where more than one in '
      "fifty is bad, leave them out, or use run_dir='shipped'",
      stacklevel=4,
    )


def draw(
  order: np.ndarray, labels: np.ndarray, rooms: dict[int, int]
) -> np.ndarray:
  """[n] bool: the rows of a support, of each kind the first in an order."""
  support = np.zeros(len(labels), bool)
  rest = max(0, rooms[-1] - min(rooms[0], int((labels[order] == 0).sum())))
  for kind, most in ((0, rooms[0]), (-1, rest), (1, rooms[1])):
    support[order[labels[order] == kind][:most]] = True
  return support


def given(run: runs.Run, y: np.ndarray) -> np.ndarray:
  """[n] labels as a run is adapted with: 0, 1, and .5 for unverified rows."""
  open_rows = 0.5 if run.setup.unverified else 0.0
  return np.where(y == -1, open_rows, y == 1)


def suspects(
  run: runs.Run, adapted: adaptation.Adapted, x: np.ndarray
) -> np.ndarray:
  """[n] probabilities that the rows of a support are anomalies.

  Args:
    run: one that tells; adapted: to these rows.
    x: [n, F] as they were featurized.
  """
  tell = models.make(run.setup.model)(1).suspects
  assert tell is not None
  odds = np.asarray(tell(adapted.state.context)[-1], np.float64)
  found = np.empty(len(x))
  found[np.argsort(sanity.order_keys(x))] = odds[: len(x)]
  return 1 / (1 + np.exp(-np.clip(found, -500, 500)))
