"""CNC milling with new and with worn tools, University of Michigan SMART lab.

The normals to score come from another experiment than the supports: rows tell
experiments apart, whatever the tool.
"""

import collections
from collections.abc import Iterator

import numpy as np

from metaad_jax.base import DataError, Entity, Source
from metaad_jax.data import public_files, rows

_AXES = {
  'X1': 'OutputPower',
  'Y1': 'OutputPower',
  'Z1': '',
  'S1': 'OutputPower SystemInertia',
}
_EACH = (
  'ActualPosition ActualVelocity ActualAcceleration CommandPosition '
  'CommandVelocity CommandAcceleration CurrentFeedback DCBusVoltage '
  'OutputCurrent OutputVoltage '
)
_SENSORS = tuple(
  f'{axis}_{name}'
  for axis, more in _AXES.items()
  for name in (_EACH + more).split()
)
_HEADER = (
  *_SENSORS,
  'M1_CURRENT_PROGRAM_NUMBER',
  'M1_sequence_number',
  'M1_CURRENT_FEEDRATE',
  'Machining_Process',
)
# A position tells the experiment.
CHANNELS = tuple(name for name in _SENSORS if not name.endswith('Position'))
_TRAIN = tuple(
  'No material feedrate clamp_pressure tool_condition machining_finalized '
  'passed_visual_inspection'.split()
)


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
  if min_rows < 1:
    raise DataError(f'cnc_mill: min_rows={min_rows}: choose min_rows >= 1')
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
  for number, _, feed, _, tool, *_ in public_files.cells(
    root, 'train.csv', header=_TRAIN
  ):
    good = tool in ('worn', 'unworn') and (number + feed).isdecimal()
    why = f'experiment {number!r}: {feed!r} {tool!r}'
    public_files.require(good, root, 'train.csv', why)
    path = f'experiment_{int(number):02d}.csv'
    cells = public_files.cells(root, path, header=_HEADER)
    values = public_files.numbers(root, path, cells[:, :-1])
    column = dict(zip(_HEADER, values.T, strict=False))
    reported = column['M1_CURRENT_FEEDRATE'] != 50
    reported &= column['X1_ActualPosition'] != 198
    x = np.stack([column[name] for name in CHANNELS], 1).astype(np.float32)
    process = np.char.lower(cells[:, -1])
    for stage in np.unique(process[reported]):
      part = x[reported & (process == stage)]
      stages[int(feed), str(stage)][str(tool)].append(part)
  return stages


SOURCE = Source(
  name='cnc_mill',
  description='stages of milling at a feed rate; rows of 36 signals at 10 Hz',
  load=load,
  features=('identity',),
  units='mm/s, mm/s2, A, V, V, kW per axis; kg m2',
  licence='CC0, according to a collection that holds it',
  citation='System-level Manufacturing and Automation Research Testbed, '
  'University of Michigan, CNC Mill Tool Wear, 2018, '
  'https://www.kaggle.com/datasets/shasun/tool-wear-detection-in-cnc-mill',
  channels=CHANNELS,
  files=public_files.remote(
    'cnc_mill',
    'https://raw.githubusercontent.com/Ianfhca/Tool_Wear_Prediction_AARN/'
    '55a4f687b75733f16a4d5a1e8a2147d077d24f8f/dataset/',
  ),
)
