"""The results file, the tables and the pictures, on made-up results."""

import base64
import copy
import html.parser
import json
import math
import os
import pathlib
import re
import warnings

import hypothesis
from hypothesis import strategies as st
import matplotlib
import numpy as np
import pytest

from metaad_jax import base
from metaad_jax.evaluation import old_results as results_lib
from metaad_jax.reports import report

LEARNERS = {'maml': 0.07, 'protonet': 0.06, 'anil': 0.04, 'reptile': 0.0}
BASELINES = {
  'mahalanobis': 0.0,
  'iforest': -0.04,
  'knn': -0.06,
  'scratch': -0.02,
  'ocsvm': -0.1,
}
META = {
  'created': '2026-01-02T03:04:05+00:00',
  'seed': 7,
  'versions': {'jax': '0.10'},
  'hardware': 'one CPU core',
  'seconds': 3725.4,
  'flags': {'shots': [1, 5]},
  'code': 'abc1234',
}


def minimal() -> dict:
  """Results with nothing in them."""
  return {
    'schema': 1,
    'meta': copy.deepcopy(META),
    'rows': [],
    'summary': [],
    'tests': [],
    'curves': {},
    'histograms': [],
    'example': None,
    'notes': [],
  }


def entry(learner, kind, mean, low, high, **changes) -> dict:
  """One line of the summary."""
  return {
    'source': 'rig',
    'learner': learner,
    'kind': kind,
    'shots': 5,
    'anomalies': 0,
    'contamination': 0.0,
    'metric': 'auroc',
    'mean': mean,
    'low': low,
    'high': high,
    'entities': 6,
    **changes,
  }


def signals(seed=0, length=1024, rate=8000.0):
  """A hum, and the same hum with ringing impacts."""
  rng = np.random.default_rng(seed)
  time = np.arange(length) / rate
  normal = np.sin(2 * np.pi * 120 * time) + 0.3 * rng.normal(size=length)
  ring = np.zeros(length)
  for start in range(100, length, 230):
    tail = time[: length - start]
    ring[start:] += 3 * np.exp(-tail * 500) * np.sin(2 * np.pi * 2500 * tail)
  other = np.sin(2 * np.pi * 120 * time + 1) + 0.3 * rng.normal(size=length)
  return normal, other + ring


def full(
  sources=('rig', 'plant'),
  shots=(1, 5, 10, 20),
  anomalies=(0, 1, 5),
  contaminations=(0.0, 0.05),
  learners=LEARNERS,
  baselines=BASELINES,
  seed=0,
) -> dict:
  """Results with something in every section, drawn at random."""
  rng = np.random.default_rng(seed)
  results = minimal()
  methods = [(n, 'learner', v) for n, v in learners.items()]
  methods += [(n, 'baseline', v) for n, v in baselines.items()]
  cells = [
    (source, k, a, c)
    for source in sources
    for c in contaminations
    for a in anomalies
    for k in (shots if not c else shots[:2])
  ]
  for source, k, a, c in cells:
    cell = {'source': source, 'shots': k, 'anomalies': a, 'contamination': c}
    for metric in results_lib.METRICS:
      means = {}
      for name, kind, effect in methods:
        level = 0.78 + effect + 0.05 * math.log10(k) + 0.01 * a - c
        level = level * (1 if metric == 'auroc' else 0.7)
        mean = float(np.clip(level + 0.01 * rng.normal(), 0, 1))
        half = 0.02 + 0.01 * rng.random()
        known = not (name == 'scratch' and a == 0)
        means[name] = mean
        results['summary'].append(
          entry(
            name,
            kind,
            mean if known else math.nan,
            mean - half if known else math.nan,
            min(mean + half, 1) if known else math.nan,
            metric=metric,
            **cell,
          )
        )
      for name in learners:
        for rival in baselines:
          gap = means[name] - means[rival]
          p = float(np.exp(-abs(gap) * 100))
          results['tests'].append(
            {
              **cell,
              'metric': metric,
              'learner': name,
              'baseline': rival,
              'difference': gap,
              'low': gap - 0.01,
              'high': gap + 0.01,
              'p': p,
              'p_holm': min(1.0, 3 * p),
            }
          )
    for name, kind, _ in methods:
      results['rows'].append(
        {
          **cell,
          'entity': 'machine 1',
          'learner': name,
          'kind': kind,
          'draw': 0,
          **dict.fromkeys(results_lib.METRICS, np.float32(0.5)),
          'queries': 100,
          'query_anomalies': np.int64(20),
        }
      )
  steps = np.arange(0, 4000, 10)
  for i, name in enumerate(learners):
    fall = np.exp(-steps / 800) + 0.2 + 0.1 * i
    results['curves'][name] = {
      'step': steps,
      'loss': fall * np.exp(0.2 * rng.normal(size=len(steps))),
      'validation_step': steps[::40],
      'validation_auroc': 0.85 - 0.3 * np.exp(-steps[::40] / 600) - 0.02 * i,
    }
    for k, a in ((5, 0), (5, 1)):
      edges = np.linspace(-3, 7, 41)
      results['histograms'].append(
        {
          'source': sources[0],
          'learner': name,
          'shots': k,
          'anomalies': a,
          'edges': edges,
          'normal': np.histogram(rng.normal(size=900), edges)[0],
          'anomaly': np.histogram(3 - i + rng.normal(size=150), edges)[0],
        }
      )
  normal, anomaly = signals()
  results['example'] = {
    'source': sources[0],
    'entity': 'machine 1',
    'rate': 8000.0,
    'units': 'm/s2',
    'channel': 'drive end',
    'features': {'names': ['rms', 'kurtosis'], 'support': [[0.1, 0.2]] * 5},
    'normal': normal,
    'anomaly': anomaly,
    'kind': 'outer race',
    'shots': 5,
    'anomalies': 0,
    'scores': {
      name: {
        'normal': rng.normal(size=40),
        'anomaly': rng.normal(size=12) + 3 - i,
      }
      for i, name in enumerate(learners)
    },
  }
  results['notes'] = ['plant/boiler 3 left out: fewer than 20 normal rows']
  return results


def regression() -> list[dict]:
  """The sinusoid problem, solved by two learners."""
  return [
    {
      'learner': name,
      'steps': steps,
      'mse': scale / (steps + 1),
      'low': 0.9 * scale / (steps + 1),
      'high': 1.2 * scale / (steps + 1),
      'median': 0.8 * scale / (steps + 1),
      'diverged': 0,
      'tasks': 100,
    }
    for name, scale in (('maml', 1.0), ('reptile', 3.0))
    for steps in (0, 1, 5, 10)
  ]


def costs() -> list[dict]:
  """What two methods take for one entity."""
  size = {'shots': 20, 'anomalies': 1, 'columns': 30, 'queries': 200}
  return [
    {'learner': 'maml', 'kind': 'learner', 'seconds': 0.0123, **size},
    {'learner': 'knn', 'kind': 'baseline', 'seconds': 0.00045, **size},
  ]


@pytest.fixture(scope='module')
def results() -> dict:
  made = full(sources=('rig',), shots=(1, 5, 20), anomalies=(0, 1))
  made['regression'] = regression()
  made['costs'] = costs()
  return results_lib.validate(made)


@pytest.fixture(scope='module')
def pictures(results) -> dict[str, report.Picture]:
  return {picture.name: picture for picture in report.figures(results)}


# ---- The file ----


def strict(path: pathlib.Path):
  def refuse(name):
    raise AssertionError(f'{name} is not JSON')

  return json.loads(path.read_text(), parse_constant=refuse)


def test_what_is_saved_is_what_is_loaded(tmp_path, results):
  made = full(sources=('rig',), shots=(1, 5, 20), anomalies=(0, 1))
  made['regression'] = regression()
  made['costs'] = costs()
  path = tmp_path / 'folder' / 'results.json'
  results_lib.save(path, made)
  assert results_lib.load(path) == results == strict(path)
  results_lib.save(path, results_lib.load(path))
  assert results_lib.load(path) == results
  assert os.listdir(path.parent) == ['results.json']


def test_numbers_that_do_not_exist_become_null_and_arrays_lists(tmp_path):
  made = minimal()
  made['summary'] = [
    entry('a', 'learner', np.float32('nan'), -math.inf, np.float64(0.5))
  ]
  made['meta']['flags'] = {'shots': (1, np.int32(5)), 'on': np.bool_(True)}
  path = tmp_path / 'results.json'
  results_lib.save(path, made)
  line = strict(path)['summary'][0]
  assert (line['mean'], line['low'], line['high']) == (None, None, 0.5)
  assert strict(path)['meta']['flags'] == {'shots': [1, 5], 'on': True}


def refused(path: pathlib.Path, what: str) -> None:
  with pytest.raises(base.DataError) as error:
    results_lib.load(path)
  message = str(error.value)
  assert str(path) in message and what in message and '\n' not in message


@pytest.mark.parametrize(
  ('content', 'what'),
  [
    (b'', 'truncated'),
    (b'[' * 100_000, 'truncated'),
    (b'\xff\xfe', 'not a text file'),
    (b'[]', 'not an object'),
    (b'{"schema": NaN}', 'NaN'),
    (b'{"schema": true}', 'schema'),
    (b'{"schema": 1}', "has no 'rows'"),
    (b'{"schema": 2}', 'update metaad_jax'),
  ],
)
def test_a_broken_file_is_refused_in_one_line(tmp_path, content, what):
  path = tmp_path / 'results.json'
  path.write_bytes(content)
  refused(path, what)


def test_a_file_cut_anywhere_is_refused(tmp_path, results):
  path = tmp_path / 'results.json'
  results_lib.save(path, results)
  content = path.read_bytes()
  for size in np.linspace(1, len(content) - 3, 9).astype(int):
    path.write_bytes(content[:size])
    refused(path, 'truncated')


def test_a_missing_file_is_refused(tmp_path):
  refused(tmp_path / 'none.json', 'No such file')
  refused(tmp_path, 'irectory')


def places(results):
  """(section, one object of it) for everything that the schema describes."""
  for section in results_lib.FIELDS:
    value = results[section]
    if section == 'curves':
      value = value['maml']
    yield section, value[0] if isinstance(value, list) else value


def test_every_missing_key_and_wrong_type_is_named(results):
  cell = {'source': 'rig', 'shots': 5, 'anomalies': 0, 'contamination': 0.0}
  chosen = {'learner': 'knn', 'options': 'neighbours=3', 'tasks': 4}
  results = {
    key: value[:1] if isinstance(value, list) else value
    for key, value in results.items()
  } | {
    'tuned_on': [{'source': 'rig', 'from': 'rig', 'entities': ['spare']}],
    'tuning': [{**cell, **chosen, 'auroc': 0.8, 'default': 0.7}],
  }
  results_lib.validate(results)
  for key in minimal():
    broken = copy.deepcopy(results)
    del broken[key]
    with pytest.raises(base.DataError, match=f"has no '{key}'"):
      results_lib.validate(broken)
  for section, fields in results_lib.FIELDS.items():
    for key in fields:
      broken = copy.deepcopy(results)
      del dict(places(broken))[section][key]
      with pytest.raises(base.DataError, match=f"{section}.* has no '{key}'"):
        results_lib.validate(broken)
      broken = copy.deepcopy(results)
      dict(places(broken))[section][key] = [{}]
      with pytest.raises(base.DataError, match=rf'{section}.*\.{key} is'):
        results_lib.validate(broken)


@pytest.mark.parametrize(
  ('change', 'what'),
  [
    (lambda r: r['summary'].append(r['summary'][3]), 'repeats'),
    (lambda r: r['tests'].append(r['tests'][3]), 'repeats'),
    (lambda r: r['rows'][2].update(kind='other'), r'rows\[2\].kind'),
    (lambda r: r['rows'][2].update(auroc=1.5), 'share'),
    (lambda r: r['rows'][2].update(shots=5.0), 'count'),
    (lambda r: r['rows'][2].update(shots=True), 'count'),
    (lambda r: r['rows'][2].update(contamination=None), 'share'),
    (lambda r: r['curves']['maml']['loss'].pop(), 'step but'),
    (lambda r: r['curves']['maml']['validation_step'].pop(), 'validation'),
    (lambda r: r['histograms'][1]['edges'].pop(), 'one edge more'),
    (lambda r: r['histograms'][1]['edges'].reverse(), 'decrease'),
    (lambda r: r['example'].update(rate=0), 'positive'),
    (lambda r: r['example'].update(normal=[]), 'is empty'),
    (
      lambda r: r['example'].update(rate=None, normal=[1.0]),
      'differ in length',
    ),
    (lambda r: r['example']['features'].pop('names'), 'names'),
    (lambda r: r['example']['features'].update(support=[[1.0]]), 'support'),
    (lambda r: r['example']['scores'].update(maml=[1.0]), 'maml'),
    (lambda r: r['meta'].update(flags={'x': object()}), 'object'),
  ],
)
def test_what_contradicts_itself_is_refused(results, change, what):
  broken = copy.deepcopy(results)
  change(broken)
  with pytest.raises(base.DataError, match=what) as error:
    results_lib.validate(broken)
  assert '\n' not in str(error.value)


def test_unknown_keys_are_left_alone(results):
  more = copy.deepcopy(results)
  more['summary'][0]['remark'] = 'x'
  assert results_lib.validate(more) == more


@pytest.mark.parametrize('broken', ['results', 'fsync', 'replace'])
def test_a_failed_save_leaves_the_old_file_alone(tmp_path, monkeypatch, broken):
  path = tmp_path / 'results.json'
  results_lib.save(path, minimal())
  before = path.read_bytes()
  made = full(sources=('rig',), shots=(1,), anomalies=(0,))
  if broken == 'results':
    del made['notes']
  else:

    def fail(*_):
      raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, broken, fail)
  with pytest.raises(base.DataError):
    results_lib.save(path, made)
  assert path.read_bytes() == before
  assert os.listdir(tmp_path) == ['results.json']


def test_the_documentation_has_every_key():
  page = pathlib.Path(__file__).parents[2] / 'docs' / 'results_schema.md'
  sections = re.split(r'^## ', page.read_text(), flags=re.MULTILINE)[1:]
  documented = {
    section.split()[0].strip('`,'): set(
      re.findall(r'^\| `(\w+)` \|', section, flags=re.MULTILINE)
    )
    for section in sections
  }
  for section, fields in results_lib.FIELDS.items():
    assert documented[section] == {
      *fields,
      *results_lib.OPTIONAL.get(section, {}),
    }
  assert documented['file'] == {*minimal(), *results_lib.LATER}


# ---- The tables ----


def parsed(text: str) -> dict:
  """(source, contamination, A, K, method) -> (mark, mean, low, high)."""
  cells = {}
  for line in text.splitlines():
    if head := re.match(r'(\w+), (clean support|support (.*)% cont)', line):
      block = head[1], float(head[3] or 0) / 100
    elif re.match(r' +A=\d+ K=\d+', line):
      columns = re.findall(r'A=(\d+) K=(\d+)', line)
    elif re.match(r'  \S', line):
      found = re.findall(
        r'(\*?)([\d.]+) \[([\d.-]+)(?:, ([\d.]+))?\]|(?<= )(-)(?= |$)', line
      )
      assert len(found) == len(columns)
      for (a, k), (mark, *numbers, none) in zip(columns, found, strict=True):
        key = (*block, int(a), int(k), line.split()[0])
        cells[key] = None if none else (mark, *numbers)
  return cells


@pytest.mark.parametrize('metric', results_lib.METRICS)
@pytest.mark.parametrize('width', [40, 100, 300])
def test_the_numbers_of_the_table_are_those_of_the_summary(metric, width):
  made = full()
  made['summary'][:] = made['summary'][::-1]
  cells = parsed(report.table(made, metric, width))
  lines = [e for e in made['summary'] if e['metric'] == metric]
  assert len(cells) == len(lines)
  best: dict = {}
  for e in lines:
    key = e['source'], e['contamination'], e['anomalies'], e['shots']
    cell = cells[*key, e['learner']]
    if math.isnan(e['mean']):
      assert cell is None
      continue
    mark, *numbers = cell
    for number, name in zip(numbers, ('mean', 'low', 'high'), strict=True):
      assert float(number) == pytest.approx(e[name], abs=5.1e-4)
    group = best.setdefault((*key, e['kind']), [])
    group.append((e['mean'], mark))
  for group in best.values():
    assert [mark for _, mark in sorted(group)] == [''] * (len(group) - 1) + [
      '*'
    ]


def test_the_table_fits_and_has_learners_first_and_best_first():
  text = report.table(full())
  assert max(map(len, text.splitlines())) <= 100
  names = [line.split()[0] for line in text.splitlines() if line[:1] == ' ']
  names = [name for name in names if name in LEARNERS | BASELINES]
  assert names[: len(LEARNERS)] == sorted(
    LEARNERS, key=LEARNERS.get, reverse=True
  )
  assert set(names[len(LEARNERS) :][: len(BASELINES)]) == set(BASELINES)


def test_a_single_entity_has_means_and_no_intervals():
  made = minimal()
  made['summary'] = [
    entry('maml', 'learner', 0.9, None, None, entities=1),
    entry('knn', 'baseline', 0.8, None, None, entities=1),
  ]
  text = report.table(made)
  assert 'over 1 entity' in text
  assert '*.900 [-]' in text and '*.800 [-]' in text
  assert 'no verdict: no interval for maml, knn' in text


def test_an_unknown_metric_is_refused(results):
  with pytest.raises(base.DataError, match='choose one of ap, auroc'):
    report.table(results, 'f1')


def test_a_name_cannot_break_the_terminal():
  made = minimal()
  made['summary'] = [entry('a\x1b[31m\nb', 'learner', 0.9, 0.8, 1.0)]
  assert 'a?[31m?b' in report.table(made)


# ---- The verdicts ----

MAML = entry('maml', 'learner', 0.9, 0.88, 0.92)
WEAK = entry('reptile', 'learner', 0.5, 0.4, 0.6)


@pytest.mark.parametrize(
  ('lines', 'outcome', 'words'),
  [
    (
      [WEAK, MAML, entry('knn', 'baseline', 0.8, 0.7, 0.87)],
      'win',
      'yes: the best meta-learner maml 0.900 [0.880, 0.920] is above the only '
      'baseline, intervals apart; best of 1 baselines knn 0.800 [0.700, 0.870];'
      ' paired difference +0.100 [0.050, 0.150], Holm-corrected p = 0.012.',
    ),
    (
      [MAML, entry('knn', 'baseline', 0.8, 0.7, 0.88)],
      'overlap',
      'is above the best baseline knn 0.800 [0.700, 0.880], but its interval '
      'overlaps that of knn; paired difference +0.100',
    ),
    (
      [
        MAML,
        entry('knn', 'baseline', 0.8, 0.79, 0.81),
        entry('lof', 'baseline', 0.7, 0.4, 0.95),
        entry('pca', 'baseline', None, None, None),
      ],
      'overlap',
      'above the best baseline knn 0.800 [0.790, 0.810], but its interval '
      'overlaps that of lof; paired difference +0.100 [0.050, 0.150], '
      'Holm-corrected p = 0.012. Without a value: pca.',
    ),
    (
      [MAML, entry('knn', 'baseline', 0.9, 0.89, 0.91)],
      'overlap',
      'is level with the best baseline knn',
    ),
    (
      [MAML, entry('knn', 'baseline', 0.95, 0.93, 0.97)],
      'loss',
      'no: the best meta-learner maml 0.900 [0.880, 0.920] is below the best '
      'baseline knn 0.950 [0.930, 0.970], intervals apart; paired',
    ),
    (
      [MAML, entry('knn', 'baseline', 0.91, 0.9, 0.92)],
      'loss',
      'is below the best baseline knn 0.910 [0.900, 0.920], intervals overlap',
    ),
    (
      [
        MAML,
        entry('knn', 'baseline', 0.8, 0.7, 0.87),
        entry('lof', 'baseline', 0.6, math.nan, math.nan),
      ],
      'unknown',
      'no verdict: no interval for lof;',
    ),
    (
      [
        MAML,
        entry('knn', 'baseline', 0.8, 0.7, 0.87),
        entry('scratch', 'baseline', math.nan, math.nan, math.nan),
      ],
      'win',
      'p = 0.012. Without a value: scratch.',
    ),
    (
      [MAML, entry('knn', 'baseline', 0.8, 0.7, 0.87, entities=4)],
      'win',
      'Not over the same entities: 6 and 4.',
    ),
    (
      [MAML, entry('lof', 'baseline', 0.8, 0.7, 0.87)],
      'win',
      'lof 0.800 [0.700, 0.870]; no paired test of the two.',
    ),
    ([MAML], 'unknown', 'no verdict: no baseline has a value.'),
    (
      [
        entry('maml', 'learner', math.nan, math.nan, math.nan),
        entry('knn', 'baseline', 0.8, 0.7, 0.87),
      ],
      'unknown',
      'no verdict: no meta-learner has a value.',
    ),
  ],
)
def test_the_verdict_says_what_the_intervals_say(lines, outcome, words):
  made = minimal()
  made['summary'] = lines
  made['tests'] = [
    {
      'source': 'rig',
      'shots': 5,
      'anomalies': 0,
      'contamination': 0.0,
      'metric': metric,
      'learner': learner,
      'baseline': 'knn',
      'difference': difference,
      'low': 0.05,
      'high': 0.15,
      'p': 0.004,
      'p_holm': p,
    }
    for metric, learner, difference, p in (
      ('auroc', 'maml', 0.1, 0.012),
      ('auroc', 'reptile', -0.3, 0.5),
      ('ap', 'maml', 0.7, 0.9),
    )
  ]
  (verdict,) = report.verdicts(made)
  assert verdict.outcome == outcome
  assert words in verdict.sentence
  assert (verdict.shots, verdict.anomalies) == (5, 0)
  flat = ' '.join(report.table(made).split())
  assert f'A=0 K=5: {verdict.sentence}' in flat


def test_a_baseline_that_cannot_serve_a_cell_is_said_to_be_missing():
  made = minimal()
  made['summary'] = [
    MAML,
    entry('knn', 'baseline', 0.8, 0.7, 0.87),
    {**MAML, 'anomalies': 5},
    entry('knn', 'baseline', 0.8, 0.7, 0.87, anomalies=5),
    entry('scratch', 'baseline', 0.8, 0.7, 0.87, anomalies=5),
  ]
  none, some = report.verdicts(made)
  assert none.sentence.endswith('Without a value: scratch.')
  assert 'Without' not in some.sentence


LINES = st.lists(
  st.lists(st.integers(0, 9), min_size=3, max_size=3).map(sorted),
  min_size=1,
  max_size=4,
)


@hypothesis.settings(deadline=None, max_examples=150)
@hypothesis.given(LINES, LINES)
def test_a_win_is_an_interval_above_every_baseline(learners, baselines):
  made = minimal()
  for kind, group in (('learner', learners), ('baseline', baselines)):
    for i, (low, mean, high) in enumerate(group):
      made['summary'].append(
        entry(f'{kind}{i}', kind, mean / 10, low / 10, high / 10)
      )
  (verdict,) = report.verdicts(made)
  _, i = max((mean, -i) for i, (_, mean, _) in enumerate(learners))
  low = learners[-i][0]
  won = all(low > high for _, _, high in baselines)
  lost = all(mean < max(m for _, m, _ in baselines) for _, mean, _ in learners)
  assert (verdict.outcome == 'win') == won
  assert (verdict.outcome == 'loss') == lost


# ---- Signals ----


@pytest.mark.parametrize('rate', [1 / 600, 8000.0])
def test_a_sinusoid_has_its_frequency_and_amplitude(rate):
  time = np.arange(2048) / rate
  for share in (1 / 64, 1 / 8, 3 / 8):
    signal = 5 + 0.7 * np.sin(2 * np.pi * share * rate * time + 1)
    frequencies, amplitude = report.spectrum(signal, rate)
    peak = np.argmax(amplitude)
    np.testing.assert_allclose(frequencies[peak], share * rate)
    np.testing.assert_allclose(amplitude[peak], 0.7, rtol=1e-6)
    frequencies, amplitude = report.scalogram(signal, rate)
    assert amplitude.shape == (64, 2048)
    middle = amplitude[:, 1024]
    peak = np.argmax(middle)
    np.testing.assert_allclose(frequencies[peak], share * rate, rtol=0.05)
    np.testing.assert_allclose(middle[peak], 0.7, rtol=0.03)


def test_the_wavelet_map_finds_a_click_in_time():
  signal = np.zeros(1024)
  signal[700] = 1.0
  _, amplitude = report.scalogram(signal, 100.0)
  assert abs(np.argmax(amplitude[-1]) - 700) <= 1


# ---- The pictures ----


def inside(box, frame, slack=3.0) -> bool:
  return (
    box.x0 >= frame.x0 - slack
    and box.y0 >= frame.y0 - slack
    and box.x1 <= frame.x1 + slack
    and box.y1 <= frame.y1 + slack
  )


def check_layout(picture: report.Picture) -> None:
  """Nothing is cut off; the legend and the title cover nothing."""
  figure = picture.figure
  report.png(figure)
  renderer = figure.canvas.get_renderer()
  panels = [axis.get_tightbbox(renderer) for axis in figure.axes]
  extra = [legend.get_window_extent(renderer) for legend in figure.legends]
  if figure._suptitle is not None:
    extra.append(figure._suptitle.get_window_extent(renderer))
  boxes = panels + extra
  for i, box in enumerate(boxes):
    assert inside(box, figure.bbox), picture.name
    for other in boxes[max(i + 1, len(panels)) :]:
      apart = (
        box.x1 <= other.x0 + 1
        or other.x1 <= box.x0 + 1
        or box.y1 <= other.y0 + 1
        or other.y1 <= box.y0 + 1
      )
      assert apart, picture.name


def test_there_is_a_picture_of_everything(results, pictures):
  assert list(pictures) == [
    'auroc-rig-0',
    'auroc-rig-0.05',
    'scores-rig-A0-K5',
    'scores-rig-A1-K5',
    'example-signal',
    'example-scores',
    'learning-curves',
    'regression',
  ]
  for picture in pictures.values():
    check_layout(picture)


def test_long_names_are_not_cut_off():
  long = {f'{i} a rather long name of it': 0.01 * i for i in range(12)}
  made = full(
    sources=('a source with a long name, and options=1,2,3',),
    shots=(1, 20),
    anomalies=(0, 1, 2, 5),
    contaminations=(0.0,),
    learners=long,
  )
  made['histograms'] = made['histograms'][::2]
  made['example'].update(channel='z' * 80, units='u' * 80, entity='e' * 80)
  made['example'].update(kind='k' * 80)
  for picture in report.figures(made):
    check_layout(picture)


def test_nothing_gives_no_picture():
  assert report.figures(minimal()) == []


def drawn(axis) -> list[np.ndarray]:
  """[points, 3] x, low and high of every error bar of an axis."""
  bars = []
  for container in axis.containers:
    _, _, (lines,) = container.lines
    bars.append(
      np.array([[s[0, 0], *s[:, 1]] for s in lines.get_segments() if len(s)])
    )
  return bars


def test_the_error_bars_are_the_intervals(results, pictures):
  figure = pictures['auroc-rig-0'].figure
  assert len(figure.axes) == 2
  for axis, anomalies in zip(figure.axes, (0, 1), strict=True):
    seen = {tuple(np.round(bar[1:], 9)) for bars in drawn(axis) for bar in bars}
    for e in results['summary']:
      if (e['metric'], e['contamination'], e['kind'], e['anomalies']) == (
        'auroc',
        0.0,
        'learner',
        anomalies,
      ):
        assert (round(e['low'], 9), round(e['high'], 9)) in seen


def test_the_legend_names_the_learners_and_the_three_best_baselines(pictures):
  figure = pictures['auroc-rig-0'].figure
  labels = [text.get_text() for text in figure.legends[0].get_texts()]
  assert labels[:4] == ['maml', 'protonet', 'anil', 'reptile']
  assert labels[-1] == '2 other baselines'
  assert set(labels[4:-1]) == {'mahalanobis', 'scratch', 'iforest'}


def test_a_single_shot_count_gives_a_ladder_of_every_method():
  made = full(sources=('rig',), shots=(5,), contaminations=(0.0,))
  made.update(histograms=[], example=None, curves={})
  (picture,) = report.figures(made)
  check_layout(picture)
  labels = [t.get_text() for t in picture.figure.axes[0].get_yticklabels()]
  assert set(labels) == {*LEARNERS, *BASELINES}
  best = max(
    (
      e
      for e in made['summary']
      if (e['metric'], e['anomalies'], e['kind']) == ('auroc', 5, 'learner')
    ),
    key=lambda e: e['mean'],
  )
  (band,) = picture.figure.axes[2].patches
  assert band.get_x() == pytest.approx(best['low'])
  assert band.get_x() + band.get_width() == pytest.approx(best['high'])


def test_rows_are_drawn_as_bars_of_the_features_that_differ_most():
  made = minimal()
  rng = np.random.default_rng(0)
  normal, anomaly = rng.normal(size=(2, 30))
  names = [f'column {i}' for i in range(30)]
  made['example'] = {
    'source': 'shuttle',
    'entity': 'a',
    'rate': None,
    'units': '',
    'channel': '',
    'features': {'names': names, 'support': rng.normal(size=(5, 30))},
    'normal': normal,
    'anomaly': anomaly,
    'kind': '',
    'shots': 5,
    'anomalies': 0,
    'scores': {},
  }
  (picture,) = report.figures(made)
  check_layout(picture)
  (axis,) = picture.figure.axes
  order = np.argsort(-np.abs(normal - anomaly))[:20]
  assert [t.get_text() for t in axis.get_yticklabels()] == [
    names[i] for i in order
  ]
  support, *rows = axis.containers
  for bars, values in zip(rows, (normal, anomaly), strict=True):
    np.testing.assert_allclose([b.get_width() for b in bars], values[order])
  np.testing.assert_allclose(
    [b.get_width() for b in support],
    np.ptp(made['example']['features']['support'], axis=0)[order],
  )


def test_a_window_without_a_rate_counts_samples():
  made = minimal()
  made['example'] = full(sources=('rig',), shots=(1,))['example']
  made['example'].update(rate=None, scores={})
  (picture,) = report.figures(made)
  check_layout(picture)
  spectrum, signal, *_ = picture.figure.axes
  assert signal.get_xlabel() == 'sample'
  np.testing.assert_array_equal(signal.lines[0].get_xdata(), np.arange(1024))
  assert spectrum.get_xlabel() == 'frequency (cycles a sample)'
  made['example']['features'] = {'names': []}
  assert report.figures(made)[0].name == 'example-features'


def test_runs_of_one_learner_share_a_style_and_a_line_of_the_legend():
  made = minimal()
  made['summary'] = [entry('maml', 'learner', 0.9, 0.8, 1.0)]
  curve = {
    'step': [1, 2], 'loss': [2.0, 1.0],
    'validation_step': [2], 'validation_auroc': [0.7],
  }  # fmt: skip
  names = [f'maml (run {i})' for i in range(30)] + ['anil']
  made['curves'] = dict.fromkeys(names, curve)
  picture = report.figures(made)[-1]
  check_layout(picture)
  (legend,) = picture.figure.legends
  assert [t.get_text() for t in legend.get_texts()] == ['maml', 'anil']
  colours = [line.get_color() for line in picture.figure.axes[0].lines]
  assert len(colours) == 31 and len(set(colours[:30])) == 1
  assert colours[0] != colours[30]


def test_a_method_is_not_named_for_leaving_out_the_hard_cells():
  made = minimal()
  made['summary'] = [
    entry('maml', 'learner', 0.6, 0.5, 0.7),
    entry('knn', 'baseline', 0.5, 0.4, 0.6),
    entry('maml', 'learner', 0.95, 0.9, 1.0, anomalies=5),
    entry('knn', 'baseline', 0.9, 0.8, 1.0, anomalies=5),
    entry('scratch', 'baseline', 0.8, 0.7, 0.9, anomalies=5),
  ]
  lines = report.table(made).splitlines()
  names = [line.split()[0] for line in lines if line.startswith('  ')]
  assert names[1:4] == ['maml', 'knn', 'scratch']


def test_the_scores_after_adapting_are_drawn(tmp_path):
  for labels in ([0, 0, 1], [0]):
    png = report.adapted_png(
      np.arange(len(labels)), np.array(labels), np.array([0.5, 3.0])
    )
    assert png[:8] == b'\x89PNG\r\n\x1a\n'


def test_alarms_are_drawn_apart():
  draw = lambda threshold: report.adapted_png(
    np.arange(3), np.array([0, 1, -1]), np.array([0.5, 3.0]), threshold
  )
  assert len({draw(None), draw(1.0), draw(5.0)}) == 3


def test_everything_is_written_into_one_folder(tmp_path):
  made = {**minimal(), 'regression': regression()}
  told = report.write(made, tmp_path / 'new')
  files = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob('*.*')}
  assert files == {
    'new/results.json', 'new/report.html', 'new/figures/01-regression.png'
  }  # fmt: skip
  assert report.table(made) in told and '1 figures' in told
  assert results_lib.load(tmp_path / 'new' / 'results.json') == made


def test_missing_values_everywhere_still_give_pictures(tmp_path):
  made = full(sources=('rig',), shots=(1, 5), anomalies=(0,))
  made['regression'] = regression()
  for e in made['summary']:
    e.update(mean=None, low=None, high=None)
  for curve in made['curves'].values():
    curve['loss'] = np.full(400, np.nan)
    curve['validation_auroc'] = np.full(10, np.nan)
  for e in made['regression']:
    e.update(mse=None, low=None, high=None, median=None)
  for h in made['histograms']:
    h['anomaly'] = np.zeros(40, int)
  made['example']['normal'] = np.zeros(3)
  made['example']['anomaly'] = np.full(5, np.nan)
  for scores in made['example']['scores'].values():
    scores.update(normal=[], anomaly=[None])
  made['meta']['seconds'] = math.nan
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    report.write_html(made, tmp_path / 'report.html')
  assert (tmp_path / 'report.html').read_text().count('<img') == 8
  assert 'no verdict' in report.table(made)


def test_figures_are_saved_and_nothing_global_changes(tmp_path, results):
  before = dict(matplotlib.rcParams)
  results = {**results, 'histograms': copy.deepcopy(results['histograms'])}
  for histogram in results['histograms']:
    histogram['source'] = '../a/<b>' + chr(0)
  paths = report.save_figures(results, tmp_path / 'figures')
  assert dict(matplotlib.rcParams) == before
  assert sorted(paths) == sorted((tmp_path / 'figures').iterdir())
  assert len(paths) == 8
  for path in paths:
    assert path.read_bytes()[:8] == b'\x89PNG\r\n\x1a\n'
  with pytest.raises(base.DataError, match='cannot write'):
    report.save_figures(
      {**minimal(), 'regression': regression()}, paths[0] / 'below'
    )


# ---- The page ----


class Page(html.parser.HTMLParser):
  """Collects the elements of a page and checks that they are closed."""

  def __init__(self, text: str):
    super().__init__()
    self.elements: list[tuple[str, dict]] = []
    self.words: list[str] = []
    self.open: list[str] = []
    self.feed(text)
    self.close()
    assert self.open == []

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    if tag not in ('meta', 'img'):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open[-1:] != ['style']:
      self.words.append(data)

  def text(self) -> str:
    return ' '.join(' '.join(self.words).split())


def check_inert(text: str, page: Page) -> None:
  """No script, no handler, and nothing that is fetched."""
  assert {tag for tag, _ in page.elements}.isdisjoint(
    {'script', 'link', 'iframe', 'object', 'embed', 'base', 'form', 'svg'}
  )
  ids = [a['id'] for _, a in page.elements if 'id' in a]
  assert len(ids) == len(set(ids))
  for tag, attributes in page.elements:
    assert not [key for key in attributes if key.startswith('on')]
    assert 'srcset' not in attributes
    if 'src' in attributes:
      assert tag == 'img'
      kind, _, data = attributes['src'].partition(',')
      assert kind == 'data:image/png;base64'
      assert base64.b64decode(data, validate=True)[:4] == b'\x89PNG'
    if 'href' in attributes:
      assert attributes['href'][0] == '#' and attributes['href'][1:] in ids
  style = re.search('<style>(.*?)</style>', text, re.DOTALL)[1]
  assert 'url(' not in style and '@import' not in style
  assert not re.search(r'(src|href)\s*=\s*.?https?:', text)


def test_the_page_is_whole_and_says_everything(tmp_path, results):
  path = tmp_path / 'report.html'
  report.write_html(results, path)
  text = path.read_text(encoding='utf-8')
  page = Page(text)
  check_inert(text, page)
  assert sum(tag == 'img' for tag, _ in page.elements) == 8
  words = page.text()
  for metric in results_lib.METRICS:
    for verdict in report.verdicts(results, metric):
      assert verdict.sentence in words
  for e in results['summary']:
    if e['mean'] is not None:
      assert f'{e["mean"]:.3f} [{e["low"]:.3f}, {e["high"]:.3f}]' in words
  wins = sum(v.outcome == 'win' for v in report.verdicts(results))
  assert f'above every baseline in {wins} of 10 cells' in words
  assert '1:02:05' in words and 'one CPU core' in words
  assert results['notes'][0] in words
  assert [f.name for f in tmp_path.iterdir()] == ['report.html']


EVIL = '$\\frac{$"><script>alert(1)</script>\'<img src=x onerror=alert(2)>&amp;'


def poisoned(value):
  """Every text but the ones with a fixed meaning becomes EVIL plus itself."""
  if isinstance(value, dict):
    return {
      key if key in KEYS else EVIL + key: item
      if key in ('kind', 'metric') and item in FIXED
      else poisoned(item)
      for key, item in value.items()
    }
  if isinstance(value, list):
    return [poisoned(item) for item in value]
  return EVIL + value if isinstance(value, str) else value


KEYS = {key for fields in results_lib.FIELDS.values() for key in fields}
KEYS |= {*minimal(), 'regression', 'names', 'support'}
FIXED = {'learner', 'baseline', *results_lib.METRICS}


@pytest.mark.parametrize('rate', [8000.0, None])
def test_texts_are_inert(tmp_path, rate):
  made = full(
    sources=('rig',), shots=(1, 5), anomalies=(1,), contaminations=(0.0,)
  )
  made['regression'] = regression()
  if rate is None:
    made['example'].update(rate=None, normal=[0.0, 1.0], anomaly=[1.0, 3.0])
    made.update(histograms=[], curves={}, regression=[])
  made = poisoned(results_lib.validate(made))
  path = tmp_path / 'report.html'
  report.write_html(made, path)
  text = path.read_text(encoding='utf-8')
  page = Page(text)
  check_inert(text, page)
  assert EVIL in page.text()


def test_regression_alone_is_reported(tmp_path):
  made = {**minimal(), 'regression': regression()}
  text = report.table(made)
  assert re.search(r'maml +0 +1 +\[0\.9, 1\.2\] +0\.8 +0 of 100', text)
  (picture,) = report.figures(made)
  axis = picture.figure.axes[0]
  np.testing.assert_allclose(
    drawn(axis)[0], [[s, 0.9 / (s + 1), 1.2 / (s + 1)] for s in (0, 1, 5, 10)]
  )
  report.write_html(made, tmp_path / 'report.html')
  page = Page((tmp_path / 'report.html').read_text())
  assert 'Regression' in page.text() and 'Paired tests' not in page.text()


def test_empty_results_give_an_empty_report(tmp_path):
  assert report.table(minimal()) == '\n'
  report.write_html(minimal(), tmp_path / 'report.html')
  page = Page((tmp_path / 'report.html').read_text())
  assert 'abc1234' in page.text()
