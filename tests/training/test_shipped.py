"""The file that the package ships: small, whole, known to every binary."""

import os

from binaries import call, succeed
import jax
import numpy as np
import pytest

from experiments import evaluate, export
from metaad_jax import storage
from metaad_jax.base import Rows, Task
from metaad_jax.data import audits, registry
from metaad_jax.evaluation import results
from metaad_jax.training import runs

_ROWS = Rows(*(np.ones(shape, 'f4') for shape in ((1, 4), (1,), (1,))))
TASK = Task(_ROWS, _ROWS, np.ones(4, 'f4'))


def test_it_is_small_and_says_what_it_was_trained_on():
  assert os.path.getsize(runs._SHIPPED) < 2_000_000
  run = runs.restore('shipped')
  assert run.config.source == 'oddbench:overlap=False'
  assert run.config.fold == 'part0' and run.calibration is not None
  assert len(run.seen) > 300


@pytest.mark.parametrize('name, least', [('unverified', 0), ('thorough', 1)])
def test_files_for_unverified_rows_are_of_the_same_tables(name, least):
  """Together they are small; their names alone make their parameters."""
  files = runs._SHIPPED, runs._UNVERIFIED, runs._THOROUGH
  assert sum(map(os.path.getsize, files)) < 4_000_000
  run, plain = runs.restore(name), runs.restore('shipped')
  assert run.setup.suspicious and not plain.setup.suspicious
  assert run.seen == plain.seen and run.calibration is not None
  assert run.calibration.shots[0] == least  # 0 = nothing verified
  traced = jax.eval_shape(run.learner.init, jax.random.key(0), TASK)
  shape = lambda leaf: (leaf.shape, leaf.dtype)
  assert jax.tree.map(shape, run.params) == jax.tree.map(shape, traced)


def test_an_export_of_it_is_the_same_file(tmp_path):
  succeed(export, '--run_dir=shipped', f'--output={tmp_path / "copy.npz"}')
  ours, _ = storage.load(runs._SHIPPED)
  copy, _ = storage.load(str(tmp_path / 'copy.npz'))
  assert set(ours) == set(copy)
  for name, array in ours.items():
    np.testing.assert_array_equal(array, copy[name])


@pytest.mark.skipif(
  'METAAD_DATA_DIR' not in os.environ, reason='needs METAAD_DATA_DIR'
)
def test_it_knows_what_it_has_seen():
  """Of the public tables, none of the test fold, all of the others."""
  run = runs.restore('shipped')
  spec = run.config.source
  entities = registry.load(spec, os.environ['METAAD_DATA_DIR'])
  for entity in entities:
    seen = audits.digest(entity) in run.seen
    assert seen == (entity.fold != run.config.fold), entity.name


@pytest.mark.slow
def test_other_tables_of_the_same_format_are_one_command(tmp_path):
  """--data_dir=<another root>, whatever the names, with every split."""
  rng = np.random.default_rng(0)
  root = tmp_path / 'elsewhere' / 'oddbench'
  root.mkdir(parents=True)
  for name in ('Mine', 'Yours'):
    test = rng.normal(size=(60, 4))
    labels = np.arange(60) % 3 == 0
    test[labels] += 4
    train_rows = rng.normal(size=(40, 4))
    arrays = {'train': train_rows, 'test': test, 'test_labels': labels}
    np.savez(root / f'{name}.npz', **arrays)
  succeed(
    evaluate, '--run_dir=shipped', '--source=oddbench',
    f'--data_dir={tmp_path / "elsewhere"}', '--split=all', '--shots=5',
    '--anomalies=1', '--draws=1', '--baselines=knn', '--workers=1',
    f'--output={tmp_path / "found"}',
  )  # fmt: skip
  found = results.load(tmp_path / 'found')
  areas = found.table.auroc[found.table.method == 'tables']
  assert len(areas) == 2 and min(areas) > 0.9
  assert not any('trained or validated' in note for note in found.meta['notes'])
  code, _, told = call(
    evaluate, '--run_dir=shipped', '--source=oddbench', '--split=all',
    f'--data_dir={tmp_path / "elsewhere"}', '--tune_baselines=2',
    f'--output={tmp_path / "no"}',
  )  # fmt: skip
  assert code == 1 and 'leave out --tune_baselines' in told
