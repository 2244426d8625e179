"""Pages hold the numbers of the tables, need no other file, run no markup."""

import base64
import hashlib
import html
import itertools
import json
import re
import shutil
import subprocess

from made_up import make
import pandas as pd
import pytest

from metaad_jax import base
from metaad_jax.evaluation import results as results_lib
from metaad_jax.evaluation.results import Results
from metaad_jax.reports import pages, tables
from metaad_jax.scores import comparisons

ATTACK = '<script>alert(1)</script>'
CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')


def rows_of(page):
  """The text of the cells of every row of every table of a page."""
  text = lambda cell: html.unescape(re.sub('<.*?>', '', cell))
  rows = re.findall('<tr.*?</tr>', page, re.DOTALL)
  return [[text(c) for c in re.findall('<t[dh].*?</t[dh]>', r)] for r in rows]


def means_of(results, metric):
  """The tables of the means of a metric, one for each A."""
  for block, rows in tables.blocks(comparisons.summary(results.table, metric)):
    for _, panel in rows.groupby('anomalies'):
      yield tables.means(panel, block)


@pytest.fixture(scope='module')
def folder(results, tmp_path_factory):
  folder = tmp_path_factory.mktemp('report')
  written = pages.write(results, folder)
  assert sorted(written) == sorted(
    str(p) for p in folder.rglob('*') if p.is_file()
  )
  return folder


@pytest.fixture(scope='module')
def page(folder):
  return (folder / 'report.html').read_text()


def test_the_report_has_the_numbers_of_the_tables(results, page):
  shown = rows_of(page)
  for metric in tables.METRICS:
    for table in means_of(results, metric):
      for cells in itertools.chain(*table.groups.values()):
        assert [f'{c.text}{c.note}' for c in cells] in shown


def test_the_report_needs_no_other_file_and_runs_one_known_script(page):
  addresses = re.findall('(?:src|href)="(.*?)"', page)
  assert addresses
  assert all(re.match('data:image/png|#', address) for address in addresses)
  (script,) = re.findall('<script>(.*?)</script>', page, re.DOTALL)
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  assert f"script-src 'sha256-{digest}'" in page
  assert "default-src 'none'" in page


def test_csv_files_hold_the_frames(results, folder):
  contests = pd.concat(
    [comparisons.contests(results.table, metric) for metric in ('auroc', 'ap')],
    ignore_index=True,
  )
  again = pd.read_csv(folder / 'contests.csv')
  pd.testing.assert_frame_equal(again, contests, check_dtype=False)
  summary = pd.read_csv(folder / 'summary.csv')
  assert set(summary.metric) == set(tables.METRICS)
  assert summary.groupby('metric').size().nunique() == 1


def test_names_are_text_and_no_markup_or_formula(tmp_path):
  made = make({ATTACK: ('learner', 0.8), '=cmd': ('baseline', 0.7)})
  table = made.table.replace({'rig': ATTACK, 'e0': ATTACK})
  notes = [f'{ATTACK}: no task with 9 shots', ATTACK]
  flags = {'source': ATTACK}
  results = Results(table, {**made.meta, 'notes': notes, 'flags': flags})
  pages.write(results, tmp_path)
  text = (tmp_path / 'report.html').read_text()
  assert text.count('<script') == 1
  assert '&lt;script&gt;alert(1)' in text
  assert "'=cmd" in (tmp_path / 'summary.csv').read_text()
  pages.write_markdown(results, tmp_path / 'page.md')
  markdown = (tmp_path / 'page.md').read_text()
  assert not re.search(r'(?<!\\)<script', markdown.partition('-->')[2])


def test_nothing_scored_is_an_error_in_one_line(results, tmp_path):
  with pytest.raises(base.DataError, match='no episode'):
    pages.write(Results(results.table[:0], results.meta), tmp_path)


@pytest.fixture(scope='module')
def written(results, tmp_path_factory):
  folder = tmp_path_factory.mktemp('docs')
  (folder / 'intro').mkdir()
  (folder / 'intro' / 'rig.md').write_text('# The rig\n\nBy *hand*.\n')
  paths = pages.write_markdown(
    results, folder / 'rig.md', rows_per_day=[8640.0, 10.0]
  )
  assert all(path.exists() for path in paths)
  return paths


def test_a_page_is_made_again_from_what_lies_beside_it(written, tmp_path):
  intro = written[0].parent / 'intro' / 'rig.md'
  results = results_lib.load(written[1])
  again = pages.write_markdown(results, tmp_path / 'rig.md', intro=intro)
  assert [p.name for p in again] == [p.name for p in written]
  for path, first in zip(again, written, strict=True):
    assert path.read_bytes() == first.read_bytes(), path.name


def test_a_page_has_what_was_written_by_hand_and_all_means(results, written):
  lines = written[0].read_text().splitlines()
  assert lines[2:5] == ['# The rig', '', 'By *hand*.']
  assert sum(line.startswith('# ') for line in lines) == 1
  for table in means_of(results_lib.compact(results), 'auroc'):
    assert set(tables.markdown(table).splitlines()) <= set(lines)
  text = '\n'.join(lines)
  assert '/home/me' not in text
  assert 'rig 8,640, mill 10' in text
  assert '- odd' in text and 'e9 (2)' in text
  for path in written[3:]:
    assert f']({path.name})' in text


def test_what_cannot_be_a_page_is_refused(results, tmp_path):
  with pytest.raises(base.DataError, match='ends in .md'):
    pages.write_markdown(results, tmp_path / 'rig.html')
  with pytest.raises(base.DataError, match='cannot be read'):
    pages.write_markdown(
      results, tmp_path / 'rig.md', intro=tmp_path / 'none.md'
    )


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason='no chromium is installed')
def test_a_browser_sorts_a_table_by_the_number_clicked(folder, tmp_path):
  text = (folder / 'report.html').read_text()
  text = re.sub("script-src '[^']*'", "script-src 'unsafe-inline'", text)
  click = """<script>
    const table = document.querySelector('#auroc table');
    const head = table.querySelectorAll('thead th')[1];
    const column = () => [...table.tBodies].map(
      b => [...b.querySelectorAll('tr:not(.group)')].map(
        r => r.children[1].textContent.slice(0, 4)));
    head.click(); const up = column(); head.click();
    document.title = JSON.stringify([up, column()]);
  </script></body>"""
  path = tmp_path / 'report.html'
  path.write_text(text.replace('</body>', click))
  command = [
    CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic',
    '--no-first-run', '--disable-background-networking', '--disable-sync',
    '--disable-component-update', f'--user-data-dir={tmp_path / "profile"}',
    '--dump-dom', path.as_uri(),
  ]  # fmt: skip
  dom = subprocess.run(command, capture_output=True, text=True, timeout=120)
  up, down = json.loads(re.search('<title>(.*?)</title>', dom.stdout)[1])
  assert up == [sorted(group) for group in up]
  assert down == [group[::-1] for group in up]
  assert [len(group) for group in up] == [2, 2]
