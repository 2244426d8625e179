"""A user's files judged: adapted to one, the other scored, with reasons.

`adapt` makes a judge of the known rows, `save` and `load` keep it in a model
file, `judge` scores a file, `files` writes the findings for spreadsheets and
for programs.
"""

from collections.abc import Callable, Sequence
import json
import os
import shutil
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from metaad_jax import storage
from metaad_jax.base import DataError
from metaad_jax.data import cells, text_files
from metaad_jax.data.roles import Column
from metaad_jax.data.user_files import Samples
from metaad_jax.detector import encoding, estimator, explanations, sheets
from metaad_jax.detector import reasons as reasons_lib
from metaad_jax.scores import metrics

_AT_LEAST, _AT_MOST = 5, 50  # rows that get reasons: the alarms, and others


class Reading(NamedTuple):
  """How the files of an entity are read; see `user_files.read`."""

  label: str = ''
  anomaly_label: str = ''
  ignore: Sequence[str] = ()
  features: Sequence[str] = ()
  time: str = ''
  id: str = ''
  window: int = 0


AS_FOUND = Reading()


class Judge(NamedTuple):
  """A detector that was adapted to a file."""

  path: str
  support: Samples  # of a table, the columns that are looked at
  labels: np.ndarray  # [K] 0 = normal, 1 = anomaly, -1 = unlabelled
  detector: estimator.MetaAnomalyDetector
  reading: Reading = AS_FOUND

  @property
  def columns(self) -> tuple[str, ...]:
    """That are looked at; () for windows."""
    return tuple(getattr(self.support.rows, 'columns', ()))

  @property
  def run_dir(self) -> str:
    return self.detector.run_dir

  @property
  def rate(self) -> float:
    """Of false alarms that decisions are made at."""
    return float(self.detector.false_alarm_rate)

  @property
  def known(self) -> np.ndarray:
    """[K] scores of the known rows, the normals each without itself."""
    return self.detector.decision_scores_[np.argsort(_order(self.labels))]

  @property
  def threshold(self) -> float | None:
    """A score above is abnormal; None of a run that is not calibrated."""
    return self.detector.threshold_ if self.detector.calibrated else None

  def encode(self, rows: Any, path: str) -> encoding.Encoded:
    """Rows of a file as the detector takes them; a DataError says what not."""
    if isinstance(rows, pd.DataFrame):
      rows = rows[list(self.columns)]
    rows = _shaped(rows, self.run_dir, path)
    return self.detector.encode(_typed(rows, self.support))

  def explain(self, rows: encoding.Encoded, judgement: Any) -> list[Any]:
    """Reasons that name the support's rows as its file numbers them."""
    why, order = self.detector.explain(rows, judgement), _order(self.labels)
    return [e._replace(numbers=order[e.numbers]) for e in why]

  def encode_numbers(self, row: Sequence[float]) -> encoding.Encoded:
    """One row of finite numbers, in the order of `columns`."""
    x = _shaped(np.array([row], np.float64), self.run_dir, 'the row')
    return encoding.Encoded(x, encoding.Columns(x.shape[1:]))


class Judged(NamedTuple):
  """What was found in a file of n rows.

  `scores`, `p_values` and `outliers` are [n], see `fitted.Judgement`;
  `explanations` are those of the most abnormal rows, 5 to 50, by number.
  """

  judge: Judge
  path: str
  query: Samples
  scores: np.ndarray
  p_values: np.ndarray
  outliers: np.ndarray
  explanations: dict[int, explanations.Explanation]

  def order(self) -> np.ndarray:
    """[n] numbers of the rows, the most abnormal first."""
    return np.argsort(-self.scores, kind='stable')


def adapt(
  run_dir: str,
  path: str,
  support: Samples,
  *,
  rate: float,
  columns: Sequence[str] | None = None,
  reading: Reading = AS_FOUND,
) -> Judge:
  """Adapts a run to the rows of a file.

  Args:
    run_dir: see `estimator.MetaAnomalyDetector`.
    path: of the file, for messages.
    support: what it holds; without labels all rows are normal.
    rate: the share of normal rows that may be called abnormal.
    columns: to look at; all if None.
    reading: of the file.

  Raises:
    DataError: for rows that make no sense, in one line.
  """
  labels = support.labels
  if labels is None:
    labels = np.zeros(len(support.rows), np.int64)
  if not (labels != 1).any():
    raise DataError(f'{path} has no normal row (label 0): give at least one')
  if columns is not None:
    support = support._replace(rows=support.rows[list(columns)])
  detector = estimator.MetaAnomalyDetector(
    run_dir, false_alarm_rate=rate, rate=support.rate
  )
  rows = _shaped(support.rows, run_dir, path)
  try:
    order = _order(labels)
    parts = np.split(order, [(labels >= 0).sum()])
    checked, rest = (
      _typed(_take(rows, part), support) if len(part) else None
      for part in parts
    )
    y = None if checked is None else labels[parts[0]] == 1
    detector.fit(checked, y, unlabelled=rest)
  except DataError as error:
    raise DataError(f'{path}: {error}') from error
  return Judge(path, support, labels, detector, reading)


def save(by: Judge, path: str) -> None:
  """Writes a model file that `load` and `MetaAnomalyDetector.load` read.

  Raises:
    DataError: if it cannot be written.
  """
  support = by.support
  about = {
    'name': os.path.basename(by.path),
    'header': support.header,
    'dialect': support.dialect,
    'columns': support.columns,
    'labels': by.labels.tolist(),
    'reading': by.reading._asdict(),
  }
  by.detector.save(path, {'file': about})


def load(path: str) -> Judge:
  """Reads a model file: of `save`, or of `MetaAnomalyDetector.save`.

  Raises:
    DataError: if it makes no sense.
  """
  detector = estimator.MetaAnomalyDetector.load(path)
  fitted, names = detector._fitted, detector._fitted.columns.names
  try:
    about = storage.load(path)[1].get('file', {})
    dialect = about.get('dialect')
    labels = np.array(about.get('labels', fitted.y), np.int64)
    order = _order(labels)
    if not np.array_equal(labels[order], fitted.y):
      raise ValueError('the labels are not those of the detector')
    rows = _frame(fitted) if fitted.x.ndim == 2 else fitted.x
    support = Samples(
      _take(rows, np.argsort(order)),
      labels,
      fitted.options.rate,
      tuple(map(str, about.get('header', names))),
      columns=tuple(Column(*column) for column in about.get('columns', ())),
      dialect=dialect and text_files.Dialect(*map(str, dialect)),
      decimal=fitted.columns.decimal,
    )
    read = about.get('reading', {})
    kinds: dict[str, Callable[[Any], Any]] = {
      'ignore': _names, 'features': _names, 'window': int,
    }  # fmt: skip
    reading = Reading(
      **{name: kinds.get(name, str)(value) for name, value in read.items()}
    )
    name = str(about.get('name', os.path.basename(path)))
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise DataError(
      f'{path} does not say how its files are read ({error!r}): fit it anew'
    ) from error
  return Judge(name, support, labels, detector, reading)


def _names(names):
  return tuple(map(str, names))


def _frame(fitted):
  """The rows of a table as they were read."""
  frame = pd.DataFrame(
    fitted.x, columns=pd.Index(fitted.names[: fitted.x.shape[1]])
  )
  for name, levels in fitted.columns.levels.items():
    codes = frame[name].fillna(-1).astype(int)
    codes = codes.where(codes < len(levels), -1)
    frame[name] = pd.Categorical.from_codes(codes, list(levels))
  return frame


def _order(labels):
  """[K] rows in the order that the detector has them: unlabelled ones last."""
  return np.argsort(labels < 0, kind='stable')


def _typed(rows, support):
  """Rows as the detector takes what was read already."""
  if not isinstance(rows, pd.DataFrame):
    return rows
  return Samples(
    rows, None, None, (), columns=support.columns, decimal=support.decimal
  )


def _take(rows, which):
  return rows.iloc[which] if isinstance(rows, pd.DataFrame) else rows[which]


def _shaped(rows, run_dir, path):
  """Rows as a run wants them: frames for tables, arrays for all others."""
  shape: Any = estimator.load_run(run_dir).layout.shape
  if not shape:
    return rows
  if isinstance(rows, pd.DataFrame):
    for name in rows.columns:
      if cells.kind_of(rows[name]) == 'category':
        raise DataError(
          f'{path}: column {name!r} holds words, the run takes numbers: '
          '--ignore it'
        )
    rows = rows.to_numpy(np.float64)
  given = rows.shape[1:]
  same = given == tuple(shape) if len(given) > 1 else given == (np.prod(shape),)
  if not same:
    sizes = (' x '.join(map(str, size)) for size in (given, shape))
    raise DataError(
      f'{path}: a row is {next(sizes)}, the run was trained on rows of '
      f'{next(sizes)}: cut the signal into such windows'
    )
  return rows.reshape(len(rows), *shape)


def common(
  support: Samples, query: Samples, paths: tuple[str, str]
) -> tuple[tuple[str, ...] | None, str]:
  """The columns that both files have, and a line on the others.

  Names come in the support's order (None for windows), '' if nothing is
  missing; it is a DataError if there is no common column, or one file holds
  windows.
  """
  frames = [isinstance(s.rows, pd.DataFrame) for s in (support, query)]
  if frames[0] != frames[1]:
    raise DataError(f'{paths[0]} and {paths[1]}: one holds windows, one rows')
  if not frames[0]:
    if support.rate != query.rate:
      rates = [f'{s.rate:g} Hz' if s.rate else 'none' for s in (support, query)]
      raise DataError(
        f'{paths[0]} has a sampling rate of {rates[0]}, {paths[1]} of '
        f'{rates[1]}: resample one, or give both as .wav'
      )
    return None, ''
  known, new = list(support.rows.columns), list(query.rows.columns)
  both = tuple(name for name in known if name in new)
  unnamed = all(name.startswith('column ') for name in known)
  if not both or (unnamed and len(known) != len(new)):
    raise DataError(
      f'{paths[0]} has {len(known)} columns, {_listed(known)}, {paths[1]} has '
      f'{len(new)}, {_listed(new)}: name them alike'
    )
  lacking = [
    f'{path} lacks {_listed([n for n in others if n not in both])}'
    for path, others in zip(paths, (new, known), strict=True)
    if len(others) > len(both)
  ]
  return both, f'{"; ".join(lacking)}: left out' if lacking else ''


def _listed(names, most=5):
  more = f' and {len(names) - most} more' if len(names) > most else ''
  return ', '.join(map(repr, names[:most])) + more


def judge(
  by: Judge,
  path: str,
  query: Samples,
  explained: Sequence[int] | int = _AT_MOST,
) -> Judged:
  """Scores what a file holds, and says why its most abnormal rows are so.

  Args:
    by: the judge.
    path: of the file, for messages.
    query: what it holds.
    explained: rows that get reasons, by number; or of how many at most.

  Raises:
    DataError: for rows that make no sense, in one line.
  """
  try:
    rows = by.encode(query.rows, path)
    judgement = by.detector.judge(rows)
    order = np.argsort(-judgement.scores, kind='stable')
    if isinstance(explained, int):
      count = np.clip(judgement.outliers.sum(), _AT_LEAST, explained)
      worst = order[:count]
    elif max(explained) < len(order):
      worst = np.array(explained)
    else:
      raise DataError(
        f'there is no row {max(explained)}: the last is '
        f'{len(order) - 1}, the first 0'
      )
    why = by.explain(rows.take(worst), judgement.take(worst))
  except DataError as error:
    raise DataError(f'{path}: {error}') from error
  reasons = dict(zip(map(int, worst), why, strict=True))
  return Judged(by, path, query, *judgement, reasons)


def reasons(explanation: explanations.Explanation) -> list[dict[str, Any]]:
  """Reasons as JSON holds them; a missing value is null."""
  told = [reason._asdict() for reason in reasons_lib.reasons(explanation)]
  for reason in told:
    reason['share'] = round(reason['share'], 6)
    if reason['value'] != reason['value']:
      reason['value'] = None
  return told


def decision(outlier: bool) -> str:
  return 'abnormal' if outlier else 'normal'


def summary(judged: Judged) -> str:
  """One or two lines for the terminal."""
  by = judged.judge
  worst = ', '.join(str(row) for row in judged.order()[:5])
  line = (
    f'{len(judged.scores)} rows scored from {(by.labels == 0).sum()} normals '
    f'and {(by.labels == 1).sum()} anomalies; the most abnormal rows: {worst}'
  )
  if by.threshold is None:
    return (
      f'{line}\n{by.run_dir} is not calibrated: no p-values and no decisions; '
      f'see python -m experiments.calibrate --help'
    )
  line += (
    f'; {judged.outliers.sum()} are called abnormal at a false-alarm rate of '
    f'{by.rate:g}'
  )
  labels = judged.query.labels
  if labels is None or not {0, 1} <= set(labels):
    return line
  normal, bad = labels == 0, labels == 1
  known = normal | bad
  auroc = float(metrics.auroc(labels[known], judged.scores[known]))
  return (
    f'{line}\nagainst the labels in {judged.path}: AUROC {auroc:.3f}, '
    f'{judged.outliers[bad].mean():.0%} of {bad.sum()} anomalies found, '
    f'{judged.outliers[normal].mean():.1%} of {normal.sum()} normals called '
    'abnormal'
  )


def keys(judged: Judged) -> pd.DataFrame:
  """[n] the ids and times of the judged rows; of a window, its first row's."""
  found = judged.query.keys
  return found if len(found) == len(judged.scores) else pd.DataFrame()


def _csv(judged: Judged) -> str:
  """A line for each row in the file's order: ids, times, score, reasons."""
  count, promised = len(judged.scores), judged.judge.threshold is not None
  why = {row: reasons_lib.reasons(e) for row, e in judged.explanations.items()}
  window = judged.judge.reading.window
  frame = pd.DataFrame({
    'row': np.arange(count),
    'score': [f'{score:.6g}' for score in judged.scores],
    'rank': 1 + np.argsort(judged.order()),
    'p_value': [f'{p:.4g}' if promised else '' for p in judged.p_values],
    'decision': [decision(o) if promised else '' for o in judged.outliers],
    'reasons': [
      '; '.join(r.text for r in why.get(row, ())) for row in range(count)
    ],
  })  # fmt: skip
  if window:
    frame.insert(1, 'last_sample', (frame['row'] + 1) * window - 1)
    frame.insert(1, 'first_sample', frame['row'] * window)
  return sheets.with_keys(frame, keys(judged), 1 + 2 * bool(window))


def _json(judged: Judged) -> dict[str, Any]:
  """The same, and what was adapted on, as JSON holds it."""
  by = judged.judge
  rows = []
  for i, score in enumerate(judged.scores):
    row: dict[str, Any] = {'row': i, 'score': float(score)}
    if by.threshold is not None:
      row['p_value'] = float(judged.p_values[i])
      row['decision'] = decision(judged.outliers[i])
    if (why := judged.explanations.get(i)) is not None:
      row |= {'reasons': reasons(why), 'text': reasons_lib.text(why)}
    rows.append(row)
  columns = {
    'support': [c._asdict() for c in by.support.columns],
    'query': [c._asdict() for c in judged.query.columns],
  }
  kinds = {'normal': 0, 'anomalies': 1, 'unlabelled': -1}
  counts = {name: int((by.labels == k).sum()) for name, k in kinds.items()}
  file = {'file': os.path.basename(by.path), 'columns': list(by.columns)}
  return {
    'schema': 1,
    'run': by.run_dir,
    'support': file | counts,
    'query': os.path.basename(judged.path),
    'false_alarm_rate': by.rate,
    'threshold': by.threshold,
    'columns': columns,
    'rows': rows,
  }


def files(judged: Judged) -> dict[str, bytes]:
  """scores.csv and scores.json, to be saved."""
  content = json.dumps(_json(judged), indent=1, allow_nan=False)
  return {'scores.csv': _csv(judged).encode(), 'scores.json': content.encode()}


def save_files(folder: str, files: dict[str, bytes]) -> list[str]:
  """Writes files by name into a folder, made if need be; returns their paths.

  Each is whole or not at all; a new folder goes with a failure, a DataError.
  """
  new = not os.path.isdir(folder)
  paths = [os.path.join(folder, name) for name in files]
  try:
    for path, content in zip(paths, files.values(), strict=True):
      storage.write_bytes(path, content)
  except DataError:
    if new:
      shutil.rmtree(folder, ignore_errors=True)
    raise
  return paths
