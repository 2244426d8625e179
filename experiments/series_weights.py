r"""Learns what makes up the score of a series (`training.series_weights`).

  python -m experiments.series_weights --data_dir=DATA --output=runs/weights

Tasks are the recordings of the archives, the healthy parts of the same ones
with faults injected, and simulated processes with faults. Each task is kept in
the output folder, so that a second start goes on. Writes series.npz: the
weights of all recordings, which ship, and for each of five folds those of the
groups of the others, by which `experiments.series` judges.
"""

import pathlib
import warnings

from absl import flags
import jax
import numpy as np
from tqdm import tqdm

from experiments import cli
from metaad_jax import storage
from metaad_jax.data import recordings, series_faults, series_processes
from metaad_jax.data.recordings import Recording
from metaad_jax.detector.series import SeriesAnomalyDetector
from metaad_jax.features import subsequences
from metaad_jax.training import series_weights

FLAGS = flags.FlagValues()
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'folder of the archives', flag_values=FLAGS
)
_ARCHIVES = flags.DEFINE_list(
  'archives', ['ucr', 'kpi', 'nab', 'asd', 'smd', 'smap', 'msl'],
  ', '.join(recordings.ARCHIVES), flag_values=FLAGS,
)  # fmt: skip
_OUTPUT = flags.DEFINE_string(
  'output', 'runs/series_weights', 'folder for the results', flag_values=FLAGS
)
_SIMULATED = flags.DEFINE_integer(
  'simulated', 150, 'simulated recordings', flag_values=FLAGS
)
_MOST = 60  # recordings of an archive
_EVEN = np.ones((len(subsequences.COMPONENTS), len(subsequences.WIDTHS)))
_OTHERS = 0.3  # of series of several channels, for those of one, and back
_SPOILED = 2.0  # importance of injected faults; an archive has 1


def main() -> None:
  """Draws the tasks that are missing, then learns."""
  output = pathlib.Path(_OUTPUT.value)
  tasks, kinds, groups, many = [], [], [], []
  for kind, one in _recordings():
    path = output / 'tasks' / f'{kind}_{one.name.replace("/", "_")}.npz'
    if path.is_file():
      arrays, _ = storage.load(str(path))
      drawn = series_weights.Task(
        arrays['anomalous'], arrays['normal'], arrays['shares'],
        float(arrays['rate']),
      )  # fmt: skip
    else:
      drawn = _task(one)
      storage.save(str(path), drawn._asdict(), {})
    tasks.append(drawn)
    kinds.append(kind)
    groups.append(one.group)
    many.append(one.healthy.shape[1] > 1)
  folds = np.array([series_weights.fold(group) for group in groups])
  importance = _importance(np.array(kinds), np.array(groups))
  # Of one channel, and of several: what tells is not quite the same.
  learn = lambda some: np.stack([
    series_weights.learn(
      [tasks[i] for i in np.flatnonzero(some)],
      (importance * np.where(np.array(many) == several, 1, _OTHERS))[some],
    )
    for several in (False, True)
  ])  # fmt: skip
  weights = learn(folds >= 0)
  others = [learn(folds != k) for k in range(series_weights.FOLDS)]
  arrays = {'weights': weights, 'folds': np.stack(others)}
  storage.save(str(output / 'series.npz'), arrays, {
    'kind': 'series weights', 'components': subsequences.COMPONENTS,
    'widths': subsequences.WIDTHS, 'archives': _ARCHIVES.value,
    'tasks': len(tasks),
  })  # fmt: skip
  for rows in weights:
    for name, row in zip(subsequences.COMPONENTS, rows, strict=True):
      print(f'{name:17}', *(f'{w:.3f}' for w in row))


def _recordings():
  """Pairs of a kind and a recording."""
  for archive in _ARCHIVES.value:
    every = [
      one
      for one in recordings.load(archive, _DATA_DIR.value)
      if one.labels.any()
    ]
    every = every[:: -(-len(every) // _MOST)]
    for number, one in enumerate(tqdm(every, archive)):
      yield archive, one
      spoiled = _spoiled(one, np.random.default_rng([number, len(archive)]))
      if spoiled is not None:
        yield 'spoiled', spoiled._replace(name=f'{archive}_{one.name}')
  for number in tqdm(range(_SIMULATED.value), 'simulated'):
    random = np.random.default_rng([number, 77])
    n = int(random.choice([1500, 3000, 6000]))
    channels = int(random.choice([1, 1, 2, 5]))
    key = jax.random.key(77_000 + number)
    x = np.asarray(
      series_processes.process(key, n, channels=channels), np.float64
    )
    name, none = f'simulated_{number}', np.zeros(0, bool)
    one = _spoiled(Recording(name, name, x, x[:0], none), random)
    if one is not None:
      yield 'spoiled', one


def _spoiled(one, random):
  """The healthy part, faults in its last 40%; None where it is too short."""
  n = min(len(one.healthy), int(random.choice([1500, 3000, 6000, 12000])))
  if n < 300:
    return None
  start = int(random.integers(0, len(one.healthy) - n + 1))
  x = one.healthy[start : start + n]
  end = int(0.6 * n)
  period = min(subsequences.period(x[:end]), end // 3)
  series, labels, _ = series_faults.spoiled(x[end:], period, random)
  if not labels.any() or labels.all():
    return None
  return one._replace(healthy=x[:end], series=series, labels=labels)


def _task(one):
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    detector = SeriesAnomalyDetector(weights=_EVEN).fit(one.healthy)
  components = detector.components(one.series)
  random = np.random.default_rng(len(one.series))
  return series_weights.task(components, one.labels, random)


def _importance(kinds, groups):
  """[tasks]; a group counts by the root of its size within its kind."""
  made = np.zeros(len(kinds))
  for kind in np.unique(kinds):
    some = kinds == kind
    _, which, counts = np.unique(
      groups[some], return_inverse=True, return_counts=True
    )
    share = counts[which] ** -0.5
    total = _SPOILED if kind == 'spoiled' else min(1.0, len(counts) / 6)
    made[some] = total * share / share.sum()
  return made


if __name__ == '__main__':
  cli.run(main, FLAGS)
