"""A run adapted: padding is inert, and rows are left out as they should."""

import logging
import multiprocessing
import warnings

import jax
import jax.numpy as jnp
import nearest_run
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
import pytest

from metaad_jax.base import DataError, Rows
from metaad_jax.detector import adaptation
from metaad_jax.detector.estimator import MetaAnomalyDetector
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


def test_a_state_of_any_types_comes_back(run):
  """Leaves of float32 travel as one array, the others by themselves."""
  counts, keys = np.arange(3, dtype='i4'), jax.random.key(7)
  whole = np.arange(6, dtype='f4').reshape(2, 3)
  told = {'a': whole, 'b': [counts, jnp.float32(2.5)], 'c': (whole.T, keys)}
  learner = run.setup.learner._replace(
    adapt=lambda *given: told, score=lambda state, x: state['b'][1] * x[:, 0]
  )
  run = run._replace(setup=run.setup._replace(learner=learner))
  adapted = adaptation.adapt(run, np.ones((2, 3)), np.zeros(2))
  assert adapted.packed.flat.shape == (13,)
  state = adapted.state
  assert jax.tree.structure(state) == jax.tree.structure(told)
  assert_array_equal(state['a'], whole)
  assert_array_equal(state['b'][0], counts)
  assert state['b'][0].dtype == counts.dtype
  assert state['b'][1] == 2.5
  assert_array_equal(state['c'][0], whole.T)
  assert state['c'][1] == keys
  assert_array_equal(adaptation.score(run, adapted, whole), [0, 7.5])


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


def test_a_score_is_the_same_in_every_batch(run):
  x = np.random.default_rng(0).normal(size=(150, 3))
  adapted = adaptation.adapt(run, x[:5], np.zeros(5))
  whole = adaptation.score(run, adapted, x)
  for start, stop in ((0, 1), (3, 40), (40, 41), (70, 150)):
    part = adaptation.score(run, adapted, x[start:stop])
    assert_array_equal(part, whole[start:stop])


def test_nothing_is_compiled_after_fit(caplog):
  """Not by a larger batch, a threshold, reasons, or rows that come later."""
  normal, bad = nearest_run.table(np.random.default_rng(0), 200, 5, 6.0)
  detector = MetaAnomalyDetector(nearest_run.shared()).fit(normal[:9])
  with jax.log_compiles(), caplog.at_level(logging.WARNING):
    for count in (1, 65, 190):
      detector.predict(normal[:count])
    detector.explain(bad[:1])
    detector.partial_fit(normal[9:40]).predict(bad)
  assert not [r for r in caplog.records if 'Compiling' in r.getMessage()]


def test_what_is_warmed_up_is_not_compiled_in_fit(caplog):
  MetaAnomalyDetector(nearest_run.shared()).warm_up(columns=[50], rows=[3])
  x = np.random.default_rng(0).normal(size=(7, 60))
  with jax.log_compiles(), caplog.at_level(logging.WARNING):
    MetaAnomalyDetector(nearest_run.shared()).fit(x).predict(x)
  assert not [r for r in caplog.records if 'Compiling' in r.getMessage()]


def test_all_sizes_share_few_programs():
  """Whatever the rows to fit on; scoring has what fit compiled."""
  x = np.random.default_rng(0).normal(size=(1000, 5))
  jax.clear_caches()
  fitted = scored = 0
  for size in (1, 2, 3, 5, 40, 700, 1000):
    with nearest_run.CountedCompiles() as compiled:
      detector = MetaAnomalyDetector(nearest_run.shared()).fit(x[:size])
    fitted += compiled.number
    with nearest_run.CountedCompiles() as compiled:
      for count in (1, 2, 3, 5, 40, 700, 1000):
        detector.score_samples(x[:count])
    scored += compiled.number
  assert 0 < fitted <= 18 and scored == 0


def test_a_forked_process_is_told_and_does_not_hang():
  """Threads of JAX stay in the parent."""
  x = np.random.default_rng(0).normal(size=(7, 3))
  detector = MetaAnomalyDetector(nearest_run.shared()).fit(x)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', RuntimeWarning)  # JAX warns of it too
    context = multiprocessing.get_context('fork')
    parent, child = context.Pipe()
    process = context.Process(target=_predict, args=(detector, x, child))
    process.start()
  assert parent.poll(60) and 'forked' in parent.recv()
  process.join()
  detector.predict(x)


def _predict(detector, x, pipe):
  try:
    pipe.send(str(detector.predict(x)))
  except DataError as error:
    pipe.send(str(error))
