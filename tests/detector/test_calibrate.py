"""Fitting a run's calibration on entities, and the check on others."""

import json

from binaries import fail, succeed
import nearest_run
import numpy as np
import pytest

from experiments import calibrate, train
from metaad_jax.base import Entity
from metaad_jax.detector import calibrate as calibrating
from metaad_jax.detector.estimator import MetaAnomalyDetector
from metaad_jax.scores import conformal
from metaad_jax.training import exports, runs

FLEET = 'vibration:machines=12,test_machines=4,windows=12,queries=24,length=64'


@pytest.fixture(scope='module')
def run():
  return runs.restore(nearest_run.shared())


def entities(count, seed):
  found = []
  for i in range(count):
    rng = np.random.default_rng([seed, i])
    normal, bad = nearest_run.table(rng, 60, 5, 6.0)
    query = np.concatenate([normal[30:], bad[:30]]).astype('f4')
    labels = np.repeat([0, 1], 30).astype('i4')
    found.append(Entity(f'{seed}-{i}', normal[:30].astype('f4'), query, labels))
  return found


def test_a_support_shares_no_row_with_what_is_scored():
  entity = entities(1, 0)[0]
  rng = np.random.default_rng(0)
  for share in (0.0, 0.25):
    drawn = calibrating.draw(rng, entity, 8, 3, share)
    known = {row.tobytes() for row in drawn.x}
    assert len(known) == 11
    assert not known & {r.tobytes() for r in (*drawn.normal, *drawn.anomaly)}
    bad = {row.tobytes() for row in entity.query[entity.labels == 1]}
    wrong = [row.tobytes() in bad for row in drawn.x[:8]]
    assert sum(wrong) == (0 if share == 0 else 2)
    assert all(row.tobytes() in bad for row in drawn.x[8:])
  assert calibrating.draw(rng, entity, 31, 0) is None
  assert calibrating.draw(rng, entity, 5, 30) is None


def test_every_rule_is_checked_and_ours_keeps_its_promise(run):
  grid = {'shots': (5, 10), 'anomalies': (0, 1), 'contamination': (0.1,)}
  found = calibrating.cases(run, entities(24, 1), **grid, draws=1)
  calibrated = conformal.fit(found)
  settings = (0, 0.0), (1, 0.0), (0, 0.1)
  options = {'shots': (10,), 'settings': settings, 'draws': 1}
  records = calibrating.check(run, calibrated, entities(24, 2), **options)
  cell = 'anomalies', 'contamination', 'rule', 'rate'
  by = {tuple(record[name] for name in cell): record for record in records}
  for setting in settings:
    for rule in ('across entities', 'with 20 own normals'):
      ours = by[*setting, rule, 0.1]
      error = abs(ours['false_alarms'] - 0.1)
      assert error < 0.025 + 3 * ours['standard_error']
      assert ours['entities'] == 24
  assert by[0, 0.0, 'across entities', 0.1]['recall'] > 0.5
  # Rows that a detector was adapted to score far too low for a threshold.
  assert by[0, 0.0, 'PyOD contamination', 0.1]['false_alarms'] > 0.5
  # Five rows certify no rate below 1 / 6.
  assert by[0, 0.0, 'split within', 0.1]['false_alarms'] == 0
  text = calibrating.table(records, 0.1)
  assert text.count('\n') == 1 + 3 * 6
  assert calibrating.picture(records, 'tables').startswith(b'\x89PNG')


@pytest.mark.slow
def test_the_binary_calibrates_a_run_of_windows(tmp_path):
  folder = tmp_path / 'run'
  options = """--features=statistics --steps=2 --model=mlp:width=6,depth=1
    --learner=protonet --tasks=4 --shots=4 --anomalies=0 --validation_tasks=4
    --validate_every=2""".split()
  succeed(train, f'--source={FLEET}', *options, f'--run_dir={folder}')
  options = '--shots=2,4 --anomalies=0 --contamination= --draws=1'.split()
  report = f'--report={tmp_path / "report"}'
  out = succeed(calibrate, f'--run_dir={folder}', *options, report)
  assert 'entities' in out and 'nominal 5%' in out
  held = json.loads((tmp_path / 'report' / 'calibration.json').read_text())
  assert held['schema'] == 1 and FLEET in held['records']
  assert {p.name for p in (tmp_path / 'report').iterdir()} == {
    'calibration.json', 'calibration.md', 'calibration_vibration.png',
  }  # fmt: skip
  assert list(runs.restore(str(folder)).calibration.shots) == [2, 4]
  rng = np.random.default_rng(0)
  windows = rng.normal(size=(8, 64, runs.restore(str(folder)).layout.shape[1]))
  detector = MetaAnomalyDetector(str(folder), false_alarm_rate=0.2)
  told = detector.fit(windows[:4]).explain(20 * windows[4:6])
  assert np.isfinite(told[0].attributions).all() and len(told[0].times) == 16
  assert told[0].time_unit == 's'  # the source's sampling rate is known
  model = str(tmp_path / 'model.npz')
  exports.export(str(folder), model)
  assert runs.restore(model).calibration is not None


@pytest.mark.parametrize(
  'arguments, message',
  [
    ([], '--run_dir is missing'),
    (['--run_dir=x', '--shots=-1'], '--shots and --anomalies start at 0'),
    (['--run_dir=x', '--contamination=0.9'], 'between 0 and 0.5'),
    (['--run_dir=x'], 'no run directory'),
  ],
)
def test_what_the_binary_refuses(arguments, message):
  code = 1 if message == 'no run directory' else 2
  assert message in fail(calibrate, code, *arguments)
