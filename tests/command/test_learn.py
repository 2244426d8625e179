"""`metaad learn`, from a long file to a model file."""

import jax
from kills import Killed, kill_at
import numpy as np
import pandas as pd
import pytest

from metaad_jax import MetaAnomalyDetector
from metaad_jax.base import DataError
from metaad_jax.command import learn
from metaad_jax.evaluation import results
from metaad_jax.training import runs


def fleet_of(path, machines=10, shift=3.0):
  """Machines that differ in level; a fault is the same move on all of them."""
  rng = np.random.default_rng(0)
  parts = []
  for i in range(machines):  # the last is small, and has no fault
    x = rng.normal(rng.normal(50, 20, 4), 1.0, (50, 4))
    fault = np.arange(50) >= 42
    x[fault] += [shift, -shift, 0, 0]
    part = pd.DataFrame(x, columns=list('abcd'))
    part = part.assign(pump=f'p{i}', fault=fault.astype(int))
    parts.append(part[:6] if i == machines - 1 else part)
  pd.concat(parts).to_csv(path, index=False)
  return f'fleet:path={path},entity=pump,label=fault'


@pytest.mark.slow
def test_from_a_file_to_a_recommendation(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(learn, 'CANDIDATES', {'deep_mahalanobis': {}})
  monkeypatch.setattr(learn, '_BASELINES', ('mahalanobis',))
  fast = {'steps': 20, 'validate_every': 10}
  monkeypatch.setattr(learn, 'TRAINING', learn.TRAINING | fast)
  monkeypatch.setattr(learn, '_FOLDS', 2)
  spec = fleet_of(tmp_path / 'fleet.csv')
  out, whole = tmp_path / 'out', tmp_path / 'whole'
  go = lambda folder: learn.learn(
    spec, str(folder), shots=(5,), minutes=9.0, seed=0
  )
  with monkeypatch.context() as patched, pytest.raises(Killed):
    kill_at(patched, 3)
    go(out)
  done = {p: p.read_bytes() for p in out.glob('runs/fold0/*/*.json*')}
  capsys.readouterr()
  go(out)
  said = capsys.readouterr().out
  assert done == {p: p.read_bytes() for p in done}  # its seconds, too
  table = results.load(out).table
  assert table.groupby('method').entity.nunique().eq(9).all()  # each held out
  assert (out / 'report.html').exists()
  if 'keep the shipped' in said:
    assert not (out / 'model.npz').exists()
  else:
    detector = MetaAnomalyDetector(run_dir=str(out / 'model.npz'))
    rows = pd.read_csv(tmp_path / 'fleet.csv').query('pump == "p0"')
    x = rows[list('abcd')].to_numpy()
    scores = detector.fit(x[:5]).score_samples(x)
    assert scores[42:].max() < scores[:42].min()
  go(whole)
  pd.testing.assert_frame_equal(
    results.load(whole).table, table, check_exact=True
  )
  for folder in (p.relative_to(whole) for p in whole.glob('runs/*/*')):
    one, other = (runs.restore(str(p / folder)) for p in (out, whole))
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


def test_too_small_a_fleet_is_refused(tmp_path):
  spec = fleet_of(tmp_path / 'fleet.csv', machines=4)
  with pytest.raises(DataError, match='4 entities'):
    learn.learn(spec, str(tmp_path / 'out'), shots=(5,), minutes=1, seed=0)
  assert not (tmp_path / 'out').exists()


def test_machines_that_share_rows_stop_it(tmp_path):
  spec = fleet_of(tmp_path / 'fleet.csv')
  table = pd.read_csv(tmp_path / 'fleet.csv')
  copied = table[table.pump == 'p0'].assign(pump='p1')
  whole = pd.concat([table[table.pump != 'p1'], copied])
  whole.to_csv(tmp_path / 'fleet.csv', index=False)
  with pytest.raises(DataError, match='p0.*p1|p1.*p0'):
    learn.learn(spec, str(tmp_path / 'out'), shots=(5,), minutes=1, seed=0)
  assert not (tmp_path / 'out').exists()
