"""Frames given to the detector are read as the files they came from."""

import warnings

import nearest_run
import numpy as np
from numpy.testing import assert_array_equal
import pandas
import polars
import pyarrow
import pytest

from metaad_jax.base import DataError
from metaad_jax.data import user_files
from metaad_jax.detector import reasons
from metaad_jax.detector.estimator import MetaAnomalyDetector

N = np.arange(40)
RNG = np.random.default_rng(3)
HEAT, LOAD = RNG.normal(20, 1, 40).round(3), RNG.normal(3, 0.4, 40).round(2)
PLAIN = pandas.DataFrame({'heat': HEAT, 'load': LOAD})
TYPED = PLAIN.assign(
  row=N,
  when=pandas.date_range('2024-03-01', periods=40, freq='min'),
  Class=N % 2,
  mode=['slow', 'Slow', 'fast', None] * 10,
)
# As text, as a European Excel has it.
TEXT = PLAIN.map(lambda v: str(v).replace('.', ',')).assign(
  volume=[f'1.{i:03}' for i in range(100, 140)],
  day=['20240301', '20240302'] * 20,
  **{n: TYPED[n].astype(object) for n in ('row', 'Class', 'mode')},
)
LIBRARIES = {
  'pandas': lambda frame: frame,
  'polars': polars.from_pandas,
  'lazy': lambda frame: polars.from_pandas(frame).lazy(),
  'arrow': pyarrow.table,
  'dict': lambda frame: frame.to_dict('list'),
}


@pytest.fixture(scope='module')
def run_dir():
  return nearest_run.shared()


def fitted(frame, run_dir, *y, **options):
  """The detector, and the names that its warnings hold."""
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    detector = MetaAnomalyDetector(run_dir, **options).fit(frame, *y)
  told = [str(w.message) for w in caught if w.category is UserWarning]
  return detector, {t.split("'")[1] for t in told if "column '" in t}


@pytest.mark.parametrize('library', LIBRARIES)
@pytest.mark.parametrize('frame, sep', [(TYPED, ','), (TEXT, ';')])
def test_a_frame_has_the_columns_of_its_file(
  frame, sep, library, run_dir, tmp_path
):
  path = str(tmp_path / 'a.csv')
  frame.to_csv(path, index=False, sep=sep)
  known = user_files.read(path)
  aside = {c.name for c in known.columns if c.role != 'feature'}
  made = LIBRARIES[library]
  detector, told = fitted(made(frame), run_dir)
  assert aside == told and {'row', 'Class'} <= aside
  assert 'day' not in frame or 'day' in aside
  assert list(detector._fitted.columns.names) == list(known.rows)
  expected = MetaAnomalyDetector(run_dir).fit(known)
  assert_array_equal(detector._fitted.x, expected._fitted.x)
  # A single row says less than the column, and is read as the column was.
  detector.save(tmp_path / 'a.npz')
  loaded = MetaAnomalyDetector.load(tmp_path / 'a.npz')
  for each in (detector, loaded):
    assert list(each.feature_names_in_) == list(frame)
    assert each.n_features_in_ == len(frame.columns)
    assert_array_equal(each.encode(made(frame[:1])).x, expected._fitted.x[:1])
    assert_array_equal(
      each.score_samples(made(frame.drop(columns=[*aside]))),
      expected.score_samples(known),
    )


def test_what_was_set_aside_is_taken_back(run_dir):
  detector, told = fitted(TYPED, run_dir, None, features=['row', 'when'])
  names = detector._fitted.columns.names
  assert names == ('heat', 'load', 'row', 'when', 'mode')
  assert 'Class' in told and 'row' not in told
  every, _ = fitted(TYPED, run_dir, None, features='*')
  assert every._fitted.columns.names == tuple(TYPED)
  # A column of two values that says what y says; and none where y differs.
  leak = PLAIN.assign(valve=1 + (N % 2))
  assert fitted(leak, run_dir, N % 2)[0]._fitted.columns.names == tuple(PLAIN)
  assert fitted(leak, run_dir)[0]._fitted.columns.names == tuple(leak)
  with pytest.raises(DataError, match="did you mean 'row'"):
    MetaAnomalyDetector(run_dir, features=['raw']).fit(TYPED)
  with pytest.raises(DataError, match='no column to score'):
    fitted(TYPED[['row', 'when']], run_dir)


def test_arrays_with_the_columns_of_a_frame(run_dir):
  frame = PLAIN.assign(row=N)[['row', 'heat', 'load']]
  detector, _ = fitted(frame, run_dir)
  expected = detector.score_samples(frame)
  assert_array_equal(detector.score_samples(frame.to_numpy()), expected)


ONE_VALUE = [
  (['1', '2'], [1.0, 2.0]), (['1', '2'], [' 1', '2 ']),
  (['yes', 'no'], ['Yes', 'NO']), (['yes', 'no'], [True, False]),
  (['true', 'false'], [True, False]), (['1', '0'], [True, False]),
  (['a', 'b'], ['A', 'b']),
]  # fmt: skip


@pytest.mark.parametrize('known, new', ONE_VALUE)
def test_one_value_in_two_spellings_or_types(known, new, run_dir):
  """Has one code; where it cannot be told, it is said."""
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    detector = MetaAnomalyDetector(run_dir)
    detector.fit(PLAIN.assign(c=known * 20))
    x = detector.encode(PLAIN.assign(c=new * 20)).x
  same = (x[:, 2] == detector._fitted.x[:, 2]).all()
  assert same or any("'c'" in str(w.message) for w in caught)


@pytest.mark.parametrize('gone', [None, np.nan, pandas.NA])
def test_a_value_where_there_never_was_one(gone, run_dir):
  series = pandas.Series(
    [gone] * 40, dtype='string' if gone is pandas.NA else object
  )
  detector = MetaAnomalyDetector(run_dir).fit(PLAIN.assign(error=series))
  new = PLAIN.assign(error=[*[None] * 39, 'E42 overheat'])
  with pytest.warns(UserWarning, match="'error' was empty"):
    scores = detector.score_samples(new)
  assert scores.argmin() == 39
  scores = detector.score_samples(new.assign(error=[*[None] * 39, 7.5]))
  assert np.isfinite(scores).all()


def test_frames_with_categories(run_dir):
  cells = {
    'heat': list(np.random.default_rng(0).normal(20, 1, 30)),
    'mode': ['slow', 'fast', None] * 10,
    'on': [True] * 30,
  }
  found = []
  for library in (pandas, polars):
    frame = library.DataFrame(cells)
    other = library.DataFrame(cells | {'mode': ['melted'] * 29 + ['molten']})
    detector = MetaAnomalyDetector(run_dir).fit(frame)
    assert list(detector.feature_names_in_) == ['heat', 'mode', 'on']
    scores = detector.score_samples(frame)
    found.append(scores)
    assert detector.score_samples(other).mean() < scores.mean()
    turned = frame[['on', 'heat', 'mode']]
    assert_array_equal(detector.score_samples(turned), scores)
    assert_array_equal(
      detector.encode(frame).x[:3, 1:], [[1, 1], [0, 1], [np.nan, 1]]
    )
    # Rows encoded once are the same rows, and so are some of them.
    rows = detector.encode(other)
    assert (rows.x[:, 1] == 2).all()  # a code of its own
    some = rows.take(np.array([4, 1]))
    assert_array_equal(
      detector.score_samples(some), detector.score_samples(other)[[4, 1]]
    )
    (told,) = detector.explain(rows.take([29]), detector.judge(rows).take([29]))
    assert told.score == -detector.score_samples(other)[29]
    assert told.words == {'mode': 'molten'} and told.row[0] == cells['heat'][29]
    assert 'mode' in reasons.text(told).split(';')[0]
    with pytest.raises(DataError, match="lacks column 'mode'"):
      detector.predict(frame[['on', 'heat']])
    words = library.DataFrame(cells | {'heat': ['hot'] * 30})
    with pytest.raises(DataError, match="'heat' held numbers"):
      detector.predict(words)
  assert_array_equal(found[0], found[1])


def test_dates_in_frames_keep_their_seconds(run_dir):
  start = pandas.Timestamp('2026-01-01')
  frame = lambda t: pandas.DataFrame({'t': t, 'x': np.zeros(len(t))})
  near = [start + pandas.Timedelta(seconds=i) for i in range(20)]
  new = frame([start, start + pandas.Timedelta(days=1), pandas.NaT])
  detector = MetaAnomalyDetector(run_dir, features='t').fit(frame(near))
  first, late, _ = -detector.score_samples(new)
  assert late > first + 1
  seconds = detector.encode(new).x[:, 0]
  assert_array_equal(seconds, [1767225600, 1767312000, np.nan])
