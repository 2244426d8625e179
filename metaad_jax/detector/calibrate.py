"""Calibrates a run on entities, and checks the promise on others."""

from collections.abc import Iterator, Sequence
import io
import itertools
from typing import Any, NamedTuple

from matplotlib import figure as mpl_figure
import numpy as np
import pandas as pd
import tqdm

from metaad_jax import features
from metaad_jax.base import DataError, Entity
from metaad_jax.data import episodes, registry
from metaad_jax.detector import adaptation
from metaad_jax.scores import conformal
from metaad_jax.scores.conformal import Calibration, Case, Evidence
from metaad_jax.training import runs, setup

RATES = (0.01, 0.05, 0.1)
_NORMALS, _ANOMALIES = 200, 56  # scored per support: 256 is a compiled size
_OWN = 20  # normals held out, in the rule that has some
_CELL = ('shots', 'anomalies', 'contamination', 'rule', 'rate')
_MEASURES = ('false_alarms', 'recall')


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
  layout = setup.layout_of(*registry.get(spec), everyone)
  if not run.layout.shape and len(layout.shape) == 2:
    made = features.make(
      features.of_windows(layout.shape[0]),  # as the detector does
      layout.shape,
      rate=layout.rate,
      channels=layout.channels,
    )
    everyone = episodes.featurize(everyone, made.apply)
  elif run.layout.shape:
    if layout.shape != run.layout.shape:
      raise DataError(
        f'{spec} has rows of shape {layout.shape}, the run was trained on '
        f'{run.layout.shape}'
      )
    everyone = run.setup.featurize(everyone)
  if spec != run.config.source:
    return {'train': [], 'validation': [], 'test': everyone}
  return run.setup.split(everyone)


def draw(
  rng: np.random.Generator,
  entity: Entity,
  shots: int,
  anomalies: int,
  contamination: float = 0.0,
) -> Draw | None:
  """Draws a support of `shots` normals and some labelled anomalies.

  A share `contamination` of the normals, rounded up or down at random, are
  anomalies that pass for normal. None if the entity has too few rows.
  """
  bad = rng.permutation(np.flatnonzero(entity.labels == 1))
  good = rng.permutation(np.flatnonzero(entity.labels == 0))[:_NORMALS]
  wrong = int(np.floor(contamination * shots + rng.random()))
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


class Scored(NamedTuple):
  """A run adapted to a support, and the scores of a `conformal.Case`."""

  adapted: adaptation.Adapted
  support: np.ndarray
  normal: np.ndarray
  anomaly: np.ndarray


def score(run: runs.Run, drawn: Draw) -> Scored:
  """Adapts a run to a support and scores the rest."""
  adapted = adaptation.adapt(run, drawn.x, drawn.y)
  rows = np.concatenate([drawn.normal, drawn.anomaly])
  scores = adaptation.score(run, adapted, rows)
  support = adaptation.support_scores(run, drawn.x, drawn.y)
  return Scored(adapted, support, *np.split(scores, [len(drawn.normal)]))


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
    Cases for `conformal.fit`.
  """
  made = []
  kinds = (False, True) if len(contamination) else (False,)
  for number, entity in enumerate(
    tqdm.tqdm(members, desc='calibrating', disable=quiet)
  ):
    rng = np.random.default_rng([seed, number])
    for k, a, unlabelled in itertools.product(shots, anomalies, kinds):
      for _ in range(1 if a or unlabelled else draws):
        share = float(rng.choice(contamination)) if unlabelled else 0.0
        drawn = draw(rng, entity, k, a, share)
        if drawn is not None:
          scores = score(run, drawn)[1:]
          made.append(Case(entity.name, k, a, unlabelled, *scores))
  return made


class Alarms(NamedTuple):
  """What a rule calls abnormal of one entity at one false-alarm rate.

  Attributes:
    rule: its name.
    rate: that was asked for.
    normal: [m] bool, of normals.
    anomaly: [a] bool, of anomalies.
  """

  rule: str
  rate: float
  normal: np.ndarray
  anomaly: np.ndarray


def rules(
  run: runs.Run, calibrated: Calibration, drawn: Draw, unlabelled: bool
) -> Iterator[Alarms]:
  """The alarms of every rule after one support, at `RATES`.

  Beside the calibration: the largest of the support's scores, each without
  itself; three standard deviations above their mean; PyOD's threshold, the
  quantile of the scores of the rows that were fitted; and split conformal
  within the entity, half of the support for each.
  """
  adapted, known, normal, anomaly = score(run, drawn)
  fitted = adaptation.score(run, adapted, drawn.x[drawn.y == 0])
  shots, labelled = len(fitted), int(drawn.y.sum())
  own, rest = normal[:_OWN], normal[_OWN:]

  def across(own, scores):
    evidence = Evidence(shots, labelled, unlabelled, known, own)
    return conformal.p_values(calibrated, evidence, scores)

  p_values = {
    'across entities': (across(own[:0], normal), across(own[:0], anomaly))
  }
  if len(rest):
    name = f'with {_OWN} own normals'
    p_values[name] = across(own, rest), across(own, anomaly)
  if half := shots // 2:
    other = adaptation.adapt(run, drawn.x[half:], drawn.y[half:])
    by_half = lambda rows: adaptation.score(run, other, rows)
    kept = np.sort(by_half(drawn.x[:half]))
    within = lambda rows: (
      (1 + half - np.searchsorted(kept, by_half(rows))) / (half + 1)
    )
    p_values['split within'] = within(drawn.normal), within(drawn.anomaly)
  for rate in RATES:
    for rule, (p, other_p) in p_values.items():
      yield Alarms(rule, rate, p <= rate, other_p <= rate)
    bars = {'PyOD contamination': np.quantile(fitted, 1 - rate)}
    if len(known):
      bars['largest of support'] = known.max()
      bars['3 sigma'] = known.mean() + 3 * known.std()
    for rule, bar in bars.items():
      yield Alarms(rule, rate, normal > bar, anomaly > bar)


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
    run, members, shots, seed, quiet: see `cases`.
    calibrated: fitted on other entities.
    settings: pairs (labelled anomalies, contamination); the calibration is
      told that a contaminated support is unlabelled.
    draws: supports per entity.

  Returns:
    One record per shots, setting, rule and rate: means and quantiles over
    entities.
  """
  rows = []
  for number, entity in enumerate(
    tqdm.tqdm(members, desc='checking', disable=quiet)
  ):
    rng = np.random.default_rng([seed, number])
    for k, (a, share) in itertools.product(shots, settings):
      for _ in range(draws):
        drawn = draw(rng, entity, k, a, share)
        if drawn is None:
          continue
        for alarms in rules(run, calibrated, drawn, share > 0):
          recall = alarms.anomaly.mean() if len(alarms.anomaly) else np.nan
          cell = (k, a, share, alarms.rule, alarms.rate)
          rows.append((*cell, number, alarms.normal.mean(), recall))
  frame = pd.DataFrame(rows, columns=[*_CELL, 'entity', *_MEASURES])
  means = frame.groupby([*_CELL, 'entity'], sort=False).mean().reset_index()
  return [
    dict(zip(_CELL, cell, strict=True)) | _record(entities)
    for cell, entities in means.groupby(list(_CELL), sort=False)
  ]


def _record(entities):
  """Statistics over the entities of one cell."""
  alarms, recall = (entities[name].dropna() for name in _MEASURES)
  error = alarms.std(ddof=0) / np.sqrt(len(alarms))
  record = {
    'entities': len(alarms),
    'false_alarms': float(alarms.mean()),
    'standard_error': float(error),
  }
  for q in (10, 50, 90):
    record[f'false_alarms_p{q}'] = float(np.percentile(alarms, q))
  if len(recall):
    record['recall'] = float(recall.mean())
    for q in (10, 90):
      record[f'recall_p{q}'] = float(np.percentile(recall, q))
  return record


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
  frame = pd.DataFrame(records)
  plain = frame[
    (frame.rate == 0.05) & (frame.anomalies == 0) & (frame.contamination == 0)
  ].reindex(columns=[*frame.columns.union(['recall'])])
  figure = mpl_figure.Figure(figsize=(9, 3.6), layout='constrained')
  left, right = figure.subplots(1, 2)
  rules = plain.groupby('rule', sort=False)
  for i, (name, ours) in enumerate(rules):
    x = ours.shots * 1.03 ** (i - len(rules) / 2)
    low = ours.false_alarms - ours.false_alarms_p10
    high = ours.false_alarms_p90 - ours.false_alarms
    error = np.maximum([low, high], 0)
    left.errorbar(
      x, ours.false_alarms, error, marker='o', capsize=2, label=name
    )
    right.plot(x, ours.recall, marker='o')
  left.axhline(0.05, color='black', linewidth=0.8, linestyle='--')
  left.set_ylabel('false-alarm rate: mean, 10th-90th percentile')
  right.set_ylabel('recall')
  ticks = sorted(set(plain.shots))
  for axis in (left, right):
    axis.set_xscale('log')
    axis.set_xticks(ticks, [str(k) for k in ticks])
    axis.minorticks_off()
    axis.set_xlabel('support normals K')
  left.legend(fontsize='small')
  figure.suptitle(f'{title}, nominal 5 %')
  drawn = io.BytesIO()
  figure.savefig(drawn, format='png', dpi=120)
  return drawn.getvalue()
