"""Lines on known rows, and on findings, that may not be what they seem."""

import nearest_run
import numpy as np
import pandas
import pytest

from metaad_jax.data import user_files
from metaad_jax.detector import doubts, judge

X = np.random.default_rng(0).normal(size=(40, 60))
RUN = nearest_run.shared()


def samples(x):
  names = [f'c{i}' for i in range(x.shape[1])]
  return user_files.from_frame(pandas.DataFrame(x, columns=names))


@pytest.fixture(scope='module')
def known():
  return judge.adapt(RUN, 'known', samples(X[:12, :4]), rate=0.1)


def found(by, x, labels=None):
  rows = samples(x)._replace(labels=labels)
  return ' '.join(doubts.of_found(judge.judge(by, 'new', rows)))


def test_few_rows_and_many_columns_are_doubtful(known):
  assert not [*doubts.of_known(known)]
  few = judge.adapt(RUN, 'few', samples(X[:3, :4]), rate=0.1)
  assert '3 normal rows' in ' '.join(doubts.of_known(few))
  wide = judge.adapt(RUN, 'wide', samples(X[:12]), rate=0.1)
  assert '60 columns' in ' '.join(doubts.of_known(wide))


def test_a_column_that_moved_is_named(known):
  new = X[12:, :4].copy()
  assert not found(known, new)
  new[:, 2] += 1e6
  told = found(known, new)
  assert "'c2' in 100%" in told and "'c1'" not in told
  bad = np.ones(len(new), int)
  assert not found(known, new, bad)  # they are said to be anomalies
  bad[:20] = 0
  assert "'c2'" in found(known, new, bad)


def test_what_holds_nothing_is_told(known):
  new = X[12:, :4].copy()
  new[:, 1] = np.nan
  assert "no row has a value in 'c1'" in found(known, new)
  new = X[12:, :4].copy()
  new[[3, 5]] = np.nan
  assert '2 rows hold no value' in found(known, new)
