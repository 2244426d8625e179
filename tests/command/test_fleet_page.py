"""The sample of a fleet, and the page that `metaad score` writes of it."""

import json
import re
import shutil
import subprocess
import types

from calls import succeed
import numpy as np
import pandas as pd
import pytest

from metaad_jax.fleet import tally
from metaad_jax.reports import fleet

CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')


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


def page_of(n=250):
  """Of n entities with a row each, of which those from 190 on are abnormal."""
  names = ['<b>&' if i == 0 else f'e{i:03}' for i in range(n)]
  p = np.linspace(0.001, 0.9, n)
  bad = np.arange(n) >= 190
  frame = pd.DataFrame({
    'row': np.arange(n), 'entity': np.arange(n), 'p_value': p, 'score': 0.0,
    'time': np.arange(n, dtype=float), 'stamp': np.arange(n),
    'abnormal': bad, 'reasons': '<i>',
  })  # fmt: skip
  ranking = pd.DataFrame({
    'who': names, 'rows': 1, 'abnormal': bad.astype(int), 'least_p_value': p,
    'known': True,
  })  # fmt: skip
  bins = tally.Bins()
  bins.add(frame['entity'].to_numpy(), frame['time'].to_numpy())
  told = types.SimpleNamespace(bins=bins, count=n, ends=[(0, 'A'), (9, 'Z')])
  return fleet.page(told, ranking, frame[bad], frame, 'new.csv', 0.05).decode()


def test_a_page_counts_each_alarm_once_and_says_what_is_not_drawn():
  page = page_of()
  assert '<b>' not in page and '<i>' not in page
  assert page.count('class="seen"') == 200
  assert page.count('class="count"') == 10
  assert '50 more entities, with 50 abnormal rows' in page


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason='no chromium is installed')
def test_in_a_browser_a_click_opens_an_entity_and_a_word_finds_it(tmp_path):
  text = re.sub("script-src '[^']*'", "script-src 'unsafe-inline'", page_of())
  act = """<script>
    const opened = () => document.querySelector('#part-7').closest('details');
    const before = opened().open, find = document.querySelector('input');
    document.querySelectorAll('svg.fleet a')[7].dispatchEvent(
      new MouseEvent('click', {bubbles: true, cancelable: true}));
    find.value = 'E007'; find.dispatchEvent(new Event('input'));
    const rows = [...document.querySelectorAll('#ranking tbody tr')];
    const seen = rows.filter(r => !r.hidden).map(r => r.cells[0].textContent);
    setTimeout(() => document.title = JSON.stringify(
      [before, opened().open, location.hash, seen]), 300);
  </script></body>"""
  path = tmp_path / 'report.html'
  path.write_text(text.replace('</body>', act))
  command = [
    CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic',
    '--no-first-run', '--disable-background-networking', '--disable-sync',
    '--disable-component-update', f'--user-data-dir={tmp_path / "profile"}',
    '--virtual-time-budget=3000', '--dump-dom', path.as_uri(),
  ]  # fmt: skip
  dom = subprocess.run(command, capture_output=True, text=True, timeout=120)
  told = json.loads(re.search('<title>(.*?)</title>', dom.stdout)[1])
  assert told == [False, True, '#part-7', ['e007']]


def test_bins_of_time_grow_and_lose_no_row():
  rng = np.random.default_rng(0)
  bins, times, entities = tally.Bins(), np.zeros(0), np.zeros(0, int)
  for scale in (1, 0, 1e-3, 50, 1e5, 3):
    more = 7e8 + scale * rng.normal(size=40)
    more[3] = np.nan
    of = rng.integers(0, 3 + len(times) // 40, 40)
    bins.add(of, more)
    times, entities = np.append(times, more), np.append(entities, of)
    there = ~np.isnan(times)
    places = bins.of(times[there])
    assert bins.used <= tally.BINS and set(places) <= set(range(bins.used))
    wanted = np.zeros_like(bins.counts)
    np.add.at(wanted, (entities[there], places), 1)
    np.testing.assert_array_equal(bins.counts, wanted)
    width = np.ptp(times[there]) / bins.used
    order = np.argsort(times[there])
    gaps = np.diff(times[there][order])[np.diff(places[order]) == 0]
    assert (gaps <= 2.1 * max(width, 1e-9)).all()
  assert bins.untimed == 6
