"""Means with confidence intervals, paired contests and ranks over entities.

Frames in, frames out. Entities are the independent units; draws of supports
within one entity are not. Draws are therefore averaged first, and only the
entities vary. A *cell* is one combination of source, shots, anomalies and
contamination. Rows whose metric is undefined (NaN) are left out.
"""

from collections.abc import Sequence
import itertools
from typing import NamedTuple
import warnings

import numpy as np
import pandas as pd
from scipy import stats

from metaad_jax import base

CELL = ('source', 'shots', 'anomalies', 'contamination')
FEWEST = 5  # entities that a ranking needs

_METHOD = ('method', 'kind')
_DECIMALS = 12  # values that agree to these differ by rounding only
_EXACT = 50  # pairs up to which a signed-rank test is exact, as in SciPy
_BLOCK = 256  # samples bootstrapped at once
_FEW = 10  # entities below which an interval is Student's
_INTERVAL = ('low', 'high')
_SUMMARY = (*CELL, *_METHOD, 'metric', 'mean', *_INTERVAL, 'median', 'entities')
_CONTESTS = (
  *(*CELL, 'metric', 'learner', 'baseline', 'difference', *_INTERVAL),
  *('median', 'wins', 'losses', 'entities', 'p', 'p_holm', 'best'),
)


def summary(
  table: pd.DataFrame, metric: str, *, resamples: int = 4999
) -> pd.DataFrame:
  """Averages a metric over draws within an entity, then over entities.

  Args:
    table: rows as in `evaluation.results`: the columns of a cell, `method`,
      `kind`, `entity` and the metric, in [0, 1]. The draws of an entity weigh
      the same.
    metric: the column to summarise.
    resamples: of the 95% intervals, which are those of `bootstrap`.

  Returns:
    One row per cell and method, in the order of first appearance, with the
    columns `_SUMMARY`; low and high are cut at 0 and 1, and NaN for a single
    entity, whose number is `entities`.
  """
  groups = _entity_means(table, metric).groupby([*CELL, *_METHOD], sort=False)
  samples = {key: values.to_numpy() for key, values in groups[metric]}
  intervals = _intervals([*samples.values()], resamples, least=0.0)
  return pd.DataFrame(
    [
      (*key, metric, *interval, float(np.median(sample)), len(sample))
      for (key, sample), interval in zip(
        samples.items(), intervals, strict=True
      )
    ],
    columns=list(_SUMMARY),
  )


def contests(
  table: pd.DataFrame, metric: str, *, resamples: int = 4999
) -> pd.DataFrame:
  """Compares every learner with every baseline, paired over their entities.

  The arguments are those of `summary`, higher is better. Only entities on which
  both were scored count. The family of Holm's correction is all pairs of one
  cell.

  Returns:
    One row per pair with the columns `_CONTESTS`: difference = learner minus
    baseline, mean over entities; low and high cut at -1 and 1; median of the
    differences; wins and losses = entities on which the learner is above,
    below; p, see `paired`; best = whether the baseline has the highest mean of
    all in its cell, which is chosen on the same rows and so favours it.
  """
  keys: list[tuple] = []
  samples: list[np.ndarray] = []
  p_values: list[tuple[float, float, bool]] = []
  cells = _entity_means(table, metric).groupby([*CELL], sort=False)
  for cell, means in cells:
    pairs = _pairs(means, metric)
    keys += [(*cell, metric, *names) for *names, _, _ in pairs]
    samples += [differences for *_, differences, _ in pairs]
    family = [paired(gaps, np.zeros(len(gaps))) for *_, gaps, _ in pairs]
    bests = [best for *_, best in pairs]
    p_values += zip(family, holm(family), bests, strict=True)
  intervals = _intervals(samples, resamples, least=-1.0)
  return pd.DataFrame(
    [
      (*key, *interval, *_tally(sample), *p)
      for key, sample, interval, p in zip(
        keys, samples, intervals, p_values, strict=True
      )
    ],
    columns=list(_CONTESTS),
  ).astype({'best': bool})


def _pairs(
  means: pd.DataFrame, metric: str
) -> list[tuple[str, str, np.ndarray, bool]]:
  """Learner, baseline, differences over entities, whether it is the best."""
  kinds = means.drop_duplicates('method').set_index('method')['kind']
  learners, baselines = (
    kinds.index[kinds == kind] for kind in ('learner', 'baseline')
  )
  values = means.pivot(index='entity', columns='method', values=metric)
  averages = values[baselines].mean().round(_DECIMALS)
  best = averages.idxmax() if len(averages) else None
  pairs = []
  for learner, baseline in itertools.product(learners, baselines):
    differences = (values[learner] - values[baseline]).dropna().to_numpy()
    if len(differences):
      pairs.append((learner, baseline, differences, baseline == best))
  return pairs


def _tally(differences: np.ndarray) -> tuple[float, int, int, int]:
  """Median, wins, losses and number of the differences."""
  signs = np.sign(differences.round(_DECIMALS))
  wins, losses = int((signs > 0).sum()), int((signs < 0).sum())
  return float(np.median(differences)), wins, losses, len(differences)


class Ranking(NamedTuple):
  """Methods in the order of their mean ranks over entities.

  `p` is of Friedman's test that all methods are alike; 1 where there are fewer
  than three methods or two entities. `cliques` are (first, last) positions in
  `methods` of the longest runs of methods within which no pair differs
  (Wilcoxon, Holm over all pairs).
  """

  source: str
  contamination: float
  anomalies: int
  shots: tuple[int, ...]  # that were averaged
  methods: tuple[str, ...]  # the best first
  ranks: tuple[float, ...]  # of each, the mean over entities; ties share
  entities: int
  p: float
  cliques: tuple[tuple[int, int], ...]
  left_out: tuple[str, ...]  # methods that were not scored on every entity


def ranks(
  table: pd.DataFrame, metric: str, *, alpha: float = 0.05
) -> list[Ranking]:
  """Ranks methods over entities, for critical-difference diagrams.

  One for each source, contamination and number of labelled anomalies in which
  at least two methods were scored on the same five entities or more. An
  entity's value is its mean over those shots that the most methods serve.

  Pairs are told apart by signed-rank tests rather than by Nemenyi's distance of
  mean ranks, which would let a third method decide about two; `alpha` is the
  chance of any false difference between two methods. `table` and `metric` are
  as in `summary`, higher is better.

  Friedman, The use of ranks to avoid the assumption of normality, 1937.
  Benavoli, Corani and Mangili, Should we really use post-hoc tests based on
  mean-ranks?, 2016.
  """
  table = _scored(table, metric)
  rankings = []
  for block, entries in table.groupby(['source', 'contamination'], sort=False):
    for anomalies, rows in entries.groupby('anomalies'):
      serving = rows.groupby('shots', sort=False)['method'].agg(set)
      most = max(serving, key=len)
      shots = sorted(k for k, methods in serving.items() if methods >= most)
      rows = rows[rows['shots'].isin(shots) & rows['method'].isin(most)]
      values = rows.pivot_table(
        index='entity', columns='method', values=metric, sort=False
      )
      ranking = _rank(values, alpha)
      if len(values) >= FEWEST and ranking:
        setting = *block, anomalies, tuple(shots)
        rankings.append(Ranking(*setting, *ranking))
  return rankings


def _rank(values: pd.DataFrame, alpha: float) -> tuple | None:
  """`Ranking` from `methods` on, of values [entities, methods]."""
  complete = values.dropna(axis=1)
  if complete.shape[1] < 2:
    return None
  rounded = complete.to_numpy().round(_DECIMALS)
  mean_ranks = stats.rankdata(-rounded, axis=1).mean(0)
  order = np.argsort(mean_ranks, kind='stable')
  rounded, mean_ranks = rounded[:, order], mean_ranks[order]
  count = len(order)
  pairs = list(itertools.combinations(range(count), 2))
  p_values = holm([paired(rounded[:, i], rounded[:, j]) for i, j in pairs])
  differ = np.zeros((count, count), bool)
  differ[tuple(np.transpose(pairs))] = p_values < alpha
  friedman = 1.0
  if count > 2 and len(rounded) > 1 and np.ptp(mean_ranks) > 0:
    friedman = float(stats.friedmanchisquare(*rounded.T).pvalue)
  return (
    tuple(complete.columns[order]),
    tuple(mean_ranks.tolist()),
    len(rounded),
    friedman,
    _cliques(differ),
    tuple(values.columns.difference(complete.columns, sort=False)),
  )


def _cliques(differ: np.ndarray) -> tuple[tuple[int, int], ...]:
  """The longest runs (first, last) without a pair i < j that differs."""
  cliques: list[tuple[int, int]] = []
  for first in range(len(differ)):
    last = first
    while (
      last + 1 < len(differ) and not differ[first : last + 1, last + 1].any()
    ):
      last += 1
    if last > first and (not cliques or last > cliques[-1][1]):
      cliques.append((first, last))
  return tuple(cliques)


def _entity_means(table: pd.DataFrame, metric: str) -> pd.DataFrame:
  """A row per cell, method and entity: its mean over draws."""
  keys = [*CELL, *_METHOD, 'entity']
  groups = _scored(table, metric).groupby(keys, sort=False)
  return groups[metric].mean().reset_index()


def _scored(table, metric):
  missing = {*CELL, *_METHOD, 'entity', metric} - {*table.columns}
  if missing:
    raise base.DataError(
      f'the table has no column {", ".join(sorted(missing))}: give the table '
      'of an evaluation'
    )
  return table[table[metric].notna()]


def bootstrap(
  values: np.ndarray,
  *,
  level: float = 0.95,
  resamples: int = 4999,
  seed: int = 0,
) -> tuple[float, float, float]:
  """Returns (mean, low, high), a confidence interval of the mean of [n] values.

  From ten values on the interval is the bias-corrected and accelerated (BCa)
  bootstrap; where that is not defined (equal values), the percentile interval.
  Of nominal 95% it covers 90% at n = 10 and 92% at n = 20 for normal values.
  Below ten values, where it would be far too narrow (84% at n = 5), it is
  Student's t interval; of one value low and high are NaN. The same seed gives
  the same interval. Raises DataError unless all are finite.

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
  """Returns the two-sided p-value of Wilcoxon's signed-rank test of [n] pairs.

  Zero differences (below 1e-12) are dropped; p is 1 if all are. Up to 50 others
  the p-value is exact, ties included; beyond, it is the normal approximation.
  The least one that n pairs can reach is 2^(1 - n): five never reach 0.05.
  Raises DataError if the two differ in length, are empty or not finite.

  Demsar, Statistical comparisons of classifiers over multiple data sets, 2006.
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


def holm(p_values: Sequence[float]) -> np.ndarray:
  """Returns p-values [m] of one family of tests, adjusted after Holm.

  Rejecting those <= alpha keeps the probability of any false rejection in the
  family <= alpha. Holm, A simple sequentially rejective multiple test
  procedure, 1979.
  """
  # statsmodels would collect garbage at every call, for half a second
  p = np.asarray(p_values, float)
  order = np.argsort(p, kind='stable')
  adjusted = np.empty_like(p)
  factors = np.arange(len(p), 0, -1)
  adjusted[order] = np.maximum.accumulate(p[order] * factors).clip(max=1.0)
  return adjusted


def _intervals(
  samples: Sequence[np.ndarray], resamples: int, *, least: float
) -> list[tuple[float, float, float]]:
  """`bootstrap` of many samples, cut at `least` and 1."""
  sizes: dict[int, list[int]] = {}
  for position, sample in enumerate(samples):
    sizes.setdefault(len(sample), []).append(position)
  intervals = np.empty((len(samples), 3))
  for positions in sizes.values():
    stacked = np.stack([samples[position] for position in positions])
    intervals[positions] = np.stack(
      _bootstrap_many(stacked, 0.95, resamples, 0), axis=1
    )
  intervals[:, 1:] = intervals[:, 1:].clip(least, 1.0)
  return [(mean, low, high) for mean, low, high in intervals.tolist()]


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
  """BCa intervals (low, high) of the means of [samples, n]."""
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
