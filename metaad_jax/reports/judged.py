"""A user's judged rows: how the columns were read, and the page of findings."""

import collections
import os
from typing import NamedTuple

import numpy as np

from metaad_jax.data.user_files import Samples
from metaad_jax.detector import doubts, judge, reasons
from metaad_jax.reports import rendering

_NAMED = 8  # columns of a role that are named in a line
_REASONS = 3  # of a row
_DRAWN = 1200  # rows in the picture


def columns_text(path: str, samples: Samples, full: bool = False) -> str:
  """What the columns of a file are for: a line, or a table of them all."""
  if isinstance(samples.rows, np.ndarray):
    size = ' x '.join(map(str, samples.rows.shape[1:]))
    return f'{path}: {len(samples.rows)} windows of {size}'
  head = f'{path}: {len(samples.rows)} rows'
  if full:
    lines = [('column', 'kind', 'missing', 'role', 'why')]
    lines += [(*c[:2], f'{c[2]:.0%}', *c[3:]) for c in samples.columns]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return '\n'.join([head] + [
      '  ' + '  '.join(map(str.ljust, line, widths)).rstrip() for line in lines
    ])  # fmt: skip
  roles = collections.defaultdict(list)
  for column in samples.columns:
    roles[column.role].append(column.name)
  for role in ('feature', *sorted(set(roles) - {'feature'})):
    names, noun = roles[role], {'feature': 'features'}.get(role, role)
    more = f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''
    head += f'; {len(names)} {noun}: {", ".join(names[:_NAMED])}{more}'
  return head


class _Row(NamedTuple):
  """A line of the page."""

  number: int
  keys: tuple[str, ...]
  score: float
  p_value: float
  decision: str
  reasons: list[reasons.Reason]
  text: str


def page(found: judge.Judged) -> bytes:
  """The page of judged rows, as HTML that needs no other file."""
  labels, keys = found.judge.labels, judge.keys(found)
  chosen = [
    row for row in map(int, found.order())
    if row in found.explanations or found.outliers[row]
  ]  # fmt: skip
  rows = []
  for row in chosen:
    why = found.explanations.get(row)
    rows.append(_Row(
      row, tuple(map(str, keys.iloc[row])) if len(keys) else (),
      found.scores[row], found.p_values[row],
      judge.decision(found.outliers[row]),
      reasons.reasons(why, _REASONS) if why else [],
      reasons.text(why) if why else '',
    ))  # fmt: skip
  names = [os.path.basename(path) for path in (found.path, found.judge.path)]
  return rendering.html(
    'judged.html.j2',
    found=found,
    names=names,
    summary=[*judge.summary(found).splitlines(), *doubts.of_found(found)],
    strip=_strip(found),
    keys=list(keys),
    rows=rows,
    explained=len(found.explanations),
    largest=max((r.share for row in rows for r in row.reasons), default=1) or 1,
    counts={
      name: int((labels == value).sum())
      for name, value in (('normal', 0), ('anomalous', 1), ('unlabelled', -1))
    },
    read=[
      (names[0], found.query.columns),
      (names[1], found.judge.support.columns),
    ],
  )


def _strip(found):
  """The picture of the scores: places in a box of 1000 x 220, from the top."""
  by, scores, n = found.judge, found.scores, len(found.scores)
  normal = by.known[by.labels != 1]
  marks = [*normal, *scores, *([] if by.threshold is None else [by.threshold])]
  low, high = min(marks), max(marks)
  height = lambda score: round(210 - 200 * (score - low) / (high - low or 1), 1)
  bins = np.arange(n) * min(n, _DRAWN) // n
  order = np.lexsort((scores, bins))  # the last of each bin is its highest
  drawn = order[np.flatnonzero(np.diff(bins, append=-1))]
  return {
    'points': [
      (round(5 + 990 * row / max(n - 1, 1), 1), height(scores[row]),
       bool(found.outliers[row]), f'row {row}: {scores[row]:.4g}')
      for row in map(int, drawn)
    ],
    'thinned': n > _DRAWN,
    'band': (height(normal.max()), height(normal.min()) - height(normal.max())),
    'threshold': None if by.threshold is None else height(by.threshold),
  }  # fmt: skip


def scores_png(found: judge.Judged) -> bytes:
  """The scores of known and judged rows with the threshold, as a PNG file.

  Raises:
    ImportError: without matplotlib.
  """
  from metaad_jax.reports import figures

  by = found.judge
  return figures.adapted_png(by.known, by.labels, found.scores, by.threshold)
