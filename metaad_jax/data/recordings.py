"""Recordings with a healthy beginning and labelled time stamps.

Public archives of series: what detectors of series are judged on. `series.py`
cuts recordings into windows for meta-training. Those that are no sources are
not fetched; they lie in the data folder as

  ucr/index.csv: name, group, anomaly_start, anomaly_end; ucr/NAME.npz: x [n],
    train_end
  kpi/index.csv: kpi, first_anomaly, anom_points; kpi/KPI.npz: x [n], label [n]
  nab/FOLDER/NAME.csv.xz, separated by semicolons: datetime, value, anomaly
"""

from collections.abc import Iterator
import pathlib
from typing import NamedTuple

import numpy as np
import pandas as pd

from metaad_jax.base import DataError
from metaad_jax.data import public_files, registry, timelines
from metaad_jax.data.datasets import mitbih


class Recording(NamedTuple):
  """One recording.

  Attributes:
    name: of it.
    group: recordings of one group come from one machine or person.
    healthy: [n, C] float64, its healthy beginning.
    series: [T, C] what comes after it.
    labels: [T] bool, anomalous.
    step: seconds between two samples, or None.
  """

  name: str
  group: str
  healthy: np.ndarray
  series: np.ndarray
  labels: np.ndarray
  step: float | None = None


def load(archive: str, data_dir: str | None) -> Iterator[Recording]:
  """The recordings of an archive of `ARCHIVES`, in the order of their names.

  Args:
    archive: its name.
    data_dir: holds a folder of the archive's name.

  Raises:
    DataError: if there is no such archive, or no such folder.
  """
  if archive not in ARCHIVES:
    raise DataError(f'no archive {archive!r}: choose of {", ".join(ARCHIVES)}')
  return ARCHIVES[archive](data_dir)


def _folder(data_dir, archive):
  """Of an archive that nothing fetches."""
  root = pathlib.Path(data_dir or '.') / archive
  if data_dir is None or not root.is_dir():
    raise DataError(
      f'{root} is not there: give as data_dir the folder that holds '
      f'{archive}/, laid out as `metaad_jax.data.recordings` says'
    )
  return root


def _ucr(data_dir):
  """Wu and Keogh, Current time series anomaly detection benchmarks, 2021."""
  root = _folder(data_dir, 'ucr')
  for row in pd.read_csv(root / 'index.csv').itertuples():
    with np.load(root / f'{row.name}.npz', allow_pickle=False) as file:
      x, end = file['x'].astype(np.float64)[:, None], int(file['train_end'])
    at = np.arange(end, len(x))
    labels = (at >= row.anomaly_start) & (at < row.anomaly_end)
    yield Recording(str(row.name), str(row.group), x[:end], x[end:], labels)


def _kpi(data_dir):
  """Metrics of web services, a point a minute; healthy up to an anomaly.

  Those of which less than 500 points come after their healthy part are left
  out: there is too little to judge.
  """
  root = _folder(data_dir, 'kpi')
  for row in pd.read_csv(root / 'index.csv').itertuples():
    end = min(int(row.first_anomaly), 8000)
    if end < 1000 or row.anom_points == 0:
      continue
    with np.load(root / f'{row.kpi}.npz', allow_pickle=False) as file:
      x, labels = file['x'].astype(np.float64), file['label'] > 0
    known = np.isfinite(x)
    x, labels, end = x[known, None], labels[known], int(known[:end].sum())
    if len(x) - end < 500:
      continue
    name = str(row.kpi)
    yield Recording(name, name, x[:end], x[end:], labels[end:], 60.0)


def _nab(data_dir):
  """Numenta's benchmark; the first 15% are its probation, without anomalies."""
  root = _folder(data_dir, 'nab')
  for path in sorted(root.rglob('*.csv.xz')):
    frame = pd.read_csv(path, sep=';')
    labels, end = frame['anomaly'].to_numpy() > 0, int(0.15 * len(frame))
    if not labels.any() or labels[:end].any():
      continue
    steps = pd.to_datetime(frame['datetime']).diff().dt.total_seconds()
    x = frame[['value']].to_numpy(np.float64)
    name = f'{path.parent.name}/{path.name.split(".")[0]}'
    yield Recording(
      name, name, x[:end], x[end:], labels[end:], float(steps.median())
    )


def _mitbih(data_dir):
  """Ten minutes of each ECG, after the longest run of usual beats before.

  Healthy is the longest run, up to a minute, without another beat in the first
  ten minutes; an anomaly is from .3 s before to .4 s after a beat that is not
  the patient's usual one.
  """
  root, rate = public_files.folder(data_dir, 'mitbih'), mitbih.RATE
  for name in public_files.names(root, '*.hea'):
    signal, peaks, symbols = mitbih.read(root, name)
    beats = np.isin(symbols, mitbih.BEATS)
    known, counts = np.unique(symbols[beats], return_counts=True)
    other = peaks[beats & (symbols != known[counts.argmax()])]
    labels = np.zeros(len(signal), bool)
    for peak in other:
      labels[max(0, peak - 3 * rate // 10) : peak + 4 * rate // 10] = True
    half = 600 * rate
    starts, stops = timelines.runs(~labels[:half])
    longest = int(np.argmax(stops - starts))
    start, stop = int(starts[longest]), int(stops[longest])
    later = slice(half, 2 * half)
    yield Recording(
      name, name, signal[start : min(stop, start + 60 * rate), :1],
      signal[later, :1], labels[later], 1 / rate,
    )  # fmt: skip


def _of_source(spec):
  def recordings(data_dir):
    whole = (',' if ':' in spec else ':') + _WHOLE
    for entity in registry.load(spec + whole, data_dir):
      x, query = (a.astype(np.float64) for a in (entity.normal, entity.query))
      moving = np.ptp(np.concatenate([x, query]), 0) > 0
      labels = np.asarray(entity.labels) > 0
      if labels.any() and moving.any():
        yield Recording(
          entity.name, entity.group or entity.name, x[:, moving],
          query[:, moving], labels,
        )  # fmt: skip

  return recordings


# Rows that a source leaves out would tear a series apart.
_WHOLE = 'max_rows=10000000,max_queries=10000000'

ARCHIVES = {
  'ucr': _ucr, 'kpi': _kpi, 'nab': _nab, 'smd': _of_source('smd'),
  'asd': _of_source('asd'), 'smap': _of_source('smap_msl:spacecraft=SMAP'),
  'msl': _of_source('smap_msl:spacecraft=MSL'), 'skab': _of_source('skab'),
  'mitbih': _mitbih,
}  # fmt: skip
