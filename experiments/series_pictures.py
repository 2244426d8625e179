r"""Draws what the series detector says around anomalies of public recordings.

  python -m experiments.series_pictures --data_dir=DATA \
    --recordings=ucr/NAME,kpi/NAME --output=docs/results/series.png

Of each recording the first anomaly and ten periods on either side: the channel
that moves most there, the score by weights that the group had no part in, the
threshold, and the events.
"""

from absl import flags
from matplotlib import figure as mpl_figure
import numpy as np

from experiments import cli, series
from metaad_jax.data import recordings
from metaad_jax.scores import ranges

FLAGS = flags.FlagValues()
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'folder of the archives', flag_values=FLAGS
)
_RECORDINGS = flags.DEFINE_list(
  'recordings', [], 'archive/name of each', flag_values=FLAGS
)
_OUTPUT = flags.DEFINE_string(
  'output', 'runs/series.png', 'the picture', flag_values=FLAGS
)
_AROUND = 10  # periods


def main() -> None:
  """Draws a column of each recording."""
  asked = [name.split('/', 1) for name in _RECORDINGS.value]
  figure = mpl_figure.Figure((4 * len(asked), 3.6), layout='constrained')
  axes = figure.subplots(2, len(asked), sharex='col', squeeze=False)
  for (archive, name), pair in zip(asked, axes.T, strict=True):
    every = recordings.load(archive, _DATA_DIR.value)
    _draw(f'{archive}: {name}', next(x for x in every if x.name == name), pair)
  axes[0, 0].set_ylabel('series')
  axes[1, 0].set_ylabel('score')
  figure.savefig(_OUTPUT.value, dpi=80)


def _draw(title, one, axes):
  detector = series._detector(one)
  said = detector.judge(one.series)
  begin, end = ranges.segments(one.labels)[0]
  margin = _AROUND * detector.period_
  low, high = max(0, begin - margin), min(len(one.series), end + margin)
  rows, t = slice(low, high), np.arange(low, high)
  bad, healthy = one.series[begin:end], one.healthy
  moves = np.abs(bad - healthy.mean(0)).max(0) / (healthy.std(0) + 1e-9)
  axes[0].plot(t, one.series[rows, moves.argmax()], 'k', lw=0.7)
  axes[1].plot(t, said.scores[rows], 'tab:blue', lw=1)
  axes[1].axhline(detector.threshold_, color='gray', ls='--', lw=0.8)
  for a, b in ranges.segments(one.labels[rows]):
    for axis in axes:
      axis.axvspan(low + a, low + b, color='tab:orange', alpha=0.3, lw=0)
  for event in said.events:
    a, b, _ = event.rows
    if b >= low and a < high:
      bottom = axes[1].get_ylim()[0]
      span = max(a, low), min(b, high)
      axes[1].hlines(bottom, *span, color='tab:red', lw=4)
  axes[0].set_title(title[:38], fontsize=9)


if __name__ == '__main__':
  cli.run(main, FLAGS)
