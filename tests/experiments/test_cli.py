"""How binaries start and end: exit codes, one line on stderr, help."""

import os
import re
import subprocess
import sys

from absl import flags
import jax
import jax.numpy as jnp
import pytest

from experiments import cli
from metaad_jax.base import DataError

FLAGS = flags.FlagValues()
_SHOTS = flags.DEFINE_integer('shots', 5, 'Shots.', flag_values=FLAGS)
_NAME = flags.DEFINE_string('name', None, 'A name.', flag_values=FLAGS)
flags.register_validator(
  'shots', lambda n: n > 0, 'must be positive', flag_values=FLAGS
)


def finish(capsys, main, *arguments):
  """(exit code, stdout, stderr) of a run."""
  with pytest.raises(SystemExit) as stopped:
    cli.run(main, FLAGS, ['program', *arguments])
  return (stopped.value.code or 0, *capsys.readouterr())


def show():
  print(_SHOTS.value, _NAME.value)


def raising(error):
  def main():
    raise error

  return main


def usage_of_data():
  with cli.usage():
    raise DataError('unknown source')


def test_flags_reach_main_and_every_run_starts_from_the_defaults(capsys):
  assert finish(capsys, show, '--shots=7', '--name', 'a')[:2] == (0, '7 a\n')
  assert finish(capsys, show) == (0, '5 None\n', '')


def test_main_returns_the_exit_code(capsys):
  assert finish(capsys, lambda: 3)[0] == 3


@pytest.mark.parametrize(
  ('main', 'arguments', 'code', 'told'),
  [
    (show, ['--shot=1'], 2, 'shot'),
    (show, ['--shots=many'], 2, 'many'),
    (show, ['--shots=0'], 2, 'must be positive'),
    (show, ['--flagfile=nowhere.flags'], 2, 'nowhere.flags'),
    (show, ['stray'], 2, "'stray'"),
    (raising(cli.UsageError('no such\nlearner')), [], 2, 'no such learner'),
    (usage_of_data, [], 2, 'unknown source'),
    (raising(DataError('row 3 is nan')), [], 1, 'row 3 is nan'),
    (raising(FileNotFoundError(2, 'No such file', 'a')), [], 1, "'a'"),
    (raising(KeyboardInterrupt()), [], 130, 'interrupted'),
  ],
)
def test_failures_are_one_line_and_an_exit_code(
  main, arguments, code, told, capsys
):
  got, out, err = finish(capsys, main, *arguments)
  assert got == code and out == ''
  assert told in err and err.startswith('error: ') and err.count('\n') == 1


def test_numbers_between_commas(capsys):
  assert cli.numbers('shots', ['5', '10']) == (5, 10)
  assert cli.numbers('share', ['0', '0.1'], float) == (0.0, 0.1)
  main = lambda: cli.numbers('shots', ['5', 'x'])
  code, _, err = finish(capsys, main)
  assert code == 2 and '--shots=5,x' in err


def test_bugs_keep_their_traceback():
  with pytest.raises(ZeroDivisionError):
    cli.run(lambda: 1 / 0, FLAGS, ['program'])


def test_flagfile(tmp_path, capsys):
  path = tmp_path / 'a.flags'
  path.write_text('# twenty shots\n--shots=20\n--name=b\n')
  arguments = [f'--flagfile={path}', '--name=c']
  assert finish(capsys, show, *arguments)[:2] == (0, '20 c\n')


@pytest.mark.parametrize('flag', ['--help', '-h'])
def test_help_shows_this_program_alone(flag, capsys):
  code, out, err = finish(capsys, show, '--shots=0', flag)
  assert code == 0 and err == ''
  assert str(sys.modules[__name__].__doc__).strip() in out
  assert '--shots  Shots. (default: 5)' in out
  assert '--name  A name.\n' in out + '\n'
  assert 'absl' not in out and 'verbosity' not in out


def test_what_was_compiled_is_told():
  """Each program once, and none after the end."""
  said = []
  three = lambda x: x * 3 + 1
  with cli.explained(said.append):
    run = jax.jit(three)
    run(jnp.ones(17)), run(jnp.ones(17)), run(jnp.ones(18))
  assert [line for line in said if '<lambda>' in line]
  number = int(said[0].split()[0])
  assert len(said) == 1 + number
  assert sum('jit(<lambda>)' in line for line in said) == 2
  jax.jit(lambda x: x - 3)(jnp.ones(17))
  assert len(said) == 1 + number


def listed(lines):
  """What `--explain_compiles` says: (compiled, from the cache, names)."""
  head = re.fullmatch(
    r'(\d+) programs compiled in \d+\.\d s, (\d+) of them from the cache',
    lines[0],
  )
  rows = [re.fullmatch(r' *\d+\.\d\d s  (\S.*)', row) for row in lines[1:]]
  return *map(int, head.groups()), [row[1] for row in rows]


_TRAIN = (
  '--source=vibration:machines=40,test_machines=10,windows=8,queries=8,'
  'length=64',
  '--features=statistics', '--model=mlp:width=4,depth=1',
  '--learner=maml:steps=1', '--shots=5', '--tasks=2', '--steps=2',
  '--validation_tasks=2', '--devices=1', '--explain_compiles',
)  # fmt: skip


@pytest.fixture(scope='module')
def two_starts(tmp_path_factory):
  """What two processes with one cache, new at first, say of their programs."""
  home = tmp_path_factory.mktemp('cache')
  known = {k: v for k, v in os.environ.items() if not k.startswith('JAX_')}
  told = []
  for number in range(2):
    command = [sys.executable, '-m', 'experiments.train', *_TRAIN]
    done = subprocess.run(
      [*command, f'--run_dir={home / str(number)}'], text=True,
      env=known | {'XDG_CACHE_HOME': str(home)}, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = done.stderr[re.search(r'\d+ programs', done.stderr).start() :]
    told.append(listed(said.splitlines()))
  return told


def test_a_second_start_has_its_programs_from_the_cache(two_starts):
  (first, cached, _), (again, all_cached, names) = two_starts
  assert cached < first // 2
  assert again <= first and all_cached == again
  for name in ('chunk', 'first_state', 'validate'):
    assert names.count(f'jit({name})') == 1


def test_a_training_is_few_programs(two_starts):
  """Each is a tenth of a second that nobody sees: data, tasks, steps, files.

  More of them: something is computed outside of a program, or compiled anew.
  """
  (_, _, names), (again, _, _) = two_starts
  assert again <= 13
  assert len(names) == min(again, 20)


def test_training_starts_without_what_it_does_not_need():
  slow = 'pandas', 'pyarrow', 'scipy', 'sklearn', 'matplotlib', 'orbax'
  code = (
    'import sys, experiments.train; '
    f'sys.exit(str({set(slow)} & set(sys.modules)))'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True
  )
  assert done.stderr == 'set()\n'
