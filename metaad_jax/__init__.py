"""Few-shot anomaly detection by meta-learning, exact and fast, in JAX."""

import gc

__version__ = '0.1.0'

_LAZY = ('MetaAnomalyDetector', 'PyODAdapter')


def __getattr__(name):
  """The detectors, imported when asked for: they bring jax with them."""
  if name in _LAZY:
    collecting = gc.isenabled()
    gc.disable()  # a fifth of the time to import jax and scikit-learn
    try:
      from metaad_jax.detector import estimator
    finally:
      if collecting:
        gc.enable()
    return getattr(estimator, name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__():
  return [*globals(), *_LAZY]
