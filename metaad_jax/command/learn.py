"""`metaad learn`: meta-learners trained on a user's own fleet, and compared.

Every candidate is trained on some entities and judged on others that it has not
seen, from the same few rows as the shipped network and the classical methods.
"""

import os
import time
from typing import Any

import numpy as np

from metaad_jax import devices
from metaad_jax.base import DataError
from metaad_jax.data import audits, registry
from metaad_jax.detector import calibrate
from metaad_jax.evaluation import evaluate, results, tasks
from metaad_jax.reports import pages, recommendation, tables
from metaad_jax.scores import comparisons, conformal
from metaad_jax.training import exports, runs, setup

# Learners in the order in which they are trained, and how.
CANDIDATES: dict[str, dict[str, Any]] = {
  'deep_mahalanobis': {},
  'protonet': {},
  'relation': {},
  'tables': {'start': 'shipped', 'outer': 'adam:rate=0.0003', 'tasks': 8},
  'maml': {},
  'pooled': {},
}
_BASELINES = (
  'mahalanobis', 'nearest_neighbour', 'log_sum', 'mean_distance', 'ocsvm',
  'isolation_forest', 'logistic_regression', 'extra_trees',
)  # fmt: skip
_FOLDS = 4
_MANY = 40  # entities from which on one fold tells enough
TRAINING: dict[str, Any] = {
  'steps': 300, 'schedule': 'cosine', 'validate_every': 150,
}  # fmt: skip
_SHIPPED = 'tables (shipped)'  # where `tables` was trained, too


def learn(
  spec: str, output: str, *, shots: tuple[int, ...], minutes: float, seed: int
) -> None:
  """Trains, compares on entities held out, recommends.

  Args:
    spec: of a source, such as fleet:path=...,entity=...
    output: folder of the runs, the report and the model file; started again
      with the same arguments, it goes on where it stopped.
    shots: normal rows of an entity.
    minutes: after these no other candidate is begun.
    seed: of everything.

  Raises:
    DataError: if the fleet is too small, or entities share rows.
  """
  started = time.monotonic()
  devices.persist()
  fitting, anomalies, folds = _cells(registry.load(spec), shots)
  folders, late = [], []
  for name, options in CANDIDATES.items():
    if time.monotonic() - started > 60 * minutes:
      late.append(name)
      continue
    for fold in folds:
      folders.append(_folder(output, fold, name))
      config = setup.Config(
        source=spec, learner=name, shots=fitting, anomalies=anomalies,
        fold=str(fold), folds=_FOLDS, seed=seed, **TRAINING, **options,
      )  # fmt: skip
      runs.train(setup.resolve(config), run_dir=folders[-1])
  if late:
    print(
      f'not tried in {minutes:g} minutes: {", ".join(late)}; with '
      f'--minutes={5 * minutes:g} it goes on from here'
    )
  grid = tasks.Grid(fitting, anomalies, draws=3, queries=100, seed=seed)
  plan = evaluate.Plan(
    grid, source=spec, baselines=_BASELINES, workers=os.cpu_count() or 1
  )
  found = evaluate.evaluate([*folders, 'shipped'], plan)
  found.meta['command'] = f'metaad learn {spec}'
  results.save(found, output)
  written = pages.write(found, output)
  print(f'{tables.terminal(found)}\n{recommendation.text(found)}')
  print(f'{written[0]} written')
  _keep(found, spec, output)


def _cells(entities, shots):
  """Shots and labelled anomalies that the fleet has, and folds to train."""
  audits.across(entities)
  if len(entities) < 6:
    raise DataError(
      f'{len(entities)} entities of enough rows: to learn from a fleet takes 6 '
      'at least, and pays from some dozens on'
    )
  counts = np.array([len(e.normal) for e in entities])
  if not (fitting := tuple(k for k in shots if (counts >= k).mean() >= 0.75)):
    raise DataError(
      f'half of the entities have {int(np.median(counts))} normal rows for '
      'supports or fewer: ask for fewer --shots'
    )
  if few := (counts < max(fitting)).sum():
    print(f'{few} entities have too few rows for some of the shots')
  anomalies = (0, 1) if min(e.labels.sum() for e in entities) > 3 else (0,)
  folds = range(1 if len(entities) >= _MANY else _FOLDS)
  print(
    f'{len(entities)} entities; every {_FOLDS}th is held out, in {len(folds)} '
    'rounds', flush=True,
  )  # fmt: skip
  return fitting, anomalies, folds


def _folder(output, fold, name):
  return os.path.join(output, 'runs', f'fold{fold}', name)


def _keep(found, spec, output):
  """Says which to use; writes its model file if that is a learned one.

  The learned ones have to be shown to be better than the shipped network in
  some cell, and worse in none, after Holm's correction for their number.
  """
  table = found.table
  plain = table[table.method.isin(_BASELINES)].groupby('method').auroc
  plain = plain.mean()[plain.count() == plain.count().max()]  # in all cells
  shipped = _SHIPPED if _SHIPPED in set(table.method) else 'tables'
  table = table[(table.kind == 'learner') | (table.method == 'pooled')]
  table = table.assign(
    kind=np.where(table.method == shipped, 'baseline', 'learner')
  )
  found = comparisons.contests(table, 'auroc')
  sure = found[found.p_holm < tables.ALPHA]
  good = {*sure[sure.difference > 0].learner}
  good -= {*sure[sure.difference < 0].learner}
  means = table.groupby('method').auroc.mean()
  if not good:
    print(
      f'keep the shipped network ({means[shipped]:.3f}): nothing that was '
      'learned here is shown to be better on the entities held out'
    )
    _beside(plain, means[shipped])
    return
  best = max(good, key=means.get)
  folder = _folder(output, 0, best.partition(' ')[0])
  run = runs.restore(folder)
  sides = calibrate.entities(run, spec, None)
  members = sides['train'] + sides['validation']
  cases = calibrate.cases(run, members, shots=run.config.shots, anomalies=(0,))
  about = {'sources': [spec], 'entities': len(members)}
  calibrated = conformal.fit(cases)
  exports.calibrate(folder, calibrated, about)
  path = os.path.join(output, 'model.npz')
  exports.export(folder, path)
  print(
    f'use {best} ({means[best]:.3f}; the shipped network {means[shipped]:.3f})'
    f': --run_dir={path}, with a --false_alarm_rate from '
    f'{conformal.smallest_rate(calibrated):.2g} on'
  )
  _beside(plain, means[best])


def _beside(plain, mean):
  if plain.max() >= mean:
    print(
      f'but {plain.idxmax()} ({plain.max():.3f}), a classical method, is no '
      'worse on this fleet'
    )
