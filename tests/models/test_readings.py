"""A support of checked and unchecked rows, read three times."""

import fast
import jax
import numpy as np
import pytest

from metaad_jax import models
from metaad_jax.base import Rows, Task
from metaad_jax.models import attention, log_distances, readings

SPEC = 'attention:width=8,blocks=1,heads=2'
CHECKED, OPEN, COLUMNS = 6, 15, 3


def support(kinds):
  """Rows of y = `kinds`, the last of which lies far away."""
  x = 3 + np.random.default_rng(0).normal(size=(len(kinds), COLUMNS))
  x[-1] += 9
  return Rows(
    x.astype('f4'), np.asarray(kinds, 'f4'), np.ones(len(kinds), 'f4')
  )


BOTH = np.repeat([0, 0.5], [CHECKED, OPEN])
QUERY = np.random.default_rng(1).normal(size=(7, COLUMNS)).astype('f4') + 3


@pytest.fixture(scope='module')
def made():
  base = log_distances.beside(models.make(SPEC)(1))
  model, ones = readings.thrice(base), np.ones(COLUMNS, 'f4')
  rows = support(BOTH)
  params = fast.jit(base.init)(jax.random.key(0), Task(rows, rows, ones))
  params = jax.tree.map(lambda a: a + 0.1, params)  # nothing is 0

  def score(network):
    def found(rows, x):
      context = network.summarise(params, network.read(rows, ones))
      told = network.apply(params, context, x)[:, 0]
      return told, network.suspects(context)[-1]

    return fast.jit(found)

  return score(base), score(model)


def test_three_readings_are_averaged(made):
  once, thrice = made
  rows = support(BOTH)
  x = np.concatenate([QUERY, rows.x])
  clean = rows._replace(y=np.zeros_like(rows.y))
  reading = lambda kept: once(clean._replace(mask=kept.astype('f4')), x)
  first, _ = reading(BOTH == 0)
  second, own = reading(BOTH >= 0)
  doubts = [a[-OPEN:] for a in map(np.asarray, (first, own))]
  unusual = sum((a - a.mean()) / np.sqrt(a.var() + 0.03) for a in doubts)
  kept = np.ones(CHECKED + OPEN)
  kept[CHECKED:] = unusual < np.sort(unusual)[9]  # six in ten of 15
  assert kept.sum() == CHECKED + 9 and kept[-1] == 0
  third, _ = reading(kept)
  expected = 0.6 * first + 0.2 * second + 0.2 * third
  found, suspects = thrice(rows, x)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
  expected = np.mean(doubts, 0)
  np.testing.assert_allclose(suspects[-OPEN:], expected, rtol=1e-4, atol=1e-4)
  assert suspects[CHECKED:].argmax() == OPEN - 1


@pytest.mark.parametrize(
  'kinds',
  [
    np.zeros(8),
    np.full(8, 0.5),
    np.repeat([0, 1], [6, 2]),
    np.repeat([0.5, 1], [6, 2]),
  ],
)
def test_any_other_support_is_read_once(made, kinds):
  once, thrice = made
  rows = support(kinds)
  for found, expected in zip(
    thrice(rows, QUERY), once(rows, QUERY), strict=True
  ):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_anomalies_are_in_every_reading(made):
  thrice = made[1]
  rows = support(np.repeat([0, 0.5, 1], [6, 6, 2]))
  found, _ = thrice(rows, QUERY)
  gone = rows._replace(mask=np.repeat([1, 0], [12, 2]).astype('f4'))
  assert np.abs(np.asarray(found) - thrice(gone, QUERY)[0]).min() > 1e-3


def test_no_order_matters_and_padding_is_inert(made):
  thrice = made[1]
  rows = support(BOTH)
  usual, suspects = thrice(rows, QUERY)
  turn = np.random.default_rng(2).permutation(len(BOTH))
  found, theirs = thrice(Rows(*(a[turn] for a in rows)), QUERY)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
  close(found, usual)
  close(theirs, suspects[turn])
  padded = Rows(*(np.concatenate([a, 0 * a[:3]]) for a in rows))
  found, theirs = thrice(padded, QUERY)
  close(found, usual)
  close(theirs[: len(BOTH)], suspects)


def test_a_model_for_use_has_it_and_one_that_is_trained_has_not(made):
  rows, ones = support(BOTH), np.ones(COLUMNS, 'f4')
  plain = models.make(SPEC)(1).read(rows, ones)
  assert isinstance(plain, attention.Reading)
  assert models.make(f'{SPEC},distances=True')(1).read(rows, ones)[0] is rows
