r"""Adapts a trained run to a new entity from a few samples, and scores others.

  python -m experiments.adapt --run_dir=runs/protonet \
    --support=normal.npy --query=new.csv --output=adapted

--support holds 5 to 20 rows that are known: all normal, or with a column
(csv) or array (npz) of labels, 1 = anomaly. --query holds the rows to score.
A row is what the run was trained on: a window of samples, or a row of a table.
Writes scores.csv (row, score, rank; higher = more abnormal) and scores.png,
in which each known row is scored after adapting on the others.
"""

import csv
import os

from absl import flags
import numpy as np

from experiments import cli
from metaad_jax import report, results, runs
from metaad_jax.base import DataError
from metaad_jax.sources import user_rows

FLAGS = flags.FlagValues()
_RUN_DIR = flags.DEFINE_string(
  'run_dir', None, 'folder of a trained run', flag_values=FLAGS
)
_SUPPORT = flags.DEFINE_string(
  'support', None, 'known rows: .npy, .npz or .csv', flag_values=FLAGS
)
_QUERY = flags.DEFINE_string(
  'query', None, 'rows to score: .npy, .npz or .csv', flag_values=FLAGS
)
_OUTPUT = flags.DEFINE_string(
  'output', 'adapted', 'folder for the scores', flag_values=FLAGS
)


def _without_itself(run, support, labels):
  """Scores [n] of the support's rows, each after adapting on the others.

  A row that was adapted on scores lower than a new one like it would. Where
  the others hold no normal it has to be scored with itself.
  """
  scores = []
  for i in range(len(support)):
    others = np.delete(np.arange(len(support)), i)
    if not (labels[others] == 0).any():
      others = np.arange(len(support))
    score = runs.adapt(run, support[others], labels[others])
    scores.append(score(support[i : i + 1])[0])
  return np.array(scores)


def main() -> None:
  """Reads, adapts, scores, writes."""
  for flag in (_RUN_DIR, _SUPPORT, _QUERY):
    if not flag.value:
      raise cli.UsageError(f'--{flag.name} is missing')
  run = runs.restore(str(_RUN_DIR.value))
  if runs.regression(run.config):
    raise DataError(
      f'{_RUN_DIR.value} was trained on a regression problem: it ranks no rows'
    )
  support, labels = user_rows.read(str(_SUPPORT.value), run.layout.shape)
  query, _ = user_rows.read(str(_QUERY.value), run.layout.shape)
  if labels is None:
    labels = np.zeros(len(support), np.float32)
  if not (labels == 0).any():
    raise DataError(
      f'{_SUPPORT.value} has no normal row (label 0): give at least one'
    )
  score = runs.adapt(run, support, labels)
  known, scores = _without_itself(run, support, labels), score(query)
  os.makedirs(_OUTPUT.value, exist_ok=True)
  rank = np.empty(len(scores), int)
  rank[np.argsort(-scores, kind='stable')] = np.arange(1, len(scores) + 1)
  path = os.path.join(_OUTPUT.value, 'scores.csv')
  with open(path + '.part', 'w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['row', 'score', 'rank'])
    writer.writerows(
      [i, f'{s:.6g}', r]
      for i, (s, r) in enumerate(zip(scores, rank, strict=True))
    )
  os.replace(path + '.part', path)
  picture = os.path.join(_OUTPUT.value, 'scores.png')
  results.write_bytes(picture, report.adapted_png(known, labels, scores))
  worst = ', '.join(str(row) for row in np.argsort(-scores)[:5])
  print(
    f'{len(scores)} rows scored from {int((labels == 0).sum())} normals and '
    f'{int(labels.sum())} anomalies; the most abnormal rows: {worst}\n'
    f'{path} and {picture} written'
  )


if __name__ == '__main__':
  cli.run(main, FLAGS)
