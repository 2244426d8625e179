r"""Plants anomalies in real tables and asks why; draws real cases, too.

  python -m experiments.explanations --data_dir=data --output=runs/explanations

In tables of OddBench's validation side, the detector is fitted on --shots
normals; one column of an unseen normal row is moved out of the support's range
by 6 to 10 times that range. Of the rows that are called abnormal, in how many
does that column come first? Then one anomaly each of --cases is explained: the
first alarm in the file. Writes explanations.json, explanations.md and a PNG of
each case.
"""

import json
import os

from absl import flags
import numpy as np

from experiments import cli
from metaad_jax import detector, episodes, explain, results, sources
from metaad_jax.base import DataError

FLAGS = flags.FlagValues()
_RUN_DIR = flags.DEFINE_string(
  'run_dir', 'shipped', 'a calibrated run', flag_values=FLAGS
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'root of the data', flag_values=FLAGS
)
_TABLES = flags.DEFINE_integer(
  'tables', 50, 'evenly chosen from the validation side', flag_values=FLAGS
)
_PLANTED = flags.DEFINE_integer('planted', 2, 'per table', flag_values=FLAGS)
_SHOTS = flags.DEFINE_integer('shots', 20, 'normals', flag_values=FLAGS)
_CASES = flags.DEFINE_string(
  'cases',
  'skab+nsl_kdd+sales_fraud+mitbih',
  "sources of real cases, joined by '+'; may be empty",
  flag_values=FLAGS,
)
_OUTPUT = flags.DEFINE_string(
  'output', 'runs/explanations', 'folder', flag_values=FLAGS
)


def planted(entity, rng, count: int) -> list[dict]:
  """Plants anomalies in one table, and explains them.

  Args:
    entity: a table.
    rng: of the support, the rows, the columns and the shifts.
    count: rows to plant in.

  Returns:
    For each row: whether it was found, the place of the planted column (0 =
    first), and the errors of completeness; [] if no column varies.
  """
  shots = min(_SHOTS.value, len(entity.normal) - 1)
  support = rng.choice(entity.normal, shots, replace=False)
  with np.errstate(invalid='ignore'):
    low, high = support.min(0), support.max(0)  # NaN where one is missing
  columns = np.flatnonzero(high > low)
  normals = entity.query[entity.labels == 0]
  if not len(columns) or not len(normals):
    return []
  fitted = detector.MetaAnomalyDetector(_RUN_DIR.value).fit(support)
  rows, places = [], []
  for _ in range(count):
    row, c = rng.choice(normals).copy(), int(rng.choice(columns))
    far = rng.uniform(6, 10) * (high[c] - low[c])
    row[c] = high[c] + far if rng.random() < 0.5 else low[c] - far
    rows.append(row)
    places.append(c)
  unseen = float(fitted.decision_scores_.mean())
  found = []
  for told, c in zip(fitted.explain(np.stack(rows)), places, strict=True):
    gains = told.attributions
    rise = told.score - unseen
    found.append(
      {
        'table': entity.name,
        'columns': len(gains),
        'found': bool(told.score > told.threshold),
        'place': int((gains > gains[c]).sum()),
        'error': abs(told.score - told.reference - gains.sum()) / abs(rise),
        'reference_error': abs(gains.sum() - rise) / abs(rise),
      }
    )
  return found


def case(name: str) -> tuple[str, explain.Explanation]:
  """The first alarm among the anomalies of a source's first entities."""
  source = sources.REGISTRY[name.partition(':')[0]]
  rng = np.random.default_rng(0)
  for entity in sources.load(name, _DATA_DIR.value):
    shots = min(_SHOTS.value, len(entity.normal))
    support = rng.choice(entity.normal, shots, replace=False)
    fitted = detector.MetaAnomalyDetector(_RUN_DIR.value, rate=source.rate)
    fitted.fit(support)
    bad = entity.query[entity.labels == 1]
    alarms = np.flatnonzero(fitted.predict(bad) == -1)
    if len(alarms):
      told = fitted.explain(bad[alarms[:1]])[0]
      names = entity.columns or source.channels
      if len(names) == len(told.names):
        told = told._replace(names=tuple(names))
      kinds = entity.kinds or ('anomaly',) * len(entity.labels)
      kind = np.array(kinds, object)[entity.labels == 1][alarms[0]]
      title = f'{name}, {entity.name}: {kind or "anomaly"}'
      return f'{title} ({source.units})', told
  raise DataError(f'{name}: no anomaly is found in any entity')


def summary(found: list[dict]) -> str:
  """The figures of the planted anomalies, in words."""
  seen = [row for row in found if row['found']]
  first = np.mean([row['place'] == 0 for row in seen]) if seen else np.nan
  tables = len({row['table'] for row in found})
  part = lambda key: np.array([row[key] for row in found])
  own = part('reference_error')
  return (
    f'- {len(found)} planted anomalies in {tables} tables, {len(seen)} of them '
    f'called abnormal.\n'
    f'- The planted column comes first in {first:.1%} of these '
    f'({sum(row["place"] == 0 for row in seen)} of {len(seen)}), among the '
    f'first three in {np.mean([row["place"] < 3 for row in seen]):.1%}.\n'
    f'- Completeness: attributions against score minus reference, largest '
    f'error {part("error").max():.1e} of the rise.\n'
    f'- The reference against the mean score of the normals left out: median '
    f'error {np.median(own):.2%}, 90th percentile '
    f'{np.quantile(own, 0.9):.2%}.\n'
  )


def main() -> None:
  """Plants, explains, draws, writes."""
  if min(_TABLES.value, _PLANTED.value, _SHOTS.value) < 1:
    raise cli.UsageError('--tables, --planted and --shots must be at least 1')
  text = (
    '# Why a row is abnormal, on real tables\n\nThis page is what\n\n    '
    f'{cli.command()}\n\nwrites.\n\n## Planted anomalies\n\nIn tables of '
    "OddBench's validation side one column of a normal row, unseen by the\n"
    'detector, is moved out of the range of the '
    f"support's {_SHOTS.value} normals, by 6 to\n10 times that range.\n\n"
  )
  found: list[dict] = []
  entities = sources.load('oddbench', _DATA_DIR.value)
  side = episodes.split(entities, fold='part0')['validation']
  side = [entity for entity in side if len(entity.normal) > 1]
  chosen = np.linspace(0, len(side) - 1, min(_TABLES.value, len(side)))
  for i in chosen.astype(int):
    found += planted(side[i], np.random.default_rng(i), _PLANTED.value)
  text += summary(found)
  print(text, flush=True)
  if _CASES.value:
    text += (
      f'\n# Real cases\n\nOf each source the first alarm among the anomalies '
      f'of the first entity with one,\nfrom {_SHOTS.value} normals.\n'
    )
  for name in filter(None, _CASES.value.split('+')):
    title, told = case(name)
    file = f'explained_{name.partition(":")[0]}.png'
    results.write_bytes(
      os.path.join(_OUTPUT.value, file), explain.png(told, title)
    )
    part = f'\n## {title}\n\n{explain.text(told)}\n\n![{title}]({file})\n'
    text += part
    print(part, flush=True)
  content = {'schema': 1, 'command': cli.command(), 'planted': found}
  for file, body in (
    ('explanations.json', json.dumps(content, indent=1)),
    ('explanations.md', text),
  ):
    results.write_bytes(os.path.join(_OUTPUT.value, file), body.encode())
  print(f'written below {_OUTPUT.value}')


if __name__ == '__main__':
  cli.run(main, FLAGS)
