r"""What becomes of the scores when a table is changed in ways it should bear.

  python -m experiments.robustness --output=robustness
  python -m experiments.robustness --run_dir=runs/tables --split=validation

Support and query of every task are changed alike: columns permuted, one of
them times 1,000, a column twice, one or five columns of noise, a tenth of the
values missing. Prints the mean AUROC and how far a row's rank moves among the
query's (0 = nowhere, 1/3 = as if drawn anew), for a run of a learner for
tables and for two baselines; writes robustness.json and robustness.png.
"""

import dataclasses
import json
import os

from absl import flags
from matplotlib import figure as mpl_figure
import numpy as np
import pandas as pd
from scipy import stats

from experiments import cli
from metaad_jax import storage
from metaad_jax.data import registry
from metaad_jax.evaluation import jobs, tasks
from metaad_jax.reports import figures
from metaad_jax.scores import metrics
from metaad_jax.training import runs

FLAGS = flags.FlagValues()
_RUN_DIR = flags.DEFINE_string(
  'run_dir', runs.SHIPPED, 'a run of a learner for tables', flag_values=FLAGS
)
_SOURCE = flags.DEFINE_string(
  'source', None, 'that of the run if not given', flag_values=FLAGS
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'root of the data', flag_values=FLAGS
)
_SPLIT = flags.DEFINE_enum(
  'split', 'test', ['test', 'validation'], 'side', flag_values=FLAGS
)
_SHOTS = flags.DEFINE_integer('shots', 20, 'support normals', flag_values=FLAGS)
_DRAWS = flags.DEFINE_integer(
  'draws', 1, 'supports drawn per table', flag_values=FLAGS
)
_WIDEST = flags.DEFINE_integer(
  'widest', 2000, 'leave tables of more columns out', flag_values=FLAGS
)
_OUTPUT = flags.DEFINE_string(
  'output', 'robustness', 'folder to write', flag_values=FLAGS
)


def _noise(columns):
  return lambda rng, x: np.c_[x, rng.normal(size=(len(x), columns))]


def _one(x, rng, factor):
  x[:, rng.integers(x.shape[1])] *= factor
  return x


BASELINES = ('knn', 'mahalanobis')
CHANGES = {
  'as it is': lambda rng, x: x,
  'columns permuted': lambda rng, x: x[:, rng.permutation(x.shape[1])],
  'a column x 1,000': lambda rng, x: _one(x.copy(), rng, 1000),
  'a column twice': lambda rng, x: np.c_[x, x[:, rng.integers(x.shape[1])]],
  'a column of noise': _noise(1),
  'five columns of noise': _noise(5),
  '10% missing': lambda rng, x: np.where(rng.random(x.shape) < 0.1, np.nan, x),
}


def _changed(entity, change, number):
  rows = np.concatenate([entity.normal, entity.query])
  rows = change(np.random.default_rng(number), rows).astype(np.float32)
  normal, query = np.split(rows, [len(entity.normal)])
  return dataclasses.replace(entity, normal=normal, query=query, columns=())


def measure(run, entities, grid) -> pd.DataFrame:
  """Scores changed tables.

  Args:
    run: of a model that takes rows of any width.
    entities: the tables.
    grid: of the tasks.

  Returns:
    One row per method and change: method, change, and means over the tasks,
    auroc and moved (the mean change of a row's rank, as a share of the query).
  """
  drawn, _ = tasks.draw_cells(entities, grid)
  cells = [
    cell._replace(entity=cell.entity + i * len(entities))
    for i in range(len(CHANGES))
    for cell in drawn
  ]
  tables = [
    _changed(entity, change, number)
    for change in CHANGES.values()
    for number, entity in enumerate(entities)
  ]
  scored = {
    run.name: tasks.score_cells(
      run.learner, run.params, cells, tables, any_width=True, label=run.name
    )
  }
  todo = {n: [jobs.job(i, n) for i in range(len(cells))] for n in BASELINES}
  by_job = jobs.score_jobs(
    [job for some in todo.values() for job in some],
    tasks.scale_tables(cells, tables), seed=0, workers=os.cpu_count() or 1,
  )  # fmt: skip
  scored |= {name: [by_job[job] for job in todo[name]] for name in BASELINES}
  rank = lambda scores: stats.rankdata(scores) / len(scores)
  rows = []
  for name, scores in scored.items():
    for place, cell in enumerate(cells):
      labels = tables[cell.entity].labels[cell.query]
      usual = scores[place % len(drawn)]
      rows.append(
        {
          'method': name,
          'change': list(CHANGES)[place // len(drawn)],
          'auroc': metrics.auroc(labels, scores[place]),
          'moved': np.abs(rank(scores[place]) - rank(usual)).mean(),
        }
      )
  groups = pd.DataFrame(rows).groupby(['method', 'change'], sort=False)
  return groups.mean().reset_index()


def _picture(table, title):
  """Bars: what each change does to the AUROC and to the ranks."""
  figure = mpl_figure.Figure(figsize=(9, 4), layout='constrained')
  figure.suptitle(f'{title}: AUROC and ranks of rows after a change')
  auroc = table.pivot(index='change', columns='method', values='auroc')
  moved = table.pivot(index='change', columns='method', values='moved')
  usual = auroc.loc['as it is']
  names = {name: f'{name} ({usual[name]:.3f} as it is)' for name in usual.index}
  order = list(CHANGES)[::-1]
  left, right = figure.subplots(1, 2, sharey=True)
  for axes, values, label in (
    (left, auroc - usual, 'change of the mean AUROC'),
    (right, moved, "mean change of a row's rank (1/3 = drawn anew)"),
  ):
    bars = values.loc[order].rename(columns=names)
    bars.plot.barh(ax=axes, width=0.75, legend=False, ylabel='', xlabel=label)
  left.axvline(0, color='black', linewidth=0.8)
  figure.legend(
    *left.get_legend_handles_labels(), loc='outside lower center', ncols=3
  )
  return figure


def main() -> None:
  """Scores the changed tables; prints, writes, draws."""
  run = runs.restore(_RUN_DIR.value)
  if not run.setup.any_width:
    raise cli.UsageError(f'--run_dir={_RUN_DIR.value}: no learner for tables')
  spec = _SOURCE.value or run.config.source
  side = run.setup.split(registry.load(spec, _DATA_DIR.value))[_SPLIT.value]
  entities = [e for e in side if e.normal.shape[-1] <= _WIDEST.value]
  grid = tasks.Grid((_SHOTS.value,), (0,), draws=_DRAWS.value)
  table = measure(run, entities, grid)
  title = f'{len(entities)} tables of {spec}, {_SHOTS.value} normals'
  wide = table.pivot(index='change', columns='method').loc[list(CHANGES)]
  print(f'{title}\n{wide.swaplevel(axis=1).sort_index(axis=1).round(3)}')
  content = {
    'command': cli.command(), 'source': spec, 'split': _SPLIT.value,
    'tables': len(entities), 'step': run.step,
    'scores': table.to_dict('records'),
  }  # fmt: skip
  path = os.path.join(_OUTPUT.value, 'robustness')
  text = json.dumps(content, indent=1) + '\n'
  storage.write_bytes(path + '.json', text.encode())
  with figures.style():
    picture = figures.png(_picture(table, title))
  storage.write_bytes(path + '.png', picture)


if __name__ == '__main__':
  cli.run(main, FLAGS)
