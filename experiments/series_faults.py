r"""Which faults of a series are found, from how few healthy periods?

  python -m experiments.series_faults --data_dir=DATA --output=runs/faults

Takes stretches of healthy series, the archives' and simulated ones: the first
periods to fit to, and 12 more, a fault of a period in one of them. Found = the
highest score lies in it; by chance one in twelve. Writes results.csv as it goes
on (a second start goes on), and summary.md: the share that is found, with
Wilson's 95% intervals, and the mean AUROC of time stamps.
"""

import itertools
import pathlib
import warnings

from absl import flags
import jax
import numpy as np
import pandas as pd
from scipy import stats
from tqdm import tqdm

from experiments import cli
from metaad_jax import storage
from metaad_jax.data import recordings, series_faults, series_processes
from metaad_jax.detector.series import SeriesAnomalyDetector, shipped_weights
from metaad_jax.features import subsequences
from metaad_jax.scores import metrics
from metaad_jax.training import series_weights

FLAGS = flags.FlagValues()
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'folder of the archives', flag_values=FLAGS
)
_ARCHIVES = flags.DEFINE_list(
  'archives', ['ucr', 'kpi'], ', '.join(recordings.ARCHIVES), flag_values=FLAGS
)
_OUTPUT = flags.DEFINE_string(
  'output', 'runs/series_faults', 'folder for the results', flag_values=FLAGS
)
_SERIES = flags.DEFINE_integer(
  'series', 30, 'how many of each archive', 1, flag_values=FLAGS
)
_SHOTS = (5, 10, 20)  # healthy periods
_SIZES = (1.0, 3.0)  # deviations
_JUDGED = 12  # periods after them


def main() -> None:
  """Judges what is missing, then writes the summary."""
  path = pathlib.Path(_OUTPUT.value) / 'results.csv'
  table = pd.read_csv(path) if path.is_file() else pd.DataFrame()
  known = set(table['name']) if len(table) else set()
  for name, group, x in tqdm(list(_healthy()), 'series'):
    if name in known:
      continue
    rows = pd.DataFrame(_judge(name, group, x))
    table = pd.concat([table, rows], ignore_index=True)
    storage.write_bytes(str(path), table.to_csv(index=False).encode())
  text = _summary(table)
  storage.write_bytes(str(path.with_name('summary.md')), text.encode())
  print(text)


def _healthy():
  """Names, groups, and healthy series that are long enough."""
  for archive in _ARCHIVES.value:
    every = [
      one
      for one in recordings.load(archive, _DATA_DIR.value)
      if len(one.healthy)
      > (max(_SHOTS) + _JUDGED + 1) * subsequences.period(one.healthy)
    ]
    for one in every[:: max(1, -(-len(every) // _SERIES.value))]:
      yield f'{archive}/{one.name}', one.group, one.healthy
  for number in range(_SERIES.value):
    key = jax.random.key(5_000 + number)
    x = np.asarray(series_processes.process(key, 8000), np.float64)
    yield f'simulated/{number}', f'simulated_{number}', x


def _judge(name, group, x):
  """A row per number of periods, kind and size."""
  period = max(8, subsequences.period(x))
  others = shipped_weights(x.shape[1], series_weights.fold(group))
  for shots in _SHOTS:
    end = max(30, shots * period)
    later = x[end : end + _JUDGED * period]
    if len(later) < _JUDGED * period:
      continue
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      detector = SeriesAnomalyDetector(period=period, weights=others)
      detector.fit(x[:end])
    kinds = [k for k in series_faults.KINDS if k != 'decoupled']
    for number, (kind, size) in enumerate(itertools.product(kinds, _SIZES)):
      random = np.random.default_rng([shots, number, len(x)])
      start = int(random.integers(1, _JUDGED - 2)) * period
      bad, labels = series_faults.inject(
        later, start, start + period, kind, size, period, random
      )
      if not labels.any():
        continue
      scores = -detector.score_samples(bad)
      yield {
        'name': name, 'shots': shots, 'kind': kind, 'size': size,
        'found': float(labels[np.argmax(scores)]),
        'auroc': metrics.auroc(labels.astype(int), scores),
      }  # fmt: skip


def _summary(table):
  """Markdown: kinds and sizes as rows, periods as columns."""
  lines = [
    '| fault | size | ' + ' | '.join(f'{k} periods' for k in _SHOTS) + ' |',
    '| --- ' * (2 + len(_SHOTS)) + '|',
  ]
  for (kind, size), part in table.groupby(['kind', 'size'], sort=False):
    cells = []
    for shots in _SHOTS:
      some = part[part.shots == shots]
      low, high = stats.binomtest(
        int(some.found.sum()), len(some)
      ).proportion_ci(method='wilson')  # fmt: skip
      cells.append(
        f'{some.found.mean():.2f} [{low:.2f}, {high:.2f}]; '
        f'{some.auroc.mean():.2f}'
      )
    lines.append(f'| {kind} | {size:g} | ' + ' | '.join(cells) + ' |')
  series = table['name'].nunique()
  return (
    f'{series} series. Share of faults that are found, 95% interval; mean '
    'AUROC.\n\n' + '\n'.join(lines) + '\n'
  )


if __name__ == '__main__':
  cli.run(main, FLAGS)
