"""Few-shot anomaly detection by meta-learning, exact and fast, in JAX."""

import gc
import importlib
import os

# XLA's banner of slow compiling, and what it says and raises too.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
__version__ = '0.1.0'

_LAZY = {
  'FleetDetector': 'fleet.detector',
  'MetaAnomalyDetector': 'detector.estimator',
  'PyODAdapter': 'detector.pyod',
  'SeriesAnomalyDetector': 'detector.series',
  'exported': 'detector.exported',
  'scorers': 'scorers',
}


def __getattr__(name):
  """What brings jax with it, imported when asked for."""
  if name in _LAZY:
    collecting = gc.isenabled()
    gc.disable()  # a fifth of the time to import jax and scikit-learn
    try:
      module = importlib.import_module(f'metaad_jax.{_LAZY[name]}')
    finally:
      if collecting:
        gc.enable()
    return getattr(module, name, module)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__():
  return [*globals(), *_LAZY]
