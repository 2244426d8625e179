"""The page of judged rows: whole, harmless, and alive in a browser."""

import json
import re
import shutil
import subprocess
import types

import numpy as np
import pandas as pd
import pytest

from metaad_jax.data import roles
from metaad_jax.detector import judge
from metaad_jax.reports import judged

ATTACK = '<script>alert(1)</script>'
CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')


def made_up(monkeypatch, n=40, threshold=2.0):
  """Every second row is abnormal; all of them but the last have reasons."""
  scores = np.where(np.arange(n) % 2, 3.25, 0.5) - np.arange(n) / 1e5
  reason = types.SimpleNamespace(column=ATTACK, share=0.5, text=ATTACK)
  monkeypatch.setattr(judged.reasons, 'text', lambda e: ATTACK)
  monkeypatch.setattr(judged.reasons, 'reasons', lambda e, most: [reason])
  monkeypatch.setattr(judge, 'summary', lambda found: ATTACK)
  columns = (roles.Column(ATTACK, 'number', 0.5, 'feature', ATTACK),)
  rows = types.SimpleNamespace(
    rows=None,
    keys=pd.DataFrame({ATTACK: [f'pump {i} {ATTACK}' for i in range(n)]}),
    columns=columns,
  )
  by = types.SimpleNamespace(
    labels=np.array([0, 0, 1]), threshold=threshold, known=np.arange(3.0),
    columns=(ATTACK,), path='known.csv', run_dir='shipped', rate=0.05,
    reading=judge.AS_FOUND, support=rows,
  )  # fmt: skip
  return judge.Judged(
    judge=by, path=ATTACK, query=rows, scores=scores, p_values=np.ones(n),
    outliers=scores > 2,
    explanations={i: object() for i in range(1, n - 1, 2)},
  )  # fmt: skip


@pytest.mark.parametrize('threshold', [2.0, None])
def test_all_alarms_are_shown_and_their_names_are_text(threshold, monkeypatch):
  text = judged.page(made_up(monkeypatch, threshold=threshold)).decode()
  assert text.count('<script') == 1
  for row in range(1, 40, 2):
    assert f'<td>{row}</td>' in text and f'pump {row} &lt;script' in text
  assert '2 normal, 1 anomalous' in text
  assert ('20 of 40 rows are abnormal' in text) == (threshold is not None)
  assert ('not calibrated' in text) == (threshold is None)


def test_of_many_rows_the_highest_scores_are_drawn(monkeypatch):
  found = made_up(monkeypatch, n=5000)
  strip = judged._strip(found)
  assert strip['thinned'] and len(strip['points']) == judged._DRAWN
  drawn = [point[2] for point in strip['points']]
  assert all(drawn[:-1])  # every bin of four rows has an alarm


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason='no chromium is installed')
def test_a_browser_sorts_by_a_heading_and_finds_a_word(monkeypatch, tmp_path):
  text = judged.page(made_up(monkeypatch)).decode()
  text = re.sub("script-src '[^']*'", "script-src 'unsafe-inline'", text)
  act = """<script>
    const table = document.querySelector('#rows');
    const column = () => [...table.tBodies[0].rows].filter(r => !r.hidden)
      .map(r => +r.cells[0].textContent);
    table.querySelector('thead th').click(); const up = column();
    const find = document.querySelector('input');
    find.value = 'PUMP 17'; find.dispatchEvent(new Event('input'));
    document.title = JSON.stringify([up, column()]);
  </script></body>"""
  path = tmp_path / 'report.html'
  path.write_text(text.replace('</body>', act))
  command = [
    CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic',
    '--no-first-run', '--disable-background-networking', '--disable-sync',
    '--disable-component-update', f'--user-data-dir={tmp_path / "profile"}',
    '--dump-dom', path.as_uri(),
  ]  # fmt: skip
  dom = subprocess.run(command, capture_output=True, text=True, timeout=120)
  up, found = json.loads(re.search('<title>(.*?)</title>', dom.stdout)[1])
  assert up == list(range(1, 40, 2)) and found == [17]
