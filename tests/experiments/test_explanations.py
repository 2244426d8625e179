"""What is planted in rows and signals is found by the explanations."""

import nearest_run
import numpy as np
import pytest

from experiments import explanations
from metaad_jax.base import Entity


@pytest.fixture(scope='module')
def run_dir():
  return nearest_run.shared()


def test_planted_columns_are_found(run_dir):
  explanations.FLAGS(['program', f'--run_dir={run_dir}'])
  rng = np.random.default_rng(4)
  normal, _ = nearest_run.table(rng, 60, 5)
  normal[:, 2] = 1  # cannot be planted in: it has no range
  entity = Entity('a', normal[:30], normal[30:], np.zeros(30, np.int32))
  found = explanations.planted_columns(entity, rng, 6)
  assert all(row['found'] and row['place'] == 0 for row in found)
  assert max(row['error'] for row in found) < 1e-6
  assert '6 (100.0%)' in explanations.summary(found)


def test_planted_bands_are_found(run_dir):
  """Tones 20 to 200 times as strong as the noise in a band of 4 lines."""
  explanations.FLAGS(['program', f'--run_dir={run_dir}'])
  rng = np.random.default_rng(5)
  windows = rng.normal(size=(40, 256, 2)).astype(np.float32)
  entity = Entity('a', windows[:20], windows[20:], np.zeros(20, np.int32))
  found = explanations.planted_bands('noise', 100.0, entity, rng, 6)
  assert [row['place'] for row in found] == [0] * 6
  assert all(row['columns'] == 64 for row in found)
  assert max(row['error'] for row in found) < 1e-6
