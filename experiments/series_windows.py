r"""A series detector that is given a few healthy windows, and judges windows.

  python -m experiments.series_windows --data_dir=data \
    --source=cwru:snr_db=-6.0 --beside=docs/results/cwru_shipped.csv.xz

The tasks are those of `experiments.evaluate` without labels: the K healthy
windows of a support are as many stretches, and a window's score is the mean, or
the highest, of its time stamps'. Prints the mean AUROC over entities with its
95% interval, beside those of a table of results that is of the same rows.
"""

import warnings

from absl import flags
import numpy as np
import pandas as pd
from tqdm import tqdm

from experiments import cli
from metaad_jax.data import registry
from metaad_jax.detector.series import SeriesAnomalyDetector
from metaad_jax.evaluation import tasks
from metaad_jax.scores import comparisons, metrics

FLAGS = flags.FlagValues()
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'folder of the data', flag_values=FLAGS
)
_SOURCE = flags.DEFINE_string(
  'source', 'cwru:snr_db=-6.0', 'windows [L, C]; several are joined by +',
  flag_values=FLAGS,
)  # fmt: skip
_SHOTS = flags.DEFINE_multi_integer(
  'shots', [5, 10], 'healthy windows', flag_values=FLAGS
)
_BESIDE = flags.DEFINE_string(
  'beside', None, 'results.csv of experiments.evaluate', flag_values=FLAGS
)
_GAP = 10  # missing samples between two windows


def main() -> None:
  """Scores every task, then prints a table."""
  grid = tasks.Grid(tuple(_SHOTS.value), (0, 1, 5), draws=2)
  rows = []
  for spec in _SOURCE.value.split('+'):
    entities = [
      e for e in registry.load(spec, _DATA_DIR.value) if e.side != 'train'
    ]
    cells = [c for c in tasks.draw_cells(entities, grid)[0] if not c.anomalies]
    for cell in tqdm(cells, spec):
      entity = entities[cell.entity]
      named = {
        'source': spec, 'entity': entity.name, 'shots': cell.shots,
        'draw': cell.draw, 'anomalies': 0,
      }  # fmt: skip
      labels = entity.labels[cell.query] > 0
      for way, scores in _scores(entity, cell).items():
        auroc = metrics.auroc(labels.astype(int), scores)
        rows.append(named | {'method': f'series, {way}', 'auroc': auroc})
  table = pd.DataFrame(rows)
  if _BESIDE.value:
    other = pd.read_csv(_BESIDE.value)
    same = other.merge(
      table[['source', 'shots', 'anomalies']].drop_duplicates()
    )
    table = pd.concat([table, same])
  print(_summary(table))


def _scores(entity, cell):
  """[Q] of the windows of a query, in two ways."""
  length = entity.query.shape[1]
  gap = np.full((_GAP, *entity.query.shape[2:]), np.nan)
  joined = np.concatenate(
    [part for window in entity.query[cell.query] for part in (window, gap)]
  )
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    detector = SeriesAnomalyDetector().fit(list(entity.normal[cell.normal]))
    scores = -detector.score_samples(joined)
  scores = scores.reshape(-1, length + _GAP)[:, :length]
  return {'mean': scores.mean(1), 'highest': scores.max(1)}


def _summary(table):
  lines = []
  cells = table.groupby(['source', 'shots', 'method'])
  for (source, shots, method), part in cells:
    mean, low, high, *_ = comparisons.bootstrap(
      part.groupby('entity').auroc.mean().to_numpy()
    )
    lines.append((source, shots, method, mean, f'[{low:.3f}, {high:.3f}]'))
  names = ['source', 'shots', 'method', 'auroc', 'interval']
  frame = pd.DataFrame(lines, columns=names).round(3)
  order = ['source', 'shots', 'auroc']
  return frame.sort_values(order, ascending=[True, True, False]).to_string()


if __name__ == '__main__':
  cli.run(main, FLAGS)
