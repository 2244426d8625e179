"""CNC milling with new and with worn tools, University of Michigan SMART lab.

The normals to score come from another experiment than the supports: rows tell
experiments apart, whatever the tool.
"""

import collections
from collections.abc import Iterator

import numpy as np

from metaad_jax import specs
from metaad_jax.base import Entity
from metaad_jax.data import public_files, rows

_KNOWN = public_files.catalogue('cnc_mill')
_TRAIN = tuple(_KNOWN['train_columns'])
_SENSORS = tuple(
  f'{axis}_{name}'
  for axis, more in _KNOWN['axes'].items()
  for name in _KNOWN['each_axis'] + more
)
_HEADER = (*_SENSORS, *_KNOWN['other_columns'])
# A position tells the experiment.
_CHANNELS = tuple(name for name in _SENSORS if not name.endswith('Position'))


@rows.limited
def load(
  data_dir: str | None, *, apart: bool = True, min_rows: int = 10
) -> Iterator[Entity]:
  """One entity per feed rate and stage of the machining, rows [N, 36].

  Those of one feed rate share experiments, and therefore a group and a fold,
  such as 'feed3'.

  Args:
    data_dir: holds cnc_mill/.
    apart: the last experiment with an unworn tool gives the normals to score,
      the others the supports; stages that only one has are left out. False:
      within each experiment the first half of a stage is for supports, and what
      follows after a gap of 10 rows (1 s) is scored.
    min_rows: an entity must have so many rows for supports, normals to score
      and anomalies, each.
  """
  specs.allow(min_rows >= 1, 'cnc_mill', 'min_rows >= 1', min_rows=min_rows)
  root = public_files.folder(data_dir, 'cnc_mill')
  for (feed, stage), parts in sorted(_stages(root).items()):
    unworn, worn = parts['unworn'], parts['worn']
    if apart:
      pools, scored = unworn[:-1], unworn[-1:]
    else:
      pools = [part[: len(part) // 2] for part in unworn]
      scored = [part[len(part) // 2 + 10 :] for part in unworn]
    counts = [sum(map(len, side)) for side in (pools, scored, worn)]
    if min(counts) < min_rows:
      continue
    pool, query = np.concatenate(pools), np.concatenate(scored + worn)
    kinds = np.repeat(['', 'worn tool'], counts[1:])
    new = rows.unseen(query, pool)
    group = f'feed{feed}'
    yield rows.entity(
      f'{group}/{stage}', pool, query[new], kinds[new], group=group, fold=group
    )


def _stages(root):
  """{(feed rate, stage): {worn: [rows of one experiment, ...]}}.

  Rows are left out in which, as the publisher says, the machine does not report
  its operation: feed rate 50 or X1 position 198.
  """
  stages: dict = collections.defaultdict(lambda: {'worn': [], 'unworn': []})
  listed = public_files.File(root, 'train.csv')
  for number, _, feed, _, tool, *_ in listed.cells(header=_TRAIN):
    good = tool in ('worn', 'unworn') and (number + feed).isdecimal()
    listed.require(good, f'experiment {number!r}: {feed!r} {tool!r}')
    file = public_files.File(root, f'experiment_{int(number):02d}.csv')
    cells = file.cells(header=_HEADER)
    column = dict(zip(_HEADER, file.numbers(cells[:, :-1]).T, strict=False))
    reported = column['M1_CURRENT_FEEDRATE'] != 50
    reported &= column['X1_ActualPosition'] != 198
    x = np.stack([column[name] for name in _CHANNELS], 1).astype(np.float32)
    process = np.char.lower(cells[:, -1])
    for stage in np.unique(process[reported]):
      part = x[reported & (process == stage)]
      stages[int(feed), str(stage)][str(tool)].append(part)
  return stages


SOURCE = public_files.source('cnc_mill', load, channels=_CHANNELS)
