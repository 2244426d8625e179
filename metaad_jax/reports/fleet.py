"""A judged fleet as a page: who has alarms when, a ranking, the worst rows."""

import os
from typing import Any

import numpy as np
import pandas as pd

from metaad_jax.reports import rendering

_DRAWN = 200  # entities
_WORST = 5  # rows that are listed of each


def page(
  tally: Any, ranking: pd.DataFrame, alarms: pd.DataFrame, worst: pd.DataFrame,
  path: str, rate: float, fdr: float | None = None,
) -> bytes:  # fmt: skip
  """The page, as HTML that needs no other file.

  Args:
    tally: of all rows; see `fleet.tally.Tally`.
    ranking: [N] entities, the first to be drawn first; the name is the first
      column, then `rows`, `abnormal`, `least_p_value`, `known`; its index says
      where they are in the tally.
    alarms: as of `Tally.alarms`.
    worst: as of `Tally.worst`, with `reasons`.
    path: of the file that was judged.
    rate: of false alarms that was promised.
    fdr: share of all alarms that was promised instead.
  """
  drawn = ranking.head(_DRAWN)
  timed = alarms[np.isfinite(alarms['time'])]
  bad = np.zeros_like(tally.bins.counts)
  np.add.at(bad, (timed['entity'], tally.bins.of(timed['time'].to_numpy())), 1)
  rows = dict(list(worst.groupby('entity').head(_WORST).groupby('entity')))
  entities = [
    {'number': i, 'name': str(found[0]), 'rows': found[1],
     'abnormal': found[2], 'p_value': found[3], 'known': found[4],
     'cells': [(b, n, k) for b, (n, k) in enumerate(
       zip(tally.bins.counts[entity], bad[entity], strict=True)) if n],
     'worst': [(w['stamp'], w['row'], w['p_value'],
                'abnormal' if w['abnormal'] else 'normal', w['reasons'])
               for w in rows[entity].to_dict('records')]}
    for i, (entity, *found) in enumerate(drawn.itertuples(name=None))
  ]  # fmt: skip
  undrawn = alarms['entity'].isin(ranking.index[_DRAWN:]).sum()
  return rendering.html(
    'fleet.html.j2', name=os.path.basename(path), entities=entities,
    bins=tally.bins.used, ends=[stamp for _, stamp in tally.ends],
    rate=rate, fdr=fdr, count=tally.count, alarms=len(alarms),
    machines=len(ranking), more=len(ranking) - len(drawn), undrawn=int(undrawn),
    untimed=tally.bins.untimed, unknown=int((~ranking['known']).sum()),
  )  # fmt: skip
