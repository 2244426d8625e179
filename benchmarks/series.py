"""Speed and memory of series: fit, score, follow.

  python -m benchmarks.series [points]

Prints seconds to fit 10,000 healthy points and to score `points` (1,000,000)
of one channel by period, the median milliseconds of a point as it arrives,
microseconds a point of 8 and 38 channels, and how much more memory scoring
takes than scoring a tenth of the points did. After a first call each, which
compiles; for figures that count, beside nothing else on the machine.
"""

import resource
import sys
import time

import numpy as np

from metaad_jax import SeriesAnomalyDetector

PERIODS = 24, 100, 288


def series(n: int, period: int, channels: int, seed: int) -> np.ndarray:
  """[n, channels] float64, a noisy wave."""
  random = np.random.default_rng(seed)
  phase = 2 * np.pi * np.arange(n)[:, None] / period + np.arange(channels)
  x = np.sin(phase) + 0.5 * np.sin(3 * phase + 1)
  return x + 0.1 * random.normal(size=x.shape)


def seconds(call, *arguments) -> float:
  begin = time.perf_counter()
  call(*arguments)
  return time.perf_counter() - begin


def follow(detector, x) -> float:
  """Median seconds of a point, once the longest windows are full."""
  stream = detector.follow()
  took = [seconds(stream.push, row) for row in x]
  return float(np.median(took[len(took) // 2 :]))


def main(points: int) -> None:
  for period in PERIODS:
    healthy = series(10_000, period, 1, 0)
    detector = SeriesAnomalyDetector(period=period).fit(healthy)
    fitted = min(seconds(detector.fit, healthy) for _ in range(3))
    x = series(points, period, 1, 1)
    detector.score_samples(x[: points // 10])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scored = seconds(detector.score_samples, x)
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(
      f'1 channel, period {period}: fit of 10,000 points {fitted:.3f} s, '
      f'{points} points {scored:.2f} s (+{more / 1024:.0f} MB), a point as it '
      f'arrives {1e3 * follow(detector, x[: 8 * period]):.2f} ms', flush=True,
    )  # fmt: skip
  for channels in 8, 38:
    healthy, x = (series(5000, 100, channels, seed) for seed in range(2))
    detector = SeriesAnomalyDetector(period=100).fit(healthy)
    detector.score_samples(x)
    fitted, scored = (
      seconds(call, part)
      for call, part in ((detector.fit, healthy), (detector.score_samples, x))
    )
    print(
      f'{channels} channels, period 100: fit of 5,000 points {fitted:.3f} s, '
      f'{1e6 * scored / len(x):.0f} microseconds a point, a point as it '
      f'arrives {1e3 * follow(detector, x[:800]):.2f} ms', flush=True,
    )  # fmt: skip


if __name__ == '__main__':
  main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
