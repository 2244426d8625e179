"""What is drawn is what was computed."""

import io

from made_up import make
from matplotlib import colors
import numpy as np
import pandas as pd
from PIL import Image
import pytest

from metaad_jax.reports import figures
from metaad_jax.scores import comparisons


@pytest.fixture(scope='module')
def pictures(results):
  summary = comparisons.summary(results.table, 'auroc')
  rankings = comparisons.ranks(results.table, 'auroc')
  drawn = figures.of_evaluation(results.table, summary, rankings)
  return summary, rankings, {p.name: p for p in drawn}


def bars(axis):
  """{label: [n] means, lows, highs} of vertical error bars without gaps."""
  drawn = {}
  for container in axis.containers:
    line, _, (segments,) = container
    if np.isfinite(line.get_ydata()).all():
      ends = np.array(segments.get_segments())[:, :, 1].T
      drawn[container.get_label()] = line.get_ydata(), *ends
  return drawn


def test_every_source_and_contamination_has_its_figures(pictures):
  assert set(pictures[2]) == {
    'auroc-rig-0', 'auroc-mill-0.2', 'budget-rig-0', 'ranks-rig-0',
    'ranks-mill-0.2',
  }  # fmt: skip


def test_points_and_intervals_are_those_of_the_summary(pictures):
  summary, _, drawn = pictures
  for anomalies, axis in enumerate(drawn['auroc-rig-0'].figure.axes):
    shown = bars(axis)
    assert len(shown) == (4 if anomalies == 0 else 5)
    for method, numbers in shown.items():
      rows = summary[
        (summary.source == 'rig')
        & (summary.anomalies == anomalies)
        & (summary.method == method)
      ].sort_values('shots')
      expected = rows[['mean', 'low', 'high']].to_numpy().T
      np.testing.assert_allclose(numbers, expected)


def test_the_ladder_puts_each_mean_at_its_name(pictures):
  summary, _, drawn = pictures
  (axis,) = drawn['auroc-mill-0.2'].figure.axes
  labels = [label.get_text() for label in axis.get_yticklabels()]
  rows = summary[summary.source == 'mill']
  means = rows.set_index('method')['mean']
  places = {
    labels[int(line.get_ydata()[0])]: line.get_xdata()[0]
    for line in axis.lines
    if len(line.get_xdata()) == 1
  }
  assert places == pytest.approx({name: means[name] for name in labels})


def test_a_budget_curve_is_over_the_entities_that_serve_every_k():
  results = make(cells=[(k, 0) for k in (1, 5, 20)])
  lacking = (results.table.entity == 'e0') & (results.table.shots == 20)
  table = results.table[~lacking]
  styles = figures.learner_styles(comparisons.summary(table, 'auroc'))
  picture = figures.budget(('rig', 0.0), table, styles)
  drawn = bars(picture.figure.axes[0])
  whole = comparisons.summary(table[table.entity != 'e0'], 'auroc')
  best = 'the best baseline of each K'
  for label, method in (('maml', 'maml'), (best, 'knn')):
    means = whole[whole.method == method].sort_values('shots')['mean']
    np.testing.assert_allclose(drawn[label][0], means)
  two = table[table.shots < 20]
  assert figures.budget(('rig', 0.0), two, styles) is None


def test_ranks_are_drawn_where_they_are_and_bars_span_the_cliques(pictures):
  _, rankings, drawn = pictures
  ours = [r for r in rankings if r.source == 'rig']
  axes = drawn['ranks-rig-0'].figure.axes
  for ranking, axis in zip(ours, axes, strict=True):
    x = [dots.get_offsets()[0, 0] for dots in axis.collections]
    assert sorted(x) == pytest.approx(ranking.ranks)
    spans = sorted(
      (min(line.get_xdata()), max(line.get_xdata()))
      for line in axis.lines
      if line.get_color() == 'k'
    )
    places = np.array(ranking.ranks)[list(ranking.cliques)]
    np.testing.assert_allclose(spans, places)


def test_learners_have_looks_of_their_own(results):
  summary = comparisons.summary(results.table, 'auroc')
  many = [summary.assign(method=f'm{i}', kind='learner') for i in range(12)]
  looks = figures.learner_styles(pd.concat(many))
  assert len({tuple(look.values()) for look in looks.values()}) == 12


def test_rows_above_the_threshold_are_drawn_as_abnormal():
  """Counts the pixels of the alarm's colour: none without a threshold."""
  known, labels = np.array([0.1, 0.2, 3.0]), np.array([0, -1, 0])
  scores = np.array([0.1, 5.0, 6.0])

  def pixels(threshold):
    file = io.BytesIO(figures.adapted_png(known, labels, scores, threshold))
    image = np.asarray(Image.open(file).convert('RGB'), int)
    orange = np.array(colors.to_rgb(figures._ANOMALY)) * 255
    return (np.abs(image - orange).sum(-1) < 30).sum()

  nothing, line, alarms = pixels(None), pixels(6.0), pixels(4.0)
  assert nothing == 0 < line < alarms


def test_small_files_keep_the_picture(pictures):
  figure = pictures[2]['ranks-rig-0'].figure
  small, large = figures.small_png(figure), figures.png(figure)
  assert len(small) < len(large) / 2
