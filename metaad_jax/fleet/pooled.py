"""What all rows of a fleet say of an entity of few rows: a second score.

A row is judged by how far it is from where its entity is expected, as far as
rows of all entities are from their own: by their joint distribution, and by the
nearest of them. A fleet blends it with the network's score where that finds
more faults put into its own rows.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from scipy.spatial import distance
from sklearn import covariance

from metaad_jax.data.datasets import fleet as faults
from metaad_jax.detector import neighbours
from metaad_jax.fleet import siblings

_ROWS = 512  # of the fleet that a row is compared with
_KNOWN, _NEW = 5.0, 10.0  # deviations: rows are clipped there
_CHUNK = 4096
_SURE = 2.0  # standard errors that a blend has to be ahead by


class Pooled(NamedTuple):
  """Rows of a fleet, in deviations from where their entities are; of F columns.

  Attributes:
    table: how locations and scales differ.
    rows: [M, F] some of the rows, in units of their spread.
    precision: [F, F] of them all, shrunk after Ledoit and Wolf.
  """

  table: siblings.Siblings
  rows: np.ndarray
  precision: np.ndarray

  def told(
    self, own: np.ndarray, start: np.ndarray, x: np.ndarray, which: np.ndarray
  ) -> np.ndarray:
    """[n] float64 of rows x [n, F] of the entities which [n], higher = farther.

    Of N entities with rows own [S, F], one after the other, start [N + 1].
    """
    location, error, variance = self.table.posterior(own, start)
    scale = _root(variance + error, self.table)
    found, width = np.empty(len(x)), x.shape[1]
    for at in range(0, len(x), _CHUNK):
      of = which[at : at + _CHUNK]
      z = siblings.taken(x[at : at + _CHUNK], self.table.unit) - location[of]
      z = _clipped(z / scale[of], _NEW, self.table.words)
      joint = np.einsum('ni,ij,nj->n', z, self.precision, z, optimize=True)
      near = distance.cdist(z, self.rows).min(1)
      found[at : at + _CHUNK] = np.log(joint / width + 1e-3) / 2 + np.log(
        near / np.sqrt(width) + 1e-2
      )
    return found


def fit(
  x: Sequence[np.ndarray], words: np.ndarray, least: int
) -> Pooled | None:
  """Of normal rows x [n_i, F] of entities; None of too few, see `siblings`."""
  x = [rows for rows in x if len(rows) > 1]
  table = siblings.fit(x, words, least=least)
  if table is None:
    return None
  x = x[:: max(1, len(x) // siblings.ENTITIES)]
  count = np.array([len(rows) for rows in x])
  start = np.append(0, np.cumsum(count))
  of = np.repeat(np.arange(len(x)), count)
  taken = siblings.taken(np.concatenate(x), table.unit)
  bounds = zip(start, start[1:], strict=False)
  mean = np.stack([siblings.mean(taken[a:b]) for a, b in bounds])
  far = (taken - mean[of]) * np.sqrt(count / (count - 1))[of, None]
  _, _, variance = table.posterior(np.concatenate(x), start)
  z = _clipped(far / _root(variance, table)[of], _KNOWN, words)
  made = covariance.LedoitWolf(assume_centered=True).fit(z).covariance_
  made[np.diag_indices(len(made))] += z.var(0) < 1e-6  # constant columns
  return Pooled(table, z[siblings.dealt(of)[:_ROWS]], np.linalg.inv(made))


def _root(variance, table):
  """Scales; of columns that vary in no entity a thousandth."""
  usual = np.sqrt(np.where(table.within > 0, table.within, 1))
  return np.where(variance > 0, np.sqrt(variance), 1e-3 * usual)


def _clipped(z, most, words):
  z = np.clip(np.nan_to_num(z, nan=0.0), -most, most)
  z[:, words] = 0
  return z


class Blend(NamedTuple):
  """What becomes of the two scores, by an entity's number of known rows.

  Attributes:
    shots: [S] in order; an entity goes by the largest that is not above its.
    most: of known rows; an entity of more has the network's score.
    lines: [S, 3] as of `neighbours.line`; (1, 0, 0) = the network's score.
  """

  shots: np.ndarray
  most: int
  lines: np.ndarray

  @property
  def choice(self) -> dict[int, str]:
    """See `FleetDetector.choice_`."""
    name = lambda own, other: (
      'network' if not other else 'both' if own else 'pooled'
    )
    told = {
      int(k): name(*line[:2])
      for k, line in zip(self.shots, self.lines, strict=False)
    }
    return told | {self.most + 1: 'network'} if told else {}

  def line(self, count: np.ndarray) -> np.ndarray:
    """[N, 3] of entities of so many rows [N]."""
    place = np.searchsorted(self.shots, count, 'right') - 1
    own = (place < 0) | (count > self.most)
    return np.where(own[:, None], (1.0, 0.0, 0.0), self.lines[place])


ALONE = Blend(np.zeros(0, int), 0, np.zeros((1, 3)))


class Trial(NamedTuple):
  """Scores of an entity that neither had seen: [n, 2], the network's first."""

  number: int
  normal: np.ndarray
  faulty: np.ndarray


def line(trials: Sequence[Trial], bare: bool = False) -> np.ndarray:
  """[3] the blend that is to be used, or (1, 0, 0) where it is not better.

  It is, if it ranks faults by more than two standard errors better, by AUROC
  over entities. `bare` = the network has seen one row of each alone, of which
  it cannot tell any scale: pooled rows then count alone.
  """
  normal = np.concatenate([trial.normal for trial in trials])
  own = np.array([1.0, 0.0, 0.0])
  found = neighbours.line(1.0 if bare else 0.5, *normal.T).astype(float)
  gains: dict[int, list[float]] = {}
  for trial in trials:
    gain = _rank(trial, found) - _rank(trial, own)
    gains.setdefault(trial.number, []).append(gain)
  mean = np.array([np.mean(gain) for gain in gains.values()])
  if len(mean) < 2:
    return own
  error = mean.std(ddof=1) / np.sqrt(len(mean))
  return found if mean.mean() > _SURE * error else own


def _rank(trial, by):
  """AUROC, by ranks: thousands of them are asked for."""
  both = np.concatenate([trial.normal, trial.faulty]) @ by[:2]
  good, bad = len(trial.normal), len(trial.faulty)
  above = stats.rankdata(both)[good:].sum() - bad * (bad + 1) / 2
  return above / (good * bad)


def faulty(
  rng: np.random.Generator, known: np.ndarray, rows: np.ndarray,
  words: np.ndarray,
) -> np.ndarray:  # fmt: skip
  """Copies of some rows [n, F] of an entity with faults; see `fleet.injected`.

  Of its rows known [m, F] what is usual is learned; words stay as they are.
  """
  some = np.setdiff1d(np.arange(rows.shape[1]), words)
  usual = np.nan_to_num(siblings.mean(known[:, some]))
  filled = lambda x: np.where(np.isnan(x[:, some]), usual, x[:, some])
  made, _ = faults.injected(rng, filled(known), filled(rows))
  whole = rows[np.arange(len(made) - len(rows)) % len(rows)]
  whole[:, some] = made[len(rows) :]
  return whole


class Beside(NamedTuple):
  """Of one entity: blends scores of its rows, as `fitted.Fitted` does."""

  pooled: Pooled
  line: np.ndarray

  def __call__(self, scores: Any, x: np.ndarray, own: np.ndarray) -> np.ndarray:
    """[n] of the scores and rows [n, F], where rows [K, F] are known."""
    start, which = np.array([0, len(own)]), np.zeros(len(x), int)
    told = self.pooled.told(own, start, x, which) if len(own) else 0.0
    first, second, offset = self.line
    return first * scores + second * told + offset


def arrays(pooled: Pooled) -> dict[str, np.ndarray]:
  """For a file."""
  return {'rows': pooled.rows, 'precision': pooled.precision} | {
    f'table/{name}': value for name, value in pooled.table._asdict().items()
  }


def of_arrays(found: dict[str, np.ndarray]) -> Pooled:
  """The inverse; a KeyError or ValueError for nonsense."""
  table = siblings.Siblings(
    *(found[f'table/{name}'] for name in siblings.Siblings._fields)
  )
  made = Pooled(siblings.sound(table), found['rows'], found['precision'])
  width = len(table.location)
  if (
    made.rows.shape[1:] != (width,) or made.precision.shape != (width, width)
    or not len(made.rows)
    or not all(np.isfinite(part).all() for part in made[1:])
  ):  # fmt: skip
    raise ValueError('impossible numbers of a fleet')
  return made
