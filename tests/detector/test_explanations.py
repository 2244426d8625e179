"""Attributions add up, find what was planted, and changes mend."""

import nearest_run
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pandas
import pytest

from metaad_jax.detector import explanations, reasons
from metaad_jax.detector.estimator import MetaAnomalyDetector


@pytest.fixture(scope='module')
def run_dir():
  return nearest_run.shared()


def alone(plan, *args, **options):
  (result,) = explanations.together([plan(*args, **options)])
  return result


def test_shapley_values_of_a_linear_score_are_exact():
  """phi_j = w_j (x_j - mean of the normals' column j)."""
  rng = np.random.default_rng(0)
  weight, row = rng.normal(size=(2, 5))
  normals = rng.normal(size=(8, 5))
  found = alone(
    explanations.shapley, lambda x: x @ weight, row, normals, np.arange(5)
  )
  exact = weight * (row - normals.mean(0))
  assert_allclose(found, exact, atol=1e-9)


def test_shapley_values_of_a_product_are_symmetric():
  """x y: each of the two gets one half, the idle third nothing."""
  score = lambda x: x[:, 0] * x[:, 1]
  found = alone(
    explanations.shapley,
    score,
    np.array([2.0, 3.0, 9.0]),
    np.zeros((4, 3)),
    np.arange(3),
  )
  assert_allclose(found, [3, 3, 0], atol=1e-12)


def test_groups_of_entries_are_one_player():
  score = lambda x: x.sum((1, 2))
  row, players = np.ones((4, 2)), np.repeat([[0], [0], [1], [2]], 2, 1)
  found = alone(explanations.shapley, score, row, np.zeros((3, 4, 2)), players)
  assert_allclose(found, [4, 2, 2])


def test_the_planted_column_comes_first(run_dir):
  """Six tables, ten anomalies each, one column shifted by six deviations."""
  first, error = [], []
  for seed in range(6):
    rng = np.random.default_rng(300 + seed)
    width = int(rng.integers(3, 9))
    normal, _ = nearest_run.table(rng, 40, width)
    detector = MetaAnomalyDetector(run_dir).fit(normal[:20])
    for row in normal[20:30]:
      column = rng.integers(width)
      row = row.copy()
      row[column] += 6 * normal[:, column].std() * rng.choice([-1, 1])
      told = detector.explain(row[None])[0]
      first.append(np.argmax(told.attributions) == column)
      # Complete: the rise above the normals, each scored without itself.
      rise = told.score - np.mean(detector.decision_scores_)
      error.append(abs(told.attributions.sum() / rise - 1))
  assert np.mean(first) >= 0.95
  assert max(error) < 1e-9


def test_the_reference_is_the_mean_of_the_support_s_normals(run_dir):
  normal, bad = nearest_run.table(np.random.default_rng(4), 40, 5, 6.0)
  x, y = np.concatenate([bad[:2], normal]), np.repeat([1, 0], [2, 40])
  detector = MetaAnomalyDetector(run_dir).fit(x, y)
  (told,) = detector.explain(bad[5:6])
  normals = detector.support_ & (y == 0)
  assert normals.sum() == 20 and detector.support_[:2].all()
  assert told.reference == np.mean(detector.decision_scores_[normals])
  assert told.attributions.sum() == pytest.approx(told.score - told.reference)
  assert_array_equal(told.normals, x[normals])
  assert_array_equal(x[told.numbers], told.normals)


def test_what_parts_of_the_support_miss_is_shared_out():
  """Two judges say 3 and 1 for the row, the whole says 2.6: .6 are shared."""
  normals = np.zeros((1, 3))
  judges = [
    (lambda x: x @ np.array([2.0, 1.0, 0.0]), normals),
    (lambda x: x @ np.array([2.0, -1.0, 0.0]), normals),
  ]
  row, players = np.ones(3), np.arange(3)
  found, shared = alone(explanations.attributions, judges, row, players, 2.6)
  assert abs(shared - 0.6) < 1e-9
  assert_allclose(found, [2.6, 0, 0], atol=1e-9)
  still, _ = alone(explanations.attributions, judges, np.zeros(3), players, 0.3)
  assert_allclose(still, 0.1)  # nothing differs: an equal share


def test_a_planted_band_comes_first_and_is_a_ratio_of_powers(run_dir):
  """A tone in one of 32 bands of noise, and where in the window it is."""
  rng = np.random.default_rng(0)
  windows = rng.normal(size=(21, 256, 1))
  detector = MetaAnomalyDetector(run_dir, rate=1000.0).fit(windows[:20])
  bad = windows[20:].copy()
  time = np.arange(128) / 1000
  bad[0, 128:, 0] += 3 * np.sin(2 * np.pi * 133 * time)
  (told,) = detector.explain(bad)
  names = np.array(told.names)
  c = int(np.argmax(told.attributions[:32]))  # of the bands
  assert names[c].startswith('log-power 125')
  assert told.seconds[np.argmax(told.times)] >= 0.128
  rise = told.score - np.mean(detector.decision_scores_)
  for shares in (told.attributions, told.times):
    assert abs(shares.sum() / rise - 1) < 1e-9
  ratio = np.exp(told.row[c] - told.normals[:, c].max())
  line = reasons.text(told, most=40)
  assert "times the power of the normals' strongest" in line
  assert f'band {names[c][10:]} has {ratio:.2g} times' in line
  assert 'the nearest normal is window ' in line and 'row' not in line


def test_rows_explained_together_are_each_explained_as_alone(run_dir):
  normal, bad = nearest_run.table(np.random.default_rng(6), 30, 7, 6.0)
  detector = MetaAnomalyDetector(run_dir).fit(normal[:20])
  rows = np.concatenate([bad[:3], normal[20:21], bad[3:5]])
  for row, told in zip(rows, detector.explain(rows), strict=True):
    (other,) = detector.explain(row[None])
    assert_allclose(told.attributions, other.attributions, rtol=1e-5, atol=1e-6)
    assert_array_equal(told.row, other.row)
    assert_array_equal(told.nearest, other.nearest)
    assert (told.change is None) == (other.change is None)
    if told.change is not None:
      assert_array_equal(told.change.columns, other.change.columns)


def test_a_change_is_small_and_mends(run_dir):
  rng = np.random.default_rng(5)
  normal, _ = nearest_run.table(rng, 60, 6)
  detector = MetaAnomalyDetector(run_dir).fit(normal[:20])
  held = 0
  for row in normal[20:40]:
    if detector.predict(row[None])[0] == -1:
      continue
    bad = row.copy()
    bad[3] += 30 * normal[:, 3].std()
    told = detector.explain(np.stack([row, bad]))
    assert told[0].change is None
    mended = told[1].change
    assert 3 in mended.columns
    held += len(mended.columns) == 1
    others = np.setdiff1d(np.arange(6), mended.columns)
    assert_array_equal(mended.row[others], told[1].row[others])
    source = told[1].normals[mended.normal]
    assert_array_equal(mended.row[mended.columns], source[mended.columns])
    assert mended.score <= detector.threshold_
    assert detector.predict(mended.row[None].astype(float))[0] == 1
  assert held >= 10


def test_the_fewest_columns_by_hand():
  """The score counts columns that are not 0: two must go of three."""
  score = lambda x: (x != 0).sum(1).astype(float)
  row, normals = np.array([5.0, 0.0, 1.0, 2.0]), np.zeros((2, 4))
  found = alone(
    explanations.change,
    score,
    row,
    normals,
    np.array([3.0, 0.0, 1.0, 2.0]),
    1.0,
  )
  assert_array_equal(found.columns, [0, 3])
  assert found.score == 1
  assert (
    alone(explanations.change, score, row, normals, np.zeros(4), 3.0) is None
  )
  assert (
    alone(explanations.change, score, row, normals, np.zeros(4), -1.0) is None
  )


def test_columns_that_need_not_go_are_put_back():
  score = lambda x: 1.0 * (x[:, 2] != 0)
  found = alone(
    explanations.change,
    score,
    np.ones(3),
    np.zeros((1, 3)),
    np.array([3.0, 2.0, 1.0]),
    0.5,
  )
  assert_array_equal(found.columns, [2])


def test_the_nearest_normal():
  normals = np.array([[0.0, 0.0], [1.0, 100.0], [2.0, 200.0]])
  order, distance = explanations.nearest(np.array([1.1, 90.0]), normals)
  assert order[0] == 1 and (np.diff(distance) >= 0).all()
  order, _ = explanations.nearest(np.array([np.nan, 200.0]), normals)
  assert order[0] == 2
  gaps = np.array([[0.0, 1.0], [np.nan, 1.0]])  # missing in both is alike
  order, distance = explanations.nearest(gaps[1], gaps)
  assert order[0] == 1 and distance[0] == 0 < distance[1]
  # In units of the spread, however large the values are beside it.
  late = np.array([[1e9], [1e9 + 1], [1e9 + 2]])
  order, distance = explanations.nearest(np.array([1e9 + 1.9]), late)
  assert order[0] == 2
  assert_allclose(distance[0], 0.1 / np.sqrt(2 / 3), rtol=1e-5)


def test_reasons_by_hand():
  """Those of at least a tenth of the first, beside the normals' values."""
  normals = np.array([[0.0, 1, 4, 0], [2.0, 1, 6, 0]])
  told = explanations.Explanation(
    names=('heat', 'mode', 'flow', 'kind'), row=np.array([5.0, 1, 3, 2]),
    attributions=np.array([4.0, -1, 2, 0.3]), score=9.0, reference=0.0,
    shared=0.0, threshold=1.0, p_value=0.002, normals=normals,
    nearest=np.array([1]), distances=np.zeros(1), change=None,
    categories={'kind': ['a', 'b']},
  )  # fmt: skip
  first, second = reasons.reasons(told, most=4)
  assert first[:3] == ('heat', 5.0, 4.0) and second[:3] == ('flow', 3.0, 2.0)
  assert first.text == 'heat is 5, above all normals by 1.5 times their range'
  assert second.text == 'flow is 3, below all normals by 0.5 times their range'
  assert reasons.text(told, most=1) == (
    f'abnormal (p = 0.002): {first.text}; the nearest normal is row 1 of fit'
  )
  (last,) = reasons.reasons(told._replace(attributions=np.eye(4)[3]))
  assert last.text == "kind is a text not seen in fit, always 'a' in normals"
  gone = told._replace(row=np.array([np.nan, 1, 3, 2]))
  assert reasons.reasons(gone)[0].text == 'heat is missing'
  change = explanations.Change(np.array([0]), normals[0] + 0.5, 0.5, 0)
  mended = reasons.text(told._replace(change=change))
  assert mended.endswith('; it would be normal with heat = 0.5')


def test_texts_stay_texts_and_large_values_stay_as_they_came(run_dir):
  day, rng = 1_764_000_000, np.random.default_rng(3)
  make = lambda kinds, times: pandas.DataFrame({'kind': kinds, 'time': times})
  known = make(
    rng.choice(['http', 'smtp'], 30), day + rng.integers(0, 1000, 30)
  )
  detector = MetaAnomalyDetector(run_dir, features=['time']).fit(known)
  told = detector.explain(make(['ftp', 'http'], [day + 500, day + 90_000]))
  assert told[0].row[1] == day + 500
  assert "kind is 'ftp', as in none of the normals" in reasons.text(told[0])
  assert [r.value for r in reasons.reasons(told[0])] == ['ftp']
  assert 'time is 1.764e+09, above all normals by' in reasons.text(told[1])
  assert known['time'].min() <= told[1].change.row[1] <= known['time'].max()
  near = told[1].numbers[told[1].nearest[0]]
  assert detector.support_[near]
  assert_array_equal(told[1].normals[:, 1], known['time'][detector.support_])


def test_every_normal_counts_the_same():
  """So the attributions add up to the rise above the mean of all of them."""
  rng = np.random.default_rng(2)
  for width, number, budget in ((3, 5, 100), (40, 7, 100), (9, 13, 512)):
    row, normals = rng.normal(size=width), rng.normal(size=(number, width))
    score = lambda x: np.sin(3 * x).sum(1) + x[:, 0] * x[:, 1]
    found = alone(
      explanations.shapley, score, row, normals, np.arange(width), budget=budget
    )
    total = score(row[None])[0] - score(normals).mean()
    assert_allclose(found.sum(), total, atol=1e-9)


def test_the_picture_shows_the_leading_columns(run_dir):
  rng = np.random.default_rng(7)
  normal, bad = nearest_run.table(rng, 30, 20, 8.0)
  detector = MetaAnomalyDetector(run_dir).fit(normal[:20])
  told = detector.explain(bad[:1])[0]
  figure = reasons.picture(told, most=5)
  labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
  assert len(labels) == 5
  assert labels[-1] == f'column {np.argmax(np.abs(told.attributions))}'
  assert reasons.png(told).startswith(b'\x89PNG')


def test_of_very_many_columns_the_guilty_ones_come_first():
  """Ten columns of 600 in a linear score; every tenth varies a thousandfold."""
  rng = np.random.default_rng(0)
  spread = np.where(np.arange(600) % 10, 1.0, 1000.0)
  normals = rng.normal(size=(8, 600)) * spread
  row, guilty = normals[0] + 0.1, rng.choice(600, 10, replace=False)
  row[guilty] += 9 * spread[guilty]
  weight = 1 / spread
  calls = []

  def score(x):
    calls.append(len(x))
    return x @ weight

  rise = float((row - normals.mean(0)) @ weight)
  judges = [(score, normals[:4]), (score, normals[4:])]
  found, shared = alone(explanations.of_columns, judges, row, normals, rise)
  assert found.shape == (600,) and sum(calls) < 250
  assert_allclose(found.sum(), rise)
  assert set(np.argsort(-found)[:10]) == set(guilty)
  bar = score(normals).max()
  mended = alone(explanations.change, score, row, normals, found, bar)
  assert score(mended.row[None])[0] <= bar
