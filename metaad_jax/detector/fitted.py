"""A run adapted to the rows of one entity: all that is behind the estimator."""

from collections.abc import Sequence
import dataclasses
import functools
import itertools
import numbers
import os
from typing import Any, NamedTuple
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from metaad_jax import devices, features, storage
from metaad_jax.base import DataError
from metaad_jax.data import roles
from metaad_jax.detector import (
  adaptation,
  encoding,
  explanations,
  exported,
  neighbours,
  sanity,
  unverified,
)
from metaad_jax.detector.encoding import Columns, Encoded
from metaad_jax.scores import conformal, reach
from metaad_jax.training import runs

_SAMPLE = 256  # normals by which distances are put in the units of scores


def load_run(run_dir: str) -> runs.Run:
  """A run by its folder, file or name; read again only when it has changed."""
  parts = ('', 'config.json', 'calibration.npz', 'checkpoints')
  return _load_run(run_dir, *[_time(os.path.join(run_dir, p)) for p in parts])


def _time(path):
  try:
    return os.stat(path.rstrip(os.sep)).st_mtime_ns
  except OSError:
    return None


@functools.lru_cache(maxsize=8)
def _load_run(run_dir, *changed):
  del changed
  devices.check_fork()
  devices.persist()
  run = runs.restore(run_dir)
  if run.config.way:
    raise DataError(
      f'{run_dir} was trained with --way={run.config.way}, to tell classes '
      'apart: a detector takes a run without'
    )
  return run


def unpacked(packed: tuple[dict, dict], path: str) -> runs.Run:
  """A run; those of one learner share what is compiled."""
  devices.check_fork()
  devices.persist()
  run = runs.unpack(packed[0], packed[1], path)
  config, setup = run.config, run.setup
  parts = config.learner, setup.model, config.features, config.context
  key = *parts, config.way, config.precision, setup.any_width, run.layout
  learner = _LEARNERS.setdefault(key, run.learner)
  return run._replace(setup=setup._replace(learner=learner))


_LEARNERS: dict[Any, Any] = {}


class Judgement(NamedTuple):
  """What is said of n rows; without a calibration, only scores."""

  scores: np.ndarray  # [n] float64, higher = more abnormal
  p_values: np.ndarray  # [n] how likely a normal row scores as high; or NaN
  outliers: np.ndarray  # [n] bool, score above the threshold; or False

  def take(self, which: Any) -> 'Judgement':
    """That of some of the rows, by their numbers."""
    return Judgement(*(part[which] for part in self))


class Options(NamedTuple):
  """Of the estimator, as they were in `fit`; see `MetaAnomalyDetector`."""

  run_dir: str
  false_alarm_rate: float
  window_features: str | None
  rate: float | None
  features: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
  """A run adapted to rows; what takes time is found when it is asked for.

  Rows outside the support calibrate, if they are normal.
  """

  options: Options
  columns: Columns
  x: np.ndarray  # [n, *columns.shape] the rows, float64; NaN = missing
  y: np.ndarray  # [n] 0 = normal, 1 = anomaly, -1 = unlabelled, -2 = lent
  support: np.ndarray  # [n] bool, which of them it is adapted to
  run: runs.Run
  beside: Any = None  # (scores, rows, known ones) -> scores: what siblings say

  def __getstate__(self):
    state = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    shipped = self.options.run_dir == runs.SHIPPED
    return state | {'run': None if shipped else runs.pack(self.run)}

  def __setstate__(self, state):
    packed, path = state['run'], state['options'].run_dir
    if packed is None:
      run = load_run(unverified.run_for(path, state['y']))
    else:
      run = unpacked(packed, path)
    self.__dict__.update(state, run=run)

  @property
  def calibration(self) -> conformal.Calibration:
    """That of the run; a DataError if there is none."""
    calibration, run_dir = self.run.calibration, self.options.run_dir
    if calibration is None:
      raise DataError(
        f'{run_dir} is not calibrated, so there is no threshold: run '
        f'python -m experiments.calibrate --run_dir={run_dir}'
      )
    return calibration

  @functools.cached_property
  def feature(self) -> features.Feature | None:
    spec, rate = self.options.window_features, self.options.rate
    return encoding.feature(self.run, self.columns, spec, rate)

  @property
  def names(self) -> tuple[str, ...]:
    """Of the columns or features that the learner sees."""
    if self.feature is None:
      generic = tuple(f'column {i}' for i in range(self.columns.shape[0]))
      return self.columns.names or self.run.layout.channels or generic
    end = ', ch 0' if self.columns.shape[-1] == 1 else ''
    return tuple(name.removesuffix(end) for name in self.feature.names)

  @property
  def normal(self) -> np.ndarray:
    """[n] bool, the support's normals and what passes for them."""
    return self.support & ((self.y == 0) | (self.y == -1))

  @functools.cached_property
  def originals(self) -> np.ndarray:
    """[n] see `sanity.originals`; copies neither support nor calibrate."""
    return sanity.originals(self.x, self.y, self.columns.words)

  @property
  def own(self) -> np.ndarray:
    """[n] bool, the normals that calibrate."""
    first = self.originals == np.arange(len(self.x))
    return ~self.support & (self.y == 0) & first

  @functools.cached_property
  def guard(self) -> sanity.Guard:
    return sanity.guard(self.x, self.y, self.columns.words)

  @functools.cached_property
  def bars(self) -> np.ndarray:
    """[3] scores that the guard goes by, see `sanity.Guard.__call__`."""
    if self.run.calibration is not None:
      rate = self.options.false_alarm_rate
      return reach.bars(self.calibration, self.evidence, rate)
    known = self.scores[self.y != 1]
    return np.quantile(known, (0.1, 0.5, 1))

  @functools.cached_property
  def reading(self) -> sanity.Reading:
    if self.run.setup.any_width and self.x.ndim == 2:
      words, x = self.columns.words, self.x
      ranks = sanity.ranks(x[self.y != 1], words)
      return sanity.reading(x[self.support], self.guard, words, ranks)
    low, high = self.guard.limits
    return sanity.AS_IS._replace(low=low, high=high)

  @functools.cached_property
  def adapted(self) -> adaptation.Adapted:
    return adaptation.adapt(self.run, *self._given)

  @functools.cached_property
  def _given(self) -> tuple[np.ndarray, np.ndarray]:
    """The support as the run is adapted to it."""
    y = unverified.given(self.run, self.y[self.support])
    return self.features(self.x[self.support]), y

  @functools.cached_property
  def suspects(self) -> np.ndarray:
    """[n] probability that an unverified row is an anomaly; NaN for others."""
    if not self.run.setup.suspicious:
      raise AttributeError(
        f'{self.options.run_dir} suspects no row: give verified rows beside '
        "unlabelled ones, or run_dir='unverified'"
      )
    told = np.full(len(self.y), np.nan)
    told[self.support] = unverified.suspects(
      self.run, self.adapted, self._given[0]
    )
    return np.where(self.y == -1, told, np.nan)

  def features(self, x: np.ndarray) -> np.ndarray:
    """Rows [n, ...] float64 -> what the learner sees, float32."""
    devices.check_fork()
    return encoding.apply(self.feature, self.reading, x)

  def score_features(self, features: np.ndarray) -> np.ndarray:
    """[n] float64 of what the learner sees, higher = more abnormal."""
    scores = adaptation.score(self.run, self.adapted, features)
    if self.near is not None:
      scores = neighbours.blended(self.near[0], scores, features)
    return self._aided(scores, features)

  def _aided(self, scores, features, left_out=()):
    """With what siblings say, but for some normals of the support."""
    if self.beside is None:
      return scores
    own = np.delete(self.x[self.normal], left_out, 0)
    return self.beside(scores, self.reading.undone(features), own)

  @functools.cached_property
  def near(self) -> tuple[neighbours.Neighbours, np.ndarray] | None:
    """Normals to compare with; [n] places of the rows among them, or -1.

    None where the network reads them all, or all but few, and where anomalies
    are known: then it tells more than a distance does.
    """
    weight = neighbours.share(int(self.own.sum()))
    tabular = self.run.setup.any_width and self.x.ndim == 2
    if weight <= 0 or not tabular or (self.y == 1).any():
      return None
    first = self.originals == np.arange(len(self.x))
    rows = np.flatnonzero((self.y == 0) & first)
    read = self.support[rows]
    x = self.features(self.x[rows])
    order = neighbours.order(x)
    x, places = x[order], np.full(len(self.x), -1)
    places[rows[order]] = np.arange(len(order))
    near, some = neighbours.make(x), np.flatnonzero(~read[order])[:_SAMPLE]
    told = neighbours.distances(near, x[some], some)
    scores = adaptation.score(self.run, self.adapted, x[some])
    return near._replace(line=neighbours.line(weight, scores, told)), places

  def score(self, x: np.ndarray) -> np.ndarray:
    """Rows [n, ...] float64 -> [n] float64, higher = more abnormal."""
    scores = self.score_features(self.features(x))
    return self.guard(x, scores, lambda: self.bars)

  @functools.cached_property
  def _without(self) -> list[tuple[adaptation.Adapted, np.ndarray]]:
    own = self.y[self.support] >= -1
    return adaptation.without(self.run, *self._given, own)

  @functools.cached_property
  def scores(self) -> np.ndarray:
    """[n] of the rows, the support's normals each scored without itself."""
    x, support, normal = self.features(self.x), self.support, self.normal
    scores, rest = np.empty(len(x)), np.ones(len(x), bool)
    if normal.sum() > 1:
      places, rest = np.flatnonzero(support), ~normal
      for part, members in self._without:
        some = places[members]
        scores[some] = adaptation.score(self.run, part, x[some])
    if rest.any():
      scores[rest] = adaptation.score(self.run, self.adapted, x[rest])
    if self.near is not None:
      near, own = self.near
      scores = neighbours.blended(near, scores, x, own)
    if self.beside is not None:
      rank, parts = np.cumsum(normal) - 1, [np.flatnonzero(rest)]
      if normal.sum() > 1:
        parts += [places[members] for _, members in self._without]
      for i, some in enumerate(parts):
        out = rank[some] if i else ()
        scores[some] = self._aided(scores[some], x[some], out)
    return scores[self.originals]

  def _evidence(self, known, own):
    labels = self.y[self.support]
    labels = labels[labels >= -1]
    told = self.run.setup.suspicious and (labels == 0).any()
    normal = labels == 0 if told else labels != 1
    return conformal.Evidence(
      int(normal.sum()), int((labels == 1).sum()),
      bool((labels == -1).any()), known, own,
    )  # fmt: skip

  @functools.cached_property
  def evidence(self) -> conformal.Evidence:
    """What the rows say of the entity, for the calibration."""
    own = self.scores[self.own]
    known = self.scores[self.normal] if self.normal.sum() > 1 else np.zeros(0)
    return self._evidence(known, own)

  def check_rate(self) -> None:
    """Raises DataError for a false-alarm rate that cannot be promised."""
    if self.run.calibration is not None:
      own = np.zeros(self.own.sum())
      evidence = self._evidence(np.zeros(0), own)
      rate = self.options.false_alarm_rate
      conformal.check(self.run.calibration, evidence, rate)

  @functools.cached_property
  def threshold(self) -> float:
    """A score above is an alarm; NaN if the run is not calibrated."""
    if self.run.calibration is None:
      return np.nan
    rate = self.options.false_alarm_rate
    threshold = conformal.threshold(self.run.calibration, self.evidence, rate)
    self._warn(threshold)
    return threshold

  def _warn(self, threshold):
    """If not even rows that are odd in every column are above the threshold."""
    row = self.x[self.normal][0]
    out = 1e3 * np.maximum(np.abs(row), 1)
    low, high = self.guard.limits
    odd = np.array(
      [
        np.where(np.isfinite(low), low, row - out),
        np.where(np.isfinite(high), high, row + out),
      ]
    )
    most = self.score_features(self.features(odd)).max()
    if most > threshold:
      return
    rate, evidence = self.options.false_alarm_rate, self.evidence
    more = reach.enough(self.calibration, evidence, most, rate)
    p = conformal.p_values(self.calibration, evidence, np.array([most]))[0]
    warnings.warn(
      f'a false-alarm rate of {rate:g} cannot be reached with {evidence.shots} '
      'normal rows: only absurd values will be called outliers; give '
      f'at least {more} of them, or a rate of {p:.2g}',
      stacklevel=2,
    )

  def judge(self, x: np.ndarray) -> Judgement:
    """Scores rows [n, ...], and decides by them."""
    scores, calibration = self.score(x), self.run.calibration
    p = np.full(len(scores), np.nan)
    if calibration is not None:
      p = conformal.p_values(calibration, self.evidence, scores)
    return Judgement(scores, p, scores > self.threshold)

  @functools.cached_property
  def unseen(self) -> list[tuple[explanations.Score, np.ndarray]]:
    """Detectors of parts of the support, and the normals each has not seen."""
    return [(self._unseen(*each), each[1]) for each in self._without]

  def _unseen(self, part, which):
    score = functools.partial(adaptation.score, self.run, part)
    if self.beside is not None:
      out = (np.cumsum(self.normal) - 1)[self.support][which]
      return lambda x: self._aided(score(x), x, out)
    if self.near is None:
      return score
    near = neighbours.without(self.near[0], self.near[1][self.support][which])
    return lambda x: neighbours.blended(near, score(x), x)

  def explain(
    self, rows: Encoded, judged: Judgement
  ) -> list[explanations.Explanation]:
    """Why each row scores what it scores."""
    return explanations.explain(self, rows, judged)

  def save(self, path: str, about: dict[str, Any] | None = None) -> None:
    """Writes a model file; see `MetaAnomalyDetector.save`."""
    self._whole('saved')
    arrays, meta = runs.pack(self.run)
    for name in ('x', 'y', 'support'):
      arrays[f'detector/{name}'] = getattr(self, name)
    options = self.options._asdict().items()
    meta['detector'] = {
      'options': {k: v for k, v in options if k != 'run_dir'},
      'names': list(self.columns.names) or None,
      'categories': {k: list(v) for k, v in self.columns.levels.items()},
      'n_features_in': self.x.shape[1],
      'report': [column._asdict() for column in self.columns.report],
      'decimal': self.columns.decimal,
    }
    storage.save(path, arrays, meta | (about or {}))

  def _whole(self, done):
    if self.beside is not None:
      raise DataError(
        f'the detector of one entity, which its fleet completes, cannot be '
        f'{done}: save the fleet, or fit it with siblings=False'
      )

  @staticmethod
  def load(path: str) -> 'Fitted':
    """Reads what `save` wrote, and adapts to it.

    Raises:
      DataError: if it makes no sense.
    """
    arrays, meta = storage.load(path)
    if 'detector' not in meta:
      raise DataError(f'{path} holds no detector, but a run: fit one')
    run = unpacked((arrays, meta), path)
    saved = meta['detector']
    x = np.asarray(arrays['detector/x'], np.float64)
    y, support = (arrays[f'detector/{name}'] for name in ('y', 'support'))
    given = {'features': (), **saved['options']}
    given['features'] = tuple(given['features'])
    options = Options(run_dir=path, **given)
    names, levels = tuple(saved['names'] or ()), saved['categories']
    columns = Columns(
      x.shape[1:], names, levels,
      tuple(roles.Column(**column) for column in saved.get('report', ())),
      tuple(n for i, n in enumerate(names) if np.isnan(x[:, i]).all()),
      saved.get('decimal', ''),
    )  # fmt: skip
    shape = run.layout.shape or columns.shape
    encoding.check(x, shape, run.setup.any_width)
    return adapt(options, columns, x, y, support, run)

  def export(self, path: str) -> None:
    """Writes compiled functions; see `MetaAnomalyDetector.export`."""
    self._whole('exported')
    run, feature, width = self.run, self.feature, self.adapted.width
    if run.setup.any_width:
      width = adaptation.padded_width(width)

    def score(state, x):
      adapted, near = state
      if feature is not None:
        x = jnp.clip(jax.vmap(feature.apply)(x), -1e18, 1e18)
      padding = [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])]
      scores = run.learner.score(adapted, jnp.pad(x, padding))
      return scores if near is None else neighbours.traced(near, scores, x)

    content = {
      'shape': list(self.columns.shape),
      'missing': run.setup.any_width and feature is None,
      'threshold': self.threshold,
      'false_alarm_rate': self.options.false_alarm_rate,
      'names': list(self.names) if feature is None else [],
      'meta': {'run': run.name, 'categories': dict(self.columns.levels)},
    }
    ladder = conformal.ladder(self.calibration, self.evidence)
    state = self.adapted.state, self.near and self.near[0]
    held = self.reading, self.guard, self.bars
    exported.save(path, score, state, content, held, ladder)


def share(rate: Any) -> float:
  """A false-alarm rate, checked."""
  if not isinstance(rate, numbers.Real) or not 0 < float(rate) < 1:
    raise DataError(
      f'false_alarm_rate={rate!r} is impossible: it lies between 0 and 1'
    )
  return float(rate)


def adapt(
  options: Options,
  columns: Columns,
  x: np.ndarray,
  y: np.ndarray,
  support: np.ndarray,
  run: runs.Run | None = None,
  beside: Any = None,
) -> Fitted:
  """Adapts a run to rows; see `Fitted` for the arguments.

  All that scoring rows takes is compiled here. Without `run` it is read.

  Raises:
    DataError: for a rate that cannot be promised, or rows that are too large.
  """
  rate = share(options.false_alarm_rate)
  options = options._replace(false_alarm_rate=rate)
  run = run or load_run(options.run_dir)
  fitted = Fitted(options, columns, x, y, support, run, beside)
  fitted.check_rate()
  fitted.score_features(fitted.features(x[:1]))
  return fitted


def warm_up(run_dir: str, columns: Sequence[int], rows: Sequence[int]) -> None:
  """Compiles what scoring takes; see `MetaAnomalyDetector.warm_up`."""
  run = load_run(run_dir)
  for width, count in itertools.product(columns, rows):
    x = np.zeros((count, *(run.setup.columns or (width,))), np.float32)
    adaptation.score(run, adaptation.adapt(run, x, np.zeros(count)), x[:1])
