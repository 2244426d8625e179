"""A run adapted to the rows of one entity: all that is behind the estimator."""

import dataclasses
import functools
import numbers
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metaad_jax import devices, features, storage
from metaad_jax.base import DataError
from metaad_jax.data import episodes
from metaad_jax.detector import adaptation, encoding, explanations, exported
from metaad_jax.detector.encoding import Columns, Encoded
from metaad_jax.scores import conformal
from metaad_jax.training import runs


def load_run(run_dir: str) -> runs.Run:
  """A run by its folder, file or name; read again only when it has changed."""
  parts = ('', 'config.json', 'calibration.npz', 'checkpoints')
  return _load_run(
    run_dir, *[_changed(os.path.join(run_dir, p)) for p in parts]
  )


def _changed(path):
  try:
    return os.stat(path.rstrip(os.sep)).st_mtime_ns
  except OSError:
    return None


@functools.lru_cache(maxsize=8)
def _load_run(run_dir, *changed):
  del changed
  devices.persist()
  return runs.restore(run_dir)


class Judgement(NamedTuple):
  """What is said of n rows; without a calibration, only scores.

  Attributes:
    scores: [n] float64, higher = more abnormal.
    p_values: [n] how likely a normal row scores as high; else NaN.
    outliers: [n] bool, whether the score is above the threshold; else False.
  """

  scores: np.ndarray
  p_values: np.ndarray
  outliers: np.ndarray

  def take(self, which: Any) -> 'Judgement':
    """That of some of the rows, by their numbers."""
    return Judgement(*(part[which] for part in self))


class Options(NamedTuple):
  """Of the estimator, as they were in `fit`; see `MetaAnomalyDetector`."""

  run_dir: str
  false_alarm_rate: float
  window_features: str | None
  rate: float | None


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
  """A run adapted to rows; what takes time is found when it is asked for.

  Attributes:
    options: of the estimator.
    columns: of the rows.
    x: [n, *columns.shape] the rows, float64; NaN = missing.
    y: [n] 0 = normal, 1 = anomaly, -1 = unlabelled.
    support: [n] bool, which of them it is adapted to; the other normals
      calibrate.
    scaling: of the columns.
    adapted: the learner.
  """

  options: Options
  columns: Columns
  x: np.ndarray
  y: np.ndarray
  support: np.ndarray
  scaling: encoding.Scaling
  adapted: adaptation.Adapted

  def __getstate__(self):
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

  @property
  def run(self) -> runs.Run:
    return load_run(self.options.run_dir)

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

  @property
  def feature(self) -> features.Feature | None:
    return _feature(self.options, self.columns)

  @property
  def names(self) -> tuple[str, ...]:
    """Of the columns or features that the learner sees."""
    return encoding.names(self.run, self.columns, self.feature)

  @property
  def normal(self) -> np.ndarray:
    """[n] bool, the support's normals and what passes for them."""
    return self.support & (self.y != 1)

  def features(self, x: np.ndarray) -> np.ndarray:
    """Rows [n, ...] float64 -> what the learner sees, float32."""
    return encoding.apply(self.feature, self.scaling, x)

  def score(self, x: np.ndarray) -> np.ndarray:
    """Rows [n, ...] float64 -> [n] float64, higher = more abnormal."""
    return adaptation.score(self.run, self.adapted, self.features(x))

  @functools.cached_property
  def scores(self) -> np.ndarray:
    """[n] of the rows, the support's normals each scored without itself."""
    x, support, normal = self.features(self.x), self.support, self.normal
    scores, rest = np.empty(len(x)), np.ones(len(x), bool)
    bad = self.y[support] == 1
    without = adaptation.support_scores(self.run, x[support], bad)
    if len(without):
      scores[normal], rest = without, ~normal
    if rest.any():
      scores[rest] = adaptation.score(self.run, self.adapted, x[rest])
    return scores

  @functools.cached_property
  def evidence(self) -> conformal.Evidence:
    """What the rows say of the entity, for the calibration."""
    own = ~self.support & (self.y == 0)
    known = self.scores[self.normal] if self.normal.sum() > 1 else np.zeros(0)
    return _evidence(self.y[self.support], known, self.scores[own])

  @functools.cached_property
  def threshold(self) -> float:
    """A score above is an alarm; NaN if the run is not calibrated."""
    if self.run.calibration is None:
      return np.nan
    rate = self.options.false_alarm_rate
    return conformal.threshold(self.run.calibration, self.evidence, rate)

  def judge(self, x: np.ndarray) -> Judgement:
    """Scores rows [n, ...], and decides by them."""
    scores, calibration = self.score(x), self.run.calibration
    p = np.full(len(scores), np.nan)
    if calibration is not None:
      p = conformal.p_values(calibration, self.evidence, scores)
    return Judgement(scores, p, scores > self.threshold)

  @functools.cached_property
  def context(self) -> explanations.Context:
    """What all explanations share."""
    run, x = self.run, self.x[self.support]
    bad = self.y[self.support] == 1
    parts = adaptation.without(run, self.features(x), bad)
    by = lambda part: functools.partial(adaptation.score, run, part)
    return explanations.Context(
      self.names, self.columns.levels, self.features, by(self.adapted),
      [explanations.Unseen(by(part), which) for part, which in parts], x, ~bad,
      np.flatnonzero(self.normal), float(np.mean(self.scores[self.normal])),
      self.threshold, run.layout.rate or self.options.rate,
    )  # fmt: skip

  def explain(
    self, rows: Encoded, judged: Judgement
  ) -> list[explanations.Explanation]:
    """Why each row scores what it scores."""
    found = zip(rows.x, judged.scores, judged.p_values, strict=True)
    return [
      explanations.explain(self.context, row, score, p, rows.words(i))
      for i, (row, score, p) in enumerate(found)
    ]

  def save(self, path: str) -> None:
    """Writes a model file; see `MetaAnomalyDetector.save`."""
    arrays, meta = runs.pack(self.run)
    for name in ('x', 'y', 'support'):
      arrays[f'detector/{name}'] = getattr(self, name)
    options = self.options._asdict()
    del options['run_dir']
    meta['detector'] = {
      'options': options,
      'names': list(self.columns.names) or None,
      'categories': {k: list(v) for k, v in self.columns.levels.items()},
      'n_features_in': self.x.shape[1],
    }
    storage.save(path, arrays, meta)

  @staticmethod
  def load(path: str) -> 'Fitted':
    """Reads what `save` wrote, and adapts to it.

    Raises:
      DataError: if it makes no sense.
    """
    arrays, meta = storage.load(path)
    try:
      saved = meta['detector']
      x = np.asarray(arrays['detector/x'], np.float64)
      y = np.asarray(arrays['detector/y'], np.int64)
      support = np.asarray(arrays['detector/support'], bool)
      names = tuple(str(name) for name in saved['names'] or ())
      levels = {
        str(name): [str(text) for text in texts]
        for name, texts in saved['categories'].items()
      }
      if (
        x.ndim not in (2, 3)
        or np.isinf(x).any()
        or not np.isin(y, (-1, 0, 1)).all()
        or not len(x) == len(y) == len(support)
        or not x.shape[1] == saved['n_features_in'] == len(names or x[0])
        or not (y[support] != 1).any()
      ):
        raise ValueError('rows, labels or names do not fit')
      options = Options(run_dir=path, **saved['options'])
      return adapt(options, Columns(x.shape[1:], names, levels), x, y, support)
    except DataError:
      raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as e:
      raise DataError(
        f'{path} holds no detector, or a damaged one ({e!r}): save it anew'
      ) from e

  def export(self, path: str) -> None:
    """Writes compiled functions; see `MetaAnomalyDetector.export`."""
    run, feature, width = self.run, self.feature, self.adapted.width
    if adaptation.any_width(run):
      width = episodes.padded_size(width)

    def score(state, x):
      if feature is not None:
        x = jnp.clip(jax.vmap(feature.apply)(x), -1e18, 1e18)
      padding = [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])]
      return run.learner.score(state, jnp.pad(x, padding))

    exported.save(
      path,
      score,
      self.adapted.state,
      self.columns.shape,
      missing=adaptation.any_width(run) and feature is None,
      scaling=self.scaling,
      threshold=self.threshold,
      false_alarm_rate=self.options.false_alarm_rate,
      ladder=conformal.ladder(self.calibration, self.evidence),
      names=self.names if feature is None else (),
      meta={'run': run.name, 'categories': dict(self.columns.levels)},
    )


def adapt(
  options: Options,
  columns: Columns,
  x: np.ndarray,
  y: np.ndarray,
  support: np.ndarray,
) -> Fitted:
  """Adapts a run to rows; see `Fitted` for the arguments.

  Raises:
    DataError: for options that make no sense, a rate that cannot be promised,
      or rows without a finite score.
  """
  rate = options.false_alarm_rate
  if not isinstance(rate, numbers.Real) or not 0 < rate < 1:
    raise DataError(
      f'false_alarm_rate={rate!r} is impossible: it lies between 0 and 1'
    )
  run, none = load_run(options.run_dir), np.zeros(0)
  if run.calibration is not None:
    own = np.zeros((~support & (y == 0)).sum())
    conformal.check(run.calibration, _evidence(y[support], none, own), rate)
  table = adaptation.any_width(run) and x.ndim == 2
  scaling = encoding.scaling(x[support]) if table else encoding.AS_IS
  seen = encoding.apply(_feature(options, columns), scaling, x[support])
  labels = (y[support] == 1).astype(np.float32)
  adapted = adaptation.adapt(run, seen, labels)
  options = options._replace(false_alarm_rate=float(rate))
  return Fitted(options, columns, x, y, support, scaling, adapted)


def _feature(options, columns):
  run = load_run(options.run_dir)
  return encoding.feature(run, columns, options.window_features, options.rate)


def _evidence(labels, known, own):
  """From the labels of the support."""
  normals, anomalies = int((labels != 1).sum()), int((labels == 1).sum())
  unlabelled = bool((labels == -1).any())
  return conformal.Evidence(normals, anomalies, unlabelled, known, own)
