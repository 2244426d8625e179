r"""Makes a page of docs/results/ from the results of an evaluation.

  python -m experiments.page --results=results \
    --output=docs/results/oddbench.md

Writes the page, its figures, and a compact copy of the results (oddbench.csv.xz
and oddbench.meta.json.xz), from which the same command makes the same page
again. What docs/results/intro/oddbench.md says is put at the top; nothing else
on the page is written by hand. With --newer the learners are those of a second
evaluation by the same flagfile, run with --baselines=none.
"""

from absl import flags

from experiments import cli
from metaad_jax.evaluation import results
from metaad_jax.reports import pages

FLAGS = flags.FlagValues()

_RESULTS = flags.DEFINE_string(
  'results', None, 'folder of an evaluation, or a .csv.xz', flag_values=FLAGS
)
_NEWER = flags.DEFINE_string(
  'newer',
  None,
  'results whose learners take the place of theirs in --results',
  flag_values=FLAGS,
)
_OUTPUT = flags.DEFINE_string(
  'output', None, 'the page, a .md file', flag_values=FLAGS
)
_INTRO = flags.DEFINE_string(
  'intro',
  None,
  'hand-written top of the page; intro/NAME.md beside it if not given',
  flag_values=FLAGS,
)
_ROWS_PER_DAY = flags.DEFINE_list(
  'rows_per_day',
  None,
  'rows that an entity scores in a day, one number for all sources or one for '
  'each in their order: rates become alarms a day',
  flag_values=FLAGS,
)


def main() -> None:
  """Writes the page and says which files."""
  if not _RESULTS.value or not _OUTPUT.value:
    raise cli.UsageError('--results and --output are needed: name both files')
  rates = cli.rows_per_day(_ROWS_PER_DAY.value)
  found = results.load(_RESULTS.value)
  if _NEWER.value:
    found = results.renewed(found, results.load(_NEWER.value))
  written = pages.write_markdown(
    found,
    _OUTPUT.value,
    intro=_INTRO.value,
    rows_per_day=rates,
  )
  print('\n'.join(map(str, written)))


if __name__ == '__main__':
  cli.run(main, FLAGS)
