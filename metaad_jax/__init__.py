"""Few-shot anomaly detection by meta-learning, exact and fast, in JAX."""

__version__ = '0.1.0'
