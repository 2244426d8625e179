"""A fitted detector as compiled functions, without the code that made it.

The file (see `storage`) holds the adapted state as arrays, the scoring function
as serialized StableHLO (`jax.export`), once for each number of rows scored at a
time, and thresholds and p-values as a table. Reading it takes jax (with its
NumPy and SciPy) and flatbuffers; no Flax, no learner.

  detector.export('pump.npz')         # see MetaAnomalyDetector
  exported.load('pump.npz').predict(rows)
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
from jax import export as jax_export
import numpy as np

from metaad_jax import storage
from metaad_jax.base import DataError
from metaad_jax.detector import sanity

SIZES = (8, 64, 1024)  # rows that are scored at once
PLATFORMS = ('cpu', 'cuda')
_FORMAT = 2
_TABLES = 'ladder/scores', 'ladder/p', 'bars'
_GUARD = tuple(field.name for field in dataclasses.fields(sanity.Guard))


@dataclasses.dataclass(frozen=True)
class Exported:
  """What `load` gives: the methods of `MetaAnomalyDetector` that only score."""

  threshold: float  # a row whose abnormality is above this is an outlier
  false_alarm_rate: float  # that the threshold was made for
  names: tuple[str, ...]  # of the columns, where they are known
  shape: tuple[int, ...]  # of a row: (d,), or (length, channels)
  missing: bool  # whether NaN is a missing value
  meta: dict[str, Any]  # anything else that JSON can hold
  _state: list[np.ndarray]
  _tables: list[np.ndarray]
  _reading: sanity.Reading
  _guard: sanity.Guard
  _functions: dict[int, Callable]

  def score_samples(self, x: np.ndarray) -> np.ndarray:
    """[n] float64, higher = more normal.

    Of rows [n, *shape]: numbers, NaN = missing where the detector takes that,
    categories by their codes of `fit`. A DataError says what does not fit.
    """
    try:
      x = np.asarray(x, np.float64)
    except (TypeError, ValueError) as error:
      raise DataError(f'x cannot be read as numbers: {error}') from error
    if x.shape[1:] != self.shape or x.ndim < 2:
      raise DataError(
        f'x has shape {list(x.shape)}: give [n, {str(list(self.shape))[1:]}'
      )
    if np.isinf(x).any() or (np.isnan(x).any() and not self.missing):
      raise DataError('x holds infinity, or NaN where a value must be: mend it')
    seen = self._reading(x)
    chunk = next((n for n in SIZES if len(x) <= n), SIZES[-1])
    done = [np.zeros(0)]
    for start in range(0, len(x), chunk):
      part = seen[start : start + chunk]
      padded = np.zeros((chunk, *self.shape), np.float32)
      padded[: len(part)] = part
      part_scores = self._functions[chunk](self._state, padded)
      done.append(np.asarray(part_scores, np.float64)[: len(part)])
    scores = np.concatenate(done)
    if not np.isfinite(scores).all():
      row = np.flatnonzero(~np.isfinite(scores))[0]
      raise DataError(f'row {row} has no finite score: look at its values')
    return -self._guard(x, scores, lambda: self._tables[2])

  def predict(self, x: np.ndarray) -> np.ndarray:
    """[n] int: 1 = normal, -1 = outlier; see `score_samples`."""
    return np.where(-self.score_samples(x) > self.threshold, -1, 1)

  def p_values(self, x: np.ndarray) -> np.ndarray:
    """[n] p-values, rounded up to those of the table in the file."""
    scores, p = self._tables[:2]
    place = np.searchsorted(scores, -self.score_samples(x), side='right')
    return np.append(1.0, p)[place]


def save(
  path: str,
  score: Callable[[Any, jax.Array], jax.Array],
  state: Any,
  content: dict[str, Any],
  held: tuple[sanity.Reading, sanity.Guard, np.ndarray],
  ladder: tuple[np.ndarray, np.ndarray],
) -> None:
  """Writes what `load` reads.

  `score` is jittable, (state, [n, *shape] float32) -> [n], higher = more
  abnormal, n one of `SIZES`; `content` are the public attributes of `Exported`
  as JSON holds them; `held` are how rows are read, what holds their scores, and
  its bars; `ladder` are increasing scores [g], and the p-value [g] of each.
  """
  leaves, tree = jax.tree.flatten(state)
  flat = lambda leaves, x: score(jax.tree.unflatten(tree, leaves), x)
  like = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in leaves]
  reading, guard, bars = held
  arrays = dict(zip(_TABLES, (*ladder, bars), strict=True))
  arrays |= {f'reading/{n}': part for n, part in reading._asdict().items()}
  arrays |= {f'guard/{n}': getattr(guard, n) for n in _GUARD}
  arrays |= {f'state/{i}': np.asarray(leaf) for i, leaf in enumerate(leaves)}
  make = jax_export.export(jax.jit(flat), platforms=PLATFORMS)
  for size in SIZES:
    rows = jax.ShapeDtypeStruct((size, *content['shape']), np.float32)
    code = bytes(make(like, rows).serialize())
    arrays[f'function/{size}'] = np.frombuffer(code, np.uint8)
  about = {'format': _FORMAT, 'leaves': len(leaves), 'jax': jax.__version__}
  storage.save(path, arrays, {'exported': content | about})


def load(path: str) -> Exported:
  """Reads an exported detector; nothing is compiled before the first score.

  The functions come from the file: a checksum finds damage, not malice. They
  are arithmetic for XLA and cannot touch files.

  Raises:
    DataError: if the file is missing, damaged, no exported detector, or of a
      jax too new for this one.
  """
  arrays, meta = storage.load(path)
  try:
    content = meta['exported']
    if content['format'] != _FORMAT:
      raise ValueError(f'format {content["format"]!r}, not {_FORMAT}')
    functions: dict[int, Callable] = {}
    for size in SIZES:
      code = bytearray(arrays[f'function/{size}'].tobytes())
      functions[size] = jax.jit(jax_export.deserialize(code).call)
    return Exported(
      float(content['threshold']),
      float(content['false_alarm_rate']),
      tuple(str(name) for name in content['names']),
      tuple(int(n) for n in content['shape']),
      bool(content['missing']),
      dict(content['meta']),
      [arrays[f'state/{i}'] for i in range(content['leaves'])],
      [arrays[name] for name in _TABLES],
      sanity.Reading(*(arrays[f'reading/{n}'] for n in sanity.Reading._fields)),
      sanity.Guard(*(arrays[f'guard/{n}'] for n in _GUARD)),
      functions,
    )
  except Exception as error:  # jax and flatbuffers do not say what they raise
    reason = ' '.join(str(error).split())[:200]
    raise DataError(
      f'{path} is no exported detector, or one that jax {jax.__version__} '
      f'cannot read ({type(error).__name__}: {reason}): export it anew'
    ) from error
