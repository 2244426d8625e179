"""A user's own files and frames: every way to write them, one way to read."""

import gzip
import lzma
import random
import zipfile

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.io.wavfile

from metaad_jax.base import DataError
from metaad_jax.data import cells, text_files, user_files

X = np.random.default_rng(0).normal([20, 1.5, 3e3], [2, 0.1, 20], (40, 3))
X = X.round([[3, 4, 1]][0][0])
FRAME = pd.DataFrame(X, columns=['temp', 'press', 'rpm'])
CSV = FRAME.to_csv(index=False)
LINES = CSV.split('\n')


def read(folder, content, name='a.csv', **options):
  path = folder / name
  path.write_bytes(content.encode() if isinstance(content, str) else content)
  return user_files.read(str(path), **options)


def refusal(folder, content, name='a.csv', **options):
  with pytest.raises(DataError) as refused:
    read(folder, content, name, **options)
  message = str(refused.value)
  assert '\n' not in message and str(folder) in message
  return message


# --- text files --------------------------------------------------------------

WRITTEN = {
  **{f'delimiter {d!r}': FRAME.to_csv(index=False, sep=d) for d in ',;\t| '},
  **{
    f'decimal comma {d!r}': FRAME.to_csv(index=False, sep=d, decimal=',')
    for d in ';\t| '
  },
  'no names': FRAME.to_csv(index=False, sep=';', decimal=',', header=False),
  'single quotes': '\n'.join(
    ','.join(f"'{c}'" for c in line.split(',')) for line in LINES[:-1]
  ),
  'CR': CSV.replace('\n', '\r'),
  'CR LF, blank lines': CSV.replace('\n', '\r\n\r\n'),
  'UTF-8 with BOM': CSV.encode('utf-8-sig'),
  'UTF-16': CSV.encode('utf-16'),
  'UTF-16 without BOM': CSV.encode('utf-16-le'),
  'Latin-1': CSV.replace('temp', 'T °C').encode('latin-1'),
  'comments': '# logger 7\n# site 3\n' + CSV + '# end\n',
  'title': 'Exported 2024-01-01\n\n' + CSV,
  'a sheet with a title, padded': 'Log 7;;;\n;;;\n'
  + FRAME.to_csv(index=False, sep=';', decimal=',').replace('\n', ';\n')
  + ';;;\n',
  'a table of text': '| temp | press | rpm |\n|---|---|---|\n'
  + ''.join(f'| {" | ".join(map(str, row))} |\n' for row in X.tolist()),
  'sep=': 'sep=;\n' + FRAME.to_csv(index=False, sep=';'),
  'units': '\n'.join([LINES[0], 'C,bar,1/min', *LINES[1:]]),
  'names again': '\n'.join([*LINES[:20], LINES[0], *LINES[20:]]),
  'names at the half': '\n'.join([*LINES[:20], *LINES[:1], *LINES[20:]]),
  'delimiter at the end of rows': CSV.replace('\n', ',\n').replace(
    'rpm,', 'rpm', 1
  ),
  'delimiter at the end of lines': CSV.replace('\n', ',\n'),
  'as np.savetxt': '# temp press rpm\n'
  + '\n'.join(LINES[1:]).replace(',', ' '),
  'names of rows, as R': '\n'.join(
    [LINES[0], *(f'r{i},{line}' for i, line in enumerate(LINES[1:-1]))]
  ),
  'index, as pandas': FRAME.to_csv(),
  'a total below': f'{CSV}Total:,,{X[:, 2].sum()}\n',
  'names that are numbers': FRAME.set_axis([0, 1, 2], axis=1).to_csv(
    index=False
  ),
  'years': FRAME.set_axis([2019, 2020, 2021], axis=1).to_csv(index=False),
}


@pytest.mark.parametrize('how', WRITTEN)
def test_the_same_table_however_it_is_written(how, tmp_path):
  samples = read(tmp_path, WRITTEN[how])
  np.testing.assert_allclose(samples.rows.to_numpy(float), X)
  assert samples.labels is None


def test_titles_of_several_cells_are_no_names(tmp_path):
  names = [*'abcdef']
  table = pd.DataFrame(np.c_[X, X + 1], columns=names).to_csv(index=False)
  samples = read(tmp_path, f'Report,,,,,\nLine 3,,,Shift A,,\n{table}')
  assert list(samples.rows) == names and len(samples.rows) == len(X)


def test_names_may_differ_in_case_and_marks(tmp_path):
  known = read(tmp_path, 'Temp,oil-flow,a\n1,2,3\n4,5,6\n')
  new = read(tmp_path, 'temp,OIL_FLOW,A,a\n1,2,9,3\n', like=known)
  assert new.rows[list(known.rows)].to_numpy().tolist() == [[1, 2, 3]]
  assert any("'OIL_FLOW' is taken for 'oil-flow'" in n for n in new.notes)
  both = read(tmp_path, 'temp,TEMP,oil-flow,a\n1,2,3,4\n', like=known)
  assert 'Temp' not in both.rows  # which of them, nobody knows


def test_a_reading_a_line_is_told(tmp_path):
  rows = [f'{t},{tag},{t + len(tag)}' for t in range(9) for tag in ('u', 'vv')]
  notes = read(tmp_path, '\n'.join(['time,tag,value', *rows])).notes
  assert any("pivot(index='time', columns='tag')" in note for note in notes)
  rows = [f'{t},{"on" if t % 3 else "off"},{t % 5}' for t in range(18)]
  notes = read(tmp_path, '\n'.join(['time,tag,value', *rows])).notes
  assert not any('pivot' in note for note in notes)


@pytest.mark.parametrize('units', ['', 'C,bar,C\n'])
def test_a_name_that_starts_as_comments_do(units, tmp_path):
  names = ['# of polls', 'press', 'rpm']
  head, *rest = FRAME.set_axis(names, axis=1).to_csv(index=False).split('\n')
  text = f'# site 3\n{head}\n{units}' + '\n'.join(rest)
  samples = read(tmp_path, text)
  assert list(samples.rows) == names
  np.testing.assert_array_equal(samples.rows, X)


def test_decimals_and_thousands_are_told_apart_by_the_whole_file(tmp_path):
  text = 'a;b;c\n1.234,5;1,234;1.234\n12,5;2,5;7.000\n'
  rows = read(tmp_path, text).rows
  assert rows.to_numpy().tolist() == [[1234.5, 1.234, 1234], [12.5, 2.5, 7000]]
  text = 'a,b\n"1,234",1.234\n"12,000",7.5\n'
  rows = read(tmp_path, text).rows
  assert rows.to_numpy().tolist() == [[1234, 1.234], [12000, 7.5]]
  rows = read(tmp_path, 'a;b\nred;1,5\ndark blue;2,5\nred;3,5\n').rows
  assert rows['b'].tolist() == [1.5, 2.5, 3.5]
  text = 'a\n1,5\n2,25\n'
  assert read(tmp_path, text).rows['a'].tolist() == [1.5, 2.25]


@pytest.mark.parametrize('packed', ['gz', 'xz', 'zip'])
def test_compressed_text(packed, tmp_path):
  path = tmp_path / f'a.csv.{packed}'
  if packed == 'zip':
    with zipfile.ZipFile(path, 'w') as archive:
      archive.writestr('a.csv', CSV)
    content = path.read_bytes()
  else:
    content = {'gz': gzip, 'xz': lzma}[packed].compress(CSV.encode())
  rows = read(tmp_path, content, path.name).rows
  np.testing.assert_allclose(rows.to_numpy(), X)


def test_quoted_cells_hold_delimiters_and_line_ends(tmp_path):
  text = 'a;where\n1,5;"pump; left"\n2,5;"fan\nroom"\n3,5;"pump; left"\n'
  rows = read(tmp_path, text).rows
  assert rows['where'].tolist() == ['pump; left', 'fan\nroom', 'pump; left']
  rows = read(tmp_path, 'a;where\n1;pump, left\n2;fan\n').rows
  assert rows['where'].tolist() == ['pump, left', 'fan']


def test_a_followed_line_is_read_as_a_line_of_the_file(tmp_path):
  text = 'temp;where;on\n20,5;pump, left;1\n1.021,5;fan;?\n'
  samples = read(tmp_path, text)
  for i, line in enumerate(text.split('\n')[1:3]):
    held = text_files.split(line, samples.dialect)
    named = dict(zip(samples.header, held, strict=True))
    row = user_files.row(named, samples.rows, samples.dialect.decimal)
    expected = samples.rows.iloc[[i]].astype(object).reset_index(drop=True)
    pd.testing.assert_frame_equal(row.astype(object), expected)
  with pytest.raises(DataError, match="'on'"):
    user_files.row({'temp': '1', 'where': 'x', 'on': 'yes'}, samples.rows, ',')


def test_known_rows_say_what_kind_a_column_has(tmp_path):
  like = read(tmp_path, 'a,b,c\n1,x,\n2,y,\n').rows
  rows = read(tmp_path, 'c,b,a\nE42,1,3\nE43,2,4\n', like=like).rows
  assert rows['b'].tolist() == ['1', '2'] and rows['a'].tolist() == [3, 4]
  assert rows['c'].tolist() == ['E42', 'E43']  # empty where it was known
  told = refusal(tmp_path, 'a,b,c\nx,y,\nz,y,\n', like=like)
  assert "line 2: column 'a'" in told


def test_ids_and_times_read_as_they_stand_in_the_file(tmp_path):
  lines = [f'{7 + i};2026-01-01 00:00:{i:02d};{i * i % 7},5' for i in range(20)]
  path = tmp_path / 'log.csv'
  path.write_text('\n'.join(['id;t;a', *lines]))
  keys = user_files.read(str(path)).keys
  assert list(keys.id.astype(str)) == [str(7 + i) for i in range(20)]
  assert str(keys.t[3]) == '2026-01-01 00:00:03'


# --- frames and other files --------------------------------------------------

MIXED = pd.DataFrame(
  {
    'x': [1.5, None, 3.0],
    'on': [True, False, True],
    'site': ['north', None, 'south'],
    'when': pd.to_datetime(['2024-01-01', None, '2024-01-02']),
    'price': ['1,5 €', '2,5 €', '10,0 €'],
    'code': ['1', '2', '1'],
  }
)


def frame_of(table):
  """A pandas frame of what each column of a frame becomes."""
  columns = getattr(table, 'columns', table)
  names = getattr(table, 'column_names', columns)
  return pd.DataFrame({n: cells.from_values(n, table[n]).values for n in names})


@pytest.mark.parametrize('kind', ['pandas', 'polars', 'arrow', 'dict'])
def test_frames_of_every_kind_are_typed_alike(kind):
  lists = {
    n: [None if pd.isna(v) else v for v in MIXED[n].tolist()] for n in MIXED
  }
  make = {'polars': pl.DataFrame, 'arrow': pa.table, 'dict': dict}
  rows = frame_of(MIXED if kind == 'pandas' else make[kind](lists))
  np.testing.assert_array_equal(rows['x'], [1.5, np.nan, 3])
  assert rows['on'].tolist() == [1, 0, 1]
  assert rows['price'].tolist() == [1.5, 2.5, 10]
  np.testing.assert_array_equal(rows['when'], [1704067200, np.nan, 1704153600])
  assert rows['site'][[0, 2]].tolist() == ['north', 'south']
  assert rows['site'].isna().tolist() == [False, True, False]
  assert rows['code'].tolist() == ['1', '2', '1']


def test_a_known_category_takes_values_of_another_type():
  known = cells.from_values('c', ['1', '2', '3']).values
  column = cells.from_values('c', [1.0, 3.0], like=known).values
  assert [cells.key(v) for v in column] == [cells.key(v) for v in (1, 3)]
  known = cells.from_values('c', [1.0, 2.0]).values
  with pytest.raises(DataError, match="'c' held numbers"):
    cells.from_values('c', ['x', 'y'], like=known)


@pytest.mark.parametrize('value', [[1], {'a': 1}, b'x', 1j])
def test_frames_hold_numbers_times_and_text_only(value):
  with pytest.raises(DataError, match="column 'c'"):
    cells.from_values('c', [value, value])


TYPED = FRAME.assign(
  id=range(40), on=[True, False] * 20, site=['north', 'süd'] * 20,
  when=pd.date_range('2024-01-01', periods=40, freq='h'), label=[0] * 39 + [1],
)  # fmt: skip


@pytest.mark.parametrize(
  'kind', ['xlsx', 'jsonl', 'ndjson.gz', 'json', 'split']
)
def test_one_table_in_every_format(kind, tmp_path):
  known = read(tmp_path, TYPED.to_csv(index=False))
  path = str(tmp_path / f'b.{kind.replace("split", "json")}')
  if kind == 'xlsx':
    pytest.importorskip('openpyxl')
    TYPED.to_excel(path, index=False, startrow=2, startcol=1)
  else:
    orient = 'split' if kind == 'split' else 'records'
    lines = kind in ('jsonl', 'ndjson.gz')
    TYPED.to_json(path, orient=orient, lines=lines, date_format='iso')
  samples = user_files.read(path)
  pd.testing.assert_frame_equal(samples.rows, known.rows, rtol=1e-9)
  assert samples.labels.tolist() == known.labels.tolist()
  assert [c[:2] + c[3:4] for c in samples.columns] == [
    c[:2] + c[3:4] for c in known.columns
  ]
  assert list(samples.keys) == ['id', 'when']


@pytest.mark.parametrize(
  ('make', 'names'),
  [
    (lambda: TYPED, []), (lambda: pl.from_pandas(TYPED), []),
    (lambda: pl.from_pandas(TYPED).lazy(), []), (lambda: pa.table(TYPED), []),
    (lambda: TYPED.to_dict('list'), []), (lambda: TYPED.to_dict('records'), []),
    (lambda: TYPED.set_index(TYPED.index**2 + 7), ['index']),
  ],
)  # fmt: skip
def test_frames_are_read_as_files(make, names, tmp_path):
  known = read(tmp_path, TYPED.to_csv(index=False))
  samples = user_files.from_frame(make())
  pd.testing.assert_frame_equal(samples.rows, known.rows)
  assert samples.labels.tolist() == known.labels.tolist()
  assert list(samples.keys) == [*names, 'id', 'when']


def test_what_is_masked_is_missing():
  masked = np.ma.masked_equal([[1.0, -9999], [3, 4]], -9999)
  rows = user_files.from_frame(masked).rows
  np.testing.assert_array_equal(rows, [[1, np.nan], [3, 4]])
  kinds = [('x', float), ('n', int)]
  fields = np.ma.array([(1, 2), (3, 4)], mask=[(1, 0), (0, 1)], dtype=kinds)
  rows = user_files.from_frame(fields).rows
  np.testing.assert_array_equal(rows, [[np.nan, 2], [3, np.nan]])


def test_a_column_that_was_empty_in_the_known_rows(tmp_path):
  known = user_files.from_frame(
    FRAME.assign(error=pd.array([pd.NA] * 40, dtype='string'))
  )
  new = FRAME[:3].assign(error=[None, None, 'E42'])
  for samples in (
    user_files.from_frame(new, like=known),
    read(tmp_path, new.to_csv(index=False), like=known),
  ):
    assert samples.rows['error'].tolist()[2] == 'E42'
    assert any("'error' was empty" in note for note in samples.notes)


def test_parquet_keeps_its_index_to_itself(tmp_path):
  frame = FRAME.set_axis(np.arange(40) ** 2 + 7).rename_axis('machine')
  frame.to_parquet(tmp_path / 'a.parquet')
  rows = user_files.read(str(tmp_path / 'a.parquet')).rows
  pd.testing.assert_frame_equal(rows, FRAME)


def test_parquet_without_a_reader_says_what_to_install(tmp_path, monkeypatch):
  def missing(*_, **__):
    raise ImportError

  monkeypatch.setattr(pd, 'read_parquet', missing)
  assert 'pip install' in refusal(tmp_path, b'PAR1', 'a.parquet')


def test_arrays_and_their_labels(tmp_path):
  np.save(tmp_path / 'a.npy', X)
  np.savez(tmp_path / 'b.npz', x=X, y=np.arange(40) % 2)
  np.savez(tmp_path / 'c.npz', x=X.reshape(4, 10, 3))
  a, b, c = (
    user_files.read(str(tmp_path / n)) for n in ('a.npy', 'b.npz', 'c.npz')
  )
  np.testing.assert_array_equal(a.rows, X)
  np.testing.assert_array_equal(b.rows, X)
  assert b.labels.tolist() == [0, 1] * 20 and a.labels is None
  np.testing.assert_array_equal(c.rows, X.reshape(4, 10, 3))


@pytest.mark.parametrize('dtype', ['u1', 'i2', 'i4', 'f4'])
def test_sound_is_scaled_to_one_and_cut(dtype, tmp_path):
  wave = np.array([0, 0.5, -0.5, 0.25, 0, 0.9, 0])
  full = {'u1': 128, 'i2': 2**15, 'i4': 2**31, 'f4': 1}[dtype]
  stored = (wave * full + 128 * (dtype == 'u1')).astype(dtype)
  scipy.io.wavfile.write(tmp_path / 'a.wav', 8000, stored)
  samples = user_files.read(str(tmp_path / 'a.wav'), window=3)
  assert samples.rate == 8000 and samples.rows.shape == (2, 3, 1)
  np.testing.assert_allclose(samples.rows.ravel(), wave[:6], atol=1 / full)


def test_windows_of_a_table_and_their_labels(tmp_path):
  text = FRAME.assign(y=[0] * 11 + [1] + [0] * 8 + [None] + [0] * 19)
  samples = read(tmp_path, text.to_csv(index=False), window=10)
  np.testing.assert_allclose(samples.rows, X.reshape(4, 10, 3))
  assert samples.labels.tolist() == [0, 1, -1, 0]
  assert not any('no window' in note for note in samples.notes)
  rest = read(tmp_path, text.to_csv(index=False), window=9)
  np.testing.assert_allclose(rest.rows, X[:36].reshape(4, 9, 3))
  assert any('last 4 of 40 rows fill no window' in n for n in rest.notes)


# --- what is refused ---------------------------------------------------------


def explode():
  raise AssertionError('unpickled')


class Bomb:
  def __reduce__(self):
    return explode, ()


@pytest.mark.parametrize(
  ('name', 'content', 'why'),
  [
    ('a.xyz', b'1,2,3,4', '.npz'),
    ('a.csv', b'', 'empty'),
    ('a.csv', b'a,b,c,d\n', 'no rows'),
    ('a.csv', b'1,2,3,4\n1,2,3\n1,2,3,4\n', 'line 2'),
    ('a.csv', b'a,a\n1,2\n', "'a'"),
    ('a.csv', b'a,b\n1,\x00\x002\n', 'cannot be read'),
    ('a.csv', b'label\n1\n', 'no column'),
    ('a.csv', (CSV + 'Service,20,3\n').encode(), "line 42: column 'temp'"),
    ('a.csv', b'a,note,c\n1,"bad,2\n3,ok,4\n5,"x",6\n', 'never closed'),
    ('a.csv', b'[{"a": 1}, {"a": 2}]', 'JSON'),
    ('a.csv', (CSV + '20,1.5\n').encode(), 'line 42: 2 values'),
    ('a.jsonl', b'{"a": 1}\n{"a":\n', 'cannot be read'),
    ('a.jsonl', b'{"a": [1]}\n{"a": [2]}\n', "'a' holds a list"),
    ('a.xlsx', b'PK\x03\x04', 'cannot be read'),
    ('a.csv.gz', b'no gzip', 'cannot be read'),
    ('a.npy', b'garbage', 'cannot be read'),
    ('a.npz', b'PK\x03\x04', 'cannot be read'),
    ('a.parquet', b'PAR1', 'cannot be read'),
    ('a.wav', b'RIFF', 'window'),
  ],
)
def test_broken_files_are_refused_in_one_line(name, content, why, tmp_path):
  assert why in refusal(tmp_path, content, name)


def test_arrays_that_are_no_rows_and_pickles(tmp_path):
  bad = [
    np.array(['a', 'b']), np.array(1.0), np.zeros((0, 4)), np.zeros((3, 0)),
    np.zeros(4), np.zeros((3, 4), complex), np.zeros((2, 2, 2, 2)),
    np.array([[Bomb()]], object),
  ]  # fmt: skip
  for array in bad:
    np.save(tmp_path / 'a.npy', array, allow_pickle=True)
    with pytest.raises(DataError, match='a.npy'):
      user_files.read(str(tmp_path / 'a.npy'))
  np.savez(tmp_path / 'a.npz', p=X, q=X)
  with pytest.raises(DataError, match="'x'"):
    user_files.read(str(tmp_path / 'a.npz'))
  with pytest.raises(DataError, match='not there'):
    user_files.read(str(tmp_path / 'b.npz'))


@pytest.mark.parametrize('suffix', ['.csv', '.npz', '.parquet', '.wav'])
def test_damage_is_refused_or_harmless(suffix, tmp_path):
  path = tmp_path / f'a{suffix}'
  if suffix == '.npz':
    np.savez(path, x=X[:6], y=[0, 1] * 3)
  elif suffix == '.csv':
    FRAME[:6].assign(y=[0, 1] * 3).to_csv(path, index=False)
  elif suffix == '.parquet':
    FRAME[:6].to_parquet(path)
  else:
    scipy.io.wavfile.write(path, 8000, np.arange(9, dtype=np.int16))
  whole, rng = path.read_bytes(), random.Random(0)
  for turn in range(100):
    damaged = bytearray(whole)
    if turn % 3:
      for _ in range(rng.choice((1, 4))):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    else:
      del damaged[rng.randrange(len(damaged)) :]
    path.write_bytes(damaged)
    try:
      window = 2 * (suffix == '.wav')
      assert len(user_files.read(str(path), window=window).rows)
    except DataError as error:
      assert '\n' not in str(error)
