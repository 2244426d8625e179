"""The zoo's table: who is level with the best oftenest comes first."""

import pandas as pd

from experiments import zoo
from metaad_jax.reports import recommendation


def choice(shots, means, alike):
  best = max(means.values())
  gaps = {name: best - mean for name, mean in means.items()}
  cell = 'fleet:option=1', 0.0, 2, shots
  return recommendation.Choice(cell, means, gaps, alike, None, [])


def test_order_emphasis_and_costs():
  found = [
    choice(5, {'a': 0.9, 'b': 0.89, 'c': 0.8}, ['a', 'b']),
    choice(10, {'a': 0.9, 'b': 0.91}, ['b']),
  ]
  kinds = {'a': 'learner', 'b': 'learner', 'c': 'baseline'}
  costs = pd.DataFrame(
    [('a', 16, 8.0, 2.0, 0.5)],
    columns=['learner', 'tasks', 'train_ms', 'train_MiB', 'adapt_ms'],
  )
  table = zoo.table(found, kinds, costs)
  assert table.header[1:4] == (
    'level with the best', 'fleet A=2 K=5', 'fleet A=2 K=10'
  )  # fmt: skip
  first, second = table.groups['']
  (last,) = table.groups['baselines']
  assert [cell.text for cell in first[:4]] == ['b', '2 of 2', '.890', '.910']
  assert [cell.best for cell in second[2:4]] == [True, False]
  assert [cell.text for cell in second[4:]] == ['2,000', '2', '0.5']
  assert [cell.text for cell in last[:4]] == ['c', '0 of 2', '.800', '-']
