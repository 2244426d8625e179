"""Writes tiny files in the layout of each public data set.

The first column or sample counts the rows wherever the format lets it, so that
what went where can be read off the entities.
"""

import json
import pathlib

import numpy as np
import pytest
import wfdb

from metaad_jax.base import DataError
from metaad_jax.data import registry
from metaad_jax.data.datasets import (
  cnc_mill,
  creditcard,
  cwru,
  mitbih,
  nsl_kdd,
  sales_fraud,
  skab,
  smap_msl,
)


def put(path: pathlib.Path, content: bytes) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content)


def npz(path: pathlib.Path, **arrays) -> None:
  put(path, b'')
  np.savez(path, **arrays)


def link(source: pathlib.Path, target: pathlib.Path, name: str) -> None:
  """Links the files of a source into another folder."""
  for path in (source / name).rglob('*'):
    if path.is_file():
      copy = target / path.relative_to(source)
      copy.parent.mkdir(parents=True, exist_ok=True)
      copy.symlink_to(path)


def the_error(spec, data_dir) -> str:
  with pytest.raises(DataError) as caught:
    registry.load(spec, None if data_dir is None else str(data_dir))
  assert '\n' not in str(caught.value)
  return str(caught.value)


def write_cwru(root: pathlib.Path, wave=lambda t: t) -> None:
  """wave(t) with t in samples at 12 kHz; the normal one sampled at 48 kHz."""
  for file in cwru.SOURCE.files:
    normal = file.path == cwru._NORMAL
    time = np.arange(36_000) / 4 if normal else np.arange(9_000.0)
    npz(root / 'cwru' / file.path, DE=wave(time)[:, None])


def write_skab(root: pathlib.Path, rows=60, block=(30, 45)) -> None:
  """The first sensor counts the rows."""
  text = ';'.join(skab._HEADER) + '\n'
  for i in range(rows):
    anomalous = float(block[0] <= i < block[1])
    cells = ['2020-03-09 10:14:33', i, *[0.5] * 7, anomalous, 0.0]
    text += ';'.join(map(str, cells)) + '\n'
  for file in skab.SOURCE.files:
    put(root / 'skab' / file.path, text.encode())


def write_servers(root: pathlib.Path, source: str, rows=120) -> None:
  """The first metric counts the rows, on from 1000 in test."""
  spans = ((40, 46), (80, 90))
  smd = source == 'smd'
  names = ('machine-1-6', 'machine-3-11') if smd else ('omi-2', 'omi-10')
  top = root / (f'{source}/ServerMachineDataset' if smd else source)
  types = ['dataset,anomaly_segment,anomaly_type']
  for name in names:
    for part, offset in (('train', 0), ('test', 1000)):
      table = np.full((rows, 38 if smd else 19), 0.25)
      table[:, 0] = offset + np.arange(rows)
      csv(top / part / f'{name}.txt', table)
    labels = [[int(any(b <= i < e for b, e in spans))] for i in range(rows)]
    csv(top / 'test_label' / f'{name}.txt', labels)
    segments = [f'{b}-{e}:1,9' for b, e in spans]
    put(
      top / 'interpretation_label' / f'{name}.txt', '\n'.join(segments).encode()
    )
    types += [f'{name},{b}-{e - 1},temporal' for b, e in spans]
  put(root / source / 'anomaly_type.csv', '\n'.join(types).encode())


def csv(path, lines, header=()) -> None:
  lines = [header, *lines] if len(header) else lines
  text = [','.join(map(str, line)) for line in lines]
  put(path, ('\r\n'.join(text) + '\r\n').encode())


def write_nsl_kdd(root) -> None:
  """Durations count: from 0 in the training file, from 1000 in the test file.

  neptune is in both files, smurf in both but rare in the first, mscan is new;
  the last row of the test file repeats one of the training file.
  """
  counts = (
    {'normal': 40, 'neptune': 20, 'smurf': 2},
    {'normal': 30, 'neptune': 10, 'smurf': 20, 'mscan': 20},
  )
  for part, path in enumerate((nsl_kdd.TRAIN, nsl_kdd.TEST)):
    kinds = [kind for kind, n in counts[part].items() for _ in range(n)]
    order = np.random.default_rng(part).permutation(len(kinds))
    lines = [
      connection(1000 * part + i, ('http', 'ftp')[i % 2], kinds[j])
      for i, j in enumerate(order)
    ]
    lines.append(connection(0, 'http', 'mscan') if part else lines[0])
    csv(root / 'nsl_kdd' / path, lines)


def connection(duration, service, kind):
  tail = [0.25] * (len(nsl_kdd.COLUMNS) - 4)
  protocol = ('tcp', 'udp')[duration % 2]
  return [duration, protocol, service, 'SF', *tail, kind, 21]


def write_creditcard(root, rows=120) -> None:
  """A payment every 300 s, V1 counting them, every 8th a fraud."""
  lines = [
    [300 * i, i, *([0.5] * 27), 9.99, f'"{int(i % 8 == 7)}"']
    for i in range(rows)
  ]
  lines.append([300 * rows, 3, *([0.5] * 27), 9.99, '"0"'])  # repeats row 3
  header = [f'"{name}"' for name in creditcard._HEADER]
  csv(root / 'creditcard' / creditcard._SAMPLE, lines, header)


def write_sales(root) -> None:
  """Unit prices 10 and 20, uninspected; honest at 3 times, frauds at ten."""
  lines = []
  for product, price in (('p2', 10), ('p10', 20)):
    for i in range(1, 31):
      lines.append(['v1', product, i, i * price, 'unkn'])
      lines.append([f'v{i % 2}', product, 100 + i, (100 + i) * price * 3, 'ok'])
    for i in range(1, 5):
      lines.append([f'v{i % 2}', product, i, i * price * 10, 'fraud'])
    lines.append(['v1', product, '', 55, 'ok'])
  csv(root / 'sales_fraud' / sales_fraud._FILE, lines, sales_fraud._HEADER)


def write_mitbih(root, minutes=7, names=('100', '207')) -> None:
  """A beat a second, every ninth a V; the signal rises by 1 uV a sample."""
  folder = root / 'mitbih'
  folder.mkdir()
  samples = minutes * 60 * mitbih.RATE
  ramp = np.arange(samples) % 1000 / 500 - 1
  peaks = np.arange(mitbih.RATE, samples, mitbih.RATE)
  for name in names:
    wfdb.wrsamp(
      name, fs=mitbih.RATE, units=['mV', 'mV'], sig_name=['MLII', 'V5'],
      p_signal=np.stack([ramp, -ramp], 1), fmt=['212', '212'],
      adc_gain=[200, 200], baseline=[1024, 1024], write_dir=str(folder),
    )  # fmt: skip
    symbols = ['V' if i % 9 == 8 else 'N' for i in range(len(peaks))]
    symbols[0] = '+'
    wfdb.wrann(
      name, 'atr', peaks, np.array(symbols), write_dir=str(folder), fs=360
    )


def write_cnc_mill(root) -> None:
  """X1_ActualVelocity is 100 * experiment + row; experiments 2 and 4 worn."""
  worn = lambda i: 'worn' if i in (2, 4) else 'unworn'
  lines = [[i, 'wax', 3, 4, worn(i), 'yes', ''] for i in range(1, 6)]
  csv(root / 'cnc_mill' / 'train.csv', lines, cnc_mill._TRAIN)
  for i in range(1, 6):
    rows = []
    for row in range(60):
      values = dict.fromkeys(cnc_mill._HEADER, '1.50E+00')
      values['X1_ActualVelocity'] = 100 * i + row
      values['X1_ActualPosition'] = 198 if row < 2 else 5
      values['M1_CURRENT_FEEDRATE'] = 50 if row == 3 else 3
      values['Machining_Process'] = 'end' if row % 2 else 'End'
      if row >= 40:
        values['Machining_Process'] = 'Prep'
      rows.append(values.values())
    name = f'cnc_mill/experiment_{i:02d}.csv'
    csv(root / name, rows, cnc_mill._HEADER)


def write_smap_msl(root, rows=120) -> None:
  """The telemetry counts, on from 1000 in test."""
  lines = []
  for name, craft, spans in (
    ('P-2', 'SMAP', [[40, 45]]),
    ('P-2', 'SMAP', [[80, 89]]),
    ('A-10', 'SMAP', [[40, 45], [80, 89]]),
    ('M-1', 'MSL', [[100, 110]]),
    ('Z-9', 'SMAP', [[1, 2]]),  # its series are not there
  ):
    kinds = ', '.join(['point', 'contextual'][: len(spans)])
    lines.append([name, craft, f'"{json.dumps(spans)}"', f'"[{kinds}]"', rows])
    for part, offset in (('train', 0.0), ('test', 1000.0)):
      x = np.zeros((rows, smap_msl._WIDTHS[craft]))
      x[:, 0] = offset + np.arange(rows)
      if name != 'Z-9':
        path = root / 'smap_msl' / part / f'{name}.npy'
        put(path, b'')
        np.save(path, x)
  csv(root / 'smap_msl' / smap_msl._LABELS, lines, smap_msl._HEADER)


def write_adbench(root) -> None:
  """Columns count the rows; row 3 is there twice, row 5 with both labels."""
  for name, width in (('1_small', 2), ('29_Pima', 5)):
    count = np.r_[np.arange(60), 3, 5]
    y = np.r_[np.arange(60) >= 50, False, True].astype(int)
    x = np.repeat(count[:, None], width, 1).astype(np.uint8)
    npz(root / 'adbench' / 'Classical' / f'{name}.npz', X=x, y=y)


def write_omniglot(root, characters=11) -> None:
  """Character c, drawing d: c + 1 rows and d + 1 columns of ink."""
  for offset, part in ((0, 'background'), (20, 'evaluation')):
    paper = np.ones((characters, 20, 105, 105), bool)
    for c in range(characters):
      for d in range(20):
        paper[c, d, : offset + c + 1, : d + 1] = False
    npz(root / 'omniglot' / f'images_{part}.npz', images=paper)


def oddbench_table(seed=0, width=4, rows=50, **changes):
  """The arrays of one file; changes replace them, None leaves one out."""
  rng = np.random.default_rng(seed)
  arrays = {
    'train': rng.normal(size=(rows, width)).astype(np.float32),
    'train_labels': np.zeros(rows, np.int8),
    'test': rng.normal(size=(30, width)).astype(np.float32),
    'test_labels': (np.arange(30) >= 20).astype(np.int8),
    'feature_names': np.array(
      [f'{"abcdefgh"[seed]}w{i}' for i in range(width)]
    ),
    'tags': np.array(['oddbench', 'origin_Other']),
    'llm_keywords': np.array(['anomaly']),
    'origin': np.array('Other'),
    'github_link': np.array(f'https://github.com/o{seed}/r/blob/master/a.csv'),
    'anomaly_fraction': np.array(0.01),
    'indicator_feature': np.array('Status'),
  } | changes
  return {key: value for key, value in arrays.items() if value is not None}


def write_oddbench(root) -> None:
  for seed, name in enumerate(('First', 'Second')):
    npz(root / 'oddbench' / f'{name}.npz', **oddbench_table(seed, 3 + seed))


def noise(t):
  rng = np.random.default_rng(len(t))
  return np.sin(t / 7) + rng.standard_normal(len(t))


WRITERS = {
  'adbench': write_adbench,
  'asd': lambda root: write_servers(root, 'asd'),
  'cnc_mill': write_cnc_mill,
  'creditcard': write_creditcard,
  'cwru': lambda root: write_cwru(root, noise),
  'mitbih': write_mitbih,
  'nsl_kdd': write_nsl_kdd,
  'oddbench': write_oddbench,
  'omniglot': write_omniglot,
  'sales_fraud': write_sales,
  'skab': write_skab,
  'smap_msl': write_smap_msl,
  'smd': lambda root: write_servers(root, 'smd'),
}
