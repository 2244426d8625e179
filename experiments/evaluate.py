r"""Evaluates runs and baselines on the same few-shot tasks of unseen entities.

  python -m experiments.evaluate --run_dir=runs/maml --run_dir=runs/protonet \
    --shots=1,5,10,20 --anomalies=0,1,5 --output=results

Prints a table and a verdict for each cell and, with --compare, which algorithm
to use; writes results.csv (a row per entity, method, shots, anomalies and
draw), meta.json, report.html and the figures as PNG files.
Killed and started again with the same --output it goes on: the scores of the
baselines are kept in unfinished.sqlite until all are there.
Runs of different folds are put together: each is evaluated on its own unseen
entities. With --source a run is evaluated on another source than its own, as
long as its features fit.

Runs of experiments.train --way tell classes apart: for these it prints the mean
accuracy over --tasks tasks of classes nobody has seen, with its 95% interval,
and writes accuracy.json; of the other flags --data_dir, --split and --seed
count.
"""

import json
import os
import pathlib
from typing import Any

from absl import flags

from experiments import cli
from metaad_jax import devices, storage
from metaad_jax.data import registry
from metaad_jax.evaluation import accuracy, baselines, evaluate, results, tasks
from metaad_jax.reports import pages, recommendation, tables
from metaad_jax.training import records, runs

FLAGS = flags.FlagValues()

_DEFAULT = tasks.Grid()
_UNFINISHED = 'unfinished.sqlite'  # scores of baselines, until all are there

_RUN_DIR = flags.DEFINE_multi_string(
  'run_dir',
  None,
  'folder of a trained run; may be given several times',
  flag_values=FLAGS,
)
_FINE_TUNE = flags.DEFINE_multi_string(
  'fine_tune',
  None,
  "a learner that starts from each run's meta-parameters and is evaluated "
  'beside it, such as tables_maml:adapt_steps=5,rate=0.01; may be given '
  'several times',
  flag_values=FLAGS,
)
_FEATURES = flags.DEFINE_string(
  'features',
  None,
  'of the windows of --source, for runs that take any width; the usual ones of '
  'that source if not given',
  flag_values=FLAGS,
)
_SOURCE = flags.DEFINE_string(
  'source',
  None,
  "evaluate there instead of on each run's own source; joined by '+'",
  flag_values=FLAGS,
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'root that holds one folder per source', flag_values=FLAGS
)
_SPLIT = flags.DEFINE_enum(
  'split',
  'test',
  ['test', 'validation', 'all'],
  'test = entities not seen in training; validation = those that a run was '
  'chosen with: for choices, not for results',
  flag_values=FLAGS,
)
_SHOTS = flags.DEFINE_list(
  'shots',
  [str(k) for k in _DEFAULT.shots],
  'numbers of support normals',
  flag_values=FLAGS,
)
_ANOMALIES = flags.DEFINE_list(
  'anomalies',
  [str(a) for a in _DEFAULT.anomalies],
  'numbers of labelled support anomalies',
  flag_values=FLAGS,
)
_CONTAMINATION = flags.DEFINE_list(
  'contamination',
  [str(c) for c in _DEFAULT.contamination],
  'shares of the support normals that are unlabelled anomalies',
  flag_values=FLAGS,
)
_DRAWS = flags.DEFINE_integer(
  'draws', _DEFAULT.draws, 'supports drawn per entity', flag_values=FLAGS
)
_TASKS = flags.DEFINE_integer(
  'tasks',
  600,
  'tasks of runs that tell classes apart',
  lower_bound=2,
  flag_values=FLAGS,
)
_QUERIES = flags.DEFINE_integer(
  'queries',
  _DEFAULT.queries,
  'at most this many normal, and as many anomalous, query rows',
  flag_values=FLAGS,
)
_SEED = flags.DEFINE_integer(
  'seed', _DEFAULT.seed, 'of the draws', flag_values=FLAGS
)
_BASELINES = flags.DEFINE_string(
  'baselines',
  'all',
  f'all, none, or some of {", ".join(sorted(baselines.REGISTRY))}',
  flag_values=FLAGS,
)
_TUNE = flags.DEFINE_integer(
  'tune_baselines',
  0,
  'choose hyper-parameters and scaling of the baselines on this many tasks for '
  'each source and cell, of entities that are not reported; 0 = their defaults',
  flag_values=FLAGS,
)
_TOGETHER = flags.DEFINE_bool(
  'tune_together',
  False,
  'with --tune_baselines: one choice for all --shots and --anomalies, for '
  'large grids; from so many tasks with labels and so many without',
  flag_values=FLAGS,
)
_WORKERS = flags.DEFINE_integer(
  'workers',
  os.cpu_count() or 1,
  'processes for the baselines',
  flag_values=FLAGS,
)
_COMPARE = flags.DEFINE_bool(
  'compare',
  False,
  'end with which algorithm to use, in words, with its evidence',
  flag_values=FLAGS,
)
_ROWS_PER_DAY = flags.DEFINE_list(
  'rows_per_day',
  None,
  'rows that an entity scores in a day, one number for all sources or one for '
  'each in their order: the report turns rates into alarms',
  flag_values=FLAGS,
)
_PRECISION = flags.DEFINE_enum(
  'precision',
  '',
  ['', *devices.PRECISIONS],
  "of products on a GPU or a TPU; the runs' own if not given",
  flag_values=FLAGS,
)
_OUTPUT = flags.DEFINE_string(
  'output', 'results', 'folder for the results', flag_values=FLAGS
)


def main() -> None:
  """Evaluates, prints the table, writes the files."""
  if not _RUN_DIR.value:
    raise cli.UsageError('--run_dir is missing: name at least one run')
  grid = tasks.Grid(
    cli.numbers('shots', _SHOTS.value),
    cli.numbers('anomalies', _ANOMALIES.value),
    cli.numbers('contamination', _CONTAMINATION.value, float),
    _DRAWS.value,
    _QUERIES.value,
    _SEED.value,
  )
  names = cli.choose('baselines', _BASELINES.value, baselines.REGISTRY)
  with cli.usage():
    tasks.check_grid(grid)
    if _SOURCE.value:
      for spec in _SOURCE.value.split('+'):
        registry.get(spec)
  if _WORKERS.value < 1:
    raise cli.UsageError('--workers must be at least 1')
  if _TUNE.value < 0:
    raise cli.UsageError('--tune_baselines must be at least 0')
  rates = cli.rows_per_day(_ROWS_PER_DAY.value)
  several = len(_SOURCE.value.split('+')) if _SOURCE.value else 1
  if rates is not None and len(rates) not in (1, several):
    raise cli.UsageError(
      f'--rows_per_day has {len(rates)} rates for {several} sources: give one, '
      'or one for each'
    )
  if _PRECISION.value:
    devices.check_precision(_PRECISION.value)
  if any(map(_of_classes, _RUN_DIR.value)):
    _tell_apart()
    return
  plan = evaluate.Plan(
    grid,
    source=_SOURCE.value,
    features=_FEATURES.value,
    data_dir=_DATA_DIR.value,
    split=_SPLIT.value,
    baselines=names,
    fine_tune=_FINE_TUNE.value or (),
    tune=_TUNE.value,
    tune_together=_TOGETHER.value,
    workers=_WORKERS.value,
    precision=_PRECISION.value,
    kept=os.path.join(_OUTPUT.value, _UNFINISHED),
  )
  found = evaluate.evaluate(_RUN_DIR.value, plan)
  found.meta['command'] = cli.command()
  if rates is not None:
    found.meta['flags']['rows_per_day'] = rates
  results.save(found, _OUTPUT.value)
  written = pages.write(found, _OUTPUT.value)
  for end in ('', '-wal', '-shm'):
    pathlib.Path(plan.kept + end).unlink(missing_ok=True)
  print(f'{tables.terminal(found)}\n{written[0]} written')
  if _COMPARE.value:
    print(f'\n{recommendation.text(found)}')


def _of_classes(path):
  """Whether this is the folder of a run of --way; model files are none."""
  content = records.read(path) if os.path.isdir(path) else {}
  return bool(content.get('config', {}).get('way'))


def _tell_apart():
  """Prints the accuracy of runs of --way, writes accuracy.json and .md."""
  rows: list[dict[str, Any]] = []
  for path in _RUN_DIR.value or ():
    run = runs.restore(path)
    found = accuracy.of_tasks(
      run, data_dir=_DATA_DIR.value, tasks=_TASKS.value, seed=_SEED.value,
      split=_SPLIT.value,
    )  # fmt: skip
    config = run.config
    told = {'learner': config.learner, 'way': config.way, 'shots': config.shots}
    told['steps'] = run.step
    rows.append({'run': path} | told | accuracy.summary(found))
    print(
      '{run} ({learner}): {way}-way {shots[0]}-shot accuracy {accuracy:.4f} '
      '[{low:.4f}, {high:.4f}] over {tasks} tasks'.format(**rows[-1])
    )
  meta = {'command': cli.command(), 'versions': records.versions()}
  path = os.path.join(_OUTPUT.value, 'accuracy')
  text = json.dumps(meta | {'runs': rows}, indent=2)
  storage.write_bytes(f'{path}.json', text.encode())
  header = (
    'learner',
    'ways',
    'shots',
    'accuracy [95% interval]',
    'tasks',
    'steps',
  )
  cells = [
    tables.row(
      r['learner'], str(r['way']), str(r['shots'][0]),
      tables.Cell(f'{r["accuracy"]:.1%}', f'[{r["low"]:.1%}, {r["high"]:.1%}]'),
      str(r['tasks']), str(r['steps']),
    )
    for r in rows
  ]  # fmt: skip
  table = tables.markdown(tables.Table('', header, {'': cells}))
  storage.write_bytes(f'{path}.md', table.encode())


if __name__ == '__main__':
  cli.run(main, FLAGS)
