"""Means with confidence intervals over entities, and paired comparisons.

Entities are the units that are independent; draws of supports within one
entity are not. So draws are averaged first, and only then do entities vary.
"""

from collections.abc import Iterable, Mapping, Sequence
import itertools
from typing import Any, NamedTuple
import warnings

import numpy as np
from scipy import stats

from metaad_jax import base
from metaad_jax.scores import metrics

Row = Mapping[str, Any]
_SETTING = ('source', 'shots', 'anomalies', 'contamination')
_METHOD = ('learner', 'kind')
_DECIMALS = 12  # values that agree to these differ by rounding only
_EXACT = 50  # pairs up to which a signed-rank test is exact, as in SciPy
_BLOCK = 256  # samples bootstrapped at once
_FEW = 10  # entities below which an interval is Student's


def bootstrap(
  values: np.ndarray,
  *,
  level: float = 0.95,
  resamples: int = 4999,
  seed: int = 0,
) -> tuple[float, float, float]:
  """Returns the mean and a confidence interval of it.

  From ten values on the interval is the bias-corrected and accelerated (BCa)
  bootstrap; where that is not defined (equal values), the percentile interval.
  Of nominal 95% it covers 90% at n = 10 and 92% at n = 20 for normal values.
  Below ten values, where the bootstrap would be far too narrow (84% at n = 5),
  it is Student's t interval: 95% for normal values whatever their number, wide
  where there are two or three.

  Args:
    values: [n] one per entity.
    level: the intended coverage.
    resamples: number of bootstrap resamples.
    seed: the same seed gives the same interval.

  Returns:
    (mean, low, high); low and high are NaN if n = 1.

  Raises:
    DataError: if there is no value, or one is not finite.

  References:
    Student, The probable error of a mean, 1908.
    Efron, Better bootstrap confidence intervals, 1987.
  """
  values = np.asarray(values, float)
  if not values.size or not np.isfinite(values).all():
    raise base.DataError(
      f'bootstrap of {values.size} values, of which '
      f'{np.isfinite(values).sum()} finite: give one finite value per entity'
    )
  mean, low, high = _bootstrap_many(values[None], level, resamples, seed)
  return float(mean[0]), float(low[0]), float(high[0])


def paired(a: np.ndarray, b: np.ndarray) -> float:
  """Returns the two-sided p-value of Wilcoxon's signed-rank test.

  Zero differences (below 1e-12) are dropped. Up to 50 others the p-value is
  exact, ties included; beyond, it is the normal approximation. The least one
  that n pairs can reach is 2^(1 - n): five pairs never reach 0.05.

  Args:
    a: [n] one per entity.
    b: [n] of the same entities.

  Returns:
    p; 1 if all differences are zero.

  Raises:
    DataError: if the two differ in length, are empty or not finite.

  References:
    Wilcoxon, Individual comparisons by ranking methods, 1945.
    Demsar, Statistical comparisons of classifiers over multiple data sets,
    2006.
  """
  a, b = np.asarray(a, float), np.asarray(b, float)
  if a.shape != b.shape or not a.size or not np.isfinite(a - b).all():
    raise base.DataError(
      f'paired test of {a.shape} and {b.shape} values: give one finite value '
      'per entity, the same entities on both sides'
    )
  differences = np.round(a - b, _DECIMALS)
  differences = differences[differences != 0]
  if not differences.size:
    return 1.0
  ties = len(np.unique(np.abs(differences))) < len(differences)
  if ties and len(differences) <= _EXACT:
    return _tied_wilcoxon(differences)
  return float(stats.wilcoxon(differences).pvalue)


def _tied_wilcoxon(differences: np.ndarray) -> float:
  """Exact signed-rank test with ties, which SciPy takes most of a second for.

  Counts the sign patterns that reach each sum of positive ranks; mean ranks
  are multiples of one half, so twice the ranks are integers.
  """
  ranks = (2 * stats.rankdata(np.abs(differences))).astype(int)
  counts = np.ones(1)
  for rank in ranks:
    longer = np.zeros(len(counts) + rank)
    longer[: len(counts)] += counts
    longer[rank:] += counts
    counts = longer
  reached = ranks[differences > 0].sum()
  tail = min(counts[: reached + 1].sum(), counts[reached:].sum())
  return float(min(1.0, 2 * tail / counts.sum()))


def holm(p_values: np.ndarray) -> np.ndarray:
  """Returns p-values adjusted for their number, after Holm.

  Args:
    p_values: [m] of one family of tests.

  Returns:
    [m] adjusted, in the same order: rejecting those <= alpha keeps the
    probability of any false rejection in the family <= alpha.

  References:
    Holm, A simple sequentially rejective multiple test procedure, 1979.
  """
  p_values = np.asarray(p_values, float)
  order = np.argsort(p_values, kind='stable')
  factors = np.arange(len(p_values), 0, -1)
  stepped = np.maximum.accumulate(p_values[order] * factors)
  adjusted = np.empty_like(stepped)
  adjusted[order] = np.minimum(stepped, 1.0)
  return adjusted


def summarise(
  rows: Sequence[Row],
  *,
  names: Sequence[str] = metrics.NAMES,
  level: float = 0.95,
  resamples: int = 4999,
  seed: int = 0,
) -> list[dict[str, Any]]:
  """Averages evaluation rows: over draws within an entity, then over entities.

  Args:
    rows: dicts with source, entity, learner, kind ('learner' or 'baseline'),
      shots, anomalies, contamination and the metrics. All rows of one entity
      that agree in these (draws) weigh the same.
    names: the metrics to summarise.
    level: coverage of the intervals, which are as `bootstrap` gives them.
    resamples: as in `bootstrap`.
    seed: as in `bootstrap`.

  Returns:
    Dicts with source, learner, kind, shots, anomalies, contamination, metric,
    mean, low, high, entities (their number), in the order of first appearance;
    low and high are NaN for one entity, and cut at 0 and 1, as metrics are.

  Raises:
    DataError: if a row lacks a key, or a metric in it is not finite.
  """
  groups = _entity_means(rows, names)
  samples = [
    np.array(list(means.values()))[:, column]
    for means in groups.values()
    for column in range(len(names))
  ]
  intervals = _intervals(samples, level, resamples, seed, 0.0)
  keys = [(key, name) for key in groups for name in names]
  return [
    {
      **dict(zip(_SETTING + _METHOD, key, strict=True)),
      'metric': name,
      'mean': mean,
      'low': low,
      'high': high,
      'entities': len(sample),
    }
    for (key, name), sample, (mean, low, high) in zip(
      keys, samples, intervals, strict=True
    )
  ]


def compare(
  rows: Sequence[Row],
  names: Sequence[str] = ('auroc', 'ap'),
  *,
  level: float = 0.95,
  resamples: int = 4999,
  seed: int = 0,
) -> list[dict[str, Any]]:
  """Compares every learner with every baseline, paired over their entities.

  Only entities that both have been evaluated on count; pairs without any are
  left out. The family of Holm's correction is all learner-baseline pairs of
  one metric, source, shots, anomalies and contamination.

  The best baseline of such a family is marked: that with the highest mean over
  its entities, chosen with the same rows that it is then compared on, which
  favours it over the learner.

  Args:
    rows: as in `summarise`.
    names: the metrics to compare.
    level: coverage of the interval of the mean difference.
    resamples: as in `bootstrap`.
    seed: as in `bootstrap`.

  Returns:
    Dicts with source, shots, anomalies, contamination, metric, learner,
    baseline, difference (learner - baseline, mean over entities), low, high
    (cut at -1 and 1), p (Wilcoxon, see `paired`), p_holm, entities (their
    number) and best (whether the baseline is the best one).

  Raises:
    DataError: as in `summarise`.
  """
  settings: dict[tuple, dict[str, dict[str, dict]]] = {}
  for key, entities in _entity_means(rows, names).items():
    name, kind = key[len(_SETTING) :]
    kinds = settings.setdefault(
      key[: len(_SETTING)], {'learner': {}, 'baseline': {}}
    )
    if kind not in kinds:
      raise base.DataError(
        f"{name} has kind {kind!r}: it must be 'learner' or 'baseline'"
      )
    kinds[kind][name] = entities
  keys, samples = [], []
  p_values: list[float] = []
  adjusted: list[float] = []
  for column, metric in enumerate(names):
    for setting, kinds in settings.items():
      values = {
        kind: {
          name: {entity: mean[column] for entity, mean in own.items()}
          for name, own in methods.items()
        }
        for kind, methods in kinds.items()
      }
      means = {
        name: np.mean(list(own.values()))
        for name, own in values['baseline'].items()
      }
      best = max(means, key=means.__getitem__, default=None)
      family = []
      for learner, ours in values['learner'].items():
        for baseline, theirs in values['baseline'].items():
          shared = [entity for entity in ours if entity in theirs]
          if not shared:
            continue
          a = np.array([ours[entity] for entity in shared])
          b = np.array([theirs[entity] for entity in shared])
          keys.append((*setting, metric, learner, baseline, baseline == best))
          samples.append(a - b)
          family.append(paired(a, b))
      p_values.extend(family)
      adjusted.extend(holm(np.array(family)).tolist())
  intervals = _intervals(samples, level, resamples, seed, -1.0)
  columns = (*_SETTING, 'metric', 'learner', 'baseline')
  return [
    {
      **dict(zip(columns, key, strict=True)),
      'difference': mean,
      'low': low,
      'high': high,
      'p': p,
      'p_holm': p_holm,
      'entities': len(sample),
      'best': best,
    }
    for (*key, best), sample, (mean, low, high), p, p_holm in zip(
      keys, samples, intervals, p_values, adjusted, strict=True
    )
  ]


class Contest(NamedTuple):
  """The best method of a cell against every other, on the same entities.

  Attributes:
    source: name of the source.
    contamination: share of unlabelled anomalies in the support.
    anomalies: A.
    shots: K.
    best: the method with the highest mean.
    entities: that all methods here were scored on.
    rivals: the others, the highest mean first: dicts with learner, kind, mean,
      difference (best - this one), low, high, p and p_holm (Holm's family: the
      rivals). The best comes first, with a difference of 0 and p None.
    left_out: methods that were not scored on every entity of the cell.
  """

  source: str
  contamination: float
  anomalies: int
  shots: int
  best: str
  entities: int
  rivals: tuple[dict[str, Any], ...]
  left_out: tuple[str, ...]


def contests(
  rows: Sequence[Row],
  metric: str = 'auroc',
  *,
  resamples: int = 4999,
  seed: int = 0,
) -> list[Contest]:
  """Tests the best method of every cell against the others, of either kind.

  The best is chosen with the rows that it is then tested on. Where several
  methods are truly alike, one of them is thus found better more often than
  the p-values say.

  Args:
    rows: as in `summarise`.
    metric: higher is better.
    resamples: as in `bootstrap`.
    seed: as in `bootstrap`.

  Returns:
    One for each cell, ordered as the rows, then by A and K.

  Raises:
    DataError: as in `summarise`.
  """
  cells: dict[tuple, dict[tuple[str, str], dict[str, float]]] = {}
  for key, entity_means in _entity_means(rows, [metric]).items():
    own = {entity: mean[0] for entity, mean in entity_means.items()}
    cells.setdefault(key[: len(_SETTING)], {})[key[len(_SETTING) :]] = own
  found: list[tuple] = []
  samples: list[np.ndarray] = []
  for setting, methods in cells.items():
    entities = list(dict.fromkeys(e for own in methods.values() for e in own))
    most = max(map(len, methods.values()))
    values = {
      method: np.array([own[entity] for entity in entities])
      for method, own in methods.items()
      if len(own) == most == len(entities)
    }
    out = tuple(name for name, kind in methods if (name, kind) not in values)
    if not values:
      continue
    means = {method: own.mean() for method, own in values.items()}
    order = sorted(means, key=means.__getitem__, reverse=True)
    best = values[order[0]]
    gaps = [best - values[method] for method in order]
    p_values = [paired(best, values[method]) for method in order[1:]]
    adjusted = [None, *holm(np.array(p_values)).tolist()]
    lines = [
      {
        'learner': method[0],
        'kind': method[1],
        'mean': float(values[method].mean()),
        'p': p,
        'p_holm': p_holm,
      }
      for method, p, p_holm in zip(
        order, [None, *p_values], adjusted, strict=True
      )
    ]
    found.append((setting, order[0][0], len(entities), lines, out))
    samples += gaps
  intervals = iter(_intervals(samples, 0.95, resamples, seed, -1.0))
  contests = []
  for (source, shots, anomalies, dirt), best, count, lines, out in found:
    for line in lines:
      mean, low, high = next(intervals)
      line |= {'difference': mean, 'low': low, 'high': high}
    contests.append(
      Contest(source, dirt, anomalies, shots, best, count, tuple(lines), out)
    )
  blocks = list(dict.fromkeys((c.source, c.contamination) for c in contests))
  return sorted(
    contests,
    key=lambda c: (
      blocks.index((c.source, c.contamination)),
      c.anomalies,
      c.shots,
    ),
  )


class Ranking(NamedTuple):
  """Methods in the order of their mean ranks over entities.

  Attributes:
    names: the methods, the best first.
    ranks: of each, the mean over entities; 1 = the best, ties share.
    entities: number of entities.
    p: of Friedman's test that all methods are alike; 1 where there are fewer
      than three methods or two entities.
    cliques: (first, last) positions in `names` of the longest runs of methods
      within which no pair differs (Wilcoxon, Holm over all pairs).
    left_out: methods that were not scored on every entity.
  """

  names: tuple[str, ...]
  ranks: tuple[float, ...]
  entities: int
  p: float
  cliques: tuple[tuple[int, int], ...]
  left_out: tuple[str, ...]


def ranking(
  rows: Sequence[Row], metric: str = 'auroc', *, alpha: float = 0.05
) -> Ranking:
  """Ranks methods over entities, for a critical-difference diagram.

  An entity's value is its mean over the rows of a method, so give rows in
  which all methods have served the same cells. Pairs are told apart by signed
  rank tests rather than by Nemenyi's distance of mean ranks, which would let
  the presence of a third method decide about two.

  Args:
    rows: as in `summarise`, of one source.
    metric: the metric to rank by; higher is better.
    alpha: the chance of any false difference between two methods.

  Returns:
    See `Ranking`.

  Raises:
    DataError: as in `summarise`, or if there is no row.

  References:
    Friedman, The use of ranks to avoid the assumption of normality, 1937.
    Demsar, Statistical comparisons of classifiers over multiple data sets,
    2006.
    Benavoli, Corani and Mangili, Should we really use post-hoc tests based on
    mean-ranks?, 2016.
  """
  values: dict[str, dict[str, float]] = {}
  one_cell = [{**row, **dict.fromkeys(_SETTING)} for row in rows]
  for key, means in _entity_means(one_cell, [metric]).items():
    values[key[-2]] = {entity: mean[0] for entity, mean in means.items()}
  if not values:
    raise base.DataError('no rows to rank: give those of an evaluation')
  entities = dict.fromkeys(entity for own in values.values() for entity in own)
  names = [name for name, own in values.items() if len(own) == len(entities)]
  if not names:
    raise base.DataError(
      'no method was scored on every entity: give rows of one fold or cell'
    )
  table = np.array([[values[name][e] for name in names] for e in entities])
  ranks = stats.rankdata(-table.round(_DECIMALS), axis=1).mean(0)
  order = np.argsort(ranks, kind='stable')
  table, ranks = table[:, order], ranks[order]
  count = len(names)
  pairs = list(itertools.combinations(range(count), 2))
  p_values = holm(
    np.array([paired(table[:, i], table[:, j]) for i, j in pairs])
  )
  differ = np.zeros((count, count), bool)
  for (i, j), p in zip(pairs, p_values, strict=True):
    differ[i, j] = differ[j, i] = p < alpha
  cliques: list[tuple[int, int]] = []
  for first in range(count):
    last = first
    while last + 1 < count and not differ[first : last + 2, last + 1].any():
      last += 1
    if last > first and (not cliques or last > cliques[-1][1]):
      cliques.append((first, last))
  friedman = 1.0
  if count > 2 and len(table) > 1 and np.ptp(ranks) > 0:
    friedman = float(stats.friedmanchisquare(*table.T.round(_DECIMALS)).pvalue)
  return Ranking(
    tuple(names[i] for i in order),
    tuple(ranks.tolist()),
    len(table),
    friedman,
    tuple(cliques),
    tuple(name for name in values if name not in names),
  )


def _entity_means(
  rows: Iterable[Row], names: Sequence[str]
) -> dict[tuple, dict[str, np.ndarray]]:
  """Returns {setting + method: {entity: [metrics] mean over its rows}}."""
  columns = (*_SETTING, *_METHOD, 'entity')
  ids: dict[tuple, int] = {}
  index, table = [], []
  for number, row in enumerate(rows):
    try:
      key = tuple([row[column] for column in columns])
      table.append([row[name] for name in names])
    except KeyError as missing:
      raise base.DataError(
        f'row {number} has no {missing}: evaluation rows need '
        f'{", ".join((*columns, *names))}'
      ) from None
    index.append(ids.setdefault(key, len(ids)))
  try:
    values = np.array(table, float).reshape(len(index), len(names))
  except (TypeError, ValueError):
    raise base.DataError(
      f'{", ".join(names)}: a row holds something other than a number'
    ) from None
  bad = np.argwhere(~np.isfinite(values))
  if bad.size:
    row, column = bad[0]
    raise base.DataError(
      f'row {row}: {names[column]} is {values[row, column]}: leave the row out '
      'or mend its scores'
    )
  means = np.zeros((len(ids), len(names)))
  np.add.at(means, index, values)
  means /= np.bincount(index, minlength=len(ids))[:, None]
  groups: dict[tuple, dict[str, np.ndarray]] = {}
  for (*method, entity), mean in zip(ids, means, strict=True):
    groups.setdefault(tuple(method), {})[entity] = mean
  return groups


def _intervals(
  samples: Sequence[np.ndarray],
  level: float,
  resamples: int,
  seed: int,
  least: float,
) -> list[tuple[float, float, float]]:
  """Runs `bootstrap` on many samples of numbers from `least` to 1.

  Samples of one size share resamples.
  """
  sizes: dict[int, list[int]] = {}
  for position, sample in enumerate(samples):
    sizes.setdefault(len(sample), []).append(position)
  results = np.empty((len(samples), 3))
  for positions in sizes.values():
    stacked = np.stack([samples[position] for position in positions])
    results[positions] = np.stack(
      _bootstrap_many(stacked, level, resamples, seed), axis=1
    )
  results[:, 1:] = results[:, 1:].clip(least, 1.0)
  return [(mean, low, high) for mean, low, high in results.tolist()]


def _bootstrap_many(
  values: np.ndarray, level: float, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Bootstraps the means of [samples, n]; all share the resampled indices."""
  values = np.sort(values)  # the order of the entities must not matter
  mean, n = values.mean(1), values.shape[1]
  low, high = np.full_like(mean, np.nan), np.full_like(mean, np.nan)
  if 1 < n < _FEW:
    error = values.std(1, ddof=1) / np.sqrt(n)
    half = stats.t.ppf((1 + level) / 2, n - 1) * error
    return mean, mean - half, mean + half
  for start in range(0, len(values) if n > 1 else 0, _BLOCK):
    block = slice(start, start + _BLOCK)
    low[block], high[block] = _interval(values[block], level, resamples, seed)
  return mean, low, high


def _interval(
  values: np.ndarray, level: float, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  n = values.shape[1]

  def means(indices, axis):
    # SciPy resamples the indices, so all samples' means are one product.
    # Rounding makes resamples with equal means tie, as BCa expects.
    del axis
    flat = indices.reshape(-1, indices.shape[-1])
    cells = flat + n * np.arange(len(flat))[:, None]
    counts = np.bincount(cells.ravel(), minlength=n * len(flat)).reshape(-1, n)
    product = values @ (counts.T / flat.shape[1])
    return product.round(_DECIMALS).reshape(-1, *indices.shape[:-1])

  with warnings.catch_warnings(), np.errstate(all='ignore'):
    warnings.simplefilter('ignore')
    result = stats.bootstrap(
      (np.arange(n),),
      means,
      n_resamples=resamples,
      batch=max(1, 20_000_000 // n),  # many samples: memory stays flat
      confidence_level=level,
      method='BCa',
      rng=np.random.default_rng(seed),
    )
  low, high = map(np.array, result.confidence_interval)
  bad = np.isnan(low) | np.isnan(high)
  tails = (1 - level) / 2, (1 + level) / 2
  low[bad], high[bad] = np.quantile(
    result.bootstrap_distribution[bad], tails, axis=-1
  )
  return low, high
