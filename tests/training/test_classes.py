"""A run that tells classes apart, from its flags to its accuracy."""

import json

from binaries import fail, succeed
import jax
import numpy as np
import public_layouts
import pytest

from experiments import evaluate, study, train
from metaad_jax.base import DataError
from metaad_jax.data import registry
from metaad_jax.detector.estimator import MetaAnomalyDetector
from metaad_jax.evaluation import accuracy
from metaad_jax.training import runs, setup

SMALL = [
  '--source=omniglot:anomalies=2', '--way=3', '--shots=2', '--queries=4',
  '--model=mlp:width=4,depth=1', '--tasks=2', '--steps=4', '--folds=2',
  '--validation_tasks=8', '--validate_every=4', '--devices=1',
]  # fmt: skip


def test_from_the_flags_to_the_accuracy(tmp_path):
  public_layouts.write_omniglot(tmp_path)
  folders = [f'--run_dir={tmp_path / "run"}', f'--data_dir={tmp_path}']
  told = succeed(train, *SMALL, '--learner=protonet:embedding=4', *folders)
  assert 'accuracy' in told
  found = succeed(evaluate, *folders, '--tasks=30', f'--output={tmp_path}')
  row = json.loads((tmp_path / 'accuracy.json').read_text())['runs'][0]
  assert row['way'] == 3 and row['shots'] == [2] and row['tasks'] == 30
  assert 0 < row['low'] < row['accuracy'] < row['high'] <= 1.01
  assert f'{row["accuracy"]:.4f}' in found

  run = runs.restore(str(tmp_path / 'run'))
  again = accuracy.of_tasks(run, data_dir=str(tmp_path), tasks=30)
  np.testing.assert_allclose(again.mean(), row['accuracy'], rtol=1e-6)
  half = 1.96 * again.std(ddof=1) / 30**0.5
  np.testing.assert_allclose(row['high'] - row['low'], 2 * half, rtol=1e-6)
  detector = MetaAnomalyDetector(run_dir=str(tmp_path / 'run'))
  with pytest.raises(DataError, match='way=3'):
    detector.fit(np.zeros((5, 28, 28)))


@pytest.mark.parametrize(
  'wrong',
  [
    ['--learner=relation'], ['--shots=1,5'], ['--context'],
    ['--stream', '--source=vibration'],
    ['--way=-1'], ['--way=0', '--model=conv4'],
    ['--learner=maml:outputs=3'],
  ],
)  # fmt: skip
def test_what_makes_no_sense_of_classes_is_refused(wrong):
  fail(train, 2, *SMALL, *wrong)
  assert 'way' not in study.FLAGS


def test_images_are_scaled_as_one_column(tmp_path):
  """Of all training drawings, whatever the support."""
  config = setup.Config(
    source='omniglot:anomalies=2', model='conv4:channels=2,layers=2',
    features='raw', learner='protonet:embedding=3', way=2, shots=(1,),
    queries=2, folds=2,
  )  # fmt: skip
  public_layouts.write_omniglot(tmp_path)
  data = runs.load_data(config, str(tmp_path))
  ink = np.concatenate([e.normal for e in data.entities['train']])
  prior = runs.prior_of(data.entities['train'], True)
  made = setup.resolve(config).at(data.layout, prior)
  assert registry.get('omniglot')[0].images and made.pooled
  np.testing.assert_allclose(prior.centre, [ink.mean()], rtol=1e-5)
  np.testing.assert_allclose(prior.between, [ink.std()], rtol=1e-4)
  sample, _ = runs.samplers(made, data)
  task = jax.eval_shape(sample, jax.random.key(0))
  assert task.support.x.shape == (2, 28, 28)
  restored = setup.resolve(config).at(data.layout)
  same = [
    jax.eval_shape(one.learner.init, jax.random.key(0), made.example())
    for one in (made, restored)
  ]
  assert jax.tree.leaves(same[0]) == jax.tree.leaves(same[1])
