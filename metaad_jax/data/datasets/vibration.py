"""A fleet of simulated rotating machines, see `rotating_machines`."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metaad_jax import base, specs
from metaad_jax.data import rotating_machines, rows

CHUNK = 2**19  # samples that `load` generates at a time


class Options(NamedTuple):
  """What the windows of a fleet are like."""

  length: int = 1024  # samples of a window, at least 64
  rate: float = 12000.0  # sampling rate in Hz, at least 200
  noise: float = 1.0  # factor on the noise floor
  regimes: float = 1.0  # factor on how much the two ways of running differ
  severity: float = 1.0  # the worst; uniform from a quarter of it up
  faults: str = 'all'  # or names from FAULTS joined by '|'
  zscore: bool = False  # centred and divided by the standard deviation
  snr_db: float | None = None  # white noise is added, so much below the window


def _condition(key, x, zscore, snr_db):
  """A window [length], standardized and with noise added as asked."""
  if zscore:
    x = (x - jnp.mean(x)) / jnp.std(x)
  if snr_db is not None:
    scale = jnp.std(x) * 10 ** (-snr_db / 20)
    x = x + scale * jax.random.normal(key, x.shape)
  return x


def generate_labelled(
  key: jax.Array, normals: int, anomalies: int, options: Options
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Draws a machine and its windows, and says what is wrong in each.

  The key is consumed; a window does not depend on how many others are drawn.

  Returns:
    The normal windows [normals, length, 1] and the anomalous ones [anomalies,
    length, 1] in m/s^2, float32; the fault of each of these, [anomalies] int32
    index into FAULTS, of one or two kinds.
  """
  allowed = _check(options)
  length, rate = options.length, options.rate
  machine_key, normal_key, anomaly_key, fault_key = jax.random.split(key, 4)
  machine = rotating_machines.draw_machine(
    machine_key, rate=rate, noise=options.noise, regimes=options.regimes,
    faults=allowed,
  )  # fmt: skip

  @jax.vmap
  def window(key, fault, severity):
    key, noise_key = jax.random.split(key)
    x = rotating_machines.render(
      key, machine, fault, severity, length=length, rate=rate
    )
    x = _condition(noise_key, x, options.zscore, options.snr_db)
    return x[:, None]

  which, badness = jax.random.uniform(fault_key, (anomalies, 2)).T
  fault = machine['faults'][(2 * which).astype(int)]
  badness = options.severity * (0.25 + 0.75 * badness)
  keys = [
    jax.random.split(normal_key, normals),
    jax.random.split(anomaly_key, anomalies),
  ]
  faults = jnp.concatenate([jnp.zeros(normals, int), fault])
  severities = jnp.concatenate([jnp.zeros(normals), badness])
  x = window(jnp.concatenate(keys), faults, severities)
  return x[:normals], x[normals:], fault


def generate(
  key: jax.Array, normals: int, anomalies: int, **options
) -> tuple[jax.Array, jax.Array]:
  """The windows of `generate_labelled`; the options are those of `Options`."""
  return generate_labelled(key, normals, anomalies, Options(**options))[:2]


def load(
  data_dir: str | None = None,
  *,
  machines: int = 1000,
  test_machines: int = 200,
  windows: int = 50,
  queries: int = 50,
  seed: int = 0,
  **options,
) -> list[base.Entity]:
  """Simulates a fleet; machine i depends on the seed and on i alone.

  Args:
    data_dir: not used.
    machines: how many serve for training.
    test_machines: how many serve for testing.
    windows: normal windows of each machine, for its supports.
    queries: windows of each machine to be scored, half of them anomalous.
    seed: of the fleet.
    **options: see `Options`.
  """
  del data_dir
  style = Options(**options)
  _check(style)
  fleet = machines + test_machines
  specs.allow(
    min(machines, test_machines) >= 0 and fleet and windows >= 1,
    'vibration', 'one machine or more in all, and one window or more',
    machines=machines, test_machines=test_machines, windows=windows,
  )  # fmt: skip
  specs.allow(queries >= 2, 'vibration', 'two or more', queries=queries)
  anomalies = queries // 2
  good = queries - anomalies
  chunk = max(1, CHUNK // ((windows + queries) * style.length))
  entities = []
  for first in range(0, fleet, chunk):
    numbers = first + np.arange(chunk)
    parts = _chunk(seed, numbers, windows + good, anomalies, style)
    for i, normal, anomaly, fault in zip(
      range(first, fleet), *map(np.asarray, parts), strict=False
    ):
      kinds = [rotating_machines.FAULTS[k] for k in fault]
      entities.append(
        rows.entity(
          f'machine-{i}',
          normal[:windows],
          np.concatenate([normal[windows:], anomaly]),
          [''] * good + kinds,
          side='train' if i < machines else 'test',
        )
      )
  return entities


rows.declare(load, Options._field_defaults)


@functools.partial(jax.jit, static_argnames=('normals', 'anomalies', 'options'))
def _chunk(seed, numbers, normals, anomalies, options):
  key = jax.random.key(seed)
  draw = lambda i: generate_labelled(
    jax.random.fold_in(key, i), normals, anomalies, options
  )
  return jax.vmap(draw)(numbers)


def _check(options: Options) -> tuple[str, ...]:
  """Returns the names in `faults`, or raises DataError."""
  least = {'length': 64, 'rate': 200, 'noise': 0, 'regimes': 0, 'severity': 0}
  for name, low in least.items():
    value = getattr(options, name)
    good = low <= value < np.inf
    specs.allow(good, 'vibration', f'{low} or more', **{name: value})
  snr_db = options.snr_db
  good = snr_db is None or isinstance(snr_db, int | float)
  good = good and (snr_db is None or np.isfinite(snr_db))
  remedy = 'a finite number of dB, or leave it out for no noise'
  specs.allow(good, 'vibration', remedy, snr_db=snr_db)
  known, faults = rotating_machines.FAULTS, str(options.faults)
  names = known if faults == 'all' else tuple(faults.split('|'))
  remedy = f"all, or some of {', '.join(known)} joined by '|'"
  specs.allow({*names} <= {*known}, 'vibration', remedy, faults=faults)
  return names


SOURCE = base.Source(
  name='vibration',
  description='simulated rotating machines; a row is a window of acceleration',
  load=load,
  features=('logspec:bins=64', 'envelope:high=750', 'statistics'),
  units='m/s^2',
  licence='as this library: the data are generated by it',
  citation=(
    'McFadden & Smith 1984, J. Sound and Vibration 96; '
    'Randall & Antoni 2011, Mech. Systems and Signal Processing 25'
  ),
  channels=('acceleration',),
  rate=12000.0,
  generate=generate,
  code=(__name__, rotating_machines.__name__),
)
