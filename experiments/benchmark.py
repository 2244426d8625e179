r"""Times the library against what people use now; prints a table.

  python -m experiments.benchmark --workload=detector --output=runs/benchmark

Workload `detector`: adapt from 20 samples, score one row, score 1,000 rows,
score 10,000 rows of 30 columns, and the first score of a fresh process, beside
scikit-learn and PyOD on the same data. Everything is warmed up first; the
methods take turns, A B A B, so that a busy moment hits all of them. Writes
benchmark.json, benchmark.md and benchmark.png into --output.
"""

from collections.abc import Callable, Iterator
import functools
import json
import os
import subprocess
import sys
import time
from typing import Any

from absl import flags
import jax
from matplotlib import figure as mpl_figure
import numpy as np
from pyod.models import ecod
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor

from experiments import cli
from metaad_jax import adaptation, detector, results, runs

FLAGS = flags.FlagValues()
_WORKLOAD = flags.DEFINE_string(
  'workload', 'all', 'what to time, several between commas', flag_values=FLAGS
)
_RUN_DIR = flags.DEFINE_string(
  'run_dir', 'shipped', 'a run folder, model file, or shipped',
  flag_values=FLAGS,
)  # fmt: skip
_REPEATS = flags.DEFINE_integer('repeats', 31, 'of each', flag_values=FLAGS)
_COLD = flags.DEFINE_integer(
  'cold', 5, 'fresh processes of each method', flag_values=FLAGS
)
_ROWS = flags.DEFINE_integer(
  'rows', 10_000, 'of the largest query', flag_values=FLAGS
)
_COLUMNS = flags.DEFINE_integer('columns', 30, 'of a row', flag_values=FLAGS)
_OUTPUT = flags.DEFINE_string(
  'output', 'runs/benchmark', 'folder', flag_values=FLAGS
)

_SHOTS = 20
_OURS = 'metaad_jax'
# What a program does that scores one row and ends; arguments: run, columns.
_DATA = (
  'import sys; import numpy as np; rng = np.random.default_rng(0); '
  'x = rng.normal(size=(21, int(sys.argv[2]))); '
)
_FIRST = {
  _OURS: (
    'from metaad_jax import MetaAnomalyDetector as D; d = D(sys.argv[1]); '
  ),
  'IsolationForest': (
    'from sklearn.ensemble import IsolationForest as D; d = D(); '
  ),
  'LOF': (
    'from sklearn.neighbors import LocalOutlierFactor as D; '
    'd = D(novelty=True); '
  ),
  'ECOD': 'from pyod.models.ecod import ECOD as D; d = D(); ',
}
_LAST = 'd.fit(x[:20]); d.decision_function(x[20:])'


def _others() -> dict[str, Callable[[], Any]]:
  return {
    'IsolationForest': lambda: IsolationForest(random_state=0),
    'LOF': lambda: LocalOutlierFactor(novelty=True),
    'ECOD': ecod.ECOD,
  }


def _turns(calls: dict[str, Callable[[], Any]], repeats: int) -> dict:
  """Seconds [repeats] of each call, in turns, after one of each."""
  for call in calls.values():
    call()
  taken: dict[str, list[float]] = {name: [] for name in calls}
  for _ in range(repeats):
    for name, call in calls.items():
      start = time.perf_counter()
      call()
      taken[name].append(time.perf_counter() - start)
  return taken


def _detector() -> Iterator[tuple[str, int, int, dict]]:
  """Yields (what, rows, columns, seconds of each method)."""
  columns, repeats = _COLUMNS.value, _REPEATS.value
  rng = np.random.default_rng(0)
  mixing = rng.normal(size=(columns, columns)) / np.sqrt(columns)
  support, query = (
    rng.normal(size=(n, columns)) @ mixing for n in (_SHOTS, _ROWS.value)
  )
  ours = detector.MetaAnomalyDetector(_RUN_DIR.value)
  run = detector.load_run(_RUN_DIR.value)
  x, y = support.astype('f4'), np.zeros(_SHOTS, 'f4')
  adapted = lambda: jax.block_until_ready(adaptation.adapt(run, x, y).state)
  others = {name: make() for name, make in _others().items()}
  models: dict[str, Any] = {_OURS: ours, **others}
  fits: dict[str, Callable[[], Any]] = {
    name: functools.partial(model.fit, support)
    for name, model in models.items()
  }
  fits[f'{_OURS}, uncalibrated'] = adapted
  yield 'fit', _SHOTS, columns, _turns(fits, repeats)
  for rows in sorted({1, min(1000, _ROWS.value), _ROWS.value}):
    part = query[:rows]
    scores: dict[str, Callable[[], Any]] = {
      name: functools.partial(model.decision_function, part)
      for name, model in models.items()
    }
    few = repeats if rows <= 1000 else max(3, repeats // 3)
    yield 'score', rows, columns, _turns(scores, few)
  if _COLD.value:
    cold = {name: _process(code) for name, code in _FIRST.items()}
    yield 'first score', 1, columns, _turns(cold, _COLD.value)


def _process(code):
  line = [
    sys.executable, '-c', _DATA + code + _LAST, _RUN_DIR.value,
    str(_COLUMNS.value),
  ]  # fmt: skip
  return lambda: subprocess.run(line, check=True, capture_output=True)


WORKLOADS: dict[str, Callable[[], Iterator[tuple[str, int, int, dict]]]] = {
  'detector': _detector
}


def main() -> None:
  """Times, prints, writes."""
  chosen = cli.choose('workload', _WORKLOAD.value, WORKLOADS)
  if min(_REPEATS.value, _COLUMNS.value, _ROWS.value) < 1 or _COLD.value < 0:
    raise cli.UsageError('--repeats, --columns and --rows must be at least 1')
  found = []
  for workload in chosen:
    for what, rows, columns, taken in WORKLOADS[workload]():
      found += [
        _row(workload, what, rows, columns, method, seconds)
        for method, seconds in taken.items()
      ]
  text = _table(found)
  content: dict[str, Any] = {
    'schema': 1,
    'command': cli.command(),
    'versions': runs.versions(),
    'code': runs.code_version(),
    'cores': os.cpu_count(),
    'load': round(os.getloadavg()[0], 1) if hasattr(os, 'getloadavg') else None,
    'rows': found,
  }
  load = f'{content["load"]} jobs waiting on {content["cores"]} cores'
  page = (
    f'# Benchmarks\n\n    {cli.command()}\n\nMilliseconds; the methods take '
    f'turns. When it ended, the machine had {load}: where\nthat is more than '
    f'one job per core, look at the least time, too.\n\n{text}'
  )
  files = {
    'benchmark.json': json.dumps(content, indent=1).encode(),
    'benchmark.md': page.encode(),
  }
  for name, body in files.items():
    results.write_bytes(os.path.join(_OUTPUT.value, name), body)
  _picture(found, os.path.join(_OUTPUT.value, 'benchmark.png'))
  print(text)
  print(load)
  print(f'written below {_OUTPUT.value}')


def _row(workload, what, rows, columns, method, seconds):
  low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75)) * 1000
  return {
    'workload': workload,
    'what': what,
    'rows': rows,
    'columns': columns,
    'method': method,
    'repeats': len(seconds),
    'median_ms': float(median),
    'q1_ms': float(low),
    'q3_ms': float(high),
    'min_ms': float(min(seconds) * 1000),
  }


def _table(rows):
  lines = [
    '| what | rows x columns | method | median ms | quartiles | least |',
    '| --- | --- | --- | --- | --- | --- |',
  ]
  for r in rows:
    lines.append(
      f'| {r["what"]} | {r["rows"]:,} x {r["columns"]} | {r["method"]} '
      f'| {r["median_ms"]:.3g} | {r["q1_ms"]:.3g}-{r["q3_ms"]:.3g} '
      f'| {r["min_ms"]:.3g} |'
    )
  return '\n'.join(lines) + '\n'


def _picture(rows, path):
  """One line per measurement: median, quartiles, minimum."""
  figure = mpl_figure.Figure((8, 0.8 + 0.24 * len(rows)), layout='constrained')
  axis = figure.subplots()
  place = np.arange(len(rows))[::-1]
  part = lambda key: np.array([r[key] for r in rows])
  median = part('median_ms')
  colour = [
    'tab:red' if r['method'].startswith(_OURS) else 'tab:grey' for r in rows
  ]
  axis.barh(place, median, color=colour)
  axis.hlines(place, part('q1_ms'), part('q3_ms'), color='black')
  axis.plot(part('min_ms'), place, '|', color='white', label='least')
  axis.set_xscale('log')
  axis.set_xlabel('milliseconds: median, quartiles (black), least (white)')
  axis.set_yticks(
    place,
    [f'{r["what"]}, {r["rows"]:,} rows: {r["method"]}' for r in rows],
    fontsize='small',
  )
  os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
  figure.savefig(path, dpi=100)


if __name__ == '__main__':
  cli.run(main, FLAGS)
