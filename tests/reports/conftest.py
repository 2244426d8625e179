import made_up
import pandas as pd
import pytest

from metaad_jax.evaluation.results import Results


@pytest.fixture(scope='session')
def results():
  """Three K with and without labels; another source, contaminated, one K."""
  rig = made_up.make(cells=[(k, a) for k in (1, 5, 20) for a in (0, 1)])
  mill = made_up.make(cells=[(5, 0, 0.2)], source='mill')
  return Results(
    pd.concat([rig.table, mill.table], ignore_index=True), rig.meta
  )
