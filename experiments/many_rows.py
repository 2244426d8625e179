r"""Many rows: verified ones beyond the support, and rows that nobody checked.

  python -m experiments.many_rows --data_dir=data --split=validation \
    --output=runs/many_rows

OddBench's tables; the same rows and query for everybody. First `fit(rows)` with
64 to 360 verified normals, beside the detector as it would be without the
distances of `detector/neighbours.py`, and classical methods on the same rows.
Then `fit(None, unlabelled=rows)` with 200 rows, a share of them bad, beside
PyOD's detectors with their own options, on z-scores or on z-scores and levels;
the best is chosen on the same rows, in its favour. Writes
many_rows_<side>.csv and .md; a start that was cut off goes on.
"""

from collections.abc import Callable, Iterator
import importlib
import os
from typing import Any
from unittest import mock
import warnings
import zlib

from absl import flags
import numpy as np
import pandas as pd
import tqdm

from experiments import cli, unverified
from metaad_jax import storage
from metaad_jax.base import Entity
from metaad_jax.detector import neighbours
from metaad_jax.detector.estimator import MetaAnomalyDetector
from metaad_jax.evaluation import baselines
from metaad_jax.reports import tables
from metaad_jax.scores import comparisons, metrics
from metaad_jax.training import runs

FLAGS = flags.FlagValues()
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'root of the data', flag_values=FLAGS
)
_SPLIT = flags.DEFINE_enum(
  'split', 'validation', ['test', 'validation'], 'side', flag_values=FLAGS
)
_WIDEST = flags.DEFINE_integer(
  'widest', 48, 'leave tables of more columns out', flag_values=FLAGS
)
_OUTPUT = flags.DEFINE_string(
  'output', 'many_rows', 'folder to write', flag_values=FLAGS
)
_VERIFIED = 64, 128, 200, 360
_SHARES = 0.0, 0.02, 0.1, 0.25
_OURS, _ALONE = 'this detector', 'its network alone'
_CLASSICAL: dict[str, dict[str, Any]] = {
  'log_sum': {}, 'mahalanobis': {'scaling': 'both'}, 'mean_distance': {},
  'nearest_neighbour': {'scaling': 'both'}, 'isolation_forest': {},
}  # fmt: skip
_PYOD = (
  'ecod.ECOD', 'copod.COPOD', 'lof.LOF', 'knn.KNN', 'iforest.IForest',
  'ocsvm.OCSVM', 'mcd.MCD', 'hbos.HBOS', 'pca.PCA', 'inne.INNE', 'loda.LODA',
  'gmm.GMM', 'kde.KDE', 'cblof.CBLOF', 'abod.ABOD',
)  # fmt: skip


def _ours(told, way, labels, query, **given):
  """Adds AUROC, false alarms and recall at the promised rate of 5%."""
  detector = MetaAnomalyDetector().fit(**given)
  scores = -detector.score_samples(query)
  told[way] = metrics.auroc(labels, scores)
  alarms = scores > detector.threshold_
  told[f'{way}, false alarms'] = alarms[labels == 0].mean()
  told[f'{way}, recall'] = alarms[labels == 1].mean()


def verified(entity: Entity, number: int) -> dict[str, float]:
  """Of each way from so many verified normals; nothing if there are fewer."""
  rng = np.random.default_rng(zlib.crc32(entity.name.encode()))
  order = rng.permutation(len(entity.normal))[:number]
  rows, query = entity.normal[order].astype(float), entity.query.astype(float)
  told: dict[str, float] = {}
  if len(rows) == number:
    _ours(told, _OURS, entity.labels, query, X=rows)
    with mock.patch.object(neighbours, 'share', lambda own: 0.0):
      _ours(told, _ALONE, entity.labels, query, X=rows)
    task = unverified.triple(rows, query)
    for name, options in _CLASSICAL.items():
      scores = baselines.score(name, 0, task, **options)
      told[f'{name.replace("_", " ")}'] = metrics.auroc(entity.labels, scores)
  return told


def unchecked(entity: Entity, share: float) -> dict[str, float]:
  """Of each way from 200 rows, a share of them bad; nothing if too few are."""
  drawn = unverified.draw(entity, 0, share)
  told: dict[str, float] = {}
  if drawn is None:
    return told
  labels, rows = drawn.labels, drawn.x.astype(float)
  query = drawn.query.astype(float)
  _ours(told, _OURS, labels, query, X=None, unlabelled=rows)
  task = unverified.triple(rows, query)
  for scaling in ('plain', 'both'):
    known, _, new = baselines.scaled(task, scaling)
    for place in _PYOD:
      module, name = place.split('.')
      made = getattr(importlib.import_module(f'pyod.models.{module}'), name)()
      try:
        scores = np.nan_to_num(made.fit(known).decision_function(new))
      except (ValueError, ArithmeticError):  # it has nothing to say
        scores = np.zeros(len(new))
      told[f'PyOD {name}, {scaling}'] = metrics.auroc(labels, scores)
  return told


_CELLS: dict[str, tuple[Callable, Any]] = {
  f'{n} verified': (verified, n) for n in _VERIFIED
} | {f'200 unchecked, {s:.0%} bad': (unchecked, s) for s in _SHARES}


def measure(path: str, members: list[Entity]) -> pd.DataFrame:
  """One row for each table, cell and way; kept as it grows."""
  names = ['table', 'cell', 'way', 'v']
  found = (
    pd.read_csv(path) if os.path.exists(path) else pd.DataFrame([], [], names)
  )
  done = set(found.table)
  for entity in tqdm.tqdm(members, desc='tables', disable=None):
    if entity.name in done:
      continue
    rows = []
    for cell, (way, value) in _CELLS.items():
      with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        told = way(entity, value)
      rows += [(entity.name, cell, *each) for each in told.items()]
    more = pd.DataFrame(rows, columns=names)
    found = pd.concat([found, more]) if len(found) else more
    storage.write_bytes(path, tables.csv(found).encode())
  return found


def page(found: pd.DataFrame, side: str) -> str:
  """What is found, in Markdown."""
  return f'## {side.capitalize()} tables\n\n' + '\n'.join(_lines(found)) + '\n'


def _lines(found) -> Iterator[str]:
  head = (
    'given', 'tables', 'AUROC', 'false alarms at 5%', 'recall', 'best other',
    'lead', 'median; wins : losses',
  )  # fmt: skip
  yield f'| {" | ".join(head)} |'
  yield '| --- ' * len(head) + '|'
  for cell, (_, _) in _CELLS.items():
    some = found[found.cell == cell]
    if some.empty:
      continue
    wide = some.pivot(index='table', columns='way', values='v')
    mine = [way for way in wide if way.startswith((_OURS, _ALONE))]
    rivals = [wide.drop(columns=mine).mean().idxmax()]
    rivals += [_ALONE] if _ALONE in mine else []
    for rival in rivals:
      lead = (wide[_OURS] - wide[rival]).to_numpy()
      mean, low, high = comparisons.bootstrap(lead)
      told = [
        cell, str(len(wide)), f'{wide[_OURS].mean():.3f}',
        f'{wide[f"{_OURS}, false alarms"].mean():.3f}',
        f'{wide[f"{_OURS}, recall"].mean():.3f}',
        f'{wide[rival].mean():.3f} ({rival})',
        f'{mean:+.3f} [{low:+.3f}, {high:+.3f}]',
        f'{np.median(lead):+.3f}; {(lead > 0).sum()} : {(lead < 0).sum()}',
      ]  # fmt: skip
      yield f'| {" | ".join(told)} |'


def main() -> None:
  """Measures and writes the page."""
  folder, side = str(_OUTPUT.value), str(_SPLIT.value)
  os.makedirs(folder, exist_ok=True)
  run = runs.restore(runs.SHIPPED)
  sides = runs.load_data(run.config, _DATA_DIR.value).entities
  members = [e for e in sides[side] if e.normal.shape[-1] <= _WIDEST.value]
  found = measure(os.path.join(folder, f'many_rows_{side}.csv'), members)
  text = page(found, side)
  path = os.path.join(folder, f'many_rows_{side}.md')
  storage.write_bytes(path, text.encode())
  print(f'{text}\nwritten below {folder}')


if __name__ == '__main__':
  cli.run(main, FLAGS)
