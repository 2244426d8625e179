"""What is found in a long file, piece by piece, in memory that does not grow.

Kept are, of each entity, counts and its worst rows, and every alarm.
"""

from typing import NamedTuple
import warnings

import numpy as np
import pandas as pd

from metaad_jax.fleet import frames
from metaad_jax.fleet.detector import FleetDetector, UnknownEntities
from metaad_jax.fleet.frames import Long
from metaad_jax.fleet.pieces import Piece

BINS = 60  # of time, at most
_WORST = 5  # rows of each entity that are kept
_EXPLAINED = 50  # rows; as many are kept of each entity where there are few
_FEW = 200  # entities


class Found(NamedTuple):
  """What is found in a piece.

  Attributes:
    judged: [n] as of `FleetDetector.judge`.
    times: [n] seconds, or None.
    worst: [k] numbers of the worst rows of each entity.
    rows: these, to be explained.
    notes: what was warned of.
  """

  judged: pd.DataFrame
  times: np.ndarray | None
  worst: np.ndarray
  rows: Long
  notes: tuple[str, ...]


def judge(fleet: FleetDetector, piece: Piece) -> Found:
  """Judges the rows of a piece."""
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always', UserWarning)
    warnings.simplefilter('ignore', UnknownEntities)
    long = fleet.read(piece)
    judged = fleet.judge(long)
  frame = judged.assign(entity=long.which)[['entity', 'p_value', 'score']]
  worst = _worst(frame, len(long.names))
  notes = tuple(dict.fromkeys(str(warned.message) for warned in caught))
  return Found(judged, long.times, worst, frames.some(long, worst), notes)


def _worst(frame, entities):
  """[k] places of the worst rows of each entity, in order of these places."""
  order = np.lexsort((-frame['score'], frame['p_value']))
  kept = _WORST if entities > _FEW else _EXPLAINED
  rank = frame['entity'].iloc[order].groupby(frame['entity']).cumcount()
  return np.sort(order[rank.to_numpy() < kept])


class Tally:
  """Takes what is found in the pieces of a file, in their order.

  Args:
    fleet: that has judged.
    fdr: of all alarms that may be false, by Benjamini and Hochberg; None = an
      alarm is a p-value of at most the rate of the fleet.

  Attributes:
    count: rows.
    names: [N] entities, in the order in which they came.
    rows: [N] their rows.
    least: [N] their least p-values.
    known: [N] whether they were in `fit`.
    notes: what was warned of, once.
    timed: whether the rows have times.
  """

  def __init__(self, fleet: FleetDetector, fdr: float | None = None):
    self._fleet, self._fdr = fleet, fdr
    self.timed = bool(fleet.layout_.time)
    self._rate = fdr or fleet.false_alarm_rate
    self._codes: dict[str, int] = {}
    self.count, self._tested, self.notes = 0, 0, dict[str, None]()
    self.rows, self.least = np.zeros(0, np.int64), np.zeros(0)
    self.known = np.zeros(0, bool)
    self.bins = Bins()
    self._alarms: list[pd.DataFrame] = []
    self._worst: pd.DataFrame | None = None
    self._long: Long | None = None
    self.ends: list[tuple[float, str]] = []

  @property
  def names(self) -> list[str]:
    return list(self._codes)

  def add(self, found: Found) -> pd.DataFrame:
    """[n] what was judged, with numbers of the rows in the file."""
    judged, layout = found.judged, self._fleet.layout_
    which, names = pd.factorize(judged[layout.entity])
    for name in names:
      self._codes.setdefault(name, len(self._codes))
    code = np.array([self._codes[name] for name in names])[which]
    row = self.count + np.arange(len(judged))
    times = row.astype(np.float64) if found.times is None else found.times
    stamps = judged[layout.time] if self.timed else row
    frame = pd.DataFrame({
      'row': row, 'entity': code, 'time': times, 'stamp': stamps,
      'p_value': judged['p_value'], 'score': judged['score'],
    })  # fmt: skip
    self.bins.add(code, times)
    grown = len(self._codes) - len(self.least)
    self.rows = np.append(self.rows, np.zeros(grown, np.int64))
    self.rows += np.bincount(code, minlength=len(self.rows))
    self.least = np.append(self.least, np.full(grown, np.inf))
    self.known = np.append(self.known, np.zeros(grown, bool))
    np.fmin.at(self.least, code, judged['p_value'])
    self.known[code] = judged['known']
    self._alarms.append(frame[frame['p_value'] <= self._rate])
    self._keep(frame.iloc[found.worst], found.rows)
    self._stretch(frame)
    self.count += len(frame)
    self._tested += int(frame['p_value'].notna().sum())
    self.notes |= dict.fromkeys(found.notes)
    return judged.assign(row=row)

  def _keep(self, frame, long):
    if self._worst is not None and self._long is not None:
      frame = pd.concat([self._worst, frame], ignore_index=True)
      long = frames.joined([self._long, long])
      kept = _worst(frame, len(self._codes))
      frame, long = frame.iloc[kept], frames.some(long, kept)
    self._worst, self._long = frame, long

  def _stretch(self, frame):
    """The first and the last time, and how they are written."""
    there = frame[frame['time'].notna()].sort_values('time', kind='stable')
    ends = there.iloc[[0, -1]] if len(there) else there
    more = zip(ends['time'], ends['stamp'].astype(str), strict=True)
    both = sorted([*self.ends, *more], key=lambda end: end[0])
    self.ends = [both[0], both[-1]] if both else []

  def alarms(self) -> pd.DataFrame:
    """`row`, `entity` (its number), `time`, `stamp`, `p_value`, `score`."""
    found = pd.concat(self._alarms, ignore_index=True)
    if self._fdr:
      p = np.sort(found['p_value'].to_numpy())
      share = self._fdr * np.arange(1, len(p) + 1) / self._tested
      bar = p[p <= share].max(initial=-1.0)
      found = found[found['p_value'] <= bar].reset_index(drop=True)
    return found

  def worst(self, alarms: pd.DataFrame) -> pd.DataFrame:
    """The worst rows of each entity, with `abnormal` and `why`.

    Up to 50 alarms are explained, the worst five of each entity first; `why` of
    others is None.
    """
    assert self._worst is not None and self._long is not None
    frame = self._worst.reset_index(drop=True)
    frame['abnormal'] = frame['row'].isin(alarms['row'])
    order = np.lexsort((-frame['score'], frame['p_value']))
    bad = order[frame['abnormal'].to_numpy()[order]]
    late = (
      frame['entity'].iloc[bad].groupby(frame['entity']).cumcount() >= _WORST
    )
    told = bad[np.argsort(late.to_numpy(), kind='stable')[:_EXPLAINED]]
    why = self._fleet.explain(self._long, told.tolist())
    frame['why'] = pd.Series(why, dtype=object)
    return frame.iloc[order]


class Bins:
  """How many rows each entity has in each of at most 60 bins of time.

  A bin is 2^k seconds wide; k grows as the times need it.
  """

  def __init__(self) -> None:
    self.counts = np.zeros((0, BINS), np.int64)
    self.untimed = 0
    self._k, self._base, self._top = 0, 0, -1  # bins base to top are in use

  def add(self, entities: np.ndarray, times: np.ndarray) -> None:
    """Rows [n] of entities, by their numbers, at times in seconds."""
    grown = entities.max(initial=-1) + 1 - len(self.counts)
    if grown > 0:
      self.counts = np.concatenate([self.counts, np.zeros((grown, BINS), int)])
    there = np.isfinite(times)
    self.untimed += int((~there).sum())
    entities, times = entities[there], times[there]
    if not len(times):
      return
    low, high = times.min(), times.max()
    if self._top < self._base:
      self._k = int(np.ceil(np.log2(max(high - low, 1e-9) / BINS)))
      self._base = self._top = self._number(low)
    while max(self._top, self._number(high)) - min(
      self._base, self._number(low)
    ) >= BINS:  # fmt: skip
      self._coarsen()
    back = max(0, self._base - self._number(low))
    self.counts = np.roll(self.counts, back, 1)
    self._base -= back
    self._top = max(self._top, self._number(high))
    np.add.at(self.counts, (entities, self.of(times)), 1)

  def of(self, times: np.ndarray) -> np.ndarray:
    """[n] bins of times that have been added."""
    return np.floor(times / 2.0**self._k).astype(np.int64) - self._base

  @property
  def used(self) -> int:
    return self._top - self._base + 1

  def _number(self, time):
    return int(np.floor(time / 2.0**self._k))

  def _coarsen(self):
    places = (self._base + np.arange(BINS)) // 2 - self._base // 2
    counts = np.zeros_like(self.counts)
    for place, column in zip(places, self.counts.T, strict=True):
      counts[:, place] += column
    self.counts, self._k = counts, self._k + 1
    self._base, self._top = self._base // 2, self._top // 2
