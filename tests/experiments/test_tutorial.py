"""The notebook runs from top to bottom, and finds what it says it finds."""

import pathlib

import nbclient
import nbformat
import nearest_run
import pytest

from metaad_jax.detector import fitted
from metaad_jax.training import runs

NOTEBOOK = pathlib.Path(__file__).parents[2] / 'docs' / 'tutorial.ipynb'


@pytest.fixture(scope='module')
def notebook():
  return nbformat.read(NOTEBOOK, as_version=4)


def test_every_cell_runs_with_another_detector(notebook, monkeypatch):
  """In this process, with a run that needs no training."""
  monkeypatch.setattr(runs, '_SHIPPED', nearest_run.shared())
  fitted._load_run.cache_clear()
  names: dict = {}
  try:
    for cell in notebook.cells:
      assert not cell.get('outputs')
      if cell.cell_type == 'code':
        exec(cell.source, names)
  finally:
    fitted._load_run.cache_clear()
  assert names['auroc'] > 0.8
  assert names['found'].outliers.any() and len(names['explanations']) == 2


@pytest.mark.slow
def test_it_runs(notebook, tmp_path, monkeypatch):
  monkeypatch.setenv('PYTHONPATH', str(NOTEBOOK.parents[1]))
  monkeypatch.setenv('IPYTHONDIR', str(tmp_path / 'ipython'))
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  done = nbclient.NotebookClient(
    notebook, timeout=900, resources={'metadata': {'path': str(tmp_path)}}
  ).execute()
  outputs = [o for cell in done.cells for o in cell.get('outputs', ())]
  printed = ''.join(output.get('text', '') for output in outputs)
  assert float(printed.split('AUROC ')[1].split()[0]) > 0.85
  assert any('image/png' in output.get('data', {}) for output in outputs)
