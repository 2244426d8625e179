"""The calibration of a run, as the few entities of a small fleet need it.

Too few entities cannot say what is rare; they can say that what the run calls
rare is common among them. Its p-values are then raised until, for entities that
were left out of the choice, they are as rare as they say.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from metaad_jax.scores import conformal
from metaad_jax.scores.conformal import Calibration, Case, Evidence

_NONE = np.zeros(0)


def fit(run: Calibration, cells: Mapping[int, Sequence[Case]]) -> Calibration:
  """Raises the p-values of a run where those of a fleet are too small.

  Args:
    run: the run's calibration; p-values never get smaller than by it.
    cells: cases of three entities or more, for the least of its numbers of
      shots; larger numbers are treated as the largest of these.

  Returns:
    A calibration of the same cells; `entities` says how many chose.
  """
  grid, mixed = run.grid.copy(), run.mixed.copy()
  across = moved = np.arange(len(conformal.LEVELS))
  moves = dict.fromkeys(range(len(conformal.OWN)), moved)
  for i, shots in enumerate(run.shots):
    members = cells.get(int(shots), ())
    if members:
      across = levels(_shares(run, members, 0))
    grid[i] = _moved(run.grid[i], across)
    partly = run._replace(grid=grid)
    for j, own in enumerate(conformal.OWN):
      some = [case for case in members if len(case.normal) > own]
      if len({case.entity for case in some}) > 2:
        moves[j] = levels(_shares(partly, some, own))
      elif members:  # as with fewer rows of its own
        moves[j] = moves[j - 1] if j else across
      mixed[i, j] = _moved(run.mixed[i, j], moves[j])
  least = min(len({case.entity for case in some}) for some in cells.values())
  entities = np.minimum(run.entities, least).astype(run.entities.dtype)
  return run._replace(grid=grid, mixed=mixed, entities=entities)


def _shares(run, cases, own):
  """[N, 512] of the normals of each entity, those with p <= LEVELS[l]."""
  draw = np.random.default_rng(0)
  rows: dict[str, list[np.ndarray]] = {}
  for case in cases:
    normal = draw.permutation(case.normal)
    evidence = Evidence(case.shots, 0, False, case.support, normal[:own])
    p = np.sort(conformal.p_values(run, evidence, normal[own:]))
    count = np.searchsorted(p, conformal.LEVELS * (1 + 1e-9), 'right')
    rows.setdefault(case.entity, []).append(count / len(p))
  return np.array([np.mean(shares, 0) for shares in rows.values()])


def levels(shares: np.ndarray) -> np.ndarray:
  """[512] which level of a run keeps the promise of each; 512 = none does.

  Args:
    shares: [N, 512] of the normals of each entity that have a p-value of at
      most each of `conformal.LEVELS`.

  Of each entity it is asked what share of its rows would be alarms, had the
  others alone chosen the level; the mean of that is what a new one must expect.
  """
  count, size = shares.shape
  chosen = lambda rates: np.maximum(
    np.searchsorted(-rates, -conformal.LEVELS * (1 + 1e-9)), np.arange(size)
  )
  padded = np.pad(shares, ((0, 0), (0, 1)))
  total = shares.sum(0)
  left_out = [
    padded[i, chosen((total - shares[i]) / (count - 1))] for i in range(count)
  ]
  expected = np.mean(left_out, 0)
  worst = np.maximum.accumulate(expected[::-1])[::-1]
  asked = np.maximum(
    np.searchsorted(-worst, -conformal.LEVELS * (1 + 1e-9)), np.arange(size)
  )
  return np.append(chosen(total / count), size)[asked]


def _moved(grid, which):
  """[..., 512] the bars of other levels; inf = no score is so rare."""
  never = np.full((*grid.shape[:-1], 1), np.inf, grid.dtype)
  return np.concatenate([grid, never], -1)[..., which]
