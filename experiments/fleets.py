r"""Fleets: what siblings add, and whether promises are kept, on public data.

  python -m experiments.fleets --flagfile=experiments/flags/fleets.flags \
    --data_dir=data

A quarter of the entities is held out at a time: a `FleetDetector` is fitted to
the known rows of the others, then takes in K rows of each that was held out
and judges its later rows. The same without siblings, and classical methods from
the K rows, from these and the borrowed ones, and from all rows of the fleet.
Writes results.csv as it goes (a second start goes on), and the tables behind
the text of --page.
"""

import pathlib
import warnings

from absl import flags
import jax
import numpy as np
import pandas as pd
from tqdm import tqdm

from experiments import cli
from metaad_jax import FleetDetector, features, storage
from metaad_jax.base import DataError
from metaad_jax.data import recordings, registry, rows
from metaad_jax.evaluation import baselines
from metaad_jax.fleet import alarms
from metaad_jax.scores import comparisons, metrics

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
_PAGE = flags.DEFINE_string(
  'page', '', 'a page whose tables are replaced', flag_values=FLAGS
)
_FOLDS, _DRAWS, _RATE = 4, 2, 0.05
_KNOWN, _POOL, _QUERY = 50, 100, 120  # rows of an entity
_BUDGET, _EVENTS = '20 per day', 20
_TABLES = '<!-- what follows is written by experiments.fleets -->'
_NAMES = {
  'siblings': 'siblings', 'alone': 'shipped alone',
  'own log_sum': 'log_sum, K rows',
  'own mahalanobis': 'mahalanobis, K rows',
  'own nearest_neighbour': 'nearest neighbour, K rows',
  'lent log_sum': 'log_sum, with borrowed rows',
  'lent mahalanobis': 'mahalanobis, with borrowed rows',
  'all isolation_forest': 'one isolation forest',
  'all mahalanobis': 'one mahalanobis',
  'centred mahalanobis': 'one mahalanobis, centred by entity',
}  # fmt: skip


def main() -> None:
  """Does what is missing, then writes the tables."""
  if _PAGE.value and not pathlib.Path(_PAGE.value).is_file():
    raise DataError(f'--page={_PAGE.value} is not there: name a page that is')
  path = pathlib.Path(_OUTPUT.value) / 'results.csv'
  table = pd.read_csv(path) if path.is_file() else pd.DataFrame()
  jobs = [(s, f) for s in _SOURCES.value for f in range(_FOLDS)]
  done = set(zip(table.source, table.fold, strict=True)) if len(table) else ()
  for source, fold in tqdm([job for job in jobs if job not in done]):
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      found = pd.DataFrame(_judged(_entities(source), fold))
    found = found.assign(source=source, fold=fold)
    table = pd.concat([table, found], ignore_index=True)
    storage.write_bytes(str(path), table.to_csv(index=False).encode())
  told = _report(table[table.source.isin(_SOURCES.value)])
  print(told)
  if _PAGE.value:
    page = pathlib.Path(_PAGE.value)
    text = page.read_text('utf-8').partition(_TABLES)[0]
    storage.write_bytes(str(page), f'{text}{_TABLES}\n\n{told}'.encode())


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


def _judged(entities, fold):
  """Rows of the table, of a fold of entities that are held out."""
  groups = sorted({group for _, group, *_ in entities})
  out = {g for i, g in enumerate(groups) if i % _FOLDS == fold}
  new = [e for e in entities if e[1] in out]
  known = [(n, x[rows.thin(np.arange(len(x)), _KNOWN)])
           for n, g, x, *_ in entities if g not in out]  # fmt: skip
  fleets = {
    'siblings': FleetDetector(false_alarm_rate=_RATE),
    'alone': FleetDetector(false_alarm_rate=_RATE, siblings=False),
  }
  for fleet in fleets.values():
    fleet.fit(_frame(known), entity='entity')
  draws = list(_draws(new, fold))
  names = [f'{e[0]}|{shots}|{draw}' for e, shots, draw, _ in draws]
  first = _frame([
    (n, e[2][some]) for n, (e, _, _, some) in zip(names, draws, strict=True)
  ])  # fmt: skip
  later = _frame([(n, e[3]) for n, (e, *_) in zip(names, draws, strict=True)])
  same = _frame([
    (n, np.delete(e[2], some, 0)[:40])
    for n, (e, _, _, some) in zip(names, draws, strict=True)
  ])  # fmt: skip
  told = {}
  for name, fleet in fleets.items():
    fleet.partial_fit(first)
    judged = [dict(list(fleet.judge(frame).groupby('entity', sort=False)))
              for frame in (later, same)]  # fmt: skip
    told[name] = judged
    for shots in map(int, _SHOTS.value):
      some = [n for n, (_, k, draw, _) in zip(names, draws, strict=True)
              if k == shots and not draw and n in judged[0]]  # fmt: skip
      if some:
        whole = pd.concat([judged[0][n] for n in some])
        yield {'method': f'events of {name}', 'shots': shots, 'entity': '',
               'calibration': fleet.calibration_, **_events(whole)}  # fmt: skip
  lent = fleets['siblings']
  pooled = _pooled(known, names, draws, fold)
  for name, (entity, shots, draw, some) in zip(names, draws, strict=True):
    shared = {'entity': entity[0], 'shots': shots, 'draw': draw,
              'calibration': lent.calibration_,
              'room': lent.room_.get('', 0)}  # fmt: skip
    y = entity[4]
    for method, (after, beside) in told.items():
      p = after[name].p_value.to_numpy()
      yield shared | _alarmed(p, y) | {
        'method': method, 'auroc': metrics.auroc(y, after[name].score),
        'same_alarms': (beside[name].p_value <= _RATE).mean()
        if name in beside else np.nan,
      }  # fmt: skip
    borrowed = lent._kin.filled([name], [lent._store.read([name])[name]])[0]
    by_all = {method: scores[name] for method, scores in pooled.items()}
    for method, scores in _classical(entity, some, borrowed.x, by_all, fold):
      yield shared | {'method': method, 'auroc': metrics.auroc(y, scores)}


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


def _pooled(known, names, draws, seed):
  """Scores by models of all rows of the fleet, by method and draw."""
  every = np.concatenate([x for _, x in known])
  centred = np.concatenate([x - x.mean(0) for _, x in known])
  query = [entity[3] for entity, *_ in draws]
  moved = [e[3] - e[2][some].mean(0) for e, _, _, some in draws]
  cuts = np.cumsum([len(x) for x in query])[:-1]
  told = {}
  for method, x, rows_ in (
    ('all isolation_forest', every, query),
    ('all mahalanobis', every, query),
    ('centred mahalanobis', centred, moved),
  ):
    triple = x, np.zeros(len(x)), np.concatenate(rows_)
    scores = baselines.score(method.split()[1], seed, triple)
    told[method] = dict(zip(names, np.split(scores, cuts), strict=True))
  return told


def _classical(entity, some, filled, pooled, seed):
  own, query = entity[2][some], entity[3]
  for name in ('log_sum', 'mahalanobis', 'nearest_neighbour'):
    triple = own, np.zeros(len(own)), query
    yield f'own {name}', baselines.score(name, seed, triple)
  for name in ('log_sum', 'mahalanobis'):
    triple = filled, np.zeros(len(filled)), query
    yield f'lent {name}', baselines.score(name, seed, triple)
  yield from pooled.items()


def _report(table):
  """The tables, as Markdown."""
  keys = ['source', 'shots', 'method', 'entity']
  whole = table.method.str.startswith('events')
  table, runs = table[~whole], table[whole]
  means = table.groupby(keys, sort=False).mean(numeric_only=True).reset_index()
  parts = []
  for source, found in means.groupby('source', sort=False):
    calibration = table.loc[table.source == source, 'calibration'].iloc[0]
    parts.append(
      f'### {source.partition(":")[0]} {source.partition(":")[2]}\n\n'
      f'{found.entity.nunique()} entities, supports filled up to '
      f'{found.room.min():.0f} rows; p-values of the {calibration}.\n\n'
      f'{_aurocs(found)}'
    )
  kept = (runs.most_in_a_day <= _EVENTS).sum()
  head = f'## Is it ahead?\n\n{_gains(means)}\n\n## False alarms\n\n'
  head += (
    f'{_promises(means)}\n\nA budget of {_BUDGET} for the whole fleet was '
  )
  head += f'kept in {kept} of {len(runs)} runs, of which '
  head += f'{(runs.told < runs.events).sum()} had more events to tell.\n\n'
  return f'{head}## AUROC\n\n' + '\n\n'.join(parts) + '\n'


def _wide(found, shots):
  some = found[found.shots == shots]
  return some.pivot(index='entity', columns='method', values='auroc').dropna()


def _aurocs(found):
  lines: dict[str, dict[str, str]] = {}
  for shots in sorted(found.shots.unique()):
    wide = _wide(found, shots)
    for method, name in _NAMES.items():
      mean, low, high = comparisons.bootstrap(wide[method].to_numpy())
      line = lines.setdefault(name, {'method': name})
      line[f'K = {shots}'] = f'{mean:.3f} [{low:.3f}, {high:.3f}]'
  return _markdown(pd.DataFrame(lines.values()))


def _gains(means):
  """Siblings less another, paired over entities."""
  lines = []
  rivals = ('alone', 'lent log_sum', 'centred mahalanobis',
            'all isolation_forest')  # fmt: skip
  for source, found in means.groupby('source', sort=False):
    for rival in rivals:
      line = {'fleet': source.partition(':')[0], 'less': _NAMES[rival]}
      for shots in sorted(found.shots.unique()):
        wide = _wide(found, shots)
        gaps = (wide['siblings'] - wide[rival]).to_numpy()
        mean, low, high = comparisons.bootstrap(gaps)
        told = f'{mean:+.3f} [{low:+.3f}, {high:+.3f}]'
        wins = f'{(gaps > 0).sum()} : {(gaps < 0).sum()}'
        line[f'K = {shots}'] = (
          f'{told}, {np.median(gaps):+.3f}, {wins}' if gaps.any() else '0'
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
