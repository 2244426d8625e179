"""Nonsense into the detector and its files: a clear error or an answer.

Few cases here; `pytest -m nightly tests/detector/test_fuzz.py` runs 16,000.
"""

import functools
import json
import os
import pathlib
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


def models(data):
  """A detector's own file with bytes changed, cut or put in."""
  content = bytearray(_saved())
  for _ in range(data.draw(st.integers(1, 3))):
    start = data.draw(st.integers(0, len(content) - 1))
    new = data.draw(st.binary(max_size=20))
    cut = data.draw(st.sampled_from([0, len(new), len(new), 50]))
    content[start : start + cut] = new
  with tempfile.TemporaryDirectory() as directory:
    path = os.path.join(directory, 'd.npz')
    pathlib.Path(path).write_bytes(content)
    try:
      arrays, meta = storage.load(path)
    except DataError as error:
      one_line(error)
      with pytest.raises(DataError):
        MetaAnomalyDetector.load(path)
      return
    # Bytes that mean nothing, such as a date: the content is what was saved.
    pathlib.Path(path).write_bytes(_saved())
    same = storage.load(path)
    assert meta == same[1] and arrays.keys() == same[0].keys()
    for name, value in arrays.items():
      assert value.tobytes() == same[0][name].tobytes()


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
@pytest.mark.parametrize('test', [judged, arrays, streams, models])
def test_nonsense(test, count):
  settings(
    max_examples=count,
    deadline=None,
    database=None,
    derandomize=count == FEW,
    suppress_health_check=list(HealthCheck),
  )(given(data=st.data())(test))()


# --- files whose checksum fits -----------------------------------------------


def refused(tmp_path, change):
  """The one line of a saved detector whose arrays and meta data changed."""
  path = str(tmp_path / 'd.npz')
  pathlib.Path(path).write_bytes(_saved())
  arrays, meta = storage.load(path)
  change(arrays, meta['detector'])
  storage.save(path, arrays, meta)
  with pytest.raises(DataError) as error:
    MetaAnomalyDetector.load(path)
  one_line(error.value)


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('detector/x', np.zeros((0, 4))),
    ('detector/x', np.full((4, 4), np.nan)[:3]),
    ('detector/x', np.zeros(4)),
    ('detector/x', np.full((4, 4), np.inf)),
    ('detector/y', np.ones(4, int)),
    ('detector/y', np.full(4, 7)),
    ('detector/y', np.zeros(3, int)),
    ('detector/support', np.zeros(4, bool)),
    ('detector/support', np.ones(2, bool)),
    ('calibration/grid', np.zeros(3)),
  ],
)
def test_arrays_that_make_no_sense_are_refused(name, value, tmp_path):
  refused(tmp_path, lambda arrays, meta: arrays.update({name: value}))


@pytest.mark.parametrize('name', ['calibration/moments', 'detector/x'])
def test_an_array_that_is_missing_is_refused(name, tmp_path):
  refused(tmp_path, lambda arrays, meta: arrays.pop(name))


@pytest.mark.parametrize(
  'change',
  [
    {'options': {'run_dir': '/etc/passwd'}},
    {'options': {'false_alarm_rate': 7}},
    {'options': {'window_features': 'os.system'}, 'n_features_in': 'x'},
    {'options': {'unknown': 1}},
    {'options': None},
    {'names': 3},
    {'names': ['a'], 'categories': {}},
    {'categories': [], 'names': list('abcd')},
    {'n_features_in': None},
  ],
  ids=str,
)
def test_settings_that_make_no_sense_are_refused(change, tmp_path):
  refused(tmp_path, lambda arrays, meta: meta.update(change))
