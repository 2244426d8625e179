r"""Anomalies found against rows looked at: rules, Meta-AAD, a learned policy.

  python -m experiments.active --data_dir=data --sets=meta_aad,oddbench

Tables are prepared once (an isolation forest and the detector of --run_dir give
the first scores), two policies are meta-learned on the training tables of
OddBench - one sees all that a hunt shows, one what Meta-AAD's agent sees - and
all of them hunt in tables that they have not seen. Of every table at most one
row in twenty is an anomaly, except in Meta-AAD's own sets, which stay as they
are. Writes tables/, policies/, results.csv, summary.csv and curves.png below
--output; started again it goes on where it stopped.
"""

import functools
import os
import time
from typing import Any
import zlib

from absl import flags
import jax
import jax.numpy as jnp
from matplotlib.figure import Figure
import numpy as np
import pandas as pd

from experiments import cli
from metaad_jax import storage
from metaad_jax.active import environments, fault_watch, hunt, policies
from metaad_jax.base import DataError, Entity
from metaad_jax.data import public_files, registry, splitting
from metaad_jax.detector import fitted, queries
from metaad_jax.detector.encoding import Columns
from metaad_jax.reports import figures
from metaad_jax.scores import comparisons

FLAGS = flags.FlagValues()
for _name, _default, _help in (
  ('data_dir', os.environ.get('METAAD_DATA_DIR'), 'where the sources lie'),
  ('run_dir', 'shipped', 'run that gives the second first score'),
  ('output', 'runs/active', 'folder to write'),
  ('training', 'oddbench', 'source whose training tables the policies see'),
):
  flags.DEFINE_string(_name, _default, _help, flag_values=FLAGS)
for _name, _number, _help in (
  ('looks', 60, 'rows that are looked at in every table'),
  ('iterations', 400, 'of meta-learning'),
  ('tables', 0, 'at most so many of each set; 0 = all'),
  ('seed', 0, 'of everything random'),
):
  flags.DEFINE_integer(
    _name, _number, _help, lower_bound=int(_name == 'looks'), flag_values=FLAGS
  )
flags.DEFINE_list(
  'sets', ['meta_aad', 'oddbench'],
  'where to hunt: meta_aad, or sources, whose test entities count',
  flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_string(
  'policies', 'all', 'who hunts beside greedy', flag_values=FLAGS
)
flags.DEFINE_bool(
  'speed', False, 'only measure steps a second', flag_values=FLAGS
)
KNOWN = 50  # normals that the detector is given
RATE = 0.05  # of the rows that are anomalies
SIZE = 512  # rows of a table in training
FORTH = 20  # looks at which policies are compared
HEADLINE = 'learned', 'greedy'


def meta_aad(data_dir: str) -> list[Entity]:
  """Meta-AAD's tables as they are: no known normals, all rows to hunt in."""
  root = public_files.folder(data_dir, 'meta_aad') / 'data'
  tables = []
  for path in sorted(root.glob('*.csv*')):
    frame = pd.read_csv(path)
    x = frame.drop(columns='label').to_numpy(np.float32)
    labels = (frame['label'] == 'anomaly').to_numpy(np.int32)
    tables.append(Entity(path.name.split('.')[0], x[:0], x, labels))
  if not tables:
    raise DataError(f'no .csv in {root}: copy data/ of Meta-AAD there')
  return tables


def entities(name: str, side: str) -> list[Entity]:
  """The entities of one side; all of meta_aad."""
  if name == 'meta_aad':
    return meta_aad(FLAGS.data_dir)
  found = splitting.split(registry.load(name, FLAGS.data_dir))[side]
  return [e for e in found if e.labels.any() and len(e.normal) > 1]


def prepare(entity: Entity) -> hunt.Table:
  """The table that is hunted in; its detector sees no label."""
  random = np.random.default_rng(zlib.crc32(entity.name.encode()))
  x, labels = entity.query, entity.labels
  if len(entity.normal):
    known = entity.normal[random.permutation(len(entity.normal))]
    good = np.flatnonzero(labels == 0)
    x = np.concatenate([x[good], known[KNOWN:], x[labels == 1]])
    bad = random.permutation(int(labels.sum()))
    bad = bad[: max(1, round(RATE * (len(x) - len(bad)) / (1 - RATE)))]
    normals = len(x) - int(labels.sum())
    x = np.concatenate([x[:normals], x[normals:][bad]])
    labels = np.arange(len(x)) >= normals
    known, y = known[:KNOWN], np.zeros(len(known[:KNOWN]), int)
  else:
    known, y = x[random.permutation(len(x))[:KNOWN]], -np.ones(KNOWN, int)
    y = y[: len(known)]
  detector = fitted.adapt(
    fitted.Options(FLAGS.run_dir, 0.05, None, None), Columns(x.shape[1:]),
    known.astype(np.float64), y, np.ones(len(y), bool),
  )  # fmt: skip
  return queries.table(detector, x.astype(np.float64), labels)


def load_tables(name: str, side: str) -> dict[str, hunt.Table]:
  """{table: as it is hunted in}, from where they were kept or made anew."""
  folder = os.path.join(FLAGS.output, 'tables', f'{name}-{side}')
  tables: dict[str, hunt.Table] = {}
  for entity in entities(name, side)[: FLAGS.tables or None]:
    path = os.path.join(folder, f'{entity.name}.npz'.replace('/', '_'))
    if not os.path.exists(path):
      os.makedirs(folder, exist_ok=True)
      made = prepare(entity)
      storage.save(path, made._asdict(), {})
    arrays: Any = storage.load(path)[0]
    tables[entity.name] = hunt.Table(**arrays)
  print(f'{name}, {side}: {len(tables)} tables', flush=True)
  return tables


def thinned(table: hunt.Table) -> hunt.Table:
  """The table in `SIZE` rows, padded or without some of its normals."""
  order = np.lexsort((np.arange(len(table.real)), -table.labels, ~table.real))
  order = order[: min(SIZE, int(table.real.sum()))]
  back = np.full(len(table.real), -1)
  back[order] = np.arange(len(order))

  def rows(leaf: Any) -> Any:
    more = [(0, SIZE - len(order))] + [(0, 0)] * (leaf.ndim - 1)
    return np.pad(leaf[order], more)

  per_row = ('x', 'first', 'usual', 'labels', 'real')
  return table._replace(
    beside=rows(back[table.beside].astype(np.int32)),
    **{name: rows(getattr(table, name)) for name in per_row},
  )


def policy_of(name: str) -> dict:
  """Parameters of `learned` or `meta_aad`, meta-learned if need be."""
  path = os.path.join(FLAGS.output, 'policies', f'{name}.npz')
  if not os.path.exists(path):
    tables = load_tables(FLAGS.training, 'train').values()
    env = hunt.Params(hunt.stack([thinned(table) for table in tables]))
    columns = policies.meta_aad_columns(0, 2) if name == 'meta_aad' else None
    key = jax.random.key(FLAGS.seed)
    params = policies.init(key, 2, columns)
    began = time.perf_counter()

    def report(i, found):
      if i % 20 == 0:
        print(f'{name} {i}: {found:.2f} found', flush=True)

    params = policies.train(
      key, env, params, iterations=FLAGS.iterations, report=report,
      discount=0.6 if name == 'meta_aad' else 1.0,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    os.makedirs(os.path.dirname(path), exist_ok=True)
    arrays = {k: np.asarray(v) for k, v in params.items()}
    storage.save(path, arrays, {'seconds': seconds, 'looks': FORTH})
  return storage.load(path)[0]


@functools.partial(jax.jit, static_argnames=('policy', 'looks', 'hunts'))
def _found(key, table, params, *, policy, looks, hunts):
  env = hunt.Params(jax.tree.map(lambda leaf: leaf[None], table))
  states = jax.vmap(lambda i: hunt.start(0 * i, env.tables))(jnp.arange(hunts))
  rule = policy or policies.learned(params)
  return policies.play(key, env, rule, states, looks).found.mean(1)


def measure() -> pd.DataFrame:
  """One row for each table, policy and number of looks."""
  path = os.path.join(FLAGS.output, 'results.csv')
  done = pd.read_csv(path) if os.path.exists(path) else pd.DataFrame()
  named = {
    **policies.RULES,
    'greedy_forest': policies.greedy(0),
    'greedy_network': policies.greedy(1),
  }
  everyone = [*named, 'meta_aad', 'learned']
  asked = cli.choose('policies', FLAGS.policies, everyone)
  asked = [name for name in everyone if name in asked or name == 'greedy']
  trained = {name: policy_of(name) for name in asked if name not in named}
  for source in FLAGS.sets:
    for table, held in load_tables(source, 'test').items():
      if len(done) and ((done.source == source) & (done.table == table)).any():
        continue
      looks = min(FLAGS.looks, int(held.real.sum()))
      rows = []
      for name in asked:
        found = _found(
          jax.random.key(FLAGS.seed), held, trained.get(name), looks=looks,
          policy=named.get(name), hunts=16 if name == 'random' else 1,
        )  # fmt: skip
        rows += [
          (source, table, name, i + 1, float(n), int(held.labels.sum()))
          for i, n in enumerate(np.asarray(found))
        ]
      columns = ['source', 'table', 'policy', 'looks', 'found', 'anomalies']
      done = pd.concat([done, pd.DataFrame(rows, columns=columns)])
      storage.write_bytes(path, done.to_csv(index=False).encode())
  return done


def summarise(results: pd.DataFrame) -> pd.DataFrame:
  """Anomalies in the first looks, and each policy beside greedy, paired."""
  lines = []
  for source, part in results[results.looks <= FORTH].groupby('source'):
    last = part.sort_values('looks').groupby(['table', 'policy']).found.last()
    wide = last.unstack('policy')
    for name in wide:
      ours, base = wide[name].to_numpy(), wide['greedy'].to_numpy()
      draws = np.random.default_rng(0).integers(0, len(base), (2000, len(base)))
      shares = ours[draws].sum(1) / np.maximum(base[draws].sum(1), 1e-9) - 1
      bounds = np.percentile(shares, [2.5, 97.5])
      gain = ours.sum() / max(base.sum(), 1e-9) - 1
      lines.append(
        (source, name, len(base), *comparisons.bootstrap(ours), gain, *bounds,
         int((ours > base).sum()), int((ours < base).sum()),
         comparisons.paired(ours, base))
      )  # fmt: skip
  columns = (
    'source policy tables found low high gain gain_low gain_high wins losses p'
  )
  return pd.DataFrame(lines, columns=columns.split())


def draw(results: pd.DataFrame) -> bytes:
  """Mean anomalies found against looks, a panel for each set; of the headline
  with the 95% interval over tables."""
  sources = list(results.source.unique())
  with figures.style():
    columns = min(3, len(sources))
    lines = -(-len(sources) // columns)
    size = 4.5 * columns, 3.6 * lines
    figure = Figure(figsize=size, layout='constrained')
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, source in zip(axes, sources, strict=False):
      part = results[results.source == source]
      for name, of_policy in part.groupby('policy'):
        each = of_policy.pivot(index='looks', columns='table', values='found')
        each = each.ffill()  # a table may have fewer rows
        curve = each.mean(axis=1)
        wide = 2.5 if name in HEADLINE else 1.0
        (line,) = axis.plot(curve.index, curve, label=name, linewidth=wide)
        if name in HEADLINE and each.shape[1] > 1:
          bounds = [comparisons.bootstrap(row)[1:] for row in each.to_numpy()]
          low, high = np.transpose(bounds)
          axis.fill_between(
            curve.index, low, high, color=line.get_color(), alpha=0.2
          )
      axis.set(title=source, xlabel='rows looked at', ylabel='anomalies found')
    axes[0].legend(fontsize='small')
    return figures.small_png(figure)


def speed() -> None:
  """Prints steps a second of one hunt, and of 1,024 at once."""
  tables = environments.example_tables()
  for pure, params in (
    (hunt, hunt.Params(tables)),
    (fault_watch, fault_watch.Params()),
  ):
    for count in (1, 1024):
      keys = jax.random.split(jax.random.key(0), count)
      _, states = jax.vmap(pure.reset, (0, None))(keys, params)

      @jax.jit
      def run(states, keys, pure=pure, params=params, count=count):
        def step(states, i):
          action = jnp.full(count, i % pure.actions(params))
          out = jax.vmap(pure.step, (0, 0, 0, None))(
            keys, states, action, params
          )
          return out[1], out[0].mean()

        return jax.lax.scan(step, states, jnp.arange(20))

      jax.block_until_ready(run(states, keys))
      began, rounds = time.perf_counter(), 0
      while time.perf_counter() - began < 2:
        jax.block_until_ready(run(states, keys))
        rounds += 1
      rate = 20 * count * rounds / (time.perf_counter() - began)
      name = pure.__name__.split('.')[-1]
      print(f'{name}: {rate:,.0f} steps a second, {count} at once', flush=True)


def main() -> None:
  """Measures, prints, draws."""
  if FLAGS.speed:
    return speed()
  if FLAGS.data_dir is None:
    raise cli.UsageError('--data_dir: name the folder that holds the sources')
  for name in FLAGS.sets:
    if name != 'meta_aad':
      with cli.usage():
        registry.get(name)
  results = measure()
  table = summarise(results)
  storage.write_bytes(
    os.path.join(FLAGS.output, 'summary.csv'),
    table.to_csv(index=False).encode(),
  )
  storage.write_bytes(os.path.join(FLAGS.output, 'curves.png'), draw(results))
  print(table.round(3).to_string(index=False))


if __name__ == '__main__':
  cli.run(main, FLAGS)
