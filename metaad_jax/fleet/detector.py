"""A detector of a whole fleet: one for each entity of a long frame."""

from collections.abc import Sequence
import os
from typing import Any, NamedTuple, Self
import warnings

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from metaad_jax.base import DataError
from metaad_jax.detector import estimator, fitted, unverified
from metaad_jax.detector.explanations import Explanation
from metaad_jax.fleet import (
  alarms,
  calibration,
  files,
  frames,
  known,
  programs,
)
from metaad_jax.fleet import kin as kin_lib
from metaad_jax.fleet.frames import Layout, Long
from metaad_jax.fleet.kin import Kin
from metaad_jax.fleet.store import Entity, Store

_AT_ONCE = 4096  # entities that are laid side by side
_SCORED = 10_000  # entities whose known rows are scored as they are saved
_NONE = np.zeros(0, int)
_PRIOR = ''  # the name under which the fleet's own reference is kept


class _Block(NamedTuple):
  """Rows of some of the entities, which are in memory."""

  rows: np.ndarray  # their places in the frame
  which: np.ndarray  # and their entities
  names: Sequence[str]  # of the entities
  entities: Sequence[Entity]


class UnknownEntities(UserWarning):
  """Rows are judged by the fleet's reference alone."""


class FleetDetector(BaseEstimator):
  """Adapts to every machine, patient or shop of a long frame at once.

  A long frame has a row for each observation, a column that says whose it is,
  and the same other columns for all: of pandas, polars or arrow, a file, or a
  folder of .parquet files. What each score means is as of
  `MetaAnomalyDetector`, whose scores of one entity these are. Rows of entities
  that are not known are judged by the fleet's own reference, a few rows of each
  of the others, and marked.

  Args:
    run_dir: see `MetaAnomalyDetector`; a run that takes tables.
    false_alarm_rate: the share of normal rows that may be called outliers.
    siblings: entities of few rows borrow from the others (see `siblings`),
      where the fleet is large enough to calibrate what that makes of scores.

  Attributes:
    entities_: [N] names of the entities, as text.
    calibration_: 'fleet' = p-values are made of the fleet's own entities,
      'run' = of those the run was calibrated on, since the fleet has too few,
      'both' = of those, and raised where the fleet's own tell that it must be.
    layout_: what the columns of the frame are.
    room_: rows that a support is filled up to with rows lent by the siblings,
      for each group, '' = for whoever is in none; empty = nobody lends.
    choice_: from how many known rows on entities are judged by what:
      'network', or 'both', it and all rows of the fleet, or 'pooled', these
      alone; as ranks faults put into known rows best. 'reference' = as unknown
      entities are: by one row nothing can be called abnormal, and too few of
      the fleet have more. Empty = the network.

  Example:
    >>> fleet = FleetDetector().fit(frame, entity='machine_id')
    >>> fleet.judge(new_rows)
  """

  def __init__(
    self, run_dir: str = 'shipped', *, false_alarm_rate: float = 0.05,
    siblings: bool = True,
  ):  # fmt: skip
    self.run_dir = run_dir
    self.false_alarm_rate = false_alarm_rate
    self.siblings = siblings

  def fit(
    self, frame: Any, *, entity: str, time: str = '', label: str = '',
    group: str = '', **reading: Any,
  ) -> Self:  # fmt: skip
    """Adapts to the entities of a frame.

    Args:
      frame: the known rows, see the class.
      entity: name of the column that says whose row it is.
      time: of a column of times; it is no feature.
      label: of labels, 1 = anomaly, missing = unlabelled; '' = found by its
        name, or all rows are normal; 'none' = there is none.
      group: of models or sites: within one of five entities or more these
        borrow from each other alone; it is no feature.
      **reading: see `user_files.read`: `ignore`, `features`, `id`,
        `anomaly_label`.

    Raises:
      DataError: for a frame that makes no sense, in one line.
    """
    rate, self._run = self._rate(), _table_run(self.run_dir)
    if group:
      ids = filter(None, [group, reading.get('id', '')])
      reading = {**reading, 'id': ','.join(ids)}
    long = frames.read(frame, entity, time, label, **reading)
    self.layout_, self._store = long.layout, Store()
    some = _with_normals(long)
    if not some.any():
      raise DataError('every row is an anomaly: give at least one normal row')
    if not some.all():
      warnings.warn(
        f'{(~some).sum()} of {len(some)} entities have no '
        'normal row: they are not known',
        stacklevel=2,
      )
    long = frames.some(long, np.flatnonzero(some[long.which]))
    made = known.choose(
      long.x, long.labels, long.which, self._words, unverified.room(self._run)
    )
    frames.warn_of_doubtful(long)
    entities = known.entities(made)
    self._store.change(dict(zip(long.names, entities, strict=True)))
    self._store.change({_PRIOR: self._prior(entities)})
    groups = kin_lib.groups_of(long, group)
    self._own, self.calibration_, lends, blend = calibration.fit(
      self._run, entities, self._words, rate,
      list(groups.values()) if self.siblings else None,
    )  # fmt: skip
    if doubt := calibration.doubt(self._own, self.calibration_, rate):
      warnings.warn(f'{len(entities)} entities {doubt}', stacklevel=2)
    self._group, self._kin = group, Kin({}, {}, {})
    if lends or len(blend.shots):
      normals = [e.x[e.y != 1] for e in entities]
      room = unverified.room(self._run)
      kin = Kin.fit(list(groups), normals, groups, self._words, room)
      self._kin = kin._replace(
        tables=kin.tables if lends else {}, blend=blend,
        pools=kin.pools if len(blend.shots) else {},
      )  # fmt: skip
    return self

  def partial_fit(self, frame: Any) -> Self:
    """Takes in more rows of some entities, new ones among them.

    As `MetaAnomalyDetector.partial_fit` of each; the others, the calibration,
    what siblings lend and the reference for unknown ones stay as they are.
    """
    check_is_fitted(self, '_store')
    long = frames.read(frame, known=self.layout_, grow=True)
    self.layout_ = long.layout
    some = _with_normals(long, False)
    long = frames.some(long, np.flatnonzero(some[long.which]))
    room = unverified.room(self._run)
    before = self._store.read(list(long.names))
    changed = {}
    for i, rows in enumerate(known.rows_of(long.which)):
      name, x, y = long.names[i], long.x[rows], long.labels[rows]
      if name in before:
        changed[name] = known.more(before[name], x, y, self._words, room)
      elif (y != 1).any():
        which = np.zeros(len(y), np.int64)
        made = known.choose(x, y, which, self._words, room)
        changed[name] = known.entities(made)[0]
    self._store.change(changed)
    if self._group in long.keys:
      new = kin_lib.groups_of(long, self._group)
      groups = {**new, **self._kin.groups}
      self._kin = self._kin._replace(groups=groups)
    return self

  @property
  def entities_(self) -> list[str]:
    check_is_fitted(self, '_store')
    return sorted(self._store.names - {_PRIOR})

  def read(self, frame: Any) -> Long:
    """Reads a frame, which the other methods then need not do again.

    Args:
      frame: as of `judge`.

    Returns:
      What they take in its place.
    """
    check_is_fitted(self, '_store')
    if isinstance(frame, Long):
      return frame
    long = frames.read(frame, known=self.layout_)
    there = self._store.names
    new = [i for i, name in enumerate(long.names) if name not in there]
    if new:
      rows = np.isin(long.which, new).sum()
      listed = ', '.join(map(repr, long.names[new[:3]])) + ', ...' * (
        len(new) > 3
      )
      text = f"""{len(new)} entities are not known ({listed}): their {rows} rows
        are judged by the fleet's reference alone"""
      warnings.warn(' '.join(text.split()), UnknownEntities, stacklevel=3)
    return long

  @property
  def room_(self) -> dict[str, int]:
    check_is_fitted(self, '_store')
    return {group: of.room for group, of in self._kin.tables.items()}

  @property
  def choice_(self) -> dict[int, str]:
    check_is_fitted(self, '_store')
    bare = {1: 'reference', 2: 'network'} if self._unchecked else {}
    return bare or self._kin.blend.choice

  def score_samples(self, frame: Any) -> np.ndarray:
    """[n] float64, higher = more normal."""
    long = self.read(frame)
    scores = np.empty(len(long.x))
    for block in self._blocks(long):
      scores[block.rows] = self._scores(long, block)
    return -scores

  def p_values(self, frame: Any) -> np.ndarray:
    """[n] how likely a normal row of its entity scores as high."""
    return self.judge(frame)['p_value'].to_numpy()

  def predict(self, frame: Any) -> np.ndarray:
    """[n] int: 1 = normal, -1 = outlier."""
    return np.where(self.judge(frame)['outlier'], -1, 1)

  def judge(self, frame: Any) -> pd.DataFrame:
    """Scores, p-values and decisions, in the order of the frame.

    Returns:
      [n] columns: the entity, the time if there is one, `score` (higher = more
      abnormal), `p_value`, `outlier`, and `known`: False = the entity was not
      in `fit`, and the row was judged by the fleet's reference.
    """
    return self._judge(self.read(frame))

  def explain(
    self, frame: Any, rows: Sequence[int] | None = None
  ) -> dict[int, Explanation]:
    """Why rows score what they score.

    Args:
      frame: as of `judge`.
      rows: numbers of rows; None = the outliers, 50 at most.

    Returns:
      The explanations by number of the row.
    """
    long = self.read(frame)
    if rows is None:
      judged = self._judge(long)
      worst = np.argsort(judged['p_value'].to_numpy(), kind='stable')[:50]
      rows = worst[judged['outlier'].to_numpy()[worst]].tolist()
    elif len(rows) and not 0 <= min(rows) <= max(rows) < len(long.x):
      raise DataError(f'there is no row {max(rows)}: there are {len(long.x)}')
    found: dict[int, Explanation] = {}
    places = np.array(rows, np.int64)
    for name in np.unique(long.which[places]):
      some = places[long.which[places] == name]
      told = long.names[name]
      by = self._one(told)
      encoded = long.take(some)
      why = by.explain(encoded, by.judge(encoded.x))
      found |= dict(zip(some.tolist(), why, strict=True))
    return {row: found[row] for row in places.tolist()}

  def events(
    self, frame: Any, *, gap: float = 0.0, budget: str = ''
  ) -> list[alarms.Event]:
    """Outliers of all entities, those of one time as one event.

    Args:
      frame: as of `judge`; `fit` was told the column of times.
      gap: seconds between alarms that are one event.
      budget: such as '20 per day': at most so many events; '' = all.
    """
    long = self.read(frame)
    if long.times is None:
      raise DataError('the fleet has no times: fit(..., time=) names them')
    judged = self._judge(long)
    found = alarms.events(
      long.times, long.names[long.which], judged['p_value'].to_numpy(),
      judged['outlier'].to_numpy(), gap,
    )  # fmt: skip
    return alarms.within_budget(found, budget) if budget else found

  def odd_entities(self) -> pd.DataFrame:
    """Entities that are themselves unlike the fleet; see `alarms`."""
    check_is_fitted(self, '_store')
    found = {n: e.x[e.y != 1] for n, e in self._store if n != _PRIOR}
    told = alarms.odd_entities(list(found.values()), list(found))
    names = np.array(self.layout_.columns.names, object)
    return told.assign(column=names[told['column']])

  def detector(self, name: str) -> estimator.MetaAnomalyDetector:
    """The detector of one entity, which can do all that those can."""
    check_is_fitted(self, '_store')
    if name not in self._store.names:
      raise DataError(f'there is no entity {name!r}')
    made = estimator.MetaAnomalyDetector(
      self.run_dir, false_alarm_rate=self.false_alarm_rate
    )
    by = self._one(name)
    made._name(by.columns.header, by.x.shape[1])
    made._fitted, made.support_ = by, by.support
    return made

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes the fleet into one file: arrays and JSON, no code.

    A file that it was loaded from, or saved to, gets what has changed alone.
    Killed at any moment, the file holds what it held before, or all of it.
    How the known rows score is kept, too, and computed now where need be; of
    more than 10,000 new entities when they are first judged.

    Raises:
      DataError: if it cannot be written.
    """
    check_is_fitted(self, '_store')
    if len(self._store.unscored()) <= _SCORED:
      self._complete()
    files.save(self, os.fspath(path))

  @classmethod
  def load(cls, path: str | os.PathLike[str]) -> Self:
    """Opens what `save` wrote; entities are read as they are needed.

    Raises:
      DataError: if the file is missing, damaged, or no fleet.
    """
    return files.load(cls, os.fspath(path))

  @property
  def _words(self):
    return self.layout_.columns.words

  def _calibrated(self):
    return self._own

  def _rate(self):
    return fitted.share(self.false_alarm_rate)

  def _options(self):
    return fitted.Options(self.run_dir, self._rate(), None, None)

  def _blocks(self, long):
    """The frame, some thousands of entities at a time."""
    order = np.argsort(long.which, kind='stable')
    which = long.which[order]
    for start in range(0, len(long.names), _AT_ONCE):
      names = list(long.names[start : start + _AT_ONCE])
      a, b = np.searchsorted(which, (start, start + len(names)))
      found = self._store.read(names)
      names = [
        name if name in found and not self._bare(found[name]) else _PRIOR
        for name in names
      ]
      if _PRIOR in names:
        found |= self._store.read([_PRIOR])
      entities = [found[name] for name in names]
      yield _Block(order[a:b], which[a:b] - start, names, entities)

  def _scores(self, long, block):
    x = long.x[block.rows]
    entities = self._kin.filled(block.names, block.entities)
    rows, by = known.read(entities, self._words)
    supports, _ = known.supports(rows, by)
    scores = programs.score(
      self._run, supports, by.read(x, block.which), block.which
    )
    scores = self._kin.blended(
      block.names, block.entities, x, block.which, scores
    )
    # Raised p-values may call nothing rare; how far scores go stays the same.
    own = self.calibration_ == 'fleet'
    bars = lambda: calibration.bars_of(
      self._own if own else self._run.calibration, block.entities,
      self.false_alarm_rate,
    )  # fmt: skip
    return by.held(x, block.which, scores, bars)

  def _judge(self, long):
    used = self._calibrated()
    scores, p = np.empty(len(long.x)), np.full(len(long.x), np.nan)
    for block in self._blocks(long):
      scores[block.rows] = self._scores(long, block)
      if used is not None:
        entities = self._with_evidence(block)
        p[block.rows] = calibration.p_values(
          used, entities, scores[block.rows], block.which
        )
    told = {self.layout_.entity: long.names[long.which]}
    if self.layout_.time:
      told[self.layout_.time] = long.keys[self.layout_.time].to_numpy()
    there = self._store.names
    seen = np.array([name in there for name in long.names])
    return pd.DataFrame(told | {
      'score': scores, 'p_value': p, 'outlier': p <= self.false_alarm_rate,
      'known': seen[long.which],
    })  # fmt: skip

  def _with_evidence(self, block):
    """The entities, with the scores of their own rows."""
    lacking = [i for i, e in enumerate(block.entities) if e.known is None]
    if not lacking:
      return block.entities
    entities = list(block.entities)
    some = self._kin.filled(
      [block.names[i] for i in lacking], [entities[i] for i in lacking]
    )
    names = [block.names[i] for i in lacking]
    lines = self._kin.lines(names, [entities[i] for i in lacking])
    second = self._kin.second(names, lines)
    scored = known.scored(self._run, *known.read(some, self._words), second)
    told = self._store.names
    for i, line, *parts in zip(lacking, lines, *scored, strict=True):
      if second is not None:
        parts = [kin_lib.join(part, line[None]) for part in parts]
      entities[i] = entities[i]._replace(known=parts[0], own=parts[1])
      if block.names[i] in told:
        self._store.change({block.names[i]: entities[i]})
    return entities

  def _complete(self):
    """Scores the known rows of entities that have changed; see `save`."""
    names = self._store.unscored()
    for start in range(0, len(names), _AT_ONCE):
      some = names[start : start + _AT_ONCE]
      entities = list(self._store.read(some).values())
      self._with_evidence(_Block(_NONE, _NONE, some, entities))

  def _prior(self, entities):
    """The fleet's reference: rows of its entities, and how new ones score."""
    return calibration.prior(
      self._run, entities, self._words, unverified.room(self._run)
    )

  @property
  def _unchecked(self):
    """Whether nobody lends, or tells what is rare among them."""
    return self.calibration_ == 'run' and self._own is not None

  def _bare(self, entity):
    """Whether it is judged by the fleet's reference: one row has no scale."""
    return self._unchecked and len(entity.y) == 1

  def _one(self, name):
    entity = self._store.read([name]).get(name)
    if entity is None or self._bare(entity):
      name, entity = _PRIOR, self._store.read([_PRIOR])[_PRIOR]
    beside = self._kin.beside(name, entity)
    (entity,) = self._kin.filled([name], [entity])
    run = self._run._replace(calibration=self._calibrated())
    return fitted.adapt(
      self._options(), self.layout_.columns, np.array(entity.x),
      entity.y.astype(np.int64), entity.support, run, beside,
    )  # fmt: skip


def _table_run(run_dir):
  run = fitted.load_run(run_dir)
  if not run.setup.any_width:
    raise DataError(
      f'{run_dir} takes rows of {run.layout.shape} alone: a fleet takes a run '
      'of tables of any width'
    )
  return run


def _with_normals(long: Long, needed: bool = True) -> np.ndarray:
  """[N] bool, entities with a row that is no anomaly; or with any."""
  some = long.labels != 1 if needed else np.ones(len(long.labels), bool)
  return np.bincount(long.which[some], minlength=len(long.names)) > 0


__all__ = ['FleetDetector', 'Layout']
