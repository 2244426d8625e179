"""Features of one window, [L, C] -> [F], made by name.

A new feature is one function and one line in `REGISTRY`; `docs/features.md`
shows one.
"""

import collections
from collections.abc import Callable, Sequence
import math
from typing import Any, NamedTuple

import jax.numpy as jnp

from metaad_jax import base, specs
from metaad_jax.features import feature, spectrum, time_statistics, wavelets

Feature = feature.Feature
BANDS = 32

# name: (length, channels, rate, *, options) -> Feature of windows of `length`
# samples; `channels` are names; rate in Hz, or 1 for cycles per sample.
REGISTRY: dict[str, Callable[..., Feature]] = {
  'envelope': spectrum.log_envelope_spectrum,
  'identity': feature.identity,
  'logspec': spectrum.log_spectrum,
  'raw': feature.raw,
  'statistics': time_statistics.statistics,
  'wavelet': wavelets.wavelet_energies,
  'wavelet_packet': wavelets.packet_energies,
}


def of_windows(length: int) -> str:
  """The default features of windows: 32 bands and statistics."""
  return f'logspec:bins={min(BANDS, length // 2 + 1)}+statistics'


class Spec(NamedTuple):
  """The spec of one feature."""

  text: str  # as it was written
  name: str  # in the registry
  options: dict[str, Any]


def parse(text: str) -> tuple[Spec, ...]:
  """Reads and checks specs that are joined by '+'.

  Raises:
    DataError: if a feature or one of its options is unknown.
  """
  chosen = []
  for part in text.split('+'):
    name, options = specs.parse(part)
    factory = specs.look_up('feature', REGISTRY, name)
    specs.check(f'feature {name!r}', factory, **options)
    chosen.append(Spec(part.strip(), name, options))
  return tuple(chosen)


def make(
  spec: str | Sequence[Spec],
  shape: tuple[int, ...],
  *,
  rate: float | None,
  channels: tuple[str, ...] = (),
) -> Feature:
  """Makes one feature, or joins several, one after the other.

  It is [L, C] -> [F]; 'raw' alone gives [L, C] back, and for rows it is [F] ->
  [F]. Raises DataError if the arguments do not fit together.

  Args:
    spec: such as 'logspec:bins=64+statistics', or what `parse` made of it.
    shape: of one row: (L, C) for windows, (F,) for rows of a table.
    rate: sampling rate in Hz; None = 1, frequencies in cycles per sample.
    channels: names of the C channels or F columns; () = 'ch 0', 'ch 1', ...
  """
  chosen = parse(spec) if isinstance(spec, str) else spec
  text = '+'.join(part.text for part in chosen)
  if len(shape) not in (1, 2) or min(shape) < 1:
    raise base.DataError(
      f'features need windows (L, C) or rows (F,), not shape {shape}'
    )
  if rate is not None and not (rate > 0 and math.isfinite(rate)):
    raise base.DataError(f'rate {rate!r} Hz must be positive and finite')
  channels = channels or tuple(f'ch {i}' for i in range(shape[-1]))
  if len(channels) != shape[-1] or len(set(channels)) != len(channels):
    raise base.DataError(
      f'{len(channels)} channel names for shape {shape}: '
      f'give {shape[-1]} different names, or none'
    )
  names = [spec.name for spec in chosen]
  if len(shape) == 1 and {*names} != {'identity'}:
    raise base.DataError(
      f"features {text!r} need windows (L, C), not rows {shape}: use 'identity'"
    )
  if 'raw' in names and len(names) > 1:
    raise base.DataError(
      "feature 'raw' keeps the window's shape and stands alone, not in "
      f"{text!r}: use 'identity' to join samples with other features"
    )
  arguments = shape[0] if len(shape) == 2 else 1, channels, rate or 1.0
  parts = [
    specs.call(f'feature {name!r}', REGISTRY[name], *arguments, **options)
    for _, name, options in chosen
  ]
  if len(parts) == 1:
    return parts[0]
  join = lambda x: jnp.concatenate([part.apply(x) for part in parts])
  return Feature(join, _names(chosen, parts))


def _names(chosen: Sequence[Spec], parts: list[Feature]) -> tuple[str, ...]:
  """The names of all outputs; those that clash get their spec appended."""
  count = collections.Counter(name for part in parts for name in part.names)
  names = tuple(
    name if count[name] == 1 else f'{name} [{spec.text}]'
    for spec, part in zip(chosen, parts, strict=True)
    for name in part.names
  )
  if len(set(names)) < len(names):
    text = '+'.join(spec.text for spec in chosen)
    raise base.DataError(f'{text!r} names the same feature twice: drop one')
  return names
