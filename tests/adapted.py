"""A run adapted to rows as they were read, for tests of what made the run."""

import numpy as np

from metaad_jax.detector import adaptation, encoding, sanity


def scorer(run, x, y):
  """rows [m, ...] -> scores [m], after adapting to x [n, ...] with labels y."""
  columns = encoding.Columns(np.shape(x)[1:])
  feature = encoding.feature(run, columns, None, None)
  seen = lambda rows: encoding.apply(
    feature, sanity.AS_IS, np.asarray(rows, np.float64)
  )
  adapted = adaptation.adapt(run, seen(x), y)
  return lambda rows: adaptation.score(run, adapted, seen(rows))
