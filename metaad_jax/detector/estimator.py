"""The faces that people know: scikit-learn's and PyOD's.

`MetaAnomalyDetector` follows scikit-learn's convention for outlier detectors,
as IsolationForest does: `predict` gives 1 for normal and -1 for an outlier,
`decision_function` and `score_samples` are higher where a row is more normal.
PyOD's is the opposite: 0 and 1, higher where a row is more abnormal. Two
methods of one name cannot do both, so `PyODAdapter` is a class of its own. The
attributes `decision_scores_`, `threshold_` and `labels_` only exist in PyOD's
world; both classes have them in PyOD's sense.
"""

import functools
import numbers
import os
from typing import Any, NamedTuple, Self, cast
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from metaad_jax import devices, features, storage
from metaad_jax.base import DataError
from metaad_jax.data import episodes
from metaad_jax.detector import adaptation, explanations, exported
from metaad_jax.scores import conformal, metrics
from metaad_jax.training import runs

_LARGE = 1e15
_ANOMALIES = 64  # labelled ones that a support holds at most
_UNCALIBRATED = 50  # normals that a support holds, where nobody measured


def load_run(run_dir: str) -> runs.Run:
  """A run by its folder, file or name, read once."""
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
  run = runs.restore(run_dir)
  if runs.regression(run.config):
    raise DataError(
      f'{run_dir} was trained on a regression problem: it ranks no rows'
    )
  return run


class Judgement(NamedTuple):
  """What `judge` says of n rows.

  Attributes:
    scores: [n] float64, higher = more abnormal.
    p_values: [n] how likely a normal row scores as high.
    outliers: [n] bool, whether the score is above the threshold.
  """

  scores: np.ndarray
  p_values: np.ndarray
  outliers: np.ndarray


class _Judged(NamedTuple):
  """What the rows of `fit` and their calibration come to.

  Attributes:
    scores: [n] of all rows, higher = more abnormal.
    evidence: see `calibration`.
    threshold: a score above is an alarm.
  """

  scores: np.ndarray
  evidence: conformal.Evidence
  threshold: float


class MetaAnomalyDetector(OutlierMixin, BaseEstimator):
  """A meta-trained detector, adapted to few normals of one entity.

  Args:
    run_dir: a run's folder, a model file, or 'shipped': the checkpoint that
      comes with the package.
    false_alarm_rate: the share of normal rows that `predict` may call
      outliers; what is promised is in `docs/calibration.md`.
    window_features: features of windows [length, channels], for a run that
      takes tables of any width; see `metaad_jax.features`. None = the logarithm
      of the power in 32 bands, and statistics.
    rate: sampling rate of windows in Hz, for the names of frequency bands.

  Attributes:
    threshold_: a row whose abnormality is above this is an outlier.
    offset_: -threshold_; decision_function = score_samples - offset_.
    decision_scores_: [n] abnormality of the rows of `fit` and `partial_fit`,
      the support's normals each scored without itself.
    labels_: [n] decision_scores_ > threshold_, as 0 and 1.
    n_features_in_: number of columns, or of samples in a window.
    feature_names_in_: names of the columns, where a frame gave them.
    support_: [n] bool, which rows the detector is adapted to; the other
      normals only calibrate it.

  Example:
    >>> detector = MetaAnomalyDetector().fit(normals)
    >>> detector.p_values(new_rows)
  """

  n_features_in_: int

  def __init__(
    self,
    run_dir: str = 'shipped',
    *,
    false_alarm_rate: float = 0.05,
    window_features: str | None = None,
    rate: float | None = None,
  ):
    self.run_dir = run_dir
    self.false_alarm_rate = false_alarm_rate
    self.window_features = window_features
    self.rate = rate

  def __sklearn_tags__(self):
    tags = super().__sklearn_tags__()
    tags.input_tags.allow_nan = True
    tags.input_tags.three_d_array = True
    return tags

  @classmethod
  def from_run(cls, run_dir: str, **options: Any) -> Self:
    """A detector of a trained run; the run is read at once.

    Args:
      run_dir: see the class.
      **options: the other arguments of the class.

    Raises:
      DataError: if it is no run, or a damaged one.
    """
    load_run(run_dir)
    return cls(run_dir, **options)

  def fit(self, X, y=None) -> Self:
    """Adapts to an entity.

    Of the normals, as many as the calibration has seen in a support are
    adapted to, drawn at random; the others calibrate.

    Args:
      X: rows [n, d], or windows [n, length, channels]; an array or a frame of
        pandas or polars, whose text columns become categories. NaN is a
        missing value, if the run takes tables.
      y: [n] 0 = normal, 1 = anomaly, -1 = unlabelled: taken for normal, with
        room for error. None = all normal.

    Returns:
      self.

    Raises:
      ValueError: for rows or labels that make no sense, in one line.
    """
    self._check_arguments()
    for name in ('_names', '_categories', 'feature_names_in_', '_windows'):
      self.__dict__.pop(name, None)
    x = self._encode(X, fitting=True)
    labels = self._labels(y, len(x))
    if not (labels != 1).any():
      raise DataError(
        'y marks every row as an anomaly: give at least one normal row'
      )
    draw = np.random.default_rng(0).permutation(len(x))
    self._x, self._y = x, labels
    self.support_ = np.zeros(len(x), bool)
    room = self._room()
    for kind, most in ((0, room), (-1, room), (1, _ANOMALIES)):
      if kind == -1:
        most -= int((labels[self.support_] == 0).sum())
      self.support_[draw[labels[draw] == kind][: max(0, most)]] = True
    return self._adapt()

  def partial_fit(self, X, y=None) -> Self:
    """Takes in more rows of the entity that was fitted.

    Every second normal joins the support, as long as there is room; the others
    are held out and calibrate: with them the p-values go from what holds for
    other entities to what holds for this one. Labelled anomalies join the
    support; unlabelled rows only do if there is room.

    Args:
      X: see `fit`.
      y: see `fit`.

    Returns:
      self.

    Raises:
      ValueError: see `fit`.
    """
    if not hasattr(self, '_x'):
      return self.fit(X, y)
    x = self._encode(X)
    labels = self._labels(y, len(x))
    held = int((self.support_ & (self._y != 1)).sum())
    bad = int((self.support_ & (self._y == 1)).sum())
    seen = int((self._y == 0).sum())
    chosen = np.zeros(len(x), bool)
    for i, label in enumerate(labels):
      if label == 1:
        chosen[i] = bad < _ANOMALIES
        bad += chosen[i]
      else:
        odd = label == -1 or seen % 2 == 1
        chosen[i] = odd and held < self._room()
        held += chosen[i]
        seen += label == 0
    self._x = np.concatenate([self._x, x])
    self._y = np.concatenate([self._y, labels])
    self.support_ = np.concatenate([self.support_, chosen])
    return self._adapt()

  def score_samples(self, X) -> np.ndarray:
    """[n] float64, higher = more normal; see `fit` for X."""
    return -self._abnormality(X)

  def decision_function(self, X) -> np.ndarray:
    """[n] float64, negative for outliers; see `fit` for X."""
    return self.score_samples(X) - self.offset_

  def predict(self, X) -> np.ndarray:
    """[n] int: 1 = normal, -1 = outlier; see `fit` for X."""
    return np.where(self.decision_function(X) >= 0, 1, -1)

  def predict_proba(self, X) -> np.ndarray:
    """[n, 2] normal and anomaly; even at the threshold.

    A display of the score: the logistic function of its distance from the
    threshold. What is calibrated is `p_values`.
    """
    abnormal = expit(-self.decision_function(X))
    return np.column_stack([1 - abnormal, abnormal])

  def p_values(self, X) -> np.ndarray:
    """[n] how likely a normal row scores as high; see `calibration`."""
    scores = self._abnormality(X)
    return conformal.p_values(
      self._calibration(), self._judged().evidence, scores
    )

  def judge(self, X) -> Judgement:
    """Scores, p-values and decisions, in one go; see `fit` for X."""
    scores = self._abnormality(X)
    p = conformal.p_values(self._calibration(), self._judged().evidence, scores)
    return Judgement(scores, p, scores > self.threshold_)

  def discoveries(self, X, rate: float = 0.1) -> np.ndarray:
    """[n] bool: a batch's outliers, at most a share `rate` of them false.

    See `calibration.benjamini_hochberg`.
    """
    return conformal.benjamini_hochberg(self.p_values(X), rate)

  def score(self, X, y) -> float:
    """AUROC of anomalies (y = 1) against normals (y = 0).

    Rows labelled -1 are left out. This is what GridSearchCV maximises.

    Raises:
      ValueError: if a label is missing or impossible, or one kind is.
    """
    scores = self._abnormality(X)
    labels = self._labels(y, len(scores))
    known = labels >= 0
    if len(np.unique(labels[known])) < 2:
      raise DataError('y needs rows of 0 and of 1 to tell them apart')
    return float(metrics.auroc(labels[known], scores[known]))

  def explain(self, X) -> list[explanations.Explanation]:
    """Why each row scores what it scores; see `explain` and `fit` for X."""
    check_is_fitted(self, '_x')
    rows = self._encode(X)
    support = self.support_
    x, y = self._features(self._x[support]), self._y[support] == 1
    judges = [
      (functools.partial(adaptation.score, self._run(), adapted), who)
      for adapted, who in adaptation.without(self._run(), x, y)
    ]
    scores = self._score(self._features(rows))
    p = conformal.p_values(self._calibration(), self._judged().evidence, scores)
    numbers = np.flatnonzero(support & (self._y != 1))
    told = []
    for row, score, chance, words in zip(
      rows, scores, p, self._words(X, rows), strict=True
    ):
      e = self._explain(
        row, score, chance, self._x[support], y, judges, numbers
      )
      told.append(e._replace(words=words))
    return told

  def _words(self, X, rows):
    """The texts of every row, by column; missing ones left out."""
    found: list[dict[str, str]] = [{} for _ in rows]
    names = getattr(self, '_names', None) or ()
    for name in getattr(self, '_categories', {}):
      if not _is_frame(X):
        break
      (column,) = (c for c in X.columns if str(c) == name)
      place = names.index(name)
      for words, row, text in zip(found, rows, X[column], strict=True):
        if not np.isnan(row[place]):
          words[name] = str(text)
    return found

  def _explain(self, row, score, p, support, bad, judges, numbers):
    names = self._column_names()
    seen, values = self._features(support), self._features(row[None])[0]
    known = seen[~bad]
    times, seconds = np.zeros(0), np.zeros(0)
    gains, mend, shared = np.zeros(0), None, 0.0
    signal, usual = np.zeros((0, 0)), np.zeros((0, 0, 0))
    reference = float(np.mean(self.decision_scores_[self._normal_support()]))
    if known.ndim == 2:
      unseen = [(judge, seen[who]) for judge, who in judges]
      gains, shared = explanations.attributions(
        unseen, values, np.arange(len(values)), score - reference
      )
      mend = explanations.change(
        self._score, values, known, gains, self.threshold_
      )
    if row.ndim == 2:
      part = explanations.segments(len(row))
      players = np.repeat(part[:, None], row.shape[1], 1)
      through = lambda judge: lambda rows: judge(self._features(rows))
      unseen = [(through(judge), support[who]) for judge, who in judges]
      times, _ = explanations.attributions(
        unseen, row, players, score - reference
      )
      starts = np.flatnonzero(np.diff(part, prepend=-1))
      rate = self._sampling() or 1.0
      seconds = np.append(starts, len(row)) / rate
      signal, usual = row, support[~bad]
    flat = lambda rows: rows.reshape(len(rows), -1)
    near, far = explanations.nearest(flat(values[None])[0], flat(known))
    if self._tables() and row.ndim == 1:  # as it came, not as it is scored
      values, known = row, support[~bad]
      if mend is not None:
        told = row.copy()
        told[mend.columns] = known[mend.normal][mend.columns]
        mend = mend._replace(row=told)
    return explanations.Explanation(
      names, flat(values[None])[0], gains, float(score), reference, shared,
      self.threshold_, float(p), flat(known), near, far, mend, times, seconds,
      's' if self._sampling() else 'samples', signal, usual, numbers,
      getattr(self, '_categories', {}),
    )  # fmt: skip

  def save(self, path: str) -> None:
    """Writes the detector, its run and its rows into one model file.

    Args:
      path: ends in .npz. The file holds arrays and JSON, no code.

    Raises:
      DataError: if it cannot be written.
    """
    check_is_fitted(self, '_x')
    if not path.endswith('.npz'):
      raise DataError(f'{path}: a model file ends in .npz')
    arrays, meta = runs.pack(self._run())
    options = self.get_params()
    del options['run_dir']
    arrays |= {
      'detector/x': self._x,
      'detector/y': self._y,
      'detector/support': self.support_,
    }
    meta['detector'] = {
      'options': options,
      'names': getattr(self, '_names', None),
      'categories': getattr(self, '_categories', {}),
      'n_features_in': self.n_features_in_,
    }
    storage.save(path, arrays, meta)

  @classmethod
  def load(cls, path: str) -> Self:
    """Reads what `save` wrote.

    Raises:
      DataError: if the file is missing, damaged, of another version, or no
        detector.
    """
    arrays, meta = storage.load(path)
    try:
      held = meta['detector']
      made = cls(path, **held['options'])
      made._check_arguments()
      made._x = np.asarray(arrays['detector/x'], np.float64)
      made._y = np.asarray(arrays['detector/y'], np.int64)
      made.support_ = np.asarray(arrays['detector/support'], bool)
      made.n_features_in_ = int(held['n_features_in'])
      if held['names'] is not None:
        made._names = [str(name) for name in held['names']]
        made.feature_names_in_ = np.array(made._names, object)
        made._categories = {
          str(k): [str(v) for v in values]
          for k, values in held['categories'].items()
        }
      if made._x.ndim == 3:
        made._windows = made._x.shape[1:]
      x, y, width = made._x, made._y, made.n_features_in_
      if (
        x.ndim not in (2, 3)
        or np.isinf(x).any()
        or not np.isin(y, (-1, 0, 1)).all()
        or not len(x) == len(y) == len(made.support_)
        or not x.shape[1] == width == len(getattr(made, '_names', x[0]))
      ):
        raise ValueError('rows, labels or names do not fit')
      if not (made._y[made.support_] != 1).any():
        raise ValueError('no normal row')
      return made._adapt()
    except DataError:
      raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as e:
      raise DataError(
        f'{path} holds no detector, or a damaged one ({e!r}): save it anew'
      ) from e

  def export(self, path: str) -> None:
    """Writes the fitted detector as compiled functions; see `exported`.

    The file scores, decides and gives p-values with jax alone. It cannot be
    fitted again, explains nothing, and takes arrays: its columns are those of
    `fit`, in their order, text as the number of the category.

    Args:
      path: ends in .npz.

    Raises:
      DataError: if it cannot be written.
    """
    check_is_fitted(self, '_x')
    if not path.endswith('.npz'):
      raise DataError(f'{path}: a model file ends in .npz')
    run, shape = self._run(), self._x.shape[1:]
    width = self._adapted.width
    if self._tables():
      width = episodes.padded_size(width)
    plain = self._tables() and len(shape) == 1
    apply, scaling = None, (self._centre, self._unit)
    if not plain:
      apply, scaling = (
        jax.vmap(self._feature().apply),
        (np.zeros(1), np.ones(1)),
      )

    def score(state, x):
      if apply is not None:
        x = jnp.clip(apply(x), -1e18, 1e18)
      padding = [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])]
      return run.learner.score(state, jnp.pad(x, padding))

    exported.save(
      path,
      score,
      self._adapted.state,
      shape,
      missing=plain,
      scaling=scaling,
      threshold=self.threshold_,
      false_alarm_rate=float(self.false_alarm_rate),
      ladder=conformal.ladder(self._calibration(), self._judged().evidence),
      names=tuple(str(name) for name in self._column_names()) if plain else (),
      meta={'run': run.name, 'categories': getattr(self, '_categories', {})},
    )

  # What follows is the inside.

  def _check_arguments(self):
    rate = self.false_alarm_rate
    if not isinstance(rate, numbers.Real) or not 0 < rate < 1:
      raise DataError(
        f'false_alarm_rate={rate!r} is impossible: it lies between 0 and 1'
      )

  def _run(self) -> runs.Run:
    return load_run(self.run_dir)

  def _calibration(self) -> conformal.Calibration:
    found = self._run().calibration
    if found is None:
      raise DataError(
        f'{self.run_dir} is not calibrated, so there is no threshold: run '
        f'python -m experiments.calibrate --run_dir={self.run_dir}'
      )
    return found

  def _room(self):
    found = self._run().calibration
    return _UNCALIBRATED if found is None else int(found.shots[-1])

  def _tables(self):
    return runs.any_width(self._run().config)

  def _sampling(self):
    return self._run().layout.rate or self.rate

  def _adapt(self):
    """Adapts to the support; `_judged` judges by it when it is asked."""
    self._rate = float(self.false_alarm_rate)
    conformal.check(
      self._calibration(),
      self._evidence(np.zeros(0), np.zeros(self._own().sum())),
      self._rate,
    )
    self._centre, self._unit = self._scaling()
    y = (self._y == 1).astype(np.float32)
    support = self.support_
    self._adapted = adaptation.adapt(
      self._run(), self._features(self._x[support]), y[support]
    )
    self._found: list[_Judged] = []  # filled when it is asked for
    return self

  def _judged(self) -> _Judged:
    """Scores all rows that are held, and finds the threshold."""
    check_is_fitted(self, '_x')
    if not self._found:
      run, support = self._run(), self.support_
      x, normal = self._features(self._x), self._normal_support()
      scores = np.empty(len(x))
      known = adaptation.support_scores(run, x[support], self._y[support] == 1)
      rest = ~normal if len(known) else np.ones(len(x), bool)
      if len(known):
        scores[normal] = known
      if rest.any():
        scores[rest] = adaptation.score(run, self._adapted, x[rest])
      evidence = self._evidence(known, scores[self._own()])
      threshold = conformal.threshold(self._calibration(), evidence, self._rate)
      # Into a list: a call leaves the attributes what they were.
      self._found.append(_Judged(scores, evidence, threshold))
    return self._found[0]

  threshold_ = property(lambda self: self._judged().threshold)
  offset_ = property(lambda self: -self._judged().threshold)
  decision_scores_ = property(lambda self: self._judged().scores)
  labels_ = property(
    lambda self: (self.decision_scores_ > self.threshold_).astype(int)
  )

  def _evidence(self, known, own):
    support = self._y[self.support_]
    return conformal.Evidence(
      int((support != 1).sum()),
      int((support == 1).sum()),
      bool((support == -1).any()),
      known,
      own,
    )

  def _own(self):
    """[n] bool, the normals that are held out of the support."""
    return ~self.support_ & (self._y == 0)

  def _normal_support(self):
    return self.support_ & (self._y != 1)

  def _abnormality(self, X):
    check_is_fitted(self, '_x')
    return self._score(self._features(self._encode(X)))

  def _score(self, x):
    return adaptation.score(self._run(), self._adapted, x)

  def _feature(self):
    run, shape = self._run(), self._x.shape[1:]
    if run.layout.shape == (None,):
      spec = 'identity'
      if len(shape) == 2:
        spec = self.window_features or features.of_windows(shape[0])
      return features_of(spec, shape, self.rate, self._names_of(shape))
    return runs.make_feature(run.config, run.layout)

  def _names_of(self, shape):
    names = getattr(self, '_names', None)
    return tuple(names) if names else ()

  def _column_names(self):
    feature = self._feature()
    if self._x.ndim == 2 and not hasattr(self, '_names'):
      channels = self._run().layout.channels
      return channels or tuple(f'column {i}' for i in range(self._x.shape[1]))
    if self._x.shape[-1] == 1 and not hasattr(self, '_names'):
      return tuple(name.removesuffix(', ch 0') for name in feature.names)
    return feature.names

  def _features(self, rows):
    """Rows [n, ...] float64 as they came -> [n, F] float32 for the learner."""
    if self._tables() and rows.ndim == 2:
      with np.errstate(over='ignore'):
        scaled = (rows - self._centre) * self._unit
      return np.clip(scaled, -1e18, 1e18).astype(np.float32)
    rows = np.clip(rows, -1e18, 1e18).astype(np.float32)
    if not len(rows):
      return rows
    made = episodes.transform_rows(self._feature().apply, rows)
    return np.clip(made, -1e18, 1e18)

  def _scaling(self):
    """What float32 cannot hold is shifted or scaled, column by column.

    A table learner looks at differences and ratios, so a power of two changes
    nothing; a column that varies by less than 1e-4 of its size, such as a time
    of day in seconds since 1970, is shifted by its median.
    """
    x = self._x[self.support_]
    if x.ndim == 3:
      return np.zeros(1), np.ones(1)
    with warnings.catch_warnings(), np.errstate(all='ignore'):
      warnings.simplefilter('ignore', RuntimeWarning)  # columns all missing
      low, high = (np.nan_to_num(f(x, 0)) for f in (np.nanmin, np.nanmax))
      span, centre = high / 2 - low / 2, np.zeros(x.shape[1])
      size = np.maximum(np.abs(low), np.abs(high))
      narrow = (span > 0) & (span < 1e-4 * size)
      if narrow.any():  # a median takes longer than all the rest
        median = np.nanmedian(x[:, narrow], 0)
        far = span[narrow] < 1e-4 * np.abs(median)
        centre[narrow] = np.where(far, median, 0.0)
        size = np.nan_to_num(np.nanmax(np.abs(x - centre), 0))
    odd = (size > _LARGE) | ((size < 1 / _LARGE) & (size > 0))
    exponent = np.frexp(np.where(odd, size, 0.0))[1]
    unit = np.exp2(np.clip(-exponent, -1000, 1000).astype(np.float64))
    return centre, unit

  def _labels(self, y, n):
    if y is None:
      return np.zeros(n, np.int64)
    held = y.to_numpy() if hasattr(y, 'to_numpy') else y
    try:
      labels = np.asarray(held)
      if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
      good = labels.shape == (n,) and labels.dtype.kind in 'biufO'
      labels = labels.astype(np.float64) if good else labels
      good = good and bool(np.isin(labels, (-1, 0, 1)).all())
    except (TypeError, ValueError):
      good = False
    if not good:
      raise DataError(
        f'y must hold one label for each of the {n} rows: 0 = normal, 1 = '
        'anomaly, -1 = unlabelled'
      )
    return labels.astype(np.int64)

  def _encode(self, X, fitting=False):
    """What people have -> [n, d] or [n, L, C] float64, checked."""
    if _is_frame(X):
      x = self._encode_frame(X, fitting)
    else:
      x = self._encode_array(X, fitting)
    self._check_shape(x, fitting)
    if np.isinf(x).any():
      raise DataError(
        f'X: row {np.argwhere(np.isinf(x))[0][0]} holds infinity: mend it, or '
        'write NaN for a missing value'
      )
    if np.isnan(x).any() and not (self._tables() and x.ndim == 2):
      raise DataError(
        f'X: row {np.argwhere(np.isnan(x))[0][0]} holds NaN: this run takes no '
        'missing values; mend or leave out that row'
      )
    if fitting:
      self._windows = x.shape[1:] if x.ndim == 3 else None
    return x

  def _encode_array(self, X, fitting):
    try:
      return validate_data(
        self, X, reset=fitting, dtype=np.float64, allow_nd=True,
        ensure_all_finite=False,
      )  # fmt: skip
    except (ValueError, TypeError):
      raise
    except (OverflowError, MemoryError, AttributeError) as error:
      raise DataError(f'X cannot be read as numbers: {error}') from error

  def _check_shape(self, x, fitting):
    if x.ndim not in (2, 3):
      raise DataError(
        f'X has {x.ndim} dimensions: give rows [n, d] or windows [n, length, '
        'channels]'
      )
    wanted: Any = self._run().layout.shape
    if wanted == (None,):
      wanted = None if fitting else self._x.shape[1:]
    if wanted is not None and x.shape[1:] != tuple(wanted):
      raise DataError(
        f'X: a row has shape {list(x.shape[1:])}, the run or the fitted rows '
        f'have {list(wanted)}'
      )

  def _encode_frame(self, X, fitting):
    names = [str(name) for name in X.columns]
    if len(set(names)) < len(names):
      raise DataError('X has two columns of one name: rename one')
    known: Any = names if fitting else getattr(self, '_names', None)
    if not fitting and known is None:
      if len(names) != self.n_features_in_:
        raise DataError(
          f'X has {len(names)} features, but {type(self).__name__} is '
          f'expecting {self.n_features_in_} features as input'
        )
      known, missing = names, []
    else:
      missing = [name for name in known if name not in names]
    if missing or (len(names) != len(known)):
      extra = [name for name in names if name not in known]
      raise DataError(
        f'X lacks column {missing[0]!r}' if missing
        else f'X has a column {extra[0]!r} that was not there in fit'
      )  # fmt: skip
    if not len(X) or not names:
      raise DataError(
        f'X has {len(X)} rows and {len(names)} columns: give at least one '
        '(0 sample(s), 0 feature(s) make no table)'
      )
    by_name = dict(zip(names, X.columns, strict=True))
    held = {} if fitting else getattr(self, '_categories', {})
    columns, categories = [], {}
    for name in known:
      values, found = _column(name, X[by_name[name]], held.get(name), fitting)
      columns.append(values)
      if found is not None:
        categories[name] = found
    if fitting:
      self._names, self._categories = names, categories
      self.n_features_in_ = len(names)
      if all(isinstance(name, str) for name in X.columns):
        self.feature_names_in_ = np.array(names, object)
    return np.column_stack(columns)


def features_of(
  spec: str,
  shape: tuple[int, ...],
  rate: float | None,
  channels: tuple[str, ...],
) -> features.Feature:
  """The features of a window, or a row of a table, made once."""
  return _features_of(spec, shape, rate, channels)


@functools.lru_cache(maxsize=64)
def _features_of(spec, shape, rate, channels):
  return features.make(spec, shape, rate=rate, channels=channels)


def _is_frame(X):
  return hasattr(X, 'columns') and hasattr(X, '__getitem__')


def _column(name, column, known, fitting):
  """One column of a frame -> [n] float64, and its categories if it has any."""
  values = column.to_numpy() if hasattr(column, 'to_numpy') else column
  values = np.asarray(values)
  if values.ndim != 1:
    raise DataError(f'X: column {name!r} holds {values.shape[1:]} per row')
  if values.dtype.kind == 'M':
    missing = np.isnat(values)
    seconds = values.astype('datetime64[us]').astype(np.int64) / 1e6
    return np.where(missing, np.nan, seconds), None
  if values.dtype.kind == 'm':
    missing = np.isnat(values)
    seconds = values.astype('timedelta64[us]').astype(np.int64) / 1e6
    return np.where(missing, np.nan, seconds), None
  if values.dtype.kind in 'biuf' and known is None:
    return values.astype(np.float64), None
  listed = values.tolist()
  lost = np.array([_missing(value) for value in listed])
  if known is None:
    plain = all(
      lost[i] or isinstance(value, numbers.Real)
      for i, value in enumerate(listed)
    )
    if plain:  # objects that are numbers
      try:
        return np.array(
          [np.nan if m else float(v) for v, m in zip(listed, lost, strict=True)]
        ), None
      except OverflowError as error:
        raise DataError(f'X: column {name!r}: {error}') from error
    if not fitting:
      raise DataError(
        f'X: column {name!r} held numbers in fit, and now holds text'
      )
  texts = []
  for value, gone in zip(listed, lost, strict=True):
    if not gone and not isinstance(value, str | numbers.Real):
      raise DataError(
        f'X: column {name!r} holds a {type(value).__name__}: give numbers or '
        'text'
      )
    texts.append('' if gone else str(value))
  if known is None:
    known = sorted({t for t, gone in zip(texts, lost, strict=True) if not gone})
  codes = {value: code for code, value in enumerate(known)}
  found = np.array([codes.get(t, len(known)) for t in texts], np.float64)
  return np.where(lost, np.nan, found), known


def _missing(value):
  if value is None:
    return True
  try:
    return bool(value != value)  # NaN, NaT
  except (TypeError, ValueError):  # pandas.NA
    return True


class PyODAdapter(BaseEstimator):
  """`MetaAnomalyDetector` in PyOD's convention: 1 = outlier, higher = worse.

  Args:
    run_dir: see `MetaAnomalyDetector`.
    contamination: above 0, the rows of `fit` may hold anomalies: without
      labels they count as unlabelled. It does not set the threshold.
    false_alarm_rate: see `MetaAnomalyDetector`.

  Attributes:
    detector_: the `MetaAnomalyDetector` inside.
    decision_scores_, threshold_, labels_: see there.
  """

  def __init__(
    self,
    run_dir: str = 'shipped',
    *,
    contamination: float = 0.1,
    false_alarm_rate: float = 0.05,
  ):
    self.run_dir = run_dir
    self.contamination = contamination
    self.false_alarm_rate = false_alarm_rate

  def fit(self, X, y=None) -> Self:
    """See `MetaAnomalyDetector.fit`."""
    if not 0 <= self.contamination <= 0.5:
      raise DataError(
        f'contamination={self.contamination!r} is impossible: it lies between '
        '0 and 0.5'
      )
    self.detector_ = MetaAnomalyDetector(
      self.run_dir, false_alarm_rate=self.false_alarm_rate
    )
    if y is None and self.contamination > 0:
      y = np.full(len(X), -1)
    self.detector_.fit(X, y)
    return self

  decision_scores_ = property(lambda self: self._inner().decision_scores_)
  threshold_ = property(lambda self: self._inner().threshold_)
  labels_ = property(lambda self: self._inner().labels_)

  def _inner(self) -> MetaAnomalyDetector:
    check_is_fitted(self, 'detector_')
    return cast(MetaAnomalyDetector, self.detector_)

  def decision_function(self, X) -> np.ndarray:
    """[n] float64, higher = more abnormal."""
    return -self._inner().score_samples(X)

  def predict(self, X, return_confidence: bool = False) -> Any:
    """[n] int: 0 = normal, 1 = outlier.

    Args:
      X: see `MetaAnomalyDetector.fit`.
      return_confidence: also return `predict_confidence`, as PyOD does.
    """
    labels = (self._inner().predict(X) == -1).astype(int)
    if return_confidence:
      return labels, self.predict_confidence(X)
    return labels

  def predict_proba(self, X) -> np.ndarray:
    """[n, 2] normal and anomaly."""
    return self._inner().predict_proba(X)

  def predict_confidence(self, X) -> np.ndarray:
    """[n] the larger of the two probabilities."""
    return self.predict_proba(X).max(1)

  def fit_predict(self, X, y=None) -> np.ndarray:
    """Labels of the rows that were fitted."""
    return self.fit(X, y).labels_
