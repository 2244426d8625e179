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
from typing import Any

from absl import flags
from matplotlib import figure as mpl_figure
import numpy as np
from scipy import stats

from experiments import cli
from metaad_jax import storage
from metaad_jax.data import registry, splitting
from metaad_jax.evaluation import baselines, evaluate
from metaad_jax.reports import report
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


def measure(run, entities, grid) -> dict[str, dict[str, dict[str, float]]]:
  """{scorer: {change: {'auroc', 'moved'}}}, means over the tasks."""
  drawn, _ = evaluate.draw_cells(entities, grid)
  cells = [
    c._replace(entity=c.entity + i * len(entities))
    for i in range(len(CHANGES))
    for c in drawn
  ]
  tables = [
    _changed(entity, change, number)
    for change in CHANGES.values()
    for number, entity in enumerate(entities)
  ]
  scored: dict[str, Any] = {
    run.name: evaluate.score_cells(
      run.learner, run.params, cells, tables, any_width=True, label=run.name
    )
  }
  done = baselines.score_many(
    ('knn', 'mahalanobis'),
    evaluate.scale_tables(cells, tables),
    seed=0,
    workers=os.cpu_count() or 1,
  )
  for name, several in done.items():
    scored[name] = [np.asarray(scores) for scores in several]
  found: dict[str, dict[str, dict[str, float]]] = {}
  rank = lambda scores: stats.rankdata(scores) / len(scores)
  for name, scores in scored.items():
    found[name] = {}
    for i, change in enumerate(CHANGES):
      mine = scores[i * len(drawn) : (i + 1) * len(drawn)]
      labels = [entities[c.entity].labels[c.query] for c in drawn]
      pairs = zip(labels, mine, strict=True)
      moved = [
        np.abs(rank(a) - rank(b)).mean()
        for a, b in zip(mine, scores, strict=False)
      ]
      found[name][change] = {
        'auroc': float(np.mean([metrics.auroc(*pair) for pair in pairs])),
        'moved': float(np.mean(moved)),
      }
  return found


def _picture(found, title):
  figure = mpl_figure.Figure(figsize=(9, 4), layout='constrained')
  figure.suptitle(title, fontsize=11)
  axes = figure.subplots(1, 2, sharey=True)
  place = np.arange(len(CHANGES))[::-1]
  for i, (name, told) in enumerate(found.items()):
    usual = told['as it is']['auroc']
    for axis, values in (
      (axes[0], [entry['auroc'] - usual for entry in told.values()]),
      (axes[1], [entry['moved'] for entry in told.values()]),
    ):
      label = f'{name} ({usual:.3f} as it is)'
      axis.barh(place + 0.25 * (1 - i), values, 0.25, label=label)
  axes[0].set_yticks(place, list(CHANGES))
  axes[0].set_xlabel('change of the mean AUROC')
  axes[0].axvline(0, color='black', linewidth=0.8)
  axes[1].set_xlabel("mean change of a row's rank (1/3 = drawn anew)")
  figure.legend(
    *axes[0].get_legend_handles_labels(), loc='outside lower center', ncols=3
  )
  return figure


def main() -> None:
  """Scores the changed tables; prints, writes, draws."""
  run = runs.restore(_RUN_DIR.value)
  if not run.setup.any_width:
    raise cli.UsageError(f'--run_dir={_RUN_DIR.value}: no learner for tables')
  spec = _SOURCE.value or run.config.source
  sides = splitting.split(
    registry.load(spec, _DATA_DIR.value),
    fold=run.config.fold,
    folds=run.config.folds,
    seed=run.config.seed,
  )
  side = sides[_SPLIT.value]
  entities = [e for e in side if e.normal.shape[-1] <= _WIDEST.value]
  grid = evaluate.Grid((_SHOTS.value,), (0,), draws=_DRAWS.value)
  found = measure(run, entities, grid)
  head = ''.join(f'{name:>22}' for name in found)
  print(f'{len(entities)} tables, {_SHOTS.value} normals: AUROC, ranks moved')
  print(f'{"":24}{head}')
  for change in CHANGES:
    told = [found[name][change] for name in found]
    cells = ''.join(f'{t["auroc"]:15.3f}{t["moved"]:7.3f}' for t in told)
    print(f'{change:24}{cells}')
  os.makedirs(_OUTPUT.value, exist_ok=True)
  content = {
    'command': cli.command(), 'source': spec, 'split': _SPLIT.value,
    'tables': len(entities), 'step': run.step, 'scores': found,
  }  # fmt: skip
  path = os.path.join(_OUTPUT.value, 'robustness')
  text = json.dumps(content, indent=1) + '\n'
  storage.write_bytes(path + '.json', text.encode())
  title = f'{len(entities)} tables of {spec}, {_SHOTS.value} normals'
  storage.write_bytes(path + '.png', report.png(_picture(found, title)))


if __name__ == '__main__':
  cli.run(main, FLAGS)
