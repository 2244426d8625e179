"""What a learner has to beat: detectors fitted on the support alone.

Nothing here has seen another entity. Inputs are standardised by the support's
normal rows, as for the learners. Detectors without `needs_anomalies` fit the
rows labelled 0 (so anomalies that slipped in contaminate them) and ignore
labelled anomalies; each scores a query row without regard to the other query
rows. Constant columns and a single normal row are legal everywhere; the
docstrings say what a method still knows then. Scores are finite float64.

Hyper-parameters are keyword-only, their defaults are the library's or the
paper's. `Baseline.candidates` and `Baseline.scalings` are what `tuning` tries.

This module must not import jax: `score_many` starts processes that import it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
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
Job = tuple[str, Mapping[str, Any]]  # a name and its options
_TREES = 100
_ISOLATION_TREES = 200
_ECOD_COLUMNS = 4000  # at once; what fits a core's cache
_WIDTHS = 64, 32  # of the two layers of Deep SVDD, as in PyOD
_MARGIN = 5.0  # DevNet's, in standard deviations


class Baseline(NamedTuple):
  """A detector.

  Attributes:
    needs_anomalies: True = supervised: only for supports with at least one
      row of either label.
    score: (seed, support_x [n, F], support_y [n], query_x [m, F], **options)
      -> [m], higher = more anomalous. Fits on the support, scores the query.
      The options are the method's own, and `scaling`, of `SCALINGS`.
    scalings: those that change its scores, the default first.
    candidates: options worth trying, the defaults ({}) first.
  """

  needs_anomalies: bool
  score: Callable[..., np.ndarray]
  scalings: tuple[str, ...]
  candidates: tuple[dict[str, Any], ...]


def _robust(normal, x):
  """In deviations from the median, of the mean absolute deviation."""
  centre = np.median(normal, 0)
  spread = np.abs(normal - centre).mean(0)
  return (x - centre) / np.where(spread > 0, spread, 1)


SCALINGS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
  'plain': lambda normal, x: x,
  'clipped': lambda normal, x: np.clip(x, -5, 5),
  'compressed': lambda normal, x: np.sign(x) * np.log1p(np.abs(x)),
  'robust': _robust,
}
"""Of standardised rows x, given the support's normals: [n, F], [m, F]."""


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


def _knn(seed, normal, query, *, neighbours=5, largest=False):
  """Mean Euclidean distance to the 5 nearest normal rows (to all, if fewer).

  With `largest` the distance to the last of them: Ramaswamy, Rastogi and Shim,
  Efficient algorithms for mining outliers from large data sets, 2000.

  Angiulli and Pizzuti, Fast outlier detection in high dimensional spaces, 2002.
  """
  del seed
  near = np.sort(distance.cdist(query, normal))[:, :neighbours]
  return near[:, -1] if largest else near.mean(1)


def _lof(seed, normal, query, *, neighbours=5):
  """Local outlier factor over at most 5 neighbours.

  One row has no neighbour and so no density: what is left is the distance.

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

  Or by oracle approximating shrinkage ('oas'), or by a number in (0, 1].

  Equal rows (or one) have no covariance: the identity takes its place.

  Ledoit and Wolf, A well-conditioned estimator for large-dimensional
  covariance matrices, 2004.
  """
  if np.all(normal == normal[0]):
    return _distance_to_mean(seed, normal, query) ** 2
  if shrinkage == 'ledoit_wolf':
    model = covariance.LedoitWolf()
  elif shrinkage == 'oas':
    model = covariance.OAS()
  else:
    model = covariance.ShrunkCovariance(shrinkage=shrinkage)
  return model.fit(normal).mahalanobis(query)


def _ocsvm(seed, normal, query, *, nu=0.1, gamma=1.0):
  """One-class SVM, RBF kernel, nu 0.1; minus the logarithm of the kernel sum.

  `gamma` is counted in 1 / (columns x variance).

  The logarithm ranks as the decision function does, but does not underflow to
  one tied score far from the support.

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

  The trees are grown as scikit-learn's IsolationForest grows its own, but one
  by one, which takes a third of the time on few rows; twice its default number
  ranks better. One row, or equal rows, cannot be split: all scores are equal.
  A tree sees `share` of the rows and is grown `deeper` levels below the
  logarithm of their number.

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


def _forest(kind, seed, support_x, support_y, query, *, columns, leaf):
  weights = class_weight.compute_sample_weight('balanced', support_y)
  forest = kind(
    n_estimators=_TREES, max_features=columns, min_samples_leaf=leaf,
    random_state=seed, n_jobs=1,
  )  # fmt: skip
  return forest.fit(support_x, support_y, weights).predict(query)


def _random_forest(
  seed, support_x, support_y, query, *, columns='sqrt', leaf=1
):
  """Share of the anomaly class in 100 trees, classes weighted equally.

  On labels 0 and 1 the variance is half the Gini impurity, so regression
  trees grow as classification trees do, in two thirds of the time.

  Breiman, Random forests, 2001.
  """
  kind = ensemble.RandomForestRegressor
  options = {'columns': columns, 'leaf': leaf}
  return _forest(kind, seed, support_x, support_y, query, **options)


def _extra_trees(seed, support_x, support_y, query, *, columns='sqrt', leaf=1):
  """As `_random_forest`, every tree on all rows, with random thresholds.

  Geurts, Ernst and Wehenkel, Extremely randomized trees, 2006.
  """
  kind = ensemble.ExtraTreesRegressor
  options = {'columns': columns, 'leaf': leaf}
  return _forest(kind, seed, support_x, support_y, query, **options)


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
  """Log-odds of 100 boosted trees of depth 3, sqrt(F) columns for a split.

  Exact splits, down to single rows: a histogram of 25 rows holds no more.
  Classes weigh the same.

  Friedman, Greedy function approximation: a gradient boosting machine, 2001.
  """
  weights = class_weight.compute_sample_weight('balanced', support_y)
  model = ensemble.GradientBoostingClassifier(
    n_estimators=_TREES, max_features='sqrt', max_depth=depth,
    learning_rate=rate, random_state=seed,
  )  # fmt: skip
  return model.fit(support_x, support_y, weights).decision_function(query)


def _adam(weights, gradients, rate, decay, steps):
  """Descends in place; `gradients` returns one array for each of `weights`."""
  first = [np.zeros_like(w) for w in weights]
  second = [np.zeros_like(w) for w in weights]
  for step in range(1, steps + 1):
    for w, m, v, g in zip(weights, first, second, gradients(), strict=True):
      g = g + decay * w
      m += 0.1 * (g - m)
      v += 0.001 * (g * g - v)
      v_hat = v / (1 - 0.999**step)
      w -= rate * m / (1 - 0.9**step) / (np.sqrt(v_hat) + 1e-8)


def _glorot(rng, *shape):
  limit = np.sqrt(6 / sum(shape))
  return rng.uniform(-limit, limit, shape)


def _deep_sad(seed, support_x, support_y, query, *, steps=200, eta=1.0):
  """Deep SAD: as Deep SVDD, and labelled anomalies are pushed from the centre.

  Minimises the mean of d^2 over the normal rows and of eta / d^2 over the
  anomalies, d the distance from the centre of the untrained network's outputs.
  The authors pre-train an autoencoder, which 25 rows do not carry; otherwise as
  `_deep_svdd`.

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
    slope = np.where(anomalous, -eta / squares**2, 1.0) / len(gap)
    back = 2 * slope[:, None] * gap
    inner = (back @ out.T) * np.where(before > 0, 1, 0.1)
    return support_x.T @ inner, leaky(before).T @ back

  _adam([into, out], gradients, rate=1e-3, decay=1e-3, steps=steps)
  return ((embed(query) - centre) ** 2).sum(1)


def _deep_svdd(seed, normal, query, *, steps=200):
  """Deep SVDD, one class: squared distance from the centre in a small network.

  Written in NumPy: two layers without biases (64 leaky units, 32 outputs),
  trained to map the normal rows near the mean of its first outputs; 200 steps
  of Adam on all rows. The network is small because the support is.

  Ruff et al., Deep one-class classification, 2018.
  """
  return _deep_sad(seed, normal, np.zeros(len(normal)), query, steps=steps)


def _devnet(seed, support_x, support_y, query, *, steps=200, decay=1e-2):
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

  _adam(
    [into, bias, out, shift], gradients, rate=1e-2, decay=decay, steps=steps
  )
  return (np.maximum(query @ into + bias, 0) @ out + shift)[:, 0]


_EVERY = tuple(SCALINGS)
_NONE = ('plain',)  # the others change no score, or hardly: ranks alone count


def _unsupervised(
  detect: Callable[..., np.ndarray],
  scalings: tuple[str, ...] = _EVERY,
  candidates: Sequence[dict[str, Any]] = (),
) -> Baseline:
  def score(seed, support_x, support_y, query_x, *, scaling='plain', **options):
    normal = np.asarray(support_x, float)[np.asarray(support_y) == 0]
    scale = lambda x: SCALINGS[scaling](normal, np.asarray(x, float))
    return detect(seed, scale(normal), scale(query_x), **options)

  return Baseline(False, score, scalings, ({}, *candidates))


def _supervised(
  classify: Callable[..., np.ndarray],
  scalings: tuple[str, ...] = _EVERY,
  candidates: Sequence[dict[str, Any]] = (),
) -> Baseline:
  def score(seed, support_x, support_y, query_x, *, scaling='plain', **options):
    labels = np.asarray(support_y, int)
    normal = np.asarray(support_x, float)[labels == 0]
    scale = lambda x: SCALINGS[scaling](normal, np.asarray(x, float))
    return classify(seed, scale(support_x), labels, scale(query_x), **options)

  return Baseline(True, score, scalings, ({}, *candidates))


def _each(**options: Sequence[Any]) -> list[dict[str, Any]]:
  """One option at a time."""
  return [{key: v} for key, values in options.items() for v in values]


REGISTRY: dict[str, Baseline] = {
  'random': _unsupervised(_random, _NONE),
  'distance_to_mean': _unsupervised(_distance_to_mean),
  'nearest_neighbour': _unsupervised(_nearest_neighbour),
  'knn': _unsupervised(
    _knn,
    candidates=[
      *_each(neighbours=(2, 3, 10)),
      *({'neighbours': k, 'largest': True} for k in (2, 3, 5, 10)),
    ],
  ),
  'lof': _unsupervised(_lof, candidates=_each(neighbours=(3, 10, 20))),
  'mahalanobis': _unsupervised(
    _mahalanobis, candidates=_each(shrinkage=('oas', 0.3, 0.6, 0.9))
  ),
  'ocsvm': _unsupervised(
    _ocsvm,
    candidates=[
      {'nu': nu, 'gamma': gamma}
      for nu in (0.1, 0.5)
      for gamma in (0.1, 0.3, 1.0, 3.0)
      if (nu, gamma) != (0.1, 1.0)
    ],
  ),
  'isolation_forest': _unsupervised(
    _isolation_forest,
    ('plain', 'compressed'),
    [{'share': 0.5}, {'deeper': 3}],
  ),
  'ecod': _unsupervised(_ecod, _NONE),
  'deep_svdd': _unsupervised(_deep_svdd, candidates=_each(steps=(50, 800))),
  'random_forest': _supervised(
    _random_forest, _NONE, _each(columns=(1, 1.0), leaf=(2,))
  ),
  'extra_trees': _supervised(
    _extra_trees,
    ('plain', 'compressed'),
    _each(columns=(1, 1.0), leaf=(2,)),
  ),
  'logistic_regression': _supervised(
    _logistic_regression, candidates=_each(strength=(0.01, 0.1, 10.0))
  ),
  'svm': _supervised(
    _svm, candidates=_each(strength=(0.1, 10.0), gamma=(0.1, 0.3, 3.0))
  ),
  'gradient_boosting': _supervised(
    _gradient_boosting,
    _NONE,
    [*_each(depth=(1, 2)), {'depth': 2, 'rate': 0.03}],
  ),
  'deep_sad': _supervised(
    _deep_sad, candidates=_each(steps=(50, 800), eta=(0.1, 10.0))
  ),
  'devnet': _supervised(
    _devnet, candidates=_each(steps=(50, 800), decay=(1e-3, 1e-1))
  ),
}


def score_many(
  names: Sequence[str],
  tasks: Sequence[Support],
  *,
  seed: int,
  workers: int,
  quiet: bool = False,
) -> dict[str, list[np.ndarray | None]]:
  """Runs baselines, as they are by default, over tasks.

  Args:
    names: of `REGISTRY`.
    tasks: see `score_jobs`.
    seed: not negative.
    workers: number of processes, at least 1.
    quiet: no progress bar.

  Returns:
    {name: scores [m] float64 of every task, in order}; None in place of the
    scores where a baseline needs anomalies and the support has none.

  Raises:
    DataError: as `score_jobs`.
  """
  jobs: list[list[Job]] = [[(name, {}) for name in names]] * len(tasks)
  found = score_jobs(jobs, tasks, seed=seed, workers=workers, quiet=quiet)
  return {name: [one[i] for one in found] for i, name in enumerate(names)}


def score_jobs(
  jobs: Sequence[Sequence[Job]],
  tasks: Sequence[Support],
  *,
  seed: int,
  workers: int,
  quiet: bool = False,
  label: str = 'baselines',
) -> list[list[np.ndarray | None]]:
  """Runs baselines over tasks, with other options in each if need be.

  The scores depend on `seed`, a task's place in `tasks`, a baseline's name and
  its options, never on `workers` or on the other jobs. Workers are fresh
  processes (loky, no fork: JAX threads may be running in this one) that stay
  for reuse by the next call; starting them takes a few seconds, one worker runs
  in place.

  Args:
    jobs: for each task, names of `REGISTRY` with options.
    tasks: of (support_x [n, F], support_y [n], query_x [m, F]) each, with
      support_y 1 = anomaly, 0 = normal, standardised by the normal rows.
    seed: not negative.
    workers: number of processes, at least 1.
    quiet: no progress bar.
    label: of the progress bar.

  Returns:
    For each task, for each of its jobs, scores [m] float64; None where a
    baseline needs anomalies and the support has none.

  Raises:
    DataError: if a name is unknown, or a task is malformed, not finite, or
      without a normal row.
  """
  _check({name for some in jobs for name, _ in some}, tasks)
  run = joblib.Parallel(
    n_jobs=max(1, min(workers, len(tasks))),
    backend='loky',
    return_as='generator',
    max_nbytes=None,
  )
  results = run(
    joblib.delayed(_score_one)(some, task, seed, index)
    for index, (some, task) in enumerate(zip(jobs, tasks, strict=True))
  )
  return list(
    tqdm.tqdm(results, desc=label, total=len(tasks), disable=quiet, leave=False)
  )


def _score_one(
  jobs: Sequence[Job], task: Support, seed: int, index: int
) -> list[np.ndarray | None]:
  support_x, support_y, query_x = task
  scores: list[np.ndarray | None] = []
  with threadpoolctl.threadpool_limits(1):  # small arrays: threads only wait
    for name, options in jobs:
      baseline = REGISTRY[name]
      if baseline.needs_anomalies and not np.any(support_y):
        scores.append(None)
        continue
      entropy = (seed, index, zlib.crc32(name.encode()))
      state = int(np.random.SeedSequence(entropy).generate_state(1)[0])
      scores.append(
        baseline.score(state, support_x, support_y, query_x, **options)
      )
  return scores


def _check(names: Iterable[str], tasks: Sequence[Support]) -> None:
  from metaad_jax import base, specs  # here: they import jax, workers must not

  for name in sorted(names):
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
