"""A run that needs no training, for tests: distance to the nearest normal."""

import dataclasses
import functools
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from metaad_jax import learners, storage
from metaad_jax.base import MetaLearner
from metaad_jax.detector import adaptation
from metaad_jax.scores import conformal
from metaad_jax.training import runs

NAME = 'test_nearest'


def nearest(model, *, loss=None):
  """Rows of any width; NaN differs from any number."""
  del model, loss

  def init(key, task):
    del key, task
    return {'sharpness': jnp.ones(())}

  def adapt(key, params, support, features):
    del key
    normal = support.mask * (1 - support.y)
    seen = jnp.isfinite(support.x) * normal[:, None]
    x = jnp.nan_to_num(support.x)
    count = jnp.maximum(seen.sum(0), 1)
    mean = (seen * x).sum(0) / count
    spread = jnp.sqrt((seen * (x - mean) ** 2).sum(0) / count)
    scale = spread + 1e-3 * jnp.abs(mean) + 1e-9
    return params, support.x, normal, support.mask * support.y, scale, features

  def score(adapted, x):
    params, rows, normal, anomaly, scale, features = adapted
    gap = jnp.minimum(jnp.abs(x[:, None] - rows) / scale, 10.0)
    both = jnp.isnan(x[:, None]) & jnp.isnan(rows)
    gap = jnp.where(both, 0.0, jnp.where(jnp.isnan(gap), 3.0, gap))
    distance = (gap * features).sum(-1) / features.sum()
    closest = lambda who: jnp.where(who > 0, distance, 11.0).min(1)
    known = jnp.log(closest(normal) + 1e-2)
    rival = jnp.where(anomaly.sum() > 0, jnp.log(closest(anomaly) + 1e-2), 2.4)
    return params['sharpness'] * (known - 0.3 * jnp.minimum(rival, 2.4))

  def meta_grad(key, params, task):
    del key, task
    return jax.tree.map(jnp.zeros_like, params), {'loss': jnp.zeros(())}

  return MetaLearner(init, adapt, score, meta_grad)


@functools.cache
def shared():
  """The run's model file, written once in this process."""
  folder = tempfile.TemporaryDirectory(prefix='nearest_')
  path = write(pathlib.Path(folder.name, 'nearest.npz'))
  shared.folder = folder  # removed when the process ends
  return path


class CountedCompiles:
  """Counts what XLA compiles."""

  def __enter__(self):
    self.number, self._listening = 0, True
    jax.monitoring.register_event_duration_secs_listener(self._listen)
    return self

  def _listen(self, name, duration, **kwargs):
    self.number += self._listening and 'backend_compile' in name

  def __exit__(self, *error):
    self._listening = False


def register():
  """Makes the learner known, as one that takes tables."""
  learners.REGISTRY[NAME] = nearest


def table(rng, rows, width, shift=0.0):
  """Correlated columns of one entity; the anomalies shift one of them."""
  mixing = rng.normal(size=(width, width)) / np.sqrt(width) + np.eye(width)
  scale = np.exp(rng.normal(size=width))
  centre = 10 * rng.normal(size=width)
  draw = lambda n: (rng.normal(size=(n, width)) @ mixing) * scale + centre
  normal, bad = draw(rows), draw(rows)
  which = rng.integers(width, size=rows)
  size = scale[which] * np.linalg.norm(mixing, axis=0)[which]
  bad[np.arange(rows), which] += shift * size
  return normal, bad


def write(path, entities=30):
  """Calibrates the run on simulated tables; writes its model file."""
  register()
  config = runs.Config(learner=NAME, model='tables')
  setup = runs.resolve(config)
  params = setup.learner.init(None, None)
  run = runs.Run(NAME, setup, params, 1)
  cases = []
  for entity in range(entities):
    rng = np.random.default_rng(entity)
    normal, bad = table(rng, 60, (3, 6, 12)[entity % 3], 6.0)
    for shots in (5, 20):
      for anomalies in (0, 2):
        x = np.concatenate([normal[:shots], bad[:anomalies]])
        y = np.r_[np.zeros(shots), np.ones(anomalies)]
        adapted = adaptation.adapt(run, x, y)
        new = normal[shots:], bad[anomalies:20]
        scores = [adaptation.score(run, adapted, rows) for rows in new]
        support = adaptation.support_scores(run, x, y)
        about = str(entity), shots, anomalies, False
        cases.append(conformal.Case(*about, support, *scores))
  run = run._replace(calibration=conformal.fit(cases))
  arrays, meta = runs.pack(run)
  meta['config'] = dataclasses.asdict(config)
  storage.save(str(path), arrays, meta)
  return str(path)
