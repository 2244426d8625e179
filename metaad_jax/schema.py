"""Types and bounds of what a file may say, for files that strangers write.

A `Check` takes the name of a value and the value, and raises DataError, in one
line, for what it must not be.
"""

from collections.abc import Callable
from typing import Any, NoReturn

from metaad_jax.base import DataError

_MANY = 1_000_000  # entries of a list
_LONG = 10_000  # characters of a text
Check = Callable[[str, Any], None]


def refuse(name: str, value: object, wanted: str) -> NoReturn:
  text = ' '.join(repr(value)[:60].split())
  raise DataError(f'{name} is {text}, and must be {wanted}')


def satisfies(good: Callable[[Any], bool], wanted: str) -> Check:
  def check(name, value):
    if not good(value):
      refuse(name, value, wanted)

  return check


def whole(low: int, high: int) -> Check:
  good = lambda v: type(v) is int and low <= v <= high
  return satisfies(good, f'a whole number from {low} to {high}')


def number(low: float, high: float) -> Check:
  good = lambda v: type(v) in (int, float) and low <= v <= high
  return satisfies(good, f'a number from {low:g} to {high:g}')


def listed(item: Check, most: int = _MANY) -> Check:
  def check(name, value):
    if not isinstance(value, list) or len(value) > most:
      refuse(name, value, f'a list of at most {most}')
    for entry in value:
      item(name, entry)

  return check


def mapping(item: Check) -> Check:
  def check(name, value):
    if not isinstance(value, dict):
      refuse(name, value, 'an object')
    for key, entry in value.items():
      item(f'{name} {key[:40]!r}', entry)

  return check


def fields(known: dict[str, Check], required: tuple[str, ...] = ()) -> Check:
  def check(name, value):
    if not isinstance(value, dict) or not value.keys() >= {*required}:
      refuse(name, value, f'an object with {", ".join(required)}')
    if unknown := value.keys() - known.keys():
      raise DataError(f'{name} has an unknown entry {min(unknown)[:60]!r}')
    for key, entry in value.items():
      known[key](f'{name} {key}', entry)

  return check


def or_none(check: Check) -> Check:
  return lambda name, value: None if value is None else check(name, value)


ANYTHING = satisfies(lambda v: True, '')
TEXT = satisfies(
  lambda v: isinstance(v, str) and len(v) <= _LONG, 'a short text'
)
