r"""Compares detectors of series on public archives, a score per time stamp.

  python -m experiments.series --data_dir=... --archives=ucr,kpi --output=DIR

Every detector sees the healthy beginning of a recording and scores the rest;
ours by weights that the recording's group had no part in.
Writes results.csv, one row per recording and detector, as they come (a second
start goes on), and summary.md: means with 95% intervals over groups, paired
differences from `ours`. VUS-PR without point adjustment; `hit`: the highest
score lies within max(100, length) of an anomaly (UCR's rule); `hit_inside`: in
it; `false_events` and `promised` of what `events` called abnormal elsewhere;
`delays`, of ten anomalous stretches at most, samples from the start to the
first alarm when points are judged as they arrive, - = none came until a
period after the end: ours by the threshold of the promised rate, others by the
lowest that has no more false events on the recording than `ours` (chosen by its
labels).

  python -m experiments.series --data_dir=... --published=tsb_ad_u.csv

compares with published scores instead: VUS-PR of the whole series of UCR, its
healthy beginning included, as TSB-AD computes it. Where several series of the
archive may be a published one, the mean over them. Writes whole.csv.
"""

import pathlib
import time
import warnings

from absl import flags
import numpy as np
import pandas as pd
from scipy import ndimage
from tqdm import tqdm

from experiments import cli
from metaad_jax import storage
from metaad_jax.data import recordings
from metaad_jax.detector.series import SeriesAnomalyDetector, shipped_weights
from metaad_jax.evaluation import series_baselines
from metaad_jax.features import subsequences
from metaad_jax.scores import comparisons, metrics, ranges
from metaad_jax.training import series_weights

FLAGS = flags.FlagValues()
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'folder of the archives', flag_values=FLAGS
)
_ARCHIVES = flags.DEFINE_list(
  'archives', ['ucr'], ', '.join(recordings.ARCHIVES), flag_values=FLAGS
)
_OUTPUT = flags.DEFINE_string(
  'output', 'runs/series', 'folder for the results', flag_values=FLAGS
)
_STRIDE = flags.DEFINE_integer(
  'stride', 1, 'take every so many-th recording only', 1, flag_values=FLAGS
)
_PUBLISHED = flags.DEFINE_string(
  'published', None, 'table of published VUS-PR: file, family, ucr_name, '
  'ucr_candidates, a column per detector', flag_values=FLAGS,
)  # fmt: skip
_METRICS = ('vus_pr', 'auroc', 'hit', 'hit_inside')
_STRETCHES = 10  # of a recording, whose delays are measured
_BEFORE = 5  # periods that a score of the last point can depend on


def main() -> None:
  """Scores what is missing, then writes the summary."""
  if _PUBLISHED.value:
    return _whole()
  path = pathlib.Path(_OUTPUT.value) / 'results.csv'
  table = pd.read_csv(path) if path.is_file() else pd.DataFrame()
  for archive in _ARCHIVES.value:
    known, wrong = _known(table, archive)
    every = recordings.load(archive, _DATA_DIR.value)
    for number, one in enumerate(tqdm(every, archive)):
      done = known.get(one.name, set())
      if number % _STRIDE.value or not one.labels.any():
        continue
      if made := list(_judge(one, done, wrong.get(one.name))):
        rows = pd.DataFrame(made).assign(archive=archive)
        table = pd.concat([table, rows], ignore_index=True)
        storage.write_bytes(str(path), table.to_csv(index=False).encode())
  text = '\n\n'.join(
    _summary(*pair) for pair in table.groupby('archive')
    if 'ours' in set(pair[1].detector)
  )  # fmt: skip
  storage.write_bytes(str(path.with_name('summary.md')), text.encode())
  print(text)


def _whole():
  """Whole series beside what is published of them; see above."""
  path = pathlib.Path(_OUTPUT.value) / 'whole.csv'
  published = pd.read_csv(_PUBLISHED.value)
  published = published[published.family == 'UCR'].set_index('file')
  names = published.ucr_name.fillna(published.ucr_candidates).str.split(';')
  names = names.explode()
  made = pd.DataFrame({'file': [], 'name': []})
  if path.is_file():
    made = pd.read_csv(path)
  done = set(zip(made['file'], made['name'], strict=True))
  for one in tqdm(list(recordings.load('ucr', _DATA_DIR.value))):
    for file in names.index[names == one.name]:
      if (file, one.name) not in done:
        row = pd.DataFrame([_of_published(file, one)])
        made = pd.concat([made, row], ignore_index=True)
        storage.write_bytes(str(path), made.to_csv(index=False).encode())
  of_file = made.groupby('file')
  table = published.loc[:, 'Sub-IForest':'MOMENT (FT)']
  table.insert(0, 'ours', of_file['ours'].mean())
  table.insert(0, 'group', of_file['group'].first())
  storage.write_bytes(
    str(path.with_name('published.csv')), table.round(5).to_csv().encode()
  )
  print(_beside(table))


def _of_published(file, one):
  """A row of ours; healthy are as many points as the published file says."""
  whole = np.concatenate([one.healthy, one.series])
  labels = np.concatenate([np.zeros(len(one.healthy), bool), one.labels])
  known = int(file.split('_tr_')[1].split('_')[0])
  detector = _detector(one._replace(healthy=one.healthy[:known]))
  scores = -detector.score_samples(whole)
  vus = ranges.vus_pr(labels, scores, ranges.tolerance(whole[:, 0]))
  return {'file': file, 'name': one.name, 'group': one.group, 'ours': vus}


def _beside(table):
  """Means of detectors over series and over groups, as Markdown."""
  by_group = table.groupby('group').mean()
  lines = []
  for name in by_group:
    difference = (by_group['ours'] - by_group[name]).to_numpy()
    mean, low, high, *_ = comparisons.bootstrap(difference)
    lines.append({
      'detector': name, 'series': round(table[name].mean(), 3),
      'group': round(by_group[name].mean(), 3),
      'ours - it, by group': f'{mean:+.3f} [{low:+.3f}, {high:+.3f}]',
      'better / worse on': f'{(table.ours > table[name]).sum()} / '
      f'{(table.ours < table[name]).sum()}',
    })  # fmt: skip
  frame = pd.DataFrame(lines).sort_values('series', ascending=False)
  return f'{len(table)} series, {len(by_group)} groups\n\n{_markdown(frame)}'


def _detector(one):
  """Ours, by weights that the recording's group had no part in."""
  fold = series_weights.fold(one.group)
  others = shipped_weights(one.healthy.shape[1], fold)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    return SeriesAnomalyDetector(weights=others).fit(one.healthy)


def _known(table, archive):
  """The detectors that have judged each recording, and ours' false events."""
  if not len(table):
    return {}, {}
  part = table[table.archive == archive]
  ours = part[part.detector == 'ours'].set_index('name')
  done = part.groupby('name')['detector'].agg(set).to_dict()
  return done, ours['false_events'].to_dict()


def _judge(one, done, wrong):
  """One row per detector that is not done; `wrong` false events are ours."""
  period = subsequences.period(one.healthy)
  shared = {
    'name': one.name, 'group': one.group, 'n': len(one.series),
    'period': period,
  }  # fmt: skip
  if 'ours' not in done:
    yield shared | (row := _ours(one))
    wrong = row['false_events']
  if not set(series_baselines.BASELINES) - done:
    return
  centre, spread = one.healthy.mean(0), one.healthy.std(0) + 1e-9
  healthy, series = ((x - centre) / spread for x in (one.healthy, one.series))
  for name, baseline in series_baselines.BASELINES.items():
    if name in done:
      continue
    begin = time.perf_counter()
    scores = baseline(healthy, series, period)
    seconds = time.perf_counter() - begin
    high = ranges.level(scores, ~_near(one, period), int(wrong), period)
    late = 0 if name in series_baselines.AT_ONCE else period // 2
    alarms = np.roll(scores > high, late)
    alarms[:late] = False
    delays = ranges.delays(one.labels, alarms, period)
    yield shared | _metrics(one, scores) | {
      'detector': name, 'score_s': seconds,
      'delays': _written(delays[_chosen(len(delays))]),
    }  # fmt: skip


def _ours(one):
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    begin = time.perf_counter()
    detector = _detector(one)
    fitted = time.perf_counter()
    said = detector.judge(one.series)
    done = time.perf_counter()
  scores, events = said.scores, said.events
  near = _near(one, detector.period_)
  wrong = sum(not near[e.start : e.end + 1].any() for e in events)
  return _metrics(one, scores) | {
    'detector': 'ours', 'false_events': wrong, 'promised': (~near).sum() / 1e4,
    'changed': float(said.changed is not None),
    'fit_s': fitted - begin, 'score_s': done - fitted,
    'delays': _written(_arriving(detector, one)),
  }  # fmt: skip


def _near(one, period):
  """[T] what is less than two periods from an anomaly."""
  labels = one.labels.astype(np.uint8)
  return ndimage.maximum_filter1d(labels, 4 * period + 1) > 0


def _arriving(detector, one):
  """[k] delays of ours, of `_chosen` stretches, as points arrive."""
  threshold, period = detector.follow().threshold, detector.period_
  whole = np.concatenate([one.healthy, one.series])
  labels = np.concatenate([np.zeros(len(one.healthy), bool), one.labels])
  spans, made = ranges.segments(labels), []
  for begin, end in spans[_chosen(len(spans))]:
    first = max(0, begin - _BEFORE * period)
    part = slice(first, end + period)
    x = detector._standardized(whole[part])
    scores = subsequences.arriving(
      detector._windows, x, detector.weights_, 0, 0
    )
    alone = np.arange(len(x)) + first
    alone = (alone >= begin) & (alone < end)
    made.append(ranges.delays(alone, scores > threshold, period)[0])
  return np.array(made)


def _chosen(count):
  """Numbers of the stretches whose delays are measured, evenly spread."""
  return np.unique(np.linspace(0, count - 1, _STRETCHES).astype(int))


def _written(delays):
  return ' '.join('-' if np.isnan(x) else f'{x:.0f}' for x in delays)


def _metrics(one, scores):
  window = ranges.tolerance(np.concatenate([one.healthy, one.series])[:, 0])
  peak = int(np.argmax(scores))
  spans = ranges.segments(one.labels)
  play = np.maximum(100, spans[:, 1] - spans[:, 0])
  hit = (spans[:, 0] - play <= peak) & (peak < spans[:, 1] + play)
  return {
    'vus_pr': ranges.vus_pr(one.labels, scores, window),
    'auroc': metrics.auroc(one.labels.astype(int), scores),
    'hit': float(hit.any()),
    'hit_inside': float(one.labels[peak]),
  }


def _summary(archive, table):
  """Means over recordings and over groups, with intervals, as Markdown."""
  lines = []
  wide = {
    m: table.pivot(index='name', columns='detector', values=m) for m in _METRICS
  }
  groups = table.drop_duplicates('name').set_index('name')['group']
  for detector in wide['vus_pr'].columns:
    line = {'detector': detector}
    for metric, values in wide.items():
      of_groups = values.groupby(groups).mean()
      line[metric] = f'{values[detector].mean():.3f}'
      line[f'{metric} by group'] = f'{of_groups[detector].mean():.3f}'
    difference = (
      (wide['vus_pr']['ours'] - wide['vus_pr'][detector]).groupby(groups).mean()
    )
    low, high = comparisons.bootstrap(difference.to_numpy())[1:3]
    line['ours - it, VUS-PR by group'] = (
      f'{difference.mean():+.3f} [{low:+.3f}, {high:+.3f}]'
    )
    each = (wide['vus_pr']['ours'] - wide['vus_pr'][detector]).to_numpy()
    line['median'] = f'{np.median(each):+.3f}'
    line['better / worse on'] = f'{(each > 0).sum()} / {(each < 0).sum()}'
    lines.append(line)
  frame = pd.DataFrame(lines).sort_values('vus_pr', ascending=False)
  ours = table[table.detector == 'ours']
  found = '' if 'delays' not in table else f'{_markdown(_delays(table))}\n\n'
  calm = ours[ours.changed == 0]
  return (
    f'## {archive}: {len(ours)} recordings, {groups.nunique()} groups\n\n'
    f'{_markdown(frame)}\n\n{found}'
    f'False events of `ours`: {ours.false_events.sum():.0f}, promised '
    f'{ours.promised.sum():.1f}; of {len(calm)} recordings that were not said '
    f'to have changed {calm.false_events.sum():.0f}, promised '
    f'{calm.promised.sum():.1f}. Fit {1e3 * ours.fit_s.median():.0f} ms, '
    f'{1e6 * ours.score_s.sum() / ours.n.sum():.1f} microseconds a point.'
  )


def _delays(table):
  """A row per detector: share of stretches that are found, delays of those."""
  lines = []
  for detector, part in table.groupby('detector', sort=False):
    each = part.delays.dropna().astype(str).str.split().explode()
    every = pd.to_numeric(each, errors='coerce')
    found = every.dropna()
    if not len(found):
      continue
    line = {'detector': detector, 'found': f'{len(found)} of {len(every)}'}
    periods = found / part.period.loc[found.index]
    ways = ('points', found, '.0f'), ('periods', periods, '.2f')
    for name, x, form in ways:
      low, middle, high = x.quantile([0.25, 0.5, 0.75])
      line[f'delay, {name}'] = f'{middle:{form}} [{low:{form}}, {high:{form}}]'
    lines.append((len(found), line))
  lines.sort(key=lambda pair: -pair[0])
  return pd.DataFrame([line for _, line in lines])


def _markdown(frame):
  lines = [frame.columns, ['---'] * frame.shape[1], *frame.astype(str).values]
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


if __name__ == '__main__':
  cli.run(main, FLAGS)
