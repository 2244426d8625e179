"""Hyper-parameters and scaling of the baselines, chosen on validation tasks.

What is tried is written down with the baselines: first every way of scaling
with the defaults, then, with the best of them, every candidate. The choice is
made for each cell (shots, anomalies, contamination) by the mean AUROC over the
tasks given; a tie goes to what comes first, the default first of all.
"""

import collections
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from metaad_jax.evaluation import baselines
from metaad_jax.scores import metrics

Cell = tuple[int, int, float]  # shots, anomalies, contamination


class Choice(NamedTuple):
  """What was chosen for a baseline in a cell.

  Attributes:
    options: for `Baseline.score`; {} = the defaults.
    auroc: mean over the tasks, with these options.
    default: the same with the defaults.
    tasks: number of tasks.
  """

  options: dict[str, Any]
  auroc: float
  default: float
  tasks: int


def choose(
  names: Sequence[str],
  tasks: Sequence[baselines.Support],
  labels: Sequence[np.ndarray],
  cells: Sequence[Cell],
  *,
  seed: int,
  workers: int,
  quiet: bool = False,
) -> dict[Cell, dict[str, Choice]]:
  """Chooses the options of baselines.

  Args:
    names: of `baselines.REGISTRY`.
    tasks: see `baselines.score_jobs`; none of those that will be reported.
    labels: [m] 1 = anomaly, of the query of each task.
    cells: of each task.
    seed: not negative.
    workers: number of processes, at least 1.
    quiet: no progress bar.

  Returns:
    For each cell, a choice for each name; none for baselines that need
    anomalies in cells without. Baselines that ignore labels are tried where
    there are fewest, and the choice holds for any number.

  Raises:
    DataError: as `baselines.score_jobs`.
  """
  fewest: dict[Hashable, int] = {}
  for shots, anomalies, share in cells:
    held = fewest.get((shots, share), anomalies)
    fewest[shots, share] = min(held, anomalies)

  def decided_in(name, cell):
    """The cell whose tasks decide; None = the baseline is not for this one."""
    shots, anomalies, share = cell
    if not baselines.REGISTRY[name].needs_anomalies:
      return shots, fewest[shots, share], share
    return cell if anomalies else None

  def best(tried):
    """{(cell, name): options} -> the same with the mean AUROC of each."""
    jobs = [
      [
        (name, options)
        for name in names
        if decided_in(name, cell) == cell
        for options in tried(cell, name)
      ]
      for cell in cells
    ]
    scored = baselines.score_jobs(
      jobs, tasks, seed=seed, workers=workers, quiet=quiet, label='tuning'
    )
    found: dict[tuple, list[list[float]]] = {}
    for cell, some, scores, truth in zip(
      cells, jobs, scored, labels, strict=True
    ):
      row: dict[tuple, list[float]] = {}
      for (name, _), values in zip(some, scores, strict=True):
        area = metrics.auroc(truth, np.asarray(values))
        row.setdefault((cell, name), []).append(area)
      for key, areas in row.items():
        found.setdefault(key, []).append(areas)
    return {key: np.array(areas) for key, areas in found.items()}

  scaled = best(lambda cell, name: _scalings(name))
  choice: dict[tuple, dict[str, Any]] = {}
  for key, areas in scaled.items():
    choice[key] = _scalings(key[1])[int(areas.mean(0).argmax())]
  more = best(
    lambda cell, name: [
      choice[cell, name] | options
      for options in baselines.REGISTRY[name].candidates[1:]
    ]
  )
  decided = {}
  for key, areas in scaled.items():
    mean = areas.mean(0)
    options, auroc = choice[key], mean.max()
    if key in more:
      means = more[key].mean(0)
      if means.max() > auroc:
        candidate = baselines.REGISTRY[key[1]].candidates[1:][means.argmax()]
        options, auroc = options | candidate, means.max()
    decided[key] = Choice(options, float(auroc), float(mean[0]), len(areas))
  return {
    cell: {
      name: decided[decided_in(name, cell), name]
      for name in names
      if decided_in(name, cell)
    }
    for cell in dict.fromkeys(cells)
  }


def _scalings(name):
  """Options that name every scaling; that of the default goes unnamed."""
  return [
    {} if scaling == 'plain' else {'scaling': scaling}
    for scaling in baselines.REGISTRY[name].scalings
  ]


def text(options: dict[str, Any]) -> str:
  """Options as a reader may type them; 'defaults' where there are none."""
  return ','.join(f'{k}={v}' for k, v in sorted(options.items())) or 'defaults'


def told(results: dict[str, Any]) -> list[tuple[str, list[str]]]:
  """What was chosen, in words, from a results file.

  Args:
    results: what `results.validate` returned.

  Returns:
    For each set of entities that options were chosen on, a heading and a line
    for each baseline: its options, in how many cells, and the mean over cells
    of the validation AUROC with the defaults and with the choice. Empty where
    nothing was tuned.
  """
  homes: dict[tuple, list[str]] = {}
  for one in results.get('tuned_on', []):
    key = one['from'], tuple(one['entities'])
    homes.setdefault(key, []).append(one['source'])
  found = []
  for (home, entities), served in homes.items():
    own = [c for c in results['tuning'] if c['source'] == served[0]]
    most = max(c['tasks'] for c in own)
    heading = (
      f'Baselines of {", ".join(dict.fromkeys(served))}: chosen on at most '
      f'{most} tasks for each cell, of {len(entities)} entities of {home}, '
      'none of which is reported'
    )
    lines = []
    for name in dict.fromkeys(c['learner'] for c in own):
      cells = [c for c in own if c['learner'] == name]
      count = collections.Counter(c['options'] for c in cells)
      several = ', '.join(
        f'{options} ({times})' for options, times in count.most_common()
      )
      before, after = (
        np.mean([c[key] for c in cells]) for key in ('default', 'auroc')
      )
      lines.append(f'{name}: {several}; {before:.3f} -> {after:.3f}')
    found.append((heading, lines))
  return found
