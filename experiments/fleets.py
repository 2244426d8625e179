r"""Fleets: what siblings add, and whether promises are kept, on public data.

  python -m experiments.fleets --flagfile=experiments/flags/fleets.flags \
    --data_dir=data

A quarter of the entities is held out at a time: a `FleetDetector` is fitted to
the known rows of the others, then takes in K rows of each that was held out
and judges its later rows. The same without siblings; classical methods from
the K rows, from these and the borrowed ones, and from all rows of the fleet;
and learners of `metaad learn`, trained on the others with their labels.
Writes results.csv as it goes (a second start goes on), and the tables behind
the text of --page.
"""

import functools
import pathlib
import tempfile
from typing import Any, NamedTuple
import warnings

from absl import flags
import jax
import numpy as np
import pandas as pd
from tqdm import tqdm

from experiments import cli
from metaad_jax import FleetDetector, features, storage
from metaad_jax.base import DataError, Entity
from metaad_jax.command import learn
from metaad_jax.data import recordings, registry, rows
from metaad_jax.evaluation import baselines
from metaad_jax.fleet import alarms, known, programs
from metaad_jax.fleet.kin import Kin
from metaad_jax.fleet.store import Entity as Known
from metaad_jax.scores import comparisons, metrics
from metaad_jax.training import runs, setup

FLAGS = flags.FlagValues()
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'folder of the data sets', flag_values=FLAGS
)
_SOURCES = flags.DEFINE_spaceseplist(
  'sources', ['skab'], 'specs of sources, or kpi', flag_values=FLAGS
)
_SHOTS = flags.DEFINE_list(
  'shots', ['1', '3', '5', '10', '20'], 'rows of a new entity',
  flag_values=FLAGS,
)  # fmt: skip
_OUTPUT = flags.DEFINE_string(
  'output', 'runs/fleets', 'folder of results.csv', flag_values=FLAGS
)
_PARTS = flags.DEFINE_list(
  'parts', ['detectors', 'classical', 'learned'], 'what is done',
  flag_values=FLAGS,
)  # fmt: skip
_LEARNERS = flags.DEFINE_list(
  'learners', ['deep_mahalanobis', 'pooled'], 'of metaad learn that are '
  'trained; tables, the shipped network, takes five times as long',
  flag_values=FLAGS,
)  # fmt: skip
_PAGE = flags.DEFINE_string(
  'page', '', 'a page whose tables are replaced', flag_values=FLAGS
)
_FOLDS, _DRAWS, _RATE = 4, 2, 0.05
_KNOWN, _POOL, _QUERY = 50, 100, 120  # rows of an entity
_BUDGET, _EVENTS = '20 per day', 20
_TABLES = '<!-- what follows is written by experiments.fleets -->'
_OWN = ('log_sum', 'mahalanobis', 'nearest_neighbour')
_SCALINGS = {'': '', 'both': ', z + level'}
_NAMES = {
  'siblings': 'siblings', 'alone': 'shipped alone',
  'learned tables': 'shipped, trained on',
  'learned tables lent': 'shipped, trained on, with borrowed rows',
  'learned deep_mahalanobis': 'deep_mahalanobis, trained',
  'learned pooled': 'pooled network, trained',
  **{f'{whose} {name}{scaling}': f'{name}{told}, {rows_}'
     for whose, rows_, some in (('own', 'K rows', _OWN),
                                ('lent', 'with borrowed rows', _OWN[:2]))
     for name in some for scaling, told in _SCALINGS.items()},
  'all isolation_forest': 'one isolation forest',
  'all mahalanobis': 'one mahalanobis',
  'all mahalanobisboth': 'one mahalanobis, z + level',
  'centred mahalanobis': 'one mahalanobis, centred by entity',
}  # fmt: skip


class _Setting(NamedTuple):
  """A fold of a fleet."""

  rest: list[tuple[str, str, np.ndarray, np.ndarray, np.ndarray]]
  known: list[tuple[str, np.ndarray]]  # rows of these that a fleet knows
  draws: list[tuple[Any, int, int, np.ndarray]]  # entity, K, draw, which rows
  names: list[str]  # of the draws
  fold: int

  @property
  def cuts(self):
    return np.cumsum([len(e[3]) for e, *_ in self.draws])[:-1]


def main() -> None:
  """Does what is missing, then writes the tables."""
  if _PAGE.value and not pathlib.Path(_PAGE.value).is_file():
    raise DataError(f'--page={_PAGE.value} is not there: name a page that is')
  path = pathlib.Path(_OUTPUT.value) / 'results.csv'
  table = pd.read_csv(path) if path.is_file() else pd.DataFrame()
  jobs = [(s, f, p) for s in _SOURCES.value for p in _PARTS.value
          for f in range(_FOLDS)]  # fmt: skip
  done = set(zip(table.source, table.fold, table.part, strict=True)) if len(
    table) else ()  # fmt: skip
  for source, fold, part in tqdm([job for job in jobs if job not in done]):
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      parts = {'detectors': _detectors, 'classical': _classical,
               'learned': _learned}  # fmt: skip
      found = pd.DataFrame(parts[part](_setting(_entities(source), fold)))
    found = found.assign(source=source, fold=fold, part=part)
    table = pd.concat([table, found], ignore_index=True)
    storage.write_bytes(str(path), table.to_csv(index=False).encode())
  told = _report(table[table.source.isin(_SOURCES.value)])
  print(told)
  if _PAGE.value:
    page = pathlib.Path(_PAGE.value)
    text = page.read_text('utf-8').partition(_TABLES)[0]
    storage.write_bytes(str(page), f'{text}{_TABLES}\n\n{told}'.encode())


@functools.lru_cache(maxsize=1)
def _entities(source):
  """[(name, group, pool [n, F], query [m, F], labels [m])], missing filled."""
  if source == 'kpi':
    raw = [_windows(one) for one in recordings.load('kpi', _DATA_DIR.value)]
  else:
    raw = [(e.name, e.group or e.name, e.normal, e.query, e.labels)
           for e in registry.load(source, _DATA_DIR.value)]  # fmt: skip
  found = []
  for name, group, pool, query, y in raw:
    if len(pool) < 6 or min((y == 1).sum(), (y == 0).sum()) < 3:
      continue
    pool = pool[rows.thin(np.arange(len(pool)), _POOL)]
    both = [rows.thin(np.flatnonzero(y == k), _QUERY // 2) for k in (0, 1)]
    some = np.sort(np.concatenate(both))
    parts = _featurized(pool), _featurized(query[some])
    found.append((name, group, *parts, y[some]))
  usual = np.nanmedian(np.concatenate([e[2] for e in found]), 0)
  known = lambda x: np.where(np.isfinite(x), x, usual)
  return [(n, g, known(a), known(b), y) for n, g, a, b, y in found]


def _windows(one, length=60):
  cut = lambda x: x[: len(x) // length * length].reshape(
    -1, length, *x.shape[1:]
  )
  y = cut(one.labels).any(1).astype(int)
  return one.name, one.group, cut(one.healthy), cut(one.series), y


def _featurized(x):
  x = np.asarray(x, np.float32)
  if x.ndim == 3:
    bins = min(16, x.shape[1] // 2)
    spec = (
      'statistics' if x.shape[1] < 64 else f'logspec:bins={bins}+statistics'
    )
    feature = features.make(spec, x.shape[1:], rate=None)
    x = jax.jit(jax.vmap(feature.apply))(x)
  return np.asarray(x, np.float64)


def _setting(entities, fold):
  """A fold of entities is held out."""
  groups = sorted({group for _, group, *_ in entities})
  out = {g for i, g in enumerate(groups) if i % _FOLDS == fold}
  rest = [e for e in entities if e[1] not in out]
  some = [(n, x[rows.thin(np.arange(len(x)), _KNOWN)]) for n, _, x, *_ in rest]
  draws = list(_draws([e for e in entities if e[1] in out], fold))
  names = [f'{e[0]}|{shots}|{draw}' for e, shots, draw, _ in draws]
  return _Setting(rest, some, draws, names, fold)


def _row(setting, i, method, scores):
  entity, shots, draw, _ = setting.draws[i]
  return {'method': method, 'entity': entity[0], 'shots': shots, 'draw': draw,
          'auroc': metrics.auroc(entity[4], scores)}  # fmt: skip


def _detectors(setting):
  """What ships, with siblings and without, and classical ones that borrow."""
  names, draws = setting.names, setting.draws
  fleets = {
    'siblings': FleetDetector(false_alarm_rate=_RATE),
    'alone': FleetDetector(false_alarm_rate=_RATE, siblings=False),
  }
  framed = lambda rows_of: _frame(
    [(n, rows_of(*d)) for n, d in zip(names, draws, strict=True)]
  )
  first = framed(lambda e, _, __, some: e[2][some])
  later = framed(lambda e, *_: e[3])
  same = framed(lambda e, _, __, some: _evenly(np.delete(e[2], some, 0)))
  told = {}
  for name, fleet in fleets.items():
    fleet.fit(_frame(setting.known), entity='entity')
    fleet.partial_fit(first)
    told[name] = [dict(list(fleet.judge(frame).groupby('entity', sort=False)))
                  for frame in (later, same)]  # fmt: skip
    for shots in map(int, _SHOTS.value):
      some = [n for n, (_, k, draw, _) in zip(names, draws, strict=True)
              if k == shots and not draw]  # fmt: skip
      if some:
        whole = pd.concat([told[name][0][n] for n in some])
        yield {'method': f'events of {name}', 'shots': shots, 'entity': '',
               'calibration': fleet.calibration_, **_events(whole)}  # fmt: skip
  lent = fleets['siblings']
  for i, (name, (entity, *_)) in enumerate(zip(names, draws, strict=True)):
    y, room = entity[4], lent.room_.get('', 0)
    for method, (after, beside) in told.items():
      p = after[name].p_value.to_numpy()
      yield _row(setting, i, method, after[name].score) | _alarmed(p, y) | {
        'calibration': fleets[method].calibration_, 'room': room,
        'same_alarms': (beside[name].p_value <= _RATE).mean()
        if name in beside else np.nan,
      }  # fmt: skip
    filled = lent._kin.filled([name], [lent._store.read([name])[name]])[0]
    for method, scores in _fitted('lent', _OWN[:2], filled.x, entity[3], i):
      yield _row(setting, i, method, scores)


def _evenly(x, most=40):
  return x[rows.thin(np.arange(len(x)), most)]


def _fitted(whose, names, x, query, seed):
  for name in names:
    for scaling in _SCALINGS:
      triple = x, np.zeros(len(x)), query
      scores = baselines.score(name, seed, triple, scaling=scaling)
      yield f'{whose} {name}{scaling}', scores


def _classical(setting):
  """From the K rows, and from all rows of the fleet."""
  for i, (entity, _, _, some) in enumerate(setting.draws):
    own = entity[2][some]
    for method, scores in _fitted('own', _OWN, own, entity[3], i):
      yield _row(setting, i, method, scores)
  every = np.concatenate([x for _, x in setting.known])
  centred = np.concatenate([x - x.mean(0) for _, x in setting.known])
  query = [entity[3] for entity, *_ in setting.draws]
  moved = [e[3] - e[2][some].mean(0) for e, _, _, some in setting.draws]
  for method, x, rows_ in (
    ('all isolation_forest', every, query),
    ('all mahalanobis', every, query),
    ('all mahalanobisboth', every, query),
    ('centred mahalanobis', centred, moved),
  ):
    triple = x, np.zeros(len(x)), np.concatenate(rows_)
    name, scaling = method.split()[1], 'both' * method.endswith('both')
    scores = baselines.score(
      name.removesuffix('both'), setting.fold, triple, scaling=scaling
    )
    for i, part in enumerate(np.split(scores, setting.cuts)):
      yield _row(setting, i, method, part)


def _learned(setting):
  """Learners of `metaad learn`, trained on the entities not held out."""
  groups = sorted({e[1] for e in setting.rest})
  sides: dict[str, list[Entity]] = {'train': [], 'validation': [], 'test': []}
  for name, group, pool, query, y in setting.rest:
    side = (
      'train' if groups.index(group) % 5 or len(groups) < 3 else 'validation'
    )
    kinds = tuple(np.where(y == 1, 'anomaly', '').tolist())
    parts = pool.astype(np.float32), query.astype(np.float32)
    made = Entity(name, *parts, y.astype(np.int32), kinds, group)
    sides[side].append(made)
  counts = np.array([len(e[2]) for e in setting.rest])
  shots = tuple(
    k for k in map(int, _SHOTS.value) if (counts >= k).mean() > 0.75
  )
  shape = setting.rest[0][2].shape[1:]
  own = [_support(e[2][some]) for e, _, _, some in setting.draws]
  x = np.concatenate([e[3] for e, *_ in setting.draws])
  of = np.repeat(np.arange(len(own)), [len(e[3]) for e, *_ in setting.draws])
  rest = [x for _, x in setting.known]
  whom = list(range(len(rest)))
  kin = Kin.fit(whom, rest, {}, np.zeros(0, int))
  for name in _LEARNERS.value:
    wanted = setup.resolve(setup.Config(
      source='fleet:path=-,entity=-', learner=name, shots=shots,
      anomalies=(0,), seed=setting.fold, **learn.TRAINING,
      **learn.CANDIDATES[name],
    ))  # fmt: skip
    layout = setup.Layout(() if wanted.any_width else shape)
    with tempfile.TemporaryDirectory() as folder:
      runs.train(wanted, run_dir=folder, quiet=True,
                 data=runs.Data(sides, sides, layout))  # fmt: skip
      run = runs.restore(folder)
    given = {f'learned {name}': own}
    if wanted.any_width:
      given[f'learned {name} lent'] = kin.filled([-1] * len(own), own)
    for method, entities in given.items():
      together, by = known.read(entities, np.zeros(0, int))
      supports, _ = known.supports(together, by)
      read = by.read(x, of)
      if not wanted.any_width:
        read = x.astype(np.float32)
        supports = supports._replace(x=together.x.astype(np.float32))
      scores = programs.score(run, supports, read, of)
      for i, part in enumerate(np.split(scores, setting.cuts)):
        yield _row(setting, i, method, part)


def _support(x):
  return Known(x, np.zeros(len(x), np.int8), np.ones(len(x), bool))


def _frame(parts):
  x = pd.DataFrame(np.concatenate([x for _, x in parts])).add_prefix('c')
  return x.assign(entity=np.repeat([n for n, _ in parts],
                                   [len(x) for _, x in parts]))  # fmt: skip


def _draws(new, fold):
  for shots in map(int, _SHOTS.value):
    for draw in range(_DRAWS):
      rng = np.random.default_rng((fold, shots, draw))
      for entity in new:
        some = rng.permutation(len(entity[2]))[:shots]
        if len(some) == shots:
          yield entity, shots, draw, some


def _events(judged):
  """Events of a fleet whose rows come every 15 minutes; told in a day."""
  times = 900.0 * judged.groupby('entity').cumcount().to_numpy()
  found = alarms.events(
    times, judged.entity.to_numpy(), judged.p_value.to_numpy(),
    judged.outlier.to_numpy(),
  )  # fmt: skip
  starts = np.array([e.start for e in alarms.within_budget(found, _BUDGET)])
  in_a_day = (starts >= starts[:, None]) & (starts < starts[:, None] + 86400)
  return {'events': len(found), 'told': len(starts),
          'most_in_a_day': in_a_day.sum(1).max(initial=0)}  # fmt: skip


def _alarmed(p, y):
  """Alarms, told within the budget and by SAFFRON, a row in 15 minutes.

  Of the anomalies as many are left as make one row in ten.
  """
  good, bad = np.flatnonzero(y == 0), np.flatnonzero(y == 1)
  kept = np.sort(np.r_[good, rows.thin(bad, max(1, len(good) // 9))])
  found = alarms.saffron(p[kept], 0.1)
  return {
    'alarms': (p[good] <= _RATE).mean(), 'recall': (p[bad] <= _RATE).mean(),
    'fdr_told': found.sum(), 'fdr_false': (found & (y[kept] == 0)).sum(),
  }  # fmt: skip


def _report(table):
  """The tables, as Markdown."""
  keys = ['source', 'shots', 'method', 'entity']
  whole = table.method.str.startswith('events')
  table, kept = table[~whole], table[whole]
  means = table.groupby(keys, sort=False).mean(numeric_only=True).reset_index()
  parts = []
  for source, found in means.groupby('source', sort=False):
    calibration = (
      table.loc[table.source == source, 'calibration'].dropna().iloc[0]
    )
    parts.append(
      f'### {source.partition(":")[0]} {source.partition(":")[2]}\n\n'
      f'{found.entity.nunique()} entities, supports filled up to '
      f'{found.room.min():.0f} rows; p-values of the {calibration}.\n\n'
      f'{_aurocs(found)}'
    )
  head = (
    f'## Is it ahead?\n\n{_gains(means)}\n\n## Behind whom?\n\n'
    f'{_behind(means)}\n\n## False alarms\n\n{_promises(means)}\n\n'
    f'A budget of {_BUDGET} for the whole fleet was kept in '
    f'{(kept.most_in_a_day <= _EVENTS).sum()} of {len(kept)} runs, of which '
    f'{(kept.told < kept.events).sum()} had more events to tell.\n\n'
  )
  return f'{head}## AUROC\n\n' + '\n\n'.join(parts) + '\n'


def _wide(found, shots):
  """Of entities that the detectors judged, methods that judged all of them."""
  some = found[found.shots == shots]
  wide = some.pivot(index='entity', columns='method', values='auroc')
  return wide.dropna(subset=['siblings', 'alone']).dropna(axis=1)


def _aurocs(found):
  lines: dict[str, dict[str, str]] = {}
  for shots in sorted(found.shots.unique()):
    wide = _wide(found, shots)
    for method, name in _NAMES.items():
      if method not in wide:
        continue
      mean, low, high = comparisons.bootstrap(wide[method].to_numpy())
      line = lines.setdefault(name, {'method': name})
      line[f'K = {shots}'] = f'{mean:.3f} [{low:.3f}, {high:.3f}]'
  return _markdown(pd.DataFrame(lines.values()))


def _gains(means):
  """Siblings less another, paired over entities."""
  lines = []
  rivals = ('alone', 'learned deep_mahalanobis', 'learned pooled',
            'lent log_sumboth',
            'centred mahalanobis', 'all isolation_forest')  # fmt: skip
  for source, found in means.groupby('source', sort=False):
    for rival in rivals:
      line = {'fleet': source.partition(':')[0], 'less': _NAMES[rival]}
      for shots in sorted(found.shots.unique()):
        if rival not in (wide := _wide(found, shots)):
          continue
        gaps = (wide['siblings'] - wide[rival]).to_numpy()
        mean, low, high = comparisons.bootstrap(gaps)
        told = f'{mean:+.3f} [{low:+.3f}, {high:+.3f}]'
        wins = f'{(gaps > 0).sum()} : {(gaps < 0).sum()}'
        line[f'K = {shots}'] = (
          f'{told}, {np.median(gaps):+.3f}, {wins}' if gaps.any() else '0'
        )
      if len(line) > 2:
        lines.append(line)
  return _markdown(pd.DataFrame(lines))


def _behind(means):
  """Whom siblings are significantly behind, without correction; and ahead."""
  lines = []
  for source, found in means.groupby('source', sort=False):
    line = {'fleet': source.partition(':')[0]}
    for shots in sorted(found.shots.unique()):
      wide, ahead, told = _wide(found, shots), 0, []
      rivals = [m for m in _NAMES if m in wide and m != 'siblings']
      for rival in rivals:
        gaps = (wide['siblings'] - wide[rival]).to_numpy()
        mean, low, high = comparisons.bootstrap(gaps)
        ahead += low > 0
        if high < 0:
          told.append(f'{_NAMES[rival]} {mean:+.3f}')
      line[f'K = {shots}'] = (
        f'{"; ".join(told) or "none"}; ahead of {ahead} of {len(rivals)}'
      )
    lines.append(line)
  return _markdown(pd.DataFrame(lines))


def _promises(means):
  """Shares of normal rows that are alarms, over what was promised."""
  lines = []
  some = means[means.method.isin(['siblings', 'alone'])]
  for (source, method), found in some.groupby(['source', 'method'], sort=False):
    line = {'fleet': source.partition(':')[0], 'detector': _NAMES[method]}
    for shots, part in found.groupby('shots'):
      same, later = (part[c].mean() / _RATE for c in ('same_alarms', 'alarms'))
      worst = part['same_alarms'].quantile(0.9) / _RATE
      line[f'K = {shots}'] = f'{same:.2f} ({worst:.1f}), {later:.2f}'
    told, false = found.fdr_told.sum(), found.fdr_false.sum()
    line['false of SAFFRON'] = f'{false / told:.2f}' if told else '-'
    line['recall'] = f'{found.recall.mean():.2f}'
    lines.append(line)
  return _markdown(pd.DataFrame(lines))


def _markdown(frame):
  lines = [frame.columns, ['---'] * frame.shape[1]]
  lines += frame.fillna('').astype(str).values.tolist()
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


if __name__ == '__main__':
  cli.run(main, FLAGS)
