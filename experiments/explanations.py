r"""Plants anomalies in real rows and signals and asks why; draws real cases.

  python -m experiments.explanations \
    --flagfile=experiments/flags/explanations.flags --data_dir=data

In tables of OddBench's validation side, the detector is fitted on --shots
normals; one column of an unseen normal row is moved out of the support's range
by 6 to 10 times that range. In windows of --signals a tone is added in the
middle of one of the bands, 20 to 200 times as strong as the support's strongest
there. Of those that are called abnormal, in how many does that column or band
come first? Then one anomaly each of --cases is explained: the first alarm in
the file. Writes explanations.json, explanations.md and a PNG of each case.
"""

import json
import os

from absl import flags
import numpy as np

from experiments import cli
from metaad_jax import features, storage
from metaad_jax.base import DataError
from metaad_jax.data import registry, splitting
from metaad_jax.detector import estimator, explanations, reasons

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
_SIGNALS = flags.DEFINE_string(
  'signals',
  'vibration+mitbih',
  "sources of windows to plant bands in, joined by '+'; may be empty",
  flag_values=FLAGS,
)
_ENTITIES = flags.DEFINE_integer(
  'entities', 20, 'at most, of each of --signals', flag_values=FLAGS
)
_PLANTED = flags.DEFINE_integer('planted', 2, 'per entity', flag_values=FLAGS)
_SHOTS = flags.DEFINE_integer('shots', 20, 'normals', flag_values=FLAGS)
_CASES = flags.DEFINE_string(
  'cases',
  'cwru+sales_fraud+nsl_kdd+mitbih',
  "sources of real cases, joined by '+'; may be empty",
  flag_values=FLAGS,
)
_OUTPUT = flags.DEFINE_string(
  'output', 'runs/explanations', 'folder', flag_values=FLAGS
)

_PAGE = """\
# Why a row is abnormal

    {command}

writes this page.

## Planted anomalies

In tables of OddBench's validation side one column of a normal row, unseen by
the detector, is moved out of the range of the support, by 6 to 10 times that
range. In windows of signals a tone is added in one of {bands} bands, 20 to 200
times as strong as the support's strongest there. The support has {shots}
normals. Of the rows that are called abnormal, in how many has the planted
column the largest share of all columns, the planted band that of all bands?
(Statistics of a window such as its RMS rise with any tone; they are columns,
too, and not counted here.)

{summary}
Completeness error: the sum of the shares against the row's score minus the mean
score of the support's normals, each scored without itself; relative, the
largest of all rows. Shared out: what detectors of parts of the support miss of
that rise (`explanations.attributions`).
"""
_CASES_PART = """
## Real cases

Of each source the first alarm among the anomalies of the first entity with one,
from {shots} normals. The line is what `reasons.text` says, the picture what
`reasons.png` draws.
"""


def _record(source, entity, fitted, told, planted, among):
  """What is counted of one: the planted column, `among` the first so many."""
  gains = told.attributions
  rise = told.score - np.mean(fitted.decision_scores_)
  return {
    'source': source,
    'entity': entity.name,
    'columns': among,
    'found': bool(told.score > told.threshold),
    'place': int((gains[:among] > gains[planted]).sum()),
    'error': abs(gains.sum() / rise - 1),
    'shared': abs(told.shared / rise),
  }


def planted_columns(entity, rng, count: int) -> list[dict]:
  """Plants anomalies in one table, and explains them.

  Args:
    entity: a table.
    rng: of the support, the rows, the columns and the shifts.
    count: rows to plant in.

  Returns:
    A record for each; [] if no column varies.
  """
  shots = min(_SHOTS.value, len(entity.normal) - 1)
  support = rng.choice(entity.normal, shots, replace=False)
  with np.errstate(invalid='ignore'):
    low, high = support.min(0), support.max(0)  # NaN where one is missing
  columns = np.flatnonzero(high > low)
  normals = entity.query[entity.labels == 0]
  if not len(columns) or not len(normals):
    return []
  fitted = estimator.MetaAnomalyDetector(_RUN_DIR.value).fit(support)
  rows, places = [], []
  for _ in range(count):
    row, c = rng.choice(normals).copy(), int(rng.choice(columns))
    far = rng.uniform(6, 10) * (high[c] - low[c])
    row[c] = high[c] + far if rng.random() < 0.5 else low[c] - far
    rows.append(row)
    places.append(c)
  told = fitted.explain(np.stack(rows))
  return [
    _record('oddbench', entity, fitted, e, c, len(e.attributions))
    for e, c in zip(told, places, strict=True)
  ]


def planted_bands(name, rate, entity, rng, count: int) -> list[dict]:
  """Plants tones in windows of one entity, and explains them.

  Args:
    name: of the source.
    rate: sampling rate in Hz.
    entity: of windows [N, L, C].
    rng: of the support, the windows, the bands and the powers.
    count: windows to plant in.

  Returns:
    A record for each; [] if there are too few windows.
  """
  support = entity.normal[rng.permutation(len(entity.normal))[: _SHOTS.value]]
  normals = entity.query[entity.labels == 0]
  if len(support) < 2 or not len(normals):
    return []
  fitted = estimator.MetaAnomalyDetector(_RUN_DIR.value, rate=rate).fit(support)
  length, channels = support.shape[1:]
  edges = np.arange(features.BANDS + 1) * (length // 2 + 1) // features.BANDS
  spectra = np.abs(np.fft.rfft(support, axis=1)) ** 2
  windows, places = [], []
  for _ in range(count):
    band, channel = rng.integers(1, features.BANDS), rng.integers(channels)
    lines = np.arange(edges[band], edges[band + 1])
    strongest = spectra[:, lines, channel].sum(1).max()
    power = strongest * np.exp(rng.uniform(np.log(20), np.log(200)))
    turns = np.median(lines) // 1 * np.arange(length) / length + rng.random()
    window = rng.choice(normals).copy()
    window[:, channel] += (
      2 * np.sqrt(power) / length * np.sin(2 * np.pi * turns)
    )
    windows.append(window)
    places.append(channel * features.BANDS + band)
  told = fitted.explain(np.stack(windows))
  return [
    _record(name, entity, fitted, e, c, channels * features.BANDS)
    for e, c in zip(told, places, strict=True)
  ]


def case(name: str) -> tuple[str, explanations.Explanation]:
  """The first alarm among the anomalies of a source's first entities."""
  source = registry.REGISTRY[name.partition(':')[0]]
  rng = np.random.default_rng(0)
  for entity in registry.load(name, _DATA_DIR.value):
    shots = min(_SHOTS.value, len(entity.normal))
    support = rng.choice(entity.normal, shots, replace=False)
    fitted = estimator.MetaAnomalyDetector(_RUN_DIR.value, rate=source.rate)
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
      return f'{name}, {entity.name}: {kind or "anomaly"}', told
  raise DataError(f'{name}: no anomaly is found in any entity')


def summary(found: list[dict]) -> str:
  """The figures of the planted anomalies, as a table."""
  lines = [
    '| source | entities | planted | alarms | planted first | within three | '
    'completeness error | shared out, median (90th percentile) |',
    '| --- | --- | --- | --- | --- | --- | --- | --- |',
  ]
  for source in dict.fromkeys(row['source'] for row in found):
    mine = [row for row in found if row['source'] == source]
    seen = [row for row in mine if row['found']]
    number = lambda most, seen=seen: sum(row['place'] < most for row in seen)
    share = lambda n, seen=seen: f'{n} ({n / max(len(seen), 1):.1%})'
    shared = [row['shared'] for row in mine]
    lines.append(
      f'| {source} | {len({row["entity"] for row in mine})} | {len(mine)} | '
      f'{len(seen)} | {share(number(1))} | {share(number(3))} | '
      f'{max(row["error"] for row in mine):.0e} | {np.median(shared):.1%} '
      f'({np.quantile(shared, 0.9):.1%}) |'
    )
  return '\n'.join(lines) + '\n'


def plant() -> list[dict]:
  """Plants in tables and in signals; see the module."""
  found: list[dict] = []
  entities = registry.load('oddbench', _DATA_DIR.value)
  side = splitting.split(entities, fold='part0')['validation']
  side = [entity for entity in side if len(entity.normal) > 1]
  chosen = np.linspace(0, len(side) - 1, min(_TABLES.value, len(side)))
  for i in chosen.astype(int):
    rng = np.random.default_rng(i)
    found += planted_columns(side[i], rng, _PLANTED.value)
  for name in filter(None, _SIGNALS.value.split('+')):
    rate = registry.REGISTRY[name.partition(':')[0]].rate
    windows = registry.load(name, _DATA_DIR.value)[: _ENTITIES.value]
    for i, entity in enumerate(windows):
      rng = np.random.default_rng(i)
      found += planted_bands(name, rate, entity, rng, _PLANTED.value)
  return found


def main() -> None:
  """Plants, explains, draws, writes."""
  if min(_TABLES.value, _PLANTED.value, _SHOTS.value, _ENTITIES.value) < 1:
    raise cli.UsageError(
      '--tables, --entities, --planted and --shots must be at least 1'
    )
  found = plant()
  text = _PAGE.format(
    command=cli.command(),
    bands=features.BANDS,
    shots=_SHOTS.value,
    summary=summary(found),
  )
  print(text, flush=True)
  if _CASES.value:
    text += _CASES_PART.format(shots=_SHOTS.value)
  for name in filter(None, _CASES.value.split('+')):
    title, told = case(name)
    file = f'explained_{name.partition(":")[0]}.png'
    storage.write_bytes(
      os.path.join(_OUTPUT.value, file), reasons.png(told, title)
    )
    part = f'\n### {title}\n\n{reasons.text(told)}\n\n![{title}]({file})\n'
    text += part
    print(part, flush=True)
  content = {'schema': 1, 'command': cli.command(), 'planted': found}
  for file, body in (
    ('explanations.json', json.dumps(content, indent=1)),
    ('explanations.md', text),
  ):
    storage.write_bytes(os.path.join(_OUTPUT.value, file), body.encode())
  print(f'written below {_OUTPUT.value}')


if __name__ == '__main__':
  cli.run(main, FLAGS)
