"""Nonsense into the detector and its files: a clear error or an answer.

Few cases here; `pytest -m nightly tests/detector/test_fuzz.py` runs 16,000.
"""

import copy
import functools
import json
import math
import os
import pathlib
import sys
import tempfile

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import nearest_run
import numpy as np
import pandas
import pytest

from metaad_jax import storage
from metaad_jax.base import DataError
from metaad_jax.data import user_files
from metaad_jax.detector import follow, judge
from metaad_jax.detector.estimator import MetaAnomalyDetector

FEW, MANY = 40, 4000  # cases of each test
NUMBERS = st.one_of(
  st.floats(-10, 10),
  st.sampled_from(
    [0.0, -0.0, 1.0, np.nan, np.inf, -np.inf, 1e300, -1e300, 1e-300, 5e-324,
     1e38, 3.5e38, 1e18, -1e18, 1e7, 16777217.0]
  ),
)  # fmt: skip
CELLS = st.one_of(
  NUMBERS.map(repr),
  st.sampled_from(
    ['', ' ', 'NA', 'nan', 'null', 'a', 'b', 'inf', '1e400', '1_0', '0x1', '"',
     '""', 'ä', '\u0661', '1,5', "'", '\x00', '\ufeff', 'a\tb', '1;2', '\r']
  ),
  st.text(max_size=4),
)  # fmt: skip
DTYPES = st.sampled_from(
  ['f8', 'f4', 'f2', 'i8', 'u1', '?', 'c16', 'U3', 'S2', 'M8[s]', 'O']
)


def one_line(error):
  message = str(error)
  assert len(message) > 10 and '\n' not in message


def sound(scores, p=1.0):
  assert np.isfinite(scores).all()
  assert (np.greater(p, 0) & np.less_equal(p, 1)).all()


def table(draw, width, most=8):
  """Rows of one width, or ragged; numbers, words, gaps, constant columns."""
  count = draw(st.integers(0, most))
  rows = [[draw(CELLS) for _ in range(width)] for _ in range(count)]
  if rows and draw(st.booleans()):  # a constant column
    column, cell = draw(st.integers(0, width - 1)), draw(CELLS)
    for row in rows:
      row[column] = cell
  if rows and draw(st.integers(0, 5)) == 0:  # ragged
    rows[-1] = rows[-1][:-1] if draw(st.booleans()) else [*rows[-1], '1']
  if draw(st.booleans()):  # mostly numbers: gets further
    rows = [[repr(draw(st.floats(-9, 9))) for _ in row] for row in rows]
  return rows


def array(draw):
  shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
  kind = draw(DTYPES)
  if kind == 'f8':
    return draw(hnp.arrays(np.float64, shape, elements=NUMBERS))
  empty = np.full(shape, None, object)
  return empty if kind == 'O' else np.zeros(shape).astype(kind)


def judged(data):
  """Two files through everything that experiments.adapt does."""
  width = data.draw(st.integers(1, 3))
  with tempfile.TemporaryDirectory() as directory:
    paths = [os.path.join(directory, name) for name in ('s.csv', 'q.csv')]
    for path in paths:
      lines = ['abc'[:width], *table(data.draw, width, 12)]
      text = '\n'.join(map(','.join, lines))
      pathlib.Path(path).write_text(text, errors='surrogatepass')
    try:
      support = user_files.read(paths[0])
      query = user_files.read(paths[1], like=support.rows)
      columns, _ = judge.common(support, query, tuple(paths))
      by = judge.adapt(
        nearest_run.shared(), paths[0], support, rate=0.1, columns=columns
      )
      found = judge.judge(by, paths[1], query)
    except ValueError as error:
      assert len(str(error)) > 10
      return
    sound(found.scores, found.p_values)
    rows = json.loads(judge.files(found)['scores.json'])['rows']
    assert len(rows) == len(query.rows)


def arrays(data):
  """Arrays of any type and shape into fit, predict, explain, partial_fit."""
  whole = st.builds(lambda: array(data.draw))
  width = data.draw(st.integers(1, 5))
  good = lambda most: hnp.arrays(
    np.float64, st.tuples(st.integers(1, most), st.just(width)),
    elements=NUMBERS,
  )  # fmt: skip
  known = data.draw(st.one_of(good(12), good(3), good(12), whole))
  new = data.draw(st.one_of(good(4), good(4), whole))
  count = len(known) if known.ndim else 0
  y = data.draw(st.one_of(
    st.none(),
    st.lists(st.sampled_from([0, 1, 0]), min_size=count, max_size=count),
    st.lists(st.sampled_from([1, -1]), min_size=count, max_size=count),
    st.just(['0'] * 3), st.just([0.5]),
  ))  # fmt: skip
  try:
    fitted = MetaAnomalyDetector(nearest_run.shared()).fit(known, y)
    found = fitted.judge(new)
    if data.draw(st.integers(0, 9)) == 0:
      for e in fitted.explain(new[:1]):
        sound(e.attributions)
    fitted.partial_fit(new)
    again = fitted.judge(new)
  except (ValueError, TypeError) as error:
    # TypeError: what scikit-learn raises for arrays of objects, as it must.
    assert len(str(error)) > 10
    kinds = known.dtype.kind + new.dtype.kind
    assert isinstance(error, ValueError) or set(kinds) & set('OSUMc')
    return
  sound(found.scores, found.p_values)
  sound(again.scores, again.p_values)
  sound(fitted.decision_scores_)


def streams(data):
  """Bytes of any kind as rows that arrive."""
  lines = data.draw(st.lists(st.one_of(
    st.binary(max_size=12),
    st.lists(CELLS, min_size=2, max_size=4).map(
      lambda cells: ','.join(cells).encode('utf-8', 'surrogatepass')
    ),
  ), max_size=6))  # fmt: skip
  told = []
  try:
    *rows, last = follow.follow(_judge(), lines, told.append)
  except DataError as error:  # a line of names that lacks a column
    one_line(error)
    return
  assert last['summary']['malformed'] == len(told)
  assert last['summary']['rows'] == len(rows)
  for row in rows:
    json.dumps(row, allow_nan=False)
  assert all('\n' not in line for line in told)


@functools.cache
def _judge():
  x = np.random.default_rng(0).normal(size=(8, 2))
  frame = pandas.DataFrame({
    'a': x[:, 0], 'b': x[:, 1], 'c': pandas.Categorical(['on', 'off'] * 4),
  })  # fmt: skip
  support = user_files.Samples(frame, None, None, ('id', 'a', 'b', 'c'))
  return judge.adapt(nearest_run.shared(), 's.csv', support, rate=0.05)


@functools.cache
def _saved():
  fitted = MetaAnomalyDetector(nearest_run.shared()).fit(np.eye(4))
  with tempfile.TemporaryDirectory() as directory:
    path = os.path.join(directory, 'd.npz')
    fitted.save(path)
    return pathlib.Path(path).read_bytes()


@pytest.mark.parametrize(
  'count', [FEW, pytest.param(MANY, marks=pytest.mark.nightly)]
)
@pytest.mark.parametrize('test', [judged, arrays, streams])
def test_nonsense(test, count):
  settings(
    max_examples=count,
    deadline=None,
    database=None,
    derandomize=count == FEW,
    suppress_health_check=list(HealthCheck),
  )(given(data=st.data())(test))()


# --- model files from strangers ----------------------------------------------

NASTY = [
  None, True, -1, 0, 5 * 10**9, 10**300, 0.5, math.inf, math.nan, '', 'x',
  'maml:steps=10**9', 'maml:steps=1000000000', 'tables:blocks=100000',
  '../../etc/passwd', 'x' * 100_000, [], [[]], [5 * 10**9], ['a'] * 3, {},
  {'a': 1},
]  # fmt: skip


def places(value, path=()):
  """Every place in nested JSON, but for those that nobody reads."""
  if path and path[-1] in ('versions', 'seen', 'code', 'trained_on'):
    return
  if path:
    yield path
  if isinstance(value, dict):
    for key in value:
      yield from places(value[key], (*path, key))
  elif isinstance(value, list) and value:
    yield from places(value[0], (*path, 0))


def put(value, path, new):
  for key in path[:-1]:
    value = value[key]
  if new is None and isinstance(value, dict):
    del value[path[-1]]
  else:
    value[path[-1]] = new


def changed_arrays(arrays):
  """An array of another kind, shape, order or finiteness, or none, or more."""
  for name, array in arrays.items():
    wrong = [np.zeros((0, 4)), np.zeros((2, 3, 4, 5)), array[None]]
    if array.dtype.kind == 'f':
      wrong += [np.full(array.shape, v, array.dtype) for v in (np.nan, np.inf)]
    if name.startswith('calibration/') and array.ndim:
      wrong.append(array[..., ::-1] - (np.arange(array.shape[-1]) == 0))
    for new in wrong:
      yield arrays | {name: new}
    yield {k: v for k, v in arrays.items() if k != name}
    yield arrays | {name + 's': array}
  yield arrays | {'detector/x': np.zeros((4, 1_000_000))}
  many = {'x': np.zeros((30_000, 4)), 'y': np.zeros(30_000, int)}
  many['support'] = np.ones(30_000, bool)
  yield arrays | {f'detector/{name}': array for name, array in many.items()}


def variants(path):
  """Writes a thousand files to `path`, one after the other."""
  content, rng = _saved(), np.random.default_rng(0)
  for _ in range(300):
    changed = bytearray(content)
    for start in rng.integers(len(content), size=rng.integers(1, 4)):
      cut = rng.choice([0, 1, 1, 50])
      changed[start : start + cut] = rng.bytes(rng.integers(1, 20))
    path.write_bytes(changed[: rng.choice([len(changed), len(content) // 2])])
    yield 'bytes'
  path.write_bytes(content)
  arrays, meta = storage.load(path)
  for changed in changed_arrays(arrays):
    storage.save(path, changed, meta)
    yield {k: v.shape for k, v in changed.items() if v is not arrays.get(k)}
  for place in places(meta):
    for new in NASTY:
      changed = copy.deepcopy(meta)
      put(changed, place, new)
      storage.save(path, arrays, changed)
      yield place, new
    if isinstance(place[-1], str):
      unknown = copy.deepcopy(meta)
      put(unknown, (*place[:-1], 'unknown'), 1)
      storage.save(path, arrays, unknown)
      yield place, 'unknown'


def test_model_files_from_strangers(tmp_path, monkeypatch):
  """Refused in one line, or the original: and hardly anything is compiled."""
  write = lambda path, content: pathlib.Path(path).write_bytes(content)
  monkeypatch.setattr(storage, 'write_bytes', write)  # no fsync
  path = tmp_path / 'd.npz'
  path.write_bytes(_saved())
  rows = np.random.default_rng(0).normal(size=(3, 4))
  want = MetaAnomalyDetector.load(path).score_samples(rows)
  refused, same = 0, []
  with nearest_run.CountedCompiles() as compiled:
    for variant in variants(path):
      try:
        detector = MetaAnomalyDetector.load(path)
      except DataError as error:
        one_line(error)
        assert len(str(error)) < 500
        refused += 1
        continue
      np.testing.assert_array_equal(
        detector.score_samples(rows), want, str(variant)
      )
      same.append(variant)
  assert refused + len(same) > 1000 and refused > 900
  assert compiled.number <= 10  # two for each other name of the model


def test_a_model_file_imports_no_module(tmp_path):
  path = tmp_path / 'd.npz'
  path.write_bytes(_saved())
  arrays, meta = storage.load(path)
  meta['plugins'], meta['config']['learner'] = ['antigravity'], 'unheard_of'
  storage.save(path, arrays, meta)
  with pytest.raises(DataError, match="plugin 'antigravity'"):
    MetaAnomalyDetector.load(path)
  assert 'antigravity' not in sys.modules
