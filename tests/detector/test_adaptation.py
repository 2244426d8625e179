"""A run adapted: padding is inert, and rows are left out as they should."""

import jax.numpy as jnp
import nearest_run
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest

from metaad_jax.base import Rows
from metaad_jax.detector import adaptation
from metaad_jax.training import runs


@pytest.fixture(scope='module')
def run():
  return runs.restore(nearest_run.shared())


def test_padding_and_chunks_change_no_score(run):
  """The learner itself, on rows and columns as they are."""
  x = np.random.default_rng(0).normal(size=(1205, 3)).astype('f4')
  y = np.array([0.0, 0, 0, 0, 1])
  rows = Rows(*map(jnp.asarray, (x[:5], y, np.ones(5))))
  adapted = run.learner.adapt(None, run.params, rows, jnp.ones(3))
  expected = run.learner.score(adapted, jnp.asarray(x[5:]))
  adapted = adaptation.adapt(run, x[:5], y)
  for count in (1, 8, 50, 65, 300, 1200):
    scores = adaptation.score(run, adapted, x[5 : 5 + count])
    assert_allclose(scores, expected[:count], rtol=1e-4, atol=1e-5)


def test_support_scores_are_of_rows_left_out(run):
  """Up to eight: one by one, as by hand; beyond: in four parts."""
  x = np.random.default_rng(0).normal(size=(8, 3)).astype('f4')  # no padding
  y = np.array([0, 0, 1, 0, 0, 0, 0, 0])
  found = adaptation.support_scores(run, x, y)
  for score, i in zip(found, np.flatnonzero(y == 0), strict=True):
    rest = np.arange(8) != i
    adapted = adaptation.adapt(run, x[rest], y[rest])
    hand = adaptation.score(run, adapted, x[i : i + 1])[0]
    assert score == pytest.approx(hand, abs=1e-5)
  assert adaptation.support_scores(run, x[:1], y[:1]).shape == (0,)
  for number in (20, 32, 40):  # the others fill half of the size, or more
    many = np.random.default_rng(number).normal(size=(number, 3))
    parts = adaptation.without(run, many, np.zeros(number))
    assert len(parts) == 4
    members = np.concatenate([who for _, who in parts])
    assert_array_equal(np.sort(members), np.arange(number))
    scores = adaptation.support_scores(run, many, np.zeros(number))
    for adapted, who in parts:
      hand = adaptation.score(run, adapted, many[who])
      assert_allclose(scores[who], hand, atol=1e-5)
