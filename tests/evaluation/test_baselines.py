"""One table over every baseline; each against its library; cases by hand."""

import numpy as np
from pyod.models import ecod
import pytest
from scipy import stats
from sklearn import covariance, ensemble, linear_model, metrics, neighbors, svm
import threadpoolctl

from metaad_jax import base
from metaad_jax.evaluation import baselines, jobs

NAMES = [name for name, one in baselines.REGISTRY.items() if one.detect]
SUPERVISED = [n for n in NAMES if baselines.REGISTRY[n].needs_anomalies]
UNSUPERVISED = [n for n in NAMES if n not in SUPERVISED]
FORESTS = {
  'isolation_forest', 'random_forest', 'extra_trees', 'trees_and_distances',
}  # fmt: skip
DRAWN = FORESTS | {'random', 'gradient_boosting'}
# Forests draw rows by their place; the others promise not to look at it.
PLACELESS = sorted(set(NAMES) - DRAWN)
EVERY = pytest.mark.parametrize('name', NAMES)


@pytest.fixture(scope='module', autouse=True)
def one_thread():
  with threadpoolctl.threadpool_limits(1):
    yield


def score(name, support_x, support_y, query_x, seed=0, **options):
  triple = support_x, support_y, query_x
  return baselines.score(name, seed, triple, **options)


def task(normals=10, anomalies=2, columns=12, shift=4.0, seed=0, queries=60):
  """Normal rows around 0; anomalies shifted in the first half of the columns.

  Returns support_x, support_y, query_x and the query's labels.
  """
  rng = np.random.default_rng(seed)
  offset = shift * (np.arange(columns) < (columns + 1) // 2)
  draw = lambda y: rng.normal(size=(len(y), columns)) + np.outer(y, offset)
  support_y = np.repeat([0.0, 1.0], [normals, anomalies])
  labels = np.arange(queries) % 3 == 0
  return (
    draw(support_y).astype(np.float32),
    support_y.astype(np.float32),
    draw(labels).astype(np.float32),
    labels.astype(int),
  )


@pytest.mark.filterwarnings('error')
@EVERY
@pytest.mark.parametrize('normals, columns', [(1, 12), (3, 60), (20, 1)])
def test_scores_are_finite_at_the_edges(name, normals, columns):
  """And nothing is warned of that nobody can mend."""
  support_x, support_y, query_x, _ = task(normals, 1, columns, queries=5)
  constant = support_x.copy(), query_x.copy()
  constant[0][:, ::2] = constant[1][::2, ::2] = 0.1
  equal = np.tile(support_x[:1], (len(support_x), 1)), query_x
  for support, query in ((support_x, query_x), constant, equal):
    scores = score(name, support, support_y, query)
    assert scores.shape == (5,) and scores.dtype == np.float64
    assert np.isfinite(scores).all()


@pytest.mark.parametrize('name', SUPERVISED)
def test_labels_teach_what_distance_cannot(name):
  """Anomalies lie nearer to the centre: distances rank them backwards."""
  rng = np.random.default_rng(0)
  draw = lambda n, centre, width: np.c_[
    rng.normal(centre, 0.2, n), rng.normal(0, width, n)
  ]
  support_x = np.concatenate([draw(20, -0.5, 2.0), draw(5, 0.5, 0.5)])
  query_x = np.concatenate([draw(50, -0.5, 2.0), draw(50, 0.5, 0.5)])
  support_y, labels = np.repeat([0, 1], [20, 5]), np.repeat([0, 1], 50)
  for anomaly, low, high in ((1, 0.9, 1), (0, 0, 0.1)):
    scores = score(name, support_x, support_y == anomaly, query_x)
    assert low < metrics.roc_auc_score(labels, scores) + 1e-9 <= high + 1e-9


@pytest.mark.parametrize('name', UNSUPERVISED)
def test_labelled_anomalies_are_ignored_without_supervision(name):
  support_x, support_y, query_x, _ = task(8, 3)
  np.testing.assert_array_equal(
    score(name, support_x, support_y, query_x),
    score(name, support_x[:8], support_y[:8], query_x),
  )


@pytest.mark.parametrize('name', [n for n in NAMES if n != 'random'])
def test_a_row_is_scored_without_regard_to_the_others(name):
  support_x, support_y, query_x, _ = task(queries=9)
  together = score(name, support_x, support_y, query_x)
  for rows in (slice(2, 3), slice(4, 7)):
    alone = score(name, support_x, support_y, query_x[rows])
    np.testing.assert_allclose(alone, together[rows], rtol=1e-6, atol=1e-9)


@EVERY
def test_the_seed_decides(name):
  arguments = task()[:3]
  first = score(name, *arguments, seed=1)
  np.testing.assert_array_equal(first, score(name, *arguments, seed=1))
  differs = np.any(first != score(name, *arguments, seed=2))
  assert differs == (name in DRAWN)


@pytest.mark.parametrize('name', PLACELESS)
def test_the_order_of_the_support_does_not_matter(name):
  support_x, support_y, query_x, _ = task()
  order = np.random.default_rng(0).permutation(len(support_y))
  np.testing.assert_allclose(
    score(name, support_x[order], support_y[order], query_x),
    score(name, support_x, support_y, query_x),
    rtol=1e-3,
    atol=1e-4,
  )


def test_distances_by_hand():
  support_x = np.array([[0, 0], [2, 0], [0, 2], [0, 0], [9, 9]])
  support_y = np.array([0, 0, 0, 1, 1])
  query_x = np.array([[0, 0], [5, 4]])
  third, root = 2 / 3, np.sqrt
  for name, expected in {
    'distance_to_mean': np.hypot([third, 5 - third], [third, 4 - third]),
    'nearest_neighbour': [0, 5],
    'knn': [4 / 3, (root(41) + 5 + root(29)) / 3],
    'mean_distance': [4 / 3, (root(41) + 5 + root(29)) / 3],
  }.items():
    got = score(name, support_x, support_y, query_x, scaling='plain')
    np.testing.assert_allclose(got, expected, rtol=1e-12)
  # Of seven equally spaced normals the five nearest count.
  line = np.arange(7.0)[:, None]
  got = score('knn', line, np.zeros(7), np.array([[10.0]]))
  assert got == pytest.approx([(4 + 5 + 6 + 7 + 8) / 5])


def test_log_sum_adds_two_logarithms():
  x, y, query, _ = task()
  part = lambda name: score(name, x, y, query)
  squared, near = part('mahalanobis') / 12, part('nearest_neighbour') / 12**0.5
  expected = np.log(squared + 1e-3) / 2 + np.log(near + 1e-3)
  got = score('log_sum', x, y, query, scaling='plain')
  np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_distances_help_the_trees_where_no_label_does():
  """Anomalies of a kind that was never labelled lie far from everything."""
  x, y, query, labels = task(normals=20, anomalies=1, seed=3)
  query[labels == 1, 6:] += 4 - 8 * (np.arange(20) % 2)[:, None]
  query[labels == 1, :6] -= 4
  areas = [
    metrics.roc_auc_score(labels, score(name, x, y, query, scaling='plain'))
    for name in ('extra_trees', 'trees_and_distances')
  ]
  assert areas[1] > max(areas[0], 0.95)
  votes = score('extra_trees', x, y, query, scaling='plain')
  mixed = score('trees_and_distances', x, y, query, scaling='plain')
  assert (np.abs(mixed - votes) <= 0.6).all()


@pytest.mark.parametrize('name', ['mahalanobis', 'ocsvm', 'log_sum', 'knn'])
def test_trimming_leaves_out_what_is_farthest_from_the_others(name):
  x, y, query, _ = task(10, 0)
  x[[2, 7]] += 9
  rest = np.delete(np.arange(10), [2, 7])
  got = score(name, x, y, query, trim=0.2, scaling='plain')
  expected = score(name, x[rest], y[rest], query, scaling='plain')
  np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_lof_is_scikit_learns():
  support_x, support_y, query_x, _ = task(anomalies=0)
  for normals, neighbours in ((10, 5), (3, 2), (2, 1)):
    detector = neighbors.LocalOutlierFactor(neighbours, novelty=True)
    detector.fit(support_x[:normals].astype(float))
    np.testing.assert_allclose(
      score('lof', support_x[:normals], support_y[:normals], query_x),
      -detector.score_samples(query_x.astype(float)),
      rtol=1e-12,
    )


@pytest.mark.parametrize('name', ['lof', 'mahalanobis', 'ocsvm'])
def test_one_normal_row_leaves_its_distance(name):
  support_x, _, query_x, _ = task(1, 0)
  scores = score(name, support_x, np.zeros(1), query_x)
  distances = np.linalg.norm(query_x - support_x[0], axis=1)
  np.testing.assert_array_equal(np.argsort(scores), np.argsort(distances))


@pytest.mark.parametrize('normals', [3, 10, 40])
def test_mahalanobis_is_ledoit_and_wolf(normals):
  support_x, support_y, query_x, _ = task(normals, 0)
  shrunk, _ = covariance.ledoit_wolf(support_x.astype(float))
  gap = query_x.astype(float) - support_x.astype(float).mean(0)
  np.testing.assert_allclose(
    score('mahalanobis', support_x, support_y, query_x),
    np.sum(gap * np.linalg.solve(shrunk, gap.T).T, axis=1),
    rtol=1e-9,
  )


def test_ocsvm_is_scikit_learns_and_does_not_underflow():
  support_x, support_y, query_x, _ = task(anomalies=0)
  support_x -= support_x.mean(0)
  detector = svm.OneClassSVM(nu=0.1, gamma='scale', tol=1e-6).fit(support_x)
  np.testing.assert_allclose(
    np.exp(-score('ocsvm', support_x, support_y, query_x)),
    detector.score_samples(query_x),
    rtol=1e-5,
  )
  far = np.outer([1e3, 2e3, 3e3], np.ones(12))
  assert np.ptp(detector.score_samples(far)) == 0
  assert np.all(np.diff(score('ocsvm', support_x, support_y, far)) > 0)


def test_isolation_forest_is_scikit_learns_on_average():
  normals = 21
  support_x, support_y, query_x, _ = task(normals, 0)
  forests = range(6)
  arguments = 'isolation_forest', support_x, support_y, query_x
  ours = np.array([score(*arguments, seed=s) for s in forests])
  # scikit-learn's score is -2^(-mean depth / c(n)).
  full = 2 * (np.log(normals - 1) + np.euler_gamma - 1 + 1 / normals)
  library = [
    ensemble.IsolationForest(n_estimators=200, random_state=s).fit(support_x)
    for s in forests
  ]
  theirs = full * np.log2([-f.score_samples(query_x) for f in library])
  gap = ours.mean(0) - theirs.mean(0)
  error = np.sqrt((ours.var(0, ddof=1) + theirs.var(0, ddof=1)) / len(forests))
  # The library against itself stays below 1.83 in 99 of 100 cases.
  assert np.sqrt(np.mean((gap / error) ** 2)) < 2
  assert abs(gap.mean()) < 0.05
  assert np.ptp(theirs.mean(0)) > 1


def test_isolation_forest_of_one_and_of_two_rows():
  x, y, query, _ = task(2, 0)
  assert not score('isolation_forest', x[:1], y[:1], query).any()
  # Two rows: one split, whatever it is.
  assert (score('isolation_forest', x, y, query) == -1).all()


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('normals, columns', [(1, 3), (6, 5), (20, 4)])
def test_ecod_is_pyods_row_by_row(normals, columns, monkeypatch):
  support_x, support_y, query_x, _ = task(normals, 0, columns, queries=20)
  support_x, query_x = support_x.round(1), query_x.round(1)
  support_x[:, 0] = 0  # a constant column, and many ties
  detector = ecod.ECOD().fit(support_x.astype(float))
  expected = [
    detector.decision_function(row[None].astype(float))[0] for row in query_x
  ]
  for limit in (1, 3 * columns, 4000):
    monkeypatch.setattr(baselines, '_ECOD_COLUMNS', limit)
    got = score('ecod', support_x, support_y, query_x)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize(
  'name, model, scores, tolerance',
  [
    (
      'random_forest',
      ensemble.RandomForestClassifier(class_weight='balanced', random_state=5),
      lambda model, x: model.predict_proba(x)[:, 1],
      1e-9,
    ),
    (
      'logistic_regression',
      linear_model.LogisticRegression(class_weight='balanced'),
      linear_model.LogisticRegression.decision_function,
      1e-3,
    ),
    (
      'svm',
      svm.SVC(gamma=1 / 12, class_weight='balanced'),
      svm.SVC.decision_function,
      1e-3,
    ),
    (
      'gradient_boosting',
      ensemble.GradientBoostingClassifier(max_features='sqrt', random_state=5),
      ensemble.GradientBoostingClassifier.decision_function,
      1e-9,
    ),
  ],
)
def test_classifiers_are_scikit_learns(name, model, scores, tolerance):
  support_x, support_y, query_x, _ = task(shift=1.0)
  weights = {}
  if name == 'gradient_boosting':  # it knows no class weights
    weights['sample_weight'] = np.where(support_y == 1, 12 / 4, 12 / 20)
  expected = scores(model.fit(support_x, support_y, **weights), query_x)
  got = score(name, support_x, support_y, query_x, seed=5)
  np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


def test_extra_trees_are_scikit_learns_classifier_on_average():
  support_x, support_y, query_x, _ = task(shift=1.0)
  classifier = ensemble.ExtraTreesClassifier(
    400, class_weight='balanced', random_state=0
  ).fit(support_x, support_y)
  expected = classifier.predict_proba(query_x)[:, 1]
  arguments = support_x, support_y, query_x
  got = np.mean(
    [score('extra_trees', *arguments, seed=s) for s in range(4)], axis=0
  )
  # Both are means of 400 trees that vote 0 or 1.
  error = np.sqrt(2 * expected * (1 - expected) / 400)
  assert np.all(np.abs(got - expected) <= 4.5 * error + 1e-3)


def test_random_scores_are_uniform():
  scores = score('random', *task(queries=2000)[:3])
  assert stats.kstest(scores, 'uniform').pvalue > 0.01


def run(todo, triples, seed=0, workers=1):
  """{(place, name): scores} of the baselines named for each task."""
  every = [jobs.job(i, name) for i, some in enumerate(todo) for name in some]
  found = jobs.score_jobs(
    every, triples, seed=seed, workers=workers, quiet=True
  )
  return {job[:2]: scores for job, scores in found.items()}


def test_scores_do_not_depend_on_the_workers():
  names = ['random', 'isolation_forest', 'svm']
  triples = [task(5, i % 2, 4, seed=i, queries=7)[:3] for i in range(4)]
  one, two = (run([names] * 4, triples, 3, workers) for workers in (1, 2))
  assert (
    set(one)
    == set(two)
    == {(i, n) for i in range(4) for n in names if n not in SUPERVISED or i % 2}
  )
  for job, scores in one.items():
    np.testing.assert_array_equal(scores, two[job])


def test_scores_are_seeded_by_seed_place_and_name(monkeypatch):
  monkeypatch.setitem(
    baselines.REGISTRY, 'namesake', baselines.REGISTRY['random']
  )
  names = ['random', 'isolation_forest', 'namesake']
  same = [task()[:3]] * 2
  found, other = run([names] * 2, same), run([names], same[:1], seed=1)
  for name in names:
    assert np.any(found[0, name] != found[1, name])
    assert np.any(found[0, name] != other[0, name])
    alone = run([[], [name]], same)  # the other jobs do not matter
    np.testing.assert_array_equal(found[1, name], alone[1, name])
  assert np.any(found[0, 'random'] != found[0, 'namesake'])


def test_every_task_gets_the_options_of_its_own_jobs():
  triple = task()[:3]
  options = {'neighbours': 2, 'scaling': 'clipped'}
  usual, other = jobs.job(0, 'knn'), jobs.job(0, 'knn', options)
  todo = [usual, other, jobs.job(1, 'knn', options)]
  # One column at each split, or all of them: 1 is not 1.0.
  splits = [{'columns': columns, 'scaling': 'plain'} for columns in (1, 1.0)]
  trees = [jobs.job(2, 'extra_trees', some) for some in splits]
  found = jobs.score_jobs(todo, [triple] * 3, seed=0, workers=1, quiet=True)
  assert list(found) == todo
  for job, scores in found.items():
    expected = score('knn', *triple, **job.options)
    np.testing.assert_array_equal(scores, expected)
  found = jobs.score_jobs(trees, [triple] * 3, seed=0, workers=1, quiet=True)
  assert list(found) == trees
  assert np.any(found[trees[0]] != found[trees[1]])


def test_an_unknown_baseline_is_refused():
  with pytest.raises(base.DataError, match="unknown baseline 'kmeans'"):
    run([['kmeans']], [task()[:3]])


def test_scalings_by_hand():
  normal, query = np.array([[0.0], [1], [2], [9]]), np.array([[7.5], [-6.0]])
  triple = np.append(normal, [[99.0]], 0), np.array([0, 0, 0, 0, 1]), query
  scaled = {
    name: baselines.scaled(triple, name)[2] for name in baselines.SCALINGS
  }
  flat = {name: values[:, 0] for name, values in scaled.items()}
  np.testing.assert_allclose(flat['plain'], [7.5, -6])
  np.testing.assert_allclose(flat['clipped'], [5, -5])
  np.testing.assert_allclose(flat['compressed'], [np.log(8.5), -np.log(7)])
  # Median 1.5, mean absolute deviation (1.5 + .5 + .5 + 7.5) / 4 = 2.5.
  np.testing.assert_allclose(flat['robust'], [2.4, -3.0])
  rise = lambda x: np.arcsinh(20 * x / 3)  # the mean size is 3
  mean, deviation = rise(normal).mean(), rise(normal).std()
  level = (rise(query) - mean) / deviation
  np.testing.assert_allclose(scaled['level'], np.clip(level, -5, 5))
  both = np.hstack([scaled['clipped'], scaled['level']])
  np.testing.assert_array_equal(scaled['both'], both)


def test_levels_know_where_zero_was():
  """Of standardised rows as of the rows as they were read."""
  rng = np.random.default_rng(0)
  x, query = (np.exp(rng.normal(size=(n, 3))) - 0.3 for n in (9, 7))
  x[:, 2], query[:, 2] = 2.0, [2.0] * 4 + [0.0, 3.0, 2.0]
  y = np.zeros(9)
  rows, zero = baselines.standardized(x, np.concatenate([x, query]))
  level = lambda *triple: baselines.scaled(triple, 'level')[2]
  found = level(rows[:9], y, rows[9:], zero)
  np.testing.assert_allclose(found, level(x, y, query), rtol=1e-6)
  np.testing.assert_array_equal(found[:, 2], [0, 0, 0, 0, -5, 5, 0])
  np.testing.assert_array_equal(rows[9:, 2], found[:, 2])
