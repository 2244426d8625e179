"""The examples of the documentation run as they stand, and do what they say."""

import importlib
import pathlib
import re
import sys

from binaries import call, fail, succeed
import jax
import numpy as np
import pytest

from experiments import evaluate, train
from metaad_jax import features, learners, models
from metaad_jax.base import Rows, Task
from metaad_jax.data import registry
from metaad_jax.learners import inner_loop
from metaad_jax.scores import metrics
from metaad_jax.training import loop, plugins

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope='module')
def plugin(tmp_path_factory):
  """The folder of my_plugin.py, which holds what docs/extending.md shows."""
  folder = tmp_path_factory.mktemp('plugin')
  text = (ROOT / 'docs' / 'extending.md').read_text()
  blocks = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
  (folder / 'my_plugin.py').write_text('\n'.join(blocks))
  rng = np.random.default_rng(0)
  (folder / 'pumps').mkdir()
  for pump in range(12):
    rows = rng.normal(size=(240, 2))
    labels = np.arange(240) >= 160
    rows[labels] *= 1 + 4 * rng.random((80, 1)) ** 8
    np.savetxt(
      folder / 'pumps' / f'pump{pump}.csv', np.c_[rows, labels], delimiter=','
    )
  return folder


@pytest.fixture(autouse=True)
def registries(monkeypatch):
  """As they are without plugins, before and after each test."""
  for module in (features, learners, models, registry):
    monkeypatch.setattr(module, 'REGISTRY', dict(module.REGISTRY))
  monkeypatch.setattr(plugins, '_loaded', {})
  yield
  sys.modules.pop('my_plugin', None)


COMMAND = [
  '--source=pumps:length=8', '--features=crest', '--model=gated:width=8',
  '--learner=nearest:embedding=4', '--shots=4', '--anomalies=0,1',
  '--queries=4', '--steps=4', '--tasks=2', '--validation_tasks=4',
]  # fmt: skip


def test_a_run_with_a_plugin_of_all_four_kinds(plugin, tmp_path, monkeypatch):
  run_dir = f'--run_dir={tmp_path / "run"}'
  data_dir = f'--data_dir={plugin}'
  assert 'my_plugin' in fail(train, 2, '--plugin=my_plugin', *COMMAND)
  monkeypatch.syspath_prepend(plugin)
  succeed(train, '--plugin=my_plugin', *COMMAND, run_dir, data_dir)
  assert plugins.loaded() == ['my_plugin']

  grid = ['--shots=4', '--anomalies=0', '--draws=1', '--baselines=none']
  output = f'--output={tmp_path / "table"}'
  succeed(evaluate, run_dir, data_dir, *grid, output)

  # Where the plugin is not, the run says what is missing, and of what.
  monkeypatch.setattr(learners, 'REGISTRY', {})
  sys.modules.pop('my_plugin')
  monkeypatch.setattr(sys, 'path', [p for p in sys.path if p != str(plugin)])
  importlib.invalidate_caches()
  code, _, message = call(evaluate, run_dir, data_dir, *grid, output)
  assert code == 1 and "plugin 'my_plugin'" in message and 'nearest' in message


def test_installed_plugins_are_loaded(plugin, monkeypatch):
  monkeypatch.syspath_prepend(plugin)
  entry = importlib.metadata.EntryPoint('mine', 'my_plugin', plugins.GROUP)
  groups = {plugins.GROUP: [entry]}
  monkeypatch.setattr(
    importlib.metadata, 'entry_points', lambda group: groups[group]
  )
  plugins.load_installed()
  assert 'nearest' in learners.REGISTRY and 'gated' in models.REGISTRY
  assert 'pumps' in registry.REGISTRY and 'crest' in features.REGISTRY


def test_the_example_algorithm_learns(plugin, monkeypatch):
  """Anomalies lie off in one column of two noisy ones: it finds out which."""
  monkeypatch.syspath_prepend(plugin)
  plugins.load(['my_plugin'])
  learner = learners.make('nearest:embedding=4', models.make('mlp:width=8'))

  def sample(key):
    y = np.r_[np.zeros(25), np.ones(20)].astype(np.float32)
    x = jax.random.normal(key, (45, 6)) * np.array([9, 9, 9, 9, 9, 1.0])
    x = x.at[:, 5].add(4 * y)
    part = lambda rows: Rows(x[rows], y[rows], np.ones_like(y[rows]))
    return Task(part(slice(0, 5)), part(slice(5, None)), np.ones(6, np.float32))

  validation = jax.vmap(sample)(jax.random.split(jax.random.key(1), 50))
  state = loop.train(
    learner,
    jax.tree_util.Partial(sample),
    validation,
    metrics.masked_auroc,
    inner_loop.optimizer('adam', 1e-2),
    loop.Settings(steps=300, tasks=8, validate_every=100),
    quiet=True,
  )
  assert state.best_score > 0.9


def test_every_command_of_the_readme_names_real_flags():
  """Each `python -m experiments.X --flag` in the texts exists."""
  texts = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
  texts += sorted((ROOT / 'experiments' / 'flags').glob('*.flags'))
  seen = 0
  for path in texts:
    text = path.read_text().replace('\\\n', ' ')
    for line in re.findall(r'python -m experiments\.(.*)', text):
      name, _, rest = line.partition(' ')
      name = re.match(r'\w+', name)
      module = importlib.import_module(f'experiments.{name[0]}')
      for flag in re.findall(r'--(\w+)', rest.split('`')[0]):
        assert flag in module.FLAGS or flag in ('help', 'flagfile', 'plugin'), (
          f'{path}: {line}'
        )
        seen += 1
  assert seen > 5


def test_flagfiles_are_valid():
  files = sorted((ROOT / 'experiments' / 'flags').glob('*.flags'))
  assert files
  for path in files:
    text = path.read_text()
    command = rf'-m experiments\.(\w+)\s[^#]*?(\n#\s[^#]*?)*{path.name}'
    named = re.search(command, text)
    assert named, f'{path.name}: its first line must be the command'
    module = importlib.import_module(f'experiments.{named[1]}')
    for flag in re.findall(r'^--(\w+)', text, re.MULTILINE):
      known = {flag, flag.removeprefix('no')} & {*module.FLAGS, 'flagfile'}
      assert known, f'{path.name}: --{flag}'


def test_the_table_of_learners_is_complete_and_its_lengths_are_true():
  text = (ROOT / 'docs' / 'learners.md').read_text()
  rows = re.findall(r'^\| (`.*) \| ([^|]*) \|$', text, re.MULTILINE)
  named = {name for row, _ in rows for name in re.findall(r'`(\w+)`', row)}
  ours = {name for name in learners.REGISTRY if not name.startswith('test_')}
  assert ours - learners.BASELINES <= named
  folder = ROOT / 'metaad_jax' / 'learners'
  files = {'tables': 'in_context', 'deep_mahalanobis': 'mahalanobis'}
  for row, lines in rows:
    if lines.isdecimal():
      name = re.search(r'`(\w+)`', row)[1]
      file = folder / f'{files.get(name, name)}.py'
      assert len(file.read_text().splitlines()) == int(lines), file
