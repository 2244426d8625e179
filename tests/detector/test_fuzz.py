"""Nonsense into every loader and the detector: a clear error or an answer.

A few hundred cases here; `pytest -m nightly tests/test_fuzz.py` runs 24,000.
"""

import io
import json
import os
import pathlib
import struct
import tempfile

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import nearest_run
import numpy as np
import pytest

from metaad_jax import storage
from metaad_jax.base import DataError
from metaad_jax.data import user_frames, user_rows
from metaad_jax.data.datasets import folder
from metaad_jax.detector import follow, judge
from metaad_jax.detector.estimator import MetaAnomalyDetector
from metaad_jax.training import runs

FEW, MANY = 60, 4000  # cases of each of the six tests


@pytest.fixture(scope='module')
def run_dir(tmp_path_factory):
  return nearest_run.write(
    tmp_path_factory.mktemp('run') / 'nearest.npz', entities=21
  )


def cases(test):
  """The test twice: with few cases, and with many under the mark nightly."""

  def made(count):
    return settings(
      max_examples=count,
      deadline=None,
      database=None,
      derandomize=count == FEW,
      suppress_health_check=list(HealthCheck),
    )(given(data=st.data())(test))

  return made(FEW), pytest.mark.nightly(made(MANY))


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
NAMES = st.sampled_from(
  ['a', 'b', 'c', 'label', 'y', 'id', '', ' a', 'column 0', '1', 'é']
)
DTYPES = st.sampled_from(
  ['f8', 'f4', 'f2', 'i8', 'u1', '?', 'c16', 'U3', 'S2', 'M8[s]', 'O']
)


def one_line(error):
  told = str(error)
  assert len(told) > 10 and '\n' not in told


def sound(scores, p=None):
  assert np.isfinite(scores).all()
  assert p is None or ((p > 0) & (p <= 1)).all()


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


def csv_text(draw, width):
  rows = table(draw, width)
  if draw(st.booleans()):
    rows = [[draw(NAMES) for _ in range(width)], *rows]
  mark = draw(st.sampled_from([',', ';', '\t']))
  end = draw(st.sampled_from(['\n', '\r\n', '\n\n']))
  return end.join(mark.join(row) for row in rows)


def array(draw):
  shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
  kind = draw(DTYPES)
  if kind == 'f8':
    return draw(hnp.arrays(np.float64, shape, elements=NUMBERS))
  if kind == 'O':
    return np.full(shape, None, object)
  return np.zeros(shape).astype(kind)


def content_of(draw, suffix):
  """Bytes of a file that is more or less what its suffix says."""
  held = io.BytesIO()
  if suffix == 'csv':
    text = csv_text(draw, draw(st.integers(1, 4)))
    code = draw(st.sampled_from(['utf-8', 'utf-16', 'utf-8-sig']))
    held.write(text.encode(code, 'surrogatepass'))
  elif suffix == 'npy':
    np.save(held, array(draw), allow_pickle=True)
  elif suffix == 'npz':
    keys = draw(st.lists(
      st.sampled_from(['x', 'y', 'X', 'data', 'label', 'q']), unique=True,
      max_size=3,
    ))  # fmt: skip
    np.savez(held, **{key: array(draw) for key in keys})
  elif suffix == 'wav':
    channels, width = draw(st.integers(0, 3)), draw(st.sampled_from([1, 2, 4]))
    sound = draw(st.binary(max_size=200))
    kind = draw(st.sampled_from([1, 3, 6, 0xFFFE]))
    rate = draw(st.sampled_from([0, 1, 8000, 2**32 - 1]))
    form = struct.pack(
      '<HHIIHH', kind, channels, rate, (rate * channels * width) % 2**32,
      channels * width, 8 * width,
    )  # fmt: skip
    size = draw(st.sampled_from([len(sound), 0, 2**31]))
    held.write(
      b'RIFF' + struct.pack('<I', 36 + len(sound)) + b'WAVEfmt '
      + struct.pack('<I', 16) + form + b'data' + struct.pack('<I', size) + sound
    )  # fmt: skip
  content = bytearray(held.getvalue())
  damage = draw(st.integers(0, 4))
  if damage == 0 and content:
    content = content[: draw(st.integers(0, len(content)))]
  elif damage == 1 and content:
    content[draw(st.integers(0, len(content) - 1))] ^= draw(st.integers(1, 255))
  return bytes(content)


def written(data, suffix, directory, name='x'):
  path = pathlib.Path(directory, f'{name}.{suffix}')
  path.write_bytes(content_of(data.draw, suffix))
  return str(path)


def loaders(run_dir, data):
  """A user's files and folders: rows of a known width, and of any."""
  suffix = data.draw(st.sampled_from(['csv', 'npy', 'npz']))
  with tempfile.TemporaryDirectory() as directory:
    path = written(data, suffix, directory)
    for read in (
      lambda: user_rows.read(path, (3,))[:2],
      lambda: user_rows.read(path, (2, 1))[:2],
      lambda: user_rows.table(path)[:2],
    ):
      try:
        x, y = read()
      except DataError as error:
        one_line(error)
        continue
      assert not np.isinf(x).any() and x.dtype == np.float32
      assert y is None or np.isin(y, (0, 1)).all()
    try:
      (entity,) = folder.load_tables(directory)
    except DataError as error:
      one_line(error)
      return
    assert len(entity.query) == len(entity.labels)


def frames(run_dir, data):
  """A user's files with names, words and gaps, and recordings."""
  suffix = data.draw(st.sampled_from(['csv', 'npy', 'npz', 'wav', 'wav']))
  window = data.draw(st.sampled_from([0, 0, 1, 3]))
  if suffix == 'wav' and not window:
    window = 2
  with tempfile.TemporaryDirectory() as directory:
    path = written(data, suffix, directory)
    try:
      found = user_frames.read(
        path, window=window, ignore=data.draw(st.sampled_from([(), ('id',)])),
        label=data.draw(st.sampled_from(['', 'none', 'a'])),
      )  # fmt: skip
    except DataError as error:
      one_line(error)
      return
    assert len(found.rows) > 0
    assert found.labels is None or len(found.labels) == len(found.rows)
    if not isinstance(found.rows, user_frames.Frame):
      assert found.rows.ndim == 3


def judged(run_dir, data):
  """Two files through everything that experiments.adapt does."""
  width = data.draw(st.integers(1, 3))
  with tempfile.TemporaryDirectory() as directory:
    paths = []
    for name in 'sq':
      paths.append(os.path.join(directory, f'{name}.csv'))
      head = ','.join('abc'[:width])
      rows = '\n'.join(','.join(row) for row in table(data.draw, width, 12))
      pathlib.Path(paths[-1]).write_text(
        f'{head}\n{rows}', errors='surrogatepass'
      )
    try:
      support = user_frames.read(paths[0])
      query = user_frames.read(paths[1], like=support.rows)
      columns, _ = judge.common(support, query, tuple(paths))
      by = judge.adapt(run_dir, paths[0], support, rate=0.1, columns=columns)
      found = judge.judge(by, paths[1], query)
    except ValueError as error:
      assert len(str(error)) > 10
      return
    sound(found.scores, found.p_values)
    files = judge.files(found)
    rows = json.loads(files['scores.json'])['rows']  # strict: no NaN
    assert len(rows) == len(query.rows)


def arrays(run_dir, data):
  """Arrays of any type and shape into fit, predict, explain, partial_fit."""
  whole = st.builds(lambda: array(data.draw))
  width = data.draw(st.integers(1, 5))
  good = lambda most: hnp.arrays(
    np.float64, st.tuples(st.integers(1, most), st.just(width)),
    elements=NUMBERS,
  )  # fmt: skip
  known = data.draw(st.one_of(good(12), good(3), good(12), whole))
  new = data.draw(st.one_of(good(4), good(4), whole))
  y = data.draw(st.one_of(
    st.none(),
    st.lists(st.sampled_from([0, 1, -1]), min_size=len(known) if known.ndim
             else 0, max_size=len(known) if known.ndim else 0),
    st.just(['0'] * 3), st.just([0.5]),
  ))  # fmt: skip
  try:
    fitted = MetaAnomalyDetector(run_dir).fit(known, y)
    found = fitted.judge(new)
    if data.draw(st.integers(0, 9)) == 0:
      for e in fitted.explain(new[:1]):
        sound(e.attributions)
    fitted.partial_fit(new)
    again = fitted.judge(new)
  except (ValueError, TypeError) as error:
    # TypeError: what scikit-learn raises for arrays of objects, as it must.
    assert len(str(error)) > 10
    assert (
      not isinstance(error, TypeError)
      or known.dtype.kind in 'OSUMc'
      or (new.dtype.kind in 'OSUMc')
    )
    return
  sound(found.scores, found.p_values)
  sound(again.scores, again.p_values)
  sound(fitted.decision_scores_)


def streams(run_dir, data):
  """Bytes of any kind as rows that arrive."""
  by = _judge(run_dir)
  lines = data.draw(st.lists(st.one_of(
    st.binary(max_size=12),
    st.lists(CELLS, min_size=2, max_size=4).map(
      lambda cells: ','.join(cells).encode('utf-8', 'surrogatepass')
    ),
    st.just(follow.BEGIN),
  ), max_size=6))  # fmt: skip
  told = []
  try:
    *rows, last = follow.follow(by, iter([None, *lines]), told.append)
  except DataError as error:  # a line of names that lacks a column
    one_line(error)
    return
  assert last['summary']['malformed'] == len(told)
  assert last['summary']['rows'] == len(rows)
  for row in rows:
    json.dumps(row, allow_nan=False)
  assert all('\n' not in line for line in told)


_JUDGES = {}


def _judge(run_dir):
  if run_dir not in _JUDGES:
    x = np.random.default_rng(0).normal(size=(8, 2))
    frame = user_frames.Frame({
      'a': x[:, 0], 'b': x[:, 1],
      'c': np.array(['on', 'off'] * 4, object),
    })  # fmt: skip
    support = user_frames.Samples(frame, None, None, ('id', 'a', 'b', 'c'))
    _JUDGES[run_dir] = judge.adapt(run_dir, 's.csv', support, rate=0.05)
  return _JUDGES[run_dir]


def models(run_dir, data):
  """A detector's own file with bytes changed, cut or put in."""
  content = bytearray(_saved(run_dir))
  for _ in range(data.draw(st.integers(1, 3))):
    place = data.draw(st.integers(0, len(content) - 1))
    how = data.draw(st.integers(0, 2))
    if how == 0:
      content[place] ^= data.draw(st.integers(1, 255))
    elif how == 1:
      del content[place : place + data.draw(st.integers(1, 50))]
    else:
      content[place:place] = data.draw(st.binary(min_size=1, max_size=20))
  with tempfile.TemporaryDirectory() as directory:
    path = os.path.join(directory, 'd.npz')
    pathlib.Path(path).write_bytes(content)
    try:
      held = storage.load(path)
    except DataError as error:
      one_line(error)
      with pytest.raises(DataError):
        MetaAnomalyDetector.load(path)
      return
    # Bytes that mean nothing, such as a date: the content is what was saved.
    pathlib.Path(path).write_bytes(_saved(run_dir))
    same = storage.load(path)
    assert held[1] == same[1] and held[0].keys() == same[0].keys()
    for name, value in held[0].items():
      assert value.tobytes() == same[0][name].tobytes()


_SAVED = {}


def _saved(run_dir):
  if run_dir not in _SAVED:
    fitted = MetaAnomalyDetector(run_dir).fit(np.eye(4))
    with tempfile.TemporaryDirectory() as directory:
      path = os.path.join(directory, 'd.npz')
      fitted.save(path)
      _SAVED[run_dir] = pathlib.Path(path).read_bytes()
  return _SAVED[run_dir]


test_loaders, test_loaders_nightly = cases(loaders)
test_frames, test_frames_nightly = cases(frames)
test_judged, test_judged_nightly = cases(judged)
test_arrays, test_arrays_nightly = cases(arrays)
test_streams, test_streams_nightly = cases(streams)
test_models, test_models_nightly = cases(models)


# --- hostile detectors -------------------------------------------------------


@pytest.fixture
def saved(run_dir, tmp_path):
  path = tmp_path / 'd.npz'
  path.write_bytes(_saved(run_dir))
  return str(path)


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
    ('calibration/moments', None),
    ('detector/x', None),
  ],
)
def test_a_detector_that_makes_no_sense_is_refused(name, value, saved):
  arrays, meta = storage.load(saved)
  if value is None:
    del arrays[name]
  else:
    arrays[name] = value
  storage.save(saved, arrays, meta)  # with a checksum that fits
  with pytest.raises(DataError) as refused:
    MetaAnomalyDetector.load(saved)
  one_line(refused.value)


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
def test_settings_that_make_no_sense_are_refused(change, saved):
  arrays, meta = storage.load(saved)
  meta['detector'] |= change
  storage.save(saved, arrays, meta)
  with pytest.raises(DataError) as refused:
    MetaAnomalyDetector.load(saved)
  one_line(refused.value)


def test_names_of_members_are_names_and_no_paths(saved, tmp_path):
  arrays, meta = storage.load(saved)
  for name in ('../../outside', '/outside', 'params/../../outside'):
    storage.save(saved, arrays | {name: np.zeros(2)}, meta)
    before = sorted(p for p in tmp_path.parent.rglob('*outside*'))
    try:
      MetaAnomalyDetector.load(saved)
    except DataError as error:
      one_line(error)
    assert sorted(p for p in tmp_path.parent.rglob('*outside*')) == before
  storage.save(saved, arrays, meta)
  assert runs.restore(saved).step == 1
