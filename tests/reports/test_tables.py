"""Numbers shown are the numbers of the frames, in every rendering."""

import io
import re
import types

from made_up import make
import numpy as np
import pandas as pd
import pytest

from metaad_jax import base
from metaad_jax.evaluation.results import Results
from metaad_jax.reports import tables
from metaad_jax.scores import comparisons

CLEAN = ('rig', 0.0)


@pytest.fixture(scope='module')
def summary(results):
  frame = comparisons.summary(results.table, 'auroc')
  return frame[(frame.source == 'rig') & (frame.contamination == 0)]


def entry(method, kind, mean, shots=5, anomalies=0, low=0.1, high=0.9):
  return {
    'source': 'rig', 'shots': shots, 'anomalies': anomalies,
    'contamination': 0.0, 'method': method, 'kind': kind, 'metric': 'auroc',
    'mean': mean, 'low': low, 'high': high, 'median': 0.5, 'entities': 6,
  }  # fmt: skip


def contest(**changes):
  return types.SimpleNamespace(**{'p_holm': 0.01, 'difference': 0.1} | changes)


def test_every_mean_interval_and_median_is_in_the_table(summary):
  table = tables.means(summary, CLEAN)
  shown = {
    (cells[0].text, heading): str(cell).replace('*', '')
    for rows in table.groups.values()
    for cells in rows
    for heading, cell in zip(table.header[1:], cells[1:], strict=True)
  }
  assert len(shown) == 5 * 6
  for e in summary.itertuples():
    numbers = [float(x) for x in re.findall(r'\.\d{3}|1\.000',
      shown.pop((e.method, f'A={e.anomalies} K={e.shots}')))]  # fmt: skip
    expected = [e.mean, e.low, e.high, e.median]
    np.testing.assert_allclose(numbers, expected, atol=5.01e-4)
  assert set(shown.values()) == {'-'}  # the trees, without labels


def test_the_best_of_each_kind_and_column_is_emphasised():
  frame = pd.DataFrame(
    [
      entry('maml', 'learner', 0.7),
      entry('relation', 'learner', 0.6),
      entry('knn', 'baseline', 0.8),
      entry('maml', 'learner', 0.7, shots=9),
      entry('relation', 'learner', 0.75, shots=9),
      entry('knn', 'baseline', np.nan, shots=9),
    ]
  )
  best = {
    cells[0].text: [cell.best for cell in cells[1:]]
    for rows in tables.means(frame, CLEAN).groups.values()
    for cells in rows
  }
  assert best == {
    'relation': [False, True], 'maml': [True, False], 'knn': [True, False]
  }  # fmt: skip


def test_leaving_out_the_hard_cells_does_not_raise_a_method():
  frame = pd.DataFrame(
    [
      entry('steady', 'learner', 0.95),
      entry('picky', 'learner', 0.9),
      entry('steady', 'learner', 0.6, shots=1),
      entry('knn', 'baseline', 0.5, shots=1),
    ]
  )
  # the plain means are .775 and .9, the leads .0375 and -.025
  assert tables.ranked(frame, 'learner') == ['steady', 'picky']


@pytest.mark.parametrize(
  ('p', 'difference', 'said'),
  [
    (0.049, 0.1, 'better'),
    (0.049, -0.1, 'worse'),
    (0.05, 0.1, 'not told apart'),
    (np.nan, 0.1, 'not told apart'),
  ],
)
def test_a_verdict_needs_a_corrected_p_below_five_percent(p, difference, said):
  assert tables.verdict(contest(p_holm=p, difference=difference)) == said


def test_one_verdict_per_cell_of_the_best_learner_and_the_best_baseline(
  results,
):
  summary = comparisons.summary(results.table, 'auroc')
  contests = comparisons.contests(results.table, 'auroc')
  found = tables.verdicts(summary, contests)
  assert len(found) == 7
  said, sentence = found['rig', 0.0, 1, 5]
  (pair,) = contests.query(
    "source == 'rig' and shots == 5 and anomalies == 1 and learner == 'maml' "
    "and baseline == 'trees'"
  ).itertuples()
  assert said == tables.verdict(pair)
  assert sentence.startswith('maml')
  assert tables.number(pair.difference, sign=True) in sentence
  assert f'better on {pair.wins} and worse on {pair.losses} of 7' in sentence
  shown = ' '.join(tables.terminal(results).split())
  assert all(' '.join(line.split()) in shown for _, line in found.values())


def test_against_best_shows_each_learner_beside_the_best_baseline(results):
  contests = comparisons.contests(results.table, 'ap')
  ours = contests[(contests.source == 'mill') & (contests.contamination == 0.2)]
  (rows,) = tables.against_best(ours, ('mill', 0.2)).groups.values()
  assert [cells[2].text for cells in rows] == ['maml', 'protonet']
  best = ours[ours.best].set_index('learner')
  for cells in rows:
    pair = best.loc[cells[2].text]
    assert cells[3].text == pair.baseline == 'knn'
    assert float(cells[4].text) == pytest.approx(pair.difference, abs=5.01e-4)
    assert cells[6].text == f'{pair.wins}-{pair.losses}'


def test_alarms_of_a_day_are_the_rate_times_the_rows(results):
  rates = tables.rows_per_day(results)
  assert rates == {'rig': 2000.0, 'mill': 50.0}
  summary = pd.concat(
    [
      comparisons.summary(results.table, f'recall_at_far_{percent}')
      for percent in (1, 5)
    ]
  )
  found = {t.title.split(',')[0]: t for t in tables.operation(summary, rates)}
  (rows,) = found['mill'].groups.values()
  # 1% and 5% of the 50 rows of a day, whatever the method
  assert {tuple(cell.text for cell in cells[5:]) for cells in rows} == {
    ('0.5', '2.5')
  }
  best = tables.best_of(summary[summary.metric == 'recall_at_far_1'], 'learner')
  cells = next(c for c in rows if [x.text for x in c[:2]] == ['0', '5'])
  expected = best.loc[('mill', 0.2, 0, 5)]
  assert cells[2].text == expected.method
  assert float(cells[3].text) == pytest.approx(expected['mean'], abs=5.01e-4)


def test_one_rate_serves_all_sources_and_a_wrong_number_is_refused(results):
  given = lambda rates: tables.rows_per_day(
    Results(results.table, {'flags': {'rows_per_day': rates}})
  )
  assert given([5.0]) == {'rig': 5, 'mill': 5}
  assert given(None) == {}
  with pytest.raises(base.DataError, match='3 rows_per_day for 2 sources'):
    given([1.0, 2.0, 3.0])


def test_a_narrow_terminal_shows_every_column_below_the_others(summary):
  table = tables.means(summary, CLEAN, medians=False)
  wide, narrow = (tables.text(table, width) for width in (500, 60))
  assert max(map(len, narrow.splitlines()[1:])) <= 60
  words = lambda text: sorted(
    re.findall(r'A=\d K=\d+|\*?\.\d{3} \[.*?\]', text)
  )
  assert words(wide) == words(narrow)


@pytest.mark.parametrize(
  ('value', 'shown'),
  [(0.8464, '.846'), (-0.0124, '-.012'), (1.0, '1.000'), (np.nan, '-')],
)
def test_numbers_have_three_decimals(value, shown):
  assert tables.number(value) == shown


def test_markdown_escapes_names_and_keeps_its_columns():
  name = '<script>|`x`|[a](b)*_'
  table = tables.Table('', ('', 'K=5'), {'': [tables.row(name, 'b|c')]})
  *_, line = tables.markdown(table).splitlines()
  cells = [c.strip() for c in re.split(r'(?<!\\)\|', line)[1:-1]]
  assert [re.sub(r'\\(.)', r'\1', cell) for cell in cells] == [name, 'b|c']
  assert not re.search(r'(?<!\\)[<`*_]|(?<!\\)\]\(', line)


def test_no_cell_of_a_csv_is_a_formula():
  frame = pd.DataFrame(
    {'method': ['=cmd|x', ' +1', '@a', '-b', 'knn'], 'mean': [-0.5] * 5}
  )
  again = pd.read_csv(io.StringIO(tables.csv(frame)))
  assert list(again.method) == ["'=cmd|x", "' +1", "'@a", "'-b", 'knn']
  assert list(again['mean']) == [-0.5] * 5


def test_an_evaluation_without_rows_says_so():
  empty = make()
  assert 'No episode' in tables.terminal(Results(empty.table[:0], empty.meta))
