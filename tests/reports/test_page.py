"""A page says what its results file says, and can be made again."""

import lzma
import re

import numpy as np
import pytest
import test_recommendation as given

from metaad_jax import base
from metaad_jax.evaluation import old_results as results_lib
from metaad_jax.reports import page, report
from metaad_jax.scores import old_comparisons as comparisons

KNN, MAML, TREES = given.KNN, given.MAML, given.TREES
CELLS = ((0, 1), (0, 5), (0, 20), (5, 1), (5, 5), (5, 20))


@pytest.fixture(scope='module')
def results():
  made = given.made(
    {MAML: 0.6, KNN: 0.4, TREES: {5: 0.5}}, noise=0.05, cells=CELLS
  )
  made['rows'] += [{**row, 'draw': 1, 'auroc': 0.5} for row in made['rows']]
  made['summary'] = comparisons.summarise(made['rows'])
  made['tests'] = comparisons.compare(made['rows'])
  made['meta'] = {
    **given.META,
    'command': 'python -m experiments.evaluate --flagfile=x.flags',
    'flags': {'draws': 2, 'run_dir': ['/home/me/runs/maml'], 'split': 'test'},
  }
  made['notes'] = [
    'e99: no task with 50 shots, 0 anomalies',
    'e99: no task with 50 shots, 5 anomalies',
    'e98: no task with 50 shots, 5 anomalies',
    'rig: anomalies that equal another one',
  ]
  return results_lib.validate(made)


@pytest.fixture(scope='module')
def folder(results, tmp_path_factory):
  folder = tmp_path_factory.mktemp('results')
  (folder / 'intro').mkdir()
  (folder / 'intro' / 'rig.md').write_text('# The rig\n\nBy *hand*.\n')
  written = page.write(results, folder / 'rig.md', rows_per_day=2000)
  assert all(path.exists() for path in written)
  return folder


def test_a_page_is_made_again_from_what_lies_beside_it(folder, tmp_path):
  (tmp_path / 'intro').mkdir()
  intro = (folder / 'intro' / 'rig.md').read_bytes()
  (tmp_path / 'intro' / 'rig.md').write_bytes(intro)
  again = page.write(
    results_lib.load(folder / 'rig.json.xz'), tmp_path / 'rig.md'
  )
  assert len(again) >= 4
  for path in again:
    first, second = (folder / path.name).read_bytes(), path.read_bytes()
    assert first == second, path.name
  assert (tmp_path / 'intro' / 'rig.md').read_bytes() == intro


def test_names_in_the_budget_picture_stay_inside_their_panel(results):
  long = {'knn': 'a_baseline_of_20_chars', 'trees': 'another_of_20_letters'}
  rows = [
    {**row, 'learner': long.get(row['learner'], row['learner'])}
    for row in results['rows']
  ]
  named = {**results, 'rows': rows}
  (picture,) = [p for p in report.figures(named) if p.name.startswith('budget')]
  picture.figure.canvas.draw()
  seen = 0
  for axis in picture.figure.axes:
    panel = axis.get_window_extent()
    for text in axis.texts:
      box = text.get_window_extent()
      assert panel.x0 <= box.x0 and box.x1 <= panel.x1, text.get_text()
      seen += 1
  assert seen


def test_every_source_has_its_own_rate(results):
  twice = [{**row, 'source': 'mill'} for row in results['rows']]
  both = {**results, 'rows': [*results['rows'], *twice]}
  told = lambda rates: report.rows_per_day(
    {**both, 'meta': {**both['meta'], 'flags': {'rows_per_day': rates}}}
  )
  name = results['rows'][0]['source']
  assert told([5.0]) == told(5.0) == {name: 5, 'mill': 5}
  assert told([5.0, 8640.0]) == {name: 5, 'mill': 8640}
  assert told(None) == {}
  with pytest.raises(base.DataError, match='3 rows_per_day for 2 sources'):
    told([1.0, 2.0, 3.0])
  found = [report.amount(x) for x in (0.288, 2.88, 14.4, 8640)]
  assert found == ['0.29', '2.9', '14', '8,640']


def test_what_was_written_by_hand_is_at_the_top(folder):
  lines = (folder / 'rig.md').read_text().splitlines()
  assert lines[0].startswith('<!-- Generated')
  assert lines[2:5] == ['# The rig', '', 'By *hand*.']
  assert sum(line.startswith('# ') for line in lines) == 1


def test_a_page_without_an_intro_has_a_title(results, tmp_path):
  page.write(results, tmp_path / 'rig.md')
  assert '# Results: rig' in (tmp_path / 'rig.md').read_text()
  with pytest.raises(base.DataError, match='cannot be read'):
    page.write(results, tmp_path / 'rig.md', intro=tmp_path / 'none.md')
  with pytest.raises(base.DataError, match='ends in .md'):
    page.write(results, tmp_path / 'rig.html')


def tables(text):
  """Rows of cells of every table, pipes that are escaped left alone."""
  lines = [line for line in text.splitlines() if line.startswith('|')]
  return [
    [cell.strip() for cell in re.split(r'(?<!\\)\|', line)[1:-1]]
    for line in lines
  ]


def test_every_mean_of_the_page_is_in_the_summary(results, folder):
  text = (folder / 'rig.md').read_text()
  found = 0
  for line in results['summary']:
    if line['metric'] in ('auroc', 'ap'):
      wanted = (
        f'{report.fixed(line["mean"], True)}',
        report.interval_text(line, True),
      )
      assert any(
        wanted[0] in cell and wanted[1] in cell
        for cells in tables(text)
        if cells[0].startswith(line['learner'])
        for cell in cells
      )
      found += 1
  assert found == 2 * (6 + 6 + 3)


def test_the_difference_to_the_best_baseline_is_that_of_the_tests(
  results, folder
):
  text = (folder / 'rig.md').read_text().partition('## Against')[2]
  rows = {
    tuple(cells[:3]): cells
    for cells in tables(text.partition('\n## ')[0])
    if cells[0].isdigit()
  }
  best = [t for t in results['tests'] if t['best'] and t['metric'] == 'auroc']
  assert len(best) == len(rows) == 6
  for test in best:
    cells = rows[str(test['anomalies']), str(test['shots']), 'maml']
    assert cells[3] == test['baseline']
    assert cells[4] == (
      f'{test["difference"]:+.3f} {report.interval_text(test)}'
    )


def test_commands_notes_alarms_and_no_paths_of_this_machine(folder):
  text = (folder / 'rig.md').read_text()
  assert 'experiments.evaluate --flagfile=x.flags\n' in text
  assert '--output=rig.md' in text
  left = text.split('## Left out\n')[1]
  assert 'e99 (2), e98 (1)' in left and left.count('\n- ') == 2
  assert 'rig: anomalies that equal another one' in left
  assert 'nearly all normal: rig 2,000;' in text
  (header,) = {tuple(c) for c in tables(text) if 'alarms a day at 1%' in c}
  place = header.index('alarms a day at 1%')
  alarms = {
    (c[place], c[place + 1]) for c in tables(text) if len(c) == len(header)
  }
  assert ('20', '100') in alarms
  assert str(folder) not in text
  kept = lzma.decompress((folder / 'rig.json.xz').read_bytes()).decode()
  assert '/home/me' not in kept and '"run_dir": ["maml"]' in kept


def test_names_cannot_break_a_table(tmp_path):
  nasty = ('a|b<script>`', 'learner')
  made = given.made({nasty: 0.6, KNN: 0.4}, entities=6)
  page.write(made, tmp_path / 'x.md')
  text = (tmp_path / 'x.md').read_text()
  assert '<script>' not in text.replace('\\<script\\>', '')
  widths = []
  for line in text.splitlines():
    if line.startswith('|'):
      widths.append(len(re.split(r'(?<!\\)\|', line)))
    elif widths:
      assert len(set(widths)) == 1
      widths = []


def test_few_entities_give_no_diagram_and_say_so(tmp_path):
  page.write(given.made({MAML: 0.6, KNN: 0.4}, entities=4), tmp_path / 'x.md')
  assert 'No critical-difference diagram' in (tmp_path / 'x.md').read_text()
  assert not list(tmp_path.glob('*ranks*'))


def test_compact_rows_give_the_same_statistics(results):
  small = results_lib.compact(results)
  assert len(small['rows']) == len(results['rows']) / 2
  again = comparisons.summarise(small['rows'])
  for line, wanted in zip(again, results['summary'], strict=True):
    for key in ('mean', 'low', 'high'):
      assert line[key] == pytest.approx(wanted[key], abs=2e-4)
  assert small['summary'] == results['summary']
  assert results_lib.compact(small) == small


def test_a_compressed_file_is_read_and_a_broken_one_refused(results, tmp_path):
  path = tmp_path / 'results.json.xz'
  results_lib.save(path, results)
  assert results_lib.load(path) == results
  content = path.read_bytes()
  for broken in (b'', b'{}', content[: len(content) // 2], content[:-1]):
    path.write_bytes(broken)
    with pytest.raises(base.DataError, match='truncated or not xz') as caught:
      results_lib.load(path)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    (
      '--data_dir=/a/b/data --output=results',
      '--data_dir=data --output=results',
    ),
    ("'--run_dir=/a/b c/d'", None),
    ('/usr/x/python -m', 'python -m'),
    ('docs/results/a.md ../shared/data', 'docs/results/a.md ../shared/data'),
    ('a/b: 3 of 4 / 5', 'a/b: 3 of 4 / 5'),
  ],
)
def test_absolute_paths_are_cut(text, expected):
  found = results_lib.portable(text)
  if expected is None:
    assert '/a/b' not in found
  else:
    assert found == expected


def test_curves_against_shots_are_over_the_same_entities():
  made = given.made({MAML: 0.6, KNN: 0.4}, cells=CELLS[:3])
  # Easy entities are too small for K = 20: a mean over the others would fall.
  rows = [
    row
    for row in made['rows']
    if not (row['shots'] == 20 and row['entity'] in ('e0', 'e1', 'e2', 'e3'))
  ]
  made['rows'], made['summary'] = rows, comparisons.summarise(rows)
  (drawn,) = [p for p in report.figures(made) if p.name.startswith('budget')]
  axis = drawn.figure.axes[0]
  line = next(
    bar for bar in axis.containers if bar.get_label() == 'maml'
  ).lines[0]
  kept = [f'e{i}' for i in range(4, 12)]
  expected = [
    np.mean(
      [
        row['auroc']
        for row in rows
        if (row['learner'], row['shots']) == ('maml', shots)
        and row['entity'] in kept
      ]
    )
    for shots in (1, 5, 20)
  ]
  np.testing.assert_allclose(line.get_ydata(), expected)
  assert '8 entities' in axis.get_title()


def test_the_diagram_has_the_ranks_and_the_cliques():
  third = ('lof', 'baseline')
  made = given.made(
    {MAML: 0.6, KNN: 0.4, third: 0.4}, entities=30, cells=CELLS[:3]
  )
  (drawn,) = [p for p in report.figures(made) if p.name.startswith('ranks')]
  ranking = comparisons.ranking(made['rows'])
  (axis,) = drawn.figure.axes
  texts = [text.get_text().split() for text in axis.texts]
  shown = {
    next(t for t in pair if not t[0].isdigit()): float(
      next(t for t in pair if t[0].isdigit())
    )
    for pair in texts
  }
  assert shown == pytest.approx(
    dict(zip(ranking.names, ranking.ranks, strict=True)), abs=0.005
  )
  bars = [line for line in axis.lines if line.get_linewidth() > 3]
  assert ranking.cliques == ((1, 2),)
  (bar,) = bars
  low, high = bar.get_xdata()
  assert low < ranking.ranks[1] and ranking.ranks[2] < high
  assert low > ranking.ranks[0]
