"""What a learner has to beat: detectors fitted on the support alone.

Nothing here has seen another entity. Inputs are standardised by the support's
normal rows, as for the learners. Detectors without `needs_anomalies` fit the
rows labelled 0 (so anomalies that slipped in contaminate them) and ignore
labelled anomalies; each scores a query row without regard to the other query
rows. Constant columns and a single normal row are legal everywhere; the
docstrings say what a method still knows then. Scores are finite float64.

This module must not import jax: `score_many` starts processes that import it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple
import warnings
import zlib

import joblib
import numpy as np
from scipy.spatial import distance
from scipy.special import logsumexp
import sklearn
from sklearn import covariance, ensemble, linear_model, neighbors, svm, tree
from sklearn.utils import class_weight
import threadpoolctl
import tqdm

Support = tuple[np.ndarray, np.ndarray, np.ndarray]
_NEIGHBOURS = 5
_TREES = 100
_ISOLATION_TREES = 200
_ECOD_COLUMNS = 4000  # at once; what fits a core's cache
_STEPS = 200  # of Adam, on the whole support
_WIDTHS = 64, 32  # of the two layers of Deep SVDD, as in PyOD
_MARGIN = 5.0  # DevNet's, in standard deviations


class Baseline(NamedTuple):
  """A detector.

  Attributes:
    needs_anomalies: True = supervised: only for supports with at least one
      row of either label.
    score: (seed, support_x [n, F], support_y [n], query_x [m, F]) -> [m],
      higher = more anomalous. Fits on the support, scores the query.
  """

  needs_anomalies: bool
  score: Callable[[int, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def _random(seed, normal, query):
  """Chance: uniform scores."""
  del normal
  return np.random.default_rng(seed).random(len(query))


def _distance_to_mean(seed, normal, query):
  """Euclidean distance to the mean of the normal rows."""
  del seed
  return np.linalg.norm(query - normal.mean(0), axis=1)


def _nearest_neighbour(seed, normal, query):
  """Euclidean distance to the nearest normal row."""
  del seed
  return distance.cdist(query, normal).min(1)


def _knn(seed, normal, query):
  """Mean Euclidean distance to the 5 nearest normal rows (to all, if fewer).

  Angiulli and Pizzuti, Fast outlier detection in high dimensional spaces, 2002.
  """
  del seed
  return np.sort(distance.cdist(query, normal))[:, :_NEIGHBOURS].mean(1)


def _lof(seed, normal, query):
  """Local outlier factor over at most 5 neighbours.

  One row has no neighbour and so no density: what is left is the distance.

  Breunig et al., LOF: identifying density-based local outliers, 2000.
  """
  if len(normal) == 1:
    return _nearest_neighbour(seed, normal, query)
  detector = neighbors.LocalOutlierFactor(
    n_neighbors=min(_NEIGHBOURS, len(normal) - 1), novelty=True
  )
  return -detector.fit(normal).score_samples(query)


def _mahalanobis(seed, normal, query):
  """Squared Mahalanobis distance, covariance shrunk after Ledoit and Wolf.

  Equal rows (or one) have no covariance: the identity takes its place.

  Ledoit and Wolf, A well-conditioned estimator for large-dimensional
  covariance matrices, 2004.
  """
  if np.all(normal == normal[0]):
    return _distance_to_mean(seed, normal, query) ** 2
  return covariance.LedoitWolf().fit(normal).mahalanobis(query)


def _ocsvm(seed, normal, query):
  """One-class SVM, RBF kernel, nu 0.1; minus the logarithm of the kernel sum.

  The logarithm ranks as the decision function does, but does not underflow to
  one tied score far from the support.

  Schoelkopf et al., Estimating the support of a high-dimensional distribution,
  2001.
  """
  del seed
  variance = normal.var(0).mean()
  gamma = 1 / (normal.shape[1] * (variance if variance > 1e-12 else 1.0))
  detector = svm.OneClassSVM(nu=0.1, gamma=gamma, tol=1e-6).fit(normal)
  squares = distance.cdist(query, detector.support_vectors_, 'sqeuclidean')
  return -logsumexp(-gamma * squares, b=detector.dual_coef_, axis=1)


def _isolation_forest(seed, normal, query):
  """Isolation forest of 200 trees; minus the mean depth of isolation.

  The trees are grown as scikit-learn's IsolationForest grows its own, but one
  by one, which takes a third of the time on few rows; twice its default number
  ranks better. One row, or equal rows, cannot be split: all scores are equal.

  Liu, Ting and Zhou, Isolation forest, 2008.
  """
  rng = np.random.RandomState(seed)
  normal, query = normal.astype(np.float32), query.astype(np.float32)
  target = rng.uniform(size=len(normal))
  limit = max(1, int(np.ceil(np.log2(len(normal)))))
  unseen = _unsuccessful_search(np.arange(len(normal) + 1))
  depth = np.zeros(len(query))
  with sklearn.config_context(skip_parameter_validation=True):
    for _ in range(_ISOLATION_TREES):
      grown = tree.ExtraTreeRegressor(
        max_depth=limit, max_features=1, random_state=rng.randint(2**31 - 1)
      ).fit(normal, target, check_input=False)
      leaves = grown.tree_.n_node_samples[grown.tree_.apply(query)]
      splits = np.diff(grown.tree_.decision_path(query).indptr) - 1
      depth += splits + unseen[leaves]
  return -depth / _ISOLATION_TREES


def _unsuccessful_search(rows):
  """Mean depth below a node of as many rows, had its tree been grown on."""
  more = np.maximum(rows, 3)
  harmonic = np.log(more - 1) + np.euler_gamma
  return np.where(
    rows > 2, 2 * harmonic - 2 * (more - 1) / more, np.maximum(rows - 1, 0)
  )


def _ecod(seed, normal, query):
  """ECOD of each query row in the company of the normal rows.

  PyOD ranks all rows it is given together, which would let the query's own
  anomalies and their number move the scores. ECOD treats columns apart, so
  every query row gets columns of its own and one call still serves many.
  Against one normal row every row that differs in all columns scores alike.

  Li et al., ECOD: unsupervised outlier detection using empirical cumulative
  distribution functions, 2022.
  """
  del seed
  from pyod.models import ecod  # two seconds: it brings numba and matplotlib

  step = max(1, _ECOD_COLUMNS // normal.shape[1])
  scores = []
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # the skewness of constant columns
    for start in range(0, len(query), step):
      rows = query[start : start + step]
      company = np.tile(normal, len(rows))
      detector = ecod.ECOD().fit(np.vstack([company, rows.reshape(1, -1)]))
      scores.append(detector.O[-1].reshape(rows.shape).sum(1))
  return np.concatenate(scores)


def _forest(kind, seed, support_x, support_y, query):
  weights = class_weight.compute_sample_weight('balanced', support_y)
  forest = kind(
    n_estimators=_TREES, max_features='sqrt', random_state=seed, n_jobs=1
  )
  return forest.fit(support_x, support_y, weights).predict(query)


def _random_forest(seed, support_x, support_y, query):
  """Share of the anomaly class in 100 trees, classes weighted equally.

  On labels 0 and 1 the variance is half the Gini impurity, so regression
  trees grow as classification trees do, in two thirds of the time.

  Breiman, Random forests, 2001.
  """
  kind = ensemble.RandomForestRegressor
  return _forest(kind, seed, support_x, support_y, query)


def _extra_trees(seed, support_x, support_y, query):
  """As `_random_forest`, every tree on all rows, with random thresholds.

  Geurts, Ernst and Wehenkel, Extremely randomized trees, 2006.
  """
  kind = ensemble.ExtraTreesRegressor
  return _forest(kind, seed, support_x, support_y, query)


def _logistic_regression(seed, support_x, support_y, query):
  """Log-odds of L2-regularised (C = 1) logistic regression."""
  del seed
  model = linear_model.LogisticRegression(
    class_weight='balanced', max_iter=1000
  )
  return model.fit(support_x, support_y).decision_function(query)


def _svm(seed, support_x, support_y, query):
  """Decision function of an RBF support vector machine, C 1, gamma 1 / F."""
  del seed
  model = svm.SVC(gamma='auto', class_weight='balanced', tol=1e-6)
  return model.fit(support_x, support_y).decision_function(query)


def _gradient_boosting(seed, support_x, support_y, query):
  """Log-odds of 100 boosted trees of depth 3, sqrt(F) columns for a split.

  Exact splits, down to single rows: a histogram of 25 rows holds no more.
  Classes weigh the same.

  Friedman, Greedy function approximation: a gradient boosting machine, 2001.
  """
  weights = class_weight.compute_sample_weight('balanced', support_y)
  model = ensemble.GradientBoostingClassifier(
    n_estimators=_TREES, max_features='sqrt', random_state=seed
  )
  return model.fit(support_x, support_y, weights).decision_function(query)


def _adam(weights, gradients, rate, decay):
  """Descends in place; `gradients` returns one array for each of `weights`."""
  first = [np.zeros_like(w) for w in weights]
  second = [np.zeros_like(w) for w in weights]
  for step in range(1, _STEPS + 1):
    for w, m, v, g in zip(weights, first, second, gradients(), strict=True):
      g = g + decay * w
      m += 0.1 * (g - m)
      v += 0.001 * (g * g - v)
      v_hat = v / (1 - 0.999**step)
      w -= rate * m / (1 - 0.9**step) / (np.sqrt(v_hat) + 1e-8)


def _glorot(rng, *shape):
  limit = np.sqrt(6 / sum(shape))
  return rng.uniform(-limit, limit, shape)


def _deep_sad(seed, support_x, support_y, query):
  """Deep SAD: as Deep SVDD, and labelled anomalies are pushed from the centre.

  Minimises the mean of d^2 over the normal rows and of 1 / d^2 over the
  anomalies (eta = 1), d the distance from the centre of the untrained network's
  outputs. The authors pre-train an autoencoder, which 25 rows do not carry;
  otherwise as `_deep_svdd`.

  Ruff et al., Deep semi-supervised anomaly detection, 2020.
  """
  rng = np.random.default_rng(seed)
  hidden, outputs = _WIDTHS
  into = _glorot(rng, support_x.shape[1], hidden)
  out = _glorot(rng, hidden, outputs)
  anomalous = support_y == 1
  leaky = lambda a: np.where(a > 0, a, 0.1 * a)
  embed = lambda x: leaky(x @ into) @ out
  centre = embed(support_x[~anomalous]).mean(0)
  centre += (np.abs(centre) < 0.1) * (0.1 * np.copysign(1, centre) - centre)

  def gradients():
    before = support_x @ into
    gap = leaky(before) @ out - centre
    squares = (gap**2).sum(1) + 1e-6
    slope = np.where(anomalous, -1 / squares**2, 1.0) / len(gap)
    back = 2 * slope[:, None] * gap
    inner = (back @ out.T) * np.where(before > 0, 1, 0.1)
    return support_x.T @ inner, leaky(before).T @ back

  _adam([into, out], gradients, rate=1e-3, decay=1e-3)
  return ((embed(query) - centre) ** 2).sum(1)


def _deep_svdd(seed, normal, query):
  """Deep SVDD, one class: squared distance from the centre in a small network.

  Written in NumPy: two layers without biases (64 leaky units, 32 outputs),
  trained to map the normal rows near the mean of its first outputs; 200 steps
  of Adam on all rows. The network is small because the support is.

  Ruff et al., Deep one-class classification, 2018.
  """
  return _deep_sad(seed, normal, np.zeros(len(normal)), query)


def _devnet(seed, support_x, support_y, query):
  """Deviation network: a score that is 0 on normal rows, 5 on anomalies.

  Written in NumPy: 20 ReLU units, one output; |score| on normal rows plus
  max(0, 5 - score) on anomalies, classes weighing the same (the authors balance
  their batches), 200 steps of Adam on all rows. The authors' reference scores
  are standard normal, so that a score is its own deviation.

  Pang, Shen and van den Hengel, Deep anomaly detection with deviation networks,
  2019.
  """
  rng = np.random.default_rng(seed)
  into, bias = _glorot(rng, support_x.shape[1], 20), np.zeros(20)
  out, shift = _glorot(rng, 20, 1), np.zeros(1)
  anomalous = support_y == 1
  weights = class_weight.compute_sample_weight('balanced', support_y)

  def gradients():
    before = support_x @ into + bias
    active = np.maximum(before, 0)
    score = (active @ out + shift)[:, 0]
    slope = np.where(anomalous, -1.0 * (score < _MARGIN), np.sign(score))
    back = (slope * weights / len(score))[:, None]
    inner = (back @ out.T) * (before > 0)
    return support_x.T @ inner, inner.sum(0), active.T @ back, back.sum(0)

  _adam([into, bias, out, shift], gradients, rate=1e-2, decay=1e-2)
  return (np.maximum(query @ into + bias, 0) @ out + shift)[:, 0]


def _unsupervised(detect: Callable[..., np.ndarray]) -> Baseline:
  def score(seed, support_x, support_y, query_x):
    normal = np.asarray(support_x, float)[np.asarray(support_y) == 0]
    return detect(seed, normal, np.asarray(query_x, float))

  return Baseline(False, score)


def _supervised(classify: Callable[..., np.ndarray]) -> Baseline:
  def score(seed, support_x, support_y, query_x):
    labels = np.asarray(support_y, int)
    support_x, query_x = (
      np.asarray(support_x, float),
      np.asarray(query_x, float),
    )
    return classify(seed, support_x, labels, query_x)

  return Baseline(True, score)


REGISTRY: dict[str, Baseline] = {
  'random': _unsupervised(_random),
  'distance_to_mean': _unsupervised(_distance_to_mean),
  'nearest_neighbour': _unsupervised(_nearest_neighbour),
  'knn': _unsupervised(_knn),
  'lof': _unsupervised(_lof),
  'mahalanobis': _unsupervised(_mahalanobis),
  'ocsvm': _unsupervised(_ocsvm),
  'isolation_forest': _unsupervised(_isolation_forest),
  'ecod': _unsupervised(_ecod),
  'deep_svdd': _unsupervised(_deep_svdd),
  'random_forest': _supervised(_random_forest),
  'extra_trees': _supervised(_extra_trees),
  'logistic_regression': _supervised(_logistic_regression),
  'svm': _supervised(_svm),
  'gradient_boosting': _supervised(_gradient_boosting),
  'deep_sad': _supervised(_deep_sad),
  'devnet': _supervised(_devnet),
}


def score_many(
  names: Sequence[str],
  tasks: Sequence[Support],
  *,
  seed: int,
  workers: int,
  quiet: bool = False,
) -> dict[str, list[np.ndarray | None]]:
  """Runs baselines over tasks.

  The scores depend on `seed`, a task's place in `tasks` and a baseline's name,
  never on `workers` or on the other names. Workers are fresh processes (loky,
  no fork: JAX threads may be running in this one) that stay for reuse by the
  next call; starting them takes a few seconds, one worker runs in place.

  Args:
    names: of `REGISTRY`.
    tasks: of (support_x [n, F], support_y [n], query_x [m, F]) each, with
      support_y 1 = anomaly, 0 = normal, standardised by the normal rows.
    seed: not negative.
    workers: number of processes, at least 1.
    quiet: no progress bar.

  Returns:
    {name: scores [m] float64 of every task, in order}; None in place of the
    scores where a baseline needs anomalies and the support has none.

  Raises:
    DataError: if a name is unknown, or a task is malformed, not finite, or
      without a normal row.
  """
  _check(names, tasks)
  run = joblib.Parallel(
    n_jobs=max(1, min(workers, len(tasks))),
    backend='loky',
    return_as='generator',
    max_nbytes=None,
  )
  results = run(
    joblib.delayed(_score_one)(names, task, seed, index)
    for index, task in enumerate(tasks)
  )
  bar = tqdm.tqdm(
    results, desc='baselines', total=len(tasks), disable=quiet, leave=False
  )
  scores: dict[str, list[np.ndarray | None]] = {name: [] for name in names}
  for found in bar:
    for name in names:
      scores[name].append(found.get(name))
  return scores


def _score_one(
  names: Sequence[str], task: Support, seed: int, index: int
) -> dict[str, np.ndarray]:
  support_x, support_y, query_x = task
  scores = {}
  with threadpoolctl.threadpool_limits(1):  # small arrays: threads only wait
    for name in names:
      if REGISTRY[name].needs_anomalies and not np.any(support_y):
        continue
      entropy = (seed, index, zlib.crc32(name.encode()))
      state = int(np.random.SeedSequence(entropy).generate_state(1)[0])
      scores[name] = REGISTRY[name].score(state, support_x, support_y, query_x)
  return scores


def _check(names: Sequence[str], tasks: Sequence[Support]) -> None:
  from metaad_jax import base, specs  # here: they import jax, workers must not

  for name in names:
    specs.look_up('baseline', REGISTRY, name)
  for index, task in enumerate(tasks):
    support_x, support_y, query_x = (np.asarray(part) for part in task)
    if (
      support_x.ndim != 2
      or query_x.ndim != 2
      or support_y.shape != support_x.shape[:1]
      or support_x.shape[1:] != query_x.shape[1:]
    ):
      raise base.DataError(
        f'task {index}: support_x {support_x.shape}, support_y '
        f'{support_y.shape} and query_x {query_x.shape} must be [n, F], [n] '
        'and [m, F]'
      )
    if not np.isin(support_y, (0, 1)).all() or not np.any(support_y == 0):
      raise base.DataError(
        f'task {index}: support_y needs labels 0 and 1 only, and a normal (0)'
      )
    if not np.isfinite(support_x).all() or not np.isfinite(query_x).all():
      raise base.DataError(
        f'task {index}: a feature is not finite: impute or drop it first'
      )
