"""The detector in scikit-learn's convention for outlier detectors.

As with IsolationForest, `predict` gives 1 for normal and -1 for an outlier, and
`decision_function` and `score_samples` are higher where a row is more normal.
PyOD's convention is the opposite: see `metaad_jax.detector.pyod`. Labels `y`
are 0 and 1, where 1 is an anomaly, or 1 and -1, where -1 is an outlier. The
attributes `decision_scores_`, `threshold_` and `labels_` only exist in PyOD's
world, and are meant as there: higher = more abnormal, 1 = outlier.
"""

from collections.abc import Sequence
import contextlib
import os
import sys
from typing import Any, Self
import warnings

import numpy as np
from scipy.special import expit
from sklearn.base import BaseEstimator, OutlierMixin, is_classifier
from sklearn.utils.validation import check_is_fitted, validate_data

from metaad_jax.base import DataError
from metaad_jax.data.user_files import Samples
from metaad_jax.detector import (
  encoding,
  explanations,
  fitted,
  sanity,
  unverified,
)
from metaad_jax.detector.encoding import Columns, Encoded
from metaad_jax.detector.fitted import Fitted, Judgement, load_run
from metaad_jax.scores import conformal, metrics, reach


class MetaAnomalyDetector(OutlierMixin, BaseEstimator):
  """A meta-trained detector, adapted to few normals of one entity.

  Rows (`X`) are a table [n, d] or windows [n, length, channels]: an array; a
  frame of pandas or polars, an arrow table, a dict of columns, which are read
  as `data.user_files` reads files: ids, times, counters and labels are set
  aside, and a warning names them; or what `encode` made of them. NaN is a
  missing value, if the run takes tables. A run that was never calibrated ranks
  rows; what needs a threshold says so.

  Args:
    run_dir: a run's folder, a model file, or 'shipped': the checkpoint that
      comes with the package; or 'thorough', a slower one for fifty verified
      rows and more.
    false_alarm_rate: the share of normal rows that `predict` may call
      outliers; what is promised is in `docs/calibration.md`.
    window_features: features of windows [length, channels], for a run that
      takes tables of any width; see `metaad_jax.features`. None = the logarithm
      of the power in 32 bands, and statistics.
    rate: sampling rate of windows in Hz, for the names of frequency bands.
    features: names of columns of a frame that are features, though they look
      like ids, times or labels; '*' = all are.

  Attributes:
    threshold_: a row whose abnormality is above this is an outlier.
    offset_: -threshold_, 0 if the run is not calibrated; decision_function =
      score_samples - offset_.
    decision_scores_: [n] abnormality of the rows of `fit` and `partial_fit`,
      the support's normals each scored without itself.
    labels_: [n] decision_scores_ > threshold_, as 0 and 1.
    n_features_in_: number of columns, or of samples in a window.
    feature_names_in_: names of the columns, where a frame gave them; also of
      those that were set aside.
    suspects_: [n] probability that an unlabelled row of `fit` is an anomaly;
      NaN for others, and for those beyond the support.
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
    features: Sequence[str] = (),
  ):
    self.run_dir = run_dir
    self.false_alarm_rate = false_alarm_rate
    self.window_features = window_features
    self.rate = rate
    self.features = features

  def __sklearn_tags__(self):
    tags = super().__sklearn_tags__()
    tags.input_tags.allow_nan = True
    tags.input_tags.three_d_array = True
    return tags

  @classmethod
  def from_run(cls, run_dir: str, **options: Any) -> Self:
    """A detector of a run, which is read at once; arguments as of the class.

    Raises:
      DataError: if it is no run, or a damaged one.
    """
    load_run(run_dir)
    return cls(run_dir, **options)

  def fit(self, X, y=None, unlabelled=None) -> Self:
    """Adapts to an entity.

    Of the normals, as many as the calibration has seen in a support are
    adapted to, drawn at random; the others calibrate. Copies count once.

    Args:
      X: rows that were verified, see the class; or None.
      y: [n] 0 = normal and 1 = anomaly (or False and True); or 1 = inlier and
        -1 = outlier, as in scikit-learn. None = all normal.
      unlabelled: [m] rows of the same columns that nobody checked, or None.
        Beside verified ones `run_dir='shipped'` takes its second file, which
        tells them apart (`docs/detector.md`); alone, or by a run that does
        not, they are taken for normal, with room for error.

    Raises:
      ValueError: for rows or labels that make no sense, in one line.
    """
    rows, labels = self._take_in(X, y, unlabelled, fitting=True)
    if not (labels != 1).any():
      raise DataError(
        'y marks every row as an anomaly: give at least one normal row'
      )
    run, words = self._run(labels), rows.columns.words
    draw = np.unique(sanity.originals(rows.x, labels, words))
    draw = draw[np.argsort(sanity.row_keys(rows.x[draw], words))]
    rooms = unverified.rooms(run, labels, rows.x[0].size)
    support = unverified.draw(draw, labels, rooms)
    return self._adapt(rows.columns, rows.x, labels, support, run)

  def partial_fit(self, X, y=None, unlabelled=None) -> Self:
    """Takes in more rows of the entity that was fitted.

    Every second normal joins the support, as long as there is room; the others
    are held out and calibrate: with them the p-values go from what holds for
    other entities to what holds for this one. Labelled anomalies join the
    support; unlabelled rows only do if there is room. Arguments and errors are
    those of `fit`.
    """
    if not hasattr(self, '_fitted'):
      return MetaAnomalyDetector.fit(self, X, y, unlabelled)
    rows, labels = self._take_in(X, y, unlabelled)
    known = self._fitted
    x, y = (
      np.concatenate(pair) for pair in ((known.x, rows.x), (known.y, labels))
    )
    first = sanity.originals(x, y, known.columns.words) == np.arange(len(x))
    new = np.where(first[len(known.x) :], labels, -2)
    run, name = known.run, known.options.run_dir
    if (other := unverified.run_for(name, y)) != name:
      run = load_run(other)
    rooms = unverified.rooms(run, y, rows.x[0].size)
    seen = (known.y == 0).sum() + np.cumsum(new == 0)
    good, bad, open_rows = (new == 0) & (seen % 2 == 0), new == 1, new == -1
    held = lambda kind: (known.support & (known.y == kind)).sum()
    passing = 0 if run.setup.suspicious else held(-1)
    chosen = good & (np.cumsum(good) <= rooms[0] - held(0) - passing)
    room = rooms[-1] - held(0) - held(-1) - chosen.sum()
    chosen |= open_rows & (np.cumsum(open_rows) <= room)
    chosen |= bad & (np.cumsum(bad) <= rooms[1] - held(1))
    return self._adapt(
      known.columns, x, y, np.concatenate([known.support, chosen]), run
    )

  def fit_predict(self, X, y=None, verified=None) -> np.ndarray:
    """[n] int: finds the outliers among rows that nobody checked.

    `fit(verified, unlabelled=X)`, and what `labels_` says of X: each row is
    judged by the others (transduction). y is not used.
    """
    del y
    self.fit(verified, unlabelled=X)
    return np.where(self.labels_[self._fitted.y == -1] == 1, -1, 1)

  def encode(self, X) -> Encoded:
    """Rows as numbers, which every method takes in place of X."""
    check_is_fitted(self, '_fitted')
    return self._encode(X)

  def score_samples(self, X) -> np.ndarray:
    """[n] float64, higher = more normal."""
    return -self._abnormality(X)

  def decision_function(self, X) -> np.ndarray:
    """[n] float64, negative for outliers."""
    _refuse_turned_round()
    return self.score_samples(X) - self.offset_

  def predict(self, X) -> np.ndarray:
    """[n] int: 1 = normal, -1 = outlier."""
    _refuse_turned_round()
    return np.where(self._abnormality(X) > self.threshold_, -1, 1)

  def predict_proba(self, X) -> np.ndarray:
    """[n, 2] normal and anomaly; even at the threshold.

    A display of the score: the logistic function of its distance from the
    threshold. What is calibrated is `p_values`.
    """
    _refuse_turned_round()
    abnormal = expit(self._abnormality(X) - self.threshold_)
    return np.column_stack([1 - abnormal, abnormal])

  def p_values(self, X) -> np.ndarray:
    """[n] how likely a normal row scores as high; see `conformal`."""
    _ = self._checked().calibration  # refuses a run without
    return self.judge(X).p_values

  def judge(self, X) -> Judgement:
    """Scores, p-values and decisions, in one go."""
    return self._checked().judge(self._encode(X).x)

  def discoveries(self, X, rate: float = 0.1) -> np.ndarray:
    """[n] bool: a batch's outliers, at most a share `rate` of them false.

    See `conformal.benjamini_hochberg`. Where none is found, a warning says if
    that is for want of normal rows: no p-value could be small enough.
    """
    p, known = self.p_values(X), self._fitted
    found = conformal.benjamini_hochberg(p, rate)
    if not found.any():
      about = known.calibration, known.evidence
      if advice := reach.batch_advice(*about, len(p), rate):
        warnings.warn(advice, stacklevel=2)
    return found

  def score(self, X, y) -> float:
    """AUROC of anomalies against normals; y as in `fit`.

    This is what GridSearchCV maximises.

    Raises:
      ValueError: if a label is missing or impossible, or one kind is.
    """
    scores = self._abnormality(X)
    labels = encoding.labels(y, len(scores))
    if len(np.unique(labels)) < 2:
      raise DataError('y needs both normal rows and anomalies to be scored by')
    return float(metrics.auroc(labels, scores))

  def next_queries(self, X, n: int = 1, policy: str = 'learned') -> np.ndarray:
    """[n] positions of the rows of X that should be labelled next, best first.

    Look at them, `partial_fit` what they are, and ask again.

    Args:
      X: all rows among which anomalies are looked for. Those that the detector
        was told of are found in it, and not asked for again.
      n: how many.
      policy: 'learned', meta-learned on hundreds of tables, or a rule of
        `active.policies.RULES`, such as 'greedy'.

    Raises:
      DataError: if fewer than n rows of X are unknown.
    """
    from metaad_jax.detector import queries  # late: it brings scikit-learn's

    return queries.choose(self._checked(), self.encode(X).x, n, policy)

  def explain(
    self, X, judged: Judgement | None = None
  ) -> list[explanations.Explanation]:
    """Why each row scores what it scores; `judged` = `judge(X)`, if known."""
    rows = self.encode(X)
    return self._fitted.explain(rows, judged or self._fitted.judge(rows.x))

  def save(
    self, path: str | os.PathLike[str], about: dict[str, Any] | None = None
  ) -> None:
    """Writes the detector, its run and its rows into one model file (.npz).

    The file holds arrays and JSON, no code; `about` joins its meta data.

    Raises:
      DataError: if it cannot be written.
    """
    self._checked().save(_model_file(path), about)

  @classmethod
  def load(cls, path: str | os.PathLike[str]) -> Self:
    """Reads what `save` wrote.

    Raises:
      DataError: if the file is missing, damaged, or no detector.
    """
    loaded = Fitted.load(os.fspath(path))
    made = cls(**loaded.options._asdict())
    made._name(loaded.columns.header, loaded.x.shape[1])
    made._fitted, made.support_ = loaded, loaded.support
    return made

  def warm_up(
    self, columns: Sequence[int] = (8,), rows: Sequence[int] = (20,)
  ) -> Self:
    """Compiles ahead of `fit` for tables of so many columns and known rows.

    What is compiled serves up to 8, 16, 24, 32, 48, ... columns and 8, 32, 128,
    ... rows, and is kept on disk for later processes (`devices.persist`).
    Without it `fit` compiles what it needs, some seconds, and nothing after it.
    """
    fitted.warm_up(self.run_dir, columns, rows)
    return self

  def export(self, path: str | os.PathLike[str]) -> None:
    """Writes the fitted detector as compiled functions (.npz); see `exported`.

    The file scores, decides and gives p-values with jax alone. It cannot be
    fitted again, explains nothing, and takes arrays: its columns are those of
    `fit`, in their order, text as the number of the category.

    Raises:
      DataError: if it cannot be written, or the run is not calibrated.
    """
    self._checked().export(_model_file(path))

  @property
  def threshold_(self) -> float:
    _ = self._checked().calibration  # refuses a run without
    return self._fitted.threshold

  @property
  def offset_(self) -> float:
    return -float(np.nan_to_num(self._checked().threshold))

  @property
  def decision_scores_(self) -> np.ndarray:
    return self._checked().scores

  @property
  def suspects_(self) -> np.ndarray:
    return self._checked().suspects

  @property
  def labels_(self) -> np.ndarray:
    return (self.decision_scores_ > self.threshold_).astype(int)

  @property
  def calibrated(self) -> bool:
    """Whether the run is: else rows are only ranked."""
    return self._checked().run.calibration is not None

  def _checked(self) -> Fitted:
    check_is_fitted(self, '_fitted')
    return self._fitted

  def _run(self, labels=()):
    """That for labels; where `run_dir` is gone, what was fitted or loaded."""
    known, name = getattr(self, '_fitted', None), self.run_dir
    chosen = unverified.run_for(name, labels)
    if known is not None and known.options.run_dir == name == chosen:
      with contextlib.suppress(DataError):
        return load_run(name)
      return known.run
    return load_run(chosen)

  def _adapt(self, columns, x, y, support, run):
    options = fitted.Options(
      self.run_dir, self.false_alarm_rate, self.window_features, self.rate,
      self._features(),
    )  # fmt: skip
    unverified.warn(run, y)
    self._fitted = fitted.adapt(options, columns, x, y, support, run)
    self.support_ = support
    return self

  def _abnormality(self, X):
    return self._checked().score(self._encode(X).x)

  def _take_in(self, X, y, unlabelled, fitting=False):
    """Verified and unlabelled rows as one, and labels [n]; -1 = unlabelled."""
    if X is None and (y is not None or unlabelled is None):
      raise DataError(
        'X is None: give verified rows, or fit(None, unlabelled=rows), without '
        'y, where nobody checked any'
      )
    parts, known = [], None
    for rows in (X, unlabelled):
      if rows is not None:
        labels = y if rows is X else None
        parts.append(self._encode(rows, fitting, known, labels))
        known = parts[-1].columns
    x = np.concatenate([part.x for part in parts])
    labels = np.full(len(x), -1)
    if X is not None:
      labels[: len(parts[0].x)] = encoding.labels(y, len(parts[0].x))
    return parts[-1]._replace(x=x), labels

  def _features(self):
    """Names of columns to keep, as a tuple."""
    chosen = self.features
    return (chosen,) if isinstance(chosen, str) else tuple(chosen)

  def _encode(self, X, fitting=False, known=None, y=None) -> Encoded:
    """`known` are the columns of rows of `fit` that came before."""
    if isinstance(X, Encoded):
      return X
    columns = known if fitting else self._fitted.columns
    run = self._run() if fitting else self._fitted.run
    shape: Any = run.layout.shape or getattr(columns, 'shape', None)
    first = fitting and known is None
    if isinstance(X, Samples) or encoding.is_frame(X):
      if columns is not None and not (fitting or columns.names):
        warnings.warn(
          'X has names of columns, which the detector was fitted without: they '
          'are taken in their order', stacklevel=4,
        )  # fmt: skip
      read = X
      if not isinstance(X, Samples):
        read = encoding.read(X, y, columns, self._features())
      rows = encoding.encode(read, columns, grow=fitting)
    else:
      rows = self._array(X, columns, first)
    encoding.check(rows.x, shape, run.setup.any_width)
    if first and rows.columns.names:
      named = getattr(X, 'column_names', getattr(X, 'columns', ()))
      text = isinstance(X, Samples) or all(isinstance(n, str) for n in named)
      self._name(rows.columns.header if text else (), rows.x.shape[1])
    return rows

  def _array(self, X, columns, first):
    options: Any = {'allow_nd': True, 'ensure_all_finite': False}
    if np.ma.is_masked(X):  # what is masked is missing
      X = np.ma.filled(X.astype(np.float64), np.nan)
    try:
      x = validate_data(self, X, reset=first, dtype=np.float64, **options)
    except (OverflowError, MemoryError, AttributeError) as error:
      raise DataError(f'X cannot be read as numbers: {error}') from error
    if not first and len(columns.names) < len(columns.header):
      x = x[:, [columns.header.index(name) for name in columns.names]]
    return Encoded(x, columns or Columns(x.shape[1:]))

  def _name(self, header, width):
    """What scikit-learn asks of the columns of `fit`."""
    self.n_features_in_ = len(header) or width
    if header:
      self.feature_names_in_ = np.array(header, object)
    elif hasattr(self, 'feature_names_in_'):
      del self.feature_names_in_


def _model_file(path):
  path = os.fspath(path)
  if not path.endswith('.npz'):
    raise DataError(f'{path}: a model file ends in .npz')
  return path


def _refuse_turned_round():
  """A DataError where one of scikit-learn's scorers takes 0 for an outlier.

  Such a scorer holds the labels but does not hand them over, so they are looked
  up in its frame; `metaad_jax.scorers` has those that turn them.
  """
  frame = sys._getframe(1)
  place = lambda: (frame.f_globals.get('__name__'), frame.f_code.co_name)
  while place() != ('sklearn.metrics._scorer', '_score'):
    if frame.f_back is None:
      return
    frame = frame.f_back
  scorer, estimator, y = map(
    frame.f_locals.get, ('self', 'estimator', 'y_true')
  )
  kind = lambda s: (s._score_func, s._sign)
  plain = kind(scorer) in map(kind, frame.f_globals['_SCORERS'].values())
  if plain and not is_classifier(estimator) and (np.asarray(y) == 0).any():
    raise DataError(
      'a scorer by name takes 1 for normal, as predict and decision_function '
      'do, but y has 0 there: give scoring=metaad_jax.scorers.roc_auc, '
      '.average_precision or .Scorer(name), or 1 = inlier and -1 = outlier'
    )
