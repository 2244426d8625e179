"""Series beside published scores, and windows: small cases by hand."""

import numpy as np
import pandas as pd

from experiments import series, series_windows
from metaad_jax.base import Entity
from metaad_jax.data.recordings import Recording
from metaad_jax.evaluation import series_baselines
from metaad_jax.evaluation.tasks import Cell


def _wave(n, seed):
  noise = 0.05 * np.random.default_rng(seed).normal(size=n)
  return (np.sin(2 * np.pi * np.arange(n) / 40) + noise)[:, None]


def test_whole_series_are_scored_and_groups_count_alike():
  x, labels = _wave(1500, 0), np.zeros(700, bool)
  x[1100:1140], labels[300:340] = 0, True
  one = Recording('a', 'g', x[:800], x[800:], labels)
  row = series._of_published('1_UCR_id_1_Medical_tr_600_1st_1100.csv', one)
  assert row['ours'] > 0.6 and row['group'] == 'g'
  table = pd.DataFrame({
    'group': ['g', 'g', 'h'], 'ours': [0.2, 0.4, 0.9], 'it': [0.1, 0.3, 1.0]
  })  # fmt: skip
  text = series._beside(table)
  assert '| ours | 0.5 | 0.6 |' in text
  assert '| it | 0.467 | 0.6 | +0.000' in text and '2 / 1' in text


def test_a_window_that_is_unlike_has_the_highest_score():
  windows = np.stack([_wave(256, seed) for seed in range(1, 16)])
  windows[12] = 0.8 * np.random.default_rng(0).normal(size=(256, 1))
  entity = Entity('a', windows[:5], windows[5:], np.zeros(10, int), [''] * 10)
  every, none = np.arange(10), np.zeros(0, int)
  cell = Cell(0, 0, 5, 0, 0.0, np.arange(5), none, none, every)
  for scores in series_windows._scores(entity, cell).values():
    assert scores.shape == (10,) and scores.argmax() == 7


def test_delays_are_those_of_points_as_they_arrive(monkeypatch):
  only = {'discord': series_baselines.BASELINES['discord']}
  monkeypatch.setattr(series_baselines, 'BASELINES', only)
  x, labels = _wave(1500, 0), np.zeros(700, bool)
  x[1100:1140], labels[300:340] = 0, True
  one = Recording('a', 'g', x[:800], x[800:], labels)
  table = pd.DataFrame(list(series._judge(one, set(), None)))
  delays = table.set_index('detector').delays.astype(float)
  assert 0 < delays['ours'] < 40 and 0 < delays['discord'] < 60
  rows = series._delays(table).set_index('detector')
  assert rows.found['ours'] == '1 of 1'
