"""One page and one picture of a user's judged rows, for people."""

import base64
import html
import os

import numpy as np

from metaad_jax.detector import judge
from metaad_jax.detector import reasons as reasons_lib
from metaad_jax.detector.judge import Judged
from metaad_jax.reports import report

_SHOWN = 10  # rows with their reasons

_CSS = """
:root { color-scheme: light dark; --bad: #b3401a; --good: #0b7a4b; }
body { max-width: 60rem; margin: 0 auto; padding: 1.5rem; font: 16px/1.5
  system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { max-width: 46rem; margin: .4rem 0; }
img { width: 100%; background: white; }
.row { border-top: 1px solid #8886; padding: .7rem 0; }
.row b { margin-right: .8rem; }
.abnormal { color: var(--bad); } .normal { color: var(--good); }
.bar { display: grid; grid-template-columns: 14rem 1fr; gap: .6rem;
  font-size: .85rem; align-items: center; }
.bar span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bar i { display: block; height: .7rem; background: var(--bad); }
.soft { opacity: .75; font-size: .875rem; }
"""


def picture(judged: Judged) -> bytes:
  """Scores with the threshold, as PNG."""
  by = judged.judge
  return report.adapted_png(by.known, by.labels, judged.scores, by.threshold)


def page(judged: Judged, image: bytes) -> str:
  """One HTML file that needs no other.

  Args:
    judged: see `judging.judge`.
    image: see `picture`.

  Returns:
    The file.
  """
  shown = base64.b64encode(image).decode()
  summary = ''.join(
    f'<p>{_safe(line)}</p>' for line in judge.summary(judged).splitlines()
  )
  worst = [
    row for row in map(int, judged.order()) if row in judged.explanations
  ]
  alarms = int(judged.outliers.sum())
  most = max(_SHOWN if alarms else 3, 3)
  reasons = ''.join(_row(judged, row) for row in worst[:most])
  return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{_safe(os.path.basename(judged.path))} judged</title>
<style>{_CSS}</style></head>
<body>
<h1>{_safe(os.path.basename(judged.path))}: {_headline(judged)}</h1>
{summary}
<h2>Scores</h2>
<img alt="scores of the known and of the new rows" \
src="data:image/png;base64,{shown}">
<h2>The most abnormal rows</h2>
{reasons}
<h2>What was adapted on</h2>
<p>{_adapted_on(judged)}</p>
<h2>What the promise is</h2>
<p>{_promise(judged)}</p>
</body>
</html>
"""


def _safe(text):
  return html.escape(''.join(c if c.isprintable() else '?' for c in str(text)))


def _headline(judged):
  count = len(judged.scores)
  if judged.judge.threshold is None:
    return f'{count} rows ranked'
  return f'{int(judged.outliers.sum())} of {count} rows are abnormal'


def _row(judged, row):
  e = judged.explanations[row]
  calibrated = judged.judge.threshold is not None
  verdict = judge.decision(judged.outliers[row]) if calibrated else ''
  bars = _bars(e)
  return (
    f'<div class="row"><b>row {row}</b><b class="{verdict}">{verdict}</b>'
    f'<span class="soft">score {e.score:.4g}, threshold {e.threshold:.4g}'
    f'</span><p>{_safe(reasons_lib.text(e))}</p>{bars}</div>\n'
  )


def _bars(e):
  reasons = reasons_lib.reasons(e, 5)
  if not reasons:
    return ''
  largest = max(reason.share for reason in reasons)
  return ''.join(
    f'<div class="bar"><span title="{_safe(r.column)}">{_safe(r.column)}</span>'
    f'<i style="width: {100 * r.share / largest:.0f}%"></i></div>'
    for r in reasons
  )


def _adapted_on(judged):
  by = judged.judge
  counts = [
    f'{int((by.labels == value).sum())} {name}'
    for value, name in ((0, 'normal'), (1, 'anomalous'), (-1, 'unlabelled'))
    if (by.labels == value).any()
  ]
  looked = f' Columns: {", ".join(by.columns[:40])}' if by.columns else ''
  looked += f' and {len(by.columns) - 40} more' if len(by.columns) > 40 else ''
  return _safe(
    f'{os.path.basename(by.path)}: {", ".join(counts)} rows; detector: '
    f'{by.run_dir}.{looked + "." if looked else ""} Each known row in the '
    'picture is scored by a detector that has not seen it.'
  )


def _promise(judged):
  by = judged.judge
  if by.threshold is None:
    return (
      'None: this run is not calibrated. The scores rank the rows; how many '
      'normal ones score as high is not known.'
    )
  p = np.asarray(judged.p_values)
  expected = by.rate * len(p)
  return (
    f'On average over entities like those the detector was calibrated on, at '
    f'most {by.rate:.3g} of the normal rows are called abnormal (about '
    f'{expected:.3g} of {len(p)}, were all of them normal). A p-value is the '
    'share of normal rows that score at least as high. The promise holds on '
    'average, not for each entity; it does not hold where normal rows have '
    f'drifted since the known ones were taken.'
  )
