"""Series as users have them, on even steps."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pandas as pd
import polars as pl
import pytest

from metaad_jax.base import DataError
from metaad_jax.data import timelines, user_files

X = np.random.default_rng(3).normal(size=(6, 2))
TIMES = pd.date_range('2024-03-01', periods=6, freq='10s')


def test_all_kinds_of_series_are_the_same():
  frame = pd.DataFrame(X, TIMES, ['a', 'b'])
  column = frame.rename_axis('when').reset_index()
  texts = column.astype({'when': str})
  for given_ in (
    X, X.tolist(), np.ma.masked_array(X, False), frame, column, texts,
    pl.from_pandas(column), pl.from_pandas(column).lazy(),
    column.assign(when=TIMES.astype('datetime64[ns]').astype('int64')),
    column.assign(when=TIMES.tz_localize('Europe/Rome')),
  ):  # fmt: skip
    line = timelines.read(given_)
    np.testing.assert_array_equal(line.values, X)
    np.testing.assert_array_equal(line.at, range(6))
    assert line.step == (10 if line.seconds is not None else None)
    assert not line.notes
  assert timelines.read(frame).stamps[2] == TIMES[2]
  assert timelines.read(frame['b']).values.tolist() == X[:, 1:].tolist()
  assert timelines.read(frame['b']).step == 10


def test_channels_go_by_name():
  frame = pd.DataFrame(X, columns=['a', 'b']).assign(c=np.arange(6) % 3)
  line = timelines.read(frame, ('b', 'a'))
  np.testing.assert_array_equal(line.values, X[:, ::-1])
  assert any("'c'" in note for note in line.notes)
  with pytest.raises(DataError, match="'d'"):
    timelines.read(frame, ('a', 'd'))


def test_ids_labels_and_words_are_set_aside_by_name():
  frame = pd.DataFrame({
    'value': np.random.default_rng(0).normal(size=20), 'id': range(20),
    'label': [0] * 18 + [1, 1], 'state': ['on', 'off'] * 10,
    't': 0.5 * np.arange(20),
  })  # fmt: skip
  line = timelines.read(frame)
  assert line.names == ('value',) and line.step == 0.5 and line.time == 't'
  assert line.labels.tolist() == [0] * 18 + [1, 1]
  told = ' '.join(line.notes)
  assert "'id'" in told and "'state'" in told and 'seconds' in told
  cut = timelines.without_anomalies(line)
  assert np.isnan(cut.values[18:]).all() and np.isfinite(cut.values[:18]).all()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
  keep=st.lists(st.booleans(), min_size=40, max_size=40),
  jitter=st.floats(0, 0.02),
)
def test_rows_that_are_not_there_are_missing_ones(keep, jitter):
  keep = np.array([True, True, True, *keep])
  places = np.flatnonzero(keep)
  if np.median(np.diff(places)) != 1:
    return
  x = np.random.default_rng(0).normal(size=43)
  wobble = jitter * np.random.default_rng(1).uniform(-1, 1, 43)
  times = pd.Timestamp('2024-01-01') + pd.to_timedelta(
    60 * (np.arange(43) + wobble)[keep], unit='s'
  )
  line = timelines.read(pd.Series(x[keep], times))
  np.testing.assert_array_equal(line.values[line.at, 0], x[keep])
  gaps = np.minimum(np.diff(places), timelines.LONGEST_GAP + 2)
  np.testing.assert_array_equal(np.diff(line.at), gaps)
  found, note = timelines.pieces(line)
  longs = (np.diff(places) > timelines.LONGEST_GAP + 1).sum()
  assert len(found) == longs + 1 and bool(note) == (longs > 0)


def test_irregular_stamps_are_told_and_resampled_on_request():
  random = np.random.default_rng(0)
  seconds = np.cumsum(random.exponential(10, 300))
  times = pd.Timestamp('2024-01-01') + pd.to_timedelta(seconds, unit='s')
  series = pd.Series(np.arange(300.0), pd.DatetimeIndex(times, name='when'))
  assert any("'when'" in n for n in timelines.read(series).notes)
  line = timelines.read(series, resample='1min')
  want = series.resample('60s').mean()
  np.testing.assert_allclose(line.values[:, 0], want.to_numpy())
  assert line.step == 60 and len(line.at) == 300
  for wrong in ('abc', '-1s', '', ' '):
    with pytest.raises(DataError, match='10s'):
      timelines.width_of(wrong)
  with pytest.raises(DataError, match='finer'):
    timelines.read(series, resample='1s')
  with pytest.raises(DataError, match='time stamps'):
    timelines.read(X, resample='1s')


def test_times_that_go_back_are_refused_and_turned_round_if_all_do():
  frame = pd.DataFrame(X, TIMES, ['a', 'b'])
  line = timelines.read(frame[::-1])
  np.testing.assert_array_equal(line.values, X)
  assert line.at.tolist() == [5, 4, 3, 2, 1, 0] and line.notes
  assert line.stamps[0] == TIMES[5]
  with pytest.raises(DataError, match='row 3'):
    timelines.read(frame.iloc[[0, 1, 2, 2, 3]])
  with pytest.raises(DataError, match='row 2.*goes back'):
    timelines.read(frame.iloc[[0, 3, 2, 4]])
  with pytest.raises(DataError, match='row 1 has no time'):
    timelines.read(frame.set_axis([TIMES[0], pd.NaT, *TIMES[2:]]))


def test_a_day_and_a_time_of_day_in_two_columns_are_one():
  times = pd.date_range('2024-03-01 23:59:40', periods=6, freq='10s')
  line = timelines.read(pd.DataFrame({
    'date': times.strftime('%Y/%m/%d'), 'time': times.strftime('%H:%M:%S'),
    'a': X[:, 0],
  }))  # fmt: skip
  assert line.names == ('a',) and line.step == 10 and not line.notes
  assert line.stamps[5] == times[5] and line.at.tolist() == [*range(6)]


def test_of_several_columns_of_times_the_one_that_is_asked_for_counts():
  later = TIMES + pd.to_timedelta(range(6), unit='D')
  frame = pd.DataFrame({'a': TIMES, 'b': later, 'x': X[:, 0]})
  samples = user_files.from_frame(frame)
  assert timelines.of_samples(samples).time == 'a'
  line = timelines.of_samples(samples, time='b')
  assert line.step == 86410 and line.names == ('x',)


def test_clocks_go_on_after_midnight():
  times = ['23:59:40', '23:59:50', '00:00:00', '00:00:10', '00:00:20']
  line = timelines.read(pd.DataFrame({'time': times, 'a': X[:5, 0]}))
  assert line.step == 10 and line.at.tolist() == [0, 1, 2, 3, 4]


def test_gaps_are_filled_or_cut():
  x = np.stack([np.arange(40.0), np.arange(40.0)], 1)
  short = x.copy()
  short[5:9, 0] = np.nan
  (piece,), note = timelines.pieces(timelines.read(short))
  np.testing.assert_allclose(piece.values, x)
  assert not note
  long = short.copy()
  long[20:30, 1] = np.nan
  pieces, note = timelines.pieces(timelines.read(long))
  assert [p.start for p in pieces] == [0, 30] and len(pieces[0].values) == 20
  assert note
  long[:, 1] = np.nan
  with pytest.raises(DataError, match='channel 1'):
    timelines.pieces(timelines.read(long))


@pytest.mark.parametrize(
  'series',
  [[], 'abc', [['a']], np.zeros((2, 2, 2)), np.array([1e300]), [np.inf, 1.0],
   np.array([1j]), pd.DataFrame({'a': ['x', 'y']}), np.array(TIMES)],
)  # fmt: skip
def test_what_is_no_series_is_refused_in_one_line(series):
  with pytest.raises(DataError) as told:
    timelines.pieces(timelines.read(series))
  assert '\n' not in str(told.value)


def test_a_series_is_cut_at_a_row_a_time_or_after_a_while():
  frame = pd.DataFrame(X, TIMES, ['a', 'b'])
  line = timelines.read(frame)
  for until in ('2', '2024-03-01 00:00:20', '20s', '2024-03-01 00:00:12'):
    before, after = timelines.split(line, timelines.row_of(until, line))
    np.testing.assert_array_equal(before.values, X[:2])
    np.testing.assert_array_equal(after.values, X[2:])
    assert after.stamps[0] == TIMES[2] and after.at.tolist() == [0, 1, 2, 3]
  days = pd.date_range('2024-03-10', periods=6).strftime('%d.%m.%Y %H:%M')
  dated = timelines.read(pd.DataFrame({'when': days, 'a': X[:, 0]}))
  assert dated.form == '%d.%m.%Y %H:%M'
  assert timelines.row_of('12.03.2024', dated) == 2
  with pytest.raises(DataError, match='newest'):
    timelines.row_of('20s', timelines.read(frame[::-1]))
  for until in ('0', '6', '1 day', '1999-01-01', 'noon'):
    with pytest.raises(DataError):
      timelines.row_of(until, line)
  with pytest.raises(DataError, match='time stamps'):
    timelines.row_of('20s', timelines.read(X))


@pytest.mark.parametrize('form', ['%d/%m/%Y %H:%M', '%m/%d/%Y %H:%M'])
def test_days_and_months_are_told_apart_by_even_steps(form):
  times = pd.date_range('2024-03-01', periods=99, freq='h')
  frame = pd.DataFrame({'when': times.strftime(form), 'a': np.arange(99) % 7.0})
  line = timelines.read(frame)
  assert line.form == form and not line.notes and line.step == 3600
  months = pd.date_range('2024-01-01', periods=9, freq='MS')
  line = timelines.read(
    pd.DataFrame({'when': months.strftime(form[:8]), 'a': np.arange(9) % 7.0})
  )  # either may be meant, which is said
  assert any('%d/%m/%Y' in n and '%m/%d/%Y' in n for n in line.notes)


def test_channels_that_say_little_are_named():
  x = np.stack([np.sin(np.arange(99.0)), np.zeros(99)], 1)
  said = lambda x: timelines.doubts(x, x.std(0) < 1e-9, 'ab')
  assert [note.split()[0] for note in said(x)] == ['b']
  assert not said(x[:, :1]) and not said(x[:, 1:])
  x[40, 0] = 1e6
  assert any('sample 40 of channel a' in note for note in said(x))


def test_a_time_is_one_on_the_clock_of_the_rows():
  x = np.random.default_rng(0).normal(size=99)
  row_of = lambda when, until: timelines.row_of(
    until, timelines.read(pd.DataFrame({'when': when, 'x': x}))
  )
  hours = pd.date_range('2024-10-25', periods=99, freq='h')
  for when in (
    [f'{x:%Y-%m-%d %H:%M}:00+02:00' for x in hours],
    [f'{x:%Y-%m-%dT%H:%M}:00.000-0530' for x in hours],
    [f'{x:%Y-%m-%dT%H:%M}:00Z' for x in hours],
    hours.tz_localize('Asia/Tokyo'), hours,
  ):  # fmt: skip
    assert row_of(when, '2024-10-26 12:00') == 36
    assert row_of(when, '1 day') == 24
  # The day first, with an offset; and one cell that is written otherwise.
  when = [f'{x:%d.%m.%Y %H:%M}:00+02:00' for x in hours]
  for some in (when, [f'{hours[0]:%Y-%m-%d %H:%M}+02:00', *when[1:]]):
    for until in ('12:00', '12:00:00', '12:00:00+02:00', '13:00:00+03:00'):
      assert row_of(some, f'26.10.2024 {until}') == 36
  east = hours.tz_localize('Asia/Tokyo')
  assert row_of(east, '2024-10-26T12:00:00Z') == 45
  # Summer time ends: two o'clock comes twice, and that is said.
  autumn = pd.date_range('2024-10-25', periods=99, freq='h', tz='Europe/Berlin')
  for when in (autumn, [x.isoformat() for x in autumn]):
    with pytest.warns(UserWarning, match='clocks'):
      assert row_of(when, '2024-10-27 02:00') == 50
    with pytest.warns(UserWarning, match='clocks'):
      assert row_of(when, '2024-10-28 02:00') == 75
    assert row_of(when, '2024-10-27T02:00:00+01:00') == 51
