"""Masks cancel and hide; epsilons against the Gaussian mechanism."""

import jax
import numpy as np
from numpy.testing import assert_allclose
import pytest
from scipy import stats

from metaad_jax.base import DataError
from metaad_jax.federated import privacy

SECRET = jax.random.key(7)


def test_masks_cancel_in_the_sum_and_hide_each_update():
  random = np.random.default_rng(0)
  updates = [
    {'w': random.normal(size=(300,)), 'b': random.normal()} for _ in '123'
  ]
  everyone = [0, 4, 9]
  sent = [
    privacy.masked(u, site, everyone, SECRET)
    for u, site in zip(updates, everyone, strict=True)
  ]
  total = privacy.secure_sum(sent)
  for name in ('w', 'b'):
    assert_allclose(total[name], sum(u[name] for u in updates), atol=3e-5)
  uniform = sent[0]['w'] / 2.0**32
  assert stats.kstest(uniform, 'uniform').pvalue > 1e-3
  again = privacy.masked(updates[1], 0, everyone, SECRET)['w'] - sent[0]['w']
  assert_allclose(  # the mask depends on the sites, not on what is sent
    again.view(np.int32) / 2**16, updates[1]['w'] - updates[0]['w'], atol=3e-5
  )


def test_what_might_overflow_is_refused():
  with pytest.raises(DataError):
    privacy.masked({'w': np.full(2, 1.1e4)}, 0, [0, 1, 2], SECRET)


def test_epsilon():
  pytest.importorskip('dp_accounting')
  delta = 1e-5
  # All sites in one round: a Gaussian mechanism, with sensitivity two clips.
  one = privacy.epsilon(8.0, 1, 100, 100, delta)
  bound = 1 / (2 * 4**2) + np.sqrt(2 * np.log(1 / delta)) / 4
  assert 0.6 * bound < one <= bound
  assert privacy.epsilon(8.0, 1, 10, 100, delta) < one  # a lottery helps
  assert privacy.epsilon(8.0, 20, 100, 100, delta) > one
  noise = privacy.noise_for(3.0, 20, 10, 100, delta)
  assert_allclose(privacy.epsilon(noise, 20, 10, 100, delta), 3.0, rtol=1e-2)
