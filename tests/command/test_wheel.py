"""The wheel alone, without the repository, experiments or training."""

import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import sys
site, *rest = sys.argv[1:]
sys.path.insert(0, site)
class Absent:  # not part of what the wheel asks for
  names = {'experiments', 'matplotlib', 'orbax', 'polars', 'pooch', 'pyarrow',
           'pyod', 'scikit_posthocs'}
  def find_spec(self, name, path=None, target=None):
    if name in self.names:
      raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Absent())
from metaad_jax.command import program
assert program.__file__.startswith(site), program.__file__
for line in rest:
  try:
    program.main(line.split())
  except SystemExit as end:
    assert not end.code, (line, end.code)
"""


@pytest.mark.slow
def test_the_wheel_fits_scores_explains_reports_and_exports(tmp_path):
  source, site = tmp_path / 'source', tmp_path / 'site'
  source.mkdir()
  for name in ('pyproject.toml', 'README.md', 'LICENSE'):
    shutil.copy(ROOT / name, source)
  shutil.copytree(ROOT / 'metaad_jax', source / 'metaad_jax')
  python = lambda *line: subprocess.run(
    [sys.executable, *map(str, line)], cwd=tmp_path, check=True, timeout=600
  )
  python('-m', 'build', '--no-isolation', '--outdir', 'dist', source)
  (wheel,) = (tmp_path / 'dist').glob('*.whl')
  python('-m', 'twine', 'check', '--strict', *(tmp_path / 'dist').iterdir())
  install = 'install', '--quiet', '--no-deps', '--no-index', '--target'
  python('-m', 'pip', *install, site, wheel)
  python(
    '-I', '-c', PROGRAM, site, 'sample s', 'fit s/normal.csv --output=m.npz',
    'score m.npz s/new.csv', 'explain m.npz s/new.csv --rows=3',
    'export m.npz --output=c.npz',
  )  # fmt: skip
  found = {path.name for path in (tmp_path / 'found').iterdir()}
  assert found == {'scores.csv', 'scores.json', 'report.html'}
  assert (tmp_path / 'c.npz').exists()
