"""Few-shot anomaly detection by meta-learning, exact and fast, in JAX."""

__version__ = '0.1.0'

_LAZY = ('MetaAnomalyDetector', 'PyODAdapter')


def __getattr__(name):
  """The detectors, imported when asked for: they bring jax with them."""
  if name in _LAZY:
    from metaad_jax import detector

    return getattr(detector, name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__():
  return [*globals(), *_LAZY]
