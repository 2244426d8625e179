r"""ADBench by the protocol of published results, beside these.

  python -m experiments.adbench_published --data_dir=data --output=runs/p

Clean: half of a table's normals are fitted to, the other half and all anomalies
are scored. Contaminated: as many rows as the table has, drawn from all of it
with replacement, are fitted to without labels, all rows are scored. Published
are the AUROCs of Livernoche et al., On diffusion modeling for anomaly
detection, 2024 (data/published/adbench_auroc.csv). Of large tables at most
10,000 rows are fitted to, and 3,000 normals and 1,000 anomalies scored. Writes
adbench_published.csv and .md; a start that was cut off goes on.
"""

from collections.abc import Iterator
import os
import pathlib
import warnings

from absl import flags
import numpy as np
import pandas as pd
from sklearn import ensemble, neighbors
import tqdm

from experiments import cli
from metaad_jax import storage
from metaad_jax.base import DataError
from metaad_jax.detector.estimator import MetaAnomalyDetector
from metaad_jax.evaluation import baselines
from metaad_jax.reports import tables
from metaad_jax.scores import comparisons, metrics

FLAGS = flags.FlagValues()
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'root of the data', flag_values=FLAGS
)
_SEEDS = flags.DEFINE_integer('seeds', 5, 'draws', flag_values=FLAGS)
_WIDEST = flags.DEFINE_integer(
  'widest', 2000, 'leave tables of more columns out', flag_values=FLAGS
)
_OUTPUT = flags.DEFINE_string(
  'output', 'published', 'folder to write', flag_values=FLAGS
)
_FITTED, _NORMALS, _ANOMALIES = 10_000, 3_000, 1_000
_TABLES = 'adbench*/Classical/*.npz'
_OURS = 'this detector'
_SETTINGS = {'semi': 'clean', 'unsup': 'contaminated'}


def sets(root: pathlib.Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
  """Name as published, rows [n, F] float64 and labels [n] of each table."""
  for path in sorted(root.glob(_TABLES)):
    with np.load(path, allow_pickle=False) as arrays:
      x, y = arrays['X'].astype(float), arrays['y'].ravel().astype(int)
    name = path.stem.partition('_')[2].lower()
    if x.shape[1] <= _WIDEST.value:
      yield name, x, y


def draw(
  setting: str, seed: int, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Rows to fit to, rows to score, and the labels of the latter."""
  rng = np.random.default_rng(seed)
  good = rng.permutation(np.flatnonzero(y == 0))
  bad = rng.permutation(np.flatnonzero(y == 1))[:_ANOMALIES]
  if setting == 'semi':
    fitted, good = np.split(good, [len(good) // 2])
  else:
    fitted = rng.integers(0, len(x), len(x))
  scored = np.concatenate([good[:_NORMALS], bad])
  return x[fitted[:_FITTED]], x[scored], y[scored]


def scores(
  setting: str, seed: int, rows: np.ndarray, query: np.ndarray
) -> dict[str, np.ndarray]:
  """[m] of each method, higher = more abnormal."""
  given = {'X': rows} if setting == 'semi' else {'X': None, 'unlabelled': rows}
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    detector = MetaAnomalyDetector().fit(**given)
    found = {_OURS: -detector.score_samples(query)}
  z, zero = baselines.standardized(rows, np.concatenate([rows, query]))
  z, known = np.clip(z, -1e6, 1e6), len(rows)
  triple = z[:known], np.zeros(known), z[known:], zero
  for name, scaling in (('z', 'plain'), ('z and levels', 'both')):
    fitted, _, new = baselines.scaled(triple, scaling)
    near = neighbors.NearestNeighbors(n_neighbors=min(5, known)).fit(fitted)
    found[f'5 nearest, {name}'] = near.kneighbors(new)[0].mean(1)
  forest = ensemble.IsolationForest(random_state=seed).fit(z[:known])
  return found | {'forest': -forest.score_samples(z[known:])}


def measure(path: str, root: pathlib.Path) -> pd.DataFrame:
  """One row for each setting, table, seed and method; kept as it grows."""
  names = ['setting', 'table', 'seed', 'way', 'v']
  found = (
    pd.read_csv(path) if os.path.exists(path) else pd.DataFrame([], [], names)
  )
  done = set(zip(found.setting, found.table, found.seed, strict=True))
  for name, x, y in tqdm.tqdm([*sets(root)], desc='tables', disable=None):
    for setting in _SETTINGS:
      rows = []
      for seed in range(_SEEDS.value):
        if (setting, name, seed) not in done:
          fitted, query, labels = draw(setting, seed, x, y)
          for way, told in scores(setting, seed, fitted, query).items():
            auroc = metrics.auroc(labels, told)
            rows.append((setting, name, seed, way, auroc))
      if rows:
        more = pd.DataFrame(rows, columns=names)
        found = pd.concat([found, more]) if len(found) else more
        storage.write_bytes(path, tables.csv(found).encode())
  return found


def page(found: pd.DataFrame, published: pd.DataFrame) -> str:
  """Means and leads over the tables, one section for each setting."""
  parts = []
  for setting, title in _SETTINGS.items():
    some = found[found.setting == setting]
    ours = some.groupby(['table', 'way']).v.mean().unstack()
    told = published[published.setting == setting]
    told = told.pivot(index='dataset', columns='method', values='auroc_mean')
    told = told[[way for way in told if not way.split('_')[-1][:1].isdigit()]]
    cell = ours.join(told.add_prefix('published: '), how='inner')
    cell = cell[cell.mean().sort_values(ascending=False).index]
    shown = [way for way in cell if way in ours] + list(
      cell.filter(like='published').columns[:6]
    )
    lines = [_line(cell, way) for way in cell if way in shown]
    parts.append(
      f'## {title.capitalize()}: {len(cell)} tables\n\n'
      '| method | mean AUROC | lead of this detector |\n| --- | --- | --- |\n'
      + '\n'.join(lines) + '\n'
    )  # fmt: skip
    best = [way for way in shown if way != _OURS][:4]
    head = ['table', _OURS, *best]
    rows = [
      f'| {table} | ' + ' | '.join(f'{row[way]:.3f}' for way in head[1:]) + ' |'
      for table, row in cell.iterrows()
    ]
    rule = '| --- ' * len(head) + '|'
    parts.append('\n'.join([f'| {" | ".join(head)} |', rule, *rows]) + '\n')
  return '\n'.join(parts)


def _line(cell, way):
  lead = (cell[_OURS] - cell[way]).to_numpy()
  mean, low, high = comparisons.bootstrap(lead)
  told = '' if way == _OURS else (
    f'{mean:+.3f} [{low:+.3f}, {high:+.3f}], median {np.median(lead):+.3f}, '
    f'{(lead > 0).sum()}:{(lead < 0).sum()}'
  )  # fmt: skip
  return f'| {way} | {cell[way].mean():.3f} | {told} |'


def main() -> None:
  """Measures what is missing, and writes the page."""
  if not _DATA_DIR.value:
    raise cli.UsageError('--data_dir is missing: the folder of adbench/')
  folder, root = str(_OUTPUT.value), pathlib.Path(_DATA_DIR.value)
  table = root / 'published' / 'adbench_auroc.csv'
  if not table.is_file() or not any(root.glob(_TABLES)):
    raise DataError(
      f'{root} needs tables below adbench/Classical and the published AUROCs, '
      f'published/{table.name}: setting, dataset, method, auroc_mean'
    )
  os.makedirs(folder, exist_ok=True)
  path = os.path.join(folder, 'adbench_published.csv')
  found = measure(path, root)
  published = pd.read_csv(table)
  text = page(found, published)
  path = os.path.join(folder, 'adbench_published.md')
  storage.write_bytes(path, text.encode())
  print(text + f'\nwritten below {folder}')


if __name__ == '__main__':
  cli.run(main, FLAGS)
