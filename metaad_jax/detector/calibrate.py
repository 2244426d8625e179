"""Calibrates a run on entities, and checks the promise on others."""

from collections.abc import Sequence
import io
import itertools
from typing import Any, NamedTuple

from matplotlib import figure as mpl_figure
import matplotlib.style
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
_UNVERIFIED = 20, 50, 75  # rows beside the verified ones of a support
_CELL = ['shots', 'anomalies', 'contamination', 'rule', 'rate']


class Draw(NamedTuple):
  """A support drawn from an entity, and the rows to score."""

  x: np.ndarray  # [n, ...] support, normals (and what passes for them) first
  y: np.ndarray  # [n] 1 = labelled anomaly, .5 = unverified
  normal: np.ndarray  # [m, ...] other normals
  anomaly: np.ndarray  # [a, ...] other anomalies


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
    chosen = features.of_windows(layout.shape[0])  # as the detector does
    made = features.make(
      chosen, layout.shape, rate=layout.rate, channels=layout.channels
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
  unverified: int = 0,
) -> Draw | None:
  """Draws a support of `shots` normals and some labelled anomalies.

  A share `contamination` of the `unverified` rows, or where there are none of
  the normals, rounded up or down at random, are anomalies that pass for normal.
  None if the entity has too few rows.
  """
  bad = rng.permutation(np.flatnonzero(entity.labels == 1))
  good = rng.permutation(np.flatnonzero(entity.labels == 0))[:_NORMALS]
  wrong = int(np.floor(contamination * (unverified or shots) + rng.random()))
  passing = shots + unverified
  if len(entity.normal) < passing or not len(good):
    return None
  if (anomalies or wrong) and len(bad) <= anomalies + wrong:
    return None
  normal = entity.normal[rng.permutation(len(entity.normal))[:passing]].copy()
  first = shots if unverified else 0
  wrongs = entity.query[bad[anomalies : anomalies + wrong]]
  normal[first : first + wrong] = wrongs
  rest = bad[anomalies + wrong :][:_ANOMALIES]
  return Draw(
    np.concatenate([normal, entity.query[bad[:anomalies]]]),
    np.repeat([0.0, 0.5, 1.0], [shots, unverified, anomalies]),
    entity.query[good],
    entity.query[rest],
  )


def score(run: runs.Run, drawn: Draw) -> tuple[adaptation.Adapted, Any]:
  """Adapts a run to a support; scores of the support, normals and anomalies.

  They are the last three fields of a `conformal.Case`.
  """
  adapted = adaptation.adapt(run, drawn.x, drawn.y)
  rows = np.concatenate([drawn.normal, drawn.anomaly])
  scores = adaptation.score(run, adapted, rows)
  support = adaptation.support_scores(run, drawn.x, drawn.y)
  return adapted, (support, *np.split(scores, [len(drawn.normal)]))


def cases(
  run: runs.Run,
  members: Sequence[Entity],
  *,
  shots: Sequence[int],
  anomalies: Sequence[int],
  contamination: Sequence[float] = (),
  draws: int = 2,
  alone: bool = False,
) -> list[Case]:
  """Adapts a run to many supports and scores what is left.

  Args:
    run: see `runs.restore`.
    members: the calibration entities, featurized.
    shots: numbers of support normals; 0 = unverified rows alone.
    anomalies: numbers of labelled anomalies.
    contamination: shares of anomalies in unlabelled cases, one drawn for each;
      () = no such cases. They have unverified rows beside the normals where the
      run tells them apart; else the normals are these.
    draws: supports per entity without anomalies; one with some.
    alone: the normals of unlabelled cases are unverified in any case.
  """
  made = []
  kinds = (False, True) if len(contamination) else (False,)
  for number, entity in enumerate(
    tqdm.tqdm(members, desc='calibrating', disable=None)
  ):
    rng = np.random.default_rng([0, number])
    for k, a, unlabelled in itertools.product(shots, anomalies, kinds):
      for _ in range(1 if a or unlabelled else draws):
        share = float(rng.choice(contamination)) if unlabelled else 0.0
        drawn = _support(run, rng, entity, k, a, share, unlabelled, alone)
        if drawn is not None:
          scores = score(run, drawn)[1]
          made.append(Case(entity.name, k, a, unlabelled, *scores))
  return made


def _support(run, rng, entity, shots, anomalies, share, unlabelled, alone):
  """As `draw`; in unlabelled ones some rows, or all normals, are unverified.

  Some beside the normals, where a run suspects rows, and not `alone`.
  """
  beside = 0
  if run.setup.suspicious and not alone and (unlabelled or not shots):
    beside = int(rng.choice(_UNVERIFIED))
  drawn = draw(rng, entity, shots, anomalies, share, beside)
  if drawn is None or beside or not (unlabelled and run.setup.unverified):
    return drawn
  return drawn._replace(y=np.maximum(drawn.y, 0.5))


def rules(
  run: runs.Run, calibrated: Calibration, drawn: Draw, unlabelled: bool
) -> dict[tuple[str, float], tuple[np.ndarray, np.ndarray]]:
  """{(rule, rate): which normals and which anomalies are alarms}.

  Beside the calibration: the largest of the support's scores, each without
  itself; three standard deviations above their mean; PyOD's threshold, the
  quantile of the scores of the rows that were fitted; and split conformal
  within the entity, half of the support for each.
  """
  adapted, (known, normal, anomaly) = score(run, drawn)
  verified = drawn.y == 0
  told = run.setup.suspicious and verified.any()
  passing = verified if told else drawn.y < 1
  fitted = adaptation.score(run, adapted, drawn.x[passing])
  shots, labelled = len(fitted), int((drawn.y == 1).sum())
  own, rest = normal[:_OWN], normal[_OWN:]

  def across(own, *parts):
    evidence = Evidence(shots, labelled, unlabelled, known, own)
    return [conformal.p_values(calibrated, evidence, part) for part in parts]

  p_values = {'across entities': across(own[:0], normal, anomaly)}
  if len(rest):
    p_values[f'with {_OWN} own normals'] = across(own, rest, anomaly)
  if half := shots // 2:
    other = adaptation.adapt(run, drawn.x[half:], drawn.y[half:])
    by_half = lambda rows: adaptation.score(run, other, rows)
    kept = np.sort(by_half(drawn.x[:half]))
    p_values['split within'] = [
      (1 + half - np.searchsorted(kept, by_half(rows))) / (half + 1)
      for rows in (drawn.normal, drawn.anomaly)
    ]
  alarms = {}
  for rate in RATES:
    for rule, (p, other_p) in p_values.items():
      alarms[rule, rate] = p <= rate, other_p <= rate
    bars = {'PyOD contamination': np.quantile(fitted, 1 - rate)}
    if len(known):
      bars['largest of support'] = known.max()
      bars['3 sigma'] = known.mean() + 3 * known.std()
    for rule, bar in bars.items():
      alarms[rule, rate] = normal > bar, anomaly > bar
  return alarms


def check(
  run: runs.Run,
  calibrated: Calibration,
  members: Sequence[Entity],
  *,
  shots: Sequence[int],
  settings: Sequence[tuple[int, float]] = ((0, 0.0),),
  draws: int = 2,
  alone: bool = False,
) -> list[dict[str, Any]]:
  """Realised false alarms and recall of every rule.

  Args:
    run, members, shots, alone: see `cases`.
    calibrated: fitted on other entities.
    settings: pairs (labelled anomalies, contamination); the calibration is
      told that a contaminated support is unlabelled.
    draws: supports per entity.

  Returns:
    Means and percentiles over entities per shots, setting, rule and rate.
  """
  rows = []
  for number, entity in enumerate(
    tqdm.tqdm(members, desc='checking', disable=None)
  ):
    rng = np.random.default_rng([1, number])
    for k, (a, share), _ in itertools.product(shots, settings, range(draws)):
      drawn = _support(run, rng, entity, k, a, share, share > 0, alone)
      if drawn is not None:
        alarms = rules(run, calibrated, drawn, share > 0)
        for (rule, rate), (normal, bad) in alarms.items():
          recall = bad.mean() if len(bad) else np.nan
          rows.append((k, a, share, rule, rate, number, normal.mean(), recall))
  names = [*_CELL, 'entity', 'false_alarms', 'recall']
  frame = pd.DataFrame(rows, columns=names)
  means = frame.groupby([*_CELL, 'entity'], sort=False).mean()
  records = []
  for cell, of_entities in means.groupby(_CELL, sort=False):
    alarms = of_entities.false_alarms
    record = dict(zip(_CELL, cell, strict=True))
    record |= {'entities': len(alarms), 'standard_error': alarms.sem(ddof=0)}
    for name, values in of_entities.items():
      if values.notna().any():
        record[name] = values.mean()
        for q in (10, 50, 90):
          record[f'{name}_p{q}'] = values.quantile(q / 100)
    records.append(record)
  return records


def table(records: Sequence[dict[str, Any]], rate: float) -> str:
  """A table in Markdown of one nominal rate."""
  lines = [
    '| K | A | contamination | rule | false alarms | 10th-90th percentile | '
    'recall | entities |',
    '| --- ' * 8 + '|',
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
  chosen = 'rate == 0.05 and anomalies == 0 and contamination == 0'
  rules = pd.DataFrame(records).query(chosen).groupby('rule', sort=False)
  drawn = io.BytesIO()
  with matplotlib.style.context('metaad_jax.metaad'):
    figure = mpl_figure.Figure(figsize=(9, 3.6), layout='constrained')
    left, right = figure.subplots(1, 2)
    for i, (name, ours) in enumerate(rules):
      x, y = ours.shots * 1.03**i, ours.false_alarms
      ends = np.maximum(
        [y - ours.false_alarms_p10, ours.false_alarms_p90 - y], 0
      )
      left.errorbar(x, y, ends, marker='o', capsize=2, label=name)
      if 'recall' in ours:
        right.plot(x, ours.recall, marker='o')
    left.axhline(0.05, color='black', linewidth=0.8, linestyle='--')
    left.set_ylabel('false-alarm rate: mean, 10th-90th percentile')
    right.set_ylabel('recall')
    ticks = sorted({r['shots'] for r in records})
    for axis in (left, right):
      axis.set(xscale='log', xlabel='support normals K')
      axis.set_xticks(ticks, [str(k) for k in ticks])
      axis.minorticks_off()
    left.legend()
    figure.suptitle(f'{title}, nominal 5 %')
    figure.savefig(drawn, format='png')
  return drawn.getvalue()
