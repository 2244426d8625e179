"""The small language of the command line: `name:key=value,key=value`.

Sources, features, models and optimizers are all named this way, for example
`cwru:window=256,snr_db=-6` or, several joined, `logspec:bins=64+statistics`.
"""

import ast
from collections.abc import Callable
import inspect
from typing import Any

from metaad_jax import base


def parse(text: str) -> tuple[str, dict[str, Any]]:
  """Splits one spec into its name and its options.

  Values are Python literals where they read as such, strings otherwise.

  Args:
    text: for example `vibration:length=256,zscore=True`.

  Returns:
    The name and the options.

  Raises:
    DataError: if the text is not a spec.
  """
  name, _, tail = text.strip().partition(':')
  options = {}
  for item in filter(None, tail.split(',')):
    key, equals, value = item.partition('=')
    if not equals or not key.strip().isidentifier():
      raise base.DataError(
        f"bad option {item!r} in {text!r}: write it as 'name:key=value,...'"
      )
    try:
      options[key.strip()] = ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
      options[key.strip()] = value.strip()
  if not name:
    raise base.DataError(f'empty name in {text!r}')
  return name, options


def with_option(text: str, option: str) -> str:
  """'mlp' or 'mlp:depth=2' with one more option, 'width=64', if it lacks it."""
  if option in text.partition(':')[2].split(','):
    return text
  return f'{text}{"," if ":" in text else ":"}{option}'


def look_up(kind: str, registry: dict[str, Any], name: str) -> Any:
  """Returns registry[name]; a DataError names the choices."""
  if name not in registry:
    raise base.DataError(
      f'unknown {kind} {name!r}: choose one of {", ".join(sorted(registry))}'
    )
  return registry[name]


def call(what: str, function: Callable[..., Any], *args, **options) -> Any:
  """`function(*args, **options)`, once `check` has passed the options."""
  check(what, function, **options)
  return function(*args, **options)


def check(what: str, function: Callable[..., Any], **options) -> None:
  """Checks options, by name and type, against keyword-only arguments.

  Args:
    what: how to name the function in a message, such as `source 'cwru'`.
    function: takes its options as keyword-only arguments.
    **options: to be checked.

  Raises:
    DataError: if an option is unknown or has a value of the wrong type.
  """
  known = {
    name: parameter
    for name, parameter in inspect.signature(function).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
  }
  for key, value in options.items():
    if key not in known:
      raise base.DataError(
        f'{what} has no option {key!r}: '
        f'it has {", ".join(sorted(known)) or "none"}'
      )
    default = known[key].default
    numeric = isinstance(default, int | float) and not isinstance(default, bool)
    if (
      (numeric and (not isinstance(value, int | float) or value != value))
      or (numeric and isinstance(value, bool))
      or (isinstance(default, bool) and not isinstance(value, bool))
      or (isinstance(default, int) and isinstance(value, float))
    ):
      raise base.DataError(
        f'{what}: option {key}={value!r} must be '
        f'a {type(default).__name__}, such as {default!r}'
      )


def allow(good: object, what: str, remedy: str, **options: Any) -> None:
  """Raises DataError unless options, the values of which are shown, go."""
  if not good:
    given = ', '.join(f'{key}={value!r}' for key, value in options.items())
    raise base.DataError(f'{what}: {given}: choose {remedy}')
