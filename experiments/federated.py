r"""Federated meta-learning beside central training and every site alone.

  python -m experiments.federated --source=smd --data_dir=data
  python -m experiments.federated --engine=flower --source=skab --data_dir=data

A site holds one entity (--by=entity) or those of a group, such as the tables of
a repository (--by=group). The earlier half of its rows trains, the later half
tests: adapted to a few of its normals, every model scores the same rows of the
site, and a threshold from twenty more of its normals is held to its rate of
false alarms. No labels are adjusted.

--engine=local simulates all sites in one program and compares everything;
--engine=flower starts --clients processes that hold a site each, and a server
to which they send updates over loopback; with --address one can take part from
elsewhere (--site). Writes results.csv below --output.
"""

import os
import subprocess
import sys
import time

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from experiments import cli
from metaad_jax import storage
from metaad_jax.base import Entity
from metaad_jax.federated import privacy, rounds
from metaad_jax.scores import comparisons, metrics
from metaad_jax.training import runs, setup

FLAGS = flags.FlagValues()
for _name, _default, _help in (
  ('data_dir', os.environ.get('METAAD_DATA_DIR'), 'where the sources lie'),
  ('source', 'vibration:machines=100,test_machines=0', 'where the sites are'),
  ('model', '', 'the network; that of experiments.train if not given'),
  ('output', 'runs/federated', 'folder to write'),
  ('address', '127.0.0.1:0', 'of the server (flower); port 0 = a free one'),
):
  flags.DEFINE_string(_name, _default, _help, flag_values=FLAGS)
for _name, _number, _least, _help in (
  ('rounds', 100, 1, 'of the federation'),
  ('asked', 10, 1, 'sites in a round'),
  ('sites', 0, 0, 'at most so many; 0 = all'),
  ('steps', 5, 1, 'of a site in a round'),
  ('shots', 10, 1, 'normals that a site adapts to'),
  ('anomalies', 0, 0, 'labelled anomalies that it adapts to as well'),
  ('seed', 0, 0, 'of everything random'),
  ('repeats', 1, 1, 'trainings from seeds of their own, to be averaged'),
  ('clients', 2, 1, 'processes (flower)'),
  ('site', -1, -1, 'take part as this site (flower)'),
):
  flags.DEFINE_integer(
    _name, _number, _help, lower_bound=_least, flag_values=FLAGS
  )
for _name, _rate, _help in (
  ('rate', 0.05, 'of a site steps'),
  ('server', 1.0, "rate of the server's step; 1 = the mean of the sites"),
  ('proximal', 0.1, 'weight of the proximal term (FedProx)'),
  ('clip', 1.0, "length that a site's update is cut to for privacy"),
  ('timeout', 120.0, 'seconds that a round may take (flower)'),
):
  flags.DEFINE_float(_name, _rate, _help, flag_values=FLAGS)
flags.DEFINE_enum(
  'engine', 'local', ['local', 'flower'], 'one program, or processes',
  flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_enum(
  'by', 'entity', ['entity', 'group'], 'what a site holds', flag_values=FLAGS
)
flags.DEFINE_list(
  'epsilons', ['8', '1'], 'privacy that is paid for', flag_values=FLAGS
)
flags.DEFINE_list(
  'learners', ['pooled', 'fomaml', 'maml'],
  'pooled = FedAvg (and FedProx), fomaml and maml = Per-FedAvg',
  flag_values=FLAGS,
)  # fmt: skip
DELTA = 1e-3  # of the epsilons, or a tenth of a site's share if that is less
FALSE_ALARMS, OWN = 0.05, 20  # promised from so many normals
DRAWS = 4  # tasks of a site in testing


def halves(entity: Entity) -> tuple[Entity, Entity]:
  """Its earlier rows and its later ones, anomalies and normals each."""
  normals, bad = np.flatnonzero(entity.labels == 0), entity.labels == 1
  bad, cut = np.flatnonzero(bad), len(entity.normal) // 2
  parts = []
  for i in range(2):
    half = lambda rows: np.array_split(rows, 2)[i]  # noqa: B023
    rows = np.sort(np.concatenate([half(normals), half(bad)]))
    normal = entity.normal[:cut] if i == 0 else entity.normal[cut:]
    parts.append(
      Entity(entity.name, normal, entity.query[rows], entity.labels[rows])
    )
  return parts[0], parts[1]


class Problem:
  """The sites, with what every engine needs of them."""

  def __init__(self):
    with cli.usage():
      made = setup.resolve(
        setup.Config(
          source=FLAGS.source, learner='maml', model=FLAGS.model,
          shots=(FLAGS.shots,), anomalies=(FLAGS.anomalies,), seed=FLAGS.seed,
        )
      )  # fmt: skip
    everyone = made.load(FLAGS.data_dir)
    layout = setup.layout_of(made.source, made.source_options, everyone)
    layout = setup.Layout() if made.any_width else layout
    feature = made.feature_of(layout)
    names = [
      e.group or e.name if FLAGS.by == 'group' else e.name for e in everyone
    ]
    chosen = list(dict.fromkeys(names))[: FLAGS.sites or None]
    kept = [
      (e, n) for e, n in zip(everyone, names, strict=True)
      if n in chosen and (e.labels == 1).sum() > 1 and len(e.normal) > 1
      and (e.labels == 0).sum() > 1
    ]  # fmt: skip
    members = made.featurize([e for e, _ in kept], feature)
    site_of = [n for _, n in kept]
    train, test = zip(*map(halves, members), strict=True)
    self.made, self.layout = made, layout
    self.prior = None if made.any_width else runs.prior_of(list(train))
    self.train = rounds.sites(train, site_of)
    self.test = rounds.sites(test, site_of)
    self.episode = made.episode
    self.sample = rounds.sampler(self.train, self.episode)
    final = self.episode._replace(query_normals=60, query_anomalies=40)
    draw = rounds.sampler(self.test, final)
    number = len(self.test.weights)
    keys = jax.random.split(jax.random.key(FLAGS.seed + 1), number * DRAWS)
    who = jnp.repeat(self.test.members, DRAWS, 0)
    self.tasks = jax.jit(jax.vmap(draw))(keys, who)

  def learner(self, name):
    config = setup.Config(
      source=FLAGS.source, learner=name, model=self.made.model,
      shots=(FLAGS.shots,), anomalies=(FLAGS.anomalies,),
    )  # fmt: skip
    return setup.resolve(config).at(self.layout, self.prior).learner

  def starts(self, learner):
    """The key and the first parameters of every repeat."""
    one = jax.tree.map(lambda leaf: leaf[0], self.tasks)
    init = jax.jit(learner.init)
    keys = [jax.random.key(FLAGS.seed + i) for i in range(FLAGS.repeats)]
    return [(key, init(key, one)) for key in keys]


def judge(learner, trained, tasks, each=False) -> pd.DataFrame:
  """AUROC and false alarms of every site, means over what was trained in
  repeats; `each`: parameters of each site."""

  @jax.jit
  def score(params, tasks):
    def one(pair):
      params, task = pair
      key = jax.random.key(0)
      adapted = learner.adapt(key, params, task.support, task.features)
      scores = learner.score(adapted, task.query.x)
      query = task.query
      quality = metrics.masked_auroc(scores, query.y, query.mask)
      good = jnp.isfinite(scores).all()  # else the parameters diverged
      own = scores[:OWN]
      rank = int(np.ceil((1 - FALSE_ALARMS) * (OWN + 1))) - 1
      limit = jnp.sort(jnp.where(query.mask[:OWN] > 0, own, jnp.inf))[rank]
      rest = (1 - query.y[OWN:]) * query.mask[OWN:]
      false = (rest * (scores[OWN:] > limit)).sum() / rest.sum()
      promised = good & query.mask[:OWN].all()
      missing = lambda known, x: jnp.where(known, x, jnp.nan)
      return missing(good, quality), missing(promised, false)

    return jax.lax.map(one, (params, tasks), batch_size=32)

  count = len(tasks.features)
  if each:
    spread = lambda leaf: jnp.repeat(leaf, DRAWS, 0)
  else:
    spread = lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape))
  found = [score(jax.tree.map(spread, params), tasks) for params in trained]
  with np.errstate(invalid='ignore'):
    auroc, false = np.mean(found, 0).reshape(2, -1, DRAWS).mean(2)
  return pd.DataFrame(
    {'site': np.arange(len(auroc)), 'auroc': auroc, 'false_alarms': false}
  )


def settings_of(name: str, problem: Problem, wanted: float | None = None):
  """Of a federation by name; `wanted` = its epsilon."""
  count = len(problem.train.weights)
  asked = min(FLAGS.asked, count)
  noise = 0.0
  if wanted is not None:
    delta = min(DELTA, 0.1 / count)
    noise = privacy.noise_for(wanted, FLAGS.rounds, asked, count, delta)
  return rounds.Settings(
    asked=asked, steps=FLAGS.steps, rate=FLAGS.rate,
    server=FLAGS.server,
    proximal=FLAGS.proximal if name == 'fedprox' else 0.0,
    clip=FLAGS.clip if noise else 0.0, noise=noise,
  )  # fmt: skip


def federate(problem: Problem, learner, settings, number: int):
  """Parameters of every repeat after so many rounds; the seconds of one."""
  run = rounds.simulate(learner, settings, problem.sample, number)
  starts, held = problem.starts(learner), problem.train
  call = run.lower(*starts[0], 0, held.members, held.weights).compile()
  began = time.perf_counter()
  ends = [call(*start, 0, held.members, held.weights)[0] for start in starts]
  jax.block_until_ready(ends)
  return ends, (time.perf_counter() - began) / len(ends)


def alone(problem: Problem, learner):
  """Parameters of every site that trains by itself, as many steps, once."""
  settings = rounds.Settings(steps=FLAGS.rounds * FLAGS.steps, rate=FLAGS.rate)
  key, start = problem.starts(learner)[0]

  @jax.jit
  def train(members):
    def one(pair):
      site, own = pair
      draw = lambda key: problem.sample(key, own)
      own_key = rounds.site_key(key, 0, site)
      update, _ = rounds.site_update(learner, settings, own_key, start, draw)
      return jax.tree.map(jnp.subtract, start, update)

    number = jnp.arange(len(members))
    return jax.lax.map(one, (number, members), batch_size=16)

  return [train(problem.train.members)]


def compare() -> pd.DataFrame:
  """Central, alone, federated, federated and private: a row for each site."""
  problem, tables = Problem(), []
  count = len(problem.train.weights)
  print(f'{FLAGS.source}: {count} sites', flush=True)

  def add(name, method, learner, trained, seconds=np.nan, spent=np.nan, **more):
    table = judge(learner, trained, problem.tasks, **more)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(trained[0]))
    asked = min(FLAGS.asked, count)
    table = table.assign(
      learner=name, method=method, seconds=seconds, epsilon=spent,
      bytes_per_round=0 if np.isnan(spent) else 2 * size * asked,
    )  # fmt: skip
    tables.append(table)
    quality, false = table.auroc.mean(), table.false_alarms.mean()
    print(f'{name} {method}: AUROC {quality:.4f}, false alarms {false:.3f}, '
          f'{seconds:.1f} s', flush=True)  # fmt: skip

  for name in FLAGS.learners:
    learner = problem.learner(name)
    starts = [start for _, start in problem.starts(learner)]
    add(name, 'untrained', learner, starts)
    plain = settings_of('', problem)
    one_step = plain._replace(steps=1, server=1.0)
    params, seconds = federate(
      problem, learner, one_step, FLAGS.rounds * FLAGS.steps
    )
    add(name, 'central', learner, params, seconds)
    add(name, 'alone', learner, alone(problem, learner), each=True)
    methods = {'federated': (plain, np.inf)}
    if name == 'pooled':
      methods['fedprox'] = settings_of('fedprox', problem), np.inf
    for text in FLAGS.epsilons:
      wanted = float(text)
      private = settings_of('', problem, wanted)
      methods[f'federated, epsilon {text}'] = private, wanted
    for method, (chosen, spent) in methods.items():
      params, seconds = federate(problem, learner, chosen, FLAGS.rounds)
      add(name, method, learner, params, seconds, spent)
  return pd.concat(tables, ignore_index=True)


def take_part() -> None:
  """This process is one site of a Flower federation."""
  from metaad_jax.federated import flower

  problem = Problem()
  learner = problem.learner(FLAGS.learners[0])
  own = problem.train.members[FLAGS.site]
  site = flower.Site(
    learner, settings_of('', problem), jax.random.key(FLAGS.seed), FLAGS.site,
    problem.starts(learner)[0][1], lambda key: problem.sample(key, own),
    float(problem.train.weights[FLAGS.site]),
  )  # fmt: skip
  flower.take_part(FLAGS.address, site)


def serve() -> pd.DataFrame:
  """The server, and --clients processes on this machine."""
  from metaad_jax.federated import flower

  problem = Problem()
  learner = problem.learner(FLAGS.learners[0])
  address = FLAGS.address
  if address.endswith(':0'):
    address = f'{address[:-1]}{flower.free_port()}'
  lines = []

  def report(number, params, loss, received):
    lines.append((number, loss, received, time.perf_counter() - began))
    print(f'round {number}: loss {loss:.4f}, {received} bytes', flush=True)

  server = flower.Server(
    settings_of('', problem), jax.random.key(FLAGS.seed),
    problem.starts(learner)[0][1], FLAGS.clients, report,
  )  # fmt: skip
  own = [a for a in sys.argv[1:] if not a.startswith('--address')]
  command = [sys.executable, '-m', 'experiments.federated', *own]
  clients = [
    subprocess.Popen([*command, f'--address={address}', f'--site={i}'])
    for i in range(FLAGS.clients)
  ]
  began = time.perf_counter()
  try:
    params = flower.serve(address, server, FLAGS.rounds, FLAGS.timeout)
  finally:
    for client in clients:
      client.terminate()
      client.wait()
  columns = ['round', 'loss', 'bytes', 'seconds']
  storage.write_bytes(
    os.path.join(FLAGS.output, 'rounds.csv'),
    pd.DataFrame(lines, columns=columns).to_csv(index=False).encode(),
  )
  table = judge(learner, [params], problem.tasks)
  return table.assign(learner=FLAGS.learners[0], method='flower')


def summarise(results: pd.DataFrame) -> pd.DataFrame:
  """A line for each learner and method; AUROC with its 95% interval, and its
  difference from central training, paired over sites."""
  lines = []
  sites = results.pivot_table('auroc', ['learner', 'site'], 'method')
  for (name, method), part in results.groupby(
    ['learner', 'method'], sort=False
  ):
    good = part.auroc.dropna().to_numpy()
    interval = comparisons.bootstrap(good) if len(good) else (np.nan,) * 3
    lost = len(part) - len(good)
    low, high = np.clip(interval[1:], 0, 1)
    promised = part.false_alarms.mean()
    apart = (np.nan,) * 3
    if 'central' in sites and not lost:
      less = (sites.loc[name, method] - sites.loc[name, 'central']).to_numpy()
      apart = comparisons.bootstrap(less) if np.isfinite(less).all() else apart
    lines.append(
      (name, method, len(part), lost, interval[0], low, high, promised, *apart)
    )
  columns = (
    'learner method sites diverged auroc low high false_alarms '
    'less_central less_low less_high'
  )
  return pd.DataFrame(lines, columns=columns.split())


def main() -> None:
  """Takes part, serves, or compares."""
  if FLAGS.site >= 0:
    return take_part()
  results = serve() if FLAGS.engine == 'flower' else compare()
  path = os.path.join(FLAGS.output, 'results.csv')
  storage.write_bytes(path, results.to_csv(index=False).encode())
  print(summarise(results).round(4).to_string(index=False))


if __name__ == '__main__':
  cli.run(main, FLAGS)
