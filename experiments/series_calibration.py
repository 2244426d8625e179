r"""Learns how far p-values of series can be trusted (`detector.series_tails`).

  python -m experiments.series_calibration --data_dir=DATA --output=runs/cal

Over the archives and simulated processes, judged by weights that their group
had no part in, the odds of `series_tails.calibrated` are chosen by which there
are as many false events as promised, until a recording is said to have changed,
where simulated ones count as much as all archives. Prints what each kind has by
the odds of the others, and writes series.npz, the weights of `--weights` with
the odds, which ships; to be run after `experiments.series_weights`. Each
recording is kept in the output folder, so that a second start goes on.
"""

import pathlib
import warnings

from absl import flags
import jax
import numpy as np
import pandas as pd
from tqdm import tqdm

from experiments import cli
from metaad_jax import storage
from metaad_jax.data import recordings, series_processes
from metaad_jax.data.recordings import Recording
from metaad_jax.detector import series_changes, series_tails
from metaad_jax.detector.series import SeriesAnomalyDetector
from metaad_jax.training import series_weights

FLAGS = flags.FlagValues()
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'folder of the archives', flag_values=FLAGS
)
_ARCHIVES = flags.DEFINE_list(
  'archives', ['ucr', 'kpi', 'nab', 'asd', 'smap', 'msl'],
  ', '.join(recordings.ARCHIVES), flag_values=FLAGS,
)  # fmt: skip
_WEIGHTS = flags.DEFINE_string(
  'weights', 'metaad_jax/shipped/series.npz', 'weights, and those of the folds',
  flag_values=FLAGS,
)  # fmt: skip
_OUTPUT = flags.DEFINE_string(
  'output', 'runs/series_calibration', 'folder for the results',
  flag_values=FLAGS,
)  # fmt: skip
_SIMULATED = flags.DEFINE_integer(
  'simulated', 150, 'simulated recordings', flag_values=FLAGS
)
_STRIDE = flags.DEFINE_integer(
  'stride', 1, 'take every so many-th recording only', 1, flag_values=FLAGS
)
_RATE = 1e-4  # promised events per sample
_ODDS = np.round(np.geomspace(0.5, 8, 81), 3)


def main() -> None:
  """Scores what is missing, then chooses the odds."""
  output = pathlib.Path(_OUTPUT.value)
  arrays, meta = storage.load(_WEIGHTS.value)
  tables = []
  for kind, one in _recordings():
    path = output / kind / f'{one.name.replace("/", "_")}.npz'
    if not path.is_file():
      fold = series_weights.fold(one.group)
      several = int(one.healthy.shape[1] > 1)
      weights = arrays['folds'][fold][several]
      storage.save(str(path), _scored(one, weights), {})
    tables.append(_counted(kind, storage.load(str(path))[0]))
  table = pd.concat(tables)
  rows = []
  for kind, part in table.groupby('kind'):
    odds = _odds(table[table.kind != kind])
    row = part[part.odds == odds][['events', 'promised', 'changed']]
    rows.append({
      'kind': kind, 'recordings': len(row), 'odds of the others': odds,
      **row.sum(), 'ratio': row.events.sum() / row.promised.sum(),
    })  # fmt: skip
  print(pd.DataFrame(rows).round(2).to_string(index=False))
  odds = _odds(table)
  print(f'odds of all: {odds:.3g}')
  made = arrays | {'odds': np.array(odds)}
  storage.save(str(output / 'series.npz'), made, meta)


def _recordings():
  """Pairs of a kind and a recording."""
  for archive in _ARCHIVES.value:
    every = recordings.load(archive, _DATA_DIR.value)
    for number, one in enumerate(tqdm(every, archive)):
      if number % _STRIDE.value == 0:
        yield archive, one
  for number in tqdm(range(_SIMULATED.value), 'simulated'):
    random = np.random.default_rng([number, 99])
    n = int(random.choice([3000, 6000, 12000]))
    channels = int(random.choice([1, 1, 1, 2]))
    key = jax.random.key(99_000 + number)
    x = np.asarray(
      series_processes.process(key, n, channels=channels), np.float64
    )
    end, name = int(len(x) * random.choice([0.1, 0.2, 0.4])), f'{number}'
    none = np.zeros(len(x) - end, bool)
    yield 'simulated', Recording(name, name, x[:end], x[end:], none)


def _scored(one, weights):
  """Scores of periods: of the healthy part, of the rest, which are near faults.

  And the share of high ones that is no run, and the period.
  """
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    detector = SeriesAnomalyDetector(weights=weights).fit(one.healthy)
    scores = -detector.score_samples(one.series)
  period = detector.period_
  near = np.convolve(one.labels, np.ones(4 * period + 1))
  near = near[2 * period : 2 * period + len(scores)] > 0.5
  return {
    'healthy': detector._healthy, 'alone': np.array(detector._alone),
    'scores': series_tails.blocks(scores, period),
    'near': series_tails.blocks(near.astype(float), period),
    'period': np.array(period),
  }  # fmt: skip


def _counted(kind, arrays):
  """False events and promised ones by odds, until a change is announced."""
  healthy, scores = arrays['healthy'], arrays['scores']
  period, near = int(arrays['period']), arrays['near'] > 0
  wealth = series_changes.course(healthy, scores[~near])
  over = np.flatnonzero(wealth > -np.log(series_changes.RATE))
  end = np.flatnonzero(~near)[over[0]] if len(over) else len(scores)
  level = -np.expm1(-_RATE * period / float(arrays['alone']))
  promised = _RATE * period * (~near[:end]).sum()
  rows = []
  for odds in _ODDS:
    high = series_tails.threshold(
      healthy, series_tails.calibrated(level, 1 / odds)
    )
    alarms = np.flatnonzero(scores[:end] > high)
    parts = np.split(alarms, np.flatnonzero(np.diff(alarms) > 1) + 1)
    wrong = [len(x) and not near[x[0] : x[-1] + 1].any() for x in parts]
    rows.append((kind, odds, sum(map(bool, wrong)), promised, len(over) > 0))
  return pd.DataFrame(
    rows, columns=['kind', 'odds', 'events', 'promised', 'changed']
  )


def _odds(table):
  """The odds by which there are as many events as promised."""
  sides = table.groupby([table.kind == 'simulated', 'odds'])
  total = sides[['events', 'promised']].sum()
  ratio = (total.events / total.promised).groupby('odds').mean()
  return float((ratio - 1).abs().idxmin())


if __name__ == '__main__':
  cli.run(main, FLAGS)
