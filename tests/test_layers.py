"""The order of the layers, as docs/architecture.md draws it."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LIBRARY = sorted((ROOT / 'metaad_jax').rglob('*.py'))
PROGRAMS = sorted((ROOT / 'experiments').rglob('*.py'))


def name_of(path):
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {name_of(path): path for path in LIBRARY + PROGRAMS}


def imports(path, top_level=False):
  """Every module that a file imports, as absolute names."""
  tree = ast.parse(path.read_text())
  nodes = tree.body if top_level else ast.walk(tree)
  found = set()
  for node in nodes:
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: relative import'
      for alias in node.names:
        full = f'{node.module}.{alias.name}'
        found.add(full if full in MODULES else node.module)
  return found


def rank_table():
  """{'base': (0, 0), 'sources': (2, 0), ...} from the table of the document."""
  text = (ROOT / 'docs' / 'architecture.md').read_text()
  text = text.partition('| place | holds |')[2].partition('\n\n')[0]
  ranks = {}
  rows = re.findall(r'^\| (`.*?`) \|', text, re.MULTILINE)
  for row, cell in enumerate(rows):
    for column, place in enumerate(re.findall(r'`([^`]+)`', cell)):
      ranks[place.split('/')[0].removesuffix('.py')] = row, column
  return ranks


RANKS = rank_table()


def layer(name):
  """'metaad_jax.learners.maml' -> 'learners'."""
  return name.split('.')[1] if name.count('.') else ''


def violations(name, path):
  own = RANKS[layer(name)]
  for used in imports(path):
    if not used.startswith('metaad_jax') or used == 'metaad_jax':
      continue
    if layer(used) == layer(name):
      if name == used or used == f'metaad_jax.{layer(name)}':
        yield f'{name} imports its own registry {used}'
    elif RANKS[layer(used)] >= own:
      yield f'{name} imports {used}, which is not above it'


def test_every_module_has_a_row():
  known = {layer(name) for name in MODULES if name.startswith('metaad_jax')}
  assert known - {''} == set(RANKS) - {'experiments'}
  assert RANKS['base'] == (0, 0)
  assert max(RANKS, key=RANKS.get) == 'experiments'


@pytest.mark.parametrize('name', sorted(MODULES))
def test_imports_point_upwards(name):
  if name.startswith('metaad_jax.'):
    assert not list(violations(name, MODULES[name]))


def test_the_check_sees_a_violation(tmp_path):
  path = tmp_path / 'a.py'
  path.write_text('from metaad_jax.evaluation import tuning\n')
  assert list(violations('metaad_jax.training.loop', path))
  path.write_text('from metaad_jax import learners\n')
  assert list(violations('metaad_jax.learners.maml', path))
  path.write_text('def f():\n  import metaad_jax.reports.report\n')
  assert list(violations('metaad_jax.evaluation.evaluate', path))


@pytest.mark.parametrize('name', sorted(MODULES))
def test_who_may_import_what(name):
  roots = {used.split('.')[0] for used in imports(MODULES[name])}
  assert not roots & {'pickle', 'cPickle', 'dill', 'cloudpickle', 'shelve'}
  if name.startswith('metaad_jax'):
    assert not roots & {'absl', 'experiments'}
    assert 'flax' not in roots or layer(name) == 'models'


def test_every_load_of_arrays_refuses_pickles():
  for path in LIBRARY + PROGRAMS:
    for node in ast.walk(ast.parse(path.read_text())):
      if not isinstance(node, ast.Call):
        continue
      called = ast.unparse(node.func)
      if called == 'np.load':
        told = {k.arg: ast.literal_eval(k.value) for k in node.keywords}
        assert told.get('allow_pickle') is False, path


def test_baselines_start_without_jax():
  assert 'jax' not in {
    used.split('.')[0]
    for used in imports(
      MODULES['metaad_jax.evaluation.baselines'], top_level=True
    )
  }
  code = (
    'import sys, metaad_jax.evaluation.baselines; '
    "sys.exit(any(m.split('.')[0] == 'jax' for m in sys.modules))"
  )
  assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize('name', sorted(MODULES))
def test_sizes(name):
  """Files of at most 500 lines, functions of at most 60."""
  text = MODULES[name].read_text()
  assert len(text.splitlines()) <= 500
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.FunctionDef):
      assert node.end_lineno - node.lineno < 60, node.name
