"""Few-shot anomaly detection by meta-learning, exact and fast, in JAX."""

import gc
import importlib

__version__ = '0.1.0'

_LAZY = {'MetaAnomalyDetector': 'estimator', 'PyODAdapter': 'pyod'}


def __getattr__(name):
  """The detectors, imported when asked for: they bring jax with them."""
  if name in _LAZY:
    collecting = gc.isenabled()
    gc.disable()  # a fifth of the time to import jax and scikit-learn
    try:
      module = importlib.import_module(f'metaad_jax.detector.{_LAZY[name]}')
    finally:
      if collecting:
        gc.enable()
    return getattr(module, name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__():
  return [*globals(), *_LAZY]
