"""What a series detector must beat, on the same windows and scaling."""

from collections.abc import Callable
import warnings

import numpy as np
from scipy import ndimage
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestNeighbors
from sklearn.neural_network import MLPRegressor

from metaad_jax.features import subsequences

_KEPT = 1500  # healthy windows, as in published comparisons
_EPOCHS = 200


def _windows(healthy, series, period, normalize):
  """[N, F] healthy windows, [M, F] of the series, and [M] their centres."""
  period = min(period, len(healthy) // 3, len(series))
  random = np.random.default_rng(0)
  starts = np.arange(len(healthy) - period + 1)
  starts = random.permutation(starts)[:_KEPT]
  hop = max(1, period // 8, len(series) // 8000)
  at = np.arange(0, len(series) - period + 1, hop)
  kept, asked = (
    subsequences.windows(x, some, period)
    for x, some in ((healthy, starts), (series, at))
  )
  if normalize:
    floor = 1e-3 * kept.std(-1).mean() + 1e-9
    scaled = lambda w: (
      (w - w.mean(-1, keepdims=True))
      / np.maximum(w.std(-1, keepdims=True), floor)
    )
    kept, asked = scaled(kept), scaled(asked)
  flat = lambda w: w.reshape(len(w), -1)
  return flat(kept), flat(asked), at + (period - 1) / 2


def _spread(values, centres, length):
  return np.interp(np.arange(length), centres, values)


def _on_windows(fit, normalize):
  """A baseline of `fit(kept) -> (asked -> scores)`."""

  def scores(healthy, series, period):
    kept, asked, centres = _windows(healthy, series, period, normalize)
    return _spread(fit(kept)(asked), centres, len(series))

  return scores


def _neighbours(k):
  def fit(kept):
    tree = NearestNeighbors(n_neighbors=min(k, len(kept))).fit(kept)
    return lambda asked: tree.kneighbors(asked)[0].mean(1)

  return fit


def _means(kept):
  model = KMeans(min(10, len(kept)), n_init=3, random_state=0).fit(kept)
  return lambda asked: model.transform(asked).min(1)


def _forest(kept):
  model = IsolationForest(random_state=0).fit(kept)
  return lambda asked: -model.score_samples(asked)


def _residual(kept):
  model = PCA(0.95, svd_solver='full').fit(kept)

  def scores(asked):
    back = model.inverse_transform(model.transform(asked))
    return np.linalg.norm(asked - back, axis=1)

  return scores


def _autoencoder(kept):
  """A small one with a bottleneck (Sakurada and Yairi, MLSDA 2014)."""
  model = MLPRegressor(
    hidden_layer_sizes=(64, 16, 64), max_iter=_EPOCHS, tol=0, random_state=0,
  )  # fmt: skip
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', ConvergenceWarning)
    model.fit(kept, kept)
  return lambda asked: np.linalg.norm(
    asked - model.predict(asked).reshape(asked.shape), axis=1
  )


def _seasonal(healthy, series, period):
  """Residual of the value one period before."""
  whole = np.concatenate([healthy[-period:], series])
  return np.abs(whole[period:] - whole[:-period])[-len(series) :].max(1)


def _autoregression(healthy, series, period, lags=32):
  """Residual of a ridge regression on the last values."""
  lags = min(lags, len(healthy) // 4)

  def table(x):
    past = np.lib.stride_tricks.sliding_window_view(x[:-1], lags, 0)
    return past.reshape(len(past), -1), x[lags:]

  model = Ridge(1.0).fit(*table(healthy))
  past, now = table(np.concatenate([healthy[-lags:], series]))
  return np.linalg.norm(now - model.predict(past).reshape(now.shape), axis=1)


def _spectral(healthy, series, period):
  """Spectral residual (Ren et al., KDD 2019), the highest of all channels."""
  lines = np.fft.fft(series, axis=0)
  size = np.log(np.abs(lines) + 1e-9)
  rest = size - ndimage.uniform_filter1d(size, 3, axis=0)
  map_ = np.abs(np.fft.ifft(np.exp(rest + 1j * np.angle(lines)), axis=0))
  mean = ndimage.uniform_filter1d(map_, 21, axis=0)
  return ((map_ - mean) / (mean + 1e-9)).max(1)


BASELINES: dict[str, Callable] = {
  'discord': _on_windows(_neighbours(1), True),
  'sub_knn': _on_windows(_neighbours(5), True),
  'knn_raw': _on_windows(_neighbours(1), False),
  'kmeans_ad': _on_windows(_means, True),
  'isolation_forest': _on_windows(_forest, False),
  'pca': _on_windows(_residual, False),
  'autoencoder': _on_windows(_autoencoder, False),
  'seasonal': _seasonal,
  'autoregression': _autoregression,
  'spectral_residual': _spectral,
}
# Of the others a score is that of the middle of a window.
AT_ONCE = 'seasonal', 'autoregression', 'spectral_residual'
