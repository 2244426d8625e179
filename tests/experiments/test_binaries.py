"""The binaries from the outside: train -> evaluate -> adapt -> study."""

import csv
import pathlib
import re
import shutil
import subprocess
import sys

from binaries import call, fail, files, succeed
import numpy as np
import pytest

from experiments import (
  adapt,
  benchmark,
  calibrate,
  download,
  evaluate,
  explanations,
  export,
  page,
  study,
  train,
  zoo,
)
from metaad_jax.base import Entity, Source
from metaad_jax.data import registry
from metaad_jax.evaluation import baselines, results

ROOT = pathlib.Path(__file__).parents[2]
TINY = [
  '--source=waves', '--features=statistics', '--model=mlp:width=6,depth=1',
  '--shots=2,4', '--anomalies=0,1', '--queries=4', '--steps=4', '--tasks=2',
  '--validation_tasks=4', '--validate_every=2',
]  # fmt: skip
PROGRAMS = {
  'train': train, 'evaluate': evaluate, 'adapt': adapt, 'study': study,
  'download': download, 'export': export, 'calibrate': calibrate,
  'page': page, 'benchmark': benchmark, 'explanations': explanations,
  'zoo': zoo,
}  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
  """Nothing is written where the tests are run."""
  monkeypatch.chdir(tmp_path)


@pytest.fixture(scope='module', autouse=True)
def waves():
  """A source of noise in windows of 64; anomalies are twice as loud."""
  rng = np.random.default_rng(0)
  labels = np.repeat([0, 1], 6).astype(np.int32)
  entities = []
  for i in range(16):
    normal, query = rng.normal(size=(2, 12, 64, 1)).astype(np.float32)
    query *= 1 + labels[:, None, None].astype(np.float32)
    side = 'train' if i < 12 else 'test'
    entities.append(Entity(f'e{i}', normal, query, labels, side=side))
  source = Source(
    'waves', 'noise', lambda data_dir: entities, ('statistics',), 'none',
    'none', 'none', channels=('wave',), rate=1.0,
  )  # fmt: skip
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(registry.REGISTRY, 'waves', source)
    yield


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('runs') / 'proto'
  out = succeed(
    train, *TINY, '--learner=protonet:embedding=3', f'--run_dir={path}'
  )
  assert '4 steps' in out and 'AUROC' in out and str(path) in out
  return path


# --- end to end --------------------------------------------------------------


def test_train_again_goes_on_or_has_nothing_to_do(folder):
  log = (folder / 'metrics.jsonl').read_bytes()
  before = files(folder)
  arguments = ['--learner=protonet:embedding=3', f'--run_dir={folder}']
  assert '4 steps' in succeed(train, *TINY, *arguments)
  assert (folder / 'metrics.jsonl').read_bytes() == log
  assert files(folder) == before
  told = fail(train, 1, *TINY, *arguments, '--seed=1')
  assert 'another run' in told and 'seed' in told
  assert (folder / 'metrics.jsonl').read_bytes() == log


def test_evaluate_compares_and_a_page_is_made_of_it(folder, tmp_path):
  out = succeed(
    evaluate, f'--run_dir={folder}', '--shots=2,4', '--anomalies=0,1',
    '--draws=2', '--baselines=knn,svm', '--workers=1', '--output=found',
    '--compare', '--rows_per_day=1000',
  )  # fmt: skip
  assert 'protonet' in out and 'Which algorithm should I use?' in out
  assert out.rstrip().splitlines()[-1].endswith('.')
  found = results.load(tmp_path / 'found')
  counts = found.table['method'].value_counts()
  assert set(counts.index) == {'protonet', 'knn', 'svm'}
  assert counts['knn'] == 4 * 4 * 2
  assert found.meta['flags']['shots'] == [2, 4]
  assert found.meta['flags']['rows_per_day'] == [1000]
  written = files(tmp_path / 'found')
  assert any(name.endswith('.png') for name in written)
  assert not any('.part' in name or '.tmp' in name for name in written)
  report = (tmp_path / 'found' / 'report.html').read_text()
  assert report.rstrip().endswith('</html>') and 'protonet' in report
  assert 'Which algorithm should I use?' in report
  a_day = r'in a day, nearly all of them normal: [^;]*1,000;'
  assert re.search(a_day, report)
  told = succeed(page, '--results=found', '--output=docs/rig.md').split()
  assert told[0] == 'docs/rig.md'
  assert all((tmp_path / name).is_file() for name in told)
  text = (tmp_path / 'docs' / 'rig.md').read_text()
  assert re.search(a_day, text) and 'protonet' in text


def support_file(path, rows=6, labels=None, seed=0):
  x = np.random.default_rng(seed).normal(size=(rows, 64)).astype(np.float32)
  if labels is None:
    np.save(path, x)
  else:
    np.savez(path, x=x, y=np.asarray(labels))
  return x


def test_adapt_writes_scores_in_the_order_of_the_rows(folder, tmp_path):
  support_file('support.npy')
  x = support_file('query.npy', rows=9, seed=1)
  out = succeed(
    adapt, f'--run_dir={folder}', '--support=support.npy', '--query=query.npy'
  )
  assert '9 rows scored from 6 normals and 0 anomalies' in out
  assert files(tmp_path / 'adapted') == {
    'scores.csv', 'scores.json', 'scores.png', 'report.html'
  }  # fmt: skip
  with open(tmp_path / 'adapted' / 'scores.csv', newline='') as file:
    rows = list(csv.DictReader(file))
  scores = np.array([float(row['score']) for row in rows])
  assert [int(row['row']) for row in rows] == list(range(9))
  rank = {int(row['rank']): i for i, row in enumerate(rows)}
  assert sorted(rank) == list(range(1, 10))
  ordered = scores[[rank[k] for k in range(1, 10)]]
  assert (np.diff(ordered) <= 0).all()
  # Rows in reverse, as text, get the same scores in reverse.
  np.savetxt('query.csv', x[::-1], delimiter=',')
  support_file('support.npz', labels=[0] * 6)
  succeed(
    adapt, f'--run_dir={folder}', '--support=support.npz',
    '--query=query.csv', '--output=other/place',
  )  # fmt: skip
  with open(tmp_path / 'other' / 'place' / 'scores.csv', newline='') as file:
    again = [float(row['score']) for row in csv.DictReader(file)]
  np.testing.assert_allclose(again[::-1], scores, rtol=1e-3, atol=1e-4)


def test_study_trains_evaluates_and_goes_on(tmp_path):
  arguments = [
    *TINY, '--learners=protonet:embedding=3+pooled:adapt_steps=0',
    '--test_shots=2', '--test_anomalies=0', '--draws=1', '--baselines=random',
    '--output=out',
  ]  # fmt: skip
  out = succeed(study, *arguments)
  for name in ('protonet', 'pooled', 'random', 'entities'):
    assert name in out
  found = results.load(tmp_path / 'out')
  kinds = found.table.groupby('method')['kind'].first()
  assert dict(kinds) == {
    'protonet': 'learner', 'pooled': 'baseline', 'random': 'baseline'
  }  # fmt: skip
  log = tmp_path / 'out' / 'protonet-0' / 'metrics.jsonl'
  before = log.read_bytes(), log.stat().st_mtime_ns
  (tmp_path / 'out' / 'results.csv').unlink()
  succeed(study, *arguments)
  again = results.load(tmp_path / 'out')
  assert again.table.equals(found.table)
  assert log.read_bytes() == before[0]


# --- wrong command lines -----------------------------------------------------


# Of each program, command lines and what is said of them.
WRONG = {
  'train': {
    '--processes=2': 'coordinator', '--source=mars': "'mars'",
    '--source=vibration:speed=1': "'speed'",
    '--source=vibration:length=long': 'length', '--source=': 'empty',
    '--features=smell': "'smell'", '--features=logspec:bins=x': 'bins',
    '--learner=magic': "'magic'", '--learner=maml:steps=-1': 'steps',
    '--learner=maml:steps': "'steps'", '--learner=maml:inner=chain': 'chain',
    '--model=resnet': "'resnet'", '--outer=nothing': "'nothing'",
    '--outer=adam:rate=fast': 'rate', '--outer=adam:rate=-1': 'rate',
    '--outer=adamw:weight_decay=-0.1': 'weight_decay=-0.1',
    '--schedule=square': 'schedule', '--clip=0': 'clip', '--clip=x': 'clip',
    '--shots=': 'shots', '--shots=1.5': 'shots', '--shots=0': 'shots',
    '--anomalies=-1': 'anomalies', '--contamination=2': 'contamination',
    '--contamination=nan': 'contamination', '--queries=0': 'queries',
    '--context=perhaps': 'perhaps', '--stream=perhaps': 'perhaps',
    '--folds=1': 'folds', '--seed=-1': 'seed', '--seed=x': 'seed',
    '--steps=0': 'steps', '--tasks=0': 'tasks',
    '--validation_tasks=0': 'validation_tasks',
    '--validate_every=0': 'validate_every', '--flagfile=nowhere': 'nowhere',
    '--speed=1': 'speed', 'stray': 'stray',
  },
  'evaluate': {
    '--run_dir=x --tune_baselines=-1': 'tune_baselines',
    '--draws=1': '--run_dir', '--run_dir=x --rows_per_day=0': 'rows_per_day',
    '--run_dir=x --rows_per_day=nan': 'rows_per_day',
    '--run_dir=x --rows_per_day=1,2': '2 rates for 1 sources',
    '--run_dir=x --shots=a': 'shots', '--run_dir=x --shots=0': 'shots',
    '--run_dir=x --shots=': 'shots', '--run_dir=x --anomalies=-2': 'anomalies',
    '--run_dir=x --contamination=0.9': 'contamination',
    '--run_dir=x --draws=0': 'draws', '--run_dir=x --queries=1': 'queries',
    '--run_dir=x --seed=-1': 'seed', '--run_dir=x --split=train': 'split',
    '--run_dir=x --baselines=magic': "'magic'",
    '--run_dir=x --source=mars': "'mars'", '--run_dir=x --steps=': 'steps',
    '--run_dir=x --steps=0': 'steps', '--run_dir=x --tasks=0': 'tasks',
    '--run_dir=x --workers=0': 'workers',
  },
  'page': {
    '--output=x.md': '--results', '--results=x.json': '--output',
    '--results=x --output=x.md --rows_per_day=-1': 'rows_per_day',
  },
  'adapt': {
    '--run_dir= --support=a.npy --query=b.npy': '--run_dir',
    '--run_dir=x --query=b.npy': '--support',
    '--run_dir=x --support=b.npy': '--query',
  },
  'study': {
    '--learners=': 'empty', '--learners=maml+magic': "'magic'",
    '--learners=maml+maml:steps=1': 'once', '--test_folds=': 'test_folds',
    '--test_shots=0': 'shots', '--test_anomalies=x': 'test_anomalies',
    '--test_contamination=1': 'contamination', '--test_source=mars': "'mars'",
    '--draws=0': 'draws', '--baselines=magic': "'magic'", '--seed=-3': 'seed',
    '--run_dir=x': 'run_dir',
  },
}  # fmt: skip


@pytest.mark.parametrize(
  ('program', 'argument', 'told'),
  [(name, *case) for name, cases in WRONG.items() for case in cases.items()],
)
def test_a_wrong_flag_is_usage_in_one_line(program, argument, told, tmp_path):
  assert told in fail(PROGRAMS[program], 2, *argument.split(' '))
  assert not list(tmp_path.iterdir())


# --- bad data ----------------------------------------------------------------


@pytest.mark.parametrize(
  ('arguments', 'told'),
  [
    (['--source=cwru', '--data_dir=nowhere'], 'nowhere'),
    (['--source=vibration:length=8'], 'length'),
    ([TINY[0], '--fold=north'], 'north'),
    ([TINY[0], '--features=logspec:bins=5000'], 'bins'),
  ],
)
def test_training_on_bad_data_leaves_nothing_behind(arguments, told, tmp_path):
  assert told in fail(train, 1, *arguments, '--run_dir=run')
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ('support', 'query', 'told'),
  [
    ('missing.npy', 'good.npy', 'missing.npy'),
    ('good.npy', 'nan.npy', 'row 1'),
    ('good.npy', 'wide.npy', '65'),
    ('sick.npz', 'good.npy', 'no normal row'),
  ],
)
def test_adapting_to_bad_rows_leaves_nothing_behind(
  support, query, told, folder, tmp_path
):
  x = support_file('good.npy')
  x[1, 5] = np.nan
  np.save('nan.npy', x)
  np.save('wide.npy', np.zeros((3, 65)))
  np.savez('sick.npz', x=np.zeros((2, 64)), y=np.ones(2))
  told_of = f'--support={support}', f'--query={query}'
  line = fail(
    adapt, 1, f'--run_dir={folder}', *told_of, printed=('good', support, query)
  )
  assert told in line
  assert not (tmp_path / 'adapted').exists()


def test_runs_that_are_none(folder, tmp_path):
  for program in (evaluate, adapt):
    files_of = ['--support=a.npy', '--query=a.npy'] * (program is adapt)
    told = fail(program, 1, '--run_dir=nowhere', *files_of)
    assert 'nowhere' in told and 'no run directory' in told
  copy = shutil.copytree(folder, tmp_path / 'copy')
  for path in (copy / 'checkpoints').rglob('*'):
    if path.is_file():
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  told = fail(evaluate, 1, f'--run_dir={copy}')
  assert 'cannot read the checkpoint' in told


def test_an_output_that_cannot_be_written(folder):
  pathlib.Path('taken').write_text('mine')
  support_file('good.npy')
  rows = ['--support=good.npy', '--query=good.npy']
  grid = ['--shots=2', '--anomalies=0', '--draws=1', '--baselines=none']
  run = f'--run_dir={folder}'
  line = fail(adapt, 1, run, *rows, '--output=taken', printed='good.npy: ')
  assert 'taken' in line
  code, out, err = call(evaluate, run, *grid, '--output=taken')
  assert (code, out) == (1, '') and err.count('\n') == 1
  told = err.split('\r')[-1]  # after the progress bars
  assert told.startswith('error: ') and 'taken' in told
  assert pathlib.Path('taken').read_text() == 'mine'


def test_a_grid_that_no_entity_fills(folder, tmp_path):
  told = fail(evaluate, 1, f'--run_dir={folder}', '--shots=900')
  assert 'fewer' in told
  assert not (tmp_path / 'results').exists()


# --- help --------------------------------------------------------------------


@pytest.mark.parametrize('name', sorted(PROGRAMS))
def test_help_shows_purpose_example_and_every_flag(name):
  program = PROGRAMS[name]
  out = succeed(program, '--help')
  first = program.__doc__.splitlines()[0]
  assert out.startswith(first)
  assert f'python -m experiments.{name}' in out
  own = program.FLAGS.flags_by_module_dict()
  for module in own:
    if not module.startswith('absl'):
      for flag in own[module]:
        assert f'--{flag.name} ' in out or f'--[no]{flag.name} ' in out
  assert all(len(line) <= 80 for line in out.splitlines())


def test_every_baseline_is_named_in_the_help_of_evaluate():
  out = succeed(evaluate, '--help')
  assert all(name in out for name in baselines.REGISTRY)


@pytest.mark.parametrize(
  ('arguments', 'code'), [(['--help'], 0), (['--learner=magic'], 2)]
)
def test_as_a_process(arguments, code):
  done = subprocess.run(
    [sys.executable, '-m', 'experiments.train', *arguments],
    cwd=ROOT, capture_output=True, text=True, timeout=120,
  )  # fmt: skip
  assert done.returncode == code
  assert done.stderr.count('\n') == (0 if code == 0 else 1)
  assert ('--learner' in done.stdout) == (code == 0)
