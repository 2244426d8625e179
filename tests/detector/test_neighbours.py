"""Nearest neighbours beside the network."""

import jax.numpy as jnp
import nearest_run
import numpy as np
import pytest

from metaad_jax import MetaAnomalyDetector
from metaad_jax.detector import exported, neighbours


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def made(x):
  near = neighbours.make(x.astype(np.float32))
  return near._replace(line=np.array([0.5, 2.0, 3.0], np.float32))


def brute(x, row, left_out=()):
  """To the nearest, in z-scores and levels of columns that vary."""
  level = lambda v: np.arcsinh(20 * v / np.abs(x).mean(0))
  z = lambda f: np.clip((f(row) - f(x).mean(0)) / f(x).std(0), -5, 5)
  scaled = lambda f: np.clip((f(x) - f(x).mean(0)) / f(x).std(0), -5, 5)
  same = lambda v: v
  far = sum(((z(f) - scaled(f)) ** 2).sum(1) for f in (same, level))
  far = np.delete(far, list(left_out))
  return np.log(np.sqrt(far.min() / (2 * x.shape[1])) + 1e-2)


def test_it_is_the_distance_to_the_nearest(rng):
  x = rng.normal(size=(43, 3)) * [1, 10, 100] + [5, 0, -7]
  rows = np.array([[4.0, 3, 50], [5, 0, 1e6]], np.float32)
  told = neighbours.distances(made(x), rows)
  np.testing.assert_allclose(told, [brute(x, r) for r in rows], rtol=1e-3)


def test_a_known_row_is_compared_with_the_others_only(rng):
  x = rng.normal(size=(40, 2))
  seen = x.astype(np.float32)
  told = neighbours.distances(made(x), seen, np.arange(40))
  wanted = [brute(x, row, [i]) for i, row in enumerate(x)]
  np.testing.assert_allclose(told, wanted, atol=2e-3)
  part = neighbours.without(made(x), np.arange(7))
  np.testing.assert_allclose(
    neighbours.distances(part, seen[:1]), brute(x, x[0], range(7)), atol=2e-3
  )


def test_missing_values_and_constant_columns(rng):
  x = np.c_[rng.normal(size=30), np.full(30, 7.0), np.full(30, np.nan)]
  x[3, 0] = np.nan
  rows = np.array([[np.nan, 7, np.nan], [np.nan, 8, 2]], np.float32)
  usual, off = neighbours.distances(made(x), rows)
  assert np.isfinite(usual)
  assert off > usual + 1


def test_within_a_program_it_is_the_same(rng):
  near, new = made(rng.normal(size=(23, 4))), rng.normal(size=(6, 4))
  new, scores = new.astype(np.float32), np.arange(6.0)
  np.testing.assert_allclose(
    neighbours.traced(near, jnp.asarray(scores), jnp.asarray(new)),
    neighbours.blended(near, scores, new), rtol=1e-4,
  )  # fmt: skip


def test_a_row_scores_the_same_in_every_batch(rng):
  near, new = made(rng.normal(size=(64, 5))), rng.normal(size=(50, 5))
  new = new.astype(np.float32)
  alone = [neighbours.distances(near, row[None])[0] for row in new]
  np.testing.assert_array_equal(neighbours.distances(near, new), alone)


def test_a_blend_has_median_and_spread_of_the_scores(rng):
  scores = rng.normal(3, 2, size=500)
  told = rng.normal(-1, 0.1, size=500) + 0.1 * scores
  first, second, offset = neighbours.line(0.6, scores, told)
  blend = first * scores + second * told + offset
  wanted, found = (np.quantile(v, (0.1, 0.5, 0.9)) for v in (scores, blend))
  np.testing.assert_allclose(found[1], wanted[1], atol=1e-4)
  np.testing.assert_allclose(np.ptp(found), np.ptp(wanted), rtol=1e-4)


def test_where_rows_come_again_scores_stay_of_their_size(rng):
  draw = lambda n: np.c_[
    rng.choice(6, n, p=[0.6, 0.3, 0.06, 0.02, 0.01, 0.01]),
    rng.choice(2, n, p=[0.97, 0.03]),
    rng.choice(4, n, p=[0.8, 0.15, 0.04, 0.01]),
  ].astype(float)
  detector = MetaAnomalyDetector(nearest_run.shared()).fit(draw(300))
  assert detector._fitted.near is not None
  assert np.ptp(detector.decision_scores_) < 100
  rare = detector.score_samples(np.array([[5.0, 1, 3], [0, 0, 0]]))
  assert rare[0] < rare[1]
  assert np.mean(detector.predict(draw(500)) < 0) < 0.1


def test_they_count_by_what_the_network_does_not_read():
  shares = [neighbours.share(n) for n in (0, 20, 50, 1000)]
  assert shares[0] == shares[1] == 0 < shares[2] < shares[3] < 1


def test_many_normals_show_what_a_support_cannot(rng, tmp_path):
  # Sixty clusters: 50 rows miss many of them.
  centres = rng.uniform(-10, 10, size=(60, 4))
  draw = lambda n: (
    centres[rng.integers(60, size=n)] + rng.normal(scale=0.05, size=(n, 4))
  )
  detector = MetaAnomalyDetector(nearest_run.shared()).fit(draw(400))
  normal, odd = draw(200), rng.uniform(-10, 10, size=(200, 4))
  new = np.concatenate([normal, odd])
  assert detector.score(new, np.repeat([0, 1], 200)) > 0.95
  assert detector.p_values(normal).mean() > 0.4
  detector.save(tmp_path / 'd.npz')
  again = MetaAnomalyDetector.load(tmp_path / 'd.npz')
  np.testing.assert_array_equal(
    again.score_samples(new), detector.score_samples(new)
  )
  detector.export(tmp_path / 'e.npz')
  alone = exported.load(tmp_path / 'e.npz')
  np.testing.assert_allclose(
    detector.score_samples(new), alone.score_samples(new), atol=1e-3
  )
