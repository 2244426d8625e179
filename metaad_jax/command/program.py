"""The console command `metaad`: its commands, their arguments and help."""

import argparse
from collections.abc import Iterator, Sequence
import contextlib
import csv
import importlib
import sys
from typing import Any, NoReturn
import warnings

import metaad_jax
from metaad_jax.command import endings

_ABOUT = """Finds what is abnormal in a table, from a few normal rows.

  metaad sample pump                            a real example to play with
  metaad detect pump/normal.csv pump/new.csv    judged; found/report.html
  metaad fit pump/normal.csv --output=pump.npz  the same in two steps
  metaad score pump.npz pump/new.csv

and in a series, from its healthy beginning:

  metaad sample heart --series                  a real one
  metaad detect heart/series.csv --healthy_until=25s
"""
_READING = (
  'label', 'anomaly_label', 'features', 'ignore', 'time', 'id', 'window',
)  # fmt: skip
_SERIES = ('series', 'healthy_until', 'per_day', 'step', 'resample')
_ADAPTING = (
  'false_alarm_rate', *_READING, 'run_dir', 'dry_run', *_SERIES
)  # fmt: skip
_ALARMS = 'budget', 'gap'  # of a fleet
_AGAIN = ('label', 'anomaly_label', 'time', 'id')  # of another file
# Name -> what it does, an example, its arguments.
_COMMANDS = {
  'detect': (
    'judge rows by the known rows of another file, or a series by its start',
    'metaad detect normal.csv new.csv --false_alarm_rate=0.02 --id=serial\n'
    "  metaad detect series.csv --healthy_until='2024-01-05 12:00'\n"
    '  metaad detect healthy.csv series.csv --series\n'
    '  metaad detect known.csv new.csv --entity=machine --time=stamp',
    ('normal', 'new?', 'output=found', 'exit_code', 'entity', *_ALARMS, 'fdr',
     *_ADAPTING),
  ),
  'fit': (
    'adapt to the known rows of a file; keep the detector in a model file',
    'metaad fit normal.csv --output=pump.npz --ignore=operator\n'
    '  metaad fit healthy.csv --series --output=pump.npz\n'
    '  metaad fit fleet.csv --entity=machine --time=stamp --output=pumps.fleet',
    ('normal', 'output=detector.npz', 'entity', *_ADAPTING),
  ),
  'score': (
    'judge the rows of a file by a model file',
    'metaad score pump.npz new.csv --output=today --exit_code || mail ops\n'
    "  metaad score pumps.fleet new.parquet --gap=60 --budget='20 per day'",
    ('model', 'new', 'output=found', 'exit_code', *_ALARMS, 'fdr', 'engine',
     *_AGAIN),
  ),
  'explain': (
    'say in words why rows, or events of a series, score what they score',
    'metaad explain pump.npz new.csv --rows=17,230',
    ('model', 'new', 'rows', *_AGAIN),
  ),
  'follow': (
    'judge rows, or a series, as they arrive: a line of JSON each',
    'tail -F log.csv | metaad follow pump.npz -\n'
    '  metaad follow series.npz log.csv --state=series.state.npz\n'
    "  metaad follow pumps.fleet log.csv --state=at.db --budget='20 per day'",
    ('model', 'log', 'max_rows', 'exit_code', 'state', *_ALARMS),
  ),
  'learn': (
    'train on your own fleet; say whether that beats the shipped network',
    'metaad learn fleet.csv --entity=machine --time=stamp --output=learned',
    ('fleet', 'output=learned', 'entity!', 'group', 'time', 'label',
     'anomaly_label', 'shots', 'minutes', 'seed'),
  ),
  'export': (
    'write a model file as compiled functions, which need jax alone',
    'metaad export pump.npz --output=compiled.npz',
    ('model', 'output=compiled.npz'),
  ),
  'sample': (
    'write an example: known rows, and rows to judge',
    'metaad sample pump\n  metaad sample pumps --fleet',
    ('folder', 'series', 'as_fleet'),
  ),
  'doctor': (
    'check the installation, and say what is missing',
    'metaad doctor',
    (),
  ),
}  # fmt: skip


class _Parser(argparse.ArgumentParser):
  """Refuses in one line."""

  def error(self, message: str) -> NoReturn:
    raise endings.UsageError(f'{self.prog}: {message}')


def _listed(text):
  """Names between commas; quotes around a name that holds one."""
  return tuple(filter(None, next(csv.reader([text]), [])))


def _rate(text):
  try:
    rate = float(text.removesuffix('%')) / (100 if text.endswith('%') else 1)
  except ValueError:
    rate = 0.0
  if not 0 < rate < 1:
    raise argparse.ArgumentTypeError(
      f'{text}: choose one between 0 and 1, such as 0.05 or 5%'
    )
  return rate


def _positive(text):
  if not 0 < float(text) < 1e12:
    raise argparse.ArgumentTypeError(f'{text}: choose one above 0')
  return float(text)


def _count(text):
  if not 0 <= int(text) < 1 << 31:
    raise argparse.ArgumentTypeError(f'{text}: choose 0 or more')
  return int(text)


def _counts(text):
  return tuple(map(_count, text.split(',')))


def _column(text):
  return {'default': '', 'metavar': 'COLUMN', 'help': text}


def _columns(text):
  more = {'type': _listed, 'default': (), 'metavar': 'COLUMNS'}
  return {**more, 'help': f'{text}; names between commas'}


# Those of `add_argument`; a command with an argument 'output' has a default.
_FILES = {
  'normal': 'file of known rows: all normal, or with a column of labels; or '
  'a series',
  'new': 'file of rows to judge',
  'model': 'what metaad fit wrote',
  'fleet': 'one long file of the rows of many machines, patients or shops',
  'log': 'file that grows, or - for standard input',
}
_FLAGS: dict[str, dict[str, Any]] = {
  'false_alarm_rate': {
    'type': _rate, 'default': None, 'metavar': 'SHARE',
    'help': 'of normal rows that may be called abnormal (default: 0.05)',
  },
  'label': _column(
    'of labels, 1 = anomaly; found by its name; none = there is none'
  ),
  'anomaly_label': {
    'default': '', 'metavar': 'WORD',
    'help': 'that marks an anomaly in the column of labels',
  },
  'features': _columns('to look at though they look like ids; * = all'),
  'ignore': _columns('to leave out'),
  'time': _column('of times: not looked at, in the output'),
  'id': _column('of names of rows: not looked at, in the output'),
  'entity': _column('of the names of machines, shops or patients'),
  'group': _column('such as a site: what shares it is not held out in parts'),
  'shots': {
    'type': _counts, 'default': (5, 20), 'metavar': 'NUMBERS',
    'help': 'normal rows that a new entity has (default: 5,20)',
  },
  'minutes': {
    'type': float, 'default': 2.0,
    'help': 'after these no other learner is begun (default: 2); started again '
    'with more, it goes on',
  },
  'seed': {'type': _count, 'default': 0, 'help': 'of everything random'},
  'window': {
    'type': _count, 'default': 0, 'metavar': 'SAMPLES',
    'help': 'cut a recording into windows of so many samples',
  },
  'run_dir': {
    'default': 'shipped', 'metavar': 'RUN',
    'help': "a trained run's folder or file (default: the package's own); "
    'thorough = a slower one of the package, better from fifty rows on',
  },
  'dry_run': {
    'action': 'store_true', 'help': 'say how the columns are read, and stop'
  },
  'exit_code': {
    'action': 'store_true',
    'help': f'end with {endings.ALARMS} if a row or an event is abnormal',
  },
  'series': {
    'action': 'store_true',
    'help': 'the files are series: what the rows do in time counts, not each '
    'alone; the first file is healthy',
  },
  'healthy_until': {
    'default': '', 'metavar': 'TIME',
    'help': 'the file is a series, and healthy before this time stamp, for '
    "this duration ('3 days') or for this number of rows; the rest is judged",
  },
  'per_day': {
    'type': _positive, 'default': None, 'metavar': 'N',
    'help': 'false events of a series that may come a day, 24 = one an hour '
    '(default: 1 per 10,000 points)',
  },
  'step': {
    'type': _positive, 'default': None, 'metavar': 'SECONDS',
    'help': 'between two samples of a series without time stamps',
  },
  'resample': {
    'default': '', 'metavar': 'WIDTH',
    'help': "average a series over bins of time, such as '10s' or '5min'",
  },
  'state': {
    'default': '', 'metavar': 'FILE',
    'help': 'of a series or a fleet: go on from this file, and keep what is '
    'needed to go on in it',
  },
  'budget': {
    'default': '', 'metavar': 'ALARMS',
    'help': "of a fleet: tell no more than, such as, '20 per day'",
  },
  'gap': {
    'type': _positive, 'default': None, 'metavar': 'SECONDS',
    'help': 'of a fleet: alarms so near in time, of any entity, are one event',
  },
  'fdr': {
    'type': _rate, 'default': None, 'metavar': 'SHARE',
    'help': 'of a fleet: of all alarms that may be false, instead of the share '
    'of normal rows',
  },
  'engine': {
    'default': '', 'metavar': 'ENGINE',
    'help': 'of a fleet: local (default), dask (a process for each core), or '
    'the address of a Dask scheduler, tcp://host:8786',
  },
  'rows': {
    'type': _counts, 'default': (), 'metavar': 'NUMBERS',
    'help': 'of the rows, from 0 (default: the five most abnormal)',
  },
  'max_rows': {
    'type': _count, 'default': 0, 'metavar': 'N', 'help': 'end after so many'
  },
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
  """Of the command line."""
  options: dict[str, Any] = {
    'formatter_class': argparse.RawDescriptionHelpFormatter,
    'allow_abbrev': False,
  }
  whole = _Parser('metaad', description=_ABOUT, **options)
  version = metaad_jax.__version__
  whole.add_argument('--version', action='version', version=version)
  commands = whole.add_subparsers(
    metavar='COMMAND', dest='command', required=True
  )
  for command, (text, example, names) in _COMMANDS.items():
    about = f'{text[0].upper()}{text[1:]}:\n\n  {example}'
    made = commands.add_parser(command, help=text, description=about, **options)
    for name in names:
      name, _, default = name.partition('=')
      if name.rstrip('?') in _FILES:
        count = '?' if name[-1] == '?' else None
        name = name.rstrip('?')
        made.add_argument(name, help=_FILES[name], nargs=count)
      elif name == 'folder':
        made.add_argument(name, nargs='?', default='sample', help='to write')
      elif name == 'as_fleet':
        made.add_argument('--fleet', action='store_true',
                          help='of many machines; simulated')  # fmt: skip
      elif default:
        help_text = f'what to write (default: {default})'
        made.add_argument('--output', default=default, help=help_text)
      else:
        needed = name[-1] == '!'
        name = name.rstrip('!')
        made.add_argument(f'--{name}', **_FLAGS[name], required=needed)
  return whole


@contextlib.contextmanager
def _noted() -> Iterator[None]:
  """Warnings as notes, not as places in the code."""
  before = warnings.formatwarning
  warnings.formatwarning = lambda text, *_: f'note: {text}\n'
  try:
    yield
  finally:
    warnings.formatwarning = before


def main(argv: Sequence[str] | None = None) -> NoReturn:
  """Runs a command, and exits as `endings` says."""
  with endings.told(), _noted():
    args = vars(parser().parse_args(argv))
    # Late: --help need not wait for jax.
    commands = importlib.import_module('metaad_jax.command.commands')
    commands.devices.share_memory()
    sys.exit(getattr(commands, args.pop('command'))(**args))
  raise AssertionError('what is told ends the program')


if __name__ == '__main__':
  main()
