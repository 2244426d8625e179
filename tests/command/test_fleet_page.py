"""The sample of a fleet, and the page that `metaad score` writes of it."""

import re

from calls import succeed
import numpy as np
import pandas as pd

from metaad_jax.reports import fleet

HEADER = {'entity': 'who', 'time': ''}


def test_the_sample_is_judged_right_and_drawn(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  succeed('sample', 'pumps', '--fleet')
  files = [f'pumps/{name}.csv' for name in ('known', 'new')]
  assert sum((tmp_path / f).stat().st_size for f in files) < 200_000
  succeed(
    'fit', files[0], '--entity=machine', '--time=time', '--output=pumps.fleet'
  )
  succeed('score', 'pumps.fleet', files[1])
  ranking = pd.read_csv('found/entities.csv')
  share = ranking.set_index('machine').eval('abnormal / rows')
  assert set(share.nlargest(2).index) == {'pump-3', 'pump-6'}
  assert share.drop(['pump-3', 'pump-6']).max() < 0.15
  scores = pd.read_csv('found/scores.csv')
  told = scores[scores.reasons.notna()].groupby('machine').size()
  assert len(told) == 8 and told.sum() == 50
  assert ranking.machine[0] == 'pump-3'
  page = (tmp_path / 'found/report.html').read_text()
  assert all(f'pump-{i}' in page for i in range(1, 9))
  links = set(re.findall(r'href="#([^"]*)"', page))
  assert len(links) == 8 and links <= set(re.findall(r'id="([^"]*)"', page))


def test_a_page_counts_each_alarm_once_and_says_what_is_not_drawn():
  n = 250
  names = ['<b>&' if i == 0 else f'e{i:03}' for i in range(n)]
  p = np.linspace(0.001, 0.9, n)
  bad = np.arange(n) >= 190
  judged = pd.DataFrame({
    'row': np.arange(n), 'who': names, 'p_value': p, 'score': 0.0,
    'reasons': '<i>', 'decision': np.where(bad, 'abnormal', 'normal'),
  })  # fmt: skip
  ranking = pd.DataFrame({
    'who': names, 'rows': 1, 'abnormal': bad.astype(int), 'least_p_value': p,
    'known': True,
  })  # fmt: skip
  page = fleet.page(judged, ranking, None, 'new.csv', 0.05, HEADER).decode()
  assert '<b>' not in page and '<i>' not in page
  assert page.count('class="seen"') == 200
  assert page.count('class="count"') == 10
  assert '50 more entities, with 50 abnormal rows' in page


def test_rows_are_in_bins_by_time_and_those_without_time_in_none():
  bins, order = fleet._binned(np.array([120.0, np.nan, 0.0, 60.0]), 4)
  assert bins.tolist() == [59, -1, 0, 30] and order.tolist() == [2, 3, 0]
