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
import itertools
from typing import Any
import warnings

import jax
from jax import export as jax_export
import numpy as np

from metaad_jax import devices, schema, storage
from metaad_jax.base import DataError
from metaad_jax.detector import sanity

SIZES = (8, 64, 1024)  # rows that are scored at once
PLATFORMS = ('cpu', 'cuda')
_FORMAT = 2
_TABLES = 'ladder/scores', 'ladder/p', 'bars'
_GUARD = tuple(field.name for field in dataclasses.fields(sanity.Guard))
_PARTS = {'reading': sanity.Reading._fields, 'guard': _GUARD}


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
    categories by their codes of `fit`; columns of a frame are found by their
    names. A DataError says what does not fit.
    """
    devices.check_fork()
    try:
      x = np.asarray(self._by_name(x), np.float64)
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

  def _by_name(self, x):
    """The columns of a frame in the order of `names`; arrays as they are."""
    if not hasattr(x, 'columns') or not self.names:
      return x
    known = list(map(str, x.columns))
    if missing := [name for name in self.names if name not in known]:
      if missing[0] != 'column 0':
        raise DataError(f'x lacks column {missing[0]!r}: give it')
      warnings.warn(
        'x has names of columns, which the detector was fitted without: they '
        'are taken in their order', stacklevel=4,
      )  # fmt: skip
      return x
    return np.asarray(x)[:, [known.index(name) for name in self.names]]

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

  The functions come from the file. They are arithmetic for XLA: they call no
  other code and touch no files, but may be slow.

  Raises:
    DataError: if the file is missing, damaged, no exported detector, or of a
      jax too new for this one.
  """
  arrays, meta = storage.load(path)
  try:
    _META('it', meta)
    content = meta['exported']
    state = [arrays[f'state/{i}'] for i in range(content['leaves'])]
    tables = [arrays[name] for name in _TABLES]
    parts = {
      kind: [arrays[f'{kind}/{name}'] for name in names]
      for kind, names in _PARTS.items()
    }
    count = (
      len(state) + len(tables) + len(SIZES) + sum(map(len, parts.values()))
    )
    if len(arrays) != count:
      raise ValueError('it holds more arrays, or fewer')
    _check_tables(tables, parts, content['shape'])
    functions = {
      size: _function(
        arrays[f'function/{size}'], state, (size, *content['shape'])
      )
      for size in SIZES
    }
    devices.persist()
    return Exported(
      float(content['threshold']), float(content['false_alarm_rate']),
      tuple(content['names']), tuple(content['shape']), content['missing'],
      content['meta'], state, tables,
      sanity.Reading(*parts['reading']), sanity.Guard(*parts['guard']),
      functions,
    )  # fmt: skip
  except Exception as error:  # jax and flatbuffers do not say what they raise
    raise DataError(
      f'{path} is no exported detector, or one that jax {jax.__version__} '
      f'cannot read ({type(error).__name__}: {storage.reason(error)}): export '
      'it anew'
    ) from error


_CONTENT: dict[str, schema.Check] = {
  'format': schema.whole(_FORMAT, _FORMAT),
  'leaves': schema.whole(0, 10_000),
  'jax': schema.TEXT,
  'shape': schema.listed(schema.whole(1, 1 << 20), 2),
  'missing': schema.satisfies(lambda v: isinstance(v, bool), 'true or false'),
  'threshold': schema.number(-1e300, 1e300),
  'false_alarm_rate': schema.number(0, 1),
  'names': schema.listed(schema.TEXT),
  'meta': schema.mapping(schema.ANYTHING),
}
_META = schema.fields(
  {'exported': schema.fields(_CONTENT, tuple(_CONTENT))}, ('exported',)
)


def _check_tables(tables, parts, shape):
  """Numbers, of shapes that fit a row, and the p-values falling."""
  scores, p, bars = tables
  for array in [*tables, *itertools.chain(*parts.values())]:
    if array.dtype.kind not in 'fib':
      raise ValueError('an array holds other things than numbers')
  for array in parts['reading'][:6]:
    if np.broadcast_shapes(array.shape, tuple(shape)) != tuple(shape):
      raise ValueError('it reads rows of another shape')
  if (
    not np.isfinite(scores).all() or not np.isfinite(bars).all()
    or scores.ndim != 1 or scores.shape != p.shape or bars.shape != (3,)
    or (np.diff(scores) < 0).any() or (np.diff(p) > 0).any()
    or p.min() <= 0 or p.max() > 1
  ):  # fmt: skip
    raise ValueError('its tables are damaged')


def _function(code, state, shape):
  """A function of the file; of arrays of these shapes, and nothing but XLA."""
  function = jax_export.deserialize(bytearray(code.tobytes()))
  found = [(aval.shape, aval.dtype) for aval in function.in_avals]
  wanted = [(leaf.shape, leaf.dtype) for leaf in state]
  if found != [*wanted, (shape, np.float32)]:
    raise ValueError('its function takes other arrays')
  if [aval.shape for aval in function.out_avals] != [shape[:1]]:
    raise ValueError('its function makes no scores')
  if 'custom_call' in function.mlir_module():
    raise ValueError('its function calls what is not in the file')
  return jax.jit(function.call)
