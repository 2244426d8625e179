"""Faults change what they say, and nothing else."""

import jax
import numpy as np
import pytest

from metaad_jax.data import series_faults, series_processes


def _healthy(channels=2):
  t = np.arange(2000)[:, None]
  return np.sin(2 * np.pi * t / 50 + np.arange(channels)) + 0.01 * np.cos(t)


@pytest.mark.parametrize('kind', series_faults.KINDS)
def test_a_fault_stays_where_it_is_put(kind):
  x, random = _healthy(), np.random.default_rng(0)
  made, labels = series_faults.inject(x, 600, 700, kind, 3.0, 50, random)
  assert made.shape == x.shape and np.isfinite(made).all()
  rows = np.flatnonzero(labels)
  assert 600 <= rows[0] <= rows[-1] < 700
  np.testing.assert_array_equal(made[~labels], x[~labels])
  assert np.abs(made - x).max() > 0.1


def test_sizes_are_in_deviations():
  x = _healthy(1)
  made, _ = series_faults.inject(
    10 * x, 600, 700, 'level shift', 2.0, 50, np.random.default_rng(1)
  )
  step = np.abs(made - 10 * x)[600:700]
  np.testing.assert_allclose(step, 20 * x[400:900].std(), rtol=1e-6)


def test_a_spoiled_series_names_its_faults():
  x = _healthy()
  made, labels, faults = series_faults.spoiled(x, 50, np.random.default_rng(2))
  assert faults and labels.any()
  marked = np.zeros(len(x), bool)
  for fault in faults:
    assert fault.kind in series_faults.KINDS
    marked[fault.start : fault.stop] = True
  np.testing.assert_array_equal(marked, labels)
  np.testing.assert_array_equal(made[~labels], x[~labels])


def test_simulated_processes_are_finite_and_alive():
  seen = []
  for kind in range(len(series_processes.PROCESSES)):
    key = jax.random.fold_in(jax.random.key(3), kind)
    x = np.asarray(series_processes.process(key, 1500, kind, 3))
    assert x.shape == (1500, 3) and np.isfinite(x).all()
    assert (x.std(0) > 0.5).all()
    seen.append(x)
  assert len(np.unique(np.round(seen, 6), axis=0)) == len(seen)
