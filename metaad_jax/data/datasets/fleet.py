"""A user's own fleet in one long file: a column names each row's entity."""

from collections.abc import Iterator
import logging

import numpy as np

from metaad_jax.base import DataError, Entity, Source
from metaad_jax.data import rows

_log = logging.getLogger(__name__)
_LEAST = 4  # normal rows of an entity
_MADE_UP = '%s: %d labelled anomalies, too few: faults are made up instead'
_INJECTED = 0.2  # of the rows to score, where there are no labels


@rows.limited
def load(
  data_dir: str | None,
  *,
  path: str = '',
  entity: str = '',
  group: str = '',
  time: str = '',
  label: str = '',
  anomaly_label: str = '',
  share: float = 0.5,
  seed: int = 0,
) -> Iterator[Entity]:
  """One entity for each value of the column `entity`.

  Rows are in the order of the file, or of time. Supports come from the first of
  an entity's normal rows, all others are scored. Where fewer than ten rows are
  labelled anomalies, these are left out, faults are put into copies of rows to
  score (see `injected`), and a line says so. Missing values are the entity's
  median.

  Args:
    data_dir: not looked at.
    path: the file; see `user_files.read`.
    entity: the column of names of machines, patients, shops.
    group: a column such as a site: entities that share it stay on one side.
    time: the column to sort by.
    label: the column of labels, see `user_files.read`.
    anomaly_label: the word of an anomaly, see `user_files.read`.
    share: of the normal rows, for supports.
    seed: of the faults.
  """
  from metaad_jax.data import cells  # of pandas, see `folder`

  samples = _read(path, entity, group, time, label, anomaly_label)
  names, y = samples.keys[entity].astype(str), samples.labels
  x = np.column_stack([cells.codes(samples.rows[c]) for c in samples.rows])
  x = x.astype(np.float32)
  if made := (count := (y == 1).sum()) < 10:
    _log.warning(_MADE_UP, path, count)
  order = _order(path, time, samples)
  sorted_names, fleet = names.iloc[order], _medians(x[y == 0])
  rng, small = np.random.default_rng(seed), 0
  for name, place in sorted_names.groupby(sorted_names).indices.items():
    index = order[place]
    normal = index[y[index] == 0]
    if len(normal) < _LEAST:
      small += 1
      continue
    pool = normal[: max(1, round(share * len(normal)))]
    query = np.setdiff1d(index, pool, assume_unique=True)
    known, scored = _filled(x[pool], x[query], fleet)
    kinds = np.where(y[query] == 1, 'anomaly', '')
    if made:
      scored, kinds = injected(rng, known, scored[kinds == ''])
    site = str(samples.keys[group].iloc[index[0]]) if group else ''
    yield rows.entity(str(name), known, scored, kinds, group=site)
  if small:
    _log.warning('%d entities have fewer than %d normal rows', small, _LEAST)


def _order(path, time, samples):
  """Of the rows, in time."""
  from metaad_jax.data import cells

  if not time:
    return np.arange(len(samples.rows))
  when = np.asarray(cells.from_values(time, samples.keys[time]).values)
  if not np.issubdtype(when.dtype, np.number):
    raise DataError(f'{path}: column {time!r} holds no times')
  return np.argsort(when, kind='stable')


def injected(
  rng: np.random.Generator, known: np.ndarray, scored: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Rows to score with copies of some that have faults behind them.

  Their kinds are: 'shift', one to three columns moved by 2 to 6 of the entity's
  standard deviations; 'noise', all columns 2 to 4 times as far from the mean;
  'decoupled', half of the columns from another row, so that each value is
  usual and the row is not.

  Args:
    rng: draws the faults.
    known: [K, F] normal rows of the entity.
    scored: [N, F] its other normal rows.

  Returns:
    Rows [N + M, F], and kinds [N + M], '' for those that are as they were.
  """
  count = max(3, round(_INJECTED * len(scored)))
  faulty = scored[rng.integers(len(scored), size=count)].copy()
  mean, spread = known.mean(0), known.std(0)
  spread = np.maximum(spread, 1e-3 * np.abs(mean) + 1e-6)
  width = scored.shape[1]
  names = ['shift', 'noise', 'decoupled'][: 2 + (width > 1)]
  kinds = np.resize(names, count)
  for row, kind in zip(faulty, kinds, strict=True):
    some = rng.permutation(width)[: rng.integers(1, min(3, width) + 1)]
    if kind == 'shift':
      sizes = rng.uniform(2, 6, len(some)) * rng.choice([-1, 1], len(some))
      row[some] += sizes * spread[some]
    elif kind == 'noise':
      row[:] = mean + rng.uniform(2, 4) * (row - mean)
    else:
      half = rng.permutation(width)[: max(1, width // 2)]
      row[half] = scored[rng.integers(len(scored)), half]
  kinds = np.concatenate([np.full(len(scored), ''), kinds])
  return np.concatenate([scored, faulty]).astype(np.float32), kinds


def _filled(known, scored, fleet):
  """Missing values are the medians of the known rows, or of the fleet."""
  median = np.where(np.isnan(known).all(0), fleet, _medians(known))
  return (np.where(np.isnan(x), median, x) for x in (known, scored))


def _medians(x):
  known = np.where(np.isnan(x).all(0), 0, x)
  return np.nanmedian(known, 0) if len(x) else np.zeros(x.shape[1])


def _read(path, entity, group, time, label, anomaly_label):
  from metaad_jax.data import roles, user_files

  if not path or not entity:
    raise DataError(
      'name the file and the column of entities: fleet:path=...,entity=...'
    )
  aside = ','.join(filter(None, (entity, group)))
  samples = user_files.read(
    path, label=label, anomaly_label=anomaly_label, id=aside, time=time
  )
  for note in roles.notes(samples.columns):
    _log.warning('%s: %s', path, note)
  roles.Given(label).check(samples.header)
  for name in filter(None, (entity, group, time)):
    if name not in samples.keys:
      near = roles.nearest(name, list(samples.header))
      raise DataError(f'{path}: there is no column {name!r}{near}')
  y = samples.labels
  if y is None:
    y = np.zeros(len(samples.rows), int)
  if (y < 0).any():
    raise DataError(f'{path}: row {y.argmin()} has no label: give it one')
  return samples._replace(labels=y)


SOURCE = Source(
  name='fleet',
  description='your own fleet in one long file with a column of entities',
  load=load,
  features=('identity',),
  units='yours',
  licence='yours',
  citation='none',
  note='Your own file: path=..., entity=... and, where there are, group=..., '
  'time=..., label=...',
)
