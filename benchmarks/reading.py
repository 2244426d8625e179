"""Public tables written as five programs do, and read back.

  METAAD_DATA_DIR=... python -m benchmarks.reading [tables] [files]

The first part prints for each program how many columns came back with the right
kind and values, how many that did not were named in a note or refused, and
lists the rest: wrong answers without a word. It also prints which share of real
features the reader sets aside unasked, in whole tables and in 20 rows of them.
The second part reads tables with ids, times, counters and labels left in: the
false-alarm rate, and the AUROC beside that of the plain table; and how often
the same table, given to the detector as a frame, has the same columns.
"""

import collections
import os
import pathlib
import sys
import tempfile
from typing import Any
import warnings

import numpy as np
import pandas as pd
import sklearn.metrics

from metaad_jax.base import DataError
from metaad_jax.data import cells, user_files

ROWS = 200
WORDS = (
  'north', 'São Paulo', 'type A', 'Müller & Co', '12B', 'a, b', 'x; y',
  'on hold', 'Ost', 'grün', "d'Or", 'no data yet', 'K-7', 'left/right', 'Ä',
)  # fmt: skip
UNITS = ('C', 'bar', '1/min', 'mm', '%', 'kW', 'm/s')


def tables(root: pathlib.Path, count: int):
  """(name, frame) of a spread of the raw tables; typed by what is known."""
  paths = sorted((root / 'rawtables').glob('*.npz'))
  for path in paths[:: max(1, len(paths) // count)][:count]:
    held = np.load(path, allow_pickle=False)
    rng = np.random.default_rng(len(held['x']))
    columns: dict[str, pd.Series] = {}
    column: Any
    for name, kind, x in zip(
      held['columns'], held['kinds'], held['x'][:ROWS].T, strict=True
    ):
      name = ' '.join(str(name).split()) or 'x'
      lost = np.isnan(x)
      cells_of = list(zip(x, lost, strict=True))
      if lost.all() or name in columns:
        continue
      if kind == 1:
        words = rng.permutation(WORDS).tolist()
        words = [*words, *(f'level {i}' for i in range(int(np.nanmax(x))))]
        column = [None if n else words[int(v)] for v, n in cells_of]
      elif kind == 2:
        column = [None if n else bool(v) for v, n in cells_of]
      elif kind == 3:
        column = pd.to_datetime(pd.Series(x.astype(float)), unit='D')
      else:
        column = [np.nan if n else float(str(v)) for v, n in cells_of]
      columns[name] = pd.Series(column)
    if len(columns) > 1:
      yield path.stem, pd.DataFrame(columns)


def _text(frame, number, empty, date='%Y-%m-%d', truth=('True', 'False')):
  """A frame of text cells."""

  def cell(value):
    if value is None or value is pd.NaT or value != value:
      return empty
    if isinstance(value, bool):
      return truth[not value]
    if isinstance(value, pd.Timestamp):
      return value.strftime(date)
    return number(value) if isinstance(value, float) else value

  return frame.astype(object).map(cell)


def _plain(value):
  return str(int(value)) if value == int(value) else repr(value)


def _grouped(value):
  return f'{int(value):,}' if value == int(value) else f'{value:,}'


def _german(value):
  swapped = _grouped(value) if abs(value) < 1e15 else repr(value)
  return swapped.translate({44: 46, 46: 44})


def pandas(frame, turn):
  return frame.to_csv(index=bool(turn % 2)).encode()


def excel(frame, turn):
  number = _german if turn % 2 else lambda v: _plain(v).replace('.', ',')
  text = _text(frame, number, '', '%d.%m.%Y', ('WAHR', 'FALSCH'))
  text = text.to_csv(index=False, sep=';', lineterminator='\r\n')
  return text.encode(*('cp1252', 'replace') if turn % 3 else ('utf-8-sig',))


def tabs(frame, turn):
  return _text(frame, _grouped, 'NA').to_csv(index=False, sep='\t').encode()


def logger(frame, turn):
  text = _text(frame, _plain, '', '%Y-%m-%d 00:00:00')
  numeric = [t == np.float64 for t in frame.dtypes]
  units = [UNITS[i % 7] if n else '' for i, n in enumerate(numeric)]
  if any(numeric):
    text = pd.concat([pd.DataFrame([units], columns=text.columns), text])
  above = f'Logger 7 export\n\n# site 3\n# serial {turn}\n'
  return (above + text.to_csv(index=False) + '# end of file\n').encode()


def r(frame, turn):
  text = _text(
    frame, _plain, '-' if turn % 2 else 'NA', truth=('TRUE', 'FALSE')
  )
  text.index = [str(i + 1) for i in range(len(text))]
  if turn % 2:  # write.table
    lines = text.to_csv(sep=' ', quoting=2).split('\n')
    return '\n'.join([lines[0][3:], *lines[1:]]).encode()
  return text.to_csv(quoting=2).encode()


PROGRAMS = (pandas, excel, tabs, logger, r)


def right(column: pd.Series, typed: pd.Series) -> bool:
  """Whether what was read is what was written."""
  lost = column.isna().to_numpy()
  if len(typed) != len(column) or (typed.isna().to_numpy() != lost).any():
    return False
  if lost.all():
    return True
  words = cells.kind_of(typed) == 'category'
  told = column[~lost].tolist()
  if isinstance(told[0], str):
    a, b = map(cells.key, told), map(cells.key, typed[~lost])
    return list(a) == list(b) if words else False
  if isinstance(told[0], bool):
    truth = [cells.key(v) in ('true', '1', 'wahr') for v in typed[~lost]]
    return truth == told
  if words:
    return False
  if isinstance(told[0], pd.Timestamp):
    told = [stamp.timestamp() for stamp in told]
  return bool(np.allclose(typed[~lost], told, rtol=1e-9, atol=0))


def sweep(root: pathlib.Path, count: int) -> None:
  """The first part."""
  seen: collections.Counter = collections.Counter()
  aside: collections.Counter = collections.Counter()
  wrong: list[tuple] = []
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'a.csv')
    for turn, (name, frame) in enumerate(tables(root, count)):
      for program in PROGRAMS:
        for column, verdict, why in _read_back(path, frame, program, turn):
          seen[program, verdict] += 1
          if verdict != 'right':
            wrong.append((program.__name__, name, verdict, column, why))
      for size, rows in (('all', len(frame)), ('20', 20)):
        part = frame[:: max(1, len(frame) // rows)][:rows]
        pathlib.Path(path).write_bytes(pandas(part, 0))
        try:
          report = user_files.read(path).columns
        except DataError as error:
          wrong.append(('roles', name, rows, str(error)[len(path) :]))
          continue
        for c in report:
          aside[size, c.role] += c.kind != 'time'
          if c.kind != 'time' and c.role != 'feature':
            wrong.append(('aside', name, size, f'{c.name!r} {c.role} {c.why}'))
  for line in wrong:
    print(*line, sep=' | ')
  for program in PROGRAMS:
    n = {v: seen[program, v] for v in ('right', 'told', 'wrong')}
    print(program.__name__, n, f'right {n["right"] / sum(n.values()):.2%}')
  for size in ('all', '20'):
    rest = {r: v for (s, r), v in aside.items() if s == size}
    share = 1 - rest['feature'] / sum(rest.values())
    print(size, rest, f'set aside {share:.2%}')


def _read_back(path, frame, program, turn):
  """(column, 'right' | 'told' | 'wrong', why) of what a program wrote."""
  pathlib.Path(path).write_bytes(program(frame, turn))
  if program is excel and turn % 3:
    latin = lambda v: v.encode('cp1252', 'replace').decode('cp1252')
    frame = frame.map(lambda v: latin(v) if isinstance(v, str) else v)
  try:
    samples = user_files.read(path, label='none', features=tuple(frame.columns))
  except DataError as error:
    return [(c, 'told', str(error)[len(path) :]) for c in frame]
  told = lambda c: any(repr(c) in note for note in samples.notes)
  same = lambda c: c in samples.rows and right(frame[c], samples.rows[c])
  return [
    (c, 'right' if same(c) else 'told' if told(c) else 'wrong', '')
    for c in frame
  ]


def beside(n, first, bad, turn, rng):
  """Columns that are no features, for n rows of which the first is `first`."""
  at = first + np.arange(n)
  when = pd.Timestamp('2024-03-01') + pd.to_timedelta(at * 7, 'min')
  words = np.where(bad, 'attack', 'normal')
  hex_of = lambda: rng.integers(16**8, size=n)
  return (
    {'id': at, 'timestamp': when, 'label': bad.astype(int)},
    {'': at, 'epoch': when.as_unit('s').astype('int64'), 'Class': words},
    {
      'operating_hours': 1000 + at * 0.7 + rng.random(n) / 2,
      'year': when.year, 'month': when.month, 'day': when.day,
      'hour': when.hour, 'is_anomaly': bad,
    },
    {
      'key': [f'{v:08x}-{v % 9999:04d}' for v in hex_of()],
      'weekday': when.day_name(), 'status': words,
    },
    {
      'c17': 5000 + 9 * at + rng.integers(1, 9, n), 'target': bad.astype(int),
      'day': when.strftime('%Y%m%d'),
    },
  )[turn % 5]  # fmt: skip


def files(root: pathlib.Path, count: int) -> None:
  """The second part."""
  from metaad_jax import MetaAnomalyDetector

  rate, found, alike = 0.05, [], []
  paths = sorted((root / 'oddbench').glob('*.npz'))
  for turn, path in enumerate(paths[:: len(paths) // count][:count]):
    held = np.load(path, allow_pickle=False)
    rng = np.random.default_rng(turn)
    normal = rng.permutation(held['train'])[:, :20]
    bad = held['test'][held['test_labels'].ravel() == 1][:50, :20]
    query = np.concatenate([normal[20:170], bad])
    is_bad = np.arange(len(query)) >= len(normal[20:170])
    names = [f's{i}' for i in range(normal.shape[1])]
    judged: list[tuple] = []
    frames: list[pd.DataFrame] = []
    with tempfile.TemporaryDirectory() as folder:
      for plain in (True, False):
        known: Any = None
        samples: Any = None
        parts = ((normal[:20], np.zeros(20, bool), 0), (query, is_bad, 20))
        for x, y, first in parts:
          frame = pd.DataFrame(x, columns=names)
          more = {} if plain else beside(len(x), first, y, turn, rng)
          text = pd.concat([pd.DataFrame(more), frame], axis=1)
          frames.append(text)
          text.to_csv(f'{folder}/a.csv', index=False)
          known, samples = (
            samples,
            user_files.read(f'{folder}/a.csv', like=samples),
          )
        both = [n for n in known.rows if n in samples.rows]
        if judged and both == judged[0][0]:
          judged.append(judged[0])
          continue
        by = MetaAnomalyDetector(false_alarm_rate=rate).fit(known.rows[both])
        scores = -by.score_samples(samples.rows[both])
        alarms = by.predict(samples.rows[both])[~is_bad] == -1
        area = sklearn.metrics.roc_auc_score(is_bad, scores)
        judged.append((both, area, alarms.mean()))
    with warnings.catch_warnings():
      warnings.simplefilter('ignore', UserWarning)  # the names of what is left
      by = MetaAnomalyDetector(false_alarm_rate=rate).fit(frames[2])
      by.encode(frames[3])
    alike.append(set(by._fitted.columns.names) == set(known.rows))
    found.append([v for _, *pair in judged for v in pair])
    mark = '' if judged[0] is judged[1] else str(set(both) ^ set(judged[0][0]))
    print(path.stem, *np.round(found[-1], 3), mark, flush=True)
  mean = np.mean(found, 0)
  print(
    f'{len(found)} files: AUROC {mean[2]:.4f}, without these columns '
    f'{mean[0]:.4f}; false alarms {mean[3] / rate:.2f} of the promise; as '
    f'frames with the same columns {sum(alike)}'
  )


if __name__ == '__main__':
  counts = [int(x) for x in sys.argv[1:]] or [300, 40]
  where = pathlib.Path(os.environ['METAAD_DATA_DIR'])
  if counts[0]:
    sweep(where, counts[0])
  if counts[1]:
    files(where, counts[1])
