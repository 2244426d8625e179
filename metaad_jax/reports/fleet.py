"""A judged fleet as a page: who has alarms when, a ranking, the worst rows."""

from collections.abc import Mapping
import os

import numpy as np
import pandas as pd

from metaad_jax.reports import rendering

_BINS = 60  # columns of the picture
_DRAWN = 200  # entities
_WORST = 5  # rows that are listed of each


def page(
  judged: pd.DataFrame, ranking: pd.DataFrame, times: np.ndarray | None,
  path: str, rate: float, header: Mapping[str, str],
) -> bytes:  # fmt: skip
  """The page, as HTML that needs no other file.

  Args:
    judged: [n] rows: entity, time, `row`, `score`, `p_value`,
      `decision`, `reasons`.
    ranking: [N] entities, the first to be drawn first: `rows`, `abnormal`,
      `least_p_value`, `known`.
    times: [n] of the rows; None or without known ones = by their order.
    path: of the file that was judged.
    rate: of false alarms that was promised.
    header: names of the columns 'entity' and 'time', '' = there is no time.
  """
  entity, time = header['entity'], header['time']
  drawn = ranking.head(_DRAWN)
  bins, places = _binned(times, len(judged))
  bad = (judged['decision'] == 'abnormal').to_numpy()
  numbers = pd.Index(drawn[entity]).get_indexer(judged[entity])
  shown = (numbers >= 0) & (bins >= 0)
  rows, alarms = np.zeros((2, len(drawn), _BINS), int)
  np.add.at(rows, (numbers[shown], bins[shown]), 1)
  np.add.at(alarms, (numbers[shown], bins[shown]), bad[shown])
  worst = judged[numbers >= 0].sort_values(
    ['p_value', 'score'], ascending=[True, False], kind='stable'
  )
  worst = dict(list(worst.groupby(entity).head(_WORST).groupby(entity)))
  entities = [
    {'number': i, 'name': str(found[entity]), 'rows': found['rows'],
     'abnormal': found['abnormal'], 'p_value': found['least_p_value'],
     'known': found['known'],
     'cells': [(b, n, k) for b, (n, k) in
               enumerate(zip(rows[i], alarms[i], strict=True)) if n],
     'worst': [(w[time] if time else f'row {w["row"]}', w['row'], w['p_value'],
                w['decision'], w['reasons'])
               for w in worst[found[entity]].to_dict('records')]}
    for i, found in enumerate(drawn.to_dict('records'))
  ]  # fmt: skip
  stamps = judged[time] if time and places is not None else None
  order = np.arange(len(judged)) if places is None else places
  ends = [
    f'row {at}' if stamps is None else str(stamps.iloc[at])
    for at in (order[[0, -1]] if len(order) else ())
  ]
  return rendering.html(
    'fleet.html.j2', name=os.path.basename(path), entities=entities,
    bins=_BINS, ends=ends, rate=rate, count=len(judged), alarms=int(bad.sum()),
    machines=len(ranking), more=len(ranking) - len(drawn),
    undrawn=int(bad[numbers < 0].sum()), untimed=int((bins < 0).sum()),
    unknown=int((~ranking['known'].astype(bool)).sum()),
  )  # fmt: skip


def _binned(times, n):
  """[n] bins, -1 = no time; and rows in order of time, None without times."""
  if times is None or not np.isfinite(times).any():
    return np.arange(n) * _BINS // max(n, 1), None
  there = np.isfinite(times)
  low, high = times[there].min(), times[there].max()
  bins = np.full(n, -1)
  share = (times[there] - low) / ((high - low) or 1.0)
  bins[there] = np.minimum(share * _BINS, _BINS - 1).astype(int)
  order = np.argsort(times, kind='stable')
  return bins, order[: there.sum()]
