r"""What rows that nobody checked bring, by the share of bad ones among them.

  python -m experiments.unverified --data_dir=data --split=validation \
    --output=runs/unverified

Supports of 20 verified rows and 200 unverified ones, or of the latter alone, of
OddBench's tables of 16 columns at most; the same query for everybody. Compares
the package's file for such supports with itself on the verified rows, with its
other file, and with the best classical method for each share, chosen on the
same rows: on the verified rows, on all, or on all but the 30% of the unverified
that lie farthest. Writes unverified.md and unverified_<side>.csv; with --join
the former is made of such files, --intro goes to its top.
"""

from collections.abc import Iterator
import os
import pathlib
from typing import Any, NamedTuple
import zlib

from absl import flags
import numpy as np
import pandas as pd
import tqdm

from experiments import cli
from metaad_jax import storage
from metaad_jax.base import Entity
from metaad_jax.detector import adaptation, unverified
from metaad_jax.evaluation import baselines
from metaad_jax.reports import tables
from metaad_jax.scores import comparisons, conformal, metrics
from metaad_jax.training import runs

FLAGS = flags.FlagValues()
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'root of the data', flag_values=FLAGS
)
_SPLIT = flags.DEFINE_enum(
  'split', 'test', ['test', 'validation'], 'side', flag_values=FLAGS
)
_WIDEST = flags.DEFINE_integer(
  'widest', 16, 'leave tables of more columns out', flag_values=FLAGS
)
_RUN_DIR = flags.DEFINE_string(
  'run_dir', runs.UNVERIFIED, 'the file that is judged', flag_values=FLAGS
)
_VERIFIED = flags.DEFINE_list(
  'verified', ['20', '0'], 'verified rows: 20, 0, or both', flag_values=FLAGS
)
_JOIN = flags.DEFINE_list(
  'join', [], 'tables of numbers to make the page of', flag_values=FLAGS
)
_INTRO = flags.DEFINE_string(
  'intro', None, 'hand-written top of the page', flag_values=FLAGS
)
_OUTPUT = flags.DEFINE_string(
  'output', 'unverified', 'folder to write', flag_values=FLAGS
)
_SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.25)
_CELLS = [(20, share) for share in _SHARES] + [(0, 0.0), (0, 0.1), (0, 0.25)]
_UNVERIFIED, _QUERY, _RATE = 200, 100, 0.05
_PROMISED = 0, 10, 50  # bad rows where p-values are looked at: they take longer
_CLASSICAL: dict[str, list[tuple[str, dict[str, Any]]]] = {
  'verified': [
    ('log_sum', {}), ('ocsvm', {'scaling': 'both'}),
    ('mahalanobis', {'scaling': 'both'}), ('mean_distance', {}),
    ('nearest_neighbour', {'scaling': 'both'}),
  ],
  'all': [
    ('log_sum', {}), ('ocsvm', {'scaling': 'both'}),
    ('mahalanobis', {'scaling': 'both'}), ('mean_distance', {}),
    ('knn', {'scaling': 'both', 'neighbours': 20}), ('isolation_forest', {}),
    ('log_sum', {'trim': 0.3}),
  ],
  'trimmed': [
    ('log_sum', {}), ('knn', {'scaling': 'both', 'neighbours': 20}),
  ],
}  # fmt: skip


class Draw(NamedTuple):
  """A support of verified and unverified rows, and a query."""

  x: np.ndarray  # [n, F] the verified rows first
  y: np.ndarray  # [n] 0 = verified, -1 = unverified
  bad: np.ndarray  # [n] bool, bad rows among the unverified
  query: np.ndarray  # [m, F]
  labels: np.ndarray  # [m]


def draw(entity: Entity, verified: int, share: float) -> Draw | None:
  """None if the table has too few rows, or would leave five anomalies."""
  rng = np.random.default_rng([0, zlib.crc32(entity.name.encode())])
  good = rng.permutation(len(entity.normal))
  anomalies = rng.permutation(np.flatnonzero(entity.labels == 1))
  normals = rng.permutation(np.flatnonzero(entity.labels == 0))[:_QUERY]
  wrong = int(np.ceil(share * _UNVERIFIED - 1e-9))
  given = verified + _UNVERIFIED - wrong
  if given > len(good) or wrong > len(anomalies) - 5:
    return None
  last = len(anomalies) - wrong
  x = np.concatenate(
    [entity.normal[good[:given]], entity.query[anomalies[last:]]]
  )
  rest = anomalies[:last][:_QUERY]
  return Draw(
    x,
    np.repeat([0, -1], [verified, _UNVERIFIED]),
    np.arange(len(x)) >= given,
    entity.query[np.concatenate([normals, rest])],
    np.repeat([0, 1], [len(normals), len(rest)]),
  )


def _judged(run, x, y, query):
  """A run adapted to rows, and the scores of a query."""
  adapted = adaptation.adapt(run, x, y)
  return adapted, adaptation.score(run, adapted, query)


def networks(
  drawn: Draw, run: runs.Run, plain: runs.Run, other: runs.Run | None = None
) -> dict[str, float]:
  """AUROC of the run and of the others, and what p-values of it do."""
  x, y, bad, query, labels = drawn
  given, known = unverified.given(run, y), y == 0
  adapted, scores = _judged(run, x, given, query)
  found = {
    'all rows': scores,
    'shipped, all taken for normal': _judged(plain, x, 0 * y, query)[1],
  }
  if other is not None and known.any():
    found[_OTHER] = _judged(other, x, unverified.given(other, y), query)[1]
  if known.any():
    rows = x[known], y[known], query
    found['verified rows'] = _judged(run, *rows)[1]
    found['shipped, verified rows'] = _judged(plain, *rows)[1]
  told = {way: metrics.auroc(labels, s) for way, s in found.items()}
  if bad.any():
    odds = unverified.suspects(run, adapted, x)[~known]
    told['suspects'] = metrics.auroc(bad[~known].astype(int), odds)
  promised = known.any() and bad.sum() in _PROMISED
  if run.calibration is not None and promised:
    own = adaptation.support_scores(run, x, given)
    evidence = conformal.Evidence(int(known.sum()), 0, True, own, np.zeros(0))
    alarms = conformal.p_values(run.calibration, evidence, scores) <= _RATE
    told['false alarms'] = alarms[labels == 0].mean()
    told['recall'] = alarms[labels == 1].mean()
  return told


def classical(drawn: Draw) -> Iterator[tuple[str, float]]:
  """AUROC of each classical way."""
  x, y, _, query, labels = drawn
  known, rest = x[y == 0], x[y == -1]
  ways = {'all': x}
  if len(known):
    ways['verified'] = known
    far = baselines.score('log_sum', 0, triple(known, rest))
    kept = np.argsort(far)[: int(0.7 * len(far))]
    ways['trimmed'] = np.concatenate([known, rest[kept]])
  for way, rows in ways.items():
    task = triple(rows, query)
    for name, options in _CLASSICAL[way]:
      told = ', '.join([name.replace('_', ' '), *map(str, options.values())])
      scores = baselines.score(name, 0, task, **options)
      yield f'{way}: {told}', metrics.auroc(labels, scores)


def triple(rows: np.ndarray, query: np.ndarray) -> baselines.Triple:
  """A task of normals [n, F], standardised, blanks filled, and no label."""
  rows, query = rows.astype(float), query.astype(float)
  with np.errstate(all='ignore'):
    middle = np.nan_to_num(np.nanmedian(rows, 0))
  fill = lambda x: np.where(np.isfinite(x), x, middle)
  rows, count = fill(rows), len(rows)
  scaled, zero = baselines.standardized(
    rows, np.concatenate([rows, fill(query)])
  )
  scaled = np.clip(scaled, -1e6, 1e6)
  return scaled[:count], np.zeros(count), scaled[count:], zero


def measure(
  members: list[Entity], run: runs.Run, *others: runs.Run
) -> pd.DataFrame:
  """One row for each table, cell and way."""
  rows = []
  for entity in tqdm.tqdm(members, desc='tables', disable=None):
    for verified, share in _CELLS:
      if str(verified) not in _VERIFIED.value:
        continue
      drawn = draw(entity, verified, share)
      if drawn is not None:
        found = networks(drawn, run, *others) | dict(classical(drawn))
        rows += [(entity.name, verified, share, *kv) for kv in found.items()]
  return pd.DataFrame(rows, columns=['table', 'verified', 'share', 'way', 'v'])


def page(found: pd.DataFrame, side: str) -> str:
  """The tables of one side in Markdown."""
  parts = []
  for verified, cells in found.groupby('verified', sort=False):
    title = f'{verified} verified' if verified else 'nothing verified'
    parts.append(f'## {side.capitalize()} tables, {title}, 200 unverified\n')
    each = [
      (share, cell.pivot(index='table', columns='way', values='v'))
      for share, cell in cells.groupby('share')
    ]
    other = [_OTHER] * (_OTHER in set(cells.way))
    ways, rivals = [*_WAYS, *other, *_TOLD], [*_RIVALS, *other]
    means = [f'| {share:.0%} | {_means(cell, ways)} |' for share, cell in each]
    parts += [_header(['bad', 'tables', 'best classical', *ways]), *means, '']
    leads = [
      f'| {share:.0%} | {_leads(cell, rivals)} |' for share, cell in each
    ]
    parts += [_header(['bad', *rivals]), *leads, '']
  return '\n'.join(parts)


_OTHER = 'the file unverified'
_WAYS = (
  'shipped, verified rows', 'shipped, all taken for normal', 'verified rows',
  'all rows',
)  # fmt: skip
_TOLD = 'suspects', 'false alarms', 'recall'
_RIVALS = (
  'verified rows', 'shipped, verified rows', 'shipped, all taken for normal',
  'best classical',
)  # fmt: skip


def _header(names):
  return f'| {" | ".join(names)} |\n{"| --- " * len(names)}|'


def _best(cell):
  means = cell[[way for way in cell if ': ' in way]].mean()
  return means.idxmax()


def _means(cell, ways):
  """The means of one cell; the best classical way by name."""
  best = _best(cell)
  number = lambda way: f'{cell[way].mean():.3f}' if way in cell else ''
  told = [number(way) for way in ways]
  return ' | '.join([str(len(cell)), f'{number(best)} ({best})', *told])


def _leads(cell, rivals):
  """Lead of the file on all rows: mean, interval, median, wins and losses."""
  told = []
  for rival in rivals:
    name = _best(cell) if rival == 'best classical' else rival
    if name not in cell:
      told.append('')
      continue
    lead = (cell['all rows'] - cell[name]).to_numpy()
    mean, low, high = comparisons.bootstrap(lead)
    wins, losses = (lead > 0).sum(), (lead < 0).sum()
    told.append(
      f'{mean:+.3f} [{low:+.3f}, {high:+.3f}], median {np.median(lead):+.3f}, '
      f'{wins}:{losses}'
    )
  return ' | '.join(told)


def main() -> None:
  """Measures or reads, and writes the page."""
  if not _VERIFIED.value or not {*_VERIFIED.value} <= {'20', '0'}:
    raise cli.UsageError('--verified is 20, 0, or 20,0')
  folder = str(_OUTPUT.value)
  os.makedirs(folder, exist_ok=True)
  texts = []
  if _INTRO.value:
    texts.append(pathlib.Path(_INTRO.value).read_text('utf-8'))
  for path in _JOIN.value:
    side = 'validation' if 'validation' in os.path.basename(path) else 'test'
    texts.append(page(pd.read_csv(path), side))
  if not _JOIN.value:
    judged = str(_RUN_DIR.value)
    names = [judged, runs.SHIPPED, runs.UNVERIFIED]
    run, *others = map(runs.restore, names[: 2 + (judged != runs.UNVERIFIED)])
    sides = runs.load_data(run.config, _DATA_DIR.value).entities
    members = [
      e for e in sides[_SPLIT.value] if e.normal.shape[-1] <= _WIDEST.value
    ]
    found = measure(members, run, *others)
    path = os.path.join(folder, f'unverified_{_SPLIT.value}.csv')
    storage.write_bytes(path, tables.csv(found).encode())
    texts.append(page(found, _SPLIT.value))
  path = os.path.join(folder, 'unverified.md')
  storage.write_bytes(path, '\n'.join(texts).encode())
  print('\n'.join(texts) + f'\nwritten below {folder}')


if __name__ == '__main__':
  cli.run(main, FLAGS)
