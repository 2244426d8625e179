"""The notebook runs from top to bottom, and finds what it says it finds."""

import os
import pathlib

import nbclient
import nbformat
import nearest_run
import pytest

from metaad_jax.detector import estimator
from metaad_jax.training import runs

NOTEBOOK = pathlib.Path(__file__).parents[2] / 'docs' / 'tutorial.ipynb'


@pytest.fixture(scope='module')
def notebook():
  return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_short_and_holds_no_output(notebook):
  assert len(notebook.cells) < 20
  for cell in notebook.cells:
    assert not cell.get('outputs') and cell.get('execution_count') is None


def test_every_cell_runs_with_another_detector(notebook, tmp_path, monkeypatch):
  """In this process, with a run that needs no training."""
  path = nearest_run.write(tmp_path / 'nearest.npz')
  monkeypatch.setattr(runs, '_SHIPPED', path)
  estimator._load_run.cache_clear()
  names: dict = {}
  try:
    for cell in notebook.cells:
      if cell.cell_type == 'code':
        exec(cell.source, names)
  finally:
    estimator._load_run.cache_clear()
  assert names['auroc'] > 0.8
  assert names['found'].outliers.any() and len(names['explanations']) == 2


def test_it_runs(notebook, tmp_path, monkeypatch):
  if not os.path.exists(runs._SHIPPED):
    pytest.skip('the checkpoint that is shipped is not there')
  monkeypatch.setenv('PYTHONPATH', str(NOTEBOOK.parents[1]))
  monkeypatch.setenv('IPYTHONDIR', str(tmp_path / 'ipython'))
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  done = nbclient.NotebookClient(
    notebook, timeout=900, resources={'metadata': {'path': str(tmp_path)}}
  ).execute()
  printed = ''.join(
    output.get('text', '')
    for cell in done.cells
    for output in cell.get('outputs', ())
  )
  auroc = float(printed.split('AUROC ')[1].split()[0])
  assert auroc > 0.85
  assert any(
    'image/png' in output.get('data', {})
    for cell in done.cells
    for output in cell.get('outputs', ())
  )
