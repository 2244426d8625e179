"""Calibrates a run on entities, and checks the promise on others."""

from collections.abc import Iterator, Sequence
import io
import itertools
from typing import Any, NamedTuple

from matplotlib import figure as mpl_figure
import numpy as np
import tqdm

from metaad_jax import features
from metaad_jax.base import DataError, Entity
from metaad_jax.data import episodes, registry, splitting
from metaad_jax.detector import adaptation
from metaad_jax.scores import conformal
from metaad_jax.scores.conformal import Calibration, Case, Evidence
from metaad_jax.training import runs

RATES = (0.01, 0.05, 0.1)
_NORMALS, _ANOMALIES = 200, 56  # scored per support: 256 is a compiled size
_OWN = 20  # normals held out, in the rule that has some


class Draw(NamedTuple):
  """A support drawn from an entity, and the rows to score.

  Attributes:
    x: [n, ...] support rows, normals (and what passes for them) first.
    y: [n] 1 = labelled anomaly.
    normal: [m, ...] other normals.
    anomaly: [a, ...] other anomalies.
  """

  x: np.ndarray
  y: np.ndarray
  normal: np.ndarray
  anomaly: np.ndarray


def entities(
  run: runs.Run, spec: str, data_dir: str | None
) -> dict[str, list[Entity]]:
  """Entities of a source as a run takes them, by side.

  Of the source that the run was trained on, the sides are those of its
  training; all entities of another are on the test side.
  """
  everyone = registry.load(spec, data_dir)
  layout = runs.layout_of(spec, everyone)
  if run.layout.shape == (None,) and len(layout.shape) == 2:
    made = features.make(
      features.of_windows(layout.shape[0]),  # as the detector does
      layout.shape,
      rate=layout.rate,
      channels=layout.channels,
    )
    everyone = episodes.featurize(everyone, made.apply)
  elif run.layout.shape != (None,):
    if layout.shape != run.layout.shape:
      raise DataError(
        f'{spec} has rows of shape {layout.shape}, the run was trained on '
        f'{run.layout.shape}'
      )
    everyone = runs.featurize(run.config, run.layout, everyone)
  if spec != run.config.source:
    return {'train': [], 'validation': [], 'test': everyone}
  return splitting.split(
    everyone,
    fold=run.config.fold,
    folds=run.config.folds,
    seed=run.config.seed,
  )


def draw(
  rng: np.random.Generator,
  entity: Entity,
  shots: int,
  anomalies: int,
  contamination: float = 0.0,
) -> Draw | None:
  """Draws a support; None if the entity has too few rows for it."""
  bad = rng.permutation(np.flatnonzero(entity.labels == 1))
  good = rng.permutation(np.flatnonzero(entity.labels == 0))[:_NORMALS]
  wrong = int(np.floor(contamination * shots + rng.random()))
  if wrong == 0 or contamination == 0:
    wrong = 0
  if len(entity.normal) < shots or not len(good):
    return None
  if (anomalies or wrong) and len(bad) <= anomalies + wrong:
    return None
  normal = entity.normal[rng.permutation(len(entity.normal))[:shots]].copy()
  normal[:wrong] = entity.query[bad[anomalies : anomalies + wrong]]
  rest = bad[anomalies + wrong :][:_ANOMALIES]
  return Draw(
    np.concatenate([normal, entity.query[bad[:anomalies]]]),
    np.repeat([0.0, 1.0], [shots, anomalies]),
    entity.query[good],
    entity.query[rest],
  )


def cases(
  run: runs.Run,
  members: Sequence[Entity],
  *,
  shots: Sequence[int],
  anomalies: Sequence[int],
  contamination: Sequence[float] = (),
  draws: int = 2,
  seed: int = 0,
  quiet: bool = False,
) -> list[Case]:
  """Adapts a run to many supports and scores what is left.

  Args:
    run: see `runs.restore`.
    members: the calibration entities, featurized.
    shots: numbers of support normals.
    anomalies: numbers of labelled anomalies.
    contamination: shares of the support normals that are anomalies in
      unlabelled cases, one drawn for each; () = no unlabelled cases.
    draws: supports per entity without anomalies; one with some.
    seed: of the draws.
    quiet: no progress bar.

  Returns:
    Cases for `calibration.fit`.
  """
  found = []
  bar = tqdm.tqdm(members, desc='calibrating', disable=quiet)
  for number, entity in enumerate(bar):
    rng = np.random.default_rng([seed, number])
    kinds = (False, True) if len(contamination) else (False,)
    for k, a, unlabelled in itertools.product(shots, anomalies, kinds):
      for _ in range(1 if a or unlabelled else draws):
        share = float(rng.choice(contamination)) if unlabelled else 0.0
        drawn = draw(rng, entity, k, a, share)
        if drawn is None:
          continue
        adapted = adaptation.adapt(run, drawn.x, drawn.y)
        rows = np.concatenate([drawn.normal, drawn.anomaly])
        scores = adaptation.score(run, adapted, rows)
        normal, anomaly = np.split(scores, [len(drawn.normal)])
        known = adaptation.support_scores(run, drawn.x, drawn.y)
        found.append(
          Case(entity.name, k, a, unlabelled, known, normal, anomaly)
        )
  return found


def rules(
  run: runs.Run, calibrated: Calibration, drawn: Draw, unlabelled: bool
) -> Iterator[tuple[str, float, np.ndarray, np.ndarray]]:
  """(rule, rate, alarms of normals, alarms of anomalies) of one support.

  Beside the calibration: the largest of the support's scores, each without
  itself; three standard deviations above their mean; PyOD's threshold, the
  quantile of the scores of the rows that were fitted; and split conformal
  within the entity, half of the support for each.
  """
  shots = int((drawn.y == 0).sum())
  adapted = adaptation.adapt(run, drawn.x, drawn.y)
  score = lambda rows: adaptation.score(run, adapted, rows)
  normal, anomaly = score(drawn.normal), score(drawn.anomaly)
  known = adaptation.support_scores(run, drawn.x, drawn.y)
  fitted = score(drawn.x[drawn.y == 0])
  about = (shots, int(drawn.y.sum()), unlabelled, known)
  judge = lambda own, s: conformal.p_values(
    calibrated, Evidence(*about, own), s
  )
  none = np.zeros(0)
  across = judge(none, normal), judge(none, anomaly)
  own, rest = normal[:_OWN], normal[_OWN:]
  with_own = judge(own, rest), judge(own, anomaly)
  half = shots // 2
  if half:
    other = adaptation.adapt(run, drawn.x[half:], drawn.y[half:])
    kept = np.sort(adaptation.score(run, other, drawn.x[:half]))
    within = lambda rows: (
      (1 + half - np.searchsorted(kept, adaptation.score(run, other, rows)))
      / (half + 1)
    )
    split = within(drawn.normal), within(drawn.anomaly)
  for rate in RATES:
    yield 'across entities', rate, across[0] <= rate, across[1] <= rate
    if len(rest):
      yield (
        f'with {_OWN} own normals', rate, with_own[0] <= rate,
        with_own[1] <= rate,
      )  # fmt: skip
    if half:
      yield 'split within', rate, split[0] <= rate, split[1] <= rate
    bar = np.quantile(fitted, 1 - rate)
    yield 'PyOD contamination', rate, normal > bar, anomaly > bar
    if len(known):
      bar = known.max()
      yield 'largest of support', rate, normal > bar, anomaly > bar
      bar = known.mean() + 3 * known.std()
      yield '3 sigma', rate, normal > bar, anomaly > bar


def check(
  run: runs.Run,
  calibrated: Calibration,
  members: Sequence[Entity],
  *,
  shots: Sequence[int],
  settings: Sequence[tuple[int, float]] = ((0, 0.0),),
  draws: int = 2,
  seed: int = 1,
  quiet: bool = False,
) -> list[dict[str, Any]]:
  """Realised false alarms and recall of every rule.

  Args:
    run: see `runs.restore`.
    calibrated: fitted on other entities.
    members: featurized.
    shots: numbers of support normals.
    settings: pairs (labelled anomalies, contamination); the calibration is
      told that a contaminated support is unlabelled.
    draws: supports per entity.
    seed: of the draws.
    quiet: no progress bar.

  Returns:
    One record per shots, setting, rule and rate: means and quantiles over
    entities.
  """
  held: dict[tuple, list[list[float]]] = {}
  bar = tqdm.tqdm(members, desc='checking', disable=quiet)
  for number, entity in enumerate(bar):
    rng = np.random.default_rng([seed, number])
    for k, (a, share) in itertools.product(shots, settings):
      mine: dict[tuple[str, float], list[tuple[float, float]]] = {}
      for _ in range(draws):
        drawn = draw(rng, entity, k, a, share)
        if drawn is None:
          continue
        for rule, rate, normal, anomaly in rules(
          run, calibrated, drawn, share > 0
        ):
          recall = anomaly.mean() if len(anomaly) else np.nan
          mine.setdefault((rule, rate), []).append((normal.mean(), recall))
      for (rule, rate), values in mine.items():
        held.setdefault((k, a, share, rule, rate), []).append(
          np.mean(values, 0).tolist()
        )
  found = []
  for (k, a, share, rule, rate), pairs in held.items():
    alarms, recalls = np.array(pairs).T
    recalls = recalls[np.isfinite(recalls)]
    record: dict[str, Any] = {
      'shots': k,
      'anomalies': a,
      'contamination': share,
      'rule': rule,
      'rate': rate,
      'entities': len(pairs),
      'false_alarms': float(alarms.mean()),
      'standard_error': float(alarms.std() / np.sqrt(len(alarms))),
    }
    for q in (10, 50, 90):
      record[f'false_alarms_p{q}'] = float(np.percentile(alarms, q))
    if len(recalls):
      record['recall'] = float(recalls.mean())
      for q in (10, 90):
        record[f'recall_p{q}'] = float(np.percentile(recalls, q))
    found.append(record)
  return found


def table(records: Sequence[dict[str, Any]], rate: float) -> str:
  """A table in Markdown of one nominal rate."""
  lines = [
    '| K | A | contamination | rule | false alarms | 10th-90th percentile | '
    'recall | entities |',
    '| --- | --- | --- | --- | --- | --- | --- | --- |',
  ]
  for r in records:
    if r['rate'] == rate:
      recall = f'{r["recall"]:.3f}' if 'recall' in r else '-'
      lines.append(
        f'| {r["shots"]} | {r["anomalies"]} | {r["contamination"]:g} | '
        f'{r["rule"]} | {r["false_alarms"]:.4f} | '
        f'{r["false_alarms_p10"]:.3f}-{r["false_alarms_p90"]:.3f} | {recall} | '
        f'{r["entities"]} |'
      )
  return '\n'.join(lines)


def picture(records: Sequence[dict[str, Any]], title: str) -> bytes:
  """False alarms and recall against K at a nominal 5 %, as a .png."""
  plain = [
    r
    for r in records
    if r['rate'] == 0.05 and not r['anomalies'] and not r['contamination']
  ]
  names = list(dict.fromkeys(r['rule'] for r in plain))
  figure = mpl_figure.Figure(figsize=(9, 3.6), layout='constrained')
  left, right = figure.subplots(1, 2)
  for i, name in enumerate(names):
    ours = [r for r in plain if r['rule'] == name]
    x = np.array([r['shots'] for r in ours]) * 1.03 ** (i - len(names) / 2)
    get = lambda key, ours=ours: np.array([r.get(key, np.nan) for r in ours])
    mean = get('false_alarms')
    low, high = get('false_alarms_p10'), get('false_alarms_p90')
    error = np.maximum([mean - low, high - mean], 0)
    left.errorbar(x, mean, error, marker='o', capsize=2, label=name)
    right.plot(x, get('recall'), marker='o')
  left.axhline(0.05, color='black', linewidth=0.8, linestyle='--')
  left.set_ylabel('false-alarm rate: mean, 10th-90th percentile')
  right.set_ylabel('recall')
  for axis in (left, right):
    axis.set_xscale('log')
    ticks = sorted({r['shots'] for r in plain})
    axis.set_xticks(ticks, [str(k) for k in ticks])
    axis.minorticks_off()
    axis.set_xlabel('support normals K')
  left.legend(fontsize='small')
  figure.suptitle(f'{title}, nominal 5 %')
  held = io.BytesIO()
  figure.savefig(held, format='png', dpi=120)
  return held.getvalue()
