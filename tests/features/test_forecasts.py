"""What values before foretell, on processes whose rule is known."""

import numpy as np

from metaad_jax.features import forecasts


def _coupled(n, seed):
  """Two channels: each is made of the last values of both, and noise."""
  noise = 0.1 * np.random.default_rng(seed).normal(size=(n, 2))
  x = np.zeros((n, 2))
  for t in range(2, n):
    x[t, 0] = 0.5 * x[t - 1, 0] + 0.4 * x[t - 2, 1] + noise[t, 0]
    x[t, 1] = 0.6 * x[t - 1, 1] - 0.3 * x[t - 1, 0] + noise[t, 1]
  return x, noise


def test_the_rule_of_a_process_is_found():
  x, noise = _coupled(20000, 0)
  made = forecasts.fit([x], 4)
  want = np.zeros((9, 2))  # of each channel the values 4, 3, 2, 1 before; 1
  want[3, 0], want[6, 0], want[7, 1], want[3, 1] = 0.5, 0.4, 0.6, -0.3
  np.testing.assert_allclose(made.coefficients, want, atol=0.04)
  errors = x[4:] - forecasts.foretold(made, x)
  np.testing.assert_allclose(errors, noise[4:], atol=0.03)
  np.testing.assert_allclose(made.deviation, 0.1, rtol=0.05)


def test_nothing_healthy_is_beyond_the_largest_error_and_a_wrong_value_is():
  x, _ = _coupled(3000, 1)
  made = forecasts.fit([x[:1000], x[1000:]], 8)
  assert made.inside.shape == (forecasts.TRACK, 3000)
  np.testing.assert_allclose(made.inside[:2].max(1), 0, atol=1e-6)
  np.testing.assert_array_equal(
    made.inside[:, 1000:1008], np.repeat(made.calm[:, None], 8, 1).astype('f4')
  )
  new, noise = _coupled(500, 2)
  new[300, 1] += 2
  far, together, column = forecasts.track(made, new)
  assert far.argmax() == together.argmax() == 300 and column[300] == 1
  largest = np.exp(made.farthest[1])
  np.testing.assert_allclose(
    np.exp(far[300]), (2 + noise[300, 1]) / largest, rtol=0.05
  )


def test_a_broken_relation_is_seen_though_each_channel_is_as_ever():
  x, _ = _coupled(3000, 3)
  made = forecasts.fit([x], 8)
  torn = x.copy()
  torn[:, 1] = _coupled(3000, 4)[0][:, 1]
  assert forecasts.track(made, torn)[1].mean() > 0.1 + made.inside[1].mean()


def test_many_channels_and_few_values():
  x = np.random.default_rng(5).normal(size=(40, 64))
  made = forecasts.fit([x], 13)
  assert made.lags == 8 and np.isfinite(made.inside).all()
  said = forecasts.track(made, x[:5])
  np.testing.assert_array_equal(said, np.repeat(made.calm[:, None], 5, 1))
