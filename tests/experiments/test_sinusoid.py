"""The regression problem of the MAML paper: its facts; it can be learnt."""

import json

from binaries import succeed
import jax
import numpy as np
from scipy import stats

from experiments import sinusoid


def test_amplitudes_phases_and_inputs_are_uniform_as_in_the_paper():
  tasks = jax.jit(jax.vmap(lambda key: sinusoid.sample(key, 5, 3)))(
    jax.random.split(jax.random.key(0), 4000)
  )
  x = np.concatenate([tasks.support.x, tasks.query.x], 1)[..., 0]
  y = np.concatenate([tasks.support.y, tasks.query.y], 1)
  x, y = x.astype(float), y.astype(float)
  assert (tasks.support.mask == 1).all() and (tasks.query.mask == 1).all()
  # A sin(x - p) = A cos(p) sin(x) - A sin(p) cos(x): two least squares each.
  basis = np.stack([np.sin(x), -np.cos(x)], -1)
  weights = np.linalg.pinv(basis) @ y[..., None]
  np.testing.assert_allclose((basis @ weights)[..., 0], y, atol=1e-4)
  amplitude = np.hypot(*weights[..., 0].T)
  phase = np.arctan2(weights[:, 1, 0], weights[:, 0, 0])
  for values, low, high in (
    (amplitude, 0.1, 5.0),
    (phase, 0.0, np.pi),
    (x[:, 0], -5.0, 5.0),
  ):
    assert low - 1e-3 <= values.min() and values.max() <= high + 1e-3
    test = stats.kstest(values, 'uniform', (low, high - low))
    assert test.pvalue > 1e-3
  assert abs(np.corrcoef(amplitude, phase)[0, 1]) < 0.06
  assert abs(np.corrcoef(x[:, 0], x[:, 1])[0, 1]) < 0.06


def test_a_task_is_a_function_of_its_key():
  one, same, other = (
    sinusoid.sample(jax.random.key(k), 4, 6) for k in (1, 1, 2)
  )
  jax.tree.map(np.testing.assert_array_equal, one, same)
  assert not np.isin(one.support.x, other.support.x).any()
  assert not np.isin(one.support.x, one.query.x).any()


def test_a_short_run_adapts_better_than_its_initialisation(tmp_path):
  succeed(
    sinusoid, '--learner=maml:steps=1,rate=0.01', '--steps=500',
    '--test_shots=10', '--test_tasks=300', '--test_steps=1,5',
    f'--run_dir={tmp_path}',
  )  # fmt: skip
  table = json.loads((tmp_path / 'mse.json').read_text())
  assert [row['steps'] for row in table] == [1, 5]
  assert max(row['mse'] for row in table) < 3.6  # of a constant: 4.2
  assert all(row['low'] < row['mse'] < row['high'] for row in table)
