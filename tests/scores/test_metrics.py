"""Metrics against scikit-learn, their definitions and cases done by hand."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from metaad_jax import base
from metaad_jax.scores import metrics


@st.composite
def ranked(draw):
  """Labels of both classes and scores with many ties."""
  size = draw(st.integers(2, 40))
  labels = draw(hnp.arrays(np.int32, size, elements=st.integers(0, 1)))
  labels[:2] = 0, 1
  scores = draw(hnp.arrays(np.float64, size, elements=st.integers(-4, 4)))
  return labels, scores / 3


def pairwise_auroc(labels, scores):
  gap = scores[labels == 1][:, None] - scores[labels == 0]
  return np.mean((gap > 0) + 0.5 * (gap == 0))


def recall_by_definition(labels, scores, rate):
  best = 0.0
  for threshold in scores:
    alarms = scores >= threshold
    if alarms[labels == 0].sum() <= rate * (labels == 0).sum() + 1e-6:
      best = max(best, alarms[labels == 1].mean())
  return best


@settings(max_examples=60, deadline=None)
@given(ranked(), st.sampled_from([0.0, 0.01, 0.05, 0.25, 0.5, 1.0]))
def test_metrics_equal_their_definitions(case, rate):
  labels, scores = case
  area = metrics.auroc(labels, scores)
  assert area == pytest.approx(pairwise_auroc(labels, scores), abs=1e-12)
  assert area == pytest.approx(
    sklearn_metrics.roc_auc_score(labels, scores), abs=1e-12
  )
  assert metrics.average_precision(labels, scores) == pytest.approx(
    sklearn_metrics.average_precision_score(labels, scores), abs=1e-12
  )
  assert metrics.recall_at(labels, scores, rate) == pytest.approx(
    recall_by_definition(labels, scores, rate), abs=1e-12
  )


@settings(max_examples=30, deadline=None)
@given(ranked())
def test_all_metrics_are_the_single_ones(case):
  found = metrics.all_metrics(*case)
  assert tuple(found) == metrics.NAMES
  assert found == {
    'auroc': metrics.auroc(*case),
    'ap': metrics.average_precision(*case),
    'recall_at_far_1': metrics.recall_at(*case, 0.01),
    'recall_at_far_5': metrics.recall_at(*case, 0.05),
  }
  assert all(type(value) is float for value in found.values())


@settings(max_examples=30, deadline=None)
@given(ranked())
def test_only_the_ranking_counts(case):
  labels, scores = case
  assert metrics.all_metrics(labels, np.exp(scores)) == metrics.all_metrics(
    labels, scores
  )
  assert metrics.auroc(labels, -scores) == pytest.approx(
    1 - metrics.auroc(labels, scores), abs=1e-12
  )


def test_hand_computed():
  labels = np.array([0, 0, 1, 0, 1])
  scores = np.array([1.0, 2.0, 2.0, 3.0, 4.0])
  # Pairs: 2 beats 1, ties 2, loses to 3; 4 beats all three.
  assert metrics.auroc(labels, scores) == pytest.approx(4.5 / 6)
  # Recall 1/2 at precision 1, then 1 at precision 2/4.
  assert metrics.average_precision(labels, scores) == pytest.approx(0.75)
  assert metrics.recall_at(labels, scores, 0.0) == 0.5
  assert metrics.recall_at(labels, scores, 1 / 3) == 0.5  # 2 ties with a normal
  assert metrics.recall_at(labels, scores, 2 / 3) == 1.0


def test_recall_where_an_anomaly_ties_with_the_highest_normal():
  labels, scores = np.array([0, 0, 1]), np.array([0.0, 5.0, 5.0])
  assert metrics.recall_at(labels, scores, 0.1) == 0.0
  assert metrics.recall_at(labels, scores, 0.5) == 1.0


@pytest.mark.parametrize('allowed', range(1, 100))
def test_a_rate_is_not_lost_to_rounding(allowed):
  # With `allowed` of 100 normals above, the anomaly is still found.
  scores = np.append(np.arange(100.0), 99.5 - allowed)
  labels = np.append(np.zeros(100), 1)
  specificity = (100 - allowed) / 100
  assert metrics.recall_at(labels, scores, 1 - specificity) == 1.0
  assert metrics.recall_at(labels, scores, 1 - specificity - 0.01) == 0.0


@pytest.mark.parametrize(
  'labels, scores, match',
  [
    ([0, 1], [0.0, np.nan], r'1 of 2 scores.*row 1'),
    ([0, 1], [np.inf, 0.0], r'1 of 2 scores.*row 0'),
    ([0, 0], [0.0, 1.0], '0 anomalies and 2 normal'),
    ([1, 1], [0.0, 1.0], '2 anomalies and 0 normal'),
    ([], [], '0 anomalies and 0 normal'),
    ([0, 1, 1], [0.0, 1.0], 'differ'),
    ([[0], [1]], [[0.0], [1.0]], 'one label and one score'),
    ([0, 2], [0.0, 1.0], 'other than 0'),
    ([0.0, np.nan, 1.0], [0.0, 1.0, 2.0], 'other than 0'),
  ],
)
@pytest.mark.parametrize(
  'metric',
  [
    metrics.auroc,
    metrics.average_precision,
    metrics.recall_at,
    metrics.all_metrics,
  ],
)
def test_bad_input_is_one_line(metric, labels, scores, match):
  with pytest.raises(base.DataError, match=match) as caught:
    metric(np.array(labels), np.array(scores))
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('rate', [-0.1, 1.5, np.nan])
def test_a_rate_lies_between_0_and_1(rate):
  with pytest.raises(base.DataError, match='no rate'):
    metrics.recall_at(np.array([0, 1]), np.array([0.0, 1.0]), rate)


def padded(seed, junk, size=60):
  rng = np.random.default_rng(seed)
  labels = (rng.random(size) < 0.3).astype(np.float32)
  mask = (rng.random(size) < 0.7).astype(np.float32)
  labels[:2], mask[:2] = (0, 1), 1
  scores = rng.normal(size=size).round(1).astype(np.float32)
  scores[mask == 0] = junk
  return scores, labels, mask


@pytest.mark.parametrize('junk', [np.nan, np.inf, -np.inf, 0.0])
def test_masked_auroc_is_that_of_the_real_rows(junk):
  cases = [padded(seed, junk) for seed in range(20)]
  batch = map(np.stack, zip(*cases, strict=True))
  got = jax.jit(jax.vmap(metrics.masked_auroc))(*batch)
  want = [
    sklearn_metrics.roc_auc_score(labels[mask > 0], scores[mask > 0])
    for scores, labels, mask in cases
  ]
  np.testing.assert_allclose(got, want, atol=2e-7)


def test_masked_auroc_without_a_class_is_chance():
  scores = jnp.arange(4.0)
  labels = jnp.array([0.0, 0.0, 1.0, 1.0])
  area = jax.jit(metrics.masked_auroc)
  assert area(scores, labels, jnp.ones(4)) == 1.0
  for mask in ([1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]):
    assert area(scores, labels, jnp.array(mask, float)) == 0.5


def test_a_nan_score_loses_every_comparison():
  labels, mask = jnp.array([0.0, 0.0, 1.0, 1.0]), jnp.ones(4)
  for row in range(4):
    scores = jnp.array([0.0, 1.0, 2.0, 3.0]).at[row].set(jnp.nan)
    assert metrics.masked_auroc(scores, labels, mask) == 0.5


def test_masked_auroc_of_ties_is_one_half():
  labels = jnp.array([0.0, 1.0, 1.0])
  assert metrics.masked_auroc(jnp.zeros(3), labels, jnp.ones(3)) == 0.5


def test_alarms_per_day_by_hand():
  # One row every ten seconds, one false alarm in a hundred.
  assert metrics.alarms_per_day(0.01, 8640) == pytest.approx(86.4)
  assert metrics.alarms_per_day(0.0, 5) == 0
  for rate, rows in ((1.1, 5), (-0.1, 5), (0.1, 0), (0.1, np.inf)):
    with pytest.raises(base.DataError, match='rows a day'):
      metrics.alarms_per_day(rate, rows)
