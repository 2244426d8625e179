"""What to label next: never what is known, and anomalies before chance."""

import nearest_run
import numpy as np
import pytest

from metaad_jax.base import DataError
from metaad_jax.detector.estimator import MetaAnomalyDetector


@pytest.fixture(scope='module')
def rows():
  normal, bad = nearest_run.table(np.random.default_rng(5), 60, 4, 6.0)
  return normal[:10], np.concatenate([normal[10:50], bad[:8]])


@pytest.mark.parametrize('policy', ['learned', 'greedy', 'feedback'])
def test_look_label_partial_fit(rows, policy):
  known, x = rows
  y, looked = np.arange(len(x)) >= 40, []
  detector = MetaAnomalyDetector(nearest_run.shared()).fit(known)
  for _ in range(4):
    new = detector.next_queries(x, 3, policy=policy)
    assert len(set(new)) == 3 and not set(new) & set(looked)
    looked += list(new)
    detector.partial_fit(x[new], y[new])
  assert y[looked].sum() >= 5  # by chance: 2


def test_all_rows_known_or_too_many_wanted(rows):
  known, x = rows
  detector = MetaAnomalyDetector(nearest_run.shared()).fit(known)
  every = detector.next_queries(np.concatenate([x, known]), len(x))
  assert sorted(every) == list(range(len(x)))
  with pytest.raises(DataError):
    detector.next_queries(known, 1)
