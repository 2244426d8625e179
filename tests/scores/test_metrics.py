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
  size = draw(st.integers(2, 130))
  labels = draw(hnp.arrays(np.int32, size, elements=st.integers(0, 1)))
  labels[:2] = 0, 1
  scores = draw(hnp.arrays(np.float64, size, elements=st.integers(-9, 9)))
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
@given(ranked())
def test_metrics_equal_their_definitions(case):
  labels, scores = case
  expected = {
    'auroc': pairwise_auroc(labels, scores),
    'ap': sklearn_metrics.average_precision_score(labels, scores),
    'recall_at_far_1': recall_by_definition(labels, scores, 0.01),
    'recall_at_far_5': recall_by_definition(labels, scores, 0.05),
  }
  assert metrics.all_metrics(*case) == pytest.approx(expected, abs=1e-12)
  assert metrics.auroc(*case) == metrics.all_metrics(*case)['auroc']
  assert tuple(expected) == metrics.NAMES


def test_hand_computed():
  labels = np.array([0, 0, 1, 0, 1])
  scores = np.array([1.0, 2.0, 2.0, 3.0, 4.0])
  values = metrics.all_metrics(labels, scores)
  # Pairs: 2 beats 1, ties 2, loses to 3; 4 beats all three.
  assert values['auroc'] == pytest.approx(4.5 / 6)
  # Recall 1/2 at precision 1, then 1 at precision 2/4.
  assert values['ap'] == pytest.approx(0.75)
  assert values['recall_at_far_5'] == 0.5


@pytest.mark.parametrize('normals, above', [(100, 5), (20, 1), (40, 2)])
def test_a_rate_is_not_lost_to_rounding(normals, above):
  scores = np.append(np.arange(float(normals)), normals - 0.5 - above)
  labels = np.append(np.zeros(normals), 1)
  assert metrics.all_metrics(labels, scores)['recall_at_far_5'] == 1
  tied = np.where(labels == 1, scores - 0.5, scores)  # with one normal more
  assert metrics.all_metrics(labels, tied)['recall_at_far_5'] == 0


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
def test_bad_input_is_one_line(labels, scores, match):
  for metric in (metrics.auroc, metrics.all_metrics):
    with pytest.raises(base.DataError, match=match) as caught:
      metric(np.array(labels), np.array(scores))
    assert '\n' not in str(caught.value)


def padded(seed, junk, size=60):
  rng = np.random.default_rng(seed)
  labels = (rng.random(size) < 0.3).astype(np.float32)
  mask = (rng.random(size) < 0.7).astype(np.float32)
  labels[:2], mask[:2] = (0, 1), 1
  scores = rng.normal(size=size).round(1).astype(np.float32)
  scores[mask == 0] = junk
  return scores, labels, mask


@pytest.fixture(scope='module')
def masked_auroc():
  return jax.jit(jax.vmap(metrics.masked_auroc))


def test_masked_auroc_is_that_of_the_real_rows(masked_auroc):
  junk = (np.nan, np.inf, -np.inf, 0.0)
  cases = [padded(seed, junk[seed % 4]) for seed in range(20)]
  batch = map(np.stack, zip(*cases, strict=True))
  expected = [
    pairwise_auroc(labels[mask > 0], scores[mask > 0])
    for scores, labels, mask in cases
  ]
  np.testing.assert_allclose(masked_auroc(*batch), expected, atol=2e-7)


def test_masked_auroc_at_the_edges(masked_auroc):
  """No anomaly, no normal, no row; a NaN score loses, whichever its class."""
  labels = jnp.tile(jnp.array([0.0, 0.0, 1.0, 1.0]), (7, 1))
  scores = jnp.tile(jnp.arange(4.0), (7, 1))
  scores = scores.at[jnp.arange(3, 7), jnp.arange(4)].set(jnp.nan)
  mask = jnp.ones((7, 4))
  mask = mask.at[0, 2:].set(0).at[1, :2].set(0).at[2].set(0)
  np.testing.assert_array_equal(masked_auroc(scores, labels, mask), 0.5)
