"""What a learner has to beat: detectors fitted on the support alone.

Inputs are standardised by the support's normal rows, as for the learners.
Detectors without `needs_anomalies` fit the rows labelled 0, unlabelled
anomalies included, and ignore labelled ones; each query row is scored without
regard to the others. Constant columns and a single normal row are legal.
Scores are finite float64. Defaults are the library's or the paper's.

This module must not import jax: `jobs` starts processes that import it.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
import pathlib
import tomllib
from typing import Any, NamedTuple
import warnings
import zlib

import numpy as np
from scipy.spatial import distance
from scipy.special import logsumexp
import sklearn
from sklearn import covariance, ensemble, linear_model, neighbors, svm, tree
from sklearn.utils import class_weight
import threadpoolctl

# Support x [n, F], support y [n] (1 = anomaly), query x [m, F]; and where zero
# lies among the scaled values, [F], if they are not as they were read.
Triple = tuple[np.ndarray, ...]
Job = tuple[str, Mapping[str, Any]]  # a name and its options
_TREES = 100
_ISOLATION_TREES = 200
_ECOD_COLUMNS = 4000  # at once; what fits a core's cache


def _level(normal, x, zero):
  """z-scores within +-5 of arcsinh(20 x / mean |x|); constant columns +-5.

  A logarithm with zero and sign, as `table_features` tells it the network.
  """
  size = np.maximum(np.abs(normal - zero).mean(0), 1e-30)
  rise = lambda v: np.arcsinh(20 * np.clip((v - zero) / size, -1e6, 1e6))
  return np.clip(standardized(rise(normal), rise(x))[0], -5, 5)


def _robust(normal, x, zero):
  """Distance from the median, in mean absolute deviations."""
  del zero
  centre = np.median(normal, 0)
  spread = np.abs(normal - centre).mean(0)
  return (x - centre) / np.where(spread > 0, spread, 1)


# Of standardised rows x, given the support's normals and zero: [n, F], [m, F],
# [F].
SCALINGS: dict[str, Callable[..., np.ndarray]] = {
  'plain': lambda normal, x, zero: x,
  'clipped': lambda normal, x, zero: np.clip(x, -5, 5),
  'level': _level,
  'both': lambda normal, x, zero: np.hstack(
    [np.clip(x, -5, 5), _level(normal, x, zero)]
  ),
  'compressed': lambda normal, x, zero: np.sign(x) * np.log1p(np.abs(x)),
  'robust': _robust,
}


def standardized(
  normal: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """z-scores of x [m, F] by the normals [n, F], and where zero lies, [F].

  A column that never varied, but for rounding, becomes an indicator: 0 where x
  is equal and +-5 elsewhere; its zero is 0.
  """
  mean, deviation = normal.mean(0), normal.std(0)
  least = 1e-6 * np.abs(mean) + 1e-12
  constant, gap = deviation <= least, x - mean
  scale = np.where(constant, 1, deviation)
  moved = np.where(np.abs(gap) > least, 5 * np.sign(gap), 0)
  zero = np.where(constant, 0, -mean / scale)
  return np.where(constant, moved, gap / scale), zero


class Baseline(NamedTuple):
  """A detector.

  `detect` is (seed, normal [n, F], query [m, F], **options) -> [m], higher =
  more anomalous; with `needs_anomalies` (seed, support_x, support_y, query,
  **options); None = the learner of that name, trained on the support. The rest
  is as in baselines.toml.
  """

  detect: Callable[..., np.ndarray] | None
  needs_anomalies: bool = False
  scalings: Sequence[str] = tuple(SCALINGS)
  candidates: Sequence[dict[str, Any]] = ()
  model: str = ''


def scaled(triple: Triple, scaling: str) -> Triple:
  """The task with float64 rows, scaled."""
  x, y, query, *zero = (np.asarray(part) for part in triple)
  normal = x[y == 0].astype(float)
  origin = zero[0].astype(float) if zero else np.zeros(x.shape[1])
  scale = lambda rows: SCALINGS[scaling](normal, rows.astype(float), origin)
  return scale(x), y, scale(query)


def _trimmed(normal, share):
  """The normals without those that are farthest from all others."""
  far = distance.cdist(normal, normal).mean(1)
  keep = max(1, len(normal) - int(np.ceil(share * len(normal))))
  return normal[np.sort(np.argsort(far, kind='stable')[:keep])]


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


def _mean_distance(seed, normal, query):
  """Mean Euclidean distance to all normal rows; a few bad ones hardly count."""
  del seed
  return distance.cdist(query, normal).mean(1)


def _knn(seed, normal, query, *, neighbours=5, largest=False):
  """Mean Euclidean distance to the 5 nearest normal rows (to all, if fewer).

  Angiulli and Pizzuti, Fast outlier detection in high dimensional spaces, 2002.
  With `largest` the distance to the last of them: Ramaswamy, Rastogi and Shim,
  Efficient algorithms for mining outliers from large data sets, 2000.
  """
  del seed
  near = np.sort(distance.cdist(query, normal))[:, :neighbours]
  return near[:, -1] if largest else near.mean(1)


def _lof(seed, normal, query, *, neighbours=5):
  """Local outlier factor over at most 5 neighbours; of one row, the distance.

  Breunig et al., LOF: identifying density-based local outliers, 2000.
  """
  if len(normal) == 1:
    return _nearest_neighbour(seed, normal, query)
  detector = neighbors.LocalOutlierFactor(
    n_neighbors=min(neighbours, len(normal) - 1), novelty=True
  )
  return -detector.fit(normal).score_samples(query)


def _mahalanobis(seed, normal, query, *, shrinkage='ledoit_wolf'):
  """Squared Mahalanobis distance, covariance shrunk after Ledoit and Wolf.

  Or by oracle approximating shrinkage ('oas'), or by a number in (0, 1]. The
  identity stands in for the covariance of equal rows.

  Ledoit and Wolf, A well-conditioned estimator for large-dimensional
  covariance matrices, 2004.
  """
  if np.all(normal == normal[0]):
    return _distance_to_mean(seed, normal, query) ** 2
  kinds = {'ledoit_wolf': covariance.LedoitWolf, 'oas': covariance.OAS}
  if shrinkage in kinds:
    model = kinds[shrinkage]()
  else:
    model = covariance.ShrunkCovariance(shrinkage=shrinkage)
  return model.fit(normal).mahalanobis(query)


def _log_sum(seed, normal, query):
  """Log Mahalanobis distance plus log distance to the nearest normal row."""
  width = query.shape[1]
  joint = np.log(_mahalanobis(seed, normal, query) / width + 1e-3) / 2
  near = _nearest_neighbour(seed, normal, query) / np.sqrt(width)
  return joint + np.log(near + 1e-3)


def _ocsvm(seed, normal, query, *, nu=0.1, gamma=1.0):
  """One-class SVM, RBF kernel; gamma in units of 1 / (columns x variance).

  Minus the logarithm of the kernel sum ranks as the decision function does, but
  does not underflow to one tied score far from the support.

  Schoelkopf et al., Estimating the support of a high-dimensional distribution,
  2001.
  """
  del seed
  variance = normal.var(0).mean()
  gamma /= normal.shape[1] * (variance if variance > 1e-12 else 1.0)
  detector = svm.OneClassSVM(nu=nu, gamma=gamma, tol=1e-6).fit(normal)
  squares = distance.cdist(query, detector.support_vectors_, 'sqeuclidean')
  return -logsumexp(-gamma * squares, b=detector.dual_coef_, axis=1)


def _isolation_forest(seed, normal, query, *, share=1.0, deeper=0):
  """Isolation forest of 200 trees; minus the mean depth of isolation.

  Grown as by scikit-learn's IsolationForest, but one by one, which takes a
  third of the time on few rows. A tree sees `share` of the rows and is grown
  `deeper` levels below the logarithm of their number.

  Liu, Ting and Zhou, Isolation forest, 2008.
  """
  rng = np.random.RandomState(seed)
  normal, query = normal.astype(np.float32), query.astype(np.float32)
  target = rng.uniform(size=len(normal))
  size = max(min(2, len(normal)), int(np.ceil(share * len(normal))))
  limit = max(1, int(np.ceil(np.log2(size)))) + deeper
  unseen = _unsuccessful_search(np.arange(len(normal) + 1))
  depth = np.zeros(len(query))
  with sklearn.config_context(skip_parameter_validation=True):
    for _ in range(_ISOLATION_TREES):
      grower = tree.ExtraTreeRegressor(
        max_depth=limit, max_features=1, random_state=rng.randint(2**31 - 1)
      )
      rows = np.arange(len(normal))
      if size < len(normal):
        rows = rng.permutation(len(normal))[:size]
      grown = grower.fit(normal[rows], target[rows], check_input=False)
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

  PyOD ranks all rows it is given together: the query's anomalies would move the
  scores. ECOD treats columns apart, so every query row gets columns of its own
  and one call still serves many.

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


def _forest(kind, seed, support_x, support_y, query, *, columns='sqrt', leaf=1):
  """Share of the anomaly class in 100 trees, classes weighted equally.

  On labels 0 and 1 the variance is half the Gini impurity, so regression
  trees grow as classification trees do, in two thirds of the time.

  Breiman, Random forests, 2001. Geurts, Ernst and Wehenkel, Extremely
  randomized trees, 2006.
  """
  weights = class_weight.compute_sample_weight('balanced', support_y)
  forest = kind(
    n_estimators=_TREES, max_features=columns, min_samples_leaf=leaf,
    random_state=seed, n_jobs=1,
  )  # fmt: skip
  return forest.fit(support_x, support_y, weights).predict(query)


def _trees_and_distances(seed, support_x, support_y, query, *, weight=0.3):
  """Extremely randomized trees, and what distances say, as far as 0.3 each.

  The logarithms of the L1 distance to the nearest normal less that to the
  nearest anomaly, and of the Mahalanobis distance beside the normals' own.
  """
  width = query.shape[1]
  normal, anomaly = support_x[support_y == 0], support_x[support_y == 1]
  near, rival = (
    np.log(distance.cdist(query, rows, 'cityblock').min(1) / width + 1e-3)
    for rows in (normal, anomaly)
  )
  joint, usual = (
    np.log(_mahalanobis(seed, normal, rows) / width + 1e-3) / 2
    for rows in (query, normal)
  )
  votes = _EXTRA_TREES(seed, support_x, support_y, query)
  distances = np.tanh(near - rival) + np.tanh(joint - usual.mean())
  return votes + weight * distances


def _logistic_regression(seed, support_x, support_y, query, *, strength=1.0):
  """Log-odds of L2-regularised (C = 1) logistic regression."""
  del seed
  model = linear_model.LogisticRegression(
    C=strength, class_weight='balanced', max_iter=1000
  )
  return model.fit(support_x, support_y).decision_function(query)


def _svm(seed, support_x, support_y, query, *, strength=1.0, gamma=1.0):
  """Decision function of an RBF support vector machine, C 1, gamma 1 / F."""
  del seed
  gamma /= support_x.shape[1]
  model = svm.SVC(C=strength, gamma=gamma, class_weight='balanced', tol=1e-6)
  return model.fit(support_x, support_y).decision_function(query)


def _gradient_boosting(seed, support_x, support_y, query, *, depth=3, rate=0.1):
  """Log-odds of 100 boosted trees, sqrt(F) columns for a split, equal classes.

  Friedman, Greedy function approximation: a gradient boosting machine, 2001.
  """
  weights = class_weight.compute_sample_weight('balanced', support_y)
  model = ensemble.GradientBoostingClassifier(
    n_estimators=_TREES, max_features='sqrt', max_depth=depth,
    learning_rate=rate, random_state=seed,
  )  # fmt: skip
  return model.fit(support_x, support_y, weights).decision_function(query)


_EXTRA_TREES = functools.partial(_forest, ensemble.ExtraTreesRegressor)
_DETECTORS: dict[str, Callable[..., np.ndarray] | None] = {
  'random': _random, 'distance_to_mean': _distance_to_mean,
  'mean_distance': _mean_distance, 'nearest_neighbour': _nearest_neighbour,
  'knn': _knn, 'lof': _lof, 'mahalanobis': _mahalanobis, 'log_sum': _log_sum,
  'ocsvm': _ocsvm, 'isolation_forest': _isolation_forest, 'ecod': _ecod,
  'random_forest': functools.partial(_forest, ensemble.RandomForestRegressor),
  'extra_trees': _EXTRA_TREES, 'trees_and_distances': _trees_and_distances,
  'logistic_regression': _logistic_regression, 'svm': _svm,
  'gradient_boosting': _gradient_boosting,
}  # fmt: skip


def _registered():
  """The baselines of baselines.toml."""
  text = pathlib.Path(__file__).with_suffix('.toml').read_text('utf-8')
  for name, told in tomllib.loads(text).items():
    supervised = told.pop('supervised', False)
    yield name, Baseline(_DETECTORS.get(name), supervised, **told)


REGISTRY: dict[str, Baseline] = dict(_registered())


def score_one(
  jobs: Sequence[Job], triple: Triple, seed: int, place: int
) -> list[np.ndarray]:
  """Scores [m] of the task at a place by baselines that are no networks."""
  scores = []
  with threadpoolctl.threadpool_limits(1):  # small arrays: threads only wait
    for name, options in jobs:
      entropy = (seed, place, zlib.crc32(name.encode()))
      state = int(np.random.SeedSequence(entropy).generate_state(1)[0])
      scores.append(score(name, state, triple, **options))
  return scores


def score(
  name: str,
  seed: int,
  triple: Triple,
  *,
  scaling: str = '',
  trim: float = 0.0,
  **options,
) -> np.ndarray:
  """Scores one task with a baseline that is no network: [m] float64.

  `scaling` '' = the first of the baseline's; `trim` = the share of the normals
  that is left out, those farthest from the others.
  """
  baseline = REGISTRY[name]
  assert baseline.detect, f'{name} is a network'
  x, y, query = scaled(triple, scaling or baseline.scalings[0])
  if baseline.needs_anomalies:
    return baseline.detect(seed, x, y.astype(int), query, **options)
  normal = _trimmed(x[y == 0], trim) if trim else x[y == 0]
  return baseline.detect(seed, normal, query, **options)
