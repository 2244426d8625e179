"""Tests compile much and compute little: LLVM need not optimize."""

import os

os.environ.setdefault('XLA_FLAGS', '--xla_backend_optimization_level=0')
