"""A user's files judged: adapted to one, the other scored, with reasons.

`adapt` makes a judge of the known rows, `judge` scores a file, `files` writes
the findings for spreadsheets and for programs.
"""

import csv
import io
import json
import math
import os
from typing import Any, NamedTuple

import numpy as np

from metaad_jax import storage
from metaad_jax.base import DataError
from metaad_jax.data import user_frames
from metaad_jax.data.user_frames import Frame, Samples
from metaad_jax.detector import encoding, estimator, explanations, fitted
from metaad_jax.detector import reasons as reasons_lib
from metaad_jax.scores import metrics

_EXPLAINED = 50  # the most abnormal rows, at most, that get reasons
_AT_LEAST = 5  # of them, however normal they are


class Judge(NamedTuple):
  """A detector that was adapted to a file.

  Attributes:
    path: the file of known rows.
    labels: [K] 0 = normal, 1 = anomaly, -1 = unlabelled.
    columns: names of the columns that are looked at; () for windows.
    words: those of them that hold words.
    header: all names in the file.
    detector: fitted.
  """

  path: str
  labels: np.ndarray
  columns: tuple[str, ...]
  words: frozenset[str]
  header: tuple[str, ...]
  detector: estimator.MetaAnomalyDetector

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
    return self.detector.decision_scores_

  def encode(self, rows: Any, path: str) -> encoding.Encoded:
    """Rows of a file as the detector takes them.

    Raises:
      DataError: if they make no sense, in one line.
    """
    if isinstance(rows, Frame):
      rows = rows.select(self.columns)
    return self.detector.encode(_shaped(rows, self.run_dir, path))

  @property
  def threshold(self) -> float | None:
    """A score above is abnormal; None of a run that is not calibrated."""
    return self.detector.threshold_ if self.detector.calibrated else None


class Judged(NamedTuple):
  """What was found in a file of n rows.

  Attributes:
    judge: by which.
    path: the file.
    scores, p_values, outliers: see `estimator.Judgement`.
    explanations: row -> why, for all alarms and the most abnormal others, up to
      50.
    labels: [n] as `Judge.labels`, if the file has them.
  """

  judge: Judge
  path: str
  scores: np.ndarray
  p_values: np.ndarray
  outliers: np.ndarray
  explanations: dict[int, explanations.Explanation]
  labels: np.ndarray | None

  def order(self) -> np.ndarray:
    """[n] numbers of the rows, the most abnormal first."""
    return np.argsort(-self.scores, kind='stable')


def adapt(
  run_dir: str,
  path: str,
  support: Samples,
  *,
  rate: float,
  columns: tuple[str, ...] | None = None,
) -> Judge:
  """Adapts a run to the rows of a file.

  Args:
    run_dir: see `detector.MetaAnomalyDetector`.
    path: of the file, for messages.
    support: what it holds; without labels all rows are normal.
    rate: the share of normal rows that may be called abnormal.
    columns: to look at; all if None.

  Returns:
    The judge.

  Raises:
    DataError: for rows that make no sense, in one line.
  """
  labels, rows = support.labels, support.rows
  if labels is None:
    labels = np.zeros(len(rows), np.int64)
  if not (labels != 1).any():
    raise DataError(f'{path} has no normal row (label 0): give at least one')
  words, names = frozenset[str](), tuple[str, ...]()
  if isinstance(rows, Frame):
    rows = rows if columns is None else rows.select(columns)
    words, names = rows.words(), rows.columns
  rows = _shaped(rows, run_dir, path)
  detector = estimator.MetaAnomalyDetector(
    run_dir, false_alarm_rate=rate, rate=support.rate
  )
  try:
    detector.fit(rows, labels)
  except DataError as error:
    raise DataError(f'{path}: {error}') from error
  return Judge(path, labels, names, words, support.header, detector)


def _shaped(rows, run_dir, path):
  """Rows as a run wants them: frames for tables, arrays for all others."""
  shape: Any = fitted.load_run(run_dir).layout.shape
  if not shape:
    return rows
  x = rows
  if isinstance(rows, Frame):
    if rows.words():
      raise DataError(
        f'{path}: column {sorted(rows.words())[0]!r} holds words, the run '
        'takes numbers: --ignore it'
      )
    x = np.column_stack([rows[name] for name in rows.columns])
  given = x.shape[1:]
  if math.prod(given) != math.prod(shape) or (
    len(given) > 1 and given != tuple(shape)
  ):
    raise DataError(
      f'{path}: a row is {" x ".join(map(str, given))}, the run was trained on '
      f'rows of {" x ".join(map(str, shape))}: cut the signal into such windows'
    )
  return x.reshape(len(x), *shape)


def common(
  support: Samples, query: Samples, paths: tuple[str, str]
) -> tuple[tuple[str, ...] | None, str]:
  """The columns that both files have, and a line on the others.

  Args:
    support: the known rows.
    query: the rows to score.
    paths: of both, for the line.

  Returns:
    Names in the support's order (None for windows); '' if nothing is missing.

  Raises:
    DataError: if there is no common column, or one file holds windows.
  """
  known, new = support.rows, query.rows
  if isinstance(known, Frame) != isinstance(new, Frame):
    raise DataError(f'{paths[0]} and {paths[1]}: one holds windows, one rows')
  if not isinstance(known, Frame):
    if support.rate != query.rate:
      raise DataError(
        f'{paths[0]} has {support.rate:g} Hz, {paths[1]} {query.rate:g} Hz: '
        'resample one'
        if support.rate and query.rate
        else f'{paths[0]} and {paths[1]}: give both as .wav, or none'
      )
    return None, ''
  both = tuple(name for name in known.columns if name in new.columns)
  unnamed = [
    all(name.startswith('column ') for name in frame.columns)
    for frame in (known, new)
  ]
  if unnamed[0] != unnamed[1] or not both:
    raise DataError(
      f'{paths[0]} has columns {_listed(known.columns)}, {paths[1]} has '
      f'{_listed(new.columns)}: name them alike'
    )
  told = []
  for path, frame in zip(paths, (known, new), strict=True):
    missing = [
      n for f in (known, new) for n in f.columns if n not in frame.columns
    ]
    if missing and unnamed[0]:
      raise DataError(
        f'{paths[0]}: a row has {len(known.columns)} columns, {paths[1]}: '
        f'{len(new.columns)}'
      )
    if missing:
      told.append(f'{path} lacks {_listed(missing)}')
  line = f'{"; ".join(told)}: left out' if told else ''
  return both, line


def _listed(names, most=5):
  more = f' and {len(names) - most} more' if len(names) > most else ''
  return ', '.join(map(repr, names[:most])) + more


def identifiers(rows: Any, columns: tuple[str, ...] | None) -> list[str]:
  """Columns of words that never come twice: nothing can be learned of them."""
  if not isinstance(rows, Frame) or len(rows) < 3:
    return []
  return [
    name
    for name in sorted(rows.words())
    if (columns is None or name in columns)
    and len(set(rows[name])) == len(rows)
  ]


def judge(by: Judge, path: str, query: Samples) -> Judged:
  """Scores a file, and says why its most abnormal rows are so.

  Args:
    by: see `adapt`.
    path: of the file, for messages.
    query: what it holds.

  Returns:
    What was found.

  Raises:
    DataError: for rows that make no sense, in one line.
  """
  try:
    encoded = by.encode(query.rows, path)
    judgement = by.detector.judge(encoded)
    order = np.argsort(-judgement.scores, kind='stable')
    count = max(_AT_LEAST, int(judgement.outliers.sum()))
    worst = order[: min(count, _EXPLAINED)]
    why = by.detector.explain(encoded.take(worst), judgement.take(worst))
  except DataError as error:
    raise DataError(f'{path}: {error}') from error
  explained = dict(zip(map(int, worst), why, strict=True))
  return Judged(by, path, *judgement, explained, query.labels)


def reasons(explanation: explanations.Explanation) -> list[dict[str, Any]]:
  """Reasons as JSON holds them; a missing value is null."""
  return [
    {
      'column': reason.column,
      'value': None if reason.value != reason.value else reason.value,
      'share': round(reason.share, 6),
      'text': reason.text,
    }
    for reason in reasons_lib.reasons(explanation)
  ]


def decision(outlier: bool) -> str:
  return 'abnormal' if outlier else 'normal'


def summary(judged: Judged) -> str:
  """One or two lines for the terminal."""
  by, labels = judged.judge, judged.judge.labels
  worst = ', '.join(str(row) for row in judged.order()[:5])
  line = (
    f'{len(judged.scores)} rows scored from {int((labels == 0).sum())} normals '
    f'and {int((labels == 1).sum())} anomalies; the most abnormal rows: {worst}'
  )
  if by.threshold is None:
    return (
      f'{line}\n{by.run_dir} is not calibrated: no p-values and no decisions; '
      f'see python -m experiments.calibrate --help'
    )
  line += (
    f'; {int(judged.outliers.sum())} are called abnormal at a false-alarm rate '
    f'of {by.rate:g}'
  )
  return f'{line}\n{told}' if (told := against_labels(judged)) else line


def against_labels(judged: Judged) -> str:
  """What the query's own labels say of the decisions; '' without both kinds."""
  if judged.labels is None or judged.judge.threshold is None:
    return ''
  normal, bad = judged.labels == 0, judged.labels == 1
  if not normal.any() or not bad.any():
    return ''
  known = normal | bad
  auroc = float(metrics.auroc(judged.labels[known], judged.scores[known]))
  return (
    f'against the labels in {judged.path}: AUROC {auroc:.3f}, '
    f'{judged.outliers[bad].mean():.0%} of {bad.sum()} anomalies found, '
    f'{judged.outliers[normal].mean():.1%} of {normal.sum()} normals called '
    'abnormal'
  )


def to_csv(judged: Judged) -> str:
  """row, score, rank, p_value, decision, reasons; a line for each row."""
  held = io.StringIO()
  writer = csv.writer(held, lineterminator='\n')
  writer.writerow(['row', 'score', 'rank', 'p_value', 'decision', 'reasons'])
  rank = np.empty(len(judged.scores), int)
  rank[judged.order()] = np.arange(1, len(rank) + 1)
  for i, score in enumerate(judged.scores):
    p = verdict = why = ''
    if judged.judge.threshold is not None:
      p, verdict = f'{judged.p_values[i]:.4g}', decision(judged.outliers[i])
    if i in judged.explanations:
      why = '; '.join(
        reason.text for reason in reasons_lib.reasons(judged.explanations[i])
      )
    writer.writerow([i, f'{score:.6g}', rank[i], p, verdict, why])
  return held.getvalue()


def to_json(judged: Judged) -> dict[str, Any]:
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
  return {
    'schema': 1,
    'run': by.run_dir,
    'support': {
      'file': os.path.basename(by.path),
      'normal': int((by.labels == 0).sum()),
      'anomalies': int((by.labels == 1).sum()),
      'unlabelled': int((by.labels == -1).sum()),
      'columns': list(by.columns),
    },
    'query': os.path.basename(judged.path),
    'false_alarm_rate': by.rate,
    'threshold': by.threshold,
    'rows': rows,
  }


def save(folder: str, files: dict[str, bytes]) -> list[str]:
  """Writes files, each whole or not at all; a new folder goes with a failure.

  Args:
    folder: made if need be.
    files: contents by name.

  Returns:
    Their paths.

  Raises:
    DataError: if one cannot be written.
  """
  new = not os.path.isdir(folder)
  done: list[str] = []
  try:
    for name, content in files.items():
      path = os.path.join(folder, name)
      storage.write_bytes(path, content)
      done.append(path)
  except DataError:
    if new:
      for path in done:
        os.unlink(path)
      if os.path.isdir(folder):
        os.rmdir(folder)
    raise
  return done


def files(judged: Judged) -> dict[str, bytes]:
  """scores.csv and scores.json, to be saved."""
  content = json.dumps(to_json(judged), indent=1, allow_nan=False)
  return {
    'scores.csv': to_csv(judged).encode(),
    'scores.json': content.encode(),
  }


def frame_of(by: Judge, cells: dict[str, str]) -> Frame:
  """One row of text as a frame of the judge's columns.

  Raises:
    DataError: if a cell is no number where the support had numbers.
  """
  data: dict[str, np.ndarray] = {}
  for name in by.columns:
    cell = cells[name].strip()
    lost = user_frames.is_missing(cell)
    if name in by.words:
      data[name] = np.array([None if lost else cell], object)
      continue
    try:
      data[name] = np.array([np.nan if lost else float(cell)])
    except ValueError as error:
      raise DataError(f'{name!r} is {cell[:40]!r}, no number') from error
  return Frame(data)
