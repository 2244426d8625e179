"""What every binary of this folder shares: how it starts and how it ends.

A binary defines its flags, a `main()` without arguments, and ends with

    if __name__ == '__main__':
      cli.run(main)

How it exits is said in `metaad_jax.command.endings`. `--help` prints the
binary's docstring and its own flags; `--flagfile=...` reads flags from a file.

Within main, a wrong flag value is a `UsageError`, or a DataError raised inside
`with usage():`. Programs whose flags have the same names can be imported side
by side if each defines them on a FlagValues of its own, passed to `run`.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
import contextlib
import functools
import pathlib
import shlex
import sys
import textwrap
from typing import Any, NoReturn

from absl import flags, logging
import jax

from metaad_jax import devices, storage
from metaad_jax.base import DataError
from metaad_jax.command import endings
from metaad_jax.command.endings import UsageError
from metaad_jax.training import plugins


@contextlib.contextmanager
def usage() -> Iterator[None]:
  """Turns a DataError raised inside into a UsageError: the flag is wrong."""
  try:
    yield
  except DataError as error:
    raise UsageError(str(error)) from error


def define_devices(to: flags.FlagValues) -> None:
  """Defines the flags that say which devices and processes work together."""
  flags.DEFINE_integer(
    'devices', 0, 'CPU devices to make; 0 = one for every core', lower_bound=0,
    flag_values=to,
  )  # fmt: skip
  flags.DEFINE_string(
    'coordinator', None, 'host:port of process 0 where several processes train '
    'together; auto = found where Slurm, a TPU pod or MPI tell',
    flag_values=to,
  )  # fmt: skip
  for name, text in (
    ('processes', 'how many train together'),
    ('process', 'which of them this is, from 0'),
  ):
    flags.DEFINE_integer(name, None, text, lower_bound=0, flag_values=to)


def run(
  main: Callable[[], Any],
  flag_values: flags.FlagValues = flags.FLAGS,
  argv: Sequence[str] | None = None,
) -> NoReturn:
  """Parses the flags, from their defaults, calls main(), and exits.

  Args:
    main: what it returns is the exit code; None = 0.
    flag_values: where the program's flags are defined.
    argv: program name and arguments; sys.argv by default.

  Raises:
    SystemExit: always, unless main fails in a way it should not.
  """
  argv = list(sys.argv if argv is None else argv)
  _define_common(flag_values)
  with endings.told():
    if {'--help', '-help', '-h'} & set(argv[1:]):
      print(help_text(main, flag_values))
      sys.exit(0)
    for name in flag_values:
      flag_values[name].unparse()
    try:
      extra = flag_values(argv)[1:]
    except flags.Error as error:
      raise UsageError(str(error)) from error
    if extra:
      raise UsageError(f'unexpected argument {extra[0]!r}: flags start with --')
    logging.use_absl_handler()
    devices.share_memory()
    devices.persist()
    if 'coordinator' in flag_values:
      with usage():
        devices.start(
          int(flag_values['devices'].value or 0),
          coordinator=flag_values['coordinator'].value,
          processes=flag_values['processes'].value,
          process=flag_values['process'].value,
        )
    with usage():
      plugins.load_installed()
      plugins.load(flag_values['plugin'].value or ())
    with contextlib.ExitStack() as around:
      if flag_values['explain_compiles'].value:
        told = functools.partial(print, file=sys.stderr)
        around.enter_context(explained(told))
      # Of what is computed beside learners, too, such as gates and policies.
      around.enter_context(jax.default_matmul_precision('highest'))
      code = main()
    sys.exit(code)
  raise AssertionError('what is told ends the program')


@contextlib.contextmanager
def explained(show: Callable[[str], Any] = print) -> Iterator[None]:
  """Tells at the end what was compiled inside, and what came from the cache."""
  compiled: list[tuple[float, str]] = []
  cached: list[str] = []
  listening = True

  def took(event, duration_secs, **told):
    if listening and event == '/jax/core/compile/backend_compile_duration':
      compiled.append((duration_secs, str(told.get('fun_name', ''))))

  def happened(event, **_):
    if listening and event == '/jax/compilation_cache/cache_hits':
      cached.append(event)

  jax.monitoring.register_event_duration_secs_listener(took)
  jax.monitoring.register_event_listener(happened)
  try:
    yield
  finally:
    listening = False
    seconds = sum(taken for taken, _ in compiled)
    show(
      f'{len(compiled)} programs compiled in {seconds:.1f} s, {len(cached)} of '
      'them from the cache'
    )
    for taken, name in sorted(compiled, reverse=True)[:20]:
      show(f'{taken:8.2f} s  {name}')


def _define_common(to):
  """Every program knows these; a program may run twice in one process."""
  if 'explain_compiles' not in to:
    flags.DEFINE_bool(
      'explain_compiles', False, 'say at the end which programs were compiled, '
      'and how long that took', flag_values=to,
    )  # fmt: skip
  if 'plugin' not in to:
    flags.DEFINE_multi_string(
      'plugin', None, 'module that adds algorithms, models, sources or '
      'features of your own to the registries (docs/extending.md)',
      flag_values=to,
    )  # fmt: skip


def help_text(
  main: Callable[[], Any], flag_values: flags.FlagValues = flags.FLAGS
) -> str:
  """The docstring of main's module, and this package's flags by module."""
  program = sys.modules[main.__module__]
  own = {program.__name__, sys.argv[0]}
  parts = [(program.__doc__ or '').strip()]
  for module, defined in flag_values.flags_by_module_dict().items():
    if module in own or module.startswith('experiments.'):
      heading = 'flags' if module in own else f'flags of {module}'
      parts.append(
        '\n'.join([f'{heading}:', *map(_describe, defined)])
        if len(defined)
        else ''
      )
  return '\n\n'.join(filter(None, parts))


def _describe(flag):
  name = f'[no]{flag.name}' if flag.boolean else flag.name
  shown = flag.default_as_str.strip("'") if flag.default_as_str else ''
  default = f' (default: {shown})' if shown else ''
  text = ' '.join(f'{flag.help}{default}'.split())
  return textwrap.fill(
    f'--{name}  {text}', 80, initial_indent='  ', subsequent_indent='      '
  )


def command() -> str:
  """The command line of this program, for the results; absolute paths cut."""
  program = pathlib.Path(sys.argv[0]).stem
  line = shlex.join(['python', '-m', f'experiments.{program}', *sys.argv[1:]])
  return storage.portable(line)


def numbers(name: str, values: Sequence[str], kind: type = int) -> tuple:
  """The values of a list flag, each as an int or a float.

  Raises:
    UsageError: naming the flag and the value.
  """
  try:
    return tuple(kind(value) for value in values)
  except ValueError as error:
    wanted = 'whole numbers' if kind is int else 'numbers'
    raise UsageError(
      f'--{name}={",".join(values)}: give {wanted} between commas'
    ) from error


def rows_per_day(values: Sequence[str] | None) -> list[float] | None:
  """The flag of that name: one rate for all sources, or one for each.

  Raises:
    UsageError: if a rate is not positive.
  """
  if values is None:
    return None
  rates = list(numbers('rows_per_day', values, float))
  if not rates or not all(0 < rate < 1e12 for rate in rates):
    raise UsageError(
      f'--rows_per_day={",".join(values)}: every rate must be positive'
    )
  return rates


def choose(name: str, value: str, registry: Collection[str]) -> list[str]:
  """A flag's choice of names: 'all', 'none', or some between commas.

  Raises:
    UsageError: naming the flag, the name and the choices.
  """
  if value in ('all', 'none'):
    return list(registry) if value == 'all' else []
  chosen = value.split(',')
  for item in chosen:
    if item not in registry:
      raise UsageError(
        f'--{name}: unknown {item!r}: all, none, or some of '
        f'{", ".join(sorted(registry))}'
      )
  return chosen
