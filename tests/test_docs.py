"""The examples of the documentation run as they stand, and do what they say."""

import importlib
import pathlib
import re

import jax
import numpy as np
import pytest

from metaad_jax import features, learners, models
from metaad_jax.base import Rows, Task
from metaad_jax.data import episodes, registry, splitting
from metaad_jax.learners import inner_loop
from metaad_jax.scores import metrics
from metaad_jax.training import loop

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def blocks(monkeypatch):
  """The Python of docs/extending.md, run with registries of its own."""
  for module in (learners, registry, features):
    monkeypatch.setattr(module, 'REGISTRY', dict(module.REGISTRY))
  text = (ROOT / 'docs' / 'extending.md').read_text()
  for block in re.findall(r'```python\n(.*?)```', text, re.DOTALL):
    exec(compile(block, 'docs/extending.md', 'exec'), {})


def test_the_example_algorithm_learns(blocks):
  """Anomalies lie off in one column of two noisy ones: it finds out which."""
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
    optimizer=inner_loop.optimizer('adam', 1e-2),
    steps=300,
    tasks=8,
    validate_every=100,
    quiet=True,
  )
  assert state.best_score > 0.9


def test_the_example_source_loads(blocks, tmp_path):
  folder = tmp_path / 'pumps'
  folder.mkdir()
  rng = np.random.default_rng(0)
  for pump in range(6):
    rows = rng.normal(size=(40, 3)).round(3)
    labels = (np.arange(40) >= 30).astype(int)
    lines = [
      ','.join(map(str, [*row, label]))
      for row, label in zip(rows, labels, strict=True)
    ]
    (folder / f'pump{pump}.csv').write_text('\n'.join(lines))
  entities = registry.load('pumps:support=12', str(tmp_path))
  assert len(entities) == 6
  assert entities[0].normal.shape == (12, 3)
  assert entities[0].labels.sum() == 10
  sides = splitting.split(entities, folds=3)
  assert episodes.pool(sides['train']).normal.shape[1:] == (12, 3)


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
        assert flag in module.FLAGS or flag in ('help', 'flagfile'), (
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
      known = {flag, flag.removeprefix('no')} & set(module.FLAGS)
      assert known, f'{path.name}: --{flag}'
